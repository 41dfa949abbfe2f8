//! What the engine calls: admission of requests, replies, the end of a script. Creates transactions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tandem_module::context::{Context, write_log};
use tandem_module::transaction::{Admission, StoredRequest, TmMoment, TransactionLayer};
use tandem_script::ast::RouteKind;
use tandem_script::vm::LogLevel;
use tandem_sip::{HeaderKind, Method, TransactionKey};
use tandem_transaction::{Kind, ServerState, Transaction};

use super::tx::{State, Telling, Tx};
use super::{TRANSACTIONS_MAX, Tm, clock, replies};

/// The stateful layer.
pub(crate) struct Layer;

/// What came of asking for a transaction.
pub(crate) enum Created {
    /// It was made now.
    New(Arc<Tx>),
    /// It was there before.
    Known(Arc<Tx>),
    /// The request is a retransmission of one in work.
    Repeated,
    /// There are too many; the request has been answered 503.
    Overloaded,
    /// A request without the needed headers, or one that has no transaction.
    Bad,
}

/// The transaction of the context, as this module knows it.
pub(crate) fn own_tx(context: &Context) -> Option<Arc<Tx>> {
    context.transaction.clone()?.as_any().downcast().ok()
}

/// Settings made before there is a transaction.
#[derive(Default)]
pub(crate) struct Armed {
    pub(crate) on_failure: Option<Box<str>>,
    pub(crate) on_reply: Option<Box<str>>,
    pub(crate) on_branch: Option<Box<str>>,
    pub(crate) fr: Option<Duration>,
    pub(crate) fr_inv: Option<Duration>,
    pub(crate) extra_headers: Vec<u8>,
}

/// Marks a run that waits without a transaction.
struct WaitingKey(TransactionKey);

/// The transaction of the request in `context`, created when there is none; its stored request is brought up to date.
/// `follows_no_cancel`: the client may ask to leave the other branches alone when one is answered (RFC 3841 §9.1).
pub(crate) fn ensure(context: &mut Context, follows_no_cancel: bool) -> Created {
    if let Some(tx) = own_tx(context) {
        update(context, &tx);
        return Created::Known(tx);
    }
    let node = context.node;
    // The failure route of a request of our own has none, and nobody to answer to.
    let is_own = context.kind == RouteKind::Failure;
    if is_own || !context.is_request() || context.message.method() == Method::Ack {
        return Created::Bad;
    }
    let (Some(tm), Ok(key)) = (node.state::<Tm>(), TransactionKey::for_request(&context.message)) else {
        return Created::Bad;
    };
    if tm.table.len() >= TRANSACTIONS_MAX {
        tm.count(|counters| &counters.refused);
        context.edits.lumps.append_to_reply(&b"Retry-After: 5\r\n"[..]);
        tandem_module::reply::reply_stateless(context, 503, b"Service Unavailable");
        return Created::Overloaded;
    }
    let method = context.message.method();
    let kind = if method == Method::Invite { Kind::Invite } else { Kind::NonInvite };
    let mut config = tm.config;
    config.is_reliable = context.source.proto.is_reliable();
    config.keep_branches_after_2xx = follows_no_cancel && wants_no_cancel(context);
    let mut state = State::new(Transaction::new(kind, &config, clock::now()), Arc::new(stored(context)));
    state.dialog = context.dialog.clone();
    if let Some(armed) = context.take_slot::<Armed>() {
        state.core.set_fr_timeouts(armed.fr, armed.fr_inv);
        state.on_failure = armed.on_failure;
        state.on_reply = armed.on_reply;
        state.on_branch = armed.on_branch;
        state.extra_headers = armed.extra_headers;
    }
    let (id, key_hash) = (tm.table.next_id(), tm.table.key_hash(&key));
    let program = context.program().clone();
    let tx = Arc::new(Tx { node, tm, id, key, key_hash, method, program, state: parking_lot::Mutex::new(state) });
    if !tm.table.insert(&tx) {
        return Created::Repeated;
    }
    tm.count(|counters| &counters.created);
    context.transaction = Some(tx.clone());
    tm.call_request_hooks(context);
    Created::New(tx)
}

fn wants_no_cancel(context: &Context) -> bool {
    let message = &context.message;
    message.headers_of(HeaderKind::RequestDisposition).any(|entry| {
        message
            .value(entry)
            .split(|byte| *byte == b',')
            .any(|word| tandem_sip::trim(word).eq_ignore_ascii_case(b"no-cancel"))
    })
}

fn stored(context: &Context) -> StoredRequest {
    StoredRequest { message: context.message.clone(), source: context.source, edits: context.edits.clone() }
}

/// Takes what the script has changed over into the transaction.
fn update(context: &Context, tx: &Tx) {
    let mut state = tx.state.lock();
    state.dialog.clone_from(&context.dialog);
    match context.kind {
        RouteKind::Request | RouteKind::Error => {
            Arc::make_mut(&mut state.request).edits.clone_from(&context.edits);
        }
        // What a failure route edits is for the branches it makes itself.
        RouteKind::Failure => {
            state.set_flags(context.edits.flags);
            if state.request.edits.serial.len() != context.edits.serial.len() {
                Arc::make_mut(&mut state.request).edits.serial.clone_from(&context.edits.serial);
            }
        }
        _ => {}
    }
}

/// Sends 100 when an INVITE is owed one (OpenSIPS: tm, auto_100trying).
pub(crate) fn send_trying(context: &Context, tx: &Arc<Tx>) {
    if !tx.state.lock().core.wants_trying() {
        return;
    }
    let mut out = Vec::new();
    if tandem_module::reply::write_reply(context, 100, b"Giving it a try", None, None, &mut out).is_ok() {
        // Refused when another thread has answered meanwhile.
        let _ = tx.with(|state| state.core.respond_local(100, Bytes::from(out), clock::now()));
    }
}

impl Layer {
    fn admit_ack(tm: &'static Tm, context: &Context) -> Admission {
        let message = &context.message;
        let known = TransactionKey::for_request(message).ok().and_then(|key| tm.table.by_key(&key));
        if let Some(tx) = known {
            let (was_awaited, server) = tx.with(|state| {
                let was_awaited = state.core.handle_ack(clock::now());
                (was_awaited, state.core.server_state())
            });
            if was_awaited {
                tx.tell_unlocked(TmMoment::AckIn, Telling::default());
            }
            // An ACK to a 2xx with the branch of its INVITE: an old client; the script routes it.
            return if server == ServerState::Accepted { Admission::Script } else { Admission::Absorbed };
        }
        if let Some(tx) = tm.table.acknowledged(message) {
            tx.with(|state| state.core.handle_ack(clock::now()));
            tx.tell_unlocked(TmMoment::AckIn, Telling::default());
        }
        Admission::Script
    }
}

impl TransactionLayer for Layer {
    fn admit(&self, context: &mut Context) -> Admission {
        let Some(tm) = context.node.state::<Tm>() else { return Admission::Script };
        clock::note(context.source.at);
        if context.message.method() == Method::Ack {
            return Layer::admit_ack(tm, context);
        }
        // A CANCEL has the branch of its INVITE and a key of its own; it belongs to the script.
        let Ok(key) = TransactionKey::for_request(&context.message) else { return Admission::Script };
        match tm.table.entry(&key) {
            Some(known) => {
                known.repeat();
                Admission::Absorbed
            }
            None if tm.table.is_waiting(&key, clock::now()) => Admission::Absorbed,
            None => Admission::Script,
        }
    }

    fn on_reply(&self, context: Box<Context>) {
        clock::note(context.source.at);
        replies::receive(context);
    }

    fn begin_async(&self, context: &mut Context) -> Result<(), Option<i32>> {
        if context.kind != RouteKind::Request {
            return if context.transaction.is_some() { Ok(()) } else { Err(Some(-1)) };
        }
        match ensure(context, false) {
            Created::New(tx) | Created::Known(tx) => {
                send_trying(context, &tx);
                Ok(())
            }
            Created::Repeated | Created::Overloaded => Err(None),
            Created::Bad => {
                write_log(LogLevel::Error, "async(): no transaction can be made for this request");
                Err(Some(-1))
            }
        }
    }

    fn on_park(&self, context: &mut Context) {
        let Some(tm) = context.node.state::<Tm>() else { return };
        if context.message.method() == Method::Ack || context.slot::<WaitingKey>().is_some() {
            return;
        }
        if let Ok(key) = TransactionKey::for_request(&context.message) {
            tm.table.wait(key.clone(), clock::now());
            context.set_slot(WaitingKey(key));
        }
    }

    fn end_of_request(&self, context: &mut Context) {
        let waiting = context.take_slot::<WaitingKey>();
        if let (Some(waiting), Some(tm)) = (waiting, context.node.state::<Tm>()) {
            tm.table.wait_no_more(&waiting.0);
        }
        let Some(tx) = own_tx(context) else { return };
        tx.with(|state| {
            if !state.has_newer_avps {
                std::mem::swap(&mut state.avps, &mut context.avps);
            }
            if state.branches.is_empty() {
                state.set_flags(context.edits.flags);
            }
            state.dialog = context.dialog.take();
            state.core.release(clock::now());
        });
    }
}
