//! `{ip.*}` and networks as comparisons use them. Names are resolved by the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Context, IpOp, flag};
use crate::value::{Text, Value};
use crate::vm::{Failed, Host};

/// An address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u32,
}

impl Network {
    /// `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `2001:db8::/32`, or an address alone, IPv6 with or without brackets.
    pub fn parse(text: &str) -> Option<Network> {
        match text.split_once('/') {
            None => {
                let address = address(text.as_bytes())?;
                Some(Network { address, length: bits(address) })
            }
            Some((head, length)) => Network::with_length(address(head.trim().as_bytes())?, length.trim()),
        }
    }

    fn with_length(address: IpAddr, length: &str) -> Option<Network> {
        let length = match length.parse::<u32>() {
            Ok(length) => length,
            Err(_) => mask_length(self::address(length.as_bytes())?)?,
        };
        (length <= bits(address)).then_some(Network { address, length })
    }

    /// The address as written.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The mask, such as 255.0.0.0.
    pub fn mask(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => {
                let bits = u32::MAX.checked_shl(32 - self.length).unwrap_or(0);
                IpAddr::V4(std::net::Ipv4Addr::from_bits(bits))
            }
            IpAddr::V6(_) => {
                let bits = u128::MAX.checked_shl(128 - self.length).unwrap_or(0);
                IpAddr::V6(std::net::Ipv6Addr::from_bits(bits))
            }
        }
    }

    /// Whether `other` lies in it; never for the other family.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - self.length).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - self.length).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Prefix length of a contiguous mask.
fn mask_length(mask: IpAddr) -> Option<u32> {
    let (ones, zeros, bits) = match mask {
        IpAddr::V4(mask) => (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros(), 32),
        IpAddr::V6(mask) => (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros(), 128),
    };
    (ones + zeros >= bits).then_some(ones)
}

/// The IP address in a text, IPv6 with or without brackets.
pub fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        // Only the hexadecimal form of IPv6 is read, as in the reference.
        None => text.parse().ok().filter(|address: &IpAddr| address.is_ipv4() || !text.contains('.')),
    }
}

/// As `$si` and `{ip.ntop}` print: IPv6 in upper case, uncompressed.
pub(super) fn printed(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.to_string().into_bytes(),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:X}")).join(":").into_bytes(),
    }
}

fn from_raw(raw: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(raw) {
        return Some(IpAddr::V4(Ipv4Addr::from(bytes)));
    }
    <[u8; 16]>::try_from(raw).ok().map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
}

pub(super) fn apply<H: Host>(context: &mut Context<'_, H>, op: &IpOp, input: &Text) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    let parsed = || address(input);
    Ok(match op {
        IpOp::Pton => match parsed().ok_or(Failed)? {
            IpAddr::V4(address) => Value::text(&address.octets()),
            IpAddr::V6(address) => Value::text(&address.octets()),
        },
        IpOp::Ntop => printed(from_raw(input).ok_or(Failed)?).into(),
        IpOp::Family => Value::from(if from_raw(input).ok_or(Failed)?.is_ipv4() { "INET" } else { "INET6" }),
        IpOp::IsIp => flag(parsed().is_some()),
        IpOp::IsIp4 => flag(parsed().is_some_and(|address| address.is_ipv4())),
        IpOp::IsIp6 => flag(parsed().is_some_and(|address| address.is_ipv6())),
        IpOp::Matches(network) => {
            let network = context.text(network)?;
            let network = std::str::from_utf8(&network)
                .ok()
                .filter(|text| {
                    text.split_once('/').is_some_and(|(_, length)| length.bytes().all(|c| c.is_ascii_digit()))
                })
                .and_then(Network::parse)
                .ok_or(Failed)?;
            let address = parsed().ok_or(Failed)?;
            if address.is_ipv4() != network.address.is_ipv4() {
                return Err(Failed);
            }
            flag(network.contains(address))
        }
        IpOp::IsPrivate => flag(matches!(parsed(), Some(IpAddr::V4(address)) if is_private(address))),
        IpOp::Resolve => match parsed() {
            Some(address) => printed(address).into(),
            None => context.host.resolve(input).map_or(Value::Null, Value::Text),
        },
    })
}

/// 10/8, 172.16/12, 192.168/16, 100.64/10, 127/8.
fn is_private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || address.is_loopback() || (a == 100 && (64..128).contains(&b))
}
