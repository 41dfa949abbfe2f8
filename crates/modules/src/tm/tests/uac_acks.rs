//! The ACK to a 2xx of an INVITE of our own.

use std::time::Duration;

use serde_json::json;
use tandem_module::mi::{MiParams, MiReply};
use tandem_module::transport::Proto;

use super::uac::{recorded, spec};
use super::{answer, answer_with, lines, script};
use crate::test_rig::{Rig, Sent};
use crate::tm::uac::{RequestSpec, send_request};

fn invite(rig: &Rig, spec: RequestSpec) -> Sent {
    send_request(rig.node, RequestSpec { method: b"INVITE".to_vec(), ..spec }, None).unwrap();
    rig.settle();
    rig.take_sent().remove(0)
}

/// A 200 of the party with that tag.
fn accepted(invite: &Sent, tag: &str) -> Vec<u8> {
    let headers: [&[u8]; 3] = [
        b"Record-Route: <sip:192.0.2.2;lr>\r\n",
        b"Record-Route: <sip:192.0.2.1;lr>\r\n",
        b"Contact: <sip:phone@192.0.2.9:5062>\r\n",
    ];
    let text = String::from_utf8(answer_with(invite, 200, &headers)).unwrap();
    text.replace("tag=phone-5060", &format!("tag={tag}")).into_bytes()
}

#[test]
fn each_2xx_gets_its_ack_and_a_second_party_is_hung_up_on() {
    let local = "local_route { t_on_reply(\"SEEN\"); append_hf(\"Authorization: x\\r\\n\"); }
        onreply_route[SEEN] { xlog(\"$rs\\n\"); }";
    let rig = script(&format!("loadmodule \"sipmsgops.so\"\nroute {{ exit; }}\n{local}"));
    let invite = invite(&rig, spec("sip:192.0.2.1"));
    let acks = rig.receive(accepted(&invite, "one"));
    assert_eq!(lines(&acks), ["ACK sip:phone@192.0.2.9:5062 SIP/2.0"]);
    // The route set is that of the reply, the other way round; the credentials are those of the INVITE.
    assert_eq!(acks[0].to.addr.to_string(), "192.0.2.1:5060");
    let text = acks[0].text();
    assert!(text.contains("Route: <sip:192.0.2.1;lr>\r\nRoute: <sip:192.0.2.2;lr>\r\n"), "{text}");
    assert!(text.contains("Authorization: x\r\n") && text.contains(";tag=one\r\n") && text.contains("CSeq: 1 ACK\r\n"));
    let again = rig.receive(accepted(&invite, "one"));
    assert_eq!(again.iter().map(|sent| &sent.bytes).collect::<Vec<_>>(), [&acks[0].bytes]);
    rig.advance(Duration::from_secs(25));
    assert_eq!(rig.receive(accepted(&invite, "one"))[0].bytes, acks[0].bytes, "as long as a UA repeats its 2xx");
    let other = rig.receive(accepted(&invite, "two"));
    assert_eq!(lines(&other), ["ACK sip:phone@192.0.2.9:5062 SIP/2.0", "BYE sip:phone@192.0.2.9:5062 SIP/2.0"]);
    assert!(other.iter().all(|sent| sent.text().contains(";tag=two\r\n")));
    assert!(other[1].text().contains("CSeq: 2 BYE\r\n"));
    // What comes again is no news to the script.
    assert_eq!(rig.xlogs(), ["200"]);
}

#[test]
fn an_answer_after_the_time_is_over_is_acknowledged_and_ended() {
    let rig = script("modparam(\"tm\", \"fr_inv_timeout\", 5)\nroute { exit; }");
    let (codes, done) = recorded();
    send_request(rig.node, RequestSpec { method: b"INVITE".to_vec(), ..spec("sip:192.0.2.1") }, done).unwrap();
    rig.settle();
    let invite = rig.take_sent().remove(0);
    rig.receive(answer(&invite, 180));
    assert!(lines(&rig.advance(Duration::from_secs(6))).iter().any(|line| line.starts_with("CANCEL")));
    let late = rig.receive(accepted(&invite, "one"));
    assert_eq!(lines(&late), ["ACK sip:phone@192.0.2.9:5062 SIP/2.0", "BYE sip:phone@192.0.2.9:5062 SIP/2.0"]);
    assert_eq!(*codes.lock(), [(408, false)]);
}

#[test]
fn within_a_call_the_route_set_of_the_call_counts_and_nothing_is_ended() {
    let rig = script("route { exit; }");
    let within = RequestSpec {
        to: b"<sip:them@example.org>;tag=one".to_vec(),
        routes: vec![b"<sip:192.0.2.3;lr>".to_vec()],
        ..spec("sip:them@192.0.2.4")
    };
    let invite = invite(&rig, within);
    let plain = |tag: &str| {
        let text = String::from_utf8(answer(&invite, 200)).unwrap();
        text.replace(";tag=one", &format!(";tag={tag}")).into_bytes()
    };
    let acks = rig.receive(plain("one"));
    assert_eq!(lines(&acks), ["ACK sip:them@192.0.2.4 SIP/2.0"]);
    assert_eq!(acks[0].to.addr.to_string(), "192.0.2.3:5060");
    assert_eq!(lines(&rig.receive(plain("two"))), ["ACK sip:them@192.0.2.4 SIP/2.0"]);
}

#[test]
fn an_ack_waits_for_the_name_of_its_next_hop_once() {
    let rig = script("route { exit; }");
    let invite = invite(&rig, spec("sip:192.0.2.1"));
    rig.set_slow_names(true);
    rig.add_name("phone.example", Proto::Udp, "192.0.2.7:5060");
    let named = answer_with(&invite, 200, &[b"Contact: <sip:phone@phone.example>\r\n"]);
    let acks = rig.receive(&named);
    assert_eq!(lines(&acks), ["ACK sip:phone@phone.example SIP/2.0"]);
    assert_eq!(acks[0].to.addr.to_string(), "192.0.2.7:5060");
    assert_eq!(rig.receive(&named)[0].bytes, acks[0].bytes);
}

#[test]
fn a_cancel_of_management_that_crosses_the_answer_leaves_it_acknowledged() {
    let rig = script("route { exit; }");
    let headers = "From: <sip:a@b>;tag=x\r\nTo: <sip:c@d>\r\nCall-ID: ours\r\nCSeq: 3 INVITE\r\n";
    let params = ["INVITE", "sip:192.0.2.1", headers].map(|text| json!(text)).to_vec();
    let MiReply::Later(outcome) = rig.node.mi.run("t_uac_dlg", MiParams::Positional(params)) else {
        unreachable!("an INVITE cannot be answered at once")
    };
    rig.settle();
    let invite = rig.take_sent().remove(0);
    rig.receive(answer(&invite, 180));
    let cancel = MiParams::Positional(vec![json!("ours"), json!("3")]);
    assert_eq!(rig.mi("t_uac_cancel", cancel), Ok(json!("OK")));
    assert_eq!(lines(&rig.take_sent()), ["CANCEL sip:192.0.2.1 SIP/2.0"]);
    assert_eq!(lines(&rig.receive(accepted(&invite, "one"))), ["ACK sip:phone@192.0.2.9:5062 SIP/2.0"]);
    // Whoever asked learns that there is a call.
    assert_eq!(rig.workers.wait_for(outcome).unwrap()["Status"], json!("200 OK"));
}
