//! Repairs: a node that missed changes of another one asks that one for what it changed since, and for nothing else. The
//! sync that follows is an ordinary one; which data it needs is the module's business.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Ctx, Node};
use crate::error::SyncError;
use crate::event::Event;
use crate::extension::Extension;
use crate::ids::{ClusterId, NodeId, Now};
use crate::limits::{CAPABILITY_CHANGES, REPAIR_ATTEMPTS_MAX, REPAIR_MARGIN, REPAIR_START_MARGIN, SLEEP_MIN};
use crate::log::LogEvent;
use crate::node::ClusterNode;
use crate::outbox::SendClass;
use crate::packet::NodeIds;
use crate::sync::SyncState;

/// What a node asks for that missed changes of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncRepair {
    /// It has everything that was changed before.
    pub since: Instant,
    /// This node has all data, so that what it does not have exists no more.
    pub is_whole: bool,
}

/// Changes of a node that were missed here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repair {
    pub(crate) donor: NodeId,
    /// The start of the donor that made them; 0: any.
    incarnation: u64,
    pub(crate) since: Instant,
    /// All that the donor has changed since it was started.
    is_all: bool,
    attempts: u8,
}

impl Cluster {
    /// A node says that it gave changes up, the first so long ago.
    pub(crate) fn take_missed(
        &mut self,
        ctx: &mut Ctx<'_>,
        (src, incarnation): (NodeId, u64),
        name: &[u8],
        age: Duration,
    ) {
        let Some(cap) = self.capability(name).filter(|cap| cap.is_enabled) else { return };
        let name = cap.name.clone();
        if self.refuses_observer(ctx, src) {
            return;
        }
        let since = ctx.now.mono.checked_sub(age + REPAIR_MARGIN).unwrap_or(ctx.now.mono);
        self.want_repair(ctx, &name, Repair { donor: src, incarnation, since, is_all: false, attempts: 0 });
    }

    /// Who began with the data of a donor asks the others once for what the donor may have missed: witnesses for what they
    /// changed just before, all others for everything. All known ones, or one that was not known before.
    pub(crate) fn ask_members(&mut self, ctx: &mut Ctx<'_>, only: Option<NodeId>) {
        if !self.has_extensions {
            return;
        }
        let now = ctx.now.mono;
        let mut wanted = Vec::new();
        for cap in &mut self.capabilities {
            if !cap.is_enabled || !cap.has_data || !cap.options.sync_at_start {
                continue;
            }
            let is_meant = |node: &&Node| {
                only.is_none_or(|id| node.id() == id)
                    && node.has_capability(CAPABILITY_CHANGES)
                    && node.has_capability(&cap.name)
                    && !cap.asked.contains(&node.id())
            };
            let donors: NodeIds = self.nodes.iter().filter(is_meant).map(Node::id).collect();
            cap.asked.extend(donors.iter().copied());
            let base = cap.base.and_then(|base| base.checked_sub(REPAIR_START_MARGIN)).unwrap_or(now);
            let registered = cap.registered.unwrap_or(now);
            for donor in donors {
                let is_all = !cap.witnesses.contains(&donor);
                let since = if is_all { registered } else { base };
                wanted.push((cap.name.clone(), Repair { donor, incarnation: 0, since, is_all, attempts: 0 }));
            }
        }
        for (name, repair) in wanted {
            self.want_repair(ctx, &name, repair);
        }
    }

    fn want_repair(&mut self, ctx: &mut Ctx<'_>, name: &str, repair: Repair) {
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return };
        match cap.repairs.iter_mut().find(|known| known.donor == repair.donor) {
            Some(known) => {
                known.since = known.since.min(repair.since);
                known.is_all |= repair.is_all;
                (known.incarnation, known.attempts) = (repair.incarnation, known.attempts.max(repair.attempts));
            }
            None => cap.repairs.push(repair),
        }
        if cap.sync == SyncState::Idle {
            self.next_repair(ctx, name);
        }
    }

    /// Asks for the next repair; false when there is none that can be asked for now.
    pub(crate) fn next_repair(&mut self, ctx: &mut Ctx<'_>, name: &str) -> bool {
        let (cluster, now) = (self.id, ctx.now.mono);
        let is_donor =
            |node: &Node| node.next_hop.is_some() && node.record.is_enabled && node.has_capability(CAPABILITY_CHANGES);
        let Some(cap) = self.capability(name.as_bytes()).filter(|cap| cap.is_enabled) else { return false };
        let there = |repair: &Repair| self.node(repair.donor).is_some_and(is_donor);
        let Some(at) = cap.repairs.iter().position(there) else { return false };
        let base = cap.base.and_then(|base| base.checked_sub(REPAIR_START_MARGIN));
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return false };
        let mut repair = cap.repairs.remove(at);
        if repair.attempts >= REPAIR_ATTEMPTS_MAX {
            let (capability, donor) = (cap.name.clone(), repair.donor);
            ctx.out.log(LogEvent::RepairGivenUp { cluster, capability, donor });
            return self.next_repair(ctx, name);
        }
        repair.attempts += 1;
        if cap.base_donor == Some(repair.donor) && !repair.is_all {
            // All of before came with the first sync.
            repair.since = cap.base.map_or(repair.since, |base| repair.since.max(base));
        }
        if let Some(base) = base.filter(|_| !repair.is_all)
            && (!cap.options.sync_at_start || cap.asked.contains(&repair.donor))
        {
            repair.since = repair.since.max(base);
        }
        let age = now.saturating_duration_since(repair.since).as_millis();
        let age_ms = if repair.is_all { u32::MAX } else { u32::try_from(age).unwrap_or(u32::MAX) };
        let (capability, incarnation) = (name.as_bytes(), repair.incarnation);
        let request = Extension::SyncRepair { capability, age_ms, incarnation };
        let is_sent = self.send_extension(ctx, repair.donor, SendClass::Message, &request);
        let until = now + ctx.settings.sync.request_timeout;
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return false };
        if !is_sent {
            cap.repairs.push(repair);
            return false;
        }
        cap.repairing = Some(repair);
        cap.sync = SyncState::Asked { donor: repair.donor, until };
        let identifier = cap.report_identifier();
        let was_ok = std::mem::replace(&mut cap.is_ok, false);
        ctx.out.report(identifier, format!("Changes of node [{}] were missed and are asked for", repair.donor));
        if was_ok {
            self.tell_capability(ctx, name, false);
        }
        true
    }

    /// The running repair did not come to its end.
    pub(crate) fn repair_failed(&mut self, ctx: &mut Ctx<'_>, name: &str, mut repair: Repair) {
        if self.next_hop(repair.donor).is_none() {
            // It could not answer.
            repair.attempts = repair.attempts.saturating_sub(1);
        }
        self.release_held(ctx, name);
        if let Some(cap) = self.capability_mut(name.as_bytes()) {
            cap.sync = SyncState::Idle;
            cap.mark = None;
        }
        // Asks again, or another one first.
        self.want_repair(ctx, name, repair);
        self.end_repairs(ctx, name);
    }

    /// Without a repair under way the data is as good as it gets.
    fn end_repairs(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return };
        if cap.sync == SyncState::Idle && cap.has_data && cap.is_enabled && !std::mem::replace(&mut cap.is_ok, true) {
            self.tell_capability(ctx, name, true);
        }
    }

    /// A node came up: what was missed of it can be asked for.
    pub(crate) fn repairs_node_up(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let is_wanted = |cap: &&crate::capability::LocalCapability| {
            cap.sync == SyncState::Idle && cap.repairs.iter().any(|repair| repair.donor == id)
        };
        let names: Vec<_> = self.capabilities.iter().filter(is_wanted).map(|cap| cap.name.clone()).collect();
        for name in names {
            self.next_repair(ctx, &name);
        }
    }

    /// Tells a node that begins of whom this one has all changes: those that have been there for a while.
    pub(crate) fn send_sync_witness(&mut self, ctx: &mut Ctx<'_>, name: &str, to: NodeId) {
        let now = ctx.now.mono;
        let Some(cap) = self.capability(name.as_bytes()).filter(|cap| cap.has_data) else { return };
        let is_missed = |id: NodeId| cap.repairs.iter().chain(&cap.repairing).any(|repair| repair.donor == id);
        let is_witness = |node: &&Node| {
            let is_long_there = now.saturating_duration_since(node.reachable_since) > REPAIR_START_MARGIN;
            node.is_reachable && is_long_there && node.has_capability(CAPABILITY_CHANGES) && !is_missed(node.id())
        };
        let nodes: NodeIds = self.nodes.iter().filter(is_witness).map(Node::id).collect();
        let capability = cap.name.clone();
        let witness = Extension::SyncWitness { capability: capability.as_bytes(), nodes };
        self.send_extension(ctx, to, SendClass::Sync, &witness);
    }

    /// Time goes on; a process that was stopped has been in touch with nobody.
    pub(crate) fn note_time(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_step) > SLEEP_MIN {
            self.nodes.iter_mut().for_each(|node| node.reachable_since = now);
        }
        self.last_step = now;
    }

    /// The donor says of whom it has all changes.
    pub(crate) fn take_sync_witness(&mut self, src: NodeId, name: &[u8], nodes: NodeIds) {
        if let Some(cap) = self.capability_mut(name)
            && !cap.has_data
            && cap.sync.donor() == Some(src)
        {
            cap.witnesses = nodes;
            // What it changes is in what it sends, or comes after it.
            cap.asked = NodeIds::from_slice(&[src]);
        }
    }

    /// What an earlier start of the node changed it cannot tell any more.
    pub(crate) fn forget_repairs_from(&mut self, id: NodeId, incarnation: u64) {
        for cap in &mut self.capabilities {
            cap.repairs.retain(|repair| repair.donor != id || [0, incarnation].contains(&repair.incarnation));
        }
    }

    /// Another node missed changes of this one.
    pub(crate) fn take_repair_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        requester: NodeId,
        name: &[u8],
        age_ms: u32,
        incarnation: u64,
    ) {
        let cluster = self.id;
        let is_mine = [0, ctx.settings.incarnation].contains(&incarnation);
        let is_donor = !ctx.own_roles(cluster).is_no_donor;
        let Some(cap) = self.capability(name).filter(|cap| cap.is_enabled) else { return };
        let (capability, is_whole, registered) = (cap.name.clone(), cap.has_data, cap.registered);
        if is_mine {
            self.settle_owed(requester, name);
        }
        if !is_mine || !is_donor {
            // There is nothing it could be told.
            if self.sync_begin(ctx, &capability, requester, 0).is_ok() {
                // Fails only when the requester has gone.
                let _ = self.sync_end(ctx, &capability, requester);
            }
            return;
        }
        let now = ctx.now.mono;
        // Nothing was changed here before.
        let first = registered.and_then(|at| at.checked_sub(REPAIR_MARGIN)).unwrap_or(now);
        let since = now.checked_sub(Duration::from_millis(age_ms.into())).map_or(first, |since| since.max(first));
        let repair = Some(SyncRepair { since, is_whole });
        ctx.out.event(Event::SyncRequested { cluster, capability, requester, resume: None, repair });
    }
}

impl ClusterNode {
    /// Packets of a node were lost here, the first at that moment: asks it for what they said. False when it is none that
    /// could answer.
    ///
    /// # Errors
    /// When this process is not in the cluster, or the capability is unknown or disabled.
    pub fn request_repair(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        node: NodeId,
        since: Instant,
        now: Now,
    ) -> Result<bool, SyncError> {
        let asked = self.on(cluster, now, |cluster, ctx| {
            let cap = cluster.capability(capability.as_bytes()).ok_or(SyncError::UnknownCapability)?;
            if !cap.is_enabled {
                return Err(SyncError::Disabled);
            }
            let can_answer = |node: &Node| node.has_capability(CAPABILITY_CHANGES) && node.has_capability(capability);
            if !cluster.has_extensions || !cluster.node(node).is_some_and(can_answer) {
                return Ok(false);
            }
            let since = since.checked_sub(REPAIR_MARGIN).unwrap_or(since);
            cluster.want_repair(
                ctx,
                capability,
                Repair { donor: node, incarnation: 0, since, is_all: false, attempts: 0 },
            );
            Ok(true)
        });
        asked.unwrap_or(Err(SyncError::UnknownCluster))
    }
}
