//! Waits end once, by the right event or by time, and never by anything else.

use std::sync::Arc;
use std::time::Duration;

use tandem_module::event::Event;
use tandem_script::value::Value;

use crate::test_rig::Rig;

const SCRIPT: &str = "loadmodule \"tm.so\"\nloadmodule \"event_routing.so\"\n
    route { $avp(f) = \"tag=\" + $hdr(X-Tag); async(wait_for_event(\"E_ANSWER\", $avp(f), 5), DONE); }
    route[DONE] { xlog(\"$rc $avp(msg)\\n\"); }\n";

fn rig() -> Rig {
    let rig = Rig::script(SCRIPT);
    rig.node.events.declare("E_ANSWER");
    rig
}

fn ask(rig: &Rig, tag: &str) {
    rig.receive(format!(
        "MESSAGE sip:bob@127.0.3.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{tag}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:bob@b>\r\nCall-ID: {tag}\r\nCSeq: 1 MESSAGE\r\nX-Tag: {tag}\r\nContent-Length: 0\r\n\r\n"
    ));
}

fn event(tag: &str, msg: &str) -> Event {
    let params = [("msg", Value::from(msg)), ("tag", Value::from(tag))];
    Event { name: "E_ANSWER", params: params.into_iter().collect() }
}

#[test]
fn the_right_event_resumes_once_and_a_second_one_nothing() {
    let rig = rig();
    ask(&rig, "t1");
    assert_eq!(rig.raise(event("t1", "first")), 1);
    assert_eq!(rig.raise(event("t1", "second")), 0);
    assert_eq!(rig.xlogs(), ["1 first"]);
    rig.advance(Duration::from_secs(6));
    assert!(rig.xlogs().is_empty(), "the time-out of a wait that has ended");
}

#[test]
fn a_foreign_tag_resumes_nothing_and_the_time_out_says_so() {
    let rig = rig();
    ask(&rig, "t1");
    assert_eq!(rig.raise(event("t2", "foreign")), 0);
    rig.advance(Duration::from_secs(4));
    assert!(rig.xlogs().is_empty());
    rig.advance(Duration::from_secs(2));
    assert_eq!(rig.xlogs(), ["-2 <null>"]);
    assert_eq!(rig.raise(event("t1", "late")), 0);
    assert!(rig.xlogs().is_empty());
}

#[test]
fn an_event_held_from_before_the_wait_resumes_it() {
    let rig = rig();
    let held = Arc::new(event("t1", "early"));
    rig.node.events.set_held("E_ANSWER", Arc::new(move |filter| filter.matches(&held).then(|| held.clone())));
    ask(&rig, "t1");
    rig.settle();
    assert_eq!(rig.xlogs(), ["1 early"]);
    ask(&rig, "t2");
    rig.settle();
    assert!(rig.xlogs().is_empty());
}

#[test]
fn two_waits_are_told_apart() {
    let rig = rig();
    ask(&rig, "t1");
    ask(&rig, "t2");
    assert_eq!(rig.raise(event("t2", "two")), 1);
    assert_eq!(rig.raise(event("t1", "one")), 1);
    assert_eq!(rig.xlogs(), ["1 two", "1 one"]);
}

#[test]
fn an_unknown_event_fails_at_once() {
    let rig = Rig::script(SCRIPT);
    ask(&rig, "t1");
    rig.settle();
    assert_eq!(rig.xlogs(), ["-1 <null>"]);
}
