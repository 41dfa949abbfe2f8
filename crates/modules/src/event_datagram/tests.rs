#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tandem_module::mi::MiParams;
use tandem_script::ast::Dialect;

use crate::test_rig::Rig;

const REQUEST: &str = "OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK1\r\n\
From: <sip:alice@from.example>;tag=1\r\nTo: <sip:bob@example.org>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

const ROUTE: &str = "loadmodule \"event_datagram.so\"\nroute {\n $avp(n) = \"second\"; $avp(n) = \"first\";\n\
    $avp(v) = \"two\\nlines \\\"x\\\"\"; $avp(v) = 7; raise_event(\"E_TST\", $avp(n), $avp(v)); exit; }\n\
    event_route[E_TST] { exit; }\n";

fn listener() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let text = format!("udp:{}", socket.local_addr().unwrap());
    (socket, text)
}

fn read(socket: &UdpSocket) -> String {
    let mut buffer = [0; 70_000];
    let count = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

fn subscribe(rig: &Rig, socket: &str, expire: i64) -> Result<Json, i64> {
    let params = MiParams::Positional(vec![json!("E_TST"), json!(socket), json!(expire)]);
    rig.mi("event_subscribe", params).map_err(|error| error.code)
}

#[test]
fn newer_dialects_send_json_and_2_4_sends_lines() {
    let (socket, text) = listener();
    let rig = Rig::script_in(Dialect::V4_0, ROUTE);
    assert_eq!(subscribe(&rig, &text, 60), Ok(json!("OK")));
    rig.receive(REQUEST);
    let sent: Json = serde_json::from_str(&read(&socket)).unwrap();
    let params = json!({ "first": 7, "second": "two\nlines \"x\"" });
    assert_eq!(sent, json!({ "jsonrpc": "2.0", "method": "E_TST", "params": params }));
    let rig = Rig::script_in(Dialect::V2_4, ROUTE);
    assert_eq!(subscribe(&rig, &text, 60), Ok(json!("OK")));
    rig.receive(REQUEST);
    assert_eq!(read(&socket), "E_TST\nfirst::7\nsecond::\"two\nlines \\\"x\\\"\"\n\n");
    assert_eq!(rig.node.stats.value("event_datagram:sent"), Some(1));
}

#[test]
fn unix_sockets_are_named_with_and_without_scheme() {
    let path = std::env::temp_dir().join(format!("tandem-event-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    let rig = Rig::script(ROUTE);
    assert_eq!(subscribe(&rig, &path.display().to_string(), 60), Ok(json!("OK")));
    assert_eq!(subscribe(&rig, &format!("unix:{}", path.display()), 60), Ok(json!("OK")));
    assert_eq!(rig.node.subscriptions.list().len(), 1);
    rig.receive(REQUEST);
    let mut buffer = [0; 1000];
    assert!(socket.recv(&mut buffer).unwrap() > 0);
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    rig.receive(REQUEST);
    assert_eq!(rig.node.stats.value("event_datagram:failed"), Some(1));
}

#[test]
fn subscriptions_end_are_renewed_and_are_shown() {
    let (socket, text) = listener();
    let rig = Rig::script(ROUTE);
    assert_eq!(subscribe(&rig, &text, 10), Ok(json!("OK")));
    rig.advance(Duration::from_secs(6));
    assert_eq!(subscribe(&rig, &text, 5), Ok(json!("OK")));
    // The end of the first subscription passes and means nothing any more.
    rig.advance(Duration::from_millis(4500));
    let shown = rig.mi("subscribers_list", MiParams::Positional(vec![json!("E_TST")])).unwrap();
    assert_eq!(shown["Event"]["Subscribers"][0]["socket"], json!(text));
    assert_eq!(shown["Event"]["Subscribers"][0]["expire"], json!(5));
    rig.advance(Duration::from_secs(1));
    assert!(rig.node.subscriptions.list().is_empty());
    assert_eq!(rig.mi("subscribers_list", MiParams::None).unwrap(), json!({ "Events": [] }));
    assert_eq!(subscribe(&rig, &text, 10), Ok(json!("OK")));
    assert_eq!(subscribe(&rig, &text, 0), Ok(json!("OK")));
    assert!(rig.node.subscriptions.list().is_empty());
    drop(socket);
}

#[test]
fn scripts_subscribe_and_management_raises() {
    let (socket, text) = listener();
    let rig = Rig::script(&format!(
        "loadmodule \"event_datagram.so\"\nstartup_route {{ subscribe_event(\"E_TST\", \"{text}\"); xlog(\"$rc\");\n\
         subscribe_event(\"E_NONE\", \"{text}\"); xlog(\"$rc\"); subscribe_event(\"E_TST\", \"tcp:x:1\"); xlog(\"$rc\"); }}\n\
         route {{ exit; }}\nevent_route[E_TST] {{ xlog(\"$param(a)\"); }}\n"
    ));
    assert_eq!(rig.xlogs(), ["1", "-1", "-1"]);
    let params = MiParams::Positional(vec![json!("E_TST"), json!({ "a": "x", "b": 2 })]);
    assert_eq!(rig.mi("raise_event", params), Ok(json!("OK")));
    rig.settle();
    assert_eq!(rig.xlogs(), ["x"]);
    let sent: Json = serde_json::from_str(&read(&socket)).unwrap();
    assert_eq!(sent["params"], json!({ "a": "x", "b": 2 }));
    let shown = rig.mi("subscribers_list", MiParams::None).unwrap();
    assert_eq!(shown["Events"][0]["Subscribers"], json!([{ "socket": text, "expire": "never" }]));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_code() {
    let rig = Rig::script(ROUTE);
    for socket in ["udp:127.0.0.1:0", "udp:127.0.0.1", "udp::5", "unix:relative", "tcp:127.0.0.1:5", "x"] {
        assert_eq!(subscribe(&rig, socket, 5), Err(400), "{socket}");
    }
    assert_eq!(subscribe(&rig, "udp:127.0.0.1:9", -1), Err(-32602));
    let params = MiParams::Positional(vec![json!("E_NONE"), json!("udp:127.0.0.1:9")]);
    assert_eq!(rig.mi("event_subscribe", params.clone()).unwrap_err().code, 404);
    assert_eq!(rig.mi("raise_event", MiParams::Positional(vec![json!("E_NONE")])).unwrap_err().code, 404);
    assert_eq!(rig.mi("subscribers_list", params).unwrap_err().code, 404);
    let long = rig.mi("raise_event", MiParams::Positional(vec![json!("E_TST"), json!(["x".repeat(70_000)])]));
    assert_eq!(long, Ok(json!("OK")));
    assert_eq!(subscribe(&rig, "udp:127.0.0.1:9", 5), Ok(json!("OK")));
    rig.mi("raise_event", MiParams::Positional(vec![json!("E_TST"), json!(["x".repeat(70_000)])])).unwrap();
    assert_eq!(rig.node.stats.value("event_datagram:failed"), Some(1));
}
