//! The engine behind `cachedb_redis`: one server, several to fall back on, the master a sentinel names, or a cluster. Every
//! call is a future; connections are shared, bounded and made anew when they break.

mod cluster;
mod command;
mod node;
mod report;
mod url;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use redis::{Cmd, RedisConnectionInfo, RedisError, Value};
use tandem_module::cachedb::{CacheDb, CacheError, CacheReply};
use tandem_module::db::BoxFuture;
use tandem_module::stat::Stat;
use tandem_script::value::Value as ScriptValue;

use cluster::Cluster;
use node::{Node, NodeError};

pub use node::{IN_FLIGHT_MAX, RedisOptions};
pub use report::{NodeReport, PingReport, StoreReport};
pub use url::{DEFAULT_PORT, RedisAddr, RedisUrl, SENTINEL_PORT};

/// Servers one command is sent to before it fails: redirections, fallbacks and repetitions together.
const ATTEMPTS_MAX: usize = 6;
/// Pause before a command is repeated that a cluster could not take at the moment.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Counters over all stores (`redis_queries`, ...).
#[derive(Clone, Debug)]
pub struct RedisStats {
    /// Commands that were answered.
    pub queries: Arc<Stat>,
    /// Commands that were not.
    pub failed: Arc<Stat>,
    /// Redirections of clusters.
    pub moved: Arc<Stat>,
    /// Slot maps read.
    pub refreshes: Arc<Stat>,
}

/// A store: what one `cachedb_url` names. Cheap to clone by `Arc`.
pub struct RedisStore {
    url: RedisUrl,
    options: RedisOptions,
    stats: RedisStats,
    /// The servers of the URL.
    seeds: Vec<Arc<Node>>,
    /// The seed in use, when there is no cluster.
    current: AtomicUsize,
    mode: RwLock<Mode>,
}

#[derive(Clone, Default)]
enum Mode {
    /// No server has been asked yet.
    #[default]
    Unknown,
    /// One of the seeds.
    Single,
    /// The master that sentinels named.
    Sentinel(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// What to do after a failed attempt.
enum Next {
    Again { node: Arc<Node>, asking: bool },
    Afresh,
    GiveUp(CacheError),
}

impl RedisStore {
    /// A store; connects to nothing before it is used or [`RedisStore::connect`] is called.
    pub fn new(url: RedisUrl, options: RedisOptions, stats: RedisStats) -> Arc<RedisStore> {
        let seeds = url.hosts.iter().map(|addr| match url.sentinel {
            // Sentinels have accounts of their own; what the URL says is for the servers.
            Some(_) => {
                Node::with_info(addr.clone(), RedisConnectionInfo::default().set_skip_set_lib_name(), options.clone())
            }
            None => Node::new(addr.clone(), &url, options.clone()),
        });
        let seeds = seeds.collect();
        Arc::new(RedisStore { url, options, stats, seeds, current: AtomicUsize::new(0), mode: RwLock::default() })
    }

    /// The URL it was made for.
    pub fn url(&self) -> &RedisUrl {
        &self.url
    }

    /// Connects now, and finds out what is there.
    ///
    /// # Errors
    /// [`CacheError::Unavailable`].
    pub async fn connect(&self) -> Result<(), CacheError> {
        let node = self.node(None).await?;
        node.connect().await.map_err(of_node)
    }

    fn make(&self, addr: &RedisAddr) -> Arc<Node> {
        Node::new(addr.clone(), &self.url, self.options.clone())
    }

    /// The server for a slot; finds out first what is there, when that is not known.
    async fn node(&self, slot: Option<u16>) -> Result<Arc<Node>, CacheError> {
        let mode = self.mode.read().clone();
        match mode {
            Mode::Unknown => self.discover(slot).await,
            Mode::Single => {
                let at = self.current.load(Ordering::Relaxed);
                self.seeds.get(at).cloned().ok_or_else(|| unavailable("no server"))
            }
            Mode::Sentinel(node) => Ok(node),
            Mode::Cluster(cluster) => {
                if let Some(node) = cluster.node(slot) {
                    return Ok(node);
                }
                self.refresh_cluster(&cluster, false).await;
                cluster.node(slot).ok_or_else(|| unavailable("no server of the cluster has the slot of the key"))
            }
        }
    }

    async fn discover(&self, slot: Option<u16>) -> Result<Arc<Node>, CacheError> {
        if self.url.sentinel.is_some() {
            let master = self.master().await?;
            *self.mode.write() = Mode::Sentinel(master.clone());
            return Ok(master);
        }
        let mut last = unavailable("no server");
        for offset in 0..self.seeds.len() {
            let at = (self.current.load(Ordering::Relaxed) + offset) % self.seeds.len();
            let Some(node) = self.seeds.get(at) else { continue };
            match node.run(&[cluster::question()], false).await {
                Ok(answer) => {
                    if let Some(ranges) = cluster::ranges(answer, &node.addr).filter(|ranges| !ranges.is_empty()) {
                        let cluster = Arc::new(Cluster::default());
                        cluster.replace(&ranges, |addr| self.make(addr));
                        self.stats.refreshes.inc();
                        *self.mode.write() = Mode::Cluster(cluster.clone());
                        return cluster.node(slot).ok_or_else(|| unavailable("the cluster has no server for the key"));
                    }
                    return Ok(self.single(at, node));
                }
                // A server without cluster support, or with other rules for its commands, is one server.
                Err(NodeError::Refused(error)) if error.code() != Some("LOADING") => return Ok(self.single(at, node)),
                Err(error) => last = of_node(error),
            }
        }
        Err(last)
    }

    fn single(&self, at: usize, node: &Arc<Node>) -> Arc<Node> {
        self.current.store(at, Ordering::Relaxed);
        *self.mode.write() = Mode::Single;
        node.clone()
    }

    /// Asks the sentinels for the master, one after the other.
    async fn master(&self) -> Result<Arc<Node>, CacheError> {
        let name = self.url.sentinel.clone().unwrap_or_default();
        let mut last = unavailable("no sentinel");
        for sentinel in &self.seeds {
            let mut question = Cmd::new();
            question.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&name);
            match sentinel.run(&[question], false).await {
                Ok(Value::Array(items)) => {
                    let texts: Vec<String> = items
                        .into_iter()
                        .filter_map(|item| match item {
                            Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
                            _ => None,
                        })
                        .collect();
                    if let [host, port] = texts.as_slice()
                        && let Ok(port) = port.parse()
                    {
                        return Ok(self.make(&RedisAddr::Tcp(host.clone(), port)));
                    }
                    last = unavailable("a sentinel answered no address");
                }
                Ok(_) => last = unavailable(&format!("sentinel {} knows no master '{name}'", sentinel.addr)),
                Err(error) => last = of_node(error),
            }
        }
        Err(last)
    }

    /// Reads the slot map anew from any server; true when one gave it.
    async fn refresh_cluster(&self, cluster: &Cluster, is_asked_for: bool) -> bool {
        if !cluster.may_refresh() && !is_asked_for {
            return false;
        }
        let mut known = cluster.nodes();
        known.sort_by_key(|node| !node.is_connected());
        for node in known.iter().chain(&self.seeds) {
            let Ok(answer) = node.run(&[cluster::question()], false).await else { continue };
            if let Some(ranges) = cluster::ranges(answer, &node.addr).filter(|ranges| !ranges.is_empty()) {
                cluster.replace(&ranges, |addr| self.make(addr));
                self.stats.refreshes.inc();
                return true;
            }
        }
        false
    }

    /// Runs commands that belong to one slot, wherever that is.
    async fn run(&self, commands: Vec<Cmd>, slot: Option<u16>, is_repeatable: bool) -> Result<Value, CacheError> {
        let result = self.attempts(&commands, slot, is_repeatable).await;
        match &result {
            Ok(_) => self.stats.queries.inc(),
            Err(_) => self.stats.failed.inc(),
        }
        result
    }

    async fn attempts(&self, commands: &[Cmd], slot: Option<u16>, is_repeatable: bool) -> Result<Value, CacheError> {
        let (mut node, mut asking) = (self.node(slot).await?, false);
        for _ in 0..ATTEMPTS_MAX {
            let error = match node.run(commands, asking).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let may_repeat = is_repeatable || matches!(error, NodeError::Connect(_) | NodeError::Refused(_));
            let next = match error {
                NodeError::Refused(error) => self.after_refusal(&node, error).await,
                NodeError::Connect(reason) | NodeError::Broken(reason) => {
                    self.after_loss(&node, reason, may_repeat).await
                }
                NodeError::Timeout(_) => {
                    self.after_timeout(&node).await;
                    Next::GiveUp(of_node(error))
                }
                NodeError::Overloaded => Next::GiveUp(of_node(error)),
            };
            (node, asking) = match next {
                Next::Again { node, asking } => (node, asking),
                Next::Afresh => (self.node(slot).await?, false),
                Next::GiveUp(error) => return Err(error),
            };
        }
        Err(unavailable("redirected too often"))
    }

    async fn after_refusal(&self, node: &Arc<Node>, error: RedisError) -> Next {
        let mode = self.mode.read().clone();
        match (error.code().unwrap_or_default(), mode) {
            (kind @ ("MOVED" | "ASK"), Mode::Cluster(cluster)) => {
                let target = error
                    .redirect_node()
                    .and_then(|(addr, slot)| Some((cluster::redirection(addr, &node.addr)?, slot)));
                let Some((addr, slot)) = target else { return Next::GiveUp(CacheError::Bad(error.to_string())) };
                let Some(target) = cluster.at(&addr, || self.make(&addr)) else {
                    return Next::GiveUp(unavailable("the cluster has too many servers"));
                };
                if kind == "MOVED" {
                    self.stats.moved.inc();
                    node.counters.moved.fetch_add(1, Ordering::Relaxed);
                    cluster.moved(slot, &addr);
                    self.refresh_cluster(&cluster, false).await;
                }
                Next::Again { node: target, asking: kind == "ASK" }
            }
            ("MOVED", _) => {
                // What was one server has become part of a cluster.
                *self.mode.write() = Mode::Unknown;
                Next::Afresh
            }
            ("TRYAGAIN", _) => {
                tokio::time::sleep(TRY_AGAIN).await;
                Next::Again { node: node.clone(), asking: false }
            }
            ("READONLY" | "MASTERDOWN", Mode::Sentinel(_)) => {
                node.forget();
                tokio::time::sleep(TRY_AGAIN).await;
                *self.mode.write() = Mode::Unknown;
                Next::Afresh
            }
            ("CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY", _) => Next::GiveUp(unavailable(&error.to_string())),
            _ => Next::GiveUp(CacheError::Bad(error.to_string())),
        }
    }

    async fn after_loss(&self, node: &Arc<Node>, reason: String, may_repeat: bool) -> Next {
        let give_up = Next::GiveUp(CacheError::Unavailable(reason));
        let mode = self.mode.read().clone();
        let found = match mode {
            Mode::Unknown => false,
            Mode::Single => {
                // The next server of the URL, or the same one anew.
                let count = self.seeds.len();
                let at = self.seeds.iter().position(|seed| Arc::ptr_eq(seed, node)).unwrap_or(0);
                if count > 1 {
                    let _ = self.current.compare_exchange(at, (at + 1) % count, Ordering::Relaxed, Ordering::Relaxed);
                }
                self.next_answers(at).await
            }
            Mode::Sentinel(_) => match self.master().await {
                Ok(master) => {
                    let is_other = master.addr != node.addr;
                    if is_other {
                        *self.mode.write() = Mode::Sentinel(master);
                    }
                    is_other || node.connect().await.is_ok()
                }
                Err(_) => false,
            },
            Mode::Cluster(cluster) => self.refresh_cluster(&cluster, false).await || node.connect().await.is_ok(),
        };
        if found && may_repeat { Next::Afresh } else { give_up }
    }

    /// A server that does not answer may hang: the next command goes to another one, where there is one.
    async fn after_timeout(&self, node: &Arc<Node>) {
        let mode = self.mode.read().clone();
        match mode {
            Mode::Unknown => {}
            Mode::Single => {
                if let Some(at) = self.seeds.iter().position(|seed| Arc::ptr_eq(seed, node)) {
                    let next = (at + 1) % self.seeds.len();
                    let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
            Mode::Sentinel(_) => *self.mode.write() = Mode::Unknown,
            Mode::Cluster(cluster) => {
                self.refresh_cluster(&cluster, false).await;
            }
        }
    }

    /// Whether one of the servers can be connected to, beginning behind `at`; makes it the current one.
    async fn next_answers(&self, at: usize) -> bool {
        for offset in 1..=self.seeds.len() {
            let next = (at + offset) % self.seeds.len();
            if let Some(node) = self.seeds.get(next)
                && node.connect().await.is_ok()
            {
                self.current.store(next, Ordering::Relaxed);
                return true;
            }
        }
        false
    }
}

fn unavailable(reason: &str) -> CacheError {
    CacheError::Unavailable(reason.to_owned())
}

fn of_node(error: NodeError) -> CacheError {
    match error {
        NodeError::Connect(reason) | NodeError::Broken(reason) => CacheError::Unavailable(reason),
        NodeError::Timeout(ms) => CacheError::Unavailable(format!("no answer within {ms} ms")),
        NodeError::Overloaded => CacheError::Unavailable("too many commands are under way".to_owned()),
        // There may be room later.
        NodeError::Refused(error) if error.code() == Some("OOM") => CacheError::Unavailable(error.to_string()),
        NodeError::Refused(error) => CacheError::Bad(error.to_string()),
    }
}

/// The engine as scripts use it: the store behind an `Arc`, so that its futures own what they need.
#[derive(Clone)]
pub struct RedisEngine(pub Arc<RedisStore>);

impl RedisEngine {
    fn later<T: Send + 'static>(
        &self,
        words: Vec<Vec<u8>>,
        expires: Option<(Vec<u8>, u32)>,
        then: impl FnOnce(Value) -> Result<T, CacheError> + Send + 'static,
    ) -> CacheReply<T> {
        let mut commands = match command::command(&words) {
            Ok(command) => vec![command],
            Err(reason) => return CacheReply::Now(Err(CacheError::Bad(reason))),
        };
        if let Some((key, secs)) = expires {
            let mut expire = Cmd::new();
            expire.arg("EXPIRE").arg(key).arg(secs);
            commands.push(expire);
        }
        let (slot, is_repeatable) = (command::slot(&words), command::is_repeatable(&words));
        let store = self.0.clone();
        let future: BoxFuture<Result<T, CacheError>> =
            Box::pin(async move { store.run(commands, slot, is_repeatable).await.and_then(then) });
        CacheReply::Later(future)
    }
}

fn word(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn number(value: Value) -> Result<i64, CacheError> {
    match value {
        Value::Int(int) => Ok(int),
        Value::Nil => Err(CacheError::NotFound),
        Value::BulkString(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| CacheError::Bad("the value is no number".to_owned())),
        _ => Err(CacheError::Bad("the value is no number".to_owned())),
    }
}

impl CacheDb for RedisEngine {
    fn store(&self, key: &[u8], value: &[u8], expires_secs: u32) -> CacheReply<()> {
        let mut words = vec![word("SET"), key.to_vec(), value.to_vec()];
        if expires_secs > 0 {
            words = vec![word("SETEX"), key.to_vec(), word(&expires_secs.to_string()), value.to_vec()];
        }
        self.later(words, None, |_| Ok(()))
    }

    fn fetch(&self, key: &[u8]) -> CacheReply<Vec<u8>> {
        self.later(vec![word("GET"), key.to_vec()], None, |value| match value {
            Value::BulkString(bytes) => Ok(bytes),
            Value::Nil => Err(CacheError::NotFound),
            _ => Err(CacheError::Bad("the value is no text".to_owned())),
        })
    }

    fn fetch_counter(&self, key: &[u8]) -> CacheReply<i64> {
        self.later(vec![word("GET"), key.to_vec()], None, number)
    }

    fn remove(&self, key: &[u8]) -> CacheReply<bool> {
        self.later(vec![word("DEL"), key.to_vec()], None, |value| number(value).map(|count| count > 0))
    }

    fn add(&self, key: &[u8], by: i64, expires_secs: u32) -> CacheReply<i64> {
        let expires = (expires_secs > 0).then(|| (key.to_vec(), expires_secs));
        self.later(vec![word("INCRBY"), key.to_vec(), word(&by.to_string())], expires, number)
    }

    fn raw(&self, words: Vec<Vec<u8>>) -> CacheReply<Vec<Vec<ScriptValue>>> {
        self.later(words, None, |value| match value {
            Value::Nil => Err(CacheError::NotFound),
            value => command::rows(value).map_err(CacheError::Bad),
        })
    }
}
