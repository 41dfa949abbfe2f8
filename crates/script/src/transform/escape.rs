//! Escapes of texts: backslashes, SIP user and parameter parts, URLs. It parses no messages.

/// A backslash before quotes and backslashes; NUL as `\0`.
pub(super) fn common(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for byte in text {
        match byte {
            b'\'' | b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0 => out.extend_from_slice(b"\\0"),
            other => out.push(*other),
        }
    }
    out
}

pub(super) fn unescape_common(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(quoted @ (b'\'' | b'"' | b'\\'))) => {
                out.push(*quoted);
                bytes.next();
            }
            (b'\\', Some(b'0')) => {
                out.push(0);
                bytes.next();
            }
            _ => out.push(byte),
        }
    }
    out
}

/// What RFC 3261 §25.1 allows in the user part stays, the rest becomes `%xx`.
pub(super) fn user(text: &[u8]) -> Vec<u8> {
    percent(text, |byte| is_unreserved(byte) || matches!(byte, b'&' | b'=' | b'+' | b'$' | b',' | b';' | b'?' | b'/'))
}

/// The same for parameters.
pub(super) fn param(text: &[u8]) -> Vec<u8> {
    percent(text, |byte| is_unreserved(byte) || matches!(byte, b'[' | b']' | b'/' | b':' | b'&' | b'+' | b'$'))
}

/// RFC 3986 §2.3.
pub(super) fn url(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for byte in text {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(*byte);
        } else {
            push_percent(*byte, b"0123456789ABCDEF", &mut out);
        }
    }
    out
}

/// `%xx` back to bytes; anything that is no escape stays.
pub(super) fn unescape_url(text: &[u8]) -> Vec<u8> {
    tandem_sip::unescape_percent(text).into_owned()
}

/// `%xx` back to bytes; `None` for a bad sequence.
pub(super) fn unescape_percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

fn percent(text: &[u8], is_kept: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for byte in text {
        if is_kept(*byte) {
            out.push(*byte);
        } else {
            push_percent(*byte, b"0123456789abcdef", &mut out);
        }
    }
    out
}

fn push_percent(byte: u8, digits: &[u8; 16], out: &mut Vec<u8>) {
    out.push(b'%');
    out.extend(digits.get(usize::from(byte >> 4)));
    out.extend(digits.get(usize::from(byte & 15)));
}
