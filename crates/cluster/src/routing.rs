//! Next hops over the stored topology, and sending addressed packets along them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;

use crate::cluster::{Cluster, Ctx};
use crate::error::SendError;
use crate::ids::NodeId;
use crate::link::LinkState;
use crate::log::LogEvent;
use crate::outbox::SendClass;

impl Cluster {
    /// Sets `next_hop` of every node.
    ///
    /// As OpenSIPS: nodes are expanded from one queue sorted by (priority, id), lowest first, so
    /// with equal priorities low ids go before fewer hops.
    pub(crate) fn compute_next_hops(&mut self, is_rerouting_enabled: bool) {
        let mut queue = BinaryHeap::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.next_hop = node.is_neighbour().then_some(node.record.node_id);
            if node.next_hop.is_some() {
                queue.push(Reverse((node.record.priority, node.record.node_id, index)));
            }
        }
        if !is_rerouting_enabled || !self.own.is_enabled {
            return;
        }
        while let Some(Reverse((_, _, index))) = queue.pop() {
            let Some(node) = self.nodes.get(index) else { continue };
            let first_hop = node.next_hop;
            let neighbours = node.neighbours.clone();
            for id in neighbours {
                let Some(found) = self.index_of(id) else { continue };
                let Some(next) = self.nodes.get_mut(found) else { continue };
                if next.next_hop.is_some() || next.is_foreign_family {
                    continue;
                }
                next.next_hop = first_hop;
                if next.record.is_enabled {
                    queue.push(Reverse((next.record.priority, id, found)));
                }
            }
        }
    }

    pub(crate) fn next_hop(&self, id: NodeId) -> Option<NodeId> {
        self.node(id).and_then(|node| node.next_hop)
    }

    /// Sends an addressed packet towards `destination`. A hop that cannot be sent to leaves UP and
    /// what is left is tried.
    pub(crate) fn route(
        &mut self,
        ctx: &mut Ctx<'_>,
        destination: NodeId,
        class: SendClass,
        bytes: Bytes,
    ) -> Result<(), SendError> {
        if ctx.out.is_full() {
            ctx.out.log_limited(LogEvent::OutboxFull { cluster: self.id }, ctx.now.mono);
            return Err(SendError::Failed);
        }
        let mut was_tried = false;
        // Every turn takes one hop out of the topology.
        for _ in 0..=self.nodes.len() {
            let Some(hop) = self.next_hop(destination) else { break };
            if self.send_direct(ctx, hop, class, bytes.clone()) {
                return Ok(());
            }
            was_tried = true;
            self.set_link(ctx, hop, LinkState::RestartPinging);
            self.compute_next_hops(ctx.settings.is_rerouting_enabled);
        }
        Err(if was_tried { SendError::Failed } else { SendError::Unreachable })
    }
}
