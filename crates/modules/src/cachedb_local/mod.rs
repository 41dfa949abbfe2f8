//! Module `cachedb_local`: key-value stores in memory. A collection is a store; a URL gives it the name scripts use. The
//! stores themselves are in `tandem-store`; they begin empty after a restart, but for what the cluster still has.

mod changes;
mod replication;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod repair_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod replication_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use serde_json::{Value as Json, json};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, Setup, arg_text};
use tandem_module::mi::{MiError, MiRequest};
use tandem_module::worker::WorkerId;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ArgType::Text;
use tandem_script::surface::{CommandSpec, ParamSpec, ParamType, Routes, arg};
use tandem_script::vm::{Arg, LogLevel};
use tandem_store::{MemoryLimits, MemoryStore};

use crate::clusterer::{CapabilityOptions, ClusterId, Clusterer, Registration};
use crate::core::table::{done, function, list_param, param};

use replication::{Replicated, Shared};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "cachedb_local",
    doc: "memory key-value store",
    params: PARAMS,
    functions: FUNCTIONS,
    commands: &[REMOVE_CHUNK, FETCH_CHUNK],
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

/// The collection that is always there.
const DEFAULT: &str = "default";

static PARAMS: &[ParamSpec] = &[
    list_param(
        "cachedb_url",
        ParamType::Text,
        "name for scripts and its collection: local:group:///collection is local:group",
    ),
    param(
        "cache_collections",
        ParamType::Text,
        "",
        "collections: \"one; two/r = 5\"; /r shares a collection with the cluster, sizes have no effect",
    ),
    param("cache_table_size", ParamType::Int, "9", "accepted, no effect: the table grows by itself"),
    param("cache_clean_period", ParamType::Int, "600", "seconds between two looks for expired entries"),
    param("exec_threshold", ParamType::Int, "0", "accepted, no effect"),
    param("cluster_id", ParamType::Int, "0", "cluster that collections marked /r are shared with; 0: none"),
    param(
        "cluster_persistency",
        ParamType::Text,
        "sync-from-cluster",
        "sync-from-cluster: get the shared collections from another node at start; none: begin empty",
    ),
    param("enable_restart_persistency", ParamType::Int, "0", "accepted, no effect: a restart begins empty"),
];

static FUNCTIONS: &[Function] = &[
    function(
        "cache_remove_chunk",
        &[arg("glob", Text)],
        Routes::ANY,
        "removes all keys of the default collection that fit a pattern of * ? [a-z]",
        remove_chunk,
    ),
    function(
        "cache_remove_chunk",
        &[arg("collection", Text), arg("glob", Text)],
        Routes::ANY,
        "removes all keys of a collection that fit a pattern of * ? [a-z]",
        remove_chunk,
    ),
];

const REMOVE_CHUNK: CommandSpec = CommandSpec {
    name: "cachedb_local:remove_chunk",
    aliases: &["cache_remove_chunk"],
    params: &["glob", "collection?"],
    doc: "removes all keys that fit a pattern",
};
const FETCH_CHUNK: CommandSpec = CommandSpec {
    name: "cachedb_local:fetch_chunk",
    aliases: &["cache_fetch_chunk"],
    params: &["glob", "collection?"],
    doc: "keys that fit a pattern, with their values",
};

/// State of the module.
struct CachedbLocal {
    collections: HashMap<String, Arc<MemoryStore>>,
    /// Names for scripts and their collections.
    engines: HashMap<String, String>,
    clean_period: Duration,
    cluster: Option<ClusterId>,
    is_synced_at_start: bool,
    shared: Arc<Shared>,
}

impl CachedbLocal {
    fn collection(&self, name: &str) -> Option<&Arc<MemoryStore>> {
        self.collections.get(name)
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let begin = tandem_module::clock::now();
    let store = || {
        let clock = Arc::new(move || {
            u64::try_from(tandem_module::clock::now().saturating_duration_since(begin).as_millis()).unwrap_or(u64::MAX)
        });
        Arc::new(MemoryStore::new(MemoryLimits::default(), clock))
    };
    let mut collections = HashMap::from([(DEFAULT.to_owned(), store())]);
    let mut replicated = Vec::new();
    let list = params.text_or("cache_collections", "");
    for item in list.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, is_replicated) =
            collection_name(item).map_err(|error| SetupError::param("cache_collections", error))?;
        if is_replicated && !replicated.contains(&name) {
            replicated.push(name.clone());
        }
        collections.entry(name).or_insert_with(store);
    }
    let mut engines = HashMap::new();
    for (at, url) in params.all("cachedb_url").iter().enumerate() {
        let wrong = |reason: String| SetupError::param_at("cachedb_url", at, reason);
        let (engine, collection) = engine(url).map_err(wrong)?;
        if !collections.contains_key(&collection) {
            return Err(wrong(format!("there is no collection '{collection}' (parameter cache_collections)")));
        }
        // A later URL takes the place of an earlier one of the same name.
        engines.insert(engine, collection);
    }
    if engines.is_empty() {
        engines.insert("local".to_owned(), DEFAULT.to_owned());
    }
    let period = params.int("cache_clean_period", 600);
    let period = u64::try_from(period).ok().filter(|secs| *secs > 0);
    let period = period.ok_or_else(|| SetupError::param("cache_clean_period", "the period is at least one second"))?;
    let cluster = Some(params.int("cluster_id", 0)).filter(|id| *id > 0).map(ClusterId);
    if cluster.is_none() && !replicated.is_empty() {
        tracing::warn!(
            "cachedb_local: collection '{}' is marked /r, but cluster_id is not set: it stays local",
            replicated.join("', '")
        );
        replicated.clear();
    }
    let is_synced_at_start = match params.text_or("cluster_persistency", "sync-from-cluster").as_str() {
        "sync-from-cluster" => true,
        "none" => false,
        other => {
            let message = format!("'{other}' is neither none nor sync-from-cluster");
            return Err(SetupError::param("cluster_persistency", message));
        }
    };
    let shared = replicated.into_iter().filter_map(|name| Some((name.clone(), collections.get(&name)?.clone())));
    let shared = Shared::new(shared.collect());
    let clean_period = Duration::from_secs(period);
    setup.state(CachedbLocal { collections, engines, clean_period, cluster, is_synced_at_start, shared });
    Ok(())
}

/// `name`, `name/r`, `name = 5`: the name and whether it is replicated.
fn collection_name(item: &str) -> Result<(String, bool), String> {
    let (name, size) = item.split_once('=').map_or((item, None), |(name, size)| (name, Some(size.trim())));
    if size.is_some_and(|size| size.parse::<u32>().is_err()) {
        return Err(format!("'{item}': the size is no number"));
    }
    let name = name.trim();
    let (name, is_replicated) = name.strip_suffix("/r").map_or((name, false), |name| (name.trim_end(), true));
    if name.is_empty() { Err(format!("'{item}' has no name")) } else { Ok((name.to_owned(), is_replicated)) }
}

/// Name for scripts and collection of `local://`, `local:///collection`, `local:group:///collection`.
fn engine(url: &str) -> Result<(String, String), String> {
    let (engine, path) =
        url.split_once("://").ok_or_else(|| format!("'{url}' is not local:[group]://[/collection]"))?;
    let engine = engine.trim_end_matches(':');
    if engine != "local" && !engine.starts_with("local:") {
        return Err(format!("'{url}' does not begin with local:"));
    }
    let collection = path.rsplit('/').next().unwrap_or_default();
    let collection = if collection.is_empty() { DEFAULT } else { collection };
    Ok((engine.to_owned(), collection.to_owned()))
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<CachedbLocal>() else { return Ok(()) };
    for (engine, collection) in &own.engines {
        if let Some(store) = own.collections.get(collection) {
            match Replicated::new(&own.shared, collection) {
                Some(replicated) => node.caches.add(engine, Arc::new(replicated)),
                None => node.caches.add(engine, store.clone()),
            }
        }
    }
    join(node, own)?;
    node.mi.register(REMOVE_CHUNK, |request| {
        let removed = of_request(own, request).map(|(name, store, glob)| {
            own.shared.remove_chunk(&name, store, glob.as_bytes());
            json!("OK")
        });
        removed.into()
    });
    node.mi.register(FETCH_CHUNK, |request| {
        of_request(own, request).map(|(_, store, glob)| fetch_chunk(store, &glob)).into()
    });
    Ok(())
}

/// Registers with the cluster when a collection is shared.
fn join(node: NodeRef, own: &'static CachedbLocal) -> Result<(), SetupError> {
    let Some(cluster) = own.cluster else { return Ok(()) };
    let Some(clusterer) = node.state::<Clusterer>() else {
        return Err(SetupError::param("cluster_id", "it needs the cluster: add loadmodule \"clusterer.so\""));
    };
    let options = CapabilityOptions { sync_at_start: own.is_synced_at_start, ..CapabilityOptions::default() };
    let (name, version) = (replication::CAPABILITY, replication::VERSION);
    let capability =
        clusterer.register(node, Registration { cluster, name, version, options, user: own.shared.clone() })?;
    own.shared.set_capability(capability);
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    clean_later(node);
    Ok(())
}

fn clean_later(node: NodeRef) {
    let (Some(own), Some(workers)) = (node.state::<CachedbLocal>(), node.workers()) else { return };
    let at = tandem_module::clock::now() + own.clean_period;
    let clean = move |_: Instant| {
        for store in own.collections.values() {
            store.purge();
        }
        clean_later(node);
    };
    workers.after(WorkerId(0), at, Box::new(clean));
}

/// Name of the collection, the collection, and the pattern.
fn of_request<'a>(
    own: &'a CachedbLocal,
    request: &MiRequest,
) -> Result<(String, &'a Arc<MemoryStore>, String), MiError> {
    let glob = request.text("glob")?;
    let name = request.text_opt("collection")?.unwrap_or_else(|| DEFAULT.to_owned());
    let store = own.collection(&name).ok_or_else(|| MiError::new(404, "Collection not found"))?;
    Ok((name, store, glob))
}

fn fetch_chunk(store: &MemoryStore, glob: &str) -> Json {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let entries = store.fetch_chunk(glob.as_bytes()).into_iter();
    let keys: Vec<Json> =
        entries.map(|entry| json!({ "name": text(&entry.key), "value": text(&entry.value) })).collect();
    json!({ "keys": keys })
}

/// `cache_remove_chunk([collection,] glob)`.
fn remove_chunk(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<CachedbLocal>() else { return done(false) };
    let (collection, glob) = match (arg_text(args, 0), arg_text(args, 1)) {
        (Some(glob), None) => (Cow::Borrowed(DEFAULT), glob),
        (Some(collection), Some(glob)) => (String::from_utf8_lossy(collection), glob),
        _ => return done(false),
    };
    let Some(store) = own.collection(&collection) else {
        context.log(LogLevel::Error, &format!("cache_remove_chunk(): no collection '{collection}'"));
        return done(false);
    };
    own.shared.remove_chunk(&collection, store, glob);
    done(true)
}
