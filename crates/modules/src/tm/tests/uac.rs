//! Requests of our own.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tandem_module::mi::MiParams;
use tandem_module::transport::Proto;

use super::{answer, lines, request, script, stat};
use crate::tm::uac::{RequestSpec, UacDone, send_request};

pub(super) fn spec(uri: &str) -> RequestSpec {
    RequestSpec {
        uri: uri.into(),
        from: b"<sip:us@example.org>".to_vec(),
        to: b"<sip:them@example.org>".to_vec(),
        ..RequestSpec::default()
    }
}

pub(super) type Codes = Arc<Mutex<Vec<(u16, bool)>>>;

pub(super) fn recorded() -> (Codes, Option<UacDone>) {
    let codes: Codes = Arc::default();
    let keep = codes.clone();
    (codes, Some(Box::new(move |outcome| keep.lock().push((outcome.code, outcome.reply.is_some())))))
}

#[test]
fn a_request_of_our_own_passes_the_local_route_and_reports_its_reply() {
    let rig = script("loadmodule \"sipmsgops.so\"\nroute { exit; } local_route { append_hf(\"X-Local: $rm\\r\\n\"); }");
    let (codes, done) = recorded();
    send_request(rig.node, spec("sip:192.0.2.9"), done).unwrap();
    rig.settle();
    let out = rig.take_sent();
    assert_eq!(lines(&out), ["OPTIONS sip:192.0.2.9 SIP/2.0"]);
    assert!(out[0].text().contains("X-Local: OPTIONS\r\n"));
    assert!(out[0].text().contains("\r\nUser-Agent: Tandem/"));
    assert!(out[0].message().from().unwrap().tag().is_some());
    rig.receive(answer(&out[0], 100));
    assert!(rig.receive(answer(&out[0], 200)).is_empty());
    rig.receive(answer(&out[0], 200));
    assert_eq!(*codes.lock(), [(200, true)]);
    assert_eq!(stat(&rig, "UAC_transactions"), 1);
}

#[test]
fn a_request_of_our_own_is_repeated_and_reports_408_in_the_end() {
    let rig = script("route { exit; }");
    let (codes, done) = recorded();
    send_request(rig.node, spec("sip:192.0.2.9"), done).unwrap();
    assert_eq!(rig.advance(Duration::from_millis(600)).len(), 2);
    rig.advance(Duration::from_secs(30));
    assert_eq!(*codes.lock(), [(408, false)]);
}

#[test]
fn a_name_is_looked_up_first_and_an_unknown_one_is_reported() {
    let rig = script("route { exit; }");
    rig.set_slow_names(true);
    rig.add_name("slow.example", Proto::Udp, "192.0.2.4:5060");
    let (codes, done) = recorded();
    send_request(rig.node, spec("sip:slow.example"), done).unwrap();
    rig.settle();
    let out = rig.take_sent();
    assert_eq!(out[0].to.addr.to_string(), "192.0.2.4:5060");
    rig.receive(answer(&out[0], 486));
    let (unknown, done) = recorded();
    send_request(rig.node, spec("sip:nowhere.example"), done).unwrap();
    rig.settle();
    assert_eq!((&*codes.lock(), &*unknown.lock()), (&vec![(486, true)], &vec![(478, false)]));
}

#[test]
fn a_negative_reply_to_an_invite_of_our_own_is_acknowledged() {
    let rig = script("route { exit; }");
    let (codes, done) = recorded();
    send_request(rig.node, RequestSpec { method: b"INVITE".to_vec(), ..spec("sip:192.0.2.9") }, done).unwrap();
    rig.settle();
    let invite = rig.take_sent().remove(0);
    assert_eq!(lines(&rig.receive(answer(&invite, 486))), ["ACK sip:192.0.2.9 SIP/2.0"]);
    assert_eq!(*codes.lock(), [(486, true)]);
}

#[test]
fn nonsense_is_refused_at_once() {
    let rig = script("route { exit; }");
    assert!(send_request(rig.node, RequestSpec { from: Vec::new(), ..spec("sip:192.0.2.9") }, None).is_err());
    assert!(send_request(rig.node, spec("no uri"), None).is_err());
}

#[test]
fn a_script_sends_requests_of_its_own() {
    let rig = script(
        "route { t_new_request(\"MESSAGE\", \"sip:a@192.0.2.2\", \"BOB sip:b@example.org\", \"sip:a@example.org\", \"text/plain Hello you\"); }",
    );
    let text = rig.receive(request("OPTIONS", "a"))[0].text();
    assert!(text.starts_with("MESSAGE sip:a@192.0.2.2 SIP/2.0\r\n"));
    assert!(text.contains("From: \"BOB\" <sip:b@example.org>;tag=") && text.ends_with("\r\n\r\nHello you"), "{text}");
    assert!(text.contains("Content-Type: text/plain\r\n"));
}

#[test]
fn management_counts_and_answers_transactions() {
    let rig = script("route { t_newtran(); xlog(\"$T_id\\n\"); t_wait_for_new_branches(); }");
    rig.receive(request("INVITE", "a"));
    let entries = rig.mi("t_hash", MiParams::None).unwrap();
    let sum: u64 = entries["Entries"].as_array().unwrap().iter().filter_map(|entry| entry["current"].as_u64()).sum();
    assert_eq!(sum, 1);
    let id = rig.xlogs().remove(0);
    let params = ["403", "Forbidden", id.as_str(), "tagged"].map(|text| serde_json::json!(text)).to_vec();
    rig.mi("tm:reply", MiParams::Positional(params.clone())).unwrap();
    let sent = rig.take_sent();
    assert_eq!(sent[0].first_line(), "SIP/2.0 403 Forbidden");
    assert_eq!(sent[0].message().to().unwrap().tag(), Some(&b"tagged"[..]));
    assert!(rig.mi("tm:reply", MiParams::Positional(params)).is_err());
}

#[test]
fn a_local_route_arms_routes_for_the_request_of_our_own() {
    let rig = script(
        "route { exit; }\nlocal_route { $avp(who) = \"us\"; t_on_reply(\"seen\"); t_on_failure(\"failed\"); }\n\
         onreply_route[seen] { xlog(\"reply $rs $avp(who)\\n\"); $avp(who) = \"them\"; }\n\
         failure_route[failed] { xlog(\"failure $T_reply_code $rm $avp(who)\\n\"); if (!t_relay()) xlog(\"no relay\\n\"); }\n",
    );
    let (codes, done) = recorded();
    send_request(rig.node, spec("sip:192.0.2.9"), done).unwrap();
    rig.settle();
    let out = rig.take_sent();
    rig.receive(answer(&out[0], 100));
    assert!(rig.receive(answer(&out[0], 404)).is_empty());
    assert_eq!(rig.xlogs(), ["reply 100 us", "reply 404 them", "failure 404 OPTIONS them", "no relay"]);
    assert_eq!(*codes.lock(), [(404, true)]);
    send_request(rig.node, spec("sip:192.0.2.9"), None).unwrap();
    rig.advance(Duration::from_secs(31));
    assert_eq!(rig.xlogs(), ["failure 408 OPTIONS us", "no relay"]);
}

#[test]
fn the_old_names_of_the_timeouts_count() {
    let rig = script("modparam(\"tm\", \"fr_timer\", 3)\nroute { exit; }");
    let (codes, done) = recorded();
    send_request(rig.node, spec("sip:192.0.2.9"), done).unwrap();
    rig.advance(Duration::from_secs(4));
    assert_eq!(*codes.lock(), [(408, false)]);
}

#[test]
fn what_is_made_here_is_shown_as_it_is_sent() {
    let rig = script(
        "loadmodule \"sipmsgops.so\"\nmodparam(\"tm\", \"local_request_route\", \"OUT\")\n\
         modparam(\"tm\", \"local_reply_route\", \"BACK\")\nroute { t_newtran(); t_reply(486, \"Busy\"); }\n\
         local_route { append_hf(\"X-Local: yes\\r\\n\"); $avp(a) = 1; }\n\
         route[OUT] { append_hf(\"X-More: no\\r\\n\"); xlog(\"out $rm $hdr(X-Local) $hdr(X-More) $avp(a)\\n\"); }\n\
         route[BACK] { xlog(\"back $rs $rm\\n\"); }\n",
    );
    send_request(rig.node, spec("sip:192.0.2.9"), None).unwrap();
    rig.settle();
    let out = rig.take_sent();
    assert!(out[0].text().contains("X-Local: yes") && !out[0].text().contains("X-More"));
    assert_eq!(rig.xlogs(), ["out OPTIONS yes <null> <null>"]);
    let busy = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&busy).last().unwrap(), "SIP/2.0 486 Busy");
    assert_eq!(rig.xlogs().last().unwrap(), "back 486 INVITE");
    let wrong = super::MODULES.to_owned() + "modparam(\"tm\", \"local_reply_route\", \"NONE\")\nroute { exit; }";
    let error = crate::test_rig::Rig::try_script(&wrong, crate::test_rig::RigOptions::default()).err().unwrap();
    assert!(error.contains("route[NONE]"), "{error}");
}
