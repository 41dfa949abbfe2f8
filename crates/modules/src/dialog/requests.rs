//! Requests within a dialog made here: BYE, pings, PRACK and what a script sends; and the ACK to an INVITE of ours. When they
//! are sent is decided elsewhere.

use std::sync::Arc;

use tandem_dialog::{Dialog, DialogId, Direction, Party, SequentialRequest};
use tandem_module::NodeRef;
use tandem_module::edits::{Edits, Target};
use tandem_module::outgoing::{self, NextHop};
use tandem_module::transport::{Proto, Source};
use tandem_sip::{CommaList, HeaderKind, Message, Method, RequestBuilder};

use super::follow::Current;
use super::{Dialogs, clock};
use crate::tm::uac::{RequestSpec, UacDone, UacError, UacReply, send_request};

/// Whom a request goes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Towards<'a> {
    /// One of the parties; of several branches of the callee the one that answered.
    Party(Party),
    /// The branch of the callee with this To tag.
    Branch(&'a [u8]),
}

impl Towards<'_> {
    fn party(self) -> Party {
        match self {
            Towards::Party(party) => party,
            Towards::Branch(_) => Party::Callee,
        }
    }
}

/// Which body a re-INVITE or UPDATE carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionBody {
    /// None.
    None,
    /// The last one received from the other party.
    Inbound,
    /// The last one sent to this party.
    Outbound,
}

/// What is not in the dialog.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    /// Header lines with line ends.
    pub(super) headers: Vec<u8>,
    pub(super) content_type: Vec<u8>,
    pub(super) body: Vec<u8>,
}

fn address(uri: &[u8], tag: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(uri.len() + tag.len() + 8);
    out.push(b'<');
    out.extend_from_slice(uri);
    out.push(b'>');
    if !tag.is_empty() {
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(tag);
    }
    out
}

/// The values of a comma-joined route set.
pub(super) fn route_values(route_set: &[u8]) -> Vec<Vec<u8>> {
    CommaList::new(route_set).map(<[u8]>::to_vec).collect()
}

fn spec_of(node: NodeRef, next: &SequentialRequest<'_>, method: &[u8], extras: Extras) -> RequestSpec {
    RequestSpec {
        method: method.to_vec(),
        uri: next.request_uri.to_vec(),
        from: address(next.from_uri, next.from_tag),
        to: address(next.to_uri, next.to_tag),
        call_id: next.call_id.to_vec(),
        cseq: next.cseq,
        routes: route_values(next.route_set),
        headers: extras.headers,
        content_type: extras.content_type,
        body: extras.body,
        socket: node.socket_named(next.socket).map(|socket| socket.id),
        ..RequestSpec::default()
    }
}

/// A request of that method within the dialog; `None` when there is no such dialog, or the party is not known yet. Its CSeq
/// is counted.
pub(super) fn spec(
    node: NodeRef,
    dialogs: &Dialogs,
    id: DialogId,
    to: Towards<'_>,
    method: &[u8],
    extras: Extras,
) -> Option<RequestSpec> {
    let work = |dialog: &mut Dialog| {
        // What a UA has to be able to answer to carries the contact of the peer, who would have sent it.
        let contact = match (method, to.party()) {
            (b"BYE" | b"PRACK", _) => None,
            (_, Party::Caller) => dialog.callee().map(|leg| address(&leg.contact, b"")),
            (_, Party::Callee) => dialog.caller().map(|leg| address(&leg.contact, b"")),
        };
        let next = match to {
            Towards::Party(party) => dialog.sequential(party)?,
            Towards::Branch(tag) => dialog.sequential_to_branch(tag)?,
        };
        if next.request_uri.is_empty() {
            return None;
        }
        let mut spec = spec_of(node, &next, method, extras);
        spec.contact = contact.filter(|contact| contact.len() > 2);
        Some(spec)
    };
    let mut spec = dialogs.table.with_dialog(id, work)??;
    let direction = match to.party() {
        Party::Caller => Direction::Upstream,
        Party::Callee => Direction::Downstream,
    };
    spec.dialog = Some(Arc::new(Current { id, direction: Some(direction), validation: 1, received_cseq: None }));
    Some(spec)
}

/// A session description for a party, with its type.
pub(super) fn session_body(dialog: &mut Dialog, to: Party, which: SessionBody) -> Option<Vec<u8>> {
    let peer = match to {
        Party::Caller => Party::Callee,
        Party::Callee => Party::Caller,
    };
    let body = match which {
        SessionBody::None => return None,
        SessionBody::Inbound => dialog.leg_mut(peer)?.in_sdp.to_vec(),
        SessionBody::Outbound => dialog.leg_mut(to)?.out_sdp.to_vec(),
    };
    (!body.is_empty()).then_some(body)
}

/// Sends a request within the dialog. The 2xx of an INVITE is acknowledged here; `done` is told every outcome.
///
/// # Errors
/// When it is refused at once.
pub(super) fn send(node: NodeRef, spec: RequestSpec, done: Option<UacDone>) -> Result<(), UacError> {
    if spec.method != b"INVITE" {
        return send_request(node, spec, done).map(|_| ());
    }
    let invite = spec.clone();
    let with_ack: UacDone = Box::new(move |outcome: &UacReply<'_>| {
        if let (200..=299, Some(reply)) = (outcome.code, outcome.reply) {
            acknowledge(node, &invite, reply);
        }
        if let Some(done) = done {
            done(outcome);
        }
    });
    send_request(node, spec, Some(with_ack)).map(|_| ())
}

/// Sends the ACK to a 2xx of an INVITE of ours (RFC 3261 §13.2.2.4). It is not repeated.
fn acknowledge(node: NodeRef, invite: &RequestSpec, reply: &Message) {
    let contact = reply.name_addrs(HeaderKind::Contact).next().and_then(Result::ok).map(|contact| contact.uri);
    let uri = contact.unwrap_or(&invite.uri);
    let routes: Vec<&[u8]> = invite.routes.iter().map(Vec::as_slice).collect();
    let ack = RequestBuilder {
        method: b"ACK",
        uri,
        from: &invite.from,
        to: &invite.to,
        call_id: &invite.call_id,
        cseq: invite.cseq,
        routes: &routes,
        ..RequestBuilder::default()
    };
    let Ok(ack) = Message::parse(ack.build().into()) else { return };
    let first = invite.routes.first().and_then(|route| tandem_sip::NameAddr::parse(route).ok());
    let hop = first.map_or_else(|| uri.to_vec(), |route| route.uri.to_vec());
    let forced = invite.socket;
    match outgoing::next_hop(node, &hop, forced) {
        Ok(NextHop::Known(addresses)) => send_ack(node, &ack, forced, &addresses),
        Ok(NextHop::Lookup(query)) => {
            let (Some(workers), Some(resolver)) = (node.workers(), node.resolver().cloned()) else { return };
            workers.spawn(Box::pin(async move {
                let addresses = resolver.lookup(query).await;
                send_ack(node, &ack, forced, &addresses);
            }));
        }
        Err(error) => tracing::warn!("dialog: ACK was not sent: {error}"),
    }
}

fn send_ack(
    node: NodeRef,
    ack: &Message,
    forced: Option<tandem_module::transport::SocketId>,
    addresses: &[(Proto, std::net::SocketAddr)],
) {
    let Some(first) = addresses.first() else { return };
    let nobody = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let preferred = forced.unwrap_or(tandem_module::transport::SocketId(0));
    let at = clock::now().monotonic;
    let mut source = Source { src: nobody, dst: nobody, proto: first.0, socket: preferred, conn: None, at };
    let to = addresses.iter().find_map(|address| outgoing::destination(node, &source, forced, *address).ok());
    let (Some(to), Some(transport)) = (to, node.transport()) else { return };
    source.socket = to.socket;
    let branch = format!("z9hG4bK{:032x}", rand::random::<u128>());
    let mut out = Vec::with_capacity(ack.buffer().len() + 256);
    outgoing::write_branch(node, ack, &source, &Edits::default(), &Target::default(), &to, branch.as_bytes(), &mut out);
    if let Err(error) = transport.send(&to, &out) {
        tracing::warn!("dialog: ACK was not sent: {error}");
    }
}

/// Whether a request may be made within a dialog by this name: a method that is a token and begins no dialog or transaction
/// of its own kind.
pub(super) fn is_sequential_method(method: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    !method.is_empty()
        && method.iter().all(is_token)
        && !matches!(Method::from_bytes(method), Method::Ack | Method::Cancel)
}
