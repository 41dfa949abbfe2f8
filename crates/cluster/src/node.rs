//! [`ClusterNode`]: one process in all its clusters. Dispatches; the decisions are in the parts.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tandem_bin::{Packet, Trailer};

use crate::bridge::Bridges;
use crate::capability::{CapabilityOptions, CapabilityStatus, Partition};
use crate::cluster::{Cluster, Ctx, Settings};
use crate::config::{BridgePeer, ClusterConfig, ClusterNodeConfig, Provisioning};
use crate::donor::SyncFlow;
use crate::error::{
    CapabilityError, ConfigError, MiSendError, RemoveNodeError, SendError, SetStatusError, SharingTagError, SyncError,
};
use crate::event::SharingTagReason;
use crate::explain::Explanation;
use crate::faults::Offenders;
use crate::ids::{ClusterId, ConnId, NodeId, Now};
use crate::limits::{CAPABILITY_DELIVERY, CAPABILITY_EXTRA, CAPABILITY_INTERNAL};
use crate::list::{CapabilityList, ClusterList, NodeCounts, SharingTagRow, TopologyList};
use crate::message::{AddrKind, RngSource, SentRequest, Tag, new_tag};
use crate::outbox::{Outbox, Output, SendClass};
use crate::receive::Received;
use crate::recent_tags::{HeldReply, RecentTags};

/// Why a packet was dropped. Only [`DropReason::Malformed`] is the fault of the sender's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// A half field, a count out of range, a missing trailer.
    Malformed,
    /// The source is the own id.
    OwnId,
    /// The cluster is none of the own ones.
    UnknownCluster,
    /// The own node is disabled in the cluster.
    OwnDisabled,
    /// The source is not known (and may not introduce itself with this packet).
    UnknownNode,
    /// A description that cannot be used.
    Refused,
    /// The address belongs to no node of the cluster.
    ForeignAddress,
    /// The source is disabled here.
    SourceDisabled,
    /// The family has no such packet.
    UnknownType,
    /// An update that is not newer than what is known, or names unknown nodes.
    Stale,
    /// No module registered the capability.
    UnknownCapability,
    /// The capability is disabled here.
    CapabilityDisabled,
    /// The destination is not known.
    UnknownDestination,
    /// The destination cannot be reached from here.
    NoRoute,
    /// The next hop is where the packet came from.
    Loop,
    /// A sync packet of the wrong version.
    SyncVersion,
    /// The sender speaks another version family: its numbers mean something else.
    ForeignFamily,
    /// A bridge packet that no configured peer may send.
    Bridge,
    /// The sender is parked: it sent too much that is malformed.
    Parked,
    /// The sender is an observer, which changes nothing.
    Observer,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Served here.
    Handled,
    /// Sent on to its destination or towards it.
    PassedOn,
    /// Dropped; no error is ever reported to the sender.
    Dropped(DropReason),
}

/// One process of the cluster layer.
///
/// After every call drain [`ClusterNode::poll_output`], then wait until
/// [`ClusterNode::poll_timeout`] or the next input.
pub struct ClusterNode {
    pub(crate) settings: Settings,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) bridges: Bridges,
    /// Peers of the configuration, beside the far ends of bridges.
    pub(crate) configured_peers: Vec<BridgePeer>,
    has_extensions: bool,
    pub(crate) out: Outbox,
    pub(crate) rng: Box<dyn RngSource + Send>,
    recent_tags: RecentTags,
    pub(crate) offenders: Offenders,
}

impl std::fmt::Debug for ClusterNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterNode").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl ClusterNode {
    /// Checks the configuration and starts: the first outputs are pings to all configured nodes.
    pub fn new(config: ClusterNodeConfig, mut rng: Box<dyn RngSource + Send>, now: Now) -> Result<Self, ConfigError> {
        config.check()?;
        let settings = Settings {
            node_id: config.node_id,
            provisioning: config.provisioning,
            timers: config.timers,
            sync: config.sync,
            is_rerouting_enabled: config.is_rerouting_enabled,
            bridge_peers: config.bridge_peers,
            tags: config.tags,
            parks_offenders: config.parks_offenders,
            incarnation: rng.next_u64(),
            roles: config.roles,
        };
        let has_extensions = config.has_extensions;
        let takes_over = config.tags.is_takeover_enabled;
        let clusters = config.clusters.into_iter();
        let clusters = clusters.map(|cluster| Cluster::new(cluster, has_extensions, takes_over, now.mono)).collect();
        let recent_tags = RecentTags::default();
        let mut node = Self {
            configured_peers: settings.bridge_peers.clone(),
            settings,
            clusters,
            bridges: Bridges::default(),
            has_extensions,
            out: Outbox::default(),
            rng,
            recent_tags,
            offenders: Offenders::default(),
        };
        node.set_bridges(config.bridges, now);
        // The own address is needed as the local end of connections.
        let unresolved = node.clusters.iter().filter(|cluster| cluster.own.addr.is_none());
        for cluster in unresolved {
            node.out.push(Output::Resolve { url: cluster.own.url.clone() });
        }
        node.run_due_links(now);
        Ok(node)
    }

    /// The own id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.settings.node_id
    }

    /// Where node records come from.
    #[must_use]
    pub fn provisioning(&self) -> Provisioning {
        self.settings.provisioning
    }

    /// Ids of the clusters this process is in.
    pub fn cluster_ids(&self) -> impl Iterator<Item = ClusterId> + '_ {
        self.clusters.iter().map(|cluster| cluster.id)
    }

    fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.id == id)
    }

    /// Runs `step` on one cluster, then whatever links became due by it.
    pub(crate) fn on<T>(
        &mut self,
        id: ClusterId,
        now: Now,
        step: impl FnOnce(&mut Cluster, &mut Ctx<'_>) -> T,
    ) -> Option<T> {
        self.on_message(id, now, |cluster, ctx| {
            let result = step(cluster, ctx);
            cluster.are_links_touched = true;
            result
        })
    }

    /// As [`ClusterNode::on`] for script messages and what else only shows that a link is good: not every message is worth a
    /// look at all links.
    pub(crate) fn on_message<T>(
        &mut self,
        id: ClusterId,
        now: Now,
        step: impl FnOnce(&mut Cluster, &mut Ctx<'_>) -> T,
    ) -> Option<T> {
        let cluster = self.clusters.iter_mut().find(|cluster| cluster.id == id)?;
        let mut ctx = Ctx { now, settings: &self.settings, out: &mut self.out };
        cluster.note_time(now.mono);
        let result = step(cluster, &mut ctx);
        finish(cluster, &mut ctx);
        Some(result)
    }

    pub(crate) fn on_all(&mut self, now: Now, mut step: impl FnMut(&mut Cluster, &mut Ctx<'_>)) {
        for cluster in &mut self.clusters {
            let mut ctx = Ctx { now, settings: &self.settings, out: &mut self.out };
            cluster.note_time(now.mono);
            step(cluster, &mut ctx);
            cluster.are_links_touched = true;
            finish(cluster, &mut ctx);
        }
    }

    fn run_due_links(&mut self, now: Now) {
        self.on_all(now, |_, _| {});
    }

    // ---- inputs ----

    /// A packet cut out by [`tandem_bin::BinFramer`]. `from` is the TCP peer, `conn` the caller's
    /// number of the connection, which may be one that this side opened.
    pub fn handle_packet(&mut self, from: SocketAddr, conn: ConnId, bytes: &Bytes, now: Now) -> Verdict {
        if self.settings.parks_offenders && self.offenders.is_parked(conn, now.mono) {
            return Verdict::Dropped(DropReason::Parked);
        }
        let parsed = Packet::parse(bytes);
        let verdict = match parsed {
            Err(_) => Verdict::Dropped(DropReason::Malformed),
            Ok(packet) => {
                let received = Received { ip: from.ip(), conn, packet, bytes };
                if packet.capability() == CAPABILITY_INTERNAL.as_bytes() {
                    self.handle_internal(&received, now)
                } else {
                    self.handle_addressed(&received, now)
                }
            }
        };
        if verdict == Verdict::Dropped(DropReason::Malformed) && self.settings.parks_offenders {
            self.note_malformed(from, conn, parsed.ok(), now);
        }
        verdict
    }

    fn handle_internal(&mut self, received: &Received<'_>, now: Now) -> Verdict {
        let mut reader = received.packet.reader();
        let (Ok(cluster), Ok(source)) = (reader.int(), reader.int()) else {
            return Verdict::Dropped(DropReason::Malformed);
        };
        if source == self.settings.node_id.0 {
            return Verdict::Dropped(DropReason::OwnId);
        }
        self.on(ClusterId(cluster), now, |cluster, ctx| cluster.receive_internal(ctx, received, NodeId(source)))
            .unwrap_or(Verdict::Dropped(DropReason::UnknownCluster))
    }

    fn handle_addressed(&mut self, received: &Received<'_>, now: Now) -> Verdict {
        let Ok((body, trailer)) = received.packet.addressed() else {
            return Verdict::Dropped(DropReason::Malformed);
        };
        let is_extra = received.packet.capability() == CAPABILITY_EXTRA.as_bytes();
        let is_bridge = trailer.is_bridge() && !is_extra;
        if trailer.src_id == self.settings.node_id.0 && !is_bridge {
            return Verdict::Dropped(DropReason::OwnId);
        }
        self.on_message(ClusterId(trailer.cluster_id), now, |cluster, ctx| {
            if is_bridge {
                cluster.receive_bridged(ctx, received)
            } else {
                cluster.receive_addressed(ctx, received, body, trailer)
            }
        })
        .unwrap_or(Verdict::Dropped(DropReason::UnknownCluster))
    }

    /// The transport could not send something to a node (connect failed, queue full, timeout).
    /// May be called once per lost packet or once per failure.
    pub fn handle_send_failed(&mut self, cluster: ClusterId, node: NodeId, now: Now) {
        self.on(cluster, now, |cluster, ctx| cluster.send_failed(ctx, node));
    }

    /// As [`ClusterNode::handle_send_failed`], giving the packet back: an addressed one is sent over
    /// what paths are left. True when it was sent again.
    pub fn handle_undelivered(&mut self, cluster: ClusterId, node: NodeId, bytes: &Bytes, now: Now) -> bool {
        self.on(cluster, now, |cluster, ctx| {
            cluster.send_failed(ctx, node);
            cluster.resend(ctx, bytes)
        })
        .unwrap_or(false)
    }

    /// A connection that nodes were heard on has closed: they are pinged at once, so that a killed
    /// process is noticed by the refused connection.
    pub fn handle_connection_closed(&mut self, conn: ConnId, now: Now) {
        self.offenders.forget(conn);
        self.on_all(now, |cluster, ctx| cluster.connection_closed(ctx, conn));
    }

    /// A connection opened to a node's listener was closed by the other side.
    pub fn handle_outgoing_closed(&mut self, to: SocketAddr, now: Now) {
        self.bridge_closed(to);
        self.on_all(now, |cluster, ctx| cluster.outgoing_closed(ctx, to));
    }

    /// A connection to a node's listener could not be opened: what was queued for it is lost. A node that was up is not any
    /// more; packets over a bridge go to its next destination.
    pub fn handle_connect_failed(&mut self, to: SocketAddr, now: Now) {
        self.bridge_connect_failed(to, now);
        self.on_all(now, |cluster, ctx| cluster.connect_failed(ctx, to));
    }

    /// The answer to [`Output::Resolve`], best address first; none when the name cannot be resolved now (it is asked for
    /// again with the next ping). A node has the first one, a destination of a bridge all.
    pub fn handle_resolved(&mut self, url: &str, addrs: &[SocketAddr], now: Now) {
        self.resolve_bridges(url, addrs, now);
        let addr = addrs.first().copied();
        self.on_all(now, |cluster, ctx| cluster.handle_resolved(ctx, url, addr));
    }

    /// Sync packets (class [`SendClass::Sync`]) have been written to the connection of a next hop.
    /// Needed only with [`crate::SyncSettings::has_flow_control`].
    pub fn handle_sync_written(&mut self, cluster: ClusterId, next_hop: NodeId, packet_count: usize, now: Now) {
        self.on(cluster, now, |cluster, ctx| cluster.sync_written(ctx, next_hop, packet_count));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.run_bridges(now);
        self.on_all(now, |cluster, ctx| cluster.handle_timeout(ctx));
    }

    /// When [`ClusterNode::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let clusters = self.clusters.iter().filter_map(|cluster| cluster.poll_timeout(&self.settings));
        clusters.chain(self.bridges.poll_timeout()).min()
    }

    /// The next thing to do; drain until `None` after every call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    // ---- script messages ----

    /// A new tag of a cluster; it counts as recent for [`ClusterNode::hold_reply`].
    pub fn new_tag(&mut self, cluster: ClusterId, now: Now) -> Tag {
        let tag = new_tag(cluster, self.settings.node_id, self.rng.as_mut());
        self.recent_tags.remember(tag.clone(), now.mono);
        tag
    }

    /// `cluster_broadcast_req()`. The tag is made and remembered before anything is sent.
    pub fn broadcast_request(&mut self, cluster: ClusterId, msg: &[u8], include_self: bool, now: Now) -> SentRequest {
        let tag = self.new_tag(cluster, now);
        let result = self
            .on_message(cluster, now, |cluster, ctx| cluster.broadcast_request(ctx, msg, &tag, include_self))
            .unwrap_or(Err(SendError::Failed));
        SentRequest { tag, result }
    }

    /// `cluster_send_req()`.
    pub fn send_request(&mut self, cluster: ClusterId, node: NodeId, msg: &[u8], now: Now) -> SentRequest {
        let tag = self.new_tag(cluster, now);
        let result = self
            .on_message(cluster, now, |cluster, ctx| cluster.send_message(ctx, node, msg, &tag, true))
            .unwrap_or(Err(SendError::Failed))
            .map(|()| 1);
        SentRequest { tag, result }
    }

    /// `cluster_send_rpl()`.
    pub fn send_reply(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
        msg: &[u8],
        tag: &[u8],
        now: Now,
    ) -> Result<(), SendError> {
        if tag.is_empty() {
            return Err(SendError::Disabled);
        }
        self.on_message(cluster, now, |cluster, ctx| cluster.send_message(ctx, node, msg, tag, false))
            .unwrap_or(Err(SendError::Failed))
    }

    /// Holds a reply that nobody waits for yet; false when its tag is not a recent own one.
    pub fn hold_reply(&mut self, tag: &[u8], reply: HeldReply, now: Now) -> bool {
        self.recent_tags.hold(tag, reply, now.mono)
    }

    /// Takes the replies held for a tag when the script begins to wait for it.
    pub fn take_held_replies(&mut self, tag: &[u8], now: Now) -> Vec<HeldReply> {
        self.recent_tags.take(tag, now.mono)
    }

    /// `cluster_check_addr()`: true when `addr` is that of another node of the cluster. For
    /// [`AddrKind::Bin`] a text that is no address is never one.
    #[must_use]
    pub fn check_addr(&self, cluster: ClusterId, addr: &str, kind: AddrKind) -> bool {
        self.cluster(cluster).is_some_and(|cluster| cluster.check_addr(addr, kind))
    }

    // ---- management commands ----

    /// `clusterer:send_mi`.
    pub fn send_mi(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
        command: &[u8],
        params: &[&[u8]],
        now: Now,
    ) -> Result<(), MiSendError> {
        self.on(cluster, now, |cluster, ctx| cluster.send_mi(ctx, node, command, params))
            .unwrap_or(Err(MiSendError::SendError))
    }

    /// `clusterer:broadcast_mi`, the sending half: the caller runs the command locally whatever this
    /// returns.
    pub fn broadcast_mi(
        &mut self,
        cluster: ClusterId,
        command: &[u8],
        params: &[&[u8]],
        now: Now,
    ) -> Result<usize, SendError> {
        self.on(cluster, now, |cluster, ctx| cluster.broadcast_mi(ctx, command, params))
            .unwrap_or(Err(SendError::Failed))
    }

    /// `clusterer:set_status`; without a node, or with the own id, the own node.
    pub fn set_status(
        &mut self,
        cluster: ClusterId,
        node: Option<NodeId>,
        is_enabled: bool,
        now: Now,
    ) -> Result<(), SetStatusError> {
        let own_id = self.settings.node_id;
        self.on(cluster, now, |cluster, ctx| match node.filter(|id| *id != own_id) {
            Some(id) => cluster.set_node_status(ctx, id, is_enabled),
            None => {
                cluster.set_own_status(ctx, is_enabled);
                Ok(())
            }
        })
        .unwrap_or(Err(SetStatusError::UnknownCluster))
    }

    /// `clusterer:set_cap_status`.
    pub fn set_cap_status(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        is_enabled: bool,
        now: Now,
    ) -> Result<(), CapabilityError> {
        self.on(cluster, now, |cluster, ctx| cluster.set_capability_status(ctx, capability, is_enabled))
            .unwrap_or(Err(CapabilityError::UnknownCluster))
    }

    /// `clusterer:remove_node`.
    pub fn remove_node(&mut self, cluster: ClusterId, node: NodeId, now: Now) -> Result<(), RemoveNodeError> {
        if self.settings.provisioning == Provisioning::Database {
            return Err(RemoveNodeError::DatabaseMode);
        }
        self.on(cluster, now, |cluster, ctx| {
            if ctx.own_roles(cluster.id).is_observer {
                return Err(RemoveNodeError::Role);
            }
            cluster.node(node).ok_or(RemoveNodeError::UnknownNode)?;
            cluster.remove_node(ctx, node);
            Ok(())
        })
        .unwrap_or(Err(RemoveNodeError::UnknownCluster))
    }

    /// `clusterer:reload`: new records of all clusters. Clusters that are gone are left, new ones
    /// joined, the counters of the others start again.
    pub fn reload(&mut self, clusters: Vec<ClusterConfig>, now: Now) -> Result<(), ConfigError> {
        let mut config = ClusterNodeConfig::new(self.settings.node_id, clusters);
        config.timers = self.settings.timers;
        config.sync = self.settings.sync;
        config.check()?;
        let ids: Vec<ClusterId> = config.clusters.iter().map(|c| c.cluster_id).collect();
        self.clusters.retain(|cluster| ids.contains(&cluster.id));
        for cluster in config.clusters {
            let id = cluster.cluster_id;
            if self.cluster(id).is_some() {
                self.on(id, now, |known, ctx| known.reload(ctx, cluster));
            } else {
                let takes_over = self.settings.tags.is_takeover_enabled;
                self.clusters.push(Cluster::new(cluster, self.has_extensions, takes_over, now.mono));
            }
        }
        self.run_due_links(now);
        Ok(())
    }

    /// `clusterer:list`.
    #[must_use]
    pub fn list(&self) -> Vec<ClusterList> {
        self.clusters.iter().map(Cluster::list).collect()
    }

    /// `clusterer:list_topology`.
    #[must_use]
    pub fn list_topology(&self) -> Vec<TopologyList> {
        let own_id = self.settings.node_id;
        self.clusters.iter().map(|cluster| cluster.list_topology(own_id)).collect()
    }

    /// `clusterer:list_cap`.
    #[must_use]
    pub fn list_cap(&self) -> Vec<CapabilityList> {
        self.clusters.iter().map(Cluster::list_capabilities).collect()
    }

    /// `clusterer:list_shtags`.
    #[must_use]
    pub fn list_shtags(&self) -> Vec<SharingTagRow> {
        self.clusters.iter().flat_map(|cluster| cluster.list_tags(self.settings.node_id)).collect()
    }

    /// The statistics of group `clusterer`.
    #[must_use]
    pub fn node_counts(&self) -> NodeCounts {
        let nodes = self.clusters.iter().flat_map(|cluster| &cluster.nodes);
        let (mut total, mut up) = (0, 0);
        for node in nodes {
            total += 1;
            up += usize::from(node.link.is_up());
        }
        NodeCounts { nodes: total, up, down: total - up }
    }

    // ---- sharing tags ----

    /// Reads a tag, which creates it as backup when it is not known. True for active. Also works for
    /// no cluster of this process, where every tag is backup.
    pub fn is_sharing_tag_active(&mut self, cluster: ClusterId, name: &str) -> bool {
        let cluster = self.clusters.iter_mut().find(|known| known.id == cluster);
        cluster.is_some_and(|known| known.sharing_tag(name).is_ok_and(|tag| tag.is_active))
    }

    /// Takes a tag for this node and tells all others.
    pub fn activate_sharing_tag(
        &mut self,
        cluster: ClusterId,
        name: &str,
        reason: SharingTagReason,
        now: Now,
    ) -> Result<(), SharingTagError> {
        self.on(cluster, now, |cluster, ctx| cluster.activate_tag(ctx, name, reason))
            .unwrap_or(Err(SharingTagError::UnknownCluster))
    }

    // ---- capabilities ----

    /// Registers a capability of a module of this process.
    pub fn register_capability(
        &mut self,
        cluster: ClusterId,
        name: &str,
        options: CapabilityOptions,
        now: Now,
    ) -> Result<(), CapabilityError> {
        self.on(cluster, now, |cluster, ctx| cluster.register_capability(ctx, name, options))
            .unwrap_or(Err(CapabilityError::UnknownCluster))
    }

    /// Reachable nodes that have the capability OK, this one first when its own is.
    #[must_use]
    pub fn capability_holders(&self, cluster: ClusterId, name: &str) -> Vec<NodeId> {
        self.cluster(cluster).map(|cluster| cluster.holders(self.settings.node_id, name)).unwrap_or_default()
    }

    /// Reachable other nodes that have the capability, in sync or not.
    #[must_use]
    pub fn capability_members(&self, cluster: ClusterId, name: &str) -> Vec<NodeId> {
        self.cluster(cluster).map(|cluster| cluster.members(name).into_vec()).unwrap_or_default()
    }

    /// In one sentence each, what is wrong: nodes that are not up, capabilities that are not synced, tags that are not
    /// here. With a node only what concerns it.
    #[must_use]
    pub fn explain(&mut self, node: Option<NodeId>, now: Now) -> Vec<Explanation> {
        let settings = &self.settings;
        let clusters = self.clusters.iter_mut().flat_map(|cluster| cluster.explain(settings, node, now));
        let mut all: Vec<Explanation> = clusters.collect();
        if node.is_none() {
            all.extend(self.explain_bridges(now));
        }
        all
    }

    /// State of a capability for status/report.
    #[must_use]
    pub fn capability_status(&self, cluster: ClusterId, name: &str) -> Option<CapabilityStatus> {
        Some(self.cluster(cluster)?.capability(name.as_bytes())?.status())
    }

    /// The own share of work among the nodes that have the capability OK; `None` when it is not
    /// registered.
    #[must_use]
    pub fn partition(&self, cluster: ClusterId, name: &str) -> Option<Partition> {
        self.cluster(cluster)?.partition(self.settings.node_id, name)
    }

    /// Asks for a sync at runtime; does nothing when one is wanted or running already.
    pub fn request_sync(&mut self, cluster: ClusterId, capability: &str, now: Now) -> Result<(), SyncError> {
        self.on(cluster, now, |cluster, ctx| cluster.request_sync(ctx, capability))
            .unwrap_or(Err(SyncError::UnknownCluster))
    }

    /// Begins to answer [`crate::Event::SyncRequested`]. An unfinished session with the same node is
    /// replaced.
    pub fn sync_begin(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        requester: NodeId,
        data_version: i32,
        now: Now,
    ) -> Result<(), SyncError> {
        self.on(cluster, now, |cluster, ctx| cluster.sync_begin(ctx, capability, requester, data_version))
            .unwrap_or(Err(SyncError::UnknownCluster))
    }

    /// Adds a chunk, which is never cut; packets leave as they fill up.
    pub fn sync_chunk(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        requester: NodeId,
        data: &[u8],
        now: Now,
    ) -> Result<SyncFlow, SyncError> {
        self.on(cluster, now, |cluster, ctx| cluster.sync_chunk(ctx, capability, requester, data))
            .unwrap_or(Err(SyncError::UnknownCluster))
    }

    /// Names a place at which the sync can be taken up again after a break: it comes back with the request. Nothing is
    /// sent to OpenSIPS nodes.
    pub fn sync_mark(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        requester: NodeId,
        cursor: &[u8],
        now: Now,
    ) -> Result<(), SyncError> {
        self.on(cluster, now, |cluster, ctx| cluster.sync_mark(ctx, capability, requester, cursor))
            .unwrap_or(Err(SyncError::UnknownCluster))
    }

    /// Gives a sync up that cannot be ended; the requester asks elsewhere after its time-out.
    pub fn sync_abort(&mut self, cluster: ClusterId, capability: &str, requester: NodeId, now: Now) {
        self.on(cluster, now, |cluster, _| cluster.end_session(capability, requester));
    }

    /// Ends the sync; the number of chunks sent.
    pub fn sync_end(
        &mut self,
        cluster: ClusterId,
        capability: &str,
        requester: NodeId,
        now: Now,
    ) -> Result<u32, SyncError> {
        self.on(cluster, now, |cluster, ctx| cluster.sync_end(ctx, capability, requester))
            .unwrap_or(Err(SyncError::UnknownCluster))
    }
}

/// Runs the links that a step made due.
fn finish(cluster: &mut Cluster, ctx: &mut Ctx<'_>) {
    if cluster.has_due_links {
        cluster.run_links(ctx);
    }
    cluster.settle_links(ctx.settings);
}

impl Cluster {
    fn send_failed(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let Some(node) = self.node_mut(id) else { return };
        let retries = node.record.no_ping_retries;
        let to = node.link.after_send_failure(retries);
        self.set_link(ctx, id, to);
    }

    fn resend(&mut self, ctx: &mut Ctx<'_>, bytes: &Bytes) -> bool {
        let Ok(packet) = Packet::parse(bytes) else { return false };
        if packet.capability() == CAPABILITY_INTERNAL.as_bytes() {
            return false;
        }
        let Ok((_, Trailer { dst_id, src_id, .. })) = packet.addressed() else { return false };
        let is_own = src_id == ctx.settings.node_id.0;
        if is_own && packet.capability() == CAPABILITY_DELIVERY.as_bytes() {
            self.letter_lost(ctx, NodeId(dst_id));
            return false;
        }
        self.route(ctx, NodeId(dst_id), SendClass::Message, bytes.clone()).is_ok()
    }

    fn probe(&mut self, ctx: &mut Ctx<'_>, ids: Vec<NodeId>, is_lost: bool) {
        for id in ids {
            let (now, timers) = (ctx.now.mono, &ctx.settings.timers);
            let is_due = self.node_mut(id).is_some_and(|node| {
                node.link.is_up() && node.record.is_enabled && node.link.may_probe(now, timers, is_lost)
            });
            if is_due && self.own.is_enabled {
                self.ping_now(ctx, id);
            }
        }
    }

    fn connection_closed(&mut self, ctx: &mut Ctx<'_>, conn: ConnId) {
        let mut ids = Vec::new();
        for node in &mut self.nodes {
            if node.link.forget_conn(conn) {
                ids.push(node.record.node_id);
            }
        }
        for id in &ids {
            self.direct_letters_lost(ctx, *id);
        }
        self.probe(ctx, ids, false);
    }

    pub(crate) fn nodes_at(&self, addr: SocketAddr) -> Vec<NodeId> {
        let nodes = self.nodes.iter().filter(|node| node.record.addr == Some(addr));
        nodes.map(crate::cluster::Node::id).collect()
    }

    fn outgoing_closed(&mut self, ctx: &mut Ctx<'_>, to: SocketAddr) {
        let ids = self.nodes_at(to);
        for id in &ids {
            self.direct_letters_lost(ctx, *id);
        }
        self.probe(ctx, ids, true);
    }

    fn connect_failed(&mut self, ctx: &mut Ctx<'_>, to: SocketAddr) {
        for id in self.nodes_at(to) {
            self.direct_letters_lost(ctx, id);
            self.send_failed(ctx, id);
        }
    }

    fn handle_resolved(&mut self, ctx: &mut Ctx<'_>, url: &str, addr: Option<SocketAddr>) {
        if !self.resolved(url, addr) {
            return;
        }
        let waiting: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|node| node.record.url.as_str() == url && node.record.is_enabled)
            .filter(|node| !node.link.is_up())
            .map(crate::cluster::Node::id)
            .collect();
        for id in waiting {
            self.set_link(ctx, id, crate::link::LinkState::RestartPinging);
        }
    }

    fn check_addr(&self, addr: &str, kind: AddrKind) -> bool {
        let asked = addr.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical());
        let is_bin = |record: &crate::config::NodeConfig| {
            record.addr.is_some_and(|known| Some(known.ip().to_canonical()) == asked)
        };
        self.nodes.iter().any(|node| {
            let sip_addr = node.record.sip_addr.as_str();
            // Deviation: a node that says no SIP address is taken to send its SIP from where it sends BIN; OpenSIPS never
            // finds such a node.
            if kind == AddrKind::Bin || sip_addr.is_empty() {
                return is_bin(&node.record);
            }
            let host = sip_host(sip_addr);
            host == addr
                || (asked.is_some() && host.parse().ok().map(|ip: std::net::IpAddr| ip.to_canonical()) == asked)
        })
    }
}

/// Host of a `sip_addr`: what stands before the port.
fn sip_host(sip_addr: &str) -> &str {
    match sip_addr.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => sip_addr.split_once(':').map_or(sip_addr, |(host, _)| host),
    }
}
