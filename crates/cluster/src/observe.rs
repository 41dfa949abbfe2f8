//! What an observer sees of the others: links lost, capabilities, who claims which sharing tag. Judges nothing but whether a
//! claim still stands.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Ctx};
use crate::extension::{self, Extension};
use crate::ids::{ClusterId, NodeId, Now};
use crate::limits::{CAPABILITY_TANDEM, OBSERVED_HOLDERS_MAX, PEER_TEXT_LEN_MAX, SHARING_TAGS_MAX, is_own_capability};
use crate::node::ClusterNode;
use crate::packet::{Extra, NodeIds, decode_extra};
use crate::receive::Received;

/// A node that gives a tag up to one it can reach says nothing: its claim is taken for ended so long after it was last
/// heard. Until then, and while the two do not see each other, both hold the tag as far as can be known.
const CLAIM_WINDOW: Duration = Duration::from_secs(30);

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

/// A sharing tag that several living nodes hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedTag {
    /// Cluster.
    pub cluster: ClusterId,
    /// Name of the tag.
    pub tag: String,
    /// Who claims it, sorted; at least two.
    pub holders: Vec<NodeId>,
}

#[derive(Debug)]
struct Claim {
    node: NodeId,
    at: Instant,
    /// A later claim was made by a node that sees this one, and so reached it.
    is_met: bool,
}

/// The last claim of each node, by tag.
#[derive(Debug, Default)]
pub(crate) struct Claims(Vec<(String, Vec<Claim>)>);

impl Claims {
    fn note(&mut self, tag: &[u8], node: NodeId, now: Instant, sees: impl Fn(NodeId, NodeId) -> bool) {
        let name = String::from_utf8_lossy(tag);
        let at = match self.0.iter().position(|(known, _)| *known == name) {
            Some(at) => at,
            None if self.0.len() >= SHARING_TAGS_MAX || tag.len() > PEER_TEXT_LEN_MAX => return,
            None => {
                self.0.push((name.into_owned(), Vec::new()));
                self.0.len() - 1
            }
        };
        let Some((_, claims)) = self.0.get_mut(at) else { return };
        claims.retain(|known| known.node != node);
        if claims.len() >= OBSERVED_HOLDERS_MAX {
            claims.remove(0);
        }
        for known in claims.iter_mut() {
            known.is_met = sees(node, known.node);
        }
        claims.push(Claim { node, at: now, is_met: false });
        settle(claims, now, sees);
    }

    /// The node is known not to hold the tag.
    fn end(&mut self, tag: &[u8], node: NodeId) {
        if let Some((_, claims)) = self.0.iter_mut().find(|(known, _)| known.as_bytes() == tag) {
            claims.retain(|known| known.node != node);
        }
        self.0.retain(|(_, claims)| !claims.is_empty());
    }

    /// The node is gone.
    pub(crate) fn forget(&mut self, node: NodeId) {
        for (_, claims) in &mut self.0 {
            claims.retain(|known| known.node != node);
        }
        self.0.retain(|(_, claims)| !claims.is_empty());
    }

    fn held_twice(&mut self, now: Instant, sees: impl Fn(NodeId, NodeId) -> bool) -> Vec<(String, Vec<NodeId>)> {
        let mut found = Vec::new();
        for (tag, claims) in &mut self.0 {
            settle(claims, now, &sees);
            if claims.len() > 1 {
                let mut holders: Vec<NodeId> = claims.iter().map(|claim| claim.node).collect();
                holders.sort_unstable();
                found.push((tag.clone(), holders));
            }
        }
        found
    }
}

/// Takes claims out that a later one has ended. The last in the list is the latest.
fn settle(claims: &mut Vec<Claim>, now: Instant, sees: impl Fn(NodeId, NodeId) -> bool) {
    let Some(last) = claims.last().map(|claim| claim.node) else { return };
    claims.retain(|claim| {
        let is_old = now.saturating_duration_since(claim.at) > CLAIM_WINDOW;
        claim.node == last || !is_old || !(claim.is_met || sees(last, claim.node))
    });
}

impl Cluster {
    /// Whether one node reaches the other without this one, as far as is known here.
    fn sees(&self, is_rerouting_enabled: bool, from: NodeId, to: NodeId) -> bool {
        let mut reached = NodeIds::from_slice(&[from]);
        let mut next = 0;
        while let Some(node) = reached.get(next).and_then(|id| self.node(*id)) {
            next += 1;
            for id in &node.neighbours {
                if *id == to {
                    return true;
                }
                if self.node(*id).is_some() && !reached.contains(id) {
                    reached.push(*id);
                }
            }
            if !is_rerouting_enabled {
                return false;
            }
        }
        false
    }

    /// A node says that it holds a tag.
    pub(crate) fn observe_claim(&mut self, ctx: &Ctx<'_>, tag: &[u8], node: NodeId) {
        if !ctx.own_roles(self.id).is_observer {
            return;
        }
        let mut claims = std::mem::take(&mut self.claims);
        let reroutes = ctx.settings.is_rerouting_enabled;
        claims.note(tag, node, ctx.now.mono, |one, other| self.sees(reroutes, one, other));
        self.claims = claims;
    }

    /// A node says that another one holds a tag.
    pub(crate) fn observe_backup(&mut self, tag: &[u8], node: NodeId) {
        self.claims.end(tag, node);
    }

    /// A packet is passed on: who hears of another holder over this node gives the tag up.
    pub(crate) fn observe_passing(&mut self, ctx: &Ctx<'_>, received: &Received<'_>, to: NodeId) {
        if !ctx.own_roles(self.id).is_observer {
            return;
        }
        if let Ok(Some(extra)) = decode_extra(&received.packet, self.family)
            && let Extra::ShtagActive { tag_name } = extra.fields
        {
            return self.claims.end(tag_name, to);
        }
        if received.packet.capability() == CAPABILITY_TANDEM.as_bytes()
            && let Ok((body, _)) = received.packet.addressed()
            && let Ok(Some(Extension::TagState { name, holder, .. })) =
                extension::decode(received.packet.packet_type(), received.packet.version(), body)
            && holder != to
            && self.claims.is_newest(name, holder)
        {
            self.claims.end(name, to);
        }
    }
}

impl Claims {
    fn is_newest(&self, tag: &[u8], node: NodeId) -> bool {
        let claims = self.0.iter().find(|(known, _)| known.as_bytes() == tag);
        claims.and_then(|(_, claims)| claims.last()).is_some_and(|last| last.node == node)
    }
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

    /// Tags with more than one holder, where this node looks on.
    #[must_use]
    pub fn observe_tags(&mut self, now: Now) -> Vec<ObservedTag> {
        let reroutes = self.settings.is_rerouting_enabled;
        let mut all = Vec::new();
        for cluster in &mut self.clusters {
            let mut claims = std::mem::take(&mut cluster.claims);
            let id = cluster.id;
            let twice = claims.held_twice(now.mono, |one, other| cluster.sees(reroutes, one, other));
            all.extend(twice.into_iter().map(|(tag, holders)| ObservedTag { cluster: id, tag, holders }));
            cluster.claims = claims;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(3);

    fn held(claims: &mut Claims, now: Instant, sees: bool) -> Vec<NodeId> {
        claims.held_twice(now, |_, _| sees).into_iter().flat_map(|(_, holders)| holders).collect()
    }

    #[test]
    fn claims_behind_a_cut_are_compared_however_far_apart_and_end_when_the_two_meet() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        claims.note(b"vip", A, now, |_, _| false);
        let later = now + 100 * CLAIM_WINDOW;
        claims.note(b"vip", B, later, |_, _| false);
        assert_eq!(held(&mut claims, later, false), [A, B]);
        assert_eq!(held(&mut claims, later + 100 * CLAIM_WINDOW, false), [A, B], "as long as both live");
        assert_eq!(held(&mut claims, later + 100 * CLAIM_WINDOW, true), []);
        assert_eq!(held(&mut claims, later + 100 * CLAIM_WINDOW, false), [], "it does not come back");
    }

    #[test]
    fn a_takeover_among_nodes_that_see_each_other_is_none_and_stays_none_behind_a_later_cut() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        claims.note(b"vip", A, now, |_, _| true);
        claims.note(b"vip", B, now + 2 * CLAIM_WINDOW, |_, _| true);
        assert_eq!(held(&mut claims, now + 2 * CLAIM_WINDOW, false), []);
        claims.note(b"vip", A, now + 2 * CLAIM_WINDOW, |_, _| true);
        assert_eq!(held(&mut claims, now + 2 * CLAIM_WINDOW, true), [A, B], "both announced it at once");
        assert_eq!(held(&mut claims, now + 4 * CLAIM_WINDOW, false), []);
    }

    #[test]
    fn a_node_that_is_gone_or_yields_claims_nothing_and_what_is_kept_is_bounded() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        for node in [A, B] {
            claims.note(b"vip", node, now, |_, _| false);
        }
        claims.forget(A);
        assert_eq!(held(&mut claims, now, false), []);
        claims.note(b"vip", A, now, |_, _| false);
        claims.end(b"vip", B);
        assert_eq!(held(&mut claims, now, false), []);
        for number in 0..100 {
            claims.note(b"vip", NodeId(number), now, |_, _| false);
        }
        assert_eq!(held(&mut claims, now, false).len(), OBSERVED_HOLDERS_MAX);
        for number in 0..2 * SHARING_TAGS_MAX {
            claims.note(format!("tag {number}").as_bytes(), A, now, |_, _| false);
        }
        assert_eq!(claims.0.len(), SHARING_TAGS_MAX);
    }
}
