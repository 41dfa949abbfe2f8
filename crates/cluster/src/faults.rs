//! Malformed packets per sender: each costs that packet; who sends many is parked with a reason, others are not touched.

use std::collections::VecDeque;
use std::time::Instant;

use crate::ids::ConnId;
use crate::limits::{MALFORMED_MAX, MALFORMED_WINDOW, OFFENDERS_MAX, PARK_TIME};

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
