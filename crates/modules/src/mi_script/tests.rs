//! `mi()` through scripts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use crate::test_rig::{PEER, Rig};

fn script(head: &str, body: &str) -> String {
    format!(
        "loadmodule \"proto_udp.so\"\nloadmodule \"tm.so\"\nloadmodule \"cfgutils.so\"\nloadmodule \"mi_script.so\"\n\
         {head}\nroute {{ {body} }}"
    )
}

fn request() -> String {
    format!(
        "OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP {PEER};branch=z9hG4bKa\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.org>;tag=alice\r\nTo: <sip:bob@example.org>\r\nCall-ID: call-1\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn lines(head: &str, body: &str) -> Vec<String> {
    let rig = Rig::script(&script(head, body));
    rig.receive(request());
    rig.xlogs()
}

#[test]
fn parameters_come_with_the_command_in_one_avp_or_in_two() {
    let body = r#"
        mi("cfgutils:shv_set  one str 1");
        $avp(p) = "two"; $avp(p) = "str"; $avp(p) = "a b";
        mi("cfgutils:shv_set ignored int 7", , $avp(p));
        $avp(n) = "type"; $avp(v) = "int"; $avp(n) = "name"; $avp(v) = "three"; $avp(n) = "value"; $avp(v) = 3;
        mi("cfgutils:shv_set", $var(ret), $avp(n), $avp(v));
        xlog("$rc $var(ret) $shv(one) $shv(two) $shv(three) $shv(ignored)");
        mi("shv_get three", $var(ret));
        xlog("$rc $var(ret)");"#;
    let lines = lines("", body);
    assert_eq!(lines[0], "1 \"OK\" 1 a b 3 <null>");
    assert_eq!(lines[1], "1 {\"three\":3}");
}

#[test]
fn errors_are_negative_codes_and_their_message() {
    let body = r#"
        $var(ret) = "before";
        mi("no_such_command", $var(ret)); xlog("$rc $var(ret)");
        mi("   "); xlog("$rc");
        mi("shv_set only", $var(ret)); xlog("$rc $var(ret)");
        mi("t_reply 200 OK 1234 tag", $var(ret)); xlog("$rc $var(ret)");
        $avp(n) = "name"; $avp(n) = "value"; $avp(v) = "x";
        mi("shv_set", $var(ret), $avp(n), $avp(v)); xlog("$rc");"#;
    assert_eq!(lines("", body), ["-1 before", "-2", "-32602 Invalid params", "-404 Transaction not found", "-2"]);
}

#[test]
fn a_list_is_one_parameter_and_pretty_printing_breaks_lines() {
    let head = "modparam(\"mi_script\", \"pretty_printing\", 1)\n";
    let body = r#"
        $avp(n) = "statistics"; $avp(v) = "__array(rcv_requests tm:inuse_transactions)";
        mi("get_statistics", $var(ret), $avp(n), $avp(v));
        xlog("$rc $var(ret)");"#;
    let lines = lines(head, body);
    assert!(lines[0].starts_with("1 {\n"), "{lines:?}");
    assert!(lines[0].contains("\"core:rcv_requests\"") && lines[0].contains("\"tm:inuse_transactions\""), "{lines:?}");
}

#[test]
fn a_command_that_answers_later_parks_the_run() {
    for call in [
        "mi(\"t_uac_dlg\", $var(ret), $avp(n), $avp(v)); route(AFTER);",
        "async(mi(\"t_uac_dlg\", $avp(ret), $avp(n), $avp(v)), AFTER);",
    ] {
        let body = format!(
            r#"$avp(n) = "method"; $avp(v) = "OPTIONS"; $avp(n) = "ruri"; $avp(v) = "sip:192.0.2.1";
            $avp(n) = "headers"; $avp(v) = "From: <sip:a@b>\r\nTo: <sip:c@d>\r\n"; {call} }}
            route[AFTER] {{ xlog("after $rc $(var(ret){{s.substr,0,18}})$(avp(ret){{s.substr,0,18}})");"#
        );
        let rig = Rig::script(&script("", &body));
        let sent = rig.receive_now(request());
        let ping = sent.iter().find(|sent| sent.first_line().starts_with("OPTIONS sip:192.0.2.1 ")).unwrap();
        assert_eq!(rig.xlogs(), Vec::<String>::new());
        let mut answer = Vec::new();
        let reply = tandem_sip::ReplyOut { status: 200, to_tag: Some(b"x"), ..tandem_sip::ReplyOut::default() };
        tandem_sip::build_reply(&ping.message(), &reply, &mut answer).unwrap();
        rig.receive_now(answer);
        let lines = rig.xlogs();
        assert_eq!(lines.len(), 1, "{call}");
        assert!(lines[0].starts_with("after 1 "), "{lines:?}");
        assert!(lines[0].contains("{\"Status\":\"200 OK\""), "{lines:?}");
    }
}
