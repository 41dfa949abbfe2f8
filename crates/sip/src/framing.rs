//! Cuts a byte stream into SIP messages by Content-Length (RFC 3261 §18.3) and finds keep-alives (RFC 5626 §3.5.1).
//! It reads no socket and parses no message beyond line ends and that one header.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::HeaderKind;
use crate::text::{is_blank, parse_u32, sub, tail, trim};

/// What one stream may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramerLimits {
    /// Longest start line and headers in bytes; longer ones end the stream. Default 65535.
    pub head_bytes_max: usize,
    /// Longest body in bytes; longer ones end the stream. Default 65535.
    pub body_bytes_max: usize,
    /// Whether single line ends between messages are reported as [`Frame::KeepAlivePong`] at once: set it on connections we
    /// ping. Otherwise two line ends are a ping and a lone one is ignored.
    pub expects_pong: bool,
}

impl FramerLimits {
    /// The default limits.
    pub const DEFAULT: Self = Self { head_bytes_max: 65_535, body_bytes_max: 65_535, expects_pong: false };
}

impl Default for FramerLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One thing found in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, headers and body.
    Message(Bytes),
    /// Two line ends: the peer wants one back.
    KeepAlivePing,
    /// A line end that answers our ping.
    KeepAlivePong,
}

/// Why the stream cannot be read on. There is no way to find the next message, so the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Headers longer than [`FramerLimits::head_bytes_max`].
    #[error("headers exceed {max} bytes")]
    HeadTooLarge {
        /// The limit.
        max: usize,
    },
    /// Body longer than [`FramerLimits::body_bytes_max`].
    #[error("body of {size} bytes exceeds {max} bytes")]
    BodyTooLarge {
        /// Content-Length.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// No Content-Length, which streams need (RFC 3261 §20.14).
    #[error("Content-Length is missing")]
    MissingContentLength,
    /// Content-Length is no number.
    #[error("Content-Length is malformed")]
    BadContentLength,
    /// Two Content-Length headers that differ.
    #[error("Content-Length headers contradict each other")]
    ConflictingContentLength,
}

/// The framer of one stream. Push bytes as they come, then call `next` until it returns `None`.
#[derive(Debug, Default)]
pub struct StreamFramer {
    limits: FramerLimits,
    buf: BytesMut,
    /// Bytes of the head already searched for the blank line, so that no byte is looked at twice.
    scanned: usize,
    /// Length of head and body once the head is complete.
    frame_length: Option<usize>,
    failed: Option<FrameError>,
}

impl StreamFramer {
    /// A framer with the given limits.
    #[must_use]
    pub fn new(limits: FramerLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes bytes read from the stream; dropped after an error.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buf.extend_from_slice(bytes);
        }
    }

    /// The buffer itself, to read into its spare room without a copy. Append only.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Number of bytes waiting for the rest of their message.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buf.len()
    }

    /// The next frame; `None` when more bytes are needed. After an error every call returns that error.
    #[allow(clippy::should_implement_trait, reason = "None is not the end: more bytes may follow")]
    pub fn next(&mut self) -> Option<Result<Frame, FrameError>> {
        if let Some(error) = self.failed {
            return Some(Err(error));
        }
        if self.frame_length.is_none() {
            if self.scanned == 0
                && let Some(frame) = self.keep_alive()
            {
                return Some(Ok(frame));
            }
            match self.scan_head() {
                Ok(Some(length)) => self.frame_length = Some(length),
                Ok(None) => return None,
                Err(error) => {
                    self.failed = Some(error);
                    self.buf = BytesMut::new();
                    return Some(Err(error));
                }
            }
        }
        let length = self.frame_length?;
        if self.buf.len() < length {
            self.buf.reserve(length - self.buf.len());
            return None;
        }
        self.frame_length = None;
        self.scanned = 0;
        Some(Ok(Frame::Message(self.buf.split_to(length).freeze())))
    }

    /// Consumes line ends in front of a message.
    fn keep_alive(&mut self) -> Option<Frame> {
        loop {
            match &*self.buf {
                [b'\r', b'\n', ..] if self.limits.expects_pong => {
                    self.buf.advance(2);
                    return Some(Frame::KeepAlivePong);
                }
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    self.buf.advance(4);
                    return Some(Frame::KeepAlivePing);
                }
                // The rest of a ping may still come.
                [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => return None,
                [b'\r', b'\n', ..] => self.buf.advance(2),
                [b'\r' | b'\n', ..] => self.buf.advance(1),
                _ => return None,
            }
        }
    }

    /// Looks for the blank line in what was not searched yet; the length of the whole frame when it is there.
    fn scan_head(&mut self) -> Result<Option<usize>, FrameError> {
        let max = self.limits.head_bytes_max;
        if self.scanned == 0 && matches!(self.buf.first(), None | Some(b'\r' | b'\n')) {
            return Ok(None);
        }
        let mut at = self.scanned;
        while let Some(offset) = memchr::memchr(b'\n', tail(&self.buf, at)) {
            let line_end = at + offset + 1;
            let head_length = match tail(&self.buf, line_end) {
                [b'\n', ..] => Some(line_end + 1),
                [b'\r', b'\n', ..] => Some(line_end + 2),
                // The blank line may be cut here: look at this line end again.
                [] | [b'\r'] => {
                    self.scanned = line_end - 1;
                    return if line_end > max { Err(FrameError::HeadTooLarge { max }) } else { Ok(None) };
                }
                _ => None,
            };
            if let Some(length) = head_length {
                if length > max {
                    return Err(FrameError::HeadTooLarge { max });
                }
                let body = content_length(sub(&self.buf, 0, length))?;
                if body > self.limits.body_bytes_max {
                    return Err(FrameError::BodyTooLarge { size: body, max: self.limits.body_bytes_max });
                }
                return Ok(Some(length + body));
            }
            at = line_end;
        }
        self.scanned = self.buf.len();
        if self.buf.len() > max { Err(FrameError::HeadTooLarge { max }) } else { Ok(None) }
    }
}

/// Content-Length of a complete head.
fn content_length(head: &[u8]) -> Result<usize, FrameError> {
    let mut found: Option<usize> = None;
    let mut at = memchr::memchr(b'\n', head).map_or(head.len(), |offset| offset + 1);
    while at < head.len() {
        let mut end = line_end(head, at);
        while matches!(head.get(end), Some(b' ' | b'\t')) {
            end = line_end(head, end);
        }
        let line = sub(head, at, end);
        at = end;
        // Only names that begin with c or l can be it.
        if !matches!(line.first(), Some(b'C' | b'c' | b'L' | b'l')) {
            continue;
        }
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let mut name = sub(line, 0, colon);
        while let [rest @ .., last] = name
            && is_blank(*last)
        {
            name = rest;
        }
        if HeaderKind::from_name(name) != HeaderKind::ContentLength {
            continue;
        }
        let value = parse_u32(trim(tail(line, colon + 1))).ok_or(FrameError::BadContentLength)? as usize;
        if found.is_some_and(|other| other != value) {
            return Err(FrameError::ConflictingContentLength);
        }
        found = Some(value);
    }
    found.ok_or(FrameError::MissingContentLength)
}

fn line_end(text: &[u8], from: usize) -> usize {
    memchr::memchr(b'\n', tail(text, from)).map_or(text.len(), |offset| from + offset + 1)
}

#[cfg(test)]
mod tests;
