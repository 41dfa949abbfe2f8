//! A real server whose script waits: what follows in the same call keeps its place, everything else goes on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use tandem_engine::{LoadOptions, Server};

/// Only the time the slow requests take tells the two orders apart; nothing waits for that long on purpose.
const SCRIPT: &str = r#"
log_level = 0
socket = udp:127.0.123.1:PORT
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "signaling.so"
loadmodule "sipmsgops.so"
loadmodule "cfgutils.so"
loadmodule "proto_udp.so"
route {
    if ($rU == "slow") {
        usleep(1000000);
    } else if ($rU == "async") {
        t_newtran();
        async(usleep(1000000), LATER);
    }
    send_reply(200, "OK");
}
route[LATER] { t_reply(200, "OK"); }
"#;

fn start(port: u16) -> (Server, SocketAddr) {
    let options = LoadOptions { workers: Some(2), ..LoadOptions::default() };
    let text = SCRIPT.replace("PORT", &port.to_string());
    (support::start(&text, &options), SocketAddr::from(([127, 0, 123, 1], port)))
}

struct Client(support::Client);

impl Client {
    fn new(server: SocketAddr) -> Client {
        Client(support::Client::new("127.0.123.9", server))
    }

    fn send(&self, user: &str, call: &str, cseq: u32, to_tag: &str) {
        self.0.send("INFO", &format!("{user}@tandem.example"), call, cseq, to_tag);
    }

    /// Call-ID and CSeq number of the next `count` answers.
    fn answers(&self, count: usize) -> Vec<String> {
        let answer = || {
            let text = self.0.answer();
            let header = |name: &str| text.split(name).nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
            format!("{} {}", header("\r\nCall-ID: "), header("\r\nCSeq: ").replace(" INFO", ""))
        };
        (0..count).map(|_| answer()).collect()
    }
}

#[test]
fn what_follows_in_a_call_waits_behind_a_script_that_waits() {
    let (server, address) = start(5061);
    let client = Client::new(address);
    client.send("slow", "one", 1, ";tag=2");
    for cseq in 2..6 {
        client.send("fast", "one", cseq, ";tag=2");
    }
    // Sent again while it waits: the script answers without a transaction, so the copy gets an answer of its own.
    client.send("fast", "one", 2, ";tag=2");
    client.send("fast", "two", 1, ";tag=2");
    let answers = client.answers(7);
    assert_eq!(answers[0], "two 1", "another call is not held up");
    assert_eq!(answers[1..], ["one 1", "one 2", "one 3", "one 4", "one 5", "one 2"]);
    assert_eq!(server.node().call_order.held(), 0);
    server.stop(Duration::ZERO);
}

#[test]
fn another_sender_a_new_call_and_async_hold_nobody_up() {
    let (server, address) = start(5062);
    let (client, other) = (Client::new(address), Client::new(address));
    client.send("slow", "one", 1, ";tag=2");
    // The two senders may be served by different workers: which of them starts first says nothing.
    assert!(support::until(|| !server.node().parked.is_empty()), "the slow one waits");
    other.send("fast", "one", 2, ";tag=2");
    assert_eq!(other.answers(1), ["one 2"]);
    assert!(!server.node().parked.is_empty(), "the slow one still waits");
    assert_eq!(client.answers(1), ["one 1"]);

    client.send("slow", "new", 1, "");
    client.send("fast", "new", 2, "");
    assert_eq!(client.answers(2), ["new 2", "new 1"]);

    client.send("async", "three", 1, ";tag=2");
    client.send("fast", "three", 2, ";tag=2");
    assert_eq!(client.answers(2), ["three 2", "three 1"]);
    server.stop(Duration::ZERO);
}
