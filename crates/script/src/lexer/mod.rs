//! Text → tokens, on demand (specification §1.2 to §1.6). It knows no grammar; the parser may move it back or ask for raw text.

pub(crate) mod scan;
mod text;

pub(crate) use text::unescape;

use crate::ast::{AssignOp, CompareOp};
use crate::diagnostic::{Diagnostic, Severity};
use crate::source::SourceMap;

/// Warnings about stray characters of one script; more are not reported.
const STRAY_WARNINGS_MAX: usize = 200;

/// Line beginnings that no string contains: one that does was left open.
const TOP_LEVEL_LINES: [&[u8]; 7] =
    [b"route[", b"route{", b"loadmodule ", b"modparam(", b"branch_route[", b"failure_route[", b"onreply_route["];

/// A kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Eof,
    /// An identifier or keyword.
    Word,
    /// A number, or a boolean word.
    Number(i32),
    Null,
    /// A string, quotes included.
    Text,
    /// A variable.
    Var,
    Assign(AssignOp),
    Compare(CompareOp),
    Not,
    And,
    Or,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Amp,
    Pipe,
    Caret,
    Tilde,
    Shl,
    Shr,
    OpenParen,
    CloseParen,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Comma,
    Semicolon,
    Colon,
    Dot,
}

/// A token: a range of the flat text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

pub(crate) struct Lexer<'a> {
    sources: &'a SourceMap,
    text: &'a [u8],
    pos: usize,
    pub(crate) diagnostics: Vec<Diagnostic>,
    stray_warnings: usize,
    /// Everything before this offset was lexed once: moving back must not warn twice.
    seen: usize,
    /// No closing quote (double, single) stands before these offsets: found once, not searched for again.
    no_quote_before: [usize; 2],
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(sources: &'a SourceMap) -> Lexer<'a> {
        Lexer {
            sources,
            text: sources.flat(),
            pos: 0,
            diagnostics: Vec::new(),
            stray_warnings: 0,
            seen: 0,
            no_quote_before: [0; 2],
        }
    }

    /// The bytes of a range of the flat text.
    pub(crate) fn slice(&self, start: u32, end: u32) -> &'a [u8] {
        self.text.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// The text from an offset on.
    pub(crate) fn rest(&self, start: u32) -> &'a [u8] {
        self.text.get(start as usize..).unwrap_or(&[])
    }

    /// Goes on at another place.
    pub(crate) fn seek(&mut self, pos: u32) {
        self.pos = (pos as usize).min(self.text.len());
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.pos + ahead).copied()
    }

    fn report(&mut self, start: usize, end: usize, make: impl FnOnce(crate::ast::Span) -> Diagnostic) {
        if start < self.seen {
            return;
        }
        self.seen = end.max(start + 1);
        let span = self.sources.span(start as u32, end as u32);
        let diagnostic = make(span);
        if diagnostic.severity == Severity::Warning {
            self.stray_warnings += 1;
            if self.stray_warnings > STRAY_WARNINGS_MAX {
                return;
            }
        }
        self.diagnostics.push(diagnostic);
    }

    /// The next token; `Eof` for ever at the end.
    pub(crate) fn next(&mut self) -> Token {
        loop {
            self.skip_blanks();
            let start = self.pos;
            let Some(byte) = self.peek(0) else { return self.token(Kind::Eof, start) };
            let kind = match byte {
                b'a'..=b'z' | b'A'..=b'Z' => self.word(),
                b'0'..=b'9' => self.number(),
                b'"' | b'\'' => self.string(byte),
                b'$' => self.variable(),
                _ => match self.symbol(byte) {
                    Some(kind) => kind,
                    None => {
                        self.stray();
                        continue;
                    }
                },
            };
            return self.token(kind, start);
        }
    }

    fn token(&self, kind: Kind, start: usize) -> Token {
        Token { kind, start: start as u32, end: self.pos as u32 }
    }

    fn skip_blanks(&mut self) {
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | 0x08 | 0x0b | 0x0c => self.pos += 1,
                b'#' => self.skip_line(),
                b'/' if self.peek(1) == Some(b'*') => self.skip_comment(),
                b'\\' if self.peek(1) == Some(b'\n') => self.pos += 2,
                b'\\' if self.peek(1) == Some(b'\r') && self.peek(2) == Some(b'\n') => self.pos += 3,
                _ => return,
            }
        }
    }

    /// Goes to the end of the line (its newline is next).
    fn skip_line(&mut self) {
        let rest = self.text.get(self.pos..).unwrap_or(&[]);
        self.pos += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    }

    fn skip_comment(&mut self) {
        let start = self.pos;
        let mut depth = 0u32;
        loop {
            let rest = self.text.get(self.pos..).unwrap_or(&[]);
            let Some(at) = memchr::memchr2(b'*', b'/', rest) else {
                self.pos = self.text.len();
                return self.report(start, start + 2, |span| {
                    Diagnostic::warning(
                        "open-comment",
                        span,
                        "this comment is never closed, the rest of the file is part of it",
                    )
                    .with_note("block comments nest: each `/*` needs its own `*/`")
                });
            };
            self.pos += at;
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth = depth.saturating_add(1);
                    self.pos += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.pos += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.pos += 1,
            }
        }
    }

    fn word(&mut self) -> Kind {
        let start = self.pos;
        while self.peek(0).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.pos += 1;
        }
        match self.text.get(start..self.pos).unwrap_or(&[]) {
            b"yes" | b"true" | b"on" | b"enable" => Kind::Number(1),
            b"no" | b"false" | b"off" | b"disable" => Kind::Number(0),
            b"and" => Kind::And,
            b"or" => Kind::Or,
            b"not" => Kind::Not,
            b"NULL" | b"null" => Kind::Null,
            _ => Kind::Word,
        }
    }

    fn number(&mut self) -> Kind {
        let start = self.pos;
        let is_hex = self.peek(0) == Some(b'0')
            && matches!(self.peek(1), Some(b'x' | b'X'))
            && self.peek(2).is_some_and(|byte| byte.is_ascii_hexdigit());
        let is_octal = !is_hex && self.peek(0) == Some(b'0') && self.peek(1).is_some_and(|byte| byte.is_ascii_digit());
        let (radix, skip) = if is_hex { (16, 2) } else { (if is_octal { 8 } else { 10 }, 0) };
        self.pos += skip;
        let mut value = 0u32;
        let mut is_bad = false;
        while let Some(byte) = self.peek(0) {
            let Some(digit) = char::from(byte).to_digit(if is_hex { 16 } else { 10 }) else { break };
            is_bad |= digit >= radix;
            value = value.wrapping_mul(radix).wrapping_add(digit);
            self.pos += 1;
        }
        if is_bad && self.peek(0) != Some(b'.') {
            self.report(start, self.pos, |span| {
                Diagnostic::error("syntax", span, "a number that begins with 0 is octal and has only the digits 0 to 7")
            });
        }
        Kind::Number(value as i32)
    }

    fn string(&mut self, quote: u8) -> Kind {
        let start = self.pos;
        let memo = usize::from(quote != b'"');
        let is_hopeless = self.no_quote_before.get(memo).is_some_and(|end| start < *end);
        let close = if is_hopeless { Err(0) } else { self.closing_quote(quote) };
        let close = match close {
            Ok(close) => close,
            Err(end) => {
                if let Some(slot) = self.no_quote_before.get_mut(memo) {
                    *slot = end.max(*slot);
                }
                self.skip_line();
                self.report(start, start + 1, |span| {
                    Diagnostic::error("open-string", span, "this string is never closed")
                        .with_label(format!("expected a closing `{}` behind the text", char::from(quote)))
                });
                return Kind::Text;
            }
        };
        self.pos = close + 1;
        Kind::Text
    }

    /// Offset of the quote that closes the string at the current position. An error is the place where the search
    /// ended: at the end of the text, or where a statement of the top level begins on its own line.
    fn closing_quote(&self, quote: u8) -> Result<usize, usize> {
        let mut at = self.pos + 1;
        loop {
            let rest = self.text.get(at..).unwrap_or(&[]);
            at += memchr::memchr3(quote, b'\\', b'\n', rest).ok_or(self.text.len())?;
            match self.text.get(at) {
                Some(b'\\') if quote == b'"' => at += 2,
                Some(b'\n') => {
                    at += 1;
                    let line = self.text.get(at..).unwrap_or(&[]);
                    if TOP_LEVEL_LINES.iter().any(|begin| line.starts_with(begin)) {
                        return Err(at);
                    }
                }
                Some(byte) if *byte == quote => return Ok(at),
                _ => at += 1,
            }
        }
    }

    fn variable(&mut self) -> Kind {
        let start = self.pos;
        match scan::variable_end(self.text, start) {
            Some(end) => self.pos = end,
            None => {
                self.skip_line();
                let end = self.pos;
                self.report(start, end, |span| {
                    Diagnostic::error("syntax", span, "a parenthesis in this variable is never closed")
                        .with_label("expected `)`")
                });
            }
        }
        Kind::Var
    }

    fn symbol(&mut self, byte: u8) -> Option<Kind> {
        let next = self.peek(1);
        let (kind, len) = match (byte, next) {
            (b'=', Some(b'=')) => (Kind::Compare(CompareOp::Eq), 2),
            (b'=', Some(b'~')) => (Kind::Compare(CompareOp::Match), 2),
            (b'=', _) => (Kind::Assign(AssignOp::Set), 1),
            (b'!', Some(b'=')) => (Kind::Compare(CompareOp::Ne), 2),
            (b'!', Some(b'~')) => (Kind::Compare(CompareOp::NotMatch), 2),
            (b'!', _) => (Kind::Not, 1),
            (b'<', Some(b'<')) => (Kind::Shl, 2),
            (b'<', Some(b'=')) => (Kind::Compare(CompareOp::Le), 2),
            (b'<', _) => (Kind::Compare(CompareOp::Lt), 1),
            (b'>', Some(b'>')) => (Kind::Shr, 2),
            (b'>', Some(b'=')) => (Kind::Compare(CompareOp::Ge), 2),
            (b'>', _) => (Kind::Compare(CompareOp::Gt), 1),
            (b'&', Some(b'&')) => (Kind::And, 2),
            (b'|', Some(b'|')) => (Kind::Or, 2),
            (b':', Some(b'=')) => (Kind::Assign(AssignOp::Replace), 2),
            (b'+', Some(b'=')) => (Kind::Assign(AssignOp::Add), 2),
            (b'-', Some(b'=')) => (Kind::Assign(AssignOp::Sub), 2),
            (b'*', Some(b'=')) => (Kind::Assign(AssignOp::Mul), 2),
            (b'/', Some(b'=')) => (Kind::Assign(AssignOp::Div), 2),
            (b'%', Some(b'=')) => (Kind::Assign(AssignOp::Mod), 2),
            (b'&', Some(b'=')) => (Kind::Assign(AssignOp::And), 2),
            (b'|', Some(b'=')) => (Kind::Assign(AssignOp::Or), 2),
            (b'^', Some(b'=')) => (Kind::Assign(AssignOp::Xor), 2),
            (b'+', _) => (Kind::Plus, 1),
            (b'-', _) => (Kind::Minus, 1),
            (b'*', _) => (Kind::Star, 1),
            (b'/', _) => (Kind::Slash, 1),
            (b'%', _) => (Kind::Percent, 1),
            (b'&', _) => (Kind::Amp, 1),
            (b'|', _) => (Kind::Pipe, 1),
            (b'^', _) => (Kind::Caret, 1),
            (b'~', _) => (Kind::Tilde, 1),
            (b'(', _) => (Kind::OpenParen, 1),
            (b')', _) => (Kind::CloseParen, 1),
            (b'{', _) => (Kind::OpenBrace, 1),
            (b'}', _) => (Kind::CloseBrace, 1),
            (b'[', _) => (Kind::OpenBracket, 1),
            (b']', _) => (Kind::CloseBracket, 1),
            (b',', _) => (Kind::Comma, 1),
            (b';', _) => (Kind::Semicolon, 1),
            (b':', _) => (Kind::Colon, 1),
            (b'.', _) => (Kind::Dot, 1),
            _ => return None,
        };
        self.pos += len;
        Some(kind)
    }

    /// Skips characters that begin no token, with one warning for a run of them.
    fn stray(&mut self) {
        let start = self.pos;
        while let Some(byte) = self.peek(0) {
            let is_token =
                byte.is_ascii_alphanumeric() || b"\"'$=!<>&|:+-*/%^~(){}[],;.#\\ \t\r\n\x08\x0b\x0c".contains(&byte);
            if is_token && self.pos > start {
                break;
            }
            self.pos += 1;
        }
        let end = self.pos;
        let shown = String::from_utf8_lossy(self.text.get(start..end.min(start + 20)).unwrap_or(&[])).into_owned();
        self.report(start, end, |span| {
            Diagnostic::warning(
                "stray-character",
                span,
                format!("`{}` begins nothing here and is skipped", shown.escape_debug()),
            )
        });
    }
}

#[cfg(test)]
mod tests;
