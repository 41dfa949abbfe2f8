//! Messages of FreeSWITCH's event socket out of bytes: a block of headers, an empty line, and a body of `Content-Length`
//! bytes. Reads no socket and knows no meaning.

/// Longest block of headers, in bytes; a longer one is an error.
pub(super) const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Longest body, in bytes; a message that announces a longer one is an error.
pub(super) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    headers: Vec<(String, String)>,
    /// Body, empty when there is none.
    pub(super) body: Vec<u8>,
}

impl Frame {
    /// The first header of that name, ignoring case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What `Content-Type` says; empty when it says nothing.
    pub(super) fn content_type(&self) -> &str {
        self.header("Content-Type").unwrap_or_default()
    }
}

/// Why the bytes cannot be read on. The connection is of no use any more, for where the next message begins is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// No end of the headers within [`HEADER_BYTES_MAX`].
    #[error("headers longer than {HEADER_BYTES_MAX} bytes")]
    Headers,
    /// `Content-Length` is no number.
    #[error("Content-Length is no number")]
    Length,
    /// `Content-Length` is more than [`BODY_BYTES_MAX`].
    #[error("a body of {0} bytes was announced, {BODY_BYTES_MAX} are allowed")]
    Body(u64),
    /// A line of the headers has no colon.
    #[error("a header line without a colon")]
    Line,
}

/// Collects bytes until messages are complete.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the start of the buffer that are used up.
    used: usize,
    /// The message whose body is awaited, with the length of the body.
    awaited: Option<(Frame, usize)>,
    /// How far the end of the headers has been looked for.
    scanned: usize,
}

impl Decoder {
    /// Takes bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.scanned = self.scanned.saturating_sub(self.used);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message.
    ///
    /// # Errors
    /// [`DecodeError`]; nothing more comes after one.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, DecodeError> {
        if self.awaited.is_none() {
            let Some(frame) = self.headers()? else { return Ok(None) };
            let length = match frame.header("Content-Length") {
                None => 0,
                Some(text) => text.trim().parse::<u64>().map_err(|_| DecodeError::Length)?,
            };
            let fitting = usize::try_from(length).ok().filter(|length| *length <= BODY_BYTES_MAX);
            self.awaited = Some((frame, fitting.ok_or(DecodeError::Body(length))?));
        }
        let length = self.awaited.as_ref().map_or(0, |(_, length)| *length);
        let Some(body) = self.buffer.get(self.used..self.used + length) else { return Ok(None) };
        let body = body.to_vec();
        self.used += length;
        self.scanned = self.used;
        Ok(self.awaited.take().map(|(frame, _)| Frame { body, ..frame }))
    }

    fn headers(&mut self) -> Result<Option<Frame>, DecodeError> {
        // Some versions put a line end behind a body.
        while matches!(self.buffer.get(self.used), Some(b'\n' | b'\r')) {
            self.used += 1;
        }
        let from = self.scanned.max(self.used);
        let rest = self.buffer.get(from..).unwrap_or_default();
        let is_end = |pair: &[u8]| pair == b"\n\n";
        let Some(at) = rest.windows(2).position(is_end) else {
            self.scanned = self.buffer.len().saturating_sub(1).max(self.used);
            let is_too_long = self.buffer.len() - self.used > HEADER_BYTES_MAX;
            return if is_too_long { Err(DecodeError::Headers) } else { Ok(None) };
        };
        let block = self.buffer.get(self.used..from + at).unwrap_or_default();
        if block.len() > HEADER_BYTES_MAX {
            return Err(DecodeError::Headers);
        }
        let mut frame = Frame::default();
        for line in block.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let (name, value) = line.split_once(':').ok_or(DecodeError::Line)?;
            frame.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        self.used = from + at + 2;
        self.scanned = self.used;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{BODY_BYTES_MAX, DecodeError, Decoder, HEADER_BYTES_MAX};

    const STREAM: &[u8] = b"Content-Type: auth/request\n\nContent-Type: command/reply\nReply-Text: +OK accepted\n\n\
Content-Length: 22\nContent-Type: text/event-json\n\n{\"Event-Name\":\"DTMF\"}\n\nContent-Type: api/response\nContent-Length: 3\n\na\n\n\
Content-Type: text/disconnect-notice\nContent-Length: 4\n\nbye\n";

    fn all(chunks: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk);
            while let Some(frame) = decoder.next().unwrap() {
                frames.push((frame.content_type().to_owned(), frame.body));
            }
        }
        frames
    }

    #[test]
    fn a_stream_split_at_every_byte_gives_the_same_messages() {
        let whole = all(&[STREAM]);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[2], ("text/event-json".to_owned(), b"{\"Event-Name\":\"DTMF\"}\n".to_vec()));
        assert_eq!(whole[3].1, b"a\n\n");
        for at in 0..STREAM.len() {
            let (left, right) = STREAM.split_at(at);
            assert_eq!(all(&[left, right]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(all(&bytes), whole);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let error = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            decoder.next().unwrap_err()
        };
        assert_eq!(error(b"Content-Length: 99999999999\n\n"), DecodeError::Body(99_999_999_999));
        assert_eq!(
            error(format!("Content-Length: {}\n\n", BODY_BYTES_MAX + 1).as_bytes()),
            DecodeError::Body(BODY_BYTES_MAX as u64 + 1)
        );
        assert_eq!(error(b"Content-Length: -1\n\n"), DecodeError::Length);
        assert_eq!(error(b"HTTP/1.1 200 OK\n\n"), DecodeError::Line);
        assert_eq!(error(&vec![b'x'; HEADER_BYTES_MAX + 1]), DecodeError::Headers);
        let mut long = vec![b'x'; HEADER_BYTES_MAX + 1];
        long.extend_from_slice(b"\n\n");
        assert_eq!(error(&long), DecodeError::Headers);
    }

    #[test]
    fn random_bytes_end_in_frames_or_errors_and_never_in_a_panic() {
        use rand::{Rng, SeedableRng, rngs::SmallRng};
        let mut random = SmallRng::seed_from_u64(7);
        let alphabet = b"Content-Length: 0123456789\n\n\r:{}\"\0\xff";
        for _ in 0..2000 {
            let mut decoder = Decoder::default();
            let mut is_broken = false;
            for _ in 0..random.random_range(1..6) {
                let length = random.random_range(0..60);
                let bytes: Vec<u8> = (0..length).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
                decoder.feed(&bytes);
                while !is_broken {
                    match decoder.next() {
                        Ok(Some(frame)) => assert!(frame.body.len() <= BODY_BYTES_MAX),
                        Ok(None) => break,
                        Err(_) => is_broken = true,
                    }
                }
            }
        }
    }
}
