//! Why the core refuses a configuration or a command.

use thiserror::Error;

use crate::ids::{ClusterId, NodeId};

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A node id is not above 0, or another node has the own id.
    #[error("node id {0} is not allowed here")]
    NodeId(NodeId),
    /// A cluster id is not above 0.
    #[error("cluster id {0} is not above 0")]
    ClusterId(ClusterId),
    /// The own record of a cluster has another id than the process.
    #[error("cluster {cluster}: the own record has node id {node}")]
    OwnId {
        /// Cluster of the record.
        cluster: ClusterId,
        /// Id found in it.
        node: NodeId,
    },
    /// More clusters than [`crate::CLUSTERS_MAX`].
    #[error("{0} clusters are more than 64")]
    TooManyClusters(usize),
    /// More other nodes than [`crate::NODES_MAX`].
    #[error("cluster {0}: {1} other nodes are more than 128")]
    TooManyNodes(ClusterId, usize),
    /// A cluster is described twice.
    #[error("cluster {0} is described twice")]
    DuplicateCluster(ClusterId),
    /// A node is described twice.
    #[error("cluster {0}: node {1} is described twice")]
    DuplicateNode(ClusterId, NodeId),
    /// A timer is zero.
    #[error("a timer of the cluster is zero")]
    ZeroTimer,
}

/// Why an addressed packet was not sent; the codes are those of the script functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The own node is disabled in the cluster, or the tag is empty (-1).
    #[error("own node disabled or tag empty")]
    Disabled,
    /// No path to the destination, or to any (-2).
    #[error("destination unreachable")]
    Unreachable,
    /// Too much waits for that node already (-4; Tandem only).
    #[error("too much waits for that node already")]
    QueueFull,
    /// The own node is an observer: it changes no data of the others (-1; Tandem only).
    #[error("cluster_roles makes this node an observer: it changes nothing")]
    Observer,
    /// Unknown cluster or node, or nothing could be handed to the transport (-3).
    #[error("unknown cluster or node, or send error")]
    Failed,
}

impl SendError {
    /// What a script function returns for it.
    #[must_use]
    pub fn script_code(self) -> i32 {
        match self {
            Self::Disabled | Self::Observer => -1,
            Self::Unreachable => -2,
            Self::Failed => -3,
            Self::QueueFull => -4,
        }
    }
}

/// Why `clusterer:send_mi` did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MiSendError {
    /// 400 `Send error`: unknown node or cluster.
    #[error("Send error")]
    SendError,
    /// 400 `Destination down`.
    #[error("Destination down")]
    DestinationDown,
    /// 400 `Local node specified as destination`.
    #[error("Local node specified as destination")]
    LocalNode,
    /// Reported as a result, not as an error: `Local node disabled`.
    #[error("Local node disabled")]
    LocalNodeDisabled,
}

/// Why `clusterer:set_status` did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SetStatusError {
    /// 404 `Cluster id not found`.
    #[error("Cluster id not found")]
    UnknownCluster,
    /// 404 `Node id not found`.
    #[error("Node id not found")]
    UnknownNode,
}

/// Why a capability command did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CapabilityError {
    /// 404 `Cluster id not found`.
    #[error("Cluster id not found")]
    UnknownCluster,
    /// 404 `Capability not found`.
    #[error("Capability not found")]
    UnknownCapability,
    /// The name is empty, one of the clusterer's own, or registered already.
    #[error("capability name not allowed or registered already")]
    Name,
    /// More than [`crate::CAPABILITIES_MAX`] capabilities.
    #[error("too many capabilities")]
    TooMany,
}

/// Why `clusterer:remove_node` did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RemoveNodeError {
    /// 400 `Running in DB mode`.
    #[error("Running in DB mode")]
    DatabaseMode,
    /// 400 `Unknown cluster id`.
    #[error("Unknown cluster id")]
    UnknownCluster,
    /// 400 `Unknown node id`, the own one included.
    #[error("Unknown node id")]
    UnknownNode,
    /// The own role does not allow it.
    #[error("this node is an observer (cluster_roles): it removes no nodes")]
    Role,
}

/// Why a sharing tag command did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SharingTagError {
    /// 404 `Cluster ID not found`.
    #[error("Cluster ID not found")]
    UnknownCluster,
    /// More than [`crate::SHARING_TAGS_MAX`] tags in the cluster.
    #[error("too many sharing tags")]
    TooMany,
    /// The name is longer than [`crate::PEER_TEXT_LEN_MAX`].
    #[error("the name of a sharing tag has at most 255 bytes")]
    Name,
    /// The own role does not allow it.
    #[error("this node may not hold sharing tags (cluster_roles)")]
    Role,
}

/// Why a step of a sync was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SyncError {
    /// The cluster is unknown.
    #[error("unknown cluster")]
    UnknownCluster,
    /// The capability is not registered.
    #[error("unknown capability")]
    UnknownCapability,
    /// The capability or the own node is disabled.
    #[error("capability or own node disabled")]
    Disabled,
    /// No donor session with that node: it was never begun, has ended, or the node went down.
    #[error("no such sync session")]
    NoSession,
    /// The chunk does not fit one packet.
    #[error("chunk of {0} bytes does not fit a packet")]
    ChunkTooLong(usize),
    /// The packet could not be sent to the requester; the session is over.
    #[error(transparent)]
    Send(#[from] SendError),
}
