//! What management commands show of a store: its servers, whether they answer, how much they were asked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Cmd;
use tokio::time::Instant;

use super::url::RedisAddr;
use super::{Mode, RedisStore};

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// Group, empty without one.
    pub group: String,
    /// URL without the password.
    pub url: String,
    /// `cluster` or `single`.
    pub is_cluster: bool,
    /// Slot maps read.
    pub refreshes: u64,
    /// Unix time of the newest.
    pub refreshed_at: i64,
    /// Servers.
    pub nodes: Vec<NodeReport>,
    /// Slots with a server.
    pub slots_mapped: usize,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Address.
    pub addr: RedisAddr,
    /// Whether there is a connection.
    pub is_connected: bool,
    /// Slots it has.
    pub slots: usize,
    /// Commands answered.
    pub queries: u64,
    /// Commands not answered.
    pub errors: u64,
    /// Redirections it gave.
    pub moved: u64,
    /// Seconds since its last answer.
    pub idle_secs: Option<u64>,
}

/// Outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// Address.
    pub addr: RedisAddr,
    /// Time to the answer; `None` without one.
    pub latency: Option<Duration>,
    /// Whether there was a connection at all.
    pub is_connected: bool,
}

impl RedisStore {
    /// Its servers and counters.
    pub fn report(&self) -> StoreReport {
        let mode = self.mode.read().clone();
        let (nodes, is_cluster) = self.nodes(&mode);
        let (mapped, by_node, refreshed) = match &mode {
            Mode::Cluster(cluster) => {
                let (mapped, by_node) = cluster.mapped();
                (mapped, by_node, cluster.refreshed())
            }
            _ => (0, Vec::new(), super::cluster::Refreshed::default()),
        };
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let nodes = nodes.iter().enumerate().map(|(at, node)| NodeReport {
            addr: node.addr.clone(),
            is_connected: node.is_connected(),
            slots: by_node.get(at).copied().unwrap_or(0),
            queries: count(&node.counters.queries),
            errors: count(&node.counters.errors),
            moved: count(&node.counters.moved),
            idle_secs: node.idle_secs(),
        });
        StoreReport {
            group: self.url.group.clone(),
            url: self.url.masked().to_owned(),
            is_cluster,
            refreshes: refreshed.count,
            refreshed_at: refreshed.at,
            nodes: nodes.collect(),
            slots_mapped: mapped,
        }
    }

    fn nodes(&self, mode: &Mode) -> (Vec<std::sync::Arc<super::Node>>, bool) {
        match mode {
            Mode::Unknown | Mode::Single => (self.seeds.clone(), false),
            Mode::Sentinel(master) => (vec![master.clone()], false),
            Mode::Cluster(cluster) => (cluster.nodes(), true),
        }
    }

    /// Reads the slot map anew: `None` when it is no cluster, else whether it worked.
    pub async fn refresh(&self) -> Option<bool> {
        let mode = self.mode.read().clone();
        match mode {
            Mode::Cluster(cluster) => Some(self.refresh_cluster(&cluster, true).await),
            _ => None,
        }
    }

    /// Asks every server for a sign of life.
    pub async fn ping(&self) -> Vec<PingReport> {
        let mode = self.mode.read().clone();
        let (nodes, _) = self.nodes(&mode);
        let mut ping = Cmd::new();
        ping.arg("PING");
        let mut reports = Vec::with_capacity(nodes.len());
        for node in nodes {
            let begun = Instant::now();
            let is_ok = node.run(std::slice::from_ref(&ping), false).await.is_ok();
            let latency = is_ok.then(|| begun.elapsed());
            reports.push(PingReport { addr: node.addr.clone(), latency, is_connected: node.is_connected() });
        }
        reports
    }
}
