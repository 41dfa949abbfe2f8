//! Reading and writing variables: the classes of the language itself, the rest through the host. It parses nothing.

use super::frame::ParamValue;
use super::host::{Host, Index};
use super::operators::compound;
use crate::ast::{AssignOp, Dialect, RouteKind};
use crate::avp::AvpName;
use crate::pvar::{CompiledVar, RouteField, VarClass, VarIndex, VarName};
use crate::transform::{self, Transform};
use crate::value::{Text, Value};

/// Longest text of a `[*]` read in bytes; a longer one reads NULL.
pub const JOIN_BYTES_MAX: usize = 511;
/// Instructions a parameter that is evaluated when it is read counts for; bounds parameters that name parameters.
const LAZY_COST: u64 = 100;

/// An evaluation error (2.4 rules: a failing transformation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// The value of a variable, transformations applied; an evaluation error reads NULL. `$param`, `$rc`, `$route` and the like
/// show the run that is going on at this host.
pub fn read_var<H: Host>(host: &mut H, var: &CompiledVar) -> Value {
    eval_var(host, var).unwrap_or(Value::Null)
}

/// The value of a variable, or the evaluation error of the 2.4 rules.
pub(crate) fn eval_var<H: Host>(host: &mut H, var: &CompiledVar) -> Result<Value, Failed> {
    // The most frequent case first, without looking at the calls.
    if let (VarClass::Var(slot), true) = (&var.class, var.transforms.is_empty()) {
        return Ok(host.vars().value(*slot).clone());
    }
    let level = host.vars().frame.calls.len();
    eval_at(host, var, level)
}

/// The value of a variable, as the route at `level` calls sees it.
pub(crate) fn eval_at<H: Host>(host: &mut H, var: &CompiledVar, level: usize) -> Result<Value, Failed> {
    let Some(index) = index_of(host, var, level)? else { return Ok(Value::Null) };
    let value = base(host, var, level, index)?;
    transformed(host, var, &var.transforms, level, value)
}

/// Element `at` of a list variable, for `for`.
pub(crate) fn eval_element<H: Host>(host: &mut H, var: &CompiledVar, at: i32) -> Result<Value, Failed> {
    let level = host.vars().frame.calls.len();
    // The elements are given as they are; transformations of the list are not applied to them.
    base(host, var, level, Index::At(at))
}

fn transformed<H: Host>(
    host: &mut H,
    var: &CompiledVar,
    steps: &[Transform],
    level: usize,
    mut value: Value,
) -> Result<Value, Failed> {
    for step in steps {
        if value.is_null() {
            return Ok(value);
        }
        value = match transform::apply(host, level, step, value, var.dialect) {
            Ok(value) => value,
            Err(Failed) if var.dialect == Dialect::V2_4 => return Err(Failed),
            Err(Failed) => return Ok(Value::Null),
        };
    }
    Ok(value)
}

/// The index; `None` when a variable index has no integer form.
fn index_of<H: Host>(host: &mut H, var: &CompiledVar, level: usize) -> Result<Option<Index>, Failed> {
    Ok(match &var.index {
        VarIndex::None => Some(Index::None),
        VarIndex::At(at) => Some(Index::At(*at)),
        VarIndex::All => Some(Index::All),
        VarIndex::Append => Some(Index::Append),
        VarIndex::Var(inner) => eval_at(host, inner, level)?.as_int().map(Index::At),
    })
}

/// A name that has to be made first; `None` when it is NULL.
fn dynamic_name<H: Host>(host: &mut H, name: &VarName, level: usize) -> Result<Option<Text>, Failed> {
    Ok(match name {
        VarName::Var(inner) => eval_at(host, inner, level)?.as_text(),
        VarName::Format(format) => format.eval_text(host),
        VarName::Path(format) => Some(format.eval_path(host)),
        VarName::Text(text) => Some(Text::copy(text)),
        VarName::None | VarName::Avp(_) => None,
    })
}

/// The argument in parentheses of a variable, as its reader is given it; `None` when it is NULL.
pub fn path_name<H: Host>(host: &mut H, var: &CompiledVar) -> Option<Text> {
    let level = host.vars().frame.calls.len();
    dynamic_name(host, &var.name, level).ok().flatten()
}

fn avp_name<H: Host>(host: &mut H, var: &CompiledVar, level: usize) -> Result<Option<AvpName>, Failed> {
    if let VarName::Avp(name) = &var.name {
        return Ok(Some(*name));
    }
    Ok(dynamic_name(host, &var.name, level)?.and_then(|name| AvpName::intern(&name)))
}

fn base<H: Host>(host: &mut H, var: &CompiledVar, level: usize, index: Index) -> Result<Value, Failed> {
    Ok(match var.class {
        VarClass::Var(slot) => host.vars().value(slot).clone(),
        VarClass::Avp => match avp_name(host, var, level)? {
            Some(name) => read_avp(host, name, index),
            None => Value::Null,
        },
        VarClass::Rc => Value::Int(host.vars().frame.rc),
        VarClass::Return => match number_of(host, var, level)? {
            Some(at) => usize::try_from(at)
                .ok()
                .and_then(|at| host.vars().frame.returns.get(at).cloned())
                .unwrap_or(Value::Null),
            None => Value::Null,
        },
        VarClass::Param => read_param(host, var, level)?,
        VarClass::Route(field) => read_route(host, field, level, index),
        VarClass::TopRouteKind => host.vars().frame.kind.map_or(Value::Null, |kind| Value::from(kind_name(kind))),
        VarClass::CfgLine => {
            let frame = &host.vars().frame;
            let line = frame.program.as_ref().map(|program| program.position(frame.pc).line);
            line.map_or(Value::Null, |line| Value::Int(line as i32))
        }
        VarClass::CfgFile => {
            let frame = &host.vars().frame;
            let file = frame
                .program
                .as_ref()
                .and_then(|program| program.files.get(usize::from(program.position(frame.pc).span.file.0)).cloned());
            file.map_or(Value::Null, Value::Text)
        }
        VarClass::Dollar => Value::Dual(Text::from("$"), i32::from(b'$')),
        VarClass::Missing => Value::Null,
        VarClass::Host(id) => match &var.name {
            VarName::None => host.read_variable(id, var.context, None, index),
            VarName::Text(name) => host.read_variable(id, var.context, Some(name), index),
            dynamic => match dynamic_name(host, dynamic, level)? {
                Some(name) => host.read_variable(id, var.context, Some(&name), index),
                None => Value::Null,
            },
        },
    })
}

fn read_avp<H: Host>(host: &mut H, name: AvpName, index: Index) -> Value {
    let avps = host.avps();
    match index {
        Index::None => avps.value(name, 0).cloned().unwrap_or(Value::Null),
        Index::At(at) => avps.value(name, at).cloned().unwrap_or(Value::Null),
        Index::Append => Value::Null,
        Index::All => {
            let mut joined = Vec::new();
            let mut count = 0;
            for value in avps.values(name) {
                if count > 0 {
                    joined.extend_from_slice(b", ");
                }
                value.print_into(&mut joined);
                count += 1;
                if joined.len() > JOIN_BYTES_MAX {
                    return Value::Null;
                }
            }
            if count == 0 { Value::Null } else { Value::Text(Text::from(joined)) }
        }
    }
}

/// The argument as a number.
fn number_of<H: Host>(host: &mut H, var: &CompiledVar, level: usize) -> Result<Option<i32>, Failed> {
    Ok(match &var.name {
        VarName::Var(inner) => {
            let value = eval_at(host, inner, level)?;
            value.as_int().or_else(|| value.as_text().and_then(|text| decimal(&text)))
        }
        VarName::Text(text) => decimal(text),
        other => dynamic_name(host, other, level)?.and_then(|text| decimal(&text)),
    })
}

pub(crate) fn decimal(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn read_param<H: Host>(host: &mut H, var: &CompiledVar, level: usize) -> Result<Value, Failed> {
    let name = match &var.name {
        VarName::Var(inner) => match eval_at(host, inner, level)? {
            Value::Null => return Ok(Value::Null),
            value => match value.as_int() {
                Some(at) => ParamKey::At(at),
                None => ParamKey::Name(value.as_text().unwrap_or(Text::EMPTY)),
            },
        },
        other => match dynamic_name(host, other, level)? {
            Some(text) => ParamKey::Name(text),
            None => return Ok(Value::Null),
        },
    };
    let frame = &mut host.vars().frame;
    let param = match &name {
        ParamKey::At(at) => frame.param(level, *at),
        ParamKey::Name(name) => match decimal(name) {
            Some(at) => frame.param(level, at),
            None => frame.named_param(level, name),
        },
    };
    let lazy = match param.map(|param| &param.value) {
        None => return Ok(Value::Null),
        Some(ParamValue::Value(value)) => return Ok(value.clone()),
        Some(ParamValue::Lazy(lazy)) => lazy.clone(),
    };
    if frame.fuel < LAZY_COST {
        return Ok(Value::Null);
    }
    frame.fuel -= LAZY_COST;
    eval_at(host, &lazy, level - 1)
}

enum ParamKey {
    At(i32),
    Name(Text),
}

fn read_route<H: Host>(host: &mut H, field: RouteField, level: usize, index: Index) -> Value {
    let frame = &host.vars().frame;
    let Some(program) = &frame.program else { return Value::Null };
    let text_of = |at: usize| {
        let info = program.route_info(frame.calls.get(at)?.route)?;
        Some(match field {
            RouteField::Whole => &info.shown,
            RouteField::Name => &info.shown_name,
            RouteField::Type => &info.shown_type,
        })
    };
    let count = level.min(frame.calls.len());
    let at = match index {
        Index::None | Index::Append => count.checked_sub(1),
        // 0 is the innermost, -1 the top.
        Index::At(at) if at >= 0 => count.checked_sub(at as usize + 1),
        Index::At(at) => Some(at.unsigned_abs() as usize - 1).filter(|at| *at < count),
        Index::All => {
            let mut joined = Vec::new();
            for (at, text) in (0..count).filter_map(text_of).enumerate() {
                if at > 0 {
                    joined.extend_from_slice(b" > ");
                }
                joined.extend_from_slice(text);
            }
            return Value::Text(Text::from(joined));
        }
    };
    at.and_then(text_of).map_or(Value::Null, |text| Value::Text(text.clone()))
}

/// Name of a kind of route as `$route` and `$rT` show it.
pub(crate) const fn kind_name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Request => "request_route",
        RouteKind::Branch => "branch_route",
        RouteKind::Failure => "failure_route",
        RouteKind::OnReply => "onreply_route",
        RouteKind::Error => "error_route",
        RouteKind::Local => "local_route",
        RouteKind::Startup => "startup_route",
        RouteKind::Timer => "timer_route",
        RouteKind::Event => "event_route",
    }
}

/// `var op value` as an assignment does it; false when it is refused and the variable keeps its value.
/// Compound operators act as plain assignment in the 2.4 dialect.
pub fn write_var<H: Host>(host: &mut H, var: &CompiledVar, op: AssignOp, value: Value) -> bool {
    let level = host.vars().frame.calls.len();
    let Ok(Some(index)) = index_of(host, var, level) else { return false };
    let is_replace = op == AssignOp::Replace;
    let value = match op {
        AssignOp::Set | AssignOp::Replace => value,
        _ if var.dialect == Dialect::V2_4 => value,
        _ => match base(host, var, level, index).ok().and_then(|old| compound(op, &old, &value)) {
            Some(value) => value,
            None => return false,
        },
    };
    match var.class {
        VarClass::Var(slot) => {
            host.vars().set(slot, value);
            true
        }
        VarClass::Avp => match avp_name(host, var, level) {
            Ok(Some(name)) => write_avp(host, var.dialect, name, index, is_replace, value),
            _ => false,
        },
        VarClass::Host(id) => match &var.name {
            VarName::None => host.write_variable(id, None, index, is_replace, value),
            VarName::Text(name) => host.write_variable(id, Some(name), index, is_replace, value),
            dynamic => match dynamic_name(host, dynamic, level) {
                Ok(Some(name)) => host.write_variable(id, Some(&name), index, is_replace, value),
                _ => false,
            },
        },
        _ => false,
    }
}

fn write_avp<H: Host>(
    host: &mut H,
    dialect: Dialect,
    name: AvpName,
    index: Index,
    is_replace: bool,
    value: Value,
) -> bool {
    let avps = host.avps();
    match index {
        _ if is_replace || index == Index::All => {
            avps.remove_all(name);
            value.is_null() || avps.push(name, value)
        }
        Index::None if value.is_null() => {
            avps.remove(name, 0);
            true
        }
        Index::None => avps.push(name, value),
        Index::At(at) if at < 0 && dialect == Dialect::V2_4 => false,
        Index::At(at) if value.is_null() => {
            avps.remove(name, at);
            true
        }
        Index::At(at) => avps.replace(name, at, value),
        Index::Append => value.is_null() || avps.append(name, value),
        Index::All => false,
    }
}
