//! A small SIP user agent over UDP: registers with digest, calls, answers. Enough to drive a proxy, no media.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use tandem_sip::digest::{Answer, write_answer};
use tandem_sip::{DigestChallenge, HeaderKind, Message, Method, ReplyOut, RequestBuilder, build_reply};

use super::cluster::REALM;

/// First retransmission; doubles (RFC 3261 T1).
const T1: Duration = Duration::from_millis(500);
/// Longest wait for a final answer.
const FINAL_MAX: Duration = Duration::from_secs(12);
/// Requests sent in one go by a flood, and the pause after them.
const BURST: usize = 50;
const BURST_GAP: Duration = Duration::from_millis(5);
/// How often an answering agent looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// Makes numbers that are unique in this process.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A phone.
pub(super) struct Agent {
    socket: UdpSocket,
    addr: SocketAddr,
    user: String,
    password: String,
}

/// An established call, seen by its caller.
pub(super) struct Call {
    /// INVITE to the first 180 or 200.
    pub(super) ringing: Duration,
    id: String,
    from: String,
    to: String,
    target: String,
    routes: Vec<String>,
    proxy: SocketAddr,
}

impl Agent {
    /// A phone at `ip`, any port.
    pub(super) fn new(ip: impl Into<IpAddr>, user: &str, password: &str) -> anyhow::Result<Agent> {
        let socket = UdpSocket::bind((ip.into(), 0)).context("a user agent finds no port")?;
        let addr = socket.local_addr()?;
        Ok(Agent { socket, addr, user: user.to_owned(), password: password.to_owned() })
    }

    // The parts of a request in the order of RFC 3261.
    #[allow(clippy::too_many_arguments)]
    fn request(
        &self,
        method: &str,
        uri: &str,
        to: &str,
        from_tag: &str,
        call_id: &str,
        cseq: u32,
        headers: &[&[u8]],
        routes: &[&[u8]],
    ) -> Vec<u8> {
        let via = format!("SIP/2.0/UDP {};branch=z9hG4bKdemo{}", self.addr, unique());
        let from = format!("<sip:{}@{REALM}>;tag={from_tag}", self.user);
        let contact = format!("<sip:{}@{}>", self.user, self.addr);
        let builder = RequestBuilder {
            method: method.as_bytes(),
            uri: uri.as_bytes(),
            via: Some(via.as_bytes()),
            from: from.as_bytes(),
            to: to.as_bytes(),
            call_id: call_id.as_bytes(),
            cseq,
            routes,
            contact: Some(contact.as_bytes()),
            headers,
            ..RequestBuilder::default()
        };
        builder.build()
    }

    /// Sends a request and waits for its final answer, with retransmissions; provisional ones go to `on_provisional`.
    fn exchange(
        &self,
        proxy: SocketAddr,
        request: &[u8],
        mut on_provisional: impl FnMut(u16),
    ) -> anyhow::Result<Message> {
        let sent = Message::parse(Bytes::copy_from_slice(request)).context("own request")?;
        let branch = sent.top_via().context("own Via")?.branch.map(<[u8]>::to_vec);
        let end = Instant::now() + FINAL_MAX;
        let mut gap = T1;
        let mut again = Instant::now() + gap;
        let mut is_provisional = false;
        self.socket.send_to(request, proxy)?;
        loop {
            let now = Instant::now();
            if now >= end {
                bail!("no final answer from {proxy} within {} s", FINAL_MAX.as_secs());
            }
            if now >= again && !is_provisional {
                self.socket.send_to(request, proxy)?;
                gap *= 2;
                again = now + gap;
            }
            let Some(reply) = self.receive(TICK)? else { continue };
            let is_ours =
                !reply.is_request() && reply.top_via().is_ok_and(|via| via.branch.map(<[u8]>::to_vec) == branch);
            match reply.status() {
                Some(code) if is_ours && code < 200 => {
                    is_provisional = true;
                    on_provisional(code);
                }
                Some(_) if is_ours => return Ok(reply),
                _ => {}
            }
        }
    }

    fn receive(&self, timeout: Duration) -> anyhow::Result<Option<Message>> {
        let mut buffer = vec![0; 65_535];
        self.socket.set_read_timeout(Some(timeout))?;
        match self.socket.recv_from(&mut buffer) {
            Ok((size, _)) => {
                buffer.truncate(size);
                Ok(Message::parse(Bytes::from(buffer)).ok())
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// OPTIONS to a node; its code and the round trip.
    pub(super) fn options(&self, proxy: SocketAddr) -> anyhow::Result<(u16, Duration)> {
        let uri = format!("sip:{proxy}");
        let to = format!("<{uri}>");
        let request = self.request("OPTIONS", &uri, &to, "o1", &format!("options-{}", unique()), 1, &[], &[]);
        let start = Instant::now();
        let reply = self.exchange(proxy, &request, |_| {})?;
        Ok((reply.status().unwrap_or_default(), start.elapsed()))
    }

    /// REGISTER with digest; the final code.
    pub(super) fn register(&self, proxy: SocketAddr, expires: u32) -> anyhow::Result<u16> {
        let uri = format!("sip:{REALM}");
        let to = format!("<sip:{}@{REALM}>", self.user);
        let call_id = format!("register-{}", unique());
        let expires = format!("Expires: {expires}");
        let request = self.request("REGISTER", &uri, &to, "r1", &call_id, 1, &[expires.as_bytes()], &[]);
        let reply = self.exchange(proxy, &request, |_| {})?;
        if reply.status() != Some(401) {
            return Ok(reply.status().unwrap_or_default());
        }
        let value = reply.value_of(HeaderKind::WwwAuthenticate).ok_or_else(|| anyhow!("401 without a challenge"))?;
        let challenge = DigestChallenge::parse(value).context("the challenge of the 401")?;
        let mut line = b"Authorization: ".to_vec();
        let answer = Answer {
            username: self.user.as_bytes(),
            password: self.password.as_bytes(),
            method: b"REGISTER",
            uri: uri.as_bytes(),
            cnonce: b"5d3f1a",
            nonce_count: 1,
            body: b"",
        };
        if !write_answer(&challenge, &answer, &mut line) {
            bail!("a challenge with an algorithm this agent does not know");
        }
        let request = self.request("REGISTER", &uri, &to, "r1", &call_id, 2, &[expires.as_bytes(), &line], &[]);
        let reply = self.exchange(proxy, &request, |_| {})?;
        Ok(reply.status().unwrap_or_default())
    }

    /// Calls a user through a node. `Err(code)` when the call is refused.
    pub(super) fn call(&self, proxy: SocketAddr, callee: &str) -> anyhow::Result<Result<Call, u16>> {
        let uri = format!("sip:{callee}@{REALM}");
        let to = format!("<{uri}>");
        let id = format!("call-{}-{}", unique(), self.addr.port());
        let invite = self.request("INVITE", &uri, &to, "c1", &id, 1, &[], &[]);
        let start = Instant::now();
        let mut ringing = None;
        let reply = self.exchange(proxy, &invite, |code| {
            if code > 100 {
                ringing.get_or_insert(start.elapsed());
            }
        })?;
        let code = reply.status().unwrap_or_default();
        if code >= 300 {
            let invite = Message::parse(Bytes::from(invite)).context("own INVITE")?;
            let mut ack = Vec::new();
            tandem_sip::build_ack_non2xx(&invite, &reply, &mut ack).context("ACK")?;
            self.socket.send_to(&ack, proxy)?;
            return Ok(Err(code));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let contact = reply.name_addrs(HeaderKind::Contact).next().and_then(Result::ok);
        let contact = contact.ok_or_else(|| anyhow!("200 without Contact"))?;
        let to = reply.value_of(HeaderKind::To).map(text).unwrap_or_default();
        let mut routes: Vec<String> = reply.values_of(HeaderKind::RecordRoute).map(|value| text(value.bytes)).collect();
        routes.reverse();
        let call = Call {
            ringing: ringing.unwrap_or_else(|| start.elapsed()),
            id,
            from: self.user.clone(),
            to,
            target: text(contact.uri),
            routes,
            proxy,
        };
        self.within(&call, "ACK", 1)?;
        Ok(Ok(call))
    }

    fn within(&self, call: &Call, method: &str, cseq: u32) -> anyhow::Result<Vec<u8>> {
        let routes: Vec<&[u8]> = call.routes.iter().map(|route| route.as_bytes()).collect();
        let request = self.request(method, &call.target, &call.to, "c1", &call.id, cseq, &[], &routes);
        if method == "ACK" {
            self.socket.send_to(&request, call.proxy)?;
        }
        Ok(request)
    }

    /// Ends a call; the code of the answer to BYE.
    pub(super) fn hang_up(&self, call: &Call) -> anyhow::Result<u16> {
        debug_assert_eq!(call.from, self.user);
        let request = self.within(call, "BYE", 2)?;
        let reply = self.exchange(call.proxy, &request, |_| {})?;
        Ok(reply.status().unwrap_or_default())
    }

    /// Sends INVITEs for many unknown users without waiting; gives the requests to collect answers for.
    pub(super) fn flood(&self, proxy: SocketAddr, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut sent = Vec::with_capacity(count);
        for number in 0..count {
            let uri = format!("sip:ghost{number}@{REALM}");
            let to = format!("<{uri}>");
            sent.push(self.request("MESSAGE", &uri, &to, "f1", &format!("flood-{}", unique()), 1, &[], &[]));
        }
        self.send_again(proxy, &sent)?;
        Ok(sent)
    }

    /// Sends the requests of a flood, in bursts that a receive buffer of the default size can hold.
    pub(super) fn send_again(&self, proxy: SocketAddr, requests: &[Vec<u8>]) -> anyhow::Result<()> {
        for burst in requests.chunks(BURST) {
            for request in burst {
                self.socket.send_to(request, proxy)?;
            }
            std::thread::park_timeout(BURST_GAP);
        }
        Ok(())
    }

    /// Collects final answers until `count` came or the time is over; how many had `code`.
    pub(super) fn collect(&self, count: usize, code: u16, limit: Duration) -> anyhow::Result<usize> {
        let end = Instant::now() + limit;
        let mut seen = 0;
        while seen < count && Instant::now() < end {
            if let Some(reply) = self.receive(TICK)?
                && reply.status() == Some(code)
            {
                seen += 1;
            }
        }
        Ok(seen)
    }

    /// Answers calls from now on, in a thread of its own.
    pub(super) fn answer(self) -> Answering {
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), heard.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(Some(message)) = self.receive(TICK)
                    && message.is_request()
                {
                    if message.header_by_name(b"X-Tandem-Hop").is_some() && message.method() == Method::Invite {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = self.serve(&message);
                }
            }
            self
        });
        Answering { stop, heard, thread: Some(thread) }
    }

    fn serve(&self, request: &Message) -> anyhow::Result<()> {
        match request.method() {
            Method::Ack => Ok(()),
            Method::Invite => {
                self.reply(request, 180)?;
                self.reply(request, 200)
            }
            _ => self.reply(request, 200),
        }
    }

    fn reply(&self, request: &Message, status: u16) -> anyhow::Result<()> {
        let contact = format!("Contact: <sip:{}@{}>", self.user, self.addr);
        let lines = [contact.as_bytes()];
        let reply = ReplyOut { status, to_tag: Some(b"answered"), headers: &lines, ..ReplyOut::default() };
        let mut out = Vec::new();
        build_reply(request, &reply, &mut out).context("reply")?;
        let via = request.top_via().context("Via")?;
        let host = std::str::from_utf8(via.host).context("Via host")?;
        let to: IpAddr = host.parse().context("Via host")?;
        self.socket.send_to(&out, (to, via.port.unwrap_or(5060)))?;
        Ok(())
    }
}

/// A phone that answers in the background.
pub(super) struct Answering {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    thread: Option<JoinHandle<Agent>>,
}

impl Answering {
    /// INVITEs that came over another node.
    pub(super) fn hops_seen(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The phone, no longer answering.
    pub(super) fn end(mut self) -> anyhow::Result<Agent> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("ended twice"))?;
        thread.join().map_err(|_| anyhow!("a user agent failed"))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
