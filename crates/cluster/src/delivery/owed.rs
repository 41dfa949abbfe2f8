//! Packets of modules in acknowledged delivery: how many wait, and what the other node misses because they were given up. It
//! is told so in its turn and asks for a repair; until it does, further changes of that capability need not be kept.

use std::time::Instant;

use bytes::Bytes;

use super::UndeliveredReason;
use super::stream::{Stream, Waiting, Work};
use super::wire::Letter;
use crate::limits::{CHANGES_QUEUE_BYTES_MAX, CHANGES_QUEUE_MAX, MISSED_REPEAT};

/// What one node misses.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// At most one per registered capability.
    missed: Vec<Missed>,
    /// When those that were told are told once more.
    pub(super) repeat_at: Option<Instant>,
    /// Packets of modules in the queue.
    changes: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Missed {
    capability: Bytes,
    /// Nothing of before that was given up.
    since: Instant,
    /// It waits in the queue, or was told.
    is_told: bool,
}

/// What became of a packet of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It will arrive, or the node learns that it misses something.
    Queued,
    /// It is not needed: the node will ask for a repair.
    Owed,
    /// It was refused.
    Full,
}

impl Owed {
    fn position(&self, capability: &Bytes) -> Option<usize> {
        self.missed.iter().position(|missed| missed.capability == capability)
    }

    /// From that moment on something of the capability is missing there.
    fn note(&mut self, capability: &Bytes, since: Instant) {
        match self.missed.iter_mut().find(|missed| missed.capability == capability) {
            Some(missed) => missed.since = missed.since.min(since),
            None => self.missed.push(Missed { capability: capability.clone(), since, is_told: false }),
        }
    }

    pub(super) fn count(&mut self, waiting: &Waiting, is_added: bool) {
        if !waiting.is_change() {
            return;
        }
        if is_added {
            (self.changes, self.bytes) = (self.changes + 1, self.bytes + waiting.len());
        } else {
            (self.changes, self.bytes) = (self.changes.saturating_sub(1), self.bytes.saturating_sub(waiting.len()));
        }
    }

    fn has_room(&self, len: usize) -> bool {
        self.changes < CHANGES_QUEUE_MAX && self.bytes + len <= CHANGES_QUEUE_BYTES_MAX
    }

    /// The letter that tells; an empty one when it was asked for meanwhile.
    pub(super) fn letter(&self, to: u64, seq: u64, ack: u64, capability: Bytes, now: Instant) -> Letter<Bytes> {
        let since = self.position(&capability).and_then(|at| self.missed.get(at)).map(|missed| missed.since);
        let age = since.map(|since| now.saturating_duration_since(since).as_millis());
        match age {
            Some(age) => {
                let age_ms = u32::try_from(age).unwrap_or(u32::MAX);
                Letter::Missed { to, seq, ack, capability, age_ms }
            }
            None => Letter::Missed { to, seq, ack, capability: Bytes::new(), age_ms: 0 },
        }
    }
}

impl Stream {
    /// Accepts a packet of a module. One of those for all is not kept while the node misses earlier ones anyway.
    pub(crate) fn accept_change(
        &mut self,
        change: Waiting,
        is_for_all: bool,
        now: Instant,
        work: &mut Work,
    ) -> Accepted {
        let Waiting::Change { capability, .. } = &change else { return Accepted::Full };
        if is_for_all && self.owed.position(capability).is_some() {
            self.go_on(now, work);
            return Accepted::Owed;
        }
        if self.owed.has_room(change.len()) {
            return if self.accept(change, now, work) { Accepted::Queued } else { Accepted::Full };
        }
        if !is_for_all {
            return Accepted::Full;
        }
        let capability = capability.clone();
        self.give_up_changes(&capability, now);
        self.go_on(now, work);
        Accepted::Owed
    }

    /// Takes all packets of a capability out of the queue.
    fn give_up_changes(&mut self, name: &Bytes, now: Instant) {
        // These have numbers that the other side may know.
        let numbered = self.ever_sent.max(self.done + self.sent as u64);
        let (mut number, mut since) = (self.done, now);
        let sent_until = self.done + self.sent as u64;
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain_mut(|waiting| {
            number += 1;
            let Waiting::Change { capability, at, .. } = waiting else { return true };
            if capability != name {
                return true;
            }
            since = since.min(*at);
            let len = waiting.len();
            self.owed.count(waiting, false);
            self.bytes -= len;
            if number <= sent_until {
                self.sent_bytes = self.sent_bytes.saturating_sub(len);
            }
            *waiting = Waiting::Missed { capability: Bytes::new() };
            number <= numbered
        });
        self.queue = queue;
        self.owed.note(name, since);
    }

    /// The node asks for what it missed.
    pub(crate) fn settle(&mut self, capability: &[u8]) {
        self.owed.missed.retain(|missed| missed.capability != capability);
        if self.owed.missed.is_empty() {
            self.owed.repeat_at = None;
        }
    }

    /// The node is not there: it will miss what it was to be sent now.
    pub(crate) fn owe(&mut self, capability: &Bytes, now: Instant) {
        self.owed.note(capability, now);
    }

    /// Something that was accepted will not be sent.
    pub(super) fn give_up(&mut self, waiting: Waiting, reason: UndeliveredReason, now: Instant, work: &mut Work) {
        match waiting {
            Waiting::Message { msg, tag, .. } => work.undelivered.push((msg, tag, reason)),
            Waiting::Change { capability, at, .. } => self.owed.note(&capability, at),
            Waiting::Missed { capability } => {
                if let Some(missed) = self.owed.missed.iter_mut().find(|missed| missed.capability == capability) {
                    missed.is_told = false;
                }
            }
        }
        if self.owed.missed.iter().any(|missed| !missed.is_told) {
            self.owed.repeat_at = Some(now + MISSED_REPEAT);
        }
    }

    /// Whether something waits, or has to be told.
    pub(super) fn has_something_to_say(&self) -> bool {
        !self.queue.is_empty() || self.owed.missed.iter().any(|missed| !missed.is_told)
    }

    /// What was told is told once more. A letter in the queue may be one that the node has and that meant earlier changes.
    pub(super) fn owe_again(&mut self) {
        for missed in &mut self.owed.missed {
            missed.is_told = false;
        }
    }

    /// Puts what has to be told into the queue.
    pub(super) fn tell_missed(&mut self, now: Instant) {
        let mut untold = Vec::new();
        for missed in self.owed.missed.iter_mut().filter(|missed| !missed.is_told) {
            missed.is_told = true;
            untold.push(missed.capability.clone());
        }
        for capability in untold {
            for waiting in &mut self.queue {
                if matches!(waiting, Waiting::Missed { capability: known } if *known == capability) {
                    *waiting = Waiting::Missed { capability: Bytes::new() };
                }
            }
            self.push(Waiting::Missed { capability }, now);
            self.owed.repeat_at = Some(now + MISSED_REPEAT);
        }
    }
}
