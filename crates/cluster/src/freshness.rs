//! Which updates are newer than what is known (`clusterer`, sequence numbers); no wrap-around.

use smallvec::SmallVec;

use crate::ids::ConnId;
use crate::packet::Stamp;

/// A number 0 this much older than the last update, or less, is a late copy that came another way.
///
/// Deviation: OpenSIPS takes every such copy for a restart and floods it once more.
const LATE_COPY_SECS: i64 = 2;

/// A lower number this much older than the last update, or less, may be a late copy; an older one means that the clock was
/// set back before a restart. Shorter than [`crate::limits::REPEAT_LATE_DELAY`]: what is refused by mistake is told again
/// with a time that is later than all before.
const CLOCK_SET_BACK_SECS: i64 = 20;

/// Stamps with one number whose times differ by no more than this mean the same state: the time of
/// a number learned from a full topology is that of the topology.
const SAME_STATE_SECS: i64 = 10;

/// Accepted stamps remembered: copies of them are known as such whatever their times say.
const SEEN_MAX: usize = 12;

/// The last accepted stamp of one kind of update of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freshness {
    last: Stamp,
    /// The last stamp before a restart with a clock that was set back: others may still tell it.
    dead: Option<Stamp>,
    /// Accepted ones, oldest first.
    seen: SmallVec<[Stamp; SEEN_MAX]>,
    /// The originator sends on this connection since a moment ago: it may have been started anew.
    new_conn: Option<ConnId>,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { last: Stamp { seq_no: -1, timestamp: 0 }, dead: None, seen: SmallVec::new(), new_conn: None }
    }
}

impl Freshness {
    /// The stored stamp; -1/0 when nothing was accepted yet.
    pub(crate) fn stamp(&self) -> Stamp {
        self.last
    }

    /// Number 0 means that the originator has restarted.
    ///
    /// Deviation: so does a lower number with a later time, or with one that is too old for a late copy. OpenSIPS is deaf
    /// to a restarted node whose number 0 it missed until that node has counted up again.
    pub(crate) fn is_fresh(&self, stamp: Stamp) -> bool {
        if self.seen.contains(&stamp) {
            return false;
        }
        let age = i64::from(self.last.timestamp) - i64::from(stamp.timestamp);
        match (stamp.seq_no, self.last.seq_no) {
            (0, old) if old > 0 => !(0..=LATE_COPY_SECS).contains(&age),
            (new, old) => new > old || !(0..=CLOCK_SET_BACK_SECS).contains(&age),
        }
    }

    /// The originator begins to send on that connection.
    pub(crate) fn note_connection(&mut self, conn: ConnId) {
        self.new_conn = Some(conn);
    }

    /// True when the stamp means the state that is stored.
    pub(crate) fn is_same_state(&self, stamp: Stamp) -> bool {
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
        if self.seen.contains(&stamp) {
            return;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.remove(0);
        }
        self.seen.push(stamp);
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

    /// As [`Freshness::accept`] for the word of the originator itself, which may have come on a connection of its own
    /// (`direct`). The first on a new connection can be no copy, whatever its number and time are.
    pub(crate) fn accept_from(&mut self, stamp: Stamp, direct: Option<ConnId>) -> bool {
        let is_first = direct.is_some() && self.new_conn == direct;
        if is_first {
            self.new_conn = None;
        }
        if self.accept(stamp) {
            return true;
        }
        if !is_first || self.seen.contains(&stamp) {
            return false;
        }
        // What follows on this connection may repeat numbers and times of before.
        self.seen.clear();
        self.replace(stamp);
        true
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
    fn a_clock_set_back_hides_a_restart_for_seconds_only_and_a_seen_stamp_never_counts_twice() {
        let mut f = Freshness::default();
        assert!(f.accept(stamp(8, 980)));
        assert!(f.accept(stamp(9, 1_000)));
        assert!(!f.accept(stamp(3, 990)), "may be a late copy");
        assert!(f.accept(stamp(3, 940)), "can be none");
        assert!(!f.accept(stamp(9, 1_000)), "seen before the restart");
        assert!(!f.accept(stamp(8, 980)));
        assert!(f.accept(stamp(4, 945)));
    }

    #[test]
    fn the_first_word_on_a_new_connection_of_the_node_itself_counts() {
        let mut f = Freshness::default();
        assert!(f.accept_from(stamp(9, 1_000), Some(ConnId(1))));
        assert!(!f.accept_from(stamp(1, 995), Some(ConnId(1))));
        f.note_connection(ConnId(2));
        assert!(!f.accept_from(stamp(1, 995), None), "through others");
        assert!(!f.accept_from(stamp(9, 1_000), Some(ConnId(2))), "a copy");
        f.note_connection(ConnId(3));
        assert!(f.accept_from(stamp(1, 995), Some(ConnId(3))));
        assert!(f.accept_from(stamp(2, 996), Some(ConnId(3))));
        assert!(!f.accept_from(stamp(0, 994), Some(ConnId(3))), "only the first");
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
