//! The process-wide half: listeners, connections, sending from any thread. The receiving loops are in `worker`.

mod opening;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token, Waker};
use parking_lot::Mutex;
use socket2::{SockAddr, Socket};

use crate::config::{ListenSpec, NetConfig};
use crate::connection::{Connection, ConnectionInfo};
use crate::error::{BindError, CloseReason, SendError};
use crate::filter::FilterFactory;
use crate::handler::Closed;
use crate::listener::Listener;
use crate::mailbox::{WakeState, WorkerWaker};
use crate::proto::{ConnId, Proto, SocketId};
use crate::stats::{Counter, Counters, ProtoStats};
use crate::sys;
use crate::table::ConnectionTable;

/// Worker loops in one process.
const WORKERS_MAX: usize = 256;
/// Listeners in one process.
const LISTENERS_MAX: usize = 1024;
/// Largest payload of a UDP datagram over IPv4.
const UDP_BYTES_MAX: usize = 65_507;

/// Event tokens below this are listeners; connections start here.
pub(crate) const FIRST_CONNECTION_TOKEN: u64 = 1 << 16;
/// The event token of wake-ups.
pub(crate) const WAKE_TOKEN: Token = Token(u16::MAX as usize);

/// Where a message for a stream transport goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The transport.
    pub proto: Proto,
    /// The peer's address and port. For BIN the address of the peer's listener.
    pub dst: SocketAddr,
    /// The listener whose address new connections are bound to and whose connections may be reused; `None` takes any
    /// connection and the first listener of the transport and address family.
    pub socket: Option<SocketId>,
    /// The connection to use if it still exists (RFC 3261 §18.2.2, RFC 5626); tried before anything else.
    pub conn: Option<ConnId>,
    /// Whether a connection may be opened when none fits (`tcp_no_new_conn_rplflag`, `tcp_no_new_conn_bflag`).
    pub may_connect: bool,
}

impl Target {
    /// A new message to a peer: reuse a connection to exactly that address, else open one.
    pub fn new(proto: Proto, dst: SocketAddr, socket: Option<SocketId>) -> Self {
        Target { proto, dst, socket, conn: None, may_connect: true }
    }

    /// An answer: the connection of the question, else one to its source address; never a new one.
    pub fn reply(proto: Proto, src: SocketAddr, conn: ConnId) -> Self {
        Target { proto, dst: src, socket: None, conn: Some(conn), may_connect: false }
    }
}

/// What another thread asks a worker to do.
pub(crate) enum Command {
    /// A connection was registered with the worker.
    Adopt(Arc<Connection>),
    /// A connection of the worker was closed.
    Closed(Arc<Connection>, Box<Closed>),
    /// The loops must end.
    Look,
}

pub(crate) struct WorkerSlot {
    pub(crate) poll: Mutex<Option<Poll>>,
    pub(crate) wake: Arc<WakeState>,
    pub(crate) counters: Counters,
    pub(crate) commands: Mutex<Vec<Command>>,
    registry: Registry,
}

impl WorkerSlot {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKE_TOKEN)?;
        Ok(WorkerSlot {
            poll: Mutex::new(Some(poll)),
            wake: Arc::new(WakeState::new(waker)),
            counters: Counters::default(),
            commands: Mutex::new(Vec::new()),
            registry,
        })
    }
}

/// All sockets of the process. Share it in an `Arc`; every method may be called from any thread.
pub struct Network {
    config: NetConfig,
    listeners: Vec<Listener>,
    pub(crate) slots: Vec<WorkerSlot>,
    table: ConnectionTable,
    /// Held while a connection is being opened so that two threads do not open two to the same peer.
    opening: Mutex<()>,
    filters: Option<Arc<dyn FilterFactory>>,
    next_conn: AtomicU64,
    next_worker: AtomicUsize,
    started: Instant,
    shutdown: AtomicBool,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Network {
    /// Opens all listeners; the first that fails is reported by name. [`SocketId`] is the position in `specs`.
    pub fn bind(config: NetConfig, specs: Vec<ListenSpec>) -> Result<Arc<Network>, BindError> {
        Network::bind_with(config, specs, None)
    }

    /// Like [`Network::bind`] with a byte layer for encrypted transports.
    pub fn bind_with(
        config: NetConfig,
        specs: Vec<ListenSpec>,
        filters: Option<Arc<dyn FilterFactory>>,
    ) -> Result<Arc<Network>, BindError> {
        if config.workers == 0 || config.workers > WORKERS_MAX {
            return Err(BindError::Limit { what: "workers", max: WORKERS_MAX, value: config.workers });
        }
        if specs.is_empty() || specs.len() > LISTENERS_MAX {
            return Err(BindError::Limit { what: "listeners", max: LISTENERS_MAX, value: specs.len() });
        }
        let mut listeners = Vec::with_capacity(specs.len());
        for (id, spec) in (0_u16..).zip(specs) {
            let available = match spec.proto {
                Proto::Udp | Proto::Tcp | Proto::Bin => true,
                Proto::Tls | Proto::Bins => filters.as_ref().is_some_and(|factory| factory.supports(spec.proto)),
                Proto::Ws | Proto::Wss => false,
            };
            if !available {
                return Err(BindError::NotAvailable { listener: spec.to_string(), proto: spec.proto });
            }
            listeners.push(Listener::bind(SocketId(id), spec, &config)?);
        }
        let mut slots = Vec::with_capacity(config.workers);
        for worker in 0..config.workers {
            let failed = |source| BindError::Worker { worker, source };
            let slot = WorkerSlot::new().map_err(failed)?;
            register_listeners(&slot.registry, worker, &listeners).map_err(failed)?;
            slots.push(slot);
        }
        Ok(Arc::new(Network {
            table: ConnectionTable::new(config.connections_max),
            config,
            listeners,
            slots,
            opening: Mutex::new(()),
            filters,
            next_conn: AtomicU64::new(FIRST_CONNECTION_TOKEN),
            next_worker: AtomicUsize::new(0),
            started: Instant::now(),
            shutdown: AtomicBool::new(false),
        }))
    }

    /// The configuration given at bind time.
    pub fn config(&self) -> &NetConfig {
        &self.config
    }

    /// Number of worker loops.
    pub fn workers(&self) -> usize {
        self.slots.len()
    }

    /// All listeners in the order of their ids.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// One listener.
    pub fn listener(&self, socket: SocketId) -> Option<&Listener> {
        self.listeners.get(socket.index())
    }

    /// The listener bound to exactly this address.
    pub fn find_listener(&self, proto: Proto, local: SocketAddr) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.spec().proto == proto && listener.local() == local)
    }

    /// The first listener that can send to `dst`: same transport, same address family. A listener on a loopback address
    /// is taken for another host only when there is nothing else.
    pub fn socket_for(&self, proto: Proto, dst: SocketAddr) -> Option<SocketId> {
        let fits = |listener: &&Listener| listener.spec().proto == proto && listener.local().is_ipv4() == dst.is_ipv4();
        let reaches = |listener: &&Listener| listener.local().ip().is_loopback() == dst.ip().is_loopback();
        let best = self.listeners.iter().filter(fits).find(reaches);
        best.or_else(|| self.listeners.iter().find(fits)).map(Listener::id)
    }

    /// A handle to wake a worker; clamps to the last worker when the index is too large.
    pub fn waker(&self, worker: usize) -> WorkerWaker {
        WorkerWaker::new(Arc::clone(&self.slot(worker).wake))
    }

    /// Ends all worker loops; connections are closed when the last reference to the network goes.
    pub fn shutdown(&self) {
        self.shutdown.store(true, Ordering::SeqCst);
        for worker in 0..self.slots.len() {
            self.command(worker, Command::Look);
        }
    }

    /// True after [`Network::shutdown`].
    pub fn is_shut_down(&self) -> bool {
        self.shutdown.load(Ordering::SeqCst)
    }

    /// The counters of a transport, summed over all workers.
    pub fn stats(&self, proto: Proto) -> ProtoStats {
        let mut total = ProtoStats::default();
        for slot in &self.slots {
            slot.counters.add_to(proto, &mut total);
        }
        total
    }

    /// Number of stream connections, those being opened included.
    pub fn connection_count(&self) -> usize {
        self.table.len()
    }

    /// All stream connections, in no particular order.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.table.select(|_| true).iter().map(|connection| connection.info()).collect()
    }

    /// One stream connection, while it exists.
    pub fn connection(&self, conn: ConnId) -> Option<ConnectionInfo> {
        self.table.by_id(conn).map(|connection| connection.info())
    }

    /// Sends a datagram. When the system's buffer is full it is tried once more and then lost, as UDP may.
    pub fn send_udp(&self, socket: SocketId, dst: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.send_datagram(0, socket, None, dst, bytes)
    }

    /// Like [`Network::send_udp`], from a chosen local address when the listener is a wildcard.
    pub fn send_udp_from(&self, socket: SocketId, from: IpAddr, dst: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.send_datagram(0, socket, Some(from), dst, bytes)
    }

    /// Sends a message over a stream: over `target.conn`, else over a connection to `target.dst`, else over a new one if
    /// allowed. `Ok` means written or queued; later failures come as [`crate::Handler::on_connection_closed`].
    pub fn send_stream(&self, target: &Target, bytes: &[u8]) -> Result<ConnId, SendError> {
        let worker = self.next_worker.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.send_stream_on(worker, target, bytes)
    }

    /// Opens a connection unless there is one to exactly that address; true when there is one that is established. How a new
    /// one goes is told by [`crate::Handler::on_connection_opened`] or [`crate::Handler::on_connection_closed`].
    pub fn connect(&self, target: &Target) -> Result<bool, SendError> {
        let worker = self.next_worker.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.open_unless_there(worker, target).map(|connection| connection.is_open())
    }

    /// Lets a connection also be found under another port of its peer (OpenSIPS: `force_tcp_alias()`). False when the
    /// connection is gone or has too many aliases. Only do this for peers that are trusted with that port.
    pub fn add_alias(&self, conn: ConnId, port: u16) -> bool {
        self.table.add_alias(conn, port)
    }

    /// Closes a connection; queued bytes are lost. False when it is already gone.
    pub fn close(&self, conn: ConnId) -> bool {
        self.table.by_id(conn).is_some_and(|connection| self.close_connection(&connection, CloseReason::Local))
    }

    /// Keeps a connection open for `span` from now, however silent it is; a zero span takes the wish back. False when it is
    /// already gone.
    pub fn keep(&self, conn: ConnId, span: std::time::Duration) -> bool {
        let until = self.started().elapsed() + span;
        let until_ms = if span.is_zero() { 0 } else { u64::try_from(until.as_millis()).unwrap_or(u64::MAX) };
        self.table.by_id(conn).map(|connection| connection.keep_until(until_ms)).is_some()
    }

    /// Closes all connections of a transport whose remote address and port are `remote`; returns how many.
    pub fn close_connections_to(&self, proto: Proto, remote: SocketAddr) -> usize {
        let found = self.table.select(|connection| connection.proto == proto && connection.remote == remote);
        found.iter().filter(|connection| self.close_connection(connection, CloseReason::Local)).count()
    }

    /// Bytes that wait on the newest connection to `remote` because the system does not take them.
    pub fn queued_bytes(&self, proto: Proto, remote: SocketAddr) -> usize {
        self.table.by_remote(proto, remote, None).map_or(0, |connection| connection.queued_bytes())
    }

    pub(crate) fn table(&self) -> &ConnectionTable {
        &self.table
    }

    /// The slot of a worker; indices are checked by the callers, a wrong one gives the last slot.
    pub(crate) fn slot(&self, worker: usize) -> &WorkerSlot {
        // `bind` refuses zero workers, so there is a slot.
        &self.slots[worker.min(self.slots.len() - 1)]
    }

    pub(crate) fn count(&self, worker: usize, proto: Proto, counter: Counter) {
        self.slot(worker).counters.add(proto, counter, 1);
    }

    pub(crate) fn ms_since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    fn command(&self, worker: usize, command: Command) {
        self.slot(worker).commands.lock().push(command);
        self.waker(worker).wake();
    }

    pub(crate) fn send_datagram(
        &self,
        worker: usize,
        socket: SocketId,
        from: Option<IpAddr>,
        dst: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let listener = self.listener(socket).filter(|listener| !listener.udp.is_empty());
        let Some(listener) = listener else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a UDP listener"));
        };
        let Some(udp) = listener.udp.get(worker).or(listener.udp.first()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let from = from.filter(|_| listener.is_wildcard());
        let mut result = send_once(udp, from, dst, bytes);
        if result
            .as_ref()
            .is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted))
        {
            result = send_once(udp, from, dst, bytes);
        }
        self.count(worker, Proto::Udp, if result.is_ok() { Counter::Sent } else { Counter::SendErrors });
        result.map(|_| ())
    }

    pub(crate) fn send_stream_on(&self, worker: usize, target: &Target, bytes: &[u8]) -> Result<ConnId, SendError> {
        let result = self.try_send_stream(worker, target, bytes);
        let counter = if result.is_ok() { Counter::Sent } else { Counter::SendErrors };
        self.count(worker, target.proto, counter);
        result
    }
}

fn send_once(udp: &Socket, from: Option<IpAddr>, dst: SocketAddr, bytes: &[u8]) -> io::Result<usize> {
    if bytes.len() > UDP_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "datagram too large"));
    }
    match from {
        Some(from) if from.is_ipv4() == dst.is_ipv4() => sys::send_from(udp, from, dst, bytes),
        _ => udp.send_to(bytes, &SockAddr::from(dst)),
    }
}

/// UDP sockets go to their own worker; stream listeners to the first one, which spreads the connections.
fn register_listeners(registry: &Registry, worker: usize, listeners: &[Listener]) -> io::Result<()> {
    for listener in listeners {
        let socket = match listener.udp.get(worker) {
            Some(socket) => Some(socket),
            None if worker == 0 => listener.tcp.as_ref(),
            None => None,
        };
        if let Some(socket) = socket {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(listener.id().index()), Interest::READABLE)?;
        }
    }
    Ok(())
}

/// The network as seen from one worker: sends on the worker's own sockets.
#[derive(Clone, Debug)]
pub struct Io {
    network: Arc<Network>,
    worker: usize,
}

impl Io {
    /// The view of a worker, for threads that run beside it (tests, bridges).
    pub fn new(network: Arc<Network>, worker: usize) -> Self {
        Io { network, worker }
    }

    /// The whole network.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The index of the worker.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// See [`Network::send_udp`].
    pub fn send_udp(&self, socket: SocketId, dst: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.network.send_datagram(self.worker, socket, None, dst, bytes)
    }

    /// See [`Network::send_udp_from`].
    pub fn send_udp_from(&self, socket: SocketId, from: IpAddr, dst: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.network.send_datagram(self.worker, socket, Some(from), dst, bytes)
    }

    /// See [`Network::send_stream`]; a new connection belongs to this worker.
    pub fn send_stream(&self, target: &Target, bytes: &[u8]) -> Result<ConnId, SendError> {
        self.network.send_stream_on(self.worker, target, bytes)
    }
}
