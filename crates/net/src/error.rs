//! The errors of the crate, named by what went wrong.

use std::io;
use std::net::SocketAddr;

use crate::proto::{Proto, SocketId};

/// A listener or a worker loop could not be set up. Only start-up produces it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused the address; the text starts with the listener, such as `udp:127.0.0.1:5060`.
    #[error("{listener}: {}", plain_reason(source))]
    Listener {
        /// The listener as written in a log line.
        listener: String,
        /// What the system said.
        source: io::Error,
    },
    /// The transport needs a [`crate::FilterFactory`] that was not given.
    #[error("{listener}: transport {proto} is not available")]
    NotAvailable {
        /// The listener as written in a log line.
        listener: String,
        /// The transport.
        proto: Proto,
    },
    /// The number of workers is outside 1 to 256 or the number of listeners above 1024.
    #[error("{what} must be between 1 and {max}, not {value}")]
    Limit {
        /// The thing that is limited.
        what: &'static str,
        /// The greatest allowed value.
        max: usize,
        /// The value that was given.
        value: usize,
    },
    /// The event queue of a worker could not be made.
    #[error("worker {worker}: {source}")]
    Worker {
        /// The index of the worker.
        worker: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// The words for the common start-up failures, without the error number of the system.
fn plain_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use (`ss -lntup` shows by whom)".to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            "address not available on this host: no interface has this address".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A message was not handed to the system.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no listener of that transport (and address family) to send from.
    #[error("no {proto} listener to send to {dst} from")]
    NoListener {
        /// The transport.
        proto: Proto,
        /// Where the message was to go.
        dst: SocketAddr,
    },
    /// The listener does not exist or has another transport.
    #[error("listener {0:?} does not fit")]
    WrongSocket(SocketId),
    /// No connection matches and none may be opened.
    #[error("no connection to {0}")]
    NoConnection(SocketAddr),
    /// The connection could not be started; trying another address makes sense.
    #[error("connecting to {dst}: {source}")]
    Connect {
        /// The peer.
        dst: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The process has as many connections as it may have.
    #[error("too many connections ({0})")]
    TooManyConnections(usize),
    /// The peer reads too slowly: the output queue was full and the connection has been closed.
    #[error("output queue of the connection to {0} is full")]
    QueueFull(SocketAddr),
    /// The message is larger than the transport can carry.
    #[error("message of {bytes} bytes exceeds {max}")]
    TooLarge {
        /// The size of the message.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The system refused the write.
    #[error("sending to {dst}: {source}")]
    Io {
        /// The peer.
        dst: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a stream could not be cut into messages; the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is larger than allowed.
    #[error("message larger than {0} bytes")]
    TooLarge(usize),
    /// The bytes are not the protocol of this listener; the text says which rule objected.
    #[error("malformed stream: {0}")]
    Malformed(&'static str),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by the peer")]
    Peer,
    /// [`crate::Network::close`] or [`crate::Network::close_connections_to`] was called.
    #[error("closed locally")]
    Local,
    /// Nothing was sent or received for the lifetime.
    #[error("idle for too long")]
    Idle,
    /// The peer did not accept in time.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The peer or the network refused.
    #[error("connecting failed: {0}")]
    ConnectFailed(io::ErrorKind),
    /// The peer reads too slowly.
    #[error("output queue full")]
    QueueFull,
    /// The handshake of the byte layer was not over in time.
    #[error("handshake took too long")]
    HandshakeTimeout,
    /// A message was not complete in time.
    #[error("incomplete message timed out")]
    MessageTimeout,
    /// A message came in too many pieces.
    #[error("message in too many pieces")]
    TooManyChunks,
    /// The stream could not be cut into messages.
    #[error("{0}")]
    Framing(FrameError),
    /// The encryption layer failed.
    #[error("encryption layer: {0}")]
    Filter(String),
    /// The system reported an error.
    #[error("input/output error: {0}")]
    Io(io::ErrorKind),
}
