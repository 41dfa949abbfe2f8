//! The seam to the framers of `tandem-sip` and `tandem-bin`: one trait for the worker loop. Cuts nothing itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_bin::BinFramer;
use tandem_sip::StreamFramer;

use crate::config::StreamConfig;
use crate::error::{CloseReason, FrameError};
use crate::proto::Proto;

/// One thing cut from a stream.
pub(crate) enum Frame {
    Message(Bytes),
    /// Two line ends: the peer wants one back (RFC 5626 §3.5.1).
    Ping,
    /// One line end: the answer to a ping, or padding between messages (RFC 3261 §7.5).
    Pong,
}

/// Per read: `push`, then `next` until `Ok(None)`.
pub(crate) trait Framer {
    fn push(&mut self, bytes: &[u8], now: Instant);
    fn next(&mut self) -> Result<Option<Frame>, CloseReason>;
    /// When the message now incomplete must be complete.
    fn deadline(&self) -> Option<Instant>;
}

pub(crate) fn framer_for(proto: Proto, limits: &StreamConfig) -> Box<dyn Framer> {
    if proto.is_bin() { Box::new(Bin::new(limits)) } else { Box::new(Sip::new(limits)) }
}

struct Bin(BinFramer);

impl Bin {
    fn new(limits: &StreamConfig) -> Self {
        Bin(BinFramer::new(tandem_bin::FramerLimits {
            packet_len_max: limits.message_bytes_max,
            chunks_max: limits.message_chunks_max.unwrap_or(u32::MAX),
            read_timeout: limits.message_time_max,
        }))
    }
}

impl Framer for Bin {
    fn push(&mut self, bytes: &[u8], now: Instant) {
        self.0.push(bytes, now);
    }

    fn next(&mut self) -> Result<Option<Frame>, CloseReason> {
        match self.0.next_packet() {
            Ok(packet) => Ok(packet.map(Frame::Message)),
            Err(error) => Err(bin_reason(error)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }
}

fn bin_reason(error: tandem_bin::FrameError) -> CloseReason {
    use tandem_bin::FrameError as Bin;
    match error {
        Bin::TooManyChunks(_) => CloseReason::TooManyChunks,
        Bin::Timeout => CloseReason::MessageTimeout,
        Bin::TooLong { max, .. } => CloseReason::Framing(FrameError::TooLarge(max)),
        Bin::TooShort(_) => CloseReason::Framing(FrameError::Malformed("packet shorter than its header")),
        Bin::Marker => CloseReason::Framing(FrameError::Malformed("packet does not start with the marker")),
    }
}

/// Bytes that may be the beginning of a keepalive; they start no clock.
const KEEPALIVE_BYTES: usize = 3;

/// The SIP framer with the clock and the counter that it leaves to its user.
struct Sip {
    inner: StreamFramer,
    /// When the incomplete message at the front began.
    begun: Option<Instant>,
    /// When the last bytes came.
    pushed: Option<Instant>,
    /// Reads that the incomplete message took so far.
    chunks: u32,
    chunks_max: u32,
    bytes_max: usize,
    time_max: Duration,
}

impl Sip {
    fn new(limits: &StreamConfig) -> Self {
        Sip {
            inner: StreamFramer::new(tandem_sip::FramerLimits {
                head_bytes_max: limits.message_bytes_max,
                body_bytes_max: limits.message_bytes_max,
                expects_pong: false,
            }),
            begun: None,
            pushed: None,
            chunks: 0,
            chunks_max: limits.message_chunks_max.unwrap_or(u32::MAX),
            bytes_max: limits.message_bytes_max,
            time_max: limits.message_time_max,
        }
    }
}

impl Framer for Sip {
    fn push(&mut self, bytes: &[u8], now: Instant) {
        self.pushed = Some(now);
        self.chunks = self.chunks.saturating_add(1);
        self.inner.push(bytes);
    }

    fn next(&mut self) -> Result<Option<Frame>, CloseReason> {
        let frame = match self.inner.next() {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(sip_reason(error, self.bytes_max)),
            None => {
                let waiting = self.inner.buffered();
                // No well-formed head or body can wait that long; a guard against anything else.
                if waiting > self.bytes_max.saturating_mul(2) {
                    return Err(CloseReason::Framing(FrameError::TooLarge(self.bytes_max)));
                }
                if waiting <= KEEPALIVE_BYTES {
                    self.begun = None;
                    self.chunks = 0;
                } else {
                    self.begun = self.begun.or(self.pushed);
                }
                if self.chunks > self.chunks_max {
                    return Err(CloseReason::TooManyChunks);
                }
                return Ok(None);
            }
        };
        // What follows came with the last read and begins anew.
        self.begun = None;
        self.chunks = 1;
        Ok(Some(match frame {
            tandem_sip::Frame::Message(bytes) => Frame::Message(bytes),
            tandem_sip::Frame::KeepAlivePing => Frame::Ping,
            tandem_sip::Frame::KeepAlivePong => Frame::Pong,
        }))
    }

    fn deadline(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + self.time_max)
    }
}

fn sip_reason(error: tandem_sip::FrameError, bytes_max: usize) -> CloseReason {
    use tandem_sip::FrameError as Sip;
    CloseReason::Framing(match error {
        Sip::HeadTooLarge { .. } | Sip::BodyTooLarge { .. } => FrameError::TooLarge(bytes_max),
        Sip::MissingContentLength => FrameError::Malformed("Content-Length is missing"),
        Sip::BadContentLength => FrameError::Malformed("Content-Length is malformed"),
        Sip::ConflictingContentLength => FrameError::Malformed("Content-Length headers contradict each other"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    const MESSAGE: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 2\r\n\r\nhi";

    fn limits() -> StreamConfig {
        StreamConfig { message_chunks_max: Some(4), ..StreamConfig::sip() }
    }

    fn drain(framer: &mut dyn Framer) -> Result<usize, CloseReason> {
        let mut messages = 0;
        while let Some(frame) = framer.next()? {
            messages += usize::from(matches!(frame, Frame::Message(_)));
        }
        Ok(messages)
    }

    #[test]
    fn deadline_belongs_to_the_incomplete_message_and_restarts_with_the_next() {
        let limits = limits();
        let mut framer = framer_for(Proto::Tcp, &limits);
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        assert_eq!(framer.deadline(), None);
        framer.push(&MESSAGE[..20], start);
        assert_eq!(drain(framer.as_mut()), Ok(0));
        framer.push(&MESSAGE[20..30], later);
        assert_eq!(drain(framer.as_mut()), Ok(0));
        assert_eq!(framer.deadline(), Some(start + limits.message_time_max), "more bytes do not extend the time");
        framer.push(&[&MESSAGE[30..], &MESSAGE[..20]].concat(), later);
        assert_eq!(drain(framer.as_mut()), Ok(1));
        assert_eq!(framer.deadline(), Some(later + limits.message_time_max));
        framer.push(&MESSAGE[20..], later);
        assert_eq!(drain(framer.as_mut()), Ok(1));
        assert_eq!(framer.deadline(), None);
        framer.push(b"\r\n", later);
        assert_eq!(drain(framer.as_mut()), Ok(0));
        assert_eq!(framer.deadline(), None, "half a keepalive starts no clock");
    }

    #[test]
    fn message_in_more_pieces_than_allowed_ends_the_stream() {
        let mut framer = framer_for(Proto::Tcp, &limits());
        let now = Instant::now();
        for _ in 0..3 {
            for piece in MESSAGE.chunks(MESSAGE.len().div_ceil(4)) {
                framer.push(piece, now);
                assert!(drain(framer.as_mut()).is_ok());
            }
        }
        let ended = MESSAGE.chunks(5).map(|piece| {
            framer.push(piece, now);
            drain(framer.as_mut())
        });
        assert_eq!(ended.filter_map(Result::err).next(), Some(CloseReason::TooManyChunks));
    }

    #[test]
    fn garbage_without_a_line_end_cannot_grow_for_ever() {
        for first in [b"A".as_slice(), b"\rA"] {
            let mut framer = framer_for(Proto::Tcp, &StreamConfig::sip());
            let now = Instant::now();
            framer.push(first, now);
            let failed = (0..1000).find(|_| {
                framer.push(&[b'x'; 1000], now);
                drain(framer.as_mut()).is_err()
            });
            assert!(failed.is_some_and(|round| round < 140));
        }
    }
}
