//! `fix_nated_sdp()`: addresses of a session description rewritten, lines added. Media ports stay as they are.

use std::net::IpAddr;

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::sdp::SdpLines;
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
            let (is_wanted, keeps, name) = match line.letter {
                b'c' => (self.has(REWRITE_MEDIA_IP), self.keeps_old_media, "oldcip"),
                b'o' => (self.has(REWRITE_ORIGIN_IP), self.keeps_old_origin, "oldoip"),
                _ => (false, false, ""),
            };
            match line.address() {
                Some(old) if is_wanted && (self.has(REWRITE_NULL_IPS) || !line.is_on_hold()) => {
                    line.write_with_address(self.ip, &mut out);
                    if keeps {
                        note(name, old);
                    }
                }
                _ => out.extend_from_slice(line.raw),
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
}

fn end_line(out: &mut Vec<u8>) {
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
}
