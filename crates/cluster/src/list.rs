//! Rows for the listing commands; the JSON is made elsewhere.

use std::sync::Arc;

use crate::capability::CapabilityStatus;
use crate::cluster::{Cluster, Node};
use crate::ids::{ClusterId, NodeId};
use crate::link::LinkState;
use crate::packet::NodeIds;

/// `clusterer:list`, one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterList {
    /// `cluster_id`.
    pub cluster_id: ClusterId,
    /// `Nodes`: the other nodes.
    pub nodes: Vec<NodeRow>,
}

/// One node of `clusterer:list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// `node_id`.
    pub node_id: NodeId,
    /// `db_id`, -1 without a database.
    pub db_id: i32,
    /// `url`, the text as provisioned.
    pub url: String,
    /// `link_state`; shown with [`LinkState::as_str`].
    pub link_state: LinkState,
    /// `state`: `enabled` or `disabled`.
    pub is_enabled: bool,
    /// `next_hop`, shown as `none` when absent.
    pub next_hop: Option<NodeId>,
    /// `description`, shown as `none` when absent.
    pub description: Option<String>,
}

/// `clusterer:list_topology`, one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyList {
    /// `cluster_id`.
    pub cluster_id: ClusterId,
    /// `Nodes`: the own node first, then the others.
    pub nodes: Vec<TopologyRow>,
}

/// One node of `clusterer:list_topology`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyRow {
    /// `node_id`.
    pub node_id: NodeId,
    /// `Neighbours`, the own id last when the own link to the node is up.
    pub neighbours: Vec<NodeId>,
}

/// `clusterer:list_cap`, one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityList {
    /// `cluster_id`.
    pub cluster_id: ClusterId,
    /// `Capabilities` of this node.
    pub capabilities: Vec<CapabilityRow>,
}

/// One capability of `clusterer:list_cap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityRow {
    /// `name`.
    pub name: Arc<str>,
    /// `state` is `Ok` when true, `not synced` otherwise.
    pub is_ok: bool,
    /// `enabled`: `yes` or `no`.
    pub is_enabled: bool,
    /// Finer state, for status/report.
    pub status: CapabilityStatus,
}

/// One tag of `clusterer:list_shtags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharingTagRow {
    /// `Tag`.
    pub tag: String,
    /// `Cluster`.
    pub cluster: ClusterId,
    /// `State` is `active` when true, `backup` otherwise.
    pub is_active: bool,
    /// Who has it as far as this node knows, or had it last; not shown by the command.
    pub holder: Option<NodeId>,
}

/// The statistics of group `clusterer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeCounts {
    /// `clusterer_nodes`: other nodes over all clusters.
    pub nodes: usize,
    /// `clusterer_nodes_up`: links that are UP.
    pub up: usize,
    /// `clusterer_nodes_down`: all others.
    pub down: usize,
}

fn node_row(node: &Node) -> NodeRow {
    NodeRow {
        node_id: node.id(),
        db_id: node.record.db_id,
        url: node.record.url.as_str().to_owned(),
        link_state: node.link.state,
        is_enabled: node.record.is_enabled,
        next_hop: node.next_hop,
        description: node.record.description.clone(),
    }
}

impl Cluster {
    pub(crate) fn list(&self) -> ClusterList {
        ClusterList { cluster_id: self.id, nodes: self.nodes.iter().map(node_row).collect() }
    }

    pub(crate) fn list_topology(&self, own_id: NodeId) -> TopologyList {
        let own = TopologyRow { node_id: own_id, neighbours: self.neighbours().into_vec() };
        let others = self.nodes.iter().map(|node| {
            let mut neighbours: NodeIds = node.neighbours.clone();
            if node.is_neighbour() {
                neighbours.push(own_id);
            }
            TopologyRow { node_id: node.id(), neighbours: neighbours.into_vec() }
        });
        TopologyList { cluster_id: self.id, nodes: std::iter::once(own).chain(others).collect() }
    }

    pub(crate) fn list_capabilities(&self) -> CapabilityList {
        let shown = self.capabilities.iter().filter(|cap| !crate::limits::is_own_capability(&*cap.name));
        let rows = shown.map(|cap| CapabilityRow {
            name: cap.name.clone(),
            is_ok: cap.is_ok,
            is_enabled: cap.is_enabled,
            status: cap.status(),
        });
        CapabilityList { cluster_id: self.id, capabilities: rows.collect() }
    }

    pub(crate) fn list_tags(&self, own_id: NodeId) -> impl Iterator<Item = SharingTagRow> + '_ {
        self.tags.iter().map(move |tag| SharingTagRow {
            tag: tag.name.clone(),
            cluster: self.id,
            is_active: tag.is_active,
            holder: if tag.is_active { Some(own_id) } else { tag.holder },
        })
    }
}
