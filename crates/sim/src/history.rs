//! One random history: faults drawn from a seed, then a quiet time, then the checks.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    CapabilityOptions, ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, Event, NodeConfig, NodeId,
};

use crate::check::Disagreement;
use crate::fault::Faults;
use crate::letter::Letters;
use crate::network::{LATENCY, Network, ProcessId, ProcessSpec};
use crate::parcel::Parcels;
use crate::plan::{NodePlan, Plan, TAGS};
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
    /// Whether a failure tells what every process logged.
    pub has_events: bool,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self {
            nodes: 5,
            faults: 12,
            gap_max: Duration::from_secs(8),
            quiet: Duration::from_secs(75),
            has_events: false,
        }
    }
}

/// A history that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What was done, in words.
    pub steps: Vec<String>,
    /// Packets handed over.
    pub packets: u64,
    /// Packets of capabilities that had to arrive, and did.
    pub arrived: usize,
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
    /// What every process said, in order; empty unless [`HistorySettings::has_events`].
    pub events: Vec<String>,
}

pub(crate) const CLUSTER: ClusterId = ClusterId(1);
/// Capabilities of every process: one that is synced at start and one that is not.
pub(crate) const CAPABILITIES: [&str; 2] = ["sim-synced", "sim-plain"];

fn record(plan: &Plan, id: usize) -> Option<NodeConfig> {
    let number = i32::try_from(id + 1).ok()?;
    let url = format!("bin:127.0.1.{number}:{}", 15_550 + number).parse().ok()?;
    let mut record = NodeConfig::new(NodeId(number), url);
    record.priority = plan.nodes.get(id)?.priority;
    Some(record)
}

/// The process of one node. Each names only its predecessor, the first is a seed.
fn spec(plan: &Plan, index: usize) -> Option<ProcessSpec> {
    let NodePlan { takes_over, tags, .. } = plan.nodes.get(index)?;
    let mut own = record(plan, index)?;
    own.is_seed = index == 0;
    let id = own.node_id;
    // The first names the second, so that it finds its way back after a restart.
    let neighbour = record(plan, if index == 0 { 1 } else { index - 1 });
    let neighbours: Vec<NodeConfig> = neighbour.into_iter().collect();
    let mut cluster = ClusterConfig::new(CLUSTER, own, neighbours);
    cluster.sharing_tags.clone_from(tags);
    let mut config = ClusterNodeConfig::new(id, vec![cluster]);
    config.has_extensions = plan.has_extensions;
    config.tags.is_takeover_enabled = *takes_over;
    let mut spec = ProcessSpec::new(config);
    let synced = CapabilityOptions { sync_at_start: true, ..CapabilityOptions::default() };
    let [with_sync, plain] = CAPABILITIES.map(str::to_owned);
    spec.capabilities.push((with_sync.clone(), synced));
    spec.capabilities.push((plain, CapabilityOptions::default()));
    spec.donations.insert(with_sync, vec![Bytes::from_static(b"data"); 3]);
    Some(spec)
}

/// A cluster of `nodes` processes; each names only its predecessor, the first is a seed.
#[must_use]
pub fn chain(seed: u64, nodes: usize, origin: Instant) -> Network {
    chain_of(seed, nodes, false, origin)
}

pub(crate) fn chain_of(seed: u64, nodes: usize, has_extensions: bool, origin: Instant) -> Network {
    planned(seed, &Plan::plain(nodes, has_extensions), origin)
}

fn planned(seed: u64, plan: &Plan, origin: Instant) -> Network {
    let mut network = Network::new(seed, origin);
    for spec in (0..plan.nodes.len()).filter_map(|index| spec(plan, index)) {
        network.add(spec);
    }
    network
}

/// A second process per node with the same id on another address: started by mistake.
fn add_twins(network: &mut Network, plan: &Plan) {
    for index in 0..plan.nodes.len() {
        let Some(mut twin) = spec(plan, index) else { continue };
        let url = format!("bin:127.0.2.{}:5555", index + 1).parse();
        if let (Some(cluster), Ok(url)) = (twin.config.clusters.first_mut(), url) {
            let mut own = NodeConfig::new(cluster.own.node_id, url);
            own.is_seed = cluster.own.is_seed;
            own.priority = cluster.own.priority;
            cluster.own = own;
            network.add(twin);
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

/// Heals and starts everything; second processes end, slow and stopped ones are quick again. Clocks stay wrong.
fn end_faults(network: &mut Network, nodes: usize) {
    for twin in (nodes..2 * nodes).map(ProcessId) {
        network.kill(twin);
    }
    network.latency = LATENCY;
    let all: Vec<ProcessId> = (0..nodes).map(ProcessId).collect();
    for a in &all {
        network.resume(*a);
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
    let plan = Plan::random(nodes, has_extensions, &mut rng);
    let mut network = planned(seed, &plan, origin);
    network.gives_back = seed % 4 < 2;
    let mut steps = vec![plan.describe()];
    let gap_ms = u64::try_from(settings.gap_max.as_millis()).unwrap_or(1);
    for id in network.ids() {
        network.start(id);
        network.run_for(Duration::from_millis(rng.below(500)));
    }
    add_twins(&mut network, &plan);
    let (mut letters, mut parcels) = (Letters::default(), Parcels::default());
    for _ in 0..settings.faults {
        let at = network.elapsed();
        let mut faults = Faults { rng: &mut rng, nodes, has_extensions };
        let what = faults.strike(&mut network);
        steps.push(format!("{at:>10.3?} {what}"));
        letters.send(&mut network, &mut rng, nodes);
        parcels.send(&mut network, &mut rng, nodes);
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
    disagreements.extend(network.capability_disagreements(CLUSTER, &CAPABILITIES));
    disagreements.extend(letters.lost(&network));
    disagreements.extend(parcels.judge(&network));
    let mut events = if settings.has_events { network.told() } else { Vec::new() };
    disagreements.extend(unanswered(&mut network));
    disagreements.extend(Parcels::judge_settled(&mut network));
    if has_extensions {
        for name in TAGS {
            disagreements.extend(network.take_by_hand(CLUSTER, name, &mut rng));
        }
    }
    if settings.has_events {
        events.extend(network.told());
    }
    if disagreements.is_empty() {
        Ok(History { steps, packets: network.packet_count(), arrived: parcels.arrived })
    } else {
        Err(Box::new(Failure { seed, steps, disagreements, events }))
    }
}
