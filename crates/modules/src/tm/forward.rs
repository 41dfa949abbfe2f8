//! What `t_relay()` does with requests that have no transaction of their own: ACK and CANCEL; and `t_replicate()`.

use std::net::SocketAddr;
use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::edits::Target;
use tandem_module::outgoing::{self, NextHop};
use tandem_module::reply;
use tandem_module::run::Pending;
use tandem_module::transaction::TmMoment;
use tandem_module::transport::{Destination, Proto};
use tandem_script::value::Text;
use tandem_sip::{HeaderKind, TransactionKey};

use super::local_routes::LocalRoutes;
use super::relay::{BAD_DESTINATION, FAILED, FILTERED, SEND_FAILED};
use super::tx::{Telling, Tx};
use super::{Tm, clock, table, uac};

/// `t_add_cancel_reason()`, for the CANCEL in work.
pub(crate) struct CancelReason(pub(crate) Vec<u8>);

/// An ACK for a 2xx is a request of its own that nobody answers: it goes on without a transaction.
pub(crate) fn relay_ack(context: &mut Context, proxy: Option<Text>) -> Called {
    let mut target = context.edits.target.clone();
    if target.dst_uri.is_none() {
        target.dst_uri = proxy;
    }
    match outgoing::next_hop(context.node, outgoing::next_hop_uri(&context.message, &target), target.socket) {
        Ok(NextHop::Known(addresses)) => Called::Done(send_ack(context, &target, &addresses)),
        Ok(NextHop::Lookup(query)) => {
            let Some(resolver) = context.node.resolver().cloned() else { return Called::Done(FAILED) };
            Pending::job(context.node, resolver.lookup(query), move |context, found| {
                Called::Done(send_ack(context, &target, &found.unwrap_or_default()))
            })
        }
        Err(error) => {
            tracing::debug!(%error, "an ACK has no destination");
            Called::Done(BAD_DESTINATION)
        }
    }
}

fn send_ack(context: &mut Context, target: &Target, addresses: &[(Proto, SocketAddr)]) -> i32 {
    let node = context.node;
    let (Some(transport), Some(tm)) = (node.transport(), node.state::<Tm>()) else { return FAILED };
    if addresses.is_empty() {
        return BAD_DESTINATION;
    }
    let mut failure = SEND_FAILED;
    for address in addresses {
        let Ok(to) = outgoing::destination(node, &context.source, target.socket, *address) else { continue };
        if outgoing::is_blocked(node, &context.message, &context.source, &context.edits, target, &to) {
            failure = FILTERED;
            continue;
        }
        let mut branch = smallvec::SmallVec::<[u8; 48]>::new();
        table::write_branch(tm.table.next_id(), 0, &mut branch);
        let mut out = Vec::with_capacity(context.message.buffer().len() + 256);
        outgoing::write_branch(node, &context.message, &context.source, &context.edits, target, &to, &branch, &mut out);
        if transport.send(&to, &out).is_ok() {
            return 1;
        }
    }
    failure
}

/// The INVITE that the CANCEL in `context` is about.
pub(crate) fn cancelled(context: &Context) -> Option<Arc<Tx>> {
    let key = TransactionKey::of_cancelled(&context.message).ok()?;
    context.node.state::<Tm>()?.table.by_key(&key)
}

/// A CANCEL is answered here and makes CANCELs of its own towards the branches (RFC 3261 §16.10).
pub(crate) fn relay_cancel(context: &mut Context, pass_reason: bool) -> Called {
    let Some(invite) = cancelled(context) else { return Called::Done(FAILED) };
    reply::reply_stateless(context, 200, b"canceling");
    let own = context.take_slot::<CancelReason>().map(|reason| reason.0);
    let reason = own.unwrap_or_else(|| if pass_reason { received_reason(context) } else { Vec::new() });
    let is_news = {
        let state = invite.state.lock();
        !state.core.was_cancelled() && !state.core.is_answered()
    };
    if is_news {
        invite.tell_unlocked(TmMoment::Cancelled, Telling::default());
    }
    invite.with(|state| {
        if state.cancel_reason.is_empty() {
            state.cancel_reason = reason;
        }
        state.core.handle_cancel(clock::now())
    });
    Called::Done(1)
}

fn received_reason(context: &Context) -> Vec<u8> {
    let message = &context.message;
    message.headers_of(HeaderKind::Reason).flat_map(|entry| message.bytes(entry.whole).iter().copied()).collect()
}

/// Sends copies of the request to `uri` and to the added branches; their replies go nowhere (OpenSIPS: tm, t_replicate()).
pub(crate) fn replicate(context: &mut Context, uri: &[u8]) -> Called {
    let mut targets: Vec<Target> = context.edits.branches.drain(..).collect();
    targets.push(Target { uri: Some(Text::copy(uri)), ..Target::default() });
    let mut is_sent = false;
    for target in targets {
        is_sent |= replicate_to(context, &target);
    }
    Called::Done(if is_sent { 1 } else { FAILED })
}

/// One copy. A name that is not known yet is not waited for.
fn replicate_to(context: &Context, target: &Target) -> bool {
    let node = context.node;
    let (Some(tm), Ok(NextHop::Known(addresses))) =
        (node.state::<Tm>(), outgoing::next_hop(node, outgoing::next_hop_uri(&context.message, target), target.socket))
    else {
        return false;
    };
    let to: Option<Destination> =
        addresses.iter().find_map(|address| outgoing::destination(node, &context.source, target.socket, *address).ok());
    let is_allowed =
        |to: &Destination| !outgoing::is_blocked(node, &context.message, &context.source, &context.edits, target, to);
    let Some(to) = to.filter(is_allowed) else { return false };
    let id = tm.table.next_id();
    let mut branch = smallvec::SmallVec::<[u8; 48]>::new();
    table::write_branch(id, 0, &mut branch);
    let mut out = Vec::with_capacity(context.message.buffer().len() + 256);
    outgoing::write_branch(node, &context.message, &context.source, &context.edits, target, &to, &branch, &mut out);
    uac::send_written((node, tm, id), context.message.method(), to, out.into(), LocalRoutes::default(), None, None)
}
