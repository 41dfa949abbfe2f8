//! A request, its replies and its repetitions.

use std::time::Duration;

use super::{answer, branch_of, lines, request, script, stat};

const RELAY: &str = "route { t_relay(); }";

#[test]
fn a_call_is_relayed_and_its_replies_come_back_in_order() {
    let rig = script(RELAY);
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&out), ["SIP/2.0 100 Giving it a try", "INVITE sip:bob@192.0.2.9:5062 SIP/2.0"]);
    let invite = &out[1];
    assert_eq!(invite.to.addr.to_string(), "192.0.2.9:5062");
    assert_eq!(invite.message().vias().count(), 2);
    let mut up = Vec::new();
    for code in [100, 180, 200] {
        up.extend(rig.receive_from("192.0.2.9:5062", answer(invite, code)));
    }
    assert_eq!(lines(&up), ["SIP/2.0 180 Ringing", "SIP/2.0 200 OK"]);
    assert!(up.iter().all(|reply| reply.to.addr.to_string() == "127.0.3.9:5099"));
    assert!(up.iter().all(|reply| reply.message().vias().count() == 1));
    assert_eq!((stat(&rig, "relayed_replies"), stat(&rig, "2xx_transactions")), (2, 1));
}

#[test]
fn a_repeated_request_gets_the_last_reply_and_no_second_branch() {
    let rig = script(RELAY);
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&rig.receive(request("INVITE", "a"))), ["SIP/2.0 100 Giving it a try"]);
    rig.receive_from("192.0.2.9:5062", answer(&out[1], 180));
    assert_eq!(lines(&rig.receive(request("INVITE", "a"))), ["SIP/2.0 180 Ringing"]);
    assert_eq!(stat(&rig, "UAS_transactions"), 1);
}

#[test]
fn requests_are_repeated_until_a_reply_comes_and_then_time_out_with_408() {
    let rig = script(RELAY);
    rig.receive(request("OPTIONS", "a"));
    assert_eq!(lines(&rig.advance(Duration::from_millis(600))), ["OPTIONS sip:bob@192.0.2.9:5062 SIP/2.0"]);
    assert_eq!(rig.advance(Duration::from_millis(1000)).len(), 1);
    let rest = lines(&rig.advance(Duration::from_secs(30)));
    assert_eq!(rest.last().map(String::as_str), Some("SIP/2.0 408 Request Timeout"));
    assert!(stat(&rig, "retransmission_req_T1_1") == 1 && stat(&rig, "timeout_noresponse") == 1);
    rig.advance(Duration::from_secs(20));
    assert_eq!(stat(&rig, "inuse_transactions"), 0);
}

#[test]
fn a_ringing_call_that_nobody_takes_is_cancelled_and_answered_408() {
    let rig = script(&format!("modparam(\"tm\", \"fr_inv_timeout\", 10)\n{RELAY}"));
    let out = rig.receive(request("INVITE", "a"));
    rig.receive_from("192.0.2.9:5062", answer(&out[1], 180));
    assert!(rig.advance(Duration::from_secs(9)).is_empty());
    let end = rig.advance(Duration::from_millis(1200));
    assert_eq!(lines(&end)[..2], ["CANCEL sip:bob@192.0.2.9:5062 SIP/2.0", "SIP/2.0 408 Request Timeout"]);
    assert_eq!(branch_of(&end[0].message()), branch_of(&out[1].message()));
}

#[test]
fn a_reply_with_a_made_up_branch_goes_nowhere() {
    let rig = script(RELAY);
    let out = rig.receive(request("INVITE", "a"));
    let forged = String::from_utf8(answer(&out[1], 200)).unwrap();
    let branch = String::from_utf8(branch_of(&out[1].message())).unwrap();
    let mut other = branch.clone().into_bytes();
    other[9] = if other[9] == b'0' { b'1' } else { b'0' };
    let forged = forged.replacen(&branch, std::str::from_utf8(&other).unwrap(), 1);
    rig.receive_from("198.51.100.1:5060", forged);
    // Without transaction it is forwarded by its Via at most; the transaction still waits.
    assert_eq!(stat(&rig, "received_replies"), 0);
}

#[test]
fn a_503_from_one_hop_becomes_500() {
    let rig = script(RELAY);
    let out = rig.receive(request("OPTIONS", "a"));
    let up = rig.receive_from("192.0.2.9:5062", answer(&out[0], 503));
    assert!(up[0].first_line().starts_with("SIP/2.0 500 "), "{}", up[0].first_line());
}

#[test]
fn an_outbound_proxy_is_used_unless_there_is_a_destination_uri() {
    let rig = script("route { if ($rU == \"du\") $du = \"sip:192.0.2.2\"; t_relay( , \"udp:192.0.2.1:5070\"); }");
    let out = rig.receive(request("OPTIONS", "a"));
    assert_eq!(out[0].to.addr.to_string(), "192.0.2.1:5070");
    assert!(out[0].first_line().contains("192.0.2.9"));
    let out = rig.receive(super::request_to("OPTIONS", "b", "sip:du@192.0.2.9", ""));
    assert_eq!(out[0].to.addr.to_string(), "192.0.2.2:5060");
}

#[test]
fn what_cannot_be_sent_is_answered_unless_the_script_wants_to() {
    let rig = script(
        "route {
            $var(flags) = $rU == \"own\" ? 0 : 1;
            if ($rU == \"own\") {
                if (!t_relay(\"no-auto-477\")) { xlog(\"code $rc\\n\"); t_reply(480, \"Gone\"); }
            } else if (t_relay()) xlog(\"taken care of\\n\");
        }"
        .replace("            $var(flags) = $rU == \"own\" ? 0 : 1;\n", "")
        .as_str(),
    );
    let out = rig.receive(super::request_to("OPTIONS", "a", "sip:auto@nowhere.example", ""));
    assert_eq!(lines(&out), ["SIP/2.0 478 Unresolvable destination (478/TM)"]);
    assert_eq!(rig.xlogs(), ["taken care of"]);
    let out = rig.receive(super::request_to("OPTIONS", "b", "sip:own@nowhere.example", ""));
    assert_eq!(lines(&out), ["SIP/2.0 480 Gone"]);
    assert_eq!(rig.xlogs(), ["code -4"]);
}

#[test]
fn after_t_newtran_a_failed_relay_is_left_to_the_script() {
    let rig = script("route { t_newtran(); if (!t_relay()) t_reply(404, \"Nowhere\"); }");
    let out = rig.receive(super::request_to("INVITE", "a", "sip:x@nowhere.example", ""));
    assert_eq!(lines(&out), ["SIP/2.0 100 Giving it a try", "SIP/2.0 404 Nowhere"]);
}

#[test]
fn a_transaction_made_early_is_relayed_with_what_was_changed_later() {
    let rig = script("route { t_newtran(); $ru = \"sip:carol@192.0.2.7\"; t_relay(); }");
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&out), ["SIP/2.0 100 Giving it a try", "INVITE sip:carol@192.0.2.7 SIP/2.0"]);
}

#[test]
fn a_request_nobody_answers_is_forgotten() {
    let rig = script("route { t_newtran(); }");
    rig.receive(request("OPTIONS", "a"));
    assert_eq!(stat(&rig, "inuse_transactions"), 1);
    rig.advance(Duration::from_secs(10));
    assert_eq!(stat(&rig, "inuse_transactions"), 0);
}

#[test]
fn headers_added_to_the_transaction_are_in_every_request_of_it() {
    let rig = script(
        "route { if ($rm == \"CANCEL\") { t_relay(); exit; } t_add_hdrs(\"X-Origin: here\\r\\n\"); t_relay(); }",
    );
    let out = rig.receive(request("INVITE", "a"));
    assert!(out[1].text().contains("\r\nX-Origin: here\r\n"));
    rig.receive_from("192.0.2.9:5062", answer(&out[1], 180));
    let out = rig.receive(request("CANCEL", "a"));
    assert!(
        out.iter()
            .any(|sent| sent.first_line().starts_with("CANCEL") && sent.text().contains("\r\nX-Origin: here\r\n\r\n"))
    );
}

#[test]
fn a_copy_is_sent_elsewhere_and_its_replies_go_nowhere() {
    let rig = script("route { t_replicate(\"sip:192.0.2.77:5077\"); t_relay(); }");
    let out = rig.receive(request("OPTIONS", "a"));
    assert_eq!(out[0].to.addr.to_string(), "192.0.2.77:5077");
    assert!(rig.receive_from("192.0.2.77:5077", answer(&out[0], 200)).is_empty());
    assert_eq!(lines(&rig.receive_from("192.0.2.9:5062", answer(&out[1], 404))), ["SIP/2.0 404 Not Found"]);
}

#[test]
fn without_a_fitting_socket_the_answer_is_477() {
    let rig = script(RELAY);
    let out = rig.receive(super::request_to("OPTIONS", "a", "sip:x@192.0.2.9;transport=tcp", ""));
    assert_eq!(lines(&out), ["SIP/2.0 477 Send failed (477/TM)"]);
}

#[test]
fn the_call_forms_of_2_4_do_the_same() {
    use tandem_script::ast::Dialect;
    for call in [
        "t_relay()",
        "t_relay(\"0x06\")",
        "t_relay(\"udp:192.0.2.1:5070\")",
        "t_relay(\"0x02\",\"udp:192.0.2.1:5070\")",
    ] {
        let rig = crate::test_rig::Rig::script_in(
            Dialect::V2_4,
            &format!(
                "{}modparam(\"tm\", \"fr_timeout\", 5)
                route {{ t_on_failure(\"1\"); t_on_branch(\"2\"); t_on_reply(\"3\"); if (!{call}) {{ sl_reply_error(); }} }}
                failure_route[1] {{ if (t_check_status(\"40[48]\") && t_local_replied(\"all\")) xlog(\"L_ERR\", \"$T_reply_code\\n\"); }}
                branch_route[2] {{ xlog(\"L_ERR\", \"$T_branch_idx\\n\"); }}
                onreply_route[3] {{ xlog(\"L_ERR\", \"$rs\\n\"); }}",
                super::MODULES
            ),
        );
        let out = rig.receive(request("OPTIONS", "a"));
        let to = if call.contains("udp") { "192.0.2.1:5070" } else { "192.0.2.9:5062" };
        assert_eq!(out[0].to.addr.to_string(), to, "{call}");
        assert_eq!(lines(&rig.advance(Duration::from_secs(6))).last().unwrap(), "SIP/2.0 408 Request Timeout");
        assert_eq!(rig.xlogs(), ["0", "408"], "{call}");
    }
}

#[test]
fn relay_flags_are_words_or_numbers_and_nothing_else() {
    use crate::tm::functions::relay_flags;
    use crate::tm::relay::RelayFlags;
    let both = RelayFlags { no_auto_477: true, no_dns_failover: true, ..RelayFlags::default() };
    assert_eq!(relay_flags(b"no-auto-477, no-dns-failover"), Some(both));
    assert_eq!(relay_flags(b"0x06"), Some(both));
    assert_eq!(relay_flags(b"6"), Some(both));
    assert_eq!(relay_flags(b""), Some(RelayFlags::default()));
    assert_eq!(relay_flags(b"udp:192.0.2.1"), None);
    assert_eq!(relay_flags(b"no-such-flag"), None);
}

#[test]
fn broken_messages_do_no_harm() {
    let rig = script(RELAY);
    let invite = request("INVITE", "a");
    let out = rig.receive(&invite);
    let reply = answer(&out[1], 486);
    for cut in 0..reply.len() {
        rig.receive(&reply[..cut]);
    }
    for cut in 0..invite.len() {
        rig.receive(&invite.as_bytes()[..cut]);
    }
    for at in 0..reply.len() {
        let mut flipped = reply.clone();
        flipped[at] ^= 1 << (at % 8);
        rig.receive(flipped);
    }
    // It still works.
    let out = rig.receive(request("OPTIONS", "end"));
    assert_eq!(lines(&rig.receive(answer(&out[0], 200))), ["SIP/2.0 200 OK"]);
}

#[test]
fn with_mhomed_the_listener_is_the_one_the_system_sends_from() {
    for (mhomed, expected) in [("yes", "127.0.3.2"), ("no", "127.0.3.1")] {
        let rig = script(&format!(
            "mhomed={mhomed}\nsocket=udp:127.0.3.1:5071\nsocket=udp:127.0.3.2:5072\nloadmodule \"rr.so\"\n\
             route {{ record_route(); t_relay(); }}"
        ));
        rig.recorder.routes.lock().insert("192.0.2.9".parse().unwrap(), "127.0.3.2".parse().unwrap());
        let sent = rig.receive(request("INVITE", "a"));
        let invite = sent.iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
        assert_eq!(rig.node.socket(invite.to.socket).unwrap().addr.ip().to_string(), expected);
        // Each side is told the address it can reach.
        assert_eq!(invite.text().contains(";r2=on"), mhomed == "yes", "{}", invite.text());
    }
}
