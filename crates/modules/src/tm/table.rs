//! Where transactions are found: by the key of their request, by the id in our Via branch, and by what an ACK to a 2xx
//! repeats of its INVITE. Keys of requests whose script waits without a transaction are kept here, too.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState as FastState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_sip::{Message, TransactionKey};

use super::tx::Tx;

const SHARDS: usize = 64;

/// How long a request without transaction may be marked as waiting: afterwards nobody repeats it any more (64*T1).
const WAITING_MAX: Duration = Duration::from_secs(32);
/// Waiting requests of one shard before those that are over are swept out.
const WAITING_SWEEP: usize = 1024;

/// All transactions of the process. Keys come from the network: their map is keyed with SipHash. Ids are our own.
pub(crate) struct Table {
    by_key: Vec<Mutex<HashMap<TransactionKey, Arc<Tx>, RandomState>>>,
    by_id: Vec<Mutex<HashMap<u64, Arc<Tx>, FastState>>>,
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

    fn key_shard(&self, key: &TransactionKey) -> Option<&Mutex<HashMap<TransactionKey, Arc<Tx>, RandomState>>> {
        self.by_key.get(self.hasher.hash_one(key) as usize % SHARDS)
    }

    /// Puts a transaction in; gives back the one that is there already under its key.
    pub(crate) fn insert(&self, tx: &Arc<Tx>) -> Option<Arc<Tx>> {
        let shard = self.key_shard(&tx.key)?;
        {
            let mut shard = shard.lock();
            if let Some(known) = shard.get(&tx.key) {
                return Some(known.clone());
            }
            shard.insert(tx.key.clone(), tx.clone());
        }
        if let Some(shard) = self.by_id.get(tx.id as usize % SHARDS) {
            shard.lock().insert(tx.id, tx.clone());
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        None
    }

    pub(crate) fn by_key(&self, key: &TransactionKey) -> Option<Arc<Tx>> {
        self.key_shard(key)?.lock().get(key).cloned()
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<Arc<Tx>> {
        self.by_id.get(id as usize % SHARDS)?.lock().get(&id).cloned()
    }

    pub(crate) fn remove(&self, tx: &Tx) {
        if let Some(shard) = self.key_shard(&tx.key) {
            shard.lock().remove(&tx.key);
        }
        if let Some(shard) = self.by_id.get(tx.id as usize % SHARDS)
            && shard.lock().remove(&tx.id).is_some()
        {
            self.count.fetch_sub(1, Ordering::Relaxed);
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

    /// The first transaction that fits; looks at all of them, one shard at a time.
    pub(crate) fn find(&self, fits: impl Fn(&Tx) -> bool) -> Option<Arc<Tx>> {
        self.by_id.iter().find_map(|shard| {
            let all: Vec<Arc<Tx>> = shard.lock().values().cloned().collect();
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
