//! What the engine is given and what it must provide. No protocol decisions.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::connection::ConnectionInfo;
use crate::error::{CloseReason, SendError};
use crate::network::{Io, Target};
use crate::proto::{ConnId, Proto, SocketId};

/// One received message: a SIP message or a cluster packet, complete and exactly as it came.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The message. Short datagrams of a worker share a 16 KiB buffer, so keeping one for hours keeps that much alive;
    /// copy what must be kept that long.
    pub bytes: Bytes,
    /// The peer's address and port.
    pub src: SocketAddr,
    /// The local address and port it arrived at; the real address also for a wildcard listener.
    pub dst: SocketAddr,
    /// The listener. For connections this process opened, the listener they were opened for.
    pub socket: SocketId,
    /// The connection, for streams.
    pub conn: Option<ConnId>,
    /// The transport.
    pub proto: Proto,
    /// When the batch that contains the message was read.
    pub at: Instant,
}

/// A connection that is gone. Its id is not used again.
#[derive(Clone, Debug)]
pub struct Closed {
    /// What it was.
    pub info: ConnectionInfo,
    /// Why it ended.
    pub reason: CloseReason,
    /// True when the connection had been established; false when connecting failed.
    pub was_open: bool,
    /// How many queued writes (whole or in part) did not reach the system.
    pub unsent_count: usize,
}

/// The logic of one worker. All calls come from the thread that called [`crate::run_worker`].
pub trait Handler {
    /// A SIP message over any transport. Keepalives (RFC 5626) are answered before and not shown.
    fn on_message(&mut self, inbound: Inbound, io: &Io);

    /// A cluster packet. Default: ignored.
    fn on_bin_packet(&mut self, _inbound: Inbound, _io: &Io) {}

    /// A connection of this worker was accepted, or an outgoing one was established. Default: ignored.
    fn on_connection_opened(&mut self, _info: &ConnectionInfo, _io: &Io) {}

    /// A connection of this worker ended; called exactly once for each, also when connecting failed. Default: ignored.
    fn on_connection_closed(&mut self, _closed: Closed, _io: &Io) {}

    /// Somebody called [`crate::WorkerWaker::wake`] or pushed into a [`crate::Mailbox`]. May come without a cause.
    fn on_wakeup(&mut self, _io: &Io) {}

    /// When [`Handler::on_timeout`] must be called next. Asked before each sleep; precision is 1 ms.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time of [`Handler::poll_timeout`] has come.
    fn on_timeout(&mut self, _now: Instant, _io: &Io) {}

    /// Everything that was ready has been handed over (or the budget is used up): flush what was collected.
    fn on_batch_end(&mut self, _io: &Io) {}
}

/// A handler for tests and experiments: sends every message back where it came from and remembers what happened.
#[derive(Debug, Default)]
pub struct LoopbackHandler {
    /// Everything received, oldest first, at most [`LoopbackHandler::KEPT_MAX`].
    pub received: VecDeque<Inbound>,
    /// Every closed connection, oldest first, at most [`LoopbackHandler::KEPT_MAX`].
    pub closed: VecDeque<Closed>,
    /// Sends that failed.
    pub failed_count: u64,
}

impl LoopbackHandler {
    /// How many entries each list keeps; older ones are dropped.
    pub const KEPT_MAX: usize = 1024;

    fn echo(&mut self, inbound: Inbound, io: &Io) {
        let result = match inbound.conn {
            None => io
                .send_udp_from(inbound.socket, inbound.dst.ip(), inbound.src, &inbound.bytes)
                .map_err(|source| SendError::Io { dst: inbound.src, source }),
            Some(conn) => io.send_stream(&Target::reply(inbound.proto, inbound.src, conn), &inbound.bytes).map(|_| ()),
        };
        if result.is_err() {
            self.failed_count += 1;
        }
        keep(&mut self.received, inbound);
    }
}

fn keep<T>(list: &mut VecDeque<T>, entry: T) {
    if list.len() >= LoopbackHandler::KEPT_MAX {
        list.pop_front();
    }
    list.push_back(entry);
}

impl Handler for LoopbackHandler {
    fn on_message(&mut self, inbound: Inbound, io: &Io) {
        self.echo(inbound, io);
    }

    fn on_bin_packet(&mut self, inbound: Inbound, io: &Io) {
        self.echo(inbound, io);
    }

    fn on_connection_closed(&mut self, closed: Closed, _io: &Io) {
        keep(&mut self.closed, closed);
    }
}
