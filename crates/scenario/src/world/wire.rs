//! The network of a test: everything the node sends is noted and handed to the party it is for; nothing leaves the process.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tandem_module::clock;
use tandem_module::transport::{ConnId, Destination, Proto, SendError, SocketId, Transport};
use tandem_module::worker::{WorkerId, Workers as _};

use super::workers::VirtualWorkers;

/// Messages of one test; more are refused, and the test fails by its own expectations.
const ENTRIES_MAX: usize = 50_000;

/// An end of an arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The node under test.
    Node,
    /// A SIP party.
    Phone(SocketAddr),
    /// Another cluster node.
    Peer(i32),
}

/// What was said.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A SIP message.
    Sip(Bytes),
    /// A request between cluster nodes.
    Asks(String),
    /// An answer between cluster nodes.
    Says(String),
}

/// A message on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) at: Instant,
    pub(crate) from: Place,
    pub(crate) to: Place,
    pub(crate) what: What,
    /// Line of the step that took it.
    pub(crate) taken: Option<u32>,
    /// The same bytes went the same way before.
    pub(crate) is_repeated: bool,
}

/// Who takes SIP messages and cluster packets in.
pub(crate) trait Receivers: Send + Sync {
    /// A SIP message for a party.
    fn on_sip(&self, to: SocketAddr, bytes: Bytes);
    /// A cluster packet for a listener; false when nobody listens there.
    fn takes_bin(&self, to: SocketAddr) -> bool;
    /// The packet itself.
    fn on_bin(&self, to: SocketAddr, bytes: Bytes);
}

/// The network.
pub(crate) struct Wire {
    workers: Arc<VirtualWorkers>,
    entries: Mutex<Vec<Entry>>,
    unreachable: Mutex<HashSet<SocketAddr>>,
    /// Streams by their number.
    streams: Mutex<HashMap<ConnId, Stream>>,
    receivers: OnceLock<Arc<dyn Receivers>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Phone(SocketAddr),
    Peer(SocketAddr),
}

impl Wire {
    pub(crate) fn new(workers: Arc<VirtualWorkers>) -> Wire {
        Wire {
            workers,
            entries: Mutex::default(),
            unreachable: Mutex::default(),
            streams: Mutex::default(),
            receivers: OnceLock::new(),
        }
    }

    pub(crate) fn set_receivers(&self, receivers: Arc<dyn Receivers>) {
        let _ = self.receivers.set(receivers);
    }

    /// Notes a message.
    pub(crate) fn note(&self, from: Place, to: Place, what: What) {
        let mut entries = self.entries.lock();
        if entries.len() >= ENTRIES_MAX {
            return;
        }
        let is_same = |entry: &Entry| match (&entry.what, &what) {
            (What::Sip(old), What::Sip(new)) => entry.from == from && entry.to == to && old == new,
            _ => false,
        };
        let is_repeated = entries.iter().any(is_same);
        entries.push(Entry { at: clock::now(), from, to, what, taken: None, is_repeated });
    }

    /// Looks at, or marks, what was noted.
    pub(crate) fn with_entries<T>(&self, work: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        work(&mut self.entries.lock())
    }

    pub(crate) fn set_unreachable(&self, addr: SocketAddr) {
        self.unreachable.lock().insert(addr);
    }

    pub(crate) fn add_phone_stream(&self, conn: ConnId, addr: SocketAddr) {
        self.streams.lock().insert(conn, Stream::Phone(addr));
    }

    pub(crate) fn add_peer_stream(&self, conn: ConnId, addr: SocketAddr) {
        self.streams.lock().insert(conn, Stream::Peer(addr));
    }

    fn to_phone(&self, to: SocketAddr, bytes: &[u8]) -> Result<(), SendError> {
        if self.unreachable.lock().contains(&to) {
            return Err(SendError::Failed { addr: to, reason: "the test says that it is unreachable".to_owned() });
        }
        let bytes = Bytes::copy_from_slice(bytes);
        self.note(Place::Node, Place::Phone(to), What::Sip(bytes.clone()));
        if let Some(receivers) = self.receivers.get().cloned() {
            self.workers.post(WorkerId(0), Box::new(move |_| receivers.on_sip(to, bytes)));
        }
        Ok(())
    }

    fn to_peer(&self, to: SocketAddr, bytes: &[u8]) -> Result<(), SendError> {
        let receivers = self.receivers.get().filter(|receivers| receivers.takes_bin(to)).cloned();
        let Some(receivers) = receivers else {
            return Err(SendError::Failed { addr: to, reason: "no node of the test listens there".to_owned() });
        };
        let bytes = Bytes::copy_from_slice(bytes);
        self.workers.post(WorkerId(0), Box::new(move |_| receivers.on_bin(to, bytes)));
        Ok(())
    }
}

impl Transport for Wire {
    fn send(&self, to: &Destination, bytes: &[u8]) -> Result<(), SendError> {
        let by_stream = to.conn.and_then(|conn| self.streams.lock().get(&conn).copied());
        match by_stream {
            Some(Stream::Phone(addr)) => self.to_phone(addr, bytes),
            _ => self.to_phone(to.addr, bytes),
        }
    }

    fn send_bin(&self, _proto: Proto, to: SocketAddr, _from: IpAddr, bytes: &[u8]) -> Result<(), SendError> {
        self.to_peer(to, bytes)
    }

    fn send_on(&self, conn: ConnId, bytes: &[u8]) -> Result<(), SendError> {
        let stream = self.streams.lock().get(&conn).copied();
        match stream {
            Some(Stream::Phone(addr)) => self.to_phone(addr, bytes),
            Some(Stream::Peer(addr)) => self.to_peer(addr, bytes),
            None => {
                let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
                Err(SendError::Failed { addr: nobody, reason: "the connection is gone".to_owned() })
            }
        }
    }

    fn close_bin(&self, to: SocketAddr) {
        self.streams.lock().retain(|_, stream| *stream != Stream::Peer(to));
    }

    fn add_alias(&self, _conn: ConnId, _port: u16) {}

    fn local_address(&self, _to: SocketAddr) -> Option<IpAddr> {
        None
    }
}

/// A listener of the node, to which a party sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    pub(crate) id: SocketId,
    pub(crate) addr: SocketAddr,
    pub(crate) proto: Proto,
}
