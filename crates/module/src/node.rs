//! The process as modules see it: settings, sockets, services, module states. One `Node` lives as long as its process,
//! so a reference to it is `'static` and travels freely between threads.

use std::any::{Any, TypeId};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::RwLock;
use tandem_script::program::Program;
use tandem_script::surface::Surface;

use crate::blacklist::Blacklists;
use crate::cachedb::CacheRegistry;
use crate::call_order::CallOrder;
use crate::context::Context;
use crate::db::DbRegistry;
use crate::declare::{Function, ModuleDecl, ParamValues, ScriptNames, Setup, SetupError, State, Variable};
use crate::event::EventBus;
use crate::event_routes::Connected;
use crate::mi::{MiError, MiRegistry, MiReply};
use crate::run::ParkingLot;
use crate::settings::Settings;
use crate::stat::{CoreStats, StatRegistry};
use crate::transaction::TransactionLayer;
use crate::transport::{ConnId, LinkLayer, Proto, Resolver, Socket, SocketId, Source, Transport};
use crate::worker::Workers;
use crate::writes::Writes;

/// A node that lives as long as the process.
pub type NodeRef = &'static Node;

/// A name that counts as "myself" beside the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Protocol; any when `None`.
    pub proto: Option<Proto>,
    /// Host, lower case.
    pub host: String,
    /// Port; any when `None`.
    pub port: Option<u16>,
    /// Whether names below it count, too.
    pub accept_subdomain: bool,
}

/// Called when `loose_route()` has taken off our Route header, with its parameters (OpenSIPS: rr callbacks).
pub type RouteHook = fn(&mut Context, params: &[u8]);

/// Asked about every reply before anything else sees it; true takes it (replies to requests that keep no transaction).
pub type ReplyFilter = fn(&Context) -> bool;

/// Takes a cluster packet in.
pub type BinSink = Box<dyn Fn(NodeRef, Source, bytes::Bytes) + Send + Sync>;

/// Told of a closed connection.
pub type CloseSink = Box<dyn Fn(NodeRef, ConnId, SocketAddr, Proto, bool) + Send + Sync>;

/// Told of a connection that is established: its peer, its protocol, and whether this process opened it.
pub type OpenSink = Box<dyn Fn(NodeRef, SocketAddr, Proto, bool) + Send + Sync>;

/// Reads the script again and puts it in place (`reload_routes`).
pub type Reload = Box<dyn Fn(NodeRef) -> MiReply + Send + Sync>;

/// The process.
pub struct Node {
    /// Global parameters.
    pub settings: Settings,
    /// Events.
    pub events: EventBus,
    /// Management commands.
    pub mi: std::sync::Arc<MiRegistry>,
    /// Statistics.
    pub stats: StatRegistry,
    /// Those of the core that are counted in several places.
    pub core_stats: CoreStats,
    /// SQL databases.
    pub db: DbRegistry,
    /// Key-value stores.
    pub caches: CacheRegistry,
    /// Subscriptions of external programs to events.
    pub subscriptions: crate::subscription::Subscriptions,
    /// Destination blacklists.
    pub blacklists: Blacklists,
    /// Status and reports of the parts of the process.
    pub status: crate::status::StatusRegistry,
    /// Parked script runs.
    pub parked: ParkingLot,
    /// Calls in which scripts wait, and the messages that wait for their turn.
    pub call_order: CallOrder,
    /// Writes that a stopping process waits for.
    pub writes: Writes,
    pub(crate) event_routes: Connected,
    program: ArcSwap<Program>,
    surface: Surface,
    functions: Vec<Function>,
    variables: Vec<Variable>,
    modules: Vec<&'static ModuleDecl>,
    states: HashMap<TypeId, State>,
    sockets: OnceLock<Vec<Socket>>,
    aliases: RwLock<Vec<Alias>>,
    transport: OnceLock<Arc<dyn Transport>>,
    resolver: OnceLock<Arc<dyn Resolver>>,
    workers: OnceLock<Arc<dyn Workers>>,
    transactions: OnceLock<Arc<dyn TransactionLayer>>,
    route_hooks: RwLock<Vec<RouteHook>>,
    reply_filters: RwLock<Vec<ReplyFilter>>,
    bin_sink: OnceLock<BinSink>,
    link_layer: OnceLock<Arc<dyn LinkLayer>>,
    open_sinks: RwLock<Vec<OpenSink>>,
    close_sinks: RwLock<Vec<CloseSink>>,
    reload: OnceLock<Reload>,
    is_stopping: AtomicBool,
    started: Instant,
    started_unix: i64,
}

impl Node {
    /// The state that a module kept under its type.
    pub fn state<T: Any + Send + Sync>(&'static self) -> Option<&'static T> {
        self.states.get(&TypeId::of::<T>()).and_then(|state| state.downcast_ref())
    }

    /// The program that new runs begin with. What a message is doing already belongs to the program it began with: look
    /// routes up in [`Context::program`] wherever there is a context.
    pub fn program(&self) -> Arc<Program> {
        self.program.load_full()
    }

    /// Puts a new program in place; runs in flight keep the one they began with.
    pub fn set_program(&self, program: Arc<Program>) {
        self.program.store(program);
    }

    /// Set once by the engine, when it knows where the script came from.
    pub fn set_reload(&self, reload: Reload) {
        let _ = self.reload.set(reload);
    }

    /// Reads the script again and puts its routes in place of the running ones (OpenSIPS: core, reload_routes).
    pub fn reload_routes(&'static self) -> MiReply {
        match self.reload.get() {
            Some(reload) => reload(self),
            None => MiReply::Now(Err(MiError::new(500, "the script of this process did not come from a file"))),
        }
    }

    /// The process ends: what has begun may finish, new requests are refused.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Runs work that writes, which a stopping process waits for; false, and nothing done, before the workers exist.
    pub fn spawn_write(&'static self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Some(workers) = self.workers() else { return false };
        let writing = self.writes.begin();
        workers.spawn(Box::pin(async move {
            work.await;
            drop(writing);
        }));
        true
    }

    /// Whether the process is about to end.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// What scripts may use.
    pub fn surface(&self) -> &Surface {
        &self.surface
    }

    /// The function of that index.
    pub(crate) fn function(&self, id: tandem_script::surface::FunctionId) -> Option<&Function> {
        self.functions.get(usize::from(id.0))
    }

    /// The variable of that index.
    pub(crate) fn variable(&self, id: tandem_script::surface::VariableId) -> Option<&Variable> {
        self.variables.get(usize::from(id.0))
    }

    /// Loaded modules in order.
    pub fn modules(&self) -> &[&'static ModuleDecl] {
        &self.modules
    }

    /// Whether a module is loaded.
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.iter().any(|module| module.name == name)
    }

    /// All listeners; empty before they are open.
    pub fn sockets(&self) -> &[Socket] {
        self.sockets.get().map_or(&[], Vec::as_slice)
    }

    /// A listener.
    pub fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets().get(usize::from(id.0))
    }

    /// Told once when the listeners are open.
    pub fn set_sockets(&self, sockets: Vec<Socket>) {
        let _ = self.sockets.set(sockets);
    }

    /// The listener with the address that the system would send from to that peer, where `mhomed` is on (OpenSIPS: core,
    /// get_out_socket()).
    pub fn socket_by_route(&self, proto: Proto, to: SocketAddr) -> Option<&Socket> {
        let transport = self.transport().filter(|_| self.settings.is_multihomed)?;
        let ip = transport.local_address(to)?;
        self.sockets().iter().find(|socket| socket.proto == proto && socket.addr.ip() == ip)
    }

    /// The listener to send from to a peer of that family: `preferred` when it fits, else the first that does.
    pub fn socket_towards(&self, proto: Proto, to: SocketAddr, preferred: Option<SocketId>) -> Option<&Socket> {
        let fits = |socket: &&Socket| socket.proto == proto && socket.addr.is_ipv4() == to.is_ipv4();
        let preferred = preferred.and_then(|id| self.socket(id));
        if let Some(socket) = preferred.as_ref().filter(|socket| fits(socket)) {
            return Some(socket);
        }
        if let Some(socket) = self.socket_by_route(proto, to) {
            return Some(socket);
        }
        // Same address as the preferred one, another protocol: keeps multi-address hosts consistent.
        let same_ip = preferred.map(|socket| socket.addr.ip());
        let mut fitting = self.sockets().iter().filter(fits);
        fitting.clone().find(|socket| Some(socket.addr.ip()) == same_ip).or_else(|| fitting.next())
    }

    /// The listener written as `proto:ip[:port]` or `proto:host[:port]`, or by its tag.
    pub fn socket_named(&self, text: &[u8]) -> Option<&Socket> {
        let text = std::str::from_utf8(text).ok()?;
        self.sockets().iter().find(|socket| {
            socket.text.eq_ignore_ascii_case(text)
                || socket.tag.as_deref() == Some(text)
                || socket.text.rsplit_once(':').is_some_and(|(host, port)| {
                    port.parse() == Ok(socket.proto.default_port()) && host.eq_ignore_ascii_case(text)
                })
                || socket.advertised.as_ref().is_some_and(|(host, port)| {
                    format!("{}:{host}:{port}", socket.proto.name()).eq_ignore_ascii_case(text)
                })
        })
    }

    /// Whether host and port are this server (OpenSIPS: check_self()). IPv6 hosts may be in brackets. Port 0 or `None` matches any.
    pub fn is_myself(&self, host: &[u8], port: Option<u16>) -> bool {
        let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
        let port = port.filter(|port| *port != 0);
        let Ok(host) = std::str::from_utf8(host) else { return false };
        let by_socket = self.sockets().iter().any(|socket| self.is_known_as(socket, host, port));
        by_socket || self.aliases.read().iter().any(|alias| alias.matches(host, port))
    }

    /// Whether a listener goes by that host and port: what it is bound to or what it advertises, which is the global
    /// `advertised_address` and `advertised_port` when it has none of its own (OpenSIPS: grep_sock_info()).
    pub fn is_known_as(&self, socket: &Socket, host: &str, port: Option<u16>) -> bool {
        let (global_host, global_port) = &self.settings.advertised;
        let own = socket.advertised.as_ref();
        let shown_host = own.map(|(host, _)| host.as_str()).or(global_host.as_deref());
        let shown_port = own.map(|(_, port)| *port).or(*global_port);
        let is_host =
            host.parse() == Ok(socket.addr.ip()) || shown_host.is_some_and(|shown| shown.eq_ignore_ascii_case(host));
        is_host && port.is_none_or(|port| port == socket.addr.port() || Some(port) == shown_port)
    }

    /// Adds names that count as "myself".
    pub fn add_aliases(&self, aliases: impl IntoIterator<Item = Alias>) {
        self.aliases.write().extend(aliases);
    }

    /// The sockets' sending side.
    pub fn transport(&self) -> Option<&Arc<dyn Transport>> {
        self.transport.get()
    }

    /// Set once by the engine.
    pub fn set_transport(&self, transport: Arc<dyn Transport>) {
        let _ = self.transport.set(transport);
    }

    /// The resolver.
    pub fn resolver(&self) -> Option<&Arc<dyn Resolver>> {
        self.resolver.get()
    }

    /// Set once by the engine.
    pub fn set_resolver(&self, resolver: Arc<dyn Resolver>) {
        let _ = self.resolver.set(resolver);
    }

    /// The worker threads.
    pub fn workers(&self) -> Option<&Arc<dyn Workers>> {
        self.workers.get()
    }

    /// Set once by the engine.
    pub fn set_workers(&self, workers: Arc<dyn Workers>) {
        let _ = self.workers.set(workers);
    }

    /// The stateful layer; `None` without module `tm`.
    pub fn transactions(&self) -> Option<&Arc<dyn TransactionLayer>> {
        self.transactions.get()
    }

    /// Set once by module `tm`.
    pub fn set_transactions(&self, layer: Arc<dyn TransactionLayer>) {
        let _ = self.transactions.set(layer);
    }

    /// Adds a hook for `loose_route()`.
    pub fn add_route_hook(&self, hook: RouteHook) {
        self.route_hooks.write().push(hook);
    }

    /// The hooks.
    pub fn route_hooks(&self) -> Vec<RouteHook> {
        self.route_hooks.read().clone()
    }

    /// Adds a filter for replies.
    pub fn add_reply_filter(&self, filter: ReplyFilter) {
        self.reply_filters.write().push(filter);
    }

    /// Whether a module has taken the reply in `context` for itself.
    pub fn takes_reply(&self, context: &Context) -> bool {
        self.reply_filters.read().iter().any(|filter| filter(context))
    }

    /// Set once by module `clusterer`.
    pub fn set_bin_sink(&self, sink: BinSink) {
        let _ = self.bin_sink.set(sink);
    }

    /// A cluster packet came in; dropped when nobody wants it.
    pub fn on_bin_packet(&'static self, source: Source, packet: bytes::Bytes) {
        if let Some(sink) = self.bin_sink.get() {
            sink(self, source, packet);
        }
    }

    /// The byte layers of cluster connections; `None` leaves all of them plain.
    pub fn link_layer(&self) -> Option<&Arc<dyn LinkLayer>> {
        self.link_layer.get()
    }

    /// Set once by module `clusterer`, before the workers run.
    pub fn set_link_layer(&self, layer: Arc<dyn LinkLayer>) {
        let _ = self.link_layer.set(layer);
    }

    /// Adds one who is told of established connections.
    pub fn add_open_sink(&self, sink: OpenSink) {
        self.open_sinks.write().push(sink);
    }

    /// A connection is established; `is_own` when this process opened it.
    pub fn on_connection_opened(&'static self, peer: SocketAddr, proto: Proto, is_own: bool) {
        for sink in self.open_sinks.read().iter() {
            sink(self, peer, proto, is_own);
        }
    }

    /// Adds one who is told of closed connections.
    pub fn add_close_sink(&self, sink: CloseSink) {
        self.close_sinks.write().push(sink);
    }

    /// A connection ended, or could not be made (`was_open` is false then).
    pub fn on_connection_closed(&'static self, conn: ConnId, peer: SocketAddr, proto: Proto, was_open: bool) {
        for sink in self.close_sinks.read().iter() {
            sink(self, conn, peer, proto, was_open);
        }
    }

    /// When the process started.
    pub fn started(&self) -> (Instant, i64) {
        (self.started, self.started_unix)
    }
}

impl Alias {
    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        let port_fits = match (self.port, port) {
            (Some(own), Some(port)) => own == port,
            _ => true,
        };
        let host_fits = self.host.eq_ignore_ascii_case(host)
            || (self.accept_subdomain
                && host.len() > self.host.len()
                && host.to_ascii_lowercase().ends_with(&format!(".{}", self.host)));
        port_fits && host_fits
    }
}

/// Wall clock in Unix milliseconds.
pub fn unix_ms() -> i64 {
    crate::clock::unix_ms()
}

/// Wall clock in Unix seconds.
pub fn unix_secs() -> i64 {
    unix_ms() / 1000
}

/// Unix seconds now, or at `at` when that lies ahead (a timer's own moment).
pub fn unix_secs_at(at: Instant) -> i64 {
    let ahead = at.saturating_duration_since(crate::clock::now());
    (unix_ms() + ahead.as_millis() as i64) / 1000
}

/// Collects modules and their states, then makes the node.
#[derive(Default)]
pub struct NodeBuilder {
    surface: Surface,
    functions: Vec<Function>,
    variables: Vec<Variable>,
    modules: Vec<&'static ModuleDecl>,
    states: HashMap<TypeId, State>,
}

impl NodeBuilder {
    /// Adds a module's functions and variables to the surface. Call for `core` first.
    pub fn add_module(&mut self, module: &'static ModuleDecl) {
        for function in module.functions {
            self.surface.add_function(module.name, function.spec);
            self.functions.push(*function);
        }
        for variable in module.variables {
            self.surface.add_variable(module.name, variable.spec);
            self.variables.push(*variable);
        }
        for event in module.events {
            self.surface.add_event(event);
        }
        self.modules.push(module);
    }

    /// Notes functions and variables that a loaded module has in OpenSIPS and not here.
    pub fn surface_mut(&mut self) -> &mut Surface {
        &mut self.surface
    }

    /// The surface so far, for the compiler.
    pub fn surface(&self) -> &Surface {
        &self.surface
    }

    /// The modules so far.
    pub fn modules(&self) -> &[&'static ModuleDecl] {
        &self.modules
    }

    /// Runs the setup of one module.
    ///
    /// # Errors
    /// What its parameters lack.
    pub fn setup(
        &mut self,
        module: &'static ModuleDecl,
        params: &ParamValues,
        names: &mut dyn ScriptNames,
        settings: &Settings,
    ) -> Result<(), SetupError> {
        let mut setup = Setup::new(params, names, settings, &mut self.states);
        (module.setup)(&mut setup)
    }

    /// Makes the node. It is never freed.
    pub fn build(self, settings: Settings, program: Arc<Program>) -> NodeRef {
        let stats = StatRegistry::default();
        let node = Node {
            core_stats: CoreStats::new(&stats),
            stats,
            blacklists: Blacklists::of_script(&settings.blacklists),
            status: crate::status::StatusRegistry::default(),
            settings,
            events: EventBus::default(),
            mi: std::sync::Arc::default(),
            db: DbRegistry::default(),
            caches: CacheRegistry::default(),
            subscriptions: crate::subscription::Subscriptions::default(),
            parked: ParkingLot::default(),
            call_order: CallOrder::default(),
            writes: Writes::default(),
            event_routes: Connected::default(),
            program: ArcSwap::new(program),
            surface: self.surface,
            functions: self.functions,
            variables: self.variables,
            modules: self.modules,
            states: self.states,
            sockets: OnceLock::new(),
            aliases: RwLock::new(Vec::new()),
            transport: OnceLock::new(),
            resolver: OnceLock::new(),
            workers: OnceLock::new(),
            transactions: OnceLock::new(),
            route_hooks: RwLock::new(Vec::new()),
            reply_filters: RwLock::new(Vec::new()),
            bin_sink: OnceLock::new(),
            link_layer: OnceLock::new(),
            open_sinks: RwLock::new(Vec::new()),
            close_sinks: RwLock::new(Vec::new()),
            reload: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
            started: crate::clock::now(),
            started_unix: unix_secs(),
        };
        for module in &node.modules {
            for event in module.events {
                node.events.declare(event.name);
            }
            for stat in module.stats {
                node.stats.stat(module.name, stat.name);
            }
        }
        Box::leak(Box::new(node))
    }
}
