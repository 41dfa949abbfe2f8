//! Random call histories, each from a seed that a failure prints: counters, timers and profiles always add up.

use super::{Bench, words};
use crate::{
    DialogEvent, DialogId, DialogState, EndReason, Events, InviteReply, MatchMode, MatchRequest, Method, WithinRequest,
};

/// SplitMix64: enough for choosing, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// What the events of one dialog say about it.
#[derive(Debug)]
struct Shadow {
    id: DialogId,
    state: DialogState,
    is_held: bool,
}

fn follow(shadow: &mut Shadow, events: &Events, seed: u64) {
    let context = || format!("seed {seed}: {shadow:?} {:?}", words(events));
    let mut state = shadow.state;
    let mut has_ended = false;
    for event in events {
        match event {
            DialogEvent::StateChanged { old, new } => {
                assert_eq!(*old, state, "{}", context());
                let is_forward = new > old || (*old == DialogState::Deleted && *new == DialogState::ConfirmedNoAck);
                assert!(is_forward, "{}", context());
                state = *new;
            }
            DialogEvent::Terminated { reason, was_answered, .. } => {
                assert!(state == DialogState::Deleted && !has_ended, "{}", context());
                assert_eq!(*was_answered, !matches!(reason, EndReason::SetupFailed(_)), "{}", context());
                has_ended = true;
            }
            DialogEvent::Answered => assert_eq!(state, DialogState::ConfirmedNoAck, "{}", context()),
            DialogEvent::SendBye(_) | DialogEvent::CancelInvite | DialogEvent::RunTimeoutRoute => {}
        }
    }
    shadow.state = state;
}

fn random_step(random: &mut Random, bench: &Bench, shadow: &mut Shadow, call_id: &str, seed: u64) {
    let now = bench.now;
    let reply_code = random.pick(&[100, 180, 183, 200, 202, 302, 404, 487, 600]);
    let tag = random.pick(&[b"b1".as_slice(), b"b2", b""]);
    let step = random.below(8);
    let lifetime = random.pick(&[1, 10, 100]);
    let events = match step {
        0..=2 => bench.table.with_dialog(shadow.id, |dialog| {
            dialog.on_reply(&InviteReply { code: reply_code, to_tag: tag, ..InviteReply::default() }, now)
        }),
        3 => bench.table.with_dialog(shadow.id, |dialog| dialog.end(EndReason::MiTermination, now)),
        4 => bench.table.with_dialog(shadow.id, |dialog| {
            dialog.set_lifetime(lifetime, now.monotonic);
            dialog.on_cancel();
            Events::new()
        }),
        _ => {
            let (from_tag, to_tag) = random.pick(&[(b"a".as_slice(), tag), (tag, b"a".as_slice())]);
            let request = MatchRequest { did: None, call_id: call_id.as_bytes(), from_tag, to_tag };
            let method = random.pick(&[Method::Ack, Method::Bye, Method::Invite, Method::Other]);
            bench.table.match_request(&request, MatchMode::DidFallback, |dialog, found| {
                assert_eq!(found.id, shadow.id, "seed {seed}");
                let request = WithinRequest {
                    method,
                    cseq: 5,
                    direction: found.direction,
                    destination_leg: found.destination_leg,
                    contact: b"sip:x@y",
                };
                dialog.on_request(&request, now)
            })
        }
    };
    follow(shadow, &events.unwrap_or_default(), seed);
}

fn check(bench: &Bench, shadows: &[Shadow], seed: u64) {
    let count = |is_it: fn(DialogState) -> bool| shadows.iter().filter(|s| s.is_held && is_it(s.state)).count() as u64;
    let totals = bench.table.totals();
    assert_eq!(totals.active, count(DialogState::is_active), "seed {seed}");
    assert_eq!(totals.early, count(|state| state == DialogState::Early), "seed {seed}");
    assert_eq!(totals.held, count(|_| true), "seed {seed}");
    assert_eq!(totals.processed, shadows.len() as u64, "seed {seed}");
    let counted = count(|state| state != DialogState::Deleted);
    assert_eq!(bench.table.profile_size("inbound", None), Ok(counted), "seed {seed}");
    let mut first = None;
    bench.table.for_each(|dialog| {
        let shadow = shadows.iter().find(|shadow| shadow.id == dialog.id()).unwrap();
        assert_eq!(shadow.state, dialog.state(), "seed {seed}");
        let deadline = dialog.poll_timeout();
        assert!(deadline.is_some(), "seed {seed}: a dialog without timer stays for ever");
        first = [first, deadline].into_iter().flatten().min();
    });
    assert_eq!(bench.table.poll_timeout(), first, "seed {seed}");
}

#[test]
fn any_history_keeps_counters_timers_and_profiles_right() {
    let mut expired = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut bench = Bench::new();
        let mut shadows: Vec<Shadow> = Vec::new();
        for _ in 0..80 {
            bench.pass_secs(random.below(4));
            let index = random.below(6) as usize;
            if index >= shadows.len() {
                let id = bench.create(&format!("call{}", shadows.len()), random.pick(&[0, 1 << 3, 1 << 15]));
                bench.table.set_profile(id, "inbound", None, false).unwrap();
                shadows.push(Shadow { id, state: DialogState::Unconfirmed, is_held: true });
            } else {
                random_step(&mut random, &bench, &mut shadows[index], &format!("call{index}"), seed);
            }
            for timed_out in bench.table.handle_timeout(bench.now, usize::MAX) {
                let shadow = shadows.iter_mut().find(|shadow| shadow.id == timed_out.id).unwrap();
                follow(shadow, &timed_out.events, seed);
                shadow.is_held = !timed_out.is_removed;
            }
            check(&bench, &shadows, seed);
        }
        expired += bench.table.totals().expired;
        bench.pass_secs(400 * 86_400);
        for _ in 0..3 {
            bench.table.handle_timeout(bench.now, usize::MAX);
            bench.pass_secs(60);
        }
        let totals = bench.table.totals();
        assert_eq!((totals.held, totals.active, totals.early), (0, 0, 0), "seed {seed}: something stays for ever");
        assert_eq!(bench.table.poll_timeout(), None, "seed {seed}");
    }
    assert!(expired > 100, "the histories must reach expiry: {expired}");
}
