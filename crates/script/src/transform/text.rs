//! `{s.*}`: text transformations. Escapes are beside it.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::{Sha224, Sha256, Sha384, Sha512};

use super::{Context, Hash, RESULT_BYTES_MAX, TextOp, escape, position};
use crate::format::Format;
use crate::pvar::Scope;
use crate::value::{Text, Value};
use crate::vm::{Failed, Host};

/// Reads Base64 with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// `{s.eval}` inside what `{s.eval}` expands.
const EVAL_DEPTH_MAX: u8 = 4;

pub(super) fn apply<H: Host>(
    context: &mut Context<'_, H>,
    op: &TextOp,
    value: &Value,
    input: &Text,
) -> Result<Value, Failed> {
    let text: &[u8] = input;
    Ok(match op {
        TextOp::Len => Value::Int(i32::try_from(text.len()).unwrap_or(i32::MAX)),
        TextOp::Int => {
            // Only the numeric side changes: what is printed and compared as text stays.
            let int = value.as_int().filter(|_| value.is_int_primary()).unwrap_or_else(|| leading_int(text));
            Value::Number(input.clone(), int)
        }
        TextOp::Hash(hash) => digest(*hash, text).into(),
        TextOp::Hmac(hash, key) => hmac(*hash, &context.text(key)?, text)?.into(),
        // The reference leaves out the final inversion of CRC-32.
        TextOp::Crc32 => (!crc32fast::hash(text)).to_string().into_bytes().into(),
        TextOp::Substr(offset, length) => {
            let (offset, length) = (context.int(offset)?, context.int(length)?);
            Value::text(substr(text, offset, length).ok_or(Failed)?)
        }
        TextOp::Select(field, separator) => {
            let at = context.int(field)?;
            let count = memchr::memchr_iter(*separator, text).count() + 1;
            match position(at, count).and_then(|at| text.split(|c| c == separator).nth(at)) {
                Some(field) => Value::text(field),
                None => Value::Null,
            }
        }
        TextOp::Lower => text.to_ascii_lowercase().into(),
        TextOp::Upper => text.to_ascii_uppercase().into(),
        TextOp::Index(needle, start) => {
            let (needle, start) = (context.text(needle)?, start.as_ref().map(|start| context.int(start)).transpose()?);
            let from = start.map_or(0, |start| wrapped(start, text.len()));
            let found = text.get(from..).and_then(|rest| memchr::memmem::find(rest, &needle));
            found.map_or(Value::Null, |at| Value::Int((from + at) as i32))
        }
        TextOp::Rindex(needle, start) => {
            let (needle, start) = (context.text(needle)?, start.as_ref().map(|start| context.int(start)).transpose()?);
            let last = start.map_or(text.len(), |start| wrapped(start, text.len()));
            let end = last.saturating_add(needle.len()).min(text.len());
            let found = text.get(..end).and_then(|head| memchr::memmem::rfind(head, &needle));
            found.map_or(Value::Null, |at| Value::Int(at as i32))
        }
        TextOp::FillLeft(pad, length) => fill(text, pad, context.int(length)?, true)?,
        TextOp::FillRight(pad, length) => fill(text, pad, context.int(length)?, false)?,
        TextOp::Width(width) => width_of(text, context.int(width)?)?,
        TextOp::Trim => Value::text(trim_left(trim_right(text))),
        TextOp::TrimLeft => Value::text(trim_left(text)),
        TextOp::TrimRight => Value::text(trim_right(text)),
        TextOp::Reverse => text.iter().rev().copied().collect::<Vec<u8>>().into(),
        TextOp::Base64Encode | TextOp::Base64Decode
            if value.is_int_primary() && context.dialect != crate::ast::Dialect::V2_4 =>
        {
            Value::Text(input.clone())
        }
        TextOp::Base64Encode => STANDARD.encode(text).into_bytes().into(),
        TextOp::Base64Decode => LENIENT.decode(text).map_err(|_| Failed)?.into(),
        TextOp::HexEncode => hex::encode(text).into_bytes().into(),
        TextOp::HexDecode => hex::decode(text).map_err(|_| Failed)?.into(),
        TextOp::HexToInt if value.is_int_primary() => Value::Int(value.as_int().unwrap_or(0)),
        TextOp::HexToInt if text.is_empty() => Value::Int(0),
        TextOp::HexToInt => {
            let digits = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+')).ok_or(Failed)?;
            Value::Int(u64::from_str_radix(digits, 16).map_err(|_| Failed)? as i32)
        }
        TextOp::IntToHex => {
            let int = if value.is_int_primary() { value.as_int() } else { None };
            let int = int.or_else(|| strict_int(text)).ok_or(Failed)?;
            format!("{int:x}").into_bytes().into()
        }
        TextOp::EscapeCommon => escape::common(text).into(),
        TextOp::UnescapeCommon => escape::unescape_common(text).into(),
        TextOp::EscapeUser => escape::user(text).into(),
        TextOp::EscapeParam if text.iter().any(|byte| !matches!(byte, 32..127)) => return Err(Failed),
        TextOp::EscapeParam => escape::param(text).into(),
        TextOp::UnescapeUser | TextOp::UnescapeParam => escape::unescape_percent(text).ok_or(Failed)?.into(),
        TextOp::Xor(secret) => {
            let secret = context.text(secret)?;
            if secret.is_empty() {
                return Err(Failed);
            }
            text.iter().zip(secret.iter().cycle()).map(|(text, secret)| text ^ secret).collect::<Vec<u8>>().into()
        }
        TextOp::DateToUnix => date_to_unix(text).ok_or(Failed)?.to_string().into_bytes().into(),
        TextOp::Eval => eval(context, text)?,
    })
}

/// Leading blanks make 0; sign and digits count, the rest is ignored; what does not fit wraps.
pub(super) fn leading_int(text: &[u8]) -> i32 {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let digits = digits.iter().take_while(|c| c.is_ascii_digit());
    let int = digits.fold(0i32, |int, digit| int.wrapping_mul(10).wrapping_add(i32::from(digit - b'0')));
    if is_negative { int.wrapping_neg() } else { int }
}

/// A number that is all of the text; what does not fit wraps.
fn strict_int(text: &[u8]) -> Option<i32> {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then(|| leading_int(text))
}

fn digest(hash: Hash, text: &[u8]) -> Vec<u8> {
    match hash {
        Hash::Md5 => hex::encode(Md5::digest(text)),
        Hash::Sha1 => hex::encode(Sha1::digest(text)),
        Hash::Sha224 => hex::encode(Sha224::digest(text)),
        Hash::Sha256 => hex::encode(Sha256::digest(text)),
        Hash::Sha384 => hex::encode(Sha384::digest(text)),
        Hash::Sha512 => hex::encode(Sha512::digest(text)),
    }
    .into_bytes()
}

fn hmac(hash: Hash, key: &[u8], text: &[u8]) -> Result<Vec<u8>, Failed> {
    macro_rules! keyed {
        ($hash:ty) => {{
            let mut mac = <Hmac<$hash> as Mac>::new_from_slice(key).map_err(|_| Failed)?;
            mac.update(text);
            hex::encode(mac.finalize().into_bytes())
        }};
    }
    let digits = match hash {
        Hash::Md5 => keyed!(Md5),
        Hash::Sha1 => keyed!(Sha1),
        Hash::Sha224 => keyed!(Sha224),
        Hash::Sha256 => keyed!(Sha256),
        Hash::Sha384 => keyed!(Sha384),
        Hash::Sha512 => keyed!(Sha512),
    };
    Ok(digits.into_bytes())
}

/// `None` when the offset lies outside.
fn substr(text: &[u8], offset: i32, length: i32) -> Option<&[u8]> {
    let start = position(offset, text.len())?;
    let rest = text.get(start..)?;
    let length = match length {
        0 => rest.len(),
        1.. => rest.len().min(length as usize),
        _ => rest.len().saturating_sub(length.unsigned_abs() as usize),
    };
    rest.get(..length)
}

/// A start position, negative ones from the end, modulo the length.
fn wrapped(start: i32, length: usize) -> usize {
    match usize::try_from(start) {
        Ok(start) => start,
        Err(_) if length == 0 => 0,
        Err(_) => (i64::from(start).rem_euclid(length as i64)) as usize,
    }
}

fn fill(text: &[u8], pad: &[u8], length: i32, is_left: bool) -> Result<Value, Failed> {
    let length = usize::try_from(length).unwrap_or(0);
    if length > RESULT_BYTES_MAX {
        return Err(Failed);
    }
    let missing = length.saturating_sub(text.len());
    if missing == 0 {
        return Ok(Value::text(text));
    }
    let mut filled = Vec::with_capacity(length);
    if is_left {
        // Whole paddings stand at the text; the outermost one is cut on its outer side.
        let skip = (pad.len() - missing % pad.len()) % pad.len();
        filled.extend(pad.iter().cycle().skip(skip).take(missing));
        filled.extend_from_slice(text);
    } else {
        filled.extend_from_slice(text);
        filled.extend(pad.iter().cycle().take(missing));
    }
    Ok(filled.into())
}

fn width_of(text: &[u8], width: i32) -> Result<Value, Failed> {
    let width = usize::try_from(width).ok().filter(|width| (1..=RESULT_BYTES_MAX).contains(width)).ok_or(Failed)?;
    let mut padded = text.to_vec();
    padded.resize(width, b' ');
    Ok(padded.into())
}

fn is_blank(c: &u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\r' | b'\n')
}

fn trim_left(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|c| !is_blank(c)).unwrap_or(text.len());
    text.get(start..).unwrap_or(&[])
}

fn trim_right(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|c| !is_blank(c)).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or(&[])
}

/// `Thu, 01 Jan 1970 00:01:00 GMT` in seconds since 1970.
fn date_to_unix(text: &[u8]) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = std::str::from_utf8(text).ok()?.trim();
    let (day_name, rest) = text.split_once(',')?;
    if day_name.len() != 3 {
        return None;
    }
    let mut words = rest.split_ascii_whitespace();
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>());
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let is_valid = (1..=31).contains(&day)
        && (1900..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if words.next()? != "GMT" || !is_valid {
        return None;
    }
    // Days since 1970-01-01 in the Gregorian calendar, years counted from March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, month_from_march) = (shifted.div_euclid(400), (month + 9) % 12);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn eval<H: Host>(context: &mut Context<'_, H>, text: &[u8]) -> Result<Value, Failed> {
    let frame = &mut context.host.vars().frame;
    let Some(program) = frame.program.clone() else { return Err(Failed) };
    if frame.eval_depth >= EVAL_DEPTH_MAX {
        return Err(Failed);
    }
    frame.eval_depth += 1;
    let scope = Scope { surface: program.surface(), dialect: context.dialect };
    let expanded = Format::parse_in(text, scope).ok().and_then(|format| format.eval_text(context.host));
    context.host.vars().frame.eval_depth -= 1;
    expanded.map(Value::Text).ok_or(Failed)
}
