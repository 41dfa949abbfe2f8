//! `avp_subst()`: replacing parts of AVPs by a regular expression; variables in the replacement are expanded each time.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::format::Format;
use tandem_script::regex::{PosixRegex, RegexFlags};
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;

use super::Avpops;
use super::arguments::{avp, refuse, scope};
use crate::core::table::done;

/// Compiled expressions kept; the arguments are constants, so this is only reached by scripts of that size.
const KEPT_MAX: usize = 1000;
/// Longest result of a substitution, in bytes.
const RESULT_BYTES_MAX: usize = 64 * 1024;

/// Compiled expressions by their text.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Vec<u8>, Arc<Subst>>>);

struct Subst {
    regex: PosixRegex,
    pieces: Vec<Piece>,
    is_global: bool,
}

enum Piece {
    Format(Format),
    Group(usize),
}

impl Cache {
    fn find(&self, context: &Context, text: &[u8]) -> Option<Arc<Subst>> {
        if let Some(found) = self.0.lock().get(text) {
            return Some(found.clone());
        }
        let made = Arc::new(Subst::parse(context, text)?);
        let mut kept = self.0.lock();
        if kept.len() < KEPT_MAX {
            kept.insert(text.to_vec(), made.clone());
        }
        Some(made)
    }
}

impl Subst {
    fn parse(context: &Context, text: &[u8]) -> Option<Subst> {
        let (delimiter, rest) = text.trim_ascii().split_first()?;
        let (pattern, rest) = until(rest, *delimiter)?;
        let (replacement, flags) = until(rest, *delimiter)?;
        let (mut ignore_case, mut is_global) = (false, false);
        for flag in flags.to_ascii_lowercase() {
            match flag {
                b'i' => ignore_case = true,
                b'g' => is_global = true,
                _ => return None,
            }
        }
        let regex = PosixRegex::with_flags(&pattern, RegexFlags { ignore_case, is_line_mode: true }).ok()?;
        Some(Subst { regex, pieces: pieces(context, &replacement)?, is_global })
    }

    fn apply(&self, context: &mut Context, text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let (mut copied, mut from, mut count) = (0, 0, 0);
        while let Some(groups) = self.regex.groups_at(text, from) {
            let (start, end) = groups.first().copied().flatten()?;
            out.extend_from_slice(text.get(copied..start)?);
            for piece in &self.pieces {
                match piece {
                    Piece::Format(format) => {
                        format.eval(context, &mut out);
                    }
                    Piece::Group(number) => {
                        let range = groups.get(*number).copied().flatten();
                        out.extend_from_slice(range.and_then(|(start, end)| text.get(start..end)).unwrap_or_default());
                    }
                }
            }
            copied = end;
            count += 1;
            if !self.is_global || out.len() > RESULT_BYTES_MAX {
                break;
            }
            // An empty match would be found again at the same place: go on behind the next character.
            from = if end > start { end } else { next_char(text, end) };
            if from > text.len() {
                break;
            }
        }
        if count == 0 || out.len() > RESULT_BYTES_MAX {
            return None;
        }
        out.extend_from_slice(text.get(copied..)?);
        Some(out)
    }
}

fn next_char(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
        at += 1;
    }
    at
}

/// The text up to an unescaped delimiter, escapes of the delimiter taken off, and the rest.
fn until(text: &[u8], delimiter: u8) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        match (text.get(at)?, text.get(at + 1)) {
            (byte, _) if *byte == delimiter => return Some((out, text.get(at + 1..)?)),
            (b'\\', Some(next)) if *next == delimiter => out.push(delimiter),
            (b'\\', Some(next)) => out.extend_from_slice(&[b'\\', *next]),
            (byte, _) => {
                out.push(*byte);
                at += 1;
                continue;
            }
        }
        at += 2;
    }
}

fn pieces(context: &Context, replacement: &[u8]) -> Option<Vec<Piece>> {
    let mut all = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = replacement.iter();
    let flush = |literal: &mut Vec<u8>, all: &mut Vec<Piece>| {
        let text = std::mem::take(literal);
        if text.is_empty() {
            return Some(());
        }
        all.push(Piece::Format(Format::parse_in(&text, scope(context)).ok()?));
        Some(())
    };
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            literal.push(*byte);
            continue;
        }
        match bytes.next() {
            Some(digit) if digit.is_ascii_digit() => {
                flush(&mut literal, &mut all)?;
                all.push(Piece::Group(usize::from(digit - b'0')));
            }
            Some(b'n') => literal.push(b'\n'),
            Some(b'r') => literal.push(b'\r'),
            Some(b't') => literal.push(b'\t'),
            Some(other) => literal.push(*other),
            None => literal.push(b'\\'),
        }
    }
    flush(&mut literal, &mut all)?;
    Some(all)
}

/// `avp_subst("source[/destination[/flags]]", "/re/text/flags")`.
pub(super) fn call(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(names), Some(expression)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let mut parts = names.splitn(3, |byte| *byte == b'/').map(<[u8]>::trim_ascii);
    let source = parts.next().unwrap_or_default();
    let target = parts.next().filter(|target| !target.is_empty());
    let flags = parts.next().unwrap_or_default().to_ascii_lowercase();
    let (Some(from), Some(to)) = (avp(context, source), avp(context, target.unwrap_or(source))) else {
        return refuse(context, "avp_subst", names);
    };
    let Some(avpops) = context.node.state::<Avpops>() else { return done(false) };
    let Some(subst) = avpops.substitutions.find(context, expression) else {
        return refuse(context, "avp_subst", expression);
    };
    let (is_all, is_moved) = (flags.contains(&b'g'), flags.contains(&b'd') || target.is_none());
    let found: Vec<Value> = context.avps.values(from).take(if is_all { usize::MAX } else { 1 }).cloned().collect();
    let mut count = 0;
    for (at, value) in found.iter().enumerate() {
        // Only text values are changed.
        let Some(text) = value.as_text().filter(|_| !value.is_int_primary()) else { continue };
        let Some(new) = subst.apply(context, &text) else { continue };
        let new = Value::Text(Text::from(new));
        count += 1;
        if target.is_none() {
            context.avps.replace(from, at as i32, new);
        } else {
            context.avps.push(to, new);
        }
    }
    if count > 0 && is_moved && target.is_some() {
        if is_all {
            context.avps.remove_all(from);
        } else {
            context.avps.remove(from, 0);
        }
    }
    done(count > 0)
}
