//! What cannot be used, and what is passed on without state, is counted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{Client, until};
use tandem_engine::LoadOptions;

const SCRIPT: &str = r#"
log_level = -2
socket = udp:127.0.124.1:5061
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "proto_udp.so"
route { t_relay(); }
"#;

#[test]
fn messages_that_cannot_be_used_are_counted_by_kind() {
    let options = LoadOptions { workers: Some(1), ..LoadOptions::default() };
    let server = support::start(SCRIPT, &options);
    let address = SocketAddr::from(([127, 0, 124, 1], 5061));
    let client = Client::new("127.0.124.9", address);
    let own = client.address();
    let headers = "From: <sip:a@x.example>;tag=1\r\nTo: <sip:b@x.example>;tag=2\r\nCall-ID: c\r\n";
    let send = |text: String| client.send_raw(&text);

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
    // Two requests were answered besides.
    let got: Vec<String> = (0..3).map(|_| client.answer()).collect();
    assert!(got.iter().any(|text| text.starts_with("SIP/2.0 299")), "the reply with two Vias comes back");
    server.stop(Duration::ZERO);
}
