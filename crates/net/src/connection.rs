//! One stream connection: its socket and output queue. It does no reading, no framing and owns no timer.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use socket2::Socket;

use crate::error::CloseReason;
use crate::filter::{ByteFilter, FilterError};
use crate::proto::{ConnId, Proto, SocketId};

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer did.
    Accepted,
    /// This process did.
    Opened,
}

/// What a connection is, for handlers, MI listings and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its id.
    pub conn: ConnId,
    /// Its transport.
    pub proto: Proto,
    /// The listener that accepted it or that it was opened for.
    pub socket: SocketId,
    /// Who opened it.
    pub direction: Direction,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The local address and port; the port is 0 while connecting.
    pub local: SocketAddr,
    /// When it was accepted or connecting began.
    pub since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    Closed,
}

/// Everything writers share.
struct Output {
    phase: Phase,
    local: SocketAddr,
    queue: VecDeque<Bytes>,
    queue_bytes: usize,
    filter: Option<Box<dyn ByteFilter>>,
}

pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) proto: Proto,
    pub(crate) socket: SocketId,
    pub(crate) direction: Direction,
    pub(crate) remote: SocketAddr,
    pub(crate) worker: usize,
    pub(crate) since: Instant,
    pub(crate) has_filter: bool,
    /// The handshake of the byte layer is over.
    is_settled: AtomicBool,
    pub(crate) stream: Socket,
    /// Other ports of the peer under which the connection may be found. Changed only under the table's lock.
    pub(crate) aliases: Mutex<SmallVec<[u16; 1]>>,
    last_activity_ms: AtomicU64,
    /// Silence is no reason to close it before this moment, in milliseconds since the network was started.
    keep_until_ms: AtomicU64,
    queue_count_max: usize,
    queue_bytes_max: usize,
    output: Mutex<Output>,
}

/// What [`Connection::new`] needs to know.
pub(crate) struct Seed {
    pub(crate) id: ConnId,
    pub(crate) proto: Proto,
    pub(crate) socket: SocketId,
    pub(crate) direction: Direction,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) worker: usize,
    pub(crate) is_open: bool,
    pub(crate) queue_count_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) now: Instant,
    pub(crate) now_ms: u64,
}

/// What was left when a connection was closed.
pub(crate) struct Remains {
    pub(crate) was_open: bool,
    pub(crate) unsent_count: usize,
    pub(crate) local: SocketAddr,
}

impl Connection {
    pub(crate) fn new(seed: Seed, stream: Socket, filter: Option<Box<dyn ByteFilter>>) -> Self {
        Connection {
            id: seed.id,
            proto: seed.proto,
            socket: seed.socket,
            direction: seed.direction,
            remote: seed.remote,
            worker: seed.worker,
            since: seed.now,
            has_filter: filter.is_some(),
            is_settled: AtomicBool::new(filter.as_ref().is_none_or(|filter| filter.is_settled())),
            stream,
            aliases: Mutex::new(SmallVec::new()),
            last_activity_ms: AtomicU64::new(seed.now_ms),
            keep_until_ms: AtomicU64::new(0),
            queue_count_max: seed.queue_count_max,
            queue_bytes_max: seed.queue_bytes_max,
            output: Mutex::new(Output {
                phase: if seed.is_open { Phase::Open } else { Phase::Connecting },
                local: seed.local,
                queue: VecDeque::new(),
                queue_bytes: 0,
                filter,
            }),
        }
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            conn: self.id,
            proto: self.proto,
            socket: self.socket,
            direction: self.direction,
            remote: self.remote,
            local: self.output.lock().local,
            since: self.since,
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.output.lock().queue_bytes
    }

    /// Established and not closed.
    pub(crate) fn is_open(&self) -> bool {
        self.output.lock().phase == Phase::Open
    }

    pub(crate) fn touch(&self, now_ms: u64) {
        self.last_activity_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn keep_until(&self, at_ms: u64) {
        self.keep_until_ms.store(at_ms, Ordering::Relaxed);
    }

    pub(crate) fn keep_until_ms(&self) -> u64 {
        self.keep_until_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn last_activity_ms(&self) -> u64 {
        self.last_activity_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Relaxed)
    }

    /// Writes a message or queues what the system does not take now; the owning worker is told by the event queue when
    /// there is room again, so nobody needs to be woken. On an error the caller closes the connection.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), CloseReason> {
        let mut output = self.output.lock();
        if output.phase == Phase::Closed {
            return Err(CloseReason::Local);
        }
        if output.filter.is_none() {
            return self.write_or_queue(&mut output, bytes);
        }
        let mut wire = Vec::with_capacity(bytes.len() + 64);
        output.with_filter(|filter| filter.send(bytes, &mut wire))?;
        self.write_or_queue(&mut output, &wire)
    }

    fn write_or_queue(&self, output: &mut Output, bytes: &[u8]) -> Result<(), CloseReason> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written =
            if output.phase == Phase::Open && output.queue.is_empty() { write_some(&self.stream, bytes)? } else { 0 };
        let rest = bytes.get(written..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        if output.queue.len() >= self.queue_count_max || output.queue_bytes + rest.len() > self.queue_bytes_max {
            return Err(CloseReason::QueueFull);
        }
        output.queue_bytes += rest.len();
        output.queue.push_back(Bytes::copy_from_slice(rest));
        Ok(())
    }

    /// Asks the system how connecting went. `Ok(true)` once it is up, `Ok(false)` while it is still under way.
    pub(crate) fn check_connected(&self) -> Result<bool, CloseReason> {
        let mut output = self.output.lock();
        match output.phase {
            Phase::Open => return Ok(true),
            Phase::Closed => return Ok(false),
            Phase::Connecting => {}
        }
        let failed = |error: &io::Error| CloseReason::ConnectFailed(error.kind());
        if let Some(error) = self.stream.take_error().map_err(|error| failed(&error))? {
            return Err(failed(&error));
        }
        if self.stream.peer_addr().is_err() {
            return Ok(false);
        }
        if let Some(local) = self.stream.local_addr().ok().and_then(|address| address.as_socket()) {
            output.local = local;
        }
        output.phase = Phase::Open;
        Ok(true)
    }

    /// Lets the byte layer of a fresh connection speak first, then writes what was queued while connecting.
    pub(crate) fn start(&self) -> Result<(), CloseReason> {
        let mut output = self.output.lock();
        let mut wire = Vec::new();
        output.with_filter(|filter| filter.connected(&mut wire))?;
        if !wire.is_empty() {
            output.queue_bytes += wire.len();
            output.queue.push_front(Bytes::from(wire));
        }
        flush(&self.stream, &mut output)
    }

    /// Writes as much of the queue as the system takes.
    pub(crate) fn flush(&self) -> Result<(), CloseReason> {
        let mut output = self.output.lock();
        if output.phase != Phase::Open {
            return Ok(());
        }
        flush(&self.stream, &mut output)
    }

    /// Passes wire bytes through the byte layer; its answers are written.
    pub(crate) fn unwrap(&self, input: &[u8], plain: &mut Vec<u8>) -> Result<(), CloseReason> {
        let mut output = self.output.lock();
        let mut wire = Vec::new();
        let result = output.with_filter(|filter| filter.received(input, plain, &mut wire));
        if !self.is_settled() && output.filter.as_ref().is_some_and(|filter| filter.is_settled()) {
            self.is_settled.store(true, Ordering::Relaxed);
        }
        result?;
        self.write_or_queue(&mut output, &wire)
    }

    /// Ends the connection; `None` when somebody else already did.
    pub(crate) fn close(&self) -> Option<Remains> {
        let mut output = self.output.lock();
        if output.phase == Phase::Closed {
            return None;
        }
        let was_open = output.phase == Phase::Open;
        if was_open && output.queue.is_empty() {
            let mut wire = Vec::new();
            if let Some(filter) = &mut output.filter {
                filter.closing(&mut wire);
            }
            // A farewell is a courtesy; the connection ends either way.
            let _ = write_some(&self.stream, &wire);
        }
        output.phase = Phase::Closed;
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let unsent_count = output.queue.len();
        output.queue = VecDeque::new();
        output.queue_bytes = 0;
        Some(Remains { was_open, unsent_count, local: output.local })
    }
}

impl Output {
    fn with_filter(
        &mut self,
        call: impl FnOnce(&mut dyn ByteFilter) -> Result<(), FilterError>,
    ) -> Result<(), CloseReason> {
        match &mut self.filter {
            Some(filter) => call(filter.as_mut()).map_err(|error| CloseReason::Filter(error.0)),
            None => Ok(()),
        }
    }
}

fn flush(stream: &Socket, output: &mut Output) -> Result<(), CloseReason> {
    while let Some(mut head) = output.queue.pop_front() {
        let written = write_some(stream, &head)?;
        output.queue_bytes -= written;
        if written < head.len() {
            bytes::Buf::advance(&mut head, written);
            output.queue.push_front(head);
            return Ok(());
        }
    }
    Ok(())
}

/// Writes until the system takes no more; returns how much it took.
fn write_some(stream: &Socket, bytes: &[u8]) -> Result<usize, CloseReason> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.send_with_flags(rest, libc::MSG_NOSIGNAL) {
            Ok(0) => return Err(CloseReason::Io(io::ErrorKind::WriteZero)),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CloseReason::Io(error.kind())),
        }
    }
    Ok(written)
}
