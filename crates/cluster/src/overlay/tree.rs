//! Messages to all, as Plumtree does it (Leitão et al., SRDS 2007): at once along the links of a tree, announced on the others.
//! Who hears of a message that has not come asks for it, and the tree gets that link; who gets one twice gives a link up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::limits::{
    GRAFT_DELAY, GRAFT_WAIT, HAVE_DELAY, HAVES_MAX, MISSING_MAX, OVERLAY_BROADCASTS_PER_SECOND_MAX,
    OVERLAY_STORE_BYTES_MAX, OVERLAY_STORE_MAX, STORE_KEPT,
};
use super::window::Windows;
use super::wire::{Item, MessageId};
use super::{OverlayEvent, OverlayKind, OverlayNode};
use crate::error::SendError;
use crate::ids::NodeId;

/// A message others may ask for.
#[derive(Debug)]
struct Stored {
    id: MessageId,
    msg: Bytes,
    until: Instant,
}

/// A message that was announced and has not come.
#[derive(Debug)]
struct Missing {
    id: MessageId,
    /// Who has it and was not asked yet.
    from: SmallVec<[NodeId; 4]>,
    due: Instant,
}

/// Messages of all senders.
#[derive(Debug, Default)]
pub(super) struct Tree {
    next_seq: u64,
    /// Own messages since when.
    sent: Option<(Instant, u32)>,
    windows: Windows,
    store: VecDeque<Stored>,
    store_bytes: usize,
    missing: Vec<Missing>,
}

impl Tree {
    pub(super) fn due(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.due).min()
    }

    fn keep(&mut self, id: MessageId, msg: Bytes, now: Instant) {
        self.store_bytes += msg.len();
        self.store.push_back(Stored { id, msg, until: now + STORE_KEPT });
        let is_over = |tree: &Self| {
            let first_until = tree.store.front().map(|stored| stored.until);
            tree.store.len() > OVERLAY_STORE_MAX
                || tree.store_bytes > OVERLAY_STORE_BYTES_MAX
                || first_until.is_some_and(|until| until <= now)
        };
        while is_over(self) {
            let Some(old) = self.store.pop_front() else { break };
            self.store_bytes -= old.msg.len();
        }
    }

    pub(super) fn forget_old(&mut self, now: Instant) {
        while self.store.front().is_some_and(|stored| stored.until <= now) {
            self.store_bytes -= self.store.pop_front().map_or(0, |stored| stored.msg.len());
        }
        self.windows.forget_old(now);
    }
}

impl OverlayNode {
    pub(super) fn begin_broadcast(&mut self, msg: Bytes, now: Instant) -> Result<(), SendError> {
        let is_recent = |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        let (since, count) = self.tree.sent.filter(|(since, _)| is_recent(*since)).unwrap_or((now, 0));
        if count >= OVERLAY_BROADCASTS_PER_SECOND_MAX {
            return Err(SendError::QueueFull);
        }
        self.tree.sent = Some((since, count + 1));
        let id = MessageId { origin: self.config.node_id, start: self.start, seq: self.tree.next_seq };
        self.tree.next_seq += 1;
        self.tree.windows.note(&id, now);
        self.pass_on(id, msg, None, now);
        Ok(())
    }

    /// Keeps a message and hands it to the links.
    fn pass_on(&mut self, id: MessageId, msg: Bytes, from: Option<NodeId>, now: Instant) {
        self.tree.keep(id, msg.clone(), now);
        let mut eager: SmallVec<[NodeId; 8]> = SmallVec::new();
        for link in self.links.iter_mut().filter(|link| Some(link.node) != from) {
            if link.is_eager {
                eager.push(link.node);
                continue;
            }
            if link.haves.len() >= HAVES_MAX {
                link.haves.remove(0);
            }
            link.haves.push(id);
            link.haves_due.get_or_insert(now + HAVE_DELAY);
        }
        for node in eager {
            self.send(node, OverlayKind::Data, &[Item::Data { id, msg: &msg }]);
        }
    }

    pub(super) fn set_eager(&mut self, node: NodeId, is_eager: bool) {
        if let Some(link) = self.link_mut(node) {
            link.is_eager = is_eager;
        }
    }

    /// The node has that message: it needs no announcement of it.
    fn spare(&mut self, node: NodeId, id: &MessageId) {
        if let Some(link) = self.link_mut(node) {
            link.haves.retain(|known| known != id);
            if link.haves.is_empty() {
                link.haves_due = None;
            }
        }
    }

    pub(super) fn take_data(&mut self, src: NodeId, id: &MessageId, msg: Bytes, now: Instant) {
        self.spare(src, id);
        if id.origin == self.config.node_id || !self.tree.windows.note(id, now) {
            self.set_eager(src, false);
            self.send(src, OverlayKind::Tree, &[Item::Prune]);
            return;
        }
        self.tree.missing.retain(|missing| missing.id != *id);
        self.set_eager(src, true);
        self.event(OverlayEvent::Message { src: id.origin, msg: msg.clone(), is_broadcast: true });
        self.pass_on(*id, msg, Some(src), now);
    }

    pub(super) fn take_have(&mut self, src: NodeId, id: &MessageId, now: Instant) {
        self.spare(src, id);
        if id.origin == self.config.node_id || self.tree.windows.has(id) {
            return;
        }
        let has_room = self.tree.missing.len() < MISSING_MAX;
        match self.tree.missing.iter_mut().find(|missing| missing.id == *id) {
            Some(missing) if missing.from.len() < 4 => missing.from.push(src),
            Some(_) => {}
            None if has_room => {
                let from = SmallVec::from_iter([src]);
                self.tree.missing.push(Missing { id: *id, from, due: now + GRAFT_DELAY });
            }
            None => {}
        }
    }

    pub(super) fn take_graft(&mut self, src: NodeId, id: &MessageId) {
        self.set_eager(src, true);
        let found = self.tree.store.iter().rev().find(|stored| stored.id == *id).map(|stored| stored.msg.clone());
        if let Some(msg) = found {
            self.send(src, OverlayKind::Data, &[Item::Data { id: *id, msg: &msg }]);
        }
    }

    pub(super) fn run_tree(&mut self, now: Instant) {
        while let Some(at) = self.tree.missing.iter().position(|missing| missing.due <= now) {
            let Some(missing) = self.tree.missing.get_mut(at) else { return };
            if missing.from.is_empty() {
                self.tree.missing.swap_remove(at);
                continue;
            }
            let (id, asked) = (missing.id, missing.from.remove(0));
            missing.due = now + GRAFT_WAIT;
            self.set_eager(asked, true);
            self.send(asked, OverlayKind::Tree, &[Item::Graft(id)]);
        }
        let due = self.links.iter().filter(|link| link.haves_due.is_some_and(|at| at <= now));
        let due: SmallVec<[NodeId; 8]> = due.map(|link| link.node).collect();
        for node in due {
            // They ride on it.
            self.send(node, OverlayKind::Tree, &[]);
        }
    }
}
