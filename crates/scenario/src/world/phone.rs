//! A telephone as a test plays it: it writes requests and replies, remembers its dialog, and confirms refusals by itself as
//! every telephone does. It does not send again by itself.

use std::net::SocketAddr;

use bytes::Bytes;
use tandem_module::transport::Proto;
use tandem_sip::digest::{Answer, write_answer};
use tandem_sip::{DigestChallenge, HeaderKind, Message, Method, ReplyOut, build_reply};

use crate::syntax::{Extra, PhoneDecl};

/// Requests a phone remembers.
const RECEIVED_MAX: usize = 10_000;

/// A request as it was sent.
#[derive(Clone, Debug)]
struct Sent {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// A request that came in.
#[derive(Clone, Debug)]
struct Received {
    message: Message,
    method: String,
    tag: String,
    is_answered: bool,
}

/// A call or subscription.
#[derive(Clone, Debug)]
struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
}

/// A telephone.
#[derive(Debug)]
pub(crate) struct Phone {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    pub(crate) proto: Proto,
    domain: String,
    number: u32,
    cseq: u32,
    sent: Option<Sent>,
    last_bytes: Option<Bytes>,
    invite: Option<Sent>,
    received: Vec<Received>,
    refusal: Option<Message>,
    nonce_count: u32,
    dialog: Option<Dialog>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn set(headers: &mut Vec<(String, String)>, name: &str, value: impl Into<String>) {
    let value = value.into();
    match headers.iter_mut().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
        Some((_, old)) => *old = value,
        None => headers.push((name.to_owned(), value)),
    }
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

impl Sent {
    fn bytes(&self) -> Bytes {
        let mut out = format!("{} {} SIP/2.0\r\n", self.method, self.uri);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str(&format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body));
        Bytes::from(out)
    }
}

impl Phone {
    pub(crate) fn new(decl: &PhoneDecl, domain: &str) -> Phone {
        Phone {
            name: decl.name.clone(),
            addr: decl.addr,
            proto: decl.proto,
            domain: domain.to_owned(),
            number: 0,
            cseq: 0,
            sent: None,
            last_bytes: None,
            invite: None,
            received: Vec::new(),
            refusal: None,
            nonce_count: 0,
            dialog: None,
        }
    }

    /// Its address of record.
    pub(crate) fn aor(&self) -> String {
        format!("sip:{}@{}", self.user(), self.domain)
    }

    /// Its contact.
    pub(crate) fn contact(&self) -> String {
        let transport =
            if self.proto == Proto::Udp { String::new() } else { format!(";transport={}", self.proto.name()) };
        format!("sip:{}@{}{transport}", self.user(), self.addr)
    }

    /// A party known by its address only has no name to call itself by.
    fn user(&self) -> &str {
        if self.name.contains(':') || self.name.contains('.') { "anonymous" } else { &self.name }
    }

    fn via(&mut self) -> String {
        self.number += 1;
        let (proto, addr, name, number) = (self.proto.via_name(), self.addr, self.user(), self.number);
        format!("SIP/2.0/{proto} {addr};branch=z9hG4bK-{name}-{number};rport")
    }

    fn finish(&mut self, mut sent: Sent, extra: &Extra) -> Bytes {
        for (name, value) in &extra.headers {
            set(&mut sent.headers, name, value.clone());
        }
        sent.headers.retain(|(name, _)| !extra.without.iter().any(|other| other.eq_ignore_ascii_case(name)));
        if let Some(body) = self.body_of(extra) {
            if extra.has_sdp {
                let headers = &mut sent.headers;
                if value(headers, "Content-Type").is_empty() {
                    set(headers, "Content-Type", "application/sdp");
                }
            }
            sent.body = body;
        }
        let bytes = sent.bytes();
        if sent.method == "INVITE" {
            self.invite = Some(sent.clone());
        }
        self.sent = Some(sent);
        self.last_bytes = Some(bytes.clone());
        bytes
    }

    fn body_of(&self, extra: &Extra) -> Option<String> {
        match &extra.body {
            Some(body) => Some(body.clone()),
            None if extra.has_sdp => Some(self.sdp()),
            None => None,
        }
    }

    fn sdp(&self) -> String {
        let ip = self.addr.ip();
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        format!(
            "v=0\r\no=- 1 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0 101\r\n\
             a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
        )
    }

    /// A request; in the dialog when no URI is given and there is one.
    pub(crate) fn request(&mut self, method: &str, uri: Option<&str>, extra: &Extra) -> Result<Bytes, String> {
        if uri.is_none() && self.dialog.is_some() && method != "REGISTER" {
            return self.in_dialog(method, extra);
        }
        let uri = match (uri, method) {
            (Some(uri), _) => uri.to_owned(),
            (None, "REGISTER") => format!("sip:{}", self.domain),
            (None, _) => return Err(format!("{} is in no call: say where the {method} goes", self.name)),
        };
        self.cseq += 1;
        let via = self.via();
        let aor = self.aor();
        let to = if method == "REGISTER" { aor.clone() } else { uri.clone() };
        let mut headers = vec![
            ("Via".to_owned(), via),
            ("Max-Forwards".to_owned(), "70".to_owned()),
            ("From".to_owned(), format!("<{aor}>;tag={}-{}", self.user(), self.number)),
            ("To".to_owned(), format!("<{to}>")),
            ("Call-ID".to_owned(), format!("{}-{}@{}", self.user(), self.number, self.addr.ip())),
            ("CSeq".to_owned(), format!("{} {method}", self.cseq)),
        ];
        if ["INVITE", "REGISTER", "SUBSCRIBE", "REFER", "UPDATE"].contains(&method) {
            headers.push(("Contact".to_owned(), format!("<{}>", self.contact())));
        }
        Ok(self.finish(Sent { method: method.to_owned(), uri, headers, body: String::new() }, extra))
    }

    fn in_dialog(&mut self, method: &str, extra: &Extra) -> Result<Bytes, String> {
        let via = self.via();
        let contact = self.contact();
        let Some(dialog) = &mut self.dialog else { return Err(format!("{} is in no call", self.name)) };
        if method != "ACK" {
            dialog.cseq += 1;
        }
        let mut headers = vec![("Via".to_owned(), via), ("Max-Forwards".to_owned(), "70".to_owned())];
        headers.extend(dialog.routes.iter().map(|route| ("Route".to_owned(), route.clone())));
        headers.extend([
            ("From".to_owned(), dialog.local.clone()),
            ("To".to_owned(), dialog.remote.clone()),
            ("Call-ID".to_owned(), dialog.call_id.clone()),
            ("CSeq".to_owned(), format!("{} {method}", dialog.cseq)),
        ]);
        if ["INVITE", "SUBSCRIBE", "UPDATE"].contains(&method) {
            headers.push(("Contact".to_owned(), format!("<{contact}>")));
        }
        let sent = Sent { method: method.to_owned(), uri: dialog.target.clone(), headers, body: String::new() };
        Ok(self.finish(sent, extra))
    }

    /// Confirms the 2xx to its INVITE, which made the dialog.
    pub(crate) fn ack(&mut self) -> Result<Bytes, String> {
        if self.dialog.is_none() {
            return Err(format!("{} has no answered call to confirm", self.name));
        }
        self.in_dialog("ACK", &Extra::default())
    }

    /// Gives up its INVITE (RFC 3261 §9.1).
    pub(crate) fn cancel(&mut self) -> Result<Bytes, String> {
        let invite = self.invite.clone().ok_or_else(|| format!("{} has sent no INVITE", self.name))?;
        let mut headers: Vec<(String, String)> = invite
            .headers
            .iter()
            .filter(|(name, _)| {
                ["via", "max-forwards", "from", "to", "call-id", "route"].contains(&name.to_ascii_lowercase().as_str())
            })
            .cloned()
            .collect();
        let number = value(&invite.headers, "CSeq").split(' ').next().unwrap_or("1").to_owned();
        headers.push(("CSeq".to_owned(), format!("{number} CANCEL")));
        let sent = Sent { method: "CANCEL".to_owned(), uri: invite.uri, headers, body: String::new() };
        let bytes = sent.bytes();
        self.last_bytes = Some(bytes.clone());
        Ok(bytes)
    }

    /// The bytes it sent last.
    pub(crate) fn again(&self) -> Result<Bytes, String> {
        self.last_bytes.clone().ok_or_else(|| format!("{} has sent nothing yet", self.name))
    }

    /// Bytes of the test itself.
    pub(crate) fn raw(&mut self, text: &str) -> Bytes {
        // The empty line behind the headers is easily forgotten in a test.
        let text = if text.contains("\r\n\r\n") { text.to_owned() } else { format!("{text}\r\n") };
        let bytes = Bytes::from(text);
        self.last_bytes = Some(bytes.clone());
        bytes
    }

    /// Its last request once more, with an answer to the challenge (RFC 3261 §22.2).
    pub(crate) fn authenticate(&mut self, user: Option<&str>, password: &str) -> Result<Bytes, String> {
        let refusal = self.refusal.clone().ok_or_else(|| format!("{} was not challenged", self.name))?;
        let mut sent = self.sent.clone().ok_or_else(|| format!("{} has sent nothing yet", self.name))?;
        let (kind, name) = if refusal.status() == Some(407) {
            (HeaderKind::ProxyAuthenticate, "Proxy-Authorization")
        } else {
            (HeaderKind::WwwAuthenticate, "Authorization")
        };
        let challenge = refusal.value_of(kind).and_then(|text| DigestChallenge::parse(text).ok());
        let challenge = challenge.ok_or_else(|| format!("the answer to {} carries no digest challenge", self.name))?;
        self.nonce_count += 1;
        let own = self.user().to_owned();
        let answer = Answer {
            username: user.unwrap_or(&own).as_bytes(),
            password: password.as_bytes(),
            method: sent.method.as_bytes(),
            uri: sent.uri.as_bytes(),
            cnonce: b"tandem-test",
            nonce_count: self.nonce_count,
            body: sent.body.as_bytes(),
        };
        let mut credentials = Vec::new();
        if !write_answer(&challenge, &answer, &mut credentials) {
            return Err("the algorithm of the challenge is not known".to_owned());
        }
        let number =
            value(&sent.headers, "CSeq").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0u32);
        self.cseq = self.cseq.max(number + 1);
        let cseq = format!("{} {}", number + 1, sent.method);
        set(&mut sent.headers, "CSeq", cseq);
        let via = self.via();
        set(&mut sent.headers, "Via", via);
        set(&mut sent.headers, name, text(&credentials));
        Ok(self.finish(sent, &Extra::default()))
    }

    /// Answers a request it got.
    pub(crate) fn reply(
        &mut self,
        status: u16,
        reason: Option<&str>,
        method: Option<&str>,
        extra: &Extra,
    ) -> Result<Bytes, String> {
        let body = self.body_of(extra).unwrap_or_default();
        let contact = self.contact();
        let found = self.received.iter_mut().rev().find(|received| {
            !received.is_answered && received.method != "ACK" && method.is_none_or(|method| method == received.method)
        });
        let Some(received) = found else {
            return Err(match method {
                Some(method) => format!("{} has no {method} to answer", self.name),
                None => format!("{} has no request to answer", self.name),
            });
        };
        let mut headers: Vec<(String, String)> = Vec::new();
        if status > 100 && status < 300 && ["INVITE", "SUBSCRIBE", "UPDATE"].contains(&received.method.as_str()) {
            headers.push(("Contact".to_owned(), format!("<{contact}>")));
        }
        for (name, value) in &extra.headers {
            set(&mut headers, name, value.clone());
        }
        headers.retain(|(name, _)| !extra.without.iter().any(|other| other.eq_ignore_ascii_case(name)));
        let content_type = headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("Content-Type"));
        let content_type = content_type.map(|at| headers.remove(at).1);
        let content_type = content_type.or_else(|| extra.has_sdp.then(|| "application/sdp".to_owned()));
        let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let reply = ReplyOut {
            status,
            reason: reason.unwrap_or_default().as_bytes(),
            to_tag: (status > 100).then_some(received.tag.as_bytes()),
            headers: &lines,
            content_type: content_type.as_deref().map(str::as_bytes),
            body: body.as_bytes(),
            ..ReplyOut::default()
        };
        let mut out = Vec::new();
        build_reply(&received.message, &reply, &mut out).map_err(|error| error.to_string())?;
        received.is_answered = status >= 200;
        let received = received.clone();
        if received.method == "INVITE" && (101..300).contains(&status) {
            self.dialog = callee_dialog(&received);
        }
        let bytes = Bytes::from(out);
        self.last_bytes = Some(bytes.clone());
        Ok(bytes)
    }

    /// Takes a message in; gives what it answers by itself: the ACK of a refused INVITE (RFC 3261 §17.1.1.3).
    pub(crate) fn on_message(&mut self, bytes: Bytes) -> Option<Bytes> {
        let message = Message::parse(bytes).ok()?;
        let Some(status) = message.status() else {
            self.on_request(message);
            return None;
        };
        let (_, method, _) = message.cseq().ok()?;
        if status == 401 || status == 407 {
            self.refusal = Some(message.clone());
        }
        if matches!(method, Method::Invite | Method::Subscribe) && (200..300).contains(&status) {
            self.dialog = caller_dialog(&message).or_else(|| self.dialog.take());
        }
        if method == Method::Invite && status >= 300 { self.ack_of_refusal(&message) } else { None }
    }

    fn on_request(&mut self, message: Message) {
        let method = text(message.method_bytes());
        let is_repeated = self.received.iter().any(|old| {
            old.method == method
                && old.message.header(HeaderKind::Via).map(|via| old.message.value(via).to_vec())
                    == message.header(HeaderKind::Via).map(|via| message.value(via).to_vec())
        });
        if is_repeated || self.received.len() >= RECEIVED_MAX {
            return;
        }
        let same_call = self.received.iter().find(|old| old.message.call_id().ok() == message.call_id().ok());
        let tag = match same_call {
            Some(old) => old.tag.clone(),
            None => format!("{}-uas-{}", self.user(), self.received.len() + 1),
        };
        self.received.push(Received { message, method, tag, is_answered: false });
    }

    fn ack_of_refusal(&self, reply: &Message) -> Option<Bytes> {
        let invite = self.invite.as_ref()?;
        let cseq = value(&invite.headers, "CSeq");
        if reply.value_of(HeaderKind::CSeq).map(text).as_deref() != Some(cseq) {
            return None;
        }
        let number = cseq.split(' ').next().unwrap_or("1");
        let headers = vec![
            ("Via".to_owned(), value(&invite.headers, "Via").to_owned()),
            ("Max-Forwards".to_owned(), "70".to_owned()),
            ("From".to_owned(), value(&invite.headers, "From").to_owned()),
            ("To".to_owned(), text(reply.value_of(HeaderKind::To)?)),
            ("Call-ID".to_owned(), value(&invite.headers, "Call-ID").to_owned()),
            ("CSeq".to_owned(), format!("{number} ACK")),
        ];
        Some(Sent { method: "ACK".to_owned(), uri: invite.uri.clone(), headers, body: String::new() }.bytes())
    }
}

fn routes(message: &Message) -> Vec<String> {
    message.record_routes().filter_map(Result::ok).map(|route| format!("<{}>", text(route.uri))).collect()
}

fn contact_of(message: &Message) -> Option<String> {
    message.name_addrs(HeaderKind::Contact).find_map(Result::ok).map(|contact| text(contact.uri))
}

fn caller_dialog(reply: &Message) -> Option<Dialog> {
    let mut routes = routes(reply);
    routes.reverse();
    let target = contact_of(reply)?;
    Some(Dialog {
        call_id: text(reply.call_id().ok()?),
        local: text(reply.value_of(HeaderKind::From)?),
        remote: text(reply.value_of(HeaderKind::To)?),
        target,
        routes,
        cseq: reply.cseq().ok()?.0,
    })
}

fn callee_dialog(received: &Received) -> Option<Dialog> {
    let request = &received.message;
    let to = text(request.value_of(HeaderKind::To)?);
    let local = if request.to().ok()?.tag().is_some() { to } else { format!("{to};tag={}", received.tag) };
    Some(Dialog {
        call_id: text(request.call_id().ok()?),
        local,
        remote: text(request.value_of(HeaderKind::From)?),
        target: contact_of(request)?,
        routes: routes(request),
        cseq: 1000,
    })
}
