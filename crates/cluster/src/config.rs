//! What the core is told at start: own id, clusters, nodes, timers. Reads no file and no database.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::error::ConfigError;
use crate::family::Family;
use crate::ids::{ClusterId, NodeId};
use crate::limits::{CLUSTERS_MAX, NODES_MAX};
use crate::role::NodeRole;
use crate::url::BinUrl;

/// Where node records come from (`db_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provisioning {
    /// `db_mode=0`: own record and entry points from the script, all else learned; unknown nodes may join.
    #[default]
    Script,
    /// `db_mode=1`: rows of a database; unknown nodes are ignored.
    Database,
}

/// Timers of all links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Between pings on an UP link (`ping_interval`).
    pub ping_interval: Duration,
    /// Wait for a pong and distance of retries (`ping_timeout`).
    pub ping_timeout: Duration,
    /// Between attempts on a DOWN link (`node_timeout`).
    pub node_timeout: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(4),
            ping_timeout: Duration::from_secs(1),
            node_timeout: Duration::from_secs(60),
        }
    }
}

/// Settings of capability syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncSettings {
    /// How long a seed waits for a donor before it calls itself synced (`seed_fallback_interval`).
    pub seed_fallback_interval: Duration,
    /// Silence after which a running sync is given up (`sync_timeout`).
    pub sync_timeout: Duration,
    /// Soft target of the size of a sync packet in bytes (`sync_packet_size`).
    pub sync_packet_size: usize,
    /// Wait for the first packet of a requested sync; then another donor is asked.
    ///
    /// Deviation: OpenSIPS waits for ever.
    pub request_timeout: Duration,
    /// True when the caller reports written sync packets with
    /// [`crate::ClusterNode::handle_sync_written`]; donors then pause at a full window.
    pub has_flow_control: bool,
}

impl Default for SyncSettings {
    fn default() -> Self {
        Self {
            seed_fallback_interval: Duration::from_secs(5),
            sync_timeout: Duration::from_secs(15),
            sync_packet_size: 32_768,
            request_timeout: crate::limits::SYNC_REQUEST_TIMEOUT,
            has_flow_control: false,
        }
    }
}

/// One process: its id and all clusters it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNodeConfig {
    /// `my_node_id`.
    pub node_id: NodeId,
    /// `db_mode`.
    pub provisioning: Provisioning,
    /// The clusters, at most [`CLUSTERS_MAX`].
    pub clusters: Vec<ClusterConfig>,
    /// Link timers.
    pub timers: Timers,
    /// Sync settings.
    pub sync: SyncSettings,
    /// `enable_rerouting`: detours over other nodes are used and offered.
    pub is_rerouting_enabled: bool,
    /// Processes of other clusters that may send bridge packets.
    pub bridge_peers: Vec<BridgePeer>,
    /// Bridges from own clusters to others.
    pub bridges: Vec<Bridge>,
    /// Whether Tandem nodes use a capability of their own among each other: sharing tags with epoch and lease, verified
    /// and resumable syncs. Other nodes ignore it.
    pub has_extensions: bool,
    /// Sharing tags among Tandem nodes.
    pub tags: TagSettings,
    /// Whether a node or connection that sends nothing but malformed packets is left alone for a while.
    pub parks_offenders: bool,
    /// What nodes may not do; nothing is taken from those that are not named.
    pub roles: Vec<NodeRole>,
}

/// Settings of sharing tags among Tandem nodes; without effect on what OpenSIPS nodes see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagSettings {
    /// How long a tag stays with a holder that is silent.
    pub lease: Duration,
    /// Whether the node with the lowest priority value takes a tag whose holder is gone.
    pub is_takeover_enabled: bool,
}

impl Default for TagSettings {
    fn default() -> Self {
        Self { lease: crate::limits::TAG_LEASE, is_takeover_enabled: false }
    }
}

impl ClusterNodeConfig {
    /// A configuration with defaults for everything but the id and the clusters.
    #[must_use]
    pub fn new(node_id: NodeId, clusters: Vec<ClusterConfig>) -> Self {
        Self {
            node_id,
            provisioning: Provisioning::Script,
            clusters,
            timers: Timers::default(),
            sync: SyncSettings::default(),
            is_rerouting_enabled: true,
            bridge_peers: Vec::new(),
            bridges: Vec::new(),
            has_extensions: false,
            tags: TagSettings::default(),
            parks_offenders: true,
            roles: Vec::new(),
        }
    }

    /// Checks ids, counts and timers.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.node_id.0 <= 0 {
            return Err(ConfigError::NodeId(self.node_id));
        }
        if self.clusters.len() > CLUSTERS_MAX {
            return Err(ConfigError::TooManyClusters(self.clusters.len()));
        }
        let timers = [
            self.timers.ping_interval,
            self.timers.ping_timeout,
            self.timers.node_timeout,
            self.sync.sync_timeout,
            self.sync.request_timeout,
            self.tags.lease,
        ];
        if timers.iter().any(Duration::is_zero) {
            return Err(ConfigError::ZeroTimer);
        }
        for (index, cluster) in self.clusters.iter().enumerate() {
            cluster.check(self.node_id)?;
            if self.clusters.iter().take(index).any(|c| c.cluster_id == cluster.cluster_id) {
                return Err(ConfigError::DuplicateCluster(cluster.cluster_id));
            }
        }
        Ok(())
    }
}

/// One cluster as this process sees it at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Number of the cluster.
    pub cluster_id: ClusterId,
    /// Version family spoken in it.
    pub family: Family,
    /// Whether CAP_UPDATE is numbered; only for early 3.0/3.1/3.2 minors it must be `false`.
    pub has_cap_update_numbers: bool,
    /// The own record (`my_node_info`, or the own row).
    pub own: NodeConfig,
    /// The other nodes known at start (`neighbor_node_info`, or the other rows).
    pub nodes: Vec<NodeConfig>,
    /// Sharing tags named in the configuration (`sharing_tag`).
    pub sharing_tags: Vec<SharingTagConfig>,
}

impl ClusterConfig {
    /// A cluster of the default family without sharing tags.
    #[must_use]
    pub fn new(cluster_id: ClusterId, own: NodeConfig, nodes: Vec<NodeConfig>) -> Self {
        Self { cluster_id, family: Family::V3_3, has_cap_update_numbers: true, own, nodes, sharing_tags: Vec::new() }
    }

    fn check(&self, own: NodeId) -> Result<(), ConfigError> {
        if self.cluster_id.0 <= 0 {
            return Err(ConfigError::ClusterId(self.cluster_id));
        }
        if self.own.node_id != own {
            return Err(ConfigError::OwnId { cluster: self.cluster_id, node: self.own.node_id });
        }
        if self.nodes.len() > NODES_MAX {
            return Err(ConfigError::TooManyNodes(self.cluster_id, self.nodes.len()));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let id = node.node_id;
            if id.0 <= 0 || id == own {
                return Err(ConfigError::NodeId(id));
            }
            if self.nodes.iter().take(index).any(|other| other.node_id == id) {
                return Err(ConfigError::DuplicateNode(self.cluster_id, id));
            }
        }
        Ok(())
    }
}

/// A node record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Number of the node.
    pub node_id: NodeId,
    /// Its listener.
    pub url: BinUrl,
    /// Address of the listener when already resolved; otherwise taken from the URL or asked for
    /// with [`crate::Output::Resolve`].
    pub addr: Option<SocketAddr>,
    /// `sip_addr`, may be empty.
    pub sip_addr: String,
    /// Lower values are preferred as a detour.
    pub priority: i32,
    /// Retries before a link is DOWN.
    pub no_ping_retries: i32,
    /// `flags` holds `seed`: the node may call itself synced without a donor.
    pub is_seed: bool,
    /// Free text shown by `list`.
    pub description: Option<String>,
    /// `state`.
    pub is_enabled: bool,
    /// Row id, -1 without a database.
    pub db_id: i32,
}

impl NodeConfig {
    /// A record with the defaults of script mode.
    #[must_use]
    pub fn new(node_id: NodeId, url: BinUrl) -> Self {
        Self {
            node_id,
            addr: url.literal_addr(),
            url,
            sip_addr: String::new(),
            priority: 3,
            no_ping_retries: 3,
            is_seed: false,
            description: None,
            is_enabled: true,
            db_id: -1,
        }
    }
}

/// A sharing tag named in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharingTagConfig {
    /// Name without the cluster.
    pub name: String,
    /// True for `=active`.
    pub is_active: bool,
}

/// A bridge to another cluster (a row of `clusterer_bridge`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Own cluster (`cluster_a`).
    pub cluster: ClusterId,
    /// The other one (`cluster_b`).
    pub to_cluster: ClusterId,
    /// Only the node where this tag is active sends (`send_shtag`).
    pub send_shtag: String,
    /// Nodes of the other cluster, in the order in which they are tried (`dst_node_csv`).
    pub destinations: Vec<BinUrl>,
}

/// A process of another cluster that may send packets over a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePeer {
    /// Cluster the packets come from.
    pub src_cluster: ClusterId,
    /// Own cluster they are meant for.
    pub cluster: ClusterId,
    /// Address they come from.
    pub ip: IpAddr,
}
