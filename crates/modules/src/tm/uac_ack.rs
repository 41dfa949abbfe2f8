//! The ACK to a 2xx of an INVITE of ours (RFC 3261 §13.2.2.4): made once for each party that answers, sent again with each
//! repetition of its 2xx. A party that answers when the outcome has been told already is hung up on.

use bytes::Bytes;
use smallvec::SmallVec;
use tandem_module::edits::{Edits, Target};
use tandem_module::node::NodeRef;
use tandem_module::outgoing::{self, NextHop};
use tandem_module::transport::{Destination, Proto, SocketId, Source};
use tandem_sip::{HeaderKind, Message, NameAddr, RequestBuilder};

use super::clock;
use super::uac::{RequestSpec, send_request};

/// Parties of one INVITE that are acknowledged; a 2xx of one more is passed over.
const PARTIES_MAX: usize = 8;

/// What the ACK needs beside the INVITE as it was sent.
#[derive(Clone, Debug)]
pub(super) struct InviteParts {
    /// Request URI and route set as the sender gave them: a strict route in the INVITE has put them elsewhere.
    pub(super) uri: Vec<u8>,
    pub(super) routes: Vec<Vec<u8>>,
    /// Listener to send from, when the sender has chosen one.
    pub(super) socket: Option<SocketId>,
}

/// Parties that have answered.
#[derive(Default)]
pub(super) struct Acks(SmallVec<[Party; 1]>);

struct Party {
    tag: Vec<u8>,
    /// `None` while the name of its next hop is looked up.
    ack: Option<(Destination, Bytes)>,
}

/// What is to be done about a 2xx.
pub(super) enum Answered {
    /// Its ACK is sent (again).
    Known(Destination, Bytes),
    /// It has none yet.
    New,
    /// Its ACK is being made, or there are too many parties.
    PassedOver,
}

impl Acks {
    /// A 2xx of the party with that tag came.
    pub(super) fn on_answer(&mut self, tag: &[u8]) -> Answered {
        match self.0.iter().find(|party| party.tag == tag) {
            Some(Party { ack: Some((to, bytes)), .. }) => Answered::Known(*to, bytes.clone()),
            Some(_) => Answered::PassedOver,
            None if self.0.len() >= PARTIES_MAX => Answered::PassedOver,
            None => {
                self.0.push(Party { tag: tag.to_vec(), ack: None });
                Answered::New
            }
        }
    }

    /// The ACK of a party is ready; `None` lets its next 2xx begin anew.
    pub(super) fn set(&mut self, tag: &[u8], ack: Option<(Destination, Bytes)>) {
        match ack {
            Some(ack) => {
                if let Some(party) = self.0.iter_mut().find(|party| party.tag == tag) {
                    party.ack = Some(ack);
                }
            }
            None => self.0.retain(|party| party.tag != tag),
        }
    }
}

/// The pieces of a request that goes the way of an answered INVITE.
pub(super) struct Confirmed {
    uri: Vec<u8>,
    routes: Vec<Vec<u8>>,
    from: Vec<u8>,
    to: Vec<u8>,
    call_id: Vec<u8>,
    cseq: u32,
    /// Credentials of the INVITE (RFC 3261 §22.1).
    credentials: Vec<u8>,
    /// Whether the INVITE began a dialog.
    is_new: bool,
    socket: Option<SocketId>,
}

impl Confirmed {
    /// `invite` as it was sent; `None` when a needed header is missing.
    pub(super) fn of(invite: &Message, parts: &InviteParts, reply: &Message) -> Option<Confirmed> {
        let is_new = invite.to().ok()?.tag().is_none_or(<[u8]>::is_empty);
        let mut routes = parts.routes.clone();
        if is_new {
            routes = reply.values_of(HeaderKind::RecordRoute).map(|value| value.bytes.to_vec()).collect();
            routes.reverse();
        }
        let contact = reply.name_addrs(HeaderKind::Contact).next().and_then(Result::ok).map(|contact| contact.uri);
        let mut credentials = Vec::new();
        for kind in [HeaderKind::Authorization, HeaderKind::ProxyAuthorization] {
            for entry in invite.headers_of(kind) {
                credentials.extend_from_slice(invite.bytes(entry.whole));
            }
        }
        Some(Confirmed {
            uri: contact.map_or_else(|| parts.uri.clone(), <[u8]>::to_vec),
            routes,
            from: invite.value_of(HeaderKind::From)?.to_vec(),
            to: reply.value_of(HeaderKind::To)?.to_vec(),
            call_id: invite.call_id().ok()?.to_vec(),
            cseq: invite.cseq().ok()?.0,
            credentials,
            is_new,
            socket: parts.socket,
        })
    }

    fn ack(&self) -> Option<Message> {
        let routes: Vec<&[u8]> = self.routes.iter().map(Vec::as_slice).collect();
        let ack = RequestBuilder {
            method: b"ACK",
            uri: &self.uri,
            from: &self.from,
            to: &self.to,
            call_id: &self.call_id,
            cseq: self.cseq,
            routes: &routes,
            headers: if self.credentials.is_empty() { &[] } else { &[&self.credentials] },
            ..RequestBuilder::default()
        };
        Message::parse(ack.build().into()).ok()
    }

    /// Finds the way of the ACK and gives it written to `ready`, now or after a lookup; `None` when it cannot be sent.
    /// `sent_from`: the listener the INVITE was sent from.
    pub(super) fn make(
        &self,
        node: NodeRef,
        sent_from: SocketId,
        ready: impl FnOnce(Option<(Destination, Bytes)>) + Send + 'static,
    ) {
        let first = self.routes.first().and_then(|route| NameAddr::parse(route).ok());
        let hop = first.map_or(self.uri.as_slice(), |route| route.uri);
        let (Some(ack), forced) = (self.ack(), self.socket) else { return ready(None) };
        match outgoing::next_hop(node, hop, forced) {
            Ok(NextHop::Known(addresses)) => ready(write(node, &ack, forced, sent_from, &addresses)),
            Ok(NextHop::Lookup(query)) => {
                let (Some(workers), Some(resolver)) = (node.workers(), node.resolver().cloned()) else {
                    return ready(None);
                };
                workers.spawn(Box::pin(async move {
                    let addresses = resolver.lookup(query).await;
                    ready(write(node, &ack, forced, sent_from, &addresses));
                }));
            }
            Err(error) => {
                tracing::warn!("tm: ACK was not sent: {error}");
                ready(None);
            }
        }
    }

    /// Ends the call that nobody waits for any more. Within a dialog that is its owner's business.
    pub(super) fn hang_up(self, node: NodeRef) {
        if !self.is_new {
            return;
        }
        let bye = RequestSpec {
            method: b"BYE".to_vec(),
            uri: self.uri,
            from: self.from,
            to: self.to,
            call_id: self.call_id,
            cseq: self.cseq.saturating_add(1),
            routes: self.routes,
            headers: self.credentials,
            socket: self.socket,
            ..RequestSpec::default()
        };
        if let Err(error) = send_request(node, bye, None) {
            tracing::warn!("tm: BYE to a party that answered too late was not sent: {error}");
        }
    }
}

fn write(
    node: NodeRef,
    ack: &Message,
    forced: Option<SocketId>,
    sent_from: SocketId,
    addresses: &[(Proto, std::net::SocketAddr)],
) -> Option<(Destination, Bytes)> {
    let nobody = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let proto = addresses.first()?.0;
    let mut source = Source { src: nobody, dst: nobody, proto, socket: sent_from, conn: None, at: clock::now() };
    let to = addresses.iter().find_map(|address| outgoing::destination(node, &source, forced, *address).ok())?;
    source.socket = to.socket;
    let branch = format!("z9hG4bK{:032x}", rand::random::<u128>());
    let mut out = Vec::with_capacity(ack.buffer().len() + 256);
    outgoing::write_branch(node, ack, &source, &Edits::default(), &Target::default(), &to, branch.as_bytes(), &mut out);
    Some((to, out.into()))
}
