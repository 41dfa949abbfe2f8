//! Sharing tags among Tandem nodes: a claim has an epoch and a lease, so that two active holders end in bounded time, a
//! restarted node does not take its tag back, and a tag whose holder is gone can be taken over.
//!
//! Of two claims the one of the higher epoch stands, of two of one epoch that of the lower node id. The holder repeats its
//! claim three times per lease; who hears a lesser claim than its own answers with its own.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Ctx, Node};
use crate::event::SharingTagReason;
use crate::extension::Extension;
use crate::ids::NodeId;
use crate::limits::{CAPABILITY_TANDEM, TAG_LEASE_MAX};
use crate::outbox::SendClass;
use crate::packet::NodeIds;

/// Whether claim `one` stands against claim `other`.
fn beats(one: (u64, NodeId), other: (u64, NodeId)) -> bool {
    one.0 > other.0 || (one.0 == other.0 && one.1 < other.1)
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

impl Cluster {
    /// Tells the own claim to all nodes of ours.
    pub(crate) fn repeat_claim(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        if !self.has_extensions {
            return;
        }
        let lease = ctx.settings.tags.lease;
        let (own_id, now) = (ctx.settings.node_id, ctx.now.mono);
        let Ok(tag) = self.sharing_tag(name) else { return };
        tag.repeat_at = Some(now + lease / 3);
        let epoch = tag.epoch;
        let receivers: NodeIds = self.nodes.iter().filter(|node| node.next_hop.is_some()).map(Node::id).collect();
        for id in receivers {
            self.send_claim(ctx, id, name, epoch, own_id, lease);
        }
    }

    fn send_claim(&mut self, ctx: &mut Ctx<'_>, to: NodeId, name: &str, epoch: u64, holder: NodeId, lease: Duration) {
        let lease_ms = millis(lease);
        let claim = Extension::TagState { name: name.as_bytes(), epoch, holder, lease_ms };
        self.send_extension(ctx, to, SendClass::Message, &claim);
    }

    /// Tells a node of ours that came up, or that proved to be one, what is known about all tags.
    pub(crate) fn tell_tag_states(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        if !self.is_tandem(id) || self.next_hop(id).is_none() {
            return;
        }
        let (own_id, now) = (ctx.settings.node_id, ctx.now.mono);
        let lease = ctx.settings.tags.lease;
        let known = self.tags.iter().filter_map(|tag| {
            let holder = if tag.is_active { own_id } else { tag.holder? };
            let left = tag.lease_until.map_or(lease, |until| until.saturating_duration_since(now));
            Some((tag.name.clone(), tag.epoch, holder, if tag.is_active { lease } else { left }))
        });
        for (name, epoch, holder, lease) in known.collect::<Vec<_>>() {
            self.send_claim(ctx, id, &name, epoch, holder, lease);
        }
    }

    pub(crate) fn take_tag_state(
        &mut self,
        ctx: &mut Ctx<'_>,
        src: NodeId,
        name: &[u8],
        epoch: u64,
        holder: NodeId,
        lease_ms: u32,
    ) {
        // An observer knows of tags what others told it, and tells that when it meets somebody: no claim, and nothing to count.
        if ctx.roles(self.id, src).is_observer && holder != src {
            return;
        }
        if self.refuses_observer(ctx, src) || ctx.roles(self.id, holder).has_no_tags {
            return;
        }
        if holder == src {
            self.observe_claim(ctx, name, src);
        } else {
            self.observe_backup(name, src);
        }
        let own_id = ctx.settings.node_id;
        let lease = Duration::from_millis(u64::from(lease_ms)).min(TAG_LEASE_MAX);
        let name = String::from_utf8_lossy(name).into_owned();
        let is_holder_there = holder == src || self.node(holder).is_some_and(|node| node.next_hop.is_some());
        let Ok(tag) = self.sharing_tag(&name) else { return };
        if holder == own_id {
            // What others remember of this node, perhaps from before a restart.
            tag.epoch = tag.epoch.max(epoch);
            return;
        }
        if tag.is_active {
            let is_lost = beats((epoch, holder), (tag.epoch, own_id));
            if is_lost && is_holder_there {
                tag.epoch = epoch;
                tag.yield_to(holder);
                tag.lease_until = Some(ctx.now.mono + lease);
                self.tag_changed(ctx, &name, false, SharingTagReason::Broadcast(holder));
                return;
            }
            // A claim of one who is gone is outbidden; a lesser claim is answered.
            if is_lost {
                tag.epoch = epoch.saturating_add(1);
            }
            let mine = tag.epoch;
            if is_lost {
                self.repeat_claim(ctx, &name);
            } else if holder == src {
                let lease = ctx.settings.tags.lease;
                self.send_claim(ctx, src, &name, mine, own_id, lease);
            }
            return;
        }
        let known = (tag.epoch, tag.holder.unwrap_or(NodeId(i32::MAX)));
        if beats((epoch, holder), known) || (epoch, holder) == known {
            let is_direct = holder == src;
            if is_direct || tag.holder != Some(holder) || tag.lease_until.is_none() {
                tag.lease_until = Some(ctx.now.mono + lease);
            }
            tag.epoch = epoch;
            tag.holder = Some(holder);
        }
    }

    /// A node cannot be reached any more: tags it holds without a lease (an OpenSIPS node) get one now.
    pub(crate) fn tag_holder_down(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let until = ctx.now.mono + ctx.settings.tags.lease;
        let held = self.tags.iter_mut().filter(|tag| !tag.is_active && tag.holder == Some(id));
        for tag in held.filter(|tag| tag.lease_until.is_none()) {
            tag.lease_until = Some(until);
        }
    }

    pub(crate) fn tag_deadlines(&self) -> impl Iterator<Item = Instant> + '_ {
        let is_used = self.has_extensions && self.own.is_enabled;
        let tags = self.tags.iter().filter(move |_| is_used);
        tags.filter_map(|tag| if tag.is_active { tag.repeat_at } else { tag.lease_until })
    }

    pub(crate) fn run_tags(&mut self, ctx: &mut Ctx<'_>) {
        if !self.has_extensions || !self.own.is_enabled {
            return;
        }
        let now = ctx.now.mono;
        let mut repeats = Vec::new();
        let mut gone = Vec::new();
        for tag in &mut self.tags {
            if tag.is_active {
                // A tag that was configured active has not been claimed yet.
                if tag.repeat_at.is_none_or(|at| at <= now) {
                    repeats.push(tag.name.clone());
                }
            } else if tag.lease_until.is_some_and(|at| at <= now) {
                tag.lease_until = None;
                gone.extend(tag.holder.map(|holder| (tag.name.clone(), holder)));
            }
        }
        for name in repeats {
            self.repeat_claim(ctx, &name);
        }
        for (name, holder) in gone {
            self.holder_gone(ctx, &name, holder);
        }
    }

    /// The lease of a holder is over.
    fn holder_gone(&mut self, ctx: &mut Ctx<'_>, name: &str, holder: NodeId) {
        let is_ours = self.is_tandem(holder);
        let is_reachable = self.node(holder).is_some_and(|node| node.next_hop.is_some());
        if is_reachable && !is_ours {
            // An OpenSIPS node that came back: it has no leases.
            return;
        }
        let cluster = self.id;
        ctx.out
            .report("sharing_tags", format!("TAG <{name}>, cluster {cluster}: its holder, node [{holder}], is gone"));
        if !ctx.settings.tags.is_takeover_enabled {
            return;
        }
        if self.is_next_holder(ctx, holder) {
            // Only fails for one tag too many, and this one is there.
            let _ = self.activate_tag(ctx, name, SharingTagReason::Takeover(holder));
        } else if let Ok(tag) = self.sharing_tag(name) {
            // Somebody else is first; look again whether it did.
            tag.lease_until = Some(ctx.now.mono + ctx.settings.tags.lease);
        }
    }

    /// Whether this node has the lowest (priority, id) of the nodes of ours that can be reached.
    fn is_next_holder(&self, ctx: &Ctx<'_>, gone: NodeId) -> bool {
        let own = (self.own.priority, ctx.settings.node_id);
        let may_hold = |id| !ctx.roles(self.id, id).has_no_tags;
        if !may_hold(ctx.settings.node_id) {
            return false;
        }
        let others = self
            .nodes
            .iter()
            .filter(|node| may_hold(node.id()))
            .filter(|node| node.id() != gone && node.next_hop.is_some() && node.has_capability(CAPABILITY_TANDEM));
        others.map(|node| (node.record.priority, node.id())).all(|other| own < other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_epoch_stands_and_then_the_lower_id() {
        assert!(beats((2, NodeId(9)), (1, NodeId(1))));
        assert!(beats((1, NodeId(1)), (1, NodeId(2))));
        assert!(!beats((1, NodeId(2)), (1, NodeId(1))));
        assert!(!beats((1, NodeId(1)), (1, NodeId(1))));
    }
}
