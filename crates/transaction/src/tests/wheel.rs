//! The timer wheel against an ordered map.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::random::Rng;
use crate::{TimerKey, TimerWheel};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn timers_fire_in_order_and_never_early() {
    let base = Instant::now();
    let mut wheel = TimerWheel::new(base);
    for at in [70_000_u64, 5, 64, 4096, 5_000_000, 63, 1, 0] {
        wheel.insert(base + ms(at), at);
    }
    wheel.insert(base + Duration::from_micros(5500), 6);
    let mut fired = Vec::new();
    wheel.advance(base + ms(5), &mut fired);
    assert_eq!(fired, [0, 1, 5]);
    fired.clear();
    wheel.advance(base + ms(6), &mut fired);
    assert_eq!(fired, [6]);
    fired.clear();
    wheel.advance(base + ms(10_000_000), &mut fired);
    assert_eq!(fired, [63, 64, 4096, 70_000, 5_000_000]);
    assert!(wheel.is_empty());
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_name_kept_too_long_hits_no_later_timer() {
    let base = Instant::now();
    let mut wheel = TimerWheel::new(base);
    let old = wheel.insert(base + ms(10), 'a');
    assert_eq!(wheel.cancel(old), Some('a'));
    assert_eq!(wheel.cancel(old), None);
    let new = wheel.insert(base + ms(10), 'b');
    assert_ne!(old, new);
    assert_eq!(wheel.cancel(old), None);
    assert!(wheel.is_armed(new) && !wheel.is_armed(old));
    let mut fired = Vec::new();
    wheel.advance(base + ms(10), &mut fired);
    assert_eq!(fired, ['b']);
    assert_eq!(wheel.cancel(new), None);
}

#[test]
fn a_deadline_in_the_past_fires_at_the_next_advance() {
    let base = Instant::now();
    let mut wheel = TimerWheel::new(base);
    let mut fired: Vec<u8> = Vec::new();
    wheel.advance(base + ms(1000), &mut fired);
    wheel.insert(base, 1);
    assert_eq!(wheel.next_deadline(), Some(base + ms(1000)));
    wheel.advance(base + ms(500), &mut fired);
    assert_eq!(fired, [1]);
}

#[test]
fn deadlines_beyond_the_reach_of_the_wheel_are_kept() {
    let base = Instant::now();
    let year = 365 * 24 * 3600 * 1000_u64;
    let mut wheel = TimerWheel::new(base);
    for years in [1, 3, 5, 9] {
        wheel.insert(base + ms(years * year), years);
    }
    for years in [1, 3, 5, 9] {
        let mut fired = Vec::new();
        wheel.advance(base + ms(years * year - 1), &mut fired);
        assert_eq!(fired, [] as [u64; 0]);
        wheel.advance(base + ms(years * year), &mut fired);
        assert_eq!(fired, [years]);
    }
}

/// One random history: inserts, cancels, resets and advances, checked against a map at every step.
fn compare_with_map(seed: u64) {
    let mut rng = Rng::new(seed);
    let base = Instant::now();
    let mut wheel = TimerWheel::new(base);
    let mut model: BTreeMap<(u64, u64), TimerKey> = BTreeMap::new();
    let mut gone: Vec<TimerKey> = Vec::new();
    let (mut now, mut next_key) = (0_u64, 0_u64);
    for _ in 0..600 {
        let spread = 1 << rng.below(28);
        match rng.below(10) {
            0..=4 => {
                let at = now + rng.below(spread);
                let timer = wheel.insert(base + ms(at), (at, next_key));
                model.insert((at, next_key), timer);
                next_key += 1;
            }
            5..=6 => {
                let skip = rng.below(model.len() as u64 + 1) as usize;
                if let Some((&key, &timer)) = model.iter().nth(skip) {
                    assert_eq!(wheel.cancel(timer), Some(key), "seed {seed}");
                    model.remove(&key);
                    gone.push(timer);
                }
            }
            7 => {
                for timer in gone.drain(..) {
                    assert_eq!(wheel.cancel(timer), None, "seed {seed}");
                }
            }
            8 => {
                // Follow the wheel's own wake-up time, as a worker does.
                if let Some(at) = wheel.next_deadline() {
                    let at_ms = (at - base).as_millis() as u64;
                    let earliest = model.keys().next().map(|key| key.0).unwrap_or(u64::MAX);
                    assert!(at_ms <= earliest.max(now), "seed {seed}: woken too late");
                    now = now.max(at_ms);
                }
            }
            _ => now += rng.below(spread),
        }
        let mut fired: Vec<(u64, u64)> = Vec::new();
        wheel.advance(base + ms(now), &mut fired);
        assert!(fired.is_sorted_by_key(|key| key.0), "seed {seed}: {fired:?}");
        fired.sort_unstable();
        let later = model.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut model, later);
        assert_eq!(fired, due.keys().copied().collect::<Vec<_>>(), "seed {seed}");
        gone.extend(due.values());
        assert_eq!(wheel.len(), model.len(), "seed {seed}");
    }
    let mut wakes = 0;
    while let Some(at) = wheel.next_deadline() {
        wheel.advance(at, &mut Vec::new());
        wakes += 1;
        assert!(wakes <= 6 * 600, "seed {seed}: the wheel does not run empty");
    }
    assert!(wheel.is_empty());
}

#[test]
fn it_behaves_like_an_ordered_map() {
    for seed in 0..400 {
        compare_with_map(seed);
    }
}
