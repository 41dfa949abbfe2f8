//! Requests within a dialog made here: BYE, pings, PRACK and what a script sends. When they are sent is decided elsewhere.

use std::sync::Arc;

use tandem_dialog::{Dialog, DialogId, Direction, Party, SequentialRequest};
use tandem_module::NodeRef;
use tandem_sip::{CommaList, Method};

use super::Dialogs;
use super::follow::Current;
use crate::tm::uac::RequestSpec;

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

/// Whether a request may be made within a dialog by this name: a method that is a token and begins no dialog or transaction
/// of its own kind.
pub(super) fn is_sequential_method(method: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    !method.is_empty()
        && method.iter().all(is_token)
        && !matches!(Method::from_bytes(method), Method::Ack | Method::Cancel)
}
