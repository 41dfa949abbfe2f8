//! Sharing tags among Tandem nodes: a claim has an epoch and a lease, so that two active holders end in bounded time, a
//! restarted node does not take its tag back, and a tag whose holder is gone can be taken over.
//!
//! Of two claims the one of the higher epoch stands, of two of one epoch that of the lower node id. The holder repeats its
//! claim three times per lease; who hears a lesser claim than it knows of answers with that, so that all end with one view.
//! A holder yields to the word of another holder only: what a third one tells may be of before a restart. The claim of a
//! holder whose lease is over is told with a lease of 0 and is outbidden by who is active.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Ctx, Node};
use crate::event::SharingTagReason;
use crate::extension::Extension;
use crate::ids::NodeId;
use crate::limits::{CAPABILITY_TAKEOVER, TAG_LEASE_MAX};
use crate::outbox::SendClass;
use crate::packet::NodeIds;

/// Whether claim `one` stands against claim `other`.
fn beats(one: (u64, NodeId), other: (u64, NodeId)) -> bool {
    one.0 > other.0 || (one.0 == other.0 && one.1 < other.1)
}

/// A claim as another node told it.
struct Claim {
    /// Who told it; only the word of the holder itself proves that it is active.
    src: NodeId,
    epoch: u64,
    holder: NodeId,
    /// `None` when the holder is gone.
    lease: Option<Duration>,
}

/// Least lease told of a holder that does not count as gone.
const LEASE_LEFT_MIN: Duration = Duration::from_millis(1);

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
        for name in self.tags.iter().map(|tag| tag.name.clone()).collect::<Vec<_>>() {
            self.tell_tag_state(ctx, id, &name);
        }
    }

    /// Tells a node what is known about one tag. A holder that is gone has no lease left.
    fn tell_tag_state(&mut self, ctx: &mut Ctx<'_>, to: NodeId, name: &str) {
        let (own_id, now, lease) = (ctx.settings.node_id, ctx.now.mono, ctx.settings.tags.lease);
        let Ok(tag) = self.sharing_tag(name) else { return };
        let known = if tag.is_active { Some(own_id) } else { tag.holder };
        let Some(holder) = known else { return };
        let left = match tag.lease_until {
            _ if tag.is_active => lease,
            _ if tag.is_holder_gone => Duration::ZERO,
            // Above zero: that it is over is said by who looked after it.
            Some(until) => until.saturating_duration_since(now).max(LEASE_LEFT_MIN),
            None => lease,
        };
        let epoch = tag.epoch;
        self.send_claim(ctx, to, name, epoch, holder, left);
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
        let lease = Duration::from_millis(u64::from(lease_ms)).min(TAG_LEASE_MAX);
        let claim = Claim { src, epoch, holder, lease: (lease_ms > 0).then_some(lease) };
        let name = String::from_utf8_lossy(name).into_owned();
        let Ok(tag) = self.sharing_tag(&name) else { return };
        if holder == ctx.settings.node_id {
            self.take_own_claim(ctx, &name, epoch);
        } else if tag.is_active {
            self.take_rival_claim(ctx, &name, &claim);
        } else {
            self.take_foreign_claim(ctx, &name, &claim);
        }
    }

    /// What others remember of this node, perhaps from before a restart.
    fn take_own_claim(&mut self, ctx: &mut Ctx<'_>, name: &str, epoch: u64) {
        let (own_id, now, lease) = (ctx.settings.node_id, ctx.now.mono, ctx.settings.tags.lease);
        let Ok(tag) = self.sharing_tag(name) else { return };
        if tag.is_active {
            tag.epoch = tag.epoch.max(epoch);
        } else if beats((epoch, own_id), tag.claim()) {
            // Backup since then: the claim binds nobody, and the tag is free to be taken over.
            tag.epoch = epoch;
            tag.holder = Some(own_id);
            tag.is_holder_gone = true;
            tag.lease_until = Some(now + lease);
        }
    }

    /// A claim of another node on a tag that is active here.
    fn take_rival_claim(&mut self, ctx: &mut Ctx<'_>, name: &str, claim: &Claim) {
        let (own_id, now) = (ctx.settings.node_id, ctx.now.mono);
        let is_direct = claim.holder == claim.src;
        let is_reachable = self.next_hop(claim.holder).is_some();
        let has_leases = self.is_tandem(claim.holder);
        let Ok(tag) = self.sharing_tag(name) else { return };
        if !beats((claim.epoch, claim.holder), (tag.epoch, own_id)) {
            if is_direct {
                self.tell_tag_state(ctx, claim.src, name);
            }
            return;
        }
        // It was told of the tag, and goes by the order of the packets.
        let has_yielded = !is_direct && !has_leases && tag.is_told(claim.holder);
        match claim.lease.filter(|_| !has_yielded) {
            // A claim of one who is gone, or has given way, is outbidden.
            None => {
                tag.epoch = claim.epoch.saturating_add(1);
                self.repeat_claim(ctx, name);
            }
            Some(lease) if is_direct || (is_reachable && !has_leases) => {
                tag.epoch = claim.epoch;
                tag.yield_to(claim.holder);
                tag.lease_until = Some(now + lease);
                self.tag_changed(ctx, name, false, SharingTagReason::Broadcast(claim.holder));
            }
            // A node of ours says so itself, or has been restarted since: hearsay takes the tag from nobody. Others say so
            // when its lease is over, in answer to a repeat of the own claim.
            Some(_) => {}
        }
    }

    /// A claim of another node on a tag that is not active here.
    fn take_foreign_claim(&mut self, ctx: &mut Ctx<'_>, name: &str, claim: &Claim) {
        let (now, grace) = (ctx.now.mono, ctx.settings.tags.lease);
        let is_direct = claim.holder == claim.src;
        let Ok(tag) = self.sharing_tag(name) else { return };
        let (told, known) = ((claim.epoch, claim.holder), tag.claim());
        if told != known && !beats(told, known) {
            if is_direct {
                self.answer_lesser_claim(ctx, name, claim.src);
            }
            return;
        }
        if is_direct || told != known {
            tag.is_holder_gone = claim.lease.is_none();
            tag.lease_until = Some(now + claim.lease.unwrap_or(grace));
        }
        tag.epoch = claim.epoch;
        tag.holder = Some(claim.holder);
    }

    /// The claim of a holder is less than what is known here: it has to know, or two views of who has the tag would stay.
    fn answer_lesser_claim(&mut self, ctx: &mut Ctx<'_>, name: &str, to: NodeId) {
        let Ok(tag) = self.sharing_tag(name) else { return };
        let (epoch, holder, is_gone) = (tag.epoch, tag.holder, tag.is_holder_gone);
        match holder {
            // Only the number is known: it counts as that of the one who is active.
            None => {
                let lease = ctx.settings.tags.lease;
                self.send_claim(ctx, to, name, epoch, to, lease);
            }
            // An OpenSIPS node may have yielded to that very claim: it goes by the order of the packets.
            Some(holder) if !is_gone && !self.is_tandem(holder) => {}
            Some(_) => self.tell_tag_state(ctx, to, name),
        }
    }

    /// A node cannot be reached any more: tags it holds without a lease (an OpenSIPS node) get one now.
    pub(crate) fn tag_holder_down(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let until = ctx.now.mono + ctx.settings.tags.lease;
        let has_leases = self.is_tandem(id);
        let held = self.tags.iter_mut().filter(|tag| !tag.is_active && !tag.is_holder_gone && tag.holder == Some(id));
        for tag in held.filter(|tag| !has_leases || tag.lease_until.is_none()) {
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
            } else if tag.lease_until.take_if(|at| *at <= now).is_some() {
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
        let (own_id, again) = (ctx.settings.node_id, ctx.now.mono + ctx.settings.tags.lease);
        let has_no_leases = holder != own_id && self.next_hop(holder).is_some() && !self.is_tandem(holder);
        let cluster = self.id;
        let Ok(tag) = self.sharing_tag(name) else { return };
        // Look again whether the one who is first took it, and whether a node that seemed to be of OpenSIPS is one.
        tag.lease_until = Some(again);
        if has_no_leases && !tag.is_holder_gone {
            return;
        }
        if !std::mem::replace(&mut tag.is_holder_gone, true) {
            let text = format!("TAG <{name}>, cluster {cluster}: its holder, node [{holder}], is gone");
            ctx.out.report("sharing_tags", text);
        }
        let may_take = ctx.settings.tags.is_takeover_enabled && !ctx.own_roles(cluster).has_no_tags;
        let before = self.before_in_takeover(ctx, may_take, holder);
        if may_take && before.is_empty() {
            // Only fails for one tag too many, and this one is there.
            let _ = self.activate_tag(ctx, name, SharingTagReason::Takeover(holder));
        }
        for id in before {
            // It may not have heard of the tag since it was started.
            self.tell_tag_state(ctx, id, name);
        }
    }

    /// Nodes of ours that take tags over, can be reached and come before this one: the lowest (priority, id) is the first. The
    /// former holder, when it is back without the tag, is the last. All of them when this node may not take it.
    fn before_in_takeover(&self, ctx: &Ctx<'_>, may_take: bool, gone: NodeId) -> NodeIds {
        let own_id = ctx.settings.node_id;
        let own = (own_id == gone, self.own.priority, own_id);
        let takes_over = |node: &&Node| {
            node.record.is_enabled
                && node.next_hop.is_some()
                && node.has_capability(CAPABILITY_TAKEOVER)
                && !ctx.roles(self.id, node.id()).has_no_tags
        };
        let others = self.nodes.iter().filter(takes_over);
        let is_before = |node: &&Node| !may_take || (node.id() == gone, node.record.priority, node.id()) < own;
        others.filter(is_before).map(Node::id).collect()
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
