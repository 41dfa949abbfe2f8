//! What to listen on and the limits of everything. Reads no files and no environment.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::proto::Proto;

/// One listener, as one resolved `socket=` line of a script.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// The transport.
    pub proto: Proto,
    /// The address to bind; a wildcard (`0.0.0.0`, `::`) works and makes [`crate::Inbound::dst`] the real address.
    pub ip: IpAddr,
    /// The port; 0 lets the system choose (see [`crate::Listener::local`]).
    pub port: u16,
    /// The host and port to show to peers in place of the bound ones (`AS host:port`).
    pub advertised: Option<(String, u16)>,
    /// The sharing tag or label of the `TAG` part; kept, not interpreted.
    pub tag: Option<String>,
    /// The type-of-service byte (DSCP and ECN) for IPv4 and traffic class for IPv6.
    pub tos: Option<u8>,
    /// Allow other processes of the same user to share the address; false makes a second start fail cleanly.
    pub reuse_port: bool,
    /// Allow binding an address that this host does not have (yet), for floating addresses.
    pub free_bind: bool,
    /// Whether other hosts have the address, too (`anycast`); kept, not interpreted.
    pub is_anycast: bool,
}

impl ListenSpec {
    /// A plain listener without options.
    pub fn new(proto: Proto, ip: IpAddr, port: u16) -> Self {
        ListenSpec {
            proto,
            ip,
            port,
            advertised: None,
            tag: None,
            tos: None,
            reuse_port: false,
            free_bind: false,
            is_anycast: false,
        }
    }

    /// The address to bind.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.proto, self.address())
    }
}

/// TCP keepalive probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe (`tcp_keepidle`).
    pub idle: Duration,
    /// Time between probes (`tcp_keepinterval`).
    pub interval: Duration,
    /// Unanswered probes until the connection is given up (`tcp_keepcount`).
    pub count: u32,
}

/// Limits of one kind of stream connection.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// How long an outgoing connection may take to be established (`tcp_connect_timeout`). Default 100 ms.
    pub connect_timeout: Duration,
    /// Silence in both directions after which a connection is closed (`tcp_connection_lifetime`). Default 120 s.
    pub lifetime: Duration,
    /// How long a message may stay incomplete (`tcp_max_msg_time`). Default 4 s.
    pub message_time_max: Duration,
    /// How many reads a message may take (`bin_max_msg_chunks`); `None` is no limit. Default none for SIP, 32 for BIN.
    pub message_chunks_max: Option<u32>,
    /// The largest message. Default 65535 for SIP, 65515 for BIN.
    pub message_bytes_max: usize,
    /// How many writes may wait in a connection (`..._async_max_postponed_chunks`); one more closes it. Default 1024.
    pub queue_count_max: usize,
    /// How many bytes may wait in a connection; more closes it. Default 4 MiB, so `connections_max` bounds memory.
    pub queue_bytes_max: usize,
    /// Keepalive probes (`tcp_keepalive`). Default on, after 7200 s as most systems do; `None` leaves them off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged. Default none for SIP, 10 s for BIN.
    pub user_timeout: Option<Duration>,
}

impl StreamConfig {
    /// The defaults for SIP connections.
    pub fn sip() -> Self {
        StreamConfig {
            connect_timeout: Duration::from_millis(100),
            lifetime: Duration::from_secs(120),
            message_time_max: Duration::from_secs(4),
            message_chunks_max: None,
            message_bytes_max: 65_535,
            queue_count_max: 1024,
            queue_bytes_max: 4 << 20,
            keepalive: Some(Keepalive { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), count: 9 }),
            user_timeout: None,
        }
    }

    /// The defaults for cluster connections.
    pub fn bin() -> Self {
        StreamConfig {
            message_chunks_max: Some(32),
            message_bytes_max: 65_515,
            user_timeout: Some(Duration::from_secs(10)),
            ..StreamConfig::sip()
        }
    }
}

/// Default size of the buffers of UDP sockets. The system counts them twice and a small message as over a kilobyte, so this
/// holds some 3,000. Measured with a process that stands still for 0.7 s under 1,000 calls per second: with 256 KiB, as much
/// as OpenSIPS asks for, the system dropped 670 to 1,030 messages and 48 to 194 of 6,000 calls failed; with this, none.
pub const UDP_BUFFER_BYTES: usize = 2 << 20;

/// Everything [`crate::Network::bind`] needs besides the listeners.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Number of worker loops, 1 to 256.
    pub workers: usize,
    /// Receive and send buffer of UDP sockets in bytes (`maxbuffer`). Default [`UDP_BUFFER_BYTES`].
    pub udp_buffer_bytes: usize,
    /// Stream connections in the whole process (`tcp_max_connections`). Default 2048. More are refused.
    pub connections_max: usize,
    /// Limits of SIP connections.
    pub sip: StreamConfig,
    /// Limits of cluster connections.
    pub bin: StreamConfig,
}

impl NetConfig {
    /// The limits that apply to a transport.
    pub fn stream(&self, proto: Proto) -> &StreamConfig {
        if proto.is_bin() { &self.bin } else { &self.sip }
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            workers: 1,
            udp_buffer_bytes: UDP_BUFFER_BYTES,
            connections_max: 2048,
            sip: StreamConfig::sip(),
            bin: StreamConfig::bin(),
        }
    }
}
