//! The way between the core and the world: packets in, outputs out, timers, events. One lock around the core; packets
//! are sent under it, so that their order is that of the core; events are raised after it is let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rand::RngCore as _;
use smallvec::{SmallVec, smallvec};
use tandem_cluster::{
    AnswerKind, BridgeCounts, ClusterId, ClusterNode, ConnId, DropReason, Event as CoreEvent, Family, HeldReply,
    LogLevel as CoreLevel, NodeId, Now, Verdict,
};
use tandem_module::context::write_log;
use tandem_module::event::{Event, EventFilter};
use tandem_module::mi::{MiParams, MiReply, MiResult};
use tandem_module::node::{self, NodeRef};
use tandem_module::stat::Stat;
use tandem_module::transport::{Proto, Source};
use tandem_module::worker::{TimerClass, TimerHandler};
use tandem_module::{SetupError, declare};
use tandem_script::value::{Text, Value};
use tandem_script::vm::LogLevel;

use super::capability::{Capability, Counters as CapabilityCounters, Registered, Registration};
use super::donor::Unwritten;
use super::output::Close;
use super::params::Configuration;
use super::publish::{self, SharedKeys};
use super::query::Questions;
use super::security::{self, Security};
use super::{
    NODE_STATE_CHANGED, REPLY_RECEIVED, REQUEST_RECEIVED, SHARING_TAG_CHANGED, UNDELIVERED, database, management,
    report,
};

/// One number of a capability.
type Pick = fn(&CapabilityCounters) -> &AtomicU64;
/// One number of the bridges.
type PickBridge = fn(BridgeCounts) -> u64;

/// Lines kept per status/report identifier.
const REPORTS_MAX: usize = 200;

/// State of the module.
pub struct Clusterer {
    pub(super) configuration: Configuration,
    pub(super) core: Mutex<Option<ClusterNode>>,
    timer: Mutex<Timer>,
    reports: Mutex<hashbrown::HashMap<String, std::collections::VecDeque<(i64, String)>>>,
    counters: std::sync::OnceLock<Counters>,
    pub(super) capabilities: RwLock<Vec<Arc<Registered>>>,
    pub(super) unwritten: Mutex<Unwritten>,
    pub(super) questions: Questions,
    pub(super) keys: std::sync::OnceLock<Vec<Arc<SharedKeys>>>,
    pub(super) security: Arc<Security>,
    /// The latest moment a timer fired at: time never goes back for the core.
    latest: Mutex<Instant>,
}

#[derive(Default)]
struct Timer {
    class: Option<TimerClass>,
    armed: Option<Instant>,
}

struct Counters {
    held: Arc<Stat>,
    dropped: Arc<Stat>,
    undelivered: Arc<Stat>,
}

impl Clusterer {
    pub(super) fn new(mut configuration: Configuration) -> Clusterer {
        let (own, families) = (configuration.core.node_id, configuration.families.clone());
        let security = Arc::new(Security::new(own, std::mem::take(&mut configuration.security), families));
        Clusterer {
            configuration,
            security,
            core: Mutex::new(None),
            timer: Mutex::new(Timer::default()),
            reports: Mutex::default(),
            counters: std::sync::OnceLock::new(),
            capabilities: RwLock::default(),
            unwritten: Mutex::default(),
            questions: Questions::default(),
            keys: std::sync::OnceLock::new(),
            latest: Mutex::new(tandem_module::clock::now()),
        }
    }

    /// The moment, for the core.
    pub(super) fn now(&self) -> Now {
        let mono = tandem_module::clock::now().max(*self.latest.lock());
        Now { mono, unix_secs: node::unix_secs() }
    }

    /// Lets the core know of a moment that no timer has brought.
    #[cfg(test)]
    pub(crate) fn move_to(&self, at: Instant) {
        let mut latest = self.latest.lock();
        *latest = at.max(*latest);
    }

    /// Registers a capability of a module. Call it from the module's `init`.
    ///
    /// # Errors
    /// When this node is not in the cluster, or the name is taken.
    pub fn register(&'static self, node: NodeRef, registration: Registration) -> Result<Capability, SetupError> {
        let Registration { cluster, name, options, .. } = registration;
        let core = &self.configuration.core;
        if self.configuration.database.is_none() && !core.clusters.iter().any(|known| known.cluster_id == cluster) {
            return Err(SetupError::new(format!(
                "this node is not in cluster {cluster}: add my_node_info \"cluster_id={cluster}, url=...\" to clusterer"
            )));
        }
        let entry = Registered::new(registration);
        {
            let mut all = self.capabilities.write();
            if all.iter().any(|known| known.is(cluster, name)) {
                return Err(SetupError::new(format!("capability {name} of cluster {cluster} is registered already")));
            }
            all.push(entry.clone());
        }
        if let Some(Err(error)) = self.with(node, |core| core.register_capability(cluster, name, options, self.now())) {
            return Err(SetupError::new(format!("capability {name} of cluster {cluster}: {error}")));
        }
        Ok(Capability::new(node, self, entry))
    }

    /// The version family spoken in a cluster.
    #[must_use]
    pub fn family(&self, cluster: ClusterId) -> Family {
        let named = self.configuration.families.iter().find(|(id, _)| *id == cluster);
        named.map_or(self.configuration.default_family, |(_, family)| *family)
    }

    /// A number summed over all capabilities.
    fn sum(&self, pick: Pick) -> i64 {
        let all = self.capabilities.read();
        let sum: u64 = all.iter().map(|entry| pick(&entry.counters).load(Ordering::Relaxed)).sum();
        i64::try_from(sum).unwrap_or(i64::MAX)
    }

    /// Runs `work` on the core and does what it asks for. `None` before the node records are loaded.
    pub(super) fn with<T>(&self, node: NodeRef, work: impl FnOnce(&mut ClusterNode) -> T) -> Option<T> {
        let mut events: SmallVec<[CoreEvent; 4]> = SmallVec::new();
        let mut closes: SmallVec<[Close; 1]> = SmallVec::new();
        let mut touched: SmallVec<[Arc<Registered>; 2]> = SmallVec::new();
        let (result, deadline) = {
            let mut guard = self.core.lock();
            let core = guard.as_mut()?;
            let result = work(core);
            self.drain(node, core, &mut events, &mut closes, &mut touched);
            (result, core.poll_timeout())
        };
        self.arm(node, deadline);
        for close in closes {
            let Some(transport) = node.transport() else { break };
            match close {
                Close::Peer(to) => transport.close_bin(to),
                Close::Connection(conn) => transport.close_connection(tandem_module::transport::ConnId(conn.0)),
            }
        }
        for event in events {
            self.on_event(node, event);
        }
        if let (false, Some(clusterer)) = (touched.is_empty(), node.state::<Clusterer>()) {
            for entry in touched {
                entry.run(clusterer, node);
            }
        }
        Some(result)
    }

    /// Reads from the core without asking for its outputs.
    pub(super) fn read<T>(&self, work: impl FnOnce(&ClusterNode) -> T) -> Option<T> {
        self.core.lock().as_ref().map(work)
    }

    /// Whether the core has been started: in database mode that is when the node table has been read.
    pub(super) fn is_running(&self) -> bool {
        self.core.lock().is_some()
    }

    /// Starts the core; false when it runs already.
    pub(super) fn begin(
        &self,
        node: NodeRef,
        configuration: tandem_cluster::ClusterNodeConfig,
    ) -> Result<bool, SetupError> {
        if self.is_running() {
            return Ok(false);
        }
        self.security.set_clusters(&configuration.clusters);
        self.security.announce();
        let rng = Box::new(|| rand::rng().next_u64());
        let mut core =
            ClusterNode::new(configuration, rng, self.now()).map_err(|error| SetupError::new(error.to_string()))?;
        self.register_in(&mut core, |_| true);
        {
            // The command to reload and the next attempt of the start may meet here.
            let mut running = self.core.lock();
            if running.is_some() {
                return Ok(false);
            }
            *running = Some(core);
        }
        self.with(node, |_| ());
        Ok(true)
    }

    /// Registers what modules have registered in the clusters that `is_new` says.
    pub(super) fn register_in(&self, core: &mut ClusterNode, is_new: impl Fn(ClusterId) -> bool) {
        let all = self.capabilities.read();
        for entry in all.iter().filter(|entry| is_new(entry.registration.cluster)) {
            let Registration { cluster, name, options, .. } = entry.registration;
            if let Err(error) = core.register_capability(cluster, name, options, self.now()) {
                tracing::error!("capability {name} of cluster {cluster} cannot be used: {error}");
            }
        }
    }

    fn arm(&self, node: NodeRef, deadline: Option<Instant>) {
        let (Some(deadline), Some(workers)) = (deadline, node.workers()) else { return };
        let mut timer = self.timer.lock();
        let Some(class) = timer.class else { return };
        // A timer that fires too early only looks again; one per tenth of a millisecond would be waste.
        if timer.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        timer.armed = Some(deadline);
        drop(timer);
        workers.arm(class, 0, deadline);
    }

    fn on_packet(&self, node: NodeRef, source: Source, packet: &Bytes) {
        let Some(conn) = source.conn else { return };
        if self.security.is_active() && !self.security.admits(source, packet) {
            return;
        }
        let verdict = self.with(node, |core| core.handle_packet(source.src, ConnId(conn.0), packet, self.now()));
        if let (Some(Verdict::Dropped(reason)), Some(counters)) = (verdict, self.counters.get()) {
            // What happens all the time beside nodes of OpenSIPS: they send module packets to nodes without the module, too.
            let is_ordinary = matches!(
                reason,
                DropReason::Stale
                    | DropReason::UnknownCapability
                    | DropReason::CapabilityDisabled
                    | DropReason::OwnDisabled
            );
            if !is_ordinary {
                counters.dropped.inc();
            }
            tracing::debug!(src = %source.src, ?reason, "cluster packet dropped");
        }
    }

    fn on_event(&self, node: NodeRef, event: CoreEvent) {
        match event {
            CoreEvent::RequestReceived { cluster, src, msg, tag } => {
                if tandem_cluster::is_question(&tag) && !node.events.has_listeners(REQUEST_RECEIVED) {
                    // Fails when the asker has gone meanwhile, and then nobody waits.
                    let _ = self.with(node, |core| core.answer(&tag, AnswerKind::NoHandler, b"", self.now()));
                    return;
                }
                raise_message(node, REQUEST_RECEIVED, cluster, src, &msg, &tag);
            }
            CoreEvent::ReplyReceived { src, msg, tag, .. } if tandem_cluster::is_question(&tag) => {
                self.questions.answer(&tag, src, AnswerKind::Final, msg);
            }
            CoreEvent::AnswerReceived { src, kind, msg, tag, .. } => self.questions.answer(&tag, src, kind, msg),
            CoreEvent::ReplyReceived { cluster, src, msg, tag } => self.on_reply(node, cluster, src, msg, &tag),
            CoreEvent::Undelivered { cluster, node: to, msg, tag, reason } => {
                if let Some(counters) = self.counters.get() {
                    counters.undelivered.inc();
                }
                if node.events.has_listeners(UNDELIVERED) {
                    let params = smallvec![
                        ("cluster_id", Value::Int(cluster.0)),
                        ("node_id", Value::Int(to.0)),
                        ("msg", Value::Text(Text::share(&msg))),
                        ("tag", Value::Text(Text::share(&tag))),
                        ("reason", Value::Text(Text::from(reason.to_string()))),
                    ];
                    node.events.raise(node, Event { name: UNDELIVERED, params }, None);
                }
            }
            CoreEvent::NodeStateChanged { cluster, node: id, is_up } => {
                if !is_up {
                    self.questions.node_lost(cluster, id);
                }
                let params = smallvec![
                    ("cluster_id", Value::Int(cluster.0)),
                    ("node_id", Value::Int(id.0)),
                    ("new_state", Value::Int(i32::from(is_up))),
                ];
                node.events.raise(node, Event { name: NODE_STATE_CHANGED, params }, None);
            }
            CoreEvent::SharingTagChanged { name, cluster, is_active, reason } => {
                let params = smallvec![
                    ("name", Value::Text(Text::from(name))),
                    ("cluster", Value::Int(cluster.0)),
                    ("state", Value::from(if is_active { "active" } else { "backup" })),
                    ("reason", Value::Text(Text::from(reason.to_string()))),
                ];
                node.events.raise(node, Event { name: SHARING_TAG_CHANGED, params }, None);
            }
            CoreEvent::MiCommand { cluster, src, command, params } => {
                run_command(node, cluster, src, &command, &params)
            }
            CoreEvent::Report { identifier, text } => self.report(identifier, text),
            CoreEvent::Log(event) => {
                let level = match event.level() {
                    CoreLevel::Debug => LogLevel::Debug,
                    CoreLevel::Info => LogLevel::Info,
                    CoreLevel::Warning => LogLevel::Warning,
                    CoreLevel::Error => LogLevel::Error,
                };
                if node.settings.wants_log(level) {
                    write_log(level, &event.to_string());
                }
            }
            // Those of capabilities are in their queues.
            CoreEvent::ModulePacket { .. }
            | CoreEvent::SyncRequested { .. }
            | CoreEvent::SyncReady { .. }
            | CoreEvent::SyncAborted { .. }
            | CoreEvent::SyncStarted { .. }
            | CoreEvent::SyncChunk { .. }
            | CoreEvent::SyncDone { .. }
            | CoreEvent::SyncTimeout { .. } => {}
        }
    }

    /// Held first, raised second: a script that begins to wait in between finds it in either place, and never in both.
    fn on_reply(&self, node: NodeRef, cluster: ClusterId, src: NodeId, msg: Bytes, tag: &Bytes) {
        let held = HeldReply { cluster, src, msg: msg.clone() };
        let is_held = self.with(node, |core| core.hold_reply(tag, held, self.now())).unwrap_or(false);
        let woken = raise_message(node, REPLY_RECEIVED, cluster, src, &msg, tag);
        if !is_held {
            return;
        }
        if woken == 0 {
            if let Some(counters) = self.counters.get() {
                counters.held.inc();
            }
            return;
        }
        self.with(node, |core| {
            let mut rest = core.take_held_replies(tag, self.now());
            rest.pop();
            for reply in rest {
                core.hold_reply(tag, reply, self.now());
            }
        });
    }

    /// The oldest reply held for the tag that `filter` asks for.
    fn claim(&self, node: NodeRef, filter: &EventFilter) -> Option<Arc<Event>> {
        let (_, tag) = filter.equal.iter().find(|(name, _)| name.eq_ignore_case(b"tag"))?;
        self.with(node, |core| {
            let mut found = None;
            for reply in core.take_held_replies(tag, self.now()) {
                let event = Arc::new(message_event(REPLY_RECEIVED, reply.cluster, reply.src, &reply.msg, tag));
                if found.is_none() && filter.matches(&event) {
                    found = Some(event);
                } else {
                    core.hold_reply(tag, reply, self.now());
                }
            }
            found
        })
        .flatten()
    }

    pub(super) fn report(&self, identifier: String, text: String) {
        tracing::info!("{identifier}: {text}");
        let mut reports = self.reports.lock();
        let lines = reports.entry(identifier).or_default();
        if lines.len() >= REPORTS_MAX {
            lines.pop_front();
        }
        lines.push_back((node::unix_secs(), text));
    }

    /// Reports per identifier: Unix time and text, oldest first.
    pub(super) fn reports(&self) -> Vec<(String, Vec<(i64, String)>)> {
        let reports = self.reports.lock();
        let mut all: Vec<_> =
            reports.iter().map(|(name, lines)| (name.clone(), lines.iter().cloned().collect())).collect();
        all.sort();
        all
    }
}

fn message_event(name: &'static str, cluster: ClusterId, src: NodeId, msg: &Bytes, tag: &[u8]) -> Event {
    let params = smallvec![
        ("cluster_id", Value::Int(cluster.0)),
        ("src_id", Value::Int(src.0)),
        ("msg", Value::Text(Text::share(msg))),
        ("tag", Value::Text(Text::copy(tag))),
    ];
    Event { name, params }
}

fn raise_message(node: NodeRef, name: &'static str, cluster: ClusterId, src: NodeId, msg: &Bytes, tag: &[u8]) -> usize {
    if !node.events.has_listeners(name) {
        return 0;
    }
    node.events.raise(node, message_event(name, cluster, src, msg, tag), None)
}

/// Runs a management command for another node; only the log tells the result (OpenSIPS: clusterer, cluster_send_mi).
fn run_command(node: NodeRef, cluster: ClusterId, src: NodeId, command: &[u8], params: &[Bytes]) {
    let name = String::from_utf8_lossy(command).into_owned();
    let text = |param: &Bytes| serde_json::Value::String(String::from_utf8_lossy(param).into_owned());
    let params =
        if params.is_empty() { MiParams::None } else { MiParams::Positional(params.iter().map(text).collect()) };
    let tell = move |name: &str, result: &MiResult| match result {
        Ok(_) => tracing::info!("command '{name}' of node {src} in cluster {cluster}: done"),
        Err(error) => {
            tracing::warn!("command '{name}' of node {src} in cluster {cluster}: {} {}", error.code, error.message)
        }
    };
    match node.mi.run(&name, params) {
        MiReply::Now(result) => tell(&name, &result),
        MiReply::Later(future) => {
            if let Some(workers) = node.workers() {
                workers.spawn(Box::pin(async move { tell(&name, &future.await) }));
            }
        }
    }
}

struct Tick(NodeRef);

impl TimerHandler for Tick {
    fn on_timer(&self, _key: u64, at: Instant) {
        let Some(clusterer) = self.0.state::<Clusterer>() else { return };
        {
            let mut timer = clusterer.timer.lock();
            if timer.armed.is_some_and(|armed| armed > at) {
                // An older, later one was replaced by an earlier one that has not fired yet.
                return;
            }
            timer.armed = None;
        }
        {
            let mut latest = clusterer.latest.lock();
            *latest = at.max(*latest);
        }
        clusterer.with(self.0, |core| core.handle_timeout(clusterer.now()));
    }
}

pub(super) fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(clusterer) = node.state::<Clusterer>() else { return Ok(()) };
    let _ = clusterer.counters.set(Counters {
        held: node.stats.stat("clusterer", "held_replies"),
        dropped: node.stats.stat("clusterer", "dropped_packets"),
        undelivered: node.stats.stat("clusterer", "messages_undelivered"),
    });
    let count = |pick: fn(tandem_cluster::NodeCounts) -> usize| {
        move || clusterer.read(|core| pick(core.node_counts())).unwrap_or_default() as i64
    };
    node.stats.computed("clusterer", "clusterer_nodes", count(|counts| counts.nodes));
    node.stats.computed("clusterer", "clusterer_nodes_up", count(|counts| counts.up));
    node.stats.computed("clusterer", "clusterer_nodes_down", count(|counts| counts.down));
    for (at, name) in ["links_proven", "links_refused", "packets_refused"].into_iter().enumerate() {
        // What observers must not send is seen in the core.
        let is_packets = name == "packets_refused";
        node.stats.computed("clusterer", name, move || {
            let drops = clusterer.read(tandem_cluster::ClusterNode::observer_drops).filter(|_| is_packets);
            let drops = drops.map_or(0, |drops| i64::try_from(drops).unwrap_or(i64::MAX));
            clusterer.security.counts().get(at).copied().unwrap_or(0).saturating_add(drops)
        });
    }
    clusterer.security.set_node(node);
    if node.has_module("proto_bins")
        && let Some(links) = node.state::<crate::tls_mgm::TlsManagement>().and_then(|all| all.mutual())
    {
        clusterer.security.set_tls(links.clone());
    }
    if clusterer.security.is_protected() {
        node.set_link_layer(Arc::new(security::Layer(clusterer.security.clone())));
    }
    let sums: [(&str, Pick); 9] = [
        ("module_packets_sent", |counts| &counts.packets_sent),
        ("module_packets_received", |counts| &counts.packets_received),
        ("module_packets_failed", |counts| &counts.packets_failed),
        ("module_packets_lost", |counts| &counts.packets_lost),
        ("sync_chunks_sent", |counts| &counts.chunks_sent),
        ("sync_chunks_received", |counts| &counts.chunks_received),
        ("sync_chunks_refused", |counts| &counts.chunks_refused),
        ("syncs_done", |counts| &counts.syncs),
        ("donations_done", |counts| &counts.donations),
    ];
    for (name, pick) in sums {
        node.stats.computed("clusterer", name, move || clusterer.sum(pick));
    }
    let bridged: [(&str, PickBridge); 3] = [
        ("bridge_packets_sent", |counts| counts.sent),
        ("bridge_packets_moved", |counts| counts.moved),
        ("bridge_packets_lost", |counts| counts.lost),
    ];
    for (name, pick) in bridged {
        let value = move || clusterer.read(|core| pick(core.bridge_counts())).unwrap_or_default();
        node.stats.computed("clusterer", name, move || i64::try_from(value()).unwrap_or(i64::MAX));
    }
    node.stats.computed("clusterer", "messages_unacknowledged", move || {
        clusterer.read(|core| core.unacknowledged().0).unwrap_or_default() as i64
    });
    node.stats.computed("clusterer", "questions_pending", move || clusterer.questions.len() as i64);
    if let Some(workers) = node.workers() {
        clusterer.timer.lock().class = Some(workers.add_timer_class(Arc::new(Tick(node))));
    }
    node.events.set_held(REPLY_RECEIVED, Arc::new(move |filter| clusterer.claim(node, filter)));
    node.set_bin_sink(Box::new(move |node, source, packet| clusterer.on_packet(node, source, &packet)));
    node.add_open_sink(Box::new(move |node, peer, proto, is_own| {
        if is_own && matches!(proto, Proto::Bin | Proto::Bins) {
            clusterer.with(node, |core| core.handle_connected(peer, clusterer.now()));
        }
    }));
    node.add_close_sink(Box::new(move |node, conn, peer, proto, was_open| {
        if matches!(proto, Proto::Bin | Proto::Bins) {
            clusterer.security.closed(conn);
            clusterer.with(node, |core| {
                if !was_open {
                    return core.handle_connect_failed(peer, clusterer.now());
                }
                core.handle_connection_closed(ConnId(conn.0), clusterer.now());
                core.handle_outgoing_closed(peer, clusterer.now());
            });
        }
    }));
    management::register(node, clusterer);
    report::register(node, clusterer);
    security::register(node, clusterer);
    publish::init(node, clusterer)
}

pub(super) fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(clusterer) = node.state::<Clusterer>() else { return Ok(()) };
    let configuration = &clusterer.configuration;
    check_listeners(node, &configuration.core)?;
    publish::start(node, clusterer);
    match &configuration.database {
        None => {
            clusterer.begin(node, configuration.core.clone())?;
            security::start(node, clusterer);
            Ok(())
        }
        Some(_) => database::begin(node, clusterer),
    }
}

/// Other nodes reach this one at its URL: without a listener there it would never be heard of.
pub(super) fn check_listeners(
    node: NodeRef,
    core: &tandem_cluster::ClusterNodeConfig,
) -> Result<(), declare::SetupError> {
    for cluster in &core.clusters {
        let Some(addr) = cluster.own.addr else { continue };
        let fits = |socket: &tandem_module::transport::Socket| {
            matches!(socket.proto, Proto::Bin | Proto::Bins)
                && socket.addr.port() == addr.port()
                && (socket.addr.ip() == addr.ip() || socket.addr.ip().is_unspecified())
        };
        if !node.sockets().iter().any(fits) {
            let url = cluster.own.url.as_str();
            return Err(SetupError::new(format!(
                "cluster {}: this node's url is {url}, but no socket listens there; add socket={url} (listen={url} in 2.4)",
                cluster.cluster_id
            )));
        }
    }
    Ok(())
}
