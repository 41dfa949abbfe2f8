//! Who is linked to whom: the neighbours on several rings, each with the nodes in an order of its own.
//!
//! Every node computes its links from its member table alone, so nobody negotiates them, both ends agree as soon as their
//! tables do, and one ring already keeps the graph in one piece. Several rings together are a graph in which a few
//! hops lead everywhere and every node is watched by several others that have little in common.

use super::limits::OVERLAY_RINGS;
use crate::ids::NodeId;
use crate::packet::NodeIds;

/// Mixes all bits of a number (the finalizer of SplitMix64).
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn place(ring: usize, node: NodeId) -> u64 {
    mix(u64::from(node.0.unsigned_abs()) | (ring as u64) << 32)
}

/// The distance to a neighbour along the ring, and the neighbour.
type Near = Option<(u64, NodeId)>;

/// Next and previous node on each ring.
#[derive(Debug, Clone)]
pub(super) struct Rings {
    places: [u64; OVERLAY_RINGS],
    near: [[Near; 2]; OVERLAY_RINGS],
}

impl Rings {
    pub(super) fn new(own: NodeId) -> Self {
        Self { places: std::array::from_fn(|ring| place(ring, own)), near: [[None; 2]; OVERLAY_RINGS] }
    }

    /// Takes a node in; true when it is a neighbour.
    pub(super) fn add(&mut self, node: NodeId) -> bool {
        let mut is_near = false;
        for (ring, (own, near)) in self.places.iter().zip(&mut self.near).enumerate() {
            let there = place(ring, node);
            let [next, previous] = near;
            for (slot, distance) in [(next, there.wrapping_sub(*own)), (previous, own.wrapping_sub(there))] {
                if slot.is_none_or(|known| (distance, node) < known) {
                    *slot = Some((distance, node));
                    is_near = true;
                }
            }
        }
        is_near
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.near.iter().flatten().flatten().any(|(_, known)| *known == node)
    }

    /// Computes all anew.
    pub(super) fn rebuild(&mut self, nodes: impl Iterator<Item = NodeId>) {
        self.near = [[None; 2]; OVERLAY_RINGS];
        for node in nodes {
            self.add(node);
        }
    }

    /// All neighbours, each once.
    pub(super) fn neighbours(&self) -> NodeIds {
        let mut all = NodeIds::new();
        for (_, node) in self.near.iter().flatten().flatten() {
            if !all.contains(node) {
                all.push(*node);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(own: i32, ids: &[i32]) -> Rings {
        let mut rings = Rings::new(NodeId(own));
        rings.rebuild(ids.iter().filter(|id| **id != own).map(|id| NodeId(*id)));
        rings
    }

    #[test]
    fn links_are_the_same_from_both_ends_and_reach_everybody_in_a_few_hops() {
        let ids: Vec<i32> = (1..=1_000).collect();
        let links: Vec<NodeIds> = ids.iter().map(|id| rings(*id, &ids).neighbours()).collect();
        for (at, near) in links.iter().enumerate() {
            assert!((5..=2 * OVERLAY_RINGS).contains(&near.len()), "{near:?}");
            let own = NodeId(i32::try_from(at + 1).unwrap_or(0));
            let of = |id: &NodeId| links.get(usize::try_from(id.0 - 1).unwrap_or(0));
            assert!(near.iter().all(|id| of(id).is_some_and(|back| back.contains(&own))));
        }
        let (mut reached, mut edge, mut hops) = (vec![NodeId(1)], vec![NodeId(1)], 0);
        while reached.len() < ids.len() {
            hops += 1;
            let next = edge.iter().filter_map(|id| links.get(usize::try_from(id.0 - 1).unwrap_or(0))).flatten();
            let mut fresh: Vec<NodeId> = next.copied().filter(|id| !reached.contains(id)).collect();
            fresh.sort_unstable();
            fresh.dedup();
            reached.extend(&fresh);
            edge = fresh;
        }
        assert!(hops <= 6, "{hops}");
    }

    #[test]
    fn adding_one_by_one_is_the_same_as_all_at_once() {
        let ids: Vec<i32> = (1..=50).collect();
        let mut one_by_one = Rings::new(NodeId(7));
        for id in ids.iter().rev().filter(|id| **id != 7) {
            one_by_one.add(NodeId(*id));
        }
        assert_eq!(one_by_one.near, rings(7, &ids).near);
        assert!(one_by_one.neighbours().iter().all(|id| one_by_one.has(*id)));
        assert!(rings(1, &[1]).neighbours().is_empty());
    }
}
