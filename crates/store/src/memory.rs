//! The key-value engine behind `cachedb_local`: keys in memory with expiry, counters and limits. No I/O, no clock of its
//! own, no replication.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use tandem_module::cachedb::{CacheDb, CacheError, CacheReply};
use tandem_module::glob;

/// Milliseconds from any fixed moment on, never going back.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What an entry is taken to need beside its key and value, in bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Expired entries removed by the way at each writing operation.
const SWEEP_PER_WRITE: usize = 4;

/// Outdated expiry notes tolerated in a shard beside one per entry.
const STALE_NOTES_MAX: usize = 64;

/// Limits of a store. What goes beyond is refused; nothing is evicted before it expires.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Most bytes of keys, values and [`ENTRY_OVERHEAD_BYTES`] each (1 GiB).
    pub bytes_max: usize,
    /// Most keys (10 million).
    pub keys_max: usize,
    /// Longest key, in bytes (4 KiB).
    pub key_bytes_max: usize,
    /// Longest value, in bytes (1 MiB).
    pub value_bytes_max: usize,
    /// Number of shards, each with its own lock (64).
    pub shards: usize,
}

impl Default for MemoryLimits {
    fn default() -> MemoryLimits {
        MemoryLimits {
            bytes_max: 1 << 30,
            keys_max: 10_000_000,
            key_bytes_max: 4096,
            value_bytes_max: 1 << 20,
            shards: 64,
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Keys now (expired ones not yet removed included).
    pub keys: usize,
    /// Bytes now, as [`MemoryLimits::bytes_max`] counts them.
    pub bytes: usize,
    /// Reads that found something.
    pub hits: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Entries removed because their time was up.
    pub expired: u64,
    /// Writes refused by a limit.
    pub refused: u64,
}

/// One entry, for replication and listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryEntry {
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Milliseconds left; `None` when it never expires.
    pub remaining_ms: Option<u64>,
    /// It was counted up here ([`MemoryStore::count`]).
    pub is_count: bool,
}

/// A collection of `cachedb_local`.
pub struct MemoryStore {
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHashBuilder,
    limits: MemoryLimits,
    clock: Clock,
    keys: AtomicUsize,
    bytes: AtomicUsize,
    hits: AtomicU64,
    misses: AtomicU64,
    expired: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Moments of expiry, earliest first; may name entries that changed since.
    expiries: BinaryHeap<Reverse<(u64, Arc<[u8]>)>>,
}

struct Entry {
    value: Box<[u8]>,
    expires_ms: Option<u64>,
    is_count: bool,
}

impl Entry {
    fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

fn size(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD_BYTES
}

impl MemoryStore {
    /// An empty store.
    pub fn new(limits: MemoryLimits, clock: Clock) -> MemoryStore {
        let shards = (0..limits.shards.max(1)).map(|_| Mutex::new(Shard::default())).collect();
        MemoryStore {
            shards,
            hasher: DefaultHashBuilder::default(),
            limits,
            clock,
            keys: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Stores `value`, replacing what was there; it expires in `expires_secs`, never with 0.
    ///
    /// # Errors
    /// [`CacheError::Bad`] for a key or value that is too long, [`CacheError::Unavailable`] when the store is full.
    pub fn put(&self, key: &[u8], value: &[u8], expires_secs: u32) -> Result<(), CacheError> {
        let now_ms = (self.clock)();
        self.put_until(key, (value, false), expires_at(now_ms, expires_secs), now_ms)
    }

    /// The value of a key.
    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let now_ms = (self.clock)();
        let shard = self.shard(key).lock();
        let found = shard.entries.get(key).filter(|entry| !entry.is_expired(now_ms)).map(|entry| entry.value.to_vec());
        drop(shard);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Removes a key; true when it was there and had not expired.
    pub fn delete(&self, key: &[u8]) -> bool {
        let now_ms = (self.clock)();
        let mut shard = self.shard(key).lock();
        let was_alive = self.take(&mut shard, key).is_some_and(|entry| !entry.is_expired(now_ms));
        self.sweep(&mut shard, now_ms, SWEEP_PER_WRITE);
        was_alive
    }

    /// Adds `by` to a counter and gives its new value. A counter that does not exist begins at 0 and expires in
    /// `expires_secs`; one that exists keeps its expiry (OpenSIPS: cachedb_local, `cache_add()`).
    ///
    /// # Errors
    /// [`CacheError::Bad`] when the value is no number or the sum no 64-bit one, or as [`MemoryStore::put`].
    pub fn count(&self, key: &[u8], by: i64, expires_secs: u32) -> Result<i64, CacheError> {
        let now_ms = (self.clock)();
        {
            let mut shard = self.shard(key).lock();
            if let Some(entry) = shard.entries.get_mut(key).filter(|entry| !entry.is_expired(now_ms)) {
                let sum = number(&entry.value)?
                    .checked_add(by)
                    .ok_or_else(|| CacheError::Bad("the counter overflows".into()))?;
                let text = sum.to_string().into_bytes();
                self.bytes.fetch_add(text.len(), Ordering::Relaxed);
                self.bytes.fetch_sub(entry.value.len(), Ordering::Relaxed);
                entry.value = text.into();
                entry.is_count = true;
                return Ok(sum);
            }
            if self.has_room(key, by.to_string().as_bytes()) {
                let expires_ms = expires_at(now_ms, expires_secs);
                self.insert(&mut shard, key, (by.to_string().as_bytes(), true), expires_ms, now_ms);
                return Ok(by);
            }
        }
        // Rare: full. Let put() make room, or refuse.
        self.put_until(key, (by.to_string().as_bytes(), true), expires_at(now_ms, expires_secs), now_ms)?;
        Ok(by)
    }

    /// Removes all keys that match a shell pattern (`cache_remove_chunk()`) and says how many there were.
    pub fn remove_chunk(&self, pattern: &[u8]) -> usize {
        self.remove_chunk_keys(pattern).len()
    }

    /// As [`MemoryStore::remove_chunk`]: the keys that were there.
    pub fn remove_chunk_keys(&self, pattern: &[u8]) -> Vec<Arc<[u8]>> {
        let now_ms = (self.clock)();
        let mut removed = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let matching: Vec<Arc<[u8]>> =
                shard.entries.keys().filter(|key| glob::matches(pattern, key)).cloned().collect();
            for key in matching {
                if self.take(&mut shard, &key).is_some_and(|entry| !entry.is_expired(now_ms)) {
                    removed.push(key);
                }
            }
            self.sweep(&mut shard, now_ms, SWEEP_PER_WRITE);
        }
        removed
    }

    /// All entries whose key matches a shell pattern (`cachedb_local:fetch_chunk`), sorted by key.
    pub fn fetch_chunk(&self, pattern: &[u8]) -> Vec<MemoryEntry> {
        let now_ms = (self.clock)();
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let matching =
                shard.entries.iter().filter(|(key, entry)| !entry.is_expired(now_ms) && glob::matches(pattern, key));
            found.extend(matching.map(|(key, entry)| memory_entry(key, entry, now_ms)));
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        found
    }

    /// Shows all living entries as (key, value, milliseconds left), shard by shard: what changes meanwhile may be seen or
    /// not. `visit` must not use the store.
    pub fn for_each(&self, mut visit: impl FnMut((&[u8], &[u8], Option<u64>))) {
        let now_ms = (self.clock)();
        for shard in &self.shards {
            for (key, entry) in &shard.lock().entries {
                if !entry.is_expired(now_ms) {
                    visit((key, &entry.value, entry.expires_ms.map(|expires_ms| expires_ms - now_ms)));
                }
            }
        }
    }

    /// How many parts [`MemoryStore::shard_entries`] can show.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// All living entries of one part, in no order; none when there is no such part. A key never changes its part.
    pub fn shard_entries(&self, shard: usize) -> Vec<MemoryEntry> {
        let now_ms = (self.clock)();
        let Some(shard) = self.shards.get(shard) else { return Vec::new() };
        let shard = shard.lock();
        let alive = shard.entries.iter().filter(|(_, entry)| !entry.is_expired(now_ms));
        alive.map(|(key, entry)| memory_entry(key, entry, now_ms)).collect()
    }

    /// One living entry with its remaining time.
    pub fn entry(&self, key: &[u8]) -> Option<MemoryEntry> {
        let now_ms = (self.clock)();
        let shard = self.shard(key).lock();
        shard.entries.get(key).filter(|entry| !entry.is_expired(now_ms)).map(|entry| memory_entry(key, entry, now_ms))
    }

    /// Removes what has expired (`cache_clean_period`) and says how many there were.
    pub fn purge(&self) -> usize {
        let now_ms = (self.clock)();
        self.shards.iter().map(|shard| self.sweep(&mut shard.lock(), now_ms, usize::MAX)).sum()
    }

    /// The clock's milliseconds at which the next entry expires, if any does.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.shards
            .iter()
            .filter_map(|shard| shard.lock().expiries.peek().map(|Reverse((expires_ms, _))| *expires_ms))
            .min()
    }

    /// Removes everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let keys: Vec<_> = shard.entries.keys().cloned().collect();
            for key in keys {
                self.take(&mut shard, &key);
            }
            shard.expiries.clear();
        }
    }

    /// Counts for statistics.
    pub fn stats(&self) -> MemoryStats {
        MemoryStats {
            keys: self.keys.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        // The upper half, since the tables inside use the lower bits. The remainder is always in range.
        let index = (self.hasher.hash_one(key) >> 32) as usize % self.shards.len();
        &self.shards[index]
    }

    /// Stores a value, of which is said whether it is a count.
    fn put_until(
        &self,
        key: &[u8],
        (value, is_count): (&[u8], bool),
        expires_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<(), CacheError> {
        if key.len() > self.limits.key_bytes_max || value.len() > self.limits.value_bytes_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(CacheError::Bad("the key or the value is too long".into()));
        }
        let mut has_purged = false;
        loop {
            let mut shard = self.shard(key).lock();
            if shard.entries.contains_key(key)
                && self.bytes.load(Ordering::Relaxed) + value.len() <= self.limits.bytes_max
                || self.has_room(key, value)
            {
                self.insert(&mut shard, key, (value, is_count), expires_ms, now_ms);
                return Ok(());
            }
            drop(shard);
            if has_purged || self.purge() == 0 {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(CacheError::Unavailable("the memory store is full".into()));
            }
            has_purged = true;
        }
    }

    fn has_room(&self, key: &[u8], value: &[u8]) -> bool {
        let fits = key.len() <= self.limits.key_bytes_max && value.len() <= self.limits.value_bytes_max;
        fits && self.keys.load(Ordering::Relaxed) < self.limits.keys_max
            && self.bytes.load(Ordering::Relaxed) + size(key, value) <= self.limits.bytes_max
    }

    fn insert(
        &self,
        shard: &mut Shard,
        key: &[u8],
        (value, is_count): (&[u8], bool),
        expires_ms: Option<u64>,
        now_ms: u64,
    ) {
        self.take(shard, key);
        let key: Arc<[u8]> = key.into();
        self.keys.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size(&key, value), Ordering::Relaxed);
        if let Some(expires_ms) = expires_ms {
            shard.expiries.push(Reverse((expires_ms, key.clone())));
        }
        shard.entries.insert(key, Entry { value: value.into(), expires_ms, is_count });
        self.sweep(shard, now_ms, SWEEP_PER_WRITE);
        if shard.expiries.len() > 2 * shard.entries.len() + STALE_NOTES_MAX {
            shard.expiries = shard
                .entries
                .iter()
                .filter_map(|(key, entry)| Some(Reverse((entry.expires_ms?, key.clone()))))
                .collect();
        }
    }

    fn take(&self, shard: &mut Shard, key: &[u8]) -> Option<Entry> {
        let (key, entry) = shard.entries.remove_entry(key)?;
        self.keys.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(size(&key, &entry.value), Ordering::Relaxed);
        Some(entry)
    }

    /// Looks at no more than `limit` due notes; gives the number of entries removed.
    fn sweep(&self, shard: &mut Shard, now_ms: u64, limit: usize) -> usize {
        let mut removed = 0;
        for _ in 0..limit {
            match shard.expiries.peek() {
                Some(Reverse((expires_ms, _))) if *expires_ms <= now_ms => {}
                _ => break,
            }
            let Some(Reverse((expires_ms, key))) = shard.expiries.pop() else { break };
            // The entry may have been stored again since, with another expiry.
            if shard.entries.get(&*key).is_some_and(|entry| entry.expires_ms == Some(expires_ms)) {
                self.take(shard, &key);
                removed += 1;
            }
        }
        self.expired.fetch_add(removed as u64, Ordering::Relaxed);
        removed
    }
}

fn memory_entry(key: &[u8], entry: &Entry, now_ms: u64) -> MemoryEntry {
    let remaining_ms = entry.expires_ms.map(|expires_ms| expires_ms.saturating_sub(now_ms));
    MemoryEntry { key: key.to_vec(), value: entry.value.to_vec(), remaining_ms, is_count: entry.is_count }
}

fn expires_at(now_ms: u64, expires_secs: u32) -> Option<u64> {
    (expires_secs > 0).then(|| now_ms.saturating_add(u64::from(expires_secs) * 1000))
}

fn number(value: &[u8]) -> Result<i64, CacheError> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| CacheError::Bad("the value is no number".into()))
}

impl CacheDb for MemoryStore {
    fn store(&self, key: &[u8], value: &[u8], expires_secs: u32) -> CacheReply<()> {
        CacheReply::Now(self.put(key, value, expires_secs))
    }

    fn fetch(&self, key: &[u8]) -> CacheReply<Vec<u8>> {
        CacheReply::Now(self.value(key).ok_or(CacheError::NotFound))
    }

    fn fetch_counter(&self, key: &[u8]) -> CacheReply<i64> {
        CacheReply::Now(self.value(key).ok_or(CacheError::NotFound).and_then(|value| number(&value)))
    }

    fn remove(&self, key: &[u8]) -> CacheReply<bool> {
        CacheReply::Now(Ok(self.delete(key)))
    }

    fn add(&self, key: &[u8], by: i64, expires_secs: u32) -> CacheReply<i64> {
        CacheReply::Now(self.count(key, by, expires_secs))
    }

    /// The local engine of OpenSIPS has no queries.
    fn raw(&self, _words: Vec<Vec<u8>>) -> CacheReply<Vec<Vec<tandem_script::value::Value>>> {
        CacheReply::Now(Err(CacheError::Unsupported))
    }
}
