//! Messages of a call: dialogs are created for INVITEs and found for the requests within, and told what passes.

use std::sync::Arc;

use bytes::Bytes;
use tandem_dialog::{
    Dialog, DialogId, Direction, InviteReply, MatchMode, MatchRequest, Method as DialogMethod, NewDialog, Party,
    WithinRequest,
};
use tandem_module::NodeRef;
use tandem_module::context::Context;
use tandem_module::edits::Edits;
use tandem_module::transaction::{TmEvent, TmMoment, Transaction};
use tandem_script::vm::LogLevel;
use tandem_sip::{HeaderKind, Message, Method, NameAddr, Params, Uri};

use super::pings::{PingKind, Pings, WantedIntervals};
use super::{Dialogs, clock, effects, prack};
use crate::sipmsgops::{received_sdp, sent_sdp};

/// Which dialog a run works in; kept in [`Context::dialog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// The dialog.
    pub id: DialogId,
    /// Way of the request; `None` for the INVITE that began the dialog.
    pub direction: Option<Direction>,
    /// What `validate_dialog()` says; 1 when the request is fine.
    pub(super) validation: i32,
    /// The CSeq number of the request as it came, when it goes on with another one.
    pub(super) received_cseq: Option<u32>,
}

impl Current {
    /// A run in a dialog without a message of it.
    pub(super) fn of(id: DialogId) -> Current {
        Current { id, direction: None, validation: 1, received_cseq: None }
    }
}

/// The dialog of a run.
pub fn current(context: &Context) -> Option<Arc<Current>> {
    context.dialog.clone()?.downcast().ok()
}

/// `$DLG_timeout` written before there is a dialog, in seconds.
pub(super) struct WantedLifetime(pub(super) u32);

/// Forgets a dialog whose INVITE never became a transaction.
struct Guard {
    node: NodeRef,
    dialogs: &'static Dialogs,
    id: DialogId,
    is_adopted: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_adopted {
            self.dialogs.pings.forget(self.id);
            self.dialogs.shared.count(self.node, self.dialogs, &self.dialogs.table.memberships(self.id), -1);
            self.dialogs.table.remove(self.id);
        }
    }
}

/// Follows the call of the INVITE in `context` (OpenSIPS: dialog, create_dialog()). True also when that is done already;
/// flags are added then.
pub fn create(context: &mut Context, flags: u32) -> bool {
    let node = context.node;
    let Some(dialogs) = node.state::<Dialogs>() else { return false };
    if let Some(current) = current(context) {
        dialogs.table.with_dialog(current.id, |dialog| dialog.flags |= flags);
        return true;
    }
    if !context.is_request() || context.message.method() != Method::Invite {
        return false;
    }
    clock::note(context.source.at);
    let lifetime_secs = context.take_slot::<WantedLifetime>().map(|wanted| wanted.0);
    let route_set = joined(&context.message, HeaderKind::RecordRoute, false, usize::MAX);
    let created = {
        let message = &context.message;
        let (Ok(from), Ok(to), Ok(call_id), Ok((cseq, ..))) =
            (message.from(), message.to(), message.call_id(), message.cseq())
        else {
            return false;
        };
        if to.tag().is_some_and(|tag| !tag.is_empty()) {
            return false;
        }
        let new = NewDialog {
            call_id,
            from_tag: from.tag().unwrap_or_default(),
            from_uri: from.uri,
            to_uri: to.uri,
            cseq,
            contact: contact(message),
            route_set: &route_set,
            socket: node.socket(context.source.socket).map_or(b"", |socket| socket.text.as_bytes()),
            lifetime_secs,
            flags,
        };
        dialogs.table.create(&new, clock::now().moment())
    };
    let id = match created {
        Ok(id) => id,
        Err(error) => {
            context.log(LogLevel::Error, &format!("create_dialog(): {error}"));
            return false;
        }
    };
    crate::rr::add_param(context, format!(";{}={id}", dialogs.config.rr_param).as_bytes());
    context.dialog = Some(Arc::new(Current::of(id)));
    let wanted = context.take_slot::<WantedIntervals>().unwrap_or_default();
    for kind in PingKind::ALL {
        if let Some(secs) = wanted.0.of(kind).filter(|_| Pings::is_wanted(flags, kind)) {
            dialogs.pings.set_interval(id, kind, secs);
        }
    }
    context.set_slot(Guard { node: context.node, dialogs, id, is_adopted: false });
    if context.transaction.is_some() {
        on_new_transaction(context);
    }
    true
}

/// URI of the first Contact, empty without one.
pub(super) fn contact(message: &Message) -> &[u8] {
    message.name_addrs(HeaderKind::Contact).next().and_then(Result::ok).map_or(b"", |contact| contact.uri)
}

/// Up to `count_max` values of a header, joined by commas, the other way round when `is_reversed`.
fn joined(message: &Message, kind: HeaderKind, is_reversed: bool, count_max: usize) -> Vec<u8> {
    let mut values: Vec<&[u8]> = message.values_of(kind).take(count_max).map(|value| value.bytes).collect();
    if is_reversed {
        values.reverse();
    }
    values.join(&b","[..])
}

/// A transaction was made: follow it when it belongs to a dialog.
pub(super) fn on_new_transaction(context: &mut Context) {
    let Some(current) = current(context) else { return };
    let (Some(dialogs), Some(transaction)) = (context.node.state::<Dialogs>(), context.transaction.clone()) else {
        return;
    };
    let id = current.id;
    match (current.direction, transaction.method()) {
        (None, Method::Invite) => {
            let Some(guard) = context.slot::<Guard>().filter(|guard| guard.id == id) else { return };
            if std::mem::replace(&mut guard.is_adopted, true) {
                return;
            }
            dialogs.pending(id).lock().insert(id, Arc::downgrade(&transaction));
            transaction.add_hook(Arc::new(move |event| on_invite(dialogs, id, event)));
        }
        (Some(direction), method) => {
            let refreshes = matches!(method, Method::Invite | Method::Update);
            let received_cseq = current.received_cseq;
            if refreshes || received_cseq.is_some() {
                transaction.add_hook(Arc::new(move |event| on_within(dialogs, id, direction, received_cseq, event)));
            }
        }
        _ => {}
    }
}

/// What happens to a request within a dialog: the number its sender knows is put back into the replies, and a 2xx to one that
/// changes the session is taken in.
fn on_within(
    dialogs: &'static Dialogs,
    id: DialogId,
    direction: Direction,
    received_cseq: Option<u32>,
    event: &mut TmEvent<'_>,
) {
    let refreshes = matches!(event.transaction.method(), Method::Invite | Method::Update);
    if event.moment == TmMoment::RequestOut && refreshes {
        if let Some(session) = Session::of(&event.request.message, event.edits.as_deref()) {
            dialogs.table.with_dialog(id, |dialog| session.note(dialog, direction));
        }
        return;
    }
    let (TmMoment::ReplyOut, Some(reply)) = (event.moment, event.reply) else { return };
    if refreshes && (200..300).contains(&event.code) {
        let contact = contact(reply);
        let session = Session::of(reply, event.edits.as_deref());
        dialogs.table.with_dialog(id, |dialog| {
            dialog.on_target_refresh_reply(direction, contact);
            if let Some(session) = session {
                session.note(dialog, reverse(direction));
            }
        });
        dialogs.store.touch(event.node, dialogs, id);
    }
    if let (Some(number), Some(edits)) = (received_cseq, event.edits.as_deref_mut()) {
        set_cseq(reply, number, edits);
    }
}

fn reverse(direction: Direction) -> Direction {
    match direction {
        Direction::Downstream => Direction::Upstream,
        Direction::Upstream => Direction::Downstream,
    }
}

/// Puts another number into the CSeq of a message.
fn set_cseq(message: &Message, number: u32, edits: &mut Edits) {
    let Some(value) = message.value_of(HeaderKind::CSeq) else { return };
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if let Some(span) = value.get(..digits).and_then(|digits| message.span_of(digits)) {
        edits.lumps.replace(span, number.to_string().into_bytes());
    }
}

/// The session description that a message carries, as received and as passed on.
struct Session {
    received: Bytes,
    sent: Bytes,
}

impl Session {
    /// `None` for a message without one; a body of another kind is none.
    fn of(message: &Message, edits: Option<&Edits>) -> Option<Session> {
        let (body, range) = received_sdp(message)?;
        let received = body.slice(range);
        let sent = match edits.map(|edits| &edits.lumps).filter(|lumps| !lumps.is_empty()) {
            Some(lumps) => sent_sdp(message, lumps)?,
            None => received.clone(),
        };
        Some(Session { received, sent })
    }

    /// Keeps what the INVITE offered, unless an UPDATE has come after it (RFC 3311).
    fn note_offer(&self, dialog: &mut Dialog) {
        for (party, said) in [(Party::Caller, &self.received), (Party::Callee, &self.sent)] {
            let Some(leg) = dialog.leg_mut(party) else { continue };
            let place = if party == Party::Caller { &mut leg.in_sdp } else { &mut leg.out_sdp };
            if place.is_empty() {
                *place = (&**said).into();
            }
        }
    }

    /// Keeps what a branch of the callee replied to the INVITE.
    fn note_reply(&self, dialog: &mut Dialog, to_tag: &[u8]) {
        let Some(leg) = dialog.branch_mut(to_tag) else { return };
        leg.in_sdp = (&*self.received).into();
        if let Some(leg) = dialog.leg_mut(Party::Caller) {
            leg.out_sdp = (&*self.sent).into();
        }
    }

    /// Keeps it with the parties of a message of that direction.
    fn note(&self, dialog: &mut Dialog, direction: Direction) {
        let (from, to) = match direction {
            Direction::Downstream => (Party::Caller, Party::Callee),
            Direction::Upstream => (Party::Callee, Party::Caller),
        };
        if let Some(leg) = dialog.leg_mut(from) {
            leg.in_sdp = (&*self.received).into();
        }
        if let Some(leg) = dialog.leg_mut(to) {
            leg.out_sdp = (&*self.sent).into();
        }
    }
}

/// What happens to the INVITE that began a dialog.
fn on_invite(dialogs: &'static Dialogs, id: DialogId, event: &mut TmEvent<'_>) {
    let events = match event.moment {
        TmMoment::ReplyOut => {
            let route_set = event.reply.map(|reply| callee_route_set(event.node, reply, &event.request.message));
            let received_tag = event.reply.and_then(|reply| reply.to().ok()).and_then(|to| to.tag());
            let socket = callee_socket(event.node, event.transaction, event.branch);
            let reply = InviteReply {
                code: event.code,
                to_tag: if event.reply.is_some() { received_tag.unwrap_or_default() } else { event.local_to_tag },
                contact: event.reply.map_or(b"", contact),
                route_set: route_set.as_deref().unwrap_or_default(),
                socket,
            };
            // What a reliable provisional reply says need not be said again by the answer (RFC 6337 §2.2).
            let says = event.reply.filter(|_| (101..=299).contains(&event.code));
            let said = says.and_then(|reply| Session::of(reply, event.edits.as_deref()));
            // The callee is known only by its answer: what it was sent is noted late.
            let answer = event.reply.filter(|_| (200..=299).contains(&event.code));
            let asked = answer.and_then(|_| Session::of(&event.request.message, Some(&event.request.edits)));
            dialogs.table.with_dialog(id, |dialog| {
                let events = dialog.on_reply(&reply, clock::now().moment());
                if let Some(session) = asked {
                    session.note_offer(dialog);
                }
                if let Some(session) = said {
                    session.note_reply(dialog, reply.to_tag);
                }
                events
            })
        }
        TmMoment::AckIn => {
            let ack = WithinRequest {
                method: DialogMethod::Ack,
                cseq: 0,
                direction: Direction::Downstream,
                destination_leg: 1,
                contact: b"",
            };
            dialogs.table.with_dialog(id, |dialog| dialog.on_request(&ack, clock::now().moment()))
        }
        TmMoment::Cancelled => {
            dialogs.table.with_dialog(id, |dialog| dialog.on_cancel());
            None
        }
        TmMoment::Deleted => {
            dialogs.pending(id).lock().remove(&id);
            dialogs.table.with_dialog(id, |dialog| dialog.on_failure(408, clock::now().moment()))
        }
        TmMoment::ReplyIn => {
            prack::on_reply(dialogs, id, event);
            None
        }
        TmMoment::RequestOut | TmMoment::Completed | TmMoment::Failure => None,
    };
    if let Some(events) = events {
        effects::apply(event.node, dialogs, id, events, &[]);
    }
}

/// Text of the listener that a branch of an INVITE was sent from, empty when it is not known.
pub(super) fn callee_socket(node: NodeRef, transaction: &Arc<dyn Transaction>, branch: Option<u8>) -> &'static [u8] {
    let socket = branch.and_then(|branch| crate::tm::branch_socket(transaction, branch));
    socket.and_then(|socket| node.socket(socket)).map_or(b"", |socket| socket.text.as_bytes())
}

/// The Record-Routes of a reply beyond this proxy, nearest first.
pub(super) fn callee_route_set(node: NodeRef, reply: &Message, request: &Message) -> Vec<u8> {
    let all = reply.values_of(HeaderKind::RecordRoute);
    let own = all.clone().position(|value| {
        let uri = NameAddr::parse(value.bytes).ok().and_then(|address| Uri::parse(address.uri).ok());
        uri.is_some_and(|uri| node.is_myself(uri.host, uri.port))
    });
    // Without a Record-Route of ours, those that were not in the request come from beyond.
    let beyond = own.unwrap_or_else(|| all.count().saturating_sub(request.values_of(HeaderKind::RecordRoute).count()));
    joined(reply, HeaderKind::RecordRoute, true, beyond)
}

/// `loose_route()` has found a Route of ours.
pub(super) fn on_route(context: &mut Context, params: &[u8]) {
    let Some(dialogs) = context.node.state::<Dialogs>() else { return };
    let did = Params::new(params).value(dialogs.config.rr_param.as_bytes()).map(<[u8]>::to_vec);
    find(context, did.as_deref(), dialogs.config.match_mode);
}

/// Finds the dialog of the request in `context` and tells it of the request; false when there is none.
pub(super) fn find(context: &mut Context, did: Option<&[u8]>, mode: MatchMode) -> bool {
    if context.dialog.is_some() {
        return true;
    }
    let Some(dialogs) = context.node.state::<Dialogs>() else { return false };
    clock::note(context.source.at);
    let found = {
        let message = &context.message;
        let (Ok(from), Ok(to), Ok(call_id), Ok((cseq, ..))) =
            (message.from(), message.to(), message.call_id(), message.cseq())
        else {
            return false;
        };
        let Some(to_tag) = to.tag().filter(|tag| !tag.is_empty()) else { return false };
        let request = MatchRequest { did, call_id, from_tag: from.tag().unwrap_or_default(), to_tag };
        let method = DialogMethod::from_name(message.method_bytes());
        dialogs.table.match_request(&request, mode, |dialog, found| {
            let within = WithinRequest {
                method,
                cseq,
                direction: found.direction,
                destination_leg: found.destination_leg,
                contact: contact(message),
            };
            let uri = context.request_uri().unwrap_or_default();
            // Checked now: afterwards the dialog knows this request.
            let validation = dialog.validate(&within, uri, None).map_or_else(|error| error.return_code(), |()| 1);
            let events = dialog.on_request(&within, clock::now().moment());
            let renumbered = dialog.renumber(&within);
            let current = Current {
                id: found.id,
                direction: Some(found.direction),
                validation,
                received_cseq: renumbered.map(|_| cseq),
            };
            (current, events, renumbered)
        })
    };
    let Some((current, events, renumbered)) = found else { return false };
    if let Some(number) = renumbered {
        set_cseq(&context.message, number, &mut context.edits);
    }
    context.dialog = Some(Arc::new(current));
    dialogs.store.touch(context.node, dialogs, current.id);
    effects::apply(context.node, dialogs, current.id, events, &[]);
    if context.transaction.is_some() {
        on_new_transaction(context);
    }
    true
}
