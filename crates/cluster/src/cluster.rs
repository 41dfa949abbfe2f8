//! One cluster of this process: its nodes and the sending primitives. Reactions to packets are in
//! `receive`, commands in `command`.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tandem_bin::EncodeError;

use crate::capability::LocalCapability;
use crate::config::{BridgePeer, ClusterConfig, NodeConfig, Provisioning, SyncSettings, TagSettings, Timers};
use crate::delivery::Stream;
use crate::event::Event;
use crate::family::Family;
use crate::faults::Faults;
use crate::freshness::{Counter, Freshness};
use crate::ids::{ClusterId, ConnId, NodeId, Now};
use crate::limits::{CAPABILITIES_PER_NODE_MAX, PEER_TEXT_LEN_MAX, REPEAT_DELAY, REPEAT_LATE_DELAY};
use crate::link::{Link, LinkState, Step};
use crate::log::LogEvent;
use crate::message::Tag;
use crate::observe::Claims;
use crate::outbox::{Outbox, Output, SendClass, SendPacket};
use crate::packet::{Internal, InternalPacket, NodeIds, encode_internal};
use crate::role::NodeRole;
use crate::sharing_tag::SharingTag;

/// What is the same for all clusters of the process.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) node_id: NodeId,
    pub(crate) provisioning: Provisioning,
    pub(crate) timers: Timers,
    pub(crate) sync: SyncSettings,
    pub(crate) is_rerouting_enabled: bool,
    pub(crate) bridge_peers: Vec<BridgePeer>,
    pub(crate) tags: TagSettings,
    pub(crate) parks_offenders: bool,
    /// Tells this start of the node from others.
    pub(crate) incarnation: u64,
    pub(crate) roles: Vec<NodeRole>,
}

/// What every step needs: the time, the settings and where outputs go.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Now,
    pub(crate) settings: &'a Settings,
    pub(crate) out: &'a mut Outbox,
}

/// Another node of the cluster.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) record: NodeConfig,
    pub(crate) link: Link,
    /// Nodes it sees as up, without this one.
    pub(crate) neighbours: NodeIds,
    pub(crate) ls: Freshness,
    pub(crate) top: Freshness,
    pub(crate) cap: Freshness,
    /// Its capabilities and whether they are OK.
    pub(crate) capabilities: Vec<(Bytes, bool)>,
    /// First hop towards it; `None` when it cannot be reached.
    pub(crate) next_hop: Option<NodeId>,
    /// As last told by an event.
    pub(crate) is_reachable: bool,
    /// Since when it is.
    pub(crate) reachable_since: Instant,
    pub(crate) is_foreign_family: bool,
    /// Learned from the network, not provisioned: its address may turn out to be another.
    pub(crate) is_learned: bool,
    /// Nodes listed in its last pong.
    pub(crate) ponged_nodes: NodeIds,
    /// When it was last sent a topology of its own.
    pub(crate) topology_sent: Option<Instant>,
    /// It should be sent one with the next repeat.
    pub(crate) is_topology_owed: bool,
    /// How often it was asked for its topology, see [`Cluster::ask_for_topology`].
    pub(crate) topology_asks: u8,
    is_resolve_asked: bool,
    /// What it told of capabilities named a node that was not known yet.
    pub(crate) has_told_of_strangers: bool,
    /// It was said that its changes are dropped.
    pub(crate) is_observer_told: bool,
    pub(crate) faults: Faults,
}

impl Node {
    fn new(record: NodeConfig, now: Instant) -> Self {
        let mut link = Link::new(now);
        if !record.is_enabled {
            link.enter(LinkState::Down, now);
        }
        Self {
            record,
            link,
            neighbours: NodeIds::new(),
            ls: Freshness::default(),
            top: Freshness::default(),
            cap: Freshness::default(),
            capabilities: Vec::new(),
            next_hop: None,
            is_reachable: false,
            reachable_since: now,
            is_foreign_family: false,
            is_learned: false,
            ponged_nodes: NodeIds::new(),
            topology_sent: None,
            is_topology_owed: false,
            topology_asks: 0,
            is_resolve_asked: false,
            has_told_of_strangers: false,
            is_observer_told: false,
            faults: Faults::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.record.node_id
    }

    /// The node itself sent on that connection.
    pub(crate) fn heard_directly(&mut self, conn: ConnId, now: Instant) {
        if self.link.heard_directly(conn, now) {
            for kind in [&mut self.ls, &mut self.top, &mut self.cap] {
                kind.note_connection(conn);
            }
        }
    }

    /// True when packets can go to it directly.
    pub(crate) fn is_neighbour(&self) -> bool {
        self.record.is_enabled && self.link.is_up() && !self.is_foreign_family
    }

    pub(crate) fn has_capability_ok(&self, name: &str) -> bool {
        self.capabilities.iter().any(|(known, ok)| *ok && known == name.as_bytes())
    }

    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.capabilities.iter().any(|(known, _)| known == name.as_bytes())
    }

    /// Stores the state of one of its capabilities; true when it is a new one.
    pub(crate) fn note_capability(&mut self, name: &[u8], is_ok: bool) -> bool {
        let known = self.capabilities.iter_mut().find(|(known, _)| known == name);
        if let Some((_, known)) = known {
            *known = is_ok;
            return false;
        }
        let has_room = self.capabilities.len() < CAPABILITIES_PER_NODE_MAX && name.len() <= PEER_TEXT_LEN_MAX;
        if has_room {
            self.capabilities.push((Bytes::copy_from_slice(name), is_ok));
        }
        has_room
    }
}

/// One cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) family: Family,
    pub(crate) has_cap_update_numbers: bool,
    pub(crate) own: NodeConfig,
    /// Newest first, as OpenSIPS keeps them: the order decides which donor is asked.
    pub(crate) nodes: Vec<Node>,
    pub(crate) capabilities: Vec<LocalCapability>,
    pub(crate) tags: Vec<SharingTag>,
    /// Acknowledged delivery, by node.
    pub(crate) streams: Vec<(NodeId, Box<Stream>)>,
    /// The last question that was answered, and who answered it first.
    pub(crate) answered: Option<(Tag, NodeId)>,
    /// The own capability of Tandem nodes is used.
    pub(crate) has_extensions: bool,
    /// When it was last asked to do something.
    pub(crate) last_step: Instant,
    /// Packets of observers that were dropped.
    pub(crate) observer_drops: u64,
    /// Claims of tags, when this node looks on.
    pub(crate) claims: Claims,
    pub(crate) ls_counter: Counter,
    pub(crate) top_counter: Counter,
    pub(crate) cap_counter: Counter,
    pub(crate) repeat_topology_at: Option<Instant>,
    /// The last repeat, when what others told meanwhile has settled.
    repeat_topology_late_at: Option<Instant>,
    pub(crate) repeat_capabilities_at: Option<Instant>,
    /// As [`Cluster::repeat_topology_late_at`].
    repeat_capabilities_late_at: Option<Instant>,
    /// A link entered RESTART_PINGING: look at the timers before returning to the caller.
    pub(crate) has_due_links: bool,
    /// No link is due before it.
    links_due: Option<Instant>,
    /// Something happened by which a link may be due earlier than [`Cluster::links_due`].
    pub(crate) are_links_touched: bool,
}

impl Cluster {
    pub(crate) fn new(config: ClusterConfig, has_extensions: bool, takes_over: bool, now: Instant) -> Self {
        let mut nodes: Vec<Node> = config.nodes.into_iter().map(|record| Node::new(record, now)).collect();
        nodes.reverse();
        Self {
            id: config.cluster_id,
            family: config.family,
            has_cap_update_numbers: config.has_cap_update_numbers,
            own: config.own,
            nodes,
            capabilities: LocalCapability::of_tandem(has_extensions, takes_over),
            has_extensions,
            tags: config.sharing_tags.into_iter().map(SharingTag::configured).collect(),
            streams: Vec::new(),
            answered: None,
            last_step: now,
            observer_drops: 0,
            claims: Claims::default(),
            ls_counter: Counter::default(),
            top_counter: Counter::default(),
            cap_counter: Counter::default(),
            repeat_topology_at: None,
            repeat_topology_late_at: None,
            repeat_capabilities_at: None,
            repeat_capabilities_late_at: None,
            has_due_links: true,
            links_due: None,
            are_links_touched: true,
        }
    }

    pub(crate) fn index_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id() == id)
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id() == id)
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id() == id)
    }

    /// Ids of the own neighbours, newest first.
    pub(crate) fn neighbours(&self) -> NodeIds {
        self.nodes.iter().filter(|node| node.is_neighbour()).map(Node::id).collect()
    }

    pub(crate) fn push_node(&mut self, record: NodeConfig, now: Instant) {
        self.nodes.insert(0, Node::new(record, now));
        self.has_due_links = true;
        self.are_links_touched = true;
    }

    // ---- sending ----

    /// Hands a packet for the node's listener out; false when its address is not known yet.
    pub(crate) fn send_direct(&mut self, ctx: &mut Ctx<'_>, id: NodeId, class: SendClass, bytes: Bytes) -> bool {
        let local_ip = self.own.addr.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
        let cluster = self.id;
        let Some(node) = self.node_mut(id) else { return false };
        let Some(to) = node.record.addr else {
            if !std::mem::replace(&mut node.is_resolve_asked, true) {
                ctx.out.push(Output::Resolve { url: node.record.url.clone() });
            }
            return false;
        };
        let transport = node.record.url.transport();
        let local_ip = local_ip.filter(|ip| ip.is_ipv4() == to.is_ipv4());
        ctx.out.push(Output::Send(SendPacket { cluster, node: id, to, transport, local_ip, class, bytes }));
        true
    }

    /// Takes the result of a resolution; true when a node was waiting for it.
    pub(crate) fn resolved(&mut self, url: &str, addr: Option<SocketAddr>) -> bool {
        let mut is_waited_for = false;
        if self.own.url.as_str() == url && self.own.addr.is_none() {
            self.own.addr = addr;
        }
        for node in self.nodes.iter_mut().filter(|node| node.record.url.as_str() == url) {
            node.is_resolve_asked = false;
            if addr.is_some() {
                node.record.addr = addr;
                is_waited_for = true;
            }
        }
        is_waited_for
    }

    pub(crate) fn internal<'a>(&self, ctx: &Ctx<'_>, fields: Internal<'a>) -> InternalPacket<'a> {
        InternalPacket { cluster_id: self.id, source_id: ctx.settings.node_id, fields }
    }

    pub(crate) fn encode(&self, ctx: &mut Ctx<'_>, packet: &InternalPacket<'_>, what: &'static str) -> Option<Bytes> {
        let bytes: Result<Bytes, EncodeError> = encode_internal(packet, self.family);
        if bytes.is_err() {
            ctx.out.log(LogEvent::NotBuilt { cluster: self.id, what });
        }
        bytes.ok()
    }

    /// Sends one of the own internal packets to one node.
    pub(crate) fn send_internal(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: NodeId,
        fields: Internal<'_>,
        what: &'static str,
    ) -> bool {
        let packet = self.internal(ctx, fields);
        match self.encode(ctx, &packet, what) {
            Some(bytes) => self.send_direct(ctx, id, SendClass::Internal, bytes),
            None => false,
        }
    }

    // ---- links ----

    fn ping(&mut self, ctx: &mut Ctx<'_>, id: NodeId, request_node_list: bool) {
        self.are_links_touched = true;
        let was_sent = self.send_internal(ctx, id, Internal::Ping { request_node_list }, "PING");
        let now = ctx.now.mono;
        let Some(node) = self.node_mut(id) else { return };
        let retries = node.record.no_ping_retries;
        let next = node.link.after_ping(now, retries, was_sent);
        self.set_link(ctx, id, next);
        let timers = ctx.settings.timers;
        if self.node_mut(id).is_some_and(|node| node.link.take_nudge(now, &timers)) {
            self.send_internal(ctx, id, Internal::Pong { known_nodes: NodeIds::new() }, "PONG");
        }
        self.ask_for_topology(ctx, id);
    }

    /// Pings now; a link that is not UP changes to RESTARTED.
    pub(crate) fn ping_now(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        if let Some(node) = self.node_mut(id) {
            let request_node_list = !node.link.is_up();
            self.ping(ctx, id, request_node_list);
        }
    }

    /// Changes the state of a link with all that follows from leaving UP.
    pub(crate) fn set_link(&mut self, ctx: &mut Ctx<'_>, id: NodeId, to: LinkState) {
        self.are_links_touched = true;
        let cluster = self.id;
        let now = ctx.now.mono;
        let own_enabled = self.own.is_enabled;
        let Some(node) = self.node_mut(id) else { return };
        let from = node.link.state;
        if from == to {
            if to == LinkState::RestartPinging {
                self.has_due_links = true;
            }
            return;
        }
        node.link.enter(to, now);
        node.link.note_change(now, ctx.now.unix_secs, from, to, node.record.is_enabled && own_enabled);
        if to == LinkState::Down {
            // It may come back as another version.
            node.is_foreign_family = false;
            let conns = node.link.take_conns();
            if let (Some(addr), true, true) = (node.record.addr, node.record.is_enabled, own_enabled) {
                ctx.out.push(Output::CloseConnectionsTo { cluster, node: id, to: addr, conns });
            }
        }
        if to == LinkState::RestartPinging {
            self.has_due_links = true;
        }
        if from == LinkState::Up || to == LinkState::Up || to == LinkState::Down {
            ctx.out.log(LogEvent::Link { cluster, node: id, from, to });
        }
        if from == LinkState::Up {
            self.link_left_up(ctx, id);
        } else if to == LinkState::Up {
            self.link_came_up(ctx, id);
        }
    }

    fn link_left_up(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        self.letter_lost(ctx, id);
        if self.own.is_enabled {
            self.send_link_update(ctx, id, false);
            self.repeat_topology_soon(ctx.now.mono);
        }
        self.topology_changed(ctx);
    }

    fn link_came_up(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        self.send_link_update(ctx, id, true);
        let described = self.nodes_unknown_to(id);
        self.send_full_topology(ctx, Some(id), &described);
        self.send_full_capabilities(ctx, Some(id), true);
        self.repeat_capabilities_soon(ctx.now.mono);
        self.repeat_topology_soon(ctx.now.mono);
        self.topology_changed(ctx);
    }

    /// LS_UPDATE to all other neighbours; the counter is used only when there are any.
    fn send_link_update(&mut self, ctx: &mut Ctx<'_>, id: NodeId, is_up: bool) {
        let others: NodeIds = self.neighbours().into_iter().filter(|other| *other != id).collect();
        if others.is_empty() {
            return;
        }
        let stamp = self.ls_counter.next(ctx.now.wire_secs());
        let path = NodeIds::from_slice(&[ctx.settings.node_id]);
        let packet = self.internal(ctx, Internal::LsUpdate { stamp, neighbour_id: id, is_up, path });
        let Some(bytes) = self.encode(ctx, &packet, "LS_UPDATE") else { return };
        for other in others {
            self.send_direct(ctx, other, SendClass::Internal, bytes.clone());
        }
    }

    // ---- timers ----

    fn link_due(&self, node: &Node, settings: &Settings) -> Option<(Instant, Step)> {
        if !self.own.is_enabled || !node.record.is_enabled {
            return None;
        }
        Some(node.link.due(&settings.timers, node.record.no_ping_retries))
    }

    fn first_link_due(&self, settings: &Settings) -> Option<Instant> {
        self.nodes.iter().filter_map(|node| self.link_due(node, settings).map(|(at, _)| at)).min()
    }

    /// Looks at all links again if one may be due earlier. What is not looked at is due later at most: then the caller comes
    /// once too early.
    pub(crate) fn settle_links(&mut self, settings: &Settings) {
        if std::mem::take(&mut self.are_links_touched) {
            self.links_due = self.first_link_due(settings);
        }
    }

    /// Pings every link whose time has come.
    pub(crate) fn run_links(&mut self, ctx: &mut Ctx<'_>) {
        self.has_due_links = false;
        let due: Vec<(NodeId, Step)> = self
            .nodes
            .iter()
            .filter_map(|node| {
                let (at, step) = self.link_due(node, ctx.settings)?;
                (at <= ctx.now.mono).then_some((node.id(), step))
            })
            .collect();
        for (id, step) in due {
            match step {
                Step::Ping(list) => {
                    // Not with the repeats of this ping.
                    if self.node(id).is_some_and(|node| node.link.state == LinkState::Down) {
                        self.ask_for_address(ctx, id);
                    }
                    self.ping(ctx, id, list);
                }
                Step::GoDown => self.set_link(ctx, id, LinkState::Down),
                Step::Knock => self.knock(ctx, id),
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        self.run_links(ctx);
        self.run_syncs(ctx);
        self.run_tags(ctx);
        self.run_deliveries(ctx);
        self.run_repeats(ctx);
    }

    fn run_repeats(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now.mono;
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let is_topology_due = is_due(&mut self.repeat_topology_at);
        if is_topology_due {
            self.repeat_topology_late_at = Some(now + REPEAT_LATE_DELAY);
        }
        if (is_topology_due | is_due(&mut self.repeat_topology_late_at)) && self.own.is_enabled {
            self.repeat_topology(ctx);
        }
        let are_capabilities_due = is_due(&mut self.repeat_capabilities_at);
        if are_capabilities_due {
            self.repeat_capabilities_late_at = Some(now + REPEAT_LATE_DELAY);
        }
        if (are_capabilities_due | is_due(&mut self.repeat_capabilities_late_at)) && self.own.is_enabled {
            self.send_full_capabilities(ctx, None, false);
        }
    }

    pub(crate) fn poll_timeout(&self, settings: &Settings) -> Option<Instant> {
        debug_assert!(
            self.first_link_due(settings).is_none_or(|first| self.links_due.is_some_and(|at| at <= first)),
            "a link is due earlier than is known"
        );
        self.links_due
            .into_iter()
            .chain(self.sync_deadlines(settings))
            .chain(self.tag_deadlines())
            .chain(self.delivery_deadlines())
            .chain(self.repeat_topology_at)
            .chain(self.repeat_topology_late_at)
            .chain(self.repeat_capabilities_at)
            .chain(self.repeat_capabilities_late_at)
            .min()
    }

    pub(crate) fn repeat_topology_soon(&mut self, now: Instant) {
        self.repeat_topology_late_at = None;
        self.repeat_topology_at = Some(now + REPEAT_DELAY);
    }

    pub(crate) fn repeat_capabilities_soon(&mut self, now: Instant) {
        self.repeat_capabilities_late_at = None;
        self.repeat_capabilities_at = Some(now + REPEAT_DELAY);
    }

    // ---- reachability ----

    /// Computes routes anew, tells whose reachability changed, and does what follows from that.
    pub(crate) fn topology_changed(&mut self, ctx: &mut Ctx<'_>) {
        self.compute_next_hops(ctx.settings.is_rerouting_enabled);
        let mut changed = NodeIds::new();
        for node in &mut self.nodes {
            let is_reachable = node.next_hop.is_some();
            if node.is_reachable != is_reachable {
                node.is_reachable = is_reachable;
                node.reachable_since = ctx.now.mono;
                changed.push(node.record.node_id);
            }
        }
        for id in changed {
            let Some(is_up) = self.node(id).map(|node| node.is_reachable) else { continue };
            let state = if is_up { "UP" } else { "DOWN" };
            let cluster = self.id;
            ctx.out.report("node_states", format!("Node [{id}], cluster [{cluster}] is {state}"));
            ctx.out.event(Event::NodeStateChanged { cluster, node: id, is_up });
            if is_up {
                self.ask_for_address(ctx, id);
                self.sync_node_up(ctx, id);
                self.announce_tags_to(ctx, id);
                self.tell_tag_states(ctx, id);
                self.delivery_node_up(ctx, id);
            } else {
                self.delivery_node_down(id);
                self.sync_node_down(ctx, id);
                self.tag_holder_down(ctx, id);
                self.claims.forget(id);
            }
        }
    }
}
