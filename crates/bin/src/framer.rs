//! Cuts a byte stream into packets; does not read sockets and does not look into packets.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use crate::error::FrameError;
use crate::limits::{
    CHUNK_COUNTED_BELOW_BYTES, MARKER, MARKER_CHECKED_AT, PACKET_CHUNKS_MAX, PACKET_LEN_MAX, PACKET_LEN_MIN,
    PACKET_READ_TIMEOUT,
};

/// Limits of one stream; the defaults are those of OpenSIPS 4.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramerLimits {
    /// Greatest packet length in bytes; a longer one closes the stream.
    pub packet_len_max: usize,
    /// Short reads within which a packet must be complete.
    pub chunks_max: u32,
    /// Time within which a begun packet must be complete.
    pub read_timeout: Duration,
}

impl Default for FramerLimits {
    fn default() -> Self {
        Self { packet_len_max: PACKET_LEN_MAX, chunks_max: PACKET_CHUNKS_MAX, read_timeout: PACKET_READ_TIMEOUT }
    }
}

/// The receiving side of one BIN connection.
///
/// Per read: [`BinFramer::push`], then [`BinFramer::next_packet`] until `Ok(None)`. Any error means:
/// close the connection. The caller closes it as well once [`BinFramer::deadline`] has passed.
#[derive(Debug)]
pub struct BinFramer {
    limits: FramerLimits,
    buffer: BytesMut,
    /// Short reads that went into the incomplete packet at the front of `buffer`.
    chunks: u32,
    /// When the first byte of the incomplete packet came.
    begun: Option<Instant>,
    last_read: Option<Instant>,
    failed: Option<FrameError>,
}

impl BinFramer {
    /// A framer for a new connection.
    #[must_use]
    pub fn new(limits: FramerLimits) -> Self {
        Self { limits, buffer: BytesMut::new(), chunks: 0, begun: None, last_read: None, failed: None }
    }

    /// Adds what one read returned. Call [`BinFramer::next_packet`] until `Ok(None)` before the next
    /// push: that keeps the buffer below one packet plus one read.
    pub fn push(&mut self, read: &[u8], now: Instant) {
        if read.is_empty() || self.failed.is_some() {
            return;
        }
        self.last_read = Some(now);
        self.begun.get_or_insert(now);
        if read.len() < CHUNK_COUNTED_BELOW_BYTES {
            self.chunks = self.chunks.saturating_add(1);
        }
        self.buffer.extend_from_slice(read);
        // The limit counts reads that left the packet incomplete; the next one is too much even
        // when it would complete it.
        if self.chunks > self.limits.chunks_max {
            self.failed = Some(FrameError::TooManyChunks(self.limits.chunks_max));
        }
    }

    /// The next whole packet, `Ok(None)` when more bytes are needed, or the reason to close.
    /// An error is final: every later call returns it again.
    pub fn next_packet(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let length = match self.front_length() {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.failed = Some(error);
                return Err(error);
            }
        };
        if self.buffer.len() < length {
            self.buffer.reserve(length - self.buffer.len());
            return Ok(None);
        }
        let packet = self.buffer.split_to(length).freeze();
        if self.buffer.has_remaining() {
            // What is left came with the read just pushed: its own first chunk.
            self.chunks = 1;
            self.begun = self.last_read;
        } else {
            self.chunks = 0;
            self.begun = None;
        }
        Ok(Some(packet))
    }

    fn front_length(&self) -> Result<Option<usize>, FrameError> {
        if self.buffer.len() < MARKER_CHECKED_AT {
            return Ok(None);
        }
        if !self.buffer.starts_with(&MARKER) {
            return Err(FrameError::Marker);
        }
        let Some(field) = self.buffer.get(4..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*field);
        let too_long = FrameError::TooLong { length, max: self.limits.packet_len_max };
        match usize::try_from(length) {
            Ok(n) if n < PACKET_LEN_MIN => Err(FrameError::TooShort(length)),
            Ok(n) if n <= self.limits.packet_len_max => Ok(Some(n)),
            _ => Err(too_long),
        }
    }

    /// When the packet now incomplete must be complete; `None` between packets.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + self.limits.read_timeout)
    }

    /// Fails once the deadline has passed with a packet still incomplete.
    pub fn check_timeout(&mut self, now: Instant) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.deadline() {
            Some(deadline) if now >= deadline => {
                self.failed = Some(FrameError::Timeout);
                Err(FrameError::Timeout)
            }
            _ => Ok(()),
        }
    }

    /// Bytes held for a packet that is not complete.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }
}

impl Default for BinFramer {
    fn default() -> Self {
        Self::new(FramerLimits::default())
    }
}
