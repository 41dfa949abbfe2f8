//! Sockets: UDP in batches, TCP and BIN streams, framing, connection reuse, back-pressure. It parses no SIP beyond
//! message boundaries, keeps no transactions and makes no routing decision.
//!
//! # How to use it
//!
//! 1. Turn configuration into [`ListenSpec`]s (see [`resolve_host`]) and call [`Network::bind`]. Every error names the
//!    listener.
//! 2. Start one thread per worker and call [`run_worker`] with a [`Handler`]. The handler is called for everything
//!    that happens on that worker; it is never called by another thread, so it needs no locks of its own.
//! 3. From inside the handler send with the [`Io`] that is passed in; from anywhere else with the [`Network`].
//! 4. Give other threads a [`Mailbox`] per worker: `push` queues a value and wakes the worker, whose
//!    [`Handler::on_wakeup`] drains it.
//! 5. [`Network::shutdown`] ends all loops.
//!
//! # Order and threads
//!
//! Every worker has its own socket for each UDP listener (`SO_REUSEPORT`), and the kernel maps one peer to one socket:
//! datagrams of a peer are handled in arrival order by one worker. A stream connection belongs to one worker, which
//! does all its reading; any thread may write to it.
//!
//! # Room for later transports
//!
//! TLS is a [`ByteFilter`] between the socket and the framer, made by a [`FilterFactory`]; a WebSocket is the same plus
//! a framer. Until a factory is given, `Tls`, `Wss` and `Bins` listeners are refused at bind time.

mod addr;
mod config;
mod connection;
mod error;
mod filter;
mod framer;
mod handler;
mod listener;
mod mailbox;
mod network;
mod proto;
mod stats;
mod stream;
mod sys;
mod table;
mod udp;
mod worker;

pub use addr::{interface_addresses, local_address_for, resolve_host};
pub use config::{Keepalive, ListenSpec, NetConfig, StreamConfig, UDP_BUFFER_BYTES};
pub use connection::{ConnectionInfo, Direction};
pub use error::{BindError, CloseReason, FrameError, SendError};
pub use filter::{ByteFilter, FilterError, FilterFactory, FilterRequest};
pub use handler::{Closed, Handler, Inbound, LoopbackHandler};
pub use listener::Listener;
pub use mailbox::{Mailbox, WorkerWaker};
pub use network::{Io, Network, Target};
pub use proto::{ConnId, Proto, SocketId};
pub use stats::ProtoStats;
pub use worker::run_worker;
