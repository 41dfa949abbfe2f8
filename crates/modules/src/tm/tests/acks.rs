//! ACKs and what comes late.

use std::time::Duration;

use super::{answer, lines, request, request_to, script};

const SCRIPT: &str = "route { xlog(\"$rm\\n\"); if ($rm == \"ACK\" && t_check_trans()) xlog(\"ours\\n\"); t_relay(); }";

#[test]
fn an_ack_to_a_2xx_passes_through_with_a_branch_of_its_own() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive(answer(&out[1], 200));
    let ack = rig.receive(request_to("ACK", "b", "sip:bob@192.0.2.9:5062", ";tag=phone-5062"));
    assert_eq!(lines(&ack), ["ACK sip:bob@192.0.2.9:5062 SIP/2.0"]);
    assert_eq!(ack[0].message().vias().count(), 2);
    assert_eq!(rig.xlogs(), ["INVITE", "ACK"]);
}

#[test]
fn an_ack_to_a_relayed_negative_reply_stays_here() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive(answer(&out[1], 486));
    let ack = request_to("ACK", "a", "sip:bob@192.0.2.9:5062", ";tag=phone-5062");
    assert!(rig.receive(ack.clone()).is_empty());
    assert!(rig.receive(ack).is_empty());
    assert!(rig.advance(Duration::from_secs(4)).is_empty());
    assert_eq!(rig.xlogs(), ["INVITE"]);
}

#[test]
fn every_copy_of_a_negative_reply_is_acknowledged_and_only_one_goes_up() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    let busy = answer(&out[1], 486);
    assert_eq!(lines(&rig.receive(&busy)), ["ACK sip:bob@192.0.2.9:5062 SIP/2.0", "SIP/2.0 486 Busy Here"]);
    assert_eq!(lines(&rig.receive(&busy)), ["ACK sip:bob@192.0.2.9:5062 SIP/2.0"]);
}

#[test]
fn a_repeated_2xx_goes_up_again_also_when_the_transaction_is_gone() {
    let rig = script(SCRIPT);
    let out = rig.receive(request("INVITE", "a"));
    let ok = answer(&out[1], 200);
    assert_eq!(lines(&rig.receive(&ok)), ["SIP/2.0 200 OK"]);
    assert_eq!(lines(&rig.receive(&ok)), ["SIP/2.0 200 OK"]);
    rig.advance(Duration::from_secs(20));
    assert_eq!(super::stat(&rig, "inuse_transactions"), 0);
    assert_eq!(lines(&rig.receive(&ok)), ["SIP/2.0 200 OK"]);
}
