//! A node for tests: a script text is loaded through the real parser, compiler and module tables, messages go in as bytes,
//! what would be sent is recorded, time moves by hand. Everything runs on the calling thread; no socket is opened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::type_complexity)]
// Each test binary uses a part of it, under its own name.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod load;
mod logs;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_module::context::Context;
use tandem_module::event::Event;
use tandem_module::mi::{MiParams, MiReply, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::run::{self, End};
use tandem_module::transaction::Admission;
use tandem_module::transport::{
    ConnId, Destination, NameQuery, Proto, Resolver, SendError, SocketId, Source, StreamConnection, Transport,
};
use tandem_module::worker::WorkerId;
use tandem_script::ast::{Dialect, EventMode, RouteKind};
use tandem_script::program::Program;
use tandem_script::value::Text;
use tandem_script::vm::StartOptions;
use tandem_sip::Method;

pub use logs::{LogLine, take_logs};
pub use workers::ManualWorkers;

/// Where messages come from when the test does not say.
pub const PEER: &str = "127.0.3.9:5099";
/// The listener of a script without `socket=`.
pub const LISTENER: &str = "udp:127.0.3.1:5071";

/// A message the node has sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Where to.
    pub to: Destination,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Sent {
    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The first line.
    pub fn first_line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    /// The message, parsed.
    pub fn message(&self) -> tandem_sip::Message {
        tandem_sip::Message::parse(Bytes::from(self.bytes.clone())).expect("the node sent no SIP message")
    }
}

/// Records what is sent.
#[derive(Default)]
pub struct Recorder {
    sent: Mutex<Vec<Sent>>,
    /// Cluster packets: protocol, peer, local address, bytes.
    bin: Mutex<Vec<(Proto, SocketAddr, std::net::IpAddr, Vec<u8>)>>,
    /// Cluster listeners that refuse every packet at once.
    pub refused_bin: Mutex<Vec<SocketAddr>>,
    aliases: Mutex<Vec<(ConnId, u16)>>,
    /// The address that the system would send from, by destination; unknown where there is none.
    pub routes: Mutex<HashMap<std::net::IpAddr, std::net::IpAddr>>,
    /// Connections to be kept, and for how long.
    pub kept: Mutex<Vec<(ConnId, std::time::Duration)>>,
    /// The stream connections that are shown; a closed one goes.
    pub connections: Mutex<Vec<StreamConnection>>,
}

impl Transport for Recorder {
    fn send(&self, to: &Destination, bytes: &[u8]) -> Result<(), SendError> {
        self.sent.lock().push(Sent { to: *to, bytes: bytes.to_vec() });
        Ok(())
    }

    fn send_bin(&self, proto: Proto, to: SocketAddr, from: std::net::IpAddr, bytes: &[u8]) -> Result<(), SendError> {
        if self.refused_bin.lock().contains(&to) {
            return Err(SendError::Failed { addr: to, reason: "the test says so".to_owned() });
        }
        self.bin.lock().push((proto, to, from, bytes.to_vec()));
        Ok(())
    }

    fn send_on(&self, conn: ConnId, bytes: &[u8]) -> Result<(), SendError> {
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let to = Destination { proto: Proto::Tcp, addr: nobody, socket: SocketId(0), conn: Some(conn) };
        self.send(&to, bytes)
    }

    fn close_bin(&self, _to: SocketAddr) {}

    fn connections(&self) -> Vec<StreamConnection> {
        self.connections.lock().clone()
    }

    fn close_connection(&self, conn: ConnId) {
        self.connections.lock().retain(|known| known.conn != conn);
    }

    fn add_alias(&self, conn: ConnId, port: u16) {
        self.aliases.lock().push((conn, port));
    }

    fn keep_connection(&self, conn: ConnId, span: std::time::Duration) {
        self.kept.lock().push((conn, span));
    }

    fn local_address(&self, to: SocketAddr) -> Option<std::net::IpAddr> {
        self.routes.lock().get(&to.ip()).copied()
    }
}

/// Names for the resolver of a rig; unknown ones do not exist.
#[derive(Default)]
pub struct Names {
    known: Mutex<HashMap<String, Vec<(Proto, SocketAddr)>>>,
    /// Names that are answered only by a lookup, not from the cache.
    is_slow: Mutex<bool>,
}

impl Resolver for Names {
    fn cached(&self, query: &NameQuery) -> Option<Vec<(Proto, SocketAddr)>> {
        if *self.is_slow.lock() {
            return None;
        }
        Some(self.find(query))
    }

    fn lookup(&self, query: NameQuery) -> tandem_module::db::BoxFuture<Vec<(Proto, SocketAddr)>> {
        let found = self.find(&query);
        Box::pin(async move { found })
    }
}

impl Names {
    fn find(&self, query: &NameQuery) -> Vec<(Proto, SocketAddr)> {
        let mut found = self.known.lock().get(&query.host).cloned().unwrap_or_default();
        for (proto, addr) in &mut found {
            *proto = query.proto.unwrap_or(*proto);
            addr.set_port(query.port.unwrap_or(addr.port()));
        }
        found
    }
}

/// A node under test.
pub struct Rig {
    /// The node.
    pub node: NodeRef,
    /// What it sends.
    pub recorder: Arc<Recorder>,
    /// Its only worker: this thread.
    pub workers: Arc<ManualWorkers>,
    /// Its resolver.
    pub names: Arc<Names>,
    number: std::cell::Cell<u32>,
}

/// How to load a script into a rig.
#[derive(Clone, Copy, Debug, Default)]
pub struct RigOptions {
    /// The rules; detected when `None`.
    pub dialect: Option<Dialect>,
}

impl Rig {
    /// Loads and starts a script; panics with the diagnostics when it is refused.
    pub fn script(text: &str) -> Rig {
        Rig::try_script(text, RigOptions::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Loads and starts a script in a dialect; panics with the diagnostics when it is refused.
    pub fn script_in(dialect: Dialect, text: &str) -> Rig {
        Rig::try_script(text, RigOptions { dialect: Some(dialect) }).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Loads and starts a script.
    pub fn try_script(text: &str, options: RigOptions) -> Result<Rig, String> {
        let loaded = load::load(text, options.dialect)?;
        Rig::start(loaded.node, loaded.sockets)
    }

    fn start(node: NodeRef, sockets: Vec<tandem_module::transport::Socket>) -> Result<Rig, String> {
        logs::install();
        tandem_module::worker::enter(WorkerId(0));
        let recorder = Arc::new(Recorder::default());
        let workers = Arc::new(ManualWorkers::default());
        let names = Arc::new(Names::default());
        node.set_transport(recorder.clone());
        node.set_resolver(names.clone());
        node.set_workers(workers.clone());
        for module in node.modules() {
            (module.init)(node).map_err(|error| format!("module {}: {error}", module.name))?;
        }
        node.set_sockets(sockets);
        tandem_module::event_routes::connect(node);
        for module in node.modules() {
            (module.start)(node).map_err(|error| format!("module {}: {error}", module.name))?;
        }
        let rig = Rig { node, recorder, workers, names, number: std::cell::Cell::new(0) };
        run::start_alone(node, RouteKind::Startup, Program::startup);
        start_timers(node, &rig.workers);
        rig.settle();
        Ok(rig)
    }

    /// Puts another script in place of the running one, as `reload_routes` does: its routes only, compiled for the modules
    /// that are there.
    pub fn reload(&self, text: &str) -> Result<(), String> {
        let program = load::recompile(text, &self.node.program())?;
        self.node.set_program(Arc::new(program));
        tandem_module::event_routes::connect(self.node);
        Ok(())
    }

    /// Takes a UDP datagram from [`PEER`] in, runs everything it causes, and gives what was sent.
    pub fn receive(&self, bytes: impl AsRef<[u8]>) -> Vec<Sent> {
        self.receive_from(PEER, bytes)
    }

    /// The same from another address.
    pub fn receive_from(&self, peer: &str, bytes: impl AsRef<[u8]>) -> Vec<Sent> {
        self.receive_at(self.source(peer), bytes)
    }

    fn source(&self, peer: &str) -> Source {
        let socket = &self.node.sockets()[0];
        Source {
            src: peer.parse().unwrap(),
            dst: socket.addr,
            proto: socket.proto,
            socket: socket.id,
            conn: None,
            at: self.now(),
        }
    }

    /// The same with everything said about where it came from.
    pub fn receive_at(&self, source: Source, bytes: impl AsRef<[u8]>) -> Vec<Sent> {
        self.take_in(source, bytes.as_ref());
        self.settle();
        self.take_sent()
    }

    /// Takes a datagram from [`PEER`] in without waiting for what others have not done yet; gives what was sent so far.
    pub fn receive_now(&self, bytes: impl AsRef<[u8]>) -> Vec<Sent> {
        self.take_in(self.source(PEER), bytes.as_ref());
        self.workers.run_ready();
        self.take_sent()
    }

    fn take_in(&self, source: Source, bytes: &[u8]) {
        self.number.set(self.number.get() + 1);
        if let Ok(mut context) = Context::receive(self.node, source, Bytes::copy_from_slice(bytes)) {
            context.number = self.number.get();
            if context.is_request() { self.request(context) } else { self.reply(context) }
        }
    }

    fn request(&self, mut context: Box<Context>) {
        if tandem_module::reply::absorbs_local_ack(&context) {
            return context.recycle();
        }
        if let Some(layer) = self.node.transactions()
            && layer.admit(&mut context) == Admission::Absorbed
        {
            return context.recycle();
        }
        let Some(route) = context.program().main_route() else { return context.recycle() };
        context.kind = RouteKind::Request;
        let mut options = StartOptions::new(RouteKind::Request);
        options.can_park = context.message.method() != Method::Ack;
        run::start(context, route, options, Box::new(run::end_of_request));
    }

    fn reply(&self, mut context: Box<Context>) {
        if self.node.takes_reply(&context) {
            return context.recycle();
        }
        if let Some(layer) = self.node.transactions() {
            return layer.on_reply(context);
        }
        // Without a stateful layer: the global reply route; stateless forwarding belongs to the engine.
        context.kind = RouteKind::OnReply;
        match context.program().global_onreply() {
            None => context.recycle(),
            Some(route) => {
                let options = StartOptions::new(RouteKind::OnReply);
                run::start(context, route, options, Box::new(|context, _| context.recycle()));
            }
        }
    }

    /// A context over a request as a function under test sees it, without running the script.
    pub fn context(&self, bytes: impl AsRef<[u8]>) -> Box<Context> {
        Context::receive(self.node, self.source(PEER), Bytes::copy_from_slice(bytes.as_ref()))
            .expect("not a SIP message")
    }

    /// Runs queued work and finished futures until nothing is left to do now.
    pub fn settle(&self) {
        self.workers.settle();
    }

    /// Moves time forward, firing timers in order; gives what was sent.
    pub fn advance(&self, span: Duration) -> Vec<Sent> {
        self.workers.advance(span);
        self.take_sent()
    }

    /// The present moment of the rig.
    pub fn now(&self) -> Instant {
        self.workers.now()
    }

    /// What was sent since the last look.
    pub fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.recorder.sent.lock())
    }

    /// Cluster packets sent since the last look.
    pub fn take_bin(&self) -> Vec<(Proto, SocketAddr, std::net::IpAddr, Vec<u8>)> {
        std::mem::take(&mut self.recorder.bin.lock())
    }

    /// `xlog` lines since the last look.
    pub fn xlogs(&self) -> Vec<String> {
        take_logs().into_iter().filter(|line| line.is_xlog).map(|line| line.text).collect()
    }

    /// Makes a name known to the resolver: `addr` for its own transport and port.
    pub fn add_name(&self, host: &str, proto: Proto, addr: &str) {
        self.names.known.lock().entry(host.to_owned()).or_default().push((proto, addr.parse().unwrap()));
    }

    /// Whether names are answered by a lookup (the script has to wait) and not from the cache.
    pub fn set_slow_names(&self, is_slow: bool) {
        *self.names.is_slow.lock() = is_slow;
    }

    /// Runs a management command; one that answers later is waited for.
    pub fn mi(&self, name: &str, params: MiParams) -> MiResult {
        match self.node.mi.run(name, params) {
            MiReply::Now(result) => result,
            MiReply::Later(future) => self.workers.wait_for(future),
        }
    }

    /// Raises an event and runs what it causes; gives how many waits it woke.
    pub fn raise(&self, event: Event) -> usize {
        let woken = self.node.events.raise(self.node, event, None);
        self.settle();
        woken
    }
}

fn start_timers(node: NodeRef, workers: &Arc<ManualWorkers>) {
    for timer in node.program().timers() {
        let span = Duration::from_secs(u64::from(timer.interval_secs));
        let name = node.program().route_info(timer.route).and_then(|info| info.name.clone()).unwrap_or_default();
        tick(node, workers.clone(), name, span, workers.now() + span);
    }
}

fn tick(node: NodeRef, workers: Arc<ManualWorkers>, name: Box<str>, span: Duration, at: Instant) {
    let again = workers.clone();
    let task = move |_: Instant| {
        run::start_alone(node, RouteKind::Timer, |program| program.route(RouteKind::Timer, &name));
        tick(node, again, name, span, at + span);
    };
    workers.add_timer(at, Box::new(task));
}
