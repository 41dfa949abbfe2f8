//! Requests of our own: BYE of a dialog, keep-alives, `t_new_request()`, MI. One destination, all machines of the client
//! side, the local route before sending. How a 2xx of an INVITE is acknowledged is in `uac_ack`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState as FastState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rand::Rng as _;
use tandem_module::context::Context;
use tandem_module::node::NodeRef;
use tandem_module::outgoing::{self, NextHop, RouteError};
use tandem_module::run;
use tandem_module::transport::{Destination, SocketId, Source};
use tandem_module::worker;
use tandem_script::ast::RouteKind;
use tandem_script::avp::AvpList;
use tandem_script::vm::StartOptions;
use tandem_sip::{Message, Method, NameAddr, RequestBuilder, build_ack_non2xx, build_cancel};
use tandem_transaction::{ClientOutput, ClientState, ClientTransaction, Kind};

use super::local_routes::LocalRoutes;
use super::uac_ack::{Acks, Answered, Confirmed, InviteParts};
use super::{Tm, clock, table};

/// Set in timer keys of requests of our own.
pub(crate) const TIMER_BIT: u64 = 1 << 63;
/// Requests of our own that may be waiting for their final reply at the same time.
pub const REQUESTS_MAX: usize = 200_000;
const SHARDS: usize = 16;

/// A request to send. Bodies of From, To and Contact as they stand in the message.
#[derive(Clone, Debug)]
pub struct RequestSpec {
    /// Method.
    pub method: Vec<u8>,
    /// Request URI.
    pub uri: Vec<u8>,
    /// Next hop URI; without one the first route decides, else the request URI.
    pub next_hop: Option<Vec<u8>>,
    /// From; a tag is added when it has none.
    pub from: Vec<u8>,
    /// To.
    pub to: Vec<u8>,
    /// Call-ID; one is made when empty.
    pub call_id: Vec<u8>,
    /// CSeq number.
    pub cseq: u32,
    /// Route values, topmost first.
    pub routes: Vec<Vec<u8>>,
    /// Contact.
    pub contact: Option<Vec<u8>>,
    /// More header lines, each with its line end.
    pub headers: Vec<u8>,
    /// Type of the body.
    pub content_type: Vec<u8>,
    /// Body.
    pub body: Vec<u8>,
    /// Listener to send from.
    pub socket: Option<SocketId>,
    /// AVPs of the local route.
    pub avps: AvpList,
    /// The dialog it belongs to, for the local route.
    pub dialog: Option<Arc<dyn std::any::Any + Send + Sync>>,
    /// How long a final reply is waited for, in place of the `fr_timeout` of the module.
    pub fr_timeout: Option<Duration>,
}

impl Default for RequestSpec {
    fn default() -> RequestSpec {
        RequestSpec {
            method: b"OPTIONS".to_vec(),
            uri: Vec::new(),
            next_hop: None,
            from: Vec::new(),
            to: Vec::new(),
            call_id: Vec::new(),
            cseq: 1,
            routes: Vec::new(),
            contact: None,
            headers: Vec::new(),
            content_type: Vec::new(),
            body: Vec::new(),
            socket: None,
            avps: AvpList::new(),
            dialog: None,
            fr_timeout: None,
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub struct UacReply<'a> {
    /// The node.
    pub node: NodeRef,
    /// Final code: that of the reply, 408 without one in time, 478 when the name was not found, 477 when it could not be
    /// sent.
    pub code: u16,
    /// The reply; `None` for codes made here.
    pub reply: Option<&'a Message>,
}

/// Called once with the outcome, on some worker.
pub type UacDone = Box<dyn FnOnce(&UacReply<'_>) + Send>;

/// Why a request was not taken on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UacError {
    /// Module `tm` is not loaded.
    #[error("module tm is not loaded")]
    NoModule,
    /// The pieces make no SIP message.
    #[error("not a SIP request: {0}")]
    BadRequest(String),
    /// Where to.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// [`REQUESTS_MAX`] requests are open.
    #[error("too many requests of our own are open")]
    Full,
}

/// All requests of our own.
pub(crate) struct Uacs {
    shards: Vec<Mutex<HashMap<u64, Arc<Uac>, FastState>>>,
    count: AtomicUsize,
}

impl Default for Uacs {
    fn default() -> Uacs {
        Uacs { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), count: AtomicUsize::new(0) }
    }
}

impl Uacs {
    fn shard(&self, id: u64) -> Option<&Mutex<HashMap<u64, Arc<Uac>, FastState>>> {
        self.shards.get(id as usize % SHARDS)
    }

    fn by_id(&self, id: u64) -> Option<Arc<Uac>> {
        self.shard(id)?.lock().get(&id).cloned()
    }

    fn insert(&self, uac: &Arc<Uac>) {
        if self.shard(uac.id).is_some_and(|shard| shard.lock().insert(uac.id, uac.clone()).is_none()) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove(&self, id: u64) {
        if self.shard(id).is_some_and(|shard| shard.lock().remove(&id).is_some()) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn find(&self, fits: impl Fn(&Message) -> bool) -> Option<Arc<Uac>> {
        self.shards.iter().find_map(|shard| {
            let all: Vec<Arc<Uac>> = shard.lock().values().cloned().collect();
            all.into_iter().find(|uac| {
                let request = uac.state.lock().core.request().clone();
                Message::parse(request).is_ok_and(|request| fits(&request))
            })
        })
    }
}

/// A request on its way.
struct Uac {
    node: NodeRef,
    tm: &'static Tm,
    id: u64,
    method: Method,
    to: Destination,
    /// What the local route armed.
    routes: LocalRoutes,
    /// For an INVITE whose 2xx are acknowledged.
    invite: Option<InviteParts>,
    state: Mutex<UacState>,
}

struct UacState {
    core: ClientTransaction,
    done: Option<UacDone>,
    is_reported: bool,
    last_final: Option<Bytes>,
    ack: Bytes,
    acks: Acks,
    armed: Option<Instant>,
}

/// What is left to do when the lock is let go.
#[derive(Default)]
struct Outcome<'a> {
    /// Whom to tell what.
    report: Option<(Option<UacDone>, u16, Option<&'a Message>)>,
    /// A 2xx to an INVITE, and whether the outcome had been told before it.
    answer: Option<(&'a Message, bool)>,
}

impl Uac {
    /// Runs `input`, sends what follows, then reports the outcome if it is there; `reply` is the message in work.
    fn with(&self, reply: Option<&Message>, input: impl FnOnce(&mut UacState)) {
        let mut outcome = Outcome::default();
        {
            let mut state = self.state.lock();
            input(&mut state);
            while let Some(output) = state.core.poll_output() {
                self.act(&mut state, output, reply, &mut outcome);
            }
            self.arm(&mut state);
        }
        if let Some((answer, is_late)) = outcome.answer {
            self.acknowledge(answer, is_late);
        }
        let Some((done, code, reply)) = outcome.report else { return };
        if code >= 300 {
            let request = self.state.lock().core.request().clone();
            let nobody = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
            let Destination { proto, socket, .. } = self.to;
            let source = Source { src: nobody, dst: nobody, proto, socket, conn: None, at: clock::now() };
            self.routes.on_failure(self.node, source, request, code, reply);
        }
        if let Some(done) = done {
            done(&UacReply { node: self.node, code, reply });
        }
    }

    fn act<'a>(
        &self,
        state: &mut UacState,
        output: ClientOutput,
        reply: Option<&'a Message>,
        outcome: &mut Outcome<'a>,
    ) {
        let report = |outcome: &mut Outcome<'a>, state: &mut UacState, code, reply| {
            if !std::mem::replace(&mut state.is_reported, true) {
                outcome.report = Some((state.done.take(), code, reply));
            }
        };
        match output {
            ClientOutput::SendRequest { attempt } => {
                if attempt > 0 {
                    self.tm.count(|counters| counters.retransmission(attempt));
                }
                if !self.send(state.core.request()) && attempt == 0 {
                    state.core.handle_transport_error(clock::now());
                }
            }
            ClientOutput::Reply { code } if code >= 200 => {
                self.tm.count(|counters| counters.class(code));
                if self.method == Method::Invite && code < 300 {
                    outcome.answer = reply.map(|reply| (reply, state.is_reported));
                }
                report(outcome, state, code, reply);
            }
            ClientOutput::Reply { .. } => {}
            ClientOutput::SendAck => self.send_ack(state),
            ClientOutput::SendCancel { .. } => self.send_cancel(state),
            ClientOutput::Timeout => {
                self.tm.count(|counters| &counters.silent_timeouts);
                report(outcome, state, 408, None);
            }
            ClientOutput::TransportError => report(outcome, state, 477, None),
            ClientOutput::Terminated => self.tm.uacs.remove(self.id),
        }
    }

    fn arm(&self, state: &mut UacState) {
        let (Some(deadline), Some(workers)) = (state.core.poll_timeout(), self.node.workers()) else { return };
        let Some(class) = self.tm.class() else { return };
        if state.armed.is_none_or(|armed| armed > deadline) {
            state.armed = Some(deadline);
            workers.arm(class, self.id | TIMER_BIT, deadline);
        }
    }

    fn send(&self, bytes: &[u8]) -> bool {
        self.node.transport().is_some_and(|transport| transport.send(&self.to, bytes).is_ok())
    }

    fn send_ack(&self, state: &mut UacState) {
        if state.ack.is_empty() {
            let request = Message::parse(state.core.request().clone());
            let reply = state.last_final.clone().map(Message::parse);
            let (Ok(request), Some(Ok(reply))) = (request, reply) else { return };
            let mut out = Vec::with_capacity(512);
            if build_ack_non2xx(&request, &reply, &mut out).is_err() {
                return;
            }
            state.ack = out.into();
        }
        self.send(&state.ack);
    }

    /// Sends the ACK to a 2xx. `is_late`: nobody waits for this answer any more.
    fn acknowledge(&self, reply: &Message, is_late: bool) {
        let Some(parts) = &self.invite else { return };
        let tag = reply.to().ok().and_then(|to| to.tag()).unwrap_or_default().to_vec();
        let (answered, request) = {
            let mut state = self.state.lock();
            (state.acks.on_answer(&tag), state.core.request().clone())
        };
        match answered {
            Answered::Known(to, bytes) => send(self.node, &to, &bytes),
            Answered::PassedOver => {}
            Answered::New => {
                let confirmed = Message::parse(request).ok().and_then(|invite| Confirmed::of(&invite, parts, reply));
                let Some(confirmed) = confirmed else { return };
                let Uac { node, tm, id, .. } = *self;
                confirmed.make(node, self.to.socket, move |ack| {
                    if let Some((to, bytes)) = &ack {
                        send(node, to, bytes);
                    }
                    if let Some(uac) = tm.uacs.by_id(id) {
                        uac.state.lock().acks.set(&tag, ack);
                    }
                });
                if is_late {
                    confirmed.hang_up(node);
                }
            }
        }
    }

    fn send_cancel(&self, state: &UacState) {
        let Ok(request) = Message::parse(state.core.request().clone()) else { return };
        let mut out = Vec::with_capacity(512);
        if build_cancel(&request, &[], &mut out).is_ok() {
            self.send(&out);
        }
    }
}

fn send(node: NodeRef, to: &Destination, bytes: &[u8]) {
    let Some(transport) = node.transport() else { return };
    if let Err(error) = transport.send(to, bytes) {
        tracing::warn!("tm: ACK was not sent: {error}");
    }
}

/// A reply for the request `id` came in; gives the context back when there is no such request.
pub(crate) fn receive(tm: &'static Tm, id: u64, context: Box<Context>) -> Result<(), Box<Context>> {
    let Some(uac) = tm.uacs.by_id(id) else { return Err(context) };
    let is_for_cancel = context.message.cseq().is_ok_and(|(_, method, _)| method == Method::Cancel);
    // The routes have seen the final reply already when it is repeated.
    let is_over = matches!(uac.state.lock().core.state(), ClientState::Completed | ClientState::Accepted);
    if is_for_cancel || is_over {
        deliver(&uac, context);
    } else {
        let own = uac.clone();
        uac.routes.on_reply(context, move |mut context| {
            own.routes.give_back(&mut context);
            deliver(&own, context);
        });
    }
    Ok(())
}

fn deliver(uac: &Uac, context: Box<Context>) {
    let code = context.reply_code;
    let is_for_cancel = context.message.cseq().is_ok_and(|(_, method, _)| method == Method::Cancel);
    uac.with(Some(&context.message), |state| {
        if is_for_cancel && uac.method != Method::Cancel {
            return state.core.handle_cancel_reply(code, clock::now());
        }
        if code >= 300 {
            state.last_final = Some(context.message.buffer().clone());
        }
        state.core.handle_reply(code, clock::now());
    });
    context.recycle();
}

pub(crate) fn on_timer(tm: &'static Tm, id: u64, now: Instant) {
    let Some(uac) = tm.uacs.by_id(id) else { return };
    uac.with(None, |state| {
        if state.armed.is_none_or(|armed| armed <= now) {
            state.armed = None;
            state.core.handle_timer(now);
        }
    });
}

/// Sends a request that is written already, with the branch of `id` in its Via. With `invite` its 2xx are acknowledged.
pub(super) fn send_written(
    (node, tm, id): (NodeRef, &'static Tm, u64),
    method: Method,
    to: Destination,
    request: Bytes,
    routes: LocalRoutes,
    invite: Option<InviteParts>,
    done: Option<UacDone>,
) -> bool {
    if tm.uacs.count.load(Ordering::Relaxed) >= REQUESTS_MAX {
        if let Some(done) = done {
            done(&UacReply { node, code: 477, reply: None });
        }
        return false;
    }
    let kind = if method == Method::Invite { Kind::Invite } else { Kind::NonInvite };
    let mut config = tm.config;
    config.fr_timeout = routes.fr_timeout.unwrap_or(config.fr_timeout);
    // A 2xx is repeated for 64*T1 while its ACK is lost (RFC 3261 §13.3.1.4).
    config.timer_l = config.t1 * 64;
    let core = ClientTransaction::new(kind, request, to.proto.is_reliable(), &config, clock::now());
    let state = UacState {
        core,
        done,
        is_reported: false,
        last_final: None,
        ack: Bytes::new(),
        acks: Acks::default(),
        armed: None,
    };
    let uac = Arc::new(Uac { node, tm, id, method, to, routes, invite, state: Mutex::new(state) });
    tm.uacs.insert(&uac);
    tm.count(|counters| &counters.uac);
    uac.with(None, |_| {});
    true
}

/// Sends a request of our own; `done` is called once with its outcome, also when it could not be sent in the end. Runs the
/// local route first. Each 2xx of an INVITE is acknowledged. Gives the number of the request.
///
/// # Errors
/// When it is refused at once; `done` is not called then.
pub fn send_request(node: NodeRef, spec: RequestSpec, done: Option<UacDone>) -> Result<u64, UacError> {
    let tm = node.state::<Tm>().ok_or(UacError::NoModule)?;
    if tm.uacs.count.load(Ordering::Relaxed) >= REQUESTS_MAX {
        return Err(UacError::Full);
    }
    let message = build(node, &spec).map_err(UacError::BadRequest)?;
    let hop = outgoing::next_hop(node, &next_hop_uri(&spec), spec.socket)?;
    let id = tm.table.next_id();
    let RequestSpec { uri, routes, socket, avps, dialog, fr_timeout, .. } = spec;
    let invite = (message.method() == Method::Invite).then_some(InviteParts { uri, routes, socket });
    let launch = Launch { node, tm, id, message, socket, invite, avps, dialog, fr_timeout, done };
    match hop {
        NextHop::Known(addresses) => launch.go(&addresses),
        NextHop::Lookup(query) => launch.look_up(query),
    }
    Ok(id)
}

/// Cancels an INVITE of our own by its Call-ID and CSeq number; false when there is none.
pub(crate) fn cancel(tm: &'static Tm, call_id: &[u8], number: u32) -> bool {
    let found = tm.uacs.find(|request| {
        request.method() == Method::Invite
            && request.call_id().is_ok_and(|own| own == call_id)
            && request.cseq().is_ok_and(|(own, ..)| own == number)
    });
    let Some(uac) = found else { return false };
    uac.with(None, |state| state.core.cancel(clock::now()));
    true
}

fn next_hop_uri(spec: &RequestSpec) -> Vec<u8> {
    if let Some(hop) = &spec.next_hop {
        return hop.clone();
    }
    let route = spec.routes.first().and_then(|route| NameAddr::parse(route).ok());
    route.map_or_else(|| spec.uri.clone(), |route| route.uri.to_vec())
}

fn random_token() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

/// The `user_agent_header` line, unless the request has one or `server_signature` is off (OpenSIPS: core globals).
fn user_agent(node: NodeRef, headers: &[u8]) -> Vec<u8> {
    let has_own = headers
        .split(|byte| *byte == b'\n')
        .any(|line| line.get(..11).is_some_and(|name| name.eq_ignore_ascii_case(b"user-agent:")));
    let settings = &node.settings;
    if has_own || settings.server_header.is_none() || settings.user_agent_header.is_empty() {
        return Vec::new();
    }
    format!("{}\r\n", settings.user_agent_header).into_bytes()
}

/// The request without Via.
fn build(node: NodeRef, spec: &RequestSpec) -> Result<Message, String> {
    let user_agent = user_agent(node, &spec.headers);
    let mut from = spec.from.clone();
    if NameAddr::parse(&from).map_err(|error| format!("From: {error}"))?.tag().is_none() {
        from.extend_from_slice(b";tag=");
        from.extend_from_slice(random_token().as_bytes());
    }
    let call_id = if spec.call_id.is_empty() { random_token().into_bytes() } else { spec.call_id.clone() };
    let routes: Vec<&[u8]> = spec.routes.iter().map(Vec::as_slice).collect();
    let request = RequestBuilder {
        method: &spec.method,
        uri: &spec.uri,
        from: &from,
        to: &spec.to,
        call_id: &call_id,
        cseq: spec.cseq,
        routes: &routes,
        contact: spec.contact.as_deref(),
        headers: &[&spec.headers, &user_agent],
        content_type: (!spec.content_type.is_empty()).then_some(&spec.content_type),
        body: &spec.body,
        ..RequestBuilder::default()
    };
    Message::parse(request.build().into()).map_err(|error| error.to_string())
}

/// A request before it has been sent.
struct Launch {
    node: NodeRef,
    tm: &'static Tm,
    id: u64,
    message: Message,
    socket: Option<SocketId>,
    invite: Option<InviteParts>,
    avps: AvpList,
    dialog: Option<Arc<dyn std::any::Any + Send + Sync>>,
    fr_timeout: Option<Duration>,
    done: Option<UacDone>,
}

impl Launch {
    fn fail(self, code: u16) {
        if let Some(done) = self.done {
            done(&UacReply { node: self.node, code, reply: None });
        }
    }

    fn look_up(self, query: tandem_module::transport::NameQuery) {
        let node = self.node;
        let (Some(workers), Some(resolver)) = (node.workers(), node.resolver().cloned()) else { return self.fail(478) };
        let own = worker::current();
        workers.spawn(Box::pin(async move {
            let found = resolver.lookup(query).await;
            if let Some(workers) = node.workers() {
                workers.post(own, Box::new(move |_| self.go(&found)));
            }
        }));
    }

    fn go(mut self, addresses: &[(tandem_module::transport::Proto, std::net::SocketAddr)]) {
        let node = self.node;
        let Some(first) = addresses.first() else { return self.fail(478) };
        let preferred = self.socket.unwrap_or(SocketId(0));
        let nobody = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let mut source =
            Source { src: nobody, dst: nobody, proto: first.0, socket: preferred, conn: None, at: clock::now() };
        let to = addresses.iter().find_map(|address| outgoing::destination(node, &source, self.socket, *address).ok());
        let Some(to) = to else { return self.fail(477) };
        source.socket = to.socket;
        let mut context = Context::empty(node, source);
        context.message = std::mem::take(&mut self.message);
        context.kind = RouteKind::Local;
        context.avps = std::mem::take(&mut self.avps);
        context.dialog = self.dialog.take();
        match context.program().local() {
            Some(route) => {
                let after = Box::new(move |context: Box<Context>, _| self.send(context, to));
                run::queue(context, route, StartOptions::new(RouteKind::Local), after);
            }
            None => self.send(context, to),
        }
    }

    fn send(self, mut context: Box<Context>, to: Destination) {
        let edits = &context.edits;
        if outgoing::is_blocked(self.node, &context.message, &context.source, edits, &edits.target, &to) {
            context.recycle();
            return self.fail(473);
        }
        let Launch { node, tm, id, done, fr_timeout, invite, .. } = self;
        let mut branch = smallvec::SmallVec::<[u8; 48]>::new();
        table::write_branch(id, 0, &mut branch);
        let mut out = Vec::with_capacity(context.message.buffer().len() + 256);
        let (message, source, edits) = (&context.message, &context.source, &context.edits);
        outgoing::write_branch(node, message, source, edits, &edits.target, &to, &branch, &mut out);
        let method = message.method();
        let routes = LocalRoutes::take(&mut context, fr_timeout);
        context.recycle();
        let request = Bytes::from(out);
        tm.shown.request(node, &to, &request);
        send_written((node, tm, id), method, to, request, routes, invite, done);
    }
}
