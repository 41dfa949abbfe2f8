//! Codecs and media sections of a session description: found, removed, moved. The description is rewritten as text.

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::regex::PosixRegex;
use tandem_script::vm::Arg;
use tandem_sip::sdp::{Media, Sdp};

use super::parts::current_sdp;
use crate::core::table::done;

/// Which codecs are meant.
enum Wanted<'a> {
    Name(&'a [u8], Option<&'a [u8]>),
    Matching(&'a PosixRegex),
    Others(&'a PosixRegex),
}

impl Wanted<'_> {
    fn fits(&self, codec: &Codec<'_>) -> bool {
        match self {
            Wanted::Name(name, clock) => {
                codec.name.eq_ignore_ascii_case(name)
                    && clock.is_none_or(|clock| codec.clock.eq_ignore_ascii_case(clock))
            }
            Wanted::Matching(regex) => regex.is_match(codec.name),
            Wanted::Others(regex) => !regex.is_match(codec.name),
        }
    }
}

fn wanted(args: &[Arg]) -> Option<Wanted<'_>> {
    match args.first()? {
        Arg::Regex(regex) => Some(Wanted::Matching(regex)),
        _ => Some(Wanted::Name(arg_text(args, 0)?, arg_text(args, 1).filter(|clock| !clock.is_empty()))),
    }
}

struct Codec<'a> {
    name: &'a [u8],
    clock: &'a [u8],
}

/// Payload types with fixed meaning that need no rtpmap (RFC 3551 §6).
const STATIC: [(&[u8], &[u8], &[u8]); 12] = [
    (b"0", b"PCMU", b"8000"),
    (b"3", b"GSM", b"8000"),
    (b"4", b"G723", b"8000"),
    (b"5", b"DVI4", b"8000"),
    (b"7", b"LPC", b"8000"),
    (b"8", b"PCMA", b"8000"),
    (b"9", b"G722", b"8000"),
    (b"13", b"CN", b"8000"),
    (b"15", b"G728", b"8000"),
    (b"18", b"G729", b"8000"),
    (b"31", b"H261", b"90000"),
    (b"34", b"H263", b"90000"),
];

/// The codec of a payload type in a section.
fn codec<'a>(media: &Media<'a>, payload: &[u8]) -> Option<Codec<'a>> {
    let mapped = media.lines().filter(|line| line.letter == b'a').find_map(|line| {
        let map = line.value.strip_prefix(b"rtpmap:")?;
        let blank = memchr::memchr(b' ', map)?;
        if map.get(..blank)? != payload {
            return None;
        }
        let mut fields = map.get(blank + 1..)?.trim_ascii().split(|byte| *byte == b'/');
        Some(Codec { name: fields.next()?, clock: fields.next().unwrap_or_default() })
    });
    mapped.or_else(|| {
        let (_, name, clock) = STATIC.iter().find(|(number, _, _)| *number == payload)?;
        Some(Codec { name, clock })
    })
}

fn payloads<'a>(media: &Media<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    media.formats.split(|byte| *byte == b' ').filter(|payload| !payload.is_empty())
}

pub(super) fn exists(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(wanted), Some((body, range))) = (wanted(args), current_sdp(context)) else { return done(false) };
    let sdp = Sdp::parse(body.get(range).unwrap_or_default());
    let found = sdp
        .media()
        .any(|media| payloads(&media).any(|payload| codec(&media, payload).is_some_and(|codec| wanted.fits(&codec))));
    done(found)
}

#[derive(Clone, Copy)]
enum Change {
    Delete,
    First,
    Last,
}

/// Whether an attribute line belongs to one of these payload types.
fn is_about(line: &[u8], gone: &[&[u8]]) -> bool {
    let rest = [&b"rtpmap:"[..], b"fmtp:", b"rtcp-fb:"].iter().find_map(|name| line.strip_prefix(*name));
    let Some(rest) = rest else { return false };
    let payload = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    gone.contains(&payload)
}

/// Writes one section changed; false when it is as it was.
fn write_section(media: &Media<'_>, wanted: &Wanted<'_>, change: Change, out: &mut Vec<u8>) -> bool {
    let fits = |payload: &&[u8]| codec(media, payload).is_some_and(|codec| wanted.fits(&codec));
    let (hit, other): (Vec<&[u8]>, Vec<&[u8]>) = payloads(media).partition(fits);
    if hit.is_empty() {
        out.extend_from_slice(media.raw);
        return false;
    }
    let order: Vec<&[u8]> = match change {
        Change::Delete => other,
        Change::First => hit.iter().chain(&other).copied().collect(),
        Change::Last => other.iter().chain(&hit).copied().collect(),
    };
    for (at, line) in media.lines().enumerate() {
        if at == 0 && line.letter == b'm' {
            write_media_line(media, &order, &hit, line.raw, out);
        } else if order.is_empty()
            || !matches!(change, Change::Delete)
            || line.letter != b'a'
            || !is_about(line.value, &hit)
        {
            out.extend_from_slice(line.raw);
        }
    }
    true
}

fn write_media_line(media: &Media<'_>, order: &[&[u8]], hit: &[&[u8]], raw: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"m=");
    out.extend_from_slice(media.kind);
    out.push(b' ');
    // A section without codecs is refused: port 0, its formats stay (RFC 3264 §6).
    out.extend_from_slice(if order.is_empty() { b"0" } else { media.port_text });
    out.push(b' ');
    out.extend_from_slice(media.protocol);
    for payload in if order.is_empty() { hit } else { order } {
        out.push(b' ');
        out.extend_from_slice(payload);
    }
    out.extend_from_slice(if raw.ends_with(b"\r\n") { b"\r\n" } else { b"\n" });
}

/// Puts a changed description back into the body.
fn put_back(context: &mut Context, body: &[u8], range: &std::ops::Range<usize>, sdp: &[u8]) {
    let head = body.get(..range.start).unwrap_or_default();
    let tail = body.get(range.end..).unwrap_or_default();
    context.edits.lumps.set_body([head, sdp, tail].concat());
}

fn change(context: &mut Context, wanted: &Wanted<'_>, how: Change) -> Called {
    let Some((body, range)) = current_sdp(context) else { return done(false) };
    let sdp = Sdp::parse(body.get(range.clone()).unwrap_or_default());
    let mut out = Vec::with_capacity(body.len());
    out.extend_from_slice(sdp.session);
    let mut is_changed = false;
    for media in sdp.media() {
        is_changed |= write_section(&media, wanted, how, &mut out);
    }
    if is_changed {
        put_back(context, &body, &range, &out);
    }
    done(is_changed)
}

pub(super) fn delete(context: &mut Context, args: &[Arg]) -> Called {
    wanted(args).map_or(Called::Done(-1), |wanted| change(context, &wanted, Change::Delete))
}

pub(super) fn delete_except(context: &mut Context, args: &[Arg]) -> Called {
    match args.first() {
        Some(Arg::Regex(regex)) => change(context, &Wanted::Others(regex), Change::Delete),
        _ => done(false),
    }
}

pub(super) fn move_up(context: &mut Context, args: &[Arg]) -> Called {
    wanted(args).map_or(Called::Done(-1), |wanted| change(context, &wanted, Change::First))
}

pub(super) fn move_down(context: &mut Context, args: &[Arg]) -> Called {
    wanted(args).map_or(Called::Done(-1), |wanted| change(context, &wanted, Change::Last))
}

fn is_stream(media: &Media<'_>, args: &[Arg]) -> bool {
    let fits = |at: usize, text: &[u8]| match args.get(at) {
        Some(Arg::Regex(regex)) => regex.is_match(text),
        _ => true,
    };
    fits(0, media.kind) && fits(1, media.protocol)
}

pub(super) fn stream_exists(context: &mut Context, args: &[Arg]) -> Called {
    let Some((body, range)) = current_sdp(context) else { return done(false) };
    done(Sdp::parse(body.get(range).unwrap_or_default()).media().any(|media| is_stream(&media, args)))
}

pub(super) fn stream_delete(context: &mut Context, args: &[Arg]) -> Called {
    let Some((body, range)) = current_sdp(context) else { return done(false) };
    let sdp = Sdp::parse(body.get(range.clone()).unwrap_or_default());
    let mut out = sdp.session.to_vec();
    let mut is_changed = false;
    for media in sdp.media() {
        if is_stream(&media, args) {
            is_changed = true;
        } else {
            out.extend_from_slice(media.raw);
        }
    }
    if is_changed {
        put_back(context, &body, &range, &out);
    }
    done(is_changed)
}
