//! Where transactions are found: by the key of their request, by the id in our Via branch, and by what an ACK to a 2xx
//! repeats of its INVITE. Keys of requests whose script waits without a transaction are kept here, too.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState as FastState;
use hashbrown::{HashMap, HashTable};
use parking_lot::Mutex;
use tandem_sip::{Message, TransactionKey};

use super::clock;
use super::settled::Settled;
use super::tx::Tx;

const SHARDS: usize = 64;

/// How long a request without transaction may be marked as waiting: afterwards nobody repeats it any more (64*T1).
const WAITING_MAX: Duration = Duration::from_secs(32);
/// Waiting requests of one shard before those that are over are swept out.
const WAITING_SWEEP: usize = 1024;

/// What is known of a transaction.
#[derive(Clone)]
pub(crate) enum Entry {
    /// All of it.
    Live(Arc<Tx>),
    /// It is over.
    Settled(Arc<Settled>),
}

impl Entry {
    fn key(&self) -> &TransactionKey {
        match self {
            Entry::Live(tx) => &tx.key,
            Entry::Settled(settled) => &settled.key,
        }
    }

    fn key_hash(&self) -> u64 {
        match self {
            Entry::Live(tx) => tx.key_hash,
            Entry::Settled(settled) => settled.key_hash,
        }
    }

    fn id(&self) -> u64 {
        match self {
            Entry::Live(tx) => tx.id,
            Entry::Settled(settled) => settled.id,
        }
    }

    /// Its request came again: answered with the last reply, if its state wants that (RFC 3261 §17.2).
    pub(crate) fn repeat(&self) {
        match self {
            Entry::Live(tx) => tx.with(|state| state.core.handle_request_retransmission(clock::now())),
            Entry::Settled(settled) => settled.repeat(),
        }
    }

    fn live(self) -> Option<Arc<Tx>> {
        match self {
            Entry::Live(tx) => Some(tx),
            Entry::Settled(_) => None,
        }
    }
}

/// All transactions of the process. Keys come from the network: they are hashed with SipHash, once each. Ids are our own.
pub(crate) struct Table {
    by_key: Vec<Mutex<HashTable<Entry>>>,
    by_id: Vec<Mutex<HashMap<u64, Entry, FastState>>>,
    /// Answered INVITEs by Call-ID, From tag and CSeq number, for the ACK that follows.
    by_ack: Vec<Mutex<HashMap<u64, u64, FastState>>>,
    ack_count: AtomicUsize,
    waiting: Mutex<HashMap<TransactionKey, Instant, RandomState>>,
    waiting_count: AtomicUsize,
    hasher: RandomState,
    next: AtomicU64,
    count: AtomicUsize,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            by_key: (0..SHARDS).map(|_| Mutex::default()).collect(),
            by_id: (0..SHARDS).map(|_| Mutex::default()).collect(),
            by_ack: (0..SHARDS).map(|_| Mutex::default()).collect(),
            ack_count: AtomicUsize::new(0),
            waiting: Mutex::default(),
            waiting_count: AtomicUsize::new(0),
            hasher: RandomState::new(),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
        }
    }
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Pretends to hold that many transactions.
    #[cfg(test)]
    pub(crate) fn pretend_len(&self, len: usize) {
        self.count.store(len, Ordering::Relaxed);
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// What a transaction with that key keeps as [`Tx::key_hash`].
    pub(crate) fn key_hash(&self, key: &TransactionKey) -> u64 {
        self.hasher.hash_one(key)
    }

    // The table takes the low and the high bits of the hash for itself.
    fn key_shard(&self, key_hash: u64) -> Option<&Mutex<HashTable<Entry>>> {
        self.by_key.get((key_hash >> 32) as usize % SHARDS)
    }

    fn id_shard(&self, id: u64) -> Option<&Mutex<HashMap<u64, Entry, FastState>>> {
        self.by_id.get(id as usize % SHARDS)
    }

    /// Puts a transaction in; false when there is one already under its key.
    pub(crate) fn insert(&self, tx: &Arc<Tx>) -> bool {
        if let Some(shard) = self.key_shard(tx.key_hash) {
            let mut shard = shard.lock();
            if shard.find(tx.key_hash, |known| *known.key() == tx.key).is_some() {
                return false;
            }
            shard.insert_unique(tx.key_hash, Entry::Live(tx.clone()), Entry::key_hash);
        }
        if let Some(shard) = self.id_shard(tx.id) {
            shard.lock().insert(tx.id, Entry::Live(tx.clone()));
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// What is known of the transaction with that key.
    pub(crate) fn entry(&self, key: &TransactionKey) -> Option<Entry> {
        let key_hash = self.key_hash(key);
        self.key_shard(key_hash)?.lock().find(key_hash, |known| known.key() == key).cloned()
    }

    /// The transaction with that key, if it is not over.
    pub(crate) fn by_key(&self, key: &TransactionKey) -> Option<Arc<Tx>> {
        self.entry(key)?.live()
    }

    /// What is known of the transaction with that id.
    pub(crate) fn entry_by_id(&self, id: u64) -> Option<Entry> {
        self.id_shard(id)?.lock().get(&id).cloned()
    }

    /// The transaction with that id, if it is not over.
    pub(crate) fn by_id(&self, id: u64) -> Option<Arc<Tx>> {
        self.entry_by_id(id)?.live()
    }

    /// Keeps `settled` in place of the transaction it is left of.
    pub(crate) fn settle(&self, settled: Settled) {
        let settled = Arc::new(settled);
        // The transaction is let go behind the locks.
        let mut old = None;
        if let Some(shard) = self.key_shard(settled.key_hash)
            && let Some(entry) = shard.lock().find_mut(settled.key_hash, |known| known.id() == settled.id)
        {
            old = Some(std::mem::replace(entry, Entry::Settled(settled.clone())));
        }
        let id = settled.id;
        let by_id = self
            .id_shard(id)
            .and_then(|shard| Some(std::mem::replace(shard.lock().get_mut(&id)?, Entry::Settled(settled))));
        drop((old, by_id));
    }

    pub(crate) fn remove(&self, tx: &Tx) {
        self.take_out(tx.key_hash, tx.id);
    }

    /// As [`Table::remove`] for what was settled.
    pub(crate) fn forget(&self, settled: &Settled) {
        self.take_out(settled.key_hash, settled.id);
    }

    fn take_out(&self, key_hash: u64, id: u64) {
        if let Some(shard) = self.key_shard(key_hash) {
            let mut shard = shard.lock();
            let found = shard.find_entry(key_hash, |known| known.id() == id).ok();
            let removed = found.map(|found| found.remove().0);
            drop((shard, removed));
        }
        if let Some(shard) = self.id_shard(id) {
            let removed = shard.lock().remove(&id);
            if removed.is_some() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Table {
    /// What an ACK and its INVITE have in common, hashed with a key of this process.
    pub(crate) fn ack_key(&self, message: &Message) -> Option<u64> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(message.call_id().ok()?);
        hasher.write_u8(0);
        hasher.write(message.from().ok()?.tag().unwrap_or_default());
        hasher.write_u32(message.cseq().ok()?.0);
        Some(hasher.finish())
    }

    /// Makes an answered INVITE known to its ACK.
    pub(crate) fn expect_ack(&self, key: u64, id: u64) {
        let Some(shard) = self.by_ack.get(key as usize % SHARDS) else { return };
        if shard.lock().insert(key, id).is_none() {
            self.ack_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn forget_ack(&self, key: u64, id: u64) {
        let Some(shard) = self.by_ack.get(key as usize % SHARDS) else { return };
        let mut shard = shard.lock();
        if shard.get(&key) == Some(&id) {
            shard.remove(&key);
            self.ack_count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The answered INVITE that an ACK to a 2xx belongs to.
    pub(crate) fn acknowledged(&self, ack: &Message) -> Option<Arc<Tx>> {
        if self.ack_count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let key = self.ack_key(ack)?;
        let id = self.by_ack.get(key as usize % SHARDS)?.lock().get(&key).copied()?;
        self.by_id(id)
    }

    /// Marks a request as waiting without a transaction.
    pub(crate) fn wait(&self, key: TransactionKey, now: Instant) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_SWEEP {
            waiting.retain(|_, since| now.saturating_duration_since(*since) < WAITING_MAX);
        }
        waiting.insert(key, now);
        self.waiting_count.store(waiting.len(), Ordering::Relaxed);
    }

    pub(crate) fn wait_no_more(&self, key: &TransactionKey) {
        let mut waiting = self.waiting.lock();
        waiting.remove(key);
        self.waiting_count.store(waiting.len(), Ordering::Relaxed);
    }

    pub(crate) fn is_waiting(&self, key: &TransactionKey, now: Instant) -> bool {
        self.waiting_count.load(Ordering::Relaxed) > 0
            && self.waiting.lock().get(key).is_some_and(|since| now.saturating_duration_since(*since) < WAITING_MAX)
    }

    /// Sizes of all shards, for MI.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.by_id.iter().map(|shard| shard.lock().len()).collect()
    }

    /// The first transaction that fits and is not over; looks at all of them, one shard at a time.
    pub(crate) fn find(&self, fits: impl Fn(&Tx) -> bool) -> Option<Arc<Tx>> {
        self.by_id.iter().find_map(|shard| {
            let all: Vec<Arc<Tx>> = shard.lock().values().cloned().filter_map(Entry::live).collect();
            all.into_iter().find(|tx| fits(tx))
        })
    }
}

/// Seals ids in Via branches, so that nobody can make up a reply for a transaction by counting.
fn seal(id: u64) -> u32 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(id);
    hasher.finish() as u32
}

/// Our Via branch: magic cookie, seal, id and branch index in hexadecimal.
pub(crate) fn write_branch(id: u64, branch: u8, out: &mut impl Extend<u8>) {
    out.extend(b"z9hG4bK".iter().copied());
    push_hex(seal(id).into(), 8, out);
    push_hex(id, 1, out);
    out.extend([b'.']);
    push_hex(branch.into(), 1, out);
}

fn push_hex(number: u64, digits_min: usize, out: &mut impl Extend<u8>) {
    let digits = (16 - number.leading_zeros() as usize / 4).max(digits_min);
    for at in (0..digits).rev() {
        let digit = (number >> (at * 4)) as usize & 15;
        out.extend(b"0123456789abcdef".get(digit).copied());
    }
}

/// Id and branch index of a Via branch that [`write_branch`] has written.
pub(crate) fn parse_branch(text: &[u8]) -> Option<(u64, u8)> {
    let rest = std::str::from_utf8(text.strip_prefix(b"z9hG4bK")?).ok()?;
    let sealed = u32::from_str_radix(rest.get(..8)?, 16).ok()?;
    let (id, branch) = rest.get(8..)?.split_once('.')?;
    let id = u64::from_str_radix(id, 16).ok()?;
    let branch = u8::from_str_radix(branch, 16).ok()?;
    (seal(id) == sealed).then_some((id, branch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_read_back_and_a_forged_one_is_not() {
        for (id, index) in [(1, 0), (0xabcdef, 11), (u64::MAX, 3)] {
            let mut out = Vec::new();
            write_branch(id, index, &mut out);
            assert_eq!(parse_branch(&out), Some((id, index)));
            if let Some(byte) = out.get_mut(8) {
                *byte ^= 1;
            }
            assert_eq!(parse_branch(&out), None);
        }
        assert_eq!(parse_branch(b"z9hG4bK"), None);
        assert_eq!(parse_branch(b"z9hG4bK\xff\xff\xff"), None);
    }
}
