//! What the engine calls: admission of requests, replies, the end of a script.

use std::sync::Arc;
use std::time::Instant;

use tandem_module::context::Context;
use tandem_module::transaction::{Admission, StoredRequest, TmMoment, TransactionLayer};
use tandem_sip::{Method, TransactionKey};
use tandem_transaction::{Kind, Transaction};

use super::tx::{State, Tx};
use super::{TRANSACTIONS_MAX, Tm, replies};

/// The stateful layer.
pub(crate) struct Layer;

/// What came of creating a transaction.
pub(crate) enum Created {
    /// It is there, new or from before.
    Ready(Arc<Tx>),
    /// The request is a retransmission of one in work.
    Repeated,
    /// No room, or a request without the needed headers; a 503 was sent in the first case.
    Refused,
}

/// The transaction of the context, as this module knows it.
pub(crate) fn own_tx(context: &Context) -> Option<Arc<Tx>> {
    context.transaction.clone()?.as_any().downcast().ok()
}

/// The transaction of the request in `context`, created when there is none; its stored request is brought up to date.
pub(crate) fn ensure(context: &mut Context) -> Created {
    if let Some(tx) = own_tx(context) {
        let request = Arc::new(stored(context));
        tx.state.lock().request = request;
        return Created::Ready(tx);
    }
    let node = context.node;
    let (Some(tm), Ok(key)) = (node.state::<Tm>(), TransactionKey::for_request(&context.message)) else {
        return Created::Refused;
    };
    if tm.table.len() >= TRANSACTIONS_MAX {
        tm.count(|counters| &counters.refused);
        context.edits.lumps.append_to_reply(&b"Retry-After: 5\r\n"[..]);
        tandem_module::reply::reply_stateless(context, 503, b"Service Unavailable");
        return Created::Refused;
    }
    let method = context.message.method();
    let kind = if method == Method::Invite { Kind::Invite } else { Kind::NonInvite };
    let mut config = tm.config;
    config.is_reliable = context.source.proto.is_reliable();
    let core = Transaction::new(kind, &config, Instant::now());
    let slot = context.take_slot::<Armed>().map(|armed| *armed).unwrap_or_default();
    let mut state = State::new(core, Arc::new(stored(context)));
    state.on_failure = slot.on_failure;
    state.on_reply = slot.on_reply;
    state.on_branch = slot.on_branch;
    let tx = Arc::new(Tx { node, id: tm.table.next_id(), key, method, state: parking_lot::Mutex::new(state) });
    if tm.table.insert(&tx).is_some() {
        return Created::Repeated;
    }
    tm.count(|counters| &counters.created);
    context.transaction = Some(tx.clone());
    Created::Ready(tx)
}

fn stored(context: &Context) -> StoredRequest {
    StoredRequest { message: context.message.clone(), source: context.source, edits: context.edits.clone() }
}

/// Routes armed before there is a transaction.
#[derive(Default)]
pub(crate) struct Armed {
    pub(crate) on_failure: Option<Box<str>>,
    pub(crate) on_reply: Option<Box<str>>,
    pub(crate) on_branch: Option<Box<str>>,
}

impl TransactionLayer for Layer {
    fn admit(&self, context: &mut Context) -> Admission {
        let Some(tm) = context.node.state::<Tm>() else { return Admission::Script };
        let message = &context.message;
        let method = message.method();
        // A CANCEL has the branch of its INVITE and a key of its own; it belongs to the script.
        let Ok(key) = TransactionKey::for_request(message) else { return Admission::Script };
        let Some(tx) = tm.table.by_key(&key) else { return Admission::Script };
        if method == Method::Ack {
            let is_ours = tx.with(|state| state.core.handle_ack(Instant::now()));
            if !is_ours {
                tx.tell_hooks(TmMoment::AckIn, 0, None, None);
                return Admission::Script;
            }
            return Admission::Absorbed;
        }
        tx.with(|state| state.core.handle_request_retransmission(Instant::now()));
        Admission::Absorbed
    }

    fn on_reply(&self, context: Box<Context>) {
        replies::receive(context);
    }

    fn begin_async(&self, context: &mut Context) -> Result<(), Option<i32>> {
        match ensure(context) {
            Created::Ready(_) => Ok(()),
            Created::Repeated => Err(None),
            Created::Refused => Err(Some(-1)),
        }
    }

    fn end_of_request(&self, context: &mut Context) {
        let Some(tx) = own_tx(context) else { return };
        let avps = std::mem::take(&mut context.avps);
        let flags = context.edits.flags;
        tx.with(|state| {
            if !avps.is_empty() {
                state.avps = avps;
            }
            if flags != state.request.edits.flags
                && let Some(request) = Arc::get_mut(&mut state.request)
            {
                request.edits.flags = flags;
            }
            state.core.release(Instant::now());
        });
    }
}
