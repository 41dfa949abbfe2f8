//! Bodies of one or several parts (RFC 2046 §5.1), read only. Nothing is decoded.

use tandem_sip::{HeaderKind, Message, Params};

/// Parts of a body that are looked at; what follows is left alone.
pub const PARTS_MAX: usize = 32;

/// A part of a multipart body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPart<'a> {
    /// The whole part behind the boundary line, headers included.
    pub raw: &'a [u8],
    /// Media type without parameters.
    pub mime: &'a [u8],
    /// What follows its headers.
    pub body: &'a [u8],
}

/// Whether the body of `message` has several parts.
pub fn is_multipart(message: &Message) -> bool {
    message
        .content_type()
        .is_some_and(|mime| mime.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/")))
}

/// The boundary of a multipart body, quotes removed.
pub fn boundary(message: &Message) -> Option<&[u8]> {
    let value = message.value_of(HeaderKind::ContentType)?;
    let params = value.get(memchr::memchr(b';', value)? + 1..)?;
    let boundary = Params::new(params).value(b"boundary")?;
    Some(boundary.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(boundary))
}

/// Parts of the body as received; a body that is not multipart gives none.
pub fn parts(message: &Message) -> Parts<'_> {
    match boundary(message).filter(|_| is_multipart(message)) {
        Some(boundary) => Parts::new(message.body(), boundary),
        None => Parts::new(b"", b"-"),
    }
}

/// Iterator over parts.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// Text behind the boundary line read last.
    rest: Option<&'a [u8]>,
    boundary: &'a [u8],
    count: usize,
}

/// Where the next boundary line begins and the text behind it starts; `None` behind the closing one.
fn next_boundary<'a>(text: &'a [u8], boundary: &[u8]) -> Option<(usize, Option<&'a [u8]>)> {
    let mut from = 0;
    while let Some(offset) = memchr::memmem::find(text.get(from..)?, b"--") {
        let at = from + offset;
        let is_line_start = at == 0 || text.get(at - 1) == Some(&b'\n');
        let behind = text.get(at + 2..)?;
        if is_line_start && behind.starts_with(boundary) {
            let tail = behind.get(boundary.len()..)?;
            if tail.starts_with(b"--") {
                return Some((at, None));
            }
            let line = memchr::memchr(b'\n', tail).map_or(tail.len(), |end| end + 1);
            return Some((at, tail.get(line..)));
        }
        from = at + 2;
    }
    None
}

impl<'a> Parts<'a> {
    /// Parts of `body` between lines of `boundary`.
    pub fn new(body: &'a [u8], boundary: &'a [u8]) -> Parts<'a> {
        let rest = next_boundary(body, boundary).and_then(|(_, rest)| rest);
        Parts { rest, boundary, count: 0 }
    }
}

fn split_part(raw: &[u8]) -> BodyPart<'_> {
    let (head, body) = if let Some(body) = raw.strip_prefix(b"\r\n").or_else(|| raw.strip_prefix(b"\n")) {
        (&raw[..0], body)
    } else if let Some(at) = memchr::memmem::find(raw, b"\r\n\r\n") {
        (raw.get(..at + 2).unwrap_or_default(), raw.get(at + 4..).unwrap_or_default())
    } else if let Some(at) = memchr::memmem::find(raw, b"\n\n") {
        (raw.get(..at + 1).unwrap_or_default(), raw.get(at + 2..).unwrap_or_default())
    } else {
        (raw, &raw[..0])
    };
    let mime = head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let is_type = HeaderKind::from_name(line.get(..colon)?.trim_ascii()) == HeaderKind::ContentType;
        is_type.then(|| line.get(colon + 1..).unwrap_or_default())
    });
    // RFC 2046 §5.2: plain text when nothing is said.
    let mime = mime.map_or(&b"text/plain"[..], |value| {
        value.get(..memchr::memchr(b';', value).unwrap_or(value.len())).unwrap_or_default().trim_ascii()
    });
    BodyPart { raw, mime, body }
}

impl<'a> Iterator for Parts<'a> {
    type Item = BodyPart<'a>;

    fn next(&mut self) -> Option<BodyPart<'a>> {
        let text = self.rest?;
        if self.count >= PARTS_MAX {
            return None;
        }
        self.count += 1;
        let (end, rest) = match next_boundary(text, self.boundary) {
            Some((at, rest)) => (at, rest),
            None => (text.len(), None),
        };
        self.rest = rest;
        let raw = text.get(..end).unwrap_or_default();
        // The line end before a boundary belongs to the boundary.
        let raw = if rest.is_some() || end < text.len() {
            raw.strip_suffix(b"\r\n").or_else(|| raw.strip_suffix(b"\n")).unwrap_or(raw)
        } else {
            raw
        };
        Some(split_part(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_split_at_boundary_lines_only() {
        let body = b"junk\r\n--xx\r\nContent-Type: application/sdp;x=y\r\n\r\nv=0\r\n a--xx\r\n--xx\r\n\r\nplain\r\n--xx--\r\nrest";
        let parts: Vec<_> = Parts::new(body, b"xx").map(|part| (part.mime, part.body)).collect();
        assert_eq!(parts, [(&b"application/sdp"[..], &b"v=0\r\n a--xx"[..]), (b"text/plain", b"plain")]);
    }
}
