//! Script messages and management commands on their way out.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use crate::cluster::{Cluster, Ctx, Node};
use crate::error::{MiSendError, SendError};
use crate::event::Event;
use crate::family::Family;
use crate::ids::{ClusterId, NodeId};
use crate::limits::TAG_RANDOM_CHARS;
use crate::outbox::SendClass;
use crate::packet::{Extra, NodeIds};

/// Tag of a script message: `<cluster>-<own id>-<24 random characters>`, opaque to receivers.
pub type Tag = Bytes;

/// Source of random bits, passed in by the owner; must be a good one, for tags are guessed at.
pub trait RngSource {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;
}

impl<F: FnMut() -> u64> RngSource for F {
    fn next_u64(&mut self) -> u64 {
        self()
    }
}

/// What `cluster_check_addr` compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddrKind {
    /// The host of `sip_addr`.
    Sip,
    /// The address of the BIN listener.
    Bin,
}

/// Where a module packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Every known enabled node.
    All,
    /// Every reachable node that told that it has the capability: nobody else is bothered.
    Members,
    /// One node.
    Node(NodeId),
}

/// A request that was tried to be sent; the tag exists in any case, as in OpenSIPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentRequest {
    /// Tag that answers will carry.
    pub tag: Tag,
    /// To how many nodes it was sent.
    pub result: Result<usize, SendError>,
}

impl SentRequest {
    /// What the script function returns: 1, -1, -2, -3 or -4.
    #[must_use]
    pub fn script_code(&self) -> i32 {
        self.result.map_or_else(SendError::script_code, |_| 1)
    }
}

const TAG_ALPHABET: &[u8; 57] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxy123456";

/// A new tag.
pub(crate) fn new_tag(cluster: ClusterId, own: NodeId, rng: &mut dyn RngSource) -> Tag {
    // Room for two numbers and their dashes.
    let mut tag = String::with_capacity(24 + TAG_RANDOM_CHARS);
    let _fits = write!(tag, "{cluster}-{own}-");
    let mut tag = tag.into_bytes();
    let len = tag.len() + TAG_RANDOM_CHARS;
    while tag.len() < len {
        let mut bits = rng.next_u64();
        // Ten draws of 6 bits each; values past the alphabet are dropped, so all are equally likely.
        for _ in 0..10 {
            let value = usize::try_from(bits & 63).unwrap_or_default();
            bits >>= 6;
            if let Some(letter) = TAG_ALPHABET.get(value)
                && tag.len() < len
            {
                tag.push(*letter);
            }
        }
    }
    Bytes::from(tag)
}

/// Replaces the destination, the last int of an addressed packet.
pub(crate) fn readdress(packet: &Bytes, destination: NodeId) -> Bytes {
    let mut copy = BytesMut::from(packet.as_ref());
    if let Some(last) = copy.last_chunk_mut::<4>() {
        *last = destination.0.to_le_bytes();
    }
    copy.freeze()
}

/// What a script message is to its receiver.
fn message_event(cluster: ClusterId, src: NodeId, is_request: bool, msg: Bytes, tag: Tag) -> Event {
    if is_request {
        Event::RequestReceived { cluster, src, msg, tag }
    } else {
        Event::ReplyReceived { cluster, src, msg, tag }
    }
}

impl Cluster {
    /// One copy to every enabled node. The number of nodes sent to, or why there was none.
    pub(crate) fn broadcast(
        &mut self,
        ctx: &mut Ctx<'_>,
        class: SendClass,
        packet: &Bytes,
    ) -> Result<usize, SendError> {
        let mut sent = 0;
        let mut has_error = false;
        for id in self.enabled_nodes() {
            match self.route(ctx, id, class, readdress(packet, id)) {
                Ok(()) => sent += 1,
                Err(SendError::Failed) => has_error = true,
                Err(_) => {}
            }
        }
        match (sent, has_error) {
            (0, true) => Err(SendError::Failed),
            (0, false) => Err(SendError::Unreachable),
            _ => Ok(sent),
        }
    }

    /// To one node; a destination that is disabled here counts as sent.
    pub(crate) fn send_to(
        &mut self,
        ctx: &mut Ctx<'_>,
        destination: NodeId,
        class: SendClass,
        packet: Bytes,
    ) -> Result<(), SendError> {
        if !self.own.is_enabled {
            return Err(SendError::Disabled);
        }
        match self.node(destination) {
            None => Err(SendError::Failed),
            Some(node) if !node.record.is_enabled => Ok(()),
            Some(_) => self.route(ctx, destination, class, packet),
        }
    }

    /// Reachable nodes that told that they have the capability, synced or not.
    pub(crate) fn members(&self, capability: &str) -> NodeIds {
        let has = |node: &&Node| node.record.is_enabled && node.next_hop.is_some() && node.has_capability(capability);
        self.nodes.iter().filter(has).map(Node::id).collect()
    }

    pub(crate) fn broadcast_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        msg: &[u8],
        tag: &Tag,
        include_self: bool,
    ) -> Result<usize, SendError> {
        if !self.own.is_enabled {
            return Err(SendError::Disabled);
        }
        let result = self.broadcast_message(ctx, msg, tag);
        if include_self {
            self.local_message(ctx, msg, tag, true);
        }
        result
    }

    /// A script message came. Who is first to answer a question is the first to get the next one: each copy costs the sender
    /// some microseconds, and often it is one node that knows.
    pub(crate) fn script_message(&mut self, ctx: &mut Ctx<'_>, src: NodeId, is_request: bool, msg: Bytes, tag: Tag) {
        if !is_request && self.answered.as_ref().is_none_or(|(answered, _)| *answered != tag) {
            self.answered = Some((tag.clone(), src));
        }
        ctx.out.event(message_event(self.id, src, is_request, msg, tag));
    }

    /// Ids of the nodes that are enabled here.
    pub(crate) fn enabled_nodes(&self) -> NodeIds {
        self.nodes.iter().filter(|node| node.record.is_enabled).map(Node::id).collect()
    }

    /// Enabled nodes in the order in which a question goes to them.
    pub(crate) fn asked_in_order(&self) -> NodeIds {
        let mut all = self.enabled_nodes();
        let first = self.answered.as_ref().and_then(|(_, node)| all.iter().position(|id| id == node));
        if let Some(at) = first {
            let id = all.remove(at);
            all.insert(0, id);
        }
        all
    }

    fn local_message(&self, ctx: &mut Ctx<'_>, msg: &[u8], tag: &[u8], is_request: bool) {
        let (msg, tag) = (Bytes::copy_from_slice(msg), Bytes::copy_from_slice(tag));
        ctx.out.event(message_event(self.id, ctx.settings.node_id, is_request, msg, tag));
    }

    pub(crate) fn send_message(
        &mut self,
        ctx: &mut Ctx<'_>,
        destination: NodeId,
        msg: &[u8],
        tag: &[u8],
        is_request: bool,
    ) -> Result<(), SendError> {
        if !self.own.is_enabled || tag.is_empty() {
            return Err(SendError::Disabled);
        }
        if destination == ctx.settings.node_id {
            // As nodes of 2.4.11 and 3.2.19; those of 3.6.8 and 4.0.1 raise the event.
            if self.family != Family::V3_3 {
                return Err(SendError::Failed);
            }
            self.local_message(ctx, msg, tag, is_request);
            return Ok(());
        }
        let (shared, shared_tag) = (Bytes::copy_from_slice(msg), Bytes::copy_from_slice(tag));
        if let Some(accepted) = self.accept_message(ctx, destination, &shared, &shared_tag, is_request) {
            return accepted;
        }
        let fields = Extra::GenericMsg { is_request, tag, msg };
        let packet = self.extra(ctx, destination, fields).ok_or(SendError::Failed)?;
        self.send_to(ctx, destination, SendClass::Message, packet)
    }

    pub(crate) fn send_mi(
        &mut self,
        ctx: &mut Ctx<'_>,
        destination: NodeId,
        command: &[u8],
        params: &[&[u8]],
    ) -> Result<(), MiSendError> {
        if destination == ctx.settings.node_id {
            return Err(MiSendError::LocalNode);
        }
        let fields = Extra::MiCmd { command, params: params.to_vec() };
        let packet = self.extra(ctx, destination, fields).ok_or(MiSendError::SendError)?;
        self.send_to(ctx, destination, SendClass::Message, packet).map_err(|error| match error {
            SendError::Disabled => MiSendError::LocalNodeDisabled,
            SendError::Unreachable => MiSendError::DestinationDown,
            SendError::Failed | SendError::QueueFull | SendError::Observer => MiSendError::SendError,
        })
    }

    pub(crate) fn broadcast_mi(
        &mut self,
        ctx: &mut Ctx<'_>,
        command: &[u8],
        params: &[&[u8]],
    ) -> Result<usize, SendError> {
        if !self.own.is_enabled {
            return Err(SendError::Disabled);
        }
        let own_id = ctx.settings.node_id;
        let fields = Extra::MiCmd { command, params: params.to_vec() };
        let packet = self.extra(ctx, own_id, fields).ok_or(SendError::Failed)?;
        self.broadcast(ctx, SendClass::Message, &packet)
    }
}
