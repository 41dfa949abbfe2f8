//! CANCEL in all its races (RFC 3261 §9, §16.10).

use super::{SECOND, Sim, b};
use crate::{AddBranchError, BranchSpec, CancelBranches, CancelState, Config, Kind};

#[test]
fn a_ringing_branch_is_cancelled_and_its_487_goes_up() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 180);
    sim.now_ms = 1000;
    assert!(sim.cancel());
    assert!(!sim.cancel(), "the second CANCEL changes nothing");
    assert!(sim.t.was_cancelled());
    sim.t.handle_cancel_reply(b(0), 200, sim.now());
    sim.now_ms = 1100;
    sim.reply(0, 487);
    sim.expect(
        "0 SendRequest b0 #0
         0 Forward b0 180
         1000 SendCancel b0
         1100 SendAck b0
         1100 Absorbed b0 487
         1100 AllFailed best b0 487
         1100 Forward b0 487",
    );
    assert_eq!(sim.t.check_new_branch(), Err(AddBranchError::Answered));
}

#[test]
fn before_a_provisional_the_cancel_waits_while_the_invite_goes_on() {
    let mut sim = Sim::relayed(1);
    sim.now_ms = 100;
    sim.cancel();
    assert_eq!(sim.t.branch(b(0)).unwrap().cancel_state(), CancelState::Wanted);
    sim.run_to(600);
    sim.reply(0, 100);
    sim.expect(
        "0 SendRequest b0 #0
         500 SendRequest b0 #1
         600 SendCancel b0
         600 Absorbed b0 100",
    );
    assert_eq!(sim.timers(), "b0 E 1100, b0 F 32600, b0 fr 32600");
    assert_eq!(sim.t.check_new_branch(), Err(AddBranchError::Cancelled));
}

#[test]
fn a_cancelled_branch_that_stays_silent_ends_as_487() {
    let mut sim = Sim::relayed(1);
    sim.cancel();
    sim.run_to(30 * SECOND);
    assert_eq!(sim.t.sent_code(), 487);
    sim.forget_log();
    // A phone that wakes up later is still stopped.
    sim.reply(0, 180);
    sim.expect("30000 SendCancel b0\n30000 Absorbed b0 180");
}

#[test]
fn a_cancel_is_repeated_until_answered() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 180);
    sim.cancel();
    sim.run_to(4 * SECOND);
    sim.t.handle_cancel_reply(b(0), 200, sim.now());
    sim.t.handle_cancel_reply(b(0), 200, sim.now());
    sim.run_to(31 * SECOND);
    sim.expect(
        "0 SendRequest b0 #0
         0 Forward b0 180
         0 SendCancel b0
         500 SendCancel b0 again
         1500 SendCancel b0 again
         3500 SendCancel b0 again",
    );
    // RFC 3261 §9.1: no final reply 64*T1 after the CANCEL.
    sim.run_to(32 * SECOND);
    sim.expect(
        "32000 Timeout b0 487 ringing
         32000 AllFailed best b0 487
         32000 LocalReply 487 of b0
         32000 SendReply",
    );
}

#[test]
fn a_provisional_answer_to_the_cancel_slows_it_to_t2() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 180);
    sim.cancel();
    sim.t.handle_cancel_reply(b(0), 100, sim.now());
    assert_eq!(sim.timers(), "b0 E 4000, b0 F 32000, b0 fr 32000");
}

#[test]
fn a_cancel_over_a_reliable_transport_is_sent_once() {
    let mut sim = Sim::invite();
    sim.add_spec(BranchSpec { is_reliable: true, ..BranchSpec::default() });
    sim.release();
    sim.reply(0, 180);
    sim.cancel();
    sim.run_to(31 * SECOND);
    sim.expect("0 SendRequest b0 #0\n0 Forward b0 180\n0 SendCancel b0");
}

#[test]
fn further_ringing_does_not_prolong_a_cancelled_branch() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 180);
    sim.cancel();
    sim.now_ms = 400;
    sim.reply(0, 180);
    assert_eq!(sim.timers(), "b0 E 500, b0 F 32000, b0 fr 32000");
}

#[test]
fn a_200_that_crosses_the_cancel_wins() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 180);
    sim.cancel();
    sim.now_ms = 20;
    sim.reply(0, 200);
    sim.t.handle_cancel_reply(b(0), 481, sim.now());
    sim.run_out();
    sim.expect(
        "0 SendRequest b0 #0
         0 Forward b0 180
         0 SendCancel b0
         20 Forward b0 200
         32020 Terminated",
    );
}

#[test]
fn a_200_after_the_487_went_up_is_passed_through() {
    let mut sim = Sim::relayed(2);
    sim.reply(0, 180);
    sim.reply(1, 180);
    sim.cancel();
    sim.reply(0, 487);
    sim.reply(1, 487);
    sim.forget_log();
    sim.reply(1, 200);
    sim.expect("0 PassThrough b1 200");
}

#[test]
fn a_cancel_after_the_final_reply_comes_too_late() {
    let mut sim = Sim::relayed(1);
    sim.reply(0, 200);
    assert!(!sim.cancel());
    assert!(!sim.t.was_cancelled());
}

#[test]
fn a_cancel_while_the_script_is_suspended_is_answered_487_at_once() {
    let mut sim = Sim::invite();
    sim.respond(100);
    sim.now_ms = 700;
    assert!(sim.cancel());
    sim.expect("0 SendReply\n700 LocalReply 487\n700 SendReply");
    let refused = sim.t.add_branch(BranchSpec::default(), sim.now());
    assert_eq!(refused, Err(AddBranchError::Answered));
    sim.ack();
    sim.run_to(20 * SECOND);
    assert!(!sim.t.is_terminated(), "the suspended script still needs it");
    sim.release();
    assert!(sim.t.is_terminated());
}

#[test]
fn a_cancel_of_another_method_does_nothing() {
    let mut sim = Sim::new(Kind::NonInvite, &Config::default());
    sim.relay(1);
    sim.reply(0, 183);
    assert!(!sim.cancel());
    sim.t.cancel_branches(CancelBranches::All, sim.now());
    sim.drain();
    sim.expect("0 SendRequest b0 #0\n0 Forward b0 183");
}

#[test]
fn the_script_can_cancel_one_the_others_or_all_branches() {
    for (which, cancelled) in [
        (CancelBranches::One(b(1)), vec![1]),
        (CancelBranches::Others(b(1)), vec![0, 2]),
        (CancelBranches::All, vec![0, 1, 2]),
    ] {
        let mut sim = Sim::relayed(3);
        for index in 0..3 {
            sim.reply(index, 180);
        }
        sim.t.cancel_branches(which, sim.now());
        sim.t.cancel_branches(which, sim.now());
        let sent: Vec<u8> = sim
            .t
            .branches()
            .filter(|(_, branch)| branch.cancel_state() == CancelState::Sent)
            .map(|(index, _)| index.0)
            .collect();
        assert_eq!(sent, cancelled);
        assert!(!sim.t.was_cancelled());
        assert_eq!(sim.t.check_new_branch(), Ok(()));
    }
}

#[test]
fn a_reply_of_our_own_cancels_the_branches() {
    let mut sim = Sim::relayed(2);
    sim.reply(0, 180);
    sim.respond(480);
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 Forward b0 180
         0 SendReply
         0 SendCancel b0",
    );
}
