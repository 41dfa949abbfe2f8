//! News of members: how they are taken, told on, and how two tables are made equal. Finds no failures itself.

use std::collections::VecDeque;
use std::time::Instant;

use super::limits::{
    DIFFERENT_FOR, NEWCOMER, NEWS_BUSY, NEWS_DELAY, NEWS_DELAY_BUSY, NEWS_MAX, PACKET_BYTES, REMIND, RIDERS_MAX, RIDES,
    SYNC_GAP,
};
use super::members::{Member, bucket};
use super::wire::{BUCKETS, Item, Record, Status};
use super::{OverlayDown, OverlayEvent, OverlayKind, OverlayNode};
use crate::ids::NodeId;

/// What is to be told.
#[derive(Debug)]
pub(super) struct News {
    /// For all links but the one it came from.
    waiting: VecDeque<(Record, NodeId)>,
    flush_at: Option<Instant>,
    flushed_at: Option<Instant>,
    /// Rides once more on probes, so often.
    riders: VecDeque<(Record, u8)>,
    /// Last change of a member.
    changed_at: Instant,
    different_since: Option<Instant>,
    synced_at: Instant,
    /// When this node may object again.
    object_at: Instant,
}

impl News {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            flush_at: None,
            flushed_at: None,
            riders: VecDeque::new(),
            changed_at: now,
            different_since: None,
            synced_at: now,
            object_at: now,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.flush_at
    }

    /// Hands out what rides on a packet to a node, until `takes` has enough.
    pub(super) fn ride(&mut self, to: NodeId, mut takes: impl FnMut(&Record) -> bool) {
        for (record, left) in &mut self.riders {
            if record.node == to && record.status == Status::Alive {
                continue;
            }
            *left = left.saturating_sub(1);
            if !takes(record) {
                break;
            }
        }
        self.riders.retain(|(_, left)| *left > 0);
    }
}

fn is_same_matter(a: &Record, b: &Record) -> bool {
    // Accusations by several nodes are several matters.
    a.node == b.node && (b.status != Status::Suspect || a.status != Status::Suspect || a.by == b.by)
}

impl OverlayNode {
    /// Tells a change to all links soon, and lets it ride on probes afterwards.
    pub(super) fn spread(&mut self, record: Record, from: NodeId, now: Instant) {
        let news = &mut self.news;
        news.waiting.retain(|(known, _)| !is_same_matter(known, &record));
        news.riders.retain(|(known, _)| !is_same_matter(known, &record));
        if news.waiting.len() >= NEWS_MAX {
            news.waiting.pop_front();
        }
        news.waiting.push_back((record, from));
        if news.riders.len() >= RIDERS_MAX {
            news.riders.pop_front();
        }
        news.riders.push_back((record, RIDES));
        let is_busy = news.flushed_at.is_some_and(|at| now.saturating_duration_since(at) < NEWS_BUSY);
        news.flush_at.get_or_insert(now + if is_busy { NEWS_DELAY_BUSY } else { NEWS_DELAY });
    }

    pub(super) fn run_news(&mut self, now: Instant) {
        if self.news.flush_at.is_some_and(|at| at <= now) {
            self.news.flushed_at = Some(now);
            self.flush_news();
        }
    }

    pub(super) fn flush_news(&mut self) {
        self.news.flush_at = None;
        let waiting = std::mem::take(&mut self.news.waiting);
        let links: Vec<NodeId> = self.links.iter().map(|link| link.node).collect();
        for link in links {
            let wanted = waiting
                .iter()
                .filter(|(record, from)| *from != link && (record.node != link || record.status == Status::Suspect));
            self.send_records(link, None, wanted.map(|(record, _)| Item::News(*record)));
        }
    }

    /// In as many packets as needed, each with `lead` at its head.
    fn send_records<'a>(&mut self, to: NodeId, lead: Option<Item<'a>>, items: impl Iterator<Item = Item<'a>>) {
        // A record takes at most 52 bytes; the head and the trailer some 80.
        const PER_PACKET: usize = (PACKET_BYTES - 100) / 52;
        let mut page: Vec<Item<'_>> = Vec::from_iter(lead);
        for item in items {
            page.push(item);
            if page.len() >= PER_PACKET {
                self.send(to, OverlayKind::News, &page);
                page.truncate(usize::from(lead.is_some()));
            }
        }
        if page.len() > usize::from(lead.is_some()) {
            self.send(to, OverlayKind::News, &page);
        }
    }

    /// Takes what `from` says of a node: as news, or as an entry of its table.
    pub(super) fn take_record(&mut self, from: NodeId, record: &Record, is_news: bool, now: Instant) {
        if record.node == self.config.node_id {
            return self.take_own(from, record, now);
        }
        match record.status {
            Status::Alive => self.take_alive(from, record, is_news, now),
            Status::Suspect => self.take_suspicion(from, record, now),
            Status::Dead => self.take_death(from, record, is_news, now),
        }
    }

    /// Something about this node itself: what is not true is objected to.
    fn take_own(&mut self, from: NodeId, record: &Record, now: Instant) {
        let is_own_word = record.start == self.start && record.status == Status::Alive;
        if self.has_left || is_own_word {
            return;
        }
        if record.incarnation >= self.incarnation {
            if now < self.news.object_at {
                return;
            }
            self.news.object_at = now + REMIND / 4;
            self.incarnation = record.incarnation + 1;
            self.members.put(Member { record: self.own_record(), since: now });
            self.spread(self.own_record(), self.config.node_id, now);
            if record.start == self.start {
                self.detector.worsen();
                self.event(OverlayEvent::Objected);
            }
        }
        self.send(from, OverlayKind::News, &[Item::News(self.own_record())]);
    }

    fn take_alive(&mut self, from: NodeId, record: &Record, is_news: bool, now: Instant) {
        let known = self.members.find(record.node).map(|member| (member.record, member.is_live()));
        if known.is_some_and(|(known, _)| record.incarnation <= known.incarnation) {
            return;
        }
        let was_live = known.is_some_and(|(_, is_live)| is_live);
        let is_restart = known.is_some_and(|(known, is_live)| is_live && known.start != record.start);
        let node = record.node;
        if !self.members.put(Member { record: Record { by: node, ..*record }, since: now }) {
            return;
        }
        self.detector.settle(node);
        self.news.changed_at = now;
        if is_restart {
            self.letters_lost(node, true);
            self.event(OverlayEvent::NodeDown { node, reason: OverlayDown::Restarted });
        }
        if is_restart || !was_live {
            self.event(OverlayEvent::NodeUp { node, addr: record.addr });
        }
        if !was_live && self.rings.add(node) {
            self.update_links(now);
        }
        if is_news || now.saturating_duration_since(self.started) > NEWCOMER {
            self.spread(*record, from, now);
        }
    }

    fn take_suspicion(&mut self, from: NodeId, record: &Record, now: Instant) {
        let own = self.config.node_id;
        let Some(member) = self.members.find(record.node).copied().filter(Member::is_live) else { return };
        // Of this node's own accusations only it itself knows whether they still hold.
        if record.incarnation < member.record.incarnation || record.by == own {
            return;
        }
        if record.incarnation > member.record.incarnation {
            self.detector.settle(record.node);
            let status = Status::Alive;
            self.members.put(Member { record: Record { status, by: record.node, ..*record }, since: now });
        }
        self.suspect(record, false, from, now);
    }

    fn take_death(&mut self, from: NodeId, record: &Record, is_news: bool, now: Instant) {
        let Some(member) = self.members.find(record.node).copied().filter(Member::is_live) else { return };
        if record.incarnation < member.record.incarnation {
            return;
        }
        if is_news && record.by == record.node {
            return self.bury(record, OverlayDown::Left, from, now);
        }
        if is_news {
            if self.detector.has_suspected(record.node, now) {
                return self.bury(record, OverlayDown::Failed, from, now);
            }
            let by = if record.by == self.config.node_id { from } else { record.by };
            let accusation = Record { status: Status::Suspect, by, ..*record };
            self.take_suspicion(from, &accusation, now);
            self.detector.sentence(record.node, now);
            return self.remind(record.node, now);
        }
        // An entry of a table: the other side of a separation thought so. The node may object, and is looked for.
        self.send(record.node, OverlayKind::News, &[Item::News(*record)]);
        self.probe(record.node, now);
    }

    /// A node is dead.
    pub(super) fn bury(&mut self, record: &Record, reason: OverlayDown, from: NodeId, now: Instant) {
        let node = record.node;
        let by = match reason {
            OverlayDown::Left => node,
            OverlayDown::Failed | OverlayDown::Restarted if from == self.config.node_id => from,
            OverlayDown::Failed | OverlayDown::Restarted => record.by,
        };
        let record = Record { status: Status::Dead, by, ..*record };
        self.members.put(Member { record, since: now });
        self.detector.settle(node);
        self.news.changed_at = now;
        self.letters_lost(node, false);
        self.event(OverlayEvent::NodeDown { node, reason });
        if self.rings.has(node) {
            let own = self.config.node_id;
            let live = self.members.iter().filter(|member| member.is_live()).map(Member::id);
            self.rings.rebuild(live.filter(|id| *id != own));
            self.update_links(now);
        }
        self.spread(record, from, now);
    }

    // ---- comparing ----

    /// Compares the sum of a linked node with the own one; asks for what differs when it stays so.
    pub(super) fn compare(&mut self, src: NodeId, digest: u64, now: Instant) {
        if digest == self.members.digest() {
            self.news.different_since = None;
            return;
        }
        let since = *self.news.different_since.get_or_insert(now);
        let is_quiet = now.saturating_duration_since(self.news.changed_at) > SYNC_GAP;
        if is_quiet && now.saturating_duration_since(since) > DIFFERENT_FOR {
            self.ask_for_differences(src, now);
        }
    }

    /// Sends the sums of the own table, not too often.
    pub(super) fn ask_for_differences(&mut self, from: NodeId, now: Instant) {
        if now.saturating_duration_since(self.news.synced_at) > SYNC_GAP {
            self.news.synced_at = now;
            self.news.different_since = None;
            let sums = self.members.sums();
            self.send(from, OverlayKind::News, &[Item::Sync { sums: &sums }]);
        }
    }

    /// Tells a node of all nodes, or of those in parts whose sums differ.
    pub(super) fn tell_all(&mut self, to: NodeId, sums: Option<&[u8]>) {
        let own = self.members.sums();
        let mut differs = [sums.is_none(); BUCKETS];
        if let Some(sums) = sums {
            for (place, (theirs, own)) in differs.iter_mut().zip(sums.chunks(8).zip(own.chunks(8))) {
                *place = theirs != own;
            }
        }
        let told = self.members.iter().filter(|member| differs.get(bucket(member.id())).copied().unwrap_or(false));
        // A suspicion is its accusers' business.
        let entry = |member: &Member| {
            let Record { status, .. } = member.record;
            let status = if status == Status::Dead { status } else { Status::Alive };
            Item::Entry(Record { status, ..member.record })
        };
        let entries: Vec<Item<'_>> = told.filter(|member| member.id() != to || !member.is_live()).map(entry).collect();
        // The receiver may not know this node yet.
        let lead = Item::News(self.own_record());
        self.send_records(to, Some(lead), entries.into_iter());
    }
}
