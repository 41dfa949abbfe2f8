//! The queue of outputs; decides nothing.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::event::Event;
use crate::ids::{ClusterId, ConnId, NodeId};
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
}

impl Outbox {
    pub(crate) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(crate) fn log(&mut self, event: LogEvent) {
        self.event(Event::Log(event));
    }

    pub(crate) fn report(&mut self, identifier: impl Into<String>, text: impl Into<String>) {
        self.event(Event::Report { identifier: identifier.into(), text: text.into() });
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }
}
