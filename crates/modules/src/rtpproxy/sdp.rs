//! Which streams of a session description are relayed, and the description with the relay's addresses. Pure text work.

use std::net::IpAddr;

use tandem_sip::sdp::{Connection, Media, Sdp, SdpLine, SdpLines, address_type};

/// Streams of one description that are relayed; more are left alone.
pub(super) const STREAMS_MAX: usize = 32;

/// A stream to relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    /// Place of its section among all.
    pub(super) section: usize,
    /// Its port.
    pub(super) port: u16,
    /// Its address, when it is one and not a name.
    pub(super) address: Option<IpAddr>,
}

fn parse_ip(connection: &Connection<'_>) -> Option<IpAddr> {
    std::str::from_utf8(connection.address).ok()?.parse().ok()
}

/// The streams that are on: a port, and a transport over datagrams.
pub(super) fn streams(text: &[u8]) -> Vec<Stream> {
    let sdp = Sdp::parse(text);
    let session = sdp.connection();
    let is_on = |media: &Media<'_>| !media.protocol.starts_with(b"TCP") && !media.protocol.is_empty();
    let all = sdp.media().enumerate().filter(|(_, media)| is_on(media));
    all.filter_map(|(section, media)| {
        let port = media.port().filter(|port| *port > 0)?;
        Some(Stream { section, port, address: media.connection().or(session).as_ref().and_then(parse_ip) })
    })
    .take(STREAMS_MAX)
    .collect()
}

/// Where the stream of a section is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) section: usize,
    pub(super) port: u16,
    pub(super) address: IpAddr,
}

/// How a description is changed.
pub(super) struct Rewrite<'a> {
    pub(super) targets: &'a [Target],
    pub(super) changes_origin: bool,
    pub(super) changes_session: bool,
    /// Line to put at the end.
    pub(super) marker: &'a [u8],
}

/// Whether a marker line is in a description.
pub(super) fn has_marker(text: &[u8], marker: &[u8]) -> bool {
    let marker = marker.trim_ascii();
    !marker.is_empty() && SdpLines::new(text).any(|line| line.raw.trim_ascii() == marker)
}

impl Rewrite<'_> {
    pub(super) fn apply(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + 128);
        let sdp = Sdp::parse(text);
        let Some(first) = self.targets.first() else { return text.to_vec() };
        let target = |section: usize| self.targets.iter().find(|target| target.section == section);
        // The session's address holds for every section without its own.
        let is_shared =
            sdp.media().enumerate().any(|(section, media)| media.connection().is_none() && target(section).is_some());
        for line in sdp.session_lines() {
            match line.letter {
                b'c' if is_shared || self.changes_session => write_address(&line, first.address, &mut out),
                b'o' if self.changes_origin => write_address(&line, first.address, &mut out),
                _ => out.extend_from_slice(line.raw),
            }
        }
        for (section, media) in sdp.media().enumerate() {
            match target(section) {
                Some(target) => write_section(&media, target, &mut out),
                None => out.extend_from_slice(media.raw),
            }
        }
        if !self.marker.is_empty() && !has_marker(text, self.marker) {
            if !out.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(self.marker);
        }
        out
    }
}

fn write_section(media: &Media<'_>, target: &Target, out: &mut Vec<u8>) {
    for line in media.lines() {
        match line.letter {
            b'm' => write_port(&line, target.port, out),
            b'c' => write_address(&line, target.address, out),
            b'a' if line.value.starts_with(b"rtcp:") => {
                let has_address = line.value.contains(&b' ');
                out.extend_from_slice(format!("a=rtcp:{}", target.port.saturating_add(1)).as_bytes());
                if has_address {
                    out.extend_from_slice(
                        format!(" IN {} {}", address_type(target.address), target.address).as_bytes(),
                    );
                }
                out.extend_from_slice(b"\r\n");
            }
            _ => out.extend_from_slice(line.raw),
        }
    }
}

/// `m=kind port[/count] ...` with another port.
fn write_port(line: &SdpLine<'_>, port: u16, out: &mut Vec<u8>) {
    let mut words = line.raw.splitn(3, |byte| *byte == b' ');
    let (Some(kind), Some(old), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return out.extend_from_slice(line.raw);
    };
    out.extend_from_slice(kind);
    out.extend_from_slice(format!(" {port}").as_bytes());
    if let Some(slash) = old.iter().position(|byte| *byte == b'/') {
        out.extend_from_slice(old.get(slash..).unwrap_or_default());
    }
    out.push(b' ');
    out.extend_from_slice(rest);
}

/// A `c=` or `o=` line with another address. A stream on hold stays so.
fn write_address(line: &SdpLine<'_>, address: IpAddr, out: &mut Vec<u8>) {
    if line.is_on_hold() {
        return out.extend_from_slice(line.raw);
    }
    line.write_with_address(address, out);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BODY: &str = "v=0\r\no=a 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n\
        m=audio 4000/2 RTP/AVP 0 8\r\na=rtcp:4001 IN IP4 10.0.0.1\r\nm=video 0 RTP/AVP 31\r\nc=IN IP4 10.0.0.2\r\n\
        m=message 5000 TCP/MSRP *\r\nm=image 6000 udptl t38\r\nc=IN IP4 0.0.0.0\r\na=rtcp:6001\r\n";

    fn target(section: usize, port: u16, address: &str) -> Target {
        Target { section, port, address: address.parse().unwrap() }
    }

    #[test]
    fn streams_that_are_on_are_relayed() {
        let all = streams(BODY.as_bytes());
        assert_eq!(all.iter().map(|stream| (stream.section, stream.port)).collect::<Vec<_>>(), [(0, 4000), (3, 6000)]);
        assert_eq!(all[0].address, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn addresses_and_ports_are_replaced_and_nothing_else() {
        let targets = [target(0, 35000, "192.0.2.1"), target(3, 35002, "192.0.2.1")];
        let rewrite = Rewrite {
            targets: &targets,
            changes_origin: true,
            changes_session: false,
            marker: b"a=nortpproxy:yes\r\n",
        };
        let text = String::from_utf8(rewrite.apply(BODY.as_bytes())).unwrap();
        assert_eq!(
            text,
            "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
             m=audio 35000/2 RTP/AVP 0 8\r\na=rtcp:35001 IN IP4 192.0.2.1\r\nm=video 0 RTP/AVP 31\r\nc=IN IP4 10.0.0.2\r\n\
             m=message 5000 TCP/MSRP *\r\nm=image 35002 udptl t38\r\nc=IN IP4 0.0.0.0\r\na=rtcp:35003\r\na=nortpproxy:yes\r\n"
        );
        assert!(
            has_marker(text.as_bytes(), b"a=nortpproxy:yes\r\n")
                && !has_marker(BODY.as_bytes(), b"a=nortpproxy:yes\r\n")
        );
        assert!(!has_marker(text.as_bytes(), b""));
    }

    #[test]
    fn the_family_follows_the_relay() {
        let body = "v=0\r\nc=IN IP4 10.0.0.9\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 10.0.0.1\r\n";
        let targets = [target(0, 7000, "2001:db8::1")];
        let rewrite = |changes_session| {
            let rewrite = Rewrite { targets: &targets, changes_origin: false, changes_session, marker: b"" };
            String::from_utf8(rewrite.apply(body.as_bytes())).unwrap()
        };
        assert_eq!(rewrite(false), "v=0\r\nc=IN IP4 10.0.0.9\r\nm=audio 7000 RTP/AVP 0\r\nc=IN IP6 2001:db8::1\r\n");
        assert!(rewrite(true).contains("v=0\r\nc=IN IP6 2001:db8::1\r\n"));
    }

    #[test]
    fn hostile_texts_do_no_harm() {
        let many = "m=audio 4000 RTP/AVP 0\r\n".repeat(5000);
        assert_eq!(streams(many.as_bytes()).len(), STREAMS_MAX);
        for text in [
            "",
            "m=",
            "m=audio",
            "m=audio 4000",
            "m=audio 99999 RTP/AVP 0",
            "m=audio -1 RTP/AVP 0\nc=",
            "c=\0",
            "o=\r\nm=a 1 R\nc=IN\na=rtcp:",
        ] {
            let targets = [target(0, 1, "192.0.2.1")];
            let rewrite =
                Rewrite { targets: &targets, changes_origin: true, changes_session: true, marker: b"a=x\r\n" };
            let _ = streams(text.as_bytes());
            assert!(rewrite.apply(text.as_bytes()).ends_with(b"a=x\r\n"), "{text:?}");
        }
    }
}
