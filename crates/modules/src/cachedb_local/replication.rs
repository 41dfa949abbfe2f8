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

use super::changes::{Changes, Place as Changed};
use crate::clusterer::{Capability, CapabilityUser, ModulePacket, NodeId, SyncRepair, SyncSource};

/// Capability name that all nodes know it by.
pub(super) const CAPABILITY: &str = "cachedb-local-repl";
/// Content version.
pub(super) const VERSION: u16 = 1;
const INSERT: i32 = 1;
const REMOVE: i32 = 2;
/// Seconds to live that tell a node of ours, in a repair, that the key was removed.
const REMOVED: i32 = -1;
/// Key of the first chunk of a repair that brings all there is; it names no collection, so that others ignore it.
const WHOLE: &[u8] = b"whole";

/// The replicated collections and their changes.
pub(super) struct Shared {
    /// Sorted by name, so that positions mean the same after a reload of the list.
    collections: Vec<(String, Arc<MemoryStore>)>,
    changes: Mutex<Changes>,
    capability: std::sync::OnceLock<Capability>,
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
                self.note(NodeId(0), at, &key);
            }
        }
    }

    /// A key was changed by a node; 0: here only.
    fn note(&self, by: NodeId, collection: usize, key: &[u8]) {
        if let Some(capability) = self.capability.get() {
            let now = capability.now();
            self.changes.lock().note(now, by, collection, key);
        }
    }

    /// This node is about to change a key: before it does, so that a repair does not undo it.
    fn note_own(&self, collection: usize, key: &[u8]) {
        if let Some(capability) = self.capability.get() {
            self.note(capability.own_id(), collection, key);
        }
    }

    fn tell(&self, packet_type: i32, collection: usize, entry: Option<(&[u8], i32)>, key: &[u8]) {
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
    fn insert(&self, src: NodeId, body: &[u8]) -> Result<bool, DecodeError> {
        let mut reader = Reader::new(body);
        let (name, key, value, ttl) = (reader.str()?, reader.str()?, reader.str()?, reader.int()?);
        let Some((at, (_, store))) = self.position(name).and_then(|at| Some((at, self.collections.get(at)?))) else {
            return Ok(false);
        };
        self.note(src, at, key);
        Ok(store.put(key, value, u32::try_from(ttl).unwrap_or(0)).is_ok())
    }

    /// As [`Shared::insert`], in a repair: a removal, too, and nothing that changed here meanwhile. `None` when there is no
    /// repair.
    fn repair(&self, src: NodeId, body: &[u8]) -> Option<Result<bool, DecodeError>> {
        let mut changes = self.changes.lock();
        let guard = changes.guard().filter(|guard| guard.donor == src)?;
        let mut reader = Reader::new(body);
        let mut read = || Ok((reader.str()?, reader.str()?, reader.str()?, reader.int()?));
        let (name, key, value, ttl) = match read() {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        if name.is_empty() && key == WHOLE {
            guard.set_whole();
            return Some(Ok(true));
        }
        let Some((at, (_, store))) = self.position(name).and_then(|at| Some((at, self.collections.get(at)?))) else {
            return Some(Ok(false));
        };
        let now = self.capability.get().map(Capability::now)?;
        let age = reader.int().ok().and_then(|age| u64::try_from(age).ok()).map(Duration::from_millis);
        if !guard.takes(&(at, key.into()), age.and_then(|age| now.checked_sub(age))) {
            return Some(Ok(true));
        }
        // Still under the lock, which a script that changes the key takes first.
        changes.note(now, src, at, key);
        if ttl == REMOVED {
            store.delete(key);
            return Some(Ok(true));
        }
        Some(Ok(store.put(key, value, u32::try_from(ttl).unwrap_or(0)).is_ok()))
    }

    /// A repair is complete: what the donor does not have exists no more, unless somebody else made it meanwhile.
    fn end_repair(&self) {
        let mut removed = 0_usize;
        for (at, (_, store)) in self.collections.iter().enumerate() {
            for shard in 0..store.shard_count() {
                let mut changes = self.changes.lock();
                let Some(guard) = changes.guard().filter(|guard| guard.can_remove()) else { break };
                // Counters are of this node alone.
                for entry in store.shard_entries(shard).into_iter().filter(|entry| !entry.is_count) {
                    if guard.is_removed(&(at, entry.key.as_slice().into())) {
                        store.delete(&entry.key);
                        removed += 1;
                    }
                }
            }
        }
        let guard = self.changes.lock().end_repair();
        if let Some(guard) = guard.filter(|_| removed > 0) {
            tracing::info!("cachedb_local: {removed} keys that node {} removed were removed here, too", guard.donor);
        }
    }

    fn remove(&self, src: NodeId, body: &[u8]) -> Result<bool, DecodeError> {
        let mut reader = Reader::new(body);
        let (name, key) = (reader.str()?, reader.str()?);
        let Some((at, (_, store))) = self.position(name).and_then(|at| Some((at, self.collections.get(at)?))) else {
            return Ok(false);
        };
        self.note(src, at, key);
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
            INSERT => complain(packet.src, "an entry", self.insert(packet.src, &packet.body)),
            REMOVE => complain(packet.src, "a removal", self.remove(packet.src, &packet.body)),
            other => tracing::warn!("cachedb_local: node {} sent a packet of unknown type {other}", packet.src),
        }
    }

    fn on_chunk(&self, _node: NodeRef, src: NodeId, _data_version: i32, data: &Bytes) {
        let done = self.repair(src, data).unwrap_or_else(|| self.insert(src, data));
        complain(src, "an entry", done);
    }

    fn on_sync_started(&self, _node: NodeRef, donor: NodeId, repair_since: Option<Instant>) {
        let mut changes = self.changes.lock();
        changes.end_repair();
        if let (Some(since), Some(capability)) = (repair_since, self.capability.get()) {
            changes.begin_repair(capability.own_id(), donor, since);
        }
    }

    fn on_synced(&self, _node: NodeRef, _had_donor: bool) {
        self.end_repair();
    }

    fn donate_since(&self, _node: NodeRef, requester: NodeId, repair: SyncRepair) -> Option<Box<dyn SyncSource>> {
        let capability = self.capability.get()?.clone();
        let changes = self.changes.lock();
        let missed = changes.of(capability.own_id(), repair.since);
        let kind = match &missed {
            Some(_) => Kind::Repair { is_whole: false },
            None => Kind::Repair { is_whole: repair.is_whole },
        };
        Some(Box::new(Source {
            collections: self.collections.clone(),
            capability,
            requester,
            kind,
            is_begun: false,
            id: changes.id,
            change: changes.next(),
            collection: if missed.is_some() { self.collections.len() } else { 0 },
            missed: missed.unwrap_or_default().into_iter().map(|(place, at)| (place, Some(at))).collect(),
            shard: 0,
            entries: Vec::new(),
        }))
    }

    fn donate(&self, _node: NodeRef, requester: NodeId, resume: Option<&[u8]>) -> Option<Box<dyn SyncSource>> {
        let capability = self.capability.get()?.clone();
        let changes = self.changes.lock();
        let place = resume.and_then(Place::parse);
        let missed = place.as_ref().and_then(|place| changes.from(place.id, place.change));
        let (collection, shard) = match (&place, &missed) {
            (Some(place), Some(_)) => (place.collection, place.shard),
            _ => (0, 0),
        };
        Some(Box::new(Source {
            collections: self.collections.clone(),
            capability,
            requester,
            kind: Kind::Sync,
            is_begun: false,
            id: changes.id,
            change: changes.next(),
            missed: missed.unwrap_or_default().into_iter().map(|place| (place, None)).collect(),
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

/// What a sync is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A node that begins, of whatever make.
    Sync,
    /// A node of ours that missed changes of this one.
    Repair { is_whole: bool },
}

/// All entries, shard by shard: no more than one shard is copied at a time.
struct Source {
    collections: Vec<(String, Arc<MemoryStore>)>,
    capability: Capability,
    requester: NodeId,
    kind: Kind,
    is_begun: bool,
    id: u64,
    /// Changes from here on may be missing when this sync breaks off; they reach the requester as packets otherwise.
    change: u64,
    /// Keys changed while an earlier sync was interrupted, or missed, and then when.
    missed: VecDeque<(Changed, Option<Instant>)>,
    collection: usize,
    shard: usize,
    /// What is left of the shard before `shard`.
    entries: Vec<MemoryEntry>,
}

impl Source {
    /// One change that was missed: an entry, or a removal, which goes as a packet.
    fn next_missed(&mut self, chunk: &mut Vec<u8>) -> bool {
        while let Some(((at, key), changed)) = self.missed.pop_front() {
            let Some((name, store)) = self.collections.get(at) else { continue };
            let entry = store.entry(&key);
            chunk.clear();
            let fits = match &entry {
                Some(entry) => write_entry(chunk, name, &entry.key, &entry.value, ttl_of(entry)),
                None => write_entry(chunk, name, &key, b"", REMOVED),
            };
            match (changed, entry) {
                (Some(changed), _) => {
                    let age = self.capability.now().saturating_duration_since(changed).as_millis();
                    chunk.extend_from_slice(&i32::try_from(age).unwrap_or(i32::MAX).to_le_bytes());
                    if fits {
                        return true;
                    }
                }
                (None, Some(_)) if fits => return true,
                (None, Some(_)) => {}
                (None, None) => {
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
        if !std::mem::replace(&mut self.is_begun, true) && self.kind == (Kind::Repair { is_whole: true }) {
            return write_entry(chunk, "", WHOLE, b"", 0);
        }
        if self.next_missed(chunk) {
            return true;
        }
        loop {
            let Some((name, store)) = self.collections.get(self.collection) else { return false };
            if let Some(entry) = self.entries.pop() {
                if entry.is_count && self.kind != Kind::Sync {
                    continue;
                }
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
        (self.missed.is_empty() && self.kind == Kind::Sync).then(|| place.to_bytes())
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
        self.shared.note_own(self.at, key);
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
        self.shared.note_own(self.at, key);
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
    fn a_place_survives_the_wire() {
        let place = Place { id: u64::MAX, change: 3, collection: 1, shard: 63 };
        assert_eq!(Place::parse(&place.to_bytes()), Some(place));
        assert_eq!(Place::parse(b"short"), None);
    }
}
