//! What the tests of `rtpproxy` and `rtpengine` share: a call's messages, a node that does input and output, and relays that
//! answer over UDP as they are told to. It knows neither protocol.

#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tandem_script::ast::Dialect;

use crate::test_rig::{Rig, RigOptions, Sent};

/// The modules that both need in front of their own.
pub(crate) const MODULES: &str = "loadmodule \"proto_udp.so\"\nloadmodule \"signaling.so\"\nloadmodule \"sl.so\"\n\
loadmodule \"tm.so\"\nloadmodule \"rr.so\"\nloadmodule \"sipmsgops.so\"\nloadmodule \"dialog.so\"\nloadmodule \"db_sqlite.so\"\n";

/// Where calls go.
pub(crate) const CALLEE: &str = "127.0.3.8:5060";

/// A node with a runtime for its sockets.
pub(crate) struct Server {
    pub(crate) rig: Rig,
    _runtime: tokio::runtime::Runtime,
}

/// Loads a script.
pub(crate) fn load(dialect: Option<Dialect>, text: &str) -> Result<Server, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rig = {
        let _guard = runtime.enter();
        Rig::try_script(text, RigOptions { dialect })?
    };
    Ok(Server { rig, _runtime: runtime })
}

/// Routes that send a request on after `request`, and run `reply` for the replies.
pub(crate) fn calling(request: &str, reply: &str) -> String {
    let reply = if reply.is_empty() { "exit;" } else { reply };
    format!(
        "route {{ $du = \"sip:{CALLEE}\"; {request} t_on_reply(\"answer\"); t_relay(); }}\nonreply_route[answer] {{ {reply} }}\n"
    )
}

/// A request of the caller.
pub(crate) fn message(method: &str, call: &str, to_tag: &str, sdp: &str) -> String {
    let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    format!(
        "{method} sip:bob@{CALLEE} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bK{call}{method}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.org>;tag=from\r\nTo: <sip:bob@example.org>{to_tag}\r\nCall-ID: {call}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:alice@127.0.3.9:5099>\r\n{kind}Content-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    )
}

/// The callee's reply; its tag is `to`.
pub(crate) fn reply_to(request: &Sent, code: u16, sdp: &str) -> String {
    let text = request.text();
    let wanted = ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"];
    let headers: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .collect();
    let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "SIP/2.0 {code} X\r\n{}\r\nTo: <sip:bob@example.org>;tag=to\r\nContact: <sip:bob@{CALLEE}>\r\n{kind}Content-Length: {}\r\n\r\n{sdp}",
        headers.join("\r\n"),
        sdp.len()
    )
}

/// The first message with that beginning.
pub(crate) fn find<'a>(sent: &'a [Sent], start: &str) -> Option<&'a Sent> {
    sent.iter().find(|sent| sent.text().starts_with(start))
}

/// How a relay is spoken to: `C` is a command.
pub(crate) struct Speech<C> {
    pub(crate) decode: fn(&[u8]) -> C,
    /// Whether a command is the question whether it is there, which is not noted.
    pub(crate) is_probe: fn(&C) -> bool,
}

/// A relay.
pub(crate) struct Relay<C> {
    pub(crate) url: String,
    pub(crate) is_silent: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<C>>>,
    is_over: Arc<AtomicBool>,
}

impl<C: Clone + Send + 'static> Relay<C> {
    /// One that gives `answer` to commands, or none.
    pub(crate) fn new(speech: Speech<C>, answer: impl Fn(&C) -> Option<Vec<u8>> + Send + 'static) -> Relay<C> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let url = format!("udp:127.0.0.1:{}", socket.local_addr().unwrap().port());
        let relay = Relay { url, is_silent: Arc::default(), heard: Arc::default(), is_over: Arc::default() };
        let (heard, is_silent, is_over) = (relay.heard.clone(), relay.is_silent.clone(), relay.is_over.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 8000];
            while !is_over.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let blank = buffer[..length].iter().position(|byte| *byte == b' ').unwrap();
                let command = (speech.decode)(&buffer[blank + 1..length]);
                if is_silent.load(Ordering::SeqCst) {
                    continue;
                }
                // Noted before the answer leaves: who has the answer sees the command, too.
                if !(speech.is_probe)(&command) {
                    heard.lock().push(command.clone());
                }
                if let Some(reply) = answer(&command) {
                    socket.send_to(&[&buffer[..=blank], &reply].concat(), from).unwrap();
                }
            }
        });
        relay
    }

    /// What it was asked since the last look.
    pub(crate) fn heard(&self) -> Vec<C> {
        std::mem::take(&mut *self.heard.lock())
    }
}

impl<C> Drop for Relay<C> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// `name` of `module` with all of these relays.
pub(crate) fn sock<C>(module: &str, relays: &[&Relay<C>]) -> String {
    let urls: Vec<&str> = relays.iter().map(|relay| relay.url.as_str()).collect();
    format!("modparam(\"{module}\", \"{module}_sock\", \"{}\")\n", urls.join(" "))
}
