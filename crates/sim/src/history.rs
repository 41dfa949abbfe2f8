//! One random history: faults drawn from a seed, then a quiet time, then the checks.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    CapabilityOptions, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, Event, NodeConfig, NodeId,
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

/// A cluster of `nodes` processes; each names only its predecessor, the first is a seed.
#[must_use]
pub fn chain(seed: u64, nodes: usize, origin: Instant) -> Network {
    let mut network = Network::new(seed, origin);
    for index in 0..nodes {
        let Some(mut own) = record(index) else { continue };
        own.is_seed = index == 0;
        let id = own.node_id;
        // The first names the second, so that it finds its way back after a restart.
        let neighbour = record(if index == 0 { 1 } else { index - 1 });
        let neighbours: Vec<NodeConfig> = neighbour.into_iter().collect();
        let cluster = ClusterConfig::new(CLUSTER, own, neighbours);
        let mut spec = ProcessSpec::new(ClusterNodeConfig::new(id, vec![cluster]));
        let synced = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
        spec.capabilities.push(("sim-synced".to_owned(), synced));
        spec.capabilities.push(("sim-plain".to_owned(), CapabilityOptions::default()));
        spec.donations.insert("sim-synced".to_owned(), vec![Bytes::from_static(b"data"); 3]);
        network.add(spec);
    }
    network
}

fn fault(network: &mut Network, rng: &mut SplitMix64, nodes: usize) -> String {
    let a = ProcessId(rng.index(nodes));
    let b = ProcessId((a.0 + 1 + rng.index(nodes - 1)) % nodes);
    match rng.below(10) {
        0 | 1 => {
            network.kill(a);
            format!("kill {}", a.0 + 1)
        }
        2 => {
            network.kill_host(a);
            format!("host of {} vanishes", a.0 + 1)
        }
        3 | 4 => {
            let did = network.start(a);
            format!("start {} ({did})", a.0 + 1)
        }
        5 => {
            network.kill(a);
            network.start(a);
            format!("restart {} at once", a.0 + 1)
        }
        6 | 7 => {
            network.cut(a, b);
            format!("cut {} - {}", a.0 + 1, b.0 + 1)
        }
        8 => {
            network.cut_one_way(a, b);
            format!("cut {} -> {}", a.0 + 1, b.0 + 1)
        }
        _ => {
            network.heal(a, b);
            format!("heal {} - {}", a.0 + 1, b.0 + 1)
        }
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

/// Runs the history of a seed. At the end everything is healed and started but a last random cut of
/// one pair, so that detours are checked as well.
pub fn run_history(seed: u64, settings: &HistorySettings, origin: Instant) -> Result<History, Box<Failure>> {
    let mut rng = SplitMix64::new(seed ^ 0x5851_f42d_4c95_7f2d);
    let nodes = settings.nodes.max(2);
    let mut network = chain(seed, nodes, origin);
    let mut steps = Vec::new();
    let gap_ms = u64::try_from(settings.gap_max.as_millis()).unwrap_or(1);
    for id in network.ids() {
        network.start(id);
        network.run_for(Duration::from_millis(rng.below(500)));
    }
    for _ in 0..settings.faults {
        let at = network.elapsed();
        steps.push(format!("{at:>10.3?} {}", fault(&mut network, &mut rng, nodes)));
        network.run_for(Duration::from_millis(rng.below(gap_ms)));
    }
    for a in network.ids() {
        for b in network.ids().filter(|b| *b > a) {
            network.heal(a, b);
        }
    }
    for id in network.ids() {
        network.start(id);
    }
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
