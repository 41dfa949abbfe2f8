//! LS_UPDATE and FULL_TOP_UPDATE: what this node tells and what it takes over.

use crate::cluster::{Cluster, Ctx};
use crate::config::Provisioning;
use crate::freshness::Freshness;
use crate::ids::{ConnId, NodeId};
use crate::limits::{NODES_MAX, REPEAT_DELAY, TOPOLOGY_ASKS_MAX};
use crate::link::LinkState;
use crate::outbox::SendClass;
use crate::packet::{Description, Internal, NodeIds, Stamp, TopologyEntry, encode_internal};

impl Cluster {
    /// Nodes that `id` did not list in its last pong.
    pub(crate) fn nodes_unknown_to(&self, id: NodeId) -> NodeIds {
        let Some(peer) = self.node(id) else { return NodeIds::new() };
        self.nodes
            .iter()
            .map(super::cluster::Node::id)
            .filter(|other| *other != id && !peer.ponged_nodes.contains(other))
            .collect()
    }

    fn topology_entries<'a>(
        &'a self,
        own_id: NodeId,
        destination: Option<NodeId>,
        described: &[NodeId],
    ) -> Vec<TopologyEntry<'a>> {
        let mut entries = vec![TopologyEntry {
            node_id: own_id,
            description: None,
            stamp: Stamp { seq_no: self.ls_counter.last(), timestamp: 0 },
            neighbours: self.neighbours(),
        }];
        for node in self.nodes.iter().filter(|node| Some(node.id()) != destination) {
            let description = described.contains(&node.id()).then(|| Description {
                url: node.record.url.as_str().as_bytes(),
                sip_addr: node.record.sip_addr.as_bytes(),
                priority: node.record.priority,
                no_ping_retries: node.record.no_ping_retries,
            });
            let mut neighbours = node.neighbours.clone();
            // Deviation: OpenSIPS leaves its own links out, so that who has no other source never
            // learns them. The link is taken to be up in both directions when it is up here.
            if node.is_neighbour() && neighbours.len() < NODES_MAX {
                neighbours.push(own_id);
            }
            let stamp = node.ls.stamp();
            entries.push(TopologyEntry { node_id: node.id(), description, stamp, neighbours });
        }
        entries.truncate(NODES_MAX);
        entries
    }

    /// A node that is up here asks for the node list, so it does not see us as up: most probably it
    /// came back before its loss was noticed. Its link will not go up anew here, so it is told the
    /// topology now.
    pub(crate) fn tell_restarted_node(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let now = ctx.now.mono;
        let Some(node) = self.node_mut(id) else { return };
        let was_told = node.topology_sent.is_some_and(|at| now < at + REPEAT_DELAY);
        if !node.link.is_up() {
            return;
        }
        if was_told {
            node.is_topology_owed = true;
            self.repeat_topology_soon(now);
            return;
        }
        node.is_topology_owed = false;
        node.ponged_nodes.clear();
        let described = self.nodes_unknown_to(id);
        self.send_full_topology(ctx, Some(id), &described);
    }

    /// A node that was up before this one started, and did not notice the restart, has no reason to tell its topology: what
    /// it is connected to stays unknown here, and no route by way of it is found. OpenSIPS tells it only when its link comes
    /// up, so it is made to begin its link anew.
    ///
    /// Deviation: OpenSIPS stays without until some link changes.
    pub(crate) fn ask_for_topology(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let now = ctx.now.mono;
        let wait = ctx.settings.timers.ping_interval;
        // Between two nodes there is nothing to tell, and nodes of ours tell who asks for the node list.
        if self.nodes.len() < 2 || self.is_tandem(id) {
            return;
        }
        let Some(node) = self.node_mut(id) else { return };
        let is_silent = node.is_neighbour() && now.saturating_duration_since(node.link.entered()) >= wait;
        if !is_silent || node.top.stamp() != Freshness::default().stamp() || node.topology_asks >= TOPOLOGY_ASKS_MAX {
            return;
        }
        node.topology_asks += 1;
        self.send_internal(ctx, id, Internal::UnknownId, "UNKNOWN_ID");
    }

    /// Tells the own links to all neighbours once more, and everything to those who are owed it.
    pub(crate) fn repeat_topology(&mut self, ctx: &mut Ctx<'_>) {
        self.send_full_topology(ctx, None, &[]);
        let owed: NodeIds =
            self.nodes.iter().filter(|node| node.is_topology_owed).map(super::cluster::Node::id).collect();
        for id in owed {
            self.tell_restarted_node(ctx, id);
        }
    }

    /// FULL_TOP_UPDATE to one node, or to all neighbours.
    pub(crate) fn send_full_topology(&mut self, ctx: &mut Ctx<'_>, destination: Option<NodeId>, described: &[NodeId]) {
        let receivers = match destination {
            Some(id) => NodeIds::from_slice(&[id]),
            None => self.neighbours(),
        };
        if receivers.is_empty() {
            return;
        }
        let own_id = ctx.settings.node_id;
        let stamp = self.top_counter.next(ctx.now.wire_secs());
        let path = NodeIds::from_slice(&[own_id]);
        let mut entries = self.topology_entries(own_id, destination, described);
        if destination.is_none() {
            // The repeat for all only has to correct what others hold about this node.
            entries.truncate(1);
        }
        let packet = self.internal(ctx, Internal::FullTopUpdate { stamp, entries, path: path.clone() });
        let bytes = encode_internal(&packet, self.family).ok();
        // A full mesh near the limit of nodes does not fit a packet; the own links always do.
        let bytes = bytes.or_else(|| {
            let mut entries = self.topology_entries(own_id, destination, &[]);
            entries.truncate(1);
            let packet = self.internal(ctx, Internal::FullTopUpdate { stamp, entries, path });
            encode_internal(&packet, self.family).ok()
        });
        let Some(bytes) = bytes else { return };
        for id in receivers {
            if self.send_direct(ctx, id, SendClass::Internal, bytes.clone())
                && destination.is_some()
                && let Some(node) = self.node_mut(id)
            {
                node.topology_sent = Some(ctx.now.mono);
            }
        }
    }

    /// Takes an LS_UPDATE; false when it is stale or names an unknown node and must not be flooded.
    pub(crate) fn take_link_update(
        &mut self,
        ctx: &mut Ctx<'_>,
        (source, direct): (NodeId, Option<ConnId>),
        stamp: Stamp,
        neighbour: NodeId,
        is_up: bool,
    ) -> bool {
        let is_own = neighbour == ctx.settings.node_id;
        if !is_own && self.node(neighbour).is_none() {
            return false;
        }
        let Some(node) = self.node_mut(source) else { return false };
        if !node.ls.accept_from(stamp, direct) {
            return false;
        }
        if is_own {
            self.other_side_sees_us(ctx, source, is_up);
            return true;
        }
        let is_listed = node.neighbours.contains(&neighbour);
        if is_up && !is_listed {
            node.neighbours.push(neighbour);
        } else if !is_up && is_listed {
            node.neighbours.retain(|id| *id != neighbour);
        }
        if is_up != is_listed {
            self.topology_changed(ctx);
        }
        true
    }

    fn other_side_sees_us(&mut self, ctx: &mut Ctx<'_>, source: NodeId, is_up: bool) {
        let Some(node) = self.node(source) else { return };
        let disagrees = match node.link.state {
            LinkState::Down => is_up,
            LinkState::Up => !is_up,
            _ => false,
        };
        if disagrees && node.record.is_enabled {
            self.set_link(ctx, source, LinkState::RestartPinging);
        }
    }

    /// Takes a FULL_TOP_UPDATE; false when it is stale and must not be flooded.
    pub(crate) fn take_full_topology(
        &mut self,
        ctx: &mut Ctx<'_>,
        (source, direct): (NodeId, Option<ConnId>),
        stamp: Stamp,
        entries: &[TopologyEntry<'_>],
    ) -> bool {
        self.correct_own_topology(ctx, entries);
        let Some(node) = self.node_mut(source) else { return false };
        if !node.top.accept_from(stamp, direct) {
            return false;
        }
        if ctx.settings.provisioning == Provisioning::Script {
            for entry in entries {
                if let Some(description) = &entry.description {
                    self.learn_node(ctx, entry.node_id, description);
                    self.correct_address(ctx, source, entries, (entry.node_id, description));
                }
            }
        }
        let mut is_changed = false;
        for (position, entry) in entries.iter().enumerate() {
            if entry.node_id != ctx.settings.node_id {
                let is_first = position == 0;
                is_changed |= self.take_topology_entry(ctx, source, stamp, entry, is_first);
            }
        }
        if is_changed {
            self.topology_changed(ctx);
        }
        true
    }

    /// Others tell of this node what is not so: says soon how it is. Without, an old word would stand until the next change.
    fn correct_own_topology(&mut self, ctx: &Ctx<'_>, entries: &[TopologyEntry<'_>]) {
        let Some(told) = entries.iter().find(|entry| entry.node_id == ctx.settings.node_id) else { return };
        let own = self.neighbours();
        let is_true = told.neighbours.len() == own.len() && told.neighbours.iter().all(|id| own.contains(id));
        if !is_true && self.repeat_topology_at.is_none() {
            self.repeat_topology_soon(ctx.now.mono);
        }
    }

    fn take_topology_entry(
        &mut self,
        ctx: &mut Ctx<'_>,
        originator: NodeId,
        stamp: Stamp,
        entry: &TopologyEntry<'_>,
        is_first: bool,
    ) -> bool {
        let own_id = ctx.settings.node_id;
        let is_originator = is_first && entry.node_id == originator;
        let known: NodeIds = entry
            .neighbours
            .iter()
            .copied()
            .filter(|id| *id != own_id && *id != entry.node_id && self.node(*id).is_some())
            .collect();
        let Some(node) = self.node_mut(entry.node_id) else { return false };
        let mut has_same_stamp = false;
        if is_originator {
            // Its own word, in the order of its own counter: the newest there is.
            let timestamp = stamp.timestamp;
            node.ls.set(Stamp { seq_no: entry.stamp.seq_no, timestamp });
        } else if node.ls.is_same_state(entry.stamp) {
            has_same_stamp = true;
        } else if !node.ls.accept_hearsay(entry.stamp) {
            return false;
        }
        let mut neighbours = known;
        if has_same_stamp {
            // Deviation: OpenSIPS drops it. Everybody leaves out the links to itself, so the views
            // of the same state add up to the truth.
            neighbours.extend_from_slice(&node.neighbours);
        }
        neighbours.sort_unstable();
        neighbours.dedup();
        // About links to the originator the entry of another node says nothing.
        if !is_originator && node.neighbours.contains(&originator) && !neighbours.contains(&originator) {
            neighbours.push(originator);
        }
        neighbours.sort_unstable();
        node.neighbours.sort_unstable();
        let is_changed = node.neighbours != neighbours;
        node.neighbours = neighbours;
        if entry.neighbours.contains(&own_id) {
            self.other_side_sees_us(ctx, entry.node_id, true);
        }
        is_changed
    }
}
