//! One random history: faults drawn from a seed, then a quiet time, then the checks.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    CapabilityOptions, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, Event, NodeConfig, NodeId,
    SharingTagReason,
};

use crate::check::Disagreement;
use crate::network::{Network, ProcessId, ProcessSpec};
use crate::rng::SplitMix64;

/// What histories are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistorySettings {
    /// Number of nodes.
    pub nodes: usize,
    /// Number of faults.
    pub faults: usize,
    /// Longest time between two faults.
    pub gap_max: Duration,
    /// Time without faults at the end, after which all must agree. Longer than `node_timeout`.
    pub quiet: Duration,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self { nodes: 5, faults: 12, gap_max: Duration::from_secs(8), quiet: Duration::from_secs(130) }
    }
}

/// A history that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What was done, in words.
    pub steps: Vec<String>,
    /// Packets handed over.
    pub packets: u64,
}

/// A history whose nodes do not agree at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// What was done, in words.
    pub steps: Vec<String>,
    /// What is wrong.
    pub disagreements: Vec<Disagreement>,
}

const CLUSTER: ClusterId = ClusterId(1);

fn record(id: usize) -> Option<NodeConfig> {
    let number = i32::try_from(id + 1).ok()?;
    let url = format!("bin:127.0.1.{number}:{}", 15_550 + number).parse().ok()?;
    Some(NodeConfig::new(NodeId(number), url))
}

/// The process of one node. Each names only its predecessor, the first is a seed.
fn spec(index: usize, has_extensions: bool) -> Option<ProcessSpec> {
    let mut own = record(index)?;
    own.is_seed = index == 0;
    let id = own.node_id;
    // The first names the second, so that it finds its way back after a restart.
    let neighbour = record(if index == 0 { 1 } else { index - 1 });
    let neighbours: Vec<NodeConfig> = neighbour.into_iter().collect();
    let cluster = ClusterConfig::new(CLUSTER, own, neighbours);
    let mut config = ClusterNodeConfig::new(id, vec![cluster]);
    config.has_extensions = has_extensions;
    let mut spec = ProcessSpec::new(config);
    let synced = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
    spec.capabilities.push(("sim-synced".to_owned(), synced));
    spec.capabilities.push(("sim-plain".to_owned(), CapabilityOptions::default()));
    spec.donations.insert("sim-synced".to_owned(), vec![Bytes::from_static(b"data"); 3]);
    Some(spec)
}

/// A cluster of `nodes` processes; each names only its predecessor, the first is a seed.
#[must_use]
pub fn chain(seed: u64, nodes: usize, origin: Instant) -> Network {
    chain_of(seed, nodes, false, origin)
}

fn chain_of(seed: u64, nodes: usize, has_extensions: bool, origin: Instant) -> Network {
    let mut network = Network::new(seed, origin);
    for spec in (0..nodes).filter_map(|index| spec(index, has_extensions)) {
        network.add(spec);
    }
    network
}

/// A second process per node with the same id on another address: started by mistake.
fn add_twins(network: &mut Network, nodes: usize, has_extensions: bool) {
    for index in 0..nodes {
        let Some(mut twin) = spec(index, has_extensions) else { continue };
        let url = format!("bin:127.0.2.{}:5555", index + 1).parse();
        if let (Some(cluster), Ok(url)) = (twin.config.clusters.first_mut(), url) {
            let mut own = NodeConfig::new(cluster.own.node_id, url);
            own.is_seed = cluster.own.is_seed;
            cluster.own = own;
            network.add(twin);
        }
    }
}

/// What faults are drawn from.
struct Faults<'a> {
    rng: &'a mut SplitMix64,
    nodes: usize,
    has_extensions: bool,
}

impl Faults<'_> {
    fn pair(&mut self) -> (ProcessId, ProcessId) {
        let a = ProcessId(self.rng.index(self.nodes));
        let b = ProcessId((a.0 + 1 + self.rng.index(self.nodes - 1)) % self.nodes);
        (a, b)
    }

    /// Does one fault and says what it was.
    fn strike(&mut self, network: &mut Network) -> String {
        let (a, b) = self.pair();
        let (one, other) = (a.0 + 1, b.0 + 1);
        match self.rng.below(18) {
            0 | 1 => {
                network.kill(a);
                format!("kill {one}")
            }
            2 => {
                network.kill_host(a);
                format!("host of {one} vanishes")
            }
            3 | 4 => {
                let did = network.start(a);
                format!("start {one} ({did})")
            }
            5 => {
                network.kill(a);
                network.start(a);
                format!("restart {one} at once")
            }
            6 | 7 => {
                network.cut(a, b);
                format!("cut {one} - {other}")
            }
            8 => {
                network.cut_one_way(a, b);
                format!("cut {one} -> {other}")
            }
            9 | 10 => {
                network.heal(a, b);
                format!("heal {one} - {other}")
            }
            11 => self.partition(network),
            12 => {
                network.break_connections(a);
                format!("connections of {one} break")
            }
            13 => {
                let millis = self.rng.below(1_500);
                network.slow_down(a, Duration::from_millis(millis));
                format!("{one} is {millis} ms slow")
            }
            14 => {
                // Set back by less, a restart whose first update is lost looks like old copies for a while.
                let far = i64::try_from(self.rng.below(3_000)).unwrap_or(0);
                let secs = if self.rng.below(2) == 0 { far } else { -600 - far };
                network.skew_clock(a, secs);
                format!("clock of {one} is wrong by {secs} s")
            }
            15 => {
                let twin = ProcessId(a.0 + self.nodes);
                let did = network.start(twin);
                format!("a second process with id {one} starts ({did})")
            }
            16 => {
                network.kill(ProcessId(a.0 + self.nodes));
                format!("the second process with id {one} ends")
            }
            // Without epochs the holder of a tag after a partition is whoever speaks last; nothing can be checked.
            _ if self.has_extensions => {
                let reason = SharingTagReason::MiCommand;
                network.with(a, |node, now| node.activate_sharing_tag(CLUSTER, "vip", reason, now));
                format!("{one} takes the tag")
            }
            _ => "nothing".to_owned(),
        }
    }

    fn partition(&mut self, network: &mut Network) -> String {
        let side = self.rng.next_bits();
        let is_left = |id: ProcessId| side >> (id.0 % 64) & 1 == 0;
        let all: Vec<ProcessId> = (0..self.nodes).map(ProcessId).collect();
        for a in &all {
            for b in all.iter().filter(|b| is_left(*a) != is_left(**b)) {
                network.cut(*a, *b);
            }
        }
        let left: Vec<usize> = all.iter().filter(|id| is_left(**id)).map(|id| id.0 + 1).collect();
        format!("partition: {left:?} and the rest")
    }
}

/// Every node asks all others; who does not answer within a second is reported.
fn unanswered(network: &mut Network) -> Vec<Disagreement> {
    let mut missing = Vec::new();
    network.clear_events();
    for id in network.ids() {
        let sent = network
            .with(id, |node, now| (node.node_id(), node.broadcast_request(CLUSTER, b"who is there", false, now)));
        let Some((at, sent)) = sent else { continue };
        network.run_for(Duration::from_secs(1));
        let answered = |from: NodeId| {
            network.events(id).iter().any(
                |(_, event)| matches!(event, Event::ReplyReceived { src, tag, .. } if *src == from && *tag == sent.tag),
            )
        };
        let others = network.ids().filter(|other| *other != id);
        let silent = others.filter_map(|other| network.node(other).map(ClusterNode::node_id));
        let silent: Vec<NodeId> = silent.filter(|node| !answered(*node)).collect();
        missing.extend(silent.into_iter().map(|node| Disagreement::Unanswered { at, node }));
    }
    missing
}

/// Heals and starts everything; second processes end, slow ones are quick again. Clocks stay wrong.
fn end_faults(network: &mut Network, nodes: usize) {
    for twin in (nodes..2 * nodes).map(ProcessId) {
        network.kill(twin);
    }
    let all: Vec<ProcessId> = (0..nodes).map(ProcessId).collect();
    for a in &all {
        network.slow_down(*a, Duration::ZERO);
        for b in all.iter().filter(|b| *b > a) {
            network.heal(*a, *b);
        }
    }
    for id in all {
        network.start(id);
    }
}

/// Runs the history of a seed. At the end everything is healed and started but a last random cut of
/// one pair, so that detours are checked as well.
pub fn run_history(seed: u64, settings: &HistorySettings, origin: Instant) -> Result<History, Box<Failure>> {
    let mut rng = SplitMix64::new(seed ^ 0x5851_f42d_4c95_7f2d);
    let nodes = settings.nodes.max(2);
    let has_extensions = seed.is_multiple_of(2);
    let mut network = chain_of(seed, nodes, has_extensions, origin);
    let mut steps = vec![format!("extensions: {has_extensions}")];
    let gap_ms = u64::try_from(settings.gap_max.as_millis()).unwrap_or(1);
    for id in network.ids() {
        network.start(id);
        network.run_for(Duration::from_millis(rng.below(500)));
    }
    add_twins(&mut network, nodes, has_extensions);
    for _ in 0..settings.faults {
        let at = network.elapsed();
        let mut faults = Faults { rng: &mut rng, nodes, has_extensions };
        let what = faults.strike(&mut network);
        steps.push(format!("{at:>10.3?} {what}"));
        network.run_for(Duration::from_millis(rng.below(gap_ms)));
    }
    end_faults(&mut network, nodes);
    // Not a pair of which one names the other: a restarted node must find its entry point.
    let last_cut = (nodes > 2 && rng.below(2) == 0).then(|| rng.index(nodes - 2));
    if let Some(index) = last_cut {
        network.cut(ProcessId(index), ProcessId(index + 2));
        steps.push(format!("all healed but {} - {}", index + 1, index + 3));
    }
    network.run_for(settings.quiet);
    let mut disagreements = network.disagreements(CLUSTER);
    disagreements.extend(unanswered(&mut network));
    if disagreements.is_empty() {
        Ok(History { steps, packets: network.packet_count() })
    } else {
        Err(Box::new(Failure { seed, steps, disagreements }))
    }
}
