//! The other nodes of the cluster: real cluster cores, so that links, pings and routing are as in life. What they answer to
//! the script's requests is scripted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    ClusterConfig, ClusterId, ClusterNode, ClusterNodeConfig, ConnId, Event, LinkState, NodeConfig, NodeId, Now,
    Output, parse_node_info,
};
use tandem_module::clock;
use tandem_module::node;

use crate::syntax::{NodeDecl, Pattern};

/// A connection from the node under test (or another one) to a peer has this number plus the peer's.
const CONN_BASE: u64 = 1 << 40;
/// Outputs of a core worked off at once.
const OUTPUTS_MAX: usize = 100_000;

/// What the node under test says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) cluster: ClusterId,
    pub(crate) id: NodeId,
    pub(crate) record: NodeConfig,
}

/// An answer of the test.
#[derive(Clone, Debug)]
struct Rule {
    pattern: Pattern,
    answer: String,
    delay: Duration,
}

/// A message that was heard and that a step may ask for.
#[derive(Clone, Debug)]
struct Question {
    tag: Bytes,
    src: NodeId,
}

struct Peer {
    id: NodeId,
    addr: SocketAddr,
    /// `None` while it is down.
    core: Option<ClusterNode>,
    config: ClusterNodeConfig,
    rules: Vec<Rule>,
    last: Option<Question>,
}

/// What is to be done outside of the lock.
pub(crate) enum Effect {
    /// A packet for the node under test, of that peer.
    ToNode(SocketAddr, Bytes),
    /// A packet for another peer.
    ToPeer(SocketAddr, SocketAddr, Bytes),
    /// A peer heard a request of the script.
    Heard(i32, String),
    /// A peer heard an answer of the script.
    HeardReply(i32, String),
    /// A peer answers, so much later.
    AnswerLater { peer: i32, to: NodeId, tag: Bytes, text: String, delay: Duration },
}

/// All of them.
pub(crate) struct Peers {
    own: Own,
    own_addr: SocketAddr,
    all: Vec<Peer>,
}

fn now() -> Now {
    Now { mono: clock::now(), unix_secs: node::unix_secs() }
}

fn random(seed: i32) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed.unsigned_abs().into();
    Box::new(move || {
        state = u64::wrapping_mul(state, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state
    })
}

impl Peers {
    pub(crate) fn new(own: Own, decls: &[NodeDecl]) -> Result<Peers, String> {
        let own_addr = own.record.url.literal_addr().ok_or("my_node_info of the script has no address in its url")?;
        let mut records = Vec::new();
        for decl in decls {
            let info = format!("cluster_id={}, node_id={}, url={}", own.cluster.0, decl.id, decl.url);
            let (_, record) = parse_node_info(&info, None).map_err(|error| format!("node {}: {error}", decl.id))?;
            records.push(record);
        }
        let mut all = Vec::new();
        for record in &records {
            let addr = record
                .url
                .literal_addr()
                .ok_or_else(|| format!("node {}: write its address, not a name", record.node_id))?;
            let others = records.iter().filter(|other| other.node_id != record.node_id).cloned();
            let nodes = others.chain(std::iter::once(own.record.clone())).collect();
            let cluster = ClusterConfig::new(own.cluster, record.clone(), nodes);
            let config = ClusterNodeConfig::new(record.node_id, vec![cluster]);
            all.push(Peer { id: record.node_id, addr, core: None, config, rules: Vec::new(), last: None });
        }
        let mut peers = Peers { own, own_addr, all };
        for id in peers.ids() {
            peers.start(id)?;
        }
        Ok(peers)
    }

    pub(crate) fn ids(&self) -> Vec<i32> {
        self.all.iter().map(|peer| peer.id.0).collect()
    }

    /// The connection over which that peer and the node under test talk.
    pub(crate) fn conn(id: i32) -> u64 {
        CONN_BASE + u64::from(id.unsigned_abs())
    }

    pub(crate) fn addr(&self, id: i32) -> Option<SocketAddr> {
        self.all.iter().find(|peer| peer.id.0 == id).map(|peer| peer.addr)
    }

    fn peer(&mut self, id: i32) -> Option<&mut Peer> {
        self.all.iter_mut().find(|peer| peer.id.0 == id)
    }

    /// Starts a peer that is down.
    pub(crate) fn start(&mut self, id: i32) -> Result<(), String> {
        let Some(peer) = self.peer(id) else { return Ok(()) };
        if peer.core.is_none() {
            let core = ClusterNode::new(peer.config.clone(), Box::new(random(id)), now());
            peer.core = Some(core.map_err(|error| format!("node {id}: {error}"))?);
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self, id: i32) {
        if let Some(peer) = self.peer(id) {
            peer.core = None;
        }
    }

    pub(crate) fn is_running_at(&self, addr: SocketAddr) -> bool {
        self.all.iter().any(|peer| peer.addr == addr && peer.core.is_some())
    }

    pub(crate) fn add_rule(&mut self, id: i32, pattern: Pattern, answer: String, delay: Duration) {
        if let Some(peer) = self.peer(id) {
            // A later line overrides an earlier one for the same question.
            peer.rules.insert(0, Rule { pattern, answer, delay });
        }
    }

    /// When the next core wants to be woken.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.all.iter().filter_map(|peer| peer.core.as_ref()?.poll_timeout()).min()
    }

    /// How many of them run.
    pub(crate) fn running(&self) -> usize {
        self.all.iter().filter(|peer| peer.core.is_some()).count()
    }

    /// Whether every running peer has its link to the node under test and to the other running ones.
    pub(crate) fn is_connected(&self) -> bool {
        let running = self.running();
        self.all.iter().filter_map(|peer| peer.core.as_ref()).all(|core| {
            let clusters = core.list();
            let rows = clusters.iter().flat_map(|cluster| &cluster.nodes);
            rows.filter(|row| row.link_state == LinkState::Up).count() >= running
        })
    }

    pub(crate) fn on_timeout(&mut self, effects: &mut Vec<Effect>) {
        for peer in &mut self.all {
            if let Some(core) = &mut peer.core {
                core.handle_timeout(now());
            }
        }
        self.drain(effects);
    }

    /// A packet for the peer that listens at `to`, from the node under test or from another peer.
    pub(crate) fn on_packet(
        &mut self,
        to: SocketAddr,
        from: Option<SocketAddr>,
        bytes: &Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let own = self.own_addr;
        let conn = match from {
            None => CONN_BASE,
            Some(from) => CONN_BASE + 1 + u64::from(from.port()) + (u64::from(ip_number(from)) << 16),
        };
        if let Some(peer) = self.all.iter_mut().find(|peer| peer.addr == to)
            && let Some(core) = &mut peer.core
        {
            core.handle_packet(from.unwrap_or(own), ConnId(conn), bytes, now());
        }
        self.drain(effects);
    }

    /// A peer says something to the node under test or to all.
    pub(crate) fn say(
        &mut self,
        id: i32,
        is_broadcast: bool,
        text: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let (cluster, own) = (self.own.cluster, self.own.id);
        let Some(core) = self.peer(id).and_then(|peer| peer.core.as_mut()) else {
            return Err(format!("node {id} is down and can say nothing"));
        };
        let sent = match is_broadcast {
            true => core.broadcast_request(cluster, text.as_bytes(), false, now()),
            false => core.send_request(cluster, own, text.as_bytes(), now()),
        };
        sent.result.map_err(|error| format!("node {id} cannot send: {error}"))?;
        self.drain(effects);
        Ok(())
    }

    /// A peer answers the request it heard last.
    pub(crate) fn reply_last(&mut self, id: i32, text: &str, effects: &mut Vec<Effect>) -> Result<(), String> {
        let last = self.peer(id).and_then(|peer| peer.last.clone());
        let Some(Question { tag, src }) = last else { return Err(format!("node {id} has heard no request to answer")) };
        self.reply(id, src, &tag, text, effects)
    }

    pub(crate) fn reply(
        &mut self,
        id: i32,
        to: NodeId,
        tag: &Bytes,
        text: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        let cluster = self.own.cluster;
        let Some(core) = self.peer(id).and_then(|peer| peer.core.as_mut()) else {
            return Err(format!("node {id} is down and cannot answer"));
        };
        core.send_reply(cluster, to, text.as_bytes(), tag, now())
            .map_err(|error| format!("node {id} cannot answer: {error}"))?;
        self.drain(effects);
        Ok(())
    }

    fn drain(&mut self, effects: &mut Vec<Effect>) {
        let own_addr = self.own_addr;
        for peer in &mut self.all {
            let Some(core) = &mut peer.core else { continue };
            for _ in 0..OUTPUTS_MAX {
                let Some(output) = core.poll_output() else { break };
                match output {
                    Output::Send(packet) if packet.to == own_addr => {
                        effects.push(Effect::ToNode(peer.addr, packet.bytes))
                    }
                    Output::Send(packet) => effects.push(Effect::ToPeer(peer.addr, packet.to, packet.bytes)),
                    Output::Connect { to, .. } => core.handle_connected(to, now()),
                    // Both directions of a link are one connection here.
                    Output::SendOnConnection { conn, bytes } if conn.0 == CONN_BASE => {
                        effects.push(Effect::ToNode(peer.addr, bytes));
                    }
                    Output::Event(Event::RequestReceived { src, msg, tag, .. }) => {
                        let text = String::from_utf8_lossy(&msg).into_owned();
                        peer.last = Some(Question { tag: tag.clone(), src });
                        if let Some(rule) = peer.rules.iter().find(|rule| rule.pattern.regex.is_match(&text)) {
                            let (text, delay) = (rule.answer.clone(), rule.delay);
                            effects.push(Effect::AnswerLater { peer: peer.id.0, to: src, tag, text, delay });
                        }
                        if src == self.own.id {
                            effects.push(Effect::Heard(peer.id.0, text));
                        }
                    }
                    Output::Event(Event::ReplyReceived { src, msg, .. }) if src == self.own.id => {
                        effects.push(Effect::HeardReply(peer.id.0, String::from_utf8_lossy(&msg).into_owned()));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn ip_number(addr: SocketAddr) -> u32 {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => u32::from(ip) & 0xFF_FFFF,
        std::net::IpAddr::V6(ip) => {
            ip.segments().iter().fold(0u32, |sum, part| sum.wrapping_mul(31).wrapping_add((*part).into())) & 0xFF_FFFF
        }
    }
}

/// Shared with the tasks that carry packets.
pub(crate) type SharedPeers = Arc<parking_lot::Mutex<Option<Peers>>>;
