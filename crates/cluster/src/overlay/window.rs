//! Which numbers of a sender were seen already, in bounded memory. Knows nothing of messages.

use std::collections::BTreeMap;
use std::time::Instant;

use super::limits::{WINDOW_KEPT, WINDOWS_MAX};
use super::wire::MessageId;
use crate::ids::NodeId;

const WORDS: usize = 16;
/// Numbers behind the highest one that are told apart; older ones count as seen.
const SPAN: u64 = 64 * WORDS as u64;

/// The numbers of one start of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// One above the highest number seen.
    next: u64,
    /// Bit `n` of the whole: number `next - 1 - n` was seen.
    seen: [u64; WORDS],
    used: Instant,
}

impl Window {
    /// Moves the bits up by `by` numbers.
    fn advance(&mut self, by: u64) {
        let words = usize::try_from(by / 64).unwrap_or(usize::MAX);
        let bits = u32::try_from(by % 64).unwrap_or(0);
        let old = self.seen;
        let word = |at: Option<usize>| at.and_then(|at| old.get(at)).copied().unwrap_or(0);
        for (at, place) in self.seen.iter_mut().enumerate() {
            let from = at.checked_sub(words);
            let carried = word(from.and_then(|from| from.checked_sub(1))).checked_shr(64 - bits).unwrap_or(0);
            *place = word(from) << bits | carried;
        }
    }

    fn bit(&self, seq: u64) -> Option<(usize, u64)> {
        let behind = self.next.checked_sub(seq)?.checked_sub(1)?;
        let at = usize::try_from(behind / 64).ok()?;
        (at < WORDS).then_some((at, 1 << (behind % 64)))
    }

    fn has(&self, seq: u64) -> bool {
        if seq >= self.next {
            return false;
        }
        self.bit(seq).is_none_or(|(at, bit)| self.seen.get(at).is_some_and(|word| word & bit != 0))
    }

    /// False when the number was seen before or is too old to know.
    fn note(&mut self, seq: u64) -> bool {
        if self.has(seq) {
            return false;
        }
        if seq >= self.next {
            let by = (seq - self.next).saturating_add(1).min(SPAN);
            self.advance(by);
            self.next = seq.saturating_add(1);
        }
        if let Some((at, bit)) = self.bit(seq)
            && let Some(word) = self.seen.get_mut(at)
        {
            *word |= bit;
        }
        true
    }
}

/// The windows of all senders.
#[derive(Debug, Default)]
pub(super) struct Windows(BTreeMap<(NodeId, u64), Window>);

impl Windows {
    pub(super) fn has(&self, id: &MessageId) -> bool {
        self.0.get(&(id.origin, id.start)).is_some_and(|window| window.has(id.seq))
    }

    /// Notes a number; false when it was seen before or is too old to know.
    pub(super) fn note(&mut self, id: &MessageId, now: Instant) -> bool {
        let key = (id.origin, id.start);
        if self.0.len() >= WINDOWS_MAX && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, window)| window.used).map(|(key, _)| *key);
            oldest.map(|key| self.0.remove(&key));
        }
        let window = self.0.entry(key).or_insert(Window { next: id.seq, seen: [0; WORDS], used: now });
        window.used = now;
        window.note(id.seq)
    }

    /// Forgets senders that were silent for long.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.0.retain(|_, window| now.saturating_duration_since(window.used) < WINDOW_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64) -> MessageId {
        MessageId { origin: NodeId(1), start: 5, seq }
    }

    #[test]
    fn a_number_is_new_once_in_any_order() {
        let now = Instant::now();
        let mut windows = Windows::default();
        for seq in [1_000, 1_001, 1_063, 1_003, 1_100, 1_002, 1_254] {
            assert!(!windows.has(&id(seq)), "{seq}");
            assert!(windows.note(&id(seq), now), "{seq}");
            assert!(windows.has(&id(seq)) && !windows.note(&id(seq), now), "{seq}");
        }
        assert!(!windows.has(&id(1_099)) && !windows.has(&id(1_255)) && !windows.has(&id(999)));
        assert!(windows.note(&id(1_099), now));
        // Too old to know.
        assert!(windows.note(&id(5_000), now) && !windows.has(&id(3_977)) && windows.has(&id(3_976)));
        assert!(!windows.note(&id(1_255), now));
    }

    #[test]
    fn it_agrees_with_a_plain_set() {
        let now = Instant::now();
        let (mut windows, mut set, mut seed) = (Windows::default(), std::collections::HashSet::new(), 3_u64);
        for round in 0..20_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let seq = 1_000 + round / 4 + (seed >> 40) % 900;
            assert_eq!(windows.note(&id(seq), now), set.insert(seq), "{seq}");
        }
    }

    #[test]
    fn another_start_begins_anew_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut windows = Windows::default();
        assert!(windows.note(&id(7), now) && windows.note(&MessageId { start: 6, ..id(7) }, now));
        for start in 0..9_000 {
            windows.note(&MessageId { start, ..id(1) }, now);
        }
        assert!(windows.0.len() <= WINDOWS_MAX);
        windows.forget_old(now + WINDOW_KEPT);
        assert!(windows.0.is_empty());
    }
}
