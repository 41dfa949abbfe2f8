//! `rtpproxy_engage()`: the media of a whole call. The first INVITE is offered by the function; replies and the requests
//! that follow are worked on by a step of module `tm`, and the end of the dialog ends the session.

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_dialog::{DialogEvent, DialogId};
use tandem_module::NodeRef;
use tandem_module::context::{Called, Context};
use tandem_script::vm::Arg;
use tandem_sip::Method;

use super::offer::{self, Call, Wanted};
use super::{Rtpproxy, complain, session};
use crate::core::table::done;
use crate::dialog::{self, DialogNotice};

/// Calls engaged at a time; further ones are refused.
const ENGAGED_MAX: usize = 500_000;

struct Engagement {
    wanted: Wanted,
    call: Call,
    /// Whether the offer is in the reply to the INVITE, and the answer in its ACK.
    is_late: bool,
}

/// Calls whose media is relayed to their end.
#[derive(Default)]
pub(super) struct Engaged(Mutex<HashMap<DialogId, Engagement>>);

/// Hooks into dialogs and transactions.
pub(super) fn init(node: NodeRef) {
    if dialog::add_listener(node, on_dialog) {
        crate::tm::add_message_step(node, step);
    }
}

/// `rtpproxy_engage([flags[, ip_address[, set_id[, sock_var[, ret_var]]]]])`.
pub(super) fn engage(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let is_first = context.is_request() && context.message.method() == Method::Invite;
    if !is_first || context.message.to().is_ok_and(|to| to.tag().is_some()) {
        complain(context, "rtpproxy_engage", "it is for the first INVITE of a call");
        return done(false);
    }
    if !dialog::create(context, 0) {
        complain(
            context,
            "rtpproxy_engage",
            "no dialog could be created: loadmodule \"dialog.so\" in front of rtpproxy",
        );
        return done(false);
    }
    let (Some(current), Some(call)) = (dialog::current(context), Call::of(context)) else { return done(false) };
    let wanted = Wanted::of(args);
    let is_late = crate::sipmsgops::current_sdp(context).is_none();
    {
        let mut engaged = own.engaged.0.lock();
        if engaged.len() >= ENGAGED_MAX {
            // An INVITE that never became a transaction leaves without a word.
            let dialogs = context.node.state::<dialog::Dialogs>();
            engaged.retain(|id, _| dialogs.is_some_and(|dialogs| dialogs.table.with_dialog(*id, |_| ()).is_some()));
        }
        if engaged.len() >= ENGAGED_MAX {
            drop(engaged);
            complain(context, "rtpproxy_engage", "too many calls are engaged");
            return done(false);
        }
        let later = Wanted { socket_var: None, result_var: None, ..wanted.clone() };
        engaged.insert(current.id, Engagement { wanted: later, call, is_late });
    }
    if is_late { done(true) } else { offer::begin(own, context, wanted, true) }
}

/// What is to be done with a message of an engaged call before it goes on.
fn step(context: &mut Context) -> Option<Called> {
    let own = context.node.state::<Rtpproxy>()?;
    let current = dialog::current(context)?;
    // Most calls are not engaged, and need not be looked at.
    if !own.engaged.0.lock().contains_key(&current.id) {
        return None;
    }
    let is_request = context.is_request();
    // The first INVITE was offered by the function itself.
    if is_request && current.direction.is_none() {
        return None;
    }
    let (_, method, _) = context.message.cseq().ok()?;
    let code = context.message.status().unwrap_or_default();
    let concerns = match method {
        Method::Invite | Method::Update => is_request || (101..300).contains(&code),
        Method::Ack => is_request,
        _ => false,
    };
    if !concerns {
        return None;
    }
    crate::sipmsgops::current_sdp(context)?;
    let asked_with_sdp = context.request.as_ref().is_some_and(|request| !request.message.body().is_empty());
    let (wanted, is_offer) = {
        let mut engaged = own.engaged.0.lock();
        let engagement = engaged.get_mut(&current.id)?;
        let is_offer = match method {
            Method::Ack if !engagement.is_late => return None,
            Method::Ack => false,
            _ if is_request => true,
            _ => !asked_with_sdp,
        };
        if method == Method::Invite {
            engagement.is_late = !is_request && is_offer;
        }
        (engagement.wanted.clone(), is_offer)
    };
    Some(offer::begin(own, context, wanted, is_offer))
}

fn on_dialog(notice: &DialogNotice) {
    if !matches!(notice.event, DialogEvent::Terminated { .. }) {
        return;
    }
    let node = notice.node;
    let Some(own) = node.state::<Rtpproxy>() else { return };
    let Some(engagement) = own.engaged.0.lock().remove(&notice.id) else { return };
    let set = engagement.wanted.set.unwrap_or(own.relays.default_set);
    let command = session::delete_command(&engagement.call);
    let call_id = engagement.call.call_id;
    let Some(workers) = node.workers() else { return };
    workers.spawn(Box::pin(async move {
        if let Err(error) = super::ask(node, own, set, call_id.clone(), false, vec![command]).await {
            tracing::warn!("rtpproxy: a session was not ended at its relay: {error}");
        }
        own.relays.forget(call_id.as_bytes());
    }));
}
