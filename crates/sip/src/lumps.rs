//! Edits of a received message, recorded and not applied: offsets into its buffer and new text. The buffer itself is
//! never touched, and copying the list for a branch copies no text.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::message::{HeaderEntry, Message};
use crate::{HeaderKind, Span};

/// Most edits one list takes; more are refused (counted in [`Lumps::refused`]), so a looping script costs only itself.
pub const EDITS_MAX: usize = 4096;

/// Where an edit stands among others at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Text that belongs to the byte in front.
    After,
    /// Text that belongs to the byte behind.
    Before,
    /// Text in place of a deleted span.
    Replace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) span: Span,
    pub(crate) rank: Rank,
    pub(crate) text: Bytes,
}

/// The edits of one message or branch. All offsets count in the received buffer.
///
/// Order at one offset: texts of `insert_after`, then of `insert_before`, each in the order of the calls, then a
/// replacement that starts there. Insertions strictly inside a deleted span vanish with it. Replacing exactly the same
/// span again replaces the text; of two overlapping deletions the union goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lumps {
    /// Sorted by offset and rank, so that writing needs no sorting.
    edits: SmallVec<[Edit; 4]>,
    body: Option<Bytes>,
    reply_headers: SmallVec<[Bytes; 2]>,
    refused: u32,
}

impl Lumps {
    /// No edits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is to be changed in the message; reply headers do not count.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.body.is_none()
    }

    /// Number of recorded edits.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.edits.len() + usize::from(self.body.is_some())
    }

    /// How many edits were refused because the list was full.
    #[inline]
    #[must_use]
    pub const fn refused(&self) -> u32 {
        self.refused
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.edits.clear();
        self.body = None;
        self.reply_headers.clear();
    }

    pub(crate) fn edits(&self) -> &[Edit] {
        &self.edits
    }

    fn add(&mut self, span: Span, rank: Rank, text: Bytes) {
        if self.edits.len() >= EDITS_MAX {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        let key = (span.start, rank);
        let at = self.edits.partition_point(|edit| (edit.span.start, edit.rank) <= key);
        self.edits.insert(at, Edit { span, rank, text });
    }

    /// Removes the bytes of `span`.
    pub fn delete(&mut self, span: Span) {
        self.replace(span, Bytes::new());
    }

    /// Puts `text` in place of `span`.
    pub fn replace(&mut self, span: Span, text: impl Into<Bytes>) {
        if span.is_empty() {
            return self.insert_before(span.start, text);
        }
        let text = text.into();
        match self.edits.iter_mut().find(|edit| edit.rank == Rank::Replace && edit.span == span) {
            Some(same) => same.text = text,
            None => self.add(span, Rank::Replace, text),
        }
    }

    /// Puts `text` at `offset`, in front of texts inserted there with `insert_before`.
    pub fn insert_after(&mut self, offset: u32, text: impl Into<Bytes>) {
        self.add(Span::at(offset), Rank::After, text.into());
    }

    /// Puts `text` at `offset`, directly before the byte there and behind earlier insertions.
    pub fn insert_before(&mut self, offset: u32, text: impl Into<Bytes>) {
        self.add(Span::at(offset), Rank::Before, text.into());
    }

    /// Adds a header line at the end of the headers (OpenSIPS: sipmsgops, `append_hf()`); a missing line end is added.
    pub fn append_header(&mut self, message: &Message, line: impl Into<Bytes>) {
        self.insert_after(message.headers_end(), with_line_end(line.into()));
    }

    /// Adds a header line before the first header (OpenSIPS: sipmsgops, `insert_hf()`); a missing line end is added.
    pub fn insert_header(&mut self, message: &Message, line: impl Into<Bytes>) {
        self.insert_before(message.first_line().end, with_line_end(line.into()));
    }

    /// Adds a header line in front of the header `entry`; a missing line end is added.
    pub fn insert_header_before(&mut self, entry: &HeaderEntry, line: impl Into<Bytes>) {
        self.insert_before(entry.whole.start, with_line_end(line.into()));
    }

    /// Adds a header line behind the header `entry`; a missing line end is added.
    pub fn insert_header_after(&mut self, entry: &HeaderEntry, line: impl Into<Bytes>) {
        self.insert_after(entry.whole.end, with_line_end(line.into()));
    }

    /// Adds a header line in front of the first header of `kind`, or at the end of the headers when there is none: where
    /// Record-Route, Route and Path of a proxy go.
    pub fn insert_header_of_kind(&mut self, message: &Message, kind: HeaderKind, line: impl Into<Bytes>) {
        match message.header(kind) {
            Some(first) => self.insert_header_before(first, line),
            None => self.append_header(message, line),
        }
    }

    /// Removes a whole header line, its folds and line end included.
    pub fn remove_header(&mut self, entry: &HeaderEntry) {
        self.delete(entry.whole);
    }

    /// Removes all header lines of a kind; returns how many.
    pub fn remove_headers_of(&mut self, message: &Message, kind: HeaderKind) -> usize {
        let mut count = 0;
        for entry in message.headers_of(kind) {
            self.remove_header(entry);
            count += 1;
        }
        count
    }

    /// Removes one value of a comma list, given its span: the line goes when it was the only one, else the value and one
    /// comma next to it.
    pub fn remove_value(&mut self, message: &Message, entry: &HeaderEntry, value: Span) {
        let span = value_removal(message, entry, value);
        self.delete(span);
    }

    /// Replaces the body of a header, its name kept.
    pub fn set_header_value(&mut self, entry: &HeaderEntry, value: impl Into<Bytes>) {
        self.replace(entry.value, value);
    }

    /// Replaces the whole body; the writer corrects Content-Length. Edits inside the old body are ignored then.
    pub fn set_body(&mut self, body: impl Into<Bytes>) {
        self.body = Some(body.into());
    }

    /// The replaced body, if it was.
    #[inline]
    #[must_use]
    pub const fn body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }

    /// Adds a header line for replies generated here to this request (OpenSIPS: sipmsgops, `append_to_reply()`).
    pub fn append_to_reply(&mut self, line: impl Into<Bytes>) {
        if self.reply_headers.len() >= EDITS_MAX {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        self.reply_headers.push(with_line_end(line.into()));
    }

    /// Header lines, with line ends, for locally generated replies.
    #[inline]
    #[must_use]
    pub fn reply_headers(&self) -> &[Bytes] {
        &self.reply_headers
    }

    /// Adds all edits of `other`, behind the own ones at the same offset: branch edits on top of those of the request.
    pub fn extend(&mut self, other: &Self) {
        for edit in &other.edits {
            match edit.rank {
                Rank::Replace => self.replace(edit.span, edit.text.clone()),
                rank => self.add(edit.span, rank, edit.text.clone()),
            }
        }
        if other.body.is_some() {
            self.body.clone_from(&other.body);
        }
        self.reply_headers.extend(other.reply_headers.iter().cloned());
    }
}

/// A header line must end in a line end, or it would swallow its neighbour.
fn with_line_end(line: Bytes) -> Bytes {
    if line.ends_with(b"\n") || line.is_empty() {
        return line;
    }
    let mut owned = Vec::with_capacity(line.len() + 2);
    owned.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(&line));
    owned.extend_from_slice(b"\r\n");
    owned.into()
}

/// The span to delete so that one value of the list in `entry` goes.
pub(crate) fn value_removal(message: &Message, entry: &HeaderEntry, value: Span) -> Span {
    let body = entry.value;
    if !body.contains(value) {
        return Span::at(entry.whole.start);
    }
    let behind = message.bytes(Span::new(value.end, body.end));
    // The next value starts behind the comma and its blanks; the first value takes the comma with it.
    if let Some(comma) = behind.iter().position(|b| !crate::text::is_blank(*b) && *b == b',') {
        let rest = crate::text::tail(behind, comma + 1);
        let next = crate::text::trim_start(rest);
        if !next.is_empty() {
            return Span::new(value.start, body.end - next.len() as u32);
        }
    }
    let ahead = message.bytes(Span::new(body.start, value.start));
    let kept = crate::text::trim_end(ahead);
    match kept.strip_suffix(b",").map(crate::text::trim_end) {
        Some(kept) if !kept.is_empty() => Span::new(body.start + kept.len() as u32, body.end.max(value.end)),
        _ => entry.whole,
    }
}
