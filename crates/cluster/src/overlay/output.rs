//! What the overlay tells its owner to do, and what happened; decides nothing.

use std::net::SocketAddr;

use bytes::Bytes;

use super::wire::OverlayKind;
use crate::delivery::UndeliveredReason;
use crate::ids::NodeId;

/// Why a node counts as down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayDown {
    /// Nobody reached it and it did not object.
    Failed,
    /// It said farewell.
    Left,
    /// It was started anew; it is up again at once.
    Restarted,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayEvent {
    /// A node is known from now on, or again.
    NodeUp {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        addr: SocketAddr,
    },
    /// A node is gone.
    NodeDown {
        /// The node.
        node: NodeId,
        /// Why.
        reason: OverlayDown,
    },
    /// This node found no answer from another one, directly or through others; the whole cluster hears of it.
    Suspected {
        /// The node.
        node: NodeId,
    },
    /// Others suspected this node, and it objected: it is slow, or its network loses much.
    Objected,
    /// A message.
    Message {
        /// Its sender.
        src: NodeId,
        /// Its text.
        msg: Bytes,
        /// Whether it was sent to all.
        is_broadcast: bool,
    },
    /// A message to one node was not received, as far as is known.
    Undelivered {
        /// Who did not get it.
        node: NodeId,
        /// Its text.
        msg: Bytes,
        /// Why.
        reason: UndeliveredReason,
    },
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayOutput {
    /// Send a packet: over the connection of a link where there is one, else without. It may be lost.
    Send {
        /// The receiver.
        node: NodeId,
        /// Where it is reached.
        to: SocketAddr,
        /// Why it is sent.
        kind: OverlayKind,
        /// The whole packet.
        bytes: Bytes,
    },
    /// Keep a connection to that node and report its end with [`crate::OverlayNode::handle_link_closed`].
    Link {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        to: SocketAddr,
    },
    /// The connection is not needed any more.
    Unlink {
        /// The node.
        node: NodeId,
    },
    /// Something happened.
    Event(OverlayEvent),
}
