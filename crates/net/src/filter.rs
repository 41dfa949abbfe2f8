//! The pluggable byte layer between a stream socket and its framer. Contains no encryption itself.

use std::net::SocketAddr;

use crate::connection::Direction;
use crate::proto::{ConnId, Proto, SocketId};

/// A byte layer failed; the connection is closed with the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(pub String);

/// Turns wire bytes into plain bytes and back. Sans-IO: it is given bytes and appends bytes.
///
/// Calls of one filter never overlap, but may come from different threads.
pub trait ByteFilter: Send {
    /// Takes bytes from the wire; appends what they mean to `plain` and what must be answered to `wire`.
    fn received(&mut self, input: &[u8], plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), FilterError>;

    /// Takes a message to send; appends its wire form to `wire`, or keeps it until a handshake is done.
    fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), FilterError>;

    /// Appends what must be written as soon as the connection is up (the first handshake bytes of a client).
    fn connected(&mut self, wire: &mut Vec<u8>) -> Result<(), FilterError>;

    /// Appends a farewell before an orderly close.
    fn closing(&mut self, wire: &mut Vec<u8>);

    /// True when its handshake is over. A connection whose handshake takes too long is closed.
    fn is_settled(&self) -> bool {
        true
    }
}

/// The connection a byte layer may be wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterRequest {
    /// Its id.
    pub conn: ConnId,
    /// Its transport.
    pub proto: Proto,
    /// The listener that accepted it or that it is opened for.
    pub socket: SocketId,
    /// Who opens it.
    pub direction: Direction,
    /// The peer's address and port.
    pub remote: SocketAddr,
}

/// Makes the byte layer of a new connection.
pub trait FilterFactory: Send + Sync {
    /// True when connections of this transport can be made.
    fn supports(&self, proto: Proto) -> bool;

    /// A filter for one connection of an encrypted or cluster transport; `None` passes bytes through unchanged.
    fn filter(&self, request: &FilterRequest) -> Result<Option<Box<dyn ByteFilter>>, FilterError>;
}
