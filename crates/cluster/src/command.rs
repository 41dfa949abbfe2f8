//! Management commands on one cluster: status, removal, reload. Their texts are made elsewhere.

use crate::cluster::{Cluster, Ctx};
use crate::config::{ClusterConfig, NodeConfig};
use crate::error::{ConfigError, SetStatusError};
use crate::freshness::Counter;
use crate::ids::{ClusterId, NodeId, Now};
use crate::limits::NODES_MAX;
use crate::link::LinkState;
use crate::node::ClusterNode;
use crate::outbox::SendClass;
use crate::packet::Extra;

impl Cluster {
    /// Enables or disables the own node. Disabling sends nothing: others see it as dead.
    pub(crate) fn set_own_status(&mut self, ctx: &mut Ctx<'_>, is_enabled: bool) {
        if self.own.is_enabled == is_enabled {
            return;
        }
        self.own.is_enabled = is_enabled;
        let ids: Vec<NodeId> = self.nodes.iter().filter(|node| node.record.is_enabled).map(|n| n.id()).collect();
        let to = if is_enabled { LinkState::RestartPinging } else { LinkState::Down };
        for id in ids {
            self.set_link(ctx, id, to);
        }
        self.topology_changed(ctx);
    }

    /// Enables or disables another node in the local view.
    pub(crate) fn set_node_status(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: NodeId,
        is_enabled: bool,
    ) -> Result<(), SetStatusError> {
        let node = self.node_mut(id).ok_or(SetStatusError::UnknownNode)?;
        if node.record.is_enabled == is_enabled {
            return Ok(());
        }
        node.record.is_enabled = is_enabled;
        let to = if is_enabled { LinkState::RestartPinging } else { LinkState::Down };
        self.set_link(ctx, id, to);
        self.topology_changed(ctx);
        Ok(())
    }

    /// REMOVE_NODE to all, the target included; then forgets it here.
    pub(crate) fn remove_node(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        if self.own.is_enabled
            && let Some(packet) = self.extra(ctx, ctx.settings.node_id, Extra::RemoveNode { target: id.0 })
        {
            // Nodes that cannot be reached keep the record; so it is in OpenSIPS.
            let _ = self.broadcast(ctx, SendClass::Message, &packet);
        }
        self.forget_node(ctx, id);
    }

    /// Takes new records. Capabilities and tags stay; the counters start again at 0.
    pub(crate) fn reload(&mut self, ctx: &mut Ctx<'_>, config: ClusterConfig) {
        let gone: Vec<NodeId> = self
            .nodes
            .iter()
            .map(crate::cluster::Node::id)
            .filter(|id| !config.nodes.iter().any(|node| node.node_id == *id))
            .collect();
        for id in gone {
            self.forget_node(ctx, id);
        }
        for record in config.nodes {
            let id = record.node_id;
            match self.node_mut(id) {
                None => self.push_node(record, ctx.now.mono),
                Some(node) => {
                    let is_moved = node.record.url != record.url;
                    let was_enabled = node.record.is_enabled;
                    let addr = node.record.addr.filter(|_| !is_moved);
                    let is_enabled = record.is_enabled;
                    node.record = record;
                    node.record.is_enabled = was_enabled;
                    node.record.addr = node.record.addr.or(addr);
                    // The node is known: only the status can change here.
                    let _ = self.set_node_status(ctx, id, is_enabled);
                    if is_moved && is_enabled {
                        self.set_link(ctx, id, LinkState::RestartPinging);
                    }
                }
            }
        }
        let is_enabled = config.own.is_enabled;
        let addr = self.own.addr.filter(|_| self.own.url == config.own.url);
        let was_enabled = self.own.is_enabled;
        self.own = config.own;
        self.own.addr = self.own.addr.or(addr);
        self.own.is_enabled = was_enabled;
        self.set_own_status(ctx, is_enabled);
        self.family = config.family;
        self.has_cap_update_numbers = config.has_cap_update_numbers;
        self.ls_counter = Counter::default();
        self.top_counter = Counter::default();
        self.cap_counter = Counter::default();
        self.topology_changed(ctx);
    }
}

impl ClusterNode {
    /// Adds one node to a cluster, as if it had been configured; a node that is known already stays as it is. Nothing else
    /// changes. False when this process is not in the cluster.
    ///
    /// # Errors
    /// When the id is that of this node or not above 0, or when the cluster is full.
    pub fn add_node(&mut self, cluster: ClusterId, record: NodeConfig, now: Now) -> Result<bool, ConfigError> {
        let id = record.node_id;
        if id.0 <= 0 || id == self.settings.node_id {
            return Err(ConfigError::NodeId(id));
        }
        let added = self.on(cluster, now, |cluster, ctx| {
            if cluster.node(id).is_some() {
                return Ok(true);
            }
            if cluster.nodes.len() >= NODES_MAX {
                return Err(ConfigError::TooManyNodes(cluster.id, cluster.nodes.len() + 1));
            }
            cluster.push_node(record, ctx.now.mono);
            Ok(true)
        });
        added.unwrap_or(Ok(false))
    }
}
