//! The memory store with a clock turned by hand: expiry, counters, limits, patterns.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tandem_module::cachedb::{CacheDb, CacheError, CacheReply};
use tandem_store::memory::ENTRY_OVERHEAD_BYTES;
use tandem_store::{MemoryLimits, MemoryStore};

fn store(limits: MemoryLimits) -> (Arc<MemoryStore>, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = now.clone();
    (Arc::new(MemoryStore::new(limits, Arc::new(move || clock.load(Ordering::SeqCst)))), now)
}

fn now<T>(reply: CacheReply<T>) -> Result<T, CacheError> {
    match reply {
        CacheReply::Now(result) => result,
        CacheReply::Later(_) => panic!("the memory store answers at once"),
    }
}

#[test]
fn a_value_lives_until_its_time_is_up() {
    let (store, clock) = store(MemoryLimits::default());
    now(store.store(b"k\0ey", b"v\xff\0", 10)).unwrap();
    now(store.store(b"forever", b"", 0)).unwrap();
    assert_eq!(now(store.fetch(b"k\0ey")).unwrap(), b"v\xff\0");
    clock.store(10_999, Ordering::SeqCst);
    assert_eq!(now(store.fetch(b"k\0ey")).unwrap(), b"v\xff\0");
    clock.store(11_000, Ordering::SeqCst);
    assert!(matches!(now(store.fetch(b"k\0ey")), Err(CacheError::NotFound)));
    assert!(!now(store.remove(b"k\0ey")).unwrap());
    assert_eq!(now(store.fetch(b"forever")).unwrap(), b"");
    assert!(now(store.remove(b"forever")).unwrap());
    assert_eq!(store.stats().keys, 0);
    assert_eq!(store.stats().bytes, 0);
    assert!(matches!(now(store.raw(vec![b"GET".to_vec()])), Err(CacheError::Unsupported)));
}

#[test]
fn storing_again_moves_the_expiry_both_ways() {
    let (store, clock) = store(MemoryLimits::default());
    store.put(b"a", b"1", 10).unwrap();
    store.put(b"a", b"2", 100).unwrap();
    store.put(b"b", b"1", 10).unwrap();
    store.put(b"b", b"2", 0).unwrap();
    store.put(b"c", b"1", 100).unwrap();
    store.put(b"c", b"2", 10).unwrap();
    clock.store(50_000, Ordering::SeqCst);
    assert_eq!(store.purge(), 1);
    assert_eq!(
        (store.value(b"a"), store.value(b"b"), store.value(b"c")),
        (Some(b"2".to_vec()), Some(b"2".to_vec()), None)
    );
    assert_eq!(store.next_expiry_ms(), Some(101_000));
}

#[test]
fn counters_add_subtract_and_keep_their_first_expiry() {
    let (store, clock) = store(MemoryLimits::default());
    assert_eq!(now(store.add(b"n", 5, 10)).unwrap(), 5);
    clock.store(6_000, Ordering::SeqCst);
    assert_eq!(now(store.add(b"n", -7, 1000)).unwrap(), -2);
    assert_eq!(now(store.fetch_counter(b"n")).unwrap(), -2);
    assert_eq!(now(store.fetch(b"n")).unwrap(), b"-2");
    clock.store(11_000, Ordering::SeqCst);
    assert!(matches!(now(store.fetch_counter(b"n")), Err(CacheError::NotFound)));
    assert_eq!(now(store.add(b"n", 1, 0)).unwrap(), 1);
    now(store.store(b"text", b"seven", 0)).unwrap();
    assert!(matches!(now(store.add(b"text", 1, 0)), Err(CacheError::Bad(_))));
    assert!(matches!(now(store.fetch_counter(b"text")), Err(CacheError::Bad(_))));
    now(store.store(b"big", i64::MAX.to_string().as_bytes(), 0)).unwrap();
    assert!(matches!(now(store.add(b"big", 1, 0)), Err(CacheError::Bad(_))));
    assert_eq!(now(store.fetch_counter(b"big")).unwrap(), i64::MAX);
}

#[test]
fn limits_refuse_and_expired_entries_make_room() {
    let (store, clock) =
        store(MemoryLimits { keys_max: 2, value_bytes_max: 8, key_bytes_max: 4, ..MemoryLimits::default() });
    store.put(b"a", b"1", 10).unwrap();
    store.put(b"b", b"1", 0).unwrap();
    assert!(matches!(store.put(b"c", b"1", 0), Err(CacheError::Unavailable(_))));
    assert!(matches!(store.count(b"c", 1, 0), Err(CacheError::Unavailable(_))));
    store.put(b"b", b"2", 0).unwrap();
    assert!(matches!(store.put(b"b", b"123456789", 0), Err(CacheError::Bad(_))));
    assert!(matches!(store.put(b"abcde", b"1", 0), Err(CacheError::Bad(_))));
    assert!(matches!(store.count(b"abcde", 1, 0), Err(CacheError::Bad(_))));
    clock.store(20_000, Ordering::SeqCst);
    store.put(b"c", b"1", 0).unwrap();
    assert_eq!((store.stats().keys, store.stats().expired, store.stats().refused), (2, 1, 5));
}

#[test]
fn bytes_are_bounded_too() {
    let (store, _) = store(MemoryLimits { bytes_max: 2 * (ENTRY_OVERHEAD_BYTES + 11), ..MemoryLimits::default() });
    store.put(b"a", &[b'x'; 10], 0).unwrap();
    store.put(b"b", &[b'x'; 10], 0).unwrap();
    assert!(store.put(b"c", b"", 0).is_err());
    assert!(store.put(b"a", &[b'x'; 30], 0).is_err());
    assert!(store.delete(b"b"));
    store.put(b"c", b"", 0).unwrap();
}

#[test]
fn chunks_are_listed_and_removed_by_pattern() {
    let (store, clock) = store(MemoryLimits::default());
    for n in 0..100 {
        store.put(format!("user_{n}").as_bytes(), b"v", if n < 50 { 10 } else { 60 }).unwrap();
    }
    store.put(b"other", b"v", 0).unwrap();
    clock.store(12_000, Ordering::SeqCst);
    let found = store.fetch_chunk(b"user_9?");
    assert_eq!(found.len(), 10);
    assert_eq!((found[0].key.as_slice(), found[0].remaining_ms), (b"user_90".as_slice(), Some(49_000)));
    assert_eq!(store.remove_chunk(b"user_*"), 50);
    assert_eq!(store.fetch_chunk(b"*").len(), 1);
    store.clear();
    assert_eq!((store.stats().keys, store.stats().bytes), (0, 0));
}

#[test]
fn rewriting_one_key_for_ever_does_not_grow_the_store() {
    let (store, clock) = store(MemoryLimits { shards: 1, ..MemoryLimits::default() });
    for round in 0..10_000 {
        clock.store(round, Ordering::SeqCst);
        store.put(b"k", b"v", 3600).unwrap();
    }
    assert_eq!(store.stats().keys, 1);
    // All notes are for the present entry or bounded: the store is empty after one expiry.
    clock.store(10_000 + 3_600_000, Ordering::SeqCst);
    assert_eq!(store.purge(), 1);
    assert_eq!(store.next_expiry_ms(), None);
}

#[test]
fn threads_count_without_losing_one() {
    let (store, _) = store(MemoryLimits::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..5_000 {
                    store.count(format!("c{}", n % 10).as_bytes(), 1, 0).unwrap();
                }
            });
        }
    });
    let sum: i64 = (0..10).map(|n| now(store.fetch_counter(format!("c{n}").as_bytes())).unwrap()).sum();
    assert_eq!(sum, 20_000);
}
