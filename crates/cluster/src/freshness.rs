//! Which updates are newer than what is known (`clusterer`, sequence numbers); no wrap-around.

use crate::packet::Stamp;

/// A number 0 this much older than the last update, or less, is a late copy that came another way.
///
/// Deviation: OpenSIPS takes every such copy for a restart and floods it once more.
const LATE_COPY_SECS: i64 = 2;

/// A lower number this much older than the last update is no late copy: the clock was set back before a restart.
const CLOCK_SET_BACK_SECS: i64 = 300;

/// Stamps with one number whose times differ by no more than this mean the same state: the time of
/// a number learned from a full topology is that of the topology.
const SAME_STATE_SECS: i64 = 10;

/// The last accepted stamp of one kind of update of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freshness {
    last: Stamp,
    /// The last stamp before a restart with a clock that was set back: others may still tell it.
    dead: Option<Stamp>,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { last: Stamp { seq_no: -1, timestamp: 0 }, dead: None }
    }
}

impl Freshness {
    /// The stored stamp; -1/0 when nothing was accepted yet.
    pub(crate) fn stamp(self) -> Stamp {
        self.last
    }

    /// Number 0 means that the originator has restarted.
    ///
    /// Deviation: so does a lower number with a later time. OpenSIPS is deaf to a restarted node
    /// whose number 0 it missed until that node has counted up again.
    pub(crate) fn is_fresh(self, stamp: Stamp) -> bool {
        let age = i64::from(self.last.timestamp) - i64::from(stamp.timestamp);
        match (stamp.seq_no, self.last.seq_no) {
            (0, 0) => stamp.timestamp > self.last.timestamp,
            (0, old) if old > 0 => !(0..=LATE_COPY_SECS).contains(&age),
            (0, _) => true,
            (new, old) => new > old || !(0..=CLOCK_SET_BACK_SECS).contains(&age),
        }
    }

    /// True when the stamp means the state that is stored.
    pub(crate) fn is_same_state(self, stamp: Stamp) -> bool {
        let apart = i64::from(self.last.timestamp) - i64::from(stamp.timestamp);
        stamp.seq_no == self.last.seq_no && apart.abs() <= SAME_STATE_SECS
    }

    /// Takes over a stamp that is known to be the newest.
    pub(crate) fn set(&mut self, stamp: Stamp) {
        self.replace(stamp);
    }

    fn replace(&mut self, stamp: Stamp) {
        if stamp.seq_no < self.last.seq_no && stamp.timestamp < self.last.timestamp {
            self.dead = Some(self.last);
        }
        self.last = stamp;
    }

    /// True for a state from before a restart that set the clock back.
    fn is_dead(&self, stamp: Stamp) -> bool {
        let apart = |other: Stamp| (i64::from(other.timestamp) - i64::from(stamp.timestamp)).abs();
        self.dead.is_some_and(|dead| stamp.seq_no <= dead.seq_no && apart(dead) < apart(self.last))
    }

    /// As [`Freshness::accept`] for what another node tells about the originator.
    ///
    /// Deviation: numbers from before a restart, told by one who has not heard of it yet, are
    /// refused by their time; OpenSIPS takes them and is deaf to the restarted node until it has
    /// counted up again.
    pub(crate) fn accept_hearsay(&mut self, stamp: Stamp) -> bool {
        stamp.timestamp >= self.last.timestamp && !self.is_dead(stamp) && self.accept(stamp)
    }

    pub(crate) fn accept(&mut self, stamp: Stamp) -> bool {
        let is_fresh = self.is_fresh(stamp);
        if is_fresh {
            self.replace(stamp);
        }
        is_fresh
    }
}

/// An own counter: starts at -1 and is increased before use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counter(i32);

impl Default for Counter {
    fn default() -> Self {
        Self(-1)
    }
}

impl Counter {
    /// The next stamp to send.
    pub(crate) fn next(&mut self, wire_secs: i32) -> Stamp {
        self.0 = self.0.saturating_add(1);
        Stamp { seq_no: self.0, timestamp: wire_secs }
    }

    /// The last number used, -1 when none was.
    pub(crate) fn last(self) -> i32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seq_no: i32, timestamp: i32) -> Stamp {
        Stamp { seq_no, timestamp }
    }

    #[test]
    fn a_higher_number_is_fresh_and_an_equal_or_lower_one_is_not() {
        let mut f = Freshness::default();
        assert!(f.accept(stamp(5, 9)));
        assert!(!f.accept(stamp(5, 9)));
        assert!(!f.accept(stamp(4, 9)));
        assert!(f.accept(stamp(6, 0)));
    }

    #[test]
    fn zero_means_a_restart_and_a_second_zero_needs_a_later_time() {
        let mut f = Freshness::default();
        assert!(f.accept(stamp(0, 100)));
        assert!(!f.accept(stamp(0, 100)));
        assert!(f.accept(stamp(0, 101)));
        assert!(f.accept(stamp(7, 5)));
        assert!(f.accept(stamp(0, 1)), "a clock set back does not hide a restart");
        assert!(f.accept(stamp(1, 1)));
        assert!(!f.accept(stamp(0, 1)), "a late copy");
    }

    #[test]
    fn a_lower_number_with_a_later_time_is_a_restart_whose_zero_was_missed() {
        let mut f = Freshness::default();
        assert!(f.accept(stamp(9, 100)));
        assert!(f.accept(stamp(2, 130)));
        assert!(!f.accept_hearsay(stamp(9, 100)), "from before the restart");
        assert!(f.accept_hearsay(stamp(3, 130)));
    }

    #[test]
    fn what_others_remember_from_before_a_clock_was_set_back_is_refused() {
        let mut f = Freshness::default();
        assert!(f.accept(stamp(9, 5_000)));
        assert!(f.accept(stamp(0, 1_000)));
        assert!(f.accept(stamp(1, 1_001)));
        assert!(!f.accept_hearsay(stamp(9, 5_000)));
        assert!(!f.accept_hearsay(stamp(8, 4_990)));
        assert!(f.accept_hearsay(stamp(2, 1_005)));
    }

    #[test]
    fn the_first_number_sent_is_zero() {
        let mut c = Counter::default();
        assert_eq!(c.last(), -1);
        assert_eq!(c.next(42), stamp(0, 42));
        assert_eq!(c.next(43), stamp(1, 43));
    }
}
