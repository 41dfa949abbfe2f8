//! One transaction: the state machine, what belongs to its branches, and who carries out what the machine asks for. Sends
//! are in `act`, routes in `failure` and `replies`.
//!
//! The machine's outputs are worked on by one thread at a time, in order, so that a 200 cannot overtake its 180. Sends
//! happen under the lock (they never block); hooks run with the lock let go, and what other threads put in meanwhile is
//! carried out behind it by the thread that is at it already.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tandem_module::context::Context;
use tandem_module::edits::{Edits, Target};
use tandem_module::node::{self, NodeRef};
use tandem_module::reply;
use tandem_module::transaction::{StoredRequest, TmEvent, TmHook, TmMoment, Transaction as TransactionApi};
use tandem_module::transport::{Destination, Proto};
use tandem_module::worker::TimerHandler;
use tandem_script::avp::AvpList;
use tandem_script::program::Program;
use tandem_sip::{Lumps, Message, Method, TransactionKey};
use tandem_transaction::{BranchIndex, Transaction};

use super::settled::Settled;
use super::table::Entry;
use super::{Tm, clock, uac};

/// A reply received, with what the reply routes changed.
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) lumps: Lumps,
}

/// Further addresses of a branch and what its request is written from.
pub(crate) struct Spare {
    /// The next one last.
    pub(crate) addresses: Vec<(Proto, std::net::SocketAddr)>,
    pub(crate) edits: Edits,
}

/// What belongs to one branch beside the machine.
pub(crate) struct BranchData {
    pub(crate) to: Destination,
    pub(crate) target: Target,
    /// Armed in its branch route.
    pub(crate) on_reply: Option<Box<str>>,
    /// The negative final reply to acknowledge.
    pub(crate) last_final: Option<Bytes>,
    /// Code of the last reply from the network; 0 before any.
    pub(crate) last_received: u16,
    /// It ended without any reply at all.
    pub(crate) was_silent: bool,
    /// `$bavp(...)`.
    pub(crate) avps: Option<Box<AvpList>>,
    /// DNS fail-over.
    pub(crate) spare: Option<Box<Spare>>,
}

/// Everything that changes.
pub(crate) struct State {
    pub(crate) core: Transaction<Arc<Received>>,
    pub(crate) request: Arc<StoredRequest>,
    pub(crate) avps: AvpList,
    /// A reply or failure route has written the AVPs since the request was relayed.
    pub(crate) has_newer_avps: bool,
    pub(crate) dialog: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) branches: SmallVec<[BranchData; 1]>,
    pub(crate) on_failure: Option<Box<str>>,
    pub(crate) on_reply: Option<Box<str>>,
    pub(crate) on_branch: Option<Box<str>>,
    /// `t_add_hdrs()`: lines with line ends.
    pub(crate) extra_headers: Vec<u8>,
    /// Reason line for CANCELs.
    pub(crate) cancel_reason: Vec<u8>,
    /// `t_relay()` calls at work on it.
    pub(crate) relaying: u8,
    pub(crate) is_completed: bool,
    /// Its place in the index of answered INVITEs.
    pub(crate) ack_key: Option<u64>,
    hooks: Option<Arc<[TmHook]>>,
    is_draining: bool,
    armed: Option<Instant>,
}

/// The state while its lock is held; [`Tx::tell`] lets it go in between.
pub(crate) type Locked<'a> = MutexGuard<'a, State>;

/// A transaction.
pub(crate) struct Tx {
    pub(crate) node: NodeRef,
    pub(crate) tm: &'static Tm,
    pub(crate) id: u64,
    pub(crate) key: TransactionKey,
    /// See [`super::table::Table::key_hash`].
    pub(crate) key_hash: u64,
    pub(crate) method: Method,
    /// The program of its request: its branch, reply and failure routes are those, whatever is reloaded meanwhile.
    pub(crate) program: Arc<Program>,
    pub(crate) state: Mutex<State>,
}

impl State {
    pub(crate) fn new(core: Transaction<Arc<Received>>, request: Arc<StoredRequest>) -> State {
        State {
            core,
            request,
            avps: AvpList::new(),
            has_newer_avps: false,
            dialog: None,
            branches: SmallVec::new(),
            on_failure: None,
            on_reply: None,
            on_branch: None,
            extra_headers: Vec::new(),
            cancel_reason: Vec::new(),
            relaying: 0,
            is_completed: false,
            ack_key: None,
            hooks: None,
            is_draining: false,
            armed: None,
        }
    }

    pub(crate) fn has_hooks(&self) -> bool {
        self.hooks.is_some()
    }

    /// Message flags belong to the transaction once it exists.
    pub(crate) fn set_flags(&mut self, flags: u32) {
        if self.request.edits.flags != flags {
            Arc::make_mut(&mut self.request).edits.flags = flags;
        }
    }

    /// Where replies go.
    pub(crate) fn upstream(&self) -> Destination {
        let request = &self.request;
        reply::reply_destination(&request.message, &request.source, request.edits.force_rport)
    }

    pub(crate) fn branch(&self, index: Option<u8>) -> Option<&BranchData> {
        self.branches.get(usize::from(index?))
    }
}

/// Ends the work on the outputs, also when a hook panics.
struct Draining<'a, 'b>(&'a mut Locked<'b>);

impl Drop for Draining<'_, '_> {
    fn drop(&mut self) {
        self.0.is_draining = false;
    }
}

/// What an event says beside its moment.
#[derive(Default)]
pub(crate) struct Telling<'a> {
    pub(crate) code: u16,
    pub(crate) reply: Option<&'a Message>,
    pub(crate) branch: Option<u8>,
    pub(crate) edits: Option<&'a mut Edits>,
}

impl Tx {
    /// Runs `input` on the state and carries out what follows.
    pub(crate) fn with<T>(self: &Arc<Tx>, input: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = input(&mut state);
        if !state.is_draining {
            state.is_draining = true;
            self.drain(&mut state);
        }
        result
    }

    fn drain(self: &Arc<Tx>, state: &mut Locked<'_>) {
        let draining = Draining(state);
        if let Some(first) = draining.0.core.poll_output() {
            let now = clock::now();
            let mut next = Some(first);
            while let Some(output) = next {
                self.act(draining.0, output, now);
                next = draining.0.core.poll_output();
            }
        }
        drop(draining);
        self.arm(state);
        if let Some(settled) = Settled::of(self, state) {
            self.tm.table.settle(settled);
        }
    }

    fn arm(&self, state: &mut State) {
        let (Some(deadline), Some(workers)) = (state.core.poll_timeout(), self.node.workers()) else { return };
        let Some(class) = self.tm.class() else { return };
        // One timer per transaction: a later deadline is looked up when the armed one fires.
        if state.armed.is_none_or(|armed| armed > deadline) {
            state.armed = Some(deadline);
            workers.arm(class, self.id, deadline);
        }
    }

    /// Tells the hooks, with the lock let go.
    pub(crate) fn tell(self: &Arc<Tx>, state: &mut Locked<'_>, moment: TmMoment, telling: Telling<'_>) {
        let Some(hooks) = state.hooks.clone() else { return };
        let request = state.request.clone();
        MutexGuard::unlocked(state, || self.call(&hooks, &request, moment, telling));
    }

    /// Tells the hooks; the caller does not hold the lock.
    pub(crate) fn tell_unlocked(self: &Arc<Tx>, moment: TmMoment, telling: Telling<'_>) {
        let (hooks, request) = {
            let state = self.state.lock();
            let Some(hooks) = state.hooks.clone() else { return };
            (hooks, state.request.clone())
        };
        self.call(&hooks, &request, moment, telling);
    }

    fn call(self: &Arc<Tx>, hooks: &[TmHook], request: &StoredRequest, moment: TmMoment, telling: Telling<'_>) {
        let transaction: Arc<dyn TransactionApi> = self.clone();
        let local_to_tag = super::local_to_tag(&request.message);
        let mut event = TmEvent {
            moment,
            node: self.node,
            transaction: &transaction,
            request,
            reply: telling.reply,
            code: telling.code,
            local_to_tag: &local_to_tag,
            branch: telling.branch,
            unix_ms: node::unix_ms(),
            edits: telling.edits,
        };
        for hook in hooks {
            hook(&mut event);
        }
    }

    /// Answers with a reply of our own and a body (OpenSIPS: tm, t_reply_with_body()); false when it comes too late.
    pub(crate) fn answer(
        self: &Arc<Tx>,
        context: &mut Context,
        code: u16,
        reason: &[u8],
        body: Option<(&[u8], &[u8])>,
    ) -> bool {
        self.answer_tagged(context, code, reason, None, body)
    }

    /// The same with a To tag of the caller's choice.
    pub(crate) fn answer_tagged(
        self: &Arc<Tx>,
        context: &mut Context,
        code: u16,
        reason: &[u8],
        tag: Option<&[u8]>,
        body: Option<(&[u8], &[u8])>,
    ) -> bool {
        let own_tag = super::local_to_tag(&context.message);
        let tag = (code > 100).then_some(tag.unwrap_or(&own_tag));
        let mut out = Vec::new();
        if reply::write_reply(context, code, reason, tag, body, &mut out).is_err() {
            return false;
        }
        let flags = context.edits.flags;
        let is_sent = self.with(|state| {
            if state.branches.is_empty() {
                state.set_flags(flags);
            }
            state.core.respond_local(code, Bytes::from(out), clock::now()).is_ok()
        });
        context.is_answered |= is_sent && code >= 200;
        is_sent
    }
}

impl Tx {
    /// The listener that a branch was sent from.
    pub(crate) fn branch_socket(&self, branch: u8) -> Option<tandem_module::transport::SocketId> {
        self.state.lock().branches.get(usize::from(branch)).map(|data| data.to.socket)
    }
}

impl TransactionApi for Tx {
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn method(&self) -> Method {
        self.method
    }

    fn add_hook(&self, hook: TmHook) {
        let mut state = self.state.lock();
        let old = state.hooks.take();
        state.hooks = Some(old.iter().flat_map(|old| old.iter().cloned()).chain([hook]).collect());
    }

    fn request(&self) -> Arc<StoredRequest> {
        self.state.lock().request.clone()
    }

    fn reply(self: Arc<Self>, context: &mut Context, code: u16, reason: &[u8]) -> bool {
        self.answer(context, code, reason, None)
    }
}

/// Timers of all transactions; the key is the id, with [`uac::TIMER_BIT`] for requests of our own.
pub(crate) struct Timers(pub(crate) NodeRef);

impl TimerHandler for Timers {
    fn on_timer(&self, key: u64, now: Instant) {
        clock::note(now);
        let Some(tm) = self.0.state::<Tm>() else { return };
        if key & uac::TIMER_BIT != 0 {
            return uac::on_timer(tm, key & !uac::TIMER_BIT, now);
        }
        let tx = match tm.table.entry_by_id(key) {
            Some(Entry::Live(tx)) => tx,
            Some(Entry::Settled(settled)) => return settled.on_timer(now),
            None => return,
        };
        tx.with(|state| {
            if state.armed.is_some_and(|armed| armed > now) {
                return;
            }
            state.armed = None;
            state.core.handle_timer(now);
        });
    }
}

/// For indexes kept beside the machine.
pub(crate) fn at(index: BranchIndex) -> usize {
    index.as_usize()
}
