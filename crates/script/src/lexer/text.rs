//! String literals → bytes (specification §1.6). It finds no string borders.

/// The bytes that a string literal stands for; `raw` still has its quotes (the closing one may be missing).
pub(crate) fn unescape(raw: &[u8]) -> Vec<u8> {
    let Some((&quote, inner)) = raw.split_first() else { return Vec::new() };
    let inner = match inner.split_last() {
        Some((&last, body)) if last == quote => body,
        _ => inner,
    };
    if quote == b'\'' || memchr::memchr(b'\\', inner).is_none() {
        return inner.to_vec();
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut at = 0;
    while let Some(&byte) = inner.get(at) {
        if byte != b'\\' {
            out.push(byte);
            at += 1;
            continue;
        }
        let (value, len) = escape(inner.get(at + 1..).unwrap_or(&[]));
        match value {
            Escape::Byte(value) => out.push(value),
            Escape::Nothing => {}
            Escape::Keep => out.extend_from_slice(inner.get(at..at + 1 + len).unwrap_or(&[])),
        }
        at += 1 + len;
    }
    out
}

enum Escape {
    Byte(u8),
    Nothing,
    /// Not an escape: both characters stay.
    Keep,
}

/// What stands behind a backslash, and how many bytes it takes.
fn escape(rest: &[u8]) -> (Escape, usize) {
    let Some(&first) = rest.first() else { return (Escape::Keep, 0) };
    match first {
        b'n' => (Escape::Byte(b'\n'), 1),
        b'r' => (Escape::Byte(b'\r'), 1),
        b'a' => (Escape::Byte(0x07), 1),
        b't' => (Escape::Byte(b'\t'), 1),
        b'"' | b'\\' => (Escape::Byte(first), 1),
        b'\n' => (Escape::Nothing, 1),
        b'\r' if rest.get(1) == Some(&b'\n') => (Escape::Nothing, 2),
        b'x' => match digits(rest.get(1..).unwrap_or(&[]), 16, 2) {
            (_, 0) => (Escape::Keep, 1),
            (value, len) => (Escape::Byte(value), 1 + len),
        },
        // One octal digit is no escape, so that back-references of regular expressions survive.
        b'0'..=b'7' => match digits(rest, 8, 3) {
            (_, 0 | 1) => (Escape::Keep, 1),
            (value, len) => (Escape::Byte(value), len),
        },
        _ => (Escape::Keep, 1),
    }
}

/// Value and count of the digits at the beginning, at most `max` of them.
fn digits(text: &[u8], radix: u32, max: usize) -> (u8, usize) {
    let mut value = 0u32;
    let mut len = 0;
    for byte in text.iter().take(max) {
        let Some(digit) = char::from(*byte).to_digit(radix) else { break };
        value = value * radix + digit;
        len += 1;
    }
    (value as u8, len)
}
