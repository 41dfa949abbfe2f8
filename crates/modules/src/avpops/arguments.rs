//! Arguments of `avpops`: a variable or word, and letters behind slashes.

use tandem_module::context::Context;
use tandem_script::ast::Dialect;
use tandem_script::avp::AvpName;
use tandem_script::pvar::{self, CompiledVar, Scope};
use tandem_script::value::{Text, Value};
use tandem_script::vm::LogLevel;

pub(super) fn scope(context: &Context) -> Scope<'static> {
    let node = context.node;
    Scope { surface: node.surface(), dialect: if node.settings.is_v2_4 { Dialect::V2_4 } else { Dialect::V4_0 } }
}

/// Logs what is wrong with an argument; -1.
pub(super) fn refuse(context: &Context, function: &str, text: &[u8]) -> tandem_module::Called {
    context.log(LogLevel::Error, &format!("{function}(): cannot understand '{}'", String::from_utf8_lossy(text)));
    tandem_module::Called::Done(-1)
}

/// `name/letters`: the part before the last slash, and lower-case letters behind it.
pub(super) fn flagged(text: &[u8]) -> (&[u8], Vec<u8>) {
    match text.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            let (name, flags) = text.split_at_checked(at).unwrap_or((text, b""));
            (name.trim_ascii(), flags.get(1..).unwrap_or_default().trim_ascii().to_ascii_lowercase())
        }
        None => (text.trim_ascii(), Vec::new()),
    }
}

/// `$avp(name)`, or the bare name of one.
pub(super) fn avp(context: &Context, text: &[u8]) -> Option<AvpName> {
    if !text.starts_with(b"$") {
        return if text.is_empty() { None } else { AvpName::intern(text) };
    }
    variable(context, text)?.avp_name()
}

pub(super) fn variable(context: &Context, text: &[u8]) -> Option<CompiledVar> {
    pvar::parse_exact(text, scope(context)).ok()
}

/// `i:12`, `i:0xff`, `s:text`, a variable, or text.
pub(super) fn value(context: &mut Context, text: &[u8]) -> Option<Value> {
    if text.starts_with(b"$") {
        let var = variable(context, text)?;
        return Some(context.read_var(&var));
    }
    match text {
        [b'i' | b'I', b':', digits @ ..] => integer(digits).map(Value::Int),
        [b's' | b'S', b':', rest @ ..] => Some(Value::Text(Text::copy(rest))),
        text => Some(Value::Text(Text::copy(text))),
    }
}

/// Decimal or `0x` hexadecimal.
pub(super) fn integer(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok().map(|bits| bits as i32),
        None => text.parse().ok(),
    }
}

/// The integer of a value, also out of text.
pub(super) fn number(value: &Value) -> Option<i32> {
    match value.as_int() {
        Some(int) => Some(int),
        None => integer(&value.as_text()?),
    }
}
