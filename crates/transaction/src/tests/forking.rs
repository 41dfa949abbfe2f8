//! Several branches: whose reply goes up, and what happens to the others (RFC 3261 §16.7).

use super::{SECOND, Sim, b};
use crate::{AddBranchError, BranchSpec, CancelState, Config, Kind, MAX_BRANCHES, rank_reply};

/// Sends the codes to as many branches and returns the code that went up.
fn outcome(config: &Config, codes: &[u16]) -> u16 {
    let mut sim = Sim::new(Kind::Invite, config);
    sim.relay(codes.len());
    for (index, code) in codes.iter().enumerate() {
        sim.reply(index as u8, *code);
    }
    sim.t.sent_code()
}

#[test]
fn the_best_negative_reply_goes_up() {
    let config = Config::default();
    for (codes, best) in [
        (&[486, 404][..], 404),
        (&[404, 302], 302),
        (&[500, 480], 480),
        (&[486, 401], 401),
        (&[407, 401], 401),
        (&[403, 407], 407),
        (&[404, 415], 415),
        (&[404, 420], 420),
        (&[404, 484], 484),
        (&[408, 500], 500),
        (&[503, 408], 408),
        (&[503, 500, 502], 500),
        (&[487, 486], 486),
        (&[486, 603], 603),
        (&[486, 200], 200),
        (&[503, 302, 486, 401], 302),
    ] {
        assert_eq!(outcome(&config, codes), best, "{codes:?}");
        if !codes.iter().any(|code| *code >= 600 || *code == 200) {
            let turned: Vec<u16> = codes.iter().rev().copied().collect();
            assert_eq!(outcome(&config, &turned), best, "{turned:?}");
        }
    }
}

#[test]
fn a_487_wins_only_when_the_client_cancelled() {
    assert!(rank_reply(487, true) < rank_reply(603, true));
    assert!(rank_reply(487, false) > rank_reply(486, false));
    assert!(rank_reply(408, false) > rank_reply(599, false));
    assert!(rank_reply(503, false) > rank_reply(408, false));
}

#[test]
fn the_others_are_cancelled_when_one_answers() {
    let mut sim = Sim::relayed(3);
    sim.reply(0, 180);
    sim.now_ms = 100;
    sim.reply(2, 200);
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 SendRequest b2 #0
         0 Forward b0 180
         100 Forward b2 200
         100 SendCancel b0",
    );
    // The silent branch is not repeated any more, but a late ringing is stopped.
    assert_eq!(sim.t.branch(b(1)).unwrap().cancel_state(), CancelState::Wanted);
    sim.run_to(599);
    sim.expect("");
    sim.now_ms = 599;
    sim.reply(1, 180);
    sim.reply(0, 487);
    sim.t.handle_cancel_reply(b(0), 200, sim.now());
    sim.t.handle_cancel_reply(b(1), 200, sim.now());
    sim.reply(1, 487);
    sim.run_out();
    sim.expect(
        "599 SendCancel b1
         599 Absorbed b1 180
         599 SendAck b0
         599 Absorbed b0 487
         599 SendAck b1
         599 Absorbed b1 487
         32599 Terminated",
    );
}

#[test]
fn a_second_2xx_is_passed_up_too() {
    let mut sim = Sim::relayed(2);
    sim.reply(0, 200);
    sim.reply(1, 200);
    sim.reply(1, 200);
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 Forward b0 200
         0 PassThrough b1 200
         0 PassThrough b1 200",
    );
    assert_eq!(sim.t.branch(b(1)).unwrap().code(), 200);
}

#[test]
fn a_2xx_after_a_negative_final_went_up_is_passed_through_and_changes_nothing() {
    let mut sim = Sim::relayed(1);
    sim.run_to(30 * SECOND);
    sim.forget_log();
    let before = sim.timers();
    sim.reply(0, 200);
    sim.expect("30000 PassThrough b0 200");
    assert_eq!(sim.timers().replace("b0 M", "b0 D"), before);
    sim.run_to(31 * SECOND);
    sim.expect("30500 SendReply again");
}

#[test]
fn a_6xx_ends_the_forking_at_once() {
    let mut sim = Sim::relayed(3);
    sim.is_manual = true;
    sim.reply(0, 180);
    sim.reply(1, 603);
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 SendRequest b2 #0
         0 Forward b0 180
         0 SendAck b1
         0 Absorbed b1 603
         0 SendCancel b0
         0 AllFailed best b1 603",
    );
    assert_eq!(sim.t.check_new_branch(), Err(AddBranchError::Blocked));
    sim.fail_over_done();
    sim.reply(0, 487);
    sim.expect("0 Forward b1 603\n0 SendAck b0\n0 Absorbed b0 487");
}

#[test]
fn a_6xx_is_an_ordinary_failure_when_its_block_is_disabled() {
    let config = Config { disable_6xx_block: true, ..Config::default() };
    let mut sim = Sim::new(Kind::Invite, &config);
    sim.relay(2);
    sim.reply(0, 603);
    assert_eq!(sim.t.check_new_branch(), Ok(()));
    sim.reply(1, 486);
    assert_eq!(sim.t.sent_code(), 603);
}

#[test]
fn a_minor_branch_is_not_waited_for() {
    let mut sim = Sim::invite();
    sim.add();
    sim.add_spec(BranchSpec { is_minor: true, ..BranchSpec::default() });
    sim.release();
    sim.reply(1, 183);
    sim.reply(0, 486);
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 Forward b1 183
         0 SendAck b0
         0 Absorbed b0 486
         0 SendCancel b1
         0 AllFailed best b0 486
         0 Forward b0 486",
    );
}

#[test]
fn with_no_cancel_the_branches_go_on_after_a_2xx() {
    let config = Config { keep_branches_after_2xx: true, ..Config::default() };
    let mut sim = Sim::new(Kind::Invite, &config);
    sim.relay(2);
    sim.reply(0, 180);
    sim.reply(1, 200);
    sim.forget_log();
    sim.now_ms = 1000;
    sim.reply(0, 200);
    sim.expect("1000 PassThrough b0 200");
}

#[test]
fn transport_errors_on_all_branches_give_503() {
    let mut sim = Sim::relayed(2);
    sim.t.handle_transport_error(b(0), sim.now());
    sim.t.handle_transport_error(b(0), sim.now());
    sim.drain();
    assert_eq!(sim.t.sent_code(), 0);
    sim.t.handle_transport_error(b(1), sim.now());
    sim.drain();
    sim.expect(
        "0 SendRequest b0 #0
         0 SendRequest b1 #0
         0 AllFailed best b0 503
         0 LocalReply 503 of b0
         0 SendReply",
    );
    assert_eq!(sim.timers(), "G 500, H 32000");
}

#[test]
fn a_transport_error_on_one_branch_leaves_the_other_to_answer() {
    let mut sim = Sim::relayed(2);
    sim.t.handle_transport_error(b(0), sim.now());
    sim.reply(1, 486);
    assert_eq!(sim.t.sent_code(), 486);
}

#[test]
fn challenges_of_all_branches_can_be_collected() {
    let mut sim = Sim::relayed(3);
    sim.is_manual = true;
    sim.reply(0, 407);
    sim.reply(1, 401);
    sim.reply(2, 486);
    let challenged: Vec<(u8, Option<u16>)> =
        sim.t.challenged_branches().map(|(index, at)| (index.0, at.reply().copied())).collect();
    assert_eq!(challenged, [(0, Some(407)), (1, Some(401))]);
    sim.fail_over_done();
    // The engine kept the built reply: nothing is held any longer.
    assert!(sim.t.branches().all(|(_, branch)| branch.reply().is_none()));
}

#[test]
fn no_more_than_twelve_branches_can_be_added() {
    let mut sim = Sim::invite();
    for index in 0..MAX_BRANCHES {
        assert_eq!(sim.t.next_branch_index().as_usize(), index);
        sim.add();
    }
    let refused = sim.t.add_branch(BranchSpec::default(), sim.now());
    assert_eq!(refused, Err(AddBranchError::TooMany));
}

#[test]
fn dropped_branches_take_no_part() {
    let mut sim = Sim::invite();
    sim.add();
    sim.add();
    assert!(sim.t.drop_branch(b(0), sim.now()));
    sim.release();
    sim.reply(1, 486);
    assert_eq!(sim.t.sent_code(), 486);

    let mut sim = Sim::invite();
    sim.add();
    assert!(!sim.t.drop_branch(b(0), sim.now()));
    sim.drain();
    sim.expect("0 SendRequest b0 #0");
    sim.respond(477);
    sim.release();
    sim.expect("0 SendReply");
}
