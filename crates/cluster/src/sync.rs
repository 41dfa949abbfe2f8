//! The receiving side of syncs: asking a donor, taking chunks, timing out, asking elsewhere.

use std::time::Instant;

use bytes::Bytes;
use tandem_bin::Trailer;

use crate::capability::{DonorCondition, HeldPacket, SyncMark};
use crate::cluster::{Cluster, Ctx, Node, Settings};
use crate::error::SyncError;
use crate::event::Event;
use crate::extension::{Extension, digest};
use crate::ids::NodeId;
use crate::limits::{
    CAPABILITY_CHANGES, SYNC_BUFFER_BYTES_MAX, SYNC_BUFFER_PACKETS_MAX, SYNC_REQUEST_TIMEOUT_MAX, SYNC_RESUME_MAX,
};
use crate::log::LogEvent;
use crate::outbox::SendClass;
use crate::packet::{Extra, ExtraPacket, NodeIds, encode_extra};

/// Where a wanted sync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncState {
    /// None wanted, or given up.
    Idle,
    /// Wanted, no donor known.
    Pending,
    /// A donor was asked and has not sent anything yet.
    Asked { donor: NodeId, until: Instant },
    /// Data is arriving.
    InProgress {
        donor: NodeId,
        until: Instant,
        received: u32,
        /// Number of chunks told by SYNC_END.
        expected: Option<u32>,
    },
}

impl SyncState {
    pub(crate) fn donor(self) -> Option<NodeId> {
        match self {
            Self::Asked { donor, .. } | Self::InProgress { donor, .. } => Some(donor),
            Self::Idle | Self::Pending => None,
        }
    }
}

impl Cluster {
    /// Wants a sync: nothing happens when one is already wanted or running.
    pub(crate) fn request_sync(&mut self, ctx: &mut Ctx<'_>, name: &str) -> Result<(), SyncError> {
        let cap = self.capability_mut(name.as_bytes()).ok_or(SyncError::UnknownCapability)?;
        if !cap.is_enabled {
            return Err(SyncError::Disabled);
        }
        if cap.sync != SyncState::Idle {
            return Ok(());
        }
        let was_ok = std::mem::replace(&mut cap.is_ok, false);
        if was_ok {
            self.tell_capability(ctx, name, false);
        }
        self.start_sync(ctx, name);
        Ok(())
    }

    /// Begins to look for a donor.
    pub(crate) fn start_sync(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let now = ctx.now.mono;
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return };
        cap.sync = SyncState::Pending;
        cap.pending_since = Some(now);
        cap.tried.clear();
        cap.attempts = 0;
        cap.mark = None;
        if self.own.is_seed && ctx.settings.sync.seed_fallback_interval.is_zero() {
            if let Some(cap) = self.capability_mut(name.as_bytes()) {
                cap.sync = SyncState::Idle;
                cap.pending_since = None;
                cap.is_ok = true;
                cap.has_data = true;
            }
            return;
        }
        if !self.ask_donor(ctx, name)
            && let Some(cap) = self.capability(name.as_bytes())
        {
            let identifier = cap.report_identifier();
            ctx.out.report(identifier, "Sync request postponed! (no donor available)");
        }
    }

    fn find_donor(&self, ctx: &Ctx<'_>, name: &str) -> Option<NodeId> {
        let cap = self.capability(name.as_bytes())?;
        let condition = cap.options.donor;
        let is_donor = |node: &&Node| {
            node.next_hop.is_some()
                && node.record.is_enabled
                && node.has_capability_ok(name)
                && !ctx.roles(self.id, node.id()).is_no_donor
                && match condition {
                    DonorCondition::Any => true,
                    DonorCondition::SameSipAddr => node.record.sip_addr == self.own.sip_addr,
                    DonorCondition::DifferentSipAddr => node.record.sip_addr != self.own.sip_addr,
                }
        };
        let mut donors = self.nodes.iter().filter(is_donor);
        let fresh = donors.clone().find(|node| !cap.tried.contains(&node.id()));
        // All have been tried: begin anew with the first.
        fresh.or_else(|| donors.next()).map(Node::id)
    }

    /// Asks the donor of the last mark to go on from there; false when there is none or it is gone.
    fn ask_to_resume(&mut self, ctx: &mut Ctx<'_>, name: &str) -> bool {
        let now = ctx.now.mono;
        let Some(mark) = self.capability_mut(name.as_bytes()).and_then(|cap| cap.mark.take()) else { return false };
        if now.saturating_duration_since(mark.at) > SYNC_RESUME_MAX {
            return false;
        }
        let (capability, cursor) = (name.as_bytes(), mark.cursor.as_ref());
        let request = Extension::SyncResume { capability, cursor };
        if !self.send_extension(ctx, mark.donor, SendClass::Message, &request) {
            return false;
        }
        let until = now + ctx.settings.sync.request_timeout;
        if let Some(cap) = self.capability_mut(name.as_bytes()) {
            cap.sync = SyncState::Asked { donor: mark.donor, until };
            let identifier = cap.report_identifier();
            ctx.out.report(identifier, format!("Sync requested from node [{}], from where it broke off", mark.donor));
        }
        true
    }

    /// Sends SYNC_REQ to the best donor; false when there is none.
    fn ask_donor(&mut self, ctx: &mut Ctx<'_>, name: &str) -> bool {
        if self.ask_to_resume(ctx, name) {
            return true;
        }
        let Some(donor) = self.find_donor(ctx, name) else { return false };
        let fields = Extra::SyncReq { capability: name.as_bytes() };
        let Some(bytes) = self.extra(ctx, donor, fields) else { return false };
        if self.route(ctx, donor, SendClass::Message, bytes).is_err() {
            return false;
        }
        let base = ctx.settings.sync.request_timeout;
        let now = ctx.now.mono;
        // A donor of ours says it itself.
        let is_silent = !self.node(donor).is_some_and(|node| node.has_capability(CAPABILITY_CHANGES));
        let reachable = self.nodes.iter().filter(|node| is_silent && node.next_hop.is_some()).map(Node::id).collect();
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return false };
        let doubled = base.saturating_mul(1_u32.checked_shl(cap.attempts.min(8)).unwrap_or(1));
        let wait = doubled.min(SYNC_REQUEST_TIMEOUT_MAX.max(base));
        cap.sync = SyncState::Asked { donor, until: now + wait };
        if !cap.has_data {
            (cap.base, cap.base_donor) = (Some(now), Some(donor));
            (cap.witnesses, cap.asked) = (reachable, NodeIds::new());
        }
        cap.attempts = cap.attempts.saturating_add(1);
        if cap.tried.contains(&donor) {
            cap.tried.clear();
        }
        cap.tried.push(donor);
        let identifier = cap.report_identifier();
        ctx.out.report(identifier, format!("Sync requested from node [{donor}]"));
        true
    }

    /// An addressed packet of the own node, or `None` when the family lacks it or it does not fit.
    pub(crate) fn extra(&self, ctx: &mut Ctx<'_>, destination: NodeId, fields: Extra<'_>) -> Option<Bytes> {
        let trailer = Trailer { cluster_id: self.id.0, src_id: ctx.settings.node_id.0, dst_id: destination.0 };
        match encode_extra(&ExtraPacket { trailer, fields }, self.family)? {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                ctx.out.log(LogEvent::NotBuilt { cluster: self.id, what: "addressed packet" });
                None
            }
        }
    }

    /// Asks for every sync that waits for a donor.
    pub(crate) fn ask_pending_syncs(&mut self, ctx: &mut Ctx<'_>) {
        if !self.own.is_enabled {
            return;
        }
        let pending: Vec<_> = self
            .capabilities
            .iter()
            .filter(|cap| cap.is_enabled && cap.sync == SyncState::Pending)
            .map(|cap| cap.name.clone())
            .collect();
        for name in pending {
            self.ask_donor(ctx, &name);
        }
    }

    pub(crate) fn sync_node_up(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        self.ask_pending_syncs(ctx);
        self.repairs_node_up(ctx, id);
        self.serve_waiting_requester(ctx, id);
    }

    /// A node went down: syncs from it are asked for elsewhere, syncs to it end.
    pub(crate) fn sync_node_down(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let lost: Vec<_> =
            self.capabilities.iter().filter(|cap| cap.sync.donor() == Some(id)).map(|cap| cap.name.clone()).collect();
        for name in lost {
            self.sync_failed(ctx, &name);
        }
        self.abort_sessions_with(ctx, id);
    }

    /// The donor did not deliver.
    fn sync_failed(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let cluster = self.id;
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return };
        if let SyncState::InProgress { received, .. } = cap.sync {
            let capability = cap.name.clone();
            let identifier = cap.report_identifier();
            ctx.out.report(identifier, format!("Sync timed out, received [{received}] chunks"));
            ctx.out.event(Event::SyncTimeout { cluster, capability, chunk_count: received });
            self.release_held(ctx, name);
        }
        if let Some(repair) = self.capability_mut(name.as_bytes()).and_then(|cap| cap.repairing.take()) {
            return self.repair_failed(ctx, name, repair);
        }
        let now = ctx.now.mono;
        if let Some(cap) = self.capability_mut(name.as_bytes()) {
            cap.sync = SyncState::Pending;
            cap.pending_since = Some(now);
        }
        self.ask_donor(ctx, name);
    }

    pub(crate) fn take_sync(
        &mut self,
        ctx: &mut Ctx<'_>,
        src: NodeId,
        name: &[u8],
        data_version: i32,
        chunks: Vec<Bytes>,
    ) {
        if self.refuses_observer(ctx, src) {
            return;
        }
        let cluster = self.id;
        let until = ctx.now.mono + ctx.settings.sync.sync_timeout;
        let Some(cap) = self.capability_mut(name) else { return };
        if !cap.is_enabled {
            return;
        }
        let more = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let sum = chunks.iter().fold(0_u64, |sum, chunk| sum.wrapping_add(digest(chunk)));
        let capability = cap.name.clone();
        let mut is_started = false;
        let is_of_other = cap.repairing.is_some_and(|repair| repair.donor != src);
        let repair_since = cap.repairing.map(|repair| repair.since);
        match &mut cap.sync {
            SyncState::InProgress { donor, until: deadline, received, .. } if *donor == src => {
                *deadline = until;
                *received = received.saturating_add(more);
                cap.digest = cap.digest.wrapping_add(sum);
            }
            // Chunks of another donor are useful data, but do not count.
            SyncState::InProgress { .. } => {}
            SyncState::Idle if cap.is_ok => {}
            _ if is_of_other => {}
            state => {
                *state = SyncState::InProgress { donor: src, until, received: more, expected: None };
                cap.digest = sum;
                cap.told_sum = None;
                is_started = true;
                let identifier = cap.report_identifier();
                ctx.out.report(identifier, format!("Sync started from node [{src}]"));
            }
        }
        if is_started {
            let capability = capability.clone();
            ctx.out.event(Event::SyncStarted { cluster, capability, donor: src, repair_since });
        }
        for data in chunks {
            let capability = capability.clone();
            ctx.out.event(Event::SyncChunk { cluster, capability, src, data_version, data });
        }
        self.finish_sync_if_complete(ctx, name);
    }

    pub(crate) fn take_sync_end(&mut self, ctx: &mut Ctx<'_>, src: NodeId, name: &[u8], chunk_count: Option<i32>) {
        let until = ctx.now.mono + ctx.settings.sync.sync_timeout;
        if self.refuses_observer(ctx, src) {
            return;
        }
        let Some(cap) = self.capability_mut(name) else { return };
        if !cap.is_enabled || cap.is_ok || cap.repairing.is_some_and(|repair| repair.donor != src) {
            return;
        }
        let (donor, received) = match cap.sync {
            SyncState::InProgress { donor, received, .. } => (donor, received),
            SyncState::Asked { .. } | SyncState::Pending => {
                // Of the sync before.
                cap.digest = 0;
                (src, 0)
            }
            SyncState::Idle => return,
        };
        if donor != src {
            return;
        }
        // Without a count the end is the end; a negative one says nothing.
        let told = chunk_count.map_or(received, |count| u32::try_from(count).unwrap_or(0));
        cap.sync = SyncState::InProgress { donor, until, received, expected: Some(told) };
        self.finish_sync_if_complete(ctx, name);
    }

    fn finish_sync_if_complete(&mut self, ctx: &mut Ctx<'_>, name: &[u8]) {
        let cluster = self.id;
        let Some(cap) = self.capability_mut(name) else { return };
        let SyncState::InProgress { received, expected: Some(expected), .. } = cap.sync else {
            return;
        };
        // More than expected: the same donor was asked twice and sent twice.
        if received < expected {
            return;
        }
        if let Some((donor, chunks, sum)) = cap.told_sum.take()
            && (chunks, received) == (expected, expected)
            && sum != cap.digest
        {
            let (capability, name) = (cap.name.clone(), cap.name.clone());
            cap.mark = None;
            ctx.out.log(LogEvent::SyncSum { cluster, capability, donor });
            self.sync_failed(ctx, &name);
            return;
        }
        cap.sync = SyncState::Idle;
        cap.repairing = None;
        cap.has_data = true;
        cap.pending_since = None;
        cap.mark = None;
        let capability = cap.name.clone();
        let identifier = cap.report_identifier();
        ctx.out.report(identifier, format!("Sync completed, received [{received}] chunks"));
        let chunk_count = Some(received);
        ctx.out.event(Event::SyncDone { cluster, capability: capability.clone(), chunk_count });
        self.release_held(ctx, &capability);
        self.end_sync(ctx, &capability);
    }

    /// It is told as in sync when nothing more is known to be missing.
    fn end_sync(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        self.ask_members(ctx, None);
        if self.capability(name.as_bytes()).is_some_and(|cap| cap.sync != SyncState::Idle) {
            return;
        }
        if self.next_repair(ctx, name) {
            return;
        }
        if let Some(cap) = self.capability_mut(name.as_bytes()) {
            cap.is_ok = true;
            self.tell_capability(ctx, name, true);
        }
    }

    /// The donor says what it has sent; its SYNC_END follows.
    pub(crate) fn take_sync_sum(&mut self, src: NodeId, name: &[u8], chunk_count: u32, sum: u64) {
        let Some(cap) = self.capability_mut(name) else { return };
        if cap.sync.donor() == Some(src) {
            cap.told_sum = Some((src, chunk_count, sum));
        }
    }

    /// The donor names a place at which the sync can be taken up again.
    pub(crate) fn take_sync_mark(&mut self, ctx: &Ctx<'_>, src: NodeId, name: &[u8], cursor: &[u8]) {
        let at = ctx.now.mono;
        let Some(cap) = self.capability_mut(name) else { return };
        if cap.repairing.is_none() && matches!(cap.sync, SyncState::InProgress { donor, .. } if donor == src) {
            cap.mark = Some(SyncMark { donor: src, cursor: Bytes::copy_from_slice(cursor), at });
        }
    }

    /// Takes a regular packet of a module, or holds it back while the capability is being synced.
    pub(crate) fn take_module_packet(&mut self, ctx: &mut Ctx<'_>, name: &[u8], packet: HeldPacket) {
        let cluster = self.id;
        let Some(cap) = self.capability_mut(name) else { return };
        let capability = cap.name.clone();
        // What the donor changes after it was asked may overtake what it had before.
        let is_repair_asked = cap.repairing.is_some() && cap.sync != SyncState::Idle;
        if (is_repair_asked || matches!(cap.sync, SyncState::InProgress { .. })) && !cap.is_hold_overrun {
            cap.held_bytes += packet.body.len();
            cap.held.push(packet);
            let is_full = cap.held.len() > SYNC_BUFFER_PACKETS_MAX || cap.held_bytes > SYNC_BUFFER_BYTES_MAX;
            if is_full {
                self.release_held(ctx, &capability);
                if let Some(cap) = self.capability_mut(name) {
                    cap.is_hold_overrun = true;
                }
                ctx.out.log(LogEvent::SyncBufferFull { cluster, capability });
            }
            return;
        }
        ctx.out.event(Event::ModulePacket {
            cluster,
            src: packet.src,
            capability,
            packet_type: packet.packet_type,
            version: packet.version,
            body: packet.body,
            bridge_from: None,
        });
    }

    pub(crate) fn release_held(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let cluster = self.id;
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return };
        cap.held_bytes = 0;
        cap.is_hold_overrun = false;
        let capability = cap.name.clone();
        for packet in std::mem::take(&mut cap.held) {
            ctx.out.event(Event::ModulePacket {
                cluster,
                src: packet.src,
                capability: capability.clone(),
                packet_type: packet.packet_type,
                version: packet.version,
                body: packet.body,
                bridge_from: None,
            });
        }
    }

    // ---- timers ----

    fn seed_deadline(&self, settings: &Settings, since: Option<Instant>) -> Option<Instant> {
        let since = since?;
        self.own.is_seed.then(|| since + settings.sync.seed_fallback_interval)
    }

    pub(crate) fn sync_deadlines<'a>(&'a self, settings: &'a Settings) -> impl Iterator<Item = Instant> + 'a {
        self.capabilities.iter().filter_map(|cap| match cap.sync {
            SyncState::Idle => None,
            SyncState::Pending => self.seed_deadline(settings, cap.pending_since),
            SyncState::Asked { until, .. } | SyncState::InProgress { until, .. } => Some(until),
        })
    }

    pub(crate) fn run_syncs(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now.mono;
        let mut failed = Vec::new();
        let mut fallen_back = Vec::new();
        for cap in &self.capabilities {
            match cap.sync {
                SyncState::Asked { until, .. } | SyncState::InProgress { until, .. } if until <= now => {
                    failed.push(cap.name.clone());
                }
                SyncState::Pending
                    if self.seed_deadline(ctx.settings, cap.pending_since).is_some_and(|at| at <= now) =>
                {
                    fallen_back.push(cap.name.clone());
                }
                _ => {}
            }
        }
        for name in failed {
            self.sync_failed(ctx, &name);
        }
        for name in fallen_back {
            self.fall_back(ctx, &name);
        }
    }

    /// A seed without a donor calls itself synced.
    fn fall_back(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let cluster = self.id;
        let Some(cap) = self.capability_mut(name.as_bytes()) else { return };
        cap.sync = SyncState::Idle;
        cap.pending_since = None;
        cap.is_ok = true;
        cap.has_data = true;
        let capability = cap.name.clone();
        let identifier = cap.report_identifier();
        ctx.out.report(
            identifier,
            "ERROR: Sync request aborted! (no donor found in due time) => fallback to synced state",
        );
        ctx.out.event(Event::SyncDone { cluster, capability, chunk_count: None });
        self.tell_capability(ctx, name, true);
        self.ask_members(ctx, None);
    }
}
