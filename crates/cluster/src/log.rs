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
    /// A node or connection sent so much that is malformed that nothing more is taken from it for a while.
    Parked {
        /// Cluster and node, when they are known.
        node: Option<(ClusterId, NodeId)>,
        /// Address of the peer.
        ip: IpAddr,
        /// The last fault.
        reason: String,
    },
    /// A link goes up and down too often: it has to stay good for a while before it is used again.
    Damped {
        /// Cluster of the link.
        cluster: ClusterId,
        /// Other end.
        node: NodeId,
        /// Losses in the last minute.
        losses: usize,
        /// For how many seconds it is held.
        hold_secs: u64,
    },
    /// Lines like the next one were left out.
    Suppressed {
        /// How many.
        count: u32,
    },
    /// The outbox is full: a message was refused.
    OutboxFull {
        /// Cluster of the message.
        cluster: ClusterId,
    },
    /// No destination of a bridge took a packet.
    BridgeLost {
        /// Own cluster.
        cluster: ClusterId,
        /// The other one.
        to_cluster: ClusterId,
        /// Packets lost since the last such line.
        count: u64,
        /// The destinations, as they are provisioned.
        destinations: String,
        /// False when none of them has an address: names that cannot be resolved.
        has_address: bool,
    },
    /// The data of a sync is not what the donor sent.
    SyncSum {
        /// Cluster of the sync.
        cluster: ClusterId,
        /// Capability being synced.
        capability: Arc<str>,
        /// Donor.
        donor: NodeId,
    },
    /// Changes that were missed could not be had from the node that made them.
    RepairGivenUp {
        /// Cluster of the node.
        cluster: ClusterId,
        /// Capability of the changes.
        capability: Arc<str>,
        /// Who made them.
        donor: NodeId,
    },
    /// An observer sent what changes something; said once per node.
    ObserverRefused {
        /// Cluster of the node.
        cluster: ClusterId,
        /// The observer.
        node: NodeId,
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
                "cluster {cluster}: node {node} does not speak family {configured}; only pings are sent to it. Set \
                 cluster_family on this node, or take that node out of the cluster"
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
            Self::Parked { node, ip, reason } => {
                write!(f, "peer {ip}")?;
                if let Some((cluster, node)) = node {
                    write!(f, " (node {node} of cluster {cluster})")?;
                }
                let secs = crate::limits::PARK_TIME.as_secs();
                write!(f, " is parked for {secs} s: too many malformed packets, the last: {reason}")
            }
            Self::Damped { cluster, node, losses, hold_secs } => write!(
                f,
                "cluster {cluster}: link to node {node} was lost {losses} times within a minute; it is used again after \
                 {hold_secs} good seconds"
            ),
            Self::Suppressed { count } => write!(f, "{count} lines like the next one were left out"),
            Self::OutboxFull { cluster } => {
                write!(f, "cluster {cluster}: too much waits to be sent; messages are refused")
            }
            Self::BridgeLost { cluster, to_cluster, count, destinations, has_address } => {
                let why = if *has_address { "can be reached" } else { "has an address (its name is not resolved)" };
                write!(
                    f,
                    "cluster {cluster}: {count} packets over the bridge to cluster {to_cluster} were lost: no destination \
                     {why}. See whether they run, and correct dst_node_csv ({destinations}) if not"
                )
            }
            Self::SyncSum { cluster, capability, donor } => write!(
                f,
                "cluster {cluster}: the sync of {capability} from node {donor} does not add up; it is asked for again"
            ),
            Self::RepairGivenUp { cluster, capability, donor } => write!(
                f,
                "cluster {cluster}: changes of {capability} by node {donor} were missed and it does not answer; a sync \
                 command of the module, or a restart of this node, brings them"
            ),
            Self::ObserverRefused { cluster, node } => write!(
                f,
                "cluster {cluster}: node {node} has the role observer here, but sends changes; they are dropped. Give it the \
                 role in its own configuration, too, or take it away here"
            ),
            Self::SyncBufferFull { cluster, capability } => {
                write!(f, "cluster {cluster}: buffer full during the sync of {capability}; packets pass directly")
            }
        }
    }
}
