//! Messages of a call: dialogs are created for INVITEs and found for the requests within, and told what passes.

use std::sync::Arc;

use tandem_dialog::{
    DialogId, Direction, InviteReply, MatchMode, MatchRequest, Method as DialogMethod, NewDialog, WithinRequest,
};
use tandem_module::NodeRef;
use tandem_module::context::Context;
use tandem_module::transaction::{TmEvent, TmMoment};
use tandem_script::vm::LogLevel;
use tandem_sip::{CommaList, HeaderKind, Message, Method, NameAddr, Params, Uri};

use super::{Dialogs, clock, effects};

/// Which dialog a run works in; kept in [`Context::dialog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// The dialog.
    pub id: DialogId,
    /// Way of the request; `None` for the INVITE that began the dialog.
    pub direction: Option<Direction>,
    /// What `validate_dialog()` says; 1 when the request is fine.
    pub(super) validation: i32,
}

/// The dialog of a run.
pub fn current(context: &Context) -> Option<Arc<Current>> {
    context.dialog.clone()?.downcast().ok()
}

/// `$DLG_timeout` written before there is a dialog, in seconds.
pub(super) struct WantedLifetime(pub(super) u32);

/// Forgets a dialog whose INVITE never became a transaction.
struct Guard {
    dialogs: &'static Dialogs,
    id: DialogId,
    is_adopted: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_adopted {
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
    context.dialog = Some(Arc::new(Current { id, direction: None, validation: 1 }));
    context.set_slot(Guard { dialogs, id, is_adopted: false });
    if context.transaction.is_some() {
        on_new_transaction(context);
    }
    true
}

/// URI of the first Contact, empty without one.
fn contact(message: &Message) -> &[u8] {
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
        (Some(direction), Method::Invite | Method::Update) => {
            transaction.add_hook(Arc::new(move |event| {
                let (TmMoment::ReplyOut, 200..=299, Some(reply)) = (event.moment, event.code, event.reply) else {
                    return;
                };
                let contact = contact(reply);
                dialogs.table.with_dialog(id, |dialog| dialog.on_target_refresh_reply(direction, contact));
            }));
        }
        _ => {}
    }
}

/// What happens to the INVITE that began a dialog.
fn on_invite(dialogs: &'static Dialogs, id: DialogId, event: &mut TmEvent<'_>) {
    let events = match event.moment {
        TmMoment::ReplyOut => {
            let route_set = event.reply.map(|reply| callee_route_set(event.node, reply, &event.request.message));
            let received_tag = event.reply.and_then(|reply| reply.to().ok()).and_then(|to| to.tag());
            let socket = event.request.edits.target.socket.and_then(|socket| event.node.socket(socket));
            let reply = InviteReply {
                code: event.code,
                to_tag: if event.reply.is_some() { received_tag.unwrap_or_default() } else { event.local_to_tag },
                contact: event.reply.map_or(b"", contact),
                route_set: route_set.as_deref().unwrap_or_default(),
                socket: socket.map_or(b"", |socket| socket.text.as_bytes()),
            };
            dialogs.table.with_dialog(id, |dialog| dialog.on_reply(&reply, clock::now().moment()))
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
        TmMoment::RequestOut | TmMoment::ReplyIn | TmMoment::Completed | TmMoment::Failure => None,
    };
    if let Some(events) = events {
        effects::apply(event.node, dialogs, id, events, &[]);
    }
}

/// The Record-Routes of a reply beyond this proxy, nearest first.
fn callee_route_set(node: NodeRef, reply: &Message, request: &Message) -> Vec<u8> {
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
            let current = Current { id: found.id, direction: Some(found.direction), validation };
            (current, dialog.on_request(&within, clock::now().moment()))
        })
    };
    let Some((current, events)) = found else { return false };
    context.dialog = Some(Arc::new(current));
    effects::apply(context.node, dialogs, current.id, events, &[]);
    if context.transaction.is_some() {
        on_new_transaction(context);
    }
    true
}

/// The values of a comma-joined route set.
pub(super) fn route_values(route_set: &[u8]) -> Vec<Vec<u8>> {
    CommaList::new(route_set).map(<[u8]>::to_vec).collect()
}
