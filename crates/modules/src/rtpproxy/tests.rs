//! Offers, answers and everything else through real scripts, against scripted relays: good, silent, confused, refusing,
//! down and back.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use crate::relays::test_call::{self, CALLEE, MODULES, Server, Speech, calling, find, load, message, reply_to};
use crate::test_rig::Rig;

const OWN: &str = "loadmodule \"rtpproxy.so\"\nmodparam(\"rtpproxy\", \"rtpproxy_timeout\", \"0.2\")\n\
modparam(\"rtpproxy\", \"rtpproxy_retr\", 1)\n";

const SDP: &str = "v=0\r\no=alice 1 1 IN IP4 192.168.1.5\r\ns=-\r\nc=IN IP4 192.168.1.5\r\nt=0 0\r\n\
m=audio 4000 RTP/AVP 0\r\na=rtcp:4001\r\nm=video 4002 RTP/AVP 31\r\n";

/// A relay that answers as it is told to.
struct Relay(test_call::Relay<String>);

impl std::ops::Deref for Relay {
    type Target = test_call::Relay<String>;

    fn deref(&self) -> &test_call::Relay<String> {
        &self.0
    }
}

impl Relay {
    fn new(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> Relay {
        let speech = Speech {
            decode: |bytes| String::from_utf8_lossy(bytes).into_owned(),
            is_probe: |command: &String| command == "V",
        };
        Relay(test_call::Relay::new(speech, move |command| Some((answer(command)? + "\n").into_bytes())))
    }

    /// One that does its work; ports count up from `port`.
    fn good(port: u16) -> Relay {
        Relay::new(move |command| Some(good(command, port)))
    }

    /// What it was asked. The commands for the streams of one description travel side by side: here in their order.
    fn heard(&self) -> Vec<String> {
        let mut heard = self.0.heard();
        let stream = |command: &str| command.split(';').nth(1).and_then(|rest| rest.chars().next());
        for at in 1..heard.len() {
            let is_pair = heard[at - 1].split(' ').take(2).eq(heard[at].split(' ').take(2));
            if is_pair && stream(&heard[at - 1]) == Some('2') && stream(&heard[at]) == Some('1') {
                heard.swap(at - 1, at);
            }
        }
        heard
    }
}

fn good(command: &str, port: u16) -> String {
    match command.as_bytes()[0] {
        b'V' => "20040107".into(),
        b'U' | b'L' => {
            let stream: u16 =
                command.split(';').nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
            format!("{} 203.0.113.1", port + 2 * stream)
        }
        b'Q' if command.contains("npkts_ina") => "60 1 2 3 4 5 6 7 8 9".into(),
        b'Q' => "60 11 12 13 14".into(),
        _ => "0".into(),
    }
}

fn server(params: &str, routes: &str) -> Server {
    load(None, &format!("{MODULES}{OWN}{params}\n{routes}\n")).unwrap_or_else(|error| panic!("{error}"))
}

fn sock(relays: &[&Relay]) -> String {
    test_call::sock("rtpproxy", &relays.iter().map(|relay| &relay.0).collect::<Vec<_>>())
}

fn mi(rig: &Rig, name: &str, params: serde_json::Value) -> serde_json::Value {
    let params = params.as_array().map_or(MiParams::None, |list| MiParams::Positional(list.clone()));
    rig.mi(name, params).unwrap()
}

#[test]
fn offer_and_answer_put_the_relay_into_all_streams() {
    let relay = Relay::good(35000);
    let server = server(
        &sock(&[&relay]),
        &calling(
            "rtpproxy_offer(\"o\", , , $var(sock), $var(ret)); xlog(\"$var(sock) $var(ret)\\n\");",
            "rtpproxy_answer(\"ro\");",
        ),
    );
    let sent = server.rig.receive(message("INVITE", "c1", "", SDP));
    let invite = find(&sent, "INVITE ").unwrap();
    let body = invite.text().split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(
        body,
        "v=0\r\no=alice 1 1 IN IP4 203.0.113.1\r\ns=-\r\nc=IN IP4 203.0.113.1\r\nt=0 0\r\nm=audio 35002 RTP/AVP 0\r\n\
         a=rtcp:35003\r\nm=video 35004 RTP/AVP 31\r\na=nortpproxy:yes\r\n"
    );
    assert!(invite.text().contains(&format!("Content-Length: {}\r\n", body.len())));
    assert_eq!(relay.heard(), ["U c1 127.0.3.9 4000 from;1", "U c1 127.0.3.9 4002 from;2"]);
    assert_eq!(server.rig.xlogs(), [format!("{} 203.0.113.1:35002", relay.url)]);
    let sent = server.rig.receive_from(CALLEE, reply_to(invite, 200, SDP));
    let text = find(&sent, "SIP/2.0 200").unwrap().text();
    assert!(text.contains("c=IN IP4 203.0.113.1\r\n") && text.contains("m=audio 35002 "), "{text}");
    assert_eq!(relay.heard(), ["L c1 192.168.1.5 4000 from;1 to;1", "L c1 192.168.1.5 4002 from;2 to;2"]);
}

#[test]
fn a_late_offer_swaps_the_tags() {
    let relay = Relay::good(35000);
    let server =
        server(&sock(&[&relay]), &calling("if (is_method(\"ACK\")) rtpproxy_answer();", "rtpproxy_offer(\"c\");"));
    let sent = server.rig.receive(message("INVITE", "c2", "", ""));
    let invite = find(&sent, "INVITE ").unwrap().clone();
    let one = "v=0\r\nm=audio 5000 RTP/AVP 0\r\nc=IN IP4 10.0.0.2\r\n";
    let sent = server.rig.receive_from(CALLEE, reply_to(&invite, 200, one));
    assert!(find(&sent, "SIP/2.0 200").unwrap().text().contains("m=audio 35002 "));
    assert_eq!(relay.heard(), ["U c2 127.0.3.8 5000 to;1 from;1"]);
    server.rig.receive(message("ACK", "c2", "to", one));
    assert_eq!(relay.heard(), ["L c2 127.0.3.9 5000 to;1 from;1"]);
}

#[test]
fn flags_addresses_and_variables_have_their_effect() {
    let relay = Relay::good(35000);
    let route = "$var(b) = \"v=0\\r\\nc=IN IP4 10.0.0.7\\r\\nm=audio 6000 RTP/AVP 0\\r\\n\";\
        rtpproxy_offer(\"k\"); xlog(\"kept\\n\");\
        if (rtpproxy_offer(\"fz20iet30\", \"198.51.100.7\")) xlog(\"shown\\n\");\
        if (!rtpproxy_offer()) xlog(\"marked\\n\");\
        rtpproxy_offer(\"r\", , , , , $var(b), \"[1:2:3]\"); xlog(\"$var(b)\");\
        if (rtpproxy_offer(\"fl\")) xlog(\"looked up\\n\");\
        if (!rtpproxy_offer(\"\", \"nonsense\")) xlog(\"no address\\n\");\
        if (!rtpproxy_offer(\"\", , 7)) xlog(\"no set\\n\");";
    let server = server(&sock(&[&relay]), &calling(route, ""));
    let sent = server.rig.receive(message("INVITE", "c3", "", SDP));
    let text = find(&sent, "INVITE ").unwrap().text();
    assert!(text.contains("c=IN IP4 203.0.113.1\r\n"), "the last one wins: {text}");
    let logs = server.rig.xlogs();
    let variable = "v=0\r\nc=IN IP4 203.0.113.1\r\nm=audio 35002 RTP/AVP 0\r\na=nortpproxy:yes";
    assert_eq!(logs, ["kept", "shown", "marked", variable, "looked up", "no address", "no set"]);
    let heard = relay.heard();
    assert_eq!(heard[0], "U c3 127.0.3.9 4000 from;1");
    assert_eq!(heard[2], "UIEZ20t30 c3 127.0.3.9 4000 from;1");
    assert_eq!(heard[4], "Ul[1:2:3] c3 10.0.0.7 6000 from;1");
    assert_eq!(heard[5], "L c3 127.0.3.9 35002 from;1");
}

#[test]
fn a_relay_behind_nat_is_shown_by_its_advertised_address() {
    let relay = Relay::good(35000);
    let params = format!(
        "modparam(\"rtpproxy\", \"rtpproxy_sock\", \"5 == {}|192.0.2.99=2\")\nmodparam(\"rtpproxy\", \"default_set\", 5)\n\
         modparam(\"rtpproxy\", \"rtpproxy_autobridge\", 1)\nmodparam(\"rtpproxy\", \"nortpproxy_str\", \"\")",
        relay.url
    );
    let server = server(&params, &calling("rtpproxy_offer();", ""));
    let sent = server.rig.receive(message("INVITE", "c4", "", SDP));
    let text = find(&sent, "INVITE ").unwrap().text();
    assert!(text.contains("c=IN IP4 192.0.2.99\r\n") && !text.contains("nortpproxy"), "{text}");
    assert_eq!(relay.heard()[0], "UR127.0.3.8 c4 127.0.3.9 4000 from;1");
    let shown = mi(&server.rig, "rtpproxy_show", json!(null));
    assert_eq!(
        shown,
        json!([{ "Set": 5, "Nodes": [{ "url": relay.url, "index": 0, "disabled": 0, "weight": 2, "recheck_ticks": 0 }] }])
    );
}

#[test]
fn all_commands_of_a_session() {
    let relay = Relay::good(35000);
    let route = "rtpproxy_stream2uac(\"/p/moh\", -1); rtpproxy_stop_stream2uac(); rtpproxy_stream2uas(\"hello\", 3, 0, $var(s));\
        rtpproxy_stop_stream2uas(0); rtpproxy_start_recording(); rtpproxy_start_recording(, , \"s\", \"udp:127.0.0.1:60000\", 1);\
        rtpproxy_stats($var(u), $var(d), $var(n), $var(f)); xlog(\"$var(u) $var(d) $var(n) $var(f)\\n\");\
        rtpproxy_all_stats($avp(all)); xlog(\"$avp(all) $(avp(all)[4]) $(avp(all)[9])\\n\"); rtpproxy_unforce();\
        if (!rtpproxy_stream2uac(\"two words\", 1)) xlog(\"refused\\n\");\
        if (!rtpproxy_start_recording(, , , \"a b\")) xlog(\"refused\\n\");";
    let server = server(&sock(&[&relay]), &format!("route {{ {route} }}"));
    server.rig.receive(message("BYE", "c5", "to", ""));
    assert_eq!(
        relay.heard(),
        [
            "P-1 c5 /p/moh session from;1 to;1",
            "S c5 from;1 to;1",
            "P3 c5 hello session to;1 from;1",
            "S c5 to;1 from;1",
            "R c5 from to",
            "Cs c5 udp:127.0.0.1:60000 from;1 to;1",
            "Q c5 from to",
            "Q c5 from to ttl npkts_ina npkts_ino nrelayed ndropped rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs",
            "D c5 from to",
        ]
    );
    assert_eq!(server.rig.xlogs(), ["11 12 13 14", "60 4 9", "refused", "refused"]);
}

#[test]
fn a_silent_relay_is_left_alone_and_comes_back() {
    let (first, second) = (Relay::good(35000), Relay::good(45000));
    let params = sock(&[&first, &second]) + "modparam(\"rtpproxy\", \"rtpproxy_disable_tout\", 20)\n";
    let routes = calling("if (!rtpproxy_offer()) xlog(\"none\\n\");", "")
        + "event_route[E_RTPPROXY_STATUS] { xlog(\"$param(socket) $param(status)\\n\"); }\n";
    let server = server(&params, &routes);
    first.is_silent.store(true, Ordering::SeqCst);
    for call in 0..8 {
        let sent = server.rig.receive(message("INVITE", &format!("silent{call}"), "", SDP));
        assert!(find(&sent, "INVITE ").unwrap().text().contains("m=audio 45002 "));
    }
    server.rig.settle();
    assert_eq!(
        server.rig.xlogs(),
        [format!("{} inactive", first.url)],
        "one call in eight meets it, and only one waits"
    );
    let disabled = |server: &Server| {
        let shown = mi(&server.rig, "rtpproxy:show", json!(null));
        shown[0]["Nodes"].as_array().unwrap().iter().map(|node| node["disabled"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(disabled(&server), [1, 0]);
    server.rig.advance(Duration::from_secs(30));
    assert_eq!(disabled(&server), [1, 0], "still silent");
    first.is_silent.store(false, Ordering::SeqCst);
    server.rig.advance(Duration::from_secs(30));
    assert_eq!(disabled(&server), [0, 0]);
    assert_eq!(server.rig.xlogs(), [format!("{} active", first.url)]);
    second.heard();
    // A call that began on the other relay stays there.
    for call in 0..8 {
        server.rig.receive(message("INVITE", &format!("silent{call}"), "to", SDP).replace("z9hG4bK", "z9hG4bKre"));
    }
    assert_eq!(second.heard().len(), 16);
}

#[test]
fn relays_that_are_not_there_confused_or_refusing_change_nothing() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gone_url = format!("udp:127.0.0.1:{}", gone.local_addr().unwrap().port());
    drop(gone);
    let confused =
        Relay::new(|command| (command == "V").then(|| "20040107".into()).or(Some("\u{1}\u{2} what?".into())));
    let refusing = Relay::new(|command| Some(if command == "V" { "20040107".into() } else { "E8".into() }));
    let foreign = Relay::new(|_| Some("d6:result4:ponge".into()));
    for (url, is_probed_down) in
        [(gone_url.as_str(), true), (&confused.url, false), (&refusing.url, false), (&foreign.url, true)]
    {
        let params = format!("modparam(\"rtpproxy\", \"rtpproxy_sock\", \"{url}\")");
        let server = server(&params, &calling("if (!rtpproxy_offer()) xlog(\"none\\n\");", ""));
        let sent = server.rig.receive(message("INVITE", "c6", "", SDP));
        assert!(find(&sent, "INVITE ").unwrap().text().ends_with(SDP), "{url}");
        assert_eq!(server.rig.xlogs(), ["none"], "{url}");
        let shown = mi(&server.rig, "rtpproxy_show", json!(null));
        assert_eq!(shown[0]["Nodes"][0]["disabled"], json!(i32::from(is_probed_down)), "{url}");
    }
}

#[test]
fn a_slow_answer_holds_up_nobody_else() {
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let relay = Relay::new(move |command| {
        if command.starts_with('U') {
            asked.send(()).ok()?;
            // A test that fails drops the other end: no answer then.
            released.recv().ok()?;
        }
        Some(good(command, 35000))
    });
    // No repetition and no time-out while the answer is held.
    let patience =
        "modparam(\"rtpproxy\", \"rtpproxy_timeout\", \"8\")\nmodparam(\"rtpproxy\", \"rtpproxy_retr\", 0)\n";
    let route = "if (is_method(\"OPTIONS\")) { sl_send_reply(200, \"OK\"); exit; } rtpproxy_offer();";
    let server = server(&(sock(&[&relay]) + patience), &calling(route, ""));
    let sdp = "v=0\r\nm=audio 5000 RTP/AVP 0\r\nc=IN IP4 10.0.0.2\r\n";
    let mut sent = server.rig.receive_now(message("INVITE", "c7", "", sdp));
    let begin = Instant::now();
    while is_asked.try_recv().is_err() {
        assert!(begin.elapsed() < Duration::from_secs(5), "the relay is never asked");
        server.rig.workers.run_ready();
        std::thread::yield_now();
    }
    sent.extend(server.rig.receive_now(message("OPTIONS", "c8", "", "")));
    assert!(find(&sent, "SIP/2.0 200").is_some(), "the worker is free meanwhile");
    assert!(find(&sent, "INVITE ").is_none(), "the INVITE waits for its relay");
    release.send(()).unwrap();
    server.rig.settle();
    let sent = server.rig.take_sent();
    assert!(find(&sent, "INVITE ").unwrap().text().contains("m=audio 35002 "));
}

#[test]
fn hostile_messages_send_no_command() {
    let relay = Relay::good(35000);
    let server = server(&sock(&[&relay]), &calling("if (!rtpproxy_offer()) xlog(\"no\\n\");", ""));
    for hostile in [
        message("INVITE", "x 1.2.3.4 5 y", "", SDP),
        message("INVITE", "h2", "", SDP).replace("tag=from", "tag=a;1"),
        message("INVITE", "h3", "", ""),
        message("INVITE", "h4", "", "v=0\r\n"),
        message("INVITE", "h5", "", "m=audio 0 RTP/AVP 0\r\nm=audio 70000 RTP/AVP 0\r\n"),
        message("INVITE", "h6", "", &format!("{SDP}a=nortpproxy:yes\r\n")),
        message("INVITE", "h7", "", SDP).replace(";tag=from", ""),
    ] {
        server.rig.receive(&hostile);
    }
    let heard = relay.heard();
    assert!(heard.iter().all(|command| command.split(' ').count() == 5), "{heard:?}");
    assert!(heard.len() <= 2, "{heard:?}");
}

#[test]
fn operators_take_relays_out_and_reload_them() {
    let (first, second) = (Relay::good(35000), Relay::good(45000));
    let file = std::env::temp_dir().join(format!("tandem-rtpproxy-{}.db", std::process::id()));
    // An empty file is a database without tables.
    std::fs::write(&file, b"").unwrap();
    let params = sock(&[&first]) + &format!("modparam(\"rtpproxy\", \"db_url\", \"sqlite://{}\")\n", file.display());
    let server = server(&params, &calling("if (!rtpproxy_offer()) xlog(\"none\\n\");", ""));
    let db = server.rig.node.db.open(&format!("sqlite://{}", file.display())).unwrap();
    let run = |sql: String| {
        let future = db.run(tandem_module::db::Statement::Raw(sql.into_bytes()));
        server.rig.workers.wait_for(Box::pin(future)).unwrap()
    };
    run("create table if not exists rtpproxy_sockets (id integer primary key, rtpproxy_sock text, set_id integer)"
        .into());
    run("delete from rtpproxy_sockets".into());
    mi(&server.rig, "rtpproxy_enable", json!([first.url, 0]));
    server.rig.receive(message("INVITE", "o1", "", SDP));
    assert_eq!(server.rig.xlogs(), ["none"]);
    server.rig.advance(Duration::from_secs(200));
    server.rig.receive(message("INVITE", "o2", "", SDP));
    assert_eq!(server.rig.xlogs(), ["none"], "it stays out until it is brought back");
    mi(&server.rig, "rtpproxy:enable", json!([first.url, 1, 0]));
    server.rig.receive(message("INVITE", "o3", "", SDP));
    assert!(server.rig.xlogs().is_empty() && !first.heard().is_empty());
    let unknown = MiParams::Positional(vec![json!("udp:1.2.3.4:5"), json!(1)]);
    assert_eq!(server.rig.mi("rtpproxy_enable", unknown).unwrap_err().code, 404);
    run(format!("insert into rtpproxy_sockets values (1, '{}', 0), (2, 'nonsense:1', 0)", second.url));
    mi(&server.rig, "rtpproxy_reload", json!(null));
    server.rig.receive(message("INVITE", "o4", "", SDP));
    assert!(first.heard().is_empty() && !second.heard().is_empty());
    drop(std::fs::remove_file(&file));
}

#[test]
fn calls_stay_where_they_are_over_a_reload_while_their_relay_does() {
    let (first, second) = (Relay::good(35000), Relay::good(45000));
    let file = std::env::temp_dir().join(format!("tandem-rtpproxy-reload-{}.db", std::process::id()));
    std::fs::write(&file, b"").unwrap();
    let params = sock(&[&first, &second])
        + &format!(
            "modparam(\"rtpproxy\", \"db_url\", \"sqlite://{}\")\nmodparam(\"rtpproxy\", \"rtpproxy_disable_tout\", 5)\n",
            file.display()
        );
    let server = server(&params, &calling("rtpproxy_offer();", ""));
    let db = server.rig.node.db.open(&format!("sqlite://{}", file.display())).unwrap();
    let run = |sql: String| {
        let future = db.run(tandem_module::db::Statement::Raw(sql.into_bytes()));
        server.rig.workers.wait_for(Box::pin(future)).unwrap()
    };
    run("create table rtpproxy_sockets (id integer primary key, rtpproxy_sock text, set_id integer)".into());
    for relay in [&first, &second] {
        run(format!("insert into rtpproxy_sockets (rtpproxy_sock, set_id) values ('{}', 0)", relay.url));
    }
    let own = server.rig.node.state::<super::Rtpproxy>().unwrap();
    let choice = own.relays.sets.first_choice(0, b"stay").unwrap().spec.url.clone();
    let (choice, other) = if choice == first.url { (&first, &second) } else { (&second, &first) };
    choice.is_silent.store(true, Ordering::SeqCst);
    server.rig.receive(message("INVITE", "stay", "", SDP));
    choice.is_silent.store(false, Ordering::SeqCst);
    server.rig.advance(Duration::from_secs(10));
    assert_eq!((choice.heard().len(), other.heard().len()), (0, 2));
    let again = |branch: &str| message("INVITE", "stay", "to", SDP).replace("z9hG4bK", &format!("z9hG4bK{branch}"));
    mi(&server.rig, "rtpproxy_reload", json!(null));
    server.rig.receive(again("r1"));
    assert_eq!((choice.heard().len(), other.heard().len()), (0, 2), "the relay is still there");
    run(format!("delete from rtpproxy_sockets where rtpproxy_sock = '{}'", other.url));
    mi(&server.rig, "rtpproxy_reload", json!(null));
    server.rig.receive(again("r2"));
    assert_eq!((choice.heard().len(), other.heard().len()), (2, 0), "the relay is gone");
    drop(std::fs::remove_file(&file));
}

#[test]
fn engaging_relays_the_whole_call() {
    let relay = Relay::good(35000);
    let routes = "route { if ($tt != NULL) { loose_route(); t_relay(); exit; } $du = \"sip:127.0.3.8:5060\";\
        record_route(); rtpproxy_engage(\"o\"); t_relay(); }\n";
    let server = server(&sock(&[&relay]), routes);
    let one = "v=0\r\nm=audio 5000 RTP/AVP 0\r\nc=IN IP4 10.0.0.2\r\n";
    let sent = server.rig.receive(message("INVITE", "e1", "", one));
    let invite = find(&sent, "INVITE ").unwrap().clone();
    assert!(invite.text().contains("m=audio 35002 "), "{}", invite.text());
    let sent = server.rig.receive_from(CALLEE, reply_to(&invite, 200, one));
    let answer = find(&sent, "SIP/2.0 200").unwrap().text();
    assert!(answer.contains("m=audio 35002 "), "{answer}");
    let route = answer.lines().find_map(|line| line.strip_prefix("Record-Route: ")).unwrap().to_owned();
    let within = |method: &str, sdp: &str, branch: &str| {
        message(method, "e1", "to", sdp)
            .replace("z9hG4bK", &format!("z9hG4bK{branch}"))
            .replace("CSeq: 1 ", "CSeq: 2 ")
            .replace("Max-Forwards: 70\r\n", &format!("Max-Forwards: 70\r\nRoute: {route}\r\n"))
    };
    server.rig.receive(within("ACK", "", "a").replace("CSeq: 2 ", "CSeq: 1 "));
    assert_eq!(relay.heard(), ["U e1 127.0.3.9 5000 from;1", "L e1 127.0.3.8 5000 from;1 to;1"]);
    let sent = server.rig.receive(within("INVITE", one, "re"));
    assert!(find(&sent, "INVITE ").unwrap().text().contains("m=audio 35002 "));
    assert_eq!(relay.heard(), ["U e1 127.0.3.9 5000 from;1 to;1"]);
    server.rig.receive(within("BYE", "", "b").replace("CSeq: 2 ", "CSeq: 3 "));
    server.rig.settle();
    assert_eq!(relay.heard(), ["D e1 from"]);
}

#[test]
fn relays_report_digits_and_the_end_of_media() {
    let relay = Relay::good(35000);
    let path = std::env::temp_dir().join(format!("tandem-rtpproxy-{}.sock", std::process::id()));
    let params =
        sock(&[&relay]) + &format!("modparam(\"rtpproxy\", \"rtpp_notify_socket\", \"unix:{}\")\n", path.display());
    let routes = calling("rtpproxy_offer(\"nd101\");", "")
        + "event_route[E_RTPPROXY_DTMF] { xlog(\"$param(digit) $param(volume) $param(duration) $param(id) $param(is_callid) $param(stream)\\n\"); }\n";
    let server = server(&params, &routes);
    server.rig.receive(message("INVITE", "n1", "", SDP));
    let command = relay.heard().remove(0);
    assert_eq!(command, format!("U n1 127.0.3.9 4000 from;1 unix:{} Tn1 && M3:1 Dcn1 101", path.display()));
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"nonsense\nDcn1 # 10 80 1\nTno.dialog\n").unwrap();
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut logs = Vec::new();
    while logs.is_empty() && Instant::now() < give_up {
        server.rig.settle();
        logs = server.rig.xlogs();
        std::thread::yield_now();
    }
    assert_eq!(logs, ["# 10 80 n1 1 1"]);
}

#[test]
fn the_old_dialect_writes_it_as_strings() {
    let relay = Relay::good(35000);
    let routes = "route { $du = \"sip:127.0.3.8:5060\"; $var(set) = 0; if (!rtpproxy_offer(\"ro\", \"\", \"$var(set)\", \"$var(sock)\")) xlog(\"no\\n\");\
        xlog(\"$var(sock)\\n\"); rtpproxy_stream2uac(\"moh\", \"-1\"); rtpproxy_stop_stream2uac(); start_recording(); unforce_rtp_proxy();\
        t_on_reply(\"answer\"); t_relay(); }\nonreply_route[answer] { rtpproxy_answer(\"ro\"); }\n";
    let server = load(Some(Dialect::V2_4), &format!("{MODULES}{OWN}{}{routes}", sock(&[&relay])))
        .unwrap_or_else(|e| panic!("{e}"));
    let sent = server.rig.receive(message("INVITE", "d1", "", SDP));
    assert!(find(&sent, "INVITE ").unwrap().text().contains("m=audio 35002 "));
    assert_eq!(server.rig.xlogs(), [relay.url.as_str()]);
    let heard = relay.heard();
    assert_eq!(heard[0], "U d1 192.168.1.5 4000 from;1");
    assert_eq!(&heard[2..], ["P-1 d1 moh session from;1", "S d1 from;1", "R d1 from", "D d1 from"]);
}

#[test]
fn wrong_parameters_do_not_start() {
    for (param, what) in [
        ("\"rtpproxy_sock\", \"udp:\"", "host is missing"),
        ("\"rtpproxy_sock\", \"x == udp:a:1\"", "number of a set"),
        ("\"rtpproxy_timeout\", \"soon\"", "no time"),
        ("\"rtpproxy_retr\", -1", "not negative"),
        ("\"rtpp_notify_socket\", \"udp:127.0.0.1:9\"", "tcp:host:port"),
    ] {
        let error = load(None, &format!("{MODULES}{OWN}modparam(\"rtpproxy\", {param})\nroute {{ exit; }}\n"))
            .err()
            .unwrap_or_default();
        assert!(error.contains(what), "{param}: {error}");
    }
}
