//! Capabilities as a service for modules: register, send, be synced, donate, share work. The protocol is in
//! `tandem-cluster`; what is replicated belongs to the module.
//!
//! Everything a module is told about one capability comes from one queue, one after the other, in the order of the core, and
//! never under its lock. Data sets of any size pass in chunks: a donor is asked for the next one only while the link takes
//! it, so a sync needs the memory of a window, not of the data.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_cluster::{CapabilityOptions, ClusterId, Destination, NodeId, Partition, SendError, SyncRepair};
use tandem_module::node::NodeRef;

use super::donor::Donation;
use super::service::Clusterer;

/// Events that wait for a module that is slow; more packets are dropped and the capability is synced anew.
pub const QUEUE_MAX: usize = 65_536;
/// Bytes that wait for a module; same effect as [`QUEUE_MAX`].
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A packet of another node.
#[derive(Debug, Clone)]
pub struct ModulePacket {
    /// Originator.
    pub src: NodeId,
    /// Type inside the capability.
    pub packet_type: i32,
    /// Content version.
    pub version: u16,
    /// Content without the trailer.
    pub body: Bytes,
    /// Cluster it comes from when it came over a bridge.
    pub bridge_from: Option<ClusterId>,
}

/// What a module does with its capability. Calls never overlap and may send.
pub trait CapabilityUser: Send + Sync {
    /// A packet of another node. Packets that arrive during a sync follow after it.
    fn on_packet(&self, node: NodeRef, packet: &ModulePacket);

    /// A sync begins; the first chunk follows. With `repair_since` everything is here but what the donor changed from then
    /// on ([`CapabilityUser::donate_since`]).
    fn on_sync_started(&self, _node: NodeRef, _donor: NodeId, _repair_since: Option<Instant>) {}

    /// One chunk of a sync.
    fn on_chunk(&self, node: NodeRef, src: NodeId, data_version: i32, data: &Bytes);

    /// The data is complete. `had_donor` is false when a seed calls itself synced.
    fn on_synced(&self, _node: NodeRef, _had_donor: bool) {}

    /// Another node wants the data; `resume` is the last [`SyncSource::cursor`] it saw when an earlier sync broke off. Who
    /// cannot go on from there begins anew. `None` sends an empty sync.
    fn donate(&self, node: NodeRef, requester: NodeId, resume: Option<&[u8]>) -> Option<Box<dyn SyncSource>>;

    /// Another node of ours missed what this one changed since a moment: packets that the cluster gave up because that node
    /// was away or too slow. Unless a module can tell what that was, it sends everything.
    fn donate_since(&self, node: NodeRef, requester: NodeId, _repair: SyncRepair) -> Option<Box<dyn SyncSource>> {
        self.donate(node, requester, None)
    }

    /// A node became reachable or unreachable: shares of work and expectations may have changed.
    fn on_node(&self, _node: NodeRef, _id: NodeId, _is_up: bool) {}

    /// A sharing tag of the cluster became active or backup here.
    fn on_tag(&self, _node: NodeRef, _tag: &str, _is_active: bool) {}
}

/// Where the chunks of a sync come from.
pub trait SyncSource: Send {
    /// Writes the next chunk into `chunk`, which is empty; false when there is none left. A chunk that does not fit one
    /// packet is skipped and counted.
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> bool;

    /// A place at which the sync could be taken up again, told now and then to nodes of ours.
    fn cursor(&self) -> Option<Vec<u8>> {
        None
    }
}

/// How a module registers.
#[derive(Clone)]
pub struct Registration {
    /// Cluster of the data.
    pub cluster: ClusterId,
    /// Name all nodes of the cluster know it by.
    pub name: &'static str,
    /// Content version of packets and chunks sent.
    pub version: u16,
    /// Sync at start, and from whom.
    pub options: CapabilityOptions,
    /// Who is told.
    pub user: Arc<dyn CapabilityUser>,
}

/// Numbers of one capability since the start.
#[derive(Default)]
pub(super) struct Counters {
    /// Packets sent, one per node reached.
    pub(super) packets_sent: AtomicU64,
    /// Packets taken in.
    pub(super) packets_received: AtomicU64,
    /// Packets that could not be sent to anybody.
    pub(super) packets_failed: AtomicU64,
    /// Packets dropped because the module was too slow.
    pub(super) packets_lost: AtomicU64,
    /// Chunks sent as donor.
    pub(super) chunks_sent: AtomicU64,
    /// Chunks taken in.
    pub(super) chunks_received: AtomicU64,
    /// Chunks that did not fit a packet.
    pub(super) chunks_refused: AtomicU64,
    /// Syncs completed as receiver.
    pub(super) syncs: AtomicU64,
    /// Syncs completed as donor.
    pub(super) donations: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(u64::try_from(by).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// What waits for a capability.
#[derive(Debug)]
pub(super) enum Work {
    Packet(ModulePacket),
    Started {
        donor: NodeId,
        repair_since: Option<Instant>,
    },
    Chunk {
        src: NodeId,
        data_version: i32,
        data: Bytes,
    },
    Synced {
        had_donor: bool,
    },
    Requested {
        requester: NodeId,
        resume: Option<Bytes>,
        repair: Option<SyncRepair>,
    },
    /// A donation may go on: the window has room, or its turn has come again.
    Continue(NodeId),
    Aborted(NodeId),
    Node {
        id: NodeId,
        is_up: bool,
    },
    Tag {
        name: String,
        is_active: bool,
    },
}

impl Work {
    fn len(&self) -> usize {
        match self {
            Work::Packet(packet) => packet.body.len(),
            Work::Chunk { data, .. } => data.len(),
            _ => 0,
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    bytes: usize,
    is_running: bool,
    /// Something was dropped: ask for a sync when the queue is empty.
    has_lost: bool,
    /// Whose packets were dropped, and when first: asked for anew when the queue is empty.
    lost: Vec<(NodeId, Instant)>,
}

/// A registered capability.
pub(super) struct Registered {
    pub(super) registration: Registration,
    queue: Mutex<Queue>,
    pub(super) donations: Mutex<HashMap<NodeId, Donation>>,
    pub(super) counters: Counters,
}

/// Ends the turn of the thread that works on a queue, also when a module panics.
struct Turn<'a>(&'a Registered);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().is_running = false;
    }
}

impl Registered {
    pub(super) fn new(registration: Registration) -> Arc<Registered> {
        Arc::new(Registered {
            registration,
            queue: Mutex::default(),
            donations: Mutex::default(),
            counters: Counters::default(),
        })
    }

    pub(super) fn is(&self, cluster: ClusterId, name: &str) -> bool {
        self.registration.cluster == cluster && self.registration.name == name
    }

    /// Adds work. Called under the lock of the core, so that the order is its order.
    pub(super) fn push(&self, work: Work, now: Instant) {
        let mut queue = self.queue.lock();
        let is_full = queue.waiting.len() >= QUEUE_MAX || queue.bytes >= QUEUE_BYTES_MAX;
        if is_full && let Work::Packet(packet) = &work {
            if packet.bridge_from.is_some() {
                queue.has_lost = true;
            } else if !queue.lost.iter().any(|(node, _)| *node == packet.src) {
                queue.lost.push((packet.src, now));
            }
            count(&self.counters.packets_lost, 1);
            return;
        }
        queue.bytes += work.len();
        queue.waiting.push_back(work);
    }

    fn next(&self, clusterer: &Clusterer, node: NodeRef) -> Option<Work> {
        let mut queue = self.queue.lock();
        if let Some(work) = queue.waiting.pop_front() {
            queue.bytes = queue.bytes.saturating_sub(work.len());
            return Some(work);
        }
        let (has_lost, lost) = (std::mem::take(&mut queue.has_lost), std::mem::take(&mut queue.lost));
        if has_lost || !lost.is_empty() {
            drop(queue);
            let name = self.registration.name;
            tracing::error!("capability {name}: packets were lost because they came too fast; asking for a sync");
            self.ask_for_lost(clusterer, node, has_lost, lost);
            return self.next(clusterer, node);
        }
        queue.is_running = false;
        None
    }

    /// Works the queue off, unless another thread is doing it.
    pub(super) fn run(self: &Arc<Self>, clusterer: &'static Clusterer, node: NodeRef) {
        if std::mem::replace(&mut self.queue.lock().is_running, true) {
            return;
        }
        let turn = Turn(self);
        while let Some(work) = self.next(clusterer, node) {
            self.perform(clusterer, node, work);
        }
        // The queue says itself that nobody works on it; another thread may have begun since.
        std::mem::forget(turn);
    }

    fn perform(self: &Arc<Self>, clusterer: &'static Clusterer, node: NodeRef, work: Work) {
        let user = &self.registration.user;
        match work {
            Work::Packet(packet) => {
                count(&self.counters.packets_received, 1);
                user.on_packet(node, &packet);
            }
            Work::Started { donor, repair_since } => user.on_sync_started(node, donor, repair_since),
            Work::Chunk { src, data_version, data } => {
                count(&self.counters.chunks_received, 1);
                user.on_chunk(node, src, data_version, &data);
            }
            Work::Synced { had_donor } => {
                count(&self.counters.syncs, 1);
                user.on_synced(node, had_donor);
            }
            Work::Requested { requester, resume, repair } => {
                self.begin_donation(clusterer, node, requester, resume.as_deref(), repair);
            }
            Work::Continue(requester) => self.pump(clusterer, node, requester),
            Work::Aborted(requester) => {
                self.donations.lock().remove(&requester);
            }
            Work::Node { id, is_up } => user.on_node(node, id, is_up),
            Work::Tag { name, is_active } => user.on_tag(node, &name, is_active),
        }
    }

    /// Packets were dropped: nodes of ours tell again what they said, anything else a whole sync has to bring.
    fn ask_for_lost(&self, clusterer: &Clusterer, node: NodeRef, is_whole: bool, lost: Vec<(NodeId, Instant)>) {
        let Registration { cluster, name, .. } = self.registration;
        let mut is_whole = is_whole;
        for (src, since) in lost {
            let asked = clusterer.with(node, |core| core.request_repair(cluster, name, src, since, clusterer.now()));
            is_whole |= asked == Some(Ok(false));
        }
        if is_whole {
            self.request_sync(clusterer, node);
        }
    }

    fn request_sync(&self, clusterer: &Clusterer, node: NodeRef) {
        let Registration { cluster, name, .. } = self.registration;
        let asked = clusterer.with(node, |core| core.request_sync(cluster, name, clusterer.now()));
        if let Some(Err(error)) = asked {
            tracing::error!("capability {name}: no sync can be asked for: {error}");
        }
    }
}

/// A module's hold on its capability; cheap to copy.
#[derive(Clone)]
pub struct Capability {
    node: NodeRef,
    clusterer: &'static Clusterer,
    entry: Arc<Registered>,
}

impl std::fmt::Debug for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Registration { cluster, name, .. } = self.entry.registration;
        f.debug_struct("Capability").field("cluster", &cluster).field("name", &name).finish_non_exhaustive()
    }
}

impl Capability {
    pub(super) fn new(node: NodeRef, clusterer: &'static Clusterer, entry: Arc<Registered>) -> Capability {
        Capability { node, clusterer, entry }
    }

    /// The moment, as [`CapabilityUser::donate_since`] and others count it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clusterer.now().mono
    }

    /// Id of this node.
    #[must_use]
    pub fn own_id(&self) -> NodeId {
        self.clusterer.configuration.core.node_id
    }

    /// Sends to every reachable node of the cluster; to how many. Nodes of ours that have the capability get it in the order
    /// in which it was sent, or ask this one for what they missed: change first what is stored, then send.
    ///
    /// # Errors
    /// When nobody can be reached, when the own node or the capability is disabled, when the body does not fit a packet
    /// (65,515 bytes in all), or when too much waits to be sent.
    pub fn broadcast(&self, packet_type: i32, body: &[u8]) -> Result<usize, SendError> {
        self.send(Destination::All, packet_type, body)
    }

    /// Sends to one node.
    ///
    /// # Errors
    /// As [`Capability::broadcast`].
    pub fn send_to(&self, to: NodeId, packet_type: i32, body: &[u8]) -> Result<(), SendError> {
        self.send(Destination::Node(to), packet_type, body).map(|_| ())
    }

    /// As [`Capability::broadcast`], but only to nodes that have the capability, in sync or not.
    ///
    /// # Errors
    /// As [`Capability::broadcast`].
    pub fn tell_members(&self, packet_type: i32, body: &[u8]) -> Result<usize, SendError> {
        self.send(Destination::Members, packet_type, body)
    }

    /// Reachable other nodes that have the capability, in sync or not.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let Registration { cluster, name, .. } = self.entry.registration;
        self.clusterer.read(|core| core.capability_members(cluster, name)).unwrap_or_default()
    }

    fn send(&self, to: Destination, packet_type: i32, body: &[u8]) -> Result<usize, SendError> {
        let Registration { cluster, name, version, .. } = self.entry.registration;
        let now = self.clusterer.now();
        let sent = self
            .clusterer
            .with(self.node, |core| core.send_module_packet(cluster, to, name, packet_type, version, body, now));
        let sent = sent.unwrap_or(Err(SendError::Failed));
        match sent {
            Ok(nodes) => count(&self.entry.counters.packets_sent, nodes),
            // A node that is alone has nobody to tell.
            Err(SendError::Unreachable) => {}
            Err(_) => count(&self.entry.counters.packets_failed, 1),
        }
        sent
    }

    /// Sends over the bridges of the cluster whose tag is active here (OpenSIPS 4.0, `clusterer_bridge`); over how many. The
    /// first destination that takes the packet gets it; what none takes is counted (`bridge_packets_lost`).
    ///
    /// # Errors
    /// When no bridge could be used.
    pub fn send_bridged(&self, packet_type: i32, body: &[u8]) -> Result<usize, SendError> {
        let Registration { cluster, name, version, .. } = self.entry.registration;
        let now = self.clusterer.now();
        let sent =
            self.clusterer.with(self.node, |core| core.send_bridged(cluster, name, packet_type, version, body, now));
        sent.unwrap_or(Err(SendError::Failed))
    }

    /// Asks for a sync now (the `…_cluster_sync` commands); nothing when one is wanted or running.
    ///
    /// # Errors
    /// When the capability is disabled.
    pub fn request_sync(&self) -> Result<(), tandem_cluster::SyncError> {
        let Registration { cluster, name, .. } = self.entry.registration;
        let now = self.clusterer.now();
        let asked = self.clusterer.with(self.node, |core| core.request_sync(cluster, name, now));
        asked.unwrap_or(Err(tandem_cluster::SyncError::UnknownCluster))
    }

    /// Which share of partitioned work is this node's, among the reachable nodes that are in sync; nothing while this node
    /// is not and others are.
    #[must_use]
    pub fn partition(&self) -> Partition {
        let Registration { cluster, name, .. } = self.entry.registration;
        let share = self.clusterer.read(|core| core.partition(cluster, name)).flatten();
        share.unwrap_or(Partition::ALL)
    }

    /// Whether work on `key` is this node's (OpenSIPS: core hash of the key modulo the nodes, as for pinging in
    /// cooperation). All nodes that agree on who is there agree on who does it.
    #[must_use]
    pub fn is_mine(&self, key: &[u8]) -> bool {
        self.partition().has(tandem_sip::core_hash(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_exactly_one_node() {
        for count in 1..6 {
            for key in [&b"alice@example.com"[..], b"bob@example.com", b""] {
                let mine = (0..count)
                    .filter(|index| Partition { index: *index, count }.has(tandem_sip::core_hash(key)))
                    .count();
                assert_eq!(mine, 1);
            }
        }
    }
}
