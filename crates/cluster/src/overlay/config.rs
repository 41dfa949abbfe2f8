//! What an overlay node is started with; checks it and does nothing.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::ConfigError;
use crate::ids::{ClusterId, NodeId};

/// Times of the failure detector. With the defaults a node that falls silent is known everywhere in about two seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayTimers {
    /// Silence of a linked node after which it is probed. 1 s.
    pub probe_interval: Duration,
    /// Wait for the answer of a probe before others are asked to try; above the round trip of a loaded network. 200 ms.
    pub probe_timeout: Duration,
    /// Wait for what those others find before the node is suspected. 300 ms.
    pub indirect_timeout: Duration,
    /// How long a node suspected by at least three others has for an objection. 900 ms.
    pub suspicion_min: Duration,
    /// How long a node suspected by one has. 1800 ms.
    pub suspicion_max: Duration,
    /// The least time when the suspicion began with a closed connection, which is stronger evidence. 400 ms.
    pub suspicion_closed: Duration,
}

impl Default for OverlayTimers {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(200),
            indirect_timeout: Duration::from_millis(300),
            suspicion_min: Duration::from_millis(900),
            suspicion_max: Duration::from_millis(1_800),
            suspicion_closed: Duration::from_millis(400),
        }
    }
}

/// Configuration of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The own id.
    pub node_id: NodeId,
    /// Where others reach this node.
    pub addr: SocketAddr,
    /// Core nodes: one that runs is enough, it names all the others. Empty at the first node of a cluster.
    pub contacts: Vec<(NodeId, SocketAddr)>,
    /// Times.
    pub timers: OverlayTimers,
}

impl OverlayConfig {
    /// A configuration with default times.
    #[must_use]
    pub fn new(cluster: ClusterId, node_id: NodeId, addr: SocketAddr, contacts: Vec<(NodeId, SocketAddr)>) -> Self {
        Self { cluster, node_id, addr, contacts, timers: OverlayTimers::default() }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.cluster.0 <= 0 {
            return Err(ConfigError::ClusterId(self.cluster));
        }
        let ids = self.contacts.iter().map(|(id, _)| *id);
        if let Some(id) = ids.chain([self.node_id]).find(|id| id.0 <= 0) {
            return Err(ConfigError::NodeId(id));
        }
        if let Some((id, _)) = self.contacts.iter().find(|(id, _)| *id == self.node_id) {
            return Err(ConfigError::NodeId(*id));
        }
        let timers = &self.timers;
        let all = [
            timers.probe_interval,
            timers.probe_timeout,
            timers.indirect_timeout,
            timers.suspicion_min,
            timers.suspicion_max,
            timers.suspicion_closed,
        ];
        if all.iter().any(Duration::is_zero) { Err(ConfigError::ZeroTimer) } else { Ok(()) }
    }
}
