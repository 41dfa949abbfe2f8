//! Requests other than INVITE: RFC 3261 figures 6 and 8.

use super::{SECOND, Sim, b};
use crate::{BranchSpec, Config, Kind, ServerState};

fn sim() -> Sim {
    Sim::new(Kind::NonInvite, &Config::default())
}

#[test]
fn a_request_is_repeated_up_to_t2_until_fr_timeout() {
    let mut sim = sim();
    sim.relay(1);
    assert_eq!(sim.timers(), "b0 E 500, b0 fr 30000");
    sim.run_out();
    sim.expect(
        "0 SendRequest b0 #0
         500 SendRequest b0 #1
         1500 SendRequest b0 #2
         3500 SendRequest b0 #3
         7500 SendRequest b0 #4
         11500 SendRequest b0 #5
         15500 SendRequest b0 #6
         19500 SendRequest b0 #7
         23500 SendRequest b0 #8
         27500 SendRequest b0 #9
         30000 Timeout b0 408 silent
         30000 AllFailed best b0 408
         30000 LocalReply 408 of b0
         30000 SendReply
         35000 Terminated",
    );
}

#[test]
fn a_provisional_slows_the_repeats_to_t2_and_does_not_prolong_the_wait() {
    let mut sim = sim();
    sim.relay(1);
    sim.run_to(600);
    sim.reply(0, 183);
    sim.reply(0, 100);
    sim.run_to(9 * SECOND);
    assert_eq!(sim.timers(), "b0 E 12600, b0 fr 30000");
    sim.expect(
        "0 SendRequest b0 #0
         500 SendRequest b0 #1
         600 Forward b0 183
         600 Absorbed b0 100
         4600 SendRequest b0 #2
         8600 SendRequest b0 #3",
    );
}

#[test]
fn a_final_reply_ends_it_after_timers_j_and_k() {
    let mut sim = sim();
    sim.relay(1);
    sim.now_ms = 30;
    sim.reply(0, 200);
    assert_eq!(sim.timers(), "J 5030, b0 K 5030");
    sim.now_ms = 40;
    sim.repeat_request();
    sim.reply(0, 200);
    sim.reply(0, 404);
    sim.ack();
    assert!(!sim.cancel());
    sim.run_out();
    sim.expect(
        "0 SendRequest b0 #0
         30 Forward b0 200
         40 SendReply again
         40 Absorbed b0 200
         40 Absorbed b0 404
         5030 Terminated",
    );
}

#[test]
fn over_reliable_transports_the_final_reply_ends_it_at_once() {
    let mut sim = Sim::new(Kind::NonInvite, &Config { is_reliable: true, ..Config::default() });
    sim.add_spec(BranchSpec { is_reliable: true, ..BranchSpec::default() });
    sim.release();
    sim.reply(0, 404);
    sim.expect(
        "0 SendRequest b0 #0
         0 Absorbed b0 404
         0 AllFailed best b0 404
         0 Forward b0 404
         0 Terminated",
    );
    assert!(sim.t.poll_timeout().is_none());
}

#[test]
fn the_script_answers_itself_and_repeats_get_the_same_reply() {
    let mut sim = sim();
    assert!(!sim.t.wants_trying());
    sim.respond(200);
    sim.release();
    sim.now_ms = 500;
    sim.repeat_request();
    assert_eq!(sim.t.server_state(), ServerState::Completed);
    sim.run_out();
    sim.expect("0 SendReply\n500 SendReply again\n5000 Terminated");
}

#[test]
fn the_first_success_of_a_fork_wins_and_the_others_are_forgotten() {
    let mut sim = sim();
    sim.relay(3);
    sim.reply(1, 200);
    sim.run_to(600);
    sim.reply(0, 200);
    sim.reply(2, 404);
    sim.run_out();
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 SendRequest b2 #0
         0 Forward b1 200
         600 Absorbed b0 200
         600 Absorbed b2 404
         5000 Terminated",
    );
}

#[test]
fn a_reply_of_our_own_stops_all_branches() {
    let mut sim = sim();
    sim.add();
    sim.respond(503);
    sim.release();
    sim.run_to(4 * SECOND);
    assert!(!sim.t.has_pending_branches());
    assert!(sim.t.branch(b(0)).is_some());
    sim.expect("0 SendRequest b0 #0\n0 SendReply");
}

#[test]
fn what_lingers_only_repeats_and_absorbs() {
    let mut sim = sim();
    assert_eq!(sim.t.lingers_until(), None, "a script is at work");
    sim.relay(2);
    assert_eq!(sim.t.lingers_until(), None, "replies are awaited");
    sim.now_ms = 30;
    sim.reply(0, 200);
    assert_eq!(sim.t.lingers_until(), Some(sim.at(5030)));
    assert_eq!(sim.t.repeatable_reply(), *sim.t.last_reply());
    sim.run_out();
    assert_eq!(sim.t.lingers_until(), None, "it is gone");

    let mut invite = Sim::invite();
    invite.respond(486);
    invite.release();
    assert_eq!(invite.t.lingers_until(), None, "its ACK is awaited");

    let mut reliable = Sim::new(Kind::NonInvite, &Config { is_reliable: true, ..Config::default() });
    reliable.relay(1);
    reliable.reply(0, 200);
    assert_eq!(reliable.t.lingers_until(), Some(reliable.at(5000)), "for the branch, which is not reliable");
    assert!(reliable.t.repeatable_reply().is_empty());
}
