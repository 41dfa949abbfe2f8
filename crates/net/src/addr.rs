//! From names in a configuration to addresses. May block on the system resolver: for start-up only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::sys;

/// All addresses of interfaces that are up, as (interface name, address); IPv6 link-local ones are left out because
/// they mean nothing without an interface. With `name`, only those of that interface.
pub fn interface_addresses(name: Option<&str>) -> io::Result<Vec<(String, IpAddr)>> {
    let all = sys::interfaces()?;
    Ok(all
        .into_iter()
        .filter(|(interface, ip, _)| name.is_none_or(|name| name == interface) && !is_link_local(*ip))
        .map(|(interface, ip, _)| (interface, ip))
        .collect())
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.segments().first().is_some_and(|head| head & 0xffc0 == 0xfe80),
    }
}

/// The addresses meant by the host part of a `socket=` line: `*` (every interface address), an address with or
/// without brackets, an interface name, or a host name. Host names give the first address of each family; never an
/// empty list.
pub fn resolve_host(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    let wildcard = host == "*";
    let interfaces: Vec<IpAddr> =
        interface_addresses((!wildcard).then_some(host))?.into_iter().map(|(_, ip)| ip).collect();
    if wildcard || !interfaces.is_empty() {
        return if interfaces.is_empty() { Err(not_found(host)) } else { Ok(interfaces) };
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for address in (bare, 0_u16).to_socket_addrs()? {
        if !found.iter().any(|ip| ip.is_ipv4() == address.is_ipv4()) {
            found.push(address.ip());
        }
    }
    if found.is_empty() { Err(not_found(host)) } else { Ok(found) }
}

fn not_found(host: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no address for \"{host}\""))
}

/// The local address the system would use to reach `dst`. Sends nothing.
pub fn local_address_for(dst: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Port 0 is not a destination; any other port gives the same route.
    let port = if dst.port() == 0 { 9 } else { dst.port() };
    socket.connect(SocketAddr::new(dst.ip(), port))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn hosts_may_be_addresses_interfaces_names_or_a_star() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(resolve_host("192.0.2.7").unwrap(), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolve_host("[2001:db8::1]").unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert!(resolve_host("lo").unwrap().contains(&loopback));
        assert!(resolve_host("*").unwrap().contains(&loopback));
        assert!(resolve_host("localhost").unwrap().iter().all(IpAddr::is_loopback));
        assert!(resolve_host("no such host").is_err());
    }

    #[test]
    fn star_leaves_out_link_local_addresses() {
        assert!(resolve_host("*").unwrap().iter().all(|ip| !is_link_local(*ip)));
        assert!(is_link_local("fe80::1".parse().unwrap()) && is_link_local("febf::1".parse().unwrap()));
        assert!(!is_link_local("fec0::1".parse().unwrap()) && !is_link_local("169.254.1.1".parse().unwrap()));
    }

    #[test]
    fn loopback_is_reached_from_loopback() {
        let local = local_address_for("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(local.is_loopback());
    }
}
