//! One worker: takes messages off the sockets, starts the script for requests, hands replies to the stateful layer, runs
//! timers and posted work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tandem_module::context::Context;
use tandem_module::node::NodeRef;
use tandem_module::run;
use tandem_module::stat::Stat;
use tandem_module::transaction::Admission;
use tandem_module::transport::{ConnId, Source};
use tandem_module::worker::{Task, WorkerId, Workers};
use tandem_net::{Closed, ConnectionInfo, Direction, Handler, Inbound, Io, Mailbox};
use tandem_script::ast::RouteKind;
use tandem_script::vm::StartOptions;
use tandem_sip::Method;

use crate::shed::{Limits, Shed};
use crate::spread::Spread;
use crate::timers::{self, Fired};
use crate::transport::{module_proto, module_socket};
use crate::workers::Pool;

/// Queued tasks run before the sockets are looked at again.
const TASKS_PER_TURN_MAX: usize = 1024;

/// The loop's logic for one worker thread.
pub(crate) struct Worker {
    node: NodeRef,
    pool: Arc<Pool>,
    mailbox: Arc<Mailbox<Task>>,
    inbox: VecDeque<Task>,
    fired: Vec<Fired>,
    front: Front,
    spread: Spread,
    number: u32,
}

/// The way of one SIP message from its parsing on; any worker can walk it for another.
#[derive(Clone)]
struct Front {
    node: NodeRef,
    counters: Arc<Counters>,
    shed: Shed,
}

struct Counters {
    requests: Arc<Stat>,
    replies: Arc<Stat>,
    bad_messages: Arc<Stat>,
    bad_requests: Arc<Stat>,
    bad_replies: Arc<Stat>,
    absorbed: Arc<Stat>,
}

impl Counters {
    /// A message that cannot be used.
    fn bad(&self, is_reply: bool) {
        self.bad_messages.inc();
        if is_reply { self.bad_replies.inc() } else { self.bad_requests.inc() }
    }
}

/// The way of one message through a node that has no sockets: scripts under test go exactly the way of the server.
#[derive(Clone)]
pub struct Inlet(Front);

impl Inlet {
    /// For a node whose modules are initialised.
    pub fn new(node: NodeRef) -> Inlet {
        Inlet(Front::new(node, Limits::default()))
    }

    /// Takes a message in on the calling thread, which must be a worker ([`tandem_module::worker::enter`]).
    pub fn take(&self, context: Box<Context>) {
        self.0.handle(context);
    }
}

impl Worker {
    /// Sets the calling thread up as worker `index`.
    pub(crate) fn enter(
        index: usize,
        node: NodeRef,
        pool: Arc<Pool>,
        mailbox: Arc<Mailbox<Task>>,
        limits: Limits,
    ) -> Worker {
        tandem_module::worker::enter(WorkerId(index as u16));
        timers::enter(Instant::now());
        let front = Front::new(node, limits);
        let spread = Spread::new(index, usize::from(pool.count()));
        Worker { node, pool, mailbox, inbox: VecDeque::new(), fired: Vec::new(), front, spread, number: 0 }
    }

    fn source(inbound: &Inbound) -> Source {
        Source {
            src: inbound.src,
            dst: inbound.dst,
            proto: module_proto(inbound.proto),
            socket: module_socket(inbound.socket),
            conn: inbound.conn.map(|conn| ConnId(conn.as_u64())),
            at: inbound.at,
        }
    }

    fn on_sip(&mut self, inbound: Inbound) {
        let source = Self::source(&inbound);
        self.number = self.number.wrapping_add(1);
        let is_reply = inbound.bytes.starts_with(b"SIP/");
        match Context::receive(self.node, source, inbound.bytes) {
            Ok(mut context) => {
                context.number = self.number;
                let call_id = context.message.call_id().unwrap_or_default();
                match self.spread.hand_over(call_id) {
                    None => self.front.handle(context),
                    Some((worker, unfinished)) => {
                        let Some(context) = self.front.shed.handed_over(context, unfinished.count()) else { return };
                        let front = self.front.clone();
                        // A full mailbox drops the message and counts it.
                        self.pool.post(
                            worker,
                            Box::new(move |_| {
                                let _until_handled = unfinished;
                                front.handle(context);
                            }),
                        );
                    }
                }
            }
            Err(error) => {
                self.front.counters.bad(is_reply);
                tracing::debug!(src = %source.src, %error, "message dropped: it cannot be parsed");
            }
        }
    }

    fn run_queued(&mut self) {
        let now = Instant::now();
        for _ in 0..TASKS_PER_TURN_MAX {
            match timers::next_queued() {
                Some(task) => guarded(self.node, || task(now)),
                None => return,
            }
        }
        // More is waiting: come back at once, after the sockets had their turn.
        let nothing: Task = Box::new(|_| {});
        let _ = self.mailbox.push(nothing);
    }
}

impl Front {
    fn new(node: NodeRef, limits: Limits) -> Front {
        let counters = Counters {
            requests: node.stats.stat("core", "rcv_requests"),
            replies: node.stats.stat("core", "rcv_replies"),
            bad_messages: node.stats.stat("core", "bad_msg_hdr"),
            bad_requests: node.stats.stat("core", "err_requests"),
            bad_replies: node.stats.stat("core", "err_replies"),
            absorbed: node.stats.stat("core", "absorbed_requests"),
        };
        Front { node, counters: Arc::new(counters), shed: Shed::new(node, limits) }
    }

    fn handle(&self, context: Box<Context>) {
        if context.is_request() { self.on_request(context) } else { self.on_reply(context) }
    }

    fn on_request(&self, mut context: Box<Context>) {
        self.counters.requests.inc();
        if tandem_module::reply::absorbs_local_ack(&context) {
            self.counters.absorbed.inc();
            return context.recycle();
        }
        if !has_mandatory_headers(&context) {
            self.counters.bad(false);
            // RFC 3261 §8.2.2: answered when there is enough of a request to answer, else dropped.
            tandem_module::reply::reply_stateless(&mut context, 400, b"Bad Request");
            return context.recycle();
        }
        if let Some(layer) = self.node.transactions()
            && layer.admit(&mut context) == Admission::Absorbed
        {
            self.counters.absorbed.inc();
            return context.recycle();
        }
        context.kind = RouteKind::Request;
        let Err(context) = self.node.call_order.wait_behind(context, |context| {
            let front = self.clone();
            Box::new(move |_| front.on_held_request(context))
        }) else {
            return;
        };
        self.start(context);
    }

    /// The turn of a request has come that had to wait for earlier ones of its call.
    fn on_held_request(&self, mut context: Box<Context>) {
        // It may have been sent again meanwhile; of an ACK everything has been told at its arrival.
        if context.message.method() != Method::Ack
            && let Some(layer) = self.node.transactions()
            && layer.admit(&mut context) == Admission::Absorbed
        {
            self.counters.absorbed.inc();
            return context.recycle();
        }
        self.start(context);
    }

    fn start(&self, context: Box<Context>) {
        let Some(mut context) = self.shed.request(context) else { return };
        let Some(route) = context.program().main_route() else { return context.recycle() };
        let mut options = StartOptions::new(RouteKind::Request);
        options.can_park = context.message.method() != Method::Ack;
        run::start(context, route, options, Box::new(run::end_of_request));
    }

    fn on_reply(&self, mut context: Box<Context>) {
        self.counters.replies.inc();
        if self.node.takes_reply(&context) {
            return context.recycle();
        }
        context.kind = RouteKind::OnReply;
        let Err(context) = self.node.call_order.wait_behind(context, |context| {
            let front = self.clone();
            Box::new(move |_| front.pass_reply(context))
        }) else {
            return;
        };
        self.pass_reply(context);
    }

    fn pass_reply(&self, context: Box<Context>) {
        match self.node.transactions() {
            Some(layer) => layer.on_reply(context),
            None => tandem_module::reply::forward_stateless(context),
        }
    }
}

/// Runs `work`; a panic in it costs what it worked on and is counted, not the worker.
fn guarded(node: NodeRef, work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        node.stats.stat("core", "panics").inc();
        tracing::error!("internal error while handling one message; only that message is lost. Please report it.");
    }
}

/// The headers without which a request cannot be processed (RFC 3261 §8.1.1).
fn has_mandatory_headers(context: &Context) -> bool {
    let message = &context.message;
    message.top_via().is_ok()
        && message.from().is_ok()
        && message.to().is_ok()
        && message.call_id().is_ok()
        && message.cseq().is_ok_and(|(_, _, method)| method == message.method_bytes())
}

impl Handler for Worker {
    fn on_message(&mut self, inbound: Inbound, _io: &Io) {
        guarded(self.node, || self.on_sip(inbound));
        self.run_queued();
    }

    fn on_batch_end(&mut self, _io: &Io) {
        self.spread.new_turn();
    }

    fn on_bin_packet(&mut self, inbound: Inbound, _io: &Io) {
        guarded(self.node, || self.node.on_bin_packet(Self::source(&inbound), inbound.bytes));
        self.run_queued();
    }

    fn on_connection_opened(&mut self, info: &ConnectionInfo, _io: &Io) {
        let is_own = info.direction == Direction::Opened;
        self.node.on_connection_opened(info.remote, module_proto(info.proto), is_own);
        self.run_queued();
    }

    fn on_connection_closed(&mut self, closed: Closed, _io: &Io) {
        let info = &closed.info;
        let (conn, proto) = (ConnId(info.conn.as_u64()), module_proto(info.proto));
        self.node.on_connection_closed(conn, info.remote, proto, closed.was_open);
        self.run_queued();
    }

    fn on_wakeup(&mut self, _io: &Io) {
        self.mailbox.drain_into(&mut self.inbox);
        let now = Instant::now();
        while let Some(task) = self.inbox.pop_front() {
            guarded(self.node, || task(now));
        }
        self.run_queued();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        timers::next_deadline()
    }

    fn on_timeout(&mut self, now: Instant, _io: &Io) {
        timers::take_due(now, &mut self.fired);
        let mut due = std::mem::take(&mut self.fired);
        for fired in due.drain(..) {
            match fired {
                Fired::Task(task) => guarded(self.node, || task(now)),
                Fired::Keyed(class, key) => {
                    if let Some(handler) = self.pool.class(class) {
                        guarded(self.node, || handler.on_timer(key, now));
                    }
                }
            }
        }
        self.fired = due;
        self.run_queued();
    }
}
