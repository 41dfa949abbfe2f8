//! Learning nodes from descriptions and forgetting them; pinging is the business of links.

use std::net::IpAddr;

use crate::cluster::{Cluster, Ctx, Node};
use crate::config::{NodeConfig, Provisioning};
use crate::ids::{ConnId, NodeId};
use crate::limits::{NODES_MAX, PEER_TEXT_LEN_MAX};
use crate::link::LinkState;
use crate::log::LogEvent;
use crate::outbox::Output;
use crate::packet::{Description, Internal, NodeIds, TopologyEntry};
use crate::url::BinUrl;

/// The URL in a description; `None` for one that cannot be used.
fn url_of(description: &Description<'_>) -> Option<BinUrl> {
    if description.url.len() > PEER_TEXT_LEN_MAX {
        return None;
    }
    std::str::from_utf8(description.url).ok()?.parse().ok()
}

impl Cluster {
    /// Adds a node that described itself or was described by another; an existing record is never
    /// changed. True when it was added.
    pub(crate) fn learn_node(&mut self, ctx: &mut Ctx<'_>, id: NodeId, description: &Description<'_>) -> bool {
        if id == ctx.settings.node_id || self.node(id).is_some() {
            return false;
        }
        let cluster = self.id;
        let url = url_of(description);
        let reason = match (&url, id.0 > 0, self.nodes.len() < NODES_MAX) {
            (_, false, _) => Some("its id is not above 0"),
            (_, _, false) => Some("the cluster is full"),
            _ if description.url.len().max(description.sip_addr.len()) > PEER_TEXT_LEN_MAX => {
                Some("its URL or SIP address has more than 255 bytes")
            }
            (None, ..) => Some("its URL cannot be used"),
            _ => None,
        };
        let (Some(url), None) = (url, reason) else {
            let reason = reason.unwrap_or_default();
            ctx.out.log_limited(LogEvent::NodeRefused { cluster, node: id, reason }, ctx.now.mono);
            return false;
        };
        ctx.out.log(LogEvent::NodeLearned { cluster, node: id, url: url.as_str().to_owned() });
        let mut record = NodeConfig::new(id, url);
        record.sip_addr = String::from_utf8_lossy(description.sip_addr).into_owned();
        record.priority = description.priority;
        record.no_ping_retries = description.no_ping_retries;
        self.push_node(record, ctx.now.mono);
        if let Some(node) = self.node_mut(id) {
            node.is_learned = true;
        }
        self.ask_for_untaken_capabilities(ctx);
        true
    }

    /// A learned node that cannot be reached where it was learned calls from elsewhere: perhaps a second process with its id
    /// was met first. It may introduce itself anew, as long as it calls from the address it names.
    ///
    /// Deviation: OpenSIPS never changes a record, so that such a node stays away until all others restart.
    pub(crate) fn meet_again(
        &mut self,
        ctx: &mut Ctx<'_>,
        source: NodeId,
        (ip, conn): (IpAddr, ConnId),
        fields: &Internal<'_>,
    ) -> bool {
        let may_move = self.node(source).is_some_and(|node| node.is_learned && !node.link.is_up());
        if !may_move || ctx.settings.provisioning != Provisioning::Script {
            return false;
        }
        match fields {
            Internal::Ping { .. } => {
                let answer = self.internal(ctx, Internal::UnknownId);
                let Some(bytes) = self.encode(ctx, &answer, "UNKNOWN_ID") else { return false };
                ctx.out.push(Output::SendOnConnection { conn, bytes });
                true
            }
            Internal::NodeDescription { description, path } if path.last() == Some(&source) => {
                let url = url_of(description);
                let Some(url) = url
                    .filter(|url| url.literal_addr().is_some_and(|addr| addr.ip().to_canonical() == ip.to_canonical()))
                else {
                    return false;
                };
                let cluster = self.id;
                if let Some(node) = self.node_mut(source) {
                    node.record.addr = url.literal_addr();
                    ctx.out.log(LogEvent::NodeLearned { cluster, node: source, url: url.as_str().to_owned() });
                    node.record.url = url;
                }
                self.set_link(ctx, source, LinkState::RestartPinging);
                true
            }
            _ => false,
        }
    }

    /// A learned node was lost here and has links to others: the address known here may be that of a second process with its
    /// id, which is gone. Asks a node that has a link to it for all descriptions.
    pub(crate) fn ask_for_address(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let is_lost = |node: &Node| node.is_learned && node.record.is_enabled && node.link.is_lost();
        if ctx.settings.provisioning != Provisioning::Script || !self.node(id).is_some_and(is_lost) {
            return;
        }
        let knows = |node: &&Node| node.is_neighbour() && node.id() != id && node.neighbours.contains(&id);
        if let Some(by) = self.nodes.iter().find(knows).map(Node::id) {
            self.send_internal(ctx, by, Internal::Ping { request_node_list: true }, "PING");
        }
    }

    /// Takes the address of a learned node that was lost here from a node that has a link to it.
    ///
    /// Deviation: OpenSIPS never changes a record.
    pub(crate) fn correct_address(
        &mut self,
        ctx: &mut Ctx<'_>,
        teller: NodeId,
        entries: &[TopologyEntry<'_>],
        (id, description): (NodeId, &Description<'_>),
    ) {
        let own = entries.first().filter(|entry| entry.node_id == teller);
        let cluster = self.id;
        let Some(node) = self.node_mut(id).filter(|node| node.is_learned && node.link.is_lost()) else { return };
        let url = url_of(description);
        let Some(url) = url.filter(|url| *url != node.record.url) else { return };
        if !own.is_some_and(|entry| entry.neighbours.contains(&id)) {
            return;
        }
        node.record.addr = url.literal_addr();
        ctx.out.log(LogEvent::NodeLearned { cluster, node: id, url: url.as_str().to_owned() });
        node.record.url = url;
        self.set_link(ctx, id, LinkState::RestartPinging);
    }

    /// NODE_DESCRIPTION of the own node to `id`.
    pub(crate) fn send_own_description(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let own = self.own.clone();
        let description = Description {
            url: own.url.as_str().as_bytes(),
            sip_addr: own.sip_addr.as_bytes(),
            priority: own.priority,
            no_ping_retries: own.no_ping_retries,
        };
        let path = NodeIds::from_slice(&[ctx.settings.node_id]);
        self.send_internal(ctx, id, Internal::NodeDescription { description, path }, "NODE_DESCRIPTION");
    }

    /// Forgets a node with its counters.
    pub(crate) fn forget_node(&mut self, ctx: &mut Ctx<'_>, id: NodeId) {
        let Some(node) = self.node(id) else { return };
        let cluster = self.id;
        if node.link.is_up() {
            // Not DOWN: that would close the connection a REMOVE_NODE may still be queued on.
            self.set_link(ctx, id, LinkState::RestartPinging);
        }
        if let Some(node) = self.node_mut(id)
            && node.is_reachable
        {
            node.neighbours.clear();
        }
        for node in &mut self.nodes {
            node.neighbours.retain(|other| *other != id);
        }
        self.topology_changed(ctx);
        self.delivery_forget(ctx, id);
        self.nodes.retain(|node| node.id() != id);
        for tag in &mut self.tags {
            tag.forget_node(id);
        }
        ctx.out.log(LogEvent::NodeRemoved { cluster, node: id });
    }
}
