//! Every limit of the cluster core in one place; no logic.

use std::time::Duration;

/// Capability of link, topology and capability state between adjacent nodes.
pub const CAPABILITY_INTERNAL: &str = "clusterer-internal";
/// Capability of addressed messages: script messages, syncs, tags, commands.
pub const CAPABILITY_EXTRA: &str = "clusterer-extra";
/// Clusters one process can be in; more are a configuration error.
pub const CLUSTERS_MAX: usize = 64;
/// Other nodes a cluster can have; descriptions of more are ignored.
pub const NODES_MAX: usize = 128;
/// A flooded packet whose path is longer than this is not passed on.
pub const PATH_FLOOD_MAX: usize = 25;
/// Longest path accepted at all; a longer one makes the packet malformed.
pub const PATH_LEN_MAX: usize = 1_024;
/// Capabilities remembered per node; further names are ignored.
pub const CAPABILITIES_PER_NODE_MAX: usize = 256;
/// Capabilities this process can register per cluster.
pub const CAPABILITIES_MAX: usize = 256;
/// Sharing tags per cluster, counting those that packets created; further ones are ignored.
pub const SHARING_TAGS_MAX: usize = 1_024;
/// Donor sessions that can run at once per capability; a further request is refused silently.
pub const DONOR_SESSIONS_MAX: usize = NODES_MAX;
/// Regular packets held back while a sync of their capability runs. One more hands all of them
/// over at once, and packets pass directly from then on: order against the sync is lost, data not.
pub const SYNC_BUFFER_PACKETS_MAX: usize = 65_536;
/// Bytes held back while a sync runs; same effect as [`SYNC_BUFFER_PACKETS_MAX`].
pub const SYNC_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Sync packets a donor has handed out and that are not yet reported written; then it waits.
pub const SYNC_WINDOW_PACKETS: usize = 32;
/// Least distance of two pings on a link that is being (re)started.
pub const PING_GAP_MIN: Duration = Duration::from_millis(200);
/// UNKNOWN_ID answers in a row after which such pings slow down to `ping_timeout`.
pub const UNKNOWN_ID_STREAK_MAX: u32 = 5;
/// Wait for the first packet of a requested sync before another donor is asked; doubles each time.
pub const SYNC_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bound of the doubled [`SYNC_REQUEST_TIMEOUT`].
pub const SYNC_REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// After the last change of an own link or capability, the whole own state is told once more, so
/// that updates that overtook each other leave nobody with an old view.
pub const REPEAT_DELAY: Duration = Duration::from_secs(5);
/// Connections remembered per node.
pub const CONNS_PER_NODE_MAX: usize = 8;
/// Random characters of a message tag, drawn from 57: 140 bits.
pub const TAG_RANDOM_CHARS: usize = 24;
