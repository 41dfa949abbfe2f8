//! Applies lumps while copying a received message out: one pass, untouched bytes as they came. It decides nothing about
//! routing; Via values and the request URI are given to it.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::ParseError;
use crate::lumps::{Edit, Lumps, Rank, value_removal};
use crate::message::{HeaderEntry, Message, StartLine};
use crate::text::{Digits, decimal, push_decimal};
use crate::via::ViaFix;
use crate::{HeaderKind, Span};

/// What [`write_request`] puts into the request beside the lumps.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestOut<'a> {
    /// New request URI; `None` leaves the received one.
    pub uri: Option<&'a [u8]>,
    /// Value of our Via, written on a line of its own before the first one; see [`crate::write_via`].
    pub via: Option<&'a [u8]>,
    /// More header lines of this branch, each with its line end, written before the first received Via but behind ours.
    pub headers: &'a [u8],
    /// Whether the message leaves over a stream, which needs Content-Length (RFC 3261 §18.3).
    pub is_stream: bool,
}

/// An edit of the writer or of the lumps, text borrowed.
#[derive(Clone, Copy)]
struct EditRef<'a> {
    span: Span,
    rank: Rank,
    text: &'a [u8],
}

impl<'a> From<&'a Edit> for EditRef<'a> {
    #[inline]
    fn from(edit: &'a Edit) -> Self {
        Self { span: edit.span, rank: edit.rank, text: &edit.text }
    }
}

/// All edits of one output, sorted by offset and rank.
#[derive(Default)]
struct Plan<'a> {
    edits: SmallVec<[EditRef<'a>; 16]>,
}

impl<'a> Plan<'a> {
    /// Adds an edit behind those of the same place.
    fn add(&mut self, span: Span, rank: Rank, text: &'a [u8]) {
        let key = (span.start, rank);
        let at = self.edits.partition_point(|edit| (edit.span.start, edit.rank) <= key);
        self.edits.insert(at, EditRef { span, rank, text });
    }

    /// Adds an edit in front of those of the same place and rank: its replacement wins over theirs.
    fn add_first(&mut self, span: Span, rank: Rank, text: &'a [u8]) {
        let key = (span.start, rank);
        let at = self.edits.partition_point(|edit| (edit.span.start, edit.rank) < key);
        self.edits.insert(at, EditRef { span, rank, text });
    }

    /// The edits of the head (up to and at the end of the headers) and those of the body.
    fn split(&self, message: &Message) -> (&[EditRef<'a>], &[EditRef<'a>]) {
        let end = message.headers_end();
        self.edits.split_at(self.edits.partition_point(|edit| edit.span.start <= end))
    }

    /// Whether the line of `entry` is deleted as a whole.
    fn deletes(&self, entry: &HeaderEntry) -> bool {
        self.edits.iter().any(|edit| edit.rank == Rank::Replace && edit.span.contains(entry.whole))
    }
}

enum Piece<'a> {
    Kept(Span),
    Text(&'a [u8]),
}

/// Goes through `region` with the edits applied; deletions are cut to the region.
fn walk<'a>(edits: &[EditRef<'a>], region: Span, mut emit: impl FnMut(Piece<'a>)) {
    let mut at = region.start;
    for edit in edits {
        let start = edit.span.start;
        if start > region.end || (start == region.end && edit.rank == Rank::Replace) {
            break;
        }
        if start >= at {
            if start > at {
                emit(Piece::Kept(Span::new(at, start)));
                at = start;
            }
            if !edit.text.is_empty() {
                emit(Piece::Text(edit.text));
            }
        }
        // A text that begins inside what is already gone is gone too; its deletion may still reach further.
        at = at.max(edit.span.end.min(region.end));
    }
    if at < region.end {
        emit(Piece::Kept(Span::new(at, region.end)));
    }
}

fn apply(buf: &[u8], edits: &[EditRef<'_>], region: Span, out: &mut Vec<u8>) {
    walk(edits, region, |piece| match piece {
        Piece::Kept(span) => out.extend_from_slice(span.of(buf)),
        Piece::Text(text) => out.extend_from_slice(text),
    });
}

fn applied_length(edits: &[EditRef<'_>], region: Span) -> usize {
    let mut sum = 0;
    walk(edits, region, |piece| {
        sum += match piece {
            Piece::Kept(span) => span.len(),
            Piece::Text(text) => text.len(),
        }
    });
    sum
}

/// Digits or a whole Content-Length line.
type LengthText = SmallVec<[u8; 64]>;

/// What must happen to Content-Length so that it tells the truth.
enum LengthFix {
    None,
    /// Replace the values of these lines.
    Replace(LengthText),
    /// Add a line.
    Add(LengthText),
}

fn length_fix(message: &Message, lumps: &Lumps, plan: &Plan<'_>, is_stream: bool) -> LengthFix {
    let (head, body) = plan.split(message);
    let is_changed = lumps.body().is_some() || !body.is_empty();
    let is_kept = message.headers_of(HeaderKind::ContentLength).any(|entry| !plan.deletes(entry));
    if is_kept && !is_changed {
        return LengthFix::None;
    }
    let is_given = || head.iter().any(|edit| is_length_line(edit.text));
    if !is_kept && (!(is_changed || is_stream) || is_given()) {
        return LengthFix::None;
    }
    let length = match lumps.body() {
        Some(body) => body.len(),
        None => applied_length(body, message.body_span()),
    };
    let mut scratch = Vec::with_capacity(40);
    if is_kept {
        push_decimal(length as u64, &mut scratch);
        LengthFix::Replace(SmallVec::from_slice(&scratch))
    } else {
        scratch.extend_from_slice(b"Content-Length: ");
        push_decimal(length as u64, &mut scratch);
        scratch.extend_from_slice(b"\r\n");
        LengthFix::Add(SmallVec::from_slice(&scratch))
    }
}

/// Whether an inserted text is a Content-Length header of the script's own.
fn is_length_line(text: &[u8]) -> bool {
    let name = text.split(|&b| b == b':').next().unwrap_or_default();
    name.len() < text.len() && HeaderKind::from_name(crate::trim(name)) == HeaderKind::ContentLength
}

/// The edits of `lumps` as a plan.
fn plan_of(lumps: &Lumps) -> Plan<'_> {
    Plan { edits: lumps.edits().iter().map(EditRef::from).collect() }
}

/// Writes start line, headers and body with all edits.
fn write_planned(message: &Message, lumps: &Lumps, plan: &Plan<'_>, out: &mut Vec<u8>) {
    let (head, body) = plan.split(message);
    let buf = message.buffer();
    out.reserve(buf.len() + 256);
    apply(buf, head, Span::new(message.first_line().start, message.headers_end()), out);
    if message.has_end_of_headers() {
        out.extend_from_slice(message.bytes(Span::new(message.headers_end(), message.body_start())));
    } else {
        out.extend_from_slice(b"\r\n");
    }
    match lumps.body() {
        Some(body) => out.extend_from_slice(body),
        None => apply(buf, body, message.body_span(), out),
    }
}

/// The body as it will be written; that of the message, shared, when nothing in it is changed.
pub fn edited_body(message: &Message, lumps: &Lumps) -> Bytes {
    if let Some(body) = lumps.body() {
        return body.clone();
    }
    let plan = plan_of(lumps);
    let (_, edits) = plan.split(message);
    if edits.is_empty() {
        return message.slice(message.body_span());
    }
    let mut out = Vec::with_capacity(message.body().len() + 256);
    apply(message.buffer(), edits, message.body_span(), &mut out);
    out.into()
}

/// Corrects Content-Length in the plan, then writes.
fn write_edited(message: &Message, lumps: &Lumps, plan: &Plan<'_>, is_stream: bool, out: &mut Vec<u8>) {
    let fix = length_fix(message, lumps, plan, is_stream);
    if matches!(fix, LengthFix::None) {
        return write_planned(message, lumps, plan, out);
    }
    // A plan of its own, because the new text lives shorter than the edits of the caller.
    let mut fixed = Plan { edits: plan.edits.iter().copied().collect() };
    match &fix {
        LengthFix::None => {}
        LengthFix::Replace(digits) => {
            for entry in message.headers_of(HeaderKind::ContentLength) {
                fixed.add_first(entry.value, Rank::Replace, digits);
            }
        }
        LengthFix::Add(line) => fixed.add(Span::at(message.headers_end()), Rank::Before, line),
    }
    write_planned(message, lumps, &fixed, out);
}

/// Writes a request for its next hop: new request URI, our Via in front, lumps applied, Content-Length true to the body.
/// Bytes behind the body (beyond Content-Length) are left out (RFC 3261 §18.3). Appends to `out`.
pub fn write_request(message: &Message, lumps: &Lumps, request: &RequestOut<'_>, out: &mut Vec<u8>) {
    let mut via_lines = SmallVec::<[u8; 256]>::new();
    if let Some(via) = request.via {
        via_lines.extend_from_slice(b"Via: ");
        via_lines.extend_from_slice(via);
        via_lines.extend_from_slice(b"\r\n");
    }
    via_lines.extend_from_slice(request.headers);
    let mut plan = plan_of(lumps);
    if !via_lines.is_empty() {
        let offset = message.header(HeaderKind::Via).map_or(message.first_line().end, |via| via.whole.start);
        plan.add_first(Span::at(offset), Rank::After, &via_lines);
    }
    if let (Some(uri), StartLine::Request { uri: span, .. }) = (request.uri, message.start_line()) {
        plan.add_first(*span, Rank::Replace, uri);
    }
    write_edited(message, lumps, &plan, request.is_stream, out);
}

/// Writes a reply for the hop it goes back to: without the topmost Via value when `strip_top_via` (which may share its line
/// with others), lumps applied, Content-Length true to the body. Appends to `out`.
pub fn write_reply_upstream(message: &Message, lumps: &Lumps, strip_top_via: bool, is_stream: bool, out: &mut Vec<u8>) {
    let mut plan = plan_of(lumps);
    if strip_top_via && let Some(top) = message.values_of(HeaderKind::Via).next() {
        let span = value_removal(message, top.entry, top.span);
        plan.add_first(span, Rank::Replace, &[]);
    }
    write_edited(message, lumps, &plan, is_stream, out);
}

/// Small text written without allocating.
#[derive(Clone, Copy)]
pub(crate) struct FixText {
    bytes: [u8; 64],
    length: usize,
}

impl FixText {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; 64], length: 0 }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        crate::text::sub(&self.bytes, 0, self.length)
    }
}

impl FixText {
    /// As much as there is room for; 64 bytes hold every text of a [`ViaFix`].
    fn push(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(text);
            self.length = end;
        }
    }

    // Not by `write!`, which is ten times the work: this is done for every reply.
    fn push_number(&mut self, number: u16) {
        self.push(decimal(number.into(), &mut Digits::default()));
    }

    fn push_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                for (at, octet) in ip.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.push(b".");
                    }
                    self.push_number(octet.into());
                }
            }
            IpAddr::V6(ip) => {
                let _fits = write!(self, "{ip}");
            }
        }
    }
}

impl std::fmt::Write for FixText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// The edits of a [`ViaFix`]: span to replace (empty for an insertion) and text.
pub(crate) type ViaEdits = SmallVec<[(Span, FixText); 2]>;

/// Where and what to write for `fix` into the topmost Via.
pub(crate) fn via_fix_edits(message: &Message, fix: &ViaFix) -> Result<ViaEdits, ParseError> {
    let mut edits = ViaEdits::new();
    if fix.is_empty() {
        return Ok(edits);
    }
    let via = message.top_via()?;
    let missing = ParseError::Missing(HeaderKind::Via);
    let place = |part: &[u8]| message.span_of(part).ok_or(missing);
    let params = via.params.raw();
    // Behind the last parameter, in front of a comment.
    let end = if params.is_empty() { place(via.sent_by)?.end } else { place(params)?.end };
    if let Some(ip) = fix.received {
        let mut text = FixText::new();
        let span = match via.received {
            Some(old) => place(old)?,
            None => {
                text.push(b";received=");
                Span::at(end)
            }
        };
        text.push_ip(ip);
        edits.push((span, text));
    }
    if let Some(port) = fix.rport {
        let mut text = FixText::new();
        let span = match via.params.find(b"rport") {
            Some(param) => place(param.raw)?,
            None => {
                text.push(b";");
                Span::at(end)
            }
        };
        text.push(b"rport=");
        text.push_number(port);
        edits.push((span, text));
    }
    Ok(edits)
}

/// Records `received` and `rport` of the topmost Via as lumps, so that they travel on with the forwarded request (RFC 3261
/// §18.2.1, RFC 3581 §4).
///
/// # Errors
/// When the topmost Via is missing or malformed.
pub fn annotate_top_via(message: &Message, fix: &ViaFix, lumps: &mut Lumps) -> Result<(), ParseError> {
    for (span, text) in via_fix_edits(message, fix)? {
        let text = Bytes::copy_from_slice(text.as_bytes());
        if span.is_empty() {
            lumps.insert_after(span.start, text);
        } else {
            lumps.replace(span, text);
        }
    }
    Ok(())
}

/// Copies `region` with the edits of [`via_fix_edits`] applied.
pub(crate) fn copy_with_via_edits(message: &Message, region: Span, edits: &ViaEdits, out: &mut Vec<u8>) {
    let mut plan = Plan::default();
    for (span, text) in edits {
        let rank = if span.is_empty() { Rank::After } else { Rank::Replace };
        plan.add(*span, rank, text.as_bytes());
    }
    apply(message.buffer(), &plan.edits, region, out);
}
