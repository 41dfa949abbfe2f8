//! PRACK for reliable provisional replies (RFC 3262), for callers that know nothing of them: what it has to say, and sending it
//! without the script (`auto-prack`).

use std::sync::Arc;

use tandem_dialog::{DialogId, dialog_flags};
use tandem_module::NodeRef;
use tandem_module::context::Context;
use tandem_module::transaction::{TmEvent, Transaction};
use tandem_sip::{HeaderKind, Message};

use super::functions_send::invite_reply;
use super::requests::{self, Extras, Towards};
use super::{Dialogs, follow};
use crate::tm::uac::{UacDone, UacReply, send_request};

/// A reliable provisional reply.
pub(super) struct Reliable {
    /// Its RSeq.
    rseq: u32,
    /// Its CSeq, number and method.
    cseq: Vec<u8>,
    pub(super) to_tag: Vec<u8>,
}

impl Reliable {
    /// `None` for a reply that is none.
    pub(super) fn of(reply: &Message) -> Option<Reliable> {
        if !(101..200).contains(&reply.status()?) {
            return None;
        }
        Some(Reliable {
            rseq: reply.number(HeaderKind::RSeq).ok().flatten()?,
            cseq: reply.value_of(HeaderKind::CSeq)?.to_vec(),
            to_tag: reply.to().ok()?.tag()?.to_vec(),
        })
    }

    /// The header line of the PRACK.
    pub(super) fn rack(&self) -> Vec<u8> {
        [b"RAck: ", self.rseq.to_string().as_bytes(), b" ", &self.cseq, b"\r\n"].concat()
    }
}

/// Takes the branch of a reply in before it is passed on.
pub(super) fn learn(
    node: NodeRef,
    dialogs: &Dialogs,
    id: DialogId,
    reply: &Message,
    (transaction, branch): (Option<&Arc<dyn Transaction>>, Option<u8>),
) -> bool {
    let request = transaction.map(|transaction| transaction.request());
    let route_set = request.map(|request| follow::callee_route_set(node, reply, &request.message));
    let socket = transaction.map_or(&b""[..], |transaction| follow::callee_socket(node, transaction, branch));
    let reply = invite_reply(reply, route_set.as_deref().unwrap_or_default(), socket);
    dialogs.table.with_dialog(id, |dialog| dialog.learn_branch(&reply)) == Some(true)
}

/// A reply to the INVITE of a dialog came in: answers it with PRACK when that is wanted.
pub(super) fn on_reply(dialogs: &'static Dialogs, id: DialogId, event: &TmEvent<'_>) {
    let Some(reply) = event.reply else { return };
    let Some(reliable) = Reliable::of(reply) else { return };
    let is_wanted = dialogs.table.with_dialog(id, |dialog| dialog.flags & dialog_flags::AUTO_PRACK != 0);
    if is_wanted != Some(true) || !learn(event.node, dialogs, id, reply, (Some(event.transaction), event.branch)) {
        return;
    }
    let is_new = dialogs.table.with_dialog(id, |dialog| dialog.note_rseq(&reliable.to_tag, reliable.rseq));
    if is_new != Some(true) {
        return;
    }
    let extras = Extras { headers: reliable.rack(), ..Extras::default() };
    let spec = requests::spec(event.node, dialogs, id, Towards::Branch(&reliable.to_tag), b"PRACK", extras);
    let Some(mut spec) = spec else { return };
    spec.fr_timeout = Some(dialogs.config.prack_timeout);
    let done: UacDone = Box::new(move |outcome| on_outcome(dialogs, id, outcome));
    if let Err(error) = send_request(event.node, spec, Some(done)) {
        tracing::warn!("dialog {id}: PRACK was not sent: {error}");
    }
}

/// A PRACK that fails leaves the INVITE alone, or ends it (`auto_prack_hangup_on_failure`).
fn on_outcome(dialogs: &'static Dialogs, id: DialogId, outcome: &UacReply<'_>) {
    if outcome.code < 300 {
        return;
    }
    tracing::warn!("dialog {id}: PRACK failed: {}", outcome.code);
    if !dialogs.config.hangs_up_without_prack {
        return;
    }
    let pending = dialogs.pending(id).lock().get(&id).and_then(std::sync::Weak::upgrade);
    let Some(transaction) = pending else { return };
    let request = transaction.request();
    let mut context = Context::empty(outcome.node, request.source);
    context.message.clone_from(&request.message);
    context.edits.clone_from(&request.edits);
    context.transaction = Some(transaction.clone());
    transaction.reply(&mut context, 502, b"Bad Gateway");
    context.recycle();
}
