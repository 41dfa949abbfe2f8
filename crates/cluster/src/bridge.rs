//! Packets from this cluster to another one over a bridge (OpenSIPS 4.0, table `clusterer_bridge`). What is received over one
//! is judged in `receive`.

use std::net::SocketAddr;

use tandem_bin::{BridgeTrailer, PacketWriter};

use crate::config::{Bridge, BridgePeer};
use crate::error::SendError;
use crate::ids::{ClusterId, Now};
use crate::node::ClusterNode;
use crate::outbox::Output;

/// A bridge and what is known about the addresses of its far end.
#[derive(Debug)]
pub(crate) struct BridgeState {
    bridge: Bridge,
    addrs: Vec<Option<SocketAddr>>,
}

impl BridgeState {
    fn new(bridge: Bridge) -> Self {
        let addrs = bridge.destinations.iter().map(crate::url::BinUrl::literal_addr).collect();
        Self { bridge, addrs }
    }
}

impl ClusterNode {
    /// Takes new bridges (`clusterer:reload`). Names among their destinations are asked for. Their far ends may send to
    /// this side, too.
    pub fn set_bridges(&mut self, bridges: Vec<Bridge>) {
        self.bridges = bridges.into_iter().map(BridgeState::new).collect();
        for state in &self.bridges {
            for (url, addr) in state.bridge.destinations.iter().zip(&state.addrs) {
                if addr.is_none() {
                    self.out.push(Output::Resolve { url: url.clone() });
                }
            }
        }
        self.accept_far_ends();
    }

    fn accept_far_ends(&mut self) {
        let peers = self.bridges.iter().flat_map(|state| {
            let (src_cluster, cluster) = (state.bridge.to_cluster, state.bridge.cluster);
            state.addrs.iter().flatten().map(move |addr| BridgePeer { src_cluster, cluster, ip: addr.ip() })
        });
        let mut peers: Vec<BridgePeer> = peers.collect();
        peers.extend_from_slice(&self.configured_peers);
        self.settings.bridge_peers = peers;
    }

    pub(crate) fn resolve_bridges(&mut self, url: &str, addr: Option<SocketAddr>) {
        let mut is_known = false;
        for state in &mut self.bridges {
            for (known, slot) in state.bridge.destinations.iter().zip(&mut state.addrs) {
                if known.as_str() == url && addr.is_some() {
                    *slot = addr;
                    is_known = true;
                }
            }
        }
        if is_known {
            self.accept_far_ends();
        }
    }

    /// Sends a packet of a registered capability once over every bridge of the cluster whose tag is active here, to the
    /// first destination whose address is known. Over how many.
    pub fn send_bridged(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        packet_type: i32,
        version: u16,
        body: &[u8],
        now: Now,
    ) -> Result<usize, SendError> {
        let own = self.clusters.iter_mut().find(|known| known.id == cluster).ok_or(SendError::Failed)?;
        let is_enabled = own.capability(capability.as_bytes()).map(|cap| cap.is_enabled).ok_or(SendError::Failed)?;
        if !is_enabled || !own.own.is_enabled {
            return Err(SendError::Disabled);
        }
        let local_ip = own.own.addr.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
        let mut sent = 0;
        for state in self.bridges.iter().filter(|state| state.bridge.cluster == cluster) {
            if !own.sharing_tag(&state.bridge.send_shtag).is_ok_and(|tag| tag.is_active) {
                continue;
            }
            let urls = state.bridge.destinations.iter().zip(&state.addrs);
            let Some((url, to)) = urls.filter_map(|(url, addr)| Some((url, (*addr)?))).next() else { continue };
            let mut writer = PacketWriter::new(capability.as_bytes(), packet_type, version);
            writer.raw(body).bridge_trailer(BridgeTrailer {
                src_cluster_id: cluster.0,
                cluster_id: state.bridge.to_cluster.0,
                src_id: self.settings.node_id.0,
            });
            let bytes = writer.finish().map_err(|_| SendError::Failed)?;
            if self.out.is_full() {
                self.out.log_limited(crate::log::LogEvent::OutboxFull { cluster }, now.mono);
                return Err(SendError::Failed);
            }
            let local_ip = local_ip.filter(|ip| ip.is_ipv4() == to.is_ipv4());
            self.out.push(Output::SendBridge { to, transport: url.transport(), local_ip, bytes });
            sent += 1;
        }
        if sent == 0 { Err(SendError::Unreachable) } else { Ok(sent) }
    }
}
