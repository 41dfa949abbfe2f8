//! A server with low limits: what it refuses when scripts wait, and what it still does; what a stop waits for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::until;
use tandem_engine::{Limits, LoadOptions, Server};

const SCRIPT: &str = r#"
log_level = 0
socket = udp:127.0.122.1:PORT
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "cfgutils.so"
loadmodule "proto_udp.so"
route {
    if (is_method("MESSAGE")) {
        t_newtran();
        async(sleep(60), LATER);
    }
    send_reply(200, "OK");
}
route[LATER] { t_reply(202, "Accepted"); }
"#;

fn start(port: u16, limits: Limits) -> (Server, SocketAddr) {
    let options = LoadOptions { workers: Some(1), limits, ..LoadOptions::default() };
    let text = SCRIPT.replace("PORT", &port.to_string());
    (support::start(&text, &options), SocketAddr::from(([127, 0, 122, 1], port)))
}

struct Client(support::Client);

impl Client {
    fn send(&self, method: &str, call: &str, to_tag: &str) {
        self.0.send(method, "tandem.example", call, 1, to_tag);
    }
}

#[test]
fn new_requests_get_503_while_too_many_scripts_wait_and_work_that_was_taken_on_goes_on() {
    let (server, address) = start(5061, Limits { parked_max: 2, ..Limits::default() });
    let node = server.node();
    let client = Client(support::Client::new("127.0.122.9", address));
    client.send("MESSAGE", "one", "");
    client.send("MESSAGE", "two", "");
    assert!(until(|| node.parked.len() == 2));
    // Repetitions of what waits are absorbed, not refused.
    client.send("MESSAGE", "one", "");
    client.send("MESSAGE", "three", "");
    let refused = client.0.answer();
    assert!(refused.starts_with("SIP/2.0 503 ") && refused.contains("Call-ID: three"), "{refused}");
    assert!(refused.contains("\r\nRetry-After: 5\r\n"), "{refused}");
    client.send("INFO", "four", ";tag=2");
    assert!(client.0.answer().starts_with("SIP/2.0 200 "), "a request inside a dialog");
    assert_eq!(node.stats.value("core:shed_requests"), Some(1));
    assert_eq!(node.stats.value("core:parked_runs"), Some(2));
    server.stop(Duration::ZERO);
}

#[test]
fn a_stop_waits_for_announced_writes() {
    let (server, _) = start(5062, Limits::default());
    let write = server.node().writes.begin();
    let is_written = Arc::new(AtomicBool::new(false));
    let flag = is_written.clone();
    let node = server.node();
    let writer = std::thread::spawn(move || {
        assert!(until(|| node.is_stopping()));
        // Longer than a stop that does not wait would take to get by.
        std::thread::park_timeout(Duration::from_millis(200));
        flag.store(true, Ordering::SeqCst);
        drop(write);
    });
    server.stop(Duration::ZERO);
    assert!(is_written.load(Ordering::SeqCst), "it did not wait");
    writer.join().unwrap();
}
