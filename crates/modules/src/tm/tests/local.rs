//! Replies made here.

use std::time::Duration;

use super::{lines, request, request_to, script, stat};

/// The To value of a message, for the ACK that follows.
fn to_tag(sent: &crate::test_rig::Sent) -> String {
    let message = sent.message();
    format!(";tag={}", String::from_utf8_lossy(message.to().unwrap().tag().unwrap()))
}

#[test]
fn a_negative_reply_is_repeated_until_its_ack_comes() {
    let rig = script("route { t_reply(486, \"Busy\"); }");
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&out).last().unwrap(), "SIP/2.0 486 Busy");
    assert_eq!(lines(&rig.advance(Duration::from_millis(600))), ["SIP/2.0 486 Busy"]);
    let ack = request_to("ACK", "a", "sip:bob@192.0.2.9:5062", &to_tag(out.last().unwrap()));
    assert!(rig.receive(ack.clone()).is_empty());
    assert!(rig.advance(Duration::from_secs(3)).is_empty());
    assert!(rig.receive(ack).is_empty());
    rig.advance(Duration::from_secs(40));
    assert_eq!(stat(&rig, "inuse_transactions"), 0);
}

#[test]
fn a_stateless_reply_leaves_nothing_and_its_ack_is_absorbed() {
    let rig = script("route { xlog(\"$rm\\n\"); sl_send_reply(404, \"Nobody\"); }");
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&out), ["SIP/2.0 404 Nobody"]);
    assert!(rig.receive(request_to("ACK", "a", "sip:bob@192.0.2.9:5062", &to_tag(&out[0]))).is_empty());
    assert_eq!(rig.xlogs(), ["INVITE"]);
    assert_eq!((stat(&rig, "UAS_transactions"), rig.node.stats.value("sl:4xx_replies")), (0, Some(1)));
}

#[test]
fn send_reply_is_stateful_when_there_is_a_transaction() {
    let rig = script("route { if ($rU == \"state\") t_newtran(); send_reply(403, \"No\"); }");
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["SIP/2.0 403 No"]);
    assert_eq!(stat(&rig, "UAS_transactions"), 0);
    rig.receive(request_to("OPTIONS", "b", "sip:state@192.0.2.9", ""));
    assert_eq!(stat(&rig, "UAS_transactions"), 1);
    assert_eq!(lines(&rig.receive(request_to("OPTIONS", "b", "sip:state@192.0.2.9", ""))), ["SIP/2.0 403 No"]);
}

#[test]
fn a_second_final_reply_is_refused() {
    let rig = script("route { t_reply(404, \"One\"); if (!t_reply(500, \"Two\")) xlog(\"refused\\n\"); }");
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["SIP/2.0 404 One"]);
    assert_eq!(rig.xlogs(), ["refused"]);
}

fn body_of(function: &str) -> String {
    let rig = script(&format!(
        "loadmodule \"sipmsgops.so\"
        route {{ append_to_reply(\"Content-Type: text/plain\\r\\n\"); {function}(200, \"OK\", \"hello\"); }}"
    ));
    rig.receive(request("OPTIONS", "a"))[0].text()
}

#[test]
fn a_stateful_reply_has_a_body_when_given_one() {
    let text = body_of("t_reply_with_body");
    assert!(text.ends_with("Content-Length: 5\r\n\r\nhello"), "{text}");
    assert_eq!(text.matches("Content-Type").count(), 1, "{text}");
}

#[test]
fn a_reply_of_either_kind_has_a_body_when_given_one() {
    let text = body_of("send_reply_with_body");
    assert!(text.ends_with("Content-Length: 5\r\n\r\nhello"), "{text}");
    assert_eq!(text.matches("Content-Type").count(), 1, "{text}");
}

#[test]
fn the_announced_to_tag_is_the_one_that_is_sent() {
    let rig =
        script("route { if ($rU == \"state\") t_newtran(); xlog(\"$sig_local_totag\\n\"); send_reply(403, \"No\"); }");
    for user in ["state", "none"] {
        let out = rig.receive(request_to("OPTIONS", user, &format!("sip:{user}@192.0.2.9"), ""));
        assert_eq!(to_tag(&out[0]), format!(";tag={}", rig.xlogs()[0]));
    }
}

#[test]
fn a_parked_call_is_answered_from_elsewhere() {
    let rig = script(
        "route {
            if ($rm == \"INVITE\") { t_reply(180, \"Ringing\"); t_wait_for_new_branches(); }
            else if (t_reply_by_callid(487, \"Terminated\")) sl_send_reply(200, \"OK\");
        }",
    );
    assert_eq!(lines(&rig.receive(request("INVITE", "a"))).last().unwrap(), "SIP/2.0 180 Ringing");
    assert_eq!(lines(&rig.receive(request("BYE", "b"))), ["SIP/2.0 487 Terminated", "SIP/2.0 200 OK"]);
}

#[test]
fn the_reply_code_in_a_request_route_is_that_of_the_last_reply() {
    let rig = script(
        "route { xlog(\"$T_reply_code\\n\"); t_reply(404, \"x\"); xlog(\"$T_reply_code\\n\"); if (t_check_status(\"4..\")) xlog(\"yes\\n\"); }",
    );
    rig.receive(request("OPTIONS", "a"));
    assert_eq!(rig.xlogs(), ["0", "404", "yes"]);
}

#[test]
fn a_local_2xx_is_repeated_until_its_ack_comes_to_the_script() {
    let rig = script("route { if ($rm == \"ACK\") xlog(\"ack\\n\"); else t_reply(200, \"Here\"); }");
    let out = rig.receive(request("INVITE", "a"));
    let ok = out.last().unwrap();
    assert_eq!(lines(&rig.advance(Duration::from_millis(600))), ["SIP/2.0 200 Here"]);
    rig.receive(request_to("ACK", "b", "sip:bob@127.0.3.1:5071", &to_tag(ok)));
    assert_eq!(rig.xlogs(), ["ack"]);
    assert!(rig.advance(Duration::from_secs(4)).is_empty());
}

#[test]
fn beyond_the_limit_new_requests_are_answered_503_and_known_ones_go_on() {
    let rig = script("route { t_relay(); xlog(\"never\\n\"); }");
    let out = rig.receive(request("INVITE", "a"));
    rig.xlogs();
    let tm = rig.node.state::<crate::tm::Tm>().unwrap();
    tm.table.pretend_len(crate::tm::TRANSACTIONS_MAX);
    let refused = rig.receive(request("OPTIONS", "b"));
    assert_eq!(lines(&refused), ["SIP/2.0 503 Service Unavailable"]);
    assert!(refused[0].text().contains("\r\nRetry-After: 5\r\n"));
    assert!(rig.xlogs().is_empty());
    assert_eq!(stat(&rig, "refused_transactions"), 1);
    assert_eq!(lines(&rig.receive(super::answer(&out[1], 180))), ["SIP/2.0 180 Ringing"]);
}
