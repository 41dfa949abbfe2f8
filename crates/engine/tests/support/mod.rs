//! What tests over real sockets share: a server from a text, a client that speaks enough SIP, waiting for a condition.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tandem_engine::{LoadOptions, Server, load_text};

pub(crate) fn start(script: &str, options: &LoadOptions) -> Server {
    let loaded = load_text("test.cfg", script, options).unwrap_or_else(|refused| panic!("{}", refused.render()));
    Server::start(loaded).unwrap()
}

/// Whether it comes to that within ten seconds.
pub(crate) fn until(holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() && Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    holds()
}

pub(crate) struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    /// On a free port of that address.
    pub(crate) fn new(own: &str, server: SocketAddr) -> Client {
        let socket = UdpSocket::bind((own, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { socket, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(crate) fn send_raw(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), self.server).unwrap();
    }

    /// A request to `target`; `to_tag` is empty, or `;tag=` and a tag.
    pub(crate) fn send(&self, method: &str, target: &str, call: &str, cseq: u32, to_tag: &str) {
        let from = self.address();
        self.send_raw(&format!(
            "{method} sip:{target} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{call}{cseq};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:a@tandem.example>;tag=1\r\nTo: <sip:b@tandem.example>{to_tag}\r\n\
             Call-ID: {call}\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        ));
    }

    /// The next message, within ten seconds.
    pub(crate) fn answer(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("an answer");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}
