//! What is left of a transaction other than INVITE when it is over: its final reply, for requests that come again. A busy node
//! holds those of seconds; the transaction itself, ten times as large, gives its memory to the next one while it is warm.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_module::node::NodeRef;
use tandem_module::transport::Destination;
use tandem_sip::TransactionKey;

use super::Tm;
use super::tx::{State, Tx};

/// A transaction that is over and still known.
pub(crate) struct Settled {
    node: NodeRef,
    tm: &'static Tm,
    pub(crate) id: u64,
    pub(crate) key: TransactionKey,
    pub(crate) key_hash: u64,
    /// Where its reply goes.
    upstream: Destination,
    /// Empty when repeated requests get none.
    reply: Bytes,
    /// Forgotten then.
    pub(crate) until: Instant,
}

impl Settled {
    /// What is left of `tx`; `None` while it may do more than repeat and absorb, or somebody wants to know of its end.
    pub(crate) fn of(tx: &Tx, state: &State) -> Option<Settled> {
        if state.has_hooks() {
            return None;
        }
        let until = state.core.lingers_until()?;
        Some(Settled {
            node: tx.node,
            tm: tx.tm,
            id: tx.id,
            key: tx.key.clone(),
            key_hash: tx.key_hash,
            upstream: state.upstream(),
            // The buffer it was built in has room to spare, and is still warm for the next one.
            reply: Bytes::copy_from_slice(&state.core.repeatable_reply()),
            until,
        })
    }

    /// The request came again (RFC 3261 §17.2.2).
    pub(crate) fn repeat(&self) {
        if self.reply.is_empty() {
            return;
        }
        self.tm.count(|counters| &counters.repeated_replies);
        if let Some(Err(error)) = self.node.transport().map(|transport| transport.send(&self.upstream, &self.reply)) {
            tracing::debug!(%error, "a repeated reply was not sent");
        }
    }

    /// A timer of the transaction came due.
    pub(crate) fn on_timer(self: &Arc<Settled>, now: Instant) {
        if self.until <= now {
            self.tm.table.forget(self);
        } else if let (Some(workers), Some(class)) = (self.node.workers(), self.tm.class()) {
            workers.arm(class, self.id, self.until);
        }
    }
}
