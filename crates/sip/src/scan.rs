//! The one pass over a received message: start line and header index. It looks at line ends and colons only; header
//! bodies stay unparsed.

use bytes::Bytes;

use crate::error::ParseError;
use crate::message::{HeaderEntry, Limits, StartLine};
use crate::text::{eq_ignore_case, is_blank, sub, tail};
use crate::{HeaderKind, Method, Span};

/// What the pass found beside the header entries.
pub(crate) struct Scan {
    pub(crate) start: StartLine,
    /// First line with its line end.
    pub(crate) first_line: Span,
    /// Where the blank line begins that ends the headers; the end of the buffer when there is none.
    pub(crate) headers_end: u32,
    /// Behind the blank line.
    pub(crate) body_start: u32,
    pub(crate) present: u128,
}

/// Fills `headers` (cleared first) from `buf`.
pub(crate) fn scan(buf: &Bytes, limits: &Limits, headers: &mut Vec<HeaderEntry>) -> Result<Scan, ParseError> {
    headers.clear();
    let text: &[u8] = buf;
    // Offsets are u32 and the limit is one too, so no cast below can lose anything.
    if text.len() > limits.message_bytes_max as usize {
        return Err(ParseError::TooLarge { size: text.len(), max: limits.message_bytes_max as usize });
    }
    // Line ends in front are keep-alives or sloppiness (RFC 3261 §7.5).
    let lead = text.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if lead == text.len() {
        return Err(ParseError::Empty);
    }
    let line_end = line_end(text, lead).ok_or(ParseError::BadStartLine)?;
    let start = start_line(text, lead, line_end)?;
    let first_line = Span::new(lead as u32, line_end as u32);
    let mut present = 0u128;
    let mut at = line_end;
    loop {
        match text.get(at) {
            None => {
                let end = text.len() as u32;
                return Ok(Scan { start, first_line, headers_end: end, body_start: end, present });
            }
            Some(b'\n') => {
                return Ok(Scan { start, first_line, headers_end: at as u32, body_start: at as u32 + 1, present });
            }
            Some(b'\r') if text.get(at + 1) == Some(&b'\n') => {
                return Ok(Scan { start, first_line, headers_end: at as u32, body_start: at as u32 + 2, present });
            }
            Some(_) => {}
        }
        if headers.len() >= usize::from(limits.headers_max) {
            return Err(ParseError::TooManyHeaders { max: usize::from(limits.headers_max) });
        }
        let entry = header_line(text, at)?;
        present |= entry.kind.bit();
        at = entry.whole.end as usize;
        headers.push(entry);
    }
}

/// Offset behind the next `\n`.
#[inline]
fn line_end(text: &[u8], from: usize) -> Option<usize> {
    memchr::memchr(b'\n', tail(text, from)).map(|offset| from + offset + 1)
}

#[inline]
fn header_line(text: &[u8], at: usize) -> Result<HeaderEntry, ParseError> {
    let bad = ParseError::BadHeaderLine { offset: at as u32 };
    let mut colon = at;
    loop {
        match text.get(colon) {
            Some(b':') => break,
            Some(b'\n') | None => return Err(bad),
            Some(_) => colon += 1,
        }
    }
    let mut name_end = colon;
    while name_end > at && text.get(name_end - 1).is_some_and(|b| matches!(b, b' ' | b'\t')) {
        name_end -= 1;
    }
    let name = sub(text, at, name_end);
    // A name with a blank inside would let one hop see a header where another sees none.
    if name.is_empty() || name.iter().any(|&b| is_blank(b) || b == 0) {
        return Err(bad);
    }
    let mut end = line_end(text, colon + 1).ok_or(bad)?;
    while matches!(text.get(end), Some(b' ' | b'\t')) {
        end = line_end(text, end).ok_or(bad)?;
    }
    let mut value_start = colon + 1;
    while value_start < end && text.get(value_start).is_some_and(|&b| is_blank(b)) {
        value_start += 1;
    }
    let mut value_end = end;
    while value_end > value_start && text.get(value_end - 1).is_some_and(|&b| is_blank(b)) {
        value_end -= 1;
    }
    Ok(HeaderEntry {
        kind: HeaderKind::from_name(name),
        name: Span::new(at as u32, name_end as u32),
        value: Span::new(value_start as u32, value_end as u32),
        whole: Span::new(at as u32, end as u32),
    })
}

/// Parses the first line `text[from..line_end]`, its line end included.
fn start_line(text: &[u8], from: usize, line_end: usize) -> Result<StartLine, ParseError> {
    let mut end = line_end - 1;
    if end > from && text.get(end - 1) == Some(&b'\r') {
        end -= 1;
    }
    let line = sub(text, from, end);
    let first_blank = memchr::memchr(b' ', line).ok_or(ParseError::BadStartLine)?;
    let span = |a: usize, b: usize| Span::new((from + a) as u32, (from + b) as u32);
    if is_sip_version(sub(line, 0, first_blank)) {
        return status_line(line, first_blank, from);
    }
    let method = sub(line, 0, first_blank);
    if method.is_empty() {
        return Err(ParseError::BadStartLine);
    }
    // The version is what follows the last blank, trailing blanks removed: odd URIs with blanks inside stay visible and
    // are refused later with a response, not dropped (RFC 4475 §3.1.2.7 to 3.1.2.10).
    let line_trimmed = line.len() - line.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let last_blank = memchr::memrchr(b' ', sub(line, 0, line_trimmed)).unwrap_or(first_blank);
    if last_blank <= first_blank {
        return Err(ParseError::BadStartLine);
    }
    let mut uri_start = first_blank;
    while line.get(uri_start) == Some(&b' ') {
        uri_start += 1;
    }
    let mut uri_end = last_blank;
    while uri_end > uri_start && line.get(uri_end - 1) == Some(&b' ') {
        uri_end -= 1;
    }
    let version = sub(line, last_blank + 1, line_trimmed);
    if uri_end <= uri_start || !version.get(..4).is_some_and(|v| eq_ignore_case(v, b"SIP/")) {
        return Err(ParseError::BadStartLine);
    }
    Ok(StartLine::Request {
        method: Method::from_bytes(method),
        method_span: span(0, first_blank),
        uri: span(uri_start, uri_end),
        version: span(last_blank + 1, line_trimmed),
    })
}

/// `SIP/` with digits and a dot behind.
fn is_sip_version(text: &[u8]) -> bool {
    match text.split_at_checked(4) {
        Some((name, number)) => {
            eq_ignore_case(name, b"SIP/")
                && !number.is_empty()
                && number.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        }
        None => false,
    }
}

fn status_line(line: &[u8], first_blank: usize, from: usize) -> Result<StartLine, ParseError> {
    let mut digits = first_blank;
    while line.get(digits) == Some(&b' ') {
        digits += 1;
    }
    let (hundreds, rest) = match sub(line, digits, digits + 3) {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            (u16::from(a - b'0'), u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => return Err(ParseError::BadStartLine),
    };
    // Four digits are no status; a missing blank before an empty reason is common and harmless.
    let reason_start = match line.get(digits + 3) {
        None => digits + 3,
        Some(b' ') => digits + 4,
        Some(_) => return Err(ParseError::BadStartLine),
    };
    Ok(StartLine::Reply {
        status: hundreds * 100 + rest,
        reason: Span::new((from + reason_start) as u32, (from + line.len()) as u32),
        version: Span::new(from as u32, (from + first_blank) as u32),
    })
}
