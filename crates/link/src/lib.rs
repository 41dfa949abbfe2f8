//! Links between nodes that are proven and encrypted, as a layer of bytes around BIN: with a shared secret among Tandem nodes,
//! with TLS and certificates as OpenSIPS speaks it.
//!
//! Sans-IO: a [`Link`] takes bytes and appends bytes. It opens no socket, reads no clock, stores no secret and decides
//! nothing about who may join: a [`Gate`] does. On the wire an opener says a [`Hello`] in the clear, then both run the Noise
//! handshake `NNpsk0` (ephemeral Curve25519, ChaCha20-Poly1305, BLAKE2s) under the secret that the hello names, with the
//! ids of both nodes inside; everything after is encrypted frames. The layout is in `docs/cluster-security.md`.

#![warn(clippy::indexing_slicing, clippy::panic)]

mod error;
mod hello;
mod link;
mod secret;
mod tls;
mod token;

pub use error::LinkError;
pub use hello::{Hello, MAGIC, Purpose, SECRET_ID_MAX, VERSION};
pub use link::{Gate, HANDSHAKE_BYTES_MAX, Link, PLAIN_FRAME_MAX, Status, WAITING_BYTES_MAX};
pub use secret::{SECRET_TEXT_MIN, Secret, SecretError, read_lines, write_line};
pub use tls::{PeerCertificate, Tls, TlsError, TlsFiles, TlsLink};
pub use token::{JoinToken, TICKET_LEN, Ticket, TokenError};
