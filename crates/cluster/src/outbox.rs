//! The queue of outputs; decides nothing.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use crate::event::Event;
use crate::ids::{ClusterId, ConnId, NodeId};
use crate::limits::{LOG_LINES_MAX, LOG_WINDOW, OUTBOX_BYTES_MAX, OUTBOX_PACKETS_MAX};
use crate::log::LogEvent;
use crate::url::{BinUrl, Transport};

/// What a packet is for, so that the sender can keep bulk data from delaying pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendClass {
    /// Pings, topology, capability states: must not wait behind bulk data.
    Internal,
    /// Script messages, commands, tags, module packets.
    Message,
    /// Sync data; report each with [`crate::ClusterNode::handle_sync_written`] under flow control.
    Sync,
}

/// One packet for one peer. Opening the connection is the caller's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendPacket {
    /// Cluster the packet belongs to.
    pub cluster: ClusterId,
    /// The next hop, whose link is affected when sending fails.
    pub node: NodeId,
    /// Listener of the next hop.
    pub to: SocketAddr,
    /// Transport of the next hop.
    pub transport: Transport,
    /// Own listener address to bind to: receivers filter by source address.
    pub local_ip: Option<IpAddr>,
    /// What it is for.
    pub class: SendClass,
    /// The whole packet.
    pub bytes: Bytes,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a packet to a node's listener.
    Send(SendPacket),
    /// Send a packet back on the connection a packet came on (UNKNOWN_ID).
    SendOnConnection {
        /// The connection.
        conn: ConnId,
        /// The whole packet.
        bytes: Bytes,
    },
    /// A link is DOWN: close everything to and from that peer, so that nothing old that is still in
    /// a send queue can pass for a sign of life later.
    CloseConnectionsTo {
        /// Cluster of the link.
        cluster: ClusterId,
        /// The peer.
        node: NodeId,
        /// Its listener: close the connections opened to it.
        to: SocketAddr,
        /// Connections it opened to us.
        conns: Vec<ConnId>,
    },
    /// Make a connection to a node's listener unless there is one, and answer with
    /// [`crate::ClusterNode::handle_connected`] or [`crate::ClusterNode::handle_connect_failed`].
    Connect {
        /// The listener.
        to: SocketAddr,
        /// Its transport.
        transport: Transport,
        /// Own listener address to bind to.
        local_ip: Option<IpAddr>,
    },
    /// Send a packet to a node of another cluster. When that is refused at once, call
    /// [`crate::ClusterNode::handle_bridge_undelivered`].
    SendBridge {
        /// Its listener.
        to: SocketAddr,
        /// Its transport.
        transport: Transport,
        /// Own listener address to bind to.
        local_ip: Option<IpAddr>,
        /// The whole packet.
        bytes: Bytes,
    },
    /// Close that connection: what comes on it is of no use.
    CloseConnection {
        /// The connection.
        conn: ConnId,
    },
    /// Resolve the host of a node's URL and answer with [`crate::ClusterNode::handle_resolved`].
    Resolve {
        /// The URL.
        url: BinUrl,
    },
    /// Something happened.
    Event(Event),
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Output>,
    /// Bytes of the packets in it.
    bytes: usize,
    limiter: LogLimiter,
}

/// Lines about bad input, per kind: when the count began, lines since, lines held back.
#[derive(Debug, Default)]
struct LogLimiter {
    kinds: Vec<(std::mem::Discriminant<LogEvent>, Instant, u32)>,
}

impl LogLimiter {
    /// Whether the line may pass, and how many of its kind were held back before.
    fn pass(&mut self, event: &LogEvent, now: Instant) -> (bool, u32) {
        let kind = std::mem::discriminant(event);
        let Some((_, since, count)) = self.kinds.iter_mut().find(|(known, ..)| *known == kind) else {
            // At most one entry per variant.
            self.kinds.push((kind, now, 1));
            return (true, 0);
        };
        if now.saturating_duration_since(*since) > LOG_WINDOW {
            let held = count.saturating_sub(LOG_LINES_MAX);
            (*since, *count) = (now, 1);
            return (true, held);
        }
        *count = count.saturating_add(1);
        (*count <= LOG_LINES_MAX, 0)
    }
}

fn packet_len(output: &Output) -> usize {
    match output {
        Output::Send(packet) => packet.bytes.len(),
        Output::SendOnConnection { bytes, .. } | Output::SendBridge { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

impl Outbox {
    /// Whether further messages must be refused until the caller has taken some.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= OUTBOX_PACKETS_MAX || self.bytes >= OUTBOX_BYTES_MAX
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.bytes += packet_len(&output);
        self.queue.push_back(output);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(crate) fn log(&mut self, event: LogEvent) {
        self.event(Event::Log(event));
    }

    /// Logs something a peer causes as often as it likes.
    pub(crate) fn log_limited(&mut self, event: LogEvent, now: Instant) {
        let (may_pass, held) = self.limiter.pass(&event, now);
        if held > 0 {
            self.log(LogEvent::Suppressed { count: held });
        }
        if may_pass {
            self.log(event);
        }
    }

    pub(crate) fn report(&mut self, identifier: impl Into<String>, text: impl Into<String>) {
        self.event(Event::Report { identifier: identifier.into(), text: text.into() });
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        let output = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(packet_len(&output));
        Some(output)
    }
}
