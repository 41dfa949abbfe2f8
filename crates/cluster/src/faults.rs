//! Malformed packets per sender: each costs that packet; who sends many is parked with a reason, others are not touched.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use tandem_bin::Packet;

use crate::ids::{ConnId, Now};
use crate::limits::{MALFORMED_MAX, MALFORMED_WINDOW, OFFENDERS_MAX, PARK_TIME};
use crate::log::LogEvent;
use crate::node::ClusterNode;
use crate::outbox::Output;

/// Malformed packets of one sender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    count: u32,
    since: Option<Instant>,
    parked_until: Option<Instant>,
    reason: String,
}

impl Faults {
    /// Counts one; true when the sender is parked by it.
    pub(crate) fn add(&mut self, now: Instant, reason: &str) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > MALFORMED_WINDOW) {
            self.since = Some(now);
            self.count = 0;
        }
        self.count += 1;
        if self.count < MALFORMED_MAX {
            return false;
        }
        self.count = 0;
        self.since = None;
        self.park(now, reason);
        true
    }

    /// Parks it whatever was counted.
    pub(crate) fn park(&mut self, now: Instant, reason: &str) {
        self.parked_until = Some(now + PARK_TIME);
        reason.clone_into(&mut self.reason);
    }

    /// The reason while it is parked.
    pub(crate) fn parked(&self, now: Instant) -> Option<&str> {
        self.parked_until.is_some_and(|until| now < until).then_some(self.reason.as_str())
    }
}

/// Connections that sent something malformed.
#[derive(Debug, Default)]
pub(crate) struct Offenders {
    /// Oldest first.
    known: VecDeque<(ConnId, Faults)>,
}

impl Offenders {
    pub(crate) fn is_parked(&self, conn: ConnId, now: Instant) -> bool {
        self.known.iter().any(|(known, faults)| *known == conn && faults.parked(now).is_some())
    }

    /// Counts one; true when the connection is parked by it.
    pub(crate) fn add(&mut self, conn: ConnId, now: Instant, reason: &str) -> bool {
        if let Some((_, faults)) = self.known.iter_mut().find(|(known, _)| *known == conn) {
            return faults.add(now, reason);
        }
        if self.known.len() >= OFFENDERS_MAX {
            self.known.pop_front();
        }
        let mut faults = Faults::default();
        let is_parked = faults.add(now, reason);
        self.known.push_back((conn, faults));
        is_parked
    }

    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.known.retain(|(known, _)| *known != conn);
    }
}

impl ClusterNode {
    /// Counts a malformed packet against its connection and the node that sends on it, so that a new connection is no fresh
    /// start; with too many of them the connection is closed and the node left alone for a while.
    pub(crate) fn note_malformed(&mut self, from: SocketAddr, conn: ConnId, packet: Option<Packet<'_>>, now: Now) {
        let reason = packet.map_or_else(
            || "not a packet".to_owned(),
            |packet| {
                let capability = String::from_utf8_lossy(packet.capability()).into_owned();
                format!("a field of capability {capability} type {} is cut or out of range", packet.packet_type())
            },
        );
        let mut is_too_much = self.offenders.add(conn, now.mono, &reason);
        let senders = self.clusters.iter_mut().flat_map(|cluster| {
            let id = cluster.id;
            cluster.nodes.iter_mut().filter(move |node| node.link.has_conn(conn)).map(move |node| (id, node))
        });
        let mut senders: Vec<_> = senders.collect();
        for (_, node) in &mut senders {
            is_too_much |= node.faults.add(now.mono, &reason);
        }
        if !is_too_much {
            return;
        }
        let mut parked = None;
        for (id, node) in senders {
            node.faults.park(now.mono, &reason);
            parked = Some((id, node.id()));
        }
        self.out.log(LogEvent::Parked { node: parked, ip: from.ip(), reason });
        self.out.push(Output::CloseConnection { conn });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_forgiven_many_are_parked_for_a_while() {
        let now = Instant::now();
        let mut offenders = Offenders::default();
        for _ in 1..MALFORMED_MAX {
            assert!(!offenders.add(ConnId(1), now, "half a field"));
        }
        assert!(!offenders.is_parked(ConnId(1), now));
        assert!(offenders.add(ConnId(1), now, "half a field"));
        assert!(offenders.is_parked(ConnId(1), now));
        assert!(!offenders.is_parked(ConnId(2), now));
        assert!(!offenders.is_parked(ConnId(1), now + PARK_TIME));
        // One in each window never sums up.
        let mut faults = Faults::default();
        for n in 0..100 {
            assert!(!faults.add(now + (MALFORMED_WINDOW * 2) * n, "x"));
        }
    }

    #[test]
    fn the_number_of_offenders_is_bounded() {
        let mut offenders = Offenders::default();
        for n in 0..5_000 {
            offenders.add(ConnId(n), Instant::now(), "x");
        }
        assert_eq!(offenders.known.len(), OFFENDERS_MAX);
    }
}
