//! The loop of one worker: wait, read, hand over, watch deadlines. It decides nothing about messages.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use mio::{Events, Poll};

use crate::framer::{self, Frame};
use crate::handler::{Handler, Inbound};
use crate::listener::Listener;
use crate::network::{Command, FIRST_CONNECTION_TOKEN, Io, Network, WAKE_TOKEN};
use crate::proto::{ConnId, SocketId};
use crate::stats::Counter;
use crate::stream::{ReadBuffers, Stream, Turn};
use crate::udp::{Batch, DatagramReader};

/// Events taken from the system at once.
const EVENTS_MAX: usize = 256;
/// Batches of datagrams from one socket before the others get their turn.
const BATCHES_PER_TURN_MAX: usize = 4;
/// Connections accepted from one listener before the others get their turn.
const ACCEPTS_PER_TURN_MAX: usize = 64;
/// Pause of a listener after the process ran out of file descriptors or the system kept failing.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);
/// Answer to a keepalive (RFC 5626 §3.5.1).
const PONG: &[u8] = b"\r\n";
/// Longest sleep, as a safety net only.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Runs the loop of a worker until [`Network::shutdown`]. Each worker can be run once; a second call for the same index
/// (or a wrong index) is an error. Fails otherwise only when the system's event queue fails.
pub fn run_worker<H: Handler>(index: usize, network: &Arc<Network>, handler: &mut H) -> io::Result<()> {
    let poll = network.slots.get(index).and_then(|slot| slot.poll.lock().take());
    let Some(poll) = poll else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("worker {index} does not exist or runs already"),
        ));
    };
    Worker::new(index, network, poll, handler).run()
}

struct Worker<'a, H> {
    index: usize,
    network: &'a Arc<Network>,
    io: Io,
    poll: Poll,
    handler: &'a mut H,
    streams: HashMap<ConnId, Stream>,
    /// Listeners with something to read.
    ready_sockets: VecDeque<SocketId>,
    /// Connections with something to read, or new.
    ready_streams: VecDeque<ConnId>,
    /// Listeners that wait for better times.
    paused_sockets: Vec<(Instant, SocketId)>,
    checks: BinaryHeap<Reverse<(Instant, ConnId)>>,
    commands: Vec<Command>,
    datagrams: DatagramReader,
    buffers: ReadBuffers,
}

impl<'a, H: Handler> Worker<'a, H> {
    fn new(index: usize, network: &'a Arc<Network>, poll: Poll, handler: &'a mut H) -> Self {
        Worker {
            index,
            network,
            io: Io::new(Arc::clone(network), index),
            poll,
            handler,
            streams: HashMap::new(),
            ready_sockets: VecDeque::new(),
            ready_streams: VecDeque::new(),
            paused_sockets: Vec::new(),
            checks: BinaryHeap::new(),
            commands: Vec::new(),
            datagrams: DatagramReader::new(),
            buffers: ReadBuffers::new(),
        }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            self.wait(&mut events)?;
            if self.network.is_shut_down() {
                return Ok(());
            }
            for event in &events {
                if event.token() != WAKE_TOKEN {
                    let is_closing = event.is_read_closed() || event.is_error();
                    self.note_ready(event.token().0 as u64, event.is_writable(), is_closing);
                }
            }
            if self.network.slot(self.index).wake.take_notified() {
                self.run_commands();
                self.handler.on_wakeup(&self.io);
            }
            self.serve_sockets();
            self.serve_streams();
            self.run_timers();
            self.handler.on_batch_end(&self.io);
        }
    }

    /// Sleeps until something happens, or just collects events when there is work left.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let wake = &self.network.slot(self.index).wake;
        let has_work = !self.ready_sockets.is_empty() || !self.ready_streams.is_empty();
        let timeout = if !has_work && wake.prepare_sleep() { self.sleep_time() } else { Duration::ZERO };
        let result = self.poll.poll(events, Some(timeout));
        wake.awake();
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn sleep_time(&self) -> Duration {
        let check = self.checks.peek().map(|Reverse((at, _))| *at);
        let paused = self.paused_sockets.iter().map(|(at, _)| *at).min();
        let next = [self.handler.poll_timeout(), check, paused].into_iter().flatten().min();
        next.map_or(SLEEP_MAX, |next| next.saturating_duration_since(Instant::now()).min(SLEEP_MAX))
    }

    fn note_ready(&mut self, token: u64, is_writable: bool, is_closing: bool) {
        if token < FIRST_CONNECTION_TOKEN {
            if let Ok(index) = u16::try_from(token) {
                self.queue_socket(SocketId(index));
            }
            return;
        }
        let conn = ConnId(token);
        // An unknown connection is either gone or looked at when it is adopted.
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        stream.must_reach_end |= is_closing;
        if is_writable
            && stream.local.is_some()
            && let Err(reason) = stream.connection.flush()
        {
            self.network.close_connection(&stream.connection, reason);
            return;
        }
        if !stream.is_queued {
            stream.is_queued = true;
            self.ready_streams.push_back(conn);
        }
    }

    fn queue_socket(&mut self, socket: SocketId) {
        if !self.ready_sockets.contains(&socket) {
            self.ready_sockets.push_back(socket);
        }
    }

    fn run_commands(&mut self) {
        std::mem::swap(&mut *self.network.slot(self.index).commands.lock(), &mut self.commands);
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Adopt(connection) => {
                    let limits = self.network.config().stream(connection.proto);
                    let conn = connection.id;
                    let framer = framer::framer_for(connection.proto, limits);
                    let mut stream = Stream::new(connection, framer);
                    stream.is_queued = true;
                    self.streams.insert(conn, stream);
                    self.ready_streams.push_back(conn);
                    self.schedule(conn);
                }
                Command::Closed(connection, closed) => {
                    self.streams.remove(&connection.id);
                    self.handler.on_connection_closed(*closed, &self.io);
                }
                Command::Look => {}
            }
        }
        self.commands = commands;
    }

    fn serve_sockets(&mut self) {
        for _ in 0..self.ready_sockets.len() {
            let Some(socket) = self.ready_sockets.pop_front() else {
                return;
            };
            let network = self.network;
            let Some(listener) = network.listener(socket) else {
                continue;
            };
            let has_more = if listener.tcp.is_some() { self.accept(listener) } else { self.receive(listener) };
            if has_more {
                self.ready_sockets.push_back(socket);
            }
        }
    }

    /// Reads datagrams; true when the budget ended before the socket was empty.
    fn receive(&mut self, listener: &Listener) -> bool {
        let Some(socket) = listener.udp.get(self.index) else {
            return false;
        };
        let is_wildcard = listener.is_wildcard();
        let mut failures = 0;
        for _ in 0..BATCHES_PER_TURN_MAX {
            let (count, has_more) = match self.datagrams.read(socket, is_wildcard) {
                Batch::Full(count) => (count, true),
                Batch::Drained(count) => (count, false),
                Batch::Failed => {
                    failures += 1;
                    (0, true)
                }
            };
            if count > 0 {
                let at = Instant::now();
                for index in 0..count {
                    self.deliver_datagram(listener, index, at);
                }
            }
            if !has_more {
                return false;
            }
        }
        if failures == BATCHES_PER_TURN_MAX {
            tracing::warn!(listener = %listener.spec(), "receiving keeps failing");
            self.paused_sockets.push((Instant::now() + SOCKET_PAUSE, listener.id()));
            return false;
        }
        true
    }

    fn deliver_datagram(&mut self, listener: &Listener, index: usize, at: Instant) {
        let proto = listener.spec().proto;
        let datagram = self.datagrams.batch.datagram(index);
        let usable = datagram.filter(|datagram| !datagram.truncated && !datagram.bytes.is_empty());
        let Some(datagram) = usable else {
            self.network.count(self.index, proto, Counter::Dropped);
            return;
        };
        let mut dst = listener.local();
        if let Some(ip) = datagram.dst_ip {
            dst.set_ip(ip);
        }
        let src = datagram.src;
        let bytes = self.datagrams.slab.store(datagram.bytes);
        self.network.count(self.index, proto, Counter::Received);
        let inbound = Inbound { bytes, src, dst, socket: listener.id(), conn: None, proto, at };
        self.handler.on_message(inbound, &self.io);
    }

    /// Accepts connections; true when the budget ended before all were accepted.
    fn accept(&mut self, listener: &Listener) -> bool {
        let Some(socket) = &listener.tcp else {
            return false;
        };
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            match socket.accept() {
                Ok((stream, remote)) => match remote.as_socket() {
                    Some(_) if self.network.table().is_full() => {
                        self.network.count(self.index, listener.spec().proto, Counter::Refused);
                    }
                    Some(remote) => self.network.adopt_accepted(listener, stream, remote),
                    None => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_exhausted(&error) => {
                    tracing::warn!(listener = %listener.spec(), %error, "cannot accept connections");
                    self.paused_sockets.push((Instant::now() + SOCKET_PAUSE, listener.id()));
                    return false;
                }
                // The connection at the head of the queue broke; the next may be fine.
                Err(error) => {
                    tracing::debug!(listener = %listener.spec(), %error, "accepting a connection")
                }
            }
        }
        true
    }

    fn serve_streams(&mut self) {
        for _ in 0..self.ready_streams.len() {
            let Some(conn) = self.ready_streams.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&conn) else {
                continue;
            };
            stream.is_queued = false;
            if stream.local.is_none() {
                self.finish_opening(conn);
            }
            self.read_stream(conn);
        }
    }

    /// Looks whether a new connection is up and starts it.
    fn finish_opening(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        let started = match stream.connection.check_connected() {
            Ok(false) => return,
            Ok(true) => stream.connection.start(),
            Err(reason) => Err(reason),
        };
        match started {
            Ok(()) => {
                let info = stream.connection.info();
                stream.local = Some(info.local);
                self.handler.on_connection_opened(&info, &self.io);
            }
            Err(reason) => {
                self.network.close_connection(&stream.connection, reason);
            }
        }
    }

    fn read_stream(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        let Some(dst) = stream.local else { return };
        let connection = Arc::clone(&stream.connection);
        let now = Instant::now();
        let (network, handler, io, index) = (self.network, &mut *self.handler, &self.io, self.index);
        let turn = stream.read_turn(&mut self.buffers, now, network.ms_since_start(now), |frame| match frame {
            Frame::Message(bytes) => {
                network.count(index, connection.proto, Counter::Received);
                let inbound = Inbound {
                    bytes,
                    src: connection.remote,
                    dst,
                    socket: connection.socket,
                    conn: Some(conn),
                    proto: connection.proto,
                    at: now,
                };
                if connection.proto.is_bin() {
                    handler.on_bin_packet(inbound, io);
                } else {
                    handler.on_message(inbound, io);
                }
            }
            // A failed answer closes the connection like any failed write.
            Frame::Ping => {
                if let Err(reason) = connection.send(PONG) {
                    network.close_connection(&connection, reason);
                }
            }
            Frame::Pong => {}
        });
        match turn {
            Turn::Drained => {}
            Turn::More => {
                stream.is_queued = true;
                self.ready_streams.push_back(conn);
            }
            Turn::Close(reason) => {
                self.network.close_connection(&connection, reason);
                return;
            }
        }
        self.schedule(conn);
    }

    /// Makes sure that the connection is looked at no later than its next deadline. A deadline that moves away costs
    /// nothing: the entry already in the heap fires early and is renewed then.
    fn schedule(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        let limits = self.network.config().stream(stream.connection.proto);
        let (at, _) = stream.deadline(self.network.started(), limits.connect_timeout, limits.lifetime);
        if stream.next_check.is_none_or(|planned| at < planned) {
            stream.next_check = Some(at);
            self.checks.push(Reverse((at, conn)));
        }
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, conn))) = self.checks.peek().copied()
            && at <= now
        {
            self.checks.pop();
            self.check_stream(conn, at, now);
        }
        let due: Vec<SocketId> = if self.paused_sockets.is_empty() {
            Vec::new()
        } else {
            let due = self.paused_sockets.iter().filter(|(at, _)| *at <= now).map(|(_, socket)| *socket).collect();
            self.paused_sockets.retain(|(at, _)| *at > now);
            due
        };
        for socket in due {
            self.queue_socket(socket);
        }
        if self.handler.poll_timeout().is_some_and(|at| at <= now) {
            self.handler.on_timeout(now, &self.io);
        }
    }

    fn check_stream(&mut self, conn: ConnId, at: Instant, now: Instant) {
        let Some(stream) = self.streams.get_mut(&conn) else {
            return;
        };
        if stream.next_check != Some(at) {
            return;
        }
        stream.next_check = None;
        let limits = self.network.config().stream(stream.connection.proto);
        let (deadline, reason) = stream.deadline(self.network.started(), limits.connect_timeout, limits.lifetime);
        if deadline <= now {
            self.network.close_connection(&stream.connection, reason);
        } else {
            self.schedule(conn);
        }
    }
}

/// Out of file descriptors or memory: trying again at once would only burn time.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
