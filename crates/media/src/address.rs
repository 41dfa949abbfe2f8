//! Addresses of control sockets as `rtpproxy_sock` and `rtpengine_sock` write them: `udp:host:port`, `tcp6:[::1]:port`,
//! `unix:path`, a bare path. Names are looked up elsewhere.

use std::fmt;
use std::path::PathBuf;

/// Where a relay listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A datagram socket.
    Udp(Host),
    /// A stream.
    Tcp(Host),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

/// Host and port of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Name or address, IPv6 without brackets.
    pub name: String,
    /// Port.
    pub port: u16,
    /// Whether the scheme asks for IPv6 (`udp6`, `tcp6`), or the address is one.
    pub is_ipv6: bool,
}

/// Port when none is written (OpenSIPS: rtpproxy and rtpengine).
pub const DEFAULT_PORT: u16 = 22222;

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no control socket: {reason}")]
pub struct AddressError {
    /// The text.
    pub text: String,
    /// Why.
    pub reason: &'static str,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// When host or port are missing or the path is empty.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let wrong = |reason| AddressError { text: text.to_owned(), reason };
        let text = text.trim();
        let scheme = text.split_once(':').map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        match scheme.as_ref().map(|(scheme, rest)| (scheme.as_str(), *rest)) {
            Some(("udp", rest)) => Host::parse(rest, false).map(Address::Udp).map_err(wrong),
            Some(("udp6", rest)) => Host::parse(rest, true).map(Address::Udp).map_err(wrong),
            Some(("tcp", rest)) => Host::parse(rest, false).map(Address::Tcp).map_err(wrong),
            Some(("tcp6", rest)) => Host::parse(rest, true).map(Address::Tcp).map_err(wrong),
            Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            _ if text.is_empty() || text == "unix:" => Err(wrong("the path is empty")),
            _ if text.starts_with(['/', '.']) => Ok(Address::Unix(text.into())),
            Some(_) => Err(wrong("write udp:host:port, udp6:, tcp:, tcp6:, unix:path or an absolute path")),
            None => Ok(Address::Unix(text.into())),
        }
    }
}

impl Host {
    fn parse(text: &str, wants_ipv6: bool) -> Result<Host, &'static str> {
        let text = text.trim_start_matches("//");
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, port) = rest.split_once(']').ok_or("the bracket is not closed")?;
                (name, port.strip_prefix(':'))
            }
            // An IPv6 address without brackets has no room for a port, unless the scheme says that the last part is one.
            None if text.matches(':').count() > 1 && !wants_ipv6 => (text, None),
            None => match text.rsplit_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        if name.is_empty() {
            return Err("the host is missing");
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("the port is no number from 1 to 65535")?,
        };
        let is_ipv6 = wants_ipv6 || name.parse::<std::net::Ipv6Addr>().is_ok();
        Ok(Host { name: name.to_owned(), port, is_ipv6 })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(name: &str, port: u16, is_ipv6: bool) -> Host {
        Host { name: name.into(), port, is_ipv6 }
    }

    #[test]
    fn all_forms_are_read() {
        for (text, address) in [
            ("udp:localhost:12221", Address::Udp(host("localhost", 12221, false))),
            ("UDP:10.0.0.1", Address::Udp(host("10.0.0.1", 22222, false))),
            ("udp6:::1:22222", Address::Udp(host("::1", 22222, true))),
            ("udp:[2001:db8::1]:7000", Address::Udp(host("2001:db8::1", 7000, true))),
            ("tcp:remote1:33422", Address::Tcp(host("remote1", 33422, false))),
            ("tcp6:remote2:32322", Address::Tcp(host("remote2", 32322, true))),
            ("unix:/run/rtpproxy.sock", Address::Unix("/run/rtpproxy.sock".into())),
            ("/run/rtpproxy.sock", Address::Unix("/run/rtpproxy.sock".into())),
        ] {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in ["", "udp:", "udp:host:0", "udp:host:99999", "udp:[::1:7", "sctp:host:1", "unix:"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
