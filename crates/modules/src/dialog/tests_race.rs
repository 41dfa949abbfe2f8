//! Messages of a call that cross each other (RFC 5407), through a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::json;
use tandem_module::mi::MiParams;

use super::tests::{MODULES, PHONE, acknowledge, byes, reply, request, route_line, script, stats, with_sdp};
use crate::test_rig::{Rig, Sent};

const LOGS: &str = "route[END] { xlog(\"over: $DLG_end_reason\\n\"); } route[UP] { xlog(\"up\\n\"); }";

fn create(flags: &str) -> String {
    format!("create_dialog(\"{flags}\"); dlg_on_hangup(\"END\"); dlg_on_answer(\"UP\");")
}

/// The INVITE as it went to bob, who rings.
fn ringing(rig: &Rig) -> Sent {
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let invite = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    rig.receive_from(PHONE, reply(&invite, 180));
    rig.xlogs();
    invite
}

fn first(sent: &[Sent], start: &str) -> Sent {
    sent.iter().find(|sent| sent.first_line().starts_with(start)).unwrap_or_else(|| panic!("no {start}")).clone()
}

fn cancel(rig: &Rig) -> Vec<Sent> {
    rig.receive(request("CANCEL", "a", 7, "", ""))
}

/// Distinct requests of ours that end the call.
fn ends(sent: &[Sent]) -> Vec<String> {
    let mut ends = byes(sent);
    ends.sort();
    ends.dedup();
    ends
}

#[test]
fn a_200_that_crosses_the_cancel_is_a_call_until_it_is_ended() {
    for (flags, has_end) in [("bye-on-timeout", false), ("end-on-race-condition", true)] {
        let rig = Rig::script(&script("", &create(flags), LOGS));
        let invite = ringing(&rig);
        let sent = cancel(&rig);
        first(&sent, "SIP/2.0 200 ");
        rig.receive_from(PHONE, reply(&first(&sent, "CANCEL"), 481));
        let up = rig.receive_from(PHONE, reply(&invite, 200));
        first(&up, "SIP/2.0 200 ");
        acknowledge(&rig, &invite);
        assert_eq!(rig.xlogs(), ["up", "ACK 4 downstream"], "{flags}");
        assert_eq!(stats(&rig), [1, 0, 1, 0, 0]);
        let sent = rig.advance(Duration::from_secs(7));
        if has_end {
            assert_eq!(ends(&sent).len(), 2, "{sent:?}");
            assert_eq!(rig.xlogs(), ["over: SIP Race Condition"]);
            assert_eq!(stats(&rig)[0], 0);
        } else {
            assert_eq!((ends(&sent).len(), stats(&rig)[0]), (0, 1));
            rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
            assert_eq!(rig.xlogs(), ["BYE 5 downstream", "over: Downstream BYE"]);
        }
    }
}

#[test]
fn a_cancel_after_the_200_changes_nothing() {
    let rig = Rig::script(&script("", &create("end-on-race-condition"), LOGS));
    let invite = ringing(&rig);
    rig.receive_from(PHONE, reply(&invite, 200));
    let sent = cancel(&rig);
    assert!(sent.iter().all(|sent| !sent.first_line().starts_with("CANCEL")), "{sent:?}");
    acknowledge(&rig, &invite);
    assert_eq!(ends(&rig.advance(Duration::from_secs(7))).len(), 0);
    assert_eq!(stats(&rig), [1, 0, 1, 0, 0]);
}

#[test]
fn an_early_bye_ends_with_the_487_or_after_the_200_it_crossed() {
    for (code, flags) in [(487, "bye-on-timeout"), (200, "end-on-race-condition")] {
        let rig = Rig::script(&script("", &create(flags), LOGS));
        let invite = ringing(&rig);
        let sent = rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
        assert_eq!(rig.xlogs(), ["BYE 2 downstream"]);
        rig.receive_from(PHONE, reply(&first(&sent, "BYE"), 200));
        rig.receive_from(PHONE, reply(&invite, code));
        if code == 487 {
            assert_eq!(stats(&rig), [0, 0, 1, 0, 1]);
            continue;
        }
        // The two disagree about the call: both are told.
        assert_eq!(rig.xlogs(), ["up"]);
        assert_eq!(ends(&rig.advance(Duration::from_secs(7))).len(), 2);
        assert_eq!(rig.xlogs(), ["over: SIP Race Condition"]);
    }
}

#[test]
fn of_two_200_of_a_fork_the_first_is_the_call_and_the_other_is_ended_by_its_bye() {
    let text = format!(
        "{MODULES}route {{
            if ($rm == \"CANCEL\") {{ t_relay(); exit; }}
            if ($tt != NULL) {{ loose_route(); xlog(\"$rm $tt $DLG_status\\n\"); t_relay(); exit; }}
            {}
            append_branch(\"sip:bob@192.0.2.10:5062\");
            record_route(); t_relay();
        }}\n{LOGS}",
        create("bye-on-timeout")
    );
    let rig = Rig::script(&text);
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let invites: Vec<Sent> = out.into_iter().filter(|sent| sent.first_line().starts_with("INVITE")).collect();
    assert_eq!(invites.len(), 2);
    let answered = |at: usize, tag: &str| {
        let text = String::from_utf8(reply(&invites[at], 200)).unwrap();
        rig.receive_from(&invites[at].to.addr.to_string(), text.replace(";tag=phone", &format!(";tag={tag}")))
    };
    let one = answered(0, "one");
    first(&one, "SIP/2.0 200 ");
    // The other branch is being cancelled; its 200 goes upstream all the same (RFC 3261 §16.7).
    let two = answered(1, "two");
    first(&two, "SIP/2.0 200 ");
    assert_eq!(rig.xlogs(), ["up"]);
    for (tag, branch) in [("one", "b1"), ("two", "b2")] {
        rig.receive(request("ACK", branch, 7, &route_line(&invites[0]), &format!(";tag={tag}")));
    }
    assert_eq!(stats(&rig), [1, 0, 1, 0, 0]);
    rig.receive(request("BYE", "c2", 8, &route_line(&invites[0]), ";tag=two"));
    assert_eq!(stats(&rig)[0], 1, "the call is with the other phone");
    rig.receive(request("BYE", "c1", 9, &route_line(&invites[0]), ";tag=one"));
    assert_eq!(stats(&rig), [0, 0, 1, 0, 0]);
    assert_eq!(rig.xlogs(), ["ACK one 4", "ACK two 4", "BYE two 4", "BYE one 5", "over: Downstream BYE"]);
}

#[test]
fn a_200_repeated_after_its_ack_goes_upstream_and_begins_nothing() {
    let rig = Rig::script(&script("", &create("bye-on-timeout"), LOGS));
    let invite = ringing(&rig);
    for _ in 0..2 {
        first(&rig.receive_from(PHONE, reply(&invite, 200)), "SIP/2.0 200 ");
        assert_eq!(acknowledge(&rig, &invite).len(), 1);
    }
    assert_eq!(rig.xlogs(), ["up", "ACK 4 downstream", "ACK 4 downstream"]);
    rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    // One more, still on its way when the call was over.
    first(&rig.receive_from(PHONE, reply(&invite, 200)), "SIP/2.0 200 ");
    assert_eq!(stats(&rig), [0, 0, 1, 0, 0]);
    assert_eq!(rig.xlogs(), ["BYE 5 downstream", "over: Downstream BYE"]);
}

fn reliable(invite: &Sent, code: u16) -> String {
    let text = String::from_utf8(reply(invite, code)).unwrap();
    text.replace("Content-Length: 0", "Require: 100rel\r\nRSeq: 5\r\nContent-Length: 0")
}

#[test]
fn a_repeated_reliable_reply_gets_one_prack_and_the_200_may_come_before_its_answer() {
    let rig = Rig::script(&script("", &create("auto-prack"), LOGS));
    let out = rig.receive(request("INVITE", "a", 7, "", ""));
    let invite = first(&out, "INVITE");
    let prack = first(&rig.receive_from(PHONE, reliable(&invite, 183)), "PRACK");
    let again = rig.receive_from(PHONE, reliable(&invite, 183));
    assert!(again.iter().all(|sent| !sent.message().is_request()), "{again:?}");
    rig.receive_from(PHONE, reply(&invite, 200));
    acknowledge(&rig, &invite);
    assert!(rig.receive_from(PHONE, reply(&prack, 200)).is_empty());
    assert_eq!(stats(&rig), [1, 0, 1, 0, 0]);
    let bye = rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    // The PRACK took a number of the callee's.
    assert_eq!(first(&bye, "BYE").message().cseq().unwrap().0, 9);
}

/// What a re-INVITE ping to a party would carry.
fn ping_body(rig: &Rig, to: &str) -> Vec<u8> {
    let pings = rig.advance(Duration::from_secs(7));
    let ping = pings.iter().find(|sent| sent.first_line().starts_with("INVITE") && sent.to.addr.to_string() == to);
    ping.expect("no ping").message().body().to_vec()
}

const PINGS: &str = "modparam(\"dialog\", \"reinvite_ping_interval\", 5)";

#[test]
fn an_update_before_the_answer_is_the_session_that_counts() {
    let rig = Rig::script(&script(PINGS, &create("reinvite-ping-callee"), LOGS));
    let out = rig.receive(with_sdp(request("INVITE", "a", 7, "", ""), "application/sdp", "v=0 first"));
    let invite = first(&out, "INVITE");
    rig.receive_from(PHONE, with_sdp(reliable(&invite, 183), "application/sdp", "v=0 early"));
    let update =
        request("UPDATE", "u", 8, &route_line(&invite), ";tag=phone").replace("alice@127.0.3.9", "alice@127.0.3.8");
    let sent = rig.receive(with_sdp(update, "application/sdp", "v=0 second"));
    rig.receive_from(PHONE, reply(&first(&sent, "UPDATE"), 200));
    rig.receive_from(PHONE, reply(&invite, 200));
    acknowledge(&rig, &invite);
    let listed = rig.mi("dlg_list", MiParams::Positional(vec![json!("call-1")])).unwrap().to_string();
    assert!(listed.contains("alice@127.0.3.8"), "{listed}");
    assert_eq!(ping_body(&rig, PHONE), b"v=0 second");
}

#[test]
fn what_a_reliable_reply_has_said_the_200_need_not_repeat() {
    let rig = Rig::script(&script(PINGS, &create("reinvite-ping-caller"), LOGS));
    let out = rig.receive(with_sdp(request("INVITE", "a", 7, "", ""), "application/sdp", "v=0 offer"));
    let invite = first(&out, "INVITE");
    rig.receive_from(PHONE, with_sdp(reliable(&invite, 183), "application/sdp", "v=0 answer"));
    rig.receive_from(PHONE, reply(&invite, 200));
    acknowledge(&rig, &invite);
    assert_eq!(ping_body(&rig, crate::test_rig::PEER), b"v=0 answer");
}

#[test]
fn only_session_descriptions_are_kept_and_they_are_found_in_parts() {
    let parts = "--x\r\nContent-Type: application/isup\r\n\r\nbinary\r\n--x\r\nContent-Type: application/sdp\r\n\r\n\
                 v=0 part\r\n--x--\r\n";
    for (kind, body, expected) in [
        ("text/plain", "hello", ""),
        ("multipart/mixed;boundary=x", parts, "v=0 part"),
        ("application/sdp", "v=0 plain", "v=0 changed"),
    ] {
        let change = format!("{} subst_body(\"/plain/changed/\");", create("reinvite-ping-callee"));
        let rig = Rig::script(&script(&format!("loadmodule \"textops.so\"\n{PINGS}"), &change, LOGS));
        let out = rig.receive(with_sdp(request("INVITE", "a", 7, "", ""), kind, body));
        let invite = first(&out, "INVITE");
        rig.receive_from(PHONE, reply(&invite, 200));
        acknowledge(&rig, &invite);
        assert_eq!(String::from_utf8(ping_body(&rig, PHONE)).unwrap().trim_end(), expected, "{kind}");
    }
}
