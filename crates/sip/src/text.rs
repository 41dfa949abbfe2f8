//! Byte helpers shared by the parsers: blanks, tokens, quotes, numbers, escapes. No SIP structure is known here.

use std::borrow::Cow;

const BLANK: u8 = 1;
const TOKEN: u8 = 2;
const HOST: u8 = 4;

const fn class_table() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        let byte = i as u8;
        let mut class = 0;
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            class |= BLANK;
        }
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
        {
            class |= TOKEN;
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') || byte >= 0x80 {
            class |= HOST;
        }
        table[i] = class;
        i += 1;
    }
    table
}

static CLASS: [u8; 256] = class_table();

/// Blank, tab, CR or LF: inside a header value a line end can only be part of a fold, hence a blank.
#[inline]
pub(crate) const fn is_blank(byte: u8) -> bool {
    CLASS[byte as usize] & BLANK != 0
}

/// `token` characters of RFC 3261 §25.1.
#[inline]
pub(crate) const fn is_token(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

/// Characters accepted in a host name; `_` and non-ASCII bytes occur in the field and do no harm.
#[inline]
pub(crate) const fn is_host(byte: u8) -> bool {
    CLASS[byte as usize] & HOST != 0
}

/// Whether the text is a non-empty `token` (RFC 3261 §25.1).
#[inline]
pub(crate) fn is_token_text(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token(b))
}

/// `text[from..to]`, empty when out of range.
#[inline]
pub(crate) fn sub(text: &[u8], from: usize, to: usize) -> &[u8] {
    text.get(from..to).unwrap_or_default()
}

/// `text[from..]`, empty when out of range.
#[inline]
pub(crate) fn tail(text: &[u8], from: usize) -> &[u8] {
    text.get(from..).unwrap_or_default()
}

/// Removes blanks, tabs and folds from both ends.
#[inline]
#[must_use]
pub fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text))
}

#[inline]
pub(crate) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text {
        if !is_blank(*first) {
            break;
        }
        text = rest;
    }
    text
}

#[inline]
pub(crate) fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., last] = text {
        if !is_blank(*last) {
            break;
        }
        text = rest;
    }
    text
}

/// ASCII case-insensitive equality, as header and parameter names compare.
#[inline]
#[must_use]
pub fn eq_ignore_case(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Decimal number without sign or blanks; `None` when empty, not all digits, or above `u32::MAX`.
#[inline]
#[must_use]
pub fn parse_u32(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let mut value: u32 = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    Some(value)
}

/// Index just behind the quoted string that starts at `at` (where a `"` stands); `None` when it never ends.
#[inline]
pub(crate) fn skip_quoted(text: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        match text.get(i)? {
            b'"' => return Some(i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
}

/// The content of a quoted string with `\x` pairs resolved; text without quotes is returned as it is.
#[must_use]
pub fn unquote(text: &[u8]) -> Cow<'_, [u8]> {
    let inner = match text {
        [b'"', inner @ .., b'"'] => inner,
        _ => return Cow::Borrowed(text),
    };
    if memchr::memchr(b'\\', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        if byte == b'\\' {
            out.extend(bytes.next());
        } else {
            out.push(byte);
        }
    }
    Cow::Owned(out)
}

/// Replaces each fold (line end followed by blanks) by one blank (RFC 3261 §7.3.1); borrowed when there is none.
#[must_use]
pub fn unfold(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\r', b'\n', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(trim_end(sub(rest, 0, at)));
        out.push(b' ');
        rest = trim_start(tail(rest, at));
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Resolves `%HH` escapes; malformed ones stay as they are. Borrowed when there is no `%`.
#[must_use]
pub fn unescape_percent(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, _, next)) = next_unescaped(rest) {
        out.push(byte);
        rest = next;
    }
    Cow::Owned(out)
}

/// Next byte of an escaped text, whether it was escaped, and what follows it.
#[inline]
pub(crate) fn next_unescaped(text: &[u8]) -> Option<(u8, bool, &[u8])> {
    match text {
        [b'%', high, low, rest @ ..] => match (hex_digit(*high), hex_digit(*low)) {
            (Some(h), Some(l)) => Some((h << 4 | l, true, rest)),
            _ => Some((b'%', false, tail(text, 1))),
        },
        [first, rest @ ..] => Some((*first, false, rest)),
        [] => None,
    }
}

/// Value of one hexadecimal digit.
#[inline]
pub(crate) const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Whether every `%` starts a valid escape.
pub(crate) fn escapes_are_valid(text: &[u8]) -> bool {
    memchr::memchr_iter(b'%', text).all(|at| {
        matches!((text.get(at + 1), text.get(at + 2)),
            (Some(&h), Some(&l)) if hex_digit(h).is_some() && hex_digit(l).is_some())
    })
}

/// Digits of any 64 bit number.
pub(crate) type Digits = [u8; 20];

/// `value` in decimal, written into `digits`.
#[inline]
pub(crate) fn decimal(mut value: u64, digits: &mut Digits) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        if let Some(slot) = digits.get_mut(at) {
            *slot = b'0' + (value % 10) as u8;
        }
        value /= 10;
        if value == 0 || at == 0 {
            break;
        }
    }
    tail(digits, at)
}

/// Appends `value` in decimal without allocating.
#[inline]
pub(crate) fn push_decimal(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(decimal(value, &mut Digits::default()));
}
