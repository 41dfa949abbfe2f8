//! Builds one packet; refuses what does not fit instead of cutting it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::EncodeError;
use crate::limits::{HEADER_LEN, MARKER, PACKET_LEN_MAX, STR_LEN_MAX};
use crate::trailer::{BRIDGE_DESTINATION, BridgeTrailer, Trailer};

/// First guess of the size of a packet in bytes; the buffer grows when needed.
const BUFFER_START: usize = 300;

/// Writes fields one after the other. The first field that does not fit is remembered and
/// reported by [`PacketWriter::finish`]; nothing written after it matters.
#[derive(Debug)]
pub struct PacketWriter {
    buffer: BytesMut,
    failed: Option<EncodeError>,
}

impl PacketWriter {
    /// Starts a packet of `capability` with the given type and content version.
    #[must_use]
    pub fn new(capability: &[u8], packet_type: i32, version: u16) -> Self {
        Self::with_capacity(capability, packet_type, version, BUFFER_START)
    }

    /// As [`PacketWriter::new`] with room for `capacity` bytes at once.
    #[must_use]
    pub fn with_capacity(capability: &[u8], packet_type: i32, version: u16, capacity: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(
            capacity.clamp(HEADER_LEN + capability.len(), PACKET_LEN_MAX.max(HEADER_LEN + capability.len())),
        );
        let mut failed = None;
        let name_len = match u16::try_from(capability.len()) {
            Ok(len) if len > 0 => len,
            _ => {
                failed = Some(EncodeError::Capability(capability.len()));
                0
            }
        };
        buffer.put_slice(&MARKER);
        buffer.put_u32_le(0);
        buffer.put_u16_le(version);
        buffer.put_u16_le(name_len);
        if failed.is_none() {
            buffer.put_slice(capability);
        }
        buffer.put_i32_le(packet_type);
        Self { buffer, failed }
    }

    /// Bytes so far, header included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Never true: a packet has at least its header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    fn has_room(&mut self, more: usize) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let total = self.buffer.len() + more;
        if total > PACKET_LEN_MAX {
            self.failed = Some(EncodeError::PacketTooLong(total));
            return false;
        }
        true
    }

    /// Appends an int.
    pub fn int(&mut self, value: i32) -> &mut Self {
        if self.has_room(4) {
            self.buffer.put_i32_le(value);
        }
        self
    }

    /// Appends a boolean as the int 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.int(i32::from(value))
    }

    /// Appends a count; one above `i32::MAX` cannot fit a packet and is refused as too long.
    pub fn count(&mut self, count: usize) -> &mut Self {
        match i32::try_from(count) {
            Ok(count) => self.int(count),
            Err(_) => {
                self.failed.get_or_insert(EncodeError::PacketTooLong(count));
                self
            }
        }
    }

    /// Appends a str: a 16-bit length and the bytes.
    pub fn str(&mut self, value: &[u8]) -> &mut Self {
        match u16::try_from(value.len()) {
            Ok(len) if value.len() <= STR_LEN_MAX => {
                if self.has_room(2 + value.len()) {
                    self.buffer.put_u16_le(len);
                    self.buffer.put_slice(value);
                }
            }
            _ => {
                self.failed.get_or_insert(EncodeError::StrTooLong(value.len()));
            }
        }
        self
    }

    /// Appends bytes that are already fields.
    pub fn raw(&mut self, fields: &[u8]) -> &mut Self {
        if self.has_room(fields.len()) {
            self.buffer.put_slice(fields);
        }
        self
    }

    /// Appends the three ints of a trailer; must be the last thing written.
    pub fn trailer(&mut self, trailer: Trailer) -> &mut Self {
        self.int(trailer.cluster_id).int(trailer.src_id).int(trailer.dst_id)
    }

    /// Appends the four ints of a packet between clusters; must be the last thing written.
    pub fn bridge_trailer(&mut self, trailer: BridgeTrailer) -> &mut Self {
        self.int(trailer.src_cluster_id).int(trailer.cluster_id).int(trailer.src_id).int(BRIDGE_DESTINATION)
    }

    /// Fills in the length and hands out the packet, or the first thing that did not fit.
    pub fn finish(mut self) -> Result<Bytes, EncodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let total = self.buffer.len();
        let length =
            u32::try_from(total).ok().filter(|_| total <= PACKET_LEN_MAX).ok_or(EncodeError::PacketTooLong(total))?;
        if let Some(field) = self.buffer.get_mut(4..8) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        Ok(self.buffer.freeze())
    }
}
