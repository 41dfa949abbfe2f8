//! The sending side of syncs: requests, packing of chunks, the window; the data is the module's.

use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::{Cluster, Ctx};
use crate::error::{SendError, SyncError};
use crate::event::Event;
use crate::extension::{Extension, digest};
use crate::ids::NodeId;
use crate::limits::{DONOR_SESSIONS_MAX, SYNC_CURSOR_LEN_MAX, SYNC_WINDOW_PACKETS};
use crate::outbox::SendClass;
use crate::packet::{ChunkPacket, Extra, chunk_len_max};

/// Whether a donor may go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFlow {
    /// The next chunk is welcome.
    Ready,
    /// The chunk was taken, but the window is full: wait for [`Event::SyncReady`].
    Wait,
}

/// One sync being sent.
#[derive(Debug)]
pub(crate) struct DonorSession {
    requester: NodeId,
    data_version: i32,
    packet: Option<ChunkPacket>,
    chunk_count: u32,
    digest: u64,
    unwritten: usize,
    is_waiting: bool,
}

impl Cluster {
    /// SYNC_REQ came in.
    pub(crate) fn take_sync_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        requester: NodeId,
        name: &[u8],
        resume: Option<Bytes>,
    ) {
        let is_reachable = self.next_hop(requester).is_some();
        let cluster = self.id;
        let Some(cap) = self.capability_mut(name) else { return };
        if !cap.is_enabled || ctx.own_roles(cluster).is_no_donor {
            return;
        }
        if !is_reachable {
            if !cap.waiting_requesters.contains(&requester) {
                cap.waiting_requesters.push(requester);
            }
            return;
        }
        let capability = cap.name.clone();
        ctx.out.event(Event::SyncRequested { cluster, capability, requester, resume, repair: None });
    }

    pub(crate) fn serve_waiting_requester(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let cluster = self.id;
        for cap in &mut self.capabilities {
            if !cap.waiting_requesters.contains(&id) {
                continue;
            }
            cap.waiting_requesters.retain(|other| *other != id);
            let capability = cap.name.clone();
            ctx.out.event(Event::SyncRequested { cluster, capability, requester: id, resume: None, repair: None });
        }
    }

    pub(crate) fn abort_sessions_with(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let cluster = self.id;
        for cap in &mut self.capabilities {
            let before = cap.sessions.len();
            cap.sessions.retain(|session| session.requester != id);
            if cap.sessions.len() != before {
                let capability = cap.name.clone();
                ctx.out.event(Event::SyncAborted { cluster, capability, requester: id });
            }
        }
    }

    fn session(&mut self, name: &str, requester: NodeId) -> Result<(Arc<str>, &mut DonorSession), SyncError> {
        let cap = self.capability_mut(name.as_bytes()).ok_or(SyncError::UnknownCapability)?;
        let capability = cap.name.clone();
        let session = cap.sessions.iter_mut().find(|session| session.requester == requester);
        session.map(|session| (capability, session)).ok_or(SyncError::NoSession)
    }

    pub(crate) fn sync_begin(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        requester: NodeId,
        data_version: i32,
    ) -> Result<(), SyncError> {
        if !self.own.is_enabled {
            return Err(SyncError::Disabled);
        }
        if self.next_hop(requester).is_none() {
            return Err(SyncError::Send(SendError::Unreachable));
        }
        let cap = self.capability_mut(name.as_bytes()).ok_or(SyncError::UnknownCapability)?;
        if !cap.is_enabled {
            return Err(SyncError::Disabled);
        }
        cap.sessions.retain(|session| session.requester != requester);
        if cap.sessions.len() >= DONOR_SESSIONS_MAX {
            return Err(SyncError::NoSession);
        }
        cap.sessions.push(DonorSession {
            requester,
            data_version,
            packet: None,
            chunk_count: 0,
            digest: 0,
            unwritten: 0,
            is_waiting: false,
        });
        self.send_sync_witness(ctx, name, requester);
        Ok(())
    }

    pub(crate) fn sync_chunk(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        requester: NodeId,
        data: &[u8],
    ) -> Result<SyncFlow, SyncError> {
        let target = ctx.settings.sync.sync_packet_size;
        let family = self.family;
        if data.len() > chunk_len_max(name) {
            return Err(SyncError::ChunkTooLong(data.len()));
        }
        let (_, session) = self.session(name, requester)?;
        if session.packet.as_ref().is_some_and(|packet| packet.is_full_for(data.len(), target)) {
            self.flush_session(ctx, name, requester)?;
        }
        let (capability, session) = self.session(name, requester)?;
        let data_version = session.data_version;
        let packet = session.packet.get_or_insert_with(|| ChunkPacket::new(family, &capability, data_version, target));
        packet.push(data);
        session.chunk_count = session.chunk_count.saturating_add(1);
        session.digest = session.digest.wrapping_add(digest(data));
        let is_full = ctx.settings.sync.has_flow_control && session.unwritten >= SYNC_WINDOW_PACKETS;
        session.is_waiting = is_full;
        Ok(if is_full { SyncFlow::Wait } else { SyncFlow::Ready })
    }

    fn flush_session(&mut self, ctx: &mut Ctx<'_>, name: &str, requester: NodeId) -> Result<(), SyncError> {
        let cluster = self.id;
        let own_id = ctx.settings.node_id;
        let (_, session) = self.session(name, requester)?;
        let Some(packet) = session.packet.take() else { return Ok(()) };
        session.unwritten += 1;
        let sent = match packet.finish(cluster, own_id, requester) {
            Ok(bytes) => self.route(ctx, requester, SendClass::Sync, bytes),
            Err(_) => Err(SendError::Failed),
        };
        if let Err(error) = sent {
            self.end_session(name, requester);
            return Err(SyncError::Send(error));
        }
        Ok(())
    }

    /// Names a place at which this sync can be taken up again after a break; only nodes of ours are told.
    pub(crate) fn sync_mark(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        requester: NodeId,
        cursor: &[u8],
    ) -> Result<(), SyncError> {
        if cursor.len() > SYNC_CURSOR_LEN_MAX || !self.is_tandem(requester) {
            return Ok(());
        }
        self.flush_session(ctx, name, requester)?;
        let (capability, session) = self.session(name, requester)?;
        session.unwritten += 1;
        let mark = Extension::SyncMark { capability: capability.as_bytes(), cursor };
        self.send_extension(ctx, requester, SendClass::Sync, &mark);
        Ok(())
    }

    pub(crate) fn end_session(&mut self, name: &str, requester: NodeId) {
        if let Some(cap) = self.capability_mut(name.as_bytes()) {
            cap.sessions.retain(|session| session.requester != requester);
        }
    }

    pub(crate) fn sync_end(&mut self, ctx: &mut Ctx<'_>, name: &str, requester: NodeId) -> Result<u32, SyncError> {
        self.flush_session(ctx, name, requester)?;
        let has_count = self.family.has_chunk_count();
        let (capability, session) = self.session(name, requester)?;
        let (count, digest) = (session.chunk_count, session.digest);
        self.end_session(name, requester);
        let sum = Extension::SyncSum { capability: capability.as_bytes(), chunk_count: count, digest };
        self.send_extension(ctx, requester, SendClass::Sync, &sum);
        let chunk_count = has_count.then(|| i32::try_from(count).unwrap_or(i32::MAX));
        let fields = Extra::SyncEnd { capability: capability.as_bytes(), chunk_count };
        let bytes = self.extra(ctx, requester, fields).ok_or(SendError::Failed)?;
        self.route(ctx, requester, SendClass::Sync, bytes)?;
        Ok(count)
    }

    /// `packets` sync packets for `hop` have left the process.
    pub(crate) fn sync_written(&mut self, ctx: &mut Ctx<'_>, hop: NodeId, packets: usize) {
        let cluster = self.id;
        let routed: Vec<NodeId> =
            self.nodes.iter().filter(|node| node.next_hop == Some(hop)).map(crate::cluster::Node::id).collect();
        let mut left = packets;
        for cap in &mut self.capabilities {
            for session in &mut cap.sessions {
                if left == 0 || !routed.contains(&session.requester) {
                    continue;
                }
                let taken = left.min(session.unwritten);
                session.unwritten -= taken;
                left -= taken;
                if session.is_waiting && session.unwritten * 2 <= SYNC_WINDOW_PACKETS {
                    session.is_waiting = false;
                    let (capability, requester) = (cap.name.clone(), session.requester);
                    ctx.out.event(Event::SyncReady { cluster, capability, requester });
                }
            }
        }
    }
}
