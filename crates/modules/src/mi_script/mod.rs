//! Module `mi_script`: management commands run by the script. The commands are those of the process; what they do is not here.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value as Json};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, Setup, arg_text, arg_var};
use tandem_module::mi::{MiParams, MiReply, MiResult};
use tandem_module::run::Pending;
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::pvar::CompiledVar;
use tandem_script::surface::ArgType::{Text, Var, VarOut};
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};

use crate::core::table::{async_function, int, param};

/// There is no such command.
const NO_COMMAND: i32 = -1;
/// The parameters cannot be put together.
const BAD_PARAMS: i32 = -2;
/// The command gave no answer in time, or its answer cannot be stored.
const NO_ANSWER: i32 = -3;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "mi_script",
    doc: "management commands run by the script",
    params: PARAMS,
    functions: FUNCTIONS,
    setup,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    int("pretty_printing", "0", "1: JSON over several lines"),
    param("trace_destination", ParamType::Text, "", "accepted, no effect: commands are not traced"),
    param("trace_bwlist", ParamType::Text, "", "accepted, no effect: commands are not traced"),
];

static FUNCTIONS: &[Function] = &[async_function(
    "mi",
    &[arg("command", Text), opt("ret_var", VarOut), opt("params_avp", Var), opt("vals_avp", Var)],
    Routes::ANY,
    "runs a management command: 1, the code of its error as a negative number, or -1, -2, -3 when it did not run",
    mi,
)];

struct MiScript {
    is_pretty: bool,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let is_pretty = setup.params.int("pretty_printing", 0) != 0;
    setup.state(MiScript { is_pretty });
    Ok(())
}

/// `mi(command[, ret_var[, params_avp[, vals_avp]]])`. A command that is answered later parks the run.
fn mi(context: &mut Context, args: &[Arg]) -> Called {
    let Some(line) = arg_text(args, 0) else { return Called::Done(BAD_PARAMS) };
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let Some(command) = words.next() else {
        context.log(LogLevel::Error, "mi(): the command is empty");
        return Called::Done(BAD_PARAMS);
    };
    let out = arg_var(args, 1).cloned();
    let node = context.node;
    if !node.mi.has(command) {
        context.log(LogLevel::Error, &format!("mi(): there is no command '{command}'"));
        return Called::Done(NO_COMMAND);
    }
    let params = match (arg_var(args, 2), arg_var(args, 3)) {
        (None, None) => positional(words.map(Json::from).collect()),
        (Some(names), Some(values)) => match named(all(context, names), all(context, values)) {
            Ok(params) => params,
            Err(text) => {
                context.log(LogLevel::Error, &format!("mi({command}): {text}"));
                return Called::Done(BAD_PARAMS);
            }
        },
        (Some(list), None) | (None, Some(list)) => positional(all(context, list).iter().map(json_of).collect()),
    };
    match node.mi.run(command, params) {
        MiReply::Now(result) => finish(context, out.as_deref(), result),
        MiReply::Later(future) => {
            let command = command.to_owned();
            Pending::job(node, future, move |context, result| match result {
                Some(result) => finish(context, out.as_deref(), result),
                None => {
                    context.log(LogLevel::Error, &format!("mi({command}): the command took too long"));
                    Called::Done(NO_ANSWER)
                }
            })
        }
    }
}

/// All values of an AVP, the first one set first; of another variable the one it has.
fn all(context: &mut Context, var: &CompiledVar) -> Vec<Value> {
    match var.avp_name() {
        Some(name) => {
            let mut values: Vec<Value> = context.avps.values(name).cloned().collect();
            values.reverse();
            values
        }
        None => Some(context.read_var(var)).filter(|value| !value.is_null()).into_iter().collect(),
    }
}

fn text_of(value: &Value) -> String {
    value.as_text().map_or_else(String::new, |text| String::from_utf8_lossy(&text).into_owned())
}

/// Numbers stay numbers; `__array(a b)` is a list of texts.
fn json_of(value: &Value) -> Json {
    if let Value::Int(int) = value {
        return Json::from(*int);
    }
    let text = text_of(value);
    match text.strip_prefix("__array(").and_then(|rest| rest.strip_suffix(')')) {
        Some(words) => words.split(' ').filter(|word| !word.is_empty()).map(Json::from).collect(),
        None => Json::from(text),
    }
}

fn positional(list: Vec<Json>) -> MiParams {
    if list.is_empty() { MiParams::None } else { MiParams::Positional(list) }
}

/// # Errors
/// When names and values do not come in pairs.
fn named(names: Vec<Value>, values: Vec<Value>) -> Result<MiParams, String> {
    if names.len() != values.len() {
        return Err(format!("there are {} names of parameters and {} values", names.len(), values.len()));
    }
    let pairs: Map<String, Json> = names.iter().map(text_of).zip(values.iter().map(json_of)).collect();
    Ok(if pairs.is_empty() { MiParams::None } else { MiParams::Named(pairs) })
}

/// Stores the result, or the message of the error.
fn finish(context: &mut Context, out: Option<&CompiledVar>, result: MiResult) -> Called {
    let (code, text) = match result {
        Ok(result) => {
            let is_pretty = context.node.state::<MiScript>().is_some_and(|own| own.is_pretty);
            let written =
                if is_pretty { serde_json::to_string_pretty(&result) } else { serde_json::to_string(&result) };
            // Writing a Json value cannot fail: its keys are text and its numbers finite.
            (1, written.unwrap_or_default())
        }
        // 0 would end the script.
        Err(error) => {
            (i32::try_from(error.code.saturating_abs()).map_or(NO_ANSWER, |code| -code.max(1)), error.message)
        }
    };
    match out {
        Some(out) if !context.write_var(out, Value::from(text.as_str())) => Called::Done(NO_ANSWER),
        _ => Called::Done(code),
    }
}
