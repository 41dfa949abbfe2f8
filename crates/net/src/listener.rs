//! Opening listening sockets with their options. Does not accept or receive.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::{ListenSpec, NetConfig, StreamConfig};
use crate::error::BindError;
use crate::proto::SocketId;
use crate::sys;

/// Connections the system completes before we accept them.
const BACKLOG: i32 = 1024;

/// One bound listener.
#[derive(Debug)]
pub struct Listener {
    id: SocketId,
    spec: ListenSpec,
    local: SocketAddr,
    /// One per worker for UDP, else empty.
    pub(crate) udp: Vec<Socket>,
    /// The accepting socket of stream transports.
    pub(crate) tcp: Option<Socket>,
}

impl Listener {
    /// Its index.
    pub fn id(&self) -> SocketId {
        self.id
    }

    /// What it was made from.
    pub fn spec(&self) -> &ListenSpec {
        &self.spec
    }

    /// The bound address; differs from the specification only when that asked for port 0.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// True when bound to `0.0.0.0` or `::`.
    pub fn is_wildcard(&self) -> bool {
        self.spec.ip.is_unspecified()
    }

    pub(crate) fn bind(id: SocketId, spec: ListenSpec, config: &NetConfig) -> Result<Listener, BindError> {
        let bound = if spec.proto.is_stream() { bind_stream(&spec) } else { bind_udp(&spec, config) };
        match bound {
            Ok((local, udp, tcp)) => Ok(Listener { id, spec, local, udp, tcp }),
            Err(source) => Err(BindError::Listener { listener: spec.to_string(), source }),
        }
    }
}

type Bound = (SocketAddr, Vec<Socket>, Option<Socket>);

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        // A wildcard of each family can then stand beside the other.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn set_common(socket: &Socket, spec: &ListenSpec) -> io::Result<()> {
    if let Some(tos) = spec.tos {
        set_tos(socket, spec.ip.is_ipv6(), tos)?;
    }
    if spec.free_bind {
        if spec.ip.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
    }
    Ok(())
}

fn set_tos(socket: &Socket, v6: bool, tos: u8) -> io::Result<()> {
    if v6 { sys::set_traffic_class(socket, tos) } else { socket.set_tos_v4(u32::from(tos)) }
}

fn local_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn bind_udp(spec: &ListenSpec, config: &NetConfig) -> io::Result<Bound> {
    let mut address = spec.address();
    let mut sockets = Vec::with_capacity(config.workers);
    for index in 0..config.workers {
        let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
        set_common(&socket, spec)?;
        sys::allow_fragments(&socket, address.is_ipv6())?;
        sys::set_buffers(&socket, config.udp_buffer_bytes)?;
        if spec.ip.is_unspecified() {
            sys::set_report_destination(&socket, address.is_ipv6())?;
        }
        // The first socket is bound without sharing, so that an address used by another process is an error even if
        // that process shares it; sharing is switched on afterwards for our own further sockets.
        let shares_before = spec.reuse_port || index > 0;
        if shares_before {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        if !shares_before && config.workers > 1 {
            socket.set_reuse_port(true)?;
        }
        if index == 0 {
            address = local_of(&socket)?;
        }
        sockets.push(socket);
    }
    Ok((address, sockets, None))
}

fn bind_stream(spec: &ListenSpec) -> io::Result<Bound> {
    let address = spec.address();
    let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
    set_common(&socket, spec)?;
    socket.set_reuse_address(true)?;
    if spec.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok((local_of(&socket)?, Vec::new(), Some(socket)))
}

/// Options of an accepted or opened connection.
pub(crate) fn set_stream_options(socket: &Socket, spec: &ListenSpec, limits: &StreamConfig) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = limits.keepalive {
        let probes = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        socket.set_tcp_keepalive(&probes)?;
    }
    if limits.user_timeout.is_some() {
        socket.set_tcp_user_timeout(limits.user_timeout)?;
    }
    if let Some(tos) = spec.tos {
        set_tos(socket, spec.ip.is_ipv6(), tos)?;
    }
    Ok(())
}

/// Starts a connection from the address of a listener, on any port. The connection is usually not up on return.
pub(crate) fn start_connect(spec: &ListenSpec, limits: &StreamConfig, dst: SocketAddr) -> io::Result<(Socket, bool)> {
    let socket = Socket::new(Domain::for_address(dst), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    set_stream_options(&socket, spec, limits)?;
    if !spec.ip.is_unspecified() {
        if spec.free_bind {
            if spec.ip.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
        }
        // The system then picks the port when connecting, not when binding, so that ports are not used up early.
        let _ = sys::choose_port_late(&socket);
        socket.bind(&SockAddr::from(SocketAddr::new(spec.ip, 0)))?;
    }
    match socket.connect(&SockAddr::from(dst)) {
        Ok(()) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}
