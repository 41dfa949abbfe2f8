//! One store by itself, two that meet, and histories of several with losses, separations and restarts.

use super::*;

const T: i64 = 1_800_000_000_000;

fn store(id: i32) -> KvStore {
    KvStore::new(NodeId(id), T)
}

fn value(text: &'static str) -> Option<Found> {
    Some(Found::Value(Bytes::from_static(text.as_bytes())))
}

/// What two stores tell each other when they meet.
fn meet(one: &mut KvStore, other: &mut KvStore, now: i64) {
    let (_, sums) = decode_sums(&encode_sums(false, &one.sums(now))).unwrap();
    for bucket in other.differing(&sums, now) {
        for body in other.bodies(bucket, now) {
            one.merge(&body, now).unwrap();
        }
    }
    for bucket in one.differing(&other.sums(now), now) {
        for body in one.bodies(bucket, now) {
            other.merge(&body, now).unwrap();
        }
    }
    assert_eq!(one.sums(now), other.sums(now));
}

#[test]
fn a_value_lives_as_long_as_it_was_given() {
    let (mut one, mut other) = (store(1), store(2));
    let told = one.publish(b"k", b"v", Some(1_000), T).unwrap();
    assert_eq!(other.merge(&told, T + 100).unwrap().taken, 1);
    assert_eq!(other.merge(&told, T + 100).unwrap().known, 1);
    assert_eq!((one.get(b"k", T + 999), one.get(b"k", T + 1_000)), (value("v"), None));
    assert_eq!((other.get(b"k", T + 1_099), other.get(b"k", T + 1_100)), (value("v"), None));
    for bucket in 0..KV_BUCKETS {
        one.purge(bucket, T + 1_000);
    }
    assert!(one.is_empty() && one.byte_count() == 0);
    let told = one.publish(b"k", b"for ever", None, T).unwrap();
    other.merge(&told, T).unwrap();
    assert_eq!(other.get(b"k", i64::MAX), value("for ever"));
}

#[test]
fn the_later_writer_wins_on_all_nodes_even_with_a_late_clock() {
    let (mut one, mut other) = (store(1), store(2));
    let first = one.publish(b"k", b"first", None, T + 60_000).unwrap();
    other.merge(&first, T).unwrap();
    // A minute behind, but it has seen the first.
    let second = other.publish(b"k", b"second", None, T + 5).unwrap();
    assert_eq!(one.merge(&second, T + 60_010).unwrap().taken, 1);
    assert_eq!(one.merge(&first, T + 60_010).unwrap().known, 1);
    assert_eq!((one.get(b"k", T), other.get(b"k", T)), (value("second"), value("second")));
    let far = one.publish(b"k", b"far", None, T + KV_CLOCK_AHEAD_MAX_MS + 61_000).unwrap();
    assert_eq!(other.merge(&far, T).unwrap().ahead, 1, "a clock that is far ahead writes nothing here");
}

#[test]
fn what_was_removed_does_not_come_back() {
    let (mut one, mut other) = (store(1), store(2));
    let told = one.publish(b"k", b"v", None, T).unwrap();
    other.merge(&told, T).unwrap();
    let (was_there, _) = one.remove(b"k", T + 1).unwrap();
    assert!(was_there);
    assert!(!one.remove(b"nothing", T + 1).unwrap().0);
    meet(&mut one, &mut other, T + 2);
    assert_eq!((one.get(b"k", T + 2), other.get(b"k", T + 2)), (None, None));
    one.count(b"n", 3, None, T).unwrap();
    one.remove(b"n", T + 3).unwrap();
    assert_eq!(one.get(b"n", T + 3), None);
    assert_eq!(one.count(b"n", 2, None, T + 4).unwrap().0, 2, "counted anew");
}

#[test]
fn a_value_that_replaced_a_longer_one_keeps_it_away_after_its_end() {
    let (mut one, mut other) = (store(1), store(2));
    let long = one.publish(b"k", b"long", Some(100_000), T).unwrap();
    other.merge(&long, T).unwrap();
    one.publish(b"k", b"short", Some(1_000), T + 1).unwrap();
    one.purge(bucket_of(b"k"), T + 2_000);
    meet(&mut one, &mut other, T + 2_000);
    assert_eq!((one.get(b"k", T + 2_000), other.get(b"k", T + 2_000)), (None, None));
    one.purge(bucket_of(b"k"), T + 200_000);
    assert!(one.is_empty());
}

#[test]
fn counters_add_up_over_nodes_and_restarts() {
    let (mut one, mut other) = (store(1), store(2));
    let (_, told) = one.count(b"n", 5, None, T).unwrap();
    other.merge(&told, T).unwrap();
    let (sum, told) = other.count(b"n", -2, None, T).unwrap();
    assert_eq!(sum, 3);
    one.merge(&told, T).unwrap();
    one.merge(&told, T).unwrap();
    assert_eq!(one.get(b"n", T), Some(Found::Count(3)));
    // Node 1 starts anew and counts before it has heard anything.
    let mut one = KvStore::new(NodeId(1), T + 10);
    one.count(b"n", 1, None, T + 11).unwrap();
    meet(&mut one, &mut other, T + 12);
    one.count(b"n", 1, None, T + 13).unwrap();
    meet(&mut other, &mut one, T + 14);
    assert_eq!((one.get(b"n", T + 14), other.get(b"n", T + 14)), (Some(Found::Count(5)), Some(Found::Count(5))));
}

#[test]
fn a_counter_forgets_what_was_counted_too_long_ago() {
    let mut one = store(1);
    one.count(b"n", 1, Some(1_000), T).unwrap();
    assert_eq!(one.count(b"n", 1, Some(1_000), T + 900).unwrap().0, 2);
    assert_eq!(one.get(b"n", T + 1_899), Some(Found::Count(2)));
    assert_eq!(one.get(b"n", T + 1_900), None);
    assert_eq!(one.count(b"n", 1, Some(1_000), T + 1_900).unwrap().0, 1);
}

#[test]
fn limits_are_told_and_change_nothing() {
    let mut one = store(1);
    assert_eq!(one.publish(b"", b"v", None, T), Err(KvError::Key));
    assert_eq!(one.publish(&[b'k'; KV_KEY_LEN_MAX + 1], b"v", None, T), Err(KvError::Key));
    assert_eq!(one.publish(b"k", &[0; KV_VALUE_LEN_MAX + 1], None, T), Err(KvError::Value));
    let value = vec![b'v'; KV_VALUE_LEN_MAX];
    let mut stored: u32 = 0;
    while one.publish(&stored.to_le_bytes(), &value, None, T).is_ok() {
        stored += 1;
    }
    assert_eq!(one.publish(b"more", &value, None, T), Err(KvError::Full));
    assert!(one.byte_count() <= KV_BYTES_MAX && usize::try_from(stored).unwrap() == one.len());
    assert_eq!(one.get(b"more", T), None);
    let mut other = store(2);
    for start in 0..KV_SHARES_MAX {
        let mut one = KvStore::new(NodeId(1), T + i64::try_from(start).unwrap());
        let (_, told) = one.count(b"n", 1, None, T + i64::try_from(start).unwrap()).unwrap();
        other.merge(&told, T).unwrap();
    }
    assert_eq!(other.count(b"n", 1, None, T), Err(KvError::Shares));
}

#[test]
fn large_parts_travel_in_several_packets() {
    let (mut one, mut other) = (store(1), store(2));
    for number in 0..3_000_u32 {
        one.publish(&number.to_le_bytes(), &[b'x'; 2_000], None, T).unwrap();
    }
    for bucket in 0..KV_BUCKETS {
        for body in one.bodies(bucket, T) {
            assert!(body.len() <= KV_BODY_LEN_MAX + KV_VALUE_LEN_MAX + KV_KEY_LEN_MAX + 64);
            other.merge(&body, T).unwrap();
        }
    }
    assert_eq!(one.sums(T), other.sums(T));
    assert_eq!(other.list(b"", 10, T).len(), 10);
    assert_eq!(other.list(&7_u32.to_le_bytes(), 10, T).len(), 1);
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Random changes on five nodes whose packets are lost, repeated and late, with restarts; then all meet.
fn history(seed: u64) {
    let mut random = Random(seed);
    let mut nodes: Vec<KvStore> = (1..=5).map(store).collect();
    let skews: Vec<i64> = (0..5).map(|_| i64::try_from(random.below(4_000)).unwrap() - 2_000).collect();
    let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut now = T + 10_000;
    for _ in 0..300 {
        now += i64::try_from(random.below(200)).unwrap();
        let at = random.below(5);
        let key = [b'a' + u8::try_from(random.below(6)).unwrap()];
        let ttl = (random.below(3) == 0).then_some(20_000 + i64::try_from(random.below(5_000)).unwrap());
        let told = match random.below(8) {
            0..=2 => nodes[at].publish(&key, &random.below(100).to_le_bytes(), ttl, now + skews[at]).unwrap(),
            3 => nodes[at].remove(&key, now + skews[at]).unwrap().1,
            4..=6 => nodes[at].count(&key, 1, ttl, now + skews[at]).unwrap().1,
            _ => {
                nodes[at] = KvStore::new(NodeId(i32::try_from(at).unwrap() + 1), now + skews[at]);
                continue;
            }
        };
        for to in (0..5).filter(|to| *to != at) {
            match random.below(4) {
                0 => {}
                1 => late.push((to, told.clone())),
                _ => drop(nodes[to].merge(&told, now + skews[to]).unwrap()),
            }
        }
        if !late.is_empty() && random.below(2) == 0 {
            let (to, told) = late.swap_remove(random.below(late.len()));
            nodes[to].merge(&told, now + skews[to]).unwrap();
        }
    }
    // What was to end has ended; only that is not told any more.
    now += 60_000;
    for node in &mut nodes {
        for bucket in 0..KV_BUCKETS {
            node.purge(bucket, now);
        }
    }
    // Twice around the ring brings everything everywhere.
    for round in 0..10 {
        let (at, next) = (round % 5, (round + 1) % 5);
        let mut one = std::mem::replace(&mut nodes[at], store(9));
        meet(&mut one, &mut nodes[next], now);
        nodes[at] = one;
    }
    let rows: Vec<Vec<(Vec<u8>, Found)>> = nodes
        .iter()
        .map(|node| node.list(b"", 100, now).into_iter().map(|row| (row.key, row.found)).collect())
        .collect();
    assert!(rows.iter().all(|other| *other == rows[0]), "seed {seed}: {rows:?}");
}

#[test]
fn all_nodes_come_to_agree_after_any_history() {
    for seed in 0..200 {
        history(seed);
    }
}

#[test]
fn sums_that_are_kept_are_those_that_would_be_computed() {
    let mut one = store(1);
    let same = |one: &KvStore, now: i64| {
        let fresh: Vec<u64> = one.buckets.iter().map(|bucket| sum_of(bucket, now).sum).collect();
        assert_eq!(one.sums(now), fresh, "at {}", now - T);
    };
    same(&one, T);
    for number in 0..200_i64 {
        let (key, now) = (format!("key {}", number % 50), T + number * 10);
        match number % 4 {
            0 => drop(one.publish(key.as_bytes(), b"x", Some(300), now).unwrap()),
            1 => drop(one.count(key.as_bytes(), 1, Some(500), now).unwrap()),
            2 => drop(one.remove(key.as_bytes(), now).unwrap()),
            _ => one.purge(usize::try_from(number).unwrap(), now),
        }
        same(&one, now);
        same(&one, now);
    }
    for later in [1, 299, 300, 301, 499, 500, 501, KV_REMOVAL_KEPT_MS - 1, KV_REMOVAL_KEPT_MS, KV_REMOVAL_KEPT_MS * 2] {
        same(&one, T + 2_000 + later);
        same(&one, T + later);
    }
}

#[test]
fn mutated_records_never_do_harm() {
    let mut one = store(1);
    let mut body = one.publish(b"key", b"value", Some(5_000), T).unwrap();
    body.extend(one.count(b"count", 7, None, T).unwrap().1);
    body.extend(one.remove(b"other", T).unwrap().1);
    let sums = encode_sums(false, &one.sums(T));
    let mut random = Random(1);
    let rounds = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    for _ in 0..rounds {
        let mut other = body.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(other.len());
            other[at] = u8::try_from(random.below(256)).unwrap();
        }
        other.truncate(random.below(other.len()) + 1);
        // Malformed or not: what matters is that it comes back.
        let _ = one.merge(&other, T);
        let _ = decode_sums(&sums[..random.below(sums.len())]);
        if one.len() > 1_000 {
            one = store(1);
        }
    }
    assert!(one.byte_count() < KV_BYTES_MAX);
}
