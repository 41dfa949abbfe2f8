//! What other modules may know of transactions. The transaction table is the `tm` module.

use std::any::Any;
use std::sync::Arc;

use tandem_sip::{Message, Method};

use crate::context::Context;
use crate::edits::Edits;
use crate::node::NodeRef;
use crate::transport::Source;

/// The request a transaction was made for, as it is kept.
#[derive(Clone, Debug)]
pub struct StoredRequest {
    /// The message as received.
    pub message: Message,
    /// Where from.
    pub source: Source,
    /// What the script had changed when it was last brought up to date.
    pub edits: Edits,
}

/// Moments in the life of a transaction that modules can hook into (OpenSIPS: tm callbacks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TmMoment {
    /// A branch request is about to leave; `code` is 0.
    RequestOut,
    /// A reply came in on a branch, before reply routes.
    ReplyIn,
    /// A provisional or final reply is about to go upstream (relayed or local).
    ReplyOut,
    /// A final reply has gone upstream.
    Completed,
    /// All branches failed, before the failure route.
    Failure,
    /// A hop-by-hop or end-to-end ACK belonging to this INVITE came in.
    AckIn,
    /// A CANCEL was accepted for this INVITE.
    Cancelled,
    /// The transaction is being removed.
    Deleted,
}

/// What a hook is shown.
pub struct TmEvent<'a> {
    /// When.
    pub moment: TmMoment,
    /// The node.
    pub node: NodeRef,
    /// The transaction.
    pub transaction: &'a Arc<dyn Transaction>,
    /// Its request.
    pub request: &'a StoredRequest,
    /// The reply concerned, when one was received (not for local ones).
    pub reply: Option<&'a Message>,
    /// Its code; 0 when there is none.
    pub code: u16,
    /// To tag of a local reply.
    pub local_to_tag: &'a [u8],
    /// Branch index, when one branch is concerned.
    pub branch: Option<u8>,
    /// Wall clock, Unix milliseconds.
    pub unix_ms: i64,
    /// Edits to apply to what is being sent (`RequestOut`, relayed `ReplyOut`).
    pub edits: Option<&'a mut Edits>,
}

/// A hook on one transaction.
pub type TmHook = Arc<dyn Fn(&mut TmEvent<'_>) + Send + Sync>;

/// A transaction.
pub trait Transaction: Send + Sync + Any {
    /// For the `tm` module itself.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;

    /// A number unique in the process, for logs and keys.
    fn id(&self) -> u64;

    /// The method of its request.
    fn method(&self) -> Method;

    /// Adds a hook for all moments; it must return quickly for those it does not care about.
    fn add_hook(&self, hook: TmHook);

    /// The stored request.
    fn request(&self) -> Arc<StoredRequest>;

    /// Answers with a local reply (OpenSIPS: t_reply()); false when a final reply has been sent already.
    fn reply(self: Arc<Self>, context: &mut Context, code: u16, reason: &[u8]) -> bool;
}

/// Whether a received request goes on to the script.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// New: run the script.
    Script,
    /// A retransmission or an ACK that belonged to a transaction: done.
    Absorbed,
}

/// The stateful layer, called by the engine for each message.
pub trait TransactionLayer: Send + Sync {
    /// A request came in, before the script.
    fn admit(&self, context: &mut Context) -> Admission;

    /// A reply came in: runs reply routes and forwards it, statefully or not. Takes the context over.
    fn on_reply(&self, context: Box<Context>);

    /// The transaction that `context` needs before it can wait (`async()`): created when there is none.
    /// `Err(None)`: a retransmission; `Err(Some(code))`: it failed.
    ///
    /// # Errors
    /// As said.
    fn begin_async(&self, context: &mut Context) -> Result<(), Option<i32>>;

    /// A request run without transaction is about to be parked: its retransmissions are absorbed until
    /// [`TransactionLayer::end_of_request`].
    fn on_park(&self, context: &mut Context) {
        let _ = context;
    }

    /// The request run of `context` has ended for good (also after resumption): a transaction that was created but
    /// neither answered nor relayed is released.
    fn end_of_request(&self, context: &mut Context);
}
