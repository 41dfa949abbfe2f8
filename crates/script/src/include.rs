//! Splices `include_file` and `import_file` lines (specification §1.1). It runs no preprocessor command; the program does that.

use std::io;
use std::path::{Path, PathBuf};

use crate::ast::{FileId, Span};
use crate::diagnostic::Diagnostic;
use crate::lexer::scan;
use crate::source::{FileReader, SourceMap};

/// Includes inside includes.
pub(crate) const INCLUDE_DEPTH_MAX: usize = 50;
/// Include lines of a whole script, so that files that include each other many times end.
pub(crate) const INCLUDE_COUNT_MAX: usize = 2_000;
/// Longest path of an include line, in bytes.
pub(crate) const INCLUDE_PATH_MAX: usize = 255;
/// Longest flat text, in bytes.
pub(crate) const FLAT_BYTES_MAX: usize = 64 << 20;

const WORDS: [&[u8]; 2] = [b"include_file", b"import_file"];

/// Reads a script with everything it includes. The map is usable even when there are errors: it holds what could be read.
pub(crate) fn load(path: &Path, files: &dyn FileReader) -> (SourceMap, Vec<Diagnostic>) {
    let mut loader = Loader { files, map: SourceMap::default(), diagnostics: Vec::new(), stack: Vec::new(), count: 0 };
    match files.read(path) {
        Ok(text) => {
            let file = loader.map.add_file(path.display().to_string(), text);
            loader.splice(file, path);
        }
        Err(error) => {
            let file = loader.map.add_file(path.display().to_string(), Vec::new());
            let span = Span { file, start: 0, end: 0 };
            loader.diagnostics.push(Diagnostic::error(
                "unreadable-file",
                span,
                format!("cannot read {}: {error}", path.display()),
            ));
        }
    }
    (loader.map, loader.diagnostics)
}

struct Loader<'a> {
    files: &'a dyn FileReader,
    map: SourceMap,
    diagnostics: Vec<Diagnostic>,
    /// Files being spliced, outermost first.
    stack: Vec<FileId>,
    count: usize,
}

/// An include line.
struct Include {
    path: String,
    /// Written as `import_file`: 2.4 goes on without the file.
    is_import: bool,
    /// Range of the quoted path in the file.
    start: usize,
    end: usize,
}

impl Loader<'_> {
    fn splice(&mut self, file: FileId, path: &Path) {
        self.stack.push(file);
        let text = self.map.text(file).to_vec();
        let mut state = scan::State::default();
        let mut piece_start = 0;
        let mut line_start = 0;
        while line_start < text.len() {
            let rest = text.get(line_start..).unwrap_or(&[]);
            let line_end = memchr::memchr(b'\n', rest).map_or(text.len(), |at| line_start + at + 1);
            let line = text.get(line_start..line_end).unwrap_or(&[]);
            let include = if state.is_code() { include_line(line) } else { None };
            match include {
                Some(include) => {
                    self.map.push_piece(file, piece_start..line_start);
                    let span = Span {
                        file,
                        start: (line_start + include.start) as u32,
                        end: (line_start + include.end) as u32,
                    };
                    self.include(&include, span, path);
                    piece_start = line_end;
                }
                None => state.advance(line),
            }
            line_start = line_end;
        }
        self.map.push_piece(file, piece_start..text.len());
        self.map.finish_line();
        self.stack.pop();
    }

    fn include(&mut self, include: &Include, span: Span, from: &Path) {
        let wanted = include.path.as_str();
        self.count += 1;
        if wanted.len() > INCLUDE_PATH_MAX {
            return self.error(
                "include-limit",
                span,
                format!("the path of an include is limited to {INCLUDE_PATH_MAX} bytes"),
            );
        }
        if self.count > INCLUDE_COUNT_MAX || self.map.flat().len() > FLAT_BYTES_MAX {
            if self.count == INCLUDE_COUNT_MAX + 1 {
                self.error(
                    "include-limit",
                    span,
                    format!("more than {INCLUDE_COUNT_MAX} includes or {FLAT_BYTES_MAX} bytes in one script"),
                );
            }
            return;
        }
        if self.stack.len() >= INCLUDE_DEPTH_MAX {
            return self.error(
                "include-limit",
                span,
                format!("includes are nested deeper than {INCLUDE_DEPTH_MAX} files"),
            );
        }
        match self.open(Path::new(wanted), from) {
            Ok((file, path)) if self.stack.contains(&file) => {
                let chain: Vec<&str> = self.stack.iter().map(|file| self.map.name(*file)).collect();
                let note = format!("{} -> {}", chain.join(" -> "), path.display());
                let error = Diagnostic::error("include-loop", span, "this file includes itself").with_note(note);
                self.diagnostics.push(error);
            }
            Ok((file, path)) => self.splice(file, &path),
            Err(error) if include.is_import && error.kind() == io::ErrorKind::NotFound => {
                let text = format!("there is no file \"{wanted}\": the script goes on without it");
                let note = "OpenSIPS 2.4 does so, 3.x and 4.0 refuse to start";
                self.diagnostics.push(Diagnostic::warning("missing-import", span, text).with_note(note));
            }
            Err(error) => {
                self.error("missing-include", span, format!("cannot read the included file \"{wanted}\": {error}"))
            }
        }
    }

    /// The working directory first, then the directory of the including file.
    fn open(&mut self, wanted: &Path, from: &Path) -> io::Result<(FileId, PathBuf)> {
        let mut failure = None;
        let beside = from.parent().filter(|_| wanted.is_relative()).map(|directory| directory.join(wanted));
        for path in std::iter::once(wanted.to_owned()).chain(beside) {
            let name = path.display().to_string();
            if let Some(file) = self.map.file_named(&name) {
                return Ok((file, path));
            }
            match self.files.read(&path) {
                Ok(text) => return Ok((self.map.add_file(name, text), path)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn error(&mut self, code: &'static str, span: Span, message: String) {
        self.diagnostics.push(Diagnostic::error(code, span, message));
    }
}

/// The include on this line, when its first word is one of the two and a quoted path follows.
fn include_line(line: &[u8]) -> Option<Include> {
    let blanks = |from: usize| line.get(from..).unwrap_or(&[]).iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let at = blanks(0);
    let word = WORDS.iter().find(|word| line.get(at..).is_some_and(|rest| rest.starts_with(word)))?;
    let after = at + word.len();
    let open = after + blanks(after);
    let quote = *line.get(open)?;
    if !matches!(quote, b'"' | b'\'') {
        return None;
    }
    let len = line.get(open + 1..)?.iter().position(|byte| *byte == quote)?;
    let path = String::from_utf8_lossy(line.get(open + 1..open + 1 + len)?).into_owned();
    Some(Include { path, is_import: *word == WORDS[1], start: open, end: open + len + 2 })
}

#[cfg(test)]
mod tests;
