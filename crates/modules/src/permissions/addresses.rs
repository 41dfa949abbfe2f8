//! Addresses and networks in memory, and which of them fits. No database and no script here.

use std::net::IpAddr;

use hashbrown::HashMap;
use tandem_module::db::DbValue;
use tandem_script::value::Text;

use crate::core::db_load::{int_of, text_of};

/// A transport as tables and scripts name it; those we do not speak are known by name, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProtoName(&'static str);

impl ProtoName {
    const ALL: [&'static str; 8] = ["udp", "tcp", "tls", "sctp", "ws", "wss", "bin", "bins"];

    /// `None` for `any` and nothing.
    ///
    /// # Errors
    /// A name that is none.
    pub(super) fn parse(text: &[u8]) -> Result<Option<ProtoName>, ()> {
        let text = text.trim_ascii();
        if text.is_empty() || text.eq_ignore_ascii_case(b"any") {
            return Ok(None);
        }
        let found = ProtoName::ALL.iter().find(|name| name.as_bytes().eq_ignore_ascii_case(text));
        found.map(|name| Some(ProtoName(name))).ok_or(())
    }
}

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) group: u32,
    pub(super) net: IpAddr,
    pub(super) mask: u8,
    /// 0 is any.
    pub(super) port: u16,
    /// `None` is any.
    pub(super) proto: Option<ProtoName>,
    pub(super) pattern: Option<Text>,
    pub(super) info: Option<Text>,
}

/// What a script asks for.
pub(super) struct Query<'a> {
    /// 0 is any.
    pub(super) group: u32,
    pub(super) ip: IpAddr,
    /// 0 is any.
    pub(super) port: u16,
    /// `None` is any.
    pub(super) proto: Option<ProtoName>,
    pub(super) pattern: Option<&'a [u8]>,
}

impl Entry {
    /// A row: group, address, mask, port, transport, pattern, info. `Ok(None)` for rows that never match.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn from_row(row: &[DbValue]) -> Result<Option<Entry>, String> {
        let proto = text_of(row, 4).unwrap_or_default();
        if proto.trim_ascii().eq_ignore_ascii_case(b"none") {
            return Ok(None);
        }
        let shown = |at| String::from_utf8_lossy(&text_of(row, at).unwrap_or_default()).into_owned();
        let group = int_of(row, 0).and_then(|int| u32::try_from(int).ok()).ok_or("the group is no number")?;
        let ip = shown(1);
        let ip = parse_ip(ip.as_bytes()).ok_or_else(|| format!("'{ip}' is no address"))?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let mask = int_of(row, 2).and_then(|int| u8::try_from(int).ok()).filter(|mask| *mask <= bits);
        let mask = mask.ok_or_else(|| format!("the mask '{}' is not 0 to {bits}", shown(2)))?;
        let port = int_of(row, 3).unwrap_or(0);
        let port = u16::try_from(port).map_err(|_| format!("the port {port} is not 0 to 65535"))?;
        let proto = ProtoName::parse(&proto).map_err(|()| format!("unknown transport '{}'", shown(4)))?;
        let text = |at| text_of(row, at).filter(|text| !text.is_empty()).map(Text::from);
        Ok(Some(Entry { group, net: network(ip, mask), mask, port, proto, pattern: text(5), info: text(6) }))
    }

    /// Whether the row stands for one address.
    pub(super) fn is_host(&self) -> bool {
        self.mask == if self.net.is_ipv4() { 32 } else { 128 }
    }

    fn fits(&self, query: &Query<'_>) -> bool {
        (query.group == 0 || self.group == query.group)
            && (self.port == 0 || query.port == 0 || self.port == query.port)
            && (self.proto.is_none() || query.proto.is_none() || self.proto == query.proto)
            && match (&self.pattern, query.pattern) {
                (Some(pattern), Some(text)) => matches_shell_pattern(pattern, text),
                _ => true,
            }
    }

    /// Name of the transport, for people.
    pub(super) fn proto_name(&self) -> &'static str {
        self.proto.map_or("any", |proto| proto.0)
    }
}

/// A table in memory: single addresses, and networks by the length of their prefix.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    all: Vec<Entry>,
    hosts: HashMap<IpAddr, Vec<u32>>,
    /// Longest prefix first.
    nets: Vec<(u8, HashMap<IpAddr, Vec<u32>>)>,
}

impl Addresses {
    pub(super) fn push(&mut self, entry: Entry) {
        // Bounded by the limit on rows, far below 2^32.
        let at = self.all.len() as u32;
        let map = if entry.is_host() {
            &mut self.hosts
        } else {
            let place = match self.nets.binary_search_by(|(mask, _)| entry.mask.cmp(mask)) {
                Ok(place) => place,
                Err(place) => {
                    self.nets.insert(place, (entry.mask, HashMap::new()));
                    place
                }
            };
            match self.nets.get_mut(place) {
                Some((_, map)) => map,
                None => return,
            }
        };
        map.entry(entry.net).or_default().push(at);
        self.all.push(entry);
    }

    /// The first row that fits: single addresses, then networks with the longest prefix first.
    pub(super) fn find(&self, query: &Query<'_>) -> Option<&Entry> {
        let first =
            |list: &Vec<u32>| list.iter().filter_map(|at| self.all.get(*at as usize)).find(|entry| entry.fits(query));
        if let Some(found) = self.hosts.get(&query.ip).and_then(first) {
            return Some(found);
        }
        self.nets.iter().find_map(|(mask, map)| map.get(&network(query.ip, *mask)).and_then(first))
    }

    /// All rows, single addresses or networks, in the order of the table.
    pub(super) fn rows(&self, are_hosts: bool) -> impl Iterator<Item = &Entry> {
        self.all.iter().filter(move |entry| entry.is_host() == are_hosts)
    }
}

/// An address as text, IPv6 also in brackets.
pub(super) fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().ok()
}

/// The address with everything behind the prefix cleared.
fn network(ip: IpAddr, mask: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(mask.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & bits).into())
        }
        IpAddr::V6(ip) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(mask.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & bits).into())
        }
    }
}

/// `fnmatch()` with FNM_PERIOD: `*`, `?`, `[...]`, backslash; a leading dot is matched by a dot only.
fn matches_shell_pattern(pattern: &[u8], text: &[u8]) -> bool {
    if text.first() == Some(&b'.') && matches!(pattern.first(), Some(b'*' | b'?' | b'[')) {
        return false;
    }
    tandem_module::glob::matches(pattern, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(group: i64, ip: &str, mask: i64, port: i64, proto: &str) -> Vec<DbValue> {
        vec![group.into(), ip.into(), mask.into(), port.into(), proto.into(), DbValue::Null, DbValue::Null]
    }

    fn query(ip: &str) -> Query<'static> {
        Query { group: 0, ip: ip.parse().unwrap(), port: 0, proto: None, pattern: None }
    }

    #[test]
    fn the_longest_prefix_wins_after_single_addresses() {
        let mut all = Addresses::default();
        for (group, ip, mask) in
            [(1, "10.0.0.0", 8), (2, "10.1.2.3", 16), (3, "10.1.2.3", 32), (4, "0.0.0.0", 0), (5, "fd00::1", 64)]
        {
            all.push(Entry::from_row(&row(group, ip, mask, 0, "any")).unwrap().unwrap());
        }
        for (ip, group) in [("10.1.2.3", 3), ("10.1.9.9", 2), ("10.9.9.9", 1), ("192.0.2.1", 4), ("fd00::9", 5)] {
            assert_eq!(all.find(&query(ip)).unwrap().group, group, "{ip}");
        }
        assert!(all.find(&query("fe80::1")).is_none());
        assert_eq!((all.rows(true).count(), all.rows(false).count()), (1, 4));
    }

    #[test]
    fn broken_rows_say_what_is_wrong() {
        for (bad, told) in [
            (row(-1, "10.0.0.1", 32, 0, "any"), "group"),
            (row(1, "host.example", 32, 0, "any"), "'host.example' is no address"),
            (row(1, "10.0.0.1", 33, 0, "any"), "'33' is not 0 to 32"),
            (row(1, "10.0.0.1", -1, 0, "any"), "mask"),
            (row(1, "10.0.0.1", 32, 70_000, "any"), "port 70000"),
            (row(1, "10.0.0.1", 32, 0, "carrier pigeon"), "transport 'carrier pigeon'"),
            (vec![DbValue::Null; 7], "group"),
        ] {
            let error = Entry::from_row(&bad).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert!(Entry::from_row(&row(1, "10.0.0.1", 32, 0, "none")).unwrap().is_none());
    }

    #[test]
    fn shell_patterns_are_those_of_fnmatch() {
        for (pattern, text, fits) in [
            ("text*", "texttest", true),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("a[0-9]c", "a5c", true),
            ("a[!0-9]c", "a5c", false),
            ("a[]]c", "a]c", true),
            ("a[", "a[", true),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("*a*b?", "xxaxxbx", true),
            ("abc", "ABC", false),
        ] {
            assert_eq!(matches_shell_pattern(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
