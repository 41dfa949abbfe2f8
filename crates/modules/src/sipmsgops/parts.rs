//! Body parts removed, added, and read with the changes so far. A changed body replaces the received one as a whole.

use std::ops::Range;

use bytes::Bytes;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_text, arg_var};
use tandem_script::value::Value;
use tandem_script::vm::Arg;
use tandem_sip::{HeaderKind, Lumps, Message};

use super::body::{BodyPart, Parts};
use crate::core::table::done;

/// Boundary of bodies that become multipart here.
const BOUNDARY: &[u8] = b"tandem-body-part";

/// The body as it will be sent.
pub(super) fn current(context: &Context) -> Bytes {
    tandem_sip::edited_body(&context.message, &context.edits.lumps)
}

/// The body type as it will be sent, with parameters.
struct NewType(Option<Vec<u8>>);

fn current_type(context: &mut Context) -> Option<Vec<u8>> {
    if let Some(NewType(kind)) = context.slot::<NewType>() {
        return kind.clone();
    }
    context.message.value_of(HeaderKind::ContentType).map(<[u8]>::to_vec)
}

/// Changes body and type of what is sent.
fn replace(context: &mut Context, kind: Option<Vec<u8>>, body: Vec<u8>) {
    let Context { message, edits, .. } = context;
    match (&kind, message.header(HeaderKind::ContentType)) {
        (Some(kind), Some(entry)) => {
            edits.lumps.replace(entry.whole, [b"Content-Type: ", kind.as_slice(), b"\r\n"].concat())
        }
        (None, Some(entry)) => edits.lumps.remove_header(entry),
        (Some(kind), None) => edits.lumps.append_header(message, [b"Content-Type: ", kind.as_slice()].concat()),
        (None, None) => {}
    }
    edits.lumps.set_body(body);
    context.set_slot(NewType(kind));
}

fn boundary_of(kind: &[u8]) -> Option<&[u8]> {
    if !kind.get(..10)?.eq_ignore_ascii_case(b"multipart/") {
        return None;
    }
    let params = kind.get(memchr::memchr(b';', kind)? + 1..)?;
    let boundary = tandem_sip::Params::new(params).value(b"boundary")?;
    Some(boundary.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(boundary))
}

fn mime_of(kind: &[u8]) -> &[u8] {
    kind.get(..memchr::memchr(b';', kind).unwrap_or(kind.len())).unwrap_or_default().trim_ascii()
}

fn join<'a>(parts: impl Iterator<Item = &'a [u8]>, boundary: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(b"--");
        out.extend_from_slice(boundary);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"--");
    out.extend_from_slice(boundary);
    out.extend_from_slice(b"--\r\n");
    out
}

/// `remove_body_part([mime[, "revert"]])`.
pub(super) fn remove(context: &mut Context, args: &[Arg]) -> Called {
    let body = current(context);
    let Some(kind) = current_type(context).filter(|_| !body.is_empty()) else { return done(false) };
    let Some(wanted) = arg_text(args, 0).filter(|mime| !mime.is_empty()) else {
        replace(context, None, Vec::new());
        return done(true);
    };
    let is_reversed = arg_text(args, 1).is_some_and(|flag| flag.eq_ignore_ascii_case(b"revert"));
    let goes = |mime: &[u8]| mime.eq_ignore_ascii_case(wanted) != is_reversed;
    let Some(boundary) = boundary_of(&kind) else {
        let is_removed = goes(mime_of(&kind));
        if is_removed {
            replace(context, None, Vec::new());
        }
        return done(is_removed);
    };
    let all: Vec<BodyPart<'_>> = Parts::new(&body, boundary).collect();
    let kept: Vec<BodyPart<'_>> = all.iter().copied().filter(|part| !goes(part.mime)).collect();
    if kept.len() == all.len() {
        return done(false);
    }
    match kept.as_slice() {
        [] => replace(context, None, Vec::new()),
        // One part left: the body is that part.
        [only] => replace(context, Some(only.mime.to_vec()), only.body.to_vec()),
        kept => {
            let joined = join(kept.iter().map(|part| part.raw), boundary);
            replace(context, Some(kind.clone()), joined);
        }
    }
    done(true)
}

/// `add_body_part(body, mime[, headers])`.
pub(super) fn add(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(text), Some(mime)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let headers = arg_text(args, 2).unwrap_or_default();
    let body = current(context);
    let kind = current_type(context).filter(|_| !body.is_empty());
    let Some(kind) = kind else {
        replace(context, Some(mime.to_vec()), text.to_vec());
        return done(true);
    };
    let added = [b"Content-Type: ", mime, b"\r\n", headers, b"\r\n", text].concat();
    match boundary_of(&kind) {
        Some(boundary) => {
            let parts: Vec<BodyPart<'_>> = Parts::new(&body, boundary).collect();
            let joined = join(parts.iter().map(|part| part.raw).chain(std::iter::once(added.as_slice())), boundary);
            replace(context, Some(kind.clone()), joined);
        }
        None => {
            let first = [b"Content-Type: ", kind.as_slice(), b"\r\n\r\n", &body[..]].concat();
            let joined = join([first.as_slice(), added.as_slice()].into_iter(), BOUNDARY);
            let kind = [b"multipart/mixed;boundary=\"", BOUNDARY, b"\""].concat();
            replace(context, Some(kind), joined);
        }
    }
    done(true)
}

/// `get_updated_body_part([mime], $var)`.
pub(super) fn updated(context: &mut Context, args: &[Arg]) -> Called {
    let Some(out) = arg_var(args, 1) else { return done(false) };
    let body = current(context);
    let Some(kind) = current_type(context).filter(|_| !body.is_empty()) else { return done(false) };
    let found = match arg_text(args, 0).filter(|mime| !mime.is_empty()) {
        None => Some(&body[..]),
        Some(wanted) if mime_of(&kind).eq_ignore_ascii_case(wanted) => Some(&body[..]),
        Some(wanted) => boundary_of(&kind).and_then(|boundary| {
            Parts::new(&body, boundary).find(|part| part.mime.eq_ignore_ascii_case(wanted)).map(|part| part.body)
        }),
    };
    let Some(found) = found else { return done(false) };
    done(context.write_var(out, Value::text(found)))
}

/// The session description in what will be sent: the whole body and where the description stands in it.
pub(crate) fn current_sdp(context: &mut Context) -> Option<(Bytes, Range<usize>)> {
    let body = current(context);
    sdp_in(body, &current_type(context)?)
}

/// The session description in a received message.
pub(crate) fn received_sdp(message: &Message) -> Option<(Bytes, Range<usize>)> {
    sdp_in(message.slice(message.body_span()), message.value_of(HeaderKind::ContentType)?)
}

/// Where the description stands in a body of type `kind`, given with its parameters.
fn sdp_in(body: Bytes, kind: &[u8]) -> Option<(Bytes, Range<usize>)> {
    if mime_of(kind).eq_ignore_ascii_case(b"application/sdp") {
        let range = 0..body.len();
        return Some((body, range)).filter(|(body, _)| !body.is_empty());
    }
    let range = sdp_part(&body, boundary_of(kind)?)?;
    Some((body, range))
}

/// Where the description stands in a body of several parts.
fn sdp_part(body: &Bytes, boundary: &[u8]) -> Option<Range<usize>> {
    let part = Parts::new(body, boundary).find(|part| part.mime.eq_ignore_ascii_case(b"application/sdp"))?;
    let start = part.body.as_ptr() as usize - body.as_ptr() as usize;
    Some(start..start + part.body.len())
}

/// The session description in what is sent of `message` with `lumps`. Whoever changed the body may have changed its type: a
/// description is known by how it begins (RFC 4566 §5), several parts by their first line.
pub(crate) fn sent_sdp(message: &Message, lumps: &Lumps) -> Option<Bytes> {
    let body = tandem_sip::edited_body(message, lumps);
    if body.starts_with(b"v=") {
        return Some(body);
    }
    let first = body.split(|byte| *byte == b'\n').next()?.trim_ascii_end().strip_prefix(b"--");
    let boundary = message.value_of(HeaderKind::ContentType).and_then(boundary_of);
    let range = boundary.and_then(|boundary| sdp_part(&body, boundary)).or_else(|| sdp_part(&body, first?))?;
    Some(body.slice(range))
}

/// Puts another session description in the place that [`current_sdp`] found.
pub(crate) fn set_sdp(context: &mut Context, body: &Bytes, range: Range<usize>, sdp: &[u8]) {
    let ahead = body.get(..range.start).unwrap_or_default();
    let behind = body.get(range.end..).unwrap_or_default();
    context.edits.lumps.set_body([ahead, sdp, behind].concat());
}
