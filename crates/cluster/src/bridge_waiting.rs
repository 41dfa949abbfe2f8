//! Packets over bridges whose connection may still turn out impossible, kept for a bounded time and in a bounded number so
//! that they can go to another destination. Chooses no destination.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::limits::{BRIDGE_WAITING_BYTES_MAX, BRIDGE_WAITING_MAX};

/// A packet that was handed to a destination.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Which bridge it goes over.
    pub(crate) bridge: u64,
    /// Where it was sent to; the last one is where it is now.
    pub(crate) tried: SmallVec<[SocketAddr; 2]>,
    /// When it was sent there.
    pub(crate) at: Instant,
    pub(crate) bytes: Bytes,
}

impl Waiting {
    pub(crate) fn is_at(&self, to: SocketAddr) -> bool {
        self.tried.last() == Some(&to)
    }
}

/// Oldest first.
#[derive(Debug, Default)]
pub(crate) struct WaitingPackets {
    queue: VecDeque<Waiting>,
    bytes: usize,
}

impl WaitingPackets {
    /// Remembers one more; the oldest ones are forgotten for it when there are too many. They have been with their
    /// destination for longest, so most likely arrived.
    pub(crate) fn push(&mut self, packet: Waiting) {
        self.bytes += packet.bytes.len();
        self.queue.push_back(packet);
        while self.queue.len() > BRIDGE_WAITING_MAX || self.bytes > BRIDGE_WAITING_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(packet) = self.queue.pop_front() {
            self.bytes = self.bytes.saturating_sub(packet.bytes.len());
        }
    }

    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.queue.front().map(|packet| packet.at)
    }

    /// Forgets what has been with its destination for `hold`.
    pub(crate) fn forget_before(&mut self, now: Instant, hold: Duration) {
        while self.oldest().is_some_and(|at| now.saturating_duration_since(at) >= hold) {
            self.forget_oldest();
        }
    }

    /// Takes out one packet; the newest of equal ones.
    pub(crate) fn take(&mut self, to: SocketAddr, bytes: &Bytes) -> Option<Waiting> {
        let at = self.queue.iter().rposition(|packet| packet.is_at(to) && packet.bytes == *bytes)?;
        let packet = self.queue.remove(at)?;
        self.bytes = self.bytes.saturating_sub(packet.bytes.len());
        Some(packet)
    }

    /// Takes out all that are with a destination, oldest first.
    pub(crate) fn take_all(&mut self, to: SocketAddr) -> Vec<Waiting> {
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|packet| packet.is_at(to));
        self.queue = left.into();
        self.bytes = self.queue.iter().map(|packet| packet.bytes.len()).sum();
        taken
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Waiting) -> bool) {
        self.queue.retain(keep);
        self.bytes = self.queue.iter().map(|packet| packet.bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at: Instant, to: SocketAddr, len: usize) -> Waiting {
        Waiting { bridge: 0, tried: SmallVec::from_slice(&[to]), at, bytes: Bytes::from(vec![7; len]) }
    }

    #[test]
    fn number_bytes_and_time_are_bounded() {
        let (now, to) = (Instant::now(), ([127, 0, 0, 1], 5555).into());
        let mut waiting = WaitingPackets::default();
        for ms in 0..2 * BRIDGE_WAITING_MAX as u64 {
            waiting.push(packet(now + Duration::from_millis(ms), to, 1));
        }
        assert_eq!((waiting.queue.len(), waiting.bytes), (BRIDGE_WAITING_MAX, BRIDGE_WAITING_MAX));
        let end = now + Duration::from_millis(2 * BRIDGE_WAITING_MAX as u64);
        waiting.forget_before(end, Duration::from_millis(10));
        assert_eq!((waiting.queue.len(), waiting.bytes), (9, 9));
        for _ in 0..3 {
            waiting.push(packet(end, to, BRIDGE_WAITING_BYTES_MAX / 2));
        }
        assert_eq!((waiting.queue.len(), waiting.bytes), (2, BRIDGE_WAITING_BYTES_MAX));
    }

    #[test]
    fn a_packet_is_found_where_it_is_now_only() {
        let (now, one, two): (_, SocketAddr, SocketAddr) =
            (Instant::now(), ([127, 0, 0, 1], 5555).into(), ([127, 0, 0, 2], 5555).into());
        let mut waiting = WaitingPackets::default();
        waiting.push(packet(now, one, 1));
        waiting.push(packet(now, two, 2));
        let mut moved = packet(now, one, 3);
        moved.tried.push(two);
        waiting.push(moved);
        assert!(waiting.take(one, &Bytes::from(vec![7; 3])).is_none());
        assert_eq!(waiting.take(two, &Bytes::from(vec![7; 2])).map(|packet| packet.bytes.len()), Some(2));
        assert_eq!(waiting.take_all(two).iter().map(|packet| packet.bytes.len()).collect::<Vec<_>>(), [3]);
        assert_eq!((waiting.queue.len(), waiting.bytes), (1, 1));
        waiting.retain(|packet| !packet.is_at(one));
        assert_eq!((waiting.queue.len(), waiting.bytes), (0, 0));
    }
}
