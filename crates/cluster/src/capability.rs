//! Capabilities of this process, their states and what is told about them; syncs are in `sync` and
//! `donor`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::cluster::{Cluster, Ctx, Node};
use crate::donor::DonorSession;
use crate::error::CapabilityError;
use crate::ids::{ConnId, NodeId, Now};
use crate::limits::{
    CAPABILITIES_MAX, CAPABILITY_CHANGES, CAPABILITY_DELIVERY, CAPABILITY_EXTRA, CAPABILITY_INTERNAL,
    CAPABILITY_TAKEOVER, CAPABILITY_TANDEM, is_own_capability,
};
use crate::outbox::SendClass;
use crate::packet::{CapabilityEntry, CapabilityStateEntry, Internal, NodeIds, Stamp};
use crate::repair::Repair;
use crate::sync::SyncState;

/// Which nodes may be asked for a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DonorCondition {
    /// Any node.
    #[default]
    Any,
    /// Only nodes with the own `sip_addr`.
    SameSipAddr,
    /// Only nodes with another `sip_addr`.
    DifferentSipAddr,
}

/// How a module registers a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilityOptions {
    /// Not OK until a sync is done.
    pub sync_at_start: bool,
    /// Who may be asked for it.
    pub donor: DonorCondition,
    /// Types of packets that only ask: those of an observer are heard, while what changes something is not taken from one.
    pub questions: &'static [i32],
}

/// State of a capability for status/report; the numbers are those of OpenSIPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapabilityStatus {
    /// -3.
    NotSynced,
    /// -2: wanted, no data yet.
    SyncPending,
    /// -1.
    SyncInProgress,
    /// 1.
    Synced,
}

impl CapabilityStatus {
    /// The status number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::NotSynced => -3,
            Self::SyncPending => -2,
            Self::SyncInProgress => -1,
            Self::Synced => 1,
        }
    }

    /// The status text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSynced => "not synced",
            Self::SyncPending => "sync pending",
            Self::SyncInProgress => "sync in progress",
            Self::Synced => "synced",
        }
    }
}

/// Which share of partitioned work this node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Own position, from 0; `count` when nothing is this node's, because others do it all.
    pub index: usize,
    /// Number of nodes that share the work, at least 1.
    pub count: usize,
}

impl Partition {
    /// Everything: nobody else is there.
    pub const ALL: Partition = Partition { index: 0, count: 1 };

    /// Whether work with that hash is this node's.
    #[must_use]
    pub fn has(self, hash: u32) -> bool {
        let count = u32::try_from(self.count.max(1)).unwrap_or(u32::MAX);
        u32::try_from(self.index).ok() == Some(hash % count)
    }
}

/// A module packet held back during a sync.
#[derive(Debug)]
pub(crate) struct HeldPacket {
    pub(crate) src: NodeId,
    pub(crate) packet_type: i32,
    pub(crate) version: u16,
    pub(crate) body: Bytes,
}

/// A capability that a module of this process registered.
#[derive(Debug)]
pub(crate) struct LocalCapability {
    pub(crate) name: Arc<str>,
    /// The name once more, for packets: cheap to copy.
    pub(crate) wire_name: Bytes,
    pub(crate) options: CapabilityOptions,
    pub(crate) is_enabled: bool,
    pub(crate) is_ok: bool,
    pub(crate) sync: SyncState,
    /// Donors that did not deliver since the request.
    pub(crate) tried: NodeIds,
    pub(crate) attempts: u32,
    pub(crate) pending_since: Option<Instant>,
    pub(crate) held: Vec<HeldPacket>,
    pub(crate) held_bytes: usize,
    pub(crate) is_hold_overrun: bool,
    pub(crate) sessions: Vec<DonorSession>,
    /// Requesters to be served when they come up.
    pub(crate) waiting_requesters: NodeIds,
    /// Sum over the chunks of the running sync.
    pub(crate) digest: u64,
    /// What the donor says the sum is: donor, chunks, sum.
    pub(crate) told_sum: Option<(NodeId, u32, u64)>,
    /// Where the last sync can be taken up again.
    pub(crate) mark: Option<SyncMark>,
    /// Changes of others that were missed and have not been asked for yet.
    pub(crate) repairs: Vec<Repair>,
    /// The running sync is this repair.
    pub(crate) repairing: Option<Repair>,
    /// It was in sync once, or began without one.
    pub(crate) has_data: bool,
    /// When the first data was asked for: what was changed long before came with it.
    pub(crate) base: Option<Instant>,
    /// When it was registered.
    pub(crate) registered: Option<Instant>,
    /// Who was asked for it.
    pub(crate) base_donor: Option<NodeId>,
    /// Nodes whose changes had all reached the donor then, but for the last ones.
    pub(crate) witnesses: NodeIds,
    /// Nodes that were asked for what the donor may have missed.
    pub(crate) asked: NodeIds,
    /// When this node first told all others something.
    pub(crate) told_since: Option<Instant>,
}

/// A place in a sync: the donor that named it and when.
#[derive(Debug, Clone)]
pub(crate) struct SyncMark {
    pub(crate) donor: NodeId,
    pub(crate) cursor: Bytes,
    pub(crate) at: Instant,
}

impl LocalCapability {
    fn new(name: &str, options: CapabilityOptions) -> Self {
        Self {
            name: Arc::from(name),
            wire_name: Bytes::copy_from_slice(name.as_bytes()),
            options,
            is_enabled: true,
            is_ok: !options.sync_at_start,
            sync: SyncState::Idle,
            tried: NodeIds::new(),
            attempts: 0,
            pending_since: None,
            held: Vec::new(),
            held_bytes: 0,
            is_hold_overrun: false,
            sessions: Vec::new(),
            waiting_requesters: NodeIds::new(),
            digest: 0,
            told_sum: None,
            mark: None,
            repairs: Vec::new(),
            repairing: None,
            has_data: !options.sync_at_start,
            base: None,
            registered: None,
            base_donor: None,
            witnesses: NodeIds::new(),
            asked: NodeIds::new(),
            told_since: None,
        }
    }

    /// The capabilities by which Tandem nodes know each other, and who of them takes tags over.
    pub(crate) fn of_tandem(are_wanted: bool, takes_over: bool) -> Vec<Self> {
        let names = [CAPABILITY_TANDEM, CAPABILITY_DELIVERY, CAPABILITY_CHANGES, CAPABILITY_TAKEOVER];
        let all = names.into_iter().filter(|name| are_wanted && (takes_over || *name != CAPABILITY_TAKEOVER));
        all.map(|name| Self::new(name, CapabilityOptions::default())).collect()
    }

    pub(crate) fn status(&self) -> CapabilityStatus {
        match self.sync {
            _ if self.is_ok => CapabilityStatus::Synced,
            SyncState::Idle => CapabilityStatus::NotSynced,
            SyncState::Pending | SyncState::Asked { .. } => CapabilityStatus::SyncPending,
            SyncState::InProgress { .. } => CapabilityStatus::SyncInProgress,
        }
    }

    pub(crate) fn report_identifier(&self) -> String {
        format!("cap:{}", self.name)
    }
}

impl Cluster {
    pub(crate) fn capability(&self, name: &[u8]) -> Option<&LocalCapability> {
        self.capabilities.iter().find(|cap| cap.name.as_bytes() == name)
    }

    pub(crate) fn capability_mut(&mut self, name: &[u8]) -> Option<&mut LocalCapability> {
        self.capabilities.iter_mut().find(|cap| cap.name.as_bytes() == name)
    }

    pub(crate) fn register_capability(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        options: CapabilityOptions,
    ) -> Result<(), CapabilityError> {
        let is_reserved = [CAPABILITY_INTERNAL, CAPABILITY_EXTRA].contains(&name) || is_own_capability(name);
        if name.is_empty()
            || name.len() > usize::from(u16::MAX) / 2
            || is_reserved
            || self.capability(name.as_bytes()).is_some()
        {
            return Err(CapabilityError::Name);
        }
        if self.capabilities.len() >= CAPABILITIES_MAX {
            return Err(CapabilityError::TooMany);
        }
        let mut capability = LocalCapability::new(name, options);
        (capability.base, capability.registered) = (Some(ctx.now.mono), Some(ctx.now.mono));
        self.capabilities.insert(0, capability);
        if options.sync_at_start {
            self.start_sync(ctx, name);
        }
        let is_ok = self.capability(name.as_bytes()).is_some_and(|cap| cap.is_ok);
        self.tell_capability(ctx, name, is_ok);
        Ok(())
    }

    /// Single form of CAP_UPDATE to all neighbours.
    pub(crate) fn tell_capability(&mut self, ctx: &mut Ctx<'_>, name: &str, is_ok: bool) {
        let receivers = self.neighbours();
        if receivers.is_empty() || !self.own.is_enabled {
            return;
        }
        let stamp = self.capability_stamp(ctx.now);
        let own_id = ctx.settings.node_id;
        let entries = vec![CapabilityEntry {
            node_id: own_id,
            capabilities: vec![CapabilityStateEntry { name: name.as_bytes(), is_ok }],
        }];
        let path = NodeIds::from_slice(&[own_id]);
        let fields = Internal::CapUpdate { stamp, entries, require_reply: false, path };
        let packet = self.internal(ctx, fields);
        let Some(bytes) = self.encode(ctx, &packet, "CAP_UPDATE") else { return };
        for id in receivers {
            self.send_direct(ctx, id, SendClass::Internal, bytes.clone());
        }
        self.repeat_capabilities_soon(ctx.now.mono);
    }

    fn capability_stamp(&mut self, now: Now) -> Option<Stamp> {
        let is_numbered = self.family.has_cap_update_numbers() && self.has_cap_update_numbers;
        is_numbered.then(|| self.cap_counter.next(now.wire_secs()))
    }

    /// Full form of CAP_UPDATE to one node; to all neighbours only what this node has itself.
    pub(crate) fn send_full_capabilities(
        &mut self,
        ctx: &mut Ctx<'_>,
        destination: Option<NodeId>,
        require_reply: bool,
    ) {
        let receivers = match destination {
            Some(id) => NodeIds::from_slice(&[id]),
            None => self.neighbours(),
        };
        let others_have_any = destination
            .is_some_and(|id| self.nodes.iter().any(|node| node.id() != id && !node.capabilities.is_empty()));
        if receivers.is_empty() || (self.capabilities.is_empty() && !others_have_any) {
            return;
        }
        let stamp = self.capability_stamp(ctx.now);
        let own_id = ctx.settings.node_id;
        let mut entries = Vec::new();
        if !self.capabilities.is_empty() {
            let own = self
                .capabilities
                .iter()
                .map(|cap| CapabilityStateEntry { name: cap.name.as_bytes(), is_ok: cap.is_ok && cap.is_enabled });
            entries.push(CapabilityEntry { node_id: own_id, capabilities: own.collect() });
        }
        let others = self.nodes.iter().filter(|node| destination.is_some_and(|id| node.id() != id));
        entries.extend(others.filter(|node| !node.capabilities.is_empty()).map(capability_entry));
        let path = NodeIds::from_slice(&[own_id]);
        let packet = self.internal(ctx, Internal::CapUpdate { stamp, entries, require_reply, path });
        let Some(bytes) = self.encode(ctx, &packet, "CAP_UPDATE") else { return };
        for id in receivers {
            self.send_direct(ctx, id, SendClass::Internal, bytes.clone());
        }
    }

    /// Takes a CAP_UPDATE; false when it is stale or names an unknown node: no reply, no flooding.
    pub(crate) fn take_capabilities(
        &mut self,
        ctx: &mut Ctx<'_>,
        (source, direct): (NodeId, Option<ConnId>),
        stamp: Option<Stamp>,
        entries: &[CapabilityEntry<'_>],
    ) -> bool {
        self.correct_own_capabilities(ctx, entries);
        let Some(node) = self.node_mut(source) else { return false };
        if let Some(stamp) = stamp
            && !node.cap.accept_from(stamp, direct)
        {
            return false;
        }
        let own_id = ctx.settings.node_id;
        let mut is_complete = true;
        let mut has_ok = false;
        let mut tandem = NodeIds::new();
        let mut is_new = NodeIds::new();
        for entry in entries.iter().filter(|entry| entry.node_id != own_id) {
            let Some(node) = self.node_mut(entry.node_id) else {
                is_complete = false;
                break;
            };
            for capability in &entry.capabilities {
                has_ok |= capability.is_ok;
                if !node.note_capability(capability.name, capability.is_ok) {
                    continue;
                }
                if capability.name == CAPABILITY_TANDEM.as_bytes() {
                    tandem.push(entry.node_id);
                }
                if !is_new.contains(&entry.node_id) {
                    is_new.push(entry.node_id);
                }
            }
        }
        for id in tandem {
            self.tell_tag_states(ctx, id);
        }
        for id in is_new {
            self.owe_earlier(ctx, id, entries);
            self.ask_members(ctx, Some(id));
        }
        if has_ok {
            self.ask_pending_syncs(ctx);
        }
        if !is_complete
            && direct.is_some()
            && let Some(node) = self.node_mut(source)
        {
            node.has_told_of_strangers = true;
        }
        is_complete
    }

    /// A node was learned. Neighbours told of its capabilities before, perhaps, and will not by themselves again.
    ///
    /// Deviation: OpenSIPS waits until something changes there.
    pub(crate) fn ask_for_untaken_capabilities(&mut self, ctx: &mut Ctx<'_>) {
        let is_owed = |node: &&mut Node| node.has_told_of_strangers && node.is_neighbour();
        let mut told = NodeIds::new();
        for node in self.nodes.iter_mut().filter(is_owed) {
            node.has_told_of_strangers = false;
            told.push(node.id());
        }
        for id in told {
            self.send_full_capabilities(ctx, Some(id), true);
        }
    }

    /// As for the topology: what others tell of this node has no number, an old word may come last.
    fn correct_own_capabilities(&mut self, ctx: &Ctx<'_>, entries: &[CapabilityEntry<'_>]) {
        let told = entries.iter().filter(|entry| entry.node_id == ctx.settings.node_id);
        let is_true = told.flat_map(|entry| &entry.capabilities).all(|told| {
            let known = self.capability(told.name);
            known.map(|cap| cap.is_ok && cap.is_enabled) == Some(told.is_ok)
        });
        if !is_true && self.repeat_capabilities_at.is_none() {
            self.repeat_capabilities_soon(ctx.now.mono);
        }
    }

    pub(crate) fn set_capability_status(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        is_enabled: bool,
    ) -> Result<(), CapabilityError> {
        if is_own_capability(name) {
            return Err(CapabilityError::UnknownCapability);
        }
        let cap = self.capability_mut(name.as_bytes()).ok_or(CapabilityError::UnknownCapability)?;
        if cap.is_enabled == is_enabled {
            return Ok(());
        }
        cap.is_enabled = is_enabled;
        if is_enabled {
            // Deviation: OpenSIPS announces the capability as OK though it has missed everything.
            cap.is_ok = !cap.options.sync_at_start;
            let is_ok = cap.is_ok;
            if !is_ok {
                self.start_sync(ctx, name);
            }
            if is_ok && self.next_repair(ctx, name) {
                // It is told when that is done.
                return Ok(());
            }
            let is_ok = self.capability(name.as_bytes()).map_or(is_ok, |cap| cap.is_ok);
            self.tell_capability(ctx, name, is_ok);
        } else {
            cap.is_ok = false;
            cap.sync = SyncState::Idle;
            cap.pending_since = None;
            let repairing = cap.repairing.take();
            cap.repairs.extend(repairing);
            cap.held.clear();
            cap.held_bytes = 0;
            cap.sessions.clear();
            cap.waiting_requesters.clear();
            let identifier = cap.report_identifier();
            ctx.out.report(identifier, "Capability disabled via MI, revert to not synced state");
            self.tell_capability(ctx, name, false);
        }
        Ok(())
    }

    /// Reachable nodes that have the capability OK, this one first when its own is.
    pub(crate) fn holders(&self, own_id: NodeId, name: &str) -> Vec<NodeId> {
        let own = self.capability(name.as_bytes()).filter(|cap| cap.is_ok && cap.is_enabled).map(|_| own_id);
        let others = self.nodes.iter().filter(|node| node.is_reachable && node.has_capability_ok(name));
        own.into_iter().chain(others.map(Node::id)).collect()
    }

    /// The own share of work among the nodes that have the capability OK, as OpenSIPS divides it.
    ///
    /// Deviation: a node that is not in sync yet leaves the work to those that are, because they do not count it and do it
    /// all; while nobody is in sync, all that have the capability divide it (OpenSIPS: such a node does all that would be
    /// its share if it were in sync, and several of them do the same work).
    pub(crate) fn partition(&self, own_id: NodeId, name: &str) -> Option<Partition> {
        let own = self.capability(name.as_bytes())?;
        if !own.is_enabled || !self.own.is_enabled {
            // Told nothing by the others, and not counted by them.
            return Some(Partition::ALL);
        }
        let reachable = || self.nodes.iter().filter(|node| node.is_reachable);
        let mut others: Vec<NodeId> = reachable().filter(|node| node.has_capability_ok(name)).map(Node::id).collect();
        if !own.is_ok && !others.is_empty() {
            return Some(Partition { index: others.len(), count: others.len() });
        }
        if !own.is_ok {
            others = reachable().filter(|node| node.has_capability(name)).map(Node::id).collect();
        }
        let index = others.iter().filter(|id| **id < own_id).count();
        Some(Partition { index, count: others.len() + 1 })
    }
}

fn capability_entry(node: &Node) -> CapabilityEntry<'_> {
    let states = node.capabilities.iter();
    let states = states.map(|(name, is_ok)| CapabilityStateEntry { name, is_ok: *is_ok });
    CapabilityEntry { node_id: node.id(), capabilities: states.collect() }
}
