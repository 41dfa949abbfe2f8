//! What the core asks for, done: packets sent under its lock so that their order is its own, events put where they belong,
//! names resolved. Decides nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use tandem_cluster::{ClusterId, ClusterNode, ConnId, Event as CoreEvent, Output, SendClass, SendPacket, Transport};
use tandem_module::node::NodeRef;
use tandem_module::transport::{ConnId as Connection, NameQuery, Proto};
use tandem_module::worker;

use super::capability::{ModulePacket, Registered, Work};
use super::donor::{BACKLOG_MAX, BACKLOG_PAUSE};
use super::service::Clusterer;

/// Outputs worked off at once; a core that never ends is a defect and must not stop a worker.
const OUTPUTS_MAX: usize = 1_000_000;

/// What is closed after the lock of the core is let go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Close {
    /// All connections to a listener.
    Peer(SocketAddr),
    /// One connection.
    Connection(ConnId),
}

impl Clusterer {
    /// Works off what the core asks for; events and closes are left for after the lock.
    pub(super) fn drain(
        &self,
        node: NodeRef,
        core: &mut ClusterNode,
        events: &mut SmallVec<[CoreEvent; 4]>,
        closes: &mut SmallVec<[Close; 1]>,
        touched: &mut SmallVec<[Arc<Registered>; 2]>,
    ) {
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = core.poll_output() else { return };
            match output {
                Output::Send(packet) => self.send(node, core, &packet),
                Output::SendOnConnection { conn, bytes } => {
                    if let Some(transport) = node.transport()
                        && let Err(error) = transport.send_on(Connection(conn.0), &bytes)
                    {
                        tracing::debug!(%error, "an answer on a cluster connection was not sent");
                    }
                }
                Output::Connect { to, transport, local_ip } => self.connect(node, core, to, transport, local_ip),
                Output::SendBridge { to, transport, local_ip, bytes } => {
                    if !send_bytes(node, transport, to, local_ip, &bytes) {
                        tracing::debug!(%to, "a destination of a cluster bridge refused a packet");
                        core.handle_bridge_undelivered(to, &bytes, self.now());
                    }
                }
                Output::CloseConnectionsTo { to, conns, .. } => {
                    closes.push(Close::Peer(to));
                    closes.extend(conns.into_iter().map(Close::Connection));
                }
                Output::CloseConnection { conn } => closes.push(Close::Connection(conn)),
                Output::Resolve { url } => resolve(node, url),
                Output::Event(event) => self.sort(event, events, touched),
            }
        }
        tracing::error!("the cluster core asks for too much at once; the rest comes with the next event");
    }

    /// The close and open sinks tell of what is not known at once.
    fn connect(
        &self,
        node: NodeRef,
        core: &mut ClusterNode,
        to: SocketAddr,
        transport: Transport,
        local_ip: Option<IpAddr>,
    ) {
        let (proto, from) = way(transport, local_ip);
        match node.transport().map(|transport| transport.connect_bin(proto, to, from)) {
            Some(Ok(true)) => core.handle_connected(to, self.now()),
            Some(Ok(false)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "no connection to a cluster node that is down");
                core.handle_connect_failed(to, self.now());
            }
            None => core.handle_connect_failed(to, self.now()),
        }
    }

    /// Events of capabilities into their queues, in the order of the core.
    fn sort(
        &self,
        event: CoreEvent,
        events: &mut SmallVec<[CoreEvent; 4]>,
        touched: &mut SmallVec<[Arc<Registered>; 2]>,
    ) {
        let (cluster, name, work) = match event {
            CoreEvent::ModulePacket { cluster, src, capability, packet_type, version, body, bridge_from } => {
                let packet = ModulePacket { src, packet_type, version, body, bridge_from };
                (cluster, capability, Work::Packet(packet))
            }
            CoreEvent::SyncRequested { cluster, capability, requester, resume, repair } => {
                (cluster, capability, Work::Requested { requester, resume, repair })
            }
            CoreEvent::SyncReady { cluster, capability, requester } => (cluster, capability, Work::Continue(requester)),
            CoreEvent::SyncAborted { cluster, capability, requester } => {
                (cluster, capability, Work::Aborted(requester))
            }
            CoreEvent::SyncStarted { cluster, capability, donor, repair_since } => {
                (cluster, capability, Work::Started { donor, repair_since })
            }
            CoreEvent::SyncChunk { cluster, capability, src, data_version, data } => {
                (cluster, capability, Work::Chunk { src, data_version, data })
            }
            CoreEvent::SyncDone { cluster, capability, chunk_count } => {
                (cluster, capability, Work::Synced { had_donor: chunk_count.is_some() })
            }
            CoreEvent::NodeStateChanged { cluster, node, is_up } => {
                self.tell_all(cluster, touched, || Work::Node { id: node, is_up });
                return events.push(CoreEvent::NodeStateChanged { cluster, node, is_up });
            }
            CoreEvent::SharingTagChanged { name, cluster, is_active, reason } => {
                self.tell_all(cluster, touched, || Work::Tag { name: name.clone(), is_active });
                return events.push(CoreEvent::SharingTagChanged { name, cluster, is_active, reason });
            }
            other => return events.push(other),
        };
        let all = self.capabilities.read();
        if let Some(entry) = all.iter().find(|entry| entry.is(cluster, &name)) {
            entry.push(work, self.now().mono);
            touch(touched, entry);
        }
    }

    fn tell_all(
        &self,
        cluster: ClusterId,
        touched: &mut SmallVec<[Arc<Registered>; 2]>,
        mut work: impl FnMut() -> Work,
    ) {
        for entry in self.capabilities.read().iter().filter(|entry| entry.registration.cluster == cluster) {
            entry.push(work(), self.now().mono);
            touch(touched, entry);
        }
    }

    fn send(&self, node: NodeRef, core: &mut ClusterNode, packet: &SendPacket) {
        if self.security.is_active() {
            self.security.note_peer(packet.to, packet.cluster, packet.node);
        }
        let is_sent = send_bytes(node, packet.transport, packet.to, packet.local_ip, &packet.bytes);
        if !is_sent {
            tracing::debug!(node = packet.node.0, to = %packet.to, "a cluster packet was not sent");
            core.handle_undelivered(packet.cluster, packet.node, &packet.bytes, self.now());
        }
        if packet.class != SendClass::Sync {
            return;
        }
        if is_sent && backlog(node, packet.to) > BACKLOG_MAX {
            let mut unwritten = self.unwritten.lock();
            unwritten.add(packet.cluster, packet.node, packet.to);
            if !std::mem::replace(&mut unwritten.is_armed, true) {
                look_again(node);
            }
        } else {
            core.handle_sync_written(packet.cluster, packet.node, 1, self.now());
        }
    }

    /// Tells the core which sync packets have left.
    fn look_at_backlogs(&self, node: NodeRef) {
        let written = {
            let mut unwritten = self.unwritten.lock();
            let written = unwritten.take_written(|to| backlog(node, to) <= BACKLOG_MAX);
            unwritten.is_armed = !unwritten.is_empty();
            if unwritten.is_armed {
                look_again(node);
            }
            written
        };
        for (cluster, hop, packets) in written {
            self.with(node, |core| core.handle_sync_written(cluster, hop, packets, self.now()));
        }
    }
}

fn touch(touched: &mut SmallVec<[Arc<Registered>; 2]>, entry: &Arc<Registered>) {
    if !touched.iter().any(|known| Arc::ptr_eq(known, entry)) {
        touched.push(entry.clone());
    }
}

fn backlog(node: NodeRef, to: SocketAddr) -> usize {
    node.transport().map_or(0, |transport| transport.bin_backlog(to))
}

fn look_again(node: NodeRef) {
    let Some(workers) = node.workers() else { return };
    let look = move |_: Instant| {
        if let Some(clusterer) = node.state::<Clusterer>() {
            clusterer.look_at_backlogs(node);
        }
    };
    workers.after(worker::current(), tandem_module::clock::now() + BACKLOG_PAUSE, Box::new(look));
}

fn way(transport: Transport, local_ip: Option<IpAddr>) -> (Proto, IpAddr) {
    let proto = match transport {
        Transport::Bin => Proto::Bin,
        Transport::Bins => Proto::Bins,
    };
    (proto, local_ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)))
}

fn send_bytes(node: NodeRef, transport: Transport, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8]) -> bool {
    let (proto, from) = way(transport, from);
    let sent = node.transport().map(|transport| transport.send_bin(proto, to, from, bytes));
    matches!(sent, Some(Ok(())))
}

fn resolve(node: NodeRef, url: tandem_cluster::BinUrl) {
    let Some(workers) = node.workers() else { return };
    let (host, port) = (url.host().to_owned(), url.port());
    let text = url.as_str().to_owned();
    let resolver = node.resolver().cloned();
    workers.spawn(Box::pin(async move {
        let query = NameQuery { host, port: Some(port), proto: Some(Proto::Bin), is_secure: false };
        let found = match resolver {
            Some(resolver) => resolver.lookup(query).await,
            None => Vec::new(),
        };
        let addrs: Vec<SocketAddr> = found.into_iter().map(|(_, addr)| addr).collect();
        if let Some(clusterer) = node.state::<Clusterer>() {
            clusterer.with(node, |core| core.handle_resolved(&text, &addrs, clusterer.now()));
        }
    }));
}
