//! What an observer sees of the others: links lost, capabilities. Judges nothing.

use crate::ids::{ClusterId, NodeId, Now};
use crate::limits::is_own_capability;
use crate::node::ClusterNode;

/// One other node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNode {
    /// Cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Whether it can be reached, directly or not.
    pub is_reachable: bool,
    /// How often the link to it was lost in the last minute.
    pub losses: usize,
    /// Capabilities it told of, by name, and whether it has them in sync; sorted.
    pub capabilities: Vec<(String, bool)>,
}

impl ClusterNode {
    /// All other nodes of all clusters.
    #[must_use]
    pub fn observe(&mut self, now: Now) -> Vec<ObservedNode> {
        let mut all = Vec::new();
        for cluster in &mut self.clusters {
            let id = cluster.id;
            for node in &mut cluster.nodes {
                let known = node.capabilities.iter().filter(|(name, _)| !is_own_capability(name));
                let mut capabilities: Vec<(String, bool)> =
                    known.map(|(name, is_ok)| (String::from_utf8_lossy(name).into_owned(), *is_ok)).collect();
                capabilities.sort();
                all.push(ObservedNode {
                    cluster: id,
                    node: node.id(),
                    is_reachable: node.next_hop.is_some(),
                    losses: node.link.recent_losses(now.mono),
                    capabilities,
                });
            }
        }
        all
    }
}
