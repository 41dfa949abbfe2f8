//! Reads the two primitives of a body, int and str; does not know which one comes next.

use crate::error::DecodeError;

/// Cursor over a packet body. Copy it to look ahead.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    body: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `body`.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, offset: 0 }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.body.get(self.offset..).unwrap_or_default()
    }

    /// True when nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.offset >= self.body.len()
    }

    /// Bytes read so far.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest().first_chunk::<N>() {
            Some(bytes) => {
                self.offset += N;
                Ok(*bytes)
            }
            None if self.is_at_end() => Err(DecodeError::End(self.offset)),
            None => Err(DecodeError::HalfField(self.offset)),
        }
    }

    /// Reads an int. At the end: [`DecodeError::End`]; 1 to 3 bytes left: [`DecodeError::HalfField`].
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        self.fixed::<4>().map(i32::from_le_bytes)
    }

    /// Reads an int, or `None` when the body ends exactly here (an optional last field).
    pub fn opt_int(&mut self) -> Result<Option<i32>, DecodeError> {
        if self.is_at_end() { Ok(None) } else { self.int().map(Some) }
    }

    /// Reads an int that must be 0 or 1.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.int()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Value(other)),
        }
    }

    /// Reads a count and checks it against `max`.
    pub fn count(&mut self, max: usize) -> Result<usize, DecodeError> {
        let count = self.int()?;
        match usize::try_from(count) {
            Ok(n) if n <= max => Ok(n),
            _ => Err(DecodeError::Count { count, max }),
        }
    }

    /// Reads a str; null and empty are the same.
    pub fn str(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.offset;
        let len = usize::from(u16::from_le_bytes(self.fixed::<2>()?));
        match self.rest().get(..len) {
            Some(bytes) => {
                self.offset += len;
                Ok(bytes)
            }
            None => {
                self.offset = start;
                Err(DecodeError::HalfField(start))
            }
        }
    }

    /// Reads a str, or `None` when the body ends exactly here (an optional last field).
    pub fn opt_str(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        if self.is_at_end() { Ok(None) } else { self.str().map(Some) }
    }

    /// Takes `len` raw bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest().get(..len) {
            Some(bytes) => {
                self.offset += len;
                Ok(bytes)
            }
            None => Err(DecodeError::HalfField(self.offset)),
        }
    }
}
