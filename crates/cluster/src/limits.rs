//! Every limit of the cluster core in one place; no logic.

use std::time::Duration;

/// Capability of link, topology and capability state between adjacent nodes.
pub const CAPABILITY_INTERNAL: &str = "clusterer-internal";
/// Capability of addressed messages: script messages, syncs, tags, commands.
pub const CAPABILITY_EXTRA: &str = "clusterer-extra";
/// Capability of what only Tandem nodes understand; others drop its packets unread.
pub const CAPABILITY_TANDEM: &str = "tandem";
/// Capability of acknowledged delivery; others drop its packets unread.
pub const CAPABILITY_DELIVERY: &str = "tandem-delivery";
/// Told by nodes that take packets of modules in acknowledged delivery and ask for what they missed; no packet bears it.
pub const CAPABILITY_CHANGES: &str = "tandem-changes";
/// Capability of Tandem nodes that take sharing tags over (`tag_takeover`); it has no packets.
pub const CAPABILITY_TAKEOVER: &str = "tandem-takeover";
/// Capabilities that are no module's and are not listed.
pub(crate) fn is_own_capability(name: impl AsRef<[u8]>) -> bool {
    let own = [CAPABILITY_TANDEM, CAPABILITY_DELIVERY, CAPABILITY_CHANGES, CAPABILITY_TAKEOVER];
    own.iter().any(|own| own.as_bytes() == name.as_ref())
}
/// Longest message and tag that are acknowledged; longer ones go as ordinary packets.
pub const DELIVERY_LEN_MAX: usize = 65_000;
/// Messages that wait for one node; a further one is refused at once.
pub const DELIVERY_QUEUE_MAX: usize = 65_536;
/// Bytes that wait for one node; same effect as [`DELIVERY_QUEUE_MAX`].
pub const DELIVERY_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages handed to the transport before one of them is acknowledged: fewer than a connection queues.
pub const DELIVERY_WINDOW_PACKETS: usize = 512;
/// Bytes handed to the transport before some are acknowledged.
pub const DELIVERY_WINDOW_BYTES: usize = 1024 * 1024;
/// Messages after which an acknowledgement is sent at once.
pub const DELIVERY_ACK_PACKETS: u32 = 64;
/// Longest wait for something an acknowledgement can travel with.
pub const DELIVERY_ACK_DELAY: Duration = Duration::from_millis(10);
/// Silence after which the other side is asked where it stands.
pub const DELIVERY_PROBE_AFTER: Duration = Duration::from_secs(2);
/// Wait for the answer to that; doubles each time.
pub const DELIVERY_HELLO_WAIT: Duration = Duration::from_secs(1);
/// Upper bound of the doubled [`DELIVERY_HELLO_WAIT`].
pub const DELIVERY_HELLO_WAIT_MAX: Duration = Duration::from_secs(8);
/// How long messages are kept for a node that acknowledges nothing: longer than the pause between two attempts to reach a
/// node that is down (`node_timeout`, 60 s).
pub const DELIVERY_HOLD: Duration = Duration::from_secs(120);
/// Packets of modules that wait for one node: with more, those of the capability are given up and a sync brings them.
pub const CHANGES_QUEUE_MAX: usize = 8_192;
/// Bytes of such packets; same effect as [`CHANGES_QUEUE_MAX`].
pub const CHANGES_QUEUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A node that was told that it missed something and does not ask for it is told again.
pub const MISSED_REPEAT: Duration = Duration::from_secs(30);
/// How much earlier than the first change missed a repair begins: clocks of modules and of the core differ a little.
pub const REPAIR_MARGIN: Duration = Duration::from_secs(2);
/// What was changed longer than that before the first sync of a node was asked for had reached the donor, if the donor is in
/// touch with who changed it: longer than it takes to notice a silent node.
pub const REPAIR_START_MARGIN: Duration = Duration::from_secs(10);
/// A process that did nothing for so long was stopped: others went on without it. Longer than the pause between two pings.
pub const SLEEP_MIN: Duration = Duration::from_secs(8);
/// How often one donor is asked for a repair; then it is given up.
pub const REPAIR_ATTEMPTS_MAX: u8 = 8;
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
/// Nodes whose claims of one tag an observer remembers; one more forgets the oldest.
pub const OBSERVED_HOLDERS_MAX: usize = 16;
/// Longest name of a capability or sharing tag and longest URL or SIP address that is remembered of another node, in bytes:
/// what one peer makes this node keep stays below a megabyte.
pub const PEER_TEXT_LEN_MAX: usize = 255;
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
/// Pings repeated within [`PING_GAP_MIN`] because their connection was closed.
pub(crate) const PING_REPEATS_MAX: u8 = 3;
/// Tries to connect to a node that is down per question for its address, after the first few.
pub(crate) const KNOCKS_PER_ASK: u32 = 16;
/// UNKNOWN_ID answers in a row after which such pings slow down to `ping_timeout`.
pub const UNKNOWN_ID_STREAK_MAX: u32 = 5;
/// Wait for the first packet of a requested sync before another donor is asked; doubles each time.
pub const SYNC_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bound of the doubled [`SYNC_REQUEST_TIMEOUT`].
pub const SYNC_REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// After the last change of an own link or capability, the whole own state is told once more, so
/// that updates that overtook each other leave nobody with an old view.
pub const REPEAT_DELAY: Duration = Duration::from_secs(5);
/// After the first repeat of the own links, one more: others may have told each other what was true before it.
pub const REPEAT_LATE_DELAY: Duration = Duration::from_secs(25);
/// How often a node that is up and never told its topology is made to tell it.
pub(crate) const TOPOLOGY_ASKS_MAX: u8 = 3;
/// Connections remembered per node.
pub const CONNS_PER_NODE_MAX: usize = 8;
/// Outputs that wait for the caller; beyond it messages are refused at once, link traffic is not.
pub const OUTBOX_PACKETS_MAX: usize = 65_536;
/// Bytes of packets that wait for the caller; same effect as [`OUTBOX_PACKETS_MAX`].
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest place of a sync that can be taken up again.
pub const SYNC_CURSOR_LEN_MAX: usize = 1_024;
/// A break after which a sync is taken up where it was; after a longer one it begins anew.
pub const SYNC_RESUME_MAX: Duration = Duration::from_secs(60);
/// Changes of a link remembered per node.
pub const LINK_HISTORY_MAX: usize = 32;
/// Span in which losses of a link are counted for damping.
pub const FLAP_WINDOW: Duration = Duration::from_secs(60);
/// Losses within [`FLAP_WINDOW`] that are taken without damping.
pub const FLAPS_FREE: usize = 3;
/// Longest time a damped link has to stay good before it counts as up.
pub const FLAP_HOLD_MAX: Duration = Duration::from_secs(16);
/// Malformed packets of a node or connection within [`MALFORMED_WINDOW`] after which it is parked.
pub const MALFORMED_MAX: u32 = 16;
/// Span in which malformed packets are counted.
pub const MALFORMED_WINDOW: Duration = Duration::from_secs(10);
/// How long nothing is taken from a parked node or connection.
pub const PARK_TIME: Duration = Duration::from_secs(30);
/// Offending connections remembered; one more forgets the oldest.
pub const OFFENDERS_MAX: usize = 1_024;
/// Log lines of one kind about bad input per [`LOG_WINDOW`]; more are counted in one line.
pub const LOG_LINES_MAX: u32 = 10;
/// Span of [`LOG_LINES_MAX`].
pub const LOG_WINDOW: Duration = Duration::from_secs(10);
/// How long a sharing tag stays with a holder that is silent.
pub const TAG_LEASE: Duration = Duration::from_secs(10);
/// Longest lease taken from another node.
pub const TAG_LEASE_MAX: Duration = Duration::from_secs(300);
/// Bridges of one process; further ones are ignored.
pub const BRIDGES_MAX: usize = 256;
/// Addresses of one bridge that are tried, over all entries of its `dst_node_csv`.
pub const BRIDGE_ADDRS_MAX: usize = 16;
/// How long a destination of a bridge that failed comes after all others.
pub const BRIDGE_PASS_OVER: Duration = Duration::from_secs(10);
/// How long a packet over a bridge is kept for another destination: longer than a connection takes to fail.
pub const BRIDGE_HOLD: Duration = Duration::from_secs(10);
/// Packets over bridges kept for another destination; one more forgets the oldest.
pub const BRIDGE_WAITING_MAX: usize = 1_024;
/// Bytes of those packets; same effect as [`BRIDGE_WAITING_MAX`].
pub const BRIDGE_WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Between two questions for the addresses of a bridge destination that is a name.
pub const BRIDGE_RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// The same while the name has none.
pub const BRIDGE_RESOLVE_RETRY: Duration = Duration::from_secs(10);
/// Between two log lines about lost packets of one bridge.
pub const BRIDGE_WARN_EVERY: Duration = Duration::from_secs(30);
/// Random characters of a message tag, drawn from 57: 140 bits.
pub const TAG_RANDOM_CHARS: usize = 24;
