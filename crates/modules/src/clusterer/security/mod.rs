//! Who may link and what a linked node may do: secrets, legacy peers, roles, invitations. The cryptography is in
//! `tandem-link`, the cluster protocol in `tandem-cluster`.

mod admit;
mod commands;
mod invitations;
mod layer;
mod observe;
mod settings;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
mod tls;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tandem_cluster::{ClusterConfig, ClusterId, Family, NodeId, Roles};
use tandem_link::{JoinToken, LinkError, PeerCertificate, Secret, Tls};
use tandem_module::clock;
use tandem_module::node::{self, NodeRef};
use tandem_module::transport::ConnId;

pub(super) use self::commands::{COMMANDS, explained, register};
use self::invitations::Invitations;
pub(super) use self::layer::Layer;
pub(super) use self::observe::start;
use self::settings::KeyRing;
pub(super) use self::settings::Settings;

/// Peers whose address is remembered.
const PEERS_MAX: usize = 4096;
/// Refusals remembered; the oldest is forgotten.
const REFUSALS_MAX: usize = 64;

/// Refusals logged within [`TELL_WINDOW`]: whoever knocks chooses the words, so that each could be a new one.
const TELLS_MAX: u32 = 10;
const TELL_WINDOW: Duration = Duration::from_secs(10);

/// How a connection was let in.
#[derive(Clone, Debug)]
enum Entry {
    /// Without proof, as legacy.
    Plain,
    /// With the secret: the node it is and the cluster of the secret (0: of all).
    Proven { node: NodeId, cluster: i32, secret_id: Arc<str> },
    /// With a certificate, which says what nodes it is.
    Certified(Arc<PeerCertificate>),
}

/// A connection in use.
#[derive(Clone, Debug)]
struct LinkRow {
    remote: SocketAddr,
    is_opened: bool,
    entry: Entry,
    since: i64,
}

/// Links or packets that were refused for one reason.
#[derive(Clone, Debug)]
struct Refusal {
    remote: IpAddr,
    is_opened: bool,
    /// The node meant or claimed, when there is one.
    node: Option<NodeId>,
    reason: String,
    count: u64,
    last: i64,
}

/// Numbers for statistics.
#[derive(Debug, Default)]
struct Counts {
    proven: AtomicU64,
    refused: AtomicU64,
    packets_refused: AtomicU64,
}

/// The state. All locks are leaves: nothing else is locked or sent while one is held.
pub(super) struct Security {
    own: NodeId,
    settings: Settings,
    families: Vec<(ClusterId, Family)>,
    keys: RwLock<Vec<KeyRing>>,
    /// Own clusters and the own listener in each.
    clusters: RwLock<Vec<(ClusterId, String)>>,
    /// Listeners of nodes, as far as something was sent to them.
    peers: RwLock<HashMap<SocketAddr, Vec<(ClusterId, NodeId)>>>,
    links: RwLock<HashMap<ConnId, LinkRow>>,
    refusals: Mutex<VecDeque<Refusal>>,
    /// Beginning of the window and lines logged in it.
    told: Mutex<(Instant, u32)>,
    /// How many secrets back from the newest an address is tried with.
    older: Mutex<HashMap<SocketAddr, usize>>,
    invitations: Mutex<Invitations>,
    joining: Mutex<Option<JoinToken>>,
    counts: Counts,
    tls: OnceLock<Tls>,
    node: OnceLock<NodeRef>,
}

fn canonical(ip: Option<IpAddr>) -> Option<IpAddr> {
    ip.map(|ip| ip.to_canonical())
}

impl Security {
    pub(super) fn new(own: NodeId, mut settings: Settings, families: Vec<(ClusterId, Family)>) -> Security {
        let keys = std::mem::take(&mut settings.keys);
        let security = Security {
            own,
            families,
            keys: RwLock::new(keys),
            clusters: RwLock::default(),
            peers: RwLock::default(),
            links: RwLock::default(),
            refusals: Mutex::default(),
            told: Mutex::new((clock::now(), 0)),
            older: Mutex::default(),
            invitations: Mutex::default(),
            joining: Mutex::new(None),
            counts: Counts::default(),
            tls: OnceLock::new(),
            node: OnceLock::new(),
            settings,
        };
        if let Some(token) = security.settings.token.clone()
            && security.newest(ClusterId(token.ticket.cluster)).is_none()
        {
            *security.joining.lock() = Some(token);
        }
        security
    }

    /// Whether anything is to be checked at all; without, everything is as in OpenSIPS.
    pub(super) fn is_active(&self) -> bool {
        self.is_protected() || !self.settings.roles.is_empty() || !self.settings.commands.is_empty()
    }

    /// Whether there are secrets or certificates at all.
    pub(super) fn is_protected(&self) -> bool {
        !self.settings.sources.is_empty() || self.tls.get().is_some()
    }

    /// Certificates for `bins:` links, once, before the sockets are used.
    pub(super) fn set_tls(&self, tls: Tls) {
        let _ = self.tls.set(tls);
    }

    /// Whether there is a secret for the cluster, be its file empty or not.
    fn has_source(&self, cluster: ClusterId) -> bool {
        self.settings.sources.iter().any(|source| source.cluster.is_none_or(|known| known == cluster))
    }

    /// Whether links of that cluster have to be proven: it has a secret, or this node is in it by a `bins:` url.
    pub(super) fn is_secured(&self, cluster: ClusterId) -> bool {
        if self.has_source(cluster) {
            return true;
        }
        let is_bins = |url: &str| url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bins:"));
        self.tls.get().is_some() && self.clusters.read().iter().any(|(id, url)| *id == cluster && is_bins(url))
    }

    /// The cluster under which the secret of `cluster` goes on the wire: 0 when it is that of all clusters.
    fn key_cluster(&self, cluster: ClusterId) -> i32 {
        let has_own = self.settings.sources.iter().any(|source| source.cluster == Some(cluster));
        if has_own { cluster.0 } else { 0 }
    }

    /// The secrets of a cluster as named on the wire, the newest last.
    fn secrets(&self, key_cluster: i32) -> Vec<Secret> {
        let wanted = (key_cluster != 0).then_some(ClusterId(key_cluster));
        let keys = self.keys.read();
        keys.iter().find(|ring| ring.cluster == wanted).map(|ring| ring.secrets.clone()).unwrap_or_default()
    }

    fn newest(&self, cluster: ClusterId) -> Option<Secret> {
        self.secrets(self.key_cluster(cluster)).pop()
    }

    fn roles(&self, cluster: ClusterId, node: NodeId) -> Roles {
        Roles::of(&self.settings.roles, cluster, node)
    }

    /// What this node may do in a cluster.
    pub(super) fn own_roles(&self, cluster: ClusterId) -> Roles {
        self.roles(cluster, self.own)
    }

    /// Something is about to be sent to a node at that listener.
    pub(super) fn note_peer(&self, addr: SocketAddr, cluster: ClusterId, node: NodeId) {
        let entry = (cluster, node);
        if self.peers.read().get(&addr).is_some_and(|known| known.contains(&entry)) {
            return;
        }
        let mut peers = self.peers.write();
        if peers.len() >= PEERS_MAX && !peers.contains_key(&addr) {
            peers.clear();
        }
        let known = peers.entry(addr).or_default();
        // Another node at the same address in the same cluster replaces the one before.
        known.retain(|(other, _)| *other != cluster);
        known.push(entry);
    }

    fn peers_at(&self, addr: SocketAddr) -> Vec<(ClusterId, NodeId)> {
        self.peers.read().get(&addr).cloned().unwrap_or_default()
    }

    /// Whether a node may speak plain BIN.
    fn is_legacy_node(&self, cluster: ClusterId, node: NodeId, ip: Option<IpAddr>) -> bool {
        self.settings.legacy.iter().any(|peer| {
            peer.cluster == cluster
                && peer.node.is_none_or(|known| known == node)
                && (peer.ip.is_none() || ip.is_none() || canonical(peer.ip) == canonical(ip))
        })
    }

    /// Whether some legacy peer of the cluster has that address.
    fn is_legacy_address(&self, cluster: ClusterId, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let mut legacy = self.settings.legacy.iter().filter(|peer| peer.cluster == cluster).peekable();
        if legacy.peek().is_none() {
            return false;
        }
        let peers = self.peers.read();
        let is_at = |node: NodeId| {
            let mut at_ip = peers.iter().filter(|(addr, _)| addr.ip().to_canonical() == ip);
            at_ip.any(|(_, known)| known.contains(&(cluster, node)))
        };
        legacy.any(|peer| match peer.ip {
            Some(known) => known.to_canonical() == ip,
            None => peer.node.is_some_and(is_at),
        })
    }

    /// Whether an accepted connection from that address may be plain: some cluster has no secret, or a legacy peer is there.
    fn may_be_plain(&self, ip: IpAddr) -> bool {
        let ids: Vec<ClusterId> = self.clusters.read().iter().map(|(id, _)| *id).collect();
        ids.into_iter().any(|id| !self.is_secured(id) || self.is_legacy_address(id, ip))
    }

    fn linked(&self, conn: ConnId, row: LinkRow) {
        if !matches!(row.entry, Entry::Plain) {
            self.counts.proven.fetch_add(1, Ordering::Relaxed);
        }
        self.links.write().insert(conn, row);
    }

    /// A connection is gone.
    pub(super) fn closed(&self, conn: ConnId) {
        self.links.write().remove(&conn);
    }

    /// Remembers and logs a refusal; repeated ones are logged ever more rarely.
    fn refused(&self, remote: IpAddr, is_opened: bool, node: Option<NodeId>, reason: &str) {
        let mut refusals = self.refusals.lock();
        let same = |known: &Refusal| known.remote == remote && known.is_opened == is_opened && known.reason == reason;
        let at = refusals.iter().position(same);
        let mut refusal = at.and_then(|at| refusals.remove(at)).unwrap_or_else(|| Refusal {
            remote,
            is_opened,
            node,
            reason: reason.to_owned(),
            count: 0,
            last: 0,
        });
        refusal.count += 1;
        refusal.last = node::unix_secs();
        refusal.node = node.or(refusal.node);
        let (count, is_told) = (refusal.count, refusal.count.is_power_of_two());
        if refusals.len() >= REFUSALS_MAX {
            refusals.pop_front();
        }
        refusals.push_back(refusal);
        drop(refusals);
        if is_told && self.may_tell() {
            let way = if is_opened { "to" } else { "from" };
            tracing::warn!("cluster link {way} {remote} refused ({count} times): {reason}");
        }
    }

    fn may_tell(&self) -> bool {
        let (mut told, now) = (self.told.lock(), clock::now());
        if now.saturating_duration_since(told.0) >= TELL_WINDOW {
            *told = (now, 0);
        }
        told.1 = told.1.saturating_add(1);
        told.1 <= TELLS_MAX
    }

    fn link_refused(&self, remote: IpAddr, is_opened: bool, node: Option<NodeId>, error: &LinkError) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        self.refused(remote, is_opened, node, &error.to_string());
    }

    /// Reads the secrets again; the number of secrets now.
    fn reload(&self) -> Result<usize, String> {
        let keys = settings::load(&self.settings.sources)?;
        let count = keys.iter().map(|ring| ring.secrets.len()).sum();
        *self.keys.write() = keys;
        self.older.lock().clear();
        Ok(count)
    }

    /// The clusters of this node are known: remembers them and their nodes.
    pub(super) fn set_clusters(&self, clusters: &[ClusterConfig]) {
        *self.clusters.write() =
            clusters.iter().map(|cluster| (cluster.cluster_id, cluster.own.url.as_str().to_owned())).collect();
        for cluster in clusters {
            for node in &cluster.nodes {
                if let Some(addr) = node.addr {
                    self.note_peer(addr, cluster.cluster_id, node.node_id);
                }
            }
        }
    }

    /// Says at start what an operator should know.
    pub(super) fn announce(&self) {
        let clusters: Vec<ClusterId> = self.clusters.read().iter().map(|(id, _)| *id).collect();
        let plain: Vec<String> =
            clusters.iter().filter(|cluster| !self.is_secured(**cluster)).map(ToString::to_string).collect();
        if !plain.is_empty() {
            tracing::warn!(
                "links of cluster {} are plain BIN: whoever reaches the BIN port can join and run commands; set \
                 cluster_secret (docs/cluster-security.md), or keep the port on a private network or behind a firewall",
                plain.join(", ")
            );
        }
        for cluster in clusters.iter().filter(|cluster| self.has_source(**cluster)) {
            if self.newest(*cluster).is_none() {
                tracing::warn!(
                    "cluster {cluster} has no secret yet, so nothing can link: this node waits for a join token \
                     (`tandem ctl cluster join TOKEN`) or for its secret file and `tandem ctl cluster secret_reload`"
                );
            }
        }
        let mut named: Vec<i32> =
            clusters.iter().filter(|id| self.has_source(**id)).map(|id| self.key_cluster(*id)).collect();
        named.dedup();
        if named.len() > 1 {
            tracing::warn!(
                "clusters {named:?} have different secrets: two nodes that share several of them prove only the first; \
                 use one cluster_secret without cluster_id for them"
            );
        }
    }

    /// Called once when the node exists.
    pub(super) fn set_node(&self, node: NodeRef) {
        let _ = self.node.set(node);
    }

    /// Numbers: links proven, links refused, packets refused.
    pub(super) fn counts(&self) -> [i64; 3] {
        let counts = &self.counts;
        [&counts.proven, &counts.refused, &counts.packets_refused]
            .map(|count| i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX))
    }
}
