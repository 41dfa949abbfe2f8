//! Replies made here: To tag, destination, stateless sending. Stateful ones go through the transaction.

use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;
use tandem_sip::{HeaderKind, Message, Method, ParseError, ReplyOut, Rport, ViaFix, build_reply, write_reply_upstream};

use crate::context::Context;
use crate::edits::Edits;
use crate::node::NodeRef;
use crate::run;
use crate::transaction::StoredRequest;
use crate::transport::{Destination, Source};

/// Bytes of a To tag made here.
pub const TO_TAG_BYTES: usize = 24;

/// The To tag for local replies to `message`: the same for all messages of one call and process, so that the ACK to a
/// stateless reply is recognised without keeping anything. Keyed, so that it cannot be guessed.
pub fn to_tag(message: &Message) -> [u8; TO_TAG_BYTES] {
    static KEY: OnceLock<(std::hash::RandomState, std::hash::RandomState)> = OnceLock::new();
    let keys = KEY.get_or_init(|| (std::hash::RandomState::new(), std::hash::RandomState::new()));
    let call_id = message.call_id().unwrap_or_default();
    let from_tag = message.from().ok().and_then(|from| from.tag()).unwrap_or_default();
    let hash = |key: &std::hash::RandomState| {
        let mut hasher = key.build_hasher();
        hasher.write(call_id);
        hasher.write_u8(0);
        hasher.write(from_tag);
        hasher.finish()
    };
    let (left, right) = (hash(&keys.0), hash(&keys.1));
    let mut tag = [0; TO_TAG_BYTES];
    let number = (u128::from(left) << 64) | u128::from(right);
    for (at, slot) in tag.iter_mut().enumerate() {
        *slot = b"0123456789abcdefghijklmnopqrstuv"[(number >> (at * 5)) as usize & 31];
    }
    tag
}

/// Whether `message` is an ACK to a reply that carried [`to_tag`] (OpenSIPS: sl, sl_filter_ACK()).
pub fn is_local_ack(message: &Message) -> bool {
    message.method() == Method::Ack
        && message
            .to()
            .ok()
            .and_then(|to| to.tag())
            .is_some_and(|tag| tag.len() == TO_TAG_BYTES && tag == to_tag(message))
}

/// Takes an ACK to a stateless reply: nobody else wants it. False for any other message.
pub fn absorbs_local_ack(context: &Context) -> bool {
    let is_local = is_local_ack(&context.message);
    if is_local && context.node.has_module("sl") {
        context.node.stats.stat("sl", "received_ACKs").inc();
    }
    is_local
}

/// What has to be written into the topmost Via of a received request; `None` when nothing.
pub fn via_fix(message: &Message, source: &Source, force_rport: bool) -> Option<ViaFix> {
    let via = message.top_via().ok()?;
    let fix = ViaFix::for_source(&via, source.src.ip(), source.src.port(), force_rport);
    (!fix.is_empty()).then_some(fix)
}

/// Where replies to a request go (RFC 3261 §18.2.2, RFC 3581 §4): the connection it came on; else `maddr`, else the source
/// address, with the source port when `rport` is there or forced, else the port of the Via.
pub fn reply_destination(message: &Message, source: &Source, force_rport: bool) -> Destination {
    let mut to = Destination { proto: source.proto, addr: source.src, socket: source.socket, conn: source.conn };
    if source.proto.is_reliable() {
        return to;
    }
    let Ok(via) = message.top_via() else { return to };
    if let Some(maddr) = via.params.value(b"maddr").and_then(parse_ip) {
        to.addr.set_ip(maddr);
    }
    if !force_rport && via.rport.is_none() {
        to.addr.set_port(via.port.unwrap_or_else(|| source.proto.default_port()));
    }
    to
}

/// Where a reply goes that is forwarded by its next Via, in a message that came from elsewhere (stateless forwarding).
pub fn via_destination(via: &tandem_sip::Via<'_>) -> Option<(crate::transport::Proto, SocketAddr)> {
    let proto = crate::transport::Proto::from_name(via.transport_text)?;
    let ip = via.received.and_then(parse_ip).or_else(|| parse_ip(via.host))?;
    let filled = match via.rport {
        Some(Rport::Port(port)) => Some(port),
        _ => None,
    };
    let port = filled.or(via.port).unwrap_or_else(|| proto.default_port());
    Some((proto, SocketAddr::new(ip, port)))
}

fn parse_ip(host: &[u8]) -> Option<IpAddr> {
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    std::str::from_utf8(host).ok()?.parse().ok()
}

/// Writes a local reply to the request of `context` with the reply headers its script added. `to_tag` is used when the
/// request has none; pass `None` for 100. `body` is its type (empty when a header added by the script says it) and text.
///
/// # Errors
/// When the request has no usable Via.
pub fn write_reply(
    context: &Context,
    code: u16,
    reason: &[u8],
    to_tag: Option<&[u8]>,
    body: Option<(&[u8], &[u8])>,
    out: &mut Vec<u8>,
) -> Result<(), ParseError> {
    let request =
        Parts { node: context.node, message: &context.message, source: &context.source, edits: &context.edits };
    request.write(code, reason, to_tag, body, out)
}

/// The same for the stored request of a transaction.
///
/// # Errors
/// When the request has no usable Via.
pub fn write_reply_to(
    node: NodeRef,
    request: &StoredRequest,
    code: u16,
    reason: &[u8],
    to_tag: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), ParseError> {
    let request = Parts { node, message: &request.message, source: &request.source, edits: &request.edits };
    request.write(code, reason, to_tag, None, out)
}

struct Parts<'a> {
    node: NodeRef,
    message: &'a Message,
    source: &'a Source,
    edits: &'a Edits,
}

impl Parts<'_> {
    fn write(
        &self,
        code: u16,
        reason: &[u8],
        to_tag: Option<&[u8]>,
        body: Option<(&[u8], &[u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), ParseError> {
        let lumps = &self.edits.lumps;
        let has_server = lumps
            .reply_headers()
            .iter()
            .any(|line| line.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"server:")));
        let server = self.node.settings.server_header.as_deref().filter(|_| !has_server).map(str::as_bytes);
        let own_body = self.edits.reply_body.as_ref().filter(|_| code > 100).map(|body| (&b""[..], body.as_bytes()));
        let body = body.or(own_body);
        let reply = ReplyOut {
            status: code,
            reason,
            to_tag,
            headers: server.as_slice(),
            lumps: Some(lumps),
            content_type: body.map(|(kind, _)| kind).filter(|kind| !kind.is_empty()),
            body: body.map(|(_, body)| body).unwrap_or_default(),
            via_fix: via_fix(self.message, self.source, self.edits.force_rport).unwrap_or_default(),
        };
        build_reply(self.message, &reply, out)
    }
}

/// Forwards a reply by its next Via after the global reply route, keeping no state (RFC 3261 §16.7 without transactions).
pub fn forward_stateless(mut context: Box<Context>) {
    context.kind = RouteKind::OnReply;
    let code = context.message.status().unwrap_or_default();
    context.reply_code = code;
    let Some(route) = context.program().global_onreply() else { return forward(context) };
    let mut options = StartOptions::new(RouteKind::OnReply);
    options.can_park = false;
    let after = move |context: Box<Context>, end: run::End| {
        if end.is_dropped && code < 200 {
            context.node.core_stats.drop_replies.inc();
            context.recycle();
        } else {
            forward(context);
        }
    };
    run::start(context, route, options, Box::new(after));
}

fn forward(context: Box<Context>) {
    let stats = &context.node.core_stats;
    let mut is_sent = false;
    if let Some(to) = next_via(&context) {
        let mut out = Vec::with_capacity(context.message.buffer().len());
        write_reply_upstream(&context.message, &context.edits.lumps, true, to.proto.is_reliable(), &mut out);
        match context.node.transport().map(|transport| transport.send(&to, &out)) {
            Some(Err(error)) => tracing::debug!(%error, "a reply could not be forwarded"),
            sent => is_sent = sent.is_some(),
        }
    }
    if is_sent {
        stats.fwd_replies.inc()
    } else {
        stats.drop_replies.inc()
    }
    context.recycle();
}

/// The hop after our own Via; `None` when the topmost one is not ours, so that nobody can bounce replies off us.
fn next_via(context: &Context) -> Option<Destination> {
    let mut vias = context.message.vias();
    let own = vias.next()?.ok()?;
    if !context.node.is_myself(own.host, own.port) {
        return None;
    }
    let via = vias.next()?.ok()?;
    let (proto, addr) = via_destination(&via)?;
    let socket = context.node.socket_towards(proto, addr, Some(context.source.socket))?;
    Some(Destination { proto, addr, socket: socket.id, conn: None })
}

/// Answers statelessly (OpenSIPS: sl, sl_send_reply()). ACK is never answered. False when it could not be sent.
pub fn reply_stateless(context: &mut Context, code: u16, reason: &[u8]) -> bool {
    if !context.message.is_request() || context.message.method() == Method::Ack {
        return false;
    }
    let tag = (code > 100 && context.message.header(HeaderKind::To).is_some()).then(|| to_tag(&context.message));
    let mut out = Vec::new();
    if write_reply(context, code, reason, tag.as_ref().map(|tag| &tag[..]), None, &mut out).is_err() {
        return false;
    }
    let to = reply_destination(&context.message, &context.source, context.edits.force_rport);
    let sent = context.node.transport().is_some_and(|transport| transport.send(&to, &out).is_ok());
    if sent && code >= 200 {
        context.is_answered = true;
    }
    sent
}
