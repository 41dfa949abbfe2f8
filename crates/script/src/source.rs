//! Source files of a script and positions in them, includes spliced into one flat text. It reads files only through [`FileReader`].

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::ast::{FileId, Span};

/// Longest line that is shown, in bytes.
const EXCERPT_BYTES_MAX: usize = 10_000;
/// Bytes of a line before a place up to which columns count characters; behind them they count bytes.
const COLUMN_BYTES_MAX: usize = 100_000;

/// Where file contents come from: the file system in the program, a table in tests.
pub trait FileReader {
    /// The whole file; `NotFound` lets the search go on in the next directory.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

impl<F: Fn(&Path) -> io::Result<Vec<u8>>> FileReader for F {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self(path)
    }
}

/// Reads a script with everything it includes (at most 2,000 includes, 50 deep, 64 MiB in all; a loop is an error).
/// The map is usable even when there are errors: it holds what could be read.
pub fn load(path: &Path, files: &dyn FileReader) -> (SourceMap, Vec<crate::diagnostic::Diagnostic>) {
    crate::include::load(path, files)
}

/// A position a person understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// File name as it was opened.
    pub name: &'a str,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// The lines of a span, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The text of the first line of the span, invalid UTF-8 replaced, without a final newline.
    pub text: String,
    /// The part of `text` that the span covers.
    pub span: Range<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) text: Vec<u8>,
    line_starts: Vec<u32>,
    /// For the output of a preprocessor: file and line each of its lines came from.
    origins: Option<Vec<(FileId, u32)>>,
}

impl SourceFile {
    fn new(name: String, text: Vec<u8>) -> SourceFile {
        let starts = memchr::memchr_iter(b'\n', &text).map(|at| at as u32 + 1);
        let line_starts = std::iter::once(0).chain(starts).collect();
        SourceFile { name, text, line_starts, origins: None }
    }

    /// Index of the line, from 0, and the range of its bytes without the newline.
    fn line_of(&self, offset: u32) -> (usize, Range<usize>) {
        let index = self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1);
        let start = self.line_starts.get(index).map_or(0, |start| *start as usize);
        let end = self.line_starts.get(index + 1).map_or(self.text.len(), |next| *next as usize - 1);
        (index, start..end.max(start))
    }
}

/// A piece of a file inside the flat text.
#[derive(Clone, Copy, Debug)]
struct Segment {
    flat_start: u32,
    file: FileId,
    file_start: u32,
    len: u32,
}

/// All source texts of a script.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
    flat: Vec<u8>,
    segments: Vec<Segment>,
}

/// Begins the lines that carry positions through a preprocessor; `#` keeps m4 from expanding anything in them.
const MARKER: &[u8] = b"#@line ";

impl SourceMap {
    /// One file given as text; include lines in it are not followed (use [`load`] for that).
    pub fn from_text(name: &str, text: impl Into<Vec<u8>>) -> SourceMap {
        let mut map = SourceMap::default();
        let text: Vec<u8> = text.into();
        let len = text.len();
        let file = map.add_file(name.to_owned(), text);
        map.push_piece(file, 0..len);
        map.finish_line();
        map
    }

    pub(crate) fn add_file(&mut self, name: String, text: Vec<u8>) -> FileId {
        self.files.push(SourceFile::new(name, text));
        FileId((self.files.len() - 1) as u16)
    }

    pub(crate) fn file_named(&self, name: &str) -> Option<FileId> {
        self.files.iter().position(|file| file.name == name).map(|index| FileId(index as u16))
    }

    /// Appends a range of a file to the flat text.
    pub(crate) fn push_piece(&mut self, file: FileId, range: Range<usize>) {
        let Some(source) = self.files.get(usize::from(file.0)) else { return };
        let Some(bytes) = source.text.get(range.clone()) else { return };
        if bytes.is_empty() {
            return;
        }
        let segment = Segment {
            flat_start: self.flat.len() as u32,
            file,
            file_start: range.start as u32,
            len: bytes.len() as u32,
        };
        self.flat.extend_from_slice(bytes);
        self.segments.push(segment);
    }

    /// Ends an unfinished last line.
    pub(crate) fn finish_line(&mut self) {
        if self.flat.last().is_some_and(|last| *last != b'\n') {
            self.flat.push(b'\n');
        }
    }

    /// The whole script as one text, includes in place.
    pub fn flat(&self) -> &[u8] {
        &self.flat
    }

    /// The span of a range of the flat text; one that crosses into another file is cut at the border.
    pub fn span(&self, start: u32, end: u32) -> Span {
        let index = self.segments.partition_point(|segment| segment.flat_start <= start).saturating_sub(1);
        let Some(segment) = self.segments.get(index) else { return Span::default() };
        let from = start.saturating_sub(segment.flat_start).min(segment.len);
        let to = end.saturating_sub(segment.flat_start).clamp(from, segment.len);
        Span { file: segment.file, start: segment.file_start + from, end: segment.file_start + to }
    }

    /// Name of a file, as it was opened.
    pub fn name(&self, file: FileId) -> &str {
        self.files.get(usize::from(file.0)).map_or("", |file| file.name.as_str())
    }

    /// Text of a file.
    pub fn text(&self, file: FileId) -> &[u8] {
        self.files.get(usize::from(file.0)).map_or(&[], |file| file.text.as_slice())
    }

    /// Number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The source text of a span.
    pub fn slice(&self, span: Span) -> &[u8] {
        self.text(span.file).get(span.start as usize..span.end as usize).unwrap_or(&[])
    }

    /// Where a span begins.
    pub fn location(&self, span: Span) -> Location<'_> {
        self.locate(span.file, span.start)
    }

    /// Where a span ends (the place behind its last character).
    pub fn end_location(&self, span: Span) -> Location<'_> {
        self.locate(span.file, span.end.max(span.start))
    }

    fn locate(&self, file: FileId, offset: u32) -> Location<'_> {
        let Some(source) = self.files.get(usize::from(file.0)) else {
            return Location { name: "", line: 1, column: 1 };
        };
        let (index, line) = source.line_of(offset);
        let before = source.text.get(line.start..(offset as usize).clamp(line.start, line.end)).unwrap_or(&[]);
        let column = match before.len() {
            // Lines that nobody reads: a thousand findings in one of ten megabytes must not take minutes.
            long if long > COLUMN_BYTES_MAX => 1 + long as u32,
            _ => 1 + String::from_utf8_lossy(before).chars().count() as u32,
        };
        match source.origins.as_ref().and_then(|origins| origins.get(index)) {
            Some((origin, origin_line)) => Location { name: self.name(*origin), line: *origin_line, column },
            None => Location { name: &source.name, line: index as u32 + 1, column },
        }
    }

    /// The first line of a span and the part of it that the span covers; empty for a line that is too long to be shown.
    pub fn excerpt(&self, span: Span) -> Excerpt {
        let Some(source) = self.files.get(usize::from(span.file.0)) else {
            return Excerpt { text: String::new(), span: 0..0 };
        };
        let (_, mut line) = source.line_of(span.start);
        if line.len() > EXCERPT_BYTES_MAX {
            return Excerpt { text: String::new(), span: 0..0 };
        }
        if source.text.get(line.clone()).is_some_and(|text| text.ends_with(b"\r")) {
            line.end -= 1;
        }
        let start = (span.start as usize).clamp(line.start, line.end);
        let end = (span.end as usize).clamp(start, line.end);
        let part = |range: Range<usize>| String::from_utf8_lossy(source.text.get(range).unwrap_or(&[]));
        let mut text = part(line.start..start).into_owned();
        let from = text.len();
        text.push_str(&part(start..end));
        let to = text.len();
        text.push_str(&part(end..line.end));
        Excerpt { span: from..to, text }
    }

    /// Number of the line a span begins in, from 1, in its own file (for the output of a preprocessor: in that output).
    pub fn source_line(&self, span: Span) -> u32 {
        self.files.get(usize::from(span.file.0)).map_or(1, |source| source.line_of(span.start).0 as u32 + 1)
    }

    /// The flat text for a preprocessor (`-p`): before each source line a comment line with its position.
    pub fn marked_text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.flat.len() * 2);
        for segment in &self.segments {
            let start = segment.flat_start as usize;
            let piece = self.flat.get(start..start + segment.len as usize).unwrap_or(&[]);
            let mut offset = segment.file_start;
            for line in piece.split_inclusive(|byte| *byte == b'\n') {
                let number = self.files.get(usize::from(segment.file.0)).map_or(0, |file| file.line_of(offset).0 + 1);
                out.extend_from_slice(MARKER);
                out.extend_from_slice(format!("{} {}\n", segment.file.0, number).as_bytes());
                out.extend_from_slice(line);
                if line.last() != Some(&b'\n') {
                    out.push(b'\n');
                }
                offset += line.len() as u32;
            }
        }
        out
    }

    /// The script as a preprocessor returned it; positions follow the marker lines of [`SourceMap::marked_text`].
    #[must_use]
    pub fn with_preprocessed(mut self, output: &[u8]) -> SourceMap {
        let mut text = Vec::with_capacity(output.len());
        let mut origins = Vec::new();
        let mut at = (FileId(0), 1);
        for line in output.split_inclusive(|byte| *byte == b'\n') {
            if let Some(position) = parse_marker(line) {
                at = position;
                continue;
            }
            text.extend_from_slice(line);
            origins.push(at);
            at.1 += 1;
        }
        origins.push(at);
        let len = text.len();
        let file = self.add_file("<preprocessed>".to_owned(), text);
        if let Some(source) = self.files.get_mut(usize::from(file.0)) {
            source.origins = Some(origins);
        }
        self.flat.clear();
        self.segments.clear();
        self.push_piece(file, 0..len);
        self.finish_line();
        self
    }

    /// The text of a span for messages, invalid UTF-8 replaced.
    pub fn display(&self, span: Span) -> Cow<'_, str> {
        String::from_utf8_lossy(self.slice(span))
    }
}

fn parse_marker(line: &[u8]) -> Option<(FileId, u32)> {
    let rest = std::str::from_utf8(line.strip_prefix(MARKER)?).ok()?;
    let (file, number) = rest.trim_end().split_once(' ')?;
    Some((FileId(file.parse().ok()?), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_count_lines_and_characters_from_one() {
        let map = SourceMap::from_text("a.cfg", "ab\nc\u{e9}d\n");
        let at = |start| {
            let location = map.location(Span { file: FileId(0), start, end: start });
            (location.line, location.column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(2), (1, 3));
        assert_eq!(at(3), (2, 1));
        assert_eq!(at(6), (2, 3), "two bytes are one character");
        assert_eq!(at(999), (3, 1), "past the end is the last line");
    }

    #[test]
    fn an_excerpt_is_one_line_and_survives_bad_utf8() {
        let map = SourceMap::from_text("a.cfg", b"x\xff\xffyz\r\nnext".to_vec());
        let excerpt = map.excerpt(Span { file: FileId(0), start: 3, end: 100 });
        assert_eq!(excerpt.text, "x\u{fffd}\u{fffd}yz");
        assert_eq!(excerpt.text.get(excerpt.span), Some("yz"));
    }

    #[test]
    fn positions_survive_a_preprocessor_that_changes_lines() {
        let map = SourceMap::from_text("a.cfg", "one\ntwo\nthree\n");
        let marked = String::from_utf8(map.marked_text()).unwrap_or_default();
        let output = marked.replace("two\n", "").replace("three", "3 3");
        let map = map.with_preprocessed(output.as_bytes());
        assert_eq!(map.flat(), b"one\n3 3\n");
        let location = map.location(map.span(6, 7));
        assert_eq!((location.name, location.line, location.column), ("a.cfg", 3, 3));
    }
}
