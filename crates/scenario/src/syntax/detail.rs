//! The lines that belong to a step: headers and body of a message to send, conditions on one received.

use super::error::Fault;
use super::token::{self, Form};
use super::words::{Words, fault};
use super::{Condition, Extra, Part};

/// A line below a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: u32,
    pub(super) text: &'a str,
}

impl<'a> Line<'a> {
    pub(super) fn new(number: u32, text: &'a str) -> Line<'a> {
        Line { number, text }
    }

    /// Column of the first character.
    fn column(&self) -> u32 {
        self.text.chars().take_while(|char| char.is_whitespace()).count() as u32 + 1
    }
}

type Faults = Vec<(u32, Fault)>;

/// Whether a text can be the name of a header (RFC 3261 §25.1, token).
fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

/// `Header: value`, `without Header`, `sdp`, and `body` with the lines below it.
pub(super) fn extra(lines: &[Line<'_>], faults: &mut Faults) -> Extra {
    let mut extra = Extra::default();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        let text = line.text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if text == "sdp" {
            extra.has_sdp = true;
        } else if text == "body" {
            let count =
                lines.iter().skip(at).take_while(|next| next.text.trim().is_empty() || next.column() > line.column());
            let count = count.count();
            extra.body = Some(block(lines.get(at..at + count).unwrap_or(&[])));
            at += count;
        } else if let Some(name) = text.strip_prefix("without ") {
            extra.without.push(name.trim().to_owned());
        } else {
            match text.split_once(':') {
                Some((name, value)) if is_header_name(name.trim()) => {
                    extra.headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                _ => {
                    let width = text.chars().count() as u32;
                    let fault = Fault::at(line.column(), width, "below a message stand its headers and its body");
                    let help = "write `Header: value`, `without Header`, `sdp`, or `body` with deeper lines below it";
                    faults.push((line.number, fault.help(help)));
                }
            }
        }
    }
    extra
}

/// Lines without their common indentation, ended by CRLF.
pub(super) fn block(lines: &[Line<'_>]) -> String {
    let full = lines.iter().filter(|line| !line.text.trim().is_empty());
    let margin = full.map(|line| line.column() as usize - 1).min().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        text.extend(line.text.chars().skip(margin));
        text.push_str("\r\n");
    }
    text
}

/// `Header is "value"` and its kin.
pub(super) fn conditions(lines: &[Line<'_>], faults: &mut Faults) -> Vec<Condition> {
    let mut all = Vec::new();
    for line in lines.iter().filter(|line| !line.text.trim().is_empty() && !line.text.trim().starts_with('#')) {
        match condition(line) {
            Ok(condition) => all.push(condition),
            Err(fault) => faults.push((line.number, fault)),
        }
    }
    all
}

fn condition(line: &Line<'_>) -> Result<Condition, Fault> {
    let tokens = token::split(line.text)?;
    let mut words = Words::new(&tokens);
    let name = words.next("a header, `uri`, `reason` or `body`")?;
    let part = match name.text.as_str() {
        "uri" => Part::Uri,
        "reason" => Part::Reason,
        "body" => Part::Body,
        header if name.form == Form::Word && header.ends_with(':') => {
            let bare = header.trim_end_matches(':');
            let text = format!("`{header}` sets a header; here it is compared");
            return Err(fault(name, text).help(format!("write: {bare} is \"value\"")));
        }
        header if name.form == Form::Word && is_header_name(header) => Part::Header(header.to_owned()),
        other => return Err(fault(name, format!("`{other}` is no header name"))),
    };
    let test = words.value_test()?;
    words.finish()?;
    Ok(Condition { line: line.number, text: line.text.trim().to_owned(), part, test })
}

/// A step that has nothing below it.
pub(super) fn none(lines: &[Line<'_>], faults: &mut Faults) {
    if let Some(line) = lines.iter().find(|line| !line.text.trim().is_empty() && !line.text.trim().starts_with('#')) {
        let width = line.text.trim().chars().count() as u32;
        let fault = Fault::at(line.column(), width, "nothing belongs to the step above");
        faults.push((line.number, fault.help("a step of its own must not stand deeper than the step above it")));
    }
}
