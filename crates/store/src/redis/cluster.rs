//! The servers of a Redis Cluster and which of them has which slot; learnt from the servers, and again when they say that a
//! slot has moved. Sends nothing but that question.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Value};
use tandem_module::node::unix_secs;
use tokio::time::Instant;

use super::command::SLOTS;
use super::node::Node;
use super::url::RedisAddr;

/// Least time between two refreshes that nobody asked for.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// Servers of one cluster.
const NODES_MAX: usize = 1000;

/// What one server said about the slots: ranges with the address of their master.
pub(super) type Ranges = Vec<(u16, u16, RedisAddr)>;

#[derive(Default)]
pub(super) struct Cluster {
    nodes: RwLock<Vec<Arc<Node>>>,
    /// Position in `nodes` by slot; empty while nothing is known.
    slots: RwLock<Vec<Option<u16>>>,
    refreshed: Mutex<Refreshed>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Refreshed {
    pub(super) count: u64,
    /// Unix seconds.
    pub(super) at: i64,
    tried: Option<Instant>,
}

impl Cluster {
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.read().clone()
    }

    pub(super) fn refreshed(&self) -> Refreshed {
        *self.refreshed.lock()
    }

    /// Whether a refresh that nobody asked for may run now; notes it.
    pub(super) fn may_refresh(&self) -> bool {
        let mut refreshed = self.refreshed.lock();
        let may = refreshed.tried.is_none_or(|at| at.elapsed() >= REFRESH_PAUSE);
        if may {
            refreshed.tried = Some(Instant::now());
        }
        may
    }

    /// The server of a slot, or any for `None`.
    pub(super) fn node(&self, slot: Option<u16>) -> Option<Arc<Node>> {
        let nodes = self.nodes.read();
        match slot {
            None => nodes.iter().find(|node| node.is_connected()).or_else(|| nodes.first()).cloned(),
            Some(slot) => {
                let at = self.slots.read().get(usize::from(slot)).copied().flatten()?;
                nodes.get(usize::from(at)).cloned()
            }
        }
    }

    /// The server at an address, made known when it is new.
    pub(super) fn at(&self, addr: &RedisAddr, make: impl FnOnce() -> Arc<Node>) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.write();
        if let Some(found) = nodes.iter().find(|node| node.addr == *addr) {
            return Some(found.clone());
        }
        if nodes.len() >= NODES_MAX {
            return None;
        }
        let node = make();
        nodes.push(node.clone());
        Some(node)
    }

    /// A slot has moved to `addr`.
    pub(super) fn moved(&self, slot: u16, addr: &RedisAddr) {
        let at = self.nodes.read().iter().position(|node| node.addr == *addr).and_then(|at| u16::try_from(at).ok());
        if let Some(place) = self.slots.write().get_mut(usize::from(slot)) {
            *place = at;
        }
    }

    /// Takes a new map; servers that are not in it are given up.
    pub(super) fn replace(&self, ranges: &Ranges, make: impl Fn(&RedisAddr) -> Arc<Node>) {
        let known = self.nodes();
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut slots = vec![None; SLOTS];
        for (first, last, addr) in ranges {
            let at = match nodes.iter().position(|node| node.addr == *addr) {
                Some(at) => at,
                None if nodes.len() >= NODES_MAX => continue,
                None => {
                    let old = known.iter().find(|node| node.addr == *addr).cloned();
                    nodes.push(old.unwrap_or_else(|| make(addr)));
                    nodes.len() - 1
                }
            };
            for slot in *first..=*last {
                if let Some(place) = slots.get_mut(usize::from(slot)) {
                    *place = u16::try_from(at).ok();
                }
            }
        }
        *self.nodes.write() = nodes;
        *self.slots.write() = slots;
        let mut refreshed = self.refreshed.lock();
        refreshed.count += 1;
        refreshed.at = unix_secs();
    }

    /// Slots with a server, in all and by position of the server.
    pub(super) fn mapped(&self) -> (usize, Vec<usize>) {
        let mut by_node = vec![0; self.nodes.read().len()];
        let slots = self.slots.read();
        for at in slots.iter().flatten() {
            if let Some(count) = by_node.get_mut(usize::from(*at)) {
                *count += 1;
            }
        }
        (slots.iter().flatten().count(), by_node)
    }
}

/// The question for the map.
pub(super) fn question() -> Cmd {
    let mut command = Cmd::new();
    command.arg("CLUSTER").arg("SLOTS");
    command
}

/// Reads the answer of `asked` to [`question`]; `None` when it is not understood.
pub(super) fn ranges(answer: Value, asked: &RedisAddr) -> Option<Ranges> {
    let Value::Array(items) = answer else { return None };
    let mut ranges = Vec::new();
    for item in items {
        let Value::Array(fields) = item else { return None };
        let mut fields = fields.into_iter();
        let (Some(Value::Int(first)), Some(Value::Int(last)), Some(Value::Array(master))) =
            (fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        let mut master = master.into_iter();
        let host = match master.next()? {
            Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
            Value::SimpleString(text) => text,
            Value::Nil => String::new(),
            _ => return None,
        };
        let Some(Value::Int(port)) = master.next() else { return None };
        let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
        ranges.push((first, last, address(&host, u16::try_from(port).ok()?, asked)));
    }
    Some(ranges)
}

/// An address as a server gives it; without a host it means the server that was asked.
fn address(host: &str, port: u16, asked: &RedisAddr) -> RedisAddr {
    match (host, asked) {
        ("" | "?", RedisAddr::Tcp(own, _)) => RedisAddr::Tcp(own.clone(), port),
        _ => RedisAddr::Tcp(host.to_owned(), port),
    }
}

/// `host:port` of a redirection.
pub(super) fn redirection(text: &str, asked: &RedisAddr) -> Option<RedisAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some(address(host, port.parse().ok()?, asked))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{RedisAddr, Value, ranges, redirection};

    #[test]
    fn maps_and_redirections_are_read_and_nonsense_is_refused() {
        let asked = RedisAddr::Tcp("seed".to_owned(), 7000);
        let range =
            |host: Value| Value::Array(vec![Value::Int(0), Value::Int(99), Value::Array(vec![host, Value::Int(7001)])]);
        let read =
            ranges(Value::Array(vec![range(Value::BulkString(b"10.0.0.1".to_vec())), range(Value::Nil)]), &asked);
        let expected = |host: &str| (0, 99, RedisAddr::Tcp(host.to_owned(), 7001));
        assert_eq!(read.unwrap(), [expected("10.0.0.1"), expected("seed")]);
        for bad in
            [Value::Okay, Value::Array(vec![Value::Int(1)]), Value::Array(vec![Value::Array(vec![Value::Int(-1)])])]
        {
            assert!(ranges(bad, &asked).is_none());
        }
        assert_eq!(redirection("[::1]:7002", &asked), Some(RedisAddr::Tcp("::1".to_owned(), 7002)));
        assert_eq!(redirection(":7002", &asked), Some(RedisAddr::Tcp("seed".to_owned(), 7002)));
        assert_eq!(redirection("nonsense", &asked), None);
    }
}
