//! Chunks inside SYNC packets: cutting them out and packing them; the content belongs to modules.

use bytes::Bytes;
use tandem_bin::{DecodeError, EncodeError, PACKET_LEN_MAX, PacketWriter, Reader, TRAILER_LEN, Trailer};

use crate::family::{Family, PacketKind};
use crate::ids::{ClusterId, NodeId};
use crate::limits::CAPABILITY_EXTRA;

/// The int before every chunk, after its size.
const CHUNK_MARKER: i32 = 101_010_101;
/// Bytes of size and marker before a chunk.
const CHUNK_OVERHEAD: usize = 8;

/// Iterates over the chunks of a SYNC packet; stops at the first one that is malformed.
#[derive(Debug, Clone)]
pub struct Chunks<'a> {
    reader: Reader<'a>,
    failed: bool,
}

impl<'a> Chunks<'a> {
    /// Over the bytes between `data_version` and the trailer.
    #[must_use]
    pub fn new(raw: &'a [u8]) -> Self {
        Self { reader: Reader::new(raw), failed: false }
    }

    fn read(&mut self) -> Result<&'a [u8], DecodeError> {
        let size = self.reader.count(PACKET_LEN_MAX)?;
        let marker = self.reader.int()?;
        if marker != CHUNK_MARKER {
            return Err(DecodeError::Value(marker));
        }
        self.reader.take(size)
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<&'a [u8], DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.is_at_end() {
            return None;
        }
        let chunk = self.read();
        self.failed = chunk.is_err();
        Some(chunk)
    }
}

/// Greatest chunk of a capability that fits one packet.
pub(crate) fn chunk_len_max(capability: &str) -> usize {
    let fixed = tandem_bin::HEADER_LEN + CAPABILITY_EXTRA.len() + 2 + 4 + TRAILER_LEN;
    PACKET_LEN_MAX.saturating_sub(fixed + capability.len() + CHUNK_OVERHEAD)
}

/// A SYNC packet being filled.
#[derive(Debug)]
pub(crate) struct ChunkPacket {
    writer: PacketWriter,
    last_chunk_len: usize,
}

impl ChunkPacket {
    pub(crate) fn new(family: Family, capability: &str, data_version: i32, capacity: usize) -> Self {
        let number = family.number(PacketKind::Sync).unwrap_or_default();
        let mut writer =
            PacketWriter::with_capacity(CAPABILITY_EXTRA.as_bytes(), number, family.sync_version(), capacity);
        writer.str(capability.as_bytes()).int(data_version);
        Self { writer, last_chunk_len: 0 }
    }

    /// True when the next chunk belongs into a new packet: another chunk as long as the last one
    /// would pass the soft target, or this one would not fit at all.
    pub(crate) fn is_full_for(&self, chunk_len: usize, target: usize) -> bool {
        if self.last_chunk_len == 0 {
            return false;
        }
        let len = self.writer.len();
        len + self.last_chunk_len > target || len + CHUNK_OVERHEAD + chunk_len + TRAILER_LEN > PACKET_LEN_MAX
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.writer.count(chunk.len()).int(CHUNK_MARKER).raw(chunk);
        self.last_chunk_len = chunk.len() + CHUNK_OVERHEAD;
    }

    pub(crate) fn finish(mut self, cluster: ClusterId, src: NodeId, dst: NodeId) -> Result<Bytes, EncodeError> {
        self.writer.trailer(Trailer { cluster_id: cluster.0, src_id: src.0, dst_id: dst.0 });
        self.writer.finish()
    }
}
