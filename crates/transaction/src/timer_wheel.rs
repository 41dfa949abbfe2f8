//! A hierarchical timer wheel: every deadline of a worker in one place, millisecond grain, O(1) insert and cancel.
//! Owns no clock and calls nothing back: `advance(now)` hands out the keys that came due.

use std::time::{Duration, Instant};

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_MASK: u64 = SLOTS as u64 - 1;
/// Six levels of 64 slots reach 2.2 years; later deadlines wait in the last level and are placed again.
const LEVELS: usize = 6;
const MAX_SPAN_MS: u64 = 1 << (SLOT_BITS as u64 * LEVELS as u64);
/// The list of what is due already: one more than all wheel slots.
const DUE: u16 = (LEVELS * SLOTS) as u16;
const FREE: u16 = DUE + 1;
const NIL: u32 = u32::MAX;

/// Names one inserted timer. Safe to keep after the timer fired or was cancelled: it never hits a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry<K> {
    key: K,
    at_ms: u64,
    previous: u32,
    next: u32,
    generation: u32,
    /// The list it is in: `level * 64 + slot`, [`DUE`] or [`FREE`].
    place: u16,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NIL, last: NIL };

/// Deadlines with a key each; `K` is whatever names the owner (a transaction index, an enum).
#[derive(Debug)]
pub struct TimerWheel<K> {
    epoch: Instant,
    now_ms: u64,
    occupied: [u64; LEVELS],
    lists: Box<[List]>,
    entries: Vec<Entry<K>>,
    first_free: u32,
    len: usize,
}

impl<K: Copy> TimerWheel<K> {
    /// An empty wheel whose time starts at `now`.
    pub fn new(now: Instant) -> Self {
        TimerWheel {
            epoch: now,
            now_ms: 0,
            occupied: [0; LEVELS],
            lists: vec![EMPTY; LEVELS * SLOTS + 1].into_boxed_slice(),
            entries: Vec::new(),
            first_free: NIL,
            len: 0,
        }
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Arms a timer; a moment already past fires at the next [`TimerWheel::advance`]. Never fires early: fractions of a
    /// millisecond are rounded up.
    pub fn insert(&mut self, at: Instant, key: K) -> TimerKey {
        let at_ms = self.ms_up(at);
        let index = match self.entries.get(self.first_free as usize) {
            Some(free) => {
                let index = self.first_free;
                self.first_free = free.next;
                index
            }
            None => {
                let index = u32::try_from(self.entries.len()).unwrap_or(NIL);
                self.entries.push(Entry { key, at_ms, previous: NIL, next: NIL, generation: 0, place: FREE });
                index
            }
        };
        let mut generation = 0;
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.key = key;
            entry.at_ms = at_ms;
            generation = entry.generation;
        }
        self.place(index);
        self.len += 1;
        TimerKey { index, generation }
    }

    /// Disarms a timer; `None` when it fired or was cancelled before.
    pub fn cancel(&mut self, timer: TimerKey) -> Option<K> {
        let entry = self.entries.get(timer.index as usize)?;
        if entry.generation != timer.generation || entry.place == FREE {
            return None;
        }
        let key = entry.key;
        self.unlink(timer.index);
        self.free(timer.index);
        Some(key)
    }

    /// Whether this timer is still armed.
    pub fn is_armed(&self, timer: TimerKey) -> bool {
        self.entries
            .get(timer.index as usize)
            .is_some_and(|entry| entry.generation == timer.generation && entry.place != FREE)
    }

    /// Moves a timer, or arms it anew when it is gone; returns its current name.
    pub fn reset(&mut self, timer: Option<TimerKey>, at: Instant, key: K) -> TimerKey {
        if let Some(timer) = timer {
            self.cancel(timer);
        }
        self.insert(at, key)
    }

    /// Appends the keys due at `now` to `expired`, earliest first (within one millisecond in no special order). The cost
    /// is that of what fires and of what moves down a level, never of the time that passed.
    pub fn advance(&mut self, now: Instant, expired: &mut impl Extend<K>) {
        let target = self.ms_down(now).max(self.now_ms);
        loop {
            self.fire(DUE, expired);
            let Some((level, slot, start)) = self.next_slot() else {
                break;
            };
            if start > target {
                break;
            }
            self.now_ms = start;
            let place = (level * SLOTS + slot) as u16;
            if level == 0 {
                self.fire(place, expired);
            } else {
                self.cascade(place);
            }
        }
        self.now_ms = target;
    }

    /// A moment at or before the earliest deadline, `None` when empty. Waking up there and calling
    /// [`TimerWheel::advance`] may fire nothing when the deadline is far: then this names a later moment.
    pub fn next_deadline(&self) -> Option<Instant> {
        let ms = if self.lists.last().is_some_and(|due| due.first != NIL) { self.now_ms } else { self.next_slot()?.2 };
        self.epoch.checked_add(Duration::from_millis(ms))
    }

    fn ms_down(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX / 2)
    }

    fn ms_up(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX / 2)
    }

    /// The first occupied slot in time: level, slot and the millisecond it starts.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let mut best: Option<(usize, usize, u64)> = None;
        for (level, &occupied) in self.occupied.iter().enumerate() {
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let now_slot = (self.now_ms >> shift) & SLOT_MASK;
            // Slots are looked at in the order of time, from the current one on.
            let distance = u64::from(occupied.rotate_right(now_slot as u32).trailing_zeros());
            let slot = (now_slot + distance) & SLOT_MASK;
            let base = self.now_ms & !((1u64 << (shift + SLOT_BITS)) - 1);
            let mut start = base + (slot << shift);
            if slot < now_slot || (level > 0 && distance == 0) {
                // Only the last level can hold entries of its next round.
                start += 1u64 << (shift + SLOT_BITS);
            }
            // On a tie the higher level comes first: its entries may belong to the same millisecond.
            if best.is_none_or(|(_, _, earliest)| start <= earliest) {
                best = Some((level, slot as usize, start));
            }
        }
        best
    }

    fn place(&mut self, index: u32) {
        let Some(entry) = self.entries.get(index as usize) else {
            return;
        };
        if entry.at_ms <= self.now_ms {
            self.link(DUE, index);
            return;
        }
        // Beyond the reach of the wheel: wait almost one full round, then look again.
        let at = entry.at_ms.min(self.now_ms + MAX_SPAN_MS - (MAX_SPAN_MS >> SLOT_BITS));
        let differing = (at ^ self.now_ms) | SLOT_MASK;
        let level = (((63 - differing.leading_zeros()) / SLOT_BITS) as usize).min(LEVELS - 1);
        let slot = ((at >> (SLOT_BITS * level as u32)) & SLOT_MASK) as usize;
        self.link((level * SLOTS + slot) as u16, index);
    }

    fn link(&mut self, place: u16, index: u32) {
        let Some(list) = self.lists.get_mut(usize::from(place)) else {
            return;
        };
        let last = list.last;
        list.last = index;
        if last == NIL {
            list.first = index;
        }
        if let Some(entry) = self.entries.get_mut(last as usize) {
            entry.next = index;
        }
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.previous = last;
            entry.next = NIL;
            entry.place = place;
        }
        self.mark(place, true);
    }

    fn unlink(&mut self, index: u32) {
        let Some(&Entry { previous, next, place, .. }) = self.entries.get(index as usize) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(previous as usize) {
            entry.next = next;
        }
        if let Some(entry) = self.entries.get_mut(next as usize) {
            entry.previous = previous;
        }
        let Some(list) = self.lists.get_mut(usize::from(place)) else {
            return;
        };
        if list.first == index {
            list.first = next;
        }
        if list.last == index {
            list.last = previous;
        }
        if list.first == NIL {
            self.mark(place, false);
        }
    }

    fn mark(&mut self, place: u16, is_occupied: bool) {
        let bit = 1u64 << (usize::from(place) % SLOTS);
        if let Some(level) = self.occupied.get_mut(usize::from(place) / SLOTS) {
            *level = if is_occupied { *level | bit } else { *level & !bit };
        }
    }

    fn take_list(&mut self, place: u16) -> u32 {
        self.mark(place, false);
        self.lists.get_mut(usize::from(place)).map_or(NIL, |list| std::mem::replace(list, EMPTY).first)
    }

    fn free(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.generation = entry.generation.wrapping_add(1);
            entry.place = FREE;
            entry.next = self.first_free;
            self.first_free = index;
            self.len -= 1;
        }
    }

    fn fire(&mut self, place: u16, expired: &mut impl Extend<K>) {
        let mut index = self.take_list(place);
        while let Some(&Entry { key, next, .. }) = self.entries.get(index as usize) {
            expired.extend(std::iter::once(key));
            self.free(index);
            index = next;
        }
    }

    fn cascade(&mut self, place: u16) {
        let mut index = self.take_list(place);
        while let Some(&Entry { next, .. }) = self.entries.get(index as usize) {
            self.place(index);
            index = next;
        }
    }
}
