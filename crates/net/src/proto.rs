//! Names of transports, listeners and connections. No sockets here.

use std::fmt;
use std::str::FromStr;

/// A transport, in the words of the `socket=` lines of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// SIP over UDP.
    Udp,
    /// SIP over TCP.
    Tcp,
    /// SIP over TLS over TCP.
    Tls,
    /// SIP over WebSocket (RFC 7118).
    Ws,
    /// SIP over WebSocket over TLS.
    Wss,
    /// Cluster packets over TCP (OpenSIPS: proto_bin).
    Bin,
    /// Cluster packets over TLS (OpenSIPS: proto_bins).
    Bins,
}

impl Proto {
    /// All transports, in the order of their discriminants.
    pub const ALL: [Proto; 7] = [Proto::Udp, Proto::Tcp, Proto::Tls, Proto::Ws, Proto::Wss, Proto::Bin, Proto::Bins];

    /// True for everything that runs over a stream connection.
    pub const fn is_stream(self) -> bool {
        !matches!(self, Proto::Udp)
    }

    /// True when the messages are cluster packets, not SIP.
    pub const fn is_bin(self) -> bool {
        matches!(self, Proto::Bin | Proto::Bins)
    }

    /// True when the bytes on the wire are encrypted and a [`crate::ByteFilter`] is required.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Proto::Tls | Proto::Wss | Proto::Bins)
    }

    /// The lower-case name used in scripts and log lines.
    pub const fn as_str(self) -> &'static str {
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

    /// The name written into a `Via` header (RFC 3261 §20.42, RFC 7118 §5.2.1); `BIN` and `BINS` for cluster packets.
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

    /// The port used when a listener or a URI names none.
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

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Proto {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Proto::ALL.into_iter().find(|proto| proto.as_str().eq_ignore_ascii_case(name)).ok_or(())
    }
}

/// A listener: the index into the list given to [`crate::Network::bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u16);

impl SocketId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A stream connection: unique for the life of the process, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// The number itself, for logs and for storing beside a registration.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Rebuilds an id from [`ConnId::as_u64`]; an id that no longer exists is simply not found when used.
    pub const fn from_u64(value: u64) -> ConnId {
        ConnId(value)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
