//! Opening, adopting and closing stream connections. Reading them is the workers' job.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use socket2::Socket;

use super::{Command, Network, Target};
use crate::connection::{Connection, Direction, Seed};
use crate::error::{CloseReason, SendError};
use crate::filter::FilterRequest;
use crate::handler::Closed;
use crate::listener::{self, Listener};
use crate::proto::ConnId;
use crate::stats::Counter;

impl Network {
    pub(super) fn try_send_stream(&self, worker: usize, target: &Target, bytes: &[u8]) -> Result<ConnId, SendError> {
        let limits = self.config.stream(target.proto);
        if target.proto.is_bin() && bytes.len() > limits.message_bytes_max {
            return Err(SendError::TooLarge { bytes: bytes.len(), max: limits.message_bytes_max });
        }
        let by_id = target.conn.and_then(|conn| self.table.by_id(conn)).filter(|found| found.proto == target.proto);
        if let Some(connection) = by_id.or_else(|| self.reusable(target)) {
            match self.send_on(&connection, bytes) {
                // It closed between the look and the sending: as if it had not been there.
                Err(SendError::NoConnection(_)) if target.may_connect => {}
                result => return result,
            }
        }
        if !target.may_connect {
            return Err(SendError::NoConnection(target.dst));
        }
        let connection = self.open_unless_there(worker, target)?;
        self.send_on(&connection, bytes).map_err(|error| match error {
            // Its worker was quicker: it has heard already that nobody listens there.
            SendError::NoConnection(dst) => SendError::Connect { dst, source: io::ErrorKind::ConnectionRefused.into() },
            error => error,
        })
    }

    pub(super) fn open_unless_there(&self, worker: usize, target: &Target) -> Result<Arc<Connection>, SendError> {
        let _opening = self.opening.lock();
        match self.reusable(target) {
            Some(connection) => Ok(connection),
            None => self.open(worker, target),
        }
    }

    fn reusable(&self, target: &Target) -> Option<Arc<Connection>> {
        self.table.by_remote(target.proto, target.dst, target.socket)
    }

    fn send_on(&self, connection: &Arc<Connection>, bytes: &[u8]) -> Result<ConnId, SendError> {
        match connection.send(bytes) {
            Ok(()) => {
                connection.touch(self.ms_since_start(Instant::now()));
                Ok(connection.id)
            }
            Err(reason) => {
                let dst = connection.remote;
                let error = match &reason {
                    CloseReason::QueueFull => SendError::QueueFull(dst),
                    CloseReason::Io(kind) => SendError::Io { dst, source: io::Error::from(*kind) },
                    CloseReason::Filter(text) => SendError::Io { dst, source: io::Error::other(text.clone()) },
                    _ => SendError::NoConnection(dst),
                };
                self.close_connection(connection, reason);
                Err(error)
            }
        }
    }

    fn open(&self, worker: usize, target: &Target) -> Result<Arc<Connection>, SendError> {
        let Target { proto, dst, .. } = *target;
        let socket = match target.socket {
            Some(socket) => socket,
            None => self.socket_for(proto, dst).ok_or(SendError::NoListener { proto, dst })?,
        };
        let listener = self
            .listener(socket)
            .filter(|listener| listener.spec().proto == proto && listener.local().is_ipv4() == dst.is_ipv4())
            .ok_or(SendError::WrongSocket(socket))?;
        if self.table.is_full() {
            return Err(SendError::TooManyConnections(self.table.connections_max()));
        }
        let failed = |source| SendError::Connect { dst, source };
        let limits = self.config.stream(proto);
        let (stream, is_open) = listener::start_connect(listener.spec(), limits, dst).map_err(failed)?;
        let local = stream.local_addr().ok().and_then(|address| address.as_socket());
        let local = local.unwrap_or_else(|| SocketAddr::new(listener.local().ip(), 0));
        let opened = self.add_connection(worker, stream, listener, Direction::Opened, dst, local, is_open);
        match opened {
            Ok(Some(connection)) => Ok(connection),
            Ok(None) => Err(SendError::TooManyConnections(self.table.connections_max())),
            Err(source) => Err(failed(source)),
        }
    }

    /// Puts a new connection into the table and gives it to a worker; `None` when there are too many.
    #[expect(clippy::too_many_arguments, reason = "used in two places, a struct would only rename them")]
    fn add_connection(
        &self,
        worker: usize,
        stream: Socket,
        listener: &Listener,
        direction: Direction,
        remote: SocketAddr,
        local: SocketAddr,
        is_open: bool,
    ) -> io::Result<Option<Arc<Connection>>> {
        let proto = listener.spec().proto;
        let conn = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let filter = match &self.filters {
            Some(factory) if proto.is_encrypted() || proto.is_bin() => {
                let request = FilterRequest { conn, proto, socket: listener.id(), direction, remote };
                factory.filter(&request).map_err(|error| io::Error::other(error.0))?
            }
            _ => None,
        };
        let limits = self.config.stream(proto);
        let now = Instant::now();
        let seed = Seed {
            id: conn,
            proto,
            socket: listener.id(),
            direction,
            remote,
            local,
            worker,
            is_open,
            queue_count_max: limits.queue_count_max,
            queue_bytes_max: limits.queue_bytes_max,
            now,
            now_ms: self.ms_since_start(now),
        };
        let connection = Arc::new(Connection::new(seed, stream, filter));
        if !self.table.insert(&connection) {
            return Ok(None);
        }
        // Edge-triggered for both directions, once: no change of interest is needed later from any thread.
        let registered = self.slot(worker).registry.register(
            &mut SourceFd(&connection.stream.as_raw_fd()),
            token_of(connection.id),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = registered {
            self.table.remove(&connection);
            return Err(error);
        }
        let counter = if direction == Direction::Opened { Counter::Connected } else { Counter::Accepted };
        self.count(worker, proto, counter);
        // Events that come before the worker knows the connection are lost; it looks at the socket when adopting.
        self.command(worker, Command::Adopt(Arc::clone(&connection)));
        Ok(Some(connection))
    }

    /// Takes over an accepted socket.
    pub(crate) fn adopt_accepted(&self, listener: &Listener, stream: Socket, remote: SocketAddr) {
        let proto = listener.spec().proto;
        let worker = self.next_worker.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let limits = self.config.stream(proto);
        let prepared = stream
            .set_nonblocking(true)
            .and_then(|()| listener::set_stream_options(&stream, listener.spec(), limits))
            .and_then(|()| stream.local_addr());
        let local = match prepared {
            Ok(local) => local.as_socket().unwrap_or_else(|| listener.local()),
            Err(error) => {
                // The peer may already be gone; that is no fault of the listener.
                tracing::debug!(%error, %remote, "accepted connection is not usable");
                return;
            }
        };
        match self.add_connection(worker, stream, listener, Direction::Accepted, remote, local, true) {
            Ok(Some(_)) => {}
            Ok(None) => self.count(worker, proto, Counter::Refused),
            Err(error) => {
                tracing::warn!(%error, %remote, "accepted connection could not be set up");
                self.count(worker, proto, Counter::Refused);
            }
        }
    }

    /// Closes a connection and tells its worker; false when it was already closed.
    pub(crate) fn close_connection(&self, connection: &Arc<Connection>, reason: CloseReason) -> bool {
        let Some(remains) = connection.close() else {
            return false;
        };
        self.table.remove(connection);
        self.count(connection.worker, connection.proto, Counter::Closed);
        let slot = self.slot(connection.worker);
        if let Err(error) = slot.registry.deregister(&mut SourceFd(&connection.stream.as_raw_fd())) {
            tracing::debug!(%error, conn = %connection.id, "deregistering a connection failed");
        }
        let mut info = connection.info();
        info.local = remains.local;
        let closed = Closed { info, reason, was_open: remains.was_open, unsent_count: remains.unsent_count };
        self.command(connection.worker, Command::Closed(Arc::clone(connection), Box::new(closed)));
        true
    }
}

fn token_of(conn: ConnId) -> Token {
    // Lossless: only 64-bit systems are supported for more than 2^32 connections.
    Token(conn.0 as usize)
}
