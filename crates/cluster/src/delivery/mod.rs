//! Acknowledged delivery of script messages among nodes of ours: numbered per sender and receiver, kept until they are
//! acknowledged, sent again after a break, never taken twice, always in order. A message is delivered, or its sender learns
//! that it was not. Nodes of OpenSIPS are sent the ordinary packets. Packets of modules travel in the same order, see
//! `changes`.

mod owed;
mod stream;
mod wire;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_bin::Trailer;

use crate::capability::HeldPacket;
use crate::cluster::{Cluster, Ctx, Node};
use crate::error::SendError;
use crate::event::Event;
use crate::ids::NodeId;
use crate::limits::{CAPABILITY_DELIVERY, DELIVERY_LEN_MAX};
use crate::log::LogEvent;
use crate::message::readdress;
use crate::node::{ClusterNode, DropReason, Verdict};
use crate::outbox::SendClass;
use crate::packet::{Extra, NodeIds};
use crate::receive::Received;

pub(crate) use owed::Accepted;
use stream::Work;
pub(crate) use stream::{Stream, Waiting};
use wire::Letter;

/// Why an accepted message is known not to have been delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndeliveredReason {
    /// Too much waited for that node when it was sent.
    QueueFull,
    /// The node was started anew; it may have taken the message before.
    Restarted,
    /// The node acknowledged nothing for [`crate::DELIVERY_HOLD`].
    TimedOut,
    /// The node was removed from the cluster.
    Removed,
}

impl fmt::Display for UndeliveredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "queue full",
            Self::Restarted => "restarted",
            Self::TimedOut => "timed out",
            Self::Removed => "removed",
        })
    }
}

impl Cluster {
    /// Whether messages of that length to the node are acknowledged.
    fn delivers_to(&self, id: NodeId, len: usize) -> bool {
        let is_member =
            |node: &Node| node.record.is_enabled && node.next_hop.is_some() && node.has_capability(CAPABILITY_DELIVERY);
        self.has_extensions && len <= DELIVERY_LEN_MAX && self.node(id).is_some_and(is_member)
    }

    /// Does a step towards one node and what it comes to.
    pub(crate) fn deliver<T>(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: NodeId,
        step: impl FnOnce(&mut Stream, &mut Work) -> T,
    ) -> T {
        let at = self.streams.iter().position(|(known, _)| *known == id);
        let mut stream = at.map_or_else(Box::default, |at| self.streams.swap_remove(at).1);
        let mut work = Work::default();
        let result = step(&mut stream, &mut work);
        let trailer = Trailer { cluster_id: self.id.0, src_id: ctx.settings.node_id.0, dst_id: id.0 };
        for letter in work.letters {
            let bytes = wire::encode(&letter, ctx.settings.incarnation, trailer);
            let Ok(bytes) = bytes else {
                ctx.out.log(LogEvent::NotBuilt { cluster: self.id, what: "acknowledged message" });
                continue;
            };
            if self.route(ctx, id, SendClass::Message, bytes).is_err() {
                stream.doubt(ctx.now.mono);
                break;
            }
        }
        for (msg, tag, reason) in work.undelivered {
            self.undelivered(ctx, id, msg, tag, reason);
        }
        self.streams.push((id, stream));
        result
    }

    fn undelivered(&self, ctx: &mut Ctx<'_>, node: NodeId, msg: Bytes, tag: Bytes, reason: UndeliveredReason) {
        ctx.out.event(Event::Undelivered { cluster: self.id, node, msg, tag, reason });
    }

    /// Accepts a message for a node of ours; `None` when it has to go as an ordinary packet.
    pub(crate) fn accept_message(
        &mut self,
        ctx: &mut Ctx<'_>,
        to: NodeId,
        msg: &Bytes,
        tag: &Bytes,
        is_request: bool,
    ) -> Option<Result<(), SendError>> {
        if !self.delivers_to(to, msg.len() + tag.len()) {
            return None;
        }
        let waiting = Waiting::Message { is_request, tag: tag.clone(), msg: msg.clone() };
        let now = ctx.now.mono;
        let is_accepted = self.deliver(ctx, to, |stream, work| stream.accept(waiting, now, work));
        Some(if is_accepted { Ok(()) } else { Err(SendError::QueueFull) })
    }

    /// A request to all enabled nodes; to how many, or why to none. A node for which too much waits keeps nobody else from
    /// getting it: that it did not is told by an event.
    pub(crate) fn broadcast_message(&mut self, ctx: &mut Ctx<'_>, msg: &[u8], tag: &Bytes) -> Result<usize, SendError> {
        let own_id = ctx.settings.node_id;
        let msg = Bytes::copy_from_slice(msg);
        // Built when the first node needs it.
        let mut packet: Option<Bytes> = None;
        let (mut sent, mut why) = (0, SendError::Unreachable);
        for id in self.asked_in_order() {
            let result = match self.accept_message(ctx, id, &msg, tag, true) {
                Some(result) => result,
                None => {
                    if packet.is_none() {
                        let fields = Extra::GenericMsg { is_request: true, tag, msg: &msg };
                        packet = self.extra(ctx, own_id, fields);
                    }
                    let addressed = packet.as_ref().map(|packet| readdress(packet, id));
                    addressed.map_or(Err(SendError::Failed), |bytes| self.route(ctx, id, SendClass::Message, bytes))
                }
            };
            match result {
                Ok(()) => sent += 1,
                Err(SendError::QueueFull) => {
                    why = SendError::QueueFull;
                    self.undelivered(ctx, id, msg.clone(), tag.clone(), UndeliveredReason::QueueFull);
                }
                Err(SendError::Failed) if why == SendError::Unreachable => why = SendError::Failed,
                Err(_) => {}
            }
        }
        if sent > 0 { Ok(sent) } else { Err(why) }
    }

    /// Serves a packet of the capability.
    pub(crate) fn receive_letter(
        &mut self,
        ctx: &mut Ctx<'_>,
        received: &Received<'_>,
        body: &[u8],
        src: NodeId,
    ) -> Verdict {
        let (from, letter) = match wire::decode(received.packet.packet_type(), received.packet.version(), body) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => return Verdict::Dropped(DropReason::UnknownType),
            Err(error) => return received.malformed(ctx, error),
        };
        if let Some(node) = self.node_mut(src) {
            // Its CAP_UPDATE may still be on the way.
            node.note_capability(CAPABILITY_DELIVERY.as_bytes(), true);
        }
        let (own, now) = (ctx.settings.incarnation, ctx.now.mono);
        let (is_next, is_new_start) = self.deliver(ctx, src, |stream, work| {
            stream.take(own, from, &letter, now, work);
            (work.is_next, work.is_new_start)
        });
        if is_new_start {
            self.forget_repairs_from(src, from);
        }
        if !is_next {
            return Verdict::Handled;
        }
        match letter {
            Letter::Data { is_request, tag, msg, .. } => {
                let (msg, tag) = (received.share(msg), received.share(tag));
                self.script_message(ctx, src, is_request, msg, tag);
            }
            Letter::Change { capability, packet_type, version, body, .. } => {
                let packet = HeldPacket { src, packet_type, version, body: received.share(body) };
                return self.take_change(ctx, capability, packet);
            }
            Letter::Missed { capability, age_ms, .. } => {
                self.take_missed(ctx, (src, from), capability, Duration::from_millis(age_ms.into()));
            }
            Letter::Hello { .. } | Letter::Ack { .. } => {}
        }
        Verdict::Handled
    }

    /// A packet of this node to another was not sent: what was said there is asked for, not repeated blindly.
    pub(crate) fn letter_lost(&mut self, ctx: &mut Ctx<'_>, to: NodeId) {
        let now = ctx.now.mono;
        if self.streams.iter().any(|(known, _)| *known == to) {
            self.deliver(ctx, to, |stream, _| stream.doubt(now));
        }
    }

    /// A connection to or from a node ended or could not be made: what was said over it may be lost. What goes by another
    /// node has nothing to do with it.
    pub(crate) fn direct_letters_lost(&mut self, ctx: &mut Ctx<'_>, to: NodeId) {
        if self.next_hop(to) == Some(to) {
            self.letter_lost(ctx, to);
        }
    }

    pub(crate) fn delivery_node_up(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let now = ctx.now.mono;
        if self.streams.iter().any(|(known, _)| *known == id) {
            self.deliver(ctx, id, |stream, work| stream.node_up(now, work));
        }
    }

    pub(crate) fn delivery_node_down(&mut self, id: NodeId) {
        if let Some((_, stream)) = self.streams.iter_mut().find(|(known, _)| *known == id) {
            stream.node_down();
        }
    }

    /// Forgets a node; who sent it something learns that it will not arrive.
    pub(crate) fn delivery_forget(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let now = ctx.now.mono;
        self.deliver(ctx, id, |stream, work| stream.fail(UndeliveredReason::Removed, now, work));
        self.streams.retain(|(known, _)| *known != id);
    }

    pub(crate) fn run_deliveries(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now.mono;
        let due = self.streams.iter().filter(|(_, stream)| stream.deadline().is_some_and(|at| at <= now));
        let due: NodeIds = due.map(|(id, _)| *id).collect();
        for id in due {
            self.deliver(ctx, id, |stream, work| stream.run(now, work));
        }
    }

    pub(crate) fn delivery_deadlines(&self) -> impl Iterator<Item = Instant> + '_ {
        self.streams.iter().filter_map(|(_, stream)| stream.deadline())
    }
}

impl ClusterNode {
    /// Messages and bytes that were accepted and are not acknowledged yet, over all nodes.
    #[must_use]
    pub fn unacknowledged(&self) -> (usize, usize) {
        let streams = self.clusters.iter().flat_map(|cluster| &cluster.streams);
        streams.map(|(_, stream)| stream.waiting()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
