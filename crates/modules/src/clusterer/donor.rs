//! The sending side of syncs for modules: chunks are fetched while the link takes them, a turn at a time, so that a large
//! data set neither fills memory nor holds a worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_cluster::{ClusterId, NodeId, SyncError, SyncFlow, SyncRepair};
use tandem_module::node::NodeRef;
use tandem_module::worker;

use super::capability::{Registered, SyncSource, Work, count};
use super::service::Clusterer;

/// Chunks sent in one turn; then others get the worker.
const TURN_CHUNKS: usize = 256;
/// Chunks between two places at which a sync can be taken up again.
const MARK_CHUNKS: u64 = 2_048;
/// Pause before the next turn when the worker's mailbox is full.
const RETRY: Duration = Duration::from_millis(2);

/// One sync being sent.
pub(super) struct Donation {
    source: Box<dyn SyncSource>,
    /// A chunk fetched and not sent yet.
    chunk: Vec<u8>,
    sent: u64,
}

impl Registered {
    pub(super) fn begin_donation(
        self: &Arc<Self>,
        clusterer: &'static Clusterer,
        node: NodeRef,
        requester: NodeId,
        resume: Option<&[u8]>,
        repair: Option<SyncRepair>,
    ) {
        let registration = &self.registration;
        let (cluster, name, version) = (registration.cluster, registration.name, i32::from(registration.version));
        let begun = clusterer.with(node, |core| core.sync_begin(cluster, name, requester, version, clusterer.now()));
        if let Some(Err(error)) = begun {
            tracing::warn!("capability {name}: node {requester} asks for a sync that cannot be sent: {error}");
            return;
        }
        let source = match repair {
            Some(repair) => registration.user.donate_since(node, requester, repair),
            None => registration.user.donate(node, requester, resume),
        };
        let source = source.unwrap_or_else(|| Box::new(Nothing));
        self.donations.lock().insert(requester, Donation { source, chunk: Vec::new(), sent: 0 });
        self.pump(clusterer, node, requester);
    }

    /// Sends chunks until the window is full, the turn is over, or there are none left.
    pub(super) fn pump(self: &Arc<Self>, clusterer: &'static Clusterer, node: NodeRef, requester: NodeId) {
        let Some(mut donation) = self.donations.lock().remove(&requester) else { return };
        for _ in 0..TURN_CHUNKS {
            donation.chunk.clear();
            if !donation.source.next_chunk(&mut donation.chunk) {
                return self.finish(clusterer, node, requester);
            }
            match self.send_chunk(clusterer, node, requester, &mut donation) {
                Ok(SyncFlow::Ready) => {}
                Ok(SyncFlow::Wait) => {
                    self.donations.lock().insert(requester, donation);
                    return;
                }
                Err(error) => {
                    let name = self.registration.name;
                    tracing::warn!("capability {name}: the sync to node {requester} ended early: {error}");
                    return;
                }
            }
        }
        self.donations.lock().insert(requester, donation);
        self.next_turn(clusterer, node, requester);
    }

    fn send_chunk(
        &self,
        clusterer: &Clusterer,
        node: NodeRef,
        requester: NodeId,
        donation: &mut Donation,
    ) -> Result<SyncFlow, SyncError> {
        let (cluster, name) = (self.registration.cluster, self.registration.name);
        let now = clusterer.now();
        let sent = clusterer.with(node, |core| core.sync_chunk(cluster, name, requester, &donation.chunk, now));
        match sent.unwrap_or(Err(SyncError::UnknownCluster)) {
            Ok(flow) => {
                donation.sent += 1;
                count(&self.counters.chunks_sent, 1);
                if donation.sent.is_multiple_of(MARK_CHUNKS)
                    && let Some(cursor) = donation.source.cursor()
                {
                    // A failure shows with the next chunk.
                    let _ = clusterer.with(node, |core| core.sync_mark(cluster, name, requester, &cursor, now));
                }
                Ok(flow)
            }
            Err(SyncError::ChunkTooLong(len)) => {
                count(&self.counters.chunks_refused, 1);
                tracing::warn!("capability {name}: a record of {len} bytes fits no packet and is not synced");
                Ok(SyncFlow::Ready)
            }
            Err(error) => Err(error),
        }
    }

    fn finish(&self, clusterer: &Clusterer, node: NodeRef, requester: NodeId) {
        let (cluster, name) = (self.registration.cluster, self.registration.name);
        match clusterer.with(node, |core| core.sync_end(cluster, name, requester, clusterer.now())) {
            Some(Ok(chunks)) => {
                count(&self.counters.donations, 1);
                tracing::info!("capability {name}: node {requester} was sent {chunks} chunks");
            }
            Some(Err(error)) => tracing::warn!("capability {name}: the sync to node {requester} failed: {error}"),
            None => {}
        }
    }

    fn next_turn(self: &Arc<Self>, clusterer: &'static Clusterer, node: NodeRef, requester: NodeId) {
        let Some(workers) = node.workers() else { return };
        let go_on = |entry: Arc<Registered>| {
            move |at: Instant| {
                entry.push(Work::Continue(requester), at);
                entry.run(clusterer, node);
            }
        };
        if !workers.post(worker::current(), Box::new(go_on(self.clone()))) {
            workers.after(worker::current(), tandem_module::clock::now() + RETRY, Box::new(go_on(self.clone())));
        }
    }
}

struct Nothing;

impl SyncSource for Nothing {
    fn next_chunk(&mut self, _chunk: &mut Vec<u8>) -> bool {
        false
    }
}

/// Sync packets that were handed to a connection and that the peer has not taken yet.
#[derive(Default)]
pub(super) struct Unwritten {
    /// Cluster, next hop, its listener, packets.
    waiting: Vec<(ClusterId, NodeId, std::net::SocketAddr, usize)>,
    pub(super) is_armed: bool,
}

/// Bytes that may wait on a connection while a sync goes on: little enough that pings behind them are in time.
pub(super) const BACKLOG_MAX: usize = 256 * 1024;
/// Between two looks at a connection that has more.
pub(super) const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

impl Unwritten {
    pub(super) fn add(&mut self, cluster: ClusterId, hop: NodeId, to: std::net::SocketAddr) {
        match self.waiting.iter_mut().find(|(known, node, addr, _)| (*known, *node, *addr) == (cluster, hop, to)) {
            Some((.., packets)) => *packets += 1,
            None => self.waiting.push((cluster, hop, to, 1)),
        }
    }

    /// Takes what has been written, by `is_written` of the listener.
    pub(super) fn take_written(
        &mut self,
        mut is_written: impl FnMut(std::net::SocketAddr) -> bool,
    ) -> Vec<(ClusterId, NodeId, usize)> {
        let mut written = Vec::new();
        self.waiting.retain(|(cluster, node, to, packets)| {
            let is_done = is_written(*to);
            if is_done {
                written.push((*cluster, *node, *packets));
            }
            !is_done
        });
        written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_count_as_written_when_the_connection_has_taken_what_was_before_them() {
        let slow: std::net::SocketAddr = ([127, 0, 0, 1], 5555).into();
        let quick: std::net::SocketAddr = ([127, 0, 0, 2], 5555).into();
        let mut unwritten = Unwritten::default();
        unwritten.add(ClusterId(1), NodeId(2), slow);
        unwritten.add(ClusterId(1), NodeId(2), slow);
        unwritten.add(ClusterId(1), NodeId(3), quick);
        assert_eq!(unwritten.take_written(|to| to == quick), [(ClusterId(1), NodeId(3), 1)]);
        assert!(!unwritten.is_empty());
        assert_eq!(unwritten.take_written(|_| true), [(ClusterId(1), NodeId(2), 2)]);
        assert!(unwritten.is_empty());
    }
}
