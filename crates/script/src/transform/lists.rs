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

/// Name and value.
type Parameter<'a> = (&'a [u8], Option<&'a [u8]>);

/// The parameters up to a comma; `None` for a list the reference cannot read: a blank in front, an empty
/// value, or a semicolon at the end.
fn params(text: &[u8]) -> Option<Vec<Parameter<'_>>> {
    let text = split(text, b',').next()?;
    if text.first().is_some_and(u8::is_ascii_whitespace) {
        return None;
    }
    let mut list = Vec::new();
    for param in split(text, b';').map(<[u8]>::trim_ascii_start) {
        let found = match memchr::memchr(b'=', param) {
            Some(at) => {
                let value = param.get(at + 1..).unwrap_or(&[]).trim_ascii();
                if value.is_empty() {
                    return None;
                }
                (param.get(..at).unwrap_or(&[]).trim_ascii_end(), Some(unquoted(value)))
            }
            None => (param.trim_ascii_end(), None),
        };
        list.push(found);
    }
    (!text.trim_ascii_end().ends_with(b";")).then_some(list)
}

pub(super) fn param<H: Host>(context: &mut Context<'_, H>, op: &ParamOp, input: &Text) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    let list = params(input).ok_or(Failed)?;
    let count = list.len();
    Ok(match op {
        ParamOp::Value(name) => {
            let name = context.text(name)?;
            let found = list.iter().find(|(other, _)| other.eq_ignore_ascii_case(&name));
            found.map_or(Value::Null, |(_, value)| Value::text(value.unwrap_or_default()))
        }
        ParamOp::Exist(name) => {
            let name = context.text(name)?;
            flag(list.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)))
        }
        ParamOp::ValueAt(at) => {
            let found = position(context.int(at)?, count).and_then(|at| list.get(at));
            found.map_or(Value::Null, |(_, value)| Value::text(value.unwrap_or_default()))
        }
        ParamOp::Name(at) => {
            let found = position(context.int(at)?, count).and_then(|at| list.get(at));
            found.map_or(Value::Null, |(name, _)| Value::text(name))
        }
        ParamOp::Count => Value::Int(count as i32),
    })
}

/// The fields of a list; `None` when a quoted field is not closed, or something stands beside the quotes.
fn fields(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = match rest.strip_prefix(b"\"") {
            Some(mut inner) => {
                let mut field = Vec::new();
                loop {
                    let quote = memchr::memchr(b'"', inner)?;
                    field.extend_from_slice(inner.get(..quote)?);
                    inner = inner.get(quote + 1..)?;
                    match inner.strip_prefix(b"\"") {
                        Some(more) => {
                            field.push(b'"');
                            inner = more;
                        }
                        None => break,
                    }
                }
                (field, inner)
            }
            None => {
                let end = memchr::memchr(b',', rest).unwrap_or(rest.len());
                (rest.get(..end)?.to_vec(), rest.get(end..)?)
            }
        };
        list.push(field);
        match behind.split_first() {
            None => return Some(list),
            Some((b',', next)) => rest = next,
            Some(_) => return None,
        }
    }
}

pub(super) fn csv_count(input: &Text) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    Ok(Value::Int(fields(input).ok_or(Failed)?.len() as i32))
}

pub(super) fn csv_value(input: &Text, at: i32) -> Result<Value, Failed> {
    if input.is_empty() {
        return Err(Failed);
    }
    let list = fields(input).ok_or(Failed)?;
    let at = position(at, list.len()).ok_or(Failed)?;
    list.into_iter().nth(at).map(Value::from).ok_or(Failed)
}
