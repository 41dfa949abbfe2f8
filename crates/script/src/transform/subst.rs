//! `{re.subst,/regex/replacement/flags}`: one expression, compiled at load when it is constant.

use super::{ArgText, Context, RESULT_BYTES_MAX};
use crate::format::Format;
use crate::pvar::{CompiledVar, Scope};
use crate::regex::{PosixRegex, RegexFlags};
use crate::value::{Text, Value};
use crate::vm::{Failed, Host};

/// The expression of a transformation.
#[derive(Clone, Debug)]
pub(crate) enum SubstArg {
    Fixed(Box<Subst>),
    Var(Box<CompiledVar>),
    /// A constant with a bad regular expression: fails at each use.
    Bad,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) struct Subst {
    regex: PosixRegex,
    /// Literal pieces and variables, with the groups between them.
    replacement: Vec<Piece>,
    is_global: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Format(Format),
    Group(usize),
}

/// Why an expression is refused.
pub(crate) struct SubstError {
    pub(crate) text: String,
    /// Whether it fails when it is used, and not when the script is loaded.
    pub(crate) is_at_use: bool,
}

fn malformed(text: impl Into<String>) -> SubstError {
    SubstError { text: text.into(), is_at_use: true }
}

fn refused(text: impl Into<String>) -> SubstError {
    SubstError { text: text.into(), is_at_use: false }
}

impl Subst {
    pub(crate) fn parse(expression: &[u8], scope: Scope<'_>, depth: usize) -> Result<Subst, SubstError> {
        let (delimiter, rest) = expression.split_first().ok_or_else(|| malformed("empty substitution"))?;
        let (pattern, rest) =
            until(rest, *delimiter).ok_or_else(|| malformed("the substitution has no replacement"))?;
        let (replacement, flags) = until(rest, *delimiter).ok_or_else(|| malformed("the substitution has no end"))?;
        let (mut ignore_case, mut is_global, mut is_line_mode) = (false, false, true);
        for flag in flags.trim_ascii() {
            match flag.to_ascii_lowercase() {
                b'i' => ignore_case = true,
                b'g' => is_global = true,
                b's' => is_line_mode = false,
                other => return Err(malformed(format!("unknown substitution flag `{}`", char::from(other)))),
            }
        }
        let regex = PosixRegex::with_flags(&pattern, RegexFlags { ignore_case, is_line_mode })
            .map_err(|error| malformed(error.to_string()))?;
        Ok(Subst { regex, replacement: pieces(&replacement, scope, depth)?, is_global })
    }

    fn replace<H: Host>(&self, host: &mut H, input: &Text) -> Result<Value, Failed> {
        let text: &[u8] = input;
        if text.is_empty() {
            return Err(Failed);
        }
        let mut out = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Some(groups) = self.regex.groups_at(text, from) {
            let Some((start, end)) = groups.first().copied().flatten() else { break };
            // The reference gives up on an expression that matches nothing at all.
            if start == end {
                return Err(Failed);
            }
            out.extend_from_slice(text.get(done..start).unwrap_or(&[]));
            for piece in &self.replacement {
                match piece {
                    Piece::Format(format) => {
                        format.eval(host, &mut out);
                    }
                    Piece::Group(number) => {
                        let range = groups.get(*number).copied().flatten();
                        out.extend_from_slice(range.and_then(|(start, end)| text.get(start..end)).unwrap_or(&[]));
                    }
                }
            }
            if out.len() > RESULT_BYTES_MAX {
                return Err(Failed);
            }
            done = end;
            // An empty match steps over one character, which is copied with the next piece.
            from = if end > start { end } else { next_char(text, end) };
            if !self.is_global || from > text.len() {
                break;
            }
        }
        out.extend_from_slice(text.get(done..).unwrap_or(&[]));
        Ok(out.into())
    }
}

fn next_char(text: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while text.get(next).is_some_and(|byte| byte & 0xC0 == 0x80) {
        next += 1;
    }
    next
}

/// The text before the delimiter, which a backslash takes its meaning from, and the text behind it.
fn until(text: &[u8], delimiter: u8) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            byte if *byte == delimiter => return Some((out, text.get(at + 1..)?)),
            b'\\' if text.get(at + 1) == Some(&delimiter) => {
                out.push(delimiter);
                at += 1;
            }
            b'\\' => {
                out.push(b'\\');
                out.extend(text.get(at + 1));
                at += 1;
            }
            other => out.push(*other),
        }
        at += 1;
    }
    None
}

fn pieces(replacement: &[u8], scope: Scope<'_>, depth: usize) -> Result<Vec<Piece>, SubstError> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut bytes = replacement.iter().copied();
    let flush = |text: &mut Vec<u8>, pieces: &mut Vec<Piece>| {
        if !text.is_empty() {
            let format = Format::parse_nested(text, scope, depth).map_err(|error| refused(error.message))?;
            pieces.push(Piece::Format(format));
            text.clear();
        }
        Ok(())
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(digit @ b'0'..=b'9') => {
                    flush(&mut text, &mut pieces)?;
                    pieces.push(Piece::Group(usize::from(digit - b'0')));
                }
                Some(b'n') => text.push(b'\n'),
                Some(b'r') => text.push(b'\r'),
                Some(b't') => text.push(b'\t'),
                Some(other) => text.push(other),
                None => text.push(b'\\'),
            },
            other => text.push(other),
        }
    }
    flush(&mut text, &mut pieces)?;
    Ok(pieces)
}

pub(super) fn apply<H: Host>(context: &mut Context<'_, H>, arg: &SubstArg, input: &Text) -> Result<Value, Failed> {
    match arg {
        SubstArg::Bad => Err(Failed),
        SubstArg::Fixed(subst) => subst.replace(context.host, input),
        SubstArg::Var(var) => {
            let expression = context.text(&ArgText::Var(var.clone()))?;
            let program = context.host.vars().frame.program.clone().ok_or(Failed)?;
            let scope = Scope { surface: program.surface(), dialect: context.dialect };
            let subst = Subst::parse(&expression, scope, 1).map_err(|_| Failed)?;
            subst.replace(context.host, input)
        }
    }
}
