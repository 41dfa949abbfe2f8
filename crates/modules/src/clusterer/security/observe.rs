//! What an observer reports of a cluster it looks on: flapping links, tags with two holders, diverging capabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tandem_cluster::{ClusterId, NodeId, ObservedNode, ObservedTag};
use tandem_module::NodeRef;
use tandem_module::clock;
use tandem_module::worker::WorkerId;

use super::Security;
use crate::clusterer::service::Clusterer;

/// How often an observer looks.
const LOOK: Duration = Duration::from_secs(30);
/// Losses of a link within a minute that make it flapping.
const FLAPPING_LOSSES: usize = 3;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    cluster: i32,
    about: String,
    text: String,
}

/// Tags that several living nodes hold.
fn held_twice(tags: Vec<ObservedTag>) -> impl Iterator<Item = Finding> {
    tags.into_iter().map(|found| Finding {
        cluster: found.cluster.0,
        about: format!("tag {}", found.tag),
        text: format!("held by {}: none is known to have given it up", listed(&found.holders.into_iter().collect())),
    })
}

/// `nodes 1 and 2`.
fn listed(nodes: &BTreeSet<NodeId>) -> String {
    let numbers: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    match numbers.as_slice() {
        [] => "no node".to_owned(),
        [one] => format!("node {one}"),
        [first @ .., last] => format!("nodes {} and {last}", first.join(", ")),
    }
}

fn flapping(nodes: &[ObservedNode]) -> impl Iterator<Item = Finding> + '_ {
    nodes.iter().filter(|node| node.losses >= FLAPPING_LOSSES).map(|node| Finding {
        cluster: node.cluster.0,
        about: format!("node {}", node.node),
        text: format!("flapping: its link was lost {} times in the last minute", node.losses),
    })
}

/// Capabilities that not every reachable node has, or has in sync.
fn diverging(nodes: &[ObservedNode]) -> Vec<Finding> {
    let mut with: BTreeMap<(ClusterId, &str), [BTreeSet<NodeId>; 2]> = BTreeMap::new();
    let reachable = || nodes.iter().filter(|node| node.is_reachable);
    for node in reachable() {
        for (name, is_ok) in &node.capabilities {
            let [synced, unsynced] = with.entry((node.cluster, name.as_str())).or_default();
            if *is_ok {
                synced.insert(node.node)
            } else {
                unsynced.insert(node.node)
            };
        }
    }
    let rows = with.into_iter().filter_map(|((cluster, name), [synced, unsynced])| {
        let missing: BTreeSet<NodeId> = reachable()
            .filter(|node| node.cluster == cluster)
            .map(|node| node.node)
            .filter(|node| !synced.contains(node) && !unsynced.contains(node))
            .collect();
        if missing.is_empty() && unsynced.is_empty() {
            return None;
        }
        let mut parts = vec![format!("in sync on {}", listed(&synced))];
        if !unsynced.is_empty() {
            parts.push(format!("not in sync on {}", listed(&unsynced)));
        }
        if !missing.is_empty() {
            parts.push(format!("unknown to {}", listed(&missing)));
        }
        Some(Finding { cluster: cluster.0, about: format!("capability {name}"), text: parts.join(", ") })
    });
    rows.collect()
}

impl Security {
    /// Whether this node looks on in some cluster.
    fn is_observer(&self) -> bool {
        self.clusters.read().iter().any(|(id, _)| self.own_roles(*id).is_observer)
    }
}

fn findings(node: NodeRef, clusterer: &Clusterer) -> Vec<Finding> {
    let now = clusterer.now();
    let (nodes, tags) = clusterer.with(node, |core| (core.observe(now), core.observe_tags(now))).unwrap_or_default();
    let mut all: Vec<Finding> = flapping(&nodes).collect();
    all.extend(diverging(&nodes));
    all.extend(held_twice(tags));
    all.sort();
    all
}

/// The rows of `cluster_observe`.
pub(super) fn listing(node: NodeRef, clusterer: &Clusterer) -> Json {
    let rows = findings(node, clusterer);
    rows.into_iter().map(|row| json!({ "Cluster": row.cluster, "About": row.about, "Text": row.text })).collect()
}

/// An observer looks from time to time and logs what it has not said at the last look.
pub(in crate::clusterer) fn start(node: NodeRef, clusterer: &'static Clusterer) {
    if clusterer.security.is_observer() {
        look_later(node, clusterer, Vec::new());
    }
}

/// What was found at the last look and is not any more.
fn ended<'a>(said: &'a [Finding], now: &'a [Finding]) -> impl Iterator<Item = &'a Finding> {
    let is_same = |one: &Finding, other: &Finding| (one.cluster, &one.about) == (other.cluster, &other.about);
    said.iter().filter(move |finding| !now.iter().any(|other| is_same(finding, other)))
}

fn look_later(node: NodeRef, clusterer: &'static Clusterer, said: Vec<Finding>) {
    let Some(workers) = node.workers() else { return };
    let look = move |_: Instant| {
        let now = findings(node, clusterer);
        for finding in now.iter().filter(|finding| !said.contains(finding)) {
            tracing::warn!("observed in cluster {}: {} {}", finding.cluster, finding.about, finding.text);
        }
        for finding in ended(&said, &now) {
            tracing::info!("observed in cluster {}: {} is as it should be again", finding.cluster, finding.about);
        }
        look_later(node, clusterer, now);
    };
    workers.after(WorkerId(0), clock::now() + LOOK, Box::new(look));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(id: i32, losses: usize, capabilities: &[(&str, bool)]) -> ObservedNode {
        let capabilities = capabilities.iter().map(|(name, is_ok)| ((*name).to_owned(), *is_ok)).collect();
        ObservedNode { cluster: ClusterId(1), node: NodeId(id), is_reachable: true, losses, capabilities }
    }

    #[test]
    fn a_tag_held_twice_is_named_and_its_end_told() {
        let tag = |holders: &[i32]| ObservedTag {
            cluster: ClusterId(1),
            tag: "vip".to_owned(),
            holders: holders.iter().copied().map(NodeId).collect(),
        };
        let found: Vec<Finding> = held_twice(vec![tag(&[2, 3])]).collect();
        assert!(found.len() == 1 && found[0].text.contains("nodes 2 and 3"), "{found:?}");
        let other: Vec<Finding> = held_twice(vec![tag(&[3, 4])]).collect();
        assert_eq!(ended(&found, &other).count(), 0, "it is still held twice");
        assert_eq!(ended(&found, &[]).collect::<Vec<_>>(), [&found[0]]);
    }

    #[test]
    fn flapping_and_diverging_nodes_are_named() {
        let nodes = [
            node(2, 4, &[("dialog", true), ("usrloc", true)]),
            node(3, 0, &[("dialog", true), ("usrloc", false)]),
            node(4, 0, &[("dialog", true)]),
        ];
        let flaps: Vec<Finding> = flapping(&nodes).collect();
        assert_eq!((flaps.len(), flaps[0].about.as_str()), (1, "node 2"));
        let found = diverging(&nodes);
        assert_eq!(found.len(), 1, "dialog is the same everywhere");
        assert_eq!(found[0].text, "in sync on node 2, not in sync on node 3, unknown to node 4");
    }
}
