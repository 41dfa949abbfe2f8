//! `{param.*}` (`a=1;b="x";c`) and `{csv.*}`. It knows no message parts.

use super::{Context, ParamOp, flag, position};
use crate::value::{Text, Value};
use crate::vm::{Failed, Host};

/// Parts of `text` between separators outside of double quotes.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        let mut is_escaped = false;
        for (at, byte) in text.iter().enumerate() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_quoted => is_escaped = true,
                b'"' => is_quoted = !is_quoted,
                byte if *byte == separator && !is_quoted => {
                    rest = text.get(at + 1..);
                    return text.get(..at);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

fn unquoted(text: &[u8]) -> &[u8] {
    match text {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    }
}

fn params(text: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    split(text, b';').map(<[u8]>::trim_ascii).filter(|param| !param.is_empty()).map(|param| {
        match memchr::memchr(b'=', param) {
            Some(at) => (
                param.get(..at).unwrap_or(&[]).trim_ascii_end(),
                Some(unquoted(param.get(at + 1..).unwrap_or(&[]).trim_ascii_start())),
            ),
            None => (param, None),
        }
    })
}

pub(super) fn param<H: Host>(context: &mut Context<'_, H>, op: &ParamOp, input: &Text) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    let count = || params(input).count();
    Ok(match op {
        ParamOp::Value(name) => {
            let name = context.text(name)?;
            let found = params(input).find(|(other, _)| other.eq_ignore_ascii_case(&name));
            found.map_or(Value::Null, |(_, value)| Value::text(value.unwrap_or_default()))
        }
        ParamOp::Exist(name) => {
            let name = context.text(name)?;
            flag(params(input).any(|(other, _)| other.eq_ignore_ascii_case(&name)))
        }
        ParamOp::ValueAt(at) => {
            let found = position(context.int(at)?, count()).and_then(|at| params(input).nth(at));
            found.map_or(Value::Null, |(_, value)| Value::text(value.unwrap_or_default()))
        }
        ParamOp::Name(at) => {
            let found = position(context.int(at)?, count()).and_then(|at| params(input).nth(at));
            found.map_or(Value::Null, |(name, _)| Value::text(name))
        }
        ParamOp::Count => Value::Int(count() as i32),
    })
}

pub(super) fn csv_count(input: &Text) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    Ok(Value::Int(split(input, b',').count() as i32))
}

pub(super) fn csv_value(input: &Text, at: i32) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    let at = position(at, split(input, b',').count()).ok_or(Failed)?;
    Ok(Value::text(unquoted(split(input, b',').nth(at).ok_or(Failed)?)))
}
