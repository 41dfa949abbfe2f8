//! The sizes of BIN in one place; no logic.

use std::time::Duration;

/// The four bytes every packet starts with.
pub const MARKER: [u8; 4] = *b"P4CK";
/// Bytes of the header without the capability name: marker, length, version, name length, type.
pub const HEADER_LEN: usize = 16;
/// Bytes that must have arrived before the marker is judged, as OpenSIPS does.
pub const MARKER_CHECKED_AT: usize = 10;
/// Least packet length accepted: an empty capability name is not allowed.
pub const PACKET_LEN_MIN: usize = 17;
/// Greatest packet length, built or accepted, in bytes; a stream with a longer one is closed.
pub const PACKET_LEN_MAX: usize = 65_515;
/// Greatest length of a `str` field in bytes; longer ones are refused, never cut.
pub const STR_LEN_MAX: usize = 65_535;
/// Reads within which a packet must be complete (`bin_max_msg_chunks`); one more closes the stream.
pub const PACKET_CHUNKS_MAX: u32 = 32;
/// A read of at least this many bytes is not counted against [`PACKET_CHUNKS_MAX`].
///
/// Deviation: OpenSIPS counts every read, so a large packet that arrives in TCP segments can break
/// its own connection. The number of uncounted reads is bounded by the packet length.
pub const CHUNK_COUNTED_BELOW_BYTES: usize = 1_024;
/// Time within which a begun packet must be complete (`tcp_max_msg_time`).
pub const PACKET_READ_TIMEOUT: Duration = Duration::from_secs(4);
