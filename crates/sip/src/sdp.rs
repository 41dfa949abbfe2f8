//! Session descriptions as lines (RFC 8866): session part, media sections, fields. Nothing is checked for sense and
//! nothing is copied; rewriting is done with lumps on the spans.

use std::net::IpAddr;

use crate::text::{eq_ignore_case, parse_u32, sub, tail, trim};

/// One `x=value` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdpLine<'a> {
    /// The whole line with its line end.
    pub raw: &'a [u8],
    /// The letter in front of `=`; 0 for a line of another form, whose text is then all in `value`.
    pub letter: u8,
    /// What follows `=`, without line end.
    pub value: &'a [u8],
}

/// The word for the family of an address, `IP4` or `IP6`.
#[must_use]
pub const fn address_type(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "IP6" } else { "IP4" }
}

impl<'a> SdpLine<'a> {
    /// Words, and which of them is the network type: address type and address follow it in `c=` and `o=` lines.
    fn address_words(&self) -> Option<(Vec<&'a [u8]>, usize)> {
        let network = match self.letter {
            b'c' => 0,
            b'o' => 3,
            _ => return None,
        };
        let words: Vec<&[u8]> = self.value.split(|&b| b == b' ').filter(|word| !word.is_empty()).collect();
        (words.len() > network + 2).then_some((words, network))
    }

    /// The address of a `c=` or `o=` line, without TTL and count.
    #[must_use]
    pub fn address(&self) -> Option<&'a [u8]> {
        let (words, network) = self.address_words()?;
        words.get(network + 2)?.split(|&b| b == b'/').next()
    }

    /// Whether the address is `0.0.0.0` or `::`, which puts a stream on hold (RFC 3264 §8.4).
    #[must_use]
    pub fn is_on_hold(&self) -> bool {
        let address = self.address().and_then(|address| std::str::from_utf8(address).ok());
        address.is_some_and(|address| {
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            bare.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
        })
    }

    /// Writes the line with another address; as it is when it has none.
    pub fn write_with_address(&self, ip: IpAddr, out: &mut Vec<u8>) {
        let Some((words, network)) = self.address_words() else { return out.extend_from_slice(self.raw) };
        out.extend_from_slice(&[self.letter, b'=']);
        for word in words.iter().take(network + 1) {
            out.extend_from_slice(word);
            out.push(b' ');
        }
        out.extend_from_slice(format!("{} {ip}\r\n", address_type(ip)).as_bytes());
    }
}

/// Iterator over the lines of an SDP text; together their `raw` parts are the whole text.
#[derive(Clone, Debug)]
pub struct SdpLines<'a> {
    rest: &'a [u8],
}

impl<'a> SdpLines<'a> {
    /// Lines of `text`, which may use CRLF or bare LF.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for SdpLines<'a> {
    type Item = SdpLine<'a>;

    fn next(&mut self) -> Option<SdpLine<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.rest).map_or(self.rest.len(), |at| at + 1);
        let raw = sub(self.rest, 0, end);
        self.rest = tail(self.rest, end);
        let text = raw.strip_suffix(b"\n").unwrap_or(raw);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Some(match text {
            [letter @ b'a'..=b'z', b'=', value @ ..] => SdpLine { raw, letter: *letter, value },
            _ => SdpLine { raw, letter: 0, value: text },
        })
    }
}

/// A session description: the text before the first `m=` and the media sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sdp<'a> {
    /// The whole text.
    pub raw: &'a [u8],
    /// The session part.
    pub session: &'a [u8],
}

impl<'a> Sdp<'a> {
    /// Splits off the session part; any text is accepted.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Self {
        Self { raw, session: sub(raw, 0, next_media(raw, 0)) }
    }

    /// Lines of the session part.
    #[must_use]
    pub const fn session_lines(&self) -> SdpLines<'a> {
        SdpLines::new(self.session)
    }

    /// Media sections in order.
    #[must_use]
    pub fn media(&self) -> MediaSections<'a> {
        MediaSections { rest: tail(self.raw, self.session.len()) }
    }

    /// The `c=` of the session part.
    #[must_use]
    pub fn connection(&self) -> Option<Connection<'a>> {
        first_connection(self.session_lines())
    }

    /// The `o=` value.
    #[must_use]
    pub fn origin(&self) -> Option<&'a [u8]> {
        self.session_lines().find(|line| line.letter == b'o').map(|line| line.value)
    }
}

/// Start of the first line `m=` at or behind `from`.
fn next_media(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < text.len() {
        if tail(text, at).starts_with(b"m=") {
            return at;
        }
        at = memchr::memchr(b'\n', tail(text, at)).map_or(text.len(), |offset| at + offset + 1);
    }
    text.len()
}

/// Iterator of [`Sdp::media`].
#[derive(Clone, Debug)]
pub struct MediaSections<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for MediaSections<'a> {
    type Item = Media<'a>;

    fn next(&mut self) -> Option<Media<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = next_media(self.rest, 1);
        let raw = sub(self.rest, 0, end);
        self.rest = tail(self.rest, end);
        Some(Media::parse(raw))
    }
}

/// One media section, from its `m=` to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media<'a> {
    /// The whole section.
    pub raw: &'a [u8],
    /// Media type, such as `audio`.
    pub kind: &'a [u8],
    /// Port text without a `/count`.
    pub port_text: &'a [u8],
    /// Number of ports behind `/`, 1 when not written.
    pub port_count: u32,
    /// Transport, such as `RTP/AVP`.
    pub protocol: &'a [u8],
    /// Formats, blank-separated.
    pub formats: &'a [u8],
}

impl<'a> Media<'a> {
    fn parse(raw: &'a [u8]) -> Self {
        let mut rest = SdpLines::new(raw).next().map(|line| line.value).unwrap_or_default();
        let mut word = || {
            let text = trim(rest);
            let end = memchr::memchr(b' ', text).unwrap_or(text.len());
            rest = tail(text, end);
            sub(text, 0, end)
        };
        let (kind, port, protocol) = (word(), word(), word());
        let (port_text, count) = match memchr::memchr(b'/', port) {
            Some(at) => (sub(port, 0, at), parse_u32(tail(port, at + 1)).unwrap_or(1)),
            None => (port, 1),
        };
        Self { raw, kind, port_text, port_count: count, protocol, formats: trim(rest) }
    }

    /// The port; `None` when it is not a number of 16 bits.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        parse_u32(self.port_text).and_then(|port| u16::try_from(port).ok())
    }

    /// All lines of the section, `m=` first.
    #[must_use]
    pub const fn lines(&self) -> SdpLines<'a> {
        SdpLines::new(self.raw)
    }

    /// The `c=` of the section; the one of the session holds when there is none.
    #[must_use]
    pub fn connection(&self) -> Option<Connection<'a>> {
        first_connection(self.lines())
    }

    /// Value of the first `a=name:value` or `a=name` (then empty).
    #[must_use]
    pub fn attribute(&self, name: &[u8]) -> Option<&'a [u8]> {
        attribute(self.lines(), name)
    }

    /// `sendrecv`, `sendonly`, `recvonly` or `inactive`, when written in the section.
    #[must_use]
    pub fn direction(&self) -> Option<&'a [u8]> {
        self.lines()
            .filter(|line| line.letter == b'a')
            .map(|line| line.value)
            .find(|value| [&b"sendrecv"[..], b"sendonly", b"recvonly", b"inactive"].contains(value))
    }
}

/// Value of the first attribute called `name` among `lines`.
#[must_use]
pub fn attribute<'a>(lines: SdpLines<'a>, name: &[u8]) -> Option<&'a [u8]> {
    lines.filter(|line| line.letter == b'a').find_map(|line| {
        let colon = memchr::memchr(b':', line.value).unwrap_or(line.value.len());
        eq_ignore_case(sub(line.value, 0, colon), name).then(|| tail(line.value, colon + 1))
    })
}

/// A `c=` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection<'a> {
    /// The whole value, such as `IN IP4 192.0.2.1`.
    pub raw: &'a [u8],
    /// Whether it says `IP6`.
    pub is_ipv6: bool,
    /// The address without TTL and count; its place in the body is where a NAT helper writes.
    pub address: &'a [u8],
}

fn first_connection<'a>(mut lines: SdpLines<'a>) -> Option<Connection<'a>> {
    let raw = lines.find(|line| line.letter == b'c')?.value;
    let mut words = raw.split(|&b| b == b' ').filter(|word| !word.is_empty());
    let (_network, family, address) = (words.next()?, words.next()?, words.next()?);
    let end = memchr::memchr(b'/', address).unwrap_or(address.len());
    Some(Connection { raw, is_ipv6: eq_ignore_case(family, b"IP6"), address: sub(address, 0, end) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BODY: &[u8] = b"v=0\r\no=alice 1 1 IN IP4 192.0.2.10\r\ns=call\r\nc=IN IP4 224.2.1.1/127/3\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=sendonly\r\nm=video 51372/2 RTP/AVP 31\r\nc=IN IP6 2001:db8::1\r\nbroken\r\n";

    #[test]
    fn sections_and_fields_are_found() {
        let sdp = Sdp::parse(BODY);
        assert_eq!(sdp.connection().unwrap().address, b"224.2.1.1");
        assert_eq!(sdp.origin(), Some(&b"alice 1 1 IN IP4 192.0.2.10"[..]));
        let media: Vec<_> = sdp.media().collect();
        assert_eq!(media.len(), 2);
        assert_eq!((media[0].kind, media[0].port(), media[0].formats), (&b"audio"[..], Some(49170), &b"0 8 101"[..]));
        assert_eq!(media[0].attribute(b"rtpmap"), Some(&b"0 PCMU/8000"[..]));
        assert_eq!(media[0].direction(), Some(&b"sendonly"[..]));
        assert_eq!(media[0].connection(), None);
        assert_eq!((media[1].port(), media[1].port_count), (Some(51372), 2));
        assert!(media[1].connection().unwrap().is_ipv6);
    }

    #[test]
    fn lines_get_other_addresses() {
        let written = |text: &str, ip: &str| {
            let mut out = Vec::new();
            SdpLines::new(text.as_bytes()).for_each(|line| line.write_with_address(ip.parse().unwrap(), &mut out));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written("c=IN IP4 224.2.1.1/127/3\n", "192.0.2.1"), "c=IN IP4 192.0.2.1\r\n");
        assert_eq!(written("o=a  1 1 IN IP4 10.0.0.1\r\n", "::1"), "o=a 1 1 IN IP6 ::1\r\n");
        for as_it_is in ["c=IN IP4\r\n", "o=a 1 1 IN IP4", "s=IN IP4 10.0.0.1\n", "x", ""] {
            assert_eq!(written(as_it_is, "192.0.2.1"), as_it_is);
        }
        let line = |text: &'static str| SdpLines::new(text.as_bytes()).next().unwrap();
        assert_eq!(line("c=IN IP4 224.2.1.1/127").address(), Some(&b"224.2.1.1"[..]));
        assert!(line("c=IN IP4 0.0.0.0/127").is_on_hold() && line("c=IN IP6 [::]").is_on_hold());
        assert!(!line("c=IN IP4 10.0.0.1").is_on_hold() && !line("c=").is_on_hold() && !line("s=x").is_on_hold());
    }

    #[test]
    fn the_parts_are_the_whole_text() {
        for text in [BODY, b"", b"v=0", b"m=audio 1 RTP/AVP 0\nm=\n\n", b"x\r\n=\r\nm=a"] {
            let sdp = Sdp::parse(text);
            let mut joined = sdp.session.to_vec();
            sdp.media().for_each(|media| joined.extend_from_slice(media.raw));
            assert_eq!(joined, text);
            let lines: Vec<u8> = SdpLines::new(text).flat_map(|line| line.raw.to_vec()).collect();
            assert_eq!(lines, text);
        }
    }
}
