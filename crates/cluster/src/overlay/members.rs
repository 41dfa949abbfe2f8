//! The table of all nodes, and the sums by which two tables are compared. Decides nothing.

use std::time::Instant;

use hashbrown::HashMap;

use super::limits::OVERLAY_NODES_MAX;
use super::rings::mix;
use super::wire::{BUCKETS, Record, Status};
use crate::ids::NodeId;

/// A node as it is known here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) record: Record,
    /// When it became what it is.
    pub(super) since: Instant,
}

impl Member {
    /// Suspected nodes count as alive.
    pub(super) fn is_live(&self) -> bool {
        self.record.status != Status::Dead
    }

    pub(super) fn id(&self) -> NodeId {
        self.record.node
    }
}

/// All nodes, the own one included, in no order that means anything.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Vec<Member>,
    /// Where each is in the list: with many nodes a search through the list costs more than all else.
    places: HashMap<NodeId, usize>,
    sums: [u64; BUCKETS],
    live: usize,
}

pub(super) fn bucket(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(0) % BUCKETS
}

impl Members {
    pub(super) fn find(&self, node: NodeId) -> Option<&Member> {
        self.places.get(&node).and_then(|at| self.list.get(*at))
    }

    pub(super) fn is_live(&self, node: NodeId) -> bool {
        self.find(node).is_some_and(Member::is_live)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter()
    }

    /// Live nodes, the own one included.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Sum over all live nodes; dead ones are forgotten at different times and do not count.
    pub(super) fn digest(&self) -> u64 {
        self.sums.iter().fold(0, |sum, one| sum.wrapping_add(*one))
    }

    pub(super) fn sums(&self) -> [u8; 8 * BUCKETS] {
        let mut bytes = [0; 8 * BUCKETS];
        for (place, sum) in bytes.chunks_exact_mut(8).zip(self.sums) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    fn count(&mut self, member: &Member, is_added: bool) {
        if !member.is_live() {
            return;
        }
        let Record { node, incarnation, .. } = member.record;
        let part = mix(mix(u64::from(node.0.unsigned_abs())) ^ incarnation);
        if let Some(sum) = self.sums.get_mut(bucket(node)) {
            *sum = if is_added { sum.wrapping_add(part) } else { sum.wrapping_sub(part) };
        }
        self.live = if is_added { self.live + 1 } else { self.live.saturating_sub(1) };
    }

    /// Adds or replaces a node; false when there is no room for it.
    pub(super) fn put(&mut self, member: Member) -> bool {
        if let Some(place) = self.places.get(&member.id()).and_then(|at| self.list.get_mut(*at)) {
            let old = std::mem::replace(place, member);
            self.count(&old, false);
        } else {
            if self.list.len() >= OVERLAY_NODES_MAX && !self.push_out() {
                return false;
            }
            self.places.insert(member.id(), self.list.len());
            self.list.push(member);
        }
        self.count(&member, true);
        true
    }

    /// Forgets the node that is dead for longest.
    fn push_out(&mut self) -> bool {
        let dead = self.list.iter().enumerate().filter(|(_, member)| !member.is_live());
        let oldest = dead.min_by_key(|(_, member)| member.since).map(|(at, _)| at);
        oldest.is_some_and(|at| self.remove(at))
    }

    fn remove(&mut self, at: usize) -> bool {
        if at >= self.list.len() {
            return false;
        }
        let gone = self.list.swap_remove(at);
        self.places.remove(&gone.id());
        if let Some(moved) = self.list.get(at) {
            self.places.insert(moved.id(), at);
        }
        true
    }

    /// Forgets the dead for which `is_old` holds.
    pub(super) fn forget_dead(&mut self, is_old: impl Fn(&Member) -> bool) {
        while let Some(at) = self.list.iter().position(|member| !member.is_live() && is_old(member)) {
            self.remove(at);
        }
    }

    /// A node for which `fits` holds, the first from a random place on.
    pub(super) fn pick(&self, bits: u64, fits: impl Fn(&Member) -> bool) -> Option<&Member> {
        let start = usize::try_from(bits.checked_rem(self.list.len() as u64)?).unwrap_or(0);
        let (before, from) = self.list.split_at_checked(start)?;
        from.iter().chain(before).find(|member| fits(member))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(id: i32, incarnation: u64, status: Status, since: Instant) -> Member {
        let node = NodeId(id);
        let addr = "192.0.2.1:5555".parse().unwrap();
        Member { record: Record { node, incarnation, start: 1, status, by: node, addr }, since }
    }

    #[test]
    fn sums_depend_on_who_lives_and_not_on_the_way_there() {
        let now = Instant::now();
        let (mut a, mut b) = (Members::default(), Members::default());
        for id in 1..=100 {
            a.put(member(id, 1, Status::Alive, now));
        }
        for id in (1..=101).rev() {
            b.put(member(id, 2, Status::Suspect, now));
            b.put(member(id, 1, Status::Alive, now));
        }
        assert_ne!(a.digest(), b.digest());
        b.put(member(101, 1, Status::Dead, now));
        assert_eq!((a.digest(), a.sums(), a.live()), (b.digest(), b.sums(), b.live()));
        b.forget_dead(|_| true);
        assert_eq!((b.len(), b.live(), a.digest() == b.digest()), (100, 100, true));
        b.put(member(5, 2, Status::Alive, now));
        let different = a.sums().chunks(8).zip(b.sums().chunks(8)).filter(|(a, b)| a != b).count();
        assert_eq!(different, 1);
    }

    #[test]
    fn a_full_table_forgets_the_dead_first() {
        let now = Instant::now();
        let mut members = Members::default();
        for id in 1..=i32::try_from(OVERLAY_NODES_MAX).unwrap() {
            members.put(member(id, 1, if id == 7 { Status::Dead } else { Status::Alive }, now));
        }
        assert!(members.put(member(9_000, 1, Status::Alive, now)) && members.find(NodeId(7)).is_none());
        assert!(!members.put(member(9_001, 1, Status::Alive, now)));
        assert_eq!(members.len(), OVERLAY_NODES_MAX);
        for id in [1, 3, 4_096, 9_000] {
            assert_eq!(members.find(NodeId(id)).map(Member::id), Some(NodeId(id)));
            assert_eq!(members.pick(5, |found| found.id() == NodeId(id)).map(Member::id), Some(NodeId(id)));
        }
        assert!(members.pick(5, |_| false).is_none());
    }
}
