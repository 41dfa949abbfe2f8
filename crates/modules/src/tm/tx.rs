//! One transaction: the state machine, what belongs to its branches, and carrying out what the machine asks for. All
//! sends happen under its lock (they never block), so that a 200 cannot overtake its 180; routes and hooks run outside.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tandem_module::context::Context;
use tandem_module::edits::Target;
use tandem_module::node::{self, NodeRef};
use tandem_module::reply;
use tandem_module::transaction::{StoredRequest, TmEvent, TmHook, TmMoment, Transaction as TransactionApi};
use tandem_module::transport::Destination;
use tandem_module::worker::TimerHandler;
use tandem_script::avp::AvpList;
use tandem_sip::{Lumps, Message, Method, TransactionKey, build_ack_non2xx, build_cancel, write_reply_upstream};
use tandem_transaction::{BranchIndex, Output, Transaction};

use super::{Tm, failure};

/// A reply received, with what the reply routes changed.
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) lumps: Lumps,
}

/// What belongs to one branch beside the machine.
pub(crate) struct BranchData {
    pub(crate) to: Destination,
    pub(crate) target: Target,
    /// Armed in its branch route.
    pub(crate) on_reply: Option<Box<str>>,
    /// The negative final reply to acknowledge.
    pub(crate) last_final: Option<Bytes>,
}

/// Everything that changes.
pub(crate) struct State {
    pub(crate) core: Transaction<Arc<Received>>,
    pub(crate) request: Arc<StoredRequest>,
    pub(crate) avps: AvpList,
    pub(crate) branches: SmallVec<[BranchData; 1]>,
    pub(crate) hooks: SmallVec<[TmHook; 0]>,
    pub(crate) on_failure: Option<Box<str>>,
    pub(crate) on_reply: Option<Box<str>>,
    pub(crate) on_branch: Option<Box<str>>,
    armed: Option<Instant>,
}

/// A transaction.
pub(crate) struct Tx {
    pub(crate) node: NodeRef,
    pub(crate) id: u64,
    pub(crate) key: TransactionKey,
    pub(crate) method: Method,
    pub(crate) state: Mutex<State>,
}

/// What has to happen after the lock is let go.
pub(crate) enum Later {
    /// Run the failure route for this best branch and code.
    Failure(Option<BranchIndex>, u16),
    /// Tell the hooks.
    Hook(TmMoment, u16, Option<Arc<Received>>, Option<u8>),
}

pub(crate) type Todo = SmallVec<[Later; 2]>;

impl State {
    pub(crate) fn new(core: Transaction<Arc<Received>>, request: Arc<StoredRequest>) -> State {
        State {
            core,
            request,
            avps: AvpList::new(),
            branches: SmallVec::new(),
            hooks: SmallVec::new(),
            on_failure: None,
            on_reply: None,
            on_branch: None,
            armed: None,
        }
    }
}

impl Tx {
    /// Runs `input` on the machine and carries out what follows.
    pub(crate) fn with<T>(self: &Arc<Tx>, input: impl FnOnce(&mut State) -> T) -> T {
        let mut todo = Todo::new();
        let result = {
            let mut state = self.state.lock();
            let result = input(&mut state);
            self.drain(&mut state, &mut todo);
            result
        };
        self.run(todo);
        result
    }

    fn drain(self: &Arc<Tx>, state: &mut State, todo: &mut Todo) {
        let now = Instant::now();
        while let Some(output) = state.core.poll_output() {
            match output {
                Output::SendRequest { branch, .. } => self.send_request(state, branch, now),
                Output::SendReply { .. } => self.send_reply(state, now),
                Output::ForwardReply { branch, code, reply, is_last_reply } => {
                    self.forward_reply(state, code, &reply, is_last_reply);
                    tell(state, todo, code, Some(reply), Some(branch.0));
                }
                Output::LocalReply { code, .. } => {
                    self.local_reply(state, code, now);
                    tell(state, todo, code, None, None);
                }
                Output::AllBranchesFailed { best, code } => {
                    if !state.hooks.is_empty() {
                        todo.push(Later::Hook(TmMoment::Failure, code, None, best.map(|branch| branch.0)));
                    }
                    if state.on_failure.is_some() {
                        state.core.hold();
                        todo.push(Later::Failure(best, code));
                    } else {
                        state.core.fail_over_done(now);
                    }
                }
                Output::SendAck { branch } => self.send_ack(state, branch),
                Output::SendCancel { branch, .. } => self.send_cancel(state, branch),
                Output::BranchTimeout { .. } | Output::ReplyAbsorbed { .. } => {}
                Output::Terminated => {
                    if let Some(tm) = self.node.state::<Tm>() {
                        tm.table.remove(self);
                    }
                    if !state.hooks.is_empty() {
                        todo.push(Later::Hook(TmMoment::Deleted, 0, None, None));
                    }
                }
            }
        }
        self.arm(state);
    }

    fn arm(&self, state: &mut State) {
        let (Some(deadline), Some(workers)) = (state.core.poll_timeout(), self.node.workers()) else { return };
        let Some(class) = self.node.state::<Tm>().and_then(Tm::class) else { return };
        // One timer per transaction: a later deadline is looked up when the armed one fires.
        if state.armed.is_none_or(|armed| armed > deadline) {
            state.armed = Some(deadline);
            workers.arm(class, self.id, deadline);
        }
    }

    fn run(self: &Arc<Tx>, todo: Todo) {
        for later in todo {
            match later {
                Later::Failure(best, code) => failure::run(self, best, code),
                Later::Hook(moment, code, reply, branch) => self.tell_hooks(moment, code, reply.as_deref(), branch),
            }
        }
    }

    pub(crate) fn tell_hooks(self: &Arc<Tx>, moment: TmMoment, code: u16, reply: Option<&Received>, branch: Option<u8>) {
        let (hooks, request) = {
            let state = self.state.lock();
            (state.hooks.clone(), state.request.clone())
        };
        let transaction: Arc<dyn TransactionApi> = self.clone();
        let local_to_tag = reply::to_tag(&request.message);
        for hook in hooks {
            hook(&mut TmEvent {
                moment,
                node: self.node,
                transaction: &transaction,
                request: &request,
                reply: reply.map(|reply| &reply.message),
                code,
                local_to_tag: &local_to_tag,
                branch,
                unix_ms: node::unix_ms(),
                edits: None,
            });
        }
    }

    fn send(&self, to: &Destination, bytes: &[u8]) -> bool {
        match self.node.transport().map(|transport| transport.send(to, bytes)) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::debug!(%error, "a message of a transaction was not sent");
                false
            }
            None => false,
        }
    }

    fn send_request(&self, state: &mut State, branch: BranchIndex, now: Instant) {
        let Some(data) = state.branches.get(branch.as_usize()) else { return };
        let Some(request) = state.core.branch(branch).map(|branch| branch.request().clone()) else { return };
        if !request.is_empty() && !self.send(&data.to, &request) {
            state.core.handle_transport_error(branch, now);
        }
    }

    fn reply_to(state: &State) -> Destination {
        let request = &state.request;
        reply::reply_destination(&request.message, &request.source, request.edits.force_rport)
    }

    fn send_reply(&self, state: &mut State, now: Instant) {
        let bytes = state.core.last_reply().clone();
        if !self.send(&Self::reply_to(state), &bytes) {
            state.core.handle_reply_transport_error(now);
        }
    }

    fn forward_reply(&self, state: &mut State, code: u16, received: &Received, is_last_reply: bool) {
        let to = Self::reply_to(state);
        let mut out = Vec::with_capacity(received.message.buffer().len());
        write_reply_upstream(&received.message, &received.lumps, true, to.proto.is_reliable(), &mut out);
        if code == 503 && self.node.settings.translates_503 {
            // RFC 3261 §16.7 step 6: a 503 is about the hop it came from.
            if let Some(digits) = out.get_mut(8..11) {
                digits.copy_from_slice(b"500");
            }
        }
        let bytes = Bytes::from(out);
        self.send(&to, &bytes);
        if is_last_reply {
            state.core.set_last_reply(bytes);
        }
        if let Some(tm) = self.node.state::<Tm>() {
            tm.count(|counters| &counters.relayed);
        }
    }

    fn local_reply(&self, state: &mut State, code: u16, now: Instant) {
        let request = &state.request;
        let mut out = Vec::with_capacity(512);
        let tag = reply::to_tag(&request.message);
        let tag = (code > 100).then_some(&tag[..]);
        if reply::write_reply_to(self.node, request, code, b"", tag, &mut out).is_ok() {
            // Refused only when another final reply was first.
            let _ = state.core.respond_local(code, Bytes::from(out), now);
        }
        if let Some(tm) = self.node.state::<Tm>() {
            tm.count(|counters| &counters.local);
        }
    }

    fn send_ack(&self, state: &mut State, branch: BranchIndex) {
        let Some(data) = state.branches.get(branch.as_usize()) else { return };
        let Some(machine) = state.core.branch(branch) else { return };
        let mut ack = machine.ack().clone();
        if ack.is_empty() {
            let invite = Message::parse(machine.request().clone());
            let reply = data.last_final.clone().map(Message::parse);
            let (Ok(invite), Some(Ok(reply))) = (invite, reply) else { return };
            let mut out = Vec::with_capacity(512);
            if build_ack_non2xx(&invite, &reply, &mut out).is_err() {
                return;
            }
            ack = Bytes::from(out);
        }
        self.send(&data.to, &ack);
        state.core.set_ack(branch, ack);
    }

    fn send_cancel(&self, state: &mut State, branch: BranchIndex) {
        let Some(data) = state.branches.get(branch.as_usize()) else { return };
        let Some(machine) = state.core.branch(branch) else { return };
        let mut cancel = machine.cancel().clone();
        if cancel.is_empty() {
            let Ok(invite) = Message::parse(machine.request().clone()) else { return };
            let mut out = Vec::with_capacity(512);
            if build_cancel(&invite, &[], &mut out).is_err() {
                return;
            }
            cancel = Bytes::from(out);
        }
        self.send(&data.to, &cancel);
        state.core.set_cancel(branch, cancel);
    }
}

fn tell(state: &State, todo: &mut Todo, code: u16, reply: Option<Arc<Received>>, branch: Option<u8>) {
    if state.hooks.is_empty() {
        return;
    }
    todo.push(Later::Hook(TmMoment::ReplyOut, code, reply.clone(), branch));
    if code >= 200 {
        todo.push(Later::Hook(TmMoment::Completed, code, reply, branch));
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
        self.state.lock().hooks.push(hook);
    }

    fn request(&self) -> Arc<StoredRequest> {
        self.state.lock().request.clone()
    }

    fn reply(self: Arc<Self>, context: &mut Context, code: u16, reason: &[u8]) -> bool {
        let tag = reply::to_tag(&context.message);
        let tag = (code > 100).then_some(&tag[..]);
        let mut out = Vec::with_capacity(512);
        if reply::write_reply(context, code, reason, tag, None, &mut out).is_err() {
            return false;
        }
        let mut todo = Todo::new();
        let is_sent = {
            let mut state = self.state.lock();
            let is_sent = state.core.respond_local(code, Bytes::from(out), Instant::now()).is_ok();
            if is_sent {
                tell(&state, &mut todo, code, None, None);
            }
            self.drain(&mut state, &mut todo);
            is_sent
        };
        self.run(todo);
        if is_sent {
            context.is_answered |= code >= 200;
            if let Some(tm) = self.node.state::<Tm>() {
                tm.count(|counters| &counters.local);
            }
        }
        is_sent
    }
}

/// Timers of all transactions; the key is the id.
pub(crate) struct Timers(pub(crate) NodeRef);

impl TimerHandler for Timers {
    fn on_timer(&self, key: u64, now: Instant) {
        let Some(tx) = self.0.state::<Tm>().and_then(|tm| tm.table.by_id(key)) else { return };
        tx.with(|state| {
            if state.armed.is_some_and(|armed| armed > now) {
                return;
            }
            state.armed = None;
            state.core.handle_timer(now);
        });
    }
}
