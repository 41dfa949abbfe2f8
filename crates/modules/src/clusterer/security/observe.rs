//! What an observer reports of a cluster it looks on: flapping links, tags with two holders, diverging capabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use serde_json::{Value as Json, json};
use tandem_cluster::{ClusterId, NodeId, ObservedNode};
use tandem_module::NodeRef;
use tandem_module::clock;
use tandem_module::worker::WorkerId;

use super::Security;
use crate::clusterer::service::Clusterer;

/// How often an observer looks.
const LOOK: Duration = Duration::from_secs(30);
/// Two nodes that announce one tag within this time both hold it: a holder announces it to a node that comes up, and a
/// node that yields says nothing.
const CLAIM_WINDOW: Duration = Duration::from_secs(30);
/// Losses of a link within a minute that make it flapping.
const FLAPPING_LOSSES: usize = 3;
/// Tags remembered.
const TAGS_MAX: usize = 1024;
/// Claims remembered per tag, one per node.
const HOLDERS_MAX: usize = 16;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    cluster: i32,
    about: String,
    text: String,
}

/// Announcements of tags: who, and when last.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<(ClusterId, String), Vec<(NodeId, Instant)>>);

impl Claims {
    /// A node announced a tag.
    pub(super) fn note(&mut self, cluster: ClusterId, tag: &[u8], node: NodeId, now: Instant) {
        let key = (cluster, String::from_utf8_lossy(tag).into_owned());
        if self.0.len() >= TAGS_MAX && !self.0.contains_key(&key) {
            return;
        }
        let holders = self.0.entry(key).or_default();
        holders.retain(|(known, _)| *known != node);
        if holders.len() >= HOLDERS_MAX {
            holders.remove(0);
        }
        holders.push((node, now));
    }

    fn findings(&self, now: Instant) -> impl Iterator<Item = Finding> + '_ {
        self.0.iter().filter_map(move |((cluster, tag), holders)| {
            let recent = holders.iter().filter(|(_, at)| now.saturating_duration_since(*at) <= CLAIM_WINDOW);
            let nodes: BTreeSet<NodeId> = recent.map(|(node, _)| *node).collect();
            (nodes.len() > 1).then(|| Finding {
                cluster: cluster.0,
                about: format!("tag {tag}"),
                text: format!("held by {}: all announced it within {} s", listed(&nodes), CLAIM_WINDOW.as_secs()),
            })
        })
    }
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
    /// A tag was announced by a node.
    pub(super) fn note_claim(&self, cluster: ClusterId, tag: &[u8], node: NodeId) {
        self.claims.lock().note(cluster, tag, node, clock::now());
    }

    /// Whether this node looks on in some cluster.
    fn is_observer(&self) -> bool {
        self.clusters.read().iter().any(|(id, _)| self.own_roles(*id).is_observer)
    }
}

fn findings(node: NodeRef, clusterer: &Clusterer) -> Vec<Finding> {
    let nodes = clusterer.with(node, |core| core.observe(clusterer.now())).unwrap_or_default();
    let mut all: Vec<Finding> = flapping(&nodes).collect();
    all.extend(diverging(&nodes));
    all.extend(clusterer.security.claims.lock().findings(clock::now()));
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

fn look_later(node: NodeRef, clusterer: &'static Clusterer, said: Vec<Finding>) {
    let Some(workers) = node.workers() else { return };
    let look = move |_: Instant| {
        let now = findings(node, clusterer);
        for finding in now.iter().filter(|finding| !said.contains(finding)) {
            tracing::warn!("observed in cluster {}: {} {}", finding.cluster, finding.about, finding.text);
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
    fn a_tag_announced_by_two_nodes_within_the_window_is_found() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        claims.note(ClusterId(1), b"vip", NodeId(2), now);
        claims.note(ClusterId(1), b"vip", NodeId(2), now);
        assert_eq!(claims.findings(now).count(), 0);
        claims.note(ClusterId(1), b"vip", NodeId(3), now + CLAIM_WINDOW / 2);
        let found: Vec<Finding> = claims.findings(now + CLAIM_WINDOW).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("nodes 2 and 3"), "{found:?}");
        assert_eq!(claims.findings(now + 2 * CLAIM_WINDOW).count(), 0);
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
