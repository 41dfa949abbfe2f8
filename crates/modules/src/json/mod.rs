//! Module `json`: documents of a worker read and written by path (`$json(name/key[0])`), and three ways to print them.
//! The documents outlive the message, as `$var` does.

pub(crate) mod path;
#[cfg(test)]
mod tests;
mod value;

use std::cell::RefCell;

use hashbrown::HashMap;
use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, VarCall, Variable, arg_text, arg_var};
use tandem_script::surface::ArgType::{Text as TextArg, Var, VarOut};
use tandem_script::surface::{NameRule, ParamSpec, ParamType, Routes, VariableSpec, arg};
use tandem_script::value::{Text, Value, int_text};
use tandem_script::vm::{Arg, Index};

use crate::core::table::{done, function, param};
use path::{Path, Step, Walk};
use value::{Json, Node, Style, node, parse, print};

pub use value::DEPTH_MAX;

/// Documents a worker keeps; a further name is refused.
pub const DOCUMENTS_MAX: usize = 10_000;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "json",
    doc: "JSON documents as variables",
    params: PARAMS,
    functions: FUNCTIONS,
    variables: VARIABLES,
    setup: |setup| {
        setup.state(State { quotes_long: setup.params.int("enable_long_quoting", 0) != 0 });
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[param(
    "enable_long_quoting",
    ParamType::Int,
    "0",
    "integers that do not fit into a script integer are read as texts",
)];

static FUNCTIONS: &[Function] = &[
    function(
        "json_link",
        &[arg("destination", Var), arg("source", Var)],
        Routes::ANY,
        "makes one document a reference into another",
        link,
    ),
    function(
        "json_merge",
        &[arg("main", TextArg), arg("patch", TextArg), arg("result", VarOut)],
        Routes::ANY,
        "merges a patch (RFC 7396) into a document",
        merge,
    ),
];

const fn document(
    name: &'static str,
    doc: &'static str,
    read: fn(&mut Context, &VarCall<'_>) -> Value,
    write: Option<fn(&mut Context, &VarCall<'_>, Value) -> bool>,
) -> Variable {
    Variable { spec: VariableSpec { name, rule: NameRule::Path, is_writable: write.is_some(), doc }, read, write }
}

static VARIABLES: &[Variable] = &[
    document("json", "a document or a part of it", |context, call| read(context, call, Style::Spaced), Some(write)),
    document(
        "json_pretty",
        "the same, printed over lines",
        |context, call| read(context, call, Style::Pretty),
        Some(write),
    ),
    document(
        "json_compact",
        "the same, printed without blanks",
        |context, call| read(context, call, Style::Compact { escapes_slashes: true }),
        Some(write),
    ),
    document(
        "json_compact_noescape",
        "the same, slashes not escaped",
        |context, call| read(context, call, Style::Compact { escapes_slashes: false }),
        Some(write),
    ),
];

struct State {
    quotes_long: bool,
}

thread_local! {
    static DOCUMENTS: RefCell<HashMap<Vec<u8>, Node>> = RefCell::new(HashMap::new());
}

fn find(path: &Path) -> Option<Node> {
    let root = DOCUMENTS.with_borrow(|all| all.get(&path.name).cloned())?;
    step_down(root, &path.steps)
}

fn step_down(mut at: Node, steps: &[Step]) -> Option<Node> {
    for step in steps {
        let next = match (&*at.borrow(), step) {
            (Json::Object(members), Step::Key(key)) => {
                members.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone())?
            }
            (Json::Array(items), Step::At(index)) => {
                items.get(crate::core::table::position(*index, items.len())?)?.clone()
            }
            _ => return None,
        };
        at = next;
    }
    Some(at)
}

fn shown(context: &Context, json: &Json, style: Style) -> Value {
    match json {
        Json::Int(int) => match i32::try_from(*int) {
            Ok(int) => Value::Int(int),
            Err(_) => {
                let text = Text::from(int.to_string());
                let quotes = context.node.state::<State>().is_some_and(|state| state.quotes_long);
                if quotes { Value::Text(text) } else { Value::Number(text, *int as i32) }
            }
        },
        Json::Text(text) => Value::text(text),
        json => {
            let mut out = Vec::new();
            print(json, style, &mut out);
            Value::Text(Text::from(out))
        }
    }
}

fn read(context: &mut Context, call: &VarCall<'_>, style: Style) -> Value {
    let Some(path) = Path::parse(call.name.unwrap_or_default()) else { return Value::Null };
    let Some(found) = find(&path) else { return Value::Null };
    let found = found.borrow();
    match call.index {
        Index::None if matches!(&*found, Json::Null) => Value::Null,
        Index::None => shown(context, &found, style),
        // A round of `for`.
        Index::At(at) => match (&*found, path.walk, usize::try_from(at)) {
            (Json::Object(members), walk, Ok(at)) => match (members.get(at), walk) {
                (Some((key, _)), Walk::Keys) => Value::text(key),
                (Some((_, value)), _) => shown(context, &value.borrow(), style),
                (None, _) => Value::Null,
            },
            (Json::Array(items), Walk::Whole, Ok(at)) => {
                items.get(at).map_or(Value::Null, |item| shown(context, &item.borrow(), style))
            }
            _ => Value::Null,
        },
        Index::All | Index::Append => Value::Null,
    }
}

fn write(_: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(path) = Path::parse(call.name.unwrap_or_default()) else { return false };
    let new = match &value {
        Value::Null => return store(&path, None),
        value if call.is_replace => {
            let Some(text) = value.as_text() else { return false };
            match parse(&text).filter(|parsed| !matches!(&*parsed.borrow(), Json::Null) || !path.steps.is_empty()) {
                Some(parsed) => parsed,
                None => {
                    store(&path, None);
                    return false;
                }
            }
        }
        value if value.is_int_primary() => node(Json::Int(i64::from(value.as_int().unwrap_or(0)))),
        value => node(Json::Text(value.as_text().unwrap_or_else(|| int_text(0)).to_vec())),
    };
    store(&path, Some(new))
}

/// Puts a value into its place; `None` deletes it. False when there is no such place.
fn store(path: &Path, value: Option<Node>) -> bool {
    let Some((last, above)) = path.steps.split_last() else {
        return DOCUMENTS.with_borrow_mut(|all| match value {
            None => {
                all.remove(&path.name);
                true
            }
            Some(_) if all.len() >= DOCUMENTS_MAX && !all.contains_key(&path.name) => false,
            Some(value) => {
                all.insert(path.name.clone(), value);
                true
            }
        });
    };
    let root = DOCUMENTS.with_borrow(|all| all.get(&path.name).cloned());
    let Some(parent) = root.and_then(|root| step_down(root, above)) else { return false };
    match (&mut *parent.borrow_mut(), last, value) {
        (Json::Object(members), Step::Key(key), Some(value)) => value::put(members, key, value),
        (Json::Object(members), Step::Key(key), None) => members.retain(|(other, _)| other != key),
        (Json::Array(items), Step::Append, Some(value)) => items.push(value),
        (Json::Array(items), Step::At(at), value) => {
            let Some(at) = crate::core::table::position(*at, items.len()) else { return false };
            match (value, items.get_mut(at)) {
                (Some(value), Some(slot)) => *slot = value,
                _ => drop(items.remove(at)),
            }
        }
        _ => return false,
    }
    true
}

/// The path of a variable argument, in this run.
fn path_of(context: &mut Context, args: &[Arg], at: usize) -> Option<Path> {
    let var = arg_var(args, at)?;
    let name = tandem_script::vm::path_name(context, var)?;
    Path::parse(&name)
}

/// `json_link($json(destination), $json(source))`.
fn link(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(to), Some(from)) = (path_of(context, args, 0), path_of(context, args, 1)) else { return done(false) };
    let Some(found) = find(&from) else { return done(false) };
    done(store(&to, Some(found)))
}

/// `json_merge(main, patch, $var(result))`.
fn merge(context: &mut Context, args: &[Arg]) -> Called {
    let given = |at: usize| arg_text(args, at).and_then(parse);
    let (Some(main), Some(patch), Some(out)) = (given(0), given(1), arg_var(args, 2)) else { return done(false) };
    let mut text = Vec::new();
    print(&value::merge(&main, &patch).borrow(), Style::Compact { escapes_slashes: false }, &mut text);
    done(context.write_var(out, Value::Text(Text::from(text))))
}
