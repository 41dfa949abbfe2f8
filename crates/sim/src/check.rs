//! Whether the views of all running nodes agree with the truth of the network.

use hashbrown::HashMap;
use tandem_cluster::{ClusterId, ClusterNode, LinkState, NodeId};

use crate::network::{Network, ProcessId};

/// Where a view differs from the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disagreement {
    /// A node does not know another one that runs.
    Unknown {
        /// Who looks.
        at: NodeId,
        /// Who is not known.
        node: NodeId,
    },
    /// A link is up and should not be, or the other way round.
    Link {
        /// Who looks.
        at: NodeId,
        /// Other end.
        node: NodeId,
        /// State found.
        state: LinkState,
        /// State that is true.
        should_be_up: bool,
    },
    /// The neighbours of a node as stored by another differ from what it says itself.
    Neighbours {
        /// Who looks.
        at: NodeId,
        /// Whose neighbours.
        node: NodeId,
        /// Stored list, sorted.
        stored: Vec<NodeId>,
        /// True list, sorted.
        truth: Vec<NodeId>,
    },
    /// Following next hops does not arrive.
    Route {
        /// Where the packet starts.
        at: NodeId,
        /// Where it should go.
        node: NodeId,
    },
    /// A request was not answered.
    Unanswered {
        /// Who asked.
        at: NodeId,
        /// Who did not answer.
        node: NodeId,
    },
    /// More than one node is active for a tag.
    Tag {
        /// The tag.
        name: String,
        /// Who claims it.
        holders: Vec<NodeId>,
    },
    /// No node is active for a tag, and one should be.
    Nobody {
        /// The tag.
        name: String,
        /// Why one should be.
        why: String,
    },
    /// A node takes another one for the holder of a tag than the one that is active, or none.
    Holder {
        /// Who looks.
        at: NodeId,
        /// The tag.
        name: String,
        /// Whom it takes for the holder.
        known: Option<NodeId>,
        /// Who is active.
        truth: NodeId,
    },
    /// A message that was accepted neither arrived nor was it told that it did not.
    Lost {
        /// Who should have got it.
        node: NodeId,
        /// Its text.
        message: String,
    },
    /// A message came twice, or before one that was sent earlier.
    Order {
        /// Who got it.
        at: NodeId,
        /// Its text.
        message: String,
    },
    /// What a node knows of who has a capability in sync is not true.
    Holders {
        /// Who looks.
        at: NodeId,
        /// The capability.
        name: String,
        /// Who has it as far as it knows, sorted.
        known: Vec<NodeId>,
        /// Who has it, sorted.
        truth: Vec<NodeId>,
    },
    /// A capability is not synced.
    Capability {
        /// On which node.
        at: NodeId,
        /// Which.
        name: String,
    },
}

/// The view of one node: neighbours by node, and link state and next hop by node.
struct View {
    id: NodeId,
    neighbours: HashMap<NodeId, Vec<NodeId>>,
    links: HashMap<NodeId, (LinkState, Option<NodeId>)>,
}

fn view(node: &ClusterNode, cluster: ClusterId) -> View {
    let topology = node.list_topology().into_iter().find(|list| list.cluster_id == cluster);
    let neighbours = topology.map(|list| list.nodes).unwrap_or_default().into_iter().map(|row| {
        let mut ids = row.neighbours;
        ids.sort_unstable();
        (row.node_id, ids)
    });
    let list = node.list().into_iter().find(|list| list.cluster_id == cluster);
    let links = list.map(|list| list.nodes).unwrap_or_default().into_iter();
    View {
        id: node.node_id(),
        neighbours: neighbours.collect(),
        links: links.map(|row| (row.node_id, (row.link_state, row.next_hop))).collect(),
    }
}

impl Network {
    /// Everything that is not as it should be once a cluster has settled. Nodes separated from each
    /// other by cuts are judged on their own side.
    #[must_use]
    pub fn disagreements(&self, cluster: ClusterId) -> Vec<Disagreement> {
        let running: Vec<(ProcessId, View)> =
            self.ids().filter_map(|id| self.node(id).map(|node| (id, view(node, cluster)))).collect();
        let mut found = Vec::new();
        for (from, at) in &running {
            for (to, node) in running.iter().filter(|(to, _)| to != from) {
                self.check_pair(&mut found, (*from, at), (*to, node), &running);
            }
            self.check_dead(&mut found, at, &running);
            self.check_capabilities(&mut found, *from, at.id, cluster);
        }
        self.check_tags(&mut found, cluster);
        found
    }

    fn check_pair(
        &self,
        found: &mut Vec<Disagreement>,
        (from, at): (ProcessId, &View),
        (to, node): (ProcessId, &View),
        running: &[(ProcessId, View)],
    ) {
        let Some((state, _)) = at.links.get(&node.id) else {
            found.push(Disagreement::Unknown { at: at.id, node: node.id });
            return;
        };
        let should_be_up = self.is_connected(from, to);
        if (*state == LinkState::Up) != should_be_up {
            let (state, at, node) = (*state, at.id, node.id);
            found.push(Disagreement::Link { at, node, state, should_be_up });
        }
        if !self.has_path(from, to, running) {
            return;
        }
        let truth = node.neighbours.get(&node.id).cloned().unwrap_or_default();
        let stored = at.neighbours.get(&node.id).cloned().unwrap_or_default();
        if truth != stored {
            found.push(Disagreement::Neighbours { at: at.id, node: node.id, stored, truth });
        }
        if !route_arrives(at.id, node.id, running) {
            found.push(Disagreement::Route { at: at.id, node: node.id });
        }
    }

    fn check_dead(&self, found: &mut Vec<Disagreement>, at: &View, running: &[(ProcessId, View)]) {
        for (node, (state, _)) in &at.links {
            let runs = running.iter().any(|(_, view)| view.id == *node);
            if !runs && *state == LinkState::Up {
                let (at, node, state) = (at.id, *node, *state);
                found.push(Disagreement::Link { at, node, state, should_be_up: false });
            }
        }
    }

    fn check_capabilities(&self, found: &mut Vec<Disagreement>, id: ProcessId, at: NodeId, cluster: ClusterId) {
        let lists = self.node(id).map(ClusterNode::list_cap).unwrap_or_default();
        for list in lists.into_iter().filter(|list| list.cluster_id == cluster) {
            for row in list.capabilities.into_iter().filter(|row| row.is_enabled && !row.is_ok) {
                found.push(Disagreement::Capability { at, name: row.name.to_string() });
            }
        }
    }

    /// Whether all know of each other which capabilities are in sync.
    #[must_use]
    pub fn capability_disagreements(&self, cluster: ClusterId, names: &[&str]) -> Vec<Disagreement> {
        let running: Vec<(ProcessId, View)> =
            self.ids().filter_map(|id| self.node(id).map(|node| (id, view(node, cluster)))).collect();
        let has_ok = |id: ProcessId, name: &str| {
            let lists = self.node(id).map(ClusterNode::list_cap).unwrap_or_default();
            lists.iter().flat_map(|list| &list.capabilities).any(|row| row.is_ok && &*row.name == name)
        };
        let mut found = Vec::new();
        for (from, at) in &running {
            for name in names {
                let mut known = self.node(*from).map(|node| node.capability_holders(cluster, name)).unwrap_or_default();
                known.sort_unstable();
                let there = running.iter().filter(|(to, _)| self.has_path(*from, *to, &running) && has_ok(*to, name));
                let mut truth: Vec<NodeId> = there.map(|(_, view)| view.id).collect();
                truth.sort_unstable();
                if known != truth {
                    found.push(Disagreement::Holders { at: at.id, name: (*name).to_owned(), known, truth });
                }
            }
        }
        found
    }

    /// True when uncut links lead from one to the other.
    fn has_path(&self, from: ProcessId, to: ProcessId, running: &[(ProcessId, View)]) -> bool {
        let mut reached = vec![from];
        let mut next = 0;
        while let Some(here) = reached.get(next).copied() {
            next += 1;
            for (id, _) in running {
                if self.is_connected(here, *id) && !reached.contains(id) {
                    reached.push(*id);
                }
            }
        }
        reached.contains(&to)
    }
}

fn route_arrives(from: NodeId, to: NodeId, running: &[(ProcessId, View)]) -> bool {
    let mut here = from;
    for _ in 0..=running.len() {
        if here == to {
            return true;
        }
        let view = running.iter().map(|(_, view)| view).find(|view| view.id == here);
        let hop = view.and_then(|view| view.links.get(&to)).and_then(|(_, hop)| *hop);
        match hop {
            Some(hop) => here = hop,
            None => return false,
        }
    }
    false
}
