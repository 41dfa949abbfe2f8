//! Module `clusterer`: the cluster, as scripts and operators see it. The protocol is in `tandem-cluster`; here are its
//! parameters, functions, events and commands, and the way between the core and the sockets.

mod capability;
mod database;
mod donor;
mod functions;
mod management;
mod output;
mod params;
mod publish;
mod query;
mod report;
mod security;
mod service;
mod text_form;
mod variable;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod bridge_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod database_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod peer;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod publish_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod query_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

pub use capability::{Capability, CapabilityUser, ModulePacket, QUEUE_BYTES_MAX, QUEUE_MAX, Registration, SyncSource};
pub use service::Clusterer;
pub use tandem_cluster::{
    CapabilityOptions, CapabilityStatus, ClusterId, DonorCondition, Family, NodeId, Partition, SendError, SyncError,
    SyncRepair,
};

use tandem_module::ModuleDecl;
use tandem_script::surface::{CommandSpec, EventSpec, StatSpec};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "clusterer",
    doc: "the cluster",
    params: params::PARAMS,
    functions: functions::FUNCTIONS,
    variables: variable::VARIABLES,
    events: EVENTS,
    commands: COMMANDS,
    stats: STATS,
    depends: &["proto_bin|proto_bins"],
    setup: params::setup,
    init: service::init,
    start: service::start,
    ..ModuleDecl::EMPTY
};

const COMMANDS: &[CommandSpec] = &{
    let [explain] = report::COMMANDS;
    let [s, t, u, v, w, x, y] = security::COMMANDS;
    let [f, g, h, i, j, k, l, m, n, o, p, q] = management::COMMANDS;
    [f, g, h, i, j, k, l, m, n, o, p, q, explain, publish::LIST, s, t, u, v, w, x, y]
};

/// A script request of another node.
pub const REQUEST_RECEIVED: &str = "E_CLUSTERER_REQ_RECEIVED";
/// An answer of another node.
pub const REPLY_RECEIVED: &str = "E_CLUSTERER_RPL_RECEIVED";
/// A node became reachable or unreachable.
pub const NODE_STATE_CHANGED: &str = "E_CLUSTERER_NODE_STATE_CHANGED";
/// A sharing tag became active or backup here.
pub const SHARING_TAG_CHANGED: &str = "E_CLUSTERER_SHARING_TAG_CHANGED";

/// A script message that was accepted was not delivered (Tandem only).
pub const UNDELIVERED: &str = "E_CLUSTER_UNDELIVERED";

const EVENTS: &[EventSpec] = &[
    EventSpec {
        name: UNDELIVERED,
        params: &["cluster_id", "node_id", "msg", "tag", "reason"],
        doc: "a message to a Tandem node was not delivered, as far as is known: queue full, timed out, restarted, removed",
    },
    EventSpec {
        name: REQUEST_RECEIVED,
        params: &["cluster_id", "src_id", "msg", "tag"],
        doc: "a node sent a request with cluster_send_req() or cluster_broadcast_req()",
    },
    EventSpec {
        name: REPLY_RECEIVED,
        params: &["cluster_id", "src_id", "msg", "tag"],
        doc: "a node answered with cluster_send_rpl()",
    },
    EventSpec {
        name: NODE_STATE_CHANGED,
        params: &["cluster_id", "node_id", "new_state"],
        doc: "a node became reachable (1) or unreachable (0)",
    },
    EventSpec {
        name: SHARING_TAG_CHANGED,
        params: &["name", "cluster", "state", "reason"],
        doc: "a sharing tag became active or backup on this node",
    },
];

const STATS: &[StatSpec] = &[
    StatSpec { name: "clusterer_nodes", doc: "other nodes over all clusters" },
    StatSpec { name: "clusterer_nodes_up", doc: "links that are up" },
    StatSpec { name: "clusterer_nodes_down", doc: "links that are not" },
    StatSpec { name: "held_replies", doc: "answers that came before the script waited for them" },
    StatSpec { name: "dropped_packets", doc: "packets that were malformed, foreign or refused" },
    StatSpec { name: "messages_unacknowledged", doc: "script messages sent that Tandem nodes have not confirmed yet" },
    StatSpec {
        name: "messages_undelivered",
        doc: "script messages accepted and not delivered (E_CLUSTER_UNDELIVERED)",
    },
    StatSpec { name: "questions_pending", doc: "cluster_query() calls that wait for answers" },
    StatSpec { name: "shared_keys", doc: "keys of cluster_publish() and cluster_count() held" },
    StatSpec { name: "shared_key_bytes", doc: "bytes of those keys and their values" },
    StatSpec { name: "module_packets_sent", doc: "packets of capabilities sent, one per node reached" },
    StatSpec { name: "module_packets_received", doc: "packets of capabilities taken in" },
    StatSpec { name: "module_packets_failed", doc: "packets of capabilities that could not be sent" },
    StatSpec { name: "module_packets_lost", doc: "packets of capabilities dropped because a module was too slow" },
    StatSpec { name: "bridge_packets_sent", doc: "packets sent over bridges to other clusters, one per bridge" },
    StatSpec { name: "bridge_packets_moved", doc: "how often one went to the next destination because one failed" },
    StatSpec { name: "bridge_packets_lost", doc: "packets that no destination of their bridge took" },
    StatSpec { name: "sync_chunks_sent", doc: "chunks of syncs sent as donor" },
    StatSpec { name: "sync_chunks_received", doc: "chunks of syncs taken in" },
    StatSpec { name: "sync_chunks_refused", doc: "chunks of syncs left out because they do not fit a packet" },
    StatSpec { name: "syncs_done", doc: "syncs completed as receiver" },
    StatSpec { name: "links_proven", doc: "links on which the peer proved the cluster secret" },
    StatSpec { name: "links_refused", doc: "links that failed: no secret, a wrong one, plain BIN, a used token" },
    StatSpec { name: "packets_refused", doc: "packets that their link or the role of their node does not allow" },
    StatSpec { name: "donations_done", doc: "syncs completed as donor" },
];

/// Whether a sharing tag is active on this node; `None` without module `clusterer` or without such a tag.
pub fn is_sharing_tag_active(node: tandem_module::NodeRef, cluster: i32, name: &str) -> Option<bool> {
    node.state::<Clusterer>()?.with(node, |core| core.is_sharing_tag_active(tandem_cluster::ClusterId(cluster), name))
}
