//! A user agent on a UDP socket: requests, replies, a call from INVITE to BYE. It knows no retransmissions: loopback loses
//! nothing.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for a message.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Between two looks at whether a wait is over.
const LOOK: Duration = Duration::from_millis(50);

/// A user agent.
pub(crate) struct Phone {
    socket: UdpSocket,
    ip: Ipv4Addr,
    node: SocketAddrV4,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Call-ID; with the CSeq it names the transaction.
    pub(crate) call: &'a str,
    pub(crate) cseq: u32,
    /// User in From and To.
    pub(crate) user: &'a str,
    /// Target; `sip:example.org` when empty.
    pub(crate) uri: &'a str,
    pub(crate) to_tag: &'a str,
    /// Header lines with their ends.
    pub(crate) more: &'a str,
    pub(crate) body: &'a str,
}

impl Phone {
    /// One that listens on port 5060 of `ip` and talks to that of `node`.
    pub(crate) fn new(ip: Ipv4Addr, node: Ipv4Addr) -> Phone {
        let socket = UdpSocket::bind((ip, 5060)).expect("the address is free");
        socket.set_read_timeout(Some(LOOK)).expect("a time-out can be set");
        Phone { socket, ip, node: SocketAddrV4::new(node, 5060) }
    }

    /// Sends a text.
    pub(crate) fn send(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), self.node).expect("the loopback works");
    }

    /// Sends a request.
    pub(crate) fn request(&self, request: &Request<'_>) {
        let Request { method, call, cseq, user, uri, to_tag, more, body } = *request;
        let uri = if uri.is_empty() { "sip:example.org" } else { uri };
        let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        self.send(&format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {0}:5060;rport;branch=z9hG4bK{method}{call}{cseq}\r\n\
             From: <sip:{user}@example.org>;tag=f\r\nTo: <sip:{user}@example.org>{to_tag}\r\nCall-ID: {call}\r\n\
             CSeq: {cseq} {method}\r\nMax-Forwards: 70\r\nContact: <sip:{user}@{0}:5060>\r\n{more}{kind}\
             Content-Length: {1}\r\n\r\n{body}",
            self.ip,
            body.len()
        ));
    }

    /// The next message that is `wanted`; others are thrown away.
    pub(crate) fn receive(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let start = Instant::now();
        let mut buffer = [0; 8192];
        while start.elapsed() < WAIT_MAX {
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            if wanted(&text) {
                return Some(text);
            }
        }
        None
    }

    /// The final reply to a request, and the time it took.
    pub(crate) fn ask(&self, request: &Request<'_>) -> (String, Duration) {
        let start = Instant::now();
        self.request(request);
        let reply = self.final_reply(request);
        (reply, start.elapsed())
    }

    /// The final reply to a request that was sent.
    pub(crate) fn final_reply(&self, request: &Request<'_>) -> String {
        let (cseq, call) =
            (format!("CSeq: {} {}\r\n", request.cseq, request.method), format!("Call-ID: {}\r\n", request.call));
        let is_reply = |text: &str| {
            text.starts_with("SIP/2.0 ")
                && !text.starts_with("SIP/2.0 1")
                && text.contains(&cseq)
                && text.contains(&call)
        };
        self.receive(is_reply).unwrap_or_else(|| panic!("no reply to {request:?}"))
    }

    /// Asks for a sign of life, `count` times; each is to come within `limit`.
    pub(crate) fn is_served(&self, count: u32, limit: Duration) {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        for _ in 0..count {
            let cseq = ASKED.fetch_add(1, Ordering::Relaxed);
            let request = Request { method: "OPTIONS", call: "alive", cseq, user: "x", ..Request::default() };
            let (reply, took) = self.ask(&request);
            assert!(status(&reply) == 200 && took < limit, "{reply} after {took:?}");
        }
    }

    /// Answers a request with 200; the tag is `t`.
    pub(crate) fn accept(&self, request: &str, body: &str) {
        let copied = ["Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"];
        let headers: Vec<&str> =
            request.lines().filter(|line| copied.iter().any(|name| line.starts_with(name))).collect();
        let to = header(request, "To").split(";tag=").next().unwrap_or_default().to_owned();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        self.send(&format!(
            "SIP/2.0 200 OK\r\n{}\r\nTo: {to};tag=t\r\nContact: <sip:callee@{}:5060>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            headers.join("\r\n"),
            self.ip,
            body.len()
        ));
    }
}

/// The status of a reply.
pub(crate) fn status(reply: &str) -> u16 {
    reply.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

/// The first value of a header.
pub(crate) fn header<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).unwrap_or_default()
}

/// The nonce of a challenge.
pub(crate) fn nonce(challenge: &str) -> String {
    let value = header(challenge, "WWW-Authenticate").split("nonce=\"").nth(1).unwrap_or_default();
    value.split('"').next().unwrap_or_default().to_owned()
}

/// Credentials with a wrong digest.
pub(crate) fn wrong_credentials(user: &str, nonce: &str, count: u32) -> String {
    let user = user.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"example.org\", nonce=\"{nonce}\", uri=\"sip:example.org\", \
         qop=auth, nc={count:08x}, cnonce=\"c\", response=\"00000000000000000000000000000000\"\r\n"
    )
}

/// The body of a message.
pub(crate) fn body(message: &str) -> &str {
    message.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// A call between two phones over the node.
pub(crate) struct Call<'a> {
    caller: &'a Phone,
    callee: &'a Phone,
    id: String,
    uri: String,
    route: String,
    cseq: u32,
    /// What the callee was offered.
    pub(crate) offered: String,
    /// What the caller was answered.
    pub(crate) answered: String,
}

impl<'a> Call<'a> {
    /// Sets one up, with this description from both sides.
    pub(crate) fn begin(caller: &'a Phone, callee: &'a Phone, id: &str, sdp: &str) -> Call<'a> {
        let invite = Request { method: "INVITE", call: id, cseq: 1, user: "alice", body: sdp, ..Request::default() };
        caller.request(&invite);
        let mut call = Call {
            caller,
            callee,
            id: id.to_owned(),
            uri: format!("sip:callee@{}:5060", callee.ip),
            route: String::new(),
            cseq: 1,
            offered: String::new(),
            answered: String::new(),
        };
        let reply = call.take_invite(sdp);
        let route = header(&reply, "Record-Route").to_owned();
        call.route = if route.is_empty() { route } else { format!("Route: {route}\r\n") };
        call.acknowledge();
        call
    }

    fn within<'r>(&'r self, method: &'r str, body: &'r str) -> Request<'r> {
        Request {
            method,
            call: &self.id,
            cseq: self.cseq,
            user: "alice",
            uri: &self.uri,
            to_tag: "t",
            more: &self.route,
            body,
        }
    }

    fn expect(&self, method: &str) -> String {
        let call = format!("Call-ID: {}\r\n", self.id);
        let wanted = |text: &str| text.starts_with(method) && text.contains(&call);
        self.callee.receive(wanted).unwrap_or_else(|| panic!("the callee gets no {method} of {}", self.id))
    }

    fn take_invite(&mut self, sdp: &str) -> String {
        let invite = self.expect("INVITE ");
        self.offered = body(&invite).to_owned();
        self.callee.accept(&invite, sdp);
        let reply = self.caller.final_reply(&self.within("INVITE", ""));
        assert_eq!(status(&reply), 200, "{reply}");
        self.answered = body(&reply).to_owned();
        reply
    }

    fn acknowledge(&self) {
        self.caller.request(&self.within("ACK", ""));
        self.expect("ACK ");
    }

    /// A further INVITE within the call.
    pub(crate) fn renew(&mut self, sdp: &str) {
        self.cseq += 1;
        self.caller.request(&self.within("INVITE", sdp));
        self.take_invite(sdp);
        self.acknowledge();
    }

    /// Ends it.
    pub(crate) fn end(mut self) {
        self.cseq += 1;
        self.caller.request(&self.within("BYE", ""));
        let bye = self.expect("BYE ");
        self.callee.accept(&bye, "");
        let reply = self.caller.final_reply(&self.within("BYE", ""));
        assert_eq!(status(&reply), 200, "{reply}");
    }
}
