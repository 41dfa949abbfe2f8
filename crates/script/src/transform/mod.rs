//! Transformations `{class.name,arg}` of variables: the compiled form and its application to a value. Parsing is in `parse`.

mod escape;
mod ip;
mod lists;
mod parse;
mod sdp;
mod sip;
mod subst;
#[cfg(test)]
mod tests;
mod text;

use crate::ast::Dialect;
use crate::pvar::CompiledVar;
use crate::value::{Text, Value, int_text};
use crate::vm::{Failed, Host, eval_at};

pub use ip::{Network, address};
pub(crate) use parse::parse_chain;
pub use sip::is_readable;

/// Longest result of a transformation in bytes; a longer one is an error.
pub const RESULT_BYTES_MAX: usize = 65_535;

/// Names of all transformations, `class.name`, for documentation and suggestions.
pub const NAMES: &[&str] = parse::NAMES;

/// One transformation.
#[derive(Clone, Debug)]
pub(crate) enum Transform {
    Text(TextOp),
    Uri(UriPart),
    Via(ViaPart),
    Param(ParamOp),
    /// With the index of `{nameaddr.1.uri}`.
    NameAddr(Option<i32>, NameAddrPart),
    CsvCount,
    CsvValue(ArgInt),
    Ip(IpOp),
    Subst(subst::SubstArg),
    Sdp(SdpOp),
    UrlEscape,
    UrlUnescape,
}

/// A text argument: constant or a variable.
#[derive(Clone, Debug)]
pub(crate) enum ArgText {
    Text(Box<[u8]>),
    Var(Box<CompiledVar>),
}

/// A number argument: constant or a variable.
#[derive(Clone, Debug)]
pub(crate) enum ArgInt {
    Int(i32),
    Var(Box<CompiledVar>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Clone, Debug)]
pub(crate) enum TextOp {
    Len,
    Int,
    Hash(Hash),
    Hmac(Hash, ArgText),
    Crc32,
    Substr(ArgInt, ArgInt),
    Select(ArgInt, u8),
    Lower,
    Upper,
    Index(ArgText, Option<ArgInt>),
    Rindex(ArgText, Option<ArgInt>),
    FillLeft(Box<[u8]>, ArgInt),
    FillRight(Box<[u8]>, ArgInt),
    Width(ArgInt),
    Trim,
    TrimLeft,
    TrimRight,
    Reverse,
    Base64Encode,
    Base64Decode,
    HexEncode,
    HexDecode,
    HexToInt,
    IntToHex,
    EscapeCommon,
    UnescapeCommon,
    EscapeUser,
    UnescapeUser,
    EscapeParam,
    UnescapeParam,
    Xor(ArgText),
    DateToUnix,
    Eval,
}

#[derive(Clone, Debug)]
pub(crate) enum UriPart {
    User,
    Host,
    Password,
    Port,
    Params,
    Param(ArgText),
    Named(&'static str),
    Headers,
    Scheme,
}

#[derive(Clone, Debug)]
pub(crate) enum ViaPart {
    Name,
    Version,
    Transport,
    Host,
    Port,
    Params,
    Param(ArgText),
    Named(&'static str),
    Comment,
}

#[derive(Clone, Debug)]
pub(crate) enum ParamOp {
    Value(ArgText),
    Exist(ArgText),
    ValueAt(ArgInt),
    Name(ArgInt),
    Count,
}

#[derive(Clone, Debug)]
pub(crate) enum NameAddrPart {
    Name,
    Uri,
    Len,
    Param(ArgText),
    Params,
}

#[derive(Clone, Debug)]
pub(crate) enum IpOp {
    Pton,
    Ntop,
    Family,
    IsIp,
    IsIp4,
    IsIp6,
    Matches(ArgText),
    IsPrivate,
    Resolve,
}

#[derive(Clone, Debug)]
pub(crate) enum SdpOp {
    Line(u8, ArgInt),
    Stream(ArgText),
    StreamDelete(ArgText),
}

/// Applies one transformation to a value that is not NULL.
pub(crate) fn apply<H: Host>(
    host: &mut H,
    level: usize,
    step: &Transform,
    value: Value,
    dialect: Dialect,
) -> Result<Value, Failed> {
    let input = match &value {
        Value::Null => return Ok(value),
        Value::Literal(int) => int_text(*int),
        other => other.as_text().unwrap_or(Text::EMPTY),
    };
    let mut context = Context { host, level, dialect };
    let result = match step {
        Transform::Text(op) => text::apply(&mut context, op, &value, &input),
        Transform::Uri(part) => sip::uri(&mut context, part, &input),
        Transform::Via(part) => sip::via(&mut context, part, &input),
        Transform::Param(op) => lists::param(&mut context, op, &input),
        Transform::NameAddr(index, part) => sip::name_addr(&mut context, *index, part, &input),
        Transform::CsvCount => lists::csv_count(&input),
        Transform::CsvValue(at) => {
            let at = context.int(at)?;
            lists::csv_value(&input, at)
        }
        Transform::Ip(op) => ip::apply(&mut context, op, &input),
        Transform::Subst(arg) => subst::apply(&mut context, arg, &input),
        Transform::Sdp(op) => sdp::apply(&mut context, op, &input),
        Transform::UrlEscape => Ok(escape::url(&input).into()),
        Transform::UrlUnescape => Ok(escape::unescape_url(&input).into()),
    }?;
    match &result {
        Value::Text(text) if text.len() > RESULT_BYTES_MAX => Err(Failed),
        _ => Ok(result),
    }
}

/// What a transformation may look at besides its input.
struct Context<'a, H> {
    host: &'a mut H,
    level: usize,
    dialect: Dialect,
}

impl<H: Host> Context<'_, H> {
    /// A number argument; a variable without a number is an error.
    fn int(&mut self, arg: &ArgInt) -> Result<i32, Failed> {
        match arg {
            ArgInt::Int(int) => Ok(*int),
            ArgInt::Var(var) => {
                let value = eval_at(self.host, var, self.level)?;
                value
                    .as_int()
                    .or_else(|| value.as_text().and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()))
                    .ok_or(Failed)
            }
        }
    }

    /// A text argument; NULL is an error.
    fn text(&mut self, arg: &ArgText) -> Result<Text, Failed> {
        match arg {
            ArgText::Text(text) => Ok(Text::copy(text)),
            ArgText::Var(var) => match eval_at(self.host, var, self.level)? {
                Value::Null => Err(Failed),
                Value::Literal(int) => Ok(int_text(int)),
                value => value.as_text().ok_or(Failed),
            },
        }
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::Text(Text::from(bytes))
    }
}

fn flag(is_true: bool) -> Value {
    Value::Int(i32::from(is_true))
}

/// A part that may be absent.
fn part(text: Option<&[u8]>) -> Value {
    text.map_or(Value::Null, Value::text)
}

/// A part that is absent when it is empty.
fn filled(text: &[u8]) -> Value {
    if text.is_empty() { Value::Null } else { Value::text(text) }
}

/// Element `at` of `count`, negative from the end.
fn position(at: i32, count: usize) -> Option<usize> {
    let at = if at < 0 { i64::from(at) + count as i64 } else { i64::from(at) };
    usize::try_from(at).ok().filter(|at| *at < count)
}
