//! What surrounds the node: telephones and cluster nodes, fed by the wire. Everything between them and the node goes through
//! the queue of the worker, in the order in which it was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tandem_engine::Inlet;
use tandem_module::clock;
use tandem_module::context::Context;
use tandem_module::node::NodeRef;
use tandem_module::transport::{ConnId, Proto, Source};
use tandem_module::worker::{WorkerId, Workers as _};

use super::peers::{Effect, Peers, SharedPeers};
use super::phone::Phone;
use super::wire::{Listener, Place, Receivers, What, Wire};
use super::workers::VirtualWorkers;
use crate::syntax::{Pattern, PhoneDecl, TestFile};

/// Connections of telephones are numbered from here.
const PHONE_CONN_BASE: u64 = 1 << 20;
/// Parties that were not declared but talked to.
const PHONES_MAX: usize = 10_000;

/// Telephones and nodes.
pub(crate) struct Around {
    node: NodeRef,
    inlet: Inlet,
    workers: Arc<VirtualWorkers>,
    wire: Arc<Wire>,
    domain: String,
    listeners: Vec<Listener>,
    phones: Mutex<Vec<Phone>>,
    peers: SharedPeers,
    armed: Mutex<Option<Instant>>,
    number: std::sync::atomic::AtomicU32,
}

impl Around {
    pub(crate) fn new(
        node: NodeRef,
        workers: Arc<VirtualWorkers>,
        wire: Arc<Wire>,
        file: &TestFile,
        listeners: Vec<Listener>,
    ) -> Arc<Around> {
        Arc::new(Around {
            node,
            inlet: Inlet::new(node),
            workers,
            wire,
            domain: file.domain.clone(),
            listeners,
            phones: Mutex::new(file.phones.iter().map(|decl| Phone::new(decl, &file.domain)).collect()),
            peers: SharedPeers::default(),
            armed: Mutex::new(None),
            number: std::sync::atomic::AtomicU32::new(0),
        })
    }

    /// Works with a phone, by its name or address.
    pub(crate) fn with_phone<T>(&self, name: &str, work: impl FnOnce(&mut Phone) -> T) -> Result<T, String> {
        let mut phones = self.phones.lock();
        if let Some(phone) = phones.iter_mut().find(|phone| phone.name == name) {
            return Ok(work(phone));
        }
        let Some((proto, addr)) = crate::syntax::parse_address(name) else {
            return Err(format!("there is no phone {name}"));
        };
        if let Some(phone) = phones.iter_mut().find(|phone| phone.addr == addr) {
            return Ok(work(phone));
        }
        if phones.len() >= PHONES_MAX {
            return Err(format!("more than {PHONES_MAX} parties in one test"));
        }
        let decl = PhoneDecl { name: addr.to_string(), addr, proto: proto.unwrap_or(Proto::Udp) };
        phones.push(Phone::new(&decl, &self.domain));
        match phones.last_mut() {
            Some(phone) => Ok(work(phone)),
            None => Err(format!("there is no phone {name}")),
        }
    }

    /// Names of the parties with an address.
    pub(crate) fn name_of(&self, addr: SocketAddr) -> String {
        let phones = self.phones.lock();
        phones.iter().find(|phone| phone.addr == addr).map_or_else(|| addr.to_string(), |phone| phone.name.clone())
    }

    /// Sends bytes of a party to the node; what they cause is queued.
    pub(crate) fn send(&self, addr: SocketAddr, proto: Proto, bytes: Bytes) -> Result<(), String> {
        let fits = |listener: &&Listener| listener.proto == proto && listener.addr.is_ipv4() == addr.is_ipv4();
        let Some(listener) = self.listeners.iter().find(fits) else {
            return Err(format!("the script has no {} socket for {addr}", proto.name()));
        };
        self.wire.note(Place::Phone(addr), Place::Node, What::Sip(bytes.clone()));
        let conn = (proto != Proto::Udp).then(|| {
            let conn = ConnId(PHONE_CONN_BASE + u64::from(addr.port()));
            self.wire.add_phone_stream(conn, addr);
            conn
        });
        let source = Source { src: addr, dst: listener.addr, proto, socket: listener.id, conn, at: clock::now() };
        match Context::receive(self.node, source, bytes) {
            Ok(mut context) => {
                context.number = self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                self.inlet.take(context);
            }
            Err(error) => tracing::warn!(src = %addr, %error, "message dropped: it cannot be parsed"),
        }
        Ok(())
    }

    pub(crate) fn set_peers(self: &Arc<Around>, peers: Peers) {
        for id in peers.ids() {
            if let Some(addr) = peers.addr(id) {
                self.wire.add_peer_stream(ConnId(Peers::conn(id)), addr);
            }
        }
        *self.peers.lock() = Some(peers);
        self.on_peers(|_, _| ());
    }

    /// Looks at the nodes; `None` when the test has none.
    pub(crate) fn with_peers<T>(&self, work: impl FnOnce(&mut Peers) -> T) -> Option<T> {
        self.peers.lock().as_mut().map(work)
    }

    /// Lets the nodes do something and carries what comes of it.
    pub(crate) fn on_peers<T>(self: &Arc<Around>, work: impl FnOnce(&mut Peers, &mut Vec<Effect>) -> T) -> Option<T> {
        let mut effects = Vec::new();
        let result = {
            let mut guard = self.peers.lock();
            let peers = guard.as_mut()?;
            work(peers, &mut effects)
        };
        for effect in effects {
            self.carry(effect);
        }
        self.arm();
        Some(result)
    }

    /// A node says something; it is noted when it could be sent.
    pub(crate) fn peer_says(self: &Arc<Around>, id: i32, is_broadcast: bool, text: &str) -> Result<(), String> {
        self.wire.note(Place::Peer(id), Place::Node, What::Asks(text.to_owned()));
        self.on_peers(|peers, effects| peers.say(id, is_broadcast, text, effects)).unwrap_or(Ok(()))
    }

    /// A node answers what it heard last.
    pub(crate) fn peer_replies(self: &Arc<Around>, id: i32, text: &str) -> Result<(), String> {
        self.wire.note(Place::Peer(id), Place::Node, What::Says(text.to_owned()));
        self.on_peers(|peers, effects| peers.reply_last(id, text, effects)).unwrap_or(Ok(()))
    }

    pub(crate) fn add_rule(&self, id: i32, pattern: Pattern, answer: String, delay: std::time::Duration) {
        let _ = self.with_peers(|peers| peers.add_rule(id, pattern, answer, delay));
    }

    fn carry(self: &Arc<Around>, effect: Effect) {
        let own = self.clone();
        match effect {
            Effect::ToNode(from, bytes) => {
                self.workers.post(WorkerId(0), Box::new(move |_| own.bin_to_node(from, bytes)));
            }
            Effect::ToPeer(from, to, bytes) => {
                let task = move |_: Instant| {
                    own.on_peers(|peers, effects| peers.on_packet(to, Some(from), &bytes, effects));
                };
                self.workers.post(WorkerId(0), Box::new(task));
            }
            Effect::Heard(peer, text) => self.wire.note(Place::Node, Place::Peer(peer), What::Asks(text)),
            Effect::HeardReply(peer, text) => self.wire.note(Place::Node, Place::Peer(peer), What::Says(text)),
            Effect::AnswerLater { peer, to, tag, text, delay } => {
                let task = move |_: Instant| {
                    own.wire.note(Place::Peer(peer), Place::Node, What::Says(text.clone()));
                    own.on_peers(|peers, effects| peers.reply(peer, to, &tag, &text, effects));
                };
                self.workers.at(clock::now() + delay, Box::new(task));
            }
        }
    }

    fn bin_to_node(&self, from: SocketAddr, bytes: Bytes) {
        let Some(listener) = self.listeners.iter().find(|listener| matches!(listener.proto, Proto::Bin | Proto::Bins))
        else {
            return;
        };
        let id = self.with_peers(|peers| peers.ids().into_iter().find(|id| peers.addr(*id) == Some(from))).flatten();
        let conn = id.map(|id| ConnId(Peers::conn(id)));
        if let (Some(conn), Some(id)) = (conn, id) {
            self.wire.add_peer_stream(conn, from);
            // Played nodes have the secret of the cluster; what is tested is the script.
            if let Some(layer) = self.node.link_layer() {
                layer.vouch(conn, from, id);
            }
        }
        let at = clock::now();
        let source = Source { src: from, dst: listener.addr, proto: listener.proto, socket: listener.id, conn, at };
        self.node.on_bin_packet(source, bytes);
    }

    fn arm(self: &Arc<Around>) {
        let Some(deadline) = self.with_peers(|peers| peers.poll_timeout()).flatten() else { return };
        let deadline = deadline.max(clock::now());
        {
            let mut armed = self.armed.lock();
            if armed.is_some_and(|armed| armed <= deadline) {
                return;
            }
            *armed = Some(deadline);
        }
        let own = self.clone();
        let task = move |_: Instant| {
            *own.armed.lock() = None;
            own.on_peers(|peers, effects| peers.on_timeout(effects));
        };
        self.workers.at(deadline, Box::new(task));
    }
}

/// The wire knows its receivers only through this handle.
impl Receivers for Arc<Around> {
    fn on_sip(&self, to: SocketAddr, bytes: Bytes) {
        let answer = self.with_phone(&to.to_string(), |phone| (phone.addr, phone.proto, phone.on_message(bytes)));
        if let Ok((addr, proto, Some(ack))) = answer {
            // A listener was found for the request that this confirms.
            let _ = self.send(addr, proto, ack);
        }
    }

    fn takes_bin(&self, to: SocketAddr) -> bool {
        self.with_peers(|peers| peers.is_running_at(to)).unwrap_or(false)
    }

    fn on_bin(&self, to: SocketAddr, bytes: Bytes) {
        self.on_peers(|peers, effects| peers.on_packet(to, None, &bytes, effects));
    }
}
