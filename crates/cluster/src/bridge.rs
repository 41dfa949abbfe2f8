//! Packets from this cluster to another one over a bridge (OpenSIPS 4.0, table `clusterer_bridge`): in which order
//! destinations are tried, and what is done when one fails. What is received over one is judged in `receive`.
//!
//! A packet goes to one destination. It goes to the next one only when it is certain that it has not arrived: it was refused
//! at once, or its connection could not be made. What was written to a connection that broke later is not sent again.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;
use tandem_bin::{BridgeTrailer, PacketWriter};

use crate::bridge_waiting::{Waiting, WaitingPackets};
use crate::config::{Bridge, BridgePeer};
use crate::error::SendError;
use crate::explain::{Explanation, Subject};
use crate::ids::{ClusterId, Now};
use crate::limits::{
    BRIDGE_ADDRS_MAX, BRIDGE_HOLD, BRIDGE_PASS_OVER, BRIDGE_RESOLVE_EVERY, BRIDGE_RESOLVE_RETRY, BRIDGE_WARN_EVERY,
    BRIDGES_MAX,
};
use crate::log::LogEvent;
use crate::node::ClusterNode;
use crate::outbox::{Outbox, Output};
use crate::url::{BinUrl, Transport};

/// What became of packets over bridges since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgeCounts {
    /// Packets handed to a destination, each counted once per bridge.
    pub sent: u64,
    /// How often a packet went to a further destination because the one before failed.
    pub moved: u64,
    /// Packets that no destination of their bridge took.
    pub lost: u64,
}

/// One entry of `dst_node_csv`.
#[derive(Debug)]
struct BridgeDestination {
    url: BinUrl,
    /// All addresses of the name, in the order of the resolver; old ones stay until there are new ones.
    addrs: Vec<SocketAddr>,
    /// When a name is asked for next; never for an address.
    ask_at: Option<Instant>,
}

impl BridgeDestination {
    fn new(url: BinUrl, now: Instant) -> Self {
        let addrs: Vec<SocketAddr> = url.literal_addr().into_iter().collect();
        let ask_at = addrs.is_empty().then_some(now);
        Self { url, addrs, ask_at }
    }
}

/// A bridge, and what is known of its far end.
#[derive(Debug)]
struct BridgeState {
    /// Says which bridge a packet belongs to after a reload.
    id: u64,
    bridge: Bridge,
    destinations: Vec<BridgeDestination>,
    /// Losses that no log line has told yet.
    untold: u64,
    warned: Option<Instant>,
}

impl BridgeState {
    fn is_same_bridge(&self, other: &Bridge) -> bool {
        (self.bridge.cluster, self.bridge.to_cluster) == (other.cluster, other.to_cluster)
            && self.bridge.send_shtag == other.send_shtag
    }

    /// Addresses in the order in which they are tried.
    fn addrs(&self) -> impl Iterator<Item = (Transport, SocketAddr)> + '_ {
        let all = self.destinations.iter();
        all.flat_map(|to| to.addrs.iter().map(|addr| (to.url.transport(), *addr))).take(BRIDGE_ADDRS_MAX)
    }
}

/// All bridges of a process.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    list: Vec<BridgeState>,
    next_id: u64,
    /// Addresses that failed, and until when others are preferred to them.
    failed: Vec<(SocketAddr, Instant)>,
    waiting: WaitingPackets,
    counts: BridgeCounts,
}

impl Bridges {
    fn replace(&mut self, bridges: Vec<Bridge>, now: Instant) {
        let mut before = std::mem::take(&mut self.list);
        for bridge in bridges.into_iter().take(BRIDGES_MAX) {
            let known = before.iter().position(|state| state.is_same_bridge(&bridge));
            let mut known = known.map(|at| before.swap_remove(at));
            let destinations = bridge.destinations.iter().map(|url| {
                let mut to = BridgeDestination::new(url.clone(), now);
                let old = known.iter().flat_map(|state| &state.destinations).find(|old| old.url == *url);
                if let (true, Some(old)) = (to.addrs.is_empty(), old) {
                    to.addrs.clone_from(&old.addrs);
                }
                to
            });
            let destinations = destinations.collect();
            let (untold, warned) = known.as_ref().map_or((0, None), |state| (state.untold, state.warned));
            let id = known.take().map_or(self.next_id, |state| state.id);
            self.next_id = self.next_id.max(id + 1);
            self.list.push(BridgeState { id, bridge, destinations, untold, warned });
        }
        let list = &self.list;
        self.waiting.retain(|packet| list.iter().any(|state| state.id == packet.bridge));
        self.failed.retain(|(addr, _)| list.iter().any(|state| state.addrs().any(|(_, known)| known == *addr)));
    }

    fn is_destination(&self, addr: SocketAddr) -> bool {
        self.list.iter().any(|state| state.addrs().any(|(_, known)| known == addr))
    }

    /// At most one entry per address of a bridge.
    fn pass_over(&mut self, addr: SocketAddr, now: Instant) {
        self.failed.retain(|(known, until)| *known != addr && *until > now);
        if self.is_destination(addr) {
            self.failed.push((addr, now + BRIDGE_PASS_OVER));
        }
    }

    fn is_failed(&self, addr: SocketAddr, now: Instant) -> bool {
        self.failed.iter().any(|(known, until)| *known == addr && *until > now)
    }

    /// The next address for a packet: one that works before one that has failed lately, each once.
    fn next(&self, state: &BridgeState, tried: &[SocketAddr], now: Instant) -> Option<(Transport, SocketAddr)> {
        let mut left = state.addrs().filter(|(_, addr)| !tried.contains(addr));
        let first = left.next()?;
        Some(std::iter::once(first).chain(left).find(|(_, addr)| !self.is_failed(*addr, now)).unwrap_or(first))
    }

    /// Asks for the names that are due, each once.
    fn ask(&mut self, now: Instant, out: &mut Outbox) {
        let mut asked: Vec<BinUrl> = Vec::new();
        for to in self.list.iter_mut().flat_map(|state| &mut state.destinations) {
            if to.ask_at.is_none_or(|at| at > now) {
                continue;
            }
            // Until the answer comes, if ever.
            to.ask_at = Some(now + BRIDGE_RESOLVE_RETRY);
            if !asked.contains(&to.url) {
                asked.push(to.url.clone());
                out.push(Output::Resolve { url: to.url.clone() });
            }
        }
    }

    /// Takes an answer; true when an address of a bridge has changed.
    fn resolved(&mut self, url: &str, addrs: &[SocketAddr], now: Instant) -> bool {
        let mut is_changed = false;
        for to in self.list.iter_mut().flat_map(|state| &mut state.destinations) {
            if to.url.as_str() != url || to.ask_at.is_none() || addrs.is_empty() {
                continue;
            }
            to.ask_at = Some(now + BRIDGE_RESOLVE_EVERY);
            let addrs: Vec<SocketAddr> = addrs.iter().copied().take(BRIDGE_ADDRS_MAX).collect();
            is_changed |= to.addrs != addrs;
            to.addrs = addrs;
        }
        is_changed
    }

    fn lost(&mut self, bridge: u64, now: Instant, out: &mut Outbox) {
        self.counts.lost += 1;
        let Some(state) = self.list.iter_mut().find(|state| state.id == bridge) else { return };
        state.untold += 1;
        if state.warned.is_some_and(|at| now.saturating_duration_since(at) < BRIDGE_WARN_EVERY) {
            return;
        }
        state.warned = Some(now);
        let urls: Vec<&str> = state.destinations.iter().map(|to| to.url.as_str()).collect();
        out.log(LogEvent::BridgeLost {
            cluster: state.bridge.cluster,
            to_cluster: state.bridge.to_cluster,
            count: std::mem::take(&mut state.untold),
            destinations: urls.join(","),
            has_address: state.addrs().next().is_some(),
        });
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let asks = self.list.iter().flat_map(|state| &state.destinations).filter_map(|to| to.ask_at);
        asks.chain(self.waiting.oldest().map(|at| at + BRIDGE_HOLD)).min()
    }
}

impl ClusterNode {
    /// Takes new bridges (`clusterer:reload`), at most [`BRIDGES_MAX`]. Names among their destinations are asked for; those
    /// that are known go on with the addresses they have. Their far ends may send to this side, too.
    pub fn set_bridges(&mut self, bridges: Vec<Bridge>, now: Now) {
        self.bridges.replace(bridges, now.mono);
        self.bridges.ask(now.mono, &mut self.out);
        self.accept_far_ends();
    }

    fn accept_far_ends(&mut self) {
        let peers = self.bridges.list.iter().flat_map(|state| {
            let (src_cluster, cluster) = (state.bridge.to_cluster, state.bridge.cluster);
            state.addrs().map(move |(_, addr)| BridgePeer { src_cluster, cluster, ip: addr.ip() })
        });
        let mut peers: Vec<BridgePeer> = peers.collect();
        peers.extend_from_slice(&self.configured_peers);
        self.settings.bridge_peers = peers;
    }

    pub(crate) fn resolve_bridges(&mut self, url: &str, addrs: &[SocketAddr], now: Now) {
        if self.bridges.resolved(url, addrs, now.mono) {
            self.accept_far_ends();
        }
    }

    pub(crate) fn explain_bridges(&mut self, now: Now) -> Vec<Explanation> {
        let (bridges, clusters) = (&self.bridges, &mut self.clusters);
        let explain = |state: &BridgeState| {
            let Bridge { cluster, to_cluster, send_shtag, .. } = &state.bridge;
            let own = clusters.iter_mut().find(|known| known.id == *cluster)?;
            let is_sender = own.sharing_tag(send_shtag).is_ok_and(|tag| tag.is_active);
            let (is_well, text) = match bridges.next(state, &[], now.mono) {
                _ if !is_sender => {
                    (true, format!("another node sends over it: sharing tag {send_shtag} is not active here"))
                }
                None => (false, "no destination has an address: correct the names in dst_node_csv".to_owned()),
                Some((_, to)) if bridges.is_failed(to, now.mono) => {
                    (false, format!("no destination could be reached in the last {} s", BRIDGE_PASS_OVER.as_secs()))
                }
                Some((_, to)) => (true, format!("packets go to {to}")),
            };
            let subject = Subject::Bridge(*to_cluster);
            Some(Explanation { cluster: *cluster, subject, is_well, text, history: Vec::new() })
        };
        bridges.list.iter().filter_map(explain).collect()
    }

    pub(crate) fn run_bridges(&mut self, now: Now) {
        self.bridges.ask(now.mono, &mut self.out);
        self.bridges.waiting.forget_before(now.mono, BRIDGE_HOLD);
    }

    /// What became of packets over bridges.
    #[must_use]
    pub fn bridge_counts(&self) -> BridgeCounts {
        self.bridges.counts
    }

    /// Sends a packet of a registered capability once over every bridge of the cluster whose tag is active here. Over how
    /// many: it may still turn out that no destination can be reached, which is counted and logged.
    ///
    /// # Errors
    /// [`SendError::Unreachable`] when no tag is active here or no destination has an address, [`SendError::Disabled`]
    /// when the own node or the capability is, else [`SendError::Failed`].
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
        let mut active: SmallVec<[(u64, ClusterId); 4]> = SmallVec::new();
        for state in self.bridges.list.iter().filter(|state| state.bridge.cluster == cluster) {
            if own.sharing_tag(&state.bridge.send_shtag).is_ok_and(|tag| tag.is_active) {
                active.push((state.id, state.bridge.to_cluster));
            }
        }
        let mut sent = 0;
        for (bridge, to_cluster) in active {
            let mut writer = PacketWriter::new(capability.as_bytes(), packet_type, version);
            writer.raw(body).bridge_trailer(BridgeTrailer {
                src_cluster_id: cluster.0,
                cluster_id: to_cluster.0,
                src_id: self.settings.node_id.0,
            });
            let bytes = writer.finish().map_err(|_| SendError::Failed)?;
            if self.out.is_full() {
                self.out.log_limited(LogEvent::OutboxFull { cluster }, now.mono);
                self.bridges.counts.lost += 1;
                continue;
            }
            sent += usize::from(self.carry(Waiting { bridge, tried: SmallVec::new(), at: now.mono, bytes }, now));
        }
        match sent {
            0 if self.out.is_full() => Err(SendError::Failed),
            0 => Err(SendError::Unreachable),
            _ => Ok(sent),
        }
    }

    /// Sends a packet to the next destination it has not been sent to; false when there is none left.
    fn carry(&mut self, mut packet: Waiting, now: Now) -> bool {
        let state = self.bridges.list.iter().find(|state| state.id == packet.bridge);
        let found = state.and_then(|state| {
            let (transport, to) = self.bridges.next(state, &packet.tried, now.mono)?;
            Some((transport, to, state.bridge.cluster))
        });
        let Some((transport, to, cluster)) = found else {
            self.bridges.lost(packet.bridge, now.mono, &mut self.out);
            return false;
        };
        let own = self.clusters.iter().find(|known| known.id == cluster).and_then(|known| known.own.addr);
        let local_ip = own.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified() && ip.is_ipv4() == to.is_ipv4());
        if packet.tried.is_empty() {
            self.bridges.counts.sent += 1;
        } else {
            self.bridges.counts.moved += 1;
        }
        self.out.push(Output::SendBridge { to, transport, local_ip, bytes: packet.bytes.clone() });
        packet.tried.push(to);
        packet.at = now.mono;
        self.bridges.waiting.push(packet);
        true
    }

    /// An [`Output::SendBridge`] that was refused at once: it goes to the next destination, and this one is passed over for
    /// [`BRIDGE_PASS_OVER`].
    pub fn handle_bridge_undelivered(&mut self, to: SocketAddr, bytes: &Bytes, now: Now) {
        self.bridges.pass_over(to, now.mono);
        match self.bridges.waiting.take(to, bytes) {
            Some(packet) => {
                self.carry(packet, now);
            }
            // It was forgotten meanwhile: nobody knows where it may go.
            None => self.bridges.counts.lost += 1,
        }
    }

    /// No connection to that address can be made: what waited for it goes to the next destinations.
    pub(crate) fn bridge_connect_failed(&mut self, to: SocketAddr, now: Now) {
        if !self.bridges.is_destination(to) {
            return;
        }
        self.bridges.pass_over(to, now.mono);
        for packet in self.bridges.waiting.take_all(to) {
            self.carry(packet, now);
        }
    }

    /// A connection to that address has ended after it was open: what was written to it may have arrived.
    pub(crate) fn bridge_closed(&mut self, to: SocketAddr) {
        self.bridges.waiting.retain(|packet| !packet.is_at(to));
    }
}
