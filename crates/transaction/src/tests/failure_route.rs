//! The decision point: failure route, DNS fail-over, serial forking, injected branches.

use super::{SECOND, Sim, b};
use crate::{BranchSpec, CancelBranches, FailOver};

fn failed(code: u16) -> Sim {
    let mut sim = Sim::relayed(1);
    sim.is_manual = true;
    sim.reply(0, code);
    sim
}

#[test]
fn new_branches_are_waited_for_and_only_they_count() {
    let mut sim = failed(404);
    assert!(sim.t.is_deciding());
    assert_eq!(sim.t.branch(b(0)).unwrap().reply(), Some(&404));
    sim.add();
    assert_eq!(sim.t.active_branches(), 1..2);
    assert_eq!(sim.t.fail_over_done(sim.now()), FailOver::WaitsForBranches);
    sim.now_ms = 50;
    sim.reply(1, 486);
    sim.expect(
        "0 SendRequest b0 #0
         0 SendAck b0
         0 Absorbed b0 404
         0 AllFailed best b0 404
         0 SendRequest b1 #0
         50 SendAck b1
         50 Absorbed b1 486
         50 AllFailed best b1 486",
    );
    assert_eq!(sim.t.fail_over_done(sim.now()), FailOver::UsesBest);
    sim.drain();
    sim.expect("50 Forward b1 486");
}

#[test]
fn the_failure_route_may_answer_itself() {
    let mut sim = failed(486);
    sim.forget_log();
    sim.respond(302);
    assert_eq!(sim.t.fail_over_done(sim.now()), FailOver::NothingOwed);
    sim.drain();
    sim.expect("0 SendReply");
    assert_eq!(sim.t.sent_code(), 302);
}

#[test]
fn a_new_branch_that_fails_inside_the_failure_route_puts_the_question_again() {
    let mut sim = failed(486);
    sim.add();
    sim.t.handle_transport_error(b(1), sim.now());
    sim.forget_log();
    sim.fail_over_done();
    sim.expect("0 AllFailed best b1 503");
    sim.fail_over_done();
    sim.expect("0 LocalReply 503 of b1");
}

#[test]
fn a_new_branch_taken_back_leaves_the_old_best() {
    let mut sim = failed(486);
    sim.add();
    sim.t.drop_branch(b(1), sim.now());
    sim.forget_log();
    sim.fail_over_done();
    sim.expect("0 Forward b0 486");
}

#[test]
fn a_decision_the_engine_forgets_is_closed_by_fr() {
    let mut sim = failed(486);
    sim.forget_log();
    sim.run_to(30 * SECOND);
    sim.expect("30000 Forward b0 486");
    assert_eq!(sim.t.fail_over_done(sim.now()), FailOver::NothingOwed);
}

#[test]
fn a_cancel_inside_the_decision_lets_the_best_reply_go_up() {
    let mut sim = failed(486);
    sim.forget_log();
    sim.cancel();
    assert!(sim.t.check_new_branch().is_err());
    sim.fail_over_done();
    sim.expect("0 Forward b0 486");
}

#[test]
fn a_late_2xx_settles_an_open_decision() {
    let mut sim = Sim::relayed(1);
    sim.is_manual = true;
    sim.run_to(30 * SECOND);
    sim.forget_log();
    sim.reply(0, 200);
    sim.fail_over_done();
    sim.expect("30000 Forward b0 200");
}

#[test]
fn twelve_serial_attempts_end() {
    let mut sim = failed(404);
    let mut count = 1;
    while sim.t.add_branch(BranchSpec::default(), sim.now()).is_ok() {
        sim.fail_over_done();
        sim.reply(count, 404);
        assert!(sim.t.is_deciding());
        count += 1;
    }
    assert_eq!(count, 12);
    sim.fail_over_done();
    assert_eq!(sim.t.sent_code(), 404);
}

#[test]
fn a_waiting_transaction_takes_injected_branches() {
    let mut sim = Sim::invite();
    sim.t.wait_for_new_branches(Some(3), sim.now());
    sim.add();
    sim.release();
    sim.reply(0, 480);
    sim.expect("0 SendRequest b0 #0\n0 SendAck b0\n0 Absorbed b0 480");
    assert_eq!(sim.timers(), "b0 D 32000, fr_inv 120000");
    sim.now_ms = 5000;
    sim.add();
    sim.add();
    sim.reply(1, 486);
    sim.reply(2, 404);
    sim.expect(
        "5000 SendRequest b1 #0
         5000 SendRequest b2 #0
         5000 SendAck b1
         5000 Absorbed b1 486
         5000 SendAck b2
         5000 Absorbed b2 404
         5000 AllFailed best b2 404
         5000 Forward b2 404",
    );
}

#[test]
fn waiting_ends_with_fr_inv_with_the_script_or_with_the_client() {
    let waiting = || {
        let mut sim = Sim::invite();
        sim.t.wait_for_new_branches(None, sim.now());
        sim.release();
        sim
    };
    let mut sim = waiting();
    sim.run_to(120 * SECOND);
    sim.expect("120000 AllFailed 408\n120000 LocalReply 408\n120000 SendReply");

    let mut sim = waiting();
    sim.cancel();
    sim.expect("0 LocalReply 487\n0 SendReply");

    let mut sim = waiting();
    sim.add();
    sim.reply(0, 486);
    sim.forget_log();
    sim.t.wait_no_more_branches(sim.now());
    sim.drain();
    sim.expect("0 AllFailed best b0 486\n0 Forward b0 486");

    // None has come at all: the client is answered all the same.
    let mut sim = waiting();
    sim.t.wait_no_more_branches(sim.now());
    sim.drain();
    sim.expect("0 AllFailed 408\n0 LocalReply 408\n0 SendReply");
}

#[test]
fn a_failure_route_may_wait_for_branches() {
    let mut sim = failed(480);
    sim.t.wait_for_new_branches(None, sim.now());
    assert_eq!(sim.t.fail_over_done(sim.now()), FailOver::WaitsForBranches);
    sim.forget_log();
    sim.now_ms = 3000;
    sim.add();
    sim.reply(1, 200);
    sim.expect("3000 SendRequest b1 #0\n3000 Forward b1 200");
}

#[test]
fn a_branch_cancelled_by_the_script_fails_over_to_a_new_one() {
    let mut sim = Sim::relayed(1);
    sim.is_manual = true;
    sim.reply(0, 183);
    sim.t.cancel_branches(CancelBranches::One(b(0)), sim.now());
    sim.reply(0, 487);
    assert!(sim.t.is_deciding());
    sim.add();
    sim.fail_over_done();
    sim.reply(1, 200);
    assert_eq!(sim.t.sent_code(), 200);
}
