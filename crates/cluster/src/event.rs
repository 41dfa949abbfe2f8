//! What the core tells its owner; the owner turns it into script events, MI and module calls.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::ask::AnswerKind;
use crate::delivery::UndeliveredReason;
use crate::ids::{ClusterId, NodeId};
use crate::log::LogEvent;
use crate::repair::SyncRepair;

/// Why a sharing tag changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharingTagReason {
    /// `shtag_set_active`.
    MiCommand,
    /// A write to `$cluster.sh_tag`.
    ScriptVariable,
    /// A module asked for it.
    InternalApi,
    /// Another node took the tag.
    Broadcast(NodeId),
    /// The holder is gone and this node is next (Tandem only).
    Takeover(NodeId),
}

impl fmt::Display for SharingTagReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MiCommand => f.write_str("MI command"),
            Self::ScriptVariable => f.write_str("script variable"),
            Self::InternalApi => f.write_str("internal API call"),
            Self::Takeover(node) => write!(f, "takeover from node {node}, which is gone"),
            Self::Broadcast(node) => write!(f, "cluster broadcast from {node}"),
        }
    }
}

/// Something happened that others want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `E_CLUSTERER_REQ_RECEIVED`.
    RequestReceived {
        /// Cluster it came in.
        cluster: ClusterId,
        /// Originator.
        src: NodeId,
        /// Text of the script.
        msg: Bytes,
        /// Opaque tag, needed for the reply.
        tag: Bytes,
    },
    /// `E_CLUSTERER_RPL_RECEIVED`.
    ReplyReceived {
        /// Cluster it came in.
        cluster: ClusterId,
        /// Originator.
        src: NodeId,
        /// Text of the script.
        msg: Bytes,
        /// Tag of the request.
        tag: Bytes,
    },
    /// A node of ours says of a question that it is not its business, or that nobody there answers any.
    AnswerReceived {
        /// Cluster it came in.
        cluster: ClusterId,
        /// Originator.
        src: NodeId,
        /// What it says.
        kind: AnswerKind,
        /// Text of the script.
        msg: Bytes,
        /// Tag of the question.
        tag: Bytes,
    },
    /// A script message that was accepted was not delivered, as far as is known (`E_CLUSTER_UNDELIVERED`).
    Undelivered {
        /// Cluster it was sent in.
        cluster: ClusterId,
        /// Who did not get it.
        node: NodeId,
        /// Text of the script.
        msg: Bytes,
        /// Its tag.
        tag: Bytes,
        /// Why.
        reason: UndeliveredReason,
    },
    /// `E_CLUSTERER_NODE_STATE_CHANGED`: reachability, over detours too, not the state of a link.
    NodeStateChanged {
        /// Cluster of the node.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
        /// True when it became reachable.
        is_up: bool,
    },
    /// `E_CLUSTERER_SHARING_TAG_CHANGED`.
    SharingTagChanged {
        /// Name without the cluster.
        name: String,
        /// Cluster of the tag.
        cluster: ClusterId,
        /// True when this node is now active for it.
        is_active: bool,
        /// Cause.
        reason: SharingTagReason,
    },
    /// Another node asks to run a management command here; no answer goes back.
    MiCommand {
        /// Cluster it came in.
        cluster: ClusterId,
        /// Who asks.
        src: NodeId,
        /// Command name.
        command: Bytes,
        /// Positional parameters.
        params: Vec<Bytes>,
    },
    /// A packet of a registered capability.
    ModulePacket {
        /// Cluster it came in.
        cluster: ClusterId,
        /// Originator.
        src: NodeId,
        /// Capability it belongs to.
        capability: Arc<str>,
        /// Type inside the capability.
        packet_type: i32,
        /// Content version.
        version: u16,
        /// Module data without the trailer.
        body: Bytes,
        /// Cluster it was sent from when it came over a bridge.
        bridge_from: Option<ClusterId>,
    },
    /// Another node wants a sync from us. The owner of the capability answers with `sync_begin`,
    /// `sync_chunk` and `sync_end`.
    SyncRequested {
        /// Cluster of the request.
        cluster: ClusterId,
        /// Capability to send.
        capability: Arc<str>,
        /// Who asks.
        requester: NodeId,
        /// Where an earlier sync of this node broke off: the cursor of [`crate::ClusterNode::sync_mark`].
        resume: Option<Bytes>,
        /// It has the data but for what this node changed from some moment on.
        repair: Option<SyncRepair>,
    },
    /// A donor session that was told to wait may go on.
    SyncReady {
        /// Cluster of the session.
        cluster: ClusterId,
        /// Capability being sent.
        capability: Arc<str>,
        /// Who receives.
        requester: NodeId,
    },
    /// A donor session ended because its receiver is gone.
    SyncAborted {
        /// Cluster of the session.
        cluster: ClusterId,
        /// Capability that was being sent.
        capability: Arc<str>,
        /// Who was receiving.
        requester: NodeId,
    },
    /// A sync begins: chunks follow.
    SyncStarted {
        /// Cluster of the sync.
        cluster: ClusterId,
        /// Capability it belongs to.
        capability: Arc<str>,
        /// Donor.
        donor: NodeId,
        /// Changes of the donor from then on were missed; everything else is here.
        repair_since: Option<Instant>,
    },
    /// One chunk of a sync that we asked for.
    SyncChunk {
        /// Cluster of the sync.
        cluster: ClusterId,
        /// Capability it belongs to.
        capability: Arc<str>,
        /// Donor.
        src: NodeId,
        /// Version of the module's data.
        data_version: i32,
        /// Module data.
        data: Bytes,
    },
    /// A sync is complete; buffered packets of the capability follow as [`Event::ModulePacket`].
    SyncDone {
        /// Cluster of the sync.
        cluster: ClusterId,
        /// Capability now synced.
        capability: Arc<str>,
        /// Chunks received; `None` when a seed calls itself synced without a donor.
        chunk_count: Option<u32>,
    },
    /// A running sync fell silent; the core asks another donor by itself.
    SyncTimeout {
        /// Cluster of the sync.
        cluster: ClusterId,
        /// Capability not synced.
        capability: Arc<str>,
        /// Chunks received until then.
        chunk_count: u32,
    },
    /// A line for the status/report group `clusterer`.
    Report {
        /// `sharing_tags`, `node_states` or `cap:<name>`.
        identifier: String,
        /// Text of the report.
        text: String,
    },
    /// Something for the log.
    Log(LogEvent),
}
