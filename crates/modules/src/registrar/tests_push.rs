//! Push notifications through scripts: registered, woken, reached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::test_rig::{Rig, RigOptions, Sent};

const HEAD: &str = "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\nloadmodule \"tm.so\"\n\
    loadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\nmodparam(\"registrar\", \"pn_enable\", 1)\n\
    modparam(\"registrar\", \"pn_providers\", \"fcm, apns\")\n";

const ROUTES: &str = "route {
        if ($rm == \"REGISTER\") { save(\"location\"); exit; }
        if ($rm == \"CANCEL\") { t_relay(); exit; }
        if ($tt != NULL) { async(pn_process_purr(\"location\"), WITHIN); }
        lookup(\"location\"); $var(rc) = $rc; xlog(\"lookup $var(rc)\\n\");
        if ($var(rc) == 1) t_relay();
        if ($var(rc) < 0) send_reply(404, \"Not Found\");
    }
    route[WITHIN] { xlog(\"within $rc\\n\"); send_reply(200, \"OK\"); }
    event_route[E_UL_CONTACT_REFRESH] { xlog(\"push $param(aor) $param(reason) $param(req_callid)\\n\"); }\n";

fn rig(params: &str) -> Rig {
    Rig::script(&format!("{HEAD}{params}\n{ROUTES}"))
}

const PUSH: &str = ";pn-provider=fcm;pn-prid=device-1;pn-param=app";

fn register(rig: &Rig, cseq: u32, contact: &str, more: &str) -> String {
    let sent = rig.receive(format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKr{cseq}\r\n\
         From: <sip:bob@example.org>;tag=f\r\nTo: <sip:bob@example.org>\r\nCall-ID: reg\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <{contact}>;expires=600\r\n{more}Content-Length: 0\r\n\r\n"
    ));
    sent.iter().find(|sent| sent.first_line().starts_with("SIP/2.0")).unwrap().text()
}

fn request(rig: &Rig, method: &str, uri: &str, branch: &str, to_tag: &str) -> Vec<Sent> {
    rig.receive(format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.org>;tag=a\r\nTo: <sip:bob@example.org>{to_tag}\r\nCall-ID: call-1\r\n\
         CSeq: 1 {method}\r\nContact: <sip:alice@127.0.3.9:5099>\r\nContent-Length: 0\r\n\r\n"
    ))
}

fn invite(rig: &Rig) -> Vec<Sent> {
    request(rig, "INVITE", "sip:bob@example.org", "i", "")
}

fn lines(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(Sent::first_line).collect()
}

fn caps(reply: &str) -> Vec<&str> {
    reply.lines().filter_map(|line| line.strip_prefix("Feature-Caps: ")).collect()
}

#[test]
fn a_sleeping_phone_is_woken_and_gets_the_call_when_it_registers() {
    let rig = rig("");
    register(&rig, 1, &format!("sip:bob@192.0.2.5:5070{PUSH}"), "");
    assert_eq!(lines(&invite(&rig)), ["SIP/2.0 100 Giving it a try"]);
    assert_eq!(rig.xlogs(), ["lookup 2", "push bob@example.org ini-INVITE call-1"]);
    // It wakes up at another address; what names it are its parameters, which go no further.
    let sent = rig.receive(format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKr2\r\n\
             From: <sip:bob@example.org>;tag=f\r\nTo: <sip:bob@example.org>\r\nCall-ID: reg\r\nCSeq: 2 REGISTER\r\n\
             Contact: <sip:bob@192.0.2.77:5071{PUSH};x=y>;expires=600\r\nContent-Length: 0\r\n\r\n"
    ));
    let call = sent.iter().find(|sent| sent.first_line().starts_with("INVITE")).expect("no INVITE");
    assert_eq!(call.first_line(), "INVITE sip:bob@192.0.2.77:5071;x=y SIP/2.0");
    assert_eq!(call.to.addr.to_string(), "192.0.2.77:5071");
    // A further registration makes no further branch.
    let reply = register(&rig, 3, &format!("sip:bob@192.0.2.77:5071{PUSH}"), "");
    assert_eq!(reply.matches("<sip:bob@192.0.2.").count(), 1, "one binding: {reply}");
    assert!(lines(&rig.take_sent()).is_empty());
}

#[test]
fn a_phone_that_does_not_wake_up_ends_the_call_and_is_late_afterwards() {
    let rig = rig("modparam(\"registrar\", \"pn_refresh_timeout\", 4)");
    register(&rig, 1, &format!("sip:bob@192.0.2.5{PUSH}"), "");
    invite(&rig);
    let sent = rig.advance(Duration::from_secs(5));
    let finals: Vec<String> = lines(&sent).into_iter().filter(|line| !line.contains(" 100 ")).collect();
    assert!(!finals.is_empty() && finals.iter().all(|line| line.starts_with("SIP/2.0 4")), "{finals:?}");
    register(&rig, 2, &format!("sip:bob@192.0.2.5{PUSH}"), "");
    assert!(lines(&rig.take_sent()).iter().all(|line| !line.starts_with("INVITE")));
}

#[test]
fn phones_that_are_awake_ring_at_once_beside_those_that_are_woken() {
    let rig = rig("");
    register(&rig, 1, &format!("sip:bob@192.0.2.5{PUSH}"), "");
    register(&rig, 2, "sip:bob@192.0.2.6", "");
    assert_eq!(lines(&invite(&rig))[1..], ["INVITE sip:bob@192.0.2.6 SIP/2.0"]);
    assert_eq!(rig.xlogs(), ["lookup 1", "push bob@example.org ini-INVITE call-1"]);
    let awake = rig.receive(format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKr3\r\n\
             From: <sip:bob@example.org>;tag=f\r\nTo: <sip:bob@example.org>\r\nCall-ID: reg\r\nCSeq: 3 REGISTER\r\n\
             Contact: <sip:bob@192.0.2.5{PUSH}>;expires=600\r\nContent-Length: 0\r\n\r\n"
    ));
    assert!(lines(&awake).contains(&"INVITE sip:bob@192.0.2.5 SIP/2.0".to_owned()), "{:?}", lines(&awake));
}

#[test]
fn one_that_has_just_registered_needs_no_push() {
    let rig = rig("modparam(\"registrar\", \"pn_skip_pn_interval\", 30)");
    register(&rig, 1, &format!("sip:bob@192.0.2.5{PUSH}"), "");
    assert_eq!(lines(&invite(&rig))[1..], ["INVITE sip:bob@192.0.2.5 SIP/2.0"]);
    assert_eq!(rig.xlogs(), ["lookup 1"]);
}

#[test]
fn the_answer_tells_what_is_there_and_refuses_what_is_not() {
    let rig = rig("modparam(\"registrar\", \"pn_enable_purr\", 1)");
    let reply = register(&rig, 1, "sip:bob@192.0.2.5;pn-provider", "");
    assert_eq!(caps(&reply), ["*;+sip.pns=\"fcm\"", "*;+sip.pns=\"apns\""]);
    let reply = register(&rig, 2, "sip:bob@192.0.2.5;pn-provider=apns", "");
    assert_eq!(caps(&reply), ["*;+sip.pns=\"apns\""]);
    let reply = register(&rig, 3, &format!("sip:bob@192.0.2.5{PUSH}"), "");
    assert!(caps(&reply)[0].starts_with("*;+sip.pns=\"fcm\";+sip.pnsreg=\"130\";+sip.pnspurr=\""), "{reply}");
    for (cseq, contact) in [
        (4, "sip:bob@192.0.2.5;pn-provider=acme;pn-prid=1;pn-param=2"),
        (5, "sip:bob@192.0.2.5;pn-provider=fcm;pn-prid=1"),
    ] {
        let reply = register(&rig, cseq, contact, "");
        assert!(reply.starts_with("SIP/2.0 555 Push Notification Service Not Supported\r\n"), "{reply}");
    }
    // Another proxy on the way sends the pushes.
    let reply = register(&rig, 6, &format!("sip:bob@192.0.2.5{PUSH}"), "Feature-Caps: *;+sip.pns=\"fcm\"\r\n");
    assert_eq!(caps(&reply), Vec::<&str>::new());
    let reached = lines(&invite(&rig));
    assert!(reached[1..].iter().all(|line| line == "INVITE sip:bob@192.0.2.5 SIP/2.0"), "{reached:?}");
    assert_eq!(rig.xlogs(), ["lookup 1"]);
}

#[test]
fn a_request_within_a_call_waits_for_the_phone_it_wakes() {
    let rig = rig("modparam(\"registrar\", \"pn_enable_purr\", 1)");
    let contact = format!("sip:bob@192.0.2.5{PUSH}");
    let reply = register(&rig, 1, &contact, "");
    let purr = caps(&reply)[0].rsplit("pnspurr=\"").next().unwrap().trim_end_matches('"').to_owned();
    let with = |purr: &str| format!("sip:bob@192.0.2.5;pn-purr={purr}");
    assert!(lines(&request(&rig, "BYE", &with(&purr), "b1", ";tag=b")).is_empty());
    assert_eq!(rig.xlogs(), ["push bob@example.org mid-BYE call-1"]);
    register(&rig, 2, &contact, "");
    assert_eq!(rig.xlogs(), ["within 1"]);
    // One that does not come does not hold it up for ever.
    request(&rig, "BYE", &with(&purr), "b2", ";tag=b");
    rig.xlogs();
    assert_eq!(lines(&rig.advance(Duration::from_secs(7))), ["SIP/2.0 200 OK"]);
    assert_eq!(rig.xlogs(), ["within 1"]);
    for foreign in ["000.00000.00000000", "somebody-elses"] {
        let sent = request(&rig, "BYE", &with(foreign), foreign, ";tag=b");
        assert_eq!(lines(&sent), ["SIP/2.0 200 OK"]);
        assert_eq!(rig.xlogs(), ["within 2"]);
    }
}

#[test]
fn a_phone_is_woken_before_its_registration_expires() {
    let rig = rig("modparam(\"usrloc\", \"contact_refresh_timer\", 1)");
    let contact = format!("sip:bob@192.0.2.5{PUSH}");
    register(&rig, 1, &contact, "");
    rig.advance(Duration::from_secs(470));
    assert_eq!(rig.xlogs(), Vec::<String>::new());
    rig.advance(Duration::from_secs(20));
    assert_eq!(rig.xlogs(), ["push bob@example.org reg-refresh "]);
    rig.advance(Duration::from_secs(20));
    assert_eq!(rig.xlogs(), Vec::<String>::new(), "once is enough");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    for (params, expected) in [
        ("modparam(\"registrar\", \"pn_providers\", \",\")", "pn_providers"),
        ("modparam(\"registrar\", \"pn_ct_match_params\", \"\")", "at least one parameter"),
        ("modparam(\"registrar\", \"pn_trigger_interval\", -1)", "pn_trigger_interval"),
    ] {
        let error = Rig::try_script(&format!("{HEAD}{params}\n{ROUTES}"), RigOptions::default()).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
    let without_tm = HEAD.replace("loadmodule \"tm.so\"\n", "");
    let error = Rig::try_script(&format!("{without_tm}route {{ save(\"location\"); }}"), RigOptions::default());
    assert!(error.err().unwrap().contains("tm.so"));
}
