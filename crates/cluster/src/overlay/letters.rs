//! Messages to one node: directly there, sent again until a receipt comes, then also by way of others; at most once, unordered.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;

use super::limits::{
    LETTER_TRIES, LETTER_TRIES_DIRECT, OVERLAY_LETTERS_BYTES_MAX, OVERLAY_LETTERS_MAX, OVERLAY_LETTERS_PER_NODE_MAX,
    RECEIPT_WAIT,
};
use super::members::Member;
use super::window::Windows;
use super::wire::{Item, MessageId};
use super::{OverlayEvent, OverlayKind, OverlayNode};
use crate::delivery::UndeliveredReason;
use crate::error::SendError;
use crate::ids::NodeId;

/// A message without a receipt.
#[derive(Debug)]
struct Waiting {
    to: NodeId,
    id: MessageId,
    msg: Bytes,
    tries: u8,
    due: Instant,
}

/// Messages to and from single nodes.
#[derive(Debug, Default)]
pub(super) struct Letters {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Next number per receiver, so that one it never got leaves no more than a gap there.
    next_seqs: BTreeMap<NodeId, u64>,
    windows: Windows,
}

impl Letters {
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|letter| letter.due).min()
    }

    /// Forgets senders that were silent for long, and numbers of receivers that are not known any more.
    pub(super) fn forget_old(&mut self, now: Instant, is_known: impl Fn(NodeId) -> bool) {
        self.windows.forget_old(now);
        self.next_seqs.retain(|node, _| is_known(*node));
    }

    fn take(&mut self, at: usize) -> Waiting {
        let letter = self.waiting.swap_remove(at);
        self.bytes -= letter.msg.len();
        letter
    }
}

impl OverlayNode {
    pub(super) fn begin_letter(&mut self, to: NodeId, msg: Bytes, now: Instant) -> Result<(), SendError> {
        let letters = &mut self.letters;
        if letters.waiting.len() >= OVERLAY_LETTERS_MAX || letters.bytes + msg.len() > OVERLAY_LETTERS_BYTES_MAX {
            return Err(SendError::QueueFull);
        }
        let next = letters.next_seqs.entry(to).or_default();
        let oldest = letters.waiting.iter().filter(|letter| letter.to == to).map(|letter| letter.id.seq).min();
        // A receiver that is further ahead could not tell the oldest from a double.
        if oldest.is_some_and(|oldest| *next - oldest >= OVERLAY_LETTERS_PER_NODE_MAX) {
            return Err(SendError::QueueFull);
        }
        let id = MessageId { origin: self.config.node_id, start: self.start, seq: *next };
        *next += 1;
        letters.bytes += msg.len();
        letters.waiting.push(Waiting { to, id, msg: msg.clone(), tries: 1, due: now + RECEIPT_WAIT });
        self.send(to, OverlayKind::Letter, &[Item::Letter { id, to, msg: &msg }]);
        Ok(())
    }

    pub(super) fn take_letter(&mut self, src: NodeId, id: &MessageId, to: NodeId, msg: Bytes, now: Instant) {
        if to != self.config.node_id {
            // Passed on once only: from its sender, and not to where it came from.
            if src == id.origin && to != src {
                self.send(to, OverlayKind::Letter, &[Item::Letter { id: *id, to, msg: &msg }]);
            }
            return;
        }
        // To where it came from: the direct way back may be the broken one.
        self.send(src, OverlayKind::Letter, &[Item::Receipt { id: *id, by: to }]);
        if self.letters.windows.note(id, now) {
            self.event(OverlayEvent::Message { src: id.origin, msg, is_broadcast: false });
        }
    }

    pub(super) fn take_receipt(&mut self, id: &MessageId, by: NodeId) {
        if id.origin != self.config.node_id {
            if id.origin != by {
                self.send(id.origin, OverlayKind::Letter, &[Item::Receipt { id: *id, by }]);
            }
            return;
        }
        let found = self.letters.waiting.iter().position(|letter| letter.to == by && letter.id == *id);
        if let Some(at) = found {
            self.letters.take(at);
        }
    }

    pub(super) fn run_letters(&mut self, now: Instant) {
        while let Some(at) = self.letters.waiting.iter().position(|letter| letter.due <= now) {
            let Some(letter) = self.letters.waiting.get_mut(at) else { return };
            if letter.tries >= LETTER_TRIES {
                let letter = self.letters.take(at);
                self.undelivered(letter, UndeliveredReason::TimedOut);
                continue;
            }
            letter.due = now + RECEIPT_WAIT * u32::from(letter.tries);
            letter.tries += 1;
            let (to, id, msg) = (letter.to, letter.id, letter.msg.clone());
            let has_detour = letter.tries > LETTER_TRIES_DIRECT;
            let mut ways: SmallVec<[NodeId; 3]> = SmallVec::from_iter([to]);
            if has_detour {
                ways.extend(self.detours(to));
            }
            for way in ways {
                self.send(way, OverlayKind::Letter, &[Item::Letter { id, to, msg: &msg }]);
            }
        }
    }

    /// Two live nodes that may reach another one.
    fn detours(&mut self, to: NodeId) -> impl Iterator<Item = NodeId> + use<> {
        let own = self.config.node_id;
        let bits = [self.rng.next_u64(), self.rng.next_u64()];
        let may_pass = |member: &Member| member.is_live() && member.id() != own && member.id() != to;
        bits.map(|bits| self.members.pick(bits, may_pass).map(Member::id)).into_iter().flatten()
    }

    /// A node is gone, or was started anew: what waits for it is not repeated.
    pub(super) fn letters_lost(&mut self, node: NodeId, is_restart: bool) {
        let reason = if is_restart { UndeliveredReason::Restarted } else { UndeliveredReason::TimedOut };
        while let Some(at) = self.letters.waiting.iter().position(|letter| letter.to == node) {
            let letter = self.letters.take(at);
            self.undelivered(letter, reason);
        }
    }

    fn undelivered(&mut self, letter: Waiting, reason: UndeliveredReason) {
        self.event(OverlayEvent::Undelivered { node: letter.to, msg: letter.msg, reason });
    }
}
