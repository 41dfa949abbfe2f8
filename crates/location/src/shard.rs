//! One independently locked part of the table: records in slots, an index by key, an ordered index by expiry. It takes
//! no lock itself and makes no registration decision.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::aor::Aor;
use crate::binding::{Binding, BindingError, CONTACT_LABEL_MASK, ContactId};
use crate::record::{Bindings, Record};
use crate::register::{Change, Plan, RegisterError, RegisterOutcome, RegisterPolicy, RegisterRequest, RemovalReason};
use crate::table::Expired;

pub(crate) struct Shard {
    hasher: FixedState,
    index: HashTable<u32>,
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    /// (time, slot): each record once at most, at or before its first expiry. A refresh leaves the entry where it is and
    /// the entry moves when its time comes, so a REGISTER costs no ordered insert.
    expiry: BTreeSet<(i64, u32)>,
    contact_count: usize,
    expired_count: u64,
    records_max: usize,
    next_record_label: u32,
}

impl Shard {
    pub(crate) fn new(seed: u64, records_max: usize) -> Self {
        let hasher = FixedState::with_seed(seed);
        let next_record_label = hasher.hash_one(seed) as u32 & 0x7FFF_FFFF;
        Shard {
            hasher,
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            expiry: BTreeSet::new(),
            contact_count: 0,
            expired_count: 0,
            records_max,
            next_record_label,
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    fn slot_of(&self, aor: &Aor) -> Option<u32> {
        let is_it = |slot: &u32| matches!(self.slots.get(*slot as usize), Some(Some(record)) if record.aor() == aor);
        self.index.find(self.hash(aor.as_bytes()), is_it).copied()
    }

    fn record(&self, slot: u32) -> Option<&Record> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    fn record_mut(&mut self, slot: u32) -> Option<&mut Record> {
        self.slots.get_mut(slot as usize).and_then(Option::as_mut)
    }

    pub(crate) fn find(&self, aor: &Aor) -> Option<&Record> {
        self.record(self.slot_of(aor)?)
    }

    pub(crate) fn find_mut(&mut self, aor: &Aor) -> Option<&mut Record> {
        let slot = self.slot_of(aor)?;
        self.record_mut(slot)
    }

    pub(crate) fn record_count(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn contact_count(&self) -> usize {
        self.contact_count
    }

    pub(crate) fn expired_count(&self) -> u64 {
        self.expired_count
    }

    pub(crate) fn reset_expired_count(&mut self) {
        self.expired_count = 0;
    }

    pub(crate) fn next_expiry(&self) -> i64 {
        self.expiry.first().map_or(i64::MAX, |(at, _)| *at)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.index.len() >= self.records_max
    }

    /// A label no live record of this shard is likely to have: counted, 2^32 long.
    pub(crate) fn take_record_label(&mut self) -> u32 {
        let label = self.next_record_label;
        self.next_record_label = label.wrapping_add(1);
        label
    }

    /// After a peer's label was taken over: never hand it out again.
    pub(crate) fn raise_record_label(&mut self, above: u32) {
        if self.next_record_label <= above {
            self.next_record_label = above.wrapping_add(1);
        }
    }

    /// Spreads the start of contact labels, so that a re-created record seldom repeats ids.
    pub(crate) fn first_contact_label(&self, record_label: u32) -> u16 {
        self.hasher.hash_one(record_label) as u16 & CONTACT_LABEL_MASK
    }

    /// Puts a record in; the caller has checked that the key is new and the shard not full.
    pub(crate) fn insert_record(&mut self, record: Record) -> u32 {
        let hash = self.hash(record.aor().as_bytes());
        self.contact_count += record.bindings.len();
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(record);
        }
        let Shard { index, slots, hasher, .. } = self;
        index.insert_unique(hash, slot, |slot| {
            let mut hasher = hasher.build_hasher();
            let key = slots.get(*slot as usize).and_then(Option::as_ref).map(|record| record.aor().as_bytes());
            hasher.write(key.unwrap_or_default());
            hasher.finish()
        });
        self.reschedule(slot);
        slot
    }

    /// Puts in a record without contacts that `expire` looks at, at this time.
    pub(crate) fn insert_record_until(&mut self, record: Record, review_at: i64) {
        let slot = self.insert_record(record);
        if let Some(record) = self.record_mut(slot) {
            record.scheduled_at = review_at;
            self.expiry.insert((review_at, slot));
        }
    }

    fn remove_record(&mut self, slot: u32) {
        let Some(record) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        let hash = self.hash(record.aor().as_bytes());
        if let Ok(entry) = self.index.find_entry(hash, |candidate| *candidate == slot) {
            entry.remove();
        }
        self.expiry.remove(&(record.scheduled_at, slot));
        self.contact_count -= record.bindings.len().min(self.contact_count);
        self.free.push(slot);
    }

    /// Replaces the bindings of a record and removes it when none is left; returns whether it was removed.
    pub(crate) fn set_bindings(&mut self, slot: u32, bindings: Bindings) -> bool {
        let Some(record) = self.record_mut(slot) else { return false };
        let before = record.bindings.len();
        let after = bindings.len();
        record.bindings = bindings;
        self.contact_count = self.contact_count + after - before.min(self.contact_count + after);
        if after == 0 {
            self.remove_record(slot);
            return true;
        }
        self.reschedule(slot);
        false
    }

    /// Appends a binding to an existing record.
    pub(crate) fn push_binding(&mut self, aor: &Aor, binding: Arc<Binding>, next_contact_label: u16) {
        let Some(slot) = self.slot_of(aor) else { return };
        let Some(record) = self.record_mut(slot) else { return };
        record.bindings.push(binding);
        record.next_contact_label = next_contact_label;
        self.contact_count += 1;
        self.reschedule(slot);
    }

    /// Moves the record's entry in the expiry index if it would come too late.
    fn reschedule(&mut self, slot: u32) {
        let Some(record) = self.record_mut(slot) else { return };
        let (first, scheduled) = (record.first_expiry(), record.scheduled_at);
        if first < scheduled {
            record.scheduled_at = first;
            self.expiry.remove(&(scheduled, slot));
            self.expiry.insert((first, slot));
        }
    }

    pub(crate) fn register(
        &mut self,
        aor: &Aor,
        request: &RegisterRequest<'_>,
        policy: &RegisterPolicy,
        now: i64,
    ) -> Result<RegisterOutcome, RegisterError> {
        let slot = self.slot_of(aor);
        let before = match slot.and_then(|slot| self.record(slot)) {
            Some(record) if policy.has_foreign_writers => {
                // Another node may be giving the next label of this record right now.
                let (label, bindings) = (self.next_record_label, record.bindings.clone());
                self.take_record_label();
                (label, self.first_contact_label(label), bindings)
            }
            Some(record) => (record.record_label, record.next_contact_label, record.bindings.clone()),
            None => (self.next_record_label, self.first_contact_label(self.next_record_label), Bindings::new()),
        };
        let record_label = before.0;
        let mut plan = Plan::new(aor, request, policy, now, before);
        plan.run()?;
        let mut outcome = RegisterOutcome {
            bindings: plan.valid_bindings(),
            changes: Vec::new(),
            aor_created: false,
            aor_deleted: false,
            record_label: 0,
            next_contact_label: plan.next_contact_label,
        };
        let Plan { bindings, changes, next_contact_label, .. } = plan;
        match slot {
            Some(slot) => {
                outcome.changes = changes;
                outcome.record_label = record_label;
                if let Some(record) = self.record_mut(slot) {
                    record.next_contact_label = next_contact_label;
                }
                if !outcome.changes.is_empty() && self.set_bindings(slot, bindings) {
                    outcome.aor_deleted = true;
                    outcome.changes.push(Change::AorDeleted);
                }
            }
            None if !bindings.is_empty() => {
                if self.is_full() {
                    return Err(RegisterError::TableFull);
                }
                outcome.aor_created = true;
                outcome.record_label = self.take_record_label();
                outcome.changes = Vec::with_capacity(changes.len() + 1);
                outcome.changes.push(Change::AorInserted);
                outcome.changes.extend(changes);
                let mut record = Record::new(aor.clone(), record_label, next_contact_label);
                record.bindings = bindings;
                self.insert_record(record);
            }
            // Contacts that came and went within one request leave nothing behind.
            None => {}
        }
        Ok(outcome)
    }

    pub(crate) fn update_binding(
        &mut self,
        aor: &Aor,
        id: ContactId,
        change: impl FnOnce(&Binding) -> Result<Binding, BindingError>,
    ) -> Option<Result<Change, BindingError>> {
        let slot = self.slot_of(aor)?;
        let record = self.record_mut(slot)?;
        let place = record.bindings.iter_mut().find(|binding| binding.contact_id() == id)?;
        // The id is ours to give: whatever the closure built keeps the old one.
        let made = change(place).and_then(|made| Binding::new(id, &made.fields()));
        let changed = match made {
            Ok(binding) => {
                *place = Arc::new(binding);
                Ok(Change::Updated(Arc::clone(place)))
            }
            Err(error) => Err(error),
        };
        self.reschedule(slot);
        Some(changed)
    }

    pub(crate) fn remove_where(
        &mut self,
        aor: &Aor,
        reason: RemovalReason,
        select: impl FnMut(&Binding) -> bool,
    ) -> Vec<Change> {
        match self.slot_of(aor) {
            Some(slot) => self.remove_in_slot(slot, reason, select),
            None => Vec::new(),
        }
    }

    fn remove_in_slot(
        &mut self,
        slot: u32,
        reason: RemovalReason,
        mut select: impl FnMut(&Binding) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(record) = self.record_mut(slot) else { return changes };
        let mut kept = Bindings::new();
        for binding in std::mem::take(&mut record.bindings) {
            if select(&binding) {
                changes.push(Change::Removed { binding, reason });
            } else {
                kept.push(binding);
            }
        }
        self.contact_count -= changes.len().min(self.contact_count);
        if let Some(record) = self.record_mut(slot) {
            record.bindings = kept;
        }
        if self.record(slot).is_some_and(|record| record.bindings.is_empty()) {
            self.remove_record(slot);
            changes.push(Change::AorDeleted);
        } else {
            self.reschedule(slot);
        }
        changes
    }

    pub(crate) fn expire(&mut self, now: i64, records_max: usize, expired: &mut Vec<Expired>) {
        while expired.len() < records_max {
            let Some((at, slot)) = self.expiry.first().copied().filter(|(at, _)| *at <= now) else { return };
            self.expiry.remove(&(at, slot));
            let Some(record) = self.record_mut(slot) else { continue };
            record.scheduled_at = i64::MAX;
            let aor = record.aor().clone();
            let changes = self.remove_in_slot(slot, RemovalReason::Expired, |binding| !binding.is_valid(now));
            let removed = changes.iter().filter(|change| matches!(change, Change::Removed { .. })).count();
            self.expired_count += removed as u64;
            if !changes.is_empty() {
                expired.push(Expired { aor, changes });
            }
        }
    }

    /// Visits records from a slot on; `Some(slot)` is where to go on when the page is full.
    pub(crate) fn page(&self, from: usize, left: &mut usize, visit: &mut impl FnMut(&Record)) -> Option<usize> {
        for (slot, record) in self.slots.iter().enumerate().skip(from) {
            let Some(record) = record else { continue };
            if *left == 0 {
                return Some(slot);
            }
            visit(record);
            *left -= 1;
        }
        None
    }
}
