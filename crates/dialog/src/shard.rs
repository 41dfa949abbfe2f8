//! One independently locked part of the dialog table: dialogs in slots, indexes by number and by Call-ID, timers in
//! order. It takes no lock and makes no call decision.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::time::Instant;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::dialog::Dialog;
use crate::event::Direction;
use crate::id::DialogId;
use crate::table::DialogMatch;

struct Entry {
    dialog: Dialog,
    /// The time under which the timer index holds this dialog.
    armed_at: Option<Instant>,
}

pub(crate) struct Shard {
    hasher: FixedState,
    by_id: HashTable<u32>,
    by_call_id: HashTable<u32>,
    slots: Vec<Option<Box<Entry>>>,
    free: Vec<u32>,
    timers: BTreeSet<(Instant, u32)>,
    dialogs_max: usize,
    /// Last number given per hash slot this shard owns, in steps of the shard count.
    last_ids: Vec<u32>,
}

impl Shard {
    pub(crate) fn new(seed: u64, entries: usize, dialogs_max: usize) -> Self {
        let hasher = FixedState::with_seed(seed);
        // Random starts, so that cookies of before a restart do not meet new dialogs.
        let last_ids = (0..entries).map(|entry| hasher.hash_one((seed, entry)) as u32 & 0x7FFF_FFFF).collect();
        Shard {
            hasher,
            by_id: HashTable::new(),
            by_call_id: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            timers: BTreeSet::new(),
            dialogs_max,
            last_ids,
        }
    }

    fn entry(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize).and_then(Option::as_deref)
    }

    pub(crate) fn dialog(&self, slot: u32) -> Option<&Dialog> {
        self.entry(slot).map(|entry| &entry.dialog)
    }

    pub(crate) fn dialog_mut(&mut self, slot: u32) -> Option<&mut Dialog> {
        self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut).map(|entry| &mut entry.dialog)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_id.len() >= self.dialogs_max
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A number for a new dialog in a hash slot; `local_entry` counts the slots of this shard.
    pub(crate) fn take_id(&mut self, entry: u32, local_entry: usize) -> DialogId {
        let mut id = DialogId { entry, id: self.last_ids.get(local_entry).copied().unwrap_or_default() };
        // After 2^32 calls in one slot numbers repeat; a long-lived dialog may still hold one. Dialogs are fewer than
        // numbers, so this ends.
        loop {
            id.id = id.id.wrapping_add(1);
            if id.id != 0 && self.slot_of(id).is_none() {
                break;
            }
        }
        if let Some(last) = self.last_ids.get_mut(local_entry) {
            *last = id.id;
        }
        id
    }

    pub(crate) fn slot_of(&self, id: DialogId) -> Option<u32> {
        let is_it = |slot: &u32| self.dialog(*slot).is_some_and(|dialog| dialog.id == id);
        self.by_id.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// Slots of the dialogs with this Call-ID (a spiral or several nodes' forks make more than one).
    pub(crate) fn slots_of_call_id<'a>(&'a self, call_id: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        let candidates = self.by_call_id.iter_hash(self.hasher.hash_one(call_id)).copied();
        candidates.filter(move |slot| self.dialog(*slot).is_some_and(|dialog| *dialog.call_id == *call_id))
    }

    pub(crate) fn insert(&mut self, dialog: Dialog) -> u32 {
        let hasher = self.hasher.clone();
        let (id_hash, call_id_hash) = (hasher.hash_one(dialog.id), hasher.hash_one(&*dialog.call_id));
        let entry = Some(Box::new(Entry { dialog, armed_at: None }));
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = entry;
        }
        let Shard { by_id, by_call_id, slots, .. } = self;
        let dialog_in = |slot: &u32| slots.get(*slot as usize).and_then(Option::as_deref).map(|entry| &entry.dialog);
        by_id.insert_unique(id_hash, slot, |slot| dialog_in(slot).map_or(0, |dialog| hasher.hash_one(dialog.id)));
        by_call_id.insert_unique(call_id_hash, slot, |slot| {
            dialog_in(slot).map_or(0, |dialog| hasher.hash_one(&*dialog.call_id))
        });
        self.rearm(slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Dialog> {
        let entry = self.slots.get_mut(slot as usize).and_then(Option::take)?;
        let hashes = (self.hasher.hash_one(entry.dialog.id), self.hasher.hash_one(&*entry.dialog.call_id));
        for (index, hash) in [(&mut self.by_id, hashes.0), (&mut self.by_call_id, hashes.1)] {
            if let Ok(found) = index.find_entry(hash, |candidate| *candidate == slot) {
                found.remove();
            }
        }
        if let Some(at) = entry.armed_at {
            self.timers.remove(&(at, slot));
        }
        self.free.push(slot);
        Some(entry.dialog)
    }

    /// Brings the timer index in line with the dialog's deadline.
    pub(crate) fn rearm(&mut self, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let (armed_at, deadline) = (entry.armed_at, entry.dialog.deadline);
        if armed_at == deadline {
            return;
        }
        entry.armed_at = deadline;
        if let Some(at) = armed_at {
            self.timers.remove(&(at, slot));
        }
        if let Some(at) = deadline {
            self.timers.insert((at, slot));
        }
    }

    /// The first dialog whose time has come.
    pub(crate) fn due(&self, now: Instant) -> Option<u32> {
        self.timers.first().filter(|(at, _)| *at <= now).map(|(_, slot)| *slot)
    }

    /// Visits dialogs from a slot on; `Some(slot)` is where to go on when the page is full.
    pub(crate) fn page(&self, from: usize, left: &mut usize, visit: &mut impl FnMut(&Dialog)) -> Option<usize> {
        for (slot, entry) in self.slots.iter().enumerate().skip(from) {
            let Some(entry) = entry else { continue };
            if *left == 0 {
                return Some(slot);
            }
            visit(&entry.dialog);
            *left -= 1;
        }
        None
    }
}

impl Dialog {
    /// Which way a request with these tags goes in this dialog; `None` if it is not of this dialog.
    pub fn match_tags(&self, from_tag: &[u8], to_tag: &[u8]) -> Option<DialogMatch> {
        let caller_tag = self.from_tag();
        let (direction, callee_tag) = if caller_tag == from_tag {
            (Direction::Downstream, to_tag)
        } else if caller_tag == to_tag {
            (Direction::Upstream, from_tag)
        } else {
            return None;
        };
        let callee_leg = if self.legs.len() > 1 {
            self.legs.iter().skip(1).position(|leg| *leg.tag == *callee_tag)? + 1
        } else if callee_tag.is_empty() {
            1
        } else {
            return None;
        };
        let destination_leg = if direction == Direction::Downstream { callee_leg } else { 0 };
        Some(DialogMatch { id: self.id, direction, destination_leg })
    }
}
