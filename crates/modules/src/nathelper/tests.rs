//! NAT detection, fixes and pings through real scripts and messages.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use tandem_location::Aor;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use crate::test_rig::{Rig, RigOptions, Sent};
use crate::usrloc::Usrloc;

const MODULES: &str = "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\n\
loadmodule \"tm.so\"\nloadmodule \"sipmsgops.so\"\nloadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\n\
loadmodule \"nathelper.so\"\n";

const SDP: &str = "v=0\r\no=alice 1 1 IN IP4 192.168.1.5\r\ns=-\r\nc=IN IP4 192.168.1.5\r\nt=0 0\r\n\
m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 31\r\nc=IN IP4 0.0.0.0\r\n";

fn rig(params: &str, route: &str) -> Rig {
    Rig::script(&format!("{MODULES}{params}\nroute {{ {route} }}\n"))
}

fn invite(via: &str, contact: &str, body: &str) -> String {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "INVITE sip:bob@127.0.3.8:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch=z9hG4bKa\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.org>;tag=f\r\nTo: <sip:bob@example.org>\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\n\
         Contact: {contact}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What leaves of an INVITE on which `route` ran.
fn relayed(params: &str, route: &str, message: &str) -> String {
    let rig = rig(params, &format!("{route} t_relay();"));
    let sent = rig.receive(message);
    sent.iter().map(Sent::text).find(|text| text.starts_with("INVITE ")).unwrap()
}

fn body(message: &str) -> &str {
    message.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn each_test_finds_what_it_is_for_and_nothing_else() {
    let own = "127.0.3.9:5099";
    let public = "<sip:alice@127.0.3.9:5099>";
    let plain = "v=0\r\no=- 1 1 IN IP4 192.168.1.5\r\ns=-\r\nc=IN IP4 203.0.113.5\r\nm=audio 4000 RTP/AVP 0\r\n";
    for (flags, name, via, contact, sdp, is_found) in [
        ("1", "private-contact", own, "\"A\" <sip:alice@10.1.1.1:5060>", plain, true),
        ("1", "private-contact", own, "<sip:alice@100.64.3.1>", plain, true),
        ("1", "private-contact", own, "<sip:alice@192.0.0.3>", plain, false),
        ("129", "private-contact,carrier-grade-nat", own, "<sip:alice@192.0.0.3>", plain, true),
        ("1", "private-contact", own, public, plain, false),
        ("2", "diff-ip-src-via", "192.0.2.9:5099", public, plain, true),
        ("2", "diff-ip-src-via", "host.example.org:5099", public, plain, true),
        ("2", "diff-ip-src-via", "127.0.3.9:1", public, plain, false),
        ("4", "private-via", "172.20.1.1", public, plain, true),
        ("4", "private-via", "192.0.2.9", public, plain, false),
        ("8", "private-sdp", own, public, SDP, true),
        ("8", "private-sdp", own, public, plain, false),
        ("8", "private-sdp", own, public, "", false),
        ("16", "diff-port-src-via", "127.0.3.9", public, plain, true),
        ("16", "diff-port-src-via", own, public, plain, false),
        ("32", "diff-ip-src-contact", own, "<sip:alice@127.0.3.7:5099>", plain, true),
        ("32", "diff-ip-src-contact", own, "<sip:alice@phone:5099>", plain, true),
        ("32", "diff-ip-src-contact", own, public, plain, false),
        ("64", "diff-port-src-contact", own, "<sip:alice@127.0.3.9>", plain, true),
        ("64", "diff-port-src-contact", own, public, plain, false),
        ("23", "private-contact, diff-ip-src-via, private-via, diff-port-src-via", own, public, SDP, false),
        ("1", "private-contact", own, "*", plain, false),
    ] {
        for flags in [flags, name] {
            let rig = rig("", &format!("if (nat_uac_test(\"{flags}\")) xlog(\"nat\\n\"); else xlog(\"none\\n\");"));
            rig.receive(invite(via, contact, sdp));
            assert_eq!(rig.xlogs(), [if is_found { "nat" } else { "none" }], "{flags} {via} {contact}");
        }
    }
}

#[test]
fn a_number_without_quotes_and_a_variable_are_flags_as_well() {
    let rig =
        rig("", "$var(f) = 19; if (nat_uac_test(16)) xlog(\"one\\n\"); if (nat_uac_test($var(f))) xlog(\"two\\n\");");
    rig.receive(invite("127.0.3.9", "<sip:a@127.0.3.9>", ""));
    assert_eq!(rig.xlogs(), ["one", "two"]);
}

#[test]
fn contacts_get_the_source_address() {
    for (contact, call, fixed) in [
        ("<sip:alice@10.0.0.1:5062;ob>;q=0.5", "fix_nated_contact();", "<sip:alice@127.0.3.9:5099;ob>;q=0.5"),
        ("sip:alice@10.0.0.1", "fix_nated_contact();", "<sip:alice@127.0.3.9:5099>"),
        ("<sip:alice@[2001:db8::1]:5062>", "fix_nated_contact();", "<sip:alice@127.0.3.9:5099>"),
        ("<sip:a@10.0.0.1?x=y>", "fix_nated_contact(\";ata=cisco\");", "<sip:a@127.0.3.9:5099;ata=cisco?x=y>"),
        (
            "<sip:a@10.0.0.1>, <sip:b@10.0.0.2>",
            "fix_nated_contact();",
            "<sip:a@127.0.3.9:5099>, <sip:b@127.0.3.9:5099>",
        ),
        (
            "<sip:a@10.0.0.1:5062>",
            "fix_nated_contact(\";x\", \"preserve-uri\");",
            "<sip:a@127.0.3.9:5099;org=MTAuMC4wLjE6NTA2Mg;x>",
        ),
    ] {
        let text = relayed("", call, &invite("127.0.3.9:5099", contact, ""));
        assert!(text.contains(&format!("\r\nContact: {fixed}\r\n")), "{contact}: {text}");
    }
    for (contact, call, received) in [
        ("<sip:a@10.0.0.1>;q=1", "add_rcv_param();", "<sip:a@10.0.0.1>;q=1;received=\"sip:127.0.3.9:5099\""),
        ("<sip:a@10.0.0.1>;q=1", "add_rcv_param(1);", "<sip:a@10.0.0.1;received=sip:127.0.3.9:5099>;q=1"),
        ("sip:a@10.0.0.1", "add_rcv_param(1);", "<sip:a@10.0.0.1;received=sip:127.0.3.9:5099>"),
    ] {
        let text = relayed("", call, &invite("127.0.3.9:5099", contact, ""));
        assert!(text.contains(&format!("\r\nContact: {received}\r\n")), "{contact}: {text}");
    }
}

#[test]
fn a_contact_that_cannot_be_fixed_is_left_alone() {
    let rig = rig("", "if (!fix_nated_contact()) xlog(\"no\\n\");");
    for contact in ["*", "<sip:>", "<tel:+49>", "<sip:a@", ""] {
        rig.receive(invite("127.0.3.9:5099", contact, ""));
        assert_eq!(rig.xlogs(), ["no"], "{contact}");
    }
}

#[test]
fn the_original_address_comes_back_from_org() {
    let rig = rig("", "if (restore_nated_ruri()) xlog(\"$ru $du\\n\"); else xlog(\"no $ru\\n\");");
    let run = |uri: &str| {
        rig.receive(invite("127.0.3.9:5099", "<sip:a@b>", "").replace("sip:bob@127.0.3.8:5060", uri));
        rig.xlogs().pop().unwrap()
    };
    assert_eq!(
        run("sip:bob@127.0.3.8:7000;org=MTAuMC4wLjE6NTA2Mg;x"),
        "sip:bob@10.0.0.1:5062;x sip:bob@127.0.3.8:7000;x"
    );
    assert_eq!(run("sip:bob@127.0.3.8;org=MTAuMC4wLjE6NTA2Mg=="), "sip:bob@10.0.0.1:5062 sip:bob@127.0.3.8");
    // No org; not Base64; text that would change the URI.
    for uri in
        ["sip:bob@127.0.3.8", "sip:bob@127.0.3.8;org=***", "sip:bob@127.0.3.8;org=YTtiPWM", "sip:bob@127.0.3.8;org"]
    {
        assert!(run(uri).starts_with("no "), "{uri}");
    }
}

#[test]
fn session_descriptions_are_fixed_as_the_flags_say() {
    let message = invite("127.0.3.9:5099", "<sip:a@b>", SDP);
    let run = |call: &str| body(&relayed("", call, &message)).to_owned();
    let media = run("fix_nated_sdp(\"2\");");
    assert!(media.contains("s=-\r\nc=IN IP4 127.0.3.9\r\n") && media.contains("c=IN IP4 0.0.0.0\r\n"), "{media}");
    assert!(
        media.contains("o=alice 1 1 IN IP4 192.168.1.5\r\n") && media.ends_with("a=oldcip:192.168.1.5\r\n"),
        "{media}"
    );
    let all = run("fix_nated_sdp(\"rewrite-media-ip,rewrite-origin-ip,rewrite-null-ips\", \"2001:db8::7\");");
    assert_eq!(all.matches("c=IN IP6 2001:db8::7\r\n").count(), 2, "{all}");
    assert!(all.contains("o=alice 1 1 IN IP6 2001:db8::7\r\n"), "{all}");
    assert!(all.ends_with("a=oldoip:192.168.1.5\r\na=oldcip:192.168.1.5\r\na=oldcip:0.0.0.0\r\n"), "{all}");
    let lines = run("fix_nated_sdp(\"5\", , \"\\r\\na=x-attr1\\r\\na=x-attr2\");");
    assert_eq!(lines, format!("{SDP}a=direction:active\r\na=nortpproxy:yes\r\na=x-attr1\r\na=x-attr2\r\n"));
    let skip = "modparam(\"nathelper\", \"oldip_skip\", \"oc\")\nmodparam(\"nathelper\", \"nortpproxy_str\", \"a=seen\\r\\n\")";
    let skipped = relayed(skip, "fix_nated_sdp(\"0x0e\");", &message);
    assert!(!skipped.contains("a=old") && skipped.ends_with("a=seen\r\n"), "{skipped}");
    let length = body(&skipped).len();
    assert!(skipped.contains(&format!("Content-Length: {length}\r\n")), "{skipped}");
}

#[test]
fn hostile_session_descriptions_cost_nothing() {
    let rig = rig("", "fix_nated_sdp(\"31\", \"192.0.2.1\"); t_relay();");
    let long = format!("c={}\r\n", "x ".repeat(20_000));
    for (at, sdp) in [
        "c=\r\no=\r\n",
        "c=IN IP4\r\n",
        "o=a b c d\n",
        "c=IN IP4 999.1.1.1/3/4",
        "\r\n\r\n",
        "m=\0\u{1}\r\nc= IN  IP4  1.1.1.1",
        &long,
    ]
    .into_iter()
    .enumerate()
    {
        let sent = rig.receive(invite("127.0.3.9:5099", "<sip:a@b>", sdp).replace("z9hG4bKa", &format!("z9hG4bK{at}")));
        assert!(sent.iter().any(|sent| sent.text().starts_with("INVITE ")), "{sdp:?}");
    }
    let bad = invite("127.0.3.9:5099", "<sip:a@b>", "");
    rig.receive(bad.replace("z9hG4bKa", "z9hG4bKnone"));
}

#[test]
fn one_part_of_many_is_fixed() {
    let parts = format!(
        "--b\r\nContent-Type: text/plain\r\n\r\nc=IN IP4 10.0.0.1\r\n--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--b--\r\n"
    );
    let message = invite("127.0.3.9:5099", "<sip:a@b>", &parts).replace(
        "Content-Type: application/sdp\r\nContent-Length",
        "Content-Type: multipart/mixed;boundary=b\r\nContent-Length",
    );
    let text = relayed("", "if (nat_uac_test(\"8\")) fix_nated_sdp(\"2\");", &message);
    assert!(
        text.contains("text/plain\r\n\r\nc=IN IP4 10.0.0.1\r\n--b") && text.contains("c=IN IP4 127.0.3.9\r\n"),
        "{text}"
    );
}

const SAVING: &str = "if ($rU == \"sip\" || $fU == \"sip\") setbflag(\"SIP\"); if ($fU != \"open\") setbflag(\"NAT\");\
    setbflag(\"GONE\"); fix_nated_register(); save(\"location\");";

fn pinging(more: &str) -> Rig {
    let params = format!(
        "modparam(\"usrloc\", \"nat_bflag\", \"NAT\")\nmodparam(\"registrar\", \"received_avp\", \"$avp(rcv)\")\n\
         modparam(\"nathelper\", \"received_avp\", \"$avp(rcv)\")\nmodparam(\"nathelper\", \"natping_interval\", 10)\n\
         modparam(\"nathelper\", \"sipping_bflag\", \"SIP\")\nmodparam(\"nathelper\", \"sipping_from\", \"sip:pinger@example.org\")\n{more}"
    );
    rig(&params, SAVING)
}

fn register(rig: &Rig, user: &str, peer: &str) {
    let message = format!(
        "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{user}\r\n\
         From: <sip:{user}@example.org>;tag=f\r\nTo: <sip:{user}@example.org>\r\nCall-ID: {user}\r\nCSeq: 1 REGISTER\r\n\
         Contact: <sip:{user}@10.0.0.1:5070>\r\nExpires: 3000\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(rig.receive_from(peer, message).len(), 1);
}

fn contacts(rig: &Rig, user: &str) -> usize {
    let domain = rig.node.state::<Usrloc>().unwrap().find_domain(b"location").unwrap();
    domain
        .table
        .with_record(&Aor::from(format!("{user}@example.org").as_str()), |record| record.bindings().len())
        .unwrap_or(0)
}

fn reply(ping: &Sent, code: u16) -> String {
    ping.text().replacen("OPTIONS sip:sip@10.0.0.1:5070 SIP/2.0", &format!("SIP/2.0 {code} X"), 1)
}

#[test]
fn every_contact_is_pinged_once_in_an_interval_and_without_a_burst() {
    let rig = pinging("");
    for number in 0..500 {
        register(&rig, &format!("user{number}"), "127.0.3.9:7000");
    }
    // The first round may have begun before they came.
    rig.advance(Duration::from_secs(10));
    let mut pings = 0;
    for _ in 0..100 {
        let sent = rig.advance(Duration::from_millis(100));
        assert!(sent.len() <= 6, "{} pings at once", sent.len());
        assert!(sent.iter().all(|ping| ping.bytes == [0; 4] && ping.to.addr == "127.0.3.9:7000".parse().unwrap()));
        pings += sent.len();
    }
    assert!((495..=505).contains(&pings), "{pings}");
}

#[test]
fn only_contacts_behind_nat_are_pinged_when_asked() {
    let rig = pinging("modparam(\"nathelper\", \"ping_nated_only\", 1)");
    register(&rig, "open", "127.0.3.9:7000");
    register(&rig, "closed", "127.0.3.9:7001");
    let sent = rig.advance(Duration::from_secs(20));
    assert!(!sent.is_empty() && sent.iter().all(|ping| ping.to.addr.port() == 7001), "{sent:?}");
}

#[test]
fn sip_pings_are_answered_without_the_script() {
    let rig = pinging("modparam(\"nathelper\", \"sipping_method\", \"INFO\")");
    register(&rig, "sip", "127.0.3.9:7002");
    let ping = rig.advance(Duration::from_secs(10)).remove(0);
    let text = ping.text();
    assert!(text.starts_with("INFO sip:sip@10.0.0.1:5070 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.1:5071;"), "{text}");
    assert!(
        text.contains("\r\nFrom: <sip:pinger@example.org>;tag=")
            && text.contains("\r\nTo: <sip:sip@10.0.0.1:5070>\r\n")
    );
    assert_eq!(ping.to.addr, "127.0.3.9:7002".parse().unwrap());
    let answer = text.replacen("INFO sip:sip@10.0.0.1:5070 SIP/2.0", "SIP/2.0 200 OK", 1);
    assert!(rig.receive(answer).is_empty());
}

#[test]
fn contacts_that_do_not_answer_are_removed() {
    let more = "modparam(\"nathelper\", \"remove_on_timeout_bflag\", \"GONE\")\nmodparam(\"nathelper\", \"max_pings_lost\", 2)\n\
        modparam(\"nathelper\", \"sipping_ignore_rpl_codes\", \"408, 480\")";
    let rig = pinging(more);
    register(&rig, "sip", "127.0.3.9:7002");
    let mut answered = 0;
    for _ in 0..6 {
        for ping in rig.advance(Duration::from_secs(10)) {
            rig.receive(reply(&ping, 404));
            answered += 1;
        }
    }
    assert!(answered >= 5, "{answered}");
    assert_eq!(contacts(&rig, "sip"), 1, "any answer is a sign of life");
    for _ in 0..4 {
        for ping in rig.advance(Duration::from_secs(10)) {
            rig.receive(reply(&ping, 408));
            // Nobody can answer for another contact.
            rig.receive(reply(&ping, 200).replace("Call-ID: tandem-np:", "Call-ID: tandem-np:1"));
        }
    }
    assert_eq!(contacts(&rig, "sip"), 0);
}

#[test]
fn the_time_of_an_answer_is_reported() {
    let params = "modparam(\"nathelper\", \"natping_interval\", 10)\nmodparam(\"nathelper\", \"sipping_bflag\", \"SIP\")\n\
        modparam(\"nathelper\", \"sipping_latency_flag\", \"SIP\")\nmodparam(\"nathelper\", \"sipping_from\", \"sip:p@example.org\")";
    let rig = Rig::script(&format!(
        "{MODULES}{params}\nroute {{ setbflag(\"SIP\"); save(\"location\"); }}\n\
         event_route[E_UL_LATENCY_UPDATE] {{ xlog(\"$param(aor) $param(latency)\\n\"); }}\n"
    ));
    register(&rig, "sip", "127.0.3.9:7002");
    let ping = rig.advance(Duration::from_millis(500)).remove(0);
    let late = Duration::from_millis(400);
    rig.advance(late);
    rig.receive(reply(&ping, 200));
    let line = rig.xlogs().pop().unwrap();
    let latency: u64 = line.strip_prefix("sip@example.org ").unwrap().parse().unwrap();
    assert!((400_000..4_000_000).contains(&latency), "{line}");
}

#[test]
fn pings_are_switched_by_management() {
    let rig = pinging("");
    register(&rig, "a", "127.0.3.9:7000");
    let switch = |status: i64| rig.mi("nh_enable_ping", MiParams::Positional(vec![json!(status)]));
    assert_eq!(rig.mi("nathelper:enable_ping", MiParams::None).unwrap(), json!({ "Status": 1 }));
    assert_eq!(switch(0).unwrap(), json!("OK"));
    assert!(rig.advance(Duration::from_secs(25)).is_empty());
    assert_eq!(rig.mi("nh_enable_ping", MiParams::None).unwrap(), json!({ "Status": 0 }));
    switch(1).unwrap();
    assert!(!rig.advance(Duration::from_secs(12)).is_empty());
    let off = super::super::test_rig::Rig::script(&format!("{MODULES}route {{ exit; }}"));
    assert_eq!(off.mi("nh_enable_ping", MiParams::None).unwrap_err().code, 400);
}

#[test]
fn names_in_contacts_are_looked_up() {
    let rig = rig(
        "modparam(\"nathelper\", \"natping_interval\", 5)\nmodparam(\"nathelper\", \"natping_partitions\", 4)",
        "save(\"location\");",
    );
    rig.add_name("phone.example.org", tandem_module::transport::Proto::Udp, "127.0.3.7:5090");
    rig.set_slow_names(true);
    let message = "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKn\r\n\
        From: <sip:n@example.org>;tag=f\r\nTo: <sip:n@example.org>\r\nCall-ID: n\r\nCSeq: 1 REGISTER\r\n\
        Contact: <sip:n@phone.example.org:5095>\r\nContent-Length: 0\r\n\r\n";
    rig.receive(message);
    let sent = rig.advance(Duration::from_secs(10));
    assert!(!sent.is_empty() && sent.iter().all(|ping| ping.to.addr == "127.0.3.7:5095".parse().unwrap()), "{sent:?}");
}

#[test]
fn the_old_dialect_writes_it_as_strings() {
    let params =
        "modparam(\"nathelper\", \"natping_processes\", 2)\nmodparam(\"nathelper\", \"received_avp\", \"$avp(rcv)\")";
    let route = "if (nat_uac_test(\"23\")) { fix_nated_register(); fix_nated_contact(); fix_nated_sdp(\"3\",\"192.0.2.1\"); \
        xlog(\"$avp(rcv)\\n\"); } t_relay();";
    let rig = Rig::script_in(Dialect::V2_4, &format!("{MODULES}{params}\nroute {{ {route} }}\n"));
    let sent = rig.receive(invite("10.0.0.1", "<sip:alice@10.0.0.1>", SDP));
    assert_eq!(rig.xlogs(), ["sip:127.0.3.9:5099"]);
    let text = sent.iter().map(Sent::text).find(|text| text.starts_with("INVITE ")).unwrap();
    assert!(text.contains("<sip:alice@127.0.3.9:5099>") && text.contains("c=IN IP4 192.0.2.1\r\n"), "{text}");
}

#[test]
fn wrong_parameters_do_not_start() {
    let alone = "loadmodule \"nathelper.so\"\n";
    for (script, what) in [
        (format!("{alone}modparam(\"nathelper\", \"natping_interval\", 5)"), "usrloc"),
        (format!("{alone}modparam(\"nathelper\", \"natping_interval\", -5)"), "negative"),
        (format!("{alone}modparam(\"nathelper\", \"natping_partitions\", 9)"), "between 1 and 8"),
        (format!("{alone}modparam(\"nathelper\", \"sipping_ignore_rpl_codes\", \"x\")"), "reply codes"),
        (format!("{alone}modparam(\"nathelper\", \"cluster_sharing_tag\", \"vip\")"), "cluster_id"),
        (format!("{alone}modparam(\"nathelper\", \"received_avp\", \"$nothing(x)\")"), "unknown variable"),
    ] {
        let error =
            Rig::try_script(&format!("{script}\nroute {{ exit; }}\n"), RigOptions::default()).err().unwrap_or_default();
        assert!(error.contains(what), "{script}: {error}");
    }
}
