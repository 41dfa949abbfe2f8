//! A borrowed view of one whole packet; the body stays opaque here.

use crate::error::DecodeError;
use crate::limits::{HEADER_LEN, MARKER, PACKET_LEN_MIN};
use crate::reader::Reader;
use crate::trailer::{BridgeTrailer, Trailer};

/// One packet with a checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    version: u16,
    capability: &'a [u8],
    packet_type: i32,
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks the header of exactly one packet, as [`crate::BinFramer`] cuts them out.
    ///
    /// The length limit is the framer's; here only the agreement of the lengths is checked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() < PACKET_LEN_MIN {
            return Err(DecodeError::ShorterThanHeader(bytes.len()));
        }
        let short = DecodeError::ShorterThanHeader(bytes.len());
        let (marker, rest) = bytes.split_first_chunk::<4>().ok_or(short)?;
        if *marker != MARKER {
            return Err(DecodeError::Marker);
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let stated = u32::from_le_bytes(*length);
        if usize::try_from(stated) != Ok(bytes.len()) {
            return Err(DecodeError::Length { stated, actual: bytes.len() });
        }
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(short)?;
        let (capability_len, rest) = rest.split_first_chunk::<2>().ok_or(short)?;
        let capability_len = u16::from_le_bytes(*capability_len);
        let no_name = DecodeError::Capability(capability_len);
        if capability_len == 0 {
            return Err(no_name);
        }
        let (capability, rest) = rest.split_at_checked(usize::from(capability_len)).ok_or(no_name)?;
        let (packet_type, body) = rest.split_first_chunk::<4>().ok_or(no_name)?;
        Ok(Self {
            bytes,
            version: u16::from_le_bytes(*version),
            capability,
            packet_type: i32::from_le_bytes(*packet_type),
            body,
        })
    }

    /// The whole packet, header included.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Version of the content of this capability and type (not of BIN).
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Capability name as on the wire.
    #[must_use]
    pub fn capability(&self) -> &'a [u8] {
        self.capability
    }

    /// Packet type inside the capability.
    #[must_use]
    pub fn packet_type(&self) -> i32 {
        self.packet_type
    }

    /// Everything after the header, a trailer included.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Offset of the body in the packet.
    #[must_use]
    pub fn body_offset(&self) -> usize {
        HEADER_LEN + self.capability.len()
    }

    /// A reader over the whole body.
    #[must_use]
    pub fn reader(&self) -> Reader<'a> {
        Reader::new(self.body)
    }

    /// The body without its trailer, and the trailer.
    pub fn addressed(&self) -> Result<(&'a [u8], Trailer), DecodeError> {
        Trailer::split(self.body)
    }

    /// The body without the four ints of a packet between clusters, and those.
    pub fn bridged(&self) -> Result<(&'a [u8], BridgeTrailer), DecodeError> {
        BridgeTrailer::split(self.body)
    }
}
