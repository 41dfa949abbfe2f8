//! Sending for modules, over `tandem-net`. Translates names of sockets and connections, decides nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tandem_module::transport::{ConnId, Destination, Proto, SendError, SocketId, StreamConnection, Transport};
use tandem_net::{Network, Target};

/// Largest UDP payload.
const UDP_BYTES_MAX: usize = 65_507;

/// The sending side of the sockets.
pub(crate) struct NetTransport {
    network: Arc<Network>,
}

impl NetTransport {
    pub(crate) fn new(network: Arc<Network>) -> NetTransport {
        NetTransport { network }
    }

    fn bin_target(&self, proto: Proto, to: SocketAddr, from: IpAddr) -> Target {
        let proto = net_proto(proto);
        let local = self.network.listeners().iter().find(|listener| {
            listener.spec().proto == proto && (listener.local().ip() == from || listener.is_wildcard())
        });
        Target::new(proto, to, local.map(tandem_net::Listener::id))
    }

    fn stream(&self, target: &Target, bytes: &[u8]) -> Result<(), SendError> {
        let failed = |reason: String| SendError::Failed { addr: target.dst, reason };
        self.network.send_stream(target, bytes).map(|_| ()).map_err(|error| failed(error.to_string()))
    }
}

impl Transport for NetTransport {
    fn send(&self, to: &Destination, bytes: &[u8]) -> Result<(), SendError> {
        let socket = tandem_net::SocketId(to.socket.0);
        if to.proto == Proto::Udp {
            if bytes.len() > UDP_BYTES_MAX {
                return Err(SendError::TooLarge { proto: "udp", size: bytes.len() });
            }
            let sent = self.network.send_udp(socket, to.addr, bytes);
            return sent.map_err(|error| SendError::Failed { addr: to.addr, reason: error.to_string() });
        }
        let mut target = Target::new(net_proto(to.proto), to.addr, Some(socket));
        target.conn = to.conn.map(|conn| tandem_net::ConnId::from_u64(conn.0));
        self.stream(&target, bytes)
    }

    fn send_bin(&self, proto: Proto, to: SocketAddr, from: IpAddr, bytes: &[u8]) -> Result<(), SendError> {
        self.stream(&self.bin_target(proto, to, from), bytes)
    }

    fn connect_bin(&self, proto: Proto, to: SocketAddr, from: IpAddr) -> Result<bool, SendError> {
        let connected = self.network.connect(&self.bin_target(proto, to, from));
        connected.map_err(|error| SendError::Failed { addr: to, reason: error.to_string() })
    }

    fn send_on(&self, conn: ConnId, bytes: &[u8]) -> Result<(), SendError> {
        let conn = tandem_net::ConnId::from_u64(conn.0);
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let Some(info) = self.network.connection(conn) else {
            return Err(SendError::Failed { addr: nobody, reason: "the connection is gone".into() });
        };
        self.stream(&Target::reply(info.proto, info.remote, conn), bytes)
    }

    fn close_bin(&self, to: SocketAddr) {
        self.network.close_connections_to(tandem_net::Proto::Bin, to);
        self.network.close_connections_to(tandem_net::Proto::Bins, to);
    }

    fn connections(&self) -> Vec<StreamConnection> {
        let all = self.network.connections().into_iter();
        all.map(|info| StreamConnection {
            conn: ConnId(info.conn.as_u64()),
            proto: module_proto(info.proto),
            remote: info.remote,
            local: info.local,
            since: info.since,
        })
        .collect()
    }

    fn close_connection(&self, conn: ConnId) {
        self.network.close(tandem_net::ConnId::from_u64(conn.0));
    }

    fn keep_connection(&self, conn: ConnId, span: std::time::Duration) {
        self.network.keep(tandem_net::ConnId::from_u64(conn.0), span);
    }

    fn bin_backlog(&self, to: SocketAddr) -> usize {
        self.network.queued_bytes(tandem_net::Proto::Bin, to) + self.network.queued_bytes(tandem_net::Proto::Bins, to)
    }

    fn add_alias(&self, conn: ConnId, port: u16) {
        self.network.add_alias(tandem_net::ConnId::from_u64(conn.0), port);
    }

    fn local_address(&self, to: SocketAddr) -> Option<IpAddr> {
        tandem_net::local_address_for(to).ok()
    }
}

/// The transport as the sockets name it.
pub(crate) fn net_proto(proto: Proto) -> tandem_net::Proto {
    match proto {
        Proto::Udp => tandem_net::Proto::Udp,
        Proto::Tcp => tandem_net::Proto::Tcp,
        Proto::Tls => tandem_net::Proto::Tls,
        Proto::Ws => tandem_net::Proto::Ws,
        Proto::Wss => tandem_net::Proto::Wss,
        Proto::Bin => tandem_net::Proto::Bin,
        Proto::Bins => tandem_net::Proto::Bins,
    }
}

/// The transport as modules name it.
pub fn module_proto(proto: tandem_net::Proto) -> Proto {
    match proto {
        tandem_net::Proto::Udp => Proto::Udp,
        tandem_net::Proto::Tcp => Proto::Tcp,
        tandem_net::Proto::Tls => Proto::Tls,
        tandem_net::Proto::Ws => Proto::Ws,
        tandem_net::Proto::Wss => Proto::Wss,
        tandem_net::Proto::Bin => Proto::Bin,
        tandem_net::Proto::Bins => Proto::Bins,
    }
}

/// A listener's index as modules name it.
pub(crate) fn module_socket(socket: tandem_net::SocketId) -> SocketId {
    SocketId(socket.0)
}
