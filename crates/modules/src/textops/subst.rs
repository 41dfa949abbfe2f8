//! `subst...('/re/repl/flags')`: sed-like substitution with back-references and variables.

use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::ast::Dialect;
use tandem_script::format::Format;
use tandem_script::pvar::Scope;
use tandem_script::regex::{Groups, PosixRegex, RegexFlags};
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{Span, Uri, UriEdit, edit_uri};

use super::{PATTERNS_KEPT_MAX, REPLACEMENTS_MAX, Region, State, next_char, region};
use crate::core::table::done;

enum Piece {
    Text(Format),
    Group(usize),
}

/// A parsed expression.
pub(super) struct Subst {
    regex: PosixRegex,
    pieces: Vec<Piece>,
    is_global: bool,
}

/// Splits at the first delimiter that no backslash protects.
fn split(text: &[u8], delimiter: u8) -> Option<(Vec<u8>, &[u8])> {
    let mut part = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, text.get(at + 1)) {
            (b'\\', Some(next)) if *next == delimiter => {
                part.push(delimiter);
                at += 2;
            }
            (b'\\', Some(next)) => {
                part.extend_from_slice(&[b'\\', *next]);
                at += 2;
            }
            (byte, _) if *byte == delimiter => return Some((part, text.get(at + 1..)?)),
            (byte, _) => {
                part.push(*byte);
                at += 1;
            }
        }
    }
    None
}

impl Subst {
    fn parse(expression: &[u8], scope: Scope<'_>) -> Result<Subst, String> {
        let (delimiter, rest) = expression.split_first().ok_or("empty expression")?;
        let (pattern, rest) = split(rest, *delimiter).ok_or("no second delimiter")?;
        let (replacement, flags) = split(rest, *delimiter).ok_or("no third delimiter")?;
        let mut regex_flags = RegexFlags { ignore_case: false, is_line_mode: true };
        let mut is_global = false;
        for flag in flags {
            match flag {
                b'i' => regex_flags.ignore_case = true,
                b'g' => is_global = true,
                b's' => regex_flags.is_line_mode = false,
                other => return Err(format!("unknown flag '{}'", char::from(*other))),
            }
        }
        let regex = PosixRegex::with_flags(&pattern, regex_flags).map_err(|error| error.to_string())?;
        Ok(Subst { regex, pieces: pieces(&replacement, scope)?, is_global })
    }

    fn write(&self, context: &mut Context, text: &[u8], groups: &Groups, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(format) => {
                    format.eval(context, out);
                }
                Piece::Group(at) => {
                    let range = groups.get(*at).copied().flatten();
                    out.extend_from_slice(range.and_then(|(start, end)| text.get(start..end)).unwrap_or_default());
                }
            }
        }
    }

    /// All places to change: range and new text.
    fn apply(&self, context: &mut Context, text: &[u8]) -> Vec<(usize, usize, Vec<u8>)> {
        let mut changes = Vec::new();
        let mut from = 0;
        while let Some(groups) = self.regex.groups_at(text, from) {
            let [Some((start, end)), ..] = groups else { break };
            let mut out = Vec::new();
            self.write(context, text, &groups, &mut out);
            changes.push((start, end, out));
            if !self.is_global || changes.len() >= REPLACEMENTS_MAX {
                break;
            }
            from = if end > start { end } else { next_char(text, end) };
            if from > text.len() {
                break;
            }
        }
        changes
    }
}

/// The replacement: `\0` to `\9` are groups, `\n \r \t \\` characters, the rest is a format.
fn pieces(text: &[u8], scope: Scope<'_>) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let flush = |literal: &mut Vec<u8>, pieces: &mut Vec<Piece>| -> Result<(), String> {
        if !literal.is_empty() {
            pieces.push(Piece::Text(Format::parse_in(literal, scope).map_err(|error| error.message)?));
            literal.clear();
        }
        Ok(())
    };
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, text.get(at + 1)) {
            (b'\\', Some(digit @ b'0'..=b'9')) => {
                flush(&mut literal, &mut pieces)?;
                pieces.push(Piece::Group(usize::from(digit - b'0')));
                at += 2;
            }
            (b'\\', Some(b'n')) => {
                literal.push(b'\n');
                at += 2;
            }
            (b'\\', Some(b'r')) => {
                literal.push(b'\r');
                at += 2;
            }
            (b'\\', Some(b't')) => {
                literal.push(b'\t');
                at += 2;
            }
            (b'\\', Some(b'\\')) => {
                literal.push(b'\\');
                at += 2;
            }
            (byte, _) => {
                literal.push(*byte);
                at += 1;
            }
        }
    }
    flush(&mut literal, &mut pieces)?;
    Ok(pieces)
}

/// The expression of a call, parsed once.
fn expression(context: &Context, args: &[Arg]) -> Option<Arc<Subst>> {
    let text = arg_text(args, 0)?;
    let state = context.node.state::<State>()?;
    if let Some(known) = state.substitutions.read().get(text) {
        return Some(known.clone());
    }
    let dialect = if context.node.settings.is_v2_4 { Dialect::V2_4 } else { Dialect::V4_0 };
    match Subst::parse(text, Scope { surface: context.node.surface(), dialect }) {
        Ok(made) => {
            let made = Arc::new(made);
            let mut kept = state.substitutions.write();
            if kept.len() < PATTERNS_KEPT_MAX {
                kept.insert(text.to_vec(), made.clone());
            }
            Some(made)
        }
        Err(error) => {
            context.log(LogLevel::Error, &format!("subst: '{}': {error}", String::from_utf8_lossy(text)));
            None
        }
    }
}

fn in_region(context: &mut Context, args: &[Arg], place: Region) -> Called {
    let Some(subst) = expression(context, args) else { return done(false) };
    let region = region(context, place);
    let text = context.message.slice(region);
    let changes = subst.apply(context, &text);
    let is_changed = !changes.is_empty();
    for (start, end, new) in changes {
        let span = Span::new(region.start + start as u32, region.start + end as u32);
        context.edits.lumps.replace(span, new);
    }
    done(is_changed)
}

pub(super) fn subst(context: &mut Context, args: &[Arg]) -> Called {
    in_region(context, args, Region::Rest)
}

pub(super) fn subst_body(context: &mut Context, args: &[Arg]) -> Called {
    in_region(context, args, Region::Body)
}

/// A text with the changes of an expression; `None` when nothing matched.
fn changed(context: &mut Context, subst: &Subst, text: &[u8]) -> Option<Vec<u8>> {
    let changes = subst.apply(context, text);
    if changes.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() + 32);
    let mut at = 0;
    for (start, end, new) in changes {
        out.extend_from_slice(text.get(at..start).unwrap_or_default());
        out.extend_from_slice(&new);
        at = end;
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    Some(out)
}

pub(super) fn subst_uri(context: &mut Context, args: &[Arg]) -> Called {
    let Some(subst) = expression(context, args) else { return done(false) };
    let Some(uri) = context.request_uri().map(<[u8]>::to_vec) else { return done(false) };
    let Some(new) = changed(context, &subst, &uri) else { return done(false) };
    context.edits.target.uri = Some(Text::from(new));
    done(true)
}

pub(super) fn subst_user(context: &mut Context, args: &[Arg]) -> Called {
    let Some(subst) = expression(context, args) else { return done(false) };
    let Some(uri) = context.request_uri().map(<[u8]>::to_vec) else { return done(false) };
    let user = Uri::parse(&uri).ok().map(|uri| uri.user_or_empty().to_vec()).unwrap_or_default();
    let Some(new) = changed(context, &subst, &user) else { return done(false) };
    let Ok(uri) = edit_uri(&uri, &UriEdit::User(&new)) else { return done(false) };
    context.edits.target.uri = Some(Text::from(uri));
    done(true)
}
