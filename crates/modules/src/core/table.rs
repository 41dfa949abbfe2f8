//! Short ways to write the rows of module tables, and small helpers for values. No behaviour of any module.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, VarCall, Variable};
use tandem_script::surface::{
    ArgSpec, CommandSpec, FunctionSpec, NameRule, ParamSpec, ParamType, Routes, StatSpec, VariableSpec,
};
use tandem_script::value::{TEXT_INLINE_MAX, Text, Value};
use tandem_script::vm::{Arg, MessageContext};
use tandem_sip::Message;

/// Routes that work on a request or reply: request, failure, reply, branch and local routes.
pub(crate) const MESSAGE_ROUTES: Routes =
    Routes::REQUEST.or(Routes::FAILURE).or(Routes::ONREPLY).or(Routes::BRANCH).or(Routes::LOCAL).or(Routes::ERROR);
/// Routes that work on a request: request, failure, branch, local and error routes.
pub(crate) const REQUEST_ROUTES: Routes =
    Routes::REQUEST.or(Routes::FAILURE).or(Routes::BRANCH).or(Routes::LOCAL).or(Routes::ERROR);

/// A row of a function table.
pub(crate) const fn function(
    name: &'static str,
    args: &'static [ArgSpec],
    routes: Routes,
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes, is_async: false, doc }, call }
}

/// A row for a function that `async()` and `launch()` take, too.
pub(crate) const fn async_function(
    name: &'static str,
    args: &'static [ArgSpec],
    routes: Routes,
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes, is_async: true, doc }, call }
}

/// A row of a variable table, read-only.
pub(crate) const fn variable(
    name: &'static str,
    rule: NameRule,
    doc: &'static str,
    read: fn(&mut Context, &VarCall<'_>) -> Value,
) -> Variable {
    Variable { spec: VariableSpec { name, rule, is_writable: false, doc }, read, write: None }
}

/// A row of a variable table, assignable.
pub(crate) const fn writable(
    name: &'static str,
    rule: NameRule,
    doc: &'static str,
    read: fn(&mut Context, &VarCall<'_>) -> Value,
    write: fn(&mut Context, &VarCall<'_>, Value) -> bool,
) -> Variable {
    Variable { spec: VariableSpec { name, rule, is_writable: true, doc }, read, write: Some(write) }
}

/// A row of a parameter table.
pub(crate) const fn param(name: &'static str, ty: ParamType, default: &'static str, doc: &'static str) -> ParamSpec {
    ParamSpec { name, ty, default, is_repeatable: false, doc }
}

/// A row for a number.
pub(crate) const fn int(name: &'static str, default: &'static str, doc: &'static str) -> ParamSpec {
    param(name, ParamType::Int, default, doc)
}

/// A row for a text.
pub(crate) const fn text(name: &'static str, default: &'static str, doc: &'static str) -> ParamSpec {
    param(name, ParamType::Text, default, doc)
}

/// A row of a statistics table.
pub(crate) const fn stat(name: &'static str, doc: &'static str) -> StatSpec {
    StatSpec { name, doc }
}

/// A row for a parameter of which several lines add up.
pub(crate) const fn list_param(name: &'static str, ty: ParamType, doc: &'static str) -> ParamSpec {
    ParamSpec { name, ty, default: "", is_repeatable: true, doc }
}

/// A row of a management command table.
pub(crate) const fn command(name: &'static str, params: &'static [&'static str], doc: &'static str) -> CommandSpec {
    CommandSpec { name, aliases: &[], params, doc }
}

/// A row of a management command table with the names of older versions.
pub(crate) const fn renamed_command(
    name: &'static str,
    aliases: &'static [&'static str],
    params: &'static [&'static str],
    doc: &'static str,
) -> CommandSpec {
    CommandSpec { name, aliases, params, doc }
}

/// 1 for success, -1 for failure.
pub(crate) fn done(is_ok: bool) -> Called {
    Called::Done(if is_ok { 1 } else { -1 })
}

/// A part of `message` as a value: copied in place when short, shared with the buffer when long.
pub(crate) fn part(message: &Message, part: &[u8]) -> Text {
    if part.len() > TEXT_INLINE_MAX
        && let Some(span) = message.span_of(part)
    {
        return Text::share(&message.slice(span));
    }
    Text::copy(part)
}

/// The same as a value; NULL for `None`.
pub(crate) fn part_value(message: &Message, bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |bytes| Value::Text(part(message, bytes)))
}

/// The same; NULL also for an empty part.
pub(crate) fn filled_value(message: &Message, bytes: &[u8]) -> Value {
    part_value(message, Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// The message a variable reads: the current one, or that of its `<request>` or `<reply>` context.
pub(crate) fn message_of<'a>(context: &'a Context, call: &VarCall<'_>) -> Option<&'a Message> {
    match call.context {
        None => Some(&context.message),
        Some(MessageContext::Request) => match &context.request {
            Some(request) => Some(&request.message),
            None => Some(&context.message).filter(|message| message.is_request()),
        },
        Some(MessageContext::Reply) => match &context.reply {
            Some(reply) => Some(reply),
            None => Some(&context.message).filter(|message| !message.is_request()),
        },
    }
}

/// A truth value: prints `true` or `false`.
pub(crate) fn truth(is_true: bool) -> Value {
    Value::Bool(is_true)
}

/// The number a truth value is assigned: integers as they are, the words true and false.
pub(crate) fn truth_of(value: &Value) -> Option<bool> {
    match value.as_int() {
        Some(int) => Some(int != 0),
        None => match value.as_text()?.to_ascii_lowercase().as_slice() {
            b"true" | b"yes" | b"on" | b"1" => Some(true),
            b"false" | b"no" | b"off" | b"0" | b"" => Some(false),
            _ => None,
        },
    }
}

/// Position of an index in a list of `count`: negative from the end.
pub(crate) fn position(at: i32, count: usize) -> Option<usize> {
    let at = if at < 0 { count.checked_sub(at.unsigned_abs() as usize)? } else { at as usize };
    (at < count).then_some(at)
}
