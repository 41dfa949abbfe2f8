//! Key-values on the wire: one record per value, removal or share of a counter; and the sums by which stores are compared.

use tandem_bin::{DecodeError, Reader};

use super::{KV_BUCKETS, KV_KEY_LEN_MAX, KV_VALUE_LEN_MAX, WriteStamp};
use crate::extension::long;
use crate::ids::NodeId;

const VALUE: i32 = 0;
const REMOVED: i32 = 1;
const SHARE: i32 = 2;
const EXPIRED: i32 = 3;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    Value { stamp: WriteStamp, value: &'a [u8] },
    Removed { stamp: WriteStamp },
    Expired { stamp: WriteStamp },
    Share { started: WriteStamp, touched: u64, value: i64 },
}

impl Cell<'_> {
    /// The latest time in it.
    pub(crate) fn time(&self) -> u64 {
        match self {
            Self::Value { stamp, .. } | Self::Removed { stamp } | Self::Expired { stamp } => stamp.time,
            Self::Share { started, touched, .. } => started.time.max(*touched),
        }
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) key: &'a [u8],
    /// Milliseconds to live; `None` for ever (0 on the wire).
    pub(crate) left_ms: Option<i64>,
    pub(crate) cell: Cell<'a>,
}

fn put_int(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Keys and values are limited before; a longer one would be cut, not written wrong.
fn put_str(out: &mut Vec<u8>, text: &[u8]) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend(text.iter().take(usize::from(len)));
}

fn put_stamp(out: &mut Vec<u8>, stamp: WriteStamp) {
    out.extend_from_slice(&stamp.time.to_le_bytes());
    put_int(out, stamp.node.0);
}

fn stamp(reader: &mut Reader<'_>) -> Result<WriteStamp, DecodeError> {
    Ok(WriteStamp { time: long(reader)?, node: NodeId(reader.int()?) })
}

fn limited(text: &[u8], min: usize, max: usize) -> Result<&[u8], DecodeError> {
    if (min..=max).contains(&text.len()) {
        return Ok(text);
    }
    Err(DecodeError::Value(i32::try_from(text.len()).unwrap_or(i32::MAX)))
}

impl<'a> Record<'a> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let kind = match self.cell {
            Cell::Value { .. } => VALUE,
            Cell::Removed { .. } => REMOVED,
            Cell::Expired { .. } => EXPIRED,
            Cell::Share { .. } => SHARE,
        };
        put_int(out, kind);
        put_str(out, self.key);
        // Something that has just run out must not become eternal.
        let left = self.left_ms.map_or(0, |left| left.max(1));
        out.extend_from_slice(&left.to_le_bytes());
        match self.cell {
            Cell::Value { stamp, value } => {
                put_stamp(out, stamp);
                put_str(out, value);
            }
            Cell::Removed { stamp } | Cell::Expired { stamp } => put_stamp(out, stamp),
            Cell::Share { started, touched, value } => {
                put_stamp(out, started);
                out.extend_from_slice(&touched.to_le_bytes());
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
    }

    pub(crate) fn to_body(self) -> Vec<u8> {
        let mut body = Vec::new();
        self.write(&mut body);
        body
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Record<'a>, DecodeError> {
        let kind = reader.int()?;
        let key = limited(reader.str()?, 1, KV_KEY_LEN_MAX)?;
        let left = i64::from_le_bytes(long(reader)?.to_le_bytes());
        if left < 0 {
            return Err(DecodeError::Value(-1));
        }
        let left_ms = (left > 0).then_some(left);
        let cell = match kind {
            VALUE => Cell::Value { stamp: stamp(reader)?, value: limited(reader.str()?, 0, KV_VALUE_LEN_MAX)? },
            REMOVED if left_ms.is_some() => Cell::Removed { stamp: stamp(reader)? },
            EXPIRED if left_ms.is_some() => Cell::Expired { stamp: stamp(reader)? },
            SHARE => Cell::Share {
                started: stamp(reader)?,
                touched: long(reader)?,
                value: i64::from_le_bytes(long(reader)?.to_le_bytes()),
            },
            other => return Err(DecodeError::Value(other)),
        };
        Ok(Record { key, left_ms, cell })
    }
}

/// The packet of the sums; an answer is not answered with sums again.
#[must_use]
pub fn encode_sums(is_answer: bool, sums: &[u64]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + sums.len() * 8);
    put_int(&mut body, i32::from(is_answer));
    for sum in sums {
        body.extend_from_slice(&sum.to_le_bytes());
    }
    body
}

/// Decodes the packet of the sums: whether it is an answer, and the sums.
///
/// # Errors
/// When there are not [`KV_BUCKETS`] of them.
pub fn decode_sums(body: &[u8]) -> Result<(bool, Vec<u64>), DecodeError> {
    let mut reader = Reader::new(body);
    let is_answer = reader.int()? != 0;
    let mut sums = Vec::with_capacity(KV_BUCKETS);
    for _ in 0..KV_BUCKETS {
        sums.push(long(&mut reader)?);
    }
    Ok((is_answer, sums))
}
