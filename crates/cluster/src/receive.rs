//! Reception rules: which packets are served, passed on or dropped, and why.

use std::net::IpAddr;

use bytes::Bytes;
use tandem_bin::{Packet, Trailer};

use crate::capability::HeldPacket;
use crate::cluster::{Cluster, Ctx};
use crate::config::Provisioning;
use crate::event::Event;
use crate::extension;
use crate::ids::{ConnId, NodeId};
use crate::limits::{CAPABILITY_DELIVERY, CAPABILITY_EXTRA, CAPABILITY_INTERNAL, CAPABILITY_TANDEM};
use crate::link::LinkState;
use crate::log::LogEvent;
use crate::node::{DropReason, Verdict};
use crate::outbox::{Output, SendClass};
use crate::packet::{
    Chunks, Extra, Internal, InternalPacket, NodeIds, decode_extra, decode_internal, stamp_of_refused_topology,
};

/// A packet as it came in.
pub(crate) struct Received<'a> {
    pub(crate) ip: IpAddr,
    pub(crate) conn: ConnId,
    pub(crate) packet: Packet<'a>,
    pub(crate) bytes: &'a Bytes,
}

impl Received<'_> {
    /// Part of the packet as shared bytes, without copying.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    pub(crate) fn malformed(&self, ctx: &mut Ctx<'_>, error: tandem_bin::DecodeError) -> Verdict {
        let capability = String::from_utf8_lossy(self.packet.capability()).into_owned();
        let packet_type = self.packet.packet_type();
        ctx.out.log_limited(LogEvent::Malformed { capability, packet_type, error }, ctx.now.mono);
        Verdict::Dropped(DropReason::Malformed)
    }
}

impl Cluster {
    /// True when the address is that of some node of the cluster.
    fn is_known_address(&self, ip: IpAddr) -> bool {
        self.nodes.iter().filter_map(|node| node.record.addr).any(|addr| addr.ip().to_canonical() == ip.to_canonical())
    }

    fn foreign_address(&self, ctx: &mut Ctx<'_>, node: NodeId, ip: IpAddr) -> Verdict {
        ctx.out.log_limited(LogEvent::ForeignAddress { cluster: self.id, node, ip }, ctx.now.mono);
        Verdict::Dropped(DropReason::ForeignAddress)
    }

    // ---- clusterer-internal ----

    pub(crate) fn receive_internal(&mut self, ctx: &mut Ctx<'_>, received: &Received<'_>, source: NodeId) -> Verdict {
        if !self.own.is_enabled {
            return Verdict::Dropped(DropReason::OwnDisabled);
        }
        let number = received.packet.packet_type();
        let decoded = decode_internal(&received.packet, self.family, self.has_cap_update_numbers);
        if self.node(source).is_none() {
            return self.receive_from_stranger(ctx, received, decoded, source);
        }
        if self.family.filters_all_sources() && !self.is_known_address(received.ip) {
            let is_met = decoded.as_ref().is_ok_and(|packet| {
                let peer = (received.ip, received.conn);
                packet.as_ref().is_some_and(|packet| self.meet_again(ctx, source, peer, &packet.fields))
            });
            if is_met {
                return Verdict::Handled;
            }
            return self.foreign_address(ctx, source, received.ip);
        }
        let now = ctx.now.mono;
        let Some(node) = self.node_mut(source) else {
            return Verdict::Dropped(DropReason::UnknownNode);
        };
        if node.faults.parked(now).is_some() {
            return Verdict::Dropped(DropReason::Parked);
        }
        if !matches!(&decoded, Ok(Some(packet)) if matches!(packet.fields, Internal::Pong { .. })) {
            node.link.heard(now);
        }
        if !node.record.is_enabled {
            return Verdict::Dropped(DropReason::SourceDisabled);
        }
        match decoded {
            Ok(Some(packet)) => {
                self.note_sender(&packet, received.conn, ctx);
                self.serve_internal(ctx, packet, received.conn)
            }
            Ok(None) => self.unknown_internal_type(ctx, source, number),
            Err(error) => {
                // OpenSIPS looks at the number before it counts the nodes: both go on from the same one.
                if let (Some(stamp), Some(node)) =
                    (stamp_of_refused_topology(&received.packet, self.family), self.node_mut(source))
                {
                    node.top.accept(stamp);
                }
                received.malformed(ctx, error)
            }
        }
    }

    /// Remembers which neighbour sends on the connection: the source, or the last of the path.
    fn note_sender(&mut self, packet: &InternalPacket<'_>, conn: ConnId, ctx: &Ctx<'_>) {
        let sender = match packet.fields.path() {
            Some(path) => path.last().copied(),
            None => Some(packet.source_id),
        };
        if let Some(node) = sender.and_then(|id| self.node_mut(id)) {
            node.heard_directly(conn, ctx.now.mono);
        }
    }

    fn receive_from_stranger(
        &mut self,
        ctx: &mut Ctx<'_>,
        received: &Received<'_>,
        decoded: Result<Option<InternalPacket<'_>>, tandem_bin::DecodeError>,
        source: NodeId,
    ) -> Verdict {
        if ctx.settings.provisioning == Provisioning::Database {
            return Verdict::Dropped(DropReason::UnknownNode);
        }
        let packet = match decoded {
            Ok(Some(packet)) => packet,
            Ok(None) => return Verdict::Dropped(DropReason::UnknownNode),
            Err(error) => return received.malformed(ctx, error),
        };
        match packet.fields {
            Internal::Ping { .. } => {
                let answer = self.internal(ctx, Internal::UnknownId);
                if let Some(bytes) = self.encode(ctx, &answer, "UNKNOWN_ID") {
                    ctx.out.push(Output::SendOnConnection { conn: received.conn, bytes });
                }
                Verdict::Handled
            }
            Internal::NodeDescription { ref description, ref path } => {
                let is_direct = path.last() == Some(&source);
                if !self.learn_node(ctx, source, description) {
                    return Verdict::Dropped(DropReason::Refused);
                }
                if is_direct && let Some(node) = self.node_mut(source) {
                    node.heard_directly(received.conn, ctx.now.mono);
                }
                self.flood(ctx, packet);
                Verdict::Handled
            }
            _ => Verdict::Dropped(DropReason::UnknownNode),
        }
    }

    fn unknown_internal_type(&mut self, ctx: &mut Ctx<'_>, source: NodeId, number: i32) -> Verdict {
        if self.family.is_foreign_cap_update(number) {
            self.set_foreign_family(ctx, source);
        } else {
            let capability = CAPABILITY_INTERNAL;
            ctx.out.log_limited(LogEvent::UnknownType { capability, packet_type: number }, ctx.now.mono);
        }
        Verdict::Dropped(DropReason::UnknownType)
    }

    /// The node proved to speak another family: from now on it gets nothing but pings.
    fn set_foreign_family(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let (cluster, configured) = (self.id, self.family);
        let Some(node) = self.node_mut(id) else { return };
        if std::mem::replace(&mut node.is_foreign_family, true) {
            return;
        }
        ctx.out.log(LogEvent::FamilyMismatch { cluster, node: id, configured });
        self.topology_changed(ctx);
    }

    fn serve_internal(&mut self, ctx: &mut Ctx<'_>, packet: InternalPacket<'_>, conn: ConnId) -> Verdict {
        let source = packet.source_id;
        let is_direct = packet.fields.path().is_some_and(|path| path.as_slice() == [source]);
        let direct = is_direct.then_some(conn);
        let is_accepted = match &packet.fields {
            Internal::Ping { request_node_list } => {
                self.serve_ping(ctx, source, *request_node_list);
                return Verdict::Handled;
            }
            Internal::Pong { known_nodes } => {
                self.serve_pong(ctx, source, known_nodes);
                return Verdict::Handled;
            }
            Internal::UnknownId => {
                self.serve_unknown_id(ctx, source);
                return Verdict::Handled;
            }
            // A known node does not describe itself anew.
            Internal::NodeDescription { .. } => false,
            Internal::LsUpdate { stamp, neighbour_id, is_up, .. } => {
                self.take_link_update(ctx, (source, direct), *stamp, *neighbour_id, *is_up)
            }
            Internal::FullTopUpdate { stamp, entries, .. } => {
                self.take_full_topology(ctx, (source, direct), *stamp, entries)
            }
            Internal::CapUpdate { stamp, entries, require_reply, .. } => {
                self.serve_cap_update(ctx, (source, direct), *stamp, entries, *require_reply)
            }
        };
        if !is_accepted {
            return Verdict::Dropped(DropReason::Stale);
        }
        let mut packet = packet;
        if let Internal::CapUpdate { require_reply, .. } = &mut packet.fields {
            *require_reply = false;
        }
        self.flood(ctx, packet);
        Verdict::Handled
    }

    fn serve_cap_update(
        &mut self,
        ctx: &mut Ctx<'_>,
        (source, direct): (NodeId, Option<ConnId>),
        stamp: Option<crate::packet::Stamp>,
        entries: &[crate::packet::CapabilityEntry<'_>],
        require_reply: bool,
    ) -> bool {
        if let Some(node) = self.node_mut(source)
            && std::mem::replace(&mut node.is_foreign_family, false)
        {
            self.topology_changed(ctx);
        }
        let is_accepted = self.take_capabilities(ctx, (source, direct), stamp, entries);
        // Deviation: also to an update that is stale, as after two restarts within one second. Only
        // the copy that came directly asks for a reply.
        if require_reply {
            self.send_full_capabilities(ctx, Some(source), false);
        }
        is_accepted
    }

    fn serve_ping(&mut self, ctx: &mut Ctx<'_>, source: NodeId, request_node_list: bool) {
        let known_nodes: NodeIds = if request_node_list {
            let ids = self.nodes.iter().map(crate::cluster::Node::id);
            ids.filter(|id| *id != source).collect()
        } else {
            NodeIds::new()
        };
        let was_sent = self.send_internal(ctx, source, Internal::Pong { known_nodes }, "PONG");
        let Some(node) = self.node_mut(source) else { return };
        node.link.pinged_by_peer(ctx.now.mono);
        match node.link.state {
            LinkState::Down if was_sent => self.ping_now(ctx, source),
            LinkState::Down => self.set_link(ctx, source, LinkState::RestartPinging),
            // Deviation: OpenSIPS leaves this state only with its next retry, though the node has
            // just shown that it is there.
            LinkState::Up if request_node_list => self.tell_restarted_node(ctx, source),
            LinkState::RetrySendFail => self.set_link(ctx, source, LinkState::RestartPinging),
            _ => {}
        }
    }

    fn serve_pong(&mut self, ctx: &mut Ctx<'_>, source: NodeId, known_nodes: &NodeIds) {
        let Some(node) = self.node_mut(source) else { return };
        let is_up = node.link.pong(ctx.now.mono, &ctx.settings.timers);
        if is_up {
            node.ponged_nodes.clone_from(known_nodes);
            self.set_link(ctx, source, LinkState::Up);
        }
    }

    fn serve_unknown_id(&mut self, ctx: &mut Ctx<'_>, source: NodeId) {
        if let Some(node) = self.node_mut(source) {
            node.link.unknown_id();
        }
        self.send_own_description(ctx, source);
        self.set_link(ctx, source, LinkState::RestartPinging);
    }

    // ---- clusterer-extra and modules ----

    pub(crate) fn receive_addressed(
        &mut self,
        ctx: &mut Ctx<'_>,
        received: &Received<'_>,
        body: &[u8],
        trailer: Trailer,
    ) -> Verdict {
        let source = NodeId(trailer.src_id);
        let destination = NodeId(trailer.dst_id);
        let is_extra = received.packet.capability() == CAPABILITY_EXTRA.as_bytes();
        if !self.own.is_enabled {
            return Verdict::Dropped(DropReason::OwnDisabled);
        }
        if self.node(source).is_none() {
            return Verdict::Dropped(DropReason::UnknownNode);
        }
        let is_filtered = !is_extra || self.family.filters_all_sources();
        if is_filtered && !self.is_known_address(received.ip) {
            return self.foreign_address(ctx, source, received.ip);
        }
        let now = ctx.now.mono;
        let Some(node) = self.node_mut(source) else {
            return Verdict::Dropped(DropReason::UnknownNode);
        };
        if node.faults.parked(now).is_some() {
            return Verdict::Dropped(DropReason::Parked);
        }
        node.link.heard(now);
        if !node.record.is_enabled {
            return Verdict::Dropped(DropReason::SourceDisabled);
        }
        let is_source_down = node.link.state == LinkState::Down;
        let is_foreign = node.is_foreign_family;
        if self.capability(received.packet.capability()).is_some_and(|cap| !cap.is_enabled) {
            return Verdict::Dropped(DropReason::CapabilityDisabled);
        }
        if is_source_down {
            self.set_link(ctx, source, LinkState::RestartPinging);
        }
        // What it sends to this node in clusterer-extra is looked at once more: it may have been restarted with another family.
        if is_foreign && !(is_extra && destination == ctx.settings.node_id) {
            return Verdict::Dropped(DropReason::ForeignFamily);
        }
        if destination != ctx.settings.node_id {
            return self.pass_on(ctx, received, destination, is_extra);
        }
        if is_extra && self.is_of_foreign_family(ctx, received, body, source) {
            return Verdict::Dropped(DropReason::ForeignFamily);
        }
        if is_extra {
            return self.serve_extra(ctx, received, source);
        }
        let name = received.packet.capability();
        if self.capability(name).is_none() {
            return Verdict::Dropped(DropReason::UnknownCapability);
        }
        if name == CAPABILITY_TANDEM.as_bytes() {
            return match extension::decode(received.packet.packet_type(), received.packet.version(), body) {
                Ok(Some(extension)) => {
                    self.serve_extension(ctx, source, extension);
                    Verdict::Handled
                }
                Ok(None) => Verdict::Dropped(DropReason::UnknownType),
                Err(error) => received.malformed(ctx, error),
            };
        }
        if name == CAPABILITY_DELIVERY.as_bytes() {
            return self.receive_letter(ctx, received, body, source);
        }
        let packet = HeldPacket {
            src: source,
            packet_type: received.packet.packet_type(),
            version: received.packet.version(),
            body: received.share(body),
        };
        self.take_change(ctx, name, packet)
    }

    /// Routes a packet for another node with identical bytes.
    ///
    /// Deviation: packets of capabilities that are not registered here are routed, too.
    fn pass_on(&mut self, ctx: &mut Ctx<'_>, received: &Received<'_>, destination: NodeId, is_extra: bool) -> Verdict {
        let Some(node) = self.node(destination) else {
            return Verdict::Dropped(DropReason::UnknownDestination);
        };
        let is_allowed = ctx.settings.is_rerouting_enabled || (!is_extra && node.is_neighbour());
        if !node.record.is_enabled || !is_allowed {
            return Verdict::Dropped(DropReason::NoRoute);
        }
        // There is no hop count: at least never send it back to where it came from.
        let hop = node.next_hop.and_then(|hop| self.node(hop));
        if hop.is_some_and(|hop| hop.link.has_conn(received.conn)) {
            return Verdict::Dropped(DropReason::Loop);
        }
        match self.route(ctx, destination, SendClass::Message, received.bytes.clone()) {
            Ok(()) => {
                self.observe_passing(ctx, received, destination);
                Verdict::PassedOn
            }
            Err(_) => Verdict::Dropped(DropReason::NoRoute),
        }
    }

    /// Whether the source is one that speaks another family; its packets would be taken for something they are not.
    fn is_of_foreign_family(
        &mut self,
        ctx: &mut Ctx<'_>,
        received: &Received<'_>,
        body: &[u8],
        source: NodeId,
    ) -> bool {
        let other = self.family.suspect(received.packet.packet_type(), body);
        if other.is_some_and(|other| matches!(decode_extra(&received.packet, other), Ok(Some(_)))) {
            self.set_foreign_family(ctx, source);
        }
        self.node(source).is_some_and(|node| node.is_foreign_family)
    }

    fn serve_extra(&mut self, ctx: &mut Ctx<'_>, received: &Received<'_>, source: NodeId) -> Verdict {
        let cluster = self.id;
        let decoded = match decode_extra(&received.packet, self.family) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => {
                let packet_type = received.packet.packet_type();
                let event = LogEvent::UnknownType { capability: CAPABILITY_EXTRA, packet_type };
                ctx.out.log_limited(event, ctx.now.mono);
                return Verdict::Dropped(DropReason::UnknownType);
            }
            Err(error) => return received.malformed(ctx, error),
        };
        let version = received.packet.version();
        let is_checked = matches!(decoded.fields, Extra::Sync { .. } | Extra::SyncEnd { .. });
        if is_checked && version != self.family.sync_version() {
            ctx.out.log_limited(LogEvent::SyncVersion { cluster, node: source, version }, ctx.now.mono);
            return Verdict::Dropped(DropReason::SyncVersion);
        }
        match decoded.fields {
            Extra::RemoveNode { target } => self.take_remove_node(ctx, source, NodeId(target)),
            Extra::GenericMsg { is_request, tag, msg } => {
                let (msg, tag) = (received.share(msg), received.share(tag));
                self.script_message(ctx, source, is_request, msg, tag);
            }
            Extra::MiCmd { command, params } => {
                let command = received.share(command);
                let params = params.into_iter().map(|param| received.share(param)).collect();
                ctx.out.event(Event::MiCommand { cluster, src: source, command, params });
            }
            Extra::SyncReq { capability } => self.take_sync_request(ctx, source, capability, None),
            Extra::Sync { capability, data_version, chunks } => {
                let chunks = Chunks::new(chunks).map_while(Result::ok);
                let chunks = chunks.map(|chunk| received.share(chunk)).collect();
                self.take_sync(ctx, source, capability, data_version, chunks);
            }
            Extra::SyncEnd { capability, chunk_count } => {
                self.take_sync_end(ctx, source, capability, chunk_count);
            }
            Extra::ShtagActive { tag_name } => self.take_tag_active(ctx, source, tag_name),
        }
        Verdict::Handled
    }

    /// A packet from another cluster over a bridge.
    pub(crate) fn receive_bridged(&mut self, ctx: &mut Ctx<'_>, received: &Received<'_>) -> Verdict {
        let (body, trailer) = match received.packet.bridged() {
            Ok(parts) => parts,
            Err(error) => return received.malformed(ctx, error),
        };
        let is_peer = ctx.settings.bridge_peers.iter().any(|peer| {
            peer.cluster == self.id
                && peer.src_cluster.0 == trailer.src_cluster_id
                && peer.ip.to_canonical() == received.ip.to_canonical()
        });
        let capability = self.capability(received.packet.capability());
        let Some(capability) = capability.filter(|cap| cap.is_enabled && is_peer) else {
            return Verdict::Dropped(DropReason::Bridge);
        };
        if !self.own.is_enabled {
            return Verdict::Dropped(DropReason::OwnDisabled);
        }
        ctx.out.event(Event::ModulePacket {
            cluster: self.id,
            src: NodeId(trailer.src_id),
            capability: capability.name.clone(),
            packet_type: received.packet.packet_type(),
            version: received.packet.version(),
            body: received.share(body),
            bridge_from: Some(crate::ids::ClusterId(trailer.src_cluster_id)),
        });
        Verdict::Handled
    }

    /// REMOVE_NODE from another node.
    fn take_remove_node(&mut self, ctx: &mut Ctx<'_>, by: NodeId, target: NodeId) {
        if ctx.settings.provisioning == Provisioning::Database || ctx.roles(self.id, by).is_observer {
            return;
        }
        if target == ctx.settings.node_id {
            ctx.out.log(LogEvent::OwnNodeRemoved { cluster: self.id, by });
            self.set_own_status(ctx, false);
        } else {
            self.forget_node(ctx, target);
        }
    }
}
