//! What can be wrong with a packet, a body or a stream; no handling.

use thiserror::Error;

/// Why bytes are not a packet, or a body not what its type says. Costs one packet, never the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes do not start with `P4CK`.
    #[error("no P4CK marker")]
    Marker,
    /// Fewer bytes than the fixed header and one byte of capability name.
    #[error("packet of {0} bytes is shorter than the header")]
    ShorterThanHeader(usize),
    /// The length in the header differs from the number of bytes given.
    #[error("length field says {stated} bytes, packet has {actual}")]
    Length {
        /// Length stated in the header.
        stated: u32,
        /// Bytes there are.
        actual: usize,
    },
    /// The capability name is empty or runs past the packet.
    #[error("capability name of {0} bytes does not fit")]
    Capability(u16),
    /// A field was expected and the body ends exactly before it.
    #[error("body ends at offset {0} where a field was expected")]
    End(usize),
    /// 1 to 3 bytes of an int, or a str that runs past the end, at this offset of the body.
    #[error("half field at offset {0} of the body")]
    HalfField(usize),
    /// The body is too short to hold the trailer.
    #[error("trailer missing")]
    Trailer,
    /// A count field is negative or above its limit.
    #[error("count {count} outside 0..={max}")]
    Count {
        /// Value on the wire.
        count: i32,
        /// Greatest value accepted.
        max: usize,
    },
    /// A field holds a value that its type does not have.
    #[error("value {0} not allowed here")]
    Value(i32),
}

/// Why a packet cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A string is longer than [`crate::STR_LEN_MAX`] bytes.
    #[error("string of {0} bytes does not fit a 16-bit length")]
    StrTooLong(usize),
    /// The packet would be longer than [`crate::PACKET_LEN_MAX`] bytes.
    #[error("packet of {0} bytes is over the limit of 65515")]
    PacketTooLong(usize),
    /// The capability name is empty or longer than 65535 bytes.
    #[error("capability name of {0} bytes is not allowed")]
    Capability(usize),
}

/// Why a BIN stream must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The bytes where a packet should begin are not `P4CK`.
    #[error("no P4CK marker at a packet boundary")]
    Marker,
    /// The stated length is below 17.
    #[error("packet length {0} is below 17")]
    TooShort(u32),
    /// The stated length is above the limit.
    #[error("packet length {length} is above the limit of {max}")]
    TooLong {
        /// Length stated in the header.
        length: u32,
        /// The limit in force.
        max: usize,
    },
    /// A packet came in more reads than allowed.
    #[error("packet not complete after {0} reads")]
    TooManyChunks(u32),
    /// A begun packet was not completed in time.
    #[error("packet not complete in time")]
    Timeout,
}
