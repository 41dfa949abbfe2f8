//! Replicated collections: what is stored and removed here is told to the cluster, what others tell is stored here, and a
//! node that starts gets everything. The last arrival wins; counters stay local (OpenSIPS: cachedb_local, cluster_id).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tandem_bin::{DecodeError, Reader};
use tandem_cluster::SendError;
use tandem_module::cachedb::{CacheDb, CacheReply};
use tandem_module::node::NodeRef;
use tandem_script::value::Value;
use tandem_store::{MemoryEntry, MemoryStore};

use crate::clusterer::{Capability, CapabilityUser, ModulePacket, NodeId, SyncSource};

/// Capability name that all nodes know it by.
pub(super) const CAPABILITY: &str = "cachedb-local-repl";
/// Content version.
pub(super) const VERSION: u16 = 1;
const INSERT: i32 = 1;
const REMOVE: i32 = 2;
/// Keys remembered as changed while a sync is or could be going on; with more it begins anew after a break.
const CHANGES_MAX: usize = 65_536;
/// How long changes are remembered after the last sync was asked for.
const CHANGES_KEPT: Duration = Duration::from_secs(600);

/// The replicated collections and their changes.
pub(super) struct Shared {
    /// Sorted by name, so that positions mean the same after a reload of the list.
    collections: Vec<(String, Arc<MemoryStore>)>,
    changes: Mutex<Changes>,
    capability: std::sync::OnceLock<Capability>,
}

/// Keys changed since a sync was asked for, so that a broken one can be taken up again without losing a change.
#[derive(Default)]
struct Changes {
    /// Until when they are kept; `None` while nobody may need them.
    until: Option<Instant>,
    /// Names this record of changes: a cursor of another one is of no use.
    id: u64,
    /// Number of the oldest entry.
    first: u64,
    keys: VecDeque<(usize, Box<[u8]>)>,
}

impl Changes {
    fn note(&mut self, now: Instant, collection: usize, key: &[u8]) {
        if self.until.is_some_and(|until| until < now) {
            // Nobody may come back for them any more.
            *self = Changes::default();
        }
        if self.until.is_none() {
            return;
        }
        if self.keys.len() >= CHANGES_MAX {
            self.keys.pop_front();
            self.first += 1;
        }
        self.keys.push_back((collection, key.into()));
    }

    /// The number the next change gets.
    fn next(&self) -> u64 {
        self.first + self.keys.len() as u64
    }

    /// Begins or prolongs the record.
    fn keep(&mut self, now: Instant) {
        if self.until.is_none_or(|until| until < now) {
            *self = Changes { id: rand::random(), ..Changes::default() };
        }
        self.until = Some(now + CHANGES_KEPT);
    }

    /// What changed from `number` on; `None` when it is not known any more.
    fn since(&self, id: u64, number: u64) -> Option<VecDeque<(usize, Box<[u8]>)>> {
        if self.until.is_none() || self.id != id || number < self.first || number > self.next() {
            return None;
        }
        let skipped = usize::try_from(number - self.first).ok()?;
        Some(self.keys.iter().skip(skipped).cloned().collect())
    }
}

impl Shared {
    pub(super) fn new(mut collections: Vec<(String, Arc<MemoryStore>)>) -> Arc<Shared> {
        collections.sort_by(|one, other| one.0.cmp(&other.0));
        Arc::new(Shared { collections, changes: Mutex::default(), capability: std::sync::OnceLock::new() })
    }

    pub(super) fn set_capability(&self, capability: Capability) {
        let _ = self.capability.set(capability);
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.collections.iter().position(|(known, _)| known.as_bytes() == name)
    }

    /// Removes keys here only (OpenSIPS does not tell others of a chunk); a sync that was broken off still learns of it.
    pub(super) fn remove_chunk(&self, name: &str, store: &MemoryStore, glob: &[u8]) {
        let removed = store.remove_chunk_keys(glob);
        if let Some(at) = self.position(name.as_bytes()) {
            for key in removed {
                self.note(at, &key);
            }
        }
    }

    fn note(&self, collection: usize, key: &[u8]) {
        self.changes.lock().note(tandem_module::clock::now(), collection, key);
    }

    fn tell(&self, packet_type: i32, collection: usize, entry: Option<(&[u8], i32)>, key: &[u8]) {
        self.note(collection, key);
        let (Some(capability), Some((name, _))) = (self.capability.get(), self.collections.get(collection)) else {
            return;
        };
        let mut body = Vec::new();
        let fits = match entry {
            Some((value, ttl)) => write_entry(&mut body, name, key, value, ttl),
            None => write_text(&mut body, name.as_bytes()) && write_text(&mut body, key),
        };
        let sent = if fits { capability.broadcast(packet_type, &body).err() } else { Some(SendError::Failed) };
        // Nobody to tell, or nothing to say by configuration.
        let is_expected = |error: &SendError| matches!(error, SendError::Unreachable | SendError::Observer);
        if let Some(error) = sent.filter(|error| !is_expected(error)) {
            tracing::warn!("cachedb_local: a change in collection '{name}' was not told to the cluster: {error}");
        }
    }

    /// Stores what another node has; false when it does not fit here.
    fn insert(&self, body: &[u8]) -> Result<bool, DecodeError> {
        let mut reader = Reader::new(body);
        let (name, key, value, ttl) = (reader.str()?, reader.str()?, reader.str()?, reader.int()?);
        let Some((at, (_, store))) = self.position(name).and_then(|at| Some((at, self.collections.get(at)?))) else {
            return Ok(false);
        };
        self.note(at, key);
        Ok(store.put(key, value, u32::try_from(ttl).unwrap_or(0)).is_ok())
    }

    fn remove(&self, body: &[u8]) -> Result<bool, DecodeError> {
        let mut reader = Reader::new(body);
        let (name, key) = (reader.str()?, reader.str()?);
        let Some((at, (_, store))) = self.position(name).and_then(|at| Some((at, self.collections.get(at)?))) else {
            return Ok(false);
        };
        self.note(at, key);
        store.delete(key);
        Ok(true)
    }
}

fn write_text(body: &mut Vec<u8>, text: &[u8]) -> bool {
    let Ok(len) = u16::try_from(text.len()) else { return false };
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(text);
    true
}

/// Collection, key, value, seconds to live (0: for ever).
fn write_entry(body: &mut Vec<u8>, collection: &str, key: &[u8], value: &[u8], ttl: i32) -> bool {
    let fits = write_text(body, collection.as_bytes()) && write_text(body, key) && write_text(body, value);
    body.extend_from_slice(&ttl.to_le_bytes());
    fits
}

/// Seconds for the wire, rounded up so that nothing becomes eternal by rounding.
fn ttl_of(entry: &MemoryEntry) -> i32 {
    entry.remaining_ms.map_or(0, |ms| i32::try_from(ms.div_ceil(1000).max(1)).unwrap_or(i32::MAX))
}

fn complain(src: NodeId, what: &str, done: Result<bool, DecodeError>) {
    match done {
        Ok(true) => {}
        Ok(false) => {
            tracing::debug!("cachedb_local: {what} of node {src} is for no replicated collection, or there is no room");
        }
        Err(error) => tracing::warn!("cachedb_local: {what} of node {src} is malformed and was dropped: {error}"),
    }
}

impl CapabilityUser for Shared {
    fn on_packet(&self, _node: NodeRef, packet: &ModulePacket) {
        match packet.packet_type {
            INSERT => complain(packet.src, "an entry", self.insert(&packet.body)),
            REMOVE => complain(packet.src, "a removal", self.remove(&packet.body)),
            other => tracing::warn!("cachedb_local: node {} sent a packet of unknown type {other}", packet.src),
        }
    }

    fn on_chunk(&self, _node: NodeRef, src: NodeId, _data_version: i32, data: &Bytes) {
        complain(src, "an entry", self.insert(data));
    }

    fn donate(&self, _node: NodeRef, requester: NodeId, resume: Option<&[u8]>) -> Option<Box<dyn SyncSource>> {
        let capability = self.capability.get()?.clone();
        let mut changes = self.changes.lock();
        let place = resume.and_then(Place::parse);
        let missed = place.as_ref().and_then(|place| changes.since(place.id, place.change));
        changes.keep(tandem_module::clock::now());
        let (collection, shard) = match (&place, &missed) {
            (Some(place), Some(_)) => (place.collection, place.shard),
            _ => (0, 0),
        };
        Some(Box::new(Source {
            collections: self.collections.clone(),
            capability,
            requester,
            id: changes.id,
            change: changes.next(),
            missed: missed.unwrap_or_default(),
            collection,
            shard,
            entries: Vec::new(),
        }))
    }
}

/// Where a sync stands: everything before this shard was sent, as it was before that change.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    id: u64,
    change: u64,
    collection: usize,
    shard: usize,
}

impl Place {
    fn parse(cursor: &[u8]) -> Option<Place> {
        let number = |at: usize| cursor.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let place = |at| usize::try_from(number(at)?).ok();
        Some(Place { id: number(0)?, change: number(8)?, collection: place(16)?, shard: place(24)? })
    }

    fn to_bytes(&self) -> Vec<u8> {
        [self.id, self.change, self.collection as u64, self.shard as u64].iter().flat_map(|n| n.to_le_bytes()).collect()
    }
}

/// All entries, shard by shard: no more than one shard is copied at a time.
struct Source {
    collections: Vec<(String, Arc<MemoryStore>)>,
    capability: Capability,
    requester: NodeId,
    id: u64,
    /// Changes from here on may be missing when this sync breaks off; they reach the requester as packets otherwise.
    change: u64,
    /// Keys changed while an earlier sync was interrupted.
    missed: VecDeque<(usize, Box<[u8]>)>,
    collection: usize,
    shard: usize,
    /// What is left of the shard before `shard`.
    entries: Vec<MemoryEntry>,
}

impl Source {
    /// One change that was missed: an entry, or a removal, which goes as a packet.
    fn next_missed(&mut self, chunk: &mut Vec<u8>) -> bool {
        while let Some((at, key)) = self.missed.pop_front() {
            let Some((name, store)) = self.collections.get(at) else { continue };
            match store.entry(&key) {
                Some(entry) => return write_entry(chunk, name, &entry.key, &entry.value, ttl_of(&entry)),
                None => {
                    let mut body = Vec::new();
                    if write_text(&mut body, name.as_bytes()) && write_text(&mut body, &key) {
                        // Fails only when the requester is gone, and then the sync does, too.
                        let _ = self.capability.send_to(self.requester, REMOVE, &body);
                    }
                }
            }
        }
        false
    }
}

impl SyncSource for Source {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> bool {
        if self.next_missed(chunk) {
            return true;
        }
        loop {
            let Some((name, store)) = self.collections.get(self.collection) else { return false };
            if let Some(entry) = self.entries.pop() {
                chunk.clear();
                if write_entry(chunk, name, &entry.key, &entry.value, ttl_of(&entry)) {
                    return true;
                }
                tracing::warn!("cachedb_local: an entry of collection '{name}' is too long to be synced");
            } else if self.shard < store.shard_count() {
                self.entries = store.shard_entries(self.shard);
                self.shard += 1;
            } else {
                self.collection += 1;
                self.shard = 0;
            }
        }
    }

    fn cursor(&self) -> Option<Vec<u8>> {
        // The shard being sent is sent again as a whole.
        let shard = self.shard.saturating_sub(1);
        let place = Place { id: self.id, change: self.change, collection: self.collection, shard };
        self.missed.is_empty().then(|| place.to_bytes())
    }
}

/// A replicated collection as scripts use it.
pub(super) struct Replicated {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<MemoryStore>,
    at: usize,
}

impl Replicated {
    /// `None` for a collection that is not replicated.
    pub(super) fn new(shared: &Arc<Shared>, name: &str) -> Option<Replicated> {
        let at = shared.position(name.as_bytes())?;
        let store = shared.collections.get(at)?.1.clone();
        Some(Replicated { shared: shared.clone(), store, at })
    }
}

impl CacheDb for Replicated {
    fn store(&self, key: &[u8], value: &[u8], expires_secs: u32) -> CacheReply<()> {
        let stored = self.store.put(key, value, expires_secs);
        if stored.is_ok() {
            let ttl = i32::try_from(expires_secs).unwrap_or(i32::MAX);
            self.shared.tell(INSERT, self.at, Some((value, ttl)), key);
        }
        CacheReply::Now(stored)
    }

    fn fetch(&self, key: &[u8]) -> CacheReply<Vec<u8>> {
        self.store.fetch(key)
    }

    fn fetch_counter(&self, key: &[u8]) -> CacheReply<i64> {
        self.store.fetch_counter(key)
    }

    fn remove(&self, key: &[u8]) -> CacheReply<bool> {
        let was_there = self.store.delete(key);
        // Also when it was not here: it may be elsewhere.
        self.shared.tell(REMOVE, self.at, None, key);
        CacheReply::Now(Ok(was_there))
    }

    fn add(&self, key: &[u8], by: i64, expires_secs: u32) -> CacheReply<i64> {
        self.store.add(key, by, expires_secs)
    }

    fn raw(&self, words: Vec<Vec<u8>>) -> CacheReply<Vec<Vec<Value>>> {
        self.store.raw(words)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_removed_is_remembered_for_a_sync_that_broke_off() {
        let clock = Arc::new(|| 0);
        let store = Arc::new(MemoryStore::new(tandem_store::MemoryLimits::default(), clock));
        let shared = Shared::new(vec![("default".to_owned(), store.clone())]);
        store.put(b"k1", b"v", 0).unwrap();
        store.put(b"other", b"v", 0).unwrap();
        let now = tandem_module::clock::now();
        let (id, begin) = {
            let mut changes = shared.changes.lock();
            changes.keep(now);
            (changes.id, changes.next())
        };
        shared.remove_chunk("default", &store, b"k*");
        let missed = shared.changes.lock().since(id, begin).unwrap();
        assert_eq!(missed, [(0, Box::from(&b"k1"[..]))]);
        assert!(store.entry(b"k1").is_none() && store.entry(b"other").is_some());
    }

    #[test]
    fn changes_are_kept_only_while_somebody_may_need_them() {
        let now = tandem_module::clock::now();
        let mut changes = Changes::default();
        changes.note(now, 0, b"early");
        assert_eq!(changes.next(), 0);
        changes.keep(now);
        let (id, begin) = (changes.id, changes.next());
        changes.note(now, 0, b"one");
        changes.note(now, 1, b"two");
        let missed = changes.since(id, begin).unwrap();
        assert_eq!(missed.len(), 2);
        assert_eq!(changes.since(id, begin + 1).unwrap().len(), 1);
        assert!(changes.since(id.wrapping_add(1), begin).is_none(), "another record");
        for _ in 0..CHANGES_MAX {
            changes.note(now, 0, b"more");
        }
        assert!(changes.since(id, begin).is_none(), "forgotten");
        changes.note(now + CHANGES_KEPT * 2, 0, b"late");
        assert!(changes.keys.is_empty() && changes.until.is_none(), "nobody will come back for them");
        changes.keep(now + CHANGES_KEPT * 2);
        assert_ne!(changes.id, id);
    }

    #[test]
    fn a_place_survives_the_wire() {
        let place = Place { id: u64::MAX, change: 3, collection: 1, shard: 63 };
        assert_eq!(Place::parse(&place.to_bytes()), Some(place));
        assert_eq!(Place::parse(b"short"), None);
    }
}
