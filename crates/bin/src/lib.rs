//! BIN, the binary cluster transport of OpenSIPS: packets, primitives, trailers and stream framing.
//!
//! Does no I/O, knows no capability and no packet type: what the fields of a body mean belongs to
//! the crate that owns the capability (`tandem-cluster` for the two of the clusterer).
//!
//! Reading never panics and never reads past a field: a half field is an error, a field that is
//! absent exactly at the end of the packet is `None` for those who ask with the `opt_` readers.

#![warn(clippy::indexing_slicing, clippy::panic)]

mod error;
mod framer;
mod limits;
mod packet;
mod reader;
mod trailer;
mod writer;

pub use error::{DecodeError, EncodeError, FrameError};
pub use framer::{BinFramer, FramerLimits};
pub use limits::{
    CHUNK_COUNTED_BELOW_BYTES, HEADER_LEN, MARKER, MARKER_CHECKED_AT, PACKET_CHUNKS_MAX, PACKET_LEN_MAX,
    PACKET_LEN_MIN, PACKET_READ_TIMEOUT, STR_LEN_MAX,
};
pub use packet::Packet;
pub use reader::Reader;
pub use trailer::{BRIDGE_DESTINATION, BridgeTrailer, TRAILER_LEN, Trailer};
pub use writer::PacketWriter;
