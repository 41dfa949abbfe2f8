//! The sharded table of one location domain. It locks one shard at a time for a short closure and hands out no guard;
//! it knows neither the registration rules (`register`) nor the replication rules (`merge`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use crate::aor::Aor;
use crate::binding::{Binding, BindingError, BindingFields, ContactId};
use crate::record::{Record, sort_for_routing};
use crate::register::{Change, RegisterError, RegisterOutcome, RegisterPolicy, RegisterRequest, RemovalReason};
use crate::shard::Shard;
use crate::uri_match::uris_match;

/// Sizes of a [`LocationTable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationConfig {
    /// Number of independently locked parts, rounded up to a power of two, at most [`LocationConfig::MAX_SHARDS`].
    pub shard_count: usize,
    /// Most records the table holds; a REGISTER or packet that needs one more is refused (`TableFull`).
    pub aors_max: usize,
    /// Seed of the hash and of the labels; give each process a random one.
    pub seed: u64,
}

impl LocationConfig {
    /// Labels must stay unique within a hash slot of 16 bits, so there are at most that many shards.
    pub const MAX_SHARDS: usize = 1 << 16;
}

impl Default for LocationConfig {
    fn default() -> Self {
        LocationConfig { shard_count: 64, aors_max: 20_000_000, seed: 0x7461_6e64_656d }
    }
}

/// Which bindings a lookup returns, beside the rule that they are not expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LookupFilter<'a> {
    /// Only bindings that allow all these methods (bits of [`BindingFields::methods`]); 0 = any.
    pub methods: u32,
    /// Only bindings with one of these branch flags; 0 = any.
    pub branch_flags: u32,
    /// Only the binding with this `+sip.instance` (RFC 5627 GRUU, OpenSIPS: remove).
    pub instance: Option<&'a [u8]>,
}

impl LookupFilter<'_> {
    fn accepts(&self, binding: &Binding) -> bool {
        binding.methods() & self.methods == self.methods
            && (self.branch_flags == 0 || binding.branch_flags() & self.branch_flags != 0)
            && self.instance.is_none_or(|instance| binding.instance() == instance)
    }
}

/// Counters of the usrloc statistics of one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocationTotals {
    /// Records held (`location-users`).
    pub users: u64,
    /// Bindings held (`location-contacts`).
    pub contacts: u64,
    /// Bindings removed because they expired, since start or reset (`location-expires`).
    pub expires: u64,
}

/// A record some of whose bindings have expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The record's key.
    pub aor: Aor,
    /// [`Change::Removed`] for each, then [`Change::AorDeleted`] if nothing is left.
    pub changes: Vec<Change>,
}

/// Where the next page of [`LocationTable::page`] starts. The default starts at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCursor {
    shard: usize,
    slot: usize,
}

struct ShardCell {
    /// Copy of the shard's first expiry, so that looking for the next time-out takes no lock.
    next_expiry: AtomicI64,
    shard: Mutex<Shard>,
}

/// One location domain: address of record → bindings. Shared by reference between workers.
pub struct LocationTable {
    shards: Box<[ShardCell]>,
    shard_mask: u32,
}

impl std::fmt::Debug for LocationTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocationTable").field("shards", &self.shards.len()).field("totals", &self.totals()).finish()
    }
}

impl LocationTable {
    /// An empty table.
    pub fn new(config: &LocationConfig) -> Self {
        let count = config.shard_count.clamp(1, LocationConfig::MAX_SHARDS).next_power_of_two();
        let records_max = config.aors_max.div_ceil(count).min(u32::MAX as usize);
        let shards = (0..count)
            .map(|index| ShardCell {
                next_expiry: AtomicI64::new(i64::MAX),
                shard: Mutex::new(Shard::new(config.seed.wrapping_add(index as u64), records_max)),
            })
            .collect();
        LocationTable { shards, shard_mask: (count - 1) as u32 }
    }

    pub(crate) fn with_shard<R>(&self, aor: &Aor, work: impl FnOnce(&mut Shard) -> R) -> Option<R> {
        let index = (aor.core_hash() & self.shard_mask) as usize;
        self.shards.get(index).map(|cell| cell.locked(work))
    }

    /// Applies one REGISTER as a whole or not at all (RFC 3261 §10.3 steps 6 to 8; OpenSIPS: registrar, `save()`).
    /// `now` is UNIX seconds.
    pub fn register(
        &self,
        aor: &Aor,
        request: &RegisterRequest<'_>,
        policy: &RegisterPolicy,
        now: i64,
    ) -> Result<RegisterOutcome, RegisterError> {
        if aor.is_empty() {
            return Err(RegisterError::EmptyAor);
        }
        self.with_shard(aor, |shard| shard.register(aor, request, policy, now)).unwrap_or(Err(RegisterError::TableFull))
    }

    /// The valid bindings that pass the filter: highest q first, the newest first among equals. Empty if there are none.
    pub fn lookup(&self, aor: &Aor, now: i64, filter: &LookupFilter<'_>) -> Vec<Arc<Binding>> {
        let mut found = self
            .with_record(aor, |record| {
                let usable = |binding: &&Arc<Binding>| binding.is_valid(now) && filter.accepts(binding);
                record.bindings().iter().filter(usable).cloned().collect::<Vec<_>>()
            })
            .unwrap_or_default();
        sort_for_routing(&mut found);
        found
    }

    /// True if the address of record has a valid binding (OpenSIPS: registrar, `is_registered()`).
    pub fn is_registered(&self, aor: &Aor, now: i64) -> bool {
        self.with_record(aor, |record| record.bindings().iter().any(|binding| binding.is_valid(now))).unwrap_or(false)
    }

    /// Runs the closure on the record under the shard's lock; `None` if there is no record. Keep it short and call no
    /// method of this table from it.
    pub fn with_record<R>(&self, aor: &Aor, read: impl FnOnce(&Record) -> R) -> Option<R> {
        self.with_shard(aor, |shard| shard.find(aor).map(read)).flatten()
    }

    /// Replaces values of one binding outside a REGISTER (flags, attributes, key-value store, expiry). The closure gets
    /// the present values and returns the new ones; the id stays. `None` if there is no such binding.
    pub fn update_binding(
        &self,
        aor: &Aor,
        id: ContactId,
        change: impl FnOnce(&Binding) -> Result<Binding, BindingError>,
    ) -> Option<Result<Change, BindingError>> {
        self.with_shard(aor, |shard| shard.update_binding(aor, id, change)).flatten()
    }

    /// Sets the key-value store of a record; false if there is no record.
    pub fn set_record_kv(&self, aor: &Aor, kv: &[u8]) -> bool {
        self.with_shard(aor, |shard| shard.find_mut(aor).map(|record| record.set_kv(kv)).is_some()).unwrap_or(false)
    }

    /// Removes the record with all bindings (MI `ul_rm`). Empty if there was none.
    pub fn remove_aor(&self, aor: &Aor, reason: RemovalReason) -> Vec<Change> {
        self.with_shard(aor, |shard| shard.remove_where(aor, reason, |_| true)).unwrap_or_default()
    }

    /// Removes the bindings whose contact URI equals the given one (MI `ul_rm_contact`), and the record if it was the
    /// last.
    pub fn remove_contact(&self, aor: &Aor, contact: &[u8], reason: RemovalReason) -> Vec<Change> {
        self.remove_where(aor, reason, |binding| uris_match(binding.contact(), contact))
    }

    /// Removes the bindings the closure selects (OpenSIPS: registrar, `remove()`), and the record if none is left.
    pub fn remove_where(&self, aor: &Aor, reason: RemovalReason, select: impl FnMut(&Binding) -> bool) -> Vec<Change> {
        self.with_shard(aor, |shard| shard.remove_where(aor, reason, select)).unwrap_or_default()
    }

    /// The earliest moment (UNIX seconds) at which [`LocationTable::expire`] may find something; takes no lock. It may
    /// be early when a binding was refreshed meanwhile, never late.
    pub fn poll_timeout(&self) -> Option<i64> {
        let first = self.shards.iter().map(|cell| cell.next_expiry.load(Ordering::Acquire)).min();
        first.filter(|at| *at != i64::MAX)
    }

    /// Removes bindings that have expired at `now`, from at most `records_max` records; call again while the result is
    /// full. Touches only what is due.
    pub fn expire(&self, now: i64, records_max: usize) -> Vec<Expired> {
        let mut expired = Vec::new();
        for cell in &self.shards {
            if expired.len() >= records_max {
                break;
            }
            if cell.next_expiry.load(Ordering::Acquire) <= now {
                cell.locked(|shard| shard.expire(now, records_max, &mut expired));
            }
        }
        expired
    }

    /// Visits up to `records_max` records from the cursor on; returns the next cursor, or `None` at the end. Each shard
    /// is locked while its part of the page is visited. Records inserted or removed between two calls may be missed,
    /// records that stay are visited exactly once.
    pub fn page(&self, cursor: PageCursor, records_max: usize, mut visit: impl FnMut(&Record)) -> Option<PageCursor> {
        let mut left = records_max.max(1);
        let mut slot = cursor.slot;
        for (index, cell) in self.shards.iter().enumerate().skip(cursor.shard) {
            let next = cell.locked(|shard| shard.page(slot, &mut left, &mut visit));
            if let Some(slot) = next {
                return Some(PageCursor { shard: index, slot });
            }
            slot = 0;
        }
        None
    }

    /// Visits every record, page by page, so that no lock is held long (MI `ul_dump`).
    pub fn for_each(&self, mut visit: impl FnMut(&Record)) {
        let mut cursor = Some(PageCursor::default());
        while let Some(from) = cursor {
            cursor = self.page(from, Self::PAGE_RECORDS, &mut visit);
        }
    }

    /// Records visited under one lock by [`LocationTable::for_each`].
    pub const PAGE_RECORDS: usize = 256;

    /// The counters, summed over the shards.
    pub fn totals(&self) -> LocationTotals {
        let mut totals = LocationTotals::default();
        for cell in &self.shards {
            let shard = cell.shard.lock();
            totals.users += shard.record_count() as u64;
            totals.contacts += shard.contact_count() as u64;
            totals.expires += shard.expired_count();
        }
        totals
    }

    /// Sets the `expires` counter to zero.
    pub fn reset_expires_count(&self) {
        for cell in &self.shards {
            cell.shard.lock().reset_expired_count();
        }
    }

    /// Number of shards, shown as `hash_size` by MI.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }
}

impl ShardCell {
    fn locked<R>(&self, work: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = self.shard.lock();
        let result = work(&mut shard);
        // Inside the lock, so that two workers cannot store their values in the wrong order.
        self.next_expiry.store(shard.next_expiry(), Ordering::Release);
        result
    }
}

/// Convenience for callers that change single values in [`LocationTable::update_binding`].
impl Binding {
    /// A copy with other values under the same id.
    pub fn with_fields(&self, fields: &BindingFields<'_>) -> Result<Binding, BindingError> {
        Binding::new(self.contact_id(), fields)
    }
}
