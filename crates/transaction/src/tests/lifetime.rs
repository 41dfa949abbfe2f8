//! Scripts that hold, leave or forget a transaction; sizes.

use std::sync::Arc;

use super::{SECOND, Sim, b};
use crate::{Config, Kind, RespondError, ServerState, Timer, Transaction};

#[test]
fn a_script_that_ends_without_answer_is_forgotten_after_wt_timer() {
    for kind in [Kind::Invite, Kind::NonInvite] {
        let mut sim = Sim::new(kind, &Config::default());
        sim.run_to(50 * SECOND);
        assert_eq!(sim.timers(), "", "a running or suspended script costs no timer");
        sim.release();
        sim.run_out();
        sim.expect("55000 Terminated");
    }
}

#[test]
fn a_suspended_script_answers_after_a_long_while() {
    let mut sim = Sim::invite();
    sim.respond(100);
    sim.run_to(500 * SECOND);
    sim.repeat_request();
    sim.relay(1);
    sim.expect("0 SendReply\n500000 SendReply again\n500000 SendRequest b0 #0");
}

#[test]
fn a_parked_call_can_be_taken_or_ends_with_408() {
    let mut sim = Sim::invite();
    sim.respond(180);
    sim.release();
    assert_eq!(sim.timers(), "fr_inv 120000");
    sim.now_ms = 1000;
    sim.t.hold();
    assert_eq!(sim.timers(), "");
    sim.release();
    assert_eq!(sim.timers(), "fr_inv 121000");
    sim.run_to(121 * SECOND);
    sim.expect("0 SendReply\n121000 LocalReply 408\n121000 SendReply");

    let mut sim = Sim::invite();
    sim.respond(180);
    sim.release();
    sim.respond(487);
    assert_eq!(sim.t.server_state(), ServerState::Completed);
}

#[test]
fn a_local_reply_nobody_builds_ends_silently() {
    let mut sim = Sim::relayed(1);
    sim.is_manual = true;
    sim.t.handle_transport_error(b(0), sim.now());
    sim.drain();
    sim.fail_over_done();
    assert_eq!(sim.timers(), "wt 5000");
    sim.run_out();
    assert!(sim.t.is_terminated());
}

#[test]
fn nothing_comes_after_terminated() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 200);
    sim.run_out();
    sim.forget_log();
    sim.reply(0, 200);
    sim.reply(0, 486);
    sim.repeat_request();
    sim.cancel();
    sim.ack();
    sim.t.hold();
    sim.release();
    sim.t.handle_cancel_reply(b(0), 200, sim.now());
    sim.t.handle_transport_error(b(0), sim.now());
    sim.t.handle_reply_transport_error(sim.now());
    sim.t.wait_for_new_branches(None, sim.now());
    sim.t.handle_timer(sim.now());
    let refused = sim.t.respond_local(200, Default::default(), sim.now());
    assert_eq!(refused, Err(RespondError::Terminated));
    sim.drain();
    sim.expect("");
    assert!(sim.t.poll_timeout().is_none());
}

#[test]
fn a_second_final_reply_is_refused() {
    let mut sim = Sim::invite();
    sim.respond(486);
    let refused = sim.t.respond_local(200, Default::default(), sim.now());
    assert_eq!(refused, Err(RespondError::Answered));
}

#[test]
fn when_upstream_is_gone_replies_are_not_repeated() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 486);
    sim.forget_log();
    sim.t.handle_reply_transport_error(sim.now());
    assert_eq!(sim.timers(), "b0 D 32000, wt 5000");
    sim.run_out();
    sim.expect("32000 Terminated");
}

#[test]
fn a_late_call_of_handle_timer_fires_each_timer_once() {
    let mut sim = Sim::relayed(1);
    sim.forget_log();
    sim.now_ms = 20_000;
    sim.t.handle_timer(sim.now());
    sim.t.handle_timer(sim.now());
    sim.drain();
    sim.expect("20000 SendRequest b0 #1");
    assert_eq!(sim.timers(), "b0 A 21000, b0 fr 30000");
}

#[test]
fn an_early_call_of_handle_timer_does_nothing() {
    let mut sim = Sim::relayed(1);
    sim.forget_log();
    sim.now_ms = 499;
    sim.t.handle_timer(sim.now());
    sim.drain();
    sim.expect("");
}

#[test]
fn a_transaction_with_four_branches_fits_in_a_kilobyte_and_a_half() {
    assert!(size_of::<Transaction<Arc<()>>>() <= 1536);
}

#[test]
fn timer_names_are_distinct() {
    use Timer::{A, B, C, D, E, F, Fr, FrInv, G, H, I, J, K, L, M, Wt};
    let all = [A, B, C, D, E, F, G, H, I, J, K, L, M, Fr, FrInv, Wt];
    let mut names: Vec<&str> = all.iter().map(|timer| timer.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
}

#[test]
fn up_to_four_branches_nothing_is_allocated() {
    let mut sim = Sim::relayed(4);
    for index in 0..4 {
        sim.reply(index, 180);
    }
    sim.cancel();
    for index in 0..4 {
        sim.reply(index, 487);
    }
    assert_eq!(sim.t.sent_code(), 487);
    assert!(!sim.t.has_spilled());
    let mut sim = Sim::relayed(5);
    sim.reply(0, 486);
    assert!(sim.t.has_spilled(), "the check itself works");
}
