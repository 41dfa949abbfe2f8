//! Log lines as data; formats nothing unless asked and writes nowhere.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tandem_bin::DecodeError;

use crate::family::Family;
use crate::ids::{ClusterId, NodeId};
use crate::link::LinkState;

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For those who look for a fault.
    Debug,
    /// Normal changes of state.
    Info,
    /// Something an operator should look at.
    Warning,
    /// Something is wrong.
    Error,
}

/// What there is to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// A link changed its state.
    Link {
        /// Cluster of the link.
        cluster: ClusterId,
        /// Other end.
        node: NodeId,
        /// State before.
        from: LinkState,
        /// State now.
        to: LinkState,
    },
    /// A node was learned from the network.
    NodeLearned {
        /// Cluster it is in.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
        /// Its URL.
        url: String,
    },
    /// A node was removed.
    NodeRemoved {
        /// Cluster it was in.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
    },
    /// Another node removed us: the own node is now disabled in the cluster.
    OwnNodeRemoved {
        /// The cluster.
        cluster: ClusterId,
        /// Who did it.
        by: NodeId,
    },
    /// A description could not be used.
    NodeRefused {
        /// Cluster it was meant for.
        cluster: ClusterId,
        /// The node described.
        node: NodeId,
        /// Why.
        reason: &'static str,
    },
    /// A node speaks another version family: nothing but pings is sent to it.
    FamilyMismatch {
        /// Cluster of the node.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
        /// Family configured for the cluster.
        configured: Family,
    },
    /// A packet came from an address that belongs to no node of the cluster.
    ForeignAddress {
        /// Cluster named in the packet.
        cluster: ClusterId,
        /// Source named in the packet.
        node: NodeId,
        /// Address it came from.
        ip: IpAddr,
    },
    /// A packet was malformed.
    Malformed {
        /// Capability of the packet.
        capability: String,
        /// Its type.
        packet_type: i32,
        /// What was wrong.
        error: DecodeError,
    },
    /// A packet of the clusterer has a type this family does not have.
    UnknownType {
        /// Capability of the packet.
        capability: &'static str,
        /// Its type.
        packet_type: i32,
    },
    /// A sync packet has the wrong version.
    SyncVersion {
        /// Cluster it came in.
        cluster: ClusterId,
        /// Sender.
        node: NodeId,
        /// Version found.
        version: u16,
    },
    /// A packet was too large to be built and was not sent.
    NotBuilt {
        /// Cluster it was meant for.
        cluster: ClusterId,
        /// Which packet.
        what: &'static str,
    },
    /// The buffer of regular packets during a sync is full; they pass directly from now on.
    SyncBufferFull {
        /// Cluster of the sync.
        cluster: ClusterId,
        /// Capability being synced.
        capability: Arc<str>,
    },
}

impl LogEvent {
    /// How loud the line should be.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        match self {
            Self::Link { to: LinkState::Down, .. } => LogLevel::Warning,
            Self::Link { .. } | Self::NodeLearned { .. } | Self::NodeRemoved { .. } => LogLevel::Info,
            Self::OwnNodeRemoved { .. } | Self::FamilyMismatch { .. } => LogLevel::Error,
            _ => LogLevel::Warning,
        }
    }
}

impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { cluster, node, from, to } => {
                write!(f, "cluster {cluster}: link to node {node} {from:?} -> {to:?}")
            }
            Self::NodeLearned { cluster, node, url } => {
                write!(f, "cluster {cluster}: learned node {node} at {url}")
            }
            Self::NodeRemoved { cluster, node } => {
                write!(f, "cluster {cluster}: node {node} removed")
            }
            Self::OwnNodeRemoved { cluster, by } => write!(
                f,
                "cluster {cluster}: node {by} removed us; the own node is disabled until it is enabled or restarted"
            ),
            Self::NodeRefused { cluster, node, reason } => {
                write!(f, "cluster {cluster}: node {node} not added: {reason}")
            }
            Self::FamilyMismatch { cluster, node, configured } => write!(
                f,
                "cluster {cluster}: node {node} does not speak family {configured}; only pings are sent to it"
            ),
            Self::ForeignAddress { cluster, node, ip } => {
                write!(f, "cluster {cluster}: packet of node {node} from {ip}, an address of no node; dropped")
            }
            Self::Malformed { capability, packet_type, error } => {
                write!(f, "malformed packet, capability {capability} type {packet_type}: {error}")
            }
            Self::UnknownType { capability, packet_type } => {
                write!(f, "capability {capability} has no packet type {packet_type}; dropped")
            }
            Self::SyncVersion { cluster, node, version } => {
                write!(f, "cluster {cluster}: sync packet of node {node} has version {version}; dropped")
            }
            Self::NotBuilt { cluster, what } => {
                write!(f, "cluster {cluster}: {what} does not fit a packet; not sent")
            }
            Self::SyncBufferFull { cluster, capability } => {
                write!(f, "cluster {cluster}: buffer full during the sync of {capability}; packets pass directly")
            }
        }
    }
}
