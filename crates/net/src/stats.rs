//! Counters by transport. One cache line group per worker so that workers do not slow each other.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::proto::Proto;

/// What happened on one transport since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtoStats {
    /// Messages handed to the handler.
    pub received: u64,
    /// Messages handed to the system or queued.
    pub sent: u64,
    /// Received messages thrown away: truncated, empty, or from a refused connection.
    pub dropped: u64,
    /// Messages that could not be sent.
    pub send_errors: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections opened from here.
    pub connected: u64,
    /// Connections that ended, for any reason.
    pub closed: u64,
    /// Connections refused because of the limit.
    pub refused: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Received,
    Sent,
    Dropped,
    SendErrors,
    Accepted,
    Connected,
    Closed,
    Refused,
}

const COUNTERS: usize = 8;

#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    values: [[AtomicU64; COUNTERS]; Proto::ALL.len()],
}

impl Counters {
    pub(crate) fn add(&self, proto: Proto, counter: Counter, count: u64) {
        if let Some(cell) = self.values.get(proto.index()).and_then(|row| row.get(counter as usize)) {
            cell.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_to(&self, proto: Proto, total: &mut ProtoStats) {
        let Some([received, sent, dropped, send_errors, accepted, connected, closed, refused]) =
            self.values.get(proto.index())
        else {
            return;
        };
        total.received += received.load(Ordering::Relaxed);
        total.sent += sent.load(Ordering::Relaxed);
        total.dropped += dropped.load(Ordering::Relaxed);
        total.send_errors += send_errors.load(Ordering::Relaxed);
        total.accepted += accepted.load(Ordering::Relaxed);
        total.connected += connected.load(Ordering::Relaxed);
        total.closed += closed.load(Ordering::Relaxed);
        total.refused += refused.load(Ordering::Relaxed);
    }
}
