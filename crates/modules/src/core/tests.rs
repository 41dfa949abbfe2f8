//! Stateless forwarding, caches, events and management of the core, through scripts.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_module::transport::Proto;

use crate::test_rig::Rig;

const REQUEST: &str = "OPTIONS sip:bob@next.example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKo1\r\n\
From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: o-1\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\nContent-Length: 0\r\n\r\n";

#[test]
fn forward_adds_a_via_whose_branch_is_the_same_for_retransmissions() {
    let rig = Rig::script("route { forward(); xlog(\"$rc\"); }");
    rig.add_name("next.example.org", Proto::Udp, "192.0.2.7:5060");
    let first = rig.receive(REQUEST);
    let again = rig.receive(REQUEST);
    let other = rig.receive(REQUEST.replace("z9hG4bKo1", "z9hG4bKo2"));
    assert_eq!(rig.xlogs(), ["1", "1", "1"]);
    assert_eq!(first[0].to.addr, "192.0.2.7:5060".parse().unwrap());
    let branch = |sent: &crate::test_rig::Sent| sent.message().top_via().unwrap().branch.unwrap().to_vec();
    assert_eq!(branch(&first[0]), branch(&again[0]));
    assert_ne!(branch(&first[0]), branch(&other[0]));
    assert!(branch(&first[0]).starts_with(b"z9hG4bK"));
    assert_eq!(first[0].message().vias().count(), 2);
    let found = rig.mi("get_statistics", MiParams::Positional(vec![json!("fwd_requests")])).unwrap();
    assert_eq!(found["core:fwd_requests"], 3);
}

#[test]
fn a_name_that_is_not_cached_suspends_the_run() {
    let rig = Rig::script("route { $var(x) = 1; forward(\"tcp:next.example.org:5070\"); xlog(\"$rc\"); }");
    rig.set_slow_names(true);
    rig.add_name("next.example.org", Proto::Udp, "192.0.2.7:5060");
    // There is no TCP listener: known only when the name is.
    assert!(rig.receive(REQUEST).is_empty());
    assert_eq!(rig.xlogs(), ["-1"]);
    let rig = Rig::script("route { forward(\"next.example.org:5070\"); xlog(\"$rc\"); }");
    rig.set_slow_names(true);
    rig.add_name("next.example.org", Proto::Udp, "192.0.2.7:5060");
    let sent = rig.receive(REQUEST);
    assert_eq!(sent[0].to.addr, "192.0.2.7:5070".parse().unwrap());
    assert_eq!(rig.xlogs(), ["1"]);
}

#[test]
fn send_passes_the_message_unchanged_but_for_the_headers_given() {
    let rig = Rig::script("route { send(\"127.0.0.1:5999\", \"X-Y: 1\\r\\n\"); }");
    let sent = rig.receive(REQUEST);
    let wanted = REQUEST.replacen("SIP/2.0\r\n", "SIP/2.0\r\nX-Y: 1\r\n", 1);
    assert_eq!(sent[0].text(), wanted);
}

#[test]
fn event_parameters_reach_the_event_route_by_number_and_name() {
    let rig = Rig::script(
        "route { $avp(n)=\"k\"; $avp(n)=\"j\"; $avp(w)=\"v\"; $avp(w)=7; raise_event(\"E_TST\", $avp(n), $avp(w)); }
         event_route[E_TST] { xlog(\"$param(1) $param(2) $param(k) $param(j) $rm\"); }",
    );
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["7 v v 7 DUMMY"]);
}

#[test]
fn management_tells_levels_commands_and_unknown_statistics() {
    let rig = Rig::script("log_level=3\nroute { exit; }");
    assert_eq!(rig.mi("xlog_level", MiParams::None).unwrap(), json!({ "xLog Level": 2 }));
    assert_eq!(rig.mi("xlog_level", MiParams::Positional(vec![json!(1)])).unwrap(), json!({ "New xLog level": 1 }));
    let level = |params| rig.mi("log_level", MiParams::Positional(params)).unwrap();
    assert_eq!(level(vec![json!(4)]), json!({ "New global log level": 4 }));
    assert_eq!(level(vec![json!(4), json!(std::process::id())]), json!({ "New log level": 4 }));
    assert_eq!(rig.node.settings.log_level.load(std::sync::atomic::Ordering::Relaxed), 4);
    let all = rig.mi("which", MiParams::None).unwrap();
    for name in ["ps", "get_statistics", "statistics:get"] {
        assert!(all.as_array().unwrap().contains(&json!(name)), "{name}");
    }
    let which = |name: &str| rig.mi("which", MiParams::Positional(vec![json!(name)]));
    let ways = json!([["event", "socket"], ["event", "socket", "expire"]]);
    assert_eq!((which("event_subscribe"), which("evi:subscribe")), (Ok(ways.clone()), Ok(ways)));
    assert_eq!(which("cache:"), Ok(json!(["cache:fetch", "cache:remove", "cache:store"])));
    assert_eq!(which("nope").unwrap_err().code, 404);
    assert_eq!(rig.mi("get_statistics", MiParams::Positional(vec![json!("nope")])).unwrap_err().code, 404);
    assert!(rig.mi("uptime", MiParams::None).unwrap()["Up time"].as_str().unwrap().ends_with("[sec]"));
}

#[test]
fn reply_routes_see_no_request_uri() {
    let rig = Rig::script("route { exit; }\nonreply_route { xlog(\"$ru $rU $rs $rr $rm\"); }");
    rig.receive(
        "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 127.0.3.1:5071;branch=z9hG4bKx\r\nFrom: <sip:a@example.org>;tag=1\r\n\
         To: <sip:b@example.org>;tag=2\r\nCall-ID: o-1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(rig.xlogs(), ["<null> <null> 180 Ringing INVITE"]);
}

const OFFER: &str = "INVITE sip:bob@192.0.2.7:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKs1\r\n\
From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: s-1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 9\r\n\
Content-Type: application/sdp\r\nContent-Length: 97\r\n\r\nv=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nc=IN IP4 1.1.1.1\r\nt=0 0\r\n\
m=audio 4000 RTP/AVP 0\r\na=sendrecv\r\n";

#[test]
fn lines_of_the_description_are_read_edited_and_sent() {
    let rig = Rig::script(
        "route { $sdp.line(c=) = \"c=IN IP4 9.9.9.9\"; $(sdp.stream(audio/a=)[insert]) = \"a=ptime:20\";
           $(sdp.line(t=)[insertAfter]) = \"a=x\"; $sdp.session(s=) = NULL;
           xlog(\"$sdp.line(c=/[2]) $sdp.stream(audio/[1]) $sdp.stream.idx(audio) $sdp.line(z=)\");
           $sdp.line(z=) = \"z\"; xlog(\"$rc\"); forward(); }",
    );
    let offer = OFFER.replacen(
        "Content-Length: 97",
        &format!("Content-Length: {}", OFFER.split("\r\n\r\n").nth(1).unwrap().len()),
        1,
    );
    let sent = rig.receive(offer);
    assert_eq!(rig.xlogs(), ["9.9.9.9 a=ptime:20 5 <null>", "-1"]);
    let message = sent[0].message();
    let wanted = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\nc=IN IP4 9.9.9.9\r\nt=0 0\r\na=x\r\nm=audio 4000 RTP/AVP 0\r\n\
                  a=ptime:20\r\na=sendrecv\r\n";
    assert_eq!(std::str::from_utf8(message.body()).unwrap(), wanted);
    assert_eq!(message.content_length().unwrap(), Some(wanted.len() as u32));
}

#[test]
fn a_description_is_replaced_or_removed_as_a_whole() {
    let rig = Rig::script(
        "route { $sdp = \"nonsense\"; xlog(\"$rc\"); $sdp = NULL; xlog(\"$rc $sdp $rb\"); $sdp = \"v=0\\r\\no=x\\r\\ns=-\\r\\n\";
           xlog(\"$rc $(sdp{s.len})\"); }",
    );
    rig.receive(OFFER.replacen("Content-Length: 97\r\n", "", 1));
    assert_eq!(rig.xlogs(), ["-1", "1 <null> <null>", "1 15"]);
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["-1", "-1 <null> <null>", "-1 <null>"]);
}
