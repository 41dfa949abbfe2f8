//! Where transactions are found: by the key of their request, and by the id in our Via branch.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::RandomState as FastState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_sip::TransactionKey;

use super::tx::Tx;

const SHARDS: usize = 64;

/// All transactions of the process. Keys come from the network: their map is keyed with SipHash. Ids are our own.
pub(crate) struct Table {
    by_key: Vec<Mutex<HashMap<TransactionKey, Arc<Tx>, RandomState>>>,
    by_id: Vec<Mutex<HashMap<u64, Arc<Tx>, FastState>>>,
    hasher: RandomState,
    next: AtomicU64,
    count: AtomicUsize,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            by_key: (0..SHARDS).map(|_| Mutex::default()).collect(),
            by_id: (0..SHARDS).map(|_| Mutex::default()).collect(),
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

/// Seals ids in Via branches, so that nobody can make up a reply for a transaction by counting.
fn seal(id: u64) -> u32 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(id);
    hasher.finish() as u32
}

/// Our Via branch: magic cookie, seal, id and branch index in hexadecimal.
pub(crate) fn write_branch(id: u64, branch: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"z9hG4bK");
    push_hex(seal(id).into(), 8, out);
    push_hex(id, 1, out);
    out.push(b'.');
    push_hex(branch.into(), 1, out);
}

fn push_hex(number: u64, digits_min: usize, out: &mut Vec<u8>) {
    let digits = (16 - number.leading_zeros() as usize / 4).max(digits_min);
    for at in (0..digits).rev() {
        let digit = (number >> (at * 4)) as usize & 15;
        out.extend(b"0123456789abcdef".get(digit));
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
