//! The reading side of one stream connection, owned by its worker. Writes only through the connection.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::error::CloseReason;
use crate::framer::{Frame, Framer};

/// Reads of one connection before the others get their turn.
const READS_PER_TURN_MAX: usize = 4;
/// How long the handshake of a byte layer may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(4);
/// Room for one read.
pub(crate) const READ_BYTES: usize = 65_536;

pub(crate) struct Stream {
    pub(crate) connection: Arc<Connection>,
    pub(crate) framer: Box<dyn Framer>,
    /// Known once the connection is up.
    pub(crate) local: Option<SocketAddr>,
    /// Already in the list of connections to look at.
    pub(crate) is_queued: bool,
    /// The other end may have closed: no event tells of it a second time, so only reading to the end does. Else a read that
    /// does not fill its buffer has taken all there was (epoll(7)).
    pub(crate) must_reach_end: bool,
    /// The one live entry of the worker's timer heap; others are stale.
    pub(crate) next_check: Option<Instant>,
}

/// How a turn of reading ended.
pub(crate) enum Turn {
    /// The system has no more bytes.
    Drained,
    /// There may be more; look again after the others.
    More,
    /// The connection must be closed.
    Close(CloseReason),
}

/// Buffers lent by the worker.
pub(crate) struct ReadBuffers {
    pub(crate) wire: Vec<u8>,
    pub(crate) plain: Vec<u8>,
}

impl ReadBuffers {
    pub(crate) fn new() -> Self {
        ReadBuffers { wire: vec![0; READ_BYTES], plain: Vec::new() }
    }
}

impl Stream {
    pub(crate) fn new(connection: Arc<Connection>, framer: Box<dyn Framer>) -> Self {
        Stream { connection, framer, local: None, is_queued: false, must_reach_end: true, next_check: None }
    }

    /// Reads and cuts; complete frames are passed to `on_frame`. Bytes that came before an error or the end of the
    /// stream are handed over first.
    pub(crate) fn read_turn(
        &mut self,
        buffers: &mut ReadBuffers,
        now: Instant,
        now_ms: u64,
        mut on_frame: impl FnMut(Frame),
    ) -> Turn {
        for _ in 0..READS_PER_TURN_MAX {
            let mut socket = &self.connection.stream;
            let count = match socket.read(&mut buffers.wire) {
                Ok(0) => return Turn::Close(CloseReason::Peer),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.must_reach_end = false;
                    return Turn::Drained;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Turn::Close(CloseReason::Peer);
                }
                Err(error) => return Turn::Close(CloseReason::Io(error.kind())),
            };
            self.connection.touch(now_ms);
            let has_all = count < buffers.wire.len() && !self.must_reach_end;
            let wire = buffers.wire.get(..count).unwrap_or_default();
            if self.connection.has_filter {
                buffers.plain.clear();
                if let Err(reason) = self.connection.unwrap(wire, &mut buffers.plain) {
                    return Turn::Close(reason);
                }
                if buffers.plain.is_empty() {
                    if has_all {
                        return Turn::Drained;
                    }
                    continue;
                }
                self.framer.push(&buffers.plain, now);
            } else {
                self.framer.push(wire, now);
            }
            loop {
                match self.framer.next() {
                    Ok(Some(frame)) => on_frame(frame),
                    Ok(None) => break,
                    Err(reason) => return Turn::Close(reason),
                }
            }
            if has_all {
                return Turn::Drained;
            }
        }
        Turn::More
    }

    /// When the connection must be looked at again, and why it would be closed then.
    pub(crate) fn deadline(&self, started: Instant, connect: Duration, lifetime: Duration) -> (Instant, CloseReason) {
        if self.local.is_none() {
            return (self.connection.since + connect, CloseReason::ConnectTimeout);
        }
        if !self.connection.is_settled() {
            let end = self.connection.since + connect + HANDSHAKE_TIME_MAX;
            return (end, CloseReason::HandshakeTimeout);
        }
        let silent = Duration::from_millis(self.connection.last_activity_ms()) + lifetime;
        let idle = started + silent.max(Duration::from_millis(self.connection.keep_until_ms()));
        match self.framer.deadline() {
            Some(message) if message < idle => (message, CloseReason::MessageTimeout),
            _ => (idle, CloseReason::Idle),
        }
    }
}
