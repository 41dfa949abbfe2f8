//! `bin:host[:port]` and `bins:host[:port]`; resolves no names.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// Transport of a node's listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// BIN over TCP, default port 5555.
    Bin,
    /// BIN over TLS, default port 5556.
    Bins,
}

impl Transport {
    /// Port when the URL has none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Bin => 5555,
            Self::Bins => 5556,
        }
    }

    /// The URL scheme.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Bin => "bin",
            Self::Bins => "bins",
        }
    }
}

/// Address of a node's BIN listener. Keeps the text as provisioned, for that is what is told to
/// other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BinUrl {
    text: String,
    transport: Transport,
    host: String,
    port: u16,
}

/// Why a text is not a BIN URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UrlError {
    /// The scheme is neither `bin:` nor `bins:`.
    #[error("a node URL starts with bin: or bins:")]
    Scheme,
    /// No host, or characters that no host has.
    #[error("a node URL needs a host after the scheme")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port of a node URL is a number from 1 to 65535")]
    Port,
}

impl BinUrl {
    /// The text as provisioned or learned.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Transport named by the scheme.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Host name or address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port, the default one when the text has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address when the host is an IP address; a name must be resolved by the caller.
    #[must_use]
    pub fn literal_addr(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl FromStr for BinUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::Scheme)?;
        let transport = if scheme.eq_ignore_ascii_case("bin") {
            Transport::Bin
        } else if scheme.eq_ignore_ascii_case("bins") {
            Transport::Bins
        } else {
            return Err(UrlError::Scheme);
        };
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
            (host, port.strip_prefix(':').or((port.is_empty()).then_some("")).ok_or(UrlError::Port)?)
        } else {
            rest.split_once(':').unwrap_or((rest, ""))
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(UrlError::Host);
        }
        let port = match port {
            "" if rest.ends_with(':') => return Err(UrlError::Port),
            "" => transport.default_port(),
            text => text.parse::<u16>().ok().filter(|p| *p > 0).ok_or(UrlError::Port)?,
        };
        Ok(Self { text: text.to_owned(), transport, host: host.to_owned(), port })
    }
}

impl fmt::Display for BinUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
