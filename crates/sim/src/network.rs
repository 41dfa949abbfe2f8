//! Processes, connections and the virtual clock. Judges nothing: checks are in `check`.
//!
//! Connections behave like TCP: in order, held back by a cut and delivered when it heals, closed when
//! an end dies. A dead listener refuses; a dead host swallows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use tandem_cluster::{
    CapabilityOptions, ClusterId, ClusterNode, ClusterNodeConfig, ConnId, Event, Now, Output, SendPacket,
};

use crate::queue::Queue;
use crate::rng::SplitMix64;
use crate::witness::Witness;

/// Position of a process in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub usize);

/// What a process is started from, each time it is started.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// Configuration of its core.
    pub config: ClusterNodeConfig,
    /// Capabilities registered right after the start, in every cluster of it.
    pub capabilities: Vec<(String, CapabilityOptions)>,
    /// Data it donates per capability.
    pub donations: HashMap<String, Vec<Bytes>>,
    /// Answers every request with its own id.
    pub replies: bool,
    /// Answers sync requests; otherwise they are ignored.
    pub donates: bool,
}

impl ProcessSpec {
    /// A process that answers requests and syncs and has no capability.
    #[must_use]
    pub fn new(config: ClusterNodeConfig) -> Self {
        Self { config, capabilities: Vec::new(), donations: HashMap::new(), replies: true, donates: true }
    }
}

/// One packet handed over, for tests that look at the traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceLine {
    /// Virtual time since the start.
    pub at: Duration,
    /// Sender.
    pub from: ProcessId,
    /// Receiver.
    pub to: ProcessId,
    /// The packet.
    pub bytes: Bytes,
}

#[derive(Debug)]
struct Process {
    spec: ProcessSpec,
    listener: SocketAddr,
    node: Option<ClusterNode>,
    /// Host gone: nothing is refused, all is swallowed.
    is_host_down: bool,
    /// Added to every packet on its way in.
    slowness: Duration,
    /// Its wall clock differs from the true time by so many seconds.
    clock_offset: i64,
    /// When it was started, each time.
    starts: Vec<Duration>,
    /// Neither reads nor does anything (SIGSTOP).
    is_paused: bool,
    /// What happened to it meanwhile.
    backlog: Vec<Step>,
    outgoing: HashMap<SocketAddr, ConnId>,
    events: Vec<(Duration, Event)>,
}

impl Process {
    /// Which start it is, from 1.
    fn start(&self) -> u64 {
        self.starts.len() as u64
    }
}

#[derive(Debug)]
struct Connection {
    opener: ProcessId,
    acceptor: ProcessId,
    /// Earliest arrival per direction, so that order is kept.
    next_arrival: [Duration; 2],
    /// Held back by a cut, per direction.
    held: [Vec<Bytes>; 2],
}

/// A packet for a listener.
#[derive(Debug)]
enum Parcel {
    /// For a node of the cluster.
    Node(SendPacket),
    /// For a node of another cluster, over a bridge.
    Bridge { to: SocketAddr, bytes: Bytes },
}

impl Parcel {
    fn to(&self) -> SocketAddr {
        match self {
            Self::Node(packet) => packet.to,
            Self::Bridge { to, .. } => *to,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Node(packet) => packet.bytes,
            Self::Bridge { bytes, .. } => bytes,
        }
    }
}

#[derive(Debug)]
enum Step {
    Arrive { conn: ConnId, to_opener: bool, bytes: Bytes },
    Refused { to: ProcessId, starts: u64, parcel: Parcel },
    Connected { at: ProcessId, starts: u64, conn: ConnId, listener: SocketAddr },
    NotConnected { at: ProcessId, starts: u64, listener: SocketAddr },
    Closed { at: ProcessId, starts: u64, conn: ConnId, listener: Option<SocketAddr> },
}

/// The virtual network.
#[derive(Debug)]
pub struct Network {
    origin: Instant,
    now: Duration,
    rng: SplitMix64,
    processes: Vec<Process>,
    connections: HashMap<ConnId, Connection>,
    queue: Queue<Step>,
    /// Directions in which nothing arrives.
    cuts: HashSet<(ProcessId, ProcessId)>,
    next_conn: u64,
    packet_count: u64,
    trace: Option<Vec<TraceLine>>,
    pub(crate) witness: Witness,
    /// Latency of every packet; up to as much again is added at random.
    pub latency: Duration,
    /// Whether a refused connection gives back what was to be sent on it; with real sockets it is lost.
    pub gives_back: bool,
}

/// [`Network::latency`] of a new network.
pub(crate) const LATENCY: Duration = Duration::from_micros(200);

/// Unix time at the start of every simulation, in seconds.
pub(crate) const UNIX_START: i64 = 1_800_000_000;

impl Network {
    /// An empty network. `origin` is any moment; only differences to it matter.
    #[must_use]
    pub fn new(seed: u64, origin: Instant) -> Self {
        Self {
            origin,
            now: Duration::ZERO,
            rng: SplitMix64::new(seed),
            processes: Vec::new(),
            connections: HashMap::new(),
            queue: Queue::new(),
            cuts: HashSet::new(),
            next_conn: 1,
            packet_count: 0,
            trace: None,
            witness: Witness::default(),
            latency: LATENCY,
            gives_back: true,
        }
    }

    /// Adds a process; it does not run yet. Its listener is the own address of its first cluster.
    pub fn add(&mut self, spec: ProcessSpec) -> ProcessId {
        let fallback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5555);
        let own = spec.config.clusters.first().and_then(|cluster| cluster.own.addr);
        self.processes.push(Process {
            spec,
            listener: own.unwrap_or(fallback),
            node: None,
            is_host_down: false,
            slowness: Duration::ZERO,
            clock_offset: 0,
            starts: Vec::new(),
            is_paused: false,
            backlog: Vec::new(),
            outgoing: HashMap::new(),
            events: Vec::new(),
        });
        ProcessId(self.processes.len() - 1)
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// The moment as cores see it.
    #[must_use]
    pub fn now(&self) -> Now {
        let secs = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        Now { mono: self.origin + self.now, unix_secs: UNIX_START + secs }
    }

    /// The moment as the process sees it: its wall clock may be wrong.
    #[must_use]
    pub fn now_at(&self, id: ProcessId) -> Now {
        let mut now = self.now();
        now.unix_secs += self.processes.get(id.0).map_or(0, |process| process.clock_offset);
        now
    }

    /// Packets handed over so far.
    #[must_use]
    pub fn packet_count(&self) -> u64 {
        self.packet_count
    }

    /// Starts to record every packet.
    pub fn record(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// Packets recorded since [`Network::record`].
    #[must_use]
    pub fn trace(&self) -> &[TraceLine] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// All processes.
    pub fn ids(&self) -> impl Iterator<Item = ProcessId> + use<> {
        (0..self.processes.len()).map(ProcessId)
    }

    /// The core of a process; `None` when it does not run.
    #[must_use]
    pub fn node(&self, id: ProcessId) -> Option<&ClusterNode> {
        self.processes.get(id.0).and_then(|process| process.node.as_ref())
    }

    /// What a process is started from.
    #[must_use]
    pub fn spec(&self, id: ProcessId) -> Option<&ProcessSpec> {
        self.processes.get(id.0).map(|process| &process.spec)
    }

    /// Its configuration, used at the next start.
    pub fn spec_mut(&mut self, id: ProcessId) -> Option<&mut ProcessSpec> {
        self.processes.get_mut(id.0).map(|process| &mut process.spec)
    }

    /// Events of a process since its first start, with their time.
    #[must_use]
    pub fn events(&self, id: ProcessId) -> &[(Duration, Event)] {
        self.processes.get(id.0).map(|process| process.events.as_slice()).unwrap_or_default()
    }

    /// All events in the order of time, as lines.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let all = self.processes.iter().enumerate();
        let all = all.flat_map(|(index, process)| process.events.iter().map(move |(at, event)| (*at, index, event)));
        let mut all: Vec<(Duration, usize, &Event)> = all.collect();
        all.sort_by_key(|(at, index, _)| (*at, *index));
        all.into_iter().map(|(at, index, event)| format!("{at:>10.3?} process {index}: {event:?}")).collect()
    }

    /// Moments at which a process was started.
    #[must_use]
    pub fn starts(&self, id: ProcessId) -> &[Duration] {
        self.processes.get(id.0).map(|process| process.starts.as_slice()).unwrap_or_default()
    }

    /// Forgets the events of all processes.
    pub fn clear_events(&mut self) {
        for process in &mut self.processes {
            process.events.clear();
        }
    }

    /// True when nothing cuts the two directions.
    #[must_use]
    pub fn is_connected(&self, a: ProcessId, b: ProcessId) -> bool {
        !self.cuts.contains(&(a, b)) && !self.cuts.contains(&(b, a))
    }

    /// Runs a command on a running core and does what follows. `None` when it does not run or is stopped.
    pub fn with<T>(&mut self, id: ProcessId, command: impl FnOnce(&mut ClusterNode, Now) -> T) -> Option<T> {
        let now = self.now_at(id);
        let process = self.processes.get_mut(id.0).filter(|process| !process.is_paused)?;
        let result = command(process.node.as_mut()?, now);
        self.drain(id);
        Some(result)
    }

    // ---- faults ----

    /// Starts a process anew. False when it runs already or its configuration is refused.
    pub fn start(&mut self, id: ProcessId) -> bool {
        let now = self.now_at(id);
        let rng = SplitMix64::new(self.rng.next_bits());
        let Some(process) = self.processes.get_mut(id.0) else { return false };
        if process.node.is_some() {
            return false;
        }
        // Connections of before a crash of the host: the new system knows nothing of them.
        for conn in self.connections_of(id) {
            self.close(conn, Some(id));
        }
        let Some(process) = self.processes.get_mut(id.0) else { return false };
        let config = process.spec.config.clone();
        let Ok(mut node) = ClusterNode::new(config, Box::new(rng), now) else { return false };
        let clusters: Vec<ClusterId> = node.cluster_ids().collect();
        for cluster in clusters {
            for (name, options) in &process.spec.capabilities {
                let _ = node.register_capability(cluster, name, *options, now);
            }
        }
        process.node = Some(node);
        process.is_host_down = false;
        process.starts.push(self.now);
        self.drain(id);
        true
    }

    /// SIGKILL: connections close, the listener refuses.
    pub fn kill(&mut self, id: ProcessId) {
        let conns = self.connections_of(id);
        self.stop(id);
        for conn in conns {
            self.close(conn, Some(id));
        }
    }

    /// The host vanishes: nobody is told, whatever is sent to it disappears.
    pub fn kill_host(&mut self, id: ProcessId) {
        self.stop(id);
        if let Some(process) = self.processes.get_mut(id.0) {
            process.is_host_down = true;
        }
    }

    fn stop(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id.0) {
            if process.node.take().is_some() {
                self.witness.stopped(id, self.now);
            }
            process.is_paused = false;
            process.backlog.clear();
            process.outgoing.clear();
        }
    }

    /// Nothing sent by `from` arrives at `to` until it heals.
    pub fn cut_one_way(&mut self, from: ProcessId, to: ProcessId) {
        self.cuts.insert((from, to));
    }

    /// Cuts both directions.
    pub fn cut(&mut self, a: ProcessId, b: ProcessId) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// SIGSTOP: connections stay, whatever comes waits.
    pub fn pause(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id.0).filter(|process| process.node.is_some()) {
            process.is_paused = true;
            self.witness.paused(id, self.now);
        }
    }

    /// SIGCONT: takes all that waited.
    pub fn resume(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id.0) else { return };
        process.is_paused = false;
        self.witness.resumed(id, self.now);
        for step in std::mem::take(&mut process.backlog) {
            self.perform(step);
        }
    }

    /// From now on every packet reaches the process so much later.
    pub fn slow_down(&mut self, id: ProcessId, by: Duration) {
        if let Some(process) = self.processes.get_mut(id.0) {
            process.slowness = by;
        }
    }

    /// Sets the wall clock of a process wrong by so many seconds.
    pub fn skew_clock(&mut self, id: ProcessId, by_secs: i64) {
        if let Some(process) = self.processes.get_mut(id.0) {
            process.clock_offset = by_secs;
        }
    }

    /// By how many seconds the wall clock of a process is wrong.
    #[must_use]
    pub fn clock_offset(&self, id: ProcessId) -> i64 {
        self.processes.get(id.0).map_or(0, |process| process.clock_offset)
    }

    /// Breaks all connections of a process: both ends learn it, what was under way is lost.
    pub fn break_connections(&mut self, id: ProcessId) {
        for conn in self.connections_of(id) {
            self.close(conn, None);
        }
    }

    /// Heals both directions: what was held back on open connections arrives now.
    pub fn heal(&mut self, a: ProcessId, b: ProcessId) {
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
        let mut conns: Vec<ConnId> = self.connections.keys().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let ends = (connection.opener, connection.acceptor);
            if ends != (a, b) && ends != (b, a) {
                continue;
            }
            let [to_acceptor, to_opener] = std::mem::take(&mut connection.held);
            for bytes in to_acceptor {
                self.transmit(conn, false, bytes);
            }
            for bytes in to_opener {
                self.transmit(conn, true, bytes);
            }
        }
    }

    // ---- connections ----

    fn connections_of(&self, id: ProcessId) -> Vec<ConnId> {
        let of = self.connections.iter();
        let of = of.filter(|(_, c)| c.opener == id || c.acceptor == id).map(|(conn, _)| *conn);
        let mut conns: Vec<ConnId> = of.collect();
        conns.sort_unstable();
        conns
    }

    fn schedule(&mut self, at: Duration, step: Step) {
        self.queue.push(at, step);
    }

    fn delay(&mut self) -> Duration {
        let spread = u64::try_from(self.latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency + Duration::from_nanos(self.rng.below(spread.max(1)))
    }

    /// Closes a connection; `by` learns nothing, the other end does.
    fn close(&mut self, conn: ConnId, by: Option<ProcessId>) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        let (opener, acceptor) = (connection.opener, connection.acceptor);
        self.witness.parted(opener, acceptor, self.now);
        let listener = self.processes.get(acceptor.0).map(|process| process.listener);
        // The other end goes on writing until it learns of it.
        if by != Some(acceptor)
            && let (Some(process), Some(listener)) = (self.processes.get_mut(opener.0), listener)
        {
            process.outgoing.remove(&listener);
        }
        for (end, listener) in [(opener, listener), (acceptor, None)] {
            if Some(end) == by || !self.is_connected(opener, acceptor) {
                continue;
            }
            let starts = self.processes.get(end.0).map_or(0, Process::start);
            let at = self.now + self.delay();
            self.schedule(at, Step::Closed { at: end, starts, conn, listener });
        }
    }

    fn transmit(&mut self, conn: ConnId, to_opener: bool, bytes: Bytes) {
        let mut delay = self.delay();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let direction = usize::from(to_opener);
        let (from, to) =
            if to_opener { (connection.acceptor, connection.opener) } else { (connection.opener, connection.acceptor) };
        if self.cuts.contains(&(from, to)) {
            if let Some(held) = connection.held.get_mut(direction) {
                held.push(bytes);
            }
            return;
        }
        delay += self.processes.get(to.0).map_or(Duration::ZERO, |process| process.slowness);
        let mut at = self.now + delay;
        if let Some(next) = connection.next_arrival.get_mut(direction) {
            at = at.max(*next);
            *next = at;
        }
        self.schedule(at, Step::Arrive { conn, to_opener, bytes });
    }

    fn send(&mut self, from: ProcessId, parcel: Parcel) {
        let listener = parcel.to();
        let known = self.processes.get(from.0).and_then(|p| p.outgoing.get(&listener)).copied();
        let target = self.processes.iter().position(|process| process.listener == listener);
        let target = target.map(ProcessId);
        let is_lost = |conn| !self.connections.contains_key(&conn);
        let is_refused = target.is_none_or(|to| self.node(to).is_none() || !self.is_connected(from, to));
        if let Some(to) = target.filter(|_| known.map_or(is_refused, is_lost)) {
            self.witness.parted(from, to, self.now);
        }
        if let Some(conn) = known {
            if self.connections.contains_key(&conn) {
                self.transmit(conn, false, parcel.into_bytes());
            } else if target.is_some_and(|to| self.is_connected(from, to)) {
                // The other end knows nothing of it: what was written is lost, and the answer says so.
                let starts = self.processes.get(from.0).map_or(0, Process::start);
                let at = self.now + self.delay();
                self.schedule(at, Step::Closed { at: from, starts, conn, listener: Some(listener) });
            }
            return;
        }
        match self.open(from, target, listener) {
            Ok(conn) => self.transmit(conn, false, parcel.into_bytes()),
            Err(wait) => {
                let starts = self.processes.get(from.0).map_or(0, Process::start);
                let step = Step::Refused { to: from, starts, parcel };
                self.schedule(self.now + wait, step);
            }
        }
    }

    /// Opens a connection; else how long it takes to learn that there will be none: a connect into the void fails by its
    /// timeout, a refused one at once.
    fn open(&mut self, from: ProcessId, target: Option<ProcessId>, listener: SocketAddr) -> Result<ConnId, Duration> {
        let is_host_down = target.and_then(|id| self.processes.get(id.0)).is_some_and(|p| p.is_host_down);
        if is_host_down || target.is_some_and(|id| !self.is_connected(from, id)) {
            return Err(Duration::from_millis(100));
        }
        let Some(to) = target.filter(|id| self.node(*id).is_some()) else { return Err(self.delay()) };
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let next_arrival = [self.now; 2];
        let connection = Connection { opener: from, acceptor: to, next_arrival, held: [Vec::new(), Vec::new()] };
        self.connections.insert(conn, connection);
        if let Some(process) = self.processes.get_mut(from.0) {
            process.outgoing.insert(listener, conn);
        }
        Ok(conn)
    }

    fn connect(&mut self, from: ProcessId, listener: SocketAddr) {
        let known = self.processes.get(from.0).and_then(|p| p.outgoing.get(&listener)).copied();
        let opened = match known {
            Some(conn) => Ok(conn),
            None => {
                let target = self.processes.iter().position(|process| process.listener == listener);
                self.open(from, target.map(ProcessId), listener)
            }
        };
        let starts = self.processes.get(from.0).map_or(0, Process::start);
        match opened {
            Ok(conn) => {
                let at = self.now + self.delay() + self.delay();
                self.schedule(at, Step::Connected { at: from, starts, conn, listener });
            }
            Err(wait) => self.schedule(self.now + wait, Step::NotConnected { at: from, starts, listener }),
        }
    }

    // ---- running ----

    fn drain(&mut self, id: ProcessId) {
        loop {
            let output = self.processes.get_mut(id.0).and_then(|process| process.node.as_mut());
            let Some(output) = output.and_then(ClusterNode::poll_output) else { return };
            match output {
                Output::Send(packet) => self.send(id, Parcel::Node(packet)),
                Output::SendOnConnection { conn, bytes } => {
                    let to_opener = self.connections.get(&conn).map(|c| c.acceptor == id);
                    if let Some(to_opener) = to_opener {
                        self.transmit(conn, to_opener, bytes);
                    }
                }
                Output::CloseConnectionsTo { to, conns, .. } => {
                    let opened = self.processes.get(id.0).and_then(|p| p.outgoing.get(&to)).copied();
                    if let Some(process) = self.processes.get_mut(id.0) {
                        process.outgoing.remove(&to);
                    }
                    for conn in conns.into_iter().chain(opened) {
                        self.close(conn, Some(id));
                    }
                }
                Output::CloseConnection { conn } => self.close(conn, Some(id)),
                Output::Connect { to, .. } => self.connect(id, to),
                Output::SendBridge { to, bytes, .. } => self.send(id, Parcel::Bridge { to, bytes }),
                // Simulated nodes have addresses in their URLs.
                Output::Resolve { .. } => {}
                Output::Event(event) => self.take_event(id, event),
            }
        }
    }

    fn take_event(&mut self, id: ProcessId, event: Event) {
        let now = self.now_at(id);
        if let Some(process) = self.processes.get_mut(id.0)
            && let Some(node) = process.node.as_mut()
        {
            match &event {
                Event::RequestReceived { cluster, src, tag, .. } if process.spec.replies => {
                    let answer = format!("from {}", node.node_id());
                    let _ = node.send_reply(*cluster, *src, answer.as_bytes(), tag, now);
                }
                Event::SyncRequested { cluster, capability, requester, .. } if process.spec.donates => {
                    let none = Vec::new();
                    let data = process.spec.donations.get(capability.as_ref()).unwrap_or(&none);
                    if node.sync_begin(*cluster, capability, *requester, 1, now).is_ok() {
                        for chunk in data {
                            let _ = node.sync_chunk(*cluster, capability, *requester, chunk, now);
                        }
                        let _ = node.sync_end(*cluster, capability, *requester, now);
                    }
                }
                _ => {}
            }
        }
        let at = self.now;
        if let Some(process) = self.processes.get_mut(id.0) {
            process.events.push((at, event));
        }
    }

    /// Whom a step concerns.
    fn subject(&self, step: &Step) -> Option<ProcessId> {
        match step {
            Step::Arrive { conn, to_opener, .. } => {
                let connection = self.connections.get(conn)?;
                Some(if *to_opener { connection.opener } else { connection.acceptor })
            }
            Step::Refused { to, .. } => Some(*to),
            Step::Closed { at, .. } | Step::Connected { at, .. } | Step::NotConnected { at, .. } => Some(*at),
        }
    }

    fn perform(&mut self, step: Step) {
        if let Some(subject) = self.subject(&step)
            && let Some(process) = self.processes.get_mut(subject.0)
            && process.is_paused
        {
            process.backlog.push(step);
            return;
        }
        match step {
            Step::Arrive { conn, to_opener, bytes } => {
                let Some(connection) = self.connections.get(&conn) else { return };
                let (from, to) = if to_opener {
                    (connection.acceptor, connection.opener)
                } else {
                    (connection.opener, connection.acceptor)
                };
                let Some(addr) = self.processes.get(from.0).map(|p| p.listener) else { return };
                self.packet_count += 1;
                if let Some(trace) = &mut self.trace {
                    trace.push(TraceLine { at: self.now, from, to, bytes: bytes.clone() });
                }
                let now = self.now_at(to);
                let node = self.processes.get_mut(to.0).and_then(|process| process.node.as_mut());
                if let Some(node) = node {
                    let port = if to_opener { addr.port() } else { 40_000 };
                    let peer = SocketAddr::new(addr.ip(), port);
                    node.handle_packet(peer, conn, &bytes, now);
                    self.drain(to);
                }
            }
            Step::Refused { to, starts, parcel } => {
                if self.processes.get(to.0).is_some_and(|process| process.start() == starts) {
                    let gives_back = self.gives_back;
                    self.with(to, |core, now| match parcel {
                        _ if !gives_back => core.handle_connect_failed(parcel.to(), now),
                        Parcel::Bridge { to, bytes } => core.handle_bridge_undelivered(to, &bytes, now),
                        Parcel::Node(packet) => {
                            core.handle_undelivered(packet.cluster, packet.node, &packet.bytes, now);
                        }
                    });
                }
            }
            Step::Connected { at, starts, conn, listener } => {
                if self.processes.get(at.0).is_some_and(|process| process.start() == starts)
                    && self.connections.contains_key(&conn)
                {
                    self.with(at, |core, now| core.handle_connected(listener, now));
                }
            }
            Step::NotConnected { at, starts, listener } => {
                if self.processes.get(at.0).is_some_and(|process| process.start() == starts) {
                    self.with(at, |core, now| core.handle_connect_failed(listener, now));
                }
            }
            Step::Closed { at, starts, conn, listener } => {
                if self.processes.get(at.0).is_some_and(|process| process.start() == starts) {
                    if let (Some(listener), Some(process)) = (listener, self.processes.get_mut(at.0))
                        && process.outgoing.get(&listener) == Some(&conn)
                    {
                        process.outgoing.remove(&listener);
                    }
                    self.with(at, |core, now| match listener {
                        Some(listener) => core.handle_outgoing_closed(listener, now),
                        None => core.handle_connection_closed(conn, now),
                    });
                }
            }
        }
    }

    fn next_timeout(&self) -> Option<(Duration, ProcessId)> {
        let nodes = self.processes.iter().enumerate();
        let due = nodes.filter_map(|(index, process)| {
            let at = process.node.as_ref().filter(|_| !process.is_paused)?.poll_timeout()?;
            Some((at.saturating_duration_since(self.origin).max(self.now), ProcessId(index)))
        });
        due.min()
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.queue.next_at().map(|at| at.max(self.now));
            let timeout = self.next_timeout();
            let is_timeout = match (arrival, timeout) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(arrival), Some((timeout, _))) => timeout < arrival,
            };
            let at = if is_timeout { timeout.map(|(at, _)| at) } else { arrival };
            match at {
                Some(at) if at <= end => self.now = at,
                _ => break,
            }
            if let (true, Some((_, id))) = (is_timeout, timeout) {
                self.with(id, ClusterNode::handle_timeout);
            } else if let Some((_, step)) = self.queue.pop() {
                self.perform(step);
            }
        }
        self.now = end;
    }

    /// Lets virtual time pass until `is_done`, at most `limit`; the time it took.
    pub fn run_until(&mut self, limit: Duration, mut is_done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        let step = Duration::from_millis(10);
        while self.now - start <= limit {
            if is_done(self) {
                return Some(self.now - start);
            }
            self.run_for(step);
        }
        None
    }
}
