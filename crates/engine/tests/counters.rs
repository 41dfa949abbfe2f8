//! What cannot be used, and what is passed on without state, is counted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tandem_engine::{LoadOptions, Server, load_text};

const SCRIPT: &str = r#"
log_level = -2
socket = udp:127.0.124.1:5061
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "proto_udp.so"
route { t_relay(); }
"#;

fn until(holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() && Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    holds()
}

#[test]
fn messages_that_cannot_be_used_are_counted_by_kind() {
    let options = LoadOptions { workers: Some(1), ..LoadOptions::default() };
    let loaded = load_text("test.cfg", SCRIPT, &options).unwrap_or_else(|refused| panic!("{}", refused.render()));
    let server = Server::start(loaded).unwrap();
    let address = SocketAddr::from(([127, 0, 124, 1], 5061));
    let client = UdpSocket::bind("127.0.124.9:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let own = client.local_addr().unwrap();
    let headers = "From: <sip:a@x.example>;tag=1\r\nTo: <sip:b@x.example>;tag=2\r\nCall-ID: c\r\n";
    let send = |text: String| client.send_to(text.as_bytes(), address).unwrap();

    send(format!("OPTIONS sip:x.example SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKa\r\n{headers}\r\n"));
    send("SIP/2.0 nonsense\r\n\r\n".to_owned());
    send(format!(
        "OPTIONS sip:x.example:port SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKb\r\n{headers}CSeq: 1 OPTIONS\r\n\r\n"
    ));
    let via = |hop: SocketAddr| format!("Via: SIP/2.0/UDP {hop};branch=z9hG4bKc\r\n");
    send(format!("SIP/2.0 200 OK\r\n{}{headers}CSeq: 1 OPTIONS\r\n\r\n", via(own)));
    send(format!("SIP/2.0 299 Behind\r\n{}{}{headers}CSeq: 1 OPTIONS\r\n\r\n", via(address), via(own)));

    let node = server.node();
    let value = |name: &str| node.stats.value(&format!("core:{name}"));
    for (name, wanted) in [
        ("err_requests", 1),
        ("err_replies", 1),
        ("bad_msg_hdr", 2),
        ("bad_URIs_rcvd", 1),
        ("drop_replies", 1),
        ("fwd_replies", 1),
        ("drop_requests", 0),
    ] {
        assert!(until(|| value(name) == Some(wanted)), "{name} is {:?}, not {wanted}", value(name));
    }
    let mut buffer = [0; 2048];
    let got: Vec<bool> =
        std::iter::repeat_with(|| client.recv(&mut buffer).map(|length| buffer[..length].starts_with(b"SIP/2.0 299")))
            .take(3)
            .map_while(Result::ok)
            .collect();
    assert!(got.contains(&true), "the reply with two Vias comes back");
    server.stop(Duration::ZERO);
}
