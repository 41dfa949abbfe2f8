//! rtpengine through real scripts: against the real server where it is installed, and against scripted ones for faults.

#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tandem_media::bencode::Value as Ng;
use tandem_module::mi::MiParams;
use tandem_testbed::Rtpengine as Real;

use crate::relays::test_call::{CALLEE, MODULES, Relay, Server, Speech, calling, find, load, message, reply_to, sock};

const OWN: &str = "loadmodule \"rtpengine.so\"\nmodparam(\"rtpengine\", \"rtpengine_tout\", 1)\n\
modparam(\"rtpengine\", \"rtpengine_retr\", 0)\nmodparam(\"rtpengine\", \"error_pv\", \"$var(error)\")\n";

const SDP: &str = "v=0\r\no=alice 1 1 IN IP4 192.168.1.5\r\ns=-\r\nc=IN IP4 192.168.1.5\r\nt=0 0\r\n\
m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

fn server(params: &str, routes: &str) -> Server {
    load(None, &format!("{MODULES}{OWN}{params}\n{routes}\n")).unwrap_or_else(|error| panic!("{error}"))
}

fn scripted(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Relay<Ng> {
    let speech =
        Speech { decode: |bytes| Ng::decode(bytes).unwrap(), is_probe: |command| text(command, "command") == "ping" };
    Relay::new(speech, move |request| match text(request, "command") {
        "ping" => Some(b"d6:result4:ponge".to_vec()),
        command => Some(answer(command)),
    })
}

fn good() -> Relay<Ng> {
    scripted(|command| match command {
        "offer" | "answer" => b"d6:result2:ok3:sdp18:v=0\r\nc=rewritten\r\ne".to_vec(),
        "play media" => b"d6:result2:ok8:durationi5000ee".to_vec(),
        _ => b"d6:result2:oke".to_vec(),
    })
}

fn real_sock(real: &Real) -> String {
    format!("modparam(\"rtpengine\", \"rtpengine_sock\", \"udp:127.0.0.1:{}\")\n", real.port())
}

fn text<'a>(value: &'a Ng, key: &str) -> &'a str {
    value.get(key).and_then(Ng::as_bytes).map_or("", |bytes| std::str::from_utf8(bytes).unwrap())
}

#[test]
fn a_call_over_the_real_server() {
    let real = Real::start().unwrap();
    let routes = calling(
        "if (is_method(\"BYE\")) { rtpengine_query(); $json_text = \"\"; rtpengine_delete(); xlog(\"$rtpstat $(rtpquery{s.substr,0,1})\\n\"); }\
         else if (!rtpengine_offer(\"replace-origin ICE=remove RTP/AVP\", $var(sock))) xlog(\"no: $var(error)\\n\");",
        "if (!rtpengine_answer(\"replace-origin ICE=remove\")) xlog(\"no: $var(error)\\n\");",
    )
    .replace("$json_text = \"\"; ", "");
    let server = server(&real_sock(&real), &routes);
    let sent = server.rig.receive(message("INVITE", "real1", "", SDP));
    let invite = find(&sent, "INVITE ").unwrap();
    let body = invite.text().split_once("\r\n\r\n").unwrap().1.to_owned();
    assert!(body.contains("c=IN IP4 127.0.0.1\r\n") && body.contains("o=alice 1 1 IN IP4 127.0.0.1"), "{body}");
    assert!(!body.contains("m=audio 4000 "), "{body}");
    let sent = server.rig.receive_from(CALLEE, reply_to(invite, 200, &SDP.replace("4000", "4002")));
    let answer = find(&sent, "SIP/2.0 200").unwrap().text();
    assert!(answer.contains("c=IN IP4 127.0.0.1\r\n") && !answer.contains("m=audio 4002 "), "{answer}");
    server.rig.receive(message("BYE", "real1", "to", ""));
    let logs = server.rig.xlogs();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert!(logs[0].starts_with("RTP: ") && logs[0].ends_with(" {"), "{logs:?}");
}

#[test]
fn the_real_server_goes_and_comes_back() {
    let mut real = Real::start().unwrap();
    let params = real_sock(&real) + "modparam(\"rtpengine\", \"rtpengine_disable_tout\", 10)\n";
    let routes = calling("if (!rtpengine_offer()) xlog(\"no\\n\");", "")
        + "event_route[E_RTPENGINE_STATUS] { xlog(\"$param(status) $param(set)\\n\"); }\n";
    let server = server(&params, &routes);
    real.kill();
    server.rig.receive(message("INVITE", "gone1", "", SDP));
    server.rig.settle();
    let mut logs = server.rig.xlogs();
    logs.sort();
    assert_eq!(logs, ["inactive 0", "no"]);
    real.restart().unwrap();
    server.rig.advance(Duration::from_secs(20));
    assert_eq!(server.rig.xlogs(), ["active 0"]);
    let sent = server.rig.receive(message("INVITE", "gone2", "", SDP));
    assert!(find(&sent, "INVITE ").unwrap().text().contains("c=IN IP4 127.0.0.1\r\n"));
}

#[test]
fn requests_say_what_message_and_flags_say() {
    let relay = good();
    let routes = "route { $avp(extra) = \"x1\"; rtpengine_use_set(3);\
        rtpengine_offer(\"via-branch=auto in-iface=a out-iface=b codec=[transcode=[PCMA]]\", $var(sock), $var(sdp), $rb); xlog(\"$var(sock) $(var(sdp){s.len})\\n\");\
        rtpengine_offer(\"via-branch=extra force-answer from-tag=other to-tag=else call-id=another\");\
        rtpengine_delete(); rtpengine_delete(\"to-tag\");\
        rtpengine_start_recording(); rtpengine_stop_recording(\"call-id=z\"); rtpengine_pause_recording();\
        rtpengine_play_media(\"file=/a.wav\", $var(length)); xlog(\"$var(length)\\n\"); rtpengine_stop_media(, , $var(pos)); xlog(\"$var(pos)\\n\");\
        rtpengine_block_media(\"from-tag=b\"); rtpengine_unblock_media(); rtpengine_block_dtmf(); rtpengine_unblock_dtmf();\
        rtpengine_start_forwarding(); rtpengine_stop_forwarding(); rtpengine_play_dtmf(\"#\");\
        if (!rtpengine_play_dtmf(\"12\")) xlog(\"$var(error)\\n\"); if (!rtpengine_offer(\"a=[\")) xlog(\"$var(error)\\n\"); }\n";
    let params = format!(
        "modparam(\"rtpengine\", \"rtpengine_sock\", \"3 == {}\")\nmodparam(\"rtpengine\", \"extra_id_pv\", \"$avp(extra)\")",
        relay.url
    );
    let server = server(&params, routes);
    server.rig.receive(message("INVITE", "r1", "to", SDP));
    assert_eq!(
        server.rig.xlogs(),
        [format!("{} 18", relay.url).as_str(), "5000", "-1", "'12' is none of 0-9 * # A-D", "a bracket is not closed"]
    );
    let heard = relay.heard();
    let commands: Vec<&str> = heard.iter().map(|request| text(request, "command")).collect();
    assert_eq!(
        commands,
        [
            "offer",
            "answer",
            "delete",
            "delete",
            "start recording",
            "stop recording",
            "pause recording",
            "play media",
            "stop media",
            "block media",
            "unblock media",
            "block DTMF",
            "unblock DTMF",
            "start forwarding",
            "stop forwarding",
            "play DTMF"
        ]
    );
    let offer = &heard[0];
    assert_eq!((text(offer, "call-id"), text(offer, "from-tag"), text(offer, "to-tag")), ("r1", "from", "to"));
    assert_eq!((text(offer, "via-branch"), text(offer, "sdp")), ("z9hG4bKr1INVITE", SDP));
    assert_eq!(offer.get("received-from").unwrap().items(), [Ng::text("IP4"), Ng::text("127.0.3.9")]);
    assert_eq!(offer.get("direction").unwrap().items(), [Ng::text("a"), Ng::text("b")]);
    assert!(offer.get("codec").unwrap().get("transcode").is_some());
    let answer = &heard[1];
    assert_eq!(
        (text(answer, "call-id"), text(answer, "from-tag"), text(answer, "to-tag")),
        ("another", "other", "else")
    );
    assert_eq!(text(answer, "via-branch"), "x1");
    assert!(heard[2].get("to-tag").is_none() && text(&heard[3], "to-tag") == "to");
    assert_eq!(text(&heard[5], "call-id"), "z");
    assert_eq!(text(&heard[9], "from-tag"), "b");
    assert!(heard[13].get("from-tag").is_none());
    assert_eq!(text(&heard[15], "code"), "#");
}

#[test]
fn manage_does_what_fits_the_message() {
    let relay = good();
    let routes = calling("rtpengine_manage();", "rtpengine_manage();");
    let server = server(&sock("rtpengine", &[&relay]), &routes);
    let commands = || relay.heard().iter().map(|request| text(request, "command").to_owned()).collect::<Vec<_>>();
    let sent = server.rig.receive(message("INVITE", "m1", "", SDP));
    let invite = find(&sent, "INVITE ").unwrap().clone();
    assert!(invite.text().contains("c=rewritten"));
    server.rig.receive_from(CALLEE, reply_to(&invite, 180, ""));
    server.rig.receive_from(CALLEE, reply_to(&invite, 200, SDP));
    server.rig.receive(message("BYE", "m1", "to", ""));
    assert_eq!(commands(), ["offer", "answer", "delete"]);
    let sent = server.rig.receive(message("INVITE", "m2", "", ""));
    let invite = find(&sent, "INVITE ").unwrap().clone();
    server.rig.receive_from(CALLEE, reply_to(&invite, 200, SDP));
    let late = relay.heard();
    assert_eq!(text(&late[0], "command"), "offer");
    assert_eq!((text(&late[0], "from-tag"), text(&late[0], "to-tag")), ("to", "from"));
    server.rig.receive(message("ACK", "m2", "to", SDP));
    assert_eq!(commands(), ["answer"]);
    let sent = server.rig.receive(message("INVITE", "m3", "", SDP));
    let invite = find(&sent, "INVITE ").unwrap().clone();
    server.rig.receive_from(CALLEE, reply_to(&invite, 486, ""));
    assert_eq!(commands(), ["offer", "delete"]);
}

#[test]
fn full_relays_are_passed_over_and_refusals_are_told() {
    let full = scripted(|_| b"d12:error-reason30:Parallel session limit reached6:result5:errore".to_vec());
    let own = scripted(|_| b"d12:error-reason9:Too tired6:result5:errore".to_vec());
    let well = good();
    let params =
        sock("rtpengine", &[&full, &own, &well]) + "modparam(\"rtpengine\", \"extra_failover_error\", \"tired$\")\n";
    let first = server(&params, &calling("if (!rtpengine_offer()) xlog(\"$var(error)\\n\");", ""));
    for call in 0..40 {
        let sent = first.rig.receive(message("INVITE", &format!("full{call}"), "", SDP));
        assert!(find(&sent, "INVITE ").unwrap().text().contains("c=rewritten"), "{call}");
    }
    assert!(!full.heard().is_empty() && !own.heard().is_empty());
    let only = server(&sock("rtpengine", &[&full]), &calling("if (!rtpengine_offer()) xlog(\"$var(error)\\n\");", ""));
    only.rig.receive(message("INVITE", "f2", "", SDP));
    assert_eq!(only.rig.xlogs(), ["all relays are full: Parallel session limit reached"]);
    let refusing =
        server(&sock("rtpengine", &[&own]), &calling("if (!rtpengine_offer()) xlog(\"$var(error)\\n\");", ""));
    refusing.rig.receive(message("INVITE", "f3", "", SDP));
    assert_eq!(refusing.rig.xlogs(), ["the relay refused: Too tired"]);
}

#[test]
fn a_relay_that_the_script_names_keeps_the_call() {
    let (first, second) = (good(), good());
    let routes = "route { $du = \"sip:127.0.3.8:5060\"; $var(sock) = $(hdr(X-Relay)); \
        if (is_method(\"INVITE\")) { if ($var(sock) == NULL) rtpengine_offer(); else rtpengine_offer(\"\", $var(sock)); } \
        if (is_method(\"BYE\")) rtpengine_delete(); t_on_reply(\"answer\"); t_relay(); }\n\
        onreply_route[answer] { rtpengine_answer(); }\n";
    let server = server(&sock("rtpengine", &[&first, &second]), routes);
    let own = server.rig.node.state::<super::Rtpengine>().unwrap();
    let choice = own.relays.sets.first_choice(0, b"wish").unwrap().spec.url.clone();
    let (choice, other) = if choice == first.url { (&first, &second) } else { (&second, &first) };
    let wish = format!("X-Relay: {}\r\nMax-Forwards:", other.url);
    let sent = server.rig.receive(message("INVITE", "wish", "", SDP).replace("Max-Forwards:", &wish));
    server.rig.receive_from(CALLEE, reply_to(find(&sent, "INVITE ").unwrap(), 200, SDP));
    server.rig.receive(message("BYE", "wish", "to", ""));
    let commands =
        |relay: &Relay<Ng>| relay.heard().iter().map(|asked| text(asked, "command").to_owned()).collect::<Vec<_>>();
    assert_eq!(commands(other), ["offer", "answer", "delete"]);
    assert!(commands(choice).is_empty());
    // The call is over: another one of that name goes where it would have gone.
    server.rig.receive(message("INVITE", "wish", "", SDP).replace("z9hG4bK", "z9hG4bKnew"));
    assert_eq!((commands(choice), commands(other)), (vec!["offer".to_owned()], vec![]));
    // One that is down is passed over.
    other.is_silent.store(true, Ordering::SeqCst);
    let again = message("INVITE", "wish2", "", SDP).replace("Max-Forwards:", &wish);
    assert!(find(&server.rig.receive(again), "INVITE ").unwrap().text().contains("c=rewritten"));
    assert_eq!(commands(choice), ["offer"]);
}

#[test]
fn statistics_are_told_for_the_call_and_for_each_side() {
    let relay = scripted(|_| {
        b"d4:SSRCd1:1d11:average MOSd3:MOSi40eee1:2d11:average MOSd3:MOSi44eeee6:result2:ok4:tagsd4:fromd6:mediasl\
          d7:streamsld4:SSRCi1eeeeee2:tod6:mediasld7:streamsld4:SSRCi2eeeeeeee"
            .to_vec()
    });
    let route = "route { xlog(\"$rtpstat(MOS-average)\n\"); rtpengine_query(); $var(tag) = \"nobody\"; \
        xlog(\"$rtpstat(MOS-average) $(rtpstat(MOS-average)[$ft]) $(rtpstat(MOS-average)[to]) \
        $(rtpstat(MOS-average)[$var(tag)]) $(rtpstat(MOS-average)[$avp(no)])\n\"); }\n";
    let server = server(&sock("rtpengine", &[&relay]), route);
    server.rig.receive(message("BYE", "stat", "to", ""));
    assert_eq!(server.rig.xlogs(), ["<null>", "42 40 44 <null> <null>"]);
    let error = load(None, &format!("{MODULES}{OWN}route {{ xlog(\"$(rtpstat(MOS-average)[$ft)\"); }}\n")).err();
    assert!(error.unwrap_or_default().contains("expected `]`"));
}

#[test]
fn silent_and_confused_relays_change_nothing() {
    let silent = good();
    silent.is_silent.store(true, Ordering::SeqCst);
    let confused = scripted(|_| b"d6:result2:ok3:sdp999999:x".to_vec());
    let empty = scripted(|_| b"d6:result2:oke".to_vec());
    let deep = scripted(|_| b"l".repeat(5000));
    for relay in [&silent, &confused, &empty, &deep] {
        let server = server(&sock("rtpengine", &[relay]), &calling("if (!rtpengine_offer()) xlog(\"no\\n\");", ""));
        let sent = server.rig.receive(message("INVITE", "s1", "", SDP));
        assert!(find(&sent, "INVITE ").unwrap().text().ends_with(SDP));
        assert_eq!(server.rig.xlogs(), ["no"]);
        let shown = server.rig.mi("rtpengine_show", MiParams::None).unwrap();
        assert_eq!(shown[0]["Nodes"][0]["disabled"], json!(i32::from(std::ptr::eq(relay, &silent))));
    }
}

#[test]
fn relays_in_use_are_pinged_when_asked() {
    let relay = good();
    let params = sock("rtpengine", &[&relay])
        + "modparam(\"rtpengine\", \"ping_enabled\", 1)\nmodparam(\"rtpengine\", \"rtpengine_timer_interval\", 2)\n";
    let routes = "route { exit; }\nevent_route[E_RTPENGINE_STATUS] { xlog(\"$param(status)\\n\"); }\n";
    let server = server(&params, routes);
    server.rig.advance(Duration::from_secs(10));
    assert!(server.rig.xlogs().is_empty());
    relay.is_silent.store(true, Ordering::SeqCst);
    server.rig.advance(Duration::from_secs(5));
    assert_eq!(server.rig.xlogs(), ["inactive"]);
}

#[test]
fn reports_become_events_and_calls_are_torn_down() {
    let relay = good();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let params = sock("rtpengine", &[&relay])
        + &format!("modparam(\"rtpengine\", \"notification_sock\", \"127.0.0.1:{port}\")\n");
    let routes = "route { exit; }\nevent_route[E_RTPENGINE_NOTIFICATION] { xlog(\"$param(type) $param(event) $param(callid)\\n\"); }\n";
    let server = server(&params, routes);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in [&b"nonsense"[..], br#"{"type":"DTMF","event":7,"callid":"c1"}"#] {
        socket.send_to(datagram, ("127.0.0.1", port)).unwrap();
    }
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut logs = Vec::new();
    while logs.is_empty() && Instant::now() < give_up {
        server.rig.settle();
        logs = server.rig.xlogs();
        std::thread::yield_now();
    }
    assert_eq!(logs, ["DTMF 7 c1"]);
    let error = server.rig.mi("rtpengine:teardown", MiParams::Positional(vec![json!("nobody")])).unwrap_err();
    assert_eq!(error.code, 404);
    assert_eq!(server.rig.mi("rtpengine_reload", MiParams::None).unwrap_err().code, 400);
}

#[test]
fn wrong_parameters_do_not_start() {
    for (param, what) in [
        ("\"rtpengine_sock\", \"udp:a:0\"", "port"),
        ("\"rtpengine_tout\", 0", "no time"),
        ("\"rtpengine_timer_interval\", 0", "at least one second"),
        ("\"notification_sock\", \"nowhere\"", "ip:port"),
        ("\"extra_failover_error\", \"(\"", "regular expression"),
        ("\"setid_avp\", \"$nothing(x)\"", "unknown variable"),
    ] {
        let error = load(None, &format!("{MODULES}{OWN}modparam(\"rtpengine\", {param})\nroute {{ exit; }}\n"))
            .err()
            .unwrap_or_default();
        assert!(error.contains(what), "{param}: {error}");
    }
}
