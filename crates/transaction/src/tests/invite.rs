//! One INVITE branch: RFC 3261 figures 5 and 7, RFC 6026 figures 3 and 5.

use std::time::Duration;

use super::{SECOND, Sim, b};
use crate::{BranchSpec, ClientState, Config, Kind, ReplyAction, ServerState};

fn reliable() -> Config {
    Config { is_reliable: true, ..Config::default() }
}

#[test]
fn an_unanswered_invite_is_repeated_with_doubling_intervals_until_fr_timeout() {
    let mut sim = Sim::relayed(1);
    assert_eq!(sim.timers(), "b0 A 500, b0 fr 30000");
    sim.run_to(30 * SECOND);
    sim.expect(
        "0 SendRequest b0 #0
         500 SendRequest b0 #1
         1500 SendRequest b0 #2
         3500 SendRequest b0 #3
         7500 SendRequest b0 #4
         15500 SendRequest b0 #5
         30000 Timeout b0 408 silent
         30000 AllFailed best b0 408
         30000 LocalReply 408 of b0
         30000 SendReply",
    );
    assert!(sim.t.branch(b(0)).unwrap().is_local_final());
}

#[test]
fn a_zero_fr_timeout_means_timer_b_and_a_zero_fr_inv_timeout_means_timer_c() {
    let config = Config { fr_timeout: Duration::ZERO, fr_inv_timeout: Duration::ZERO, ..Config::default() };
    let mut sim = Sim::new(Kind::Invite, &config);
    sim.relay(1);
    assert_eq!(sim.timers(), "b0 A 500, b0 B 32000");
    sim.reply(0, 180);
    assert_eq!(sim.timers(), "b0 C 181000");
}

#[test]
fn a_reliable_branch_is_not_repeated() {
    let mut sim = Sim::invite();
    sim.add_spec(BranchSpec { is_reliable: true, ..BranchSpec::default() });
    sim.release();
    assert_eq!(sim.timers(), "b0 fr 30000");
    sim.run_to(29 * SECOND);
    sim.expect("0 SendRequest b0 #0");
}

#[test]
fn a_relayed_call_rings_is_accepted_and_ends_with_timers_l_and_m() {
    let mut sim = Sim::invite();
    assert!(sim.t.wants_trying());
    sim.respond(100);
    assert!(!sim.t.wants_trying());
    sim.relay(1);
    sim.now_ms = 20;
    sim.reply(0, 100);
    assert_eq!(sim.timers(), "b0 fr_inv 120020");
    sim.now_ms = 40;
    sim.reply(0, 180);
    assert_eq!(sim.t.server_state(), ServerState::Proceeding);
    sim.now_ms = 5000;
    sim.reply(0, 200);
    assert_eq!(sim.timers(), "L 37000, b0 M 37000");
    assert_eq!(sim.t.server_state(), ServerState::Accepted);
    assert_eq!(sim.t.branch(b(0)).unwrap().state(), ClientState::Accepted);
    sim.run_out();
    sim.expect(
        "0 SendReply
         0 SendRequest b0 #0
         20 Absorbed b0 100
         40 Forward b0 180
         5000 Forward b0 200
         37000 Terminated",
    );
    assert!(sim.t.poll_timeout().is_none());
}

#[test]
fn repeated_2xx_pass_through_and_repeated_requests_are_absorbed_once_accepted() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 200);
    sim.now_ms = 500;
    sim.reply(0, 200);
    sim.repeat_request();
    sim.ack();
    sim.now_ms = 1500;
    sim.reply(0, 200);
    sim.reply(0, 180);
    sim.expect(
        "0 SendRequest b0 #0
         0 Forward b0 200
         500 PassThrough b0 200
         1500 PassThrough b0 200
         1500 Absorbed b0 180",
    );
}

#[test]
fn a_negative_final_is_acked_down_and_repeated_up_until_its_ack() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 180);
    sim.now_ms = 1000;
    sim.reply(0, 486);
    assert_eq!(sim.timers(), "G 1500, H 33000, b0 D 33000");
    sim.run_to(10_000);
    sim.ack();
    assert_eq!(sim.timers(), "I 15000, b0 D 33000");
    sim.ack();
    sim.run_out();
    sim.expect(
        "0 SendRequest b0 #0
         0 Forward b0 180
         1000 SendAck b0
         1000 Absorbed b0 486
         1000 AllFailed best b0 486
         1000 Forward b0 486
         1500 SendReply again
         2500 SendReply again
         4500 SendReply again
         8500 SendReply again
         33000 Terminated",
    );
}

#[test]
fn without_an_ack_timer_g_stops_at_t2_and_timer_h_ends_it() {
    let config = Config { timer_d: Duration::from_secs(5), ..Config::default() };
    let mut sim = Sim::new(Kind::Invite, &config);
    sim.relay(1);
    sim.reply(0, 404);
    sim.run_out();
    sim.expect(
        "0 SendRequest b0 #0
         0 SendAck b0
         0 Absorbed b0 404
         0 AllFailed best b0 404
         0 Forward b0 404
         500 SendReply again
         1500 SendReply again
         3500 SendReply again
         7500 SendReply again
         11500 SendReply again
         15500 SendReply again
         19500 SendReply again
         23500 SendReply again
         27500 SendReply again
         31500 SendReply again
         32000 Terminated",
    );
}

#[test]
fn over_reliable_transports_nothing_is_repeated_and_the_ack_ends_it() {
    let mut sim = Sim::new(Kind::Invite, &reliable());
    sim.add_spec(BranchSpec { is_reliable: true, ..BranchSpec::default() });
    sim.release();
    sim.reply(0, 486);
    assert_eq!(sim.timers(), "H 32000");
    sim.run_to(20 * SECOND);
    sim.ack();
    sim.expect(
        "0 SendRequest b0 #0
         0 SendAck b0
         0 Absorbed b0 486
         0 AllFailed best b0 486
         0 Forward b0 486
         20000 Terminated",
    );
}

#[test]
fn challenges_are_not_repeated_unasked() {
    for code in [401, 407] {
        let mut sim = Sim::invite();
        sim.respond(code);
        sim.release();
        assert_eq!(sim.timers(), "wt 5000");
        sim.now_ms = 600;
        sim.repeat_request();
        sim.ack();
        sim.run_out();
        sim.expect("0 SendReply\n600 SendReply again\n5600 Terminated");
    }
}

#[test]
fn repeated_negative_finals_are_acked_again_and_absorbed() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 486);
    sim.ack();
    sim.forget_log();
    sim.now_ms = 500;
    sim.reply(0, 486);
    sim.now_ms = 31_999;
    sim.reply(0, 486);
    sim.expect(
        "500 SendAck b0
         500 Absorbed b0 486
         31999 SendAck b0
         31999 Absorbed b0 486",
    );
}

#[test]
fn repeated_requests_get_the_last_reply_in_proceeding_and_completed_only() {
    let mut sim = Sim::relayed(1);
    sim.repeat_request();
    sim.expect("0 SendRequest b0 #0");
    sim.reply(0, 183);
    sim.repeat_request();
    sim.expect("0 Forward b0 183\n0 SendReply again");
    sim.reply(0, 404);
    sim.forget_log();
    sim.repeat_request();
    sim.expect("0 SendReply again");
    sim.ack();
    sim.repeat_request();
    sim.expect("");
}

#[test]
fn a_local_2xx_is_repeated_until_its_ack() {
    let mut sim = Sim::invite();
    sim.respond(200);
    sim.release();
    assert_eq!(sim.timers(), "G 500, L 32000");
    sim.run_to(1600);
    sim.repeat_request();
    assert!(sim.t.handle_ack(sim.now()));
    assert!(!sim.t.handle_ack(sim.now()));
    sim.repeat_request();
    sim.run_out();
    sim.expect(
        "0 SendReply
         500 SendReply again
         1500 SendReply again
         1600 SendReply again
         32000 Terminated",
    );
}

#[test]
fn every_provisional_reply_restarts_fr_inv_by_default() {
    let mut sim = Sim::relayed(1);
    for second in 1..=5 {
        sim.now_ms = second * 60 * SECOND;
        sim.reply(0, 180);
    }
    assert_eq!(sim.timers(), "b0 fr_inv 420000");
}

#[test]
fn without_restart_only_the_first_and_higher_ones_from_180_restart_fr_inv() {
    let config = Config { restart_fr_on_each_reply: false, ..Config::default() };
    let mut sim = Sim::new(Kind::Invite, &config);
    sim.relay(1);
    for (at, code, deadline) in
        [(1, 100, 121), (2, 101, 121), (3, 180, 123), (4, 180, 123), (5, 183, 125), (6, 181, 125)]
    {
        sim.now_ms = at * SECOND;
        sim.reply(0, code);
        assert_eq!(sim.timers(), format!("b0 fr_inv {}", deadline * SECOND), "after {code}");
    }
}

#[test]
fn a_ringing_branch_is_cancelled_and_answered_408_at_fr_inv() {
    let mut sim = Sim::relayed(1);
    sim.now_ms = 10;
    sim.reply(0, 180);
    sim.run_to(120_010);
    sim.expect(
        "0 SendRequest b0 #0
         10 Forward b0 180
         120010 Timeout b0 408 ringing
         120010 SendCancel b0
         120010 AllFailed best b0 408
         120010 LocalReply 408 of b0
         120010 SendReply",
    );
    sim.now_ms = 120_050;
    sim.t.handle_cancel_reply(b(0), 200, sim.now());
    sim.ack();
    sim.reply(0, 487);
    assert_eq!(sim.timers(), "I 125050, b0 D 152010");
    sim.expect("120050 SendAck b0\n120050 Absorbed b0 487");
}

#[test]
fn the_waits_can_be_changed_from_the_script_and_per_branch() {
    let mut sim = Sim::invite();
    let ms = Duration::from_millis;
    sim.t.set_fr_timeouts(Some(ms(3000)), Some(ms(20_000)));
    sim.add();
    sim.add_spec(BranchSpec { fr_timeout: Some(ms(1000)), fr_inv_timeout: Some(ms(7000)), ..BranchSpec::default() });
    sim.release();
    assert_eq!(sim.timers(), "b0 A 500, b0 fr 3000, b1 A 500, b1 fr 1000");
    sim.reply(0, 180);
    sim.reply(1, 180);
    assert_eq!(sim.timers(), "b0 fr_inv 20000, b1 fr_inv 7000");
    sim.t.set_fr_timeouts(None, None);
    assert_eq!(sim.t.fr_timeouts(), (ms(30_000), ms(120_000)));
}

#[test]
fn a_reply_route_can_change_fr_inv_on_the_reply_it_sees() {
    let mut sim = Sim::relayed(1);
    assert_eq!(sim.t.receive_reply(b(0), 180, sim.now()), ReplyAction::Process);
    sim.t.set_fr_timeouts(None, Some(Duration::from_secs(9)));
    sim.t.process_reply(b(0), 180, 180, sim.now());
    assert_eq!(sim.timers(), "b0 fr_inv 9000");
}

#[test]
fn a_dropped_provisional_still_stops_the_retransmissions() {
    let mut sim = Sim::relayed(1);
    assert_eq!(sim.t.receive_reply(b(0), 183, sim.now()), ReplyAction::Process);
    assert_eq!(sim.timers(), "b0 fr_inv 120000");
    sim.run_to(10 * SECOND);
    sim.expect("0 SendRequest b0 #0");
}

#[test]
fn a_final_reply_held_by_its_route_is_acked_once_per_copy_and_relayed_later() {
    let mut sim = Sim::relayed(1);
    sim.t.hold();
    assert_eq!(sim.t.receive_reply(b(0), 486, sim.now()), ReplyAction::Process);
    assert_eq!(sim.t.branch(b(0)).unwrap().state(), ClientState::Held);
    sim.now_ms = 500;
    assert_eq!(sim.t.receive_reply(b(0), 486, sim.now()), ReplyAction::Absorbed);
    sim.run_to(60 * SECOND);
    sim.t.process_reply(b(0), 486, 486, sim.now());
    sim.drain();
    sim.release();
    sim.expect(
        "0 SendRequest b0 #0
         60000 SendAck b0
         60000 SendAck b0
         60000 Absorbed b0 486
         60000 Absorbed b0 486
         60000 AllFailed best b0 486
         60000 Forward b0 486",
    );
}

#[test]
fn a_held_final_that_never_comes_back_ends_as_a_time_out() {
    let mut sim = Sim::relayed(1);
    sim.t.receive_reply(b(0), 200, sim.now());
    sim.run_out();
    let (last, count) = (sim.t.sent_code(), sim.terminated_count);
    assert_eq!((last, count), (408, 1));
}

#[test]
fn a_provisional_that_left_its_route_after_the_final_is_not_relayed() {
    let mut sim = Sim::relayed(1);
    sim.t.receive_reply(b(0), 180, sim.now());
    sim.reply(0, 200);
    sim.t.process_reply(b(0), 180, 180, sim.now());
    sim.drain();
    sim.expect("0 SendRequest b0 #0\n0 Forward b0 200\n0 Absorbed b0 180");
}

#[test]
fn odd_codes_and_unknown_branches_are_absorbed() {
    let mut sim = Sim::relayed(1);
    sim.forget_log();
    for code in [0, 42, 99, 700, u16::MAX] {
        assert_eq!(sim.t.receive_reply(b(0), code, sim.now()), ReplyAction::Absorbed);
    }
    assert_eq!(sim.t.receive_reply(b(9), 200, sim.now()), ReplyAction::Absorbed);
    sim.t.process_reply(b(9), 200, 200, sim.now());
    assert_eq!(sim.timers(), "b0 A 500, b0 fr 30000");
    assert!(sim.t.respond_local(700, Default::default(), sim.now()).is_err());
}
