//! Whether a packet may come over the connection it came on: the right cluster, the node that was proven, its roles.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tandem_bin::Packet;
use tandem_cluster::{
    CAPABILITY_EXTRA, CAPABILITY_INTERNAL, ClusterId, Extra, Family, NodeId, decode_extra, decode_internal,
};
use tandem_module::transport::{ConnId, Source};

use super::{Entry, Security};

type Reason = Cow<'static, str>;

impl Security {
    /// False when the packet must not reach the core; counted and explained. A malformed packet is left to the core.
    pub(in crate::clusterer) fn admits(&self, source: Source, bytes: &Bytes) -> bool {
        let (Some(conn), Ok(packet)) = (source.conn, Packet::parse(bytes)) else { return true };
        let Err((node, reason)) = self.check(conn, source.src.ip(), &packet) else { return true };
        self.counts.packets_refused.fetch_add(1, Ordering::Relaxed);
        self.refused(source.src.ip(), false, node, &reason);
        false
    }

    fn check(&self, conn: ConnId, ip: IpAddr, packet: &Packet<'_>) -> Result<(), (Option<NodeId>, Reason)> {
        // Connections without a row are plain ones that this node opened.
        let entry = self.links.read().get(&conn).map_or(Entry::Plain, |row| row.entry.clone());
        if packet.capability() == CAPABILITY_INTERNAL.as_bytes() {
            return self.check_internal(&entry, ip, packet);
        }
        let Ok((_, trailer)) = packet.addressed() else { return Ok(()) };
        let (cluster, src) = (ClusterId(trailer.cluster_id), NodeId(trailer.src_id));
        // The number of a bridge packet's source belongs to another cluster.
        let src = if trailer.is_bridge() { None } else { Some(src) };
        self.check_link(&entry, ip, cluster).map_err(|reason| (src, reason))?;
        // A certificate opens the cluster only to a node of it; its pings have come before what it passes on.
        if let Entry::Certified(peer) = &entry
            && self.is_secured(cluster)
            && peer.known_node(cluster.0).is_none()
            && !src.is_some_and(|src| peer.is_node(cluster.0, src.0))
            && !self.is_legacy_address(cluster, ip)
        {
            return Err((
                src,
                Cow::Owned(format!("the certificate is that of no node of cluster {cluster} seen so far")),
            ));
        }
        if let Some(src) = src
            && packet.capability() == CAPABILITY_EXTRA.as_bytes()
            && let Ok(Some(extra)) = decode_extra(packet, self.family(cluster))
        {
            let relay = match &entry {
                Entry::Proven { node, .. } => *node,
                Entry::Certified(peer) => peer.known_node(cluster.0).map_or(src, NodeId),
                Entry::Plain => src,
            };
            self.check_extra(cluster, src, relay, &extra.fields).map_err(|reason| (Some(src), reason))?;
        }
        Ok(())
    }

    fn family(&self, cluster: ClusterId) -> Family {
        self.families.iter().find(|(id, _)| *id == cluster).map_or(Family::V3_3, |(_, family)| *family)
    }

    /// Whether packets of the cluster may come over such a link.
    fn check_link(&self, entry: &Entry, ip: IpAddr, cluster: ClusterId) -> Result<(), Reason> {
        if !self.is_secured(cluster) {
            return Ok(());
        }
        match entry {
            Entry::Proven { cluster: proven, .. } if *proven == self.key_cluster(cluster) => Ok(()),
            Entry::Proven { cluster: proven, .. } => Err(Cow::Owned(format!(
                "a packet of cluster {cluster} came over a link that proved the secret of cluster {proven}: use one \
                 cluster_secret without cluster_id for clusters with common nodes"
            ))),
            Entry::Certified(_) => Ok(()),
            Entry::Plain if self.is_legacy_address(cluster, ip) => Ok(()),
            Entry::Plain => Err(Cow::Owned(format!("a plain packet of cluster {cluster}, which has a secret"))),
        }
    }

    fn check_internal(&self, entry: &Entry, ip: IpAddr, packet: &Packet<'_>) -> Result<(), (Option<NodeId>, Reason)> {
        let mut reader = packet.reader();
        let (Ok(cluster), Ok(source)) = (reader.int(), reader.int()) else { return Ok(()) };
        let (cluster, source) = (ClusterId(cluster), NodeId(source));
        self.check_link(entry, ip, cluster).map_err(|reason| (Some(source), reason))?;
        if !self.is_secured(cluster) {
            return Ok(());
        }
        let is_sender = |node: NodeId| match entry {
            Entry::Proven { node: proven, .. } => node == *proven,
            Entry::Certified(peer) => peer.is_node(cluster.0, node.0) || self.is_legacy_node(cluster, node, Some(ip)),
            Entry::Plain => self.is_legacy_node(cluster, node, Some(ip)),
        };
        if is_sender(source) {
            return Ok(());
        }
        // Flooded on: then the last of the path has sent it.
        let decoded = decode_internal(packet, self.family(cluster), true);
        let last = match &decoded {
            Ok(Some(packet)) => packet.fields.path().and_then(|path| path.last().copied()),
            // The core says what is wrong with it.
            _ => return Ok(()),
        };
        if last.is_some_and(is_sender) {
            return Ok(());
        }
        let reason = match entry {
            Entry::Proven { node, .. } => {
                format!("a packet of node {source} came over the link of node {node}, which proved to be that node")
            }
            Entry::Certified(_) => format!(
                "a packet of node {source}, but the certificate of its link lacks the name node{source}.cluster{cluster}.tandem"
            ),
            Entry::Plain => {
                format!("a plain packet of node {source} of cluster {cluster}, which is not named in cluster_legacy")
            }
        };
        Err((Some(source), Cow::Owned(reason)))
    }

    fn check_extra(&self, cluster: ClusterId, src: NodeId, relay: NodeId, extra: &Extra<'_>) -> Result<(), Reason> {
        let Extra::MiCmd { command, .. } = extra else { return Ok(()) };
        let name = String::from_utf8_lossy(command);
        for node in [src, relay] {
            if self.roles(cluster, node).has_no_mi {
                return Err(Cow::Owned(format!("command {name} of node {src}: the role of node {node} is no-mi")));
            }
        }
        let rules = self.settings.commands.iter().filter(|rule| rule.cluster == cluster);
        if !self.is_secured(cluster) && rules.clone().next().is_none() {
            return Ok(());
        }
        let mut fitting = rules.filter(|rule| rule.node.is_none_or(|node| node == src));
        let is_allowed = fitting.any(|rule| match rule.command.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => rule.command == name,
        });
        if is_allowed {
            return Ok(());
        }
        Err(Cow::Owned(format!(
            "command {name} of node {src}: allow it with cluster_mi_allow \"cluster_id={cluster}, command={name}\""
        )))
    }
}
