//! Packets of modules to other nodes and from them. Nodes of ours that have the capability get them in acknowledged delivery,
//! in one order with script messages; what is given up on the way they learn, and ask for it (see `repair`). All others get
//! the ordinary packets.

use std::time::Instant;

use bytes::Bytes;
use tandem_bin::{PacketWriter, Trailer};

use crate::capability::{HeldPacket, LocalCapability};
use crate::cluster::{Cluster, Ctx, Node};
use crate::delivery::{Accepted, Waiting};
use crate::error::SendError;
use crate::ids::{NodeId, Now};
use crate::limits::{CAPABILITY_CHANGES, DELIVERY_LEN_MAX};
use crate::log::LogEvent;
use crate::message::{Destination, readdress};
use crate::node::{ClusterNode, DropReason, Verdict};
use crate::outbox::SendClass;
use crate::packet::{CapabilityEntry, NodeIds};

/// A packet of a module on its way out.
pub(crate) struct ModuleSend<'a> {
    pub(crate) capability: &'a str,
    pub(crate) packet_type: i32,
    pub(crate) version: u16,
    pub(crate) body: &'a [u8],
}

/// What is built of it when the first node needs it.
#[derive(Default)]
struct Built {
    plain: Option<Bytes>,
    change: Option<(Bytes, Bytes)>,
}

impl Cluster {
    /// Whether the node learns what it missed of the capability.
    fn takes_changes(&self, id: NodeId, packet: &ModuleSend<'_>) -> bool {
        let is_taker = |node: &Node| node.has_capability(CAPABILITY_CHANGES) && node.has_capability(packet.capability);
        self.has_extensions
            && packet.body.len() + packet.capability.len() <= DELIVERY_LEN_MAX
            && self.node(id).is_some_and(|node| node.record.is_enabled && !node.is_foreign_family && is_taker(node))
    }

    fn receivers(&self, destination: Destination, capability: &str) -> NodeIds {
        let enabled = self.nodes.iter().filter(|node| node.record.is_enabled);
        match destination {
            Destination::All => enabled.map(Node::id).collect(),
            // Those that are not reachable miss it, which has to be noted.
            Destination::Members => enabled.filter(|node| node.has_capability(capability)).map(Node::id).collect(),
            Destination::Node(id) => NodeIds::from_slice(&[id]),
        }
    }

    pub(crate) fn send_module_packet(
        &mut self,
        ctx: &mut Ctx<'_>,
        destination: Destination,
        packet: &ModuleSend<'_>,
    ) -> Result<usize, SendError> {
        let is_for_all = !matches!(destination, Destination::Node(_));
        let is_enabled = self.capability(packet.capability.as_bytes()).map(|cap| cap.is_enabled);
        match is_enabled {
            None => return Err(SendError::Failed),
            Some(false) => return Err(SendError::Disabled),
            Some(true) if !self.own.is_enabled => return Err(SendError::Disabled),
            // To single nodes it may have questions; what goes to all is news.
            Some(true) if is_for_all && ctx.own_roles(self.id).is_observer => return Err(SendError::Observer),
            Some(true) => {}
        }
        if is_for_all && let Some(cap) = self.capability_mut(packet.capability.as_bytes()) {
            cap.told_since.get_or_insert(ctx.now.mono);
        }
        let mut built = Built::default();
        let (mut sent, mut why) = (0, SendError::Unreachable);
        for id in self.receivers(destination, packet.capability) {
            let result = if self.takes_changes(id, packet) {
                self.send_change(ctx, id, packet, &mut built, is_for_all)
            } else {
                self.send_plain(ctx, id, packet, &mut built, is_for_all)
            };
            match result {
                Ok(()) => sent += 1,
                Err(error) if !is_for_all || error == SendError::Failed => why = error,
                Err(_) => {}
            }
        }
        if sent > 0 { Ok(sent) } else { Err(why) }
    }

    fn send_plain(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: NodeId,
        packet: &ModuleSend<'_>,
        built: &mut Built,
        is_for_all: bool,
    ) -> Result<(), SendError> {
        if built.plain.is_none() {
            let room = packet.body.len() + packet.capability.len() + 32;
            let name = packet.capability.as_bytes();
            let mut writer = PacketWriter::with_capacity(name, packet.packet_type, packet.version, room);
            writer.raw(packet.body);
            let (cluster_id, src_id) = (self.id.0, ctx.settings.node_id.0);
            writer.trailer(Trailer { cluster_id, src_id, dst_id: id.0 });
            built.plain = Some(writer.finish().map_err(|_| SendError::Failed)?);
        }
        let bytes = built.plain.as_ref().map(|plain| readdress(plain, id)).ok_or(SendError::Failed)?;
        if is_for_all {
            self.route(ctx, id, SendClass::Message, bytes)
        } else {
            self.send_to(ctx, id, SendClass::Message, bytes)
        }
    }

    fn send_change(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: NodeId,
        packet: &ModuleSend<'_>,
        built: &mut Built,
        is_for_all: bool,
    ) -> Result<(), SendError> {
        let now = ctx.now.mono;
        if built.change.is_none() {
            let name = self.capability(packet.capability.as_bytes()).map(|cap| cap.wire_name.clone());
            built.change = name.map(|name| (name, Bytes::copy_from_slice(packet.body)));
        }
        let Some((capability, body)) = built.change.clone() else { return Err(SendError::Failed) };
        if self.next_hop(id).is_none() {
            if is_for_all {
                self.deliver(ctx, id, |stream, _| stream.owe(&capability, now));
            }
            return Err(SendError::Unreachable);
        }
        let (packet_type, version) = (packet.packet_type, packet.version);
        let change = Waiting::Change { capability, packet_type, version, body, at: now };
        match self.deliver(ctx, id, |stream, work| stream.accept_change(change, is_for_all, now, work)) {
            Accepted::Queued => Ok(()),
            // Not sent, but not lost either.
            Accepted::Owed => Err(SendError::Unreachable),
            Accepted::Full => Err(SendError::QueueFull),
        }
    }

    /// A node turned out to have capabilities: what was told before was not told to it.
    pub(crate) fn owe_earlier(&mut self, ctx: &mut Ctx<'_>, id: NodeId, entries: &[CapabilityEntry<'_>]) {
        let now = ctx.now.mono;
        let Some(node) = self.node(id).filter(|node| node.has_capability(CAPABILITY_CHANGES)) else { return };
        let named = entries.iter().filter(|entry| entry.node_id == id).flat_map(|entry| &entry.capabilities);
        let named: Vec<&[u8]> = named.map(|capability| capability.name).collect();
        let is_meant = |cap: &&LocalCapability| named.contains(&cap.name.as_bytes()) && node.has_capability(&cap.name);
        let told = self.capabilities.iter().filter(is_meant);
        let told: Vec<(Bytes, Instant)> =
            told.filter_map(|cap| Some((cap.wire_name.clone(), cap.told_since?))).collect();
        let is_reachable = node.next_hop.is_some();
        for (capability, since) in told {
            self.deliver(ctx, id, |stream, work| {
                stream.owe(&capability, since);
                if is_reachable {
                    stream.go_on(now, work);
                }
            });
        }
    }

    /// The node asks for what it missed.
    pub(crate) fn settle_owed(&mut self, id: NodeId, capability: &[u8]) {
        if let Some((_, stream)) = self.streams.iter_mut().find(|(known, _)| *known == id) {
            stream.settle(capability);
        }
    }

    /// A packet of a module that came in acknowledged delivery: from here on as any other.
    pub(crate) fn take_change(&mut self, ctx: &mut Ctx<'_>, name: &[u8], packet: HeldPacket) -> Verdict {
        let Some(cap) = self.capability(name) else { return Verdict::Dropped(DropReason::UnknownCapability) };
        if !cap.is_enabled {
            return Verdict::Dropped(DropReason::CapabilityDisabled);
        }
        if self.is_refused_of_observer(ctx, packet.src, name, packet.packet_type) {
            return Verdict::Dropped(DropReason::Observer);
        }
        self.take_module_packet(ctx, name, packet);
        Verdict::Handled
    }

    /// Whether a packet of a module is one that its sender, an observer, must not send.
    pub(crate) fn is_refused_of_observer(
        &mut self,
        ctx: &mut Ctx<'_>,
        src: NodeId,
        name: &[u8],
        packet_type: i32,
    ) -> bool {
        let is_question = self.capability(name).is_some_and(|cap| cap.options.questions.contains(&packet_type));
        !is_question && self.refuses_observer(ctx, src)
    }

    /// Whether the node is an observer; then what it sent is dropped, counted, and said once.
    pub(crate) fn refuses_observer(&mut self, ctx: &mut Ctx<'_>, src: NodeId) -> bool {
        if !ctx.roles(self.id, src).is_observer {
            return false;
        }
        self.observer_drops += 1;
        let cluster = self.id;
        if let Some(node) = self.node_mut(src)
            && !std::mem::replace(&mut node.is_observer_told, true)
        {
            ctx.out.log(LogEvent::ObserverRefused { cluster, node: src });
        }
        true
    }
}

impl ClusterNode {
    /// Sends a packet of a registered capability; the body without trailer. The number of nodes sent to; those that are
    /// told to ask for what they missed do not count.
    ///
    /// # Errors
    /// As [`SendError`] says; nodes of ours that could not be reached learn later that they missed something.
    #[allow(clippy::too_many_arguments)]
    pub fn send_module_packet(
        &mut self,
        cluster: crate::ids::ClusterId,
        destination: Destination,
        capability: &str,
        packet_type: i32,
        version: u16,
        body: &[u8],
        now: Now,
    ) -> Result<usize, SendError> {
        let packet = ModuleSend { capability, packet_type, version, body };
        let sent = self.on_message(cluster, now, |cluster, ctx| cluster.send_module_packet(ctx, destination, &packet));
        sent.unwrap_or(Err(SendError::Failed))
    }

    /// Packets of observers that were dropped because an observer changes nothing.
    #[must_use]
    pub fn observer_drops(&self) -> u64 {
        self.clusters.iter().map(|cluster| cluster.observer_drops).sum()
    }
}
