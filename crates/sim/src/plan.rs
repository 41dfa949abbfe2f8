//! As what the nodes of a history are configured, drawn from its seed: priorities, sharing tags, takeover. Starts nothing.

use std::fmt::Write;

use tandem_cluster::SharingTagConfig;

use crate::rng::SplitMix64;

/// Sharing tags of every history.
pub(crate) const TAGS: [&str; 2] = ["vip", "desk"];

/// The configuration of one node as far as it differs from that of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) priority: i32,
    /// `tag_takeover`.
    pub(crate) takes_over: bool,
    pub(crate) tags: Vec<SharingTagConfig>,
}

impl Default for NodePlan {
    fn default() -> Self {
        Self { priority: 3, takes_over: false, tags: Vec::new() }
    }
}

/// The configurations of all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) has_extensions: bool,
    pub(crate) nodes: Vec<NodePlan>,
}

impl Plan {
    /// All nodes alike, without tags.
    pub(crate) fn plain(nodes: usize, has_extensions: bool) -> Self {
        Self { has_extensions, nodes: vec![NodePlan::default(); nodes] }
    }

    /// Drawn at random. Without extensions there are no tags: who has one after a partition is whoever spoke last, and
    /// nothing can be checked.
    pub(crate) fn random(nodes: usize, has_extensions: bool, rng: &mut SplitMix64) -> Self {
        let mut plan = Self::plain(nodes, has_extensions);
        for node in &mut plan.nodes {
            node.priority = 1 + i32::try_from(rng.below(3)).unwrap_or(0);
        }
        if !has_extensions {
            return plan;
        }
        // Nobody takes over, everybody does, some do.
        let who = rng.below(3);
        for node in &mut plan.nodes {
            node.takes_over = who == 1 || (who == 2 && rng.below(2) == 0);
        }
        for name in TAGS {
            let active = match rng.below(4) {
                0 => [None, None],
                1 | 2 => [Some(rng.index(nodes)), None],
                // By mistake on two.
                _ => [Some(rng.index(nodes)), Some(rng.index(nodes))],
            };
            for (index, node) in plan.nodes.iter_mut().enumerate() {
                let is_active = active.contains(&Some(index));
                if is_active || rng.below(2) == 0 {
                    node.tags.push(SharingTagConfig { name: name.to_owned(), is_active });
                }
            }
        }
        plan
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let ids = |wanted: &dyn Fn(&NodePlan) -> bool| -> Vec<usize> {
            self.nodes.iter().enumerate().filter(|(_, node)| wanted(node)).map(|(index, _)| index + 1).collect()
        };
        let priorities: Vec<i32> = self.nodes.iter().map(|node| node.priority).collect();
        let mut text = format!("extensions: {}; priorities {priorities:?}", self.has_extensions);
        if self.has_extensions {
            let _ = write!(text, "; takeover on {:?}", ids(&|node| node.takes_over));
            for name in TAGS {
                let active = ids(&|node| node.tags.iter().any(|tag| tag.is_active && tag.name == name));
                let _ = write!(text, "; {name} active on {active:?}");
            }
        }
        text
    }
}
