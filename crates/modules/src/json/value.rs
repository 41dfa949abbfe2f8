//! JSON documents as `$json` sees them: shared nodes, numbers with their text as written, lenient parsing, three ways of
//! printing. Paths and variables are elsewhere.

use std::cell::RefCell;
use std::rc::Rc;

/// Arrays and objects inside each other at most.
pub const DEPTH_MAX: usize = 32;

/// A place in a document. Linked documents share it (OpenSIPS: json, `json_link()`).
pub(super) type Node = Rc<RefCell<Json>>;

/// A JSON value.
#[derive(Clone, Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Int(i64),
    /// A number with a fraction or exponent, as it was written.
    Real(String),
    Text(Vec<u8>),
    Array(Vec<Node>),
    Object(Vec<(Vec<u8>, Node)>),
}

pub(super) fn node(json: Json) -> Node {
    Rc::new(RefCell::new(json))
}

/// How a document is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `{ "a": 1 }`, slashes escaped.
    Spaced,
    /// `{"a":1}`.
    Compact { escapes_slashes: bool },
    /// One member a line, two blanks deep.
    Pretty,
}

/// The value at the start of `text`; what follows it is ignored. `None` when there is none. As the reference reads it:
/// comments, single quotes, a comma before a closing bracket and `NaN` pass.
pub(super) fn parse(text: &[u8]) -> Option<Node> {
    Parser { text, at: 0 }.value(0)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) -> Option<()> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'/') if self.rest().starts_with(b"/*") => {
                    self.at += memchr::memmem::find(self.rest(), b"*/")? + 2;
                }
                Some(b'/') if self.rest().starts_with(b"//") => {
                    self.at += memchr::memchr(b'\n', self.rest()).unwrap_or(self.rest().len());
                }
                _ => return Some(()),
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let fits = self.rest().get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word));
        if fits {
            self.at += word.len();
        }
        fits
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        self.skip_blanks()?;
        let json = match self.peek()? {
            _ if depth >= DEPTH_MAX => return None,
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            quote @ (b'"' | b'\'') => Json::Text(self.string(quote)?),
            b'0'..=b'9' | b'-' => self.number()?,
            _ if self.word(b"null") => Json::Null,
            _ if self.word(b"true") => Json::Bool(true),
            _ if self.word(b"false") => Json::Bool(false),
            _ if self.word(b"nan") => Json::Real("NaN".to_owned()),
            _ if self.word(b"infinity") => Json::Real("Infinity".to_owned()),
            _ => return None,
        };
        Some(node(json))
    }

    fn array(&mut self, depth: usize) -> Option<Json> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_blanks()?;
            if self.peek()? == b']' {
                self.at += 1;
                return Some(Json::Array(items));
            }
            items.push(self.value(depth + 1)?);
            self.comma(b']')?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        self.at += 1;
        let mut members: Vec<(Vec<u8>, Node)> = Vec::new();
        loop {
            self.skip_blanks()?;
            let key = match self.peek()? {
                b'}' => {
                    self.at += 1;
                    return Some(Json::Object(members));
                }
                quote @ (b'"' | b'\'') => self.string(quote)?,
                _ => return None,
            };
            self.skip_blanks()?;
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            put(&mut members, &key, value);
            self.comma(b'}')?;
        }
    }

    /// Behind a member: a comma, or the closing bracket, which stays.
    fn comma(&mut self, close: u8) -> Option<()> {
        self.skip_blanks()?;
        match self.peek()? {
            b',' => self.at += 1,
            other if other == close => {}
            _ => return None,
        }
        Some(())
    }

    fn number(&mut self) -> Option<Json> {
        let start = self.at;
        if self.word(b"-infinity") {
            return Some(Json::Real("-Infinity".to_owned()));
        }
        self.at += 1;
        while self.peek().is_some_and(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(self.text.get(start..self.at)?).ok()?;
        if text.bytes().skip(1).all(|c| c.is_ascii_digit()) && text != "-" {
            let wide: i64 = text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX });
            return Some(Json::Int(wide));
        }
        text.parse::<f64>().ok()?;
        Some(Json::Real(text.to_owned()))
    }

    fn string(&mut self, quote: u8) -> Option<Vec<u8>> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                byte if byte == quote => return Some(out),
                b'\\' => {
                    let escaped = self.peek()?;
                    self.at += 1;
                    match escaped {
                        b'n' => out.push(b'\n'),
                        b'r' => out.push(b'\r'),
                        b't' => out.push(b'\t'),
                        b'b' => out.push(8),
                        b'f' => out.push(12),
                        b'"' | b'\\' | b'/' | b'\'' => out.push(escaped),
                        b'u' => self.unicode(&mut out)?,
                        _ => return None,
                    }
                }
                byte => out.push(byte),
            }
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = std::str::from_utf8(self.rest().get(..4)?).ok()?;
        let unit = u32::from_str_radix(digits, 16).ok()?;
        self.at += 4;
        Some(unit)
    }

    fn unicode(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let first = self.hex()?;
        let mut code = first;
        if (0xD800..0xDC00).contains(&first) && self.rest().starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            match self.hex()? {
                low @ 0xDC00..0xE000 => code = 0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00),
                _ => self.at = back,
            }
        }
        let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        Some(())
    }
}

/// Sets a member: in its place when the key is there, else at the end.
pub(super) fn put(members: &mut Vec<(Vec<u8>, Node)>, key: &[u8], value: Node) {
    match members.iter_mut().find(|(other, _)| other == key) {
        Some((_, slot)) => *slot = value,
        None => members.push((key.to_vec(), value)),
    }
}

/// Writes the document. Deeper than twice [`DEPTH_MAX`] (documents linked in a circle) it writes `null`.
pub(super) fn print(json: &Json, style: Style, out: &mut Vec<u8>) {
    Printer { style }.value(json, 0, out);
}

struct Printer {
    style: Style,
}

impl Printer {
    fn value(&self, json: &Json, depth: usize, out: &mut Vec<u8>) {
        match json {
            Json::Null => out.extend_from_slice(b"null"),
            _ if depth > 2 * DEPTH_MAX => out.extend_from_slice(b"null"),
            Json::Bool(is_true) => out.extend_from_slice(if *is_true { b"true" } else { b"false" }),
            Json::Int(int) => out.extend_from_slice(int.to_string().as_bytes()),
            Json::Real(text) => out.extend_from_slice(text.as_bytes()),
            Json::Text(text) => self.text(text, out),
            Json::Array(items) => {
                self.list(b"[]", items.len(), depth, out, |printer, at, out| {
                    if let Some(item) = items.get(at) {
                        printer.value(&item.borrow(), depth + 1, out);
                    }
                });
            }
            Json::Object(members) => {
                self.list(b"{}", members.len(), depth, out, |printer, at, out| {
                    if let Some((key, value)) = members.get(at) {
                        printer.text(key, out);
                        out.push(b':');
                        if printer.style == Style::Spaced {
                            out.push(b' ');
                        }
                        printer.value(&value.borrow(), depth + 1, out);
                    }
                });
            }
        }
    }

    fn list(
        &self,
        [open, close]: &[u8; 2],
        count: usize,
        depth: usize,
        out: &mut Vec<u8>,
        one: impl Fn(&Printer, usize, &mut Vec<u8>),
    ) {
        out.push(*open);
        for at in 0..count {
            if at > 0 {
                out.push(b',');
            }
            self.gap(depth + 1, out);
            one(self, at, out);
        }
        self.gap(depth, out);
        out.push(*close);
    }

    fn gap(&self, depth: usize, out: &mut Vec<u8>) {
        match self.style {
            Style::Spaced => out.push(b' '),
            Style::Compact { .. } => {}
            Style::Pretty => {
                out.push(b'\n');
                out.extend(std::iter::repeat_n(b' ', depth * 2));
            }
        }
    }

    fn text(&self, text: &[u8], out: &mut Vec<u8>) {
        out.push(b'"');
        for byte in text {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'/' if self.style != (Style::Compact { escapes_slashes: false }) => out.extend_from_slice(b"\\/"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                8 => out.extend_from_slice(b"\\b"),
                12 => out.extend_from_slice(b"\\f"),
                0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                other => out.push(*other),
            }
        }
        out.push(b'"');
    }
}

/// RFC 7396: `patch` over `target`; numbers with a fraction keep the text they were written with.
pub(super) fn merge(target: &Node, patch: &Node) -> Node {
    let patch = patch.borrow();
    let Json::Object(changes) = &*patch else { return node(patch.clone()) };
    let mut members = match &*target.borrow() {
        Json::Object(members) => members.clone(),
        _ => Vec::new(),
    };
    for (key, change) in changes {
        let at = members.iter().position(|(other, _)| other == key);
        if matches!(&*change.borrow(), Json::Null) {
            if let Some(at) = at {
                members.remove(at);
            }
            continue;
        }
        let old = at.and_then(|at| members.get(at)).map_or_else(|| node(Json::Null), |(_, old)| old.clone());
        let new = merge(&old, change);
        // A changed member goes to the end, as the reference has it.
        if let Some(at) = at {
            members.remove(at);
        }
        members.push((key.clone(), new));
    }
    node(Json::Object(members))
}
