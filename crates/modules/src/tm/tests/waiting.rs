//! Scripts that wait: for an event, for a name.

use std::time::Duration;

use tandem_module::event::Event;
use tandem_module::transport::Proto;
use tandem_script::value::Value;

use super::{answer, lines, request, request_to, script, stat};
use crate::test_rig::Rig;

const EVENTS: &str = "loadmodule \"event_routing.so\"\n";

fn rig(body: &str) -> Rig {
    let rig = script(&format!("{EVENTS}{body}"));
    rig.node.events.declare("E_TEST");
    rig
}

fn wake(rig: &Rig) -> Vec<crate::test_rig::Sent> {
    rig.raise(Event { name: "E_TEST", params: [("key", Value::text(b"1"))].into_iter().collect() });
    rig.take_sent()
}

#[test]
fn a_suspended_call_goes_on_with_everything_it_had() {
    let rig = rig("route {
            $avp(f) = \"key=1\"; $avp(a) = \"kept\"; setflag(\"F\"); $ru = \"sip:carol@192.0.2.7\";
            t_on_failure(\"X\");
            async(wait_for_event(\"E_TEST\", $avp(f), 5), GO);
        }
        route[GO] { if (isflagset(\"F\")) xlog(\"$avp(a)\\n\"); t_relay(); }
        failure_route[X] { xlog(\"failed $avp(a)\\n\"); }");
    assert_eq!(lines(&rig.receive(request("INVITE", "a"))), ["SIP/2.0 100 Giving it a try"]);
    assert_eq!(lines(&rig.receive(request("INVITE", "a"))), ["SIP/2.0 100 Giving it a try"]);
    let out = wake(&rig);
    assert_eq!(lines(&out), ["INVITE sip:carol@192.0.2.7 SIP/2.0"]);
    assert_eq!(rig.xlogs(), ["kept"]);
    rig.receive(answer(&out[0], 404));
    assert_eq!(rig.xlogs(), ["failed kept"]);
}

#[test]
fn a_call_cancelled_while_suspended_is_answered_at_once_and_relayed_no_more() {
    let rig = rig("route {
            if ($rm == \"CANCEL\") { t_relay(); exit; }
            $avp(f) = \"key=1\"; async(wait_for_event(\"E_TEST\", $avp(f), 5), GO);
        }
        route[GO] { if (!t_relay()) xlog(\"$rc\\n\"); }");
    rig.receive(request("INVITE", "a"));
    let out = lines(&rig.receive(request("CANCEL", "a")));
    assert_eq!(out, ["SIP/2.0 200 canceling", "SIP/2.0 487 Request Terminated"]);
    assert!(wake(&rig).is_empty());
    assert_eq!(rig.xlogs(), ["-3"]);
}

#[test]
fn a_repeated_request_is_absorbed_while_its_script_waits_without_a_transaction() {
    let rig = rig(
        "route { xlog(\"run\\n\"); $avp(f) = \"key=1\"; wait_for_event(\"E_TEST\", $avp(f), 5); sl_send_reply(200, \"OK\"); }",
    );
    assert!(rig.receive(request("OPTIONS", "a")).is_empty());
    assert!(rig.receive(request("OPTIONS", "a")).is_empty());
    assert_eq!(lines(&wake(&rig)), ["SIP/2.0 200 OK"]);
    assert_eq!(rig.xlogs(), ["run"]);
    rig.receive(request("OPTIONS", "a"));
    assert_eq!(rig.xlogs(), ["run"]);
    assert_eq!(stat(&rig, "UAS_transactions"), 0);
}

#[test]
fn a_name_that_has_to_be_looked_up_is_waited_for() {
    let rig = script(
        "route { t_on_branch(\"B\"); t_relay(); xlog(\"relayed $ru\\n\"); } branch_route[B] { $ru = \"sip:x@slow.example\"; }",
    );
    rig.add_name("slow.example", Proto::Udp, "192.0.2.4:5060");
    rig.set_slow_names(true);
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&out), ["SIP/2.0 100 Giving it a try", "INVITE sip:x@slow.example SIP/2.0"]);
    assert_eq!(out[1].to.addr.to_string(), "192.0.2.4:5060");
    assert_eq!(rig.xlogs(), ["relayed sip:bob@192.0.2.9:5062"]);
    let out =
        rig.receive(request_to("OPTIONS", "b", "sip:bob@192.0.2.9", "").replace("OPTIONS sip:bob", "OPTIONS sip:b"));
    assert_eq!(out.len(), 1);
}

#[test]
fn a_reply_route_that_waits_holds_only_its_own_reply() {
    let rig = rig(
        "route { t_on_reply(\"R\"); t_relay(); }
        onreply_route[R] { if ($rs == 180) { $avp(f) = \"key=1\"; async(wait_for_event(\"E_TEST\", $avp(f), 50), NEXT); } }
        route[NEXT] { xlog(\"resumed\\n\"); }",
    );
    let out = rig.receive(request("INVITE", "a"));
    assert!(rig.receive(answer(&out[1], 180)).is_empty());
    assert_eq!(lines(&rig.receive(answer(&out[1], 183))), ["SIP/2.0 183 Session Progress"]);
    assert_eq!(lines(&wake(&rig)), ["SIP/2.0 180 Ringing"]);
    assert_eq!(rig.xlogs(), ["resumed"]);
}

#[test]
fn nothing_is_left_when_a_suspended_request_is_never_answered() {
    let rig =
        rig("route { $avp(f) = \"key=1\"; async(wait_for_event(\"E_TEST\", $avp(f), 5), GO); } route[GO] { exit; }");
    rig.receive(request("INVITE", "a"));
    rig.advance(Duration::from_secs(200));
    assert_eq!(stat(&rig, "inuse_transactions"), 0);
    assert!(rig.node.parked.is_empty());
}

#[test]
fn a_phone_that_registers_while_the_caller_waits_is_called_too() {
    let rig = rig("route {
            t_newtran(); t_wait_for_new_branches();
            $avp(f) = \"aor=bob\"; notify_on_event(\"E_BINDING\", $avp(f), \"PHONE\", 30);
            t_relay();
        }
        route[PHONE] { if (t_inject_branches(\"event\")) xlog(\"injected\\n\"); }
        event_route[E_BINDING] { exit; }");
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&rig.receive(answer(&out[1], 404))), ["ACK sip:bob@192.0.2.9:5062 SIP/2.0"]);
    let params =
        [("aor", &b"bob"[..]), ("uri", b"sip:bob@192.0.2.55:5055")].map(|(name, text)| (name, Value::text(text)));
    rig.raise(Event { name: "E_BINDING", params: params.into_iter().collect() });
    let out = rig.take_sent();
    assert_eq!(lines(&out), ["INVITE sip:bob@192.0.2.55:5055 SIP/2.0"]);
    assert_eq!(rig.xlogs(), ["injected"]);
    assert_eq!(lines(&rig.receive(answer(&out[0], 200))), ["SIP/2.0 200 OK"]);
}
