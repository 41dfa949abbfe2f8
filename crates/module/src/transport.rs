//! Sockets and peers as modules see them. The sockets themselves are in `tandem-net`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use crate::db::BoxFuture;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// The cluster transport.
    Bin,
    /// The cluster transport over TLS.
    Bins,
}

impl Proto {
    /// Lower-case name as scripts write it.
    pub const fn name(self) -> &'static str {
        match self {
            Proto::Udp => "udp",
            Proto::Tcp => "tcp",
            Proto::Tls => "tls",
            Proto::Ws => "ws",
            Proto::Wss => "wss",
            Proto::Bin => "bin",
            Proto::Bins => "bins",
        }
    }

    /// Name in a Via header.
    pub const fn via_name(self) -> &'static str {
        match self {
            Proto::Udp => "UDP",
            Proto::Tcp => "TCP",
            Proto::Tls => "TLS",
            Proto::Ws => "WS",
            Proto::Wss => "WSS",
            Proto::Bin => "BIN",
            Proto::Bins => "BINS",
        }
    }

    /// The transport as a Via header knows it.
    pub const fn sip(self) -> tandem_sip::Transport {
        match self {
            Proto::Udp => tandem_sip::Transport::Udp,
            Proto::Tls => tandem_sip::Transport::Tls,
            Proto::Ws => tandem_sip::Transport::Ws,
            Proto::Wss => tandem_sip::Transport::Wss,
            Proto::Tcp | Proto::Bin | Proto::Bins => tandem_sip::Transport::Tcp,
        }
    }

    /// By name, ignoring case.
    pub fn from_name(name: &[u8]) -> Option<Proto> {
        [Proto::Udp, Proto::Tcp, Proto::Tls, Proto::Ws, Proto::Wss, Proto::Bin, Proto::Bins]
            .into_iter()
            .find(|proto| proto.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether delivery is reliable (everything but UDP).
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Proto::Udp)
    }

    /// Default port.
    pub const fn default_port(self) -> u16 {
        match self {
            Proto::Udp | Proto::Tcp => 5060,
            Proto::Tls => 5061,
            Proto::Ws => 80,
            Proto::Wss => 443,
            Proto::Bin => 5555,
            Proto::Bins => 5556,
        }
    }
}

/// Index of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u16);

/// A stream connection, unique while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(pub u64);

/// A stream connection as management shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamConnection {
    /// Its id.
    pub conn: ConnId,
    /// Its protocol.
    pub proto: Proto,
    /// The peer.
    pub remote: SocketAddr,
    /// The own end.
    pub local: SocketAddr,
    /// When it was accepted or connecting began.
    pub since: std::time::Instant,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its index.
    pub id: SocketId,
    /// Protocol.
    pub proto: Proto,
    /// Bound address.
    pub addr: SocketAddr,
    /// Advertised host and port.
    pub advertised: Option<(String, u16)>,
    /// Tag.
    pub tag: Option<String>,
    /// `proto:ip:port`, IPv6 in brackets.
    pub text: String,
    /// `host:port` as written into Via and Record-Route; the port also when it is the default one.
    pub sent_by: Bytes,
    /// Whether it was configured `anycast`.
    pub is_anycast: bool,
}

impl Socket {
    /// Builds the derived texts.
    pub fn new(
        id: SocketId,
        proto: Proto,
        addr: SocketAddr,
        advertised: Option<(String, u16)>,
        tag: Option<String>,
    ) -> Socket {
        let sent_by = match &advertised {
            Some((host, port)) => format!("{host}:{port}"),
            None => addr.to_string(),
        };
        let text = format!("{}:{addr}", proto.name());
        Socket { id, proto, addr, advertised, tag, text, sent_by: Bytes::from(sent_by), is_anycast: false }
    }
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The peer.
    pub src: SocketAddr,
    /// The local address it came to.
    pub dst: SocketAddr,
    /// Protocol.
    pub proto: Proto,
    /// The listener.
    pub socket: SocketId,
    /// The connection, for streams.
    pub conn: Option<ConnId>,
    /// When.
    pub at: Instant,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Protocol.
    pub proto: Proto,
    /// The peer.
    pub addr: SocketAddr,
    /// The listener to send from.
    pub socket: SocketId,
    /// A connection to use when it is still there.
    pub conn: Option<ConnId>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.proto.name(), self.addr)
    }
}

/// Why a message could not be sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// No listener of that protocol and family.
    #[error("no {proto} socket to send from towards {addr}")]
    NoSocket {
        /// Protocol.
        proto: &'static str,
        /// The peer.
        addr: SocketAddr,
    },
    /// The message is too large.
    #[error("message of {size} bytes is too large for {proto}")]
    TooLarge {
        /// Protocol.
        proto: &'static str,
        /// Bytes.
        size: usize,
    },
    /// The system refused.
    #[error("send to {addr}: {reason}")]
    Failed {
        /// The peer.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// Sends messages; implemented by the engine over `tandem-net`, by tests with a recorder. Never blocks.
pub trait Transport: Send + Sync {
    /// Sends one message.
    ///
    /// # Errors
    /// When it is known at once that it cannot be delivered.
    fn send(&self, to: &Destination, bytes: &[u8]) -> Result<(), SendError>;

    /// Sends a cluster packet to a listener address from local address `from`, over the connection kept for it.
    ///
    /// # Errors
    /// As `send`.
    fn send_bin(&self, proto: Proto, to: SocketAddr, from: IpAddr, bytes: &[u8]) -> Result<(), SendError>;

    /// Makes a connection to the listener of a cluster peer unless there is one; true when there is one that is established.
    /// Otherwise those who are told of opened and closed connections hear how it went; without connections nobody hears.
    ///
    /// # Errors
    /// When it is known at once that there will be none.
    fn connect_bin(&self, _proto: Proto, _to: SocketAddr, _from: IpAddr) -> Result<bool, SendError> {
        Ok(false)
    }

    /// Sends on exactly that connection.
    ///
    /// # Errors
    /// When it is gone.
    fn send_on(&self, conn: ConnId, bytes: &[u8]) -> Result<(), SendError>;

    /// Closes all connections to or from that cluster peer address.
    fn close_bin(&self, to: SocketAddr);

    /// The stream connections there are now.
    fn connections(&self) -> Vec<StreamConnection> {
        Vec::new()
    }

    /// Closes one connection; nothing when it is gone.
    fn close_connection(&self, _conn: ConnId) {}

    /// Keeps a connection open for `span` from now, however silent it is; a zero span takes the wish back.
    fn keep_connection(&self, _conn: ConnId, _span: std::time::Duration) {}

    /// Bytes that wait to be taken by the cluster peer at that listener address.
    fn bin_backlog(&self, _to: SocketAddr) -> usize {
        0
    }

    /// Makes `port` an alias of the connection (RFC 5923; OpenSIPS: force_tcp_alias()).
    fn add_alias(&self, conn: ConnId, port: u16);

    /// The local address the system would use towards `to` (`mhomed`).
    fn local_address(&self, to: SocketAddr) -> Option<IpAddr>;
}

/// A cluster or encrypted connection that is about to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// Its id.
    pub conn: ConnId,
    /// Protocol.
    pub proto: Proto,
    /// The listener.
    pub socket: SocketId,
    /// True when this process opens it, false when the peer did.
    pub is_opened: bool,
    /// The peer.
    pub remote: SocketAddr,
}

/// The byte layer of one connection: wire bytes to plain ones and back. Its errors close the connection.
pub trait LinkFilter: Send {
    /// The connection is up; appends what must be written first.
    ///
    /// # Errors
    /// Why the connection must be closed.
    fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), String>;

    /// Takes bytes from the wire; appends what they mean to `plain` and what must be answered to `wire`.
    ///
    /// # Errors
    /// Why the connection must be closed.
    fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), String>;

    /// Takes a message to send; appends its wire form, or keeps it until the handshake is done.
    ///
    /// # Errors
    /// Why the connection must be closed.
    fn send(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), String>;

    /// Appends a farewell.
    fn closing(&mut self, _wire: &mut Vec<u8>) {}

    /// Whether the handshake is over; one that takes too long ends the connection.
    fn is_settled(&self) -> bool;
}

/// Makes the byte layers of cluster connections; implemented by module `clusterer`.
pub trait LinkLayer: Send + Sync {
    /// The layer of one connection; `None` leaves its bytes alone. Called with locks of the network held: must not send.
    ///
    /// # Errors
    /// Why the connection must not be made.
    fn filter(&self, request: &LinkRequest) -> Result<Option<Box<dyn LinkFilter>>, String>;

    /// A program that plays node `node` itself, without sockets, says that packets on `conn` are of that node.
    fn vouch(&self, conn: ConnId, remote: SocketAddr, node: i32);
}

/// A name to resolve (RFC 3263, without NAPTR where the transport is given).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameQuery {
    /// Host name.
    pub host: String,
    /// Port; with one, SRV is not asked.
    pub port: Option<u16>,
    /// Transport, when the URI gave one.
    pub proto: Option<Proto>,
    /// Whether the URI is `sips`.
    pub is_secure: bool,
}

/// Resolves names without blocking.
pub trait Resolver: Send + Sync {
    /// Targets in order of preference, if they are known already.
    fn cached(&self, query: &NameQuery) -> Option<Vec<(Proto, SocketAddr)>>;

    /// Looks the name up; empty when there is no such name. Bounded in time.
    fn lookup(&self, query: NameQuery) -> BoxFuture<Vec<(Proto, SocketAddr)>>;
}
