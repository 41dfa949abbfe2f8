//! Packets of capabilities sent in the middle of a history, and what became of them.
//!
//! They go without acknowledgement: what was sent arrives once, or a connection on its way broke, or one of the two ends saw
//! the other leave. Between two nodes whose connection held none is missing and all are in order.

use std::time::Duration;

use hashbrown::HashMap;
use tandem_cluster::{Destination, Event, LinkState, LogEvent, NodeId};

use crate::check::Disagreement;
use crate::history::{CAPABILITIES, CLUSTER};
use crate::network::{Network, ProcessId};
use crate::rng::SplitMix64;

/// Broadcasts after each fault.
const AT_ONCE: u64 = 2;
/// How long before a packet was sent, or after, a link may have been lost that explains why it is not there: as long as it
/// takes to notice.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Until a broadcast has reached all of a cluster that has settled.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);

/// One packet to one node.
#[derive(Debug)]
struct Parcel {
    from: ProcessId,
    to: NodeId,
    capability: &'static str,
    at: Duration,
    /// Sent straight to it, and each saw the other up.
    is_direct: bool,
    number: u64,
}

impl Parcel {
    fn name(&self) -> String {
        format!("packet {} of {} from {:?}", self.number, self.capability, self.from)
    }
}

/// All packets of a history.
#[derive(Debug, Default)]
pub(crate) struct Parcels {
    sent: Vec<Parcel>,
    count: u64,
    /// Packets that arrived over a connection that held, so that the checks are not empty.
    pub(crate) arrived: usize,
}

impl Parcels {
    /// A random node sends a few packets of a random capability to all.
    pub(crate) fn send(&mut self, network: &mut Network, rng: &mut SplitMix64, nodes: usize) {
        let from = ProcessId(rng.index(nodes));
        let Some(capability) = CAPABILITIES.get(rng.index(CAPABILITIES.len())).copied() else { return };
        for _ in 0..AT_ONCE {
            self.broadcast(network, from, capability);
        }
    }

    fn broadcast(&mut self, network: &mut Network, from: ProcessId, capability: &'static str) {
        let Some(node) = network.node(from) else { return };
        let own = node.node_id();
        let rows = node.list().into_iter().filter(|list| list.cluster_id == CLUSTER).flat_map(|list| list.nodes);
        let reached: Vec<(NodeId, bool)> = rows
            .filter(|row| row.is_enabled && row.next_hop.is_some())
            .map(|row| {
                let is_up = row.link_state == LinkState::Up && row.next_hop == Some(row.node_id);
                (row.node_id, is_up && sees_up(network, row.node_id, own))
            })
            .collect();
        self.count += 1;
        let (number, at) = (self.count, network.elapsed());
        let body = number.to_le_bytes();
        let sent = network
            .with(from, |node, now| node.send_module_packet(CLUSTER, Destination::All, capability, 1, 1, &body, now));
        // A node that turned out not to be there while it was sent is told by the number.
        if sent.is_some_and(|sent| sent == Ok(reached.len())) {
            let parcels =
                reached.into_iter().map(|(to, is_direct)| Parcel { from, to, capability, at, is_direct, number });
            self.sent.extend(parcels);
        }
    }

    /// Packets that are missing without a reason, that came twice, or in another order than they were sent.
    pub(crate) fn judge(&mut self, network: &Network) -> Vec<Disagreement> {
        let mut found = Vec::new();
        let by_key = self.sent.iter().enumerate().map(|(index, parcel)| ((parcel.number, parcel.to), index));
        let by_key: HashMap<(u64, NodeId), usize> = by_key.collect();
        let mut arrivals = vec![0_usize; self.sent.len()];
        for id in network.ids() {
            let Some(own) = network.spec(id).map(|spec| spec.config.node_id) else { continue };
            let mut last: HashMap<(ProcessId, &str), &Parcel> = HashMap::new();
            let mut here: HashMap<u64, usize> = HashMap::new();
            for (_, event) in network.events(id) {
                let Event::ModulePacket { body, .. } = event else { continue };
                let Ok(number) = <[u8; 8]>::try_from(body.as_ref()).map(u64::from_le_bytes) else { continue };
                let Some(index) = by_key.get(&(number, own)) else { continue };
                let (Some(parcel), Some(count)) = (self.sent.get(*index), arrivals.get_mut(*index)) else { continue };
                *count += 1;
                let seen = here.entry(number).or_default();
                *seen += 1;
                let before = last.insert((parcel.from, parcel.capability), parcel);
                let is_early =
                    before.is_some_and(|before| before.number > number && is_ordered(network, parcel, before));
                if *seen > 1 || is_early {
                    found.push(Disagreement::Order { at: own, message: parcel.name() });
                }
            }
        }
        for (parcel, count) in self.sent.iter().zip(arrivals) {
            if is_explained(network, parcel, parcel.at) {
                continue;
            }
            match count {
                0 => found.push(Disagreement::Lost { node: parcel.to, message: parcel.name() }),
                _ => self.arrived += 1,
            }
        }
        found
    }

    /// In a cluster that has settled what every node sends to all arrives at all, once and in order.
    pub(crate) fn judge_settled(network: &mut Network) -> Vec<Disagreement> {
        let mut found = Vec::new();
        network.clear_events();
        let running: Vec<ProcessId> = network.ids().filter(|id| network.node(*id).is_some()).collect();
        for from in &running {
            let mut parcels = Self::default();
            for _ in 0..AT_ONCE {
                CAPABILITIES.into_iter().for_each(|capability| parcels.broadcast(network, *from, capability));
            }
            network.run_for(ARRIVES_WITHIN);
            for id in running.iter().filter(|id| *id != from) {
                let Some(own) = network.node(*id).map(tandem_cluster::ClusterNode::node_id) else { continue };
                let bodies = network.events(*id).iter().filter_map(|(_, event)| match event {
                    Event::ModulePacket { body, .. } => Some(body.as_ref().to_vec()),
                    _ => None,
                });
                let bodies: Vec<Vec<u8>> = bodies.collect();
                let wanted: Vec<Vec<u8>> = (1..=parcels.count).map(|number| number.to_le_bytes().to_vec()).collect();
                if bodies != wanted {
                    let message = format!("{} of {} packets of {from:?}", bodies.len(), wanted.len());
                    found.push(Disagreement::Lost { node: own, message });
                }
            }
            network.clear_events();
        }
        found
    }
}

/// The processes with that node id: the second was started by mistake.
fn processes_of(network: &Network, node: NodeId) -> impl Iterator<Item = ProcessId> + '_ {
    network.ids().filter(move |id| network.spec(*id).is_some_and(|spec| spec.config.node_id == node))
}

fn sees_up(network: &Network, at: NodeId, node: NodeId) -> bool {
    let mut cores = processes_of(network, at).filter_map(|id| network.node(id));
    let rows = |core: &tandem_cluster::ClusterNode| core.list().into_iter().flat_map(|list| list.nodes);
    cores.any(|core| rows(core).any(|row| row.node_id == node && row.link_state == LinkState::Up))
}

/// Whether the later of two packets had to come after the other.
fn is_ordered(network: &Network, early: &Parcel, late: &Parcel) -> bool {
    early.is_direct && late.is_direct && !is_explained(network, early, late.at)
}

/// Whether something on the way of the packet, sent then or until `until`, was lost where an end could see it. What a stopped
/// process has in its sockets is lost with it.
fn is_explained(network: &Network, parcel: &Parcel, until: Duration) -> bool {
    let span = (parcel.at.saturating_sub(NOTICED_WITHIN), until + NOTICED_WITHIN);
    if !parcel.is_direct {
        // While routes change, two nodes may each take the other for the way.
        let has_changed = network.ids().any(|id| sees_leave(network, id, None, span));
        return has_changed || network.witness.has_parted(None, span) || network.witness.was_paused(None, span);
    }
    let Some(own) = network.spec(parcel.from).map(|spec| spec.config.node_id) else { return true };
    processes_of(network, parcel.to).any(|to| {
        network.witness.has_parted(Some((parcel.from, to)), span)
            || network.witness.was_paused(Some(to), span)
            || sees_leave(network, to, Some(own), span)
    }) || sees_leave(network, parcel.from, Some(parcel.to), span)
}

/// Whether a process lost the link to a node within the span; without one, to any node.
fn sees_leave(network: &Network, at: ProcessId, node: Option<NodeId>, (since, until): (Duration, Duration)) -> bool {
    let events = network.events(at);
    let first = events.partition_point(|(at, _)| *at < since);
    let mut within = events.iter().skip(first).take_while(|(at, _)| *at <= until);
    within.any(|(_, event)| match event {
        Event::NodeStateChanged { node: left, is_up: false, .. }
        | Event::Log(LogEvent::Link { node: left, from: LinkState::Up, .. }) => node.is_none_or(|node| node == *left),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::history::chain;

    fn settled() -> Network {
        let mut network = chain(1, 3, Instant::now());
        for id in network.ids() {
            network.start(id);
        }
        network.run_for(Duration::from_secs(40));
        network
    }

    fn told(parcels: &mut Parcels, network: &Network) -> (usize, usize) {
        let found = parcels.judge(network);
        let lost = found.iter().filter(|fault| matches!(fault, Disagreement::Lost { .. })).count();
        (lost, found.len() - lost)
    }

    #[test]
    fn packets_that_arrive_once_and_in_order_are_counted() {
        let (mut network, mut parcels) = (settled(), Parcels::default());
        for _ in 0..3 {
            parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        }
        network.run_for(Duration::from_secs(1));
        assert_eq!(told(&mut parcels, &network), (0, 0));
        assert_eq!(parcels.arrived, 6);
        assert_eq!(Parcels::judge_settled(&mut network), []);
    }

    #[test]
    fn a_packet_that_is_missing_without_a_reason_is_flagged() {
        let (mut network, mut parcels) = (settled(), Parcels::default());
        parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        network.run_for(Duration::from_secs(1));
        network.clear_events();
        assert_eq!(told(&mut parcels, &network), (2, 0));
    }

    #[test]
    fn packets_lost_with_their_connection_or_kept_by_a_stopped_process_are_explained() {
        let (mut network, mut parcels) = (settled(), Parcels::default());
        parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        network.break_connections(ProcessId(0));
        network.run_for(Duration::from_secs(20));
        network.pause(ProcessId(2));
        parcels.broadcast(&mut network, ProcessId(1), "sim-plain");
        network.run_for(Duration::from_secs(1));
        assert_eq!(told(&mut parcels, &network), (0, 0));
    }

    #[test]
    fn packets_that_come_twice_or_late_are_flagged() {
        let (mut network, mut parcels) = (settled(), Parcels::default());
        parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        parcels.count = 0;
        parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        network.run_for(Duration::from_secs(1));
        assert_eq!(told(&mut parcels, &network), (2, 2), "of each node one came twice, and one did not come");
        let mut parcels = Parcels { count: 10, ..Parcels::default() };
        parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        parcels.count = 5;
        parcels.broadcast(&mut network, ProcessId(0), "sim-plain");
        network.run_for(Duration::from_secs(1));
        assert_eq!(told(&mut parcels, &network), (0, 2));
    }
}
