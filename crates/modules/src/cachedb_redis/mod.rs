//! Module `cachedb_redis`: key-value stores on Redis servers. The engine is in `tandem-store`; scripts use it through the
//! `cache_*` functions of the core. No call holds a worker.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_servers;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tandem_module::declare::Setup;
use tandem_module::mi::{MiReply, MiRequest};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{CommandSpec, ParamSpec, ParamType, StatSpec};
use tandem_store::redis::{NodeReport, PingReport, RedisAddr, RedisStats, StoreReport};
use tandem_store::{RedisEngine, RedisOptions, RedisStore, RedisUrl};

use crate::core::table::{int, list_param, renamed_command, stat, text};
use crate::tls_mgm::TlsManagement;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "cachedb_redis",
    doc: "key-value stores on Redis",
    params: PARAMS,
    commands: &[INFO, REFRESH, PING],
    stats: STATS,
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

/// Longest connect or query time-out, in milliseconds: a run waits no longer for anything.
const TIMEOUT_MAX: i32 = 30_000;

static PARAMS: &[ParamSpec] = &[
    list_param(
        "cachedb_url",
        ParamType::Text,
        "redis:group://[user]:password@host:port[,host:port]/db[?sentinel=name|socket=/path] is redis:group in scripts",
    ),
    int("connect_timeout", "5000", "milliseconds for connecting and signing in"),
    int("query_timeout", "5000", "milliseconds for one query"),
    int("shutdown_on_error", "0", "1: no start when a server cannot be reached; no effect with lazy_connect"),
    int("lazy_connect", "0", "1: connect at the first query and not at start"),
    int("use_tls", "0", "1: URLs with ?tls_domain=name use TLS, by that client_domain of module tls_mgm"),
    int("redis_keepalive", "10", "seconds of silence before TCP probes; 0 without"),
    int("enable_raw_query_quoting", "1", "3.1 and 3.2, accepted: quotes in raw queries always keep words together"),
    text("ftsearch_index_name", "idx:usrloc", "accepted, no effect: contacts are not kept in RedisJSON"),
    text("ftsearch_json_prefix", "usrloc:", "accepted, no effect: contacts are not kept in RedisJSON"),
    int("ftsearch_max_results", "10000", "accepted, no effect: contacts are not kept in RedisJSON"),
    int("ftsearch_json_mset_expire", "3600", "accepted, no effect: contacts are not kept in RedisJSON"),
];

static STATS: &[StatSpec] = &[
    stat("redis_queries", "queries answered"),
    stat("redis_queries_failed", "queries without an answer, or refused"),
    stat("redis_moved", "redirections of clusters"),
    stat("redis_topology_refreshes", "slot maps read from clusters"),
];

const INFO: CommandSpec = renamed_command(
    "cachedb_redis:redis_cluster_info",
    &["redis_cluster_info"],
    &["group?"],
    "the stores, their servers, and how much those were asked",
);
const REFRESH: CommandSpec = renamed_command(
    "cachedb_redis:redis_cluster_refresh",
    &["redis_cluster_refresh"],
    &["group?"],
    "reads the slot maps of clusters anew",
);
const PING: CommandSpec = renamed_command(
    "cachedb_redis:redis_ping_nodes",
    &["redis_ping_nodes"],
    &["group?"],
    "asks every server for a sign of life",
);

struct CachedbRedis {
    urls: Vec<RedisUrl>,
    options: RedisOptions,
    is_lazy: bool,
    is_needed: bool,
    stores: std::sync::OnceLock<Vec<Arc<RedisStore>>>,
}

impl CachedbRedis {
    fn stores(&self) -> &[Arc<RedisStore>] {
        self.stores.get().map_or(&[], Vec::as_slice)
    }

    /// The stores of a group, or all.
    fn of_request(&self, request: &MiRequest) -> Result<Vec<Arc<RedisStore>>, tandem_module::mi::MiError> {
        let group = request.text_opt("group")?;
        let fits = |store: &&Arc<RedisStore>| group.as_ref().is_none_or(|group| *group == store.url().group);
        Ok(self.stores().iter().filter(fits).cloned().collect())
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let uses_tls = params.int("use_tls", 0) != 0;
    let mut urls: Vec<RedisUrl> = Vec::new();
    for (at, text) in params.all("cachedb_url").iter().enumerate() {
        let wrong = |reason: String| SetupError::param_at("cachedb_url", at, reason);
        let url = RedisUrl::parse(text).map_err(wrong)?;
        if url.tls_domain.is_some() && !uses_tls {
            return Err(wrong(
                "tls_domain: there is no TLS without modparam(\"cachedb_redis\", \"use_tls\", 1)".to_owned(),
            ));
        }
        // A later URL takes the place of an earlier one of the same name.
        urls.retain(|other| other.engine != url.engine);
        urls.push(url);
    }
    let timeout = |name: &'static str| {
        let value = params.int(name, 5000);
        match u64::try_from(value) {
            Ok(ms) if ms > 0 && value <= TIMEOUT_MAX => Ok(Duration::from_millis(ms)),
            _ => Err(SetupError::param(name, format!("it has to be 1 to {TIMEOUT_MAX} milliseconds"))),
        }
    };
    let keepalive = u64::try_from(params.int("redis_keepalive", 10)).ok().filter(|secs| *secs > 0);
    let options = RedisOptions {
        connect: timeout("connect_timeout")?,
        query: timeout("query_timeout")?,
        keepalive: keepalive.map(Duration::from_secs),
        tls: None,
    };
    let (is_lazy, is_needed) = (params.int("lazy_connect", 0) != 0, params.int("shutdown_on_error", 0) != 0);
    setup.state(CachedbRedis { urls, options, is_lazy, is_needed, stores: std::sync::OnceLock::new() });
    Ok(())
}

/// The options of a URL, with the certificates of its `tls_domain`.
fn options_of(node: NodeRef, own: &CachedbRedis, url: &RedisUrl) -> Result<RedisOptions, String> {
    let Some(name) = &url.tls_domain else { return Ok(own.options.clone()) };
    if url.hosts.iter().any(|host| matches!(host, RedisAddr::Unix(_))) {
        tracing::warn!(url = url.masked(), "cachedb_redis: a Unix socket has no TLS; tls_domain is ignored");
    }
    let known = node.state::<TlsManagement>().ok_or("tls_domain needs certificates: loadmodule \"tls_mgm.so\"")?;
    let tls = known.client(name).ok_or_else(|| {
        format!("there is no such client_domain: modparam(\"tls_mgm\", \"client_domain\", \"{name}\")")
    })??;
    Ok(RedisOptions { tls: Some(tls.client()), ..own.options.clone() })
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<CachedbRedis>() else { return Ok(()) };
    let named = |name| node.stats.stat("cachedb_redis", name);
    let stats = RedisStats {
        queries: named("redis_queries"),
        failed: named("redis_queries_failed"),
        moved: named("redis_moved"),
        refreshes: named("redis_topology_refreshes"),
    };
    let make = |(at, url): (usize, &RedisUrl)| {
        let options = options_of(node, own, url).map_err(|reason| SetupError::param_at("cachedb_url", at, reason))?;
        Ok(RedisStore::new(url.clone(), options, stats.clone()))
    };
    let stores = own.urls.iter().enumerate().map(make).collect::<Result<Vec<Arc<RedisStore>>, SetupError>>()?;
    for store in &stores {
        node.caches.add(&store.url().engine, Arc::new(RedisEngine(store.clone())));
    }
    let _ = own.stores.set(stores);
    node.mi.register(INFO, |request| {
        own.of_request(request).map(|stores| stores.iter().map(|store| info(&store.report())).collect()).into()
    });
    node.mi.register(REFRESH, |request| match own.of_request(request) {
        Ok(stores) => MiReply::Later(Box::pin(async move { Ok(refresh(stores).await) })),
        Err(error) => MiReply::Now(Err(error)),
    });
    node.mi.register(PING, |request| match own.of_request(request) {
        Ok(stores) => MiReply::Later(Box::pin(async move { Ok(ping(stores).await) })),
        Err(error) => MiReply::Now(Err(error)),
    });
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<CachedbRedis>().filter(|own| !own.is_lazy) else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    for store in own.stores() {
        let (store, url) = (store.clone(), store.url().masked().to_owned());
        let connect = async move { store.connect().await };
        if own.is_needed {
            handle
                .block_on(connect)
                .map_err(|error| SetupError::param("cachedb_url", format!("{url}: {error} (shutdown_on_error)")))?;
            continue;
        }
        handle.spawn(async move {
            if let Err(error) = connect.await {
                tracing::error!(url, %error, "cachedb_redis: no connection, it is tried again at each query");
            }
        });
    }
    Ok(())
}

fn push_address(object: &mut Map<String, Json>, addr: &RedisAddr) {
    match addr {
        RedisAddr::Tcp(host, port) => {
            object.insert("ip".into(), json!(host));
            object.insert("port".into(), json!(port));
        }
        RedisAddr::Unix(path) => {
            object.insert("transport".into(), json!("unix"));
            object.insert("socket".into(), json!(path));
        }
    }
}

fn info(report: &StoreReport) -> Json {
    let nodes: Vec<Json> = report.nodes.iter().map(|node| node_info(node, report.is_cluster)).collect();
    let mut object = Map::new();
    object.insert("group".into(), json!(report.group));
    object.insert("url".into(), json!(report.url));
    object.insert("mode".into(), json!(if report.is_cluster { "cluster" } else { "single" }));
    if report.is_cluster {
        object.insert("cluster_command".into(), json!("SLOTS"));
    }
    object.insert("topology_refreshes".into(), json!(report.refreshes));
    object.insert("last_topology_refresh".into(), json!(report.refreshed_at));
    object.insert("nodes".into(), json!(nodes));
    if report.is_cluster {
        object.insert("total_slots_mapped".into(), json!(report.slots_mapped));
    }
    Json::Object(object)
}

fn node_info(node: &NodeReport, is_cluster: bool) -> Json {
    let mut object = Map::new();
    push_address(&mut object, &node.addr);
    object.insert("status".into(), json!(if node.is_connected { "connected" } else { "disconnected" }));
    if is_cluster {
        object.insert("slots_assigned".into(), json!(node.slots));
    }
    object.insert("queries".into(), json!(node.queries));
    object.insert("errors".into(), json!(node.errors));
    object.insert("moved".into(), json!(node.moved));
    let idle = node.idle_secs.and_then(|secs| i64::try_from(secs).ok()).unwrap_or(-1);
    object.insert("last_activity".into(), json!(idle));
    Json::Object(object)
}

async fn refresh(stores: Vec<Arc<RedisStore>>) -> Json {
    let mut all = Vec::new();
    for store in stores {
        let status = match store.refresh().await {
            None => "skipped (not cluster mode)",
            Some(true) => "ok",
            Some(false) => "error",
        };
        all.push(json!({ "group": store.url().group, "status": status }));
    }
    Json::Array(all)
}

async fn ping(stores: Vec<Arc<RedisStore>>) -> Json {
    let mut all = Vec::new();
    for store in stores {
        let nodes: Vec<Json> = store.ping().await.iter().map(ping_info).collect();
        all.push(json!({ "group": store.url().group, "nodes": nodes }));
    }
    Json::Array(all)
}

fn ping_info(report: &PingReport) -> Json {
    let mut object = Map::new();
    push_address(&mut object, &report.addr);
    let status = match (report.latency, report.is_connected) {
        (Some(_), _) => "reachable",
        (None, true) => "unreachable",
        (None, false) => "disconnected",
    };
    object.insert("status".into(), json!(status));
    let micros = report.latency.and_then(|latency| i64::try_from(latency.as_micros()).ok()).unwrap_or(-1);
    object.insert("latency_us".into(), json!(micros));
    Json::Object(object)
}
