//! What follows from a step of a dialog: events, listeners, BYE and CANCEL, script routes. No decision is made here.

use std::sync::Arc;

use smallvec::SmallVec;
use tandem_dialog::{Dialog, DialogEvent, DialogId, DialogState, EndReason, Events, Party, Routes};
use tandem_module::NodeRef;
use tandem_module::context::Context;
use tandem_module::event::Event;
use tandem_module::run;
use tandem_script::ast::RouteKind;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, StartOptions};

use super::clock::{self, Now};
use super::follow::Current;
use super::requests::{self, Extras, Towards};
use super::{Dialogs, STATE_CHANGED};
use crate::tm::uac::send_request;

/// What a listener is told.
pub struct DialogNotice {
    /// The node.
    pub node: NodeRef,
    /// The dialog.
    pub id: DialogId,
    /// What happened.
    pub event: DialogEvent,
    /// When.
    pub at: Now,
}

/// Called for every event of every dialog; must return quickly.
pub type DialogListener = fn(&DialogNotice);

/// What a dialog has that its events need, read under one lock.
#[derive(Default)]
struct Bound {
    flags: u32,
    routes: Routes,
}

impl Bound {
    fn of(dialog: &Dialog, events: &Events) -> Bound {
        // Names are copied only for those that are about to run.
        let name = |wanted: fn(&DialogEvent) -> bool, name: &str| {
            if events.iter().any(wanted) { Box::from(name) } else { Box::default() }
        };
        Bound {
            flags: dialog.flags,
            routes: Routes {
                on_answer: name(|event| matches!(event, DialogEvent::Answered), &dialog.routes.on_answer),
                on_timeout: name(|event| matches!(event, DialogEvent::RunTimeoutRoute), &dialog.routes.on_timeout),
                on_hangup: name(|event| matches!(event, DialogEvent::Terminated { .. }), &dialog.routes.on_hangup),
            },
        }
    }
}

/// Carries out what a step asks for; `extra_headers` go into BYEs. No lock of the table may be held.
pub(super) fn apply(node: NodeRef, dialogs: &'static Dialogs, id: DialogId, events: Events, extra_headers: &[u8]) {
    if events.is_empty() {
        return;
    }
    let at = clock::now();
    let listeners = dialogs.listeners.read().clone();
    dialogs.store.touch(node, dialogs, id);
    let bound = dialogs.table.with_dialog(id, |dialog| Bound::of(dialog, &events)).unwrap_or_default();
    for event in events {
        match event {
            DialogEvent::StateChanged { old, new } => {
                match new {
                    DialogState::Confirmed => dialogs.pings.begin(id, bound.flags),
                    DialogState::Deleted => {
                        dialogs.pings.forget(id);
                        dialogs.shared.count(node, dialogs, &dialogs.table.memberships(id), -1);
                    }
                    _ => {}
                }
                raise(node, dialogs, id, old, new);
            }
            DialogEvent::Answered => run_route(node, dialogs, id, &bound.routes.on_answer, false),
            DialogEvent::Terminated { .. } => run_route(node, dialogs, id, &bound.routes.on_hangup, false),
            DialogEvent::SendBye(party) => send_bye(node, dialogs, id, party, extra_headers),
            DialogEvent::CancelInvite => cancel(node, dialogs, id),
            DialogEvent::RunTimeoutRoute => run_route(node, dialogs, id, &bound.routes.on_timeout, true),
        }
        for listener in &listeners {
            listener(&DialogNotice { node, id, event, at });
        }
    }
}

/// Ends a call from outside; false when there is no such dialog or it is over.
pub(super) fn end(
    node: NodeRef,
    dialogs: &'static Dialogs,
    id: DialogId,
    reason: EndReason,
    extra_headers: &[u8],
) -> bool {
    let events = dialogs.table.with_dialog(id, |dialog| dialog.end(reason, clock::now().moment()));
    let Some(events) = events.filter(|events| !events.is_empty()) else { return false };
    apply(node, dialogs, id, events, extra_headers);
    true
}

fn raise(node: NodeRef, dialogs: &Dialogs, id: DialogId, old: DialogState, new: DialogState) {
    if !node.events.has_listeners(STATE_CHANGED) {
        return;
    }
    let names = dialogs.table.with_dialog(id, |dialog| {
        (Text::copy(dialog.call_id()), Text::copy(dialog.from_tag()), Text::copy(dialog.to_tag()))
    });
    let Some((call_id, from_tag, to_tag)) = names else { return };
    let (has_slot, has_ids) = dialogs.config.event_ids;
    let number = |number: u32| Value::Text(Text::from(number.to_string()));
    let mut params = SmallVec::new();
    if has_slot {
        params.extend([("hash_entry", number(id.entry)), ("hash_id", number(id.id))]);
    }
    if has_ids {
        let db_id = Value::Text(Text::from(id.db_id().to_string()));
        params.extend([("id", Value::Text(Text::from(id.to_string()))), ("db_id", db_id)]);
    }
    params.extend([
        ("callid", Value::Text(call_id)),
        ("from_tag", Value::Text(from_tag)),
        ("to_tag", Value::Text(to_tag)),
        ("old_state", Value::Int(old.number().into())),
        ("new_state", Value::Int(new.number().into())),
    ]);
    node.events.raise(node, Event { name: STATE_CHANGED, params }, None);
}

/// Queues a script route on a message of its own that works in the dialog.
fn run_route(node: NodeRef, dialogs: &'static Dialogs, id: DialogId, name: &str, is_timeout: bool) {
    if name.is_empty() {
        return;
    }
    let mut context = Context::dummy(node, RouteKind::Request);
    let Some(route) = context.program().route(RouteKind::Request, name) else {
        context.recycle();
        tracing::error!("dialog: there is no route '{name}'");
        return if is_timeout {
            conclude(node, dialogs, id)
        };
    };
    context.dialog = Some(Arc::new(Current::of(id)));
    let after = Box::new(move |context: Box<Context>, _| {
        context.recycle();
        if is_timeout {
            conclude(node, dialogs, id);
        }
    });
    run::queue(context, route, StartOptions::new(RouteKind::Request), after);
}

fn conclude(node: NodeRef, dialogs: &'static Dialogs, id: DialogId) {
    let events = dialogs.table.with_dialog(id, |dialog| dialog.conclude_timeout(clock::now().moment()));
    apply(node, dialogs, id, events.unwrap_or_default(), &[]);
}

fn send_bye(node: NodeRef, dialogs: &Dialogs, id: DialogId, to: Party, extra_headers: &[u8]) {
    let headers = [&dialogs.config.extra_headers, extra_headers].concat();
    let extras = Extras { headers, ..Extras::default() };
    let Some(spec) = requests::spec(node, dialogs, id, Towards::Party(to), b"BYE", extras) else { return };
    if let Err(error) = send_request(node, spec, None) {
        let party = if to == Party::Caller { "caller" } else { "callee" };
        tracing::warn!("dialog {id}: BYE to the {party} was not sent: {error}");
    }
}

/// Cancels all branches of the INVITE that began the dialog; the 487 that follows ends it.
fn cancel(node: NodeRef, dialogs: &Dialogs, id: DialogId) {
    let transaction = dialogs.pending(id).lock().get(&id).and_then(std::sync::Weak::upgrade);
    let (Some(transaction), Some(function)) =
        (transaction, crate::tm::MODULE.functions.iter().find(|function| function.spec.name == "t_cancel_branch"))
    else {
        return;
    };
    // Through the function of the script: the machine of a transaction is the business of module `tm`.
    let mut context = Context::dummy(node, RouteKind::OnReply);
    context.transaction = Some(transaction);
    let _ = (function.call)(&mut context, &[Arg::Text(Text::from("a"))]);
    context.recycle();
}
