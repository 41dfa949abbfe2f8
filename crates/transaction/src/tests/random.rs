//! Random histories: whatever happens, nothing panics, every transaction ends once, and no timer outlives it.

use std::time::Duration;

use bytes::Bytes;

use super::{ClientSim, SECOND, Sim, b};
use crate::{BranchSpec, CancelBranches, Config, Kind};

/// A small seeded generator (splitmix64); the seed of a failing case is in its message.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn code(&mut self) -> u16 {
        const CODES: [u16; 16] = [0, 100, 180, 183, 199, 200, 202, 299, 302, 401, 408, 486, 487, 503, 603, 700];
        CODES[self.below(16) as usize]
    }
}

fn random_config(rng: &mut Rng) -> Config {
    let zero_or = |rng: &mut Rng, ms: u64| Duration::from_millis(if rng.flag() { ms } else { 0 });
    Config {
        fr_timeout: zero_or(rng, 3000),
        fr_inv_timeout: zero_or(rng, 9000),
        wt_timer: zero_or(rng, 5000),
        timer_d: zero_or(rng, 5000),
        timer_l: zero_or(rng, 5000),
        t1: zero_or(rng, 500),
        is_reliable: rng.flag(),
        restart_fr_on_each_reply: rng.flag(),
        disable_6xx_block: rng.flag(),
        keep_branches_after_2xx: rng.flag(),
        ..Config::default()
    }
}

fn random_spec(rng: &mut Rng) -> BranchSpec {
    BranchSpec {
        request: Bytes::from_static(b"request"),
        is_reliable: rng.flag(),
        is_minor: rng.below(5) == 0,
        fr_timeout: rng.flag().then(|| Duration::from_millis(rng.below(5000))),
        ..BranchSpec::default()
    }
}

fn step(sim: &mut Sim, rng: &mut Rng, held: &mut u32) {
    let index = rng.below(5) as u8;
    let now = sim.now();
    match rng.below(24) {
        0..=2 => {
            let _ = sim.t.add_branch(random_spec(rng), now);
        }
        3..=8 => {
            let code = rng.code();
            sim.t.handle_reply(b(index), code, code, now);
        }
        9 => {
            sim.t.receive_reply(b(index), rng.code(), now);
        }
        10 => {
            let code = rng.code();
            sim.t.process_reply(b(index), code, code, now);
        }
        11 => {
            sim.t.handle_cancel(now);
        }
        12 => {
            sim.t.handle_ack(now);
        }
        13 => sim.t.handle_request_retransmission(now),
        14 => sim.t.handle_transport_error(b(index), now),
        15 => {
            sim.t.drop_branch(b(index), now);
        }
        16 => {
            let _ = sim.t.respond_local(rng.code(), Bytes::from_static(b"local"), now);
        }
        17 => sim.t.cancel_branches(CancelBranches::Others(b(index)), now),
        18 => sim.t.handle_cancel_reply(b(index), rng.code(), now),
        19 => {
            sim.t.hold();
            *held += 1;
        }
        20 => {
            sim.t.release(now);
            *held = held.saturating_sub(1);
        }
        21 => sim.t.wait_for_new_branches(rng.flag().then_some(3), now),
        22 => sim.t.wait_no_more_branches(now),
        _ => {
            sim.t.fail_over_done(now);
        }
    }
    if rng.below(4) > 0 {
        sim.drain();
    }
}

fn random_history(seed: u64) {
    let mut rng = Rng::new(seed);
    let kind = if rng.flag() { Kind::Invite } else { Kind::NonInvite };
    let config = random_config(&mut rng);
    let mut sim = Sim::new(kind, &config);
    sim.is_manual = rng.flag();
    let mut held = 1;
    for _ in 0..rng.below(60) {
        step(&mut sim, &mut rng, &mut held);
        let wait = if rng.flag() { 0 } else { rng.below(4000) };
        sim.drain();
        sim.run_to(sim.now_ms + wait);
    }
    sim.drain();
    for _ in 0..held {
        sim.release();
    }
    sim.run_to(sim.now_ms + 700 * SECOND);
    assert!(sim.t.is_terminated(), "seed {seed}: still {:#?}", sim.t);
    assert_eq!(sim.terminated_count, 1, "seed {seed}");
    assert_eq!(sim.timers(), "", "seed {seed}");
    step(&mut sim, &mut rng, &mut held);
    sim.drain();
    assert_eq!(sim.terminated_count, 1, "seed {seed}");
    assert_eq!(sim.timers(), "", "seed {seed}");
}

#[test]
fn every_history_ends_once_and_leaves_no_timer() {
    for seed in 0..20_000 {
        random_history(seed);
    }
}

#[test]
fn every_client_history_ends() {
    for seed in 0..3_000 {
        let mut rng = Rng::new(seed);
        let kind = if rng.flag() { Kind::Invite } else { Kind::NonInvite };
        let config = random_config(&mut rng);
        let mut sim = ClientSim::new(kind, rng.flag(), &config);
        for _ in 0..rng.below(30) {
            let now = sim.now();
            match rng.below(12) {
                0..=8 => sim.t.handle_reply(rng.code(), now),
                9 => sim.t.cancel(now),
                10 => sim.t.handle_cancel_reply(rng.code(), now),
                _ => sim.t.handle_transport_error(now),
            }
            sim.drain();
            sim.run_to(sim.now_ms + rng.below(3000));
        }
        sim.run_to(sim.now_ms + 400 * SECOND);
        assert!(sim.t.is_terminated() && sim.t.poll_timeout().is_none(), "seed {seed}");
    }
}
