//! The states of a dialog, case by case.

use super::{Bench, DOWN, UP, end_reason, words};
use crate::{
    DialogState, EndReason, InviteReply, LEGS_MAX, Method, Party, ValidationError, WithinRequest, dialog_flags,
};

#[test]
fn a_call_passes_through_all_states() {
    let mut bench = Bench::new();
    let id = bench.create("c", 0);
    assert_eq!(bench.state(id), Some(DialogState::Unconfirmed));
    assert_eq!(bench.reply(id, 100, ""), [""; 0], "100 is hop by hop");
    assert_eq!(bench.reply(id, 180, "b"), ["1>2"]);
    assert_eq!(bench.reply(id, 183, "b"), [""; 0]);
    assert_eq!(bench.table.totals().early, 1);
    bench.pass_secs(3);
    assert_eq!(bench.reply(id, 200, "b"), ["2>3", "answered"]);
    assert_eq!(bench.reply(id, 200, "b"), [""; 0], "a retransmitted 200");
    assert_eq!(bench.request("c", ("a", "b"), Method::Ack, 1).unwrap(), ["3>4"]);
    assert_eq!(bench.request("c", ("a", "b"), Method::Ack, 1).unwrap(), [""; 0]);
    let totals = bench.table.totals();
    assert_eq!((totals.early, totals.active, totals.processed), (0, 1, 1));
    bench.pass_secs(12);
    assert_eq!(bench.table.with_dialog(id, |dialog| dialog.duration_secs(bench.now.unix_secs)), Some(12));
    assert_eq!(bench.request("c", ("b", "a"), Method::Bye, 1).unwrap(), ["4>5", "end Upstream BYE 12"]);
    bench.pass_secs(1);
    assert_eq!(
        bench.table.with_dialog(id, |dialog| dialog.duration_secs(bench.now.unix_secs)),
        Some(12),
        "time stands still"
    );
    assert_eq!(bench.request("c", ("b", "a"), Method::Bye, 1).unwrap(), [""; 0], "a retransmitted BYE");
    let totals = bench.table.totals();
    assert_eq!((totals.active, totals.failed, totals.expired), (0, 0, 0));
}

#[test]
fn a_bye_may_come_from_either_side_and_before_the_ack() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    assert_eq!(bench.request("c", ("a", "b"), Method::Bye, 2).unwrap(), ["4>5", "end Downstream BYE 0"]);
    assert_eq!(end_reason(&bench, id), Some(EndReason::DownstreamBye));
    let id = bench.create("d", 0);
    bench.reply(id, 200, "b");
    assert_eq!(bench.request("d", ("b", "a"), Method::Bye, 1).unwrap(), ["3>5", "end Upstream BYE 0"]);
}

#[test]
fn a_failed_setup_is_counted_and_ends_once() {
    let bench = Bench::new();
    for (code, early) in [(302, false), (404, false), (486, true), (603, true)] {
        let id = bench.create("c", 0);
        if early {
            bench.reply(id, 180, "b");
        }
        let ended = format!("end Setup Failed ({code}) 0");
        assert_eq!(bench.reply(id, code, "b"), [if early { "2>5" } else { "1>5" }, &ended]);
        assert_eq!(bench.reply(id, code, "b"), [""; 0]);
    }
    let id = bench.create("c", 0);
    assert_eq!(bench.step(id, |dialog, now| dialog.on_failure(408, now)), ["1>5", "end Setup Failed (408) 0"]);
    let totals = bench.table.totals();
    assert_eq!((totals.failed, totals.early, totals.active, totals.processed), (5, 0, 0, 5));
}

#[test]
fn a_failure_response_does_not_end_an_answered_call() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    assert_eq!(bench.reply(id, 486, "other"), [""; 0]);
    assert_eq!(bench.step(id, |dialog, now| dialog.on_failure(408, now)), [""; 0]);
    assert_eq!(bench.state(id), Some(DialogState::Confirmed));
}

#[test]
fn an_answer_after_a_failure_brings_the_call_back() {
    let bench = Bench::new();
    let id = bench.create("c", 0);
    bench.table.set_profile(id, "inbound", None, false).unwrap();
    bench.reply(id, 487, "x");
    assert_eq!(bench.table.profile_size("inbound", None), Ok(0));
    assert_eq!(bench.reply(id, 200, "b"), ["5>3", "answered"]);
    assert_eq!((bench.table.totals().active, end_reason(&bench, id)), (1, None));
    assert_eq!(bench.table.profile_size("inbound", None), Ok(1));
    bench.request("c", ("a", "b"), Method::Bye, 2).unwrap();
    assert_eq!(bench.reply(id, 200, "b"), [""; 0], "but not after a BYE");
}

#[test]
fn forked_branches_are_legs_and_only_the_answering_one_counts() {
    let bench = Bench::new();
    let id = bench.create("c", 0);
    bench.reply(id, 180, "b1");
    bench.reply(id, 180, "b2");
    assert!(bench.request("c", ("b1", "a"), Method::Other, 1).is_some(), "an early branch may send requests");
    bench.reply(id, 200, "b2");
    let tags = bench.table.with_dialog(id, |dialog| {
        let tags: Vec<_> = dialog.legs().iter().map(|leg| String::from_utf8_lossy(&leg.tag).into_owned()).collect();
        (tags, dialog.to_tag().to_vec())
    });
    assert_eq!(tags, Some((vec!["a".into(), "b1".into(), "b2".into()], b"b2".to_vec())));
    assert_eq!(bench.request("c", ("a", "b1"), Method::Bye, 2).unwrap(), [""; 0], "BYE to a branch that lost");
    assert_eq!(bench.request("c", ("a", "b2"), Method::Bye, 2).unwrap(), ["3>5", "end Downstream BYE 0"]);
}

#[test]
fn more_branches_than_the_limit_are_not_followed() {
    let bench = Bench::new();
    let id = bench.create("c", 0);
    for branch in 0..100 {
        bench.reply(id, 180, &format!("b{branch}"));
    }
    assert_eq!(bench.table.with_dialog(id, |dialog| dialog.legs().len()), Some(LEGS_MAX));
    assert_eq!(bench.reply(id, 200, "b99"), ["2>3", "answered"], "the call itself works");
    assert_eq!(bench.request("c", ("a", "b99"), Method::Bye, 2), None);
}

#[test]
fn ending_from_outside_sends_bye_or_cancel() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    let ended = bench.step(id, |dialog, now| dialog.end(EndReason::MiTermination, now));
    assert_eq!(ended, ["bye Caller", "bye Callee", "4>5", "end MI Termination 0"]);
    assert_eq!(bench.step(id, |dialog, now| dialog.end(EndReason::MiTermination, now)), [""; 0]);
    let id = bench.create("d", 0);
    assert_eq!(bench.step(id, |dialog, now| dialog.end(EndReason::MiTermination, now)), ["cancel"]);
    assert_eq!(bench.state(id), Some(DialogState::Unconfirmed), "the 487 ends it");
    let id = bench.call("e", 0);
    let ended = bench.step(id, |dialog, now| dialog.end_silently(EndReason::Replicated, now));
    assert_eq!(ended, ["4>5", "end Replicated End 0"]);
}

#[test]
fn the_lifetime_ends_a_call_with_or_without_bye() {
    let mut bench = Bench::new();
    let quiet = bench.call("quiet", 0);
    let loud = bench.call("loud", dialog_flags::BYE_ON_TIMEOUT);
    for id in [quiet, loud] {
        bench.table.with_dialog(id, |dialog| dialog.set_lifetime(60, bench.now.monotonic)).unwrap();
    }
    bench.pass_secs(59);
    assert_eq!(bench.timeout(), [""; 0]);
    assert_eq!(bench.table.with_dialog(quiet, |dialog| dialog.remaining_secs(bench.now.monotonic)), Some(1));
    bench.pass_secs(1);
    let mut served = bench.timeout();
    served.sort();
    assert_eq!(
        served,
        ["4>5", "4>5", "bye Callee", "bye Caller", "end Lifetime Timeout 60", "end Lifetime Timeout 60"]
    );
    assert_eq!((bench.table.totals().expired, bench.table.totals().active), (2, 0));
    bench.pass_secs(5);
    assert_eq!(bench.timeout(), ["removed", "removed"]);
    assert_eq!((bench.table.totals().held, bench.table.poll_timeout()), (0, None));
}

#[test]
fn the_lifetime_set_before_the_answer_counts_from_the_answer() {
    let mut bench = Bench::new();
    let id = bench.create("c", 0);
    bench.table.with_dialog(id, |dialog| dialog.set_lifetime(60, bench.now.monotonic)).unwrap();
    assert_eq!(bench.table.with_dialog(id, |dialog| dialog.remaining_secs(bench.now.monotonic)), Some(60));
    bench.pass_secs(100);
    assert_eq!(bench.timeout(), [""; 0], "ringing is not limited by it");
    bench.reply(id, 200, "b");
    bench.pass_secs(60);
    assert_eq!(bench.timeout(), ["3>5", "end Lifetime Timeout 60"]);
}

#[test]
fn a_dialog_nobody_answers_is_given_up() {
    let mut bench = Bench::new();
    bench.create("c", 0);
    bench.pass_secs(3600);
    assert_eq!(bench.timeout(), ["1>5", "end Setup Failed (408) 0"]);
    assert_eq!(bench.table.totals().failed, 1);
}

#[test]
fn the_timeout_route_may_extend_the_call_or_let_it_end() {
    let mut bench = Bench::new();
    let id = bench.call("c", 0);
    bench.table.with_dialog(id, |dialog| {
        dialog.routes.on_timeout = "late".into();
        dialog.set_lifetime(60, bench.now.monotonic);
    });
    bench.pass_secs(60);
    assert_eq!(bench.timeout(), ["timeout-route"]);
    bench.table.with_dialog(id, |dialog| dialog.set_lifetime(30, bench.now.monotonic)).unwrap();
    assert_eq!(bench.step(id, |dialog, now| dialog.conclude_timeout(now)), [""; 0], "extended");
    bench.pass_secs(30);
    assert_eq!(bench.timeout(), ["timeout-route"]);
    assert_eq!(bench.step(id, |dialog, now| dialog.conclude_timeout(now)), ["4>5", "end Lifetime Timeout 90"]);
}

#[test]
fn a_timeout_route_that_never_concludes_does_not_keep_the_call() {
    let mut bench = Bench::new();
    let id = bench.call("c", 0);
    bench.table.with_dialog(id, |dialog| dialog.routes.on_timeout = "late".into());
    bench.pass_secs(43_200);
    assert_eq!(bench.timeout(), ["timeout-route"]);
    bench.pass_secs(10);
    assert_eq!(bench.timeout(), ["4>5", "end Lifetime Timeout 43210"]);
}

#[test]
fn a_race_ends_the_call_on_request() {
    for (flags, ends) in [(0, false), (dialog_flags::END_ON_RACE_CONDITION, true)] {
        let mut bench = Bench::new();
        let id = bench.create("c", flags);
        bench.reply(id, 180, "b");
        bench.table.with_dialog(id, |dialog| dialog.on_cancel()).unwrap();
        assert_eq!(bench.reply(id, 200, "b"), ["2>3", "answered"]);
        bench.pass_secs(5);
        let served = bench.timeout();
        if ends {
            assert_eq!(served, ["bye Caller", "bye Callee", "3>5", "end SIP Race Condition 5"]);
        } else {
            assert_eq!(served, [""; 0]);
        }
    }
}

#[test]
fn an_early_bye_is_noted_and_does_not_end_the_dialog() {
    let bench = Bench::new();
    let id = bench.create("c", 0);
    bench.reply(id, 180, "b");
    assert_eq!(bench.request("c", ("a", "b"), Method::Bye, 2).unwrap(), [""; 0]);
    assert_eq!(bench.state(id), Some(DialogState::Early));
    assert_eq!(bench.reply(id, 487, "b"), ["2>5", "end Setup Failed (487) 0"]);
    assert_eq!(bench.reply(id, 200, "b"), [""; 0]);
}

#[test]
fn cseq_and_target_are_checked_in_both_directions() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    let check = |direction, method, cseq, uri: &str| {
        let destination_leg = usize::from(direction == DOWN);
        let request = WithinRequest { method, cseq, direction, destination_leg, contact: b"" };
        bench
            .table
            .with_dialog(id, |dialog| {
                let valid = dialog.validate(&request, uri.as_bytes(), None);
                if valid.is_ok() {
                    dialog.on_request(&request, bench.now);
                }
                valid.map_err(ValidationError::return_code)
            })
            .unwrap()
    };
    let (to_callee, to_caller) = ("sip:bob@callee", "sip:alice@caller");
    assert_eq!(check(DOWN, Method::Other, 1, to_callee), Err(-1), "the INVITE had 1");
    assert_eq!(check(DOWN, Method::Invite, 2, to_callee), Ok(()));
    assert_eq!(check(DOWN, Method::Ack, 1, to_callee), Err(-1));
    assert_eq!(check(DOWN, Method::Ack, 2, to_callee), Ok(()));
    assert_eq!(check(DOWN, Method::Other, 2, to_callee), Err(-1));
    assert_eq!(check(DOWN, Method::Other, 9, to_callee), Ok(()));
    assert_eq!(check(UP, Method::Other, 500, to_caller), Ok(()), "the callee counts on its own");
    assert_eq!(check(UP, Method::Bye, 500, to_caller), Err(-1));
    assert_eq!(check(UP, Method::Bye, 501, "sip:mallory@elsewhere"), Err(-2));
    let request = WithinRequest { method: Method::Bye, cseq: 501, direction: UP, destination_leg: 0, contact: b"" };
    let result = bench.table.with_dialog(id, |dialog| {
        (
            dialog.validate(&request, to_caller.as_bytes(), Some(b"<sip:other;lr>")),
            dialog.validate(&request, to_caller.as_bytes(), Some(b"<sip:edge;lr>")),
            dialog.validate(&WithinRequest { destination_leg: 9, ..request }, b"", None),
        )
    });
    assert_eq!(result, Some((Err(ValidationError::InvalidRouteSet), Ok(()), Err(ValidationError::NoLeg))));
}

#[test]
fn a_reinvite_and_its_answer_refresh_the_contacts() {
    let bench = Bench::new();
    let id = bench.call("c", 0);
    let contacts = bench.table.with_dialog(id, |dialog| {
        let request = WithinRequest {
            method: Method::Invite,
            cseq: 7,
            direction: UP,
            destination_leg: 0,
            contact: b"sip:bob@moved",
        };
        dialog.on_request(&request, bench.now);
        dialog.on_target_refresh_reply(UP, b"sip:alice@moved");
        // A request that is no target refresh changes nothing.
        dialog.on_request(&WithinRequest { method: Method::Other, contact: b"sip:x", ..request }, bench.now);
        (dialog.caller().unwrap().contact.to_vec(), dialog.callee().unwrap().contact.to_vec())
    });
    assert_eq!(contacts, Some((b"sip:alice@moved".to_vec(), b"sip:bob@moved".to_vec())));
}

#[test]
fn generated_requests_carry_the_right_side_of_everything() {
    let bench = Bench::new();
    let id = bench.create("c", 0);
    let reply = InviteReply {
        code: 200,
        to_tag: b"b",
        contact: b"sip:bob@callee",
        route_set: b"<sip:core;lr>",
        socket: b"udp:10.0.0.2:5060",
    };
    bench.table.with_dialog(id, |dialog| {
        assert_eq!(dialog.sequential(Party::Callee), None, "not known yet");
        dialog.on_reply(&reply, bench.now);
        let bye = dialog.sequential(Party::Callee).unwrap();
        assert_eq!((bye.request_uri, bye.route_set, bye.cseq), (&b"sip:bob@callee"[..], &b"<sip:core;lr>"[..], 2));
        assert_eq!((bye.from_tag, bye.to_tag, bye.from_uri), (&b"a"[..], &b"b"[..], &b"sip:alice@d"[..]));
        assert_eq!(bye.socket, b"udp:10.0.0.2:5060");
        let bye = dialog.sequential(Party::Caller).unwrap();
        assert_eq!((bye.request_uri, bye.route_set, bye.cseq), (&b"sip:alice@caller"[..], &b"<sip:edge;lr>"[..], 1));
        assert_eq!(
            (bye.from_tag, bye.to_tag, bye.from_uri, bye.to_uri),
            (&b"b"[..], &b"a"[..], &b"sip:bob@d"[..], &b"sip:alice@d"[..])
        );
        assert_eq!(dialog.sequential(Party::Caller).unwrap().cseq, 2, "each one counts");
    });
}

#[test]
fn a_text_too_long_leaves_the_dialog_as_it_was() {
    let bench = Bench::new();
    let id = bench.create("c", 0);
    let long = vec![b'x'; 70_000];
    let reply = InviteReply { code: 200, to_tag: &long, ..InviteReply::default() };
    let events = bench.table.with_dialog(id, |dialog| dialog.on_reply(&reply, bench.now)).unwrap();
    assert_eq!(words(&events), ["1>3", "answered"]);
    assert_eq!(bench.table.with_dialog(id, |dialog| dialog.legs().len()), Some(1));
}
