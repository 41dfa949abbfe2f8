//! Bencode, the encoding of rtpengine's ng protocol: integers, byte strings, lists, dictionaries. Reading is bounded in
//! depth, count and size, and never recursive beyond [`DEPTH_MAX`].

/// Nesting that is read.
pub const DEPTH_MAX: usize = 32;
/// Values of one message that are read.
pub const VALUES_MAX: usize = 20_000;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `i42e`.
    Int(i64),
    /// `4:text`.
    Bytes(Vec<u8>),
    /// `l...e`.
    List(Vec<Value>),
    /// `d...e`, in the order given; a key that comes twice counts with its first value.
    Dict(Vec<(Vec<u8>, Value)>),
}

/// Why a text is no bencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends in the middle of a value.
    #[error("the text ends too early")]
    Truncated,
    /// Something else stands where a value must begin, or behind the last one.
    #[error("unexpected byte at {0}")]
    Unexpected(usize),
    /// Beyond [`DEPTH_MAX`] or [`VALUES_MAX`].
    #[error("too deep or too many values")]
    TooLarge,
}

impl Value {
    /// A byte string.
    pub fn text(text: impl AsRef<[u8]>) -> Value {
        Value::Bytes(text.as_ref().to_vec())
    }

    /// The value under `key` of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Dict(pairs) => pairs.iter().find(|(other, _)| other == key.as_bytes()).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The bytes of a byte string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The number, also out of decimal text.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.trim().parse().ok(),
            _ => None,
        }
    }

    /// The pairs of a dictionary, empty for anything else.
    pub fn pairs(&self) -> &[(Vec<u8>, Value)] {
        match self {
            Value::Dict(pairs) => pairs,
            _ => &[],
        }
    }

    /// The values of a list, empty for anything else.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Sets a key of a dictionary, replacing an earlier value; nothing happens to other values.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: Value) {
        let Value::Dict(pairs) = self else { return };
        match pairs.iter_mut().find(|(other, _)| other == key.as_ref()) {
            Some((_, old)) => *old = value,
            None => pairs.push((key.as_ref().to_vec(), value)),
        }
    }

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Int(int) => out.extend_from_slice(format!("i{int}e").as_bytes()),
            Value::Bytes(bytes) => encode_bytes(bytes, out),
            Value::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.encode(out));
                out.push(b'e');
            }
            Value::Dict(pairs) => {
                out.push(b'd');
                for (key, value) in pairs {
                    encode_bytes(key, out);
                    value.encode(out);
                }
                out.push(b'e');
            }
        }
    }

    /// Reads exactly one value.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(text: &[u8]) -> Result<Value, DecodeError> {
        let mut reader = Reader { text, at: 0, values: 0 };
        let value = reader.value(0)?;
        if reader.at < text.len() { Err(DecodeError::Unexpected(reader.at)) } else { Ok(value) }
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    values: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Result<u8, DecodeError> {
        self.text.get(self.at).copied().ok_or(DecodeError::Truncated)
    }

    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            return Err(DecodeError::TooLarge);
        }
        match self.peek()? {
            b'i' => {
                self.at += 1;
                let text = self.until(b'e')?;
                let int = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                int.map(Value::Int).ok_or(DecodeError::Unexpected(self.at))
            }
            b'l' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.peek()? != b'e' {
                    items.push(self.value(depth + 1)?);
                }
                self.at += 1;
                Ok(Value::List(items))
            }
            b'd' => {
                self.at += 1;
                let mut pairs = Vec::new();
                while self.peek()? != b'e' {
                    let key = self.bytes()?.to_vec();
                    pairs.push((key, self.value(depth + 1)?));
                }
                self.at += 1;
                Ok(Value::Dict(pairs))
            }
            _ => self.bytes().map(|bytes| Value::Bytes(bytes.to_vec())),
        }
    }

    /// The text up to `end`, which is skipped. Numbers are short: more than 20 bytes are none.
    fn until(&mut self, end: u8) -> Result<&[u8], DecodeError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let head = rest.get(..rest.len().min(21)).unwrap_or_default();
        let Some(length) = head.iter().position(|byte| *byte == end) else {
            return Err(if head.len() < 21 { DecodeError::Truncated } else { DecodeError::Unexpected(self.at) });
        };
        self.at += length + 1;
        Ok(rest.get(..length).unwrap_or_default())
    }

    fn bytes(&mut self) -> Result<&[u8], DecodeError> {
        let from = self.at;
        if !self.peek()?.is_ascii_digit() {
            return Err(DecodeError::Unexpected(from));
        }
        let length = self.until(b':')?;
        let length = std::str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.ok_or(DecodeError::Unexpected(from))?;
        let end = self.at.checked_add(length).ok_or(DecodeError::Truncated)?;
        let bytes = self.text.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_come_back_as_they_were_written() {
        let value = Value::Dict(vec![
            (b"command".to_vec(), Value::text("offer")),
            (b"n".to_vec(), Value::Int(-7)),
            (b"flags".to_vec(), Value::List(vec![Value::text(""), Value::List(vec![]), Value::Dict(vec![])])),
        ]);
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out, b"d7:command5:offer1:ni-7e5:flagsl0:ledeee");
        assert_eq!(Value::decode(&out).unwrap(), value);
        assert_eq!(value.get("n").unwrap().as_int(), Some(-7));
    }

    #[test]
    fn every_broken_text_is_an_error_and_never_a_panic() {
        let whole = b"d6:result2:ok3:sdpl1:a3:bcdi5eee";
        for end in 0..whole.len() {
            assert!(Value::decode(&whole[..end]).is_err(), "{end}");
        }
        for text in [
            &b"99999999999999999999999:a"[..],
            b"18446744073709551615:a",
            b"-1:a",
            b"ie",
            b"i1",
            b"i--1e",
            b"d1:ae",
            b"di1ei2ee",
            b"le1:a",
            b"x",
            b"5:abc",
            b":",
        ] {
            assert!(Value::decode(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
        let deep = [b"l".repeat(100_000), b"e".repeat(100_000)].concat();
        assert_eq!(Value::decode(&deep), Err(DecodeError::TooLarge));
        let many = [b"l".to_vec(), b"0:".repeat(VALUES_MAX + 1), b"e".to_vec()].concat();
        assert_eq!(Value::decode(&many), Err(DecodeError::TooLarge));
    }
}
