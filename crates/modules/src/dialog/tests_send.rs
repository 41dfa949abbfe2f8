//! Requests made within a call: pings, PRACK, what a script sends; and the numbers of what passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use serde_json::json;
use tandem_module::mi::{MiParams, MiReply};

use super::tests::{MODULES, PHONE, acknowledge, byes, call, reply, request, route_line, script, stats, with_sdp};
use crate::test_rig::{PEER, Rig, RigOptions, Sent};

/// `METHOD receiver CSeq` of requests that were sent, without repetitions.
fn requests(sent: &[Sent]) -> Vec<String> {
    let is_new = |at: usize| !sent.iter().take(at).any(|before| before.bytes == sent[at].bytes);
    let requests = sent.iter().enumerate().filter(|(at, sent)| sent.message().is_request() && is_new(*at));
    requests
        .map(|(_, sent)| sent)
        .map(|sent| {
            let message = sent.message();
            let method = String::from_utf8_lossy(message.method_bytes()).into_owned();
            format!("{method} {} {}", sent.to.addr, message.cseq().unwrap().0)
        })
        .collect()
}

fn header(sent: &Sent, name: &str) -> String {
    let message = sent.message();
    let entry = message.header_by_name(name.as_bytes()).unwrap_or_else(|| panic!("no {name} in {}", sent.text()));
    String::from_utf8_lossy(message.value(entry)).into_owned()
}

fn answer(rig: &Rig, sent: &Sent, code: u16) -> Vec<Sent> {
    rig.receive_from(&sent.to.addr.to_string(), reply(sent, code))
}

#[test]
fn options_go_to_both_parties_and_later_requests_get_higher_numbers() {
    let params = "modparam(\"dialog\", \"options_ping_interval\", 5)";
    let rig = Rig::script(&script(params, "create_dialog(\"options-ping-caller,options-ping-callee\");", ""));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    assert_eq!(requests(&rig.advance(Duration::from_secs(3))), Vec::<String>::new());
    let pings = rig.advance(Duration::from_secs(4));
    assert_eq!(requests(&pings), [format!("OPTIONS {PEER} 1"), format!("OPTIONS {PHONE} 8")]);
    assert_eq!(header(&pings[1], "From"), "<sip:alice@example.org>;tag=alice");
    assert_eq!(header(&pings[1], "Contact"), "<sip:alice@127.0.3.9:5099>");
    for ping in &pings {
        answer(&rig, ping, 200);
    }
    let bye = rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(requests(&bye), [format!("BYE {PHONE} 9")]);
    let up = answer(&rig, &bye[0], 200);
    assert_eq!(header(&up[0], "CSeq"), "8 BYE");
    assert_eq!(requests(&rig.advance(Duration::from_secs(20))), Vec::<String>::new(), "no ping of a call that is over");
}

#[test]
fn a_party_that_gives_no_answer_or_knows_no_call_ends_it() {
    for code in [None, Some(481)] {
        let route = "route[END] { xlog(\"$DLG_end_reason\\n\"); }";
        let fr_timeout = if code.is_some() { 30 } else { 3 };
        let params =
            format!("modparam(\"dialog\", \"ping_interval\", 5)\nmodparam(\"tm\", \"fr_timeout\", {fr_timeout})");
        let rig = Rig::script(&script(&params, "create_dialog(\"p\"); dlg_on_hangup(\"END\");", route));
        let invite = call(&rig);
        acknowledge(&rig, &invite);
        rig.xlogs();
        let pings = rig.advance(Duration::from_secs(7));
        let mut sent = pings.clone();
        match code {
            Some(code) => sent.extend(answer(&rig, &pings[0], code)),
            None => sent.extend(rig.advance(Duration::from_secs(40))),
        }
        let mut ended = byes(&sent);
        ended.sort();
        ended.dedup();
        assert_eq!(
            ended.len(),
            2,
            "{code:?} {:?}",
            sent.iter().map(|sent| format!("{} {}", sent.first_line(), sent.to.addr)).collect::<Vec<_>>()
        );
        assert_eq!(rig.xlogs(), ["Ping Timeout"]);
        assert_eq!(stats(&rig)[0], 0);
    }
}

#[test]
fn re_invites_carry_the_session_and_are_acknowledged() {
    let params = "modparam(\"dialog\", \"reinvite_ping_interval\", 5)";
    let rig = Rig::script(&script(
        params,
        "create_dialog(\"reinvite-ping-callee\"); xlog(\"$DLG_reinvite_ping_interval $DLG_options_ping_interval\\n\");",
        "",
    ));
    let out = rig.receive(with_sdp(request("INVITE", "a", 7, "", ""), "application/sdp", "v=0 caller"));
    let invite = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    assert_eq!(rig.xlogs(), ["5 <null>"]);
    rig.receive_from(PHONE, with_sdp(String::from_utf8(reply(&invite, 200)).unwrap(), "application/sdp", "v=0 callee"));
    acknowledge(&rig, &invite);
    let pings = rig.advance(Duration::from_secs(7));
    assert_eq!(requests(&pings), [format!("INVITE {PHONE} 8")]);
    assert_eq!(pings[0].message().body(), b"v=0 caller");
    assert_eq!(header(&pings[0], "Content-Type"), "application/sdp");
    let ack = answer(&rig, &pings[0], 200);
    assert_eq!(requests(&ack), [format!("ACK {PHONE} 8")]);
    assert_eq!(stats(&rig)[0], 1);
    // A re-INVITE of the caller and its ACK get the same new number.
    let again = rig.receive(request("INVITE", "d", 8, &route_line(&invite), ";tag=phone"));
    let again = again.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    assert_eq!(header(&again, "CSeq"), "9 INVITE");
    let up = rig.receive_from(PHONE, reply(&again, 200));
    assert_eq!(header(&up[0], "CSeq"), "8 INVITE");
    let ack = rig.receive(request("ACK", "e", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(requests(&ack), [format!("ACK {PHONE} 9")]);
}

#[test]
fn the_interval_may_be_set_by_the_script_for_one_call() {
    let invite_part = "$DLG_options_ping_interval = 9; create_dialog(\"P\"); xlog(\"$DLG_options_ping_interval\\n\");";
    let rig = Rig::script(&script("", invite_part, ""));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    assert_eq!(rig.xlogs()[0], "9");
    assert_eq!(requests(&rig.advance(Duration::from_secs(7))).len(), 0);
    assert_eq!(requests(&rig.advance(Duration::from_secs(4))), [format!("OPTIONS {PEER} 1")]);
}

#[test]
fn the_local_route_sees_the_dialog_and_the_way() {
    let local = "local_route { if ($DLG_dir == \"UPSTREAM\") xlog(\"to the caller\\n\"); xlog(\"$rm $DLG_dir $DLG_status\\n\"); }";
    let rig = Rig::script(&script("", "create_dialog();", local));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    rig.xlogs();
    rig.mi("dlg_end_dlg", MiParams::Positional(vec![json!("call-1")])).unwrap();
    rig.settle();
    assert_eq!(rig.xlogs(), ["to the caller", "BYE upstream 5", "BYE downstream 5"]);
}

/// A reliable provisional reply.
fn reliable(sent: &Sent, tag: &str, rseq: u32) -> String {
    let text = String::from_utf8(reply(sent, 183)).unwrap().replace(";tag=phone", &format!(";tag={tag}"));
    text.replace("Content-Length: 0", &format!("Require: 100rel\r\nRSeq: {rseq}\r\nContent-Length: 0"))
}

#[test]
fn reliable_replies_are_acknowledged_by_the_script_or_by_the_flag() {
    let manual = "t_on_reply(\"PRACK\"); create_dialog();";
    let route = "onreply_route[PRACK] { if ($hdr(RSeq) != NULL) { if (!dlg_send_sequential(\"PRACK\", \"callee\")) xlog(\"failed\\n\"); } }";
    for (invite_part, more) in [(manual, route), ("create_dialog(\"auto-prack\");", "")] {
        let rig = Rig::script(&script("", invite_part, more));
        let out = rig.receive(request("INVITE", "a", 7, "", ""));
        let invite = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
        let mut seen = Vec::new();
        for (tag, rseq) in [("one", 41), ("two", 7), ("one", 42)] {
            let sent = rig.receive_from(PHONE, reliable(&invite, tag, rseq));
            let prack = sent.iter().find(|sent| sent.first_line().starts_with("PRACK")).expect("no PRACK");
            let to = header(prack, "To");
            seen.push(format!(
                "{} {} {}",
                header(prack, "RAck"),
                header(prack, "CSeq"),
                to.rsplit('=').next().unwrap()
            ));
            answer(&rig, prack, 200);
        }
        assert_eq!(seen, ["41 7 INVITE 8 PRACK one", "7 7 INVITE 8 PRACK two", "42 7 INVITE 9 PRACK one"]);
        assert_eq!(rig.xlogs(), Vec::<String>::new());
    }
}

#[test]
fn a_prack_that_fails_ends_the_call_only_when_asked_to() {
    for (hangs_up, codes) in [(0, 0), (1, 1)] {
        let params = format!(
            "modparam(\"dialog\", \"auto_prack_hangup_on_failure\", {hangs_up})\nmodparam(\"dialog\", \"auto_prack_fr_timeout\", 2)"
        );
        let rig = Rig::script(&script(&params, "create_dialog(\"auto-prack\");", ""));
        let out = rig.receive(request("INVITE", "a", 7, "", ""));
        let invite = out.into_iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
        rig.receive_from(PHONE, reliable(&invite, "one", 1));
        let sent = rig.advance(Duration::from_secs(4));
        let replies = sent.iter().filter(|sent| sent.first_line() == "SIP/2.0 502 Bad Gateway");
        assert_eq!(usize::from(replies.count() > 0), codes, "{sent:?}");
    }
}

#[test]
fn routes_armed_in_the_local_route_see_the_outcome() {
    let local = "local_route { if ($rm == \"INFO\") { $avp(mark) = \"m\"; $T_fr_timeout = 2; t_on_failure(\"LATE\"); t_on_reply(\"IN\"); } }
        onreply_route[IN] { xlog(\"reply $rs $avp(mark) $DLG_status\\n\"); }
        failure_route[LATE] { xlog(\"failed $T_reply_code $avp(mark) $rm\\n\"); }";
    let within =
        "if ($rm == \"INFO\") { dlg_send_sequential(\"INFO\", \"callee\", \"x=1\", \"text/x\", \"X-Y: z\"); exit; }";
    let rig = Rig::script(&format!(
        "{MODULES}route {{
            if ($tt != NULL) {{ loose_route(); {within} t_relay(); exit; }}
            create_dialog(); record_route(); t_relay();
        }}\n{local}"
    ));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    let sent = rig.receive(request("INFO", "i", 8, &route_line(&invite), ";tag=phone"));
    let info = sent.iter().find(|sent| sent.first_line().starts_with("INFO")).unwrap();
    assert_eq!((header(info, "X-Y"), info.message().body()), ("z".to_owned(), &b"x=1"[..]));
    answer(&rig, info, 488);
    assert_eq!(rig.xlogs(), ["reply 488 m 4", "failed 488 m INFO"]);
    rig.receive(request("INFO", "j", 9, &route_line(&invite), ";tag=phone"));
    rig.advance(Duration::from_secs(3));
    assert_eq!(rig.xlogs(), ["failed 408 m INFO"]);
}

#[test]
fn a_request_gets_the_routing_that_the_dialog_knows() {
    let rig = Rig::script(&format!(
        "{MODULES}route {{
            if ($tt != NULL) {{
                loose_route();
                if (!validate_dialog()) {{ xlog(\"$rc\\n\"); fix_route_dialog(); dlg_inc_cseq(); }}
                t_relay(); exit;
            }}
            create_dialog(); record_route(); t_relay();
        }}"
    ));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    let odd = request("INFO", "i", 8, &route_line(&invite), ";tag=phone").replacen(PHONE, "203.0.113.9", 1);
    let sent = rig.receive(odd);
    assert_eq!(requests(&sent), [format!("INFO {PHONE} 8")]);
    assert_eq!(sent[0].first_line(), format!("INFO sip:bob@{PHONE} SIP/2.0"));
    assert_eq!(rig.xlogs(), ["-2"]);
    let next = rig.receive(request("INFO", "j", 9, &route_line(&invite), ";tag=phone"));
    assert_eq!(requests(&next), [format!("INFO {PHONE} 10")], "one number was used up");
}

#[test]
fn management_sends_within_a_call_and_tells_the_outcome() {
    let rig = Rig::script(&script("", "create_dialog();", ""));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    let named = |pairs: &[(&str, &str)]| {
        MiParams::Named(pairs.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect())
    };
    for (bad, value) in [("mode", "both"), ("method", "ACK"), ("body", "odd")] {
        assert!(rig.mi("dlg_send_sequential", named(&[("callid", "call-1"), (bad, value)])).is_err(), "{bad}");
    }
    assert_eq!(rig.mi("dlg_send_sequential", named(&[("callid", "none")])).unwrap_err().code, 404);
    let reply_to = rig.node.mi.run(
        "dlg_send_sequential",
        named(&[("callid", "call-1"), ("method", "REFER"), ("mode", "callee"), ("headers", "Refer-To: <sip:c@d>")]),
    );
    let MiReply::Later(mut reply_to) = reply_to else { panic!("at once") };
    let mut polling = TaskContext::from_waker(Waker::noop());
    assert!(reply_to.as_mut().poll(&mut polling).is_pending());
    let sent = rig.take_sent();
    assert_eq!(requests(&sent), [format!("REFER {PHONE} 8")]);
    assert_eq!(header(&sent[0], "Refer-To"), "<sip:c@d>");
    answer(&rig, &sent[0], 202);
    assert_eq!(reply_to.as_mut().poll(&mut polling), Poll::Ready(Ok(json!({ "Code": 202, "Reason": "Accepted" }))));
}

#[test]
fn shared_profiles_are_counted_in_the_key_value_store() {
    let rig = Rig::script(&format!(
        "loadmodule \"cachedb_local.so\"\n{MODULES}modparam(\"dialog\", \"cachedb_url\", \"local://\")\n\
         modparam(\"dialog\", \"profiles_with_value\", \"caller/s\")\nmodparam(\"dialog\", \"profiles_no_value\", \"all/s\")\nroute {{
            if ($tt != NULL) {{ loose_route(); t_relay(); exit; }}
            create_dialog(); set_dlg_profile(\"caller\", $fU); set_dlg_profile(\"caller\", $fU); set_dlg_profile(\"all\");
            cache_add(\"local\", \"dlg_val_caller_alice\", 4, 0);
            get_profile_size(\"caller\", $fU, $var(n)); get_profile_size(\"caller\", $var(m)); get_profile_size(\"all\", $var(k));
            xlog(\"$var(n) $var(m) $var(k)\\n\");
            unset_dlg_profile(\"all\"); get_profile_size(\"all\", $var(k)); xlog(\"$var(k)\\n\");
            record_route(); t_relay();
        }}"
    ));
    let invite = call(&rig);
    acknowledge(&rig, &invite);
    assert_eq!(rig.xlogs(), ["5 1 1", "0"]);
    let size = |value: &str| {
        let params = MiParams::Positional(vec![json!("caller"), json!(value)]);
        rig.mi("profile_get_size", params).unwrap()["Profile"].clone()
    };
    assert_eq!(
        size("alice"),
        json!({ "name": "caller", "value": "alice", "count": 5, "shared": "yes", "replicated": "no" })
    );
    assert_eq!(size("bob")["count"], 0);
    rig.receive(request("BYE", "c", 8, &route_line(&invite), ";tag=phone"));
    assert_eq!(size("alice")["count"], 4, "the other node's calls are left");
    let error = Rig::try_script(
        &format!("{MODULES}modparam(\"dialog\", \"cachedb_url\", \"redis:g://h\")\nroute {{ exit; }}"),
        RigOptions::default(),
    );
    assert!(error.err().unwrap().contains("no key-value store 'redis:g'"));
}
