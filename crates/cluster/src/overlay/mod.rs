//! The overlay: one large cluster of Tandem nodes over a few links each, instead of a mesh of all with all.
//!
//! Does no I/O and reads no clock: [`OverlayNode`] takes packets, commands and the time, and hands out
//! [`OverlayOutput`]s. It asks nothing of the transport but that most packets arrive: any of them may be lost,
//! doubled or late. Who may take part is the transport's business.
//!
//! Every node knows all nodes ([`members`]) and keeps links to its neighbours on four rings ([`rings`]), as Rapid does
//! (Suresh et al., USENIX ATC 2018). Failures are found as in SWIM with the additions of Lifeguard ([`detector`]), news of
//! nodes flood over the links and ride on probes ([`news`]), messages to all go along a tree that mends itself, as Plumtree's
//! ([`tree`]), and messages to one node go there directly ([`letters`]).

mod config;
mod detector;
mod letters;
mod limits;
mod members;
mod news;
mod output;
mod rings;
mod tree;
mod window;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_bin::{Packet, Trailer};

pub use config::{OverlayConfig, OverlayTimers};
pub use limits::{
    CAPABILITY_OVERLAY, OVERLAY_BROADCASTS_PER_SECOND_MAX, OVERLAY_LETTERS_BYTES_MAX, OVERLAY_LETTERS_MAX,
    OVERLAY_LETTERS_PER_NODE_MAX, OVERLAY_MESSAGE_LEN_MAX, OVERLAY_NODES_MAX, OVERLAY_RINGS, OVERLAY_STORE_BYTES_MAX,
    OVERLAY_STORE_MAX,
};
pub use output::{OverlayDown, OverlayEvent, OverlayOutput};
pub use wire::OverlayKind;

use crate::error::{ConfigError, SendError};
use crate::ids::{NodeId, Now};
use crate::limits::OUTBOX_PACKETS_MAX;
use crate::message::RngSource;
use crate::node::{DropReason, Verdict};
use detector::Detector;
use letters::Letters;
use limits::{DEAD_KEPT, JOIN_GAP, JOIN_GAP_MAX, PACKET_BYTES, RECONNECT, RIDERS_PER_PACKET, STALL};
use members::{Member, Members};
use news::News;
use rings::Rings;
use tree::Tree;
use wire::{Head, Item, Items, MessageId, Packing, Record, Status};

/// A neighbour on a ring.
#[derive(Debug)]
struct Link {
    node: NodeId,
    /// When it is probed unless something is heard of it before.
    due: Instant,
    /// Gets messages at once; otherwise only their announcements.
    is_eager: bool,
    /// Messages to announce, and until when they wait for a packet to ride on.
    haves: Vec<MessageId>,
    haves_due: Option<Instant>,
}

/// Attempts to join.
#[derive(Debug)]
struct Join {
    at: Instant,
    gap: Duration,
}

/// One node of the overlay.
///
/// After every call drain [`OverlayNode::poll_output`], then wait until [`OverlayNode::poll_timeout`] or the next input.
pub struct OverlayNode {
    config: OverlayConfig,
    /// Tells this start from others.
    start: u64,
    incarnation: u64,
    started: Instant,
    has_left: bool,
    members: Members,
    rings: Rings,
    links: Vec<Link>,
    detector: Detector,
    news: News,
    tree: Tree,
    letters: Letters,
    join: Option<Join>,
    /// When dead nodes are tried and old things forgotten.
    upkeep_at: Instant,
    out: VecDeque<OverlayOutput>,
    rng: Box<dyn RngSource + Send>,
}

impl std::fmt::Debug for OverlayNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OverlayNode").field("config", &self.config).finish_non_exhaustive()
    }
}

impl OverlayNode {
    /// Checks the configuration and starts: the first outputs ask the contacts for all nodes.
    pub fn new(config: OverlayConfig, mut rng: Box<dyn RngSource + Send>, now: Now) -> Result<Self, ConfigError> {
        config.check()?;
        let (start, mono) = (rng.next_u64(), now.mono);
        let join = (!config.contacts.is_empty()).then_some(Join { at: mono, gap: JOIN_GAP });
        let mut node = Self {
            start,
            // So a node that was started anew is believed at once; with a clock that is behind it learns what to say.
            incarnation: u64::try_from(now.unix_secs).unwrap_or(0),
            started: mono,
            has_left: false,
            members: Members::default(),
            rings: Rings::new(config.node_id),
            links: Vec::new(),
            detector: Detector::default(),
            news: News::new(mono),
            tree: Tree::default(),
            letters: Letters::default(),
            join,
            upkeep_at: mono,
            out: VecDeque::new(),
            rng,
            config,
        };
        node.upkeep_at = mono + node.jitter(RECONNECT);
        node.members.put(Member { record: node.own_record(), since: mono });
        node.run_join(mono);
        Ok(node)
    }

    /// The own id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.config.node_id
    }

    /// Nodes that are thought alive, the own one included, ordered by id.
    #[must_use]
    pub fn live_nodes(&self) -> Vec<NodeId> {
        let mut live: Vec<NodeId> = self.members.iter().filter(|member| member.is_live()).map(Member::id).collect();
        live.sort_unstable();
        live
    }

    /// How many [`OverlayNode::live_nodes`] there are.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.members.live()
    }

    /// Whether a node is thought alive.
    #[must_use]
    pub fn is_live(&self, node: NodeId) -> bool {
        self.members.is_live(node)
    }

    /// Nodes this one keeps links to.
    pub fn linked_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.links.iter().map(|link| link.node)
    }

    /// The same number at all nodes that think the same nodes alive.
    #[must_use]
    pub fn view(&self) -> u64 {
        self.members.digest()
    }

    // ---- inputs ----

    /// A packet. `from` is where an answer to a stranger goes.
    pub fn handle_packet(&mut self, from: SocketAddr, bytes: &Bytes, now: Now) -> Verdict {
        let malformed = Verdict::Dropped(DropReason::Malformed);
        let Ok(packet) = Packet::parse(bytes) else { return malformed };
        let Ok((body, trailer)) = packet.addressed() else { return malformed };
        if packet.capability() != CAPABILITY_OVERLAY.as_bytes() {
            return Verdict::Dropped(DropReason::UnknownCapability);
        }
        if trailer.cluster_id != self.config.cluster.0 {
            return Verdict::Dropped(DropReason::UnknownCluster);
        }
        let src = NodeId(trailer.src_id);
        if src == self.config.node_id {
            return Verdict::Dropped(DropReason::OwnId);
        }
        if trailer.dst_id != self.config.node_id.0 {
            return Verdict::Dropped(DropReason::UnknownDestination);
        }
        match wire::decode(packet.packet_type(), packet.version(), body) {
            _ if src.0 <= 0 => malformed,
            Err(_) => malformed,
            Ok(None) => Verdict::Dropped(DropReason::UnknownType),
            Ok(Some((head, items))) => self.take_packet(src, from, &head, &items, bytes, now.mono),
        }
    }

    fn take_packet(
        &mut self,
        src: NodeId,
        from: SocketAddr,
        head: &Head,
        items: &Items<'_>,
        bytes: &Bytes,
        now: Instant,
    ) -> Verdict {
        // What it says of itself and of this node is heard in any case: so strangers introduce themselves, and two nodes
        // that think each other dead find out that they are not.
        let own = self.config.node_id;
        for item in items {
            if let Item::News(record) = item
                && (record.node == src || record.node == own)
            {
                self.take_record(src, record, true, now);
            }
        }
        match self.members.find(src).map(|member| (member.record, member.is_live())) {
            None => {
                self.send_to(src, from, OverlayKind::News, &[Item::Introduce]);
                return Verdict::Dropped(DropReason::UnknownNode);
            }
            Some((record, false)) => {
                // It has to object itself; until then nothing more is taken from it.
                self.send(src, OverlayKind::News, &[Item::News(record)]);
                return Verdict::Dropped(DropReason::UnknownNode);
            }
            Some((record, true)) if record.incarnation < head.incarnation => {
                self.send(src, OverlayKind::News, &[Item::Introduce]);
            }
            Some((record, true)) if record.start != head.start => {
                // Started anew with a clock that is behind: it has to take a higher number than before.
                self.send(src, OverlayKind::News, &[Item::News(record)]);
            }
            Some(_) => {}
        }
        self.heard(src, now);
        self.join = None;
        for item in items {
            self.take_item(src, item, bytes, now);
        }
        self.compare(src, head.digest, now);
        Verdict::Handled
    }

    fn take_item(&mut self, src: NodeId, item: &Item<'_>, bytes: &Bytes, now: Instant) {
        match item {
            Item::Ping { nonce } => self.send(src, OverlayKind::Probe, &[Item::Ack { nonce: *nonce }]),
            Item::Ack { nonce } => self.take_ack(*nonce, now),
            Item::PingFor { nonce, target } => self.run_errand(src, *nonce, *target, now),
            Item::Nack { nonce } => self.take_nack(*nonce),
            Item::News(record) => {
                if record.node != src && record.node != self.config.node_id {
                    self.take_record(src, record, true, now);
                }
            }
            Item::Entry(record) => self.take_record(src, record, false, now),
            Item::Join => self.tell_all(src, None),
            Item::Introduce => self.send(src, OverlayKind::News, &[Item::News(self.own_record())]),
            Item::Sync { sums } => {
                self.tell_all(src, Some(sums));
                // The other one may be the only one who knows something newer.
                self.ask_for_differences(src, now);
            }
            Item::Have(id) => self.take_have(src, id, now),
            Item::Graft(id) => self.take_graft(src, id),
            Item::Prune => self.set_eager(src, false),
            Item::Data { id, msg } => self.take_data(src, id, bytes.slice_ref(msg), now),
            Item::Letter { id, to, msg } => self.take_letter(src, id, *to, bytes.slice_ref(msg), now),
            Item::Receipt { id, by } => self.take_receipt(id, *by),
        }
    }

    /// A connection that carried a link was closed by the other side, or cannot be opened: the node is probed at once, also by
    /// way of others, and suspected if nobody reaches it.
    pub fn handle_link_closed(&mut self, node: NodeId, now: Now) {
        if self.links.iter().any(|link| link.node == node) {
            self.probe_closed(node, now.mono);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.mono;
        let is_late = self.poll_timeout().is_some_and(|due| now.saturating_duration_since(due) > STALL);
        if is_late {
            // This process was held up; answers may lie unread.
            self.detector_stalled(now);
        }
        self.run_join(now);
        self.run_detector(now);
        self.run_tree(now);
        self.run_letters(now);
        self.run_news(now);
        if self.upkeep_at <= now {
            self.run_upkeep(now);
        }
    }

    /// When [`OverlayNode::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.iter().flat_map(|link| [Some(link.due), link.haves_due]).flatten();
        let parts = [
            self.join.as_ref().map(|join| join.at),
            self.detector.due(),
            self.tree.due(),
            self.letters.due(),
            self.news.due(),
        ];
        links.chain(parts.into_iter().flatten()).chain([self.upkeep_at]).min()
    }

    /// The next thing to do; drain until `None` after every call.
    pub fn poll_output(&mut self) -> Option<OverlayOutput> {
        self.out.pop_front()
    }

    // ---- commands ----

    /// Sends a message to all live nodes; to how many others. A node that is cut off meanwhile does not get it.
    pub fn broadcast(&mut self, msg: &[u8], now: Now) -> Result<usize, SendError> {
        self.check_room(msg)?;
        if self.links.is_empty() {
            return Err(SendError::Unreachable);
        }
        self.begin_broadcast(Bytes::copy_from_slice(msg), now.mono)?;
        Ok(self.members.live().saturating_sub(1))
    }

    /// Sends a message to one node. It arrives once, in no fixed order, or [`OverlayEvent::Undelivered`] tells that it did
    /// not.
    pub fn send_message(&mut self, to: NodeId, msg: &[u8], now: Now) -> Result<(), SendError> {
        self.check_room(msg)?;
        if to == self.config.node_id {
            let msg = Bytes::copy_from_slice(msg);
            self.event(OverlayEvent::Message { src: to, msg, is_broadcast: false });
            return Ok(());
        }
        let member = self.members.find(to).ok_or(SendError::Failed)?;
        if !member.is_live() {
            return Err(SendError::Unreachable);
        }
        self.begin_letter(to, Bytes::copy_from_slice(msg), now.mono)
    }

    /// Says farewell: the others know at once. The process is to end after the outputs are drained.
    pub fn leave(&mut self, now: Now) {
        self.has_left = true;
        let record = Record { status: Status::Dead, ..self.own_record() };
        self.spread(record, self.config.node_id, now.mono);
        self.flush_news();
    }

    fn check_room(&self, msg: &[u8]) -> Result<(), SendError> {
        if self.has_left {
            return Err(SendError::Disabled);
        }
        if msg.len() > OVERLAY_MESSAGE_LEN_MAX {
            return Err(SendError::Failed);
        }
        if self.out.len() >= OUTBOX_PACKETS_MAX { Err(SendError::QueueFull) } else { Ok(()) }
    }

    // ---- what the parts share ----

    fn own_record(&self) -> Record {
        let node = self.config.node_id;
        let (incarnation, start, addr) = (self.incarnation, self.start, self.config.addr);
        Record { node, incarnation, start, status: Status::Alive, by: node, addr }
    }

    fn event(&mut self, event: OverlayEvent) {
        self.out.push_back(OverlayOutput::Event(event));
    }

    /// Up to a tenth more or less, so that nodes do not step in time.
    fn jitter(&mut self, span: Duration) -> Duration {
        let percent = u32::try_from(self.rng.next_u64() % 21).unwrap_or(0);
        span * (90 + percent) / 100
    }

    fn link_mut(&mut self, node: NodeId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.node == node)
    }

    /// Sends to a known node or contact.
    fn send(&mut self, to: NodeId, kind: OverlayKind, items: &[Item<'_>]) {
        let contact = || self.config.contacts.iter().find(|(id, _)| *id == to).map(|(_, addr)| *addr);
        let addr = self.members.find(to).map(|member| member.record.addr).or_else(contact);
        if let Some(addr) = addr {
            self.send_to(to, addr, kind, items);
        }
    }

    /// Sends to an address, with what can ride along.
    fn send_to(&mut self, to: NodeId, addr: SocketAddr, kind: OverlayKind, items: &[Item<'_>]) {
        let room = match items {
            [Item::Data { msg, .. } | Item::Letter { msg, .. }] => msg.len(),
            _ => 0,
        };
        let head = Head { start: self.start, incarnation: self.incarnation, digest: self.members.digest() };
        let mut packing = Packing::new(kind, &head, room);
        items.iter().for_each(|item| packing.push(item));
        if let Some(link) = self.links.iter_mut().find(|link| link.node == to)
            && link.haves_due.take().is_some()
        {
            link.haves.drain(..).for_each(|id| packing.push(&Item::Have(id)));
        }
        if kind == OverlayKind::Probe {
            let mut riders = 0;
            self.news.ride(to, |record| {
                packing.push(&Item::News(*record));
                riders += 1;
                riders < RIDERS_PER_PACKET && packing.len() < PACKET_BYTES
            });
        }
        let trailer = Trailer { cluster_id: self.config.cluster.0, src_id: self.config.node_id.0, dst_id: to.0 };
        // Everything is bounded so that it fits.
        if let Ok(bytes) = packing.finish(trailer) {
            self.out.push_back(OverlayOutput::Send { node: to, to: addr, kind, bytes });
        }
    }

    /// Keeps the links those of the rings.
    fn update_links(&mut self, now: Instant) {
        let wanted = self.rings.neighbours();
        let out = &mut self.out;
        self.links.retain(|link| {
            let stays = wanted.contains(&link.node);
            if !stays {
                out.push_back(OverlayOutput::Unlink { node: link.node });
            }
            stays
        });
        for node in wanted {
            if self.links.iter().any(|link| link.node == node) {
                continue;
            }
            let Some(addr) = self.members.find(node).map(|member| member.record.addr) else { continue };
            let percent = u32::try_from(self.rng.next_u64() % 100).unwrap_or(0);
            let due = now + self.config.timers.probe_interval * percent / 100;
            self.links.push(Link { node, due, is_eager: true, haves: Vec::new(), haves_due: None });
            self.out.push_back(OverlayOutput::Link { node, to: addr });
        }
    }

    // ---- joining and upkeep ----

    fn run_join(&mut self, now: Instant) {
        let Some(join) = self.join.as_mut().filter(|join| join.at <= now) else { return };
        join.at = now + join.gap;
        join.gap = (join.gap * 2).min(JOIN_GAP_MAX);
        let own = self.own_record();
        for (contact, _) in self.config.contacts.clone() {
            self.send(contact, OverlayKind::News, &[Item::News(own), Item::Join]);
        }
    }

    /// Tries one node that is thought dead, and forgets what is old.
    fn run_upkeep(&mut self, now: Instant) {
        let is_lonely = self.members.live() * 2 < self.members.len();
        let span = self.jitter(if is_lonely { RECONNECT / 5 } else { RECONNECT });
        self.upkeep_at = now + span;
        self.tree.forget_old(now);
        let members = &self.members;
        self.letters.forget_old(now, |node| members.find(node).is_some());
        let bits = self.rng.next_u64();
        let dead = self.members.pick(bits, |member| !member.is_live()).map(Member::id);
        let members = &self.members;
        let lost = self.config.contacts.iter().map(|(id, _)| *id).find(|id| !members.is_live(*id));
        let own = self.own_record();
        // A contact is tried for ever: so two halves find each other after any time.
        let tried = if bits.count_ones().is_multiple_of(2) { lost.or(dead) } else { dead.or(lost) };
        if let Some(tried) = tried.filter(|_| !self.has_left && self.join.is_none()) {
            self.send(tried, OverlayKind::News, &[Item::News(own)]);
        }
        self.members.forget_dead(|member| now.saturating_duration_since(member.since) > DEAD_KEPT);
    }
}
