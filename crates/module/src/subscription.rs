//! Subscriptions of external programs to events (`event_subscribe`, `subscribe_event()`): which transport carries them, and
//! until when. Sockets are those of the transports, which are modules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use crate::event::Event;
use crate::node::NodeRef;
use crate::worker;

/// Subscriptions one process holds; more are refused.
pub const SUBSCRIPTIONS_MAX: usize = 1000;

/// Carries events of one subscription.
pub trait EventSocket: Send + Sync {
    /// Sends an event; must not block. What cannot be sent is lost, and counted by the transport.
    fn send(&self, event: &Event);
}

/// A way out for events: `udp:`, `unix:`, ...
pub trait EventTransport: Send + Sync {
    /// What its sockets begin with, without colon.
    fn schemes(&self) -> &'static [&'static str];

    /// Makes a socket out of its whole text.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn open(&self, socket: &str) -> Result<Arc<dyn EventSocket>, String>;
}

/// One subscription, as management shows it.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The event.
    pub event: &'static str,
    /// The socket, with its scheme.
    pub socket: String,
    /// Seconds it was made for, and when it ends; `None` for ever.
    pub expires: Option<(u32, Instant)>,
    listener: u64,
    generation: u64,
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// Nobody declares the event.
    #[error("there is no event '{0}'")]
    NoEvent(String),
    /// No loaded module carries such sockets.
    #[error("no transport for '{0}'; for udp: and unix: loadmodule \"event_datagram.so\"")]
    NoTransport(String),
    /// The transport does not understand the socket.
    #[error("bad socket '{0}': {1}")]
    BadSocket(String, String),
    /// There are [`SUBSCRIPTIONS_MAX`] already.
    #[error("more than {SUBSCRIPTIONS_MAX} subscriptions")]
    TooMany,
}

/// All subscriptions and transports of the process.
#[derive(Default)]
pub struct Subscriptions {
    transports: RwLock<HashMap<&'static str, Arc<dyn EventTransport>>>,
    list: Mutex<Vec<Subscription>>,
    next: AtomicU64,
}

impl Subscriptions {
    /// Adds a transport (its module was loaded).
    pub fn add_transport(&self, transport: Arc<dyn EventTransport>) {
        for scheme in transport.schemes() {
            self.transports.write().insert(scheme, transport.clone());
        }
    }

    /// The subscriptions there are, oldest first.
    pub fn list(&self) -> Vec<Subscription> {
        self.list.lock().clone()
    }

    /// Makes a subscription, or gives the one for the same event and socket a new end. `expires_secs`: `None` for ever,
    /// `Some(0)` ends it (OpenSIPS: event_subscribe).
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(
        &self,
        node: NodeRef,
        event: &str,
        socket: &str,
        expires_secs: Option<u32>,
    ) -> Result<(), SubscribeError> {
        let name = node.events.name(event.as_bytes()).ok_or_else(|| SubscribeError::NoEvent(event.to_owned()))?;
        // A bare path is a Unix socket.
        let socket = if socket.starts_with('/') { format!("unix:{socket}") } else { socket.to_owned() };
        if expires_secs == Some(0) {
            self.end(node, name, &socket, None);
            return Ok(());
        }
        let generation = self.next.fetch_add(1, Ordering::Relaxed);
        let expires = expires_secs.map(|secs| (secs, crate::clock::now() + Duration::from_secs(u64::from(secs))));
        self.add(node, name, &socket, expires, generation)?;
        if let (Some((_, at)), Some(workers)) = (expires, node.workers()) {
            let end = move |_: Instant| node.subscriptions.end(node, name, &socket, Some(generation));
            workers.after(worker::current(), at, Box::new(end));
        }
        Ok(())
    }

    fn add(
        &self,
        node: NodeRef,
        event: &'static str,
        socket: &str,
        expires: Option<(u32, Instant)>,
        generation: u64,
    ) -> Result<(), SubscribeError> {
        let mut list = self.list.lock();
        if let Some(known) = list.iter_mut().find(|known| known.event == event && known.socket == socket) {
            known.expires = expires;
            known.generation = generation;
            return Ok(());
        }
        if list.len() >= SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooMany);
        }
        let scheme = socket.split(':').next().unwrap_or_default();
        let transport = self.transports.read().get(scheme).cloned();
        let transport = transport.ok_or_else(|| SubscribeError::NoTransport(socket.to_owned()))?;
        let open = transport.open(socket).map_err(|reason| SubscribeError::BadSocket(socket.to_owned(), reason))?;
        let listener = node.events.listen(event, Arc::new(move |_, event, _| open.send(event)));
        list.push(Subscription { event, socket: socket.to_owned(), expires, listener, generation });
        Ok(())
    }

    /// Ends a subscription; with a generation only when it was not renewed since.
    fn end(&self, node: NodeRef, event: &'static str, socket: &str, generation: Option<u64>) {
        let mut list = self.list.lock();
        let is_meant = |known: &Subscription| {
            known.event == event
                && known.socket == socket
                && generation.is_none_or(|generation| known.generation == generation)
        };
        if let Some(at) = list.iter().position(is_meant) {
            let ended = list.remove(at);
            drop(list);
            node.events.unlisten(event, ended.listener);
        }
    }
}
