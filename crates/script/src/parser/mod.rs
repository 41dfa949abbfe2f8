//! Tokens → tree. One grammar accepts the union of both dialects; after an error it goes on, so that one run shows them all.
//! It resolves no names: functions, variables and route names are the checker's business.

mod call;
mod cond;
mod expr;
mod global;
mod host;
mod keywords;
mod statement;
mod top;

pub use keywords::{Reserved, reserved};

use crate::ast::{Dialect, FormVotes, Script, Span};
use crate::diagnostic::{Diagnostic, Severity};
use crate::lexer::{Kind, Lexer, Token};
use crate::source::SourceMap;

/// Blocks, conditions and parentheses inside one another.
pub const NESTING_MAX: u32 = 100;
/// Operators of one condition or expression.
pub const OPERATORS_MAX: u32 = 500;
/// Branches of one chain of `else if`, and all such branches around a statement.
pub const ELSE_IF_MAX: u32 = 500;
/// Arguments of a call.
pub const ARGUMENTS_MAX: usize = 64;
/// Errors after which the parser gives up.
pub const ERRORS_MAX: usize = 1_000;
/// Notes about forms of one dialect that are kept.
const NOTES_MAX: usize = 10_000;
/// Longest piece of source text repeated in a message, in characters.
const SHOWN_CHARS_MAX: usize = 40;

/// Parses a whole script. The tree holds what could be understood; it is complete only when no diagnostic is an error.
pub fn parse(sources: &SourceMap) -> (Script, Vec<Diagnostic>) {
    let mut parser = Parser::new(sources);
    let mut script = parser.script();
    script.form_votes = parser.votes;
    let mut diagnostics = std::mem::take(&mut parser.diagnostics);
    diagnostics.append(&mut parser.lexer.diagnostics);
    crate::diagnostic::sort(&mut diagnostics);
    (script, diagnostics)
}

/// What a function gives back after it has reported an error itself.
type Parsed<T> = Option<T>;

struct Parser<'a> {
    sources: &'a SourceMap,
    lexer: Lexer<'a>,
    token: Token,
    previous: Token,
    diagnostics: Vec<Diagnostic>,
    error_count: usize,
    note_count: usize,
    /// No reports until the next top-level statement.
    is_silent: bool,
    nesting: u32,
    operators: u32,
    else_ifs: u32,
    conditions: u32,
    /// Loops and switches around the current statement.
    loops: u32,
    /// Whether the current statement stands directly in a `case`.
    is_case_level: bool,
    votes: FormVotes,
    /// Blocks around the current statement that stand where none may; only the outermost is reported.
    stray_blocks: u32,
    /// Whether this route has a label outside of a `switch`: its head is broken, one report is enough.
    has_stray_label: bool,
}

impl<'a> Parser<'a> {
    fn new(sources: &'a SourceMap) -> Parser<'a> {
        let mut lexer = Lexer::new(sources);
        let token = lexer.next();
        let previous = Token { kind: Kind::Eof, start: 0, end: 0 };
        Parser {
            sources,
            lexer,
            token,
            previous,
            diagnostics: Vec::new(),
            error_count: 0,
            note_count: 0,
            is_silent: false,
            nesting: 0,
            operators: 0,
            else_ifs: 0,
            conditions: 0,
            loops: 0,
            is_case_level: false,
            votes: FormVotes::default(),
            stray_blocks: 0,
            has_stray_label: false,
        }
    }

    // Tokens.

    fn bump(&mut self) -> Token {
        self.previous = self.token;
        self.token = self.lexer.next();
        if self.lexer.diagnostics.len() > 2 * ERRORS_MAX {
            self.give_up(self.previous);
        }
        self.previous
    }

    /// The token behind the current one.
    fn second(&mut self) -> Token {
        self.lexer.seek(self.token.end);
        let second = self.lexer.next();
        self.lexer.seek(self.token.end);
        second
    }

    /// Takes the text up to `end` as if it were a token, and goes on behind it.
    fn take_raw(&mut self, end: u32) -> Token {
        let raw = Token { kind: Kind::Word, start: self.token.start, end };
        self.lexer.seek(end);
        self.token = self.lexer.next();
        self.previous = raw;
        raw
    }

    fn at(&self, kind: Kind) -> bool {
        self.token.kind == kind
    }

    fn eat(&mut self, kind: Kind) -> bool {
        let is_there = self.at(kind);
        if is_there {
            self.bump();
        }
        is_there
    }

    fn bytes(&self, token: Token) -> &'a [u8] {
        self.lexer.slice(token.start, token.end)
    }

    fn text(&self, token: Token) -> String {
        String::from_utf8_lossy(self.bytes(token)).into_owned()
    }

    /// Whether the current token is that word.
    fn at_word(&self, word: &str) -> bool {
        self.token.kind == Kind::Word && self.bytes(self.token) == word.as_bytes()
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let is_there = self.at_word(word);
        if is_there {
            self.bump();
        }
        is_there
    }

    fn span(&self, token: Token) -> Span {
        self.sources.span(token.start, token.end)
    }

    /// From the beginning of `first` to the end of the last token taken.
    fn span_from(&self, first: Token) -> Span {
        self.sources.span(first.start, self.previous.end.max(first.start))
    }

    /// Whether the current token stands on a later line than the one before it.
    fn is_new_line(&self) -> bool {
        self.lexer.slice(self.previous.end, self.token.start).contains(&b'\n')
    }

    // Reports.

    fn report(&mut self, diagnostic: Diagnostic) {
        if self.is_silent {
            return;
        }
        match diagnostic.severity {
            Severity::Error => self.error_count += 1,
            Severity::Note => self.note_count += 1,
            Severity::Warning => {}
        }
        if self.note_count > NOTES_MAX && diagnostic.severity == Severity::Note {
            return;
        }
        self.diagnostics.push(diagnostic);
        if self.error_count >= ERRORS_MAX {
            self.give_up(self.token);
        }
    }

    fn give_up(&mut self, at: Token) {
        if !self.is_silent {
            let span = self.span(at);
            self.diagnostics.push(Diagnostic::error(
                "too-many-errors",
                span,
                "too many errors, the rest of the file was not read",
            ));
        }
        self.is_silent = true;
        self.lexer.seek(u32::MAX);
        self.token = self.lexer.next();
    }

    fn error<T>(&mut self, at: Token, message: impl Into<String>) -> Parsed<T> {
        let span = self.span(at);
        self.report(Diagnostic::error("syntax", span, message));
        None
    }

    fn error_with<T>(&mut self, at: Token, message: impl Into<String>, suggestion: impl Into<String>) -> Parsed<T> {
        let span = self.span(at);
        self.report(Diagnostic::error("syntax", span, message).with_suggestion(suggestion));
        None
    }

    /// Notes a form that only one dialect has.
    fn only(&mut self, dialect: Dialect, at: Token, message: &str) {
        match dialect {
            Dialect::V2_4 => self.votes.v2_4 += 1,
            Dialect::V4_0 => self.votes.v4_0 += 1,
        }
        let span = self.span(at);
        self.report(Diagnostic::only(dialect, span, message));
    }

    /// "expected this, found that" at the current token.
    fn expected<T>(&mut self, what: &str) -> Parsed<T> {
        let found = self.found();
        let span = self.span(self.token);
        let mut diagnostic = Diagnostic::error("syntax", span, format!("expected {what}, found {found}"))
            .with_label(format!("expected {what}"));
        if let Some(note) = self.open_string_note() {
            diagnostic = diagnostic.with_note(note);
        }
        self.report(diagnostic);
        None
    }

    /// A hint for the case that the closing quote of an earlier string is missing.
    fn open_string_note(&self) -> Option<String> {
        let previous = self.previous;
        let is_odd = previous.kind == Kind::Text && self.bytes(previous).contains(&b'\n');
        let line = self.sources.location(self.span(previous)).line;
        is_odd.then(|| {
            format!("the string that begins in line {line} goes on over several lines: is its closing quote missing?")
        })
    }

    /// Takes a closing or separating token; where it is missing the error stands behind the last token.
    fn expect(&mut self, kind: Kind, what: &str) -> Parsed<Token> {
        if self.at(kind) {
            return Some(self.bump());
        }
        let is_closing = matches!(kind, Kind::Semicolon | Kind::CloseParen | Kind::CloseBracket);
        if is_closing && (self.is_new_line() || self.at(Kind::Eof)) && self.open_string_note().is_none() {
            let found = self.found();
            let end = self.previous.end;
            let span = self.sources.span(end.saturating_sub(1), end);
            let error = Diagnostic::error("syntax", span, format!("expected {what} behind this, found {found}"))
                .with_label(format!("expected {what}"));
            self.report(error);
            return None;
        }
        self.expected(what)
    }

    /// The current token as messages show it.
    fn found(&self) -> String {
        match self.token.kind {
            Kind::Eof => "the end of the file".to_owned(),
            _ => format!("`{}`", self.shown(self.token)),
        }
    }

    fn shown(&self, token: Token) -> String {
        let bytes = self.bytes(token);
        let head = bytes.get(..SHOWN_CHARS_MAX * 4).unwrap_or(bytes);
        let text = String::from_utf8_lossy(head);
        let line = text.lines().next().unwrap_or("");
        let mut shown: String = line.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < bytes.len() && shown.len() < text.len() {
            shown.push_str("...");
        }
        shown
    }

    // Limits.

    /// Runs `parse` one level deeper; too deep is an error that skips the rest of the route.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.nesting >= NESTING_MAX {
            return self.skip_item(format!("nested deeper than {NESTING_MAX} levels"));
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    /// Counts an operator of the current condition or expression.
    fn count_operator(&mut self) -> Parsed<()> {
        self.operators += 1;
        if self.operators > OPERATORS_MAX {
            return self.skip_item(format!("more than {OPERATORS_MAX} operators in one statement"));
        }
        Some(())
    }

    /// Reports, then goes to the next top-level statement without further reports.
    fn skip_item<T>(&mut self, message: String) -> Parsed<T> {
        let at = self.token;
        let span = self.span(at);
        self.report(Diagnostic::error("limit", span, message));
        self.is_silent = true;
        while !self.at(Kind::Eof) && !self.at_item_start() {
            self.bump();
        }
        None
    }

    /// Whether a top-level statement begins here that cannot stand inside a block.
    fn at_item_start(&mut self) -> bool {
        if self.token.kind != Kind::Word {
            return false;
        }
        match self.bytes(self.token) {
            b"loadmodule" => self.second().kind == Kind::Text,
            b"modparam" => self.second().kind == Kind::OpenParen,
            b"route" => matches!(self.second().kind, Kind::OpenBracket | Kind::OpenBrace),
            b"branch_route" | b"failure_route" | b"onreply_route" | b"error_route" | b"local_route"
            | b"startup_route" | b"timer_route" | b"event_route" => true,
            _ => false,
        }
    }

    // Recovery.

    /// Goes behind the broken statement: past its `;`, or past a block that belongs to it, or before the `}` that ends the block around it.
    fn recover_statement(&mut self) {
        let mut braces = 0u32;
        while !self.at(Kind::Eof) && !self.at_item_start() {
            match self.token.kind {
                Kind::OpenBrace => braces += 1,
                Kind::CloseBrace if braces == 0 => return,
                Kind::CloseBrace => {
                    braces -= 1;
                    if braces == 0 {
                        self.bump();
                        return;
                    }
                }
                Kind::Semicolon if braces == 0 => {
                    self.bump();
                    return;
                }
                _ => {}
            }
            self.bump();
        }
    }

    /// Goes to the block or the `;` behind a broken head (`if (...)`); whether a block follows.
    fn recover_head(&mut self) -> bool {
        while !self.at(Kind::Eof) && !self.at_item_start() {
            match self.token.kind {
                Kind::OpenBrace => return true,
                Kind::CloseBrace => return false,
                Kind::Semicolon => {
                    self.bump();
                    return false;
                }
                _ => {
                    self.bump();
                }
            }
        }
        false
    }

    /// Goes to the next line that may begin a top-level statement.
    fn recover_item(&mut self, first: Token) {
        self.is_silent = self.is_silent && self.at(Kind::Eof);
        if self.is_new_line() && self.token != first {
            return;
        }
        let mut from = self.previous.end.max(self.token.start);
        loop {
            let rest = self.lexer.rest(from);
            let Some(newline) = memchr::memchr(b'\n', rest) else {
                self.lexer.seek(u32::MAX);
                break;
            };
            from += newline as u32 + 1;
            let first = self.lexer.rest(from).iter().find(|byte| !matches!(byte, b' ' | b'\t'));
            if first.is_some_and(u8::is_ascii_alphabetic) {
                self.lexer.seek(from);
                break;
            }
        }
        self.token = self.lexer.next();
    }
}

#[cfg(test)]
mod tests;
