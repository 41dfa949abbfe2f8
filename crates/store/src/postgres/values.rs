//! Values in PostgreSQL's binary format: written in the type the server asks for, read by the type it names. Types by their
//! fixed numbers (pg_type.dat). No statement is run here.

use std::net::{Ipv4Addr, Ipv6Addr};

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type, TypeInfo};
use tandem_module::db::DbValue;

use crate::datetime;

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const CHAR: u32 = 18;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const OID: u32 = 26;
const JSON: u32 = 114;
const CIDR: u32 = 650;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const UNKNOWN: u32 = 705;
const INET: u32 = 869;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const BIT: u32 = 1560;
const VARBIT: u32 = 1562;
const NUMERIC: u32 = 1700;
const VOID: u32 = 2278;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// 2000-01-01 in Unix seconds: where the server's moments begin.
const EPOCH: i64 = 946_684_800;
const DAY_SECS: i64 = 86_400;
const MICROS: i64 = 1_000_000;
/// Sign of a NUMERIC below zero.
const NEGATIVE: u16 = 0x4000;
/// "Not a number" in the place of the sign.
const NAN: u16 = 0xc000;

/// The number of a type; 0 for those made by users.
pub(super) fn oid(kind: &PgTypeInfo) -> u32 {
    kind.oid().map_or(0, |oid| oid.0)
}

/// A value in the form its place wants.
pub(super) struct Bound(Option<Vec<u8>>);

impl Bound {
    /// # Errors
    /// When the value cannot be of that type; the text does not show it.
    pub(super) fn new(kind: &PgTypeInfo, value: &DbValue) -> Result<Bound, String> {
        if *value == DbValue::Null {
            return Ok(Bound(None));
        }
        let bytes = write(oid(kind), value).ok_or_else(|| format!("it does not fit a {}", kind.name()))?;
        Ok(Bound(Some(bytes)))
    }
}

impl Type<Postgres> for Bound {
    fn type_info() -> PgTypeInfo {
        // Never sent: the statement is prepared already.
        PgTypeInfo::with_oid(Oid(UNKNOWN))
    }
}

impl Encode<'_, Postgres> for Bound {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }
}

/// Bytes of a value for a place of that type; `None` when it does not fit.
fn write(oid: u32, value: &DbValue) -> Option<Vec<u8>> {
    let int = || match value {
        DbValue::Double(double) if double.fract() != 0.0 => None,
        value => value.as_int(),
    };
    Some(match oid {
        BOOL => vec![u8::from(truth(value)?)],
        INT2 => i16::try_from(int()?).ok()?.to_be_bytes().to_vec(),
        INT4 => i32::try_from(int()?).ok()?.to_be_bytes().to_vec(),
        INT8 => int()?.to_be_bytes().to_vec(),
        OID => u32::try_from(int()?).ok()?.to_be_bytes().to_vec(),
        FLOAT4 => (double(value)? as f32).to_be_bytes().to_vec(),
        FLOAT8 => double(value)?.to_be_bytes().to_vec(),
        NUMERIC => numeric(std::str::from_utf8(&value.to_text()?).ok()?)?,
        BYTEA => value.to_text()?,
        TEXT | VARCHAR | BPCHAR | NAME | CHAR | JSON | UNKNOWN => text(value)?,
        JSONB => [&[1], text(value)?.as_slice()].concat(),
        TIMESTAMP => {
            let wall = wall_clock(value)?;
            wall.checked_sub(EPOCH)?.checked_mul(MICROS)?.to_be_bytes().to_vec()
        }
        TIMESTAMPTZ => {
            let moment = datetime::from_wall_clock(wall_clock(value)?);
            moment.checked_sub(EPOCH)?.checked_mul(MICROS)?.to_be_bytes().to_vec()
        }
        DATE => i32::try_from((wall_clock(value)? - EPOCH).div_euclid(DAY_SECS)).ok()?.to_be_bytes().to_vec(),
        BIT | VARBIT => [&32i32.to_be_bytes()[..], &i32::try_from(int()?).ok()?.to_be_bytes()].concat(),
        _ => return None,
    })
}

fn truth(value: &DbValue) -> Option<bool> {
    match value {
        DbValue::Text(text) => match text.as_slice() {
            b"t" | b"true" | b"1" | b"yes" | b"on" => Some(true),
            b"f" | b"false" | b"0" | b"no" | b"off" => Some(false),
            _ => None,
        },
        value => value.as_int().map(|int| int != 0),
    }
}

fn double(value: &DbValue) -> Option<f64> {
    match value {
        DbValue::Double(double) => Some(*double),
        DbValue::Int(int) | DbValue::Time(int) => Some(*int as f64),
        DbValue::Text(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
        DbValue::Null | DbValue::Blob(_) => None,
    }
}

/// Text the server can store: UTF-8 without a NUL.
fn text(value: &DbValue) -> Option<Vec<u8>> {
    let bytes = match value {
        DbValue::Time(secs) => datetime::format(datetime::wall_clock(*secs)).into_bytes(),
        value => value.to_text()?,
    };
    (std::str::from_utf8(&bytes).is_ok() && !bytes.contains(&0)).then_some(bytes)
}

/// What the clock on the wall shows then; text is a date already.
fn wall_clock(value: &DbValue) -> Option<i64> {
    match value {
        DbValue::Int(secs) | DbValue::Time(secs) => Some(datetime::wall_clock(*secs)),
        DbValue::Text(text) => datetime::parse(text),
        _ => None,
    }
}

/// Groups of four decimal digits, most significant first, as the server keeps a NUMERIC.
fn numeric(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number =
        !(whole.is_empty() && part.is_empty()) && whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit());
    if !is_number || whole.len() > 1000 || part.len() > 1000 {
        return None;
    }
    let width = whole.len().div_ceil(4) * 4;
    let all = format!("{whole:0>width$}{part}");
    let padded = all.len().div_ceil(4) * 4;
    let all = format!("{all:0<padded$}");
    let groups: Vec<u16> =
        all.as_bytes().chunks(4).map(|four| four.iter().fold(0, |n, b| n * 10 + u16::from(b - b'0'))).collect();
    let weight = i16::try_from(width / 4).ok()? - 1;
    let mut bytes = i16::try_from(groups.len()).ok()?.to_be_bytes().to_vec();
    bytes.extend(weight.to_be_bytes());
    bytes.extend(if is_negative { NEGATIVE } else { 0 }.to_be_bytes());
    bytes.extend(u16::try_from(part.len()).ok()?.to_be_bytes());
    bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
    Some(bytes)
}

/// A value of the answer; `None` for a type that is not known here. OpenSIPS: booleans are the texts `t` and `f`, NUMERIC is
/// a floating number, dates are moments.
pub(super) fn read(oid: u32, bytes: &[u8]) -> Option<DbValue> {
    Some(match oid {
        BOOL => DbValue::text(if bytes.first() == Some(&0) { "f" } else { "t" }),
        BYTEA => DbValue::Blob(bytes.to_vec()),
        TEXT | VARCHAR | BPCHAR | NAME | CHAR | JSON | UNKNOWN => DbValue::text(bytes),
        JSONB => DbValue::text(bytes.get(1..).unwrap_or_default()),
        INT2 | INT4 | INT8 => DbValue::Int(signed(bytes)),
        OID => DbValue::Int(signed(bytes) & 0xffff_ffff),
        FLOAT4 => {
            let short = f32::from_be_bytes(bytes.try_into().ok()?);
            DbValue::Double(short.to_string().parse().unwrap_or_else(|_| f64::from(short)))
        }
        FLOAT8 => DbValue::Double(f64::from_be_bytes(bytes.try_into().ok()?)),
        NUMERIC => DbValue::Double(read_numeric(bytes)?),
        DATE => DbValue::Time(datetime::from_wall_clock(signed(bytes.get(..4)?) * DAY_SECS + EPOCH)),
        TIMESTAMP => DbValue::Time(datetime::from_wall_clock(signed(bytes).div_euclid(MICROS) + EPOCH)),
        TIMESTAMPTZ => DbValue::Time(signed(bytes).div_euclid(MICROS) + EPOCH),
        TIME => {
            let secs = signed(bytes) / MICROS;
            DbValue::text(format!("{:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60))
        }
        BIT | VARBIT => bits(bytes)?,
        UUID => DbValue::text(uuid(bytes)),
        INET | CIDR => DbValue::text(address(bytes)?),
        VOID => DbValue::Null,
        _ => return None,
    })
}

/// Big-endian, with the sign in its topmost bit.
fn signed(bytes: &[u8]) -> i64 {
    let shift = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    let number = bytes.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    (number << shift).cast_signed() >> shift
}

fn read_numeric(bytes: &[u8]) -> Option<f64> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at * 2)?, *bytes.get(at * 2 + 1)?]));
    let (count, weight, sign) = (word(0)?, word(1)?.cast_signed(), word(2)?);
    if sign & NAN == NAN {
        return Some(f64::NAN);
    }
    let mut text = String::from(if sign == NEGATIVE { "-" } else { "" });
    // The exponent places the groups; Rust's parser rounds once.
    for at in 0..usize::from(count) {
        text.push_str(&format!("{:04}", word(4 + at)?));
    }
    if count == 0 {
        text.push('0');
    }
    let exponent = (i32::from(weight) + 1 - i32::from(count)) * 4;
    format!("{text}e{exponent}").parse().ok()
}

/// Number of bits, then the bits from the left.
fn bits(bytes: &[u8]) -> Option<DbValue> {
    let count = usize::try_from(signed(bytes.get(..4)?)).ok()?;
    let bit = |at: usize| bytes.get(4 + at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    if count > (bytes.len() - 4) * 8 {
        return None;
    }
    if count < 64 {
        return Some(DbValue::Int((0..count).fold(0, |sum, at| sum << 1 | i64::from(bit(at)))));
    }
    Some(DbValue::text((0..count).map(|at| if bit(at) { '1' } else { '0' }).collect::<String>()))
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Family, bits of the network, whether it is a network, length, address.
fn address(bytes: &[u8]) -> Option<String> {
    let (network_bits, is_network) = (*bytes.get(1)?, *bytes.get(2)? == 1);
    let (address, all) = match bytes.get(4..)? {
        [a, b, c, d] => (Ipv4Addr::new(*a, *b, *c, *d).to_string(), 32),
        rest => (Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?).to_string(), 128),
    };
    Some(if is_network || network_bits != all { format!("{address}/{network_bits}") } else { address })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn decimals_survive_the_way_there_and_back() {
        for text in ["0", "1", "-1", "0.5", "12345678.25", "-0.0001", "10000", "99999999999", "100.01"] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(read(NUMERIC, &numeric(text).unwrap()), Some(DbValue::Double(expected)), "{text}");
        }
        for text in ["", ".", "-", "1e5", "1.2.3", "x"] {
            assert!(numeric(text).is_none(), "{text}");
        }
    }

    #[test]
    fn values_that_do_not_fit_their_place_are_refused() {
        assert!(write(INT4, &DbValue::Int(1 << 40)).is_none());
        assert!(write(INT4, &DbValue::text("many")).is_none());
        assert!(write(INT4, &DbValue::Double(0.5)).is_none());
        assert!(write(TEXT, &DbValue::text(b"a\0b")).is_none());
        assert!(write(TEXT, &DbValue::text(b"\xff")).is_none());
        assert!(write(BOOL, &DbValue::text("perhaps")).is_none());
        assert_eq!(write(INT4, &DbValue::text("7")), Some(vec![0, 0, 0, 7]));
        assert_eq!(write(TEXT, &DbValue::Int(7)), Some(b"7".to_vec()));
    }

    #[test]
    fn moments_and_other_types_are_read() {
        let moment = DbValue::Time(1_700_000_000);
        for kind in [TIMESTAMP, TIMESTAMPTZ] {
            assert_eq!(read(kind, &write(kind, &moment).unwrap()), Some(moment.clone()));
        }
        assert_eq!(read(TIME, &(3_661 * MICROS).to_be_bytes()), Some(DbValue::text("01:01:01")));
        assert_eq!(read(BIT, &[0, 0, 0, 3, 0b1010_0000]), Some(DbValue::Int(5)));
        assert_eq!(read(INET, &[2, 32, 0, 4, 127, 0, 0, 1]), Some(DbValue::text("127.0.0.1")));
        assert_eq!(read(CIDR, &[2, 8, 1, 4, 10, 0, 0, 0]), Some(DbValue::text("10.0.0.0/8")));
        assert_eq!(read(UUID, &[0x11; 16]), Some(DbValue::text("11111111-1111-1111-1111-111111111111")));
        assert_eq!(read(OID, &[0xff; 4]), Some(DbValue::Int(0xffff_ffff)));
        assert_eq!(read(9999, b""), None);
    }

    #[test]
    fn damaged_values_are_no_reason_to_panic() {
        for kind in [BOOL, INT4, FLOAT4, FLOAT8, NUMERIC, DATE, TIMESTAMP, TIME, BIT, UUID, INET, JSONB] {
            for length in 0..12 {
                let _ = read(kind, &vec![0xfe; length]);
            }
        }
    }
}
