//! Both directions between this node and one other: what waits to be acknowledged, and what has arrived. Sends nothing
//! itself: letters are left in a list.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::UndeliveredReason;
use super::owed::Owed;
use super::wire::{AckKind, Letter};
use crate::limits::{
    DELIVERY_ACK_DELAY, DELIVERY_ACK_PACKETS, DELIVERY_HELLO_WAIT, DELIVERY_HELLO_WAIT_MAX, DELIVERY_HOLD,
    DELIVERY_PROBE_AFTER, DELIVERY_QUEUE_BYTES_MAX, DELIVERY_QUEUE_MAX, DELIVERY_WINDOW_BYTES, DELIVERY_WINDOW_PACKETS,
};

/// Starts of the other node whose numbers are remembered.
const STREAMS_MAX: usize = 4;

/// What was accepted and is not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// A script message.
    Message { is_request: bool, tag: Bytes, msg: Bytes },
    /// A packet of a module, accepted at that moment.
    Change { capability: Bytes, packet_type: i32, version: u16, body: Bytes, at: Instant },
    /// Packets of that capability were given up; with an empty name it only keeps the number of one.
    Missed { capability: Bytes },
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Message { tag, msg, .. } => tag.len() + msg.len(),
            Self::Change { capability, body, .. } => capability.len() + body.len(),
            Self::Missed { .. } => 0,
        }
    }

    pub(super) fn is_change(&self) -> bool {
        matches!(self, Self::Change { .. })
    }
}

/// What a step comes to.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) letters: Vec<Letter<Bytes>>,
    pub(crate) undelivered: Vec<(Bytes, Bytes, UndeliveredReason)>,
    /// The content of the letter is new and next in order.
    pub(crate) is_next: bool,
    /// The other node was started anew since it last sent something.
    pub(crate) is_new_start: bool,
}

/// One start of the other node as a sender.
#[derive(Debug)]
struct Incoming {
    incarnation: u64,
    expected: u64,
    /// The number last complained about.
    gap_told: u64,
}

/// The state towards one node.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(super) queue: VecDeque<Waiting>,
    pub(super) bytes: usize,
    /// Messages taken out of the queue so far: the number of its front is one more.
    pub(super) done: u64,
    /// Of the queue, handed out since the other side last told where it stands.
    pub(super) sent: usize,
    pub(super) sent_bytes: usize,
    /// Highest number that the start of the other side meant may have taken.
    pub(super) ever_sent: u64,
    /// From this number on nothing was handed out more than once.
    once_from: u64,
    peer: Option<u64>,
    /// The other side has told where it stands, and nothing has happened since that could change it.
    is_confirmed: bool,
    nonce: u64,
    hello_at: Option<Instant>,
    hello_wait: Duration,
    probe_at: Option<Instant>,
    /// Last acknowledgement, or when the queue began to fill.
    progress_at: Option<Instant>,
    incoming: SmallVec<[Incoming; 1]>,
    unacked: u32,
    ack_at: Option<Instant>,
    /// The start of the other node that waits for an acknowledgement.
    ack_for: u64,
    /// See `owed`.
    pub(super) owed: Owed,
}

impl Stream {
    /// Messages and bytes that wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    /// Accepts a message; false when the queue is full.
    pub(crate) fn accept(&mut self, waiting: Waiting, now: Instant, work: &mut Work) -> bool {
        if self.queue.len() >= DELIVERY_QUEUE_MAX || self.bytes + waiting.len() > DELIVERY_QUEUE_BYTES_MAX {
            return false;
        }
        self.push(waiting, now);
        self.go_on(now, work);
        true
    }

    pub(super) fn push(&mut self, waiting: Waiting, now: Instant) {
        if self.queue.is_empty() {
            self.progress_at = Some(now);
        }
        self.bytes += waiting.len();
        self.owed.count(&waiting, true);
        self.queue.push_back(waiting);
    }

    /// What is at the front was taken, or will not be sent.
    fn pop(&mut self) -> Option<Waiting> {
        let front = self.queue.pop_front()?;
        self.done += 1;
        self.bytes -= front.len();
        self.owed.count(&front, false);
        Some(front)
    }

    /// Sends what may be sent, or asks where the other side stands.
    pub(crate) fn go_on(&mut self, now: Instant, work: &mut Work) {
        if self.is_confirmed {
            self.tell_missed(now);
            self.pump(now, work);
        } else if self.hello_at.is_none() && self.has_something_to_say() {
            self.say_hello(now, work);
        }
    }

    fn say_hello(&mut self, now: Instant, work: &mut Work) {
        self.is_confirmed = false;
        self.probe_at = None;
        self.nonce += 1;
        self.hello_wait = (self.hello_wait * 2).clamp(DELIVERY_HELLO_WAIT, DELIVERY_HELLO_WAIT_MAX);
        self.hello_at = Some(now + self.hello_wait);
        work.letters.push(Letter::Hello { first: self.done + 1, nonce: self.nonce });
    }

    fn pump(&mut self, now: Instant, work: &mut Work) {
        let Some(to) = self.peer else { return };
        let ack = self.piggyback(to);
        while self.sent < DELIVERY_WINDOW_PACKETS && self.sent_bytes < DELIVERY_WINDOW_BYTES {
            let Some(next) = self.queue.get(self.sent) else { break };
            self.sent += 1;
            self.sent_bytes += next.len();
            let seq = self.done + self.sent as u64;
            self.ever_sent = self.ever_sent.max(seq);
            work.letters.push(match next.clone() {
                Waiting::Message { is_request, tag, msg } => Letter::Data { to, seq, ack, is_request, tag, msg },
                Waiting::Change { capability, packet_type, version, body, .. } => {
                    Letter::Change { to, seq, ack, capability, packet_type, version, body }
                }
                Waiting::Missed { capability } => self.owed.letter(to, seq, ack, capability, now),
            });
            if ack > 0 && self.ack_for == to {
                (self.unacked, self.ack_at) = (0, None);
            }
        }
        if self.sent > 0 && self.probe_at.is_none() {
            self.probe_at = Some(now + DELIVERY_PROBE_AFTER);
        }
    }

    /// What has arrived of the start `of` of the other node.
    fn piggyback(&self, of: u64) -> u64 {
        self.incoming.iter().find(|incoming| incoming.incarnation == of).map_or(0, |known| known.expected - 1)
    }

    /// Everything up to `ack` has arrived.
    fn acknowledged(&mut self, ack: u64, now: Instant) {
        let mut has_progress = false;
        while self.done < ack {
            let Some(front) = self.pop() else { break };
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes = self.sent_bytes.saturating_sub(front.len());
            }
            has_progress = true;
        }
        if has_progress {
            self.progress_at = (!self.queue.is_empty()).then_some(now);
            self.probe_at = (self.sent > 0).then_some(now + DELIVERY_PROBE_AFTER);
        }
    }

    fn rewind(&mut self) {
        self.once_from = self.ever_sent + 1;
        (self.sent, self.sent_bytes, self.probe_at) = (0, 0, None);
    }

    /// What was handed out may be lost: asked for after a moment.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.is_confirmed = false;
        self.rewind();
        if self.has_something_to_say() {
            // A further doubt puts off no question that is due.
            let soon = now + DELIVERY_HELLO_WAIT;
            self.hello_at = Some(self.hello_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// The node became reachable.
    pub(crate) fn node_up(&mut self, now: Instant, work: &mut Work) {
        self.hello_wait = Duration::ZERO;
        self.owe_again();
        if self.has_something_to_say() {
            self.say_hello(now, work);
        }
    }

    /// The node became unreachable: nothing is sent until it is there again.
    pub(crate) fn node_down(&mut self) {
        self.is_confirmed = false;
        self.rewind();
        (self.hello_at, self.ack_at, self.unacked) = (None, None, 0);
        self.owed.repeat_at = None;
    }

    /// Gives all that waits up.
    pub(crate) fn fail(&mut self, reason: UndeliveredReason, now: Instant, work: &mut Work) {
        while let Some(front) = self.pop() {
            self.give_up(front, reason, now, work);
        }
        self.rewind();
        (self.is_confirmed, self.hello_at, self.progress_at) = (false, None, None);
    }

    /// When [`Stream::run`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let missed = self.owed.repeat_at;
        let hold = self.progress_at.filter(|_| !self.queue.is_empty()).map(|at| at + DELIVERY_HOLD);
        self.ack_at.into_iter().chain(self.hello_at).chain(self.probe_at).chain(hold).chain(missed).min()
    }

    /// Does what is due.
    pub(crate) fn run(&mut self, now: Instant, work: &mut Work) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if !self.queue.is_empty() && is_due(self.progress_at.map(|at| at + DELIVERY_HOLD)) {
            self.fail(UndeliveredReason::TimedOut, now, work);
        }
        if is_due(self.owed.repeat_at) {
            self.owed.repeat_at = None;
            self.owe_again();
            self.go_on(now, work);
        }
        if is_due(self.ack_at) {
            self.acknowledge(AckKind::Progress, work);
        }
        if is_due(self.hello_at) {
            self.hello_at = None;
            if !self.is_confirmed {
                self.go_on(now, work);
            }
        }
        if is_due(self.probe_at) {
            self.say_hello(now, work);
        }
    }

    fn acknowledge(&mut self, kind: AckKind, work: &mut Work) {
        let to = self.ack_for;
        (self.unacked, self.ack_at) = (0, None);
        work.letters.push(Letter::Ack { to, ack: self.piggyback(to), kind, nonce: 0 });
    }

    /// Takes a letter of the start `from` of the other node; `own` is the own start.
    pub(crate) fn take(&mut self, own: u64, from: u64, letter: &Letter<&[u8]>, now: Instant, work: &mut Work) {
        if let Some((to, seq, ack)) = letter.numbers() {
            if to == own && self.peer == Some(from) {
                self.acknowledged(ack, now);
            }
            self.take_data(own, from, to, seq, now, work);
            if self.is_confirmed {
                self.pump(now, work);
            }
            return;
        }
        match *letter {
            Letter::Hello { first, nonce } => self.take_hello(from, first, nonce, work),
            Letter::Ack { to, ack, kind, nonce } if to == own => self.take_ack(from, ack, kind, nonce, now, work),
            _ => {}
        }
    }

    fn take_hello(&mut self, from: u64, first: u64, nonce: u64, work: &mut Work) {
        let known = self.incoming.iter_mut().find(|incoming| incoming.incarnation == from);
        let first = first.clamp(1, u64::MAX - 1);
        let expected = match known {
            Some(known) => {
                // What lies before was given up.
                known.expected = known.expected.max(first);
                known.expected
            }
            None => {
                work.is_new_start = !self.incoming.is_empty();
                if self.incoming.len() >= STREAMS_MAX {
                    self.incoming.remove(0);
                }
                self.incoming.push(Incoming { incarnation: from, expected: first, gap_told: 0 });
                first
            }
        };
        work.letters.push(Letter::Ack { to: from, ack: expected - 1, kind: AckKind::Welcome, nonce });
    }

    fn take_data(&mut self, own: u64, from: u64, to: u64, seq: u64, now: Instant, work: &mut Work) {
        let known = self.incoming.iter_mut().find(|incoming| incoming.incarnation == from);
        let Some(known) = known.filter(|_| to == own) else {
            work.letters.push(Letter::Ack { to: from, ack: seq, kind: AckKind::Unknown, nonce: 0 });
            return;
        };
        self.ack_for = from;
        if seq > known.expected {
            if std::mem::replace(&mut known.gap_told, known.expected) != known.expected {
                self.acknowledge(AckKind::Gap, work);
            }
            return;
        }
        if seq == known.expected && seq < u64::MAX - 1 {
            known.expected += 1;
            work.is_next = true;
        }
        self.unacked += 1;
        if self.unacked >= DELIVERY_ACK_PACKETS {
            self.acknowledge(AckKind::Progress, work);
        } else if self.ack_at.is_none() {
            self.ack_at = Some(now + DELIVERY_ACK_DELAY);
        }
    }

    fn take_ack(&mut self, from: u64, ack: u64, kind: AckKind, nonce: u64, now: Instant, work: &mut Work) {
        if kind == AckKind::Welcome {
            if nonce == self.nonce && !self.is_confirmed {
                self.welcomed(from, ack, now, work);
            }
            return;
        }
        if kind == AckKind::Unknown && ack >= self.once_from.max(1) {
            // The only copy of this one and of all that follow it met another start than the one meant.
            self.ever_sent = self.ever_sent.min(ack - 1);
        }
        // Waits for what was given up: it has to be told where to go on.
        let is_behind = kind == AckKind::Gap && ack < self.done;
        if kind == AckKind::Unknown || self.peer != Some(from) || is_behind {
            self.is_confirmed = false;
            return self.go_on(now, work);
        }
        self.acknowledged(ack, now);
        if kind == AckKind::Gap {
            self.rewind();
        }
        self.go_on(now, work);
    }

    fn welcomed(&mut self, from: u64, ack: u64, now: Instant, work: &mut Work) {
        (self.hello_at, self.hello_wait) = (None, Duration::ZERO);
        let is_restarted = self.peer.replace(from).is_some_and(|known| known != from);
        self.rewind();
        if is_restarted {
            // Whether the earlier start took them before it ended, nobody knows.
            let mut has_lost = false;
            while self.done < self.ever_sent
                && let Some(front) = self.pop()
            {
                has_lost = true;
                self.give_up(front, UndeliveredReason::Restarted, now, work);
            }
            self.owe_again();
            self.progress_at = (!self.queue.is_empty()).then_some(now);
            // It was greeted with a number from before what is given up, or acknowledged by the earlier start meanwhile.
            if has_lost || ack < self.done {
                return self.go_on(now, work);
            }
        } else {
            self.acknowledged(ack, now);
        }
        self.is_confirmed = true;
        self.go_on(now, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_put_off_no_question() {
        let (now, mut work) = (Instant::now(), Work::default());
        let mut stream = Stream::default();
        let waiting = Waiting::Message { is_request: true, tag: Bytes::new(), msg: Bytes::new() };
        assert!(stream.accept(waiting, now, &mut work));
        assert!(matches!(work.letters[..], [Letter::Hello { nonce: 1, .. }]));
        let due = now + DELIVERY_HELLO_WAIT;
        assert_eq!(stream.deadline(), Some(due));
        stream.doubt(now + DELIVERY_HELLO_WAIT / 2);
        assert_eq!(stream.deadline(), Some(due), "asked again as soon as without it");
        stream.run(due, &mut work);
        assert!(matches!(work.letters[..], [_, Letter::Hello { nonce: 2, .. }]));
        // The next question is further away: a doubt brings it nearer.
        stream.doubt(due);
        assert_eq!(stream.deadline(), Some(due + DELIVERY_HELLO_WAIT));
    }

    /// A second process with the id of the other node answers the hello that the first one has answered otherwise.
    #[test]
    fn who_expects_what_is_given_up_is_told_where_to_go_on() {
        let (now, mut work, own) = (Instant::now(), Work::default(), 1);
        let waiting = || Waiting::Message { is_request: true, tag: Bytes::new(), msg: Bytes::new() };
        let welcome = |ack, nonce| Letter::Ack { to: own, ack, kind: AckKind::Welcome, nonce };
        let mut stream = Stream::default();
        assert!(stream.accept(waiting(), now, &mut work));
        stream.take(own, 7, &welcome(0, 1), now, &mut work);
        assert!(matches!(work.letters.last(), Some(Letter::Data { to: 7, seq: 1, .. })));
        stream.doubt(now);
        stream.run(now + DELIVERY_HELLO_WAIT, &mut work);
        assert!(matches!(work.letters.last(), Some(Letter::Hello { first: 1, nonce: 2 })));
        stream.take(own, 7, &Letter::Ack { to: own, ack: 1, kind: AckKind::Progress, nonce: 0 }, now, &mut work);
        stream.take(own, 8, &welcome(0, 2), now, &mut work);
        assert!(stream.accept(waiting(), now, &mut work));
        assert!(matches!(work.letters.last(), Some(Letter::Hello { first: 2, nonce: 3 })));
        stream.take(own, 8, &welcome(1, 3), now, &mut work);
        assert!(matches!(work.letters.last(), Some(Letter::Data { to: 8, seq: 2, .. })));
        // However it came about: repeating what the other side cannot take yet would help nobody.
        stream.take(own, 8, &Letter::Ack { to: own, ack: 0, kind: AckKind::Gap, nonce: 0 }, now, &mut work);
        assert!(matches!(work.letters.last(), Some(Letter::Hello { first: 2, nonce: 4 })));
    }
}
