//! Several branches at once, one after the other, and over several addresses of a name.

use std::time::Duration;

use tandem_module::transport::Proto;

use super::{answer, answer_with, lines, request, request_to, script};

const FORK: &str = "route {
    $ru = \"sip:bob@192.0.2.1:5001\";
    append_msg_branch(\"sip:bob@192.0.2.2:5002\");
    t_relay();
}";

#[test]
fn the_first_2xx_wins_and_the_others_are_cancelled_with_a_reason() {
    let rig = script(FORK);
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(out.len(), 3);
    rig.receive(answer(&out[1], 180));
    rig.receive(answer(&out[2], 180));
    let end = rig.receive(answer(&out[2], 200));
    assert_eq!(lines(&end), ["SIP/2.0 200 OK", "CANCEL sip:bob@192.0.2.1:5001 SIP/2.0"]);
    assert!(end[1].text().contains("Call completed elsewhere"));
}

#[test]
fn the_best_negative_reply_goes_up_when_all_have_failed() {
    let rig = script(FORK);
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&rig.receive(answer(&out[1], 486))), ["ACK sip:bob@192.0.2.1:5001 SIP/2.0"]);
    let end = lines(&rig.receive(answer(&out[2], 404)));
    assert_eq!(end, ["ACK sip:bob@192.0.2.2:5002 SIP/2.0", "SIP/2.0 404 Not Found"]);
}

#[test]
fn a_6xx_ends_it_for_all() {
    let rig = script(FORK);
    let out = rig.receive(request("INVITE", "a"));
    rig.receive(answer(&out[1], 180));
    let end = lines(&rig.receive(answer(&out[2], 603)));
    assert!(end.contains(&"CANCEL sip:bob@192.0.2.1:5001 SIP/2.0".to_owned()), "{end:?}");
    assert!(end.contains(&"SIP/2.0 603 Decline".to_owned()), "{end:?}");
}

#[test]
fn all_challenges_are_in_the_one_reply_that_goes_up() {
    let rig = script(FORK);
    let out = rig.receive(request("OPTIONS", "a"));
    rig.receive(answer_with(&out[0], 401, &[b"WWW-Authenticate: Digest realm=\"one\", nonce=\"1\""]));
    let end = rig.receive(answer_with(&out[1], 401, &[b"WWW-Authenticate: Digest realm=\"two\", nonce=\"2\""]));
    let text = end[0].text();
    assert!(text.contains("realm=\"one\"") && text.contains("realm=\"two\""), "{text}");
}

#[test]
fn groups_of_different_preference_follow_each_other_from_the_failure_route() {
    let rig = script(
        "route {
            $ru = \"sip:bob@192.0.2.1:5001\";
            append_msg_branch(\"sip:bob@192.0.2.2:5002\", \"0.5\");
            append_msg_branch(\"sip:bob@192.0.2.3:5003\", \"0.2\");
            serialize_branches(1);
            next_branches();
            t_on_failure(\"NEXT\");
            t_relay();
        }
        failure_route[NEXT] { if (next_branches()) { t_on_failure(\"NEXT\"); t_relay(); } }",
    );
    let mut seen = Vec::new();
    let mut out = rig.receive(request("OPTIONS", "a"));
    while let Some(sent) = out.first().filter(|sent| sent.first_line().starts_with("OPTIONS")).cloned() {
        seen.push(sent.to.addr.port());
        out = rig.receive(answer(&sent, 404));
    }
    assert_eq!(lines(&out), ["SIP/2.0 404 Not Found"]);
    // A target without q comes last.
    assert_eq!(seen, [5002, 5003, 5001]);
}

#[test]
fn a_dead_address_is_followed_by_the_next_one_of_its_name() {
    let rig = script("modparam(\"tm\", \"fr_timeout\", 2)\nroute { t_relay(); }");
    rig.add_name("two.example", Proto::Udp, "192.0.2.1:5060");
    rig.add_name("two.example", Proto::Udp, "192.0.2.2:5060");
    let out = rig.receive(request_to("OPTIONS", "a", "sip:two.example", ""));
    assert_eq!(out[0].to.addr.to_string(), "192.0.2.1:5060");
    let out = rig.advance(Duration::from_millis(2100));
    let last = out.last().unwrap();
    assert_eq!(last.to.addr.to_string(), "192.0.2.2:5060");
    assert_eq!(lines(&rig.receive(answer(last, 200))), ["SIP/2.0 200 OK"]);
}

#[test]
fn a_503_is_followed_by_the_next_address_unless_forbidden() {
    for (flags, is_followed) in [("", true), ("\"no-dns-failover\"", false)] {
        let rig = script(&format!("route {{ t_relay({flags}); }}"));
        rig.add_name("two.example", Proto::Udp, "192.0.2.1:5060");
        rig.add_name("two.example", Proto::Udp, "192.0.2.2:5060");
        let out = rig.receive(request_to("OPTIONS", "a", "sip:two.example", ""));
        let next = rig.receive(answer(&out[0], 503));
        assert_eq!(next[0].first_line().starts_with("OPTIONS"), is_followed, "{:?}", lines(&next));
    }
}

#[test]
fn a_minor_branch_is_not_waited_for() {
    let rig = script(
        "modparam(\"tm\", \"minor_branch_flag\", \"MINOR\")
        route { append_msg_branch(\"sip:media@192.0.2.2:5002\"); t_on_branch(\"B\"); t_relay(); }
        branch_route[B] { if ($rU == \"media\") setbflag(\"MINOR\"); }",
    );
    let out = rig.receive(request("INVITE", "a"));
    rig.receive(answer(&out[2], 183));
    let end = lines(&rig.receive(answer(&out[1], 486)));
    assert!(end.iter().any(|line| line.starts_with("CANCEL sip:media")), "{end:?}");
    assert!(end.contains(&"SIP/2.0 486 Busy Here".to_owned()), "{end:?}");
}
