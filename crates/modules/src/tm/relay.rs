//! `t_relay()`: targets become branches one after the other, each through its branch route and the resolver. ACK and CANCEL
//! are in `forward`.

use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::edits::{Edits, Target};
use tandem_module::outgoing::{self, NextHop, RouteError};
use tandem_module::run::{self, Pending};
use tandem_module::transaction::TmMoment;
use tandem_module::transport::Proto;
use tandem_script::ast::RouteKind;
use tandem_script::avp::AvpList;
use tandem_script::value::Text;
use tandem_script::vm::StartOptions;
use tandem_sip::Method;

use super::act::Sketch;
use super::layer::{self, Created, own_tx};
use super::tx::{BranchData, Spare, Telling, Tx};
use super::{clock, forward};

/// Codes of `t_relay()` (OpenSIPS: tm).
pub(crate) const FAILED: i32 = -1;
/// The request cannot be parsed well enough.
pub(crate) const BAD_REQUEST: i32 = -2;
/// No branch, or the request was cancelled.
pub(crate) const NO_DESTINATION: i32 = -3;
/// A name that cannot be resolved, a URI that is none.
pub(crate) const BAD_DESTINATION: i32 = -4;
/// The transport refused.
pub(crate) const SEND_FAILED: i32 = -6;
/// The destination is on a blacklist in use.
pub(crate) const FILTERED: i32 = -5;

/// What `t_relay()` is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RelayFlags {
    /// `no-auto-477`: the script answers when nothing could be sent.
    pub(crate) no_auto_477: bool,
    /// `no-dns-failover`.
    pub(crate) no_dns_failover: bool,
    /// `pass-reason-hdr`.
    pub(crate) pass_reason: bool,
    /// `allow-no-cancel`.
    pub(crate) allow_no_cancel: bool,
}

/// Relays the request of `context`; `proxy` is the next hop of targets that have none of their own.
pub(crate) fn relay(context: &mut Context, proxy: Option<Text>, flags: RelayFlags) -> Called {
    match context.message.method() {
        Method::Ack => return forward::relay_ack(context, proxy),
        Method::Cancel if forward::cancelled(context).is_some() => {
            return forward::relay_cancel(context, flags.pass_reason);
        }
        _ => {}
    }
    // The last one goes out first: a stack.
    let mut targets: SmallVec<[Target; 1]> = context.edits.branches.drain(..).rev().collect();
    targets.push(context.edits.target.clone());
    if let Some(proxy) = &proxy {
        for target in targets.iter_mut().filter(|target| target.dst_uri.is_none()) {
            target.dst_uri = Some(proxy.clone());
        }
    }
    let (tx, is_own) = match layer::ensure(context, flags.allow_no_cancel) {
        Created::New(tx) => (tx, true),
        Created::Known(tx) => (tx, false),
        // A retransmission that overtook admission: the first one is being worked on.
        Created::Repeated => return Called::Done(0),
        Created::Overloaded => return Called::Exit,
        Created::Bad => return Called::Done(BAD_REQUEST),
    };
    let avps = context.avps.clone();
    let first = {
        let mut state = tx.state.lock();
        state.avps = avps;
        state.has_newer_avps = false;
        state.relaying = state.relaying.saturating_add(1);
        state.core.branch_count()
    };
    if context.kind == RouteKind::Request {
        layer::send_trying(context, &tx);
    }
    Job { tx, targets, first, is_own, is_last: false, flags, error: NO_DESTINATION, is_dropped: false }.next(context)
}

/// Adds branches to a running transaction (OpenSIPS: tm, t_inject_branches()).
pub(crate) fn inject(context: &mut Context, tx: Arc<Tx>, targets: SmallVec<[Target; 1]>, is_last: bool) -> Called {
    let flags = RelayFlags { no_auto_477: true, ..RelayFlags::default() };
    let first = {
        let mut state = tx.state.lock();
        state.relaying = state.relaying.saturating_add(1);
        state.core.branch_count()
    };
    Job { tx, targets, first, is_own: false, is_last, flags, error: NO_DESTINATION, is_dropped: false }.next(context)
}

/// Set up while a branch route runs, for what it arms on its branch alone.
#[derive(Default)]
pub(crate) struct BranchArmed {
    pub(crate) on_reply: Option<Box<str>>,
    pub(crate) avps: Option<Box<AvpList>>,
}

/// Targets that are still to be sent; the last one comes next.
struct Job {
    tx: Arc<Tx>,
    targets: SmallVec<[Target; 1]>,
    /// Number of branches before it began.
    first: usize,
    is_own: bool,
    /// Nobody waits for further branches afterwards.
    is_last: bool,
    flags: RelayFlags,
    error: i32,
    /// A branch route took a branch back.
    is_dropped: bool,
}

/// One target on its way.
struct Step {
    target: Target,
    armed: Option<Box<BranchArmed>>,
    /// Edits to go back to behind a branch route.
    outer: Option<Box<Edits>>,
}

impl Job {
    fn next(mut self, context: &mut Context) -> Called {
        let Some(target) = self.targets.pop() else { return self.finish(context) };
        let (route, index) = {
            let state = self.tx.state.lock();
            if state.core.check_new_branch().is_err() {
                drop(state);
                self.error = NO_DESTINATION;
                self.targets.clear();
                return self.finish(context);
            }
            (state.on_branch.clone(), state.core.next_branch_index())
        };
        let route = route.and_then(|name| context.program().route(RouteKind::Branch, &name));
        let Some(route) = route else { return self.resolve(context, Step { target, armed: None, outer: None }) };
        // The branch route sees its own target and copies of everything else; what it changes is of this branch only.
        let outer = Box::new(context.edits.clone());
        context.edits.target = target;
        let kind = std::mem::replace(&mut context.kind, RouteKind::Branch);
        let branch = context.branch.replace(index.0);
        context.set_slot(BranchArmed::default());
        run::nested(context, route, StartOptions::new(RouteKind::Branch), move |context, end| {
            context.kind = kind;
            context.branch = branch;
            let armed = context.take_slot::<BranchArmed>();
            if end.is_dropped {
                context.edits = *outer;
                self.is_dropped = true;
                return self.next(context);
            }
            let target = context.edits.target.clone();
            self.resolve(context, Step { target, armed, outer: Some(outer) })
        })
    }

    /// Finds the addresses of the target, then adds the branch.
    fn resolve(mut self, context: &mut Context, step: Step) -> Called {
        let uri = outgoing::next_hop_uri(&context.message, &step.target);
        let hop = outgoing::next_hop(context.node, uri, step.target.socket);
        match hop {
            Ok(NextHop::Known(addresses)) => {
                self.add(context, step, &addresses);
                self.next(context)
            }
            Ok(NextHop::Lookup(query)) => {
                let Some(resolver) = context.node.resolver().cloned() else {
                    self.error = BAD_DESTINATION;
                    restore(context, step.outer);
                    return self.next(context);
                };
                Pending::job(context.node, resolver.lookup(query), move |context, found| {
                    self.add(context, step, &found.unwrap_or_default());
                    self.next(context)
                })
            }
            Err(error) => {
                tracing::debug!(%error, "a branch has no destination");
                self.error = match error {
                    RouteError::NoSocket(_) => SEND_FAILED,
                    _ => BAD_DESTINATION,
                };
                restore(context, step.outer);
                self.next(context)
            }
        }
    }

    fn add(&mut self, context: &mut Context, step: Step, addresses: &[(Proto, SocketAddr)]) {
        let Step { target, armed, outer } = step;
        if let Err(error) = self.try_add(context, target, armed, addresses) {
            self.error = error;
        }
        restore(context, outer);
    }

    fn try_add(
        &self,
        context: &Context,
        target: Target,
        armed: Option<Box<BranchArmed>>,
        addresses: &[(Proto, SocketAddr)],
    ) -> Result<(), i32> {
        if addresses.is_empty() {
            return Err(BAD_DESTINATION);
        }
        let (node, tx) = (context.node, &self.tx);
        let socket_of =
            |address: &(Proto, SocketAddr)| outgoing::destination(node, &context.source, target.socket, *address).ok();
        let mut failure = SEND_FAILED;
        let mut allowed = |address: &(Proto, SocketAddr)| {
            let to = socket_of(address)?;
            let is_blocked =
                outgoing::is_blocked(node, &context.message, &context.source, &context.edits, &target, &to);
            if is_blocked {
                failure = FILTERED;
            }
            (!is_blocked).then_some(to)
        };
        let found = addresses.iter().enumerate().find_map(|(at, address)| Some((at, allowed(address)?)));
        let (at, to) = found.ok_or(failure)?;
        let told = self.tell_request_out(context);
        let edits = told.as_ref().unwrap_or(&context.edits);
        let others = addresses.get(at + 1..).unwrap_or_default();
        let spare = (!others.is_empty() && !self.flags.no_dns_failover)
            .then(|| Box::new(Spare { addresses: others.iter().rev().copied().collect(), edits: edits.clone() }));
        let armed = armed.map(|armed| *armed).unwrap_or_default();
        let added = tx.with(|state| {
            let sketch = Sketch { message: &context.message, source: &context.source, edits, target: &target };
            let request = tx.write_request(state, &sketch, &to);
            let spec = tx.spec(request, &to, &target);
            let data = BranchData { on_reply: armed.on_reply, avps: armed.avps, spare, ..BranchData::new(to, target) };
            tx.add_branch(state, spec, data, clock::now())
        });
        let index = added.map_err(|error| {
            tracing::debug!(%error, "a branch was not added");
            NO_DESTINATION
        })?;
        let is_dropped = tx.state.lock().core.branch(index).is_some_and(tandem_transaction::Branch::is_dropped);
        if is_dropped { Err(SEND_FAILED) } else { Ok(()) }
    }

    /// Hooks may edit the request of the next branch.
    fn tell_request_out(&self, context: &Context) -> Option<Edits> {
        let index = {
            let state = self.tx.state.lock();
            if !state.has_hooks() {
                return None;
            }
            state.core.next_branch_index()
        };
        let mut edits = context.edits.clone();
        let telling = Telling { branch: Some(index.0), edits: Some(&mut edits), ..Telling::default() };
        self.tx.tell_unlocked(TmMoment::RequestOut, telling);
        Some(edits)
    }

    /// All targets are through: what was sent decides, else who answers.
    fn finish(self, context: &mut Context) -> Called {
        let is_sent = self.tx.with(|state| {
            state.relaying = state.relaying.saturating_sub(1);
            if self.is_last {
                state.core.wait_no_more_branches(clock::now());
            }
            state.core.branches().skip(self.first).any(|(_, branch)| !branch.is_dropped())
        });
        if is_sent {
            return Called::Done(1);
        }
        let answers_itself = self.is_dropped || (self.is_own && !self.flags.no_auto_477);
        if !answers_itself || context.kind != RouteKind::Request {
            return Called::Done(self.error);
        }
        let (code, reason) = match self.error {
            _ if self.is_dropped => (500, &b"Server Internal Error"[..]),
            FILTERED => (473, &b"Filtered destination"[..]),
            SEND_FAILED => (477, &b"Send failed (477/TM)"[..]),
            BAD_DESTINATION => (478, &b"Unresolvable destination (478/TM)"[..]),
            _ => (500, &b"Server Internal Error"[..]),
        };
        let is_answered = self.tx.answer(context, code, reason, None);
        Called::Done(if is_answered { 1 } else { self.error })
    }
}

fn restore(context: &mut Context, outer: Option<Box<Edits>>) {
    if let Some(outer) = outer {
        context.edits = *outer;
    }
}

/// `t_newtran()`.
pub(crate) fn new_transaction(context: &mut Context) -> Called {
    if context.message.method() == Method::Ack || own_tx(context).is_some() {
        return Called::Done(FAILED);
    }
    match layer::ensure(context, false) {
        Created::New(tx) | Created::Known(tx) => {
            layer::send_trying(context, &tx);
            Called::Done(1)
        }
        Created::Repeated => Called::Done(0),
        Created::Overloaded => Called::Exit,
        Created::Bad => Called::Done(FAILED),
    }
}
