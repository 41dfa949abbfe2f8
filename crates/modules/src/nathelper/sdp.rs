//! `fix_nated_sdp()`: addresses of a session description rewritten, lines added. Media ports stay as they are.

use std::net::IpAddr;

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::sdp::{SdpLine, SdpLines};
use tandem_sip::{Message, eq_ignore_case};

use super::{Nathelper, filled};
use crate::core::table::done;
use crate::sipmsgops::body::{Parts, boundary};
use crate::sipmsgops::{current_sdp, set_sdp};

const ADD_DIR_ACTIVE: u32 = 1;
const REWRITE_MEDIA_IP: u32 = 2;
const ADD_NO_RTPPROXY: u32 = 4;
const REWRITE_ORIGIN_IP: u32 = 8;
const REWRITE_NULL_IPS: u32 = 16;

const NAMES: &[(&str, u32)] = &[
    ("add-dir-active", ADD_DIR_ACTIVE),
    ("rewrite-media-ip", REWRITE_MEDIA_IP),
    ("add-no-rtpproxy", ADD_NO_RTPPROXY),
    ("rewrite-origin-ip", REWRITE_ORIGIN_IP),
    ("rewrite-null-ips", REWRITE_NULL_IPS),
];

/// The session description of a message as received: its body, or a part of it.
pub(super) fn received(message: &Message) -> Option<&[u8]> {
    let is_sdp = |mime: &[u8]| eq_ignore_case(mime, b"application/sdp");
    if message.content_type().is_some_and(is_sdp) {
        return Some(message.body()).filter(|body| !body.is_empty());
    }
    Parts::new(message.body(), boundary(message)?).find(|part| is_sdp(part.mime)).map(|part| part.body)
}

/// `fix_nated_sdp(flags[, ip_address[, sdp_fields]])`.
pub(super) fn fix_nated_sdp(own: &Nathelper, context: &mut Context, args: &[Arg]) -> Called {
    let flags = super::mask(context, "fix_nated_sdp", arg_text(args, 0).unwrap_or_default(), NAMES);
    let ip = match filled(args, 1) {
        None => context.source.src.ip().to_canonical(),
        Some(text) => match parse_ip(text) {
            Some(ip) => ip,
            None => {
                let text = String::from_utf8_lossy(text).into_owned();
                context.log(LogLevel::Error, &format!("fix_nated_sdp(): '{text}' is no IP address"));
                return done(false);
            }
        },
    };
    let Some((body, range)) = current_sdp(context) else { return done(false) };
    let fix = Fix {
        flags,
        ip,
        marker: &own.nortpproxy,
        fields: filled(args, 2).unwrap_or_default(),
        keeps_old_media: !own.skips_old_media,
        keeps_old_origin: !own.skips_old_origin,
    };
    let fixed = fix.apply(body.get(range.clone()).unwrap_or_default());
    set_sdp(context, &body, range, &fixed);
    done(true)
}

fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    let text = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]")).unwrap_or(text);
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

struct Fix<'a> {
    flags: u32,
    ip: IpAddr,
    marker: &'a [u8],
    fields: &'a [u8],
    keeps_old_media: bool,
    keeps_old_origin: bool,
}

impl Fix<'_> {
    fn has(&self, bit: u32) -> bool {
        self.flags & bit != 0
    }

    fn apply(&self, sdp: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(sdp.len() + 128);
        let mut old: Vec<Vec<u8>> = Vec::new();
        let mut note = |name: &str, address: &[u8]| {
            let line = [b"a=", name.as_bytes(), b":", address, b"\r\n"].concat();
            if !old.contains(&line) {
                old.push(line);
            }
        };
        for line in SdpLines::new(sdp) {
            let (first, keeps, name) = match line.letter {
                b'c' if self.has(REWRITE_MEDIA_IP) => (0, self.keeps_old_media, "oldcip"),
                b'o' if self.has(REWRITE_ORIGIN_IP) => (3, self.keeps_old_origin, "oldoip"),
                _ => {
                    out.extend_from_slice(line.raw);
                    continue;
                }
            };
            match self.rewrite(&line, first, &mut out) {
                Some(address) if keeps => note(name, address),
                _ => {}
            }
        }
        end_line(&mut out);
        if self.has(ADD_DIR_ACTIVE) {
            out.extend_from_slice(b"a=direction:active\r\n");
        }
        old.iter().for_each(|line| out.extend_from_slice(line));
        if self.has(ADD_NO_RTPPROXY) {
            out.extend_from_slice(self.marker);
            end_line(&mut out);
        }
        if !self.fields.is_empty() {
            out.extend_from_slice(self.fields.trim_ascii());
            end_line(&mut out);
        }
        out
    }

    /// Writes a line whose words from number `first` on are network type, address type and address; gives the old
    /// address when it was replaced.
    fn rewrite<'l>(&self, line: &SdpLine<'l>, first: usize, out: &mut Vec<u8>) -> Option<&'l [u8]> {
        let words: Vec<&[u8]> = line.value.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
        let (Some(ahead), Some(address)) = (words.get(..=first), words.get(first + 2)) else {
            out.extend_from_slice(line.raw);
            return None;
        };
        let old = address.split(|byte| *byte == b'/').next().unwrap_or_default();
        if is_null(old) && !self.has(REWRITE_NULL_IPS) {
            out.extend_from_slice(line.raw);
            return None;
        }
        out.extend_from_slice(&[line.letter, b'=']);
        for word in ahead {
            out.extend_from_slice(word);
            out.push(b' ');
        }
        let family = if self.ip.is_ipv6() { "IP6" } else { "IP4" };
        out.extend_from_slice(format!("{family} {}\r\n", self.ip).as_bytes());
        Some(old)
    }
}

/// `0.0.0.0` and `::` put a stream on hold (RFC 3264 §8.4).
fn is_null(address: &[u8]) -> bool {
    parse_ip(address).is_some_and(|ip| ip.is_unspecified())
}

fn end_line(out: &mut Vec<u8>) {
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
}
