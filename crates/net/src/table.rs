//! Finding connections by id and by peer address. Opens and closes nothing itself.

use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::connection::Connection;
use crate::proto::{ConnId, Proto, SocketId};

#[derive(Default)]
struct Maps {
    by_id: HashMap<ConnId, Arc<Connection>>,
    by_remote: HashMap<(Proto, SocketAddr), SmallVec<[ConnId; 1]>>,
}

pub(crate) struct ConnectionTable {
    maps: RwLock<Maps>,
    connections_max: usize,
}

impl ConnectionTable {
    pub(crate) fn new(connections_max: usize) -> Self {
        ConnectionTable { maps: RwLock::new(Maps::default()), connections_max }
    }

    pub(crate) fn connections_max(&self) -> usize {
        self.connections_max
    }

    pub(crate) fn len(&self) -> usize {
        self.maps.read().by_id.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.connections_max
    }

    /// Adds a connection; false when the table is full.
    pub(crate) fn insert(&self, connection: &Arc<Connection>) -> bool {
        let mut maps = self.maps.write();
        if maps.by_id.len() >= self.connections_max {
            return false;
        }
        maps.by_id.insert(connection.id, Arc::clone(connection));
        maps.by_remote.entry((connection.proto, connection.remote)).or_default().push(connection.id);
        true
    }

    pub(crate) fn remove(&self, connection: &Connection) {
        let mut maps = self.maps.write();
        maps.by_id.remove(&connection.id);
        unlink(&mut maps, connection.proto, connection.remote, connection.id);
        for port in connection.aliases.lock().drain(..) {
            unlink(&mut maps, connection.proto, SocketAddr::new(connection.remote.ip(), port), connection.id);
        }
    }

    /// Makes a connection findable under another port of its peer; false when it is gone.
    pub(crate) fn add_alias(&self, id: ConnId, port: u16) -> bool {
        let mut maps = self.maps.write();
        let Some(connection) = maps.by_id.get(&id).cloned() else {
            return false;
        };
        let mut aliases = connection.aliases.lock();
        if connection.remote.port() == port || aliases.contains(&port) {
            return true;
        }
        if aliases.len() >= ALIASES_MAX {
            return false;
        }
        aliases.push(port);
        let address = SocketAddr::new(connection.remote.ip(), port);
        maps.by_remote.entry((connection.proto, address)).or_default().push(id);
        true
    }

    pub(crate) fn by_id(&self, id: ConnId) -> Option<Arc<Connection>> {
        self.maps.read().by_id.get(&id).cloned()
    }

    /// The newest connection to a peer, of one listener when that is given.
    pub(crate) fn by_remote(
        &self,
        proto: Proto,
        remote: SocketAddr,
        socket: Option<SocketId>,
    ) -> Option<Arc<Connection>> {
        let maps = self.maps.read();
        let ids = maps.by_remote.get(&(proto, remote))?;
        ids.iter()
            .rev()
            .filter_map(|id| maps.by_id.get(id))
            .find(|connection| socket.is_none_or(|socket| socket == connection.socket))
            .cloned()
    }

    /// All connections that satisfy a condition.
    pub(crate) fn select(&self, condition: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        self.maps.read().by_id.values().filter(|connection| condition(connection)).cloned().collect()
    }
}

/// Ports beside its own under which one connection may be found.
const ALIASES_MAX: usize = 8;

fn unlink(maps: &mut Maps, proto: Proto, remote: SocketAddr, id: ConnId) {
    if let Some(ids) = maps.by_remote.get_mut(&(proto, remote)) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            maps.by_remote.remove(&(proto, remote));
        }
    }
}
