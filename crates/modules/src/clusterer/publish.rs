//! Keys that a cluster shares: `cluster_publish()`, `cluster_get()`, `cluster_unpublish()` and the counters of
//! `cluster_count()`. The store and how stores come to agree are in `tandem-cluster`; here are changes told to the others,
//! comparisons now and then, and what scripts and operators see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tandem_cluster::{
    CapabilityOptions, ClusterId, Found, KV_BUCKETS, KvError, KvStore, NodeId, SendError, decode_sums, encode_sums,
};
use tandem_module::SetupError;
use tandem_module::declare::{Function, arg_int, arg_text, arg_var};
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::worker::WorkerId;
use tandem_module::{Called, Context};
use tandem_script::surface::{ArgType, CommandSpec, FunctionSpec, Routes, arg, opt};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use super::capability::{Capability, CapabilityUser, ModulePacket, Registration, SyncSource};
use super::functions::cluster_arg;
use super::service::Clusterer;

/// Name under which nodes know it.
pub(super) const CAPABILITY: &str = "tandem-kv";
/// Content version.
const VERSION: u16 = 1;
const RECORDS: i32 = 1;
const SUMS: i32 = 2;
/// Between two looks at the store.
const TICK: Duration = Duration::from_secs(1);
/// Parts looked through for expired keys per tick: all of them in eight seconds.
const BUCKETS_PER_TICK: usize = 32;
/// Ticks between two comparisons with another node.
const TICKS_PER_COMPARISON: usize = 10;
/// Keys one listing shows.
pub(super) const LISTED_MAX: usize = 10_000;

const ERROR: i32 = -3;

const fn function(
    name: &'static str,
    args: &'static [tandem_script::surface::ArgSpec],
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes: Routes::ANY, is_async: false, doc }, call }
}

pub(super) const PUBLISH: Function = function(
    "cluster_publish",
    &[
        arg("cluster_id", ArgType::Int),
        arg("key", ArgType::Text),
        arg("value", ArgType::Text),
        opt("ttl_secs", ArgType::Int),
    ],
    "gives a key a value on all nodes, for ttl_secs or until it is removed; 1 done, -1 a limit is reached, -3 error (Tandem only)",
    publish,
);
pub(super) const GET: Function = function(
    "cluster_get",
    &[arg("cluster_id", ArgType::Int), arg("key", ArgType::Text), arg("value", ArgType::VarOut)],
    "the value of a key, or the sum of a counter; 1 found, -1 there is none, -3 error (Tandem only)",
    get,
);
pub(super) const UNPUBLISH: Function = function(
    "cluster_unpublish",
    &[arg("cluster_id", ArgType::Int), arg("key", ArgType::Text)],
    "removes value and counter of a key on all nodes; 1 done, -1 there was none here, -3 error (Tandem only)",
    unpublish,
);
pub(super) const COUNT: Function = function(
    "cluster_count",
    &[
        arg("cluster_id", ArgType::Int),
        arg("key", ArgType::Text),
        arg("delta", ArgType::Int),
        opt("ttl_secs", ArgType::Int),
        opt("sum", ArgType::VarOut),
    ],
    "adds to a counter of all nodes and gives the sum; what a node counted is forgotten ttl_secs after it last counted; \
     codes as cluster_publish() (Tandem only)",
    count,
);

pub(super) const LIST: CommandSpec = CommandSpec {
    name: "clusterer:kv_list",
    aliases: &["cluster_kv_list"],
    params: &["cluster_id", "prefix?"],
    doc: "keys the cluster shares, with value or count and seconds to live (Tandem only)",
};

/// The keys of one cluster.
pub(super) struct SharedKeys {
    clusterer: &'static Clusterer,
    cluster: ClusterId,
    store: Mutex<KvStore>,
    capability: std::sync::OnceLock<Capability>,
    /// Ticks since the start.
    ticks: AtomicUsize,
}

impl SharedKeys {
    fn now_ms(&self) -> i64 {
        now_ms(self.clusterer)
    }

    fn tell(&self, body: &[u8]) {
        let sent = self.capability.get().map(|capability| capability.tell_members(RECORDS, body));
        if let Some(Err(error)) = sent
            && error != SendError::Unreachable
        {
            tracing::debug!("shared keys: a change was not told ({error}); the next comparison brings it");
        }
    }

    /// Begins a comparison with another node.
    fn compare(&self, with: NodeId, is_answer: bool) {
        let sums = self.store.lock().sums(self.now_ms());
        if let Some(capability) = self.capability.get() {
            // Fails only when the node is gone or too much waits: a later comparison does it.
            let _ = capability.send_to(with, SUMS, &encode_sums(is_answer, &sums));
        }
    }

    fn on_records(&self, src: NodeId, body: &[u8]) {
        let merged = self.store.lock().merge(body, self.now_ms());
        match merged {
            Ok(merged) if merged.ahead > 0 => tracing::warn!(
                "shared keys: {} changes of node {src} were refused: its clock is more than five minutes ahead; run NTP on both",
                merged.ahead
            ),
            Ok(merged) if merged.refused > 0 => {
                tracing::warn!("shared keys: no room for {} changes of node {src}: {}", merged.refused, KvError::Full);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("shared keys: a packet of node {src} is malformed: {error}"),
        }
    }

    fn on_sums(&self, src: NodeId, body: &[u8]) {
        let (is_answer, sums) = match decode_sums(body) {
            Ok(decoded) => decoded,
            Err(error) => return tracing::warn!("shared keys: a comparison of node {src} is malformed: {error}"),
        };
        let Some(capability) = self.capability.get() else { return };
        let now_ms = self.now_ms();
        let differing = self.store.lock().differing(&sums, now_ms);
        if differing.is_empty() {
            return;
        }
        // Others would not take what an observer has.
        let tells = !self.clusterer.security.own_roles(self.cluster).is_observer;
        for bucket in differing.into_iter().filter(|_| tells) {
            let bodies = self.store.lock().bodies(bucket, now_ms);
            for body in bodies {
                if capability.send_to(src, RECORDS, &body).is_err() {
                    // The next comparison goes on.
                    return;
                }
            }
        }
        if !is_answer {
            self.compare(src, true);
        }
    }

    fn tick(&self) {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.now_ms();
        for step in 0..BUCKETS_PER_TICK {
            self.store.lock().purge((ticks * BUCKETS_PER_TICK + step) % KV_BUCKETS, now_ms);
        }
        if ticks % TICKS_PER_COMPARISON != TICKS_PER_COMPARISON - 1 {
            return;
        }
        let members = self.capability.get().map(Capability::members).unwrap_or_default();
        // Another one each time.
        let turn = (ticks / TICKS_PER_COMPARISON).checked_rem(members.len()).and_then(|at| members.get(at));
        if let Some(node) = turn {
            self.compare(*node, false);
        }
    }
}

/// Unix milliseconds, with the time that timers have seen pass.
fn now_ms(clusterer: &Clusterer) -> i64 {
    let ahead = clusterer.now().mono.saturating_duration_since(tandem_module::clock::now());
    tandem_module::clock::unix_ms().saturating_add(i64::try_from(ahead.as_millis()).unwrap_or(0))
}

impl CapabilityUser for SharedKeys {
    fn on_packet(&self, _node: NodeRef, packet: &ModulePacket) {
        match packet.packet_type {
            RECORDS => self.on_records(packet.src, &packet.body),
            SUMS => self.on_sums(packet.src, &packet.body),
            other => tracing::debug!("shared keys: node {} sent a packet of unknown type {other}", packet.src),
        }
    }

    fn on_chunk(&self, _node: NodeRef, src: NodeId, _data_version: i32, data: &Bytes) {
        self.on_records(src, data);
    }

    fn on_synced(&self, _node: NodeRef, _had_donor: bool) {
        // What was published here before is news to the others.
        let members = self.capability.get().map(Capability::members).unwrap_or_default();
        for node in members {
            self.compare(node, false);
        }
    }

    fn donate(&self, node: NodeRef, _requester: NodeId, _resume: Option<&[u8]>) -> Option<Box<dyn SyncSource>> {
        let keys = node.state::<Clusterer>()?.shared_keys(self.cluster)?;
        Some(Box::new(Source { keys, bucket: 0, bodies: Vec::new() }))
    }

    fn donate_since(&self, _: NodeRef, _: NodeId, _: tandem_cluster::SyncRepair) -> Option<Box<dyn SyncSource>> {
        // The comparison that follows finds what was missed, and that only.
        None
    }

    fn on_node(&self, _node: NodeRef, id: NodeId, is_up: bool) {
        // Each side may have changed keys while they were separated. A new node is not a member yet and asks for a sync.
        if is_up && self.capability.get().is_some_and(|capability| capability.members().contains(&id)) {
            self.compare(id, false);
        }
    }
}

struct Source {
    keys: Arc<SharedKeys>,
    bucket: usize,
    bodies: Vec<Vec<u8>>,
}

impl SyncSource for Source {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> bool {
        loop {
            if let Some(body) = self.bodies.pop() {
                *chunk = body;
                return true;
            }
            if self.bucket >= KV_BUCKETS {
                return false;
            }
            self.bodies = self.keys.store.lock().bodies(self.bucket, self.keys.now_ms());
            self.bucket += 1;
        }
    }
}

impl Clusterer {
    pub(super) fn shared_keys(&self, cluster: ClusterId) -> Option<Arc<SharedKeys>> {
        self.keys.get()?.iter().find(|keys| keys.cluster == cluster).cloned()
    }
}

/// Registers the capability for each cluster that shares keys.
pub(super) fn init(node: NodeRef, clusterer: &'static Clusterer) -> Result<(), SetupError> {
    let mut all = Vec::new();
    for cluster in clusterer.configuration.shared_keys.iter().copied() {
        let store = Mutex::new(KvStore::new(clusterer.configuration.core.node_id, now_ms(clusterer)));
        let (capability, ticks) = (std::sync::OnceLock::new(), AtomicUsize::new(0));
        let keys = Arc::new(SharedKeys { clusterer, cluster, store, capability, ticks });
        all.push(keys.clone());
        let options = CapabilityOptions { sync_at_start: true, questions: &[SUMS], ..CapabilityOptions::default() };
        let registration = Registration { cluster, name: CAPABILITY, version: VERSION, options, user: keys.clone() };
        let _ = keys.capability.set(clusterer.register(node, registration)?);
    }
    let _ = clusterer.keys.set(all);
    let sum = |pick: fn(&KvStore) -> usize| {
        move || {
            let all = clusterer.keys.get().into_iter().flatten();
            all.map(|keys| pick(&keys.store.lock())).sum::<usize>() as i64
        }
    };
    node.stats.computed("clusterer", "shared_keys", sum(KvStore::len));
    node.stats.computed("clusterer", "shared_key_bytes", sum(KvStore::byte_count));
    node.mi.register(LIST, move |request| list(clusterer, request).into());
    Ok(())
}

/// Begins to look after the stores.
pub(super) fn start(node: NodeRef, clusterer: &'static Clusterer) {
    if !clusterer.configuration.shared_keys.is_empty() {
        next_tick(node, tandem_module::clock::now());
    }
}

fn next_tick(node: NodeRef, now: Instant) {
    let tick = move |now: Instant| {
        let keys = node.state::<Clusterer>().and_then(|clusterer| clusterer.keys.get());
        for keys in keys.into_iter().flatten() {
            keys.tick();
        }
        next_tick(node, now);
    };
    if let Some(workers) = node.workers() {
        workers.after(WorkerId(0), now + TICK, Box::new(tick));
    }
}

fn keys_of(context: &Context, args: &[Arg], function: &str) -> Option<Arc<SharedKeys>> {
    let cluster = cluster_arg(args)?;
    let keys = context.node.state::<Clusterer>().and_then(|clusterer| clusterer.shared_keys(cluster));
    if keys.is_none() {
        let hint = format!("modparam(\"clusterer\", \"shared_keys\", \"{cluster}\")");
        context.log(LogLevel::Error, &format!("{function}: cluster {cluster} shares no keys; add {hint} on all nodes"));
    }
    keys
}

/// As [`keys_of`], for a function that changes something: an observer does not.
fn keys_to_change(context: &Context, args: &[Arg], function: &str) -> Option<Arc<SharedKeys>> {
    let keys = keys_of(context, args, function)?;
    let clusterer = context.node.state::<Clusterer>()?;
    if clusterer.security.own_roles(cluster_arg(args)?).is_observer {
        context.log(LogLevel::Error, &format!("{function}: {}", SendError::Observer));
        return None;
    }
    Some(keys)
}

/// Argument `at` as a time to live; 0 or nothing is for ever.
fn ttl_ms(args: &[Arg], at: usize) -> Option<i64> {
    arg_int(args, at).filter(|secs| *secs > 0).map(|secs| i64::from(secs) * 1_000)
}

fn refuse(context: &Context, function: &str, error: KvError) -> Called {
    context.log(LogLevel::Error, &format!("{function}: {error}"));
    Called::Done(-1)
}

fn publish(context: &mut Context, args: &[Arg]) -> Called {
    let Some(keys) = keys_to_change(context, args, "cluster_publish") else { return Called::Done(ERROR) };
    let (Some(key), Some(value)) = (arg_text(args, 1), arg_text(args, 2)) else { return Called::Done(ERROR) };
    let published = keys.store.lock().publish(key, value, ttl_ms(args, 3), keys.now_ms());
    match published {
        Ok(told) => {
            keys.tell(&told);
            Called::Done(1)
        }
        Err(error) => refuse(context, "cluster_publish", error),
    }
}

fn get(context: &mut Context, args: &[Arg]) -> Called {
    let Some(keys) = keys_of(context, args, "cluster_get") else { return Called::Done(ERROR) };
    let (Some(key), Some(var)) = (arg_text(args, 1), arg_var(args, 2)) else { return Called::Done(ERROR) };
    let found = keys.store.lock().get(key, keys.now_ms());
    let value = match found {
        None => return Called::Done(-1),
        Some(Found::Value(value)) => Value::Text(Text::share(&value)),
        Some(Found::Count(sum)) => number(sum),
    };
    Called::Done(if context.write_var(&var.clone(), value) { 1 } else { ERROR })
}

fn unpublish(context: &mut Context, args: &[Arg]) -> Called {
    let Some(keys) = keys_to_change(context, args, "cluster_unpublish") else { return Called::Done(ERROR) };
    let Some(key) = arg_text(args, 1) else { return Called::Done(ERROR) };
    let removed = keys.store.lock().remove(key, keys.now_ms());
    match removed {
        Ok((was_there, told)) => {
            keys.tell(&told);
            Called::Done(if was_there { 1 } else { -1 })
        }
        Err(error) => refuse(context, "cluster_unpublish", error),
    }
}

fn count(context: &mut Context, args: &[Arg]) -> Called {
    let Some(keys) = keys_to_change(context, args, "cluster_count") else { return Called::Done(ERROR) };
    let (Some(key), Some(delta)) = (arg_text(args, 1), arg_int(args, 2)) else { return Called::Done(ERROR) };
    let counted = keys.store.lock().count(key, delta.into(), ttl_ms(args, 3), keys.now_ms());
    match counted {
        Ok((sum, told)) => {
            keys.tell(&told);
            if let Some(var) = arg_var(args, 4) {
                context.write_var(&var.clone(), number(sum));
            }
            Called::Done(1)
        }
        Err(error) => refuse(context, "cluster_count", error),
    }
}

/// A sum as scripts see it; one that fits no script integer as its text.
fn number(sum: i64) -> Value {
    i32::try_from(sum).map_or_else(|_| Value::Text(Text::from(sum.to_string())), Value::Int)
}

fn list(clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let cluster = i32::try_from(request.int("cluster_id")?).map_err(|_| MiError::bad("cluster_id"))?;
    let prefix = request.text_opt("prefix")?.unwrap_or_default();
    let keys = clusterer.shared_keys(ClusterId(cluster));
    let keys = keys.ok_or_else(|| MiError::new(404, "The cluster shares no keys"))?;
    let rows = keys.store.lock().list(prefix.as_bytes(), LISTED_MAX, keys.now_ms());
    let rows = rows.into_iter().map(|row| {
        let key = String::from_utf8_lossy(&row.key).into_owned();
        let mut out = match row.found {
            Found::Value(value) => json!({ "Key": key, "Value": String::from_utf8_lossy(&value) }),
            Found::Count(sum) => json!({ "Key": key, "Count": sum }),
        };
        if let (Some(left), Some(map)) = (row.left_ms, out.as_object_mut()) {
            map.insert("TTL".into(), ((left + 999) / 1_000).into());
        }
        out
    });
    Ok(Json::Array(rows.collect()))
}
