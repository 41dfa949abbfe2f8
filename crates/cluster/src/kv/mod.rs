//! Small key-values and counters that all nodes hold, with a time to live: the store of one node, and how two of them come
//! to agree. Whatever order changes arrive in, and however often, equal changes make equal stores. Sends nothing.

mod record;

use std::cell::Cell as Kept;

use bytes::Bytes;
use hashbrown::HashMap;
use tandem_bin::DecodeError;
use thiserror::Error;

use crate::extension::digest;
use crate::ids::NodeId;

use record::{Cell, Record};
pub use record::{decode_sums, encode_sums};

/// Keys one store holds, those counted that were removed lately; more are refused.
pub const KV_KEYS_MAX: usize = 100_000;
/// Bytes of keys and values one store holds.
pub const KV_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest key.
pub const KV_KEY_LEN_MAX: usize = 256;
/// Longest value.
pub const KV_VALUE_LEN_MAX: usize = 16 * 1024;
/// Shares of one counter: one per node that counts and start of it.
pub const KV_SHARES_MAX: usize = 256;
/// How long a removal is remembered, against copies on nodes that were away, in milliseconds. A node that was away longer
/// brings what was removed meanwhile back.
pub const KV_REMOVAL_KEPT_MS: i64 = 3_600_000;
/// How far the clock of another node may be ahead, in milliseconds; what it sends is refused beyond.
pub const KV_CLOCK_AHEAD_MAX_MS: i64 = 300_000;
/// Parts in which stores are compared.
pub const KV_BUCKETS: usize = 256;
/// Bytes of records per packet or chunk.
pub const KV_BODY_LEN_MAX: usize = 32 * 1024;

/// Why a change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KvError {
    /// The key is empty or longer than [`KV_KEY_LEN_MAX`].
    #[error("a key has 1 to 256 bytes")]
    Key,
    /// The value is longer than [`KV_VALUE_LEN_MAX`].
    #[error("a value has at most 16384 bytes")]
    Value,
    /// [`KV_KEYS_MAX`] or [`KV_BYTES_MAX`] is reached.
    #[error("the store is full (100,000 keys, 64 MiB); use shorter times to live")]
    Full,
    /// [`KV_SHARES_MAX`] is reached.
    #[error("the counter has too many shares; give it a time to live, or remove it")]
    Shares,
}

/// What a key has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A value that was published.
    Value(Bytes),
    /// A counter.
    Count(i64),
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvRow {
    /// The key.
    pub key: Vec<u8>,
    /// What it has.
    pub found: Found,
    /// Milliseconds to live; `None` for ever.
    pub left_ms: Option<i64>,
}

/// What became of the records of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Records that changed something.
    pub taken: usize,
    /// Records that were known or older.
    pub known: usize,
    /// Records without room.
    pub refused: usize,
    /// Records from too far in the future: the clocks differ.
    pub ahead: usize,
}

/// When and by whom something was written; a later one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriteStamp {
    pub(crate) time: u64,
    pub(crate) node: NodeId,
}

/// Unix milliseconds and a count below them, never behind what was seen of others: a node whose clock is late still writes
/// later than what it has read.
#[derive(Debug, Default)]
struct HybridClock {
    last: u64,
}

const COUNT_BITS: u32 = 16;

fn clock_of(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms).unwrap_or(0) << COUNT_BITS
}

impl HybridClock {
    fn next(&mut self, now_ms: i64) -> u64 {
        self.last = clock_of(now_ms).max(self.last + 1);
        self.last
    }

    fn observe(&mut self, time: u64, now_ms: i64) -> bool {
        let is_near = time <= clock_of(now_ms.saturating_add(KV_CLOCK_AHEAD_MAX_MS));
        if is_near {
            self.last = self.last.max(time);
        }
        is_near
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Value(Bytes),
    /// Value and counter were removed.
    Removed,
    /// The value's time is over, but what it replaced may still live elsewhere.
    Expired,
}

/// A value, or that there is none any more.
#[derive(Debug, Clone)]
struct Register {
    stamp: WriteStamp,
    content: Content,
    /// Unix milliseconds.
    expires: Option<i64>,
    /// Until when a value that this one replaced may still live on a node that was away.
    shadow: i64,
}

/// What one node counted since one of its starts; only that node changes it.
#[derive(Debug, Clone)]
struct Share {
    started: WriteStamp,
    touched: u64,
    value: i64,
    expires: Option<i64>,
}

#[derive(Debug, Default)]
struct Entry {
    register: Option<Register>,
    shares: Vec<Share>,
}

fn is_past(expires: Option<i64>, now_ms: i64) -> bool {
    expires.is_some_and(|at| at <= now_ms)
}

impl Register {
    fn live(&self, now_ms: i64) -> Option<&Bytes> {
        match &self.content {
            Content::Value(value) if !is_past(self.expires, now_ms) => Some(value),
            _ => None,
        }
    }

    /// As it is now, and until when; `None` when it says nothing any more.
    fn current(&self, now_ms: i64) -> Option<(&Content, Option<i64>)> {
        if !is_past(self.expires, now_ms) {
            return Some((&self.content, self.expires));
        }
        let is_needed = matches!(self.content, Content::Value(_)) && self.shadow > now_ms;
        is_needed.then_some((&Content::Expired, Some(self.shadow)))
    }
}

impl Entry {
    /// Shares that count.
    fn shares(&self, now_ms: i64) -> impl Iterator<Item = &Share> + '_ {
        self.shares.iter().filter(move |share| !is_past(share.expires, now_ms))
    }

    fn found(&self, now_ms: i64) -> Option<(Found, Option<i64>)> {
        if let Some(register) = &self.register
            && let Some(value) = register.live(now_ms)
        {
            return Some((Found::Value(value.clone()), register.expires));
        }
        let mut sum = None;
        let mut expires = Some(0);
        for share in self.shares(now_ms) {
            sum = Some(share.value.saturating_add(sum.unwrap_or(0)));
            expires = expires.zip(share.expires).map(|(one, other)| one.max(other));
        }
        sum.map(|sum| (Found::Count(sum), expires))
    }

    fn bytes(&self) -> usize {
        let value = match self.register.as_ref().map(|register| &register.content) {
            Some(Content::Value(value)) => value.len(),
            _ => 0,
        };
        value + self.shares.len() * size_of::<Share>()
    }

    /// Drops what has expired; false when nothing is left.
    fn purge(&mut self, now_ms: i64) -> bool {
        if let Some(register) = &mut self.register
            && is_past(register.expires, now_ms)
        {
            match register.current(now_ms).map(|(_, expires)| expires) {
                Some(expires) => (register.content, register.expires) = (Content::Expired, expires),
                None => self.register = None,
            }
        }
        self.shares.retain(|share| !is_past(share.expires, now_ms));
        self.register.is_some() || !self.shares.is_empty()
    }

    /// Takes a value or a removal; false when a later one is known.
    fn take_register(&mut self, stamp: WriteStamp, content: Content, expires: Option<i64>, now_ms: i64) -> bool {
        let mut shadow = 0;
        if let Some(known) = &self.register {
            if known.stamp >= stamp {
                return false;
            }
            let longest = now_ms.saturating_add(KV_REMOVAL_KEPT_MS);
            shadow = known.shadow.max(known.expires.unwrap_or(longest)).min(longest);
        }
        if content == Content::Removed {
            self.shares.retain(|share| share.started > stamp);
        }
        self.register = Some(Register { stamp, content, expires, shadow });
        true
    }

    /// Takes a share; `None` when there is no room, false when it is known.
    fn take_share(&mut self, share: Share) -> Option<bool> {
        let removed = self.register.as_ref().filter(|register| register.content == Content::Removed);
        if removed.is_some_and(|removal| removal.stamp >= share.started) {
            return Some(false);
        }
        if let Some(known) = self.shares.iter_mut().find(|known| known.started == share.started) {
            let is_newer = known.touched < share.touched;
            if is_newer {
                *known = share;
            }
            return Some(is_newer);
        }
        if self.shares.len() >= KV_SHARES_MAX {
            return None;
        }
        self.shares.push(share);
        Some(true)
    }
}

/// What the entries of a bucket sum up to as long as none changes, from one moment until the next at which one expires.
#[derive(Debug, Clone, Copy)]
struct Sum {
    sum: u64,
    from: i64,
    until: i64,
}

/// The key-values of one node in one cluster. Times are Unix milliseconds of its clock.
#[derive(Debug)]
pub struct KvStore {
    own: NodeId,
    clock: HybridClock,
    /// Own shares from here on are of this start.
    born: u64,
    buckets: Vec<HashMap<Box<[u8]>, Entry>>,
    /// Their sums as last computed.
    sums: Vec<Kept<Option<Sum>>>,
    keys: usize,
    bytes: usize,
}

fn bucket_of(key: &[u8]) -> usize {
    usize::try_from(digest(key) % (KV_BUCKETS as u64)).unwrap_or(0)
}

fn expires_at(ttl_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    ttl_ms.map(|ttl| now_ms.saturating_add(ttl.max(1)))
}

impl KvStore {
    /// An empty store of node `own`.
    #[must_use]
    pub fn new(own: NodeId, now_ms: i64) -> KvStore {
        let mut clock = HybridClock::default();
        let born = clock.next(now_ms);
        let buckets = std::iter::repeat_with(HashMap::new).take(KV_BUCKETS).collect();
        KvStore { own, clock, born, buckets, sums: vec![Kept::new(None); KV_BUCKETS], keys: 0, bytes: 0 }
    }

    /// Keys held, those counted that were removed lately.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// Bytes of keys and values held.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.bytes
    }

    fn stamp(&mut self, now_ms: i64) -> WriteStamp {
        WriteStamp { time: self.clock.next(now_ms), node: self.own }
    }

    /// Changes an entry, keeping the counts right. `None` when there is no room for a new key.
    fn change<T>(&mut self, key: &[u8], more: usize, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let is_full = self.keys >= KV_KEYS_MAX || self.bytes + key.len() + more > KV_BYTES_MAX;
        let at = bucket_of(key);
        let bucket = self.buckets.get_mut(at)?;
        self.sums.get(at)?.set(None);
        if let Some(entry) = bucket.get_mut(key) {
            if more > 0 && self.bytes + more > KV_BYTES_MAX {
                return None;
            }
            let before = entry.bytes();
            let result = change(entry);
            self.bytes = (self.bytes + entry.bytes()).saturating_sub(before);
            return Some(result);
        }
        if is_full {
            return None;
        }
        let mut entry = Entry::default();
        let result = change(&mut entry);
        if entry.register.is_some() || !entry.shares.is_empty() {
            self.keys += 1;
            self.bytes += key.len() + entry.bytes();
            bucket.insert(key.into(), entry);
        }
        Some(result)
    }

    /// Publishes a value; the packet that tells the others. Without a time to live it stays until it is removed.
    ///
    /// # Errors
    /// When a limit is reached; nothing is changed then.
    pub fn publish(&mut self, key: &[u8], value: &[u8], ttl_ms: Option<i64>, now_ms: i64) -> Result<Vec<u8>, KvError> {
        check_key(key)?;
        if value.len() > KV_VALUE_LEN_MAX {
            return Err(KvError::Value);
        }
        let (stamp, expires) = (self.stamp(now_ms), expires_at(ttl_ms, now_ms));
        let value = Bytes::copy_from_slice(value);
        let taken = value.clone();
        self.change(key, value.len(), |entry| entry.take_register(stamp, Content::Value(taken), expires, now_ms))
            .ok_or(KvError::Full)?;
        Ok(Record { key, left_ms: ttl_ms, cell: Cell::Value { stamp, value: &value } }.to_body())
    }

    /// Removes value and counter of a key: whether there was any here, and the packet that tells the others, for they may
    /// have what has not arrived here.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn remove(&mut self, key: &[u8], now_ms: i64) -> Result<(bool, Vec<u8>), KvError> {
        check_key(key)?;
        let was_there = self.get(key, now_ms).is_some();
        let stamp = self.stamp(now_ms);
        let expires = expires_at(Some(KV_REMOVAL_KEPT_MS), now_ms);
        self.change(key, 0, |entry| entry.take_register(stamp, Content::Removed, expires, now_ms))
            .ok_or(KvError::Full)?;
        let record = Record { key, left_ms: Some(KV_REMOVAL_KEPT_MS), cell: Cell::Removed { stamp } };
        Ok((was_there, record.to_body()))
    }

    /// Adds to a counter: the sum over all nodes as known here, and the packet that tells the others. With a time to live,
    /// what a node counted is forgotten so long after it last counted.
    ///
    /// # Errors
    /// When a limit is reached; nothing is counted then.
    pub fn count(
        &mut self,
        key: &[u8],
        delta: i64,
        ttl_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<(i64, Vec<u8>), KvError> {
        check_key(key)?;
        let (stamp, born, own) = (self.stamp(now_ms), self.born, self.own);
        let expires = expires_at(ttl_ms, now_ms);
        let counted = self.change(key, size_of::<Share>(), |entry| {
            let is_current = |share: &&mut Share| {
                share.started.node == own && share.started.time >= born && !is_past(share.expires, now_ms)
            };
            if let Some(share) = entry.shares.iter_mut().find(is_current) {
                share.value = share.value.saturating_add(delta);
                share.touched = stamp.time;
                share.expires = share.expires.zip(expires).map(|(one, other)| one.max(other));
                return Some(share.clone());
            }
            let share = Share { started: stamp, touched: stamp.time, value: delta, expires };
            entry.take_share(share.clone()).map(|_| share)
        });
        let share = counted.ok_or(KvError::Full)?.ok_or(KvError::Shares)?;
        let sum = match self.entry(key).map(|entry| entry.shares(now_ms).map(|share| share.value)) {
            Some(values) => values.fold(0, i64::saturating_add),
            None => share.value,
        };
        Ok((sum, share_record(key, &share, now_ms).to_body()))
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.buckets.get(bucket_of(key))?.get(key)
    }

    /// What a key has: the value that was published, else the sum of the counter.
    #[must_use]
    pub fn get(&self, key: &[u8], now_ms: i64) -> Option<Found> {
        self.entry(key)?.found(now_ms).map(|(found, _)| found)
    }

    /// Takes the records of a packet or chunk.
    ///
    /// # Errors
    /// When it is malformed; records before the fault are taken.
    pub fn merge(&mut self, body: &[u8], now_ms: i64) -> Result<Merged, DecodeError> {
        let mut merged = Merged::default();
        let mut reader = tandem_bin::Reader::new(body);
        while !reader.is_at_end() {
            let record = Record::read(&mut reader)?;
            if !self.clock.observe(record.cell.time(), now_ms) {
                merged.ahead += 1;
                continue;
            }
            match self.take(&record, now_ms) {
                None => merged.refused += 1,
                Some(true) => merged.taken += 1,
                Some(false) => merged.known += 1,
            }
        }
        Ok(merged)
    }

    fn take(&mut self, record: &Record<'_>, now_ms: i64) -> Option<bool> {
        let expires = expires_at(record.left_ms, now_ms);
        match record.cell {
            Cell::Value { stamp, value } => {
                let value = Bytes::copy_from_slice(value);
                let content = Content::Value(value.clone());
                self.change(record.key, value.len(), |entry| entry.take_register(stamp, content, expires, now_ms))
            }
            Cell::Removed { stamp } => {
                self.change(record.key, 0, |entry| entry.take_register(stamp, Content::Removed, expires, now_ms))
            }
            Cell::Expired { stamp } => {
                self.change(record.key, 0, |entry| entry.take_register(stamp, Content::Expired, expires, now_ms))
            }
            Cell::Share { started, touched, value } => {
                let share = Share { started, touched, value, expires };
                self.change(record.key, size_of::<Share>(), |entry| entry.take_share(share)).flatten()
            }
        }
    }

    /// One number per part of the store, equal on two nodes when they hold the same.
    #[must_use]
    pub fn sums(&self, now_ms: i64) -> Vec<u64> {
        let all = self.buckets.iter().zip(&self.sums).map(|(bucket, kept)| {
            let known = kept.get().filter(|known| (known.from..known.until).contains(&now_ms));
            let known = known.unwrap_or_else(|| sum_of(bucket, now_ms));
            kept.set(Some(known));
            known.sum
        });
        all.collect()
    }

    /// Parts in which another node has something else.
    #[must_use]
    pub fn differing(&self, sums: &[u64], now_ms: i64) -> Vec<usize> {
        let own = self.sums(now_ms);
        own.iter().zip(sums).enumerate().filter(|(_, (one, other))| one != other).map(|(at, _)| at).collect()
    }

    /// Everything in one part of the store, as bodies of packets.
    #[must_use]
    pub fn bodies(&self, bucket: usize, now_ms: i64) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        let mut body = Vec::new();
        for (key, entry) in self.buckets.get(bucket).into_iter().flatten() {
            for record in records(key, entry, now_ms) {
                let before = body.len();
                record.write(&mut body);
                if body.len() > KV_BODY_LEN_MAX && before > 0 {
                    let rest = body.split_off(before);
                    bodies.push(std::mem::replace(&mut body, rest));
                }
            }
        }
        if !body.is_empty() {
            bodies.push(body);
        }
        bodies
    }

    /// Forgets what has expired in one part of the store.
    pub fn purge(&mut self, bucket: usize, now_ms: i64) {
        let (mut keys, mut bytes) = (0, 0);
        if let Some(kept) = self.sums.get(bucket) {
            kept.set(None);
        }
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            bucket.retain(|key, entry| {
                let before = entry.bytes();
                let is_kept = entry.purge(now_ms);
                bytes += before - if is_kept { entry.bytes() } else { 0 };
                if !is_kept {
                    keys += 1;
                    bytes += key.len();
                }
                is_kept
            });
        }
        self.keys = self.keys.saturating_sub(keys);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Keys that begin with `prefix`, sorted, at most `max` of them.
    #[must_use]
    pub fn list(&self, prefix: &[u8], max: usize, now_ms: i64) -> Vec<KvRow> {
        let all = self.buckets.iter().flatten().filter(|(key, _)| key.starts_with(prefix));
        let mut rows: Vec<KvRow> = all
            .filter_map(|(key, entry)| {
                let (found, expires) = entry.found(now_ms)?;
                Some(KvRow { key: key.to_vec(), found, left_ms: expires.map(|at| at - now_ms) })
            })
            .collect();
        rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        rows.truncate(max);
        rows
    }
}

fn check_key(key: &[u8]) -> Result<(), KvError> {
    if key.is_empty() || key.len() > KV_KEY_LEN_MAX { Err(KvError::Key) } else { Ok(()) }
}

/// Spreads a number over all bits (SplitMix64, finaliser).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (value ^ (value >> 31)) | 1
}

/// What makes an entry differ from another: stamps, no times to live, which travel as what is left of them.
fn entry_stamps(entry: &Entry, now_ms: i64) -> impl Iterator<Item = u64> + '_ {
    let number = |stamp: WriteStamp| stamp.time.wrapping_mul(31).wrapping_add(u64::from(stamp.node.0.unsigned_abs()));
    let register = entry.register.iter().filter(move |register| register.current(now_ms).is_some());
    let registers = register.map(move |register| number(register.stamp));
    registers.chain(entry.shares(now_ms).map(move |share| number(share.started) ^ share.touched.rotate_left(17)))
}

fn sum_of(bucket: &HashMap<Box<[u8]>, Entry>, now_ms: i64) -> Sum {
    let mut found = Sum { sum: 0, from: now_ms, until: i64::MAX };
    for (key, entry) in bucket {
        let key = digest(key);
        for stamp in entry_stamps(entry, now_ms) {
            found.sum = found.sum.wrapping_add(key.wrapping_mul(mix(stamp)));
        }
        let register = entry.register.iter().flat_map(|register| [register.expires, Some(register.shadow)]);
        let ends = register.chain(entry.shares.iter().map(|share| share.expires)).flatten();
        found.until = ends.filter(|at| *at > now_ms).fold(found.until, i64::min);
    }
    found
}

fn share_record<'a>(key: &'a [u8], share: &Share, now_ms: i64) -> Record<'a> {
    let Share { started, touched, value, expires } = *share;
    Record { key, left_ms: expires.map(|at| at - now_ms), cell: Cell::Share { started, touched, value } }
}

fn records<'a>(key: &'a [u8], entry: &'a Entry, now_ms: i64) -> impl Iterator<Item = Record<'a>> + 'a {
    let register = entry.register.iter().filter_map(move |register| {
        let stamp = register.stamp;
        let (content, expires) = register.current(now_ms)?;
        let cell = match content {
            Content::Value(value) => Cell::Value { stamp, value },
            Content::Removed => Cell::Removed { stamp },
            Content::Expired => Cell::Expired { stamp },
        };
        Some(Record { key, left_ms: expires.map(|at| at - now_ms), cell })
    });
    register.chain(entry.shares(now_ms).map(move |share| share_record(key, share, now_ms)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
