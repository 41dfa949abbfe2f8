//! `$bavp(...)` and `$tm.branch.*`: what belongs to one branch of a transaction.

use tandem_module::Context;
use tandem_module::declare::VarCall;
use tandem_script::ast::RouteKind;
use tandem_script::avp::{AvpList, AvpName};
use tandem_script::value::{Text, Value};
use tandem_script::vm::Index;

use super::layer::own_tx;
use super::relay::BranchArmed;
use super::tx::BranchData;

fn index_of(call: &VarCall<'_>) -> i32 {
    match call.index {
        Index::At(at) => at,
        _ => 0,
    }
}

/// Works on the AVPs of the current branch; `None` where there is none.
fn with_avps<T>(context: &mut Context, work: impl FnOnce(&mut AvpList) -> T) -> Option<T> {
    if context.kind == RouteKind::Branch {
        return context.slot::<BranchArmed>().map(|branch| work(branch.avps.get_or_insert_default()));
    }
    let branch = context.branch?;
    let tx = own_tx(context)?;
    let mut state = tx.state.lock();
    let data = state.branches.get_mut(usize::from(branch))?;
    Some(work(data.avps.get_or_insert_default()))
}

pub(super) fn read_bavp(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(name) = call.name.and_then(AvpName::intern) else { return Value::Null };
    if call.index == Index::All {
        let all = with_avps(context, |avps| avps.values(name).filter_map(Value::as_text).collect::<Vec<Text>>());
        let all: Vec<&[u8]> = all.iter().flatten().map(Text::as_bytes).collect();
        return if all.is_empty() { Value::Null } else { Value::text(&all.join(&b", "[..])) };
    }
    with_avps(context, |avps| avps.value(name, index_of(call)).cloned()).flatten().unwrap_or_default()
}

pub(super) fn write_bavp(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(name) = call.name.and_then(AvpName::intern) else { return false };
    let written = with_avps(context, |avps| match call.index {
        Index::Append => avps.append(name, value),
        Index::At(at) if value.is_null() => avps.remove(name, at),
        Index::At(at) => avps.replace(name, at, value),
        Index::None if value.is_null() && !call.is_replace => {
            avps.remove(name, 0);
            true
        }
        Index::None | Index::All => {
            if call.is_replace || call.index == Index::All {
                avps.remove_all(name);
            }
            value.is_null() || avps.push(name, value)
        }
    });
    written.unwrap_or(false)
}

/// Reads something of the branch that the index names, the current one without an index; negative ones count from the end.
fn of_branch(context: &Context, call: &VarCall<'_>, read: impl FnOnce(&BranchData) -> Option<Value>) -> Value {
    let Some(tx) = own_tx(context) else { return Value::Null };
    let state = tx.state.lock();
    let at = match call.index {
        Index::At(at) if at < 0 => state.branches.len().checked_sub(at.unsigned_abs() as usize),
        Index::At(at) => usize::try_from(at).ok(),
        _ => context.branch.map(usize::from),
    };
    at.and_then(|at| state.branches.get(at)).and_then(read).unwrap_or_default()
}

/// Writes to the branch that the index names; the one in work in a branch route.
fn write_branch(
    context: &mut Context,
    call: &VarCall<'_>,
    write: impl FnOnce(&mut tandem_module::edits::Target) -> bool,
) -> bool {
    if context.kind == RouteKind::Branch && call.index == Index::None {
        return write(&mut context.edits.target);
    }
    let Some(tx) = own_tx(context) else { return false };
    let mut state = tx.state.lock();
    let at = match call.index {
        Index::At(at) if at < 0 => state.branches.len().checked_sub(at.unsigned_abs() as usize),
        Index::At(at) => usize::try_from(at).ok(),
        _ => context.branch.map(usize::from),
    };
    at.and_then(|at| state.branches.get_mut(at)).is_some_and(|data| write(&mut data.target))
}

pub(super) fn uri(context: &mut Context, call: &VarCall<'_>) -> Value {
    let received = own_tx(context).map(|tx| tx.state.lock().request.clone());
    of_branch(context, call, |data| match &data.target.uri {
        Some(uri) => Some(Value::Text(uri.clone())),
        None => received?.message.request_uri().map(Value::text),
    })
}

pub(super) fn dst_uri(context: &mut Context, call: &VarCall<'_>) -> Value {
    of_branch(context, call, |data| data.target.dst_uri.clone().map(Value::Text))
}

pub(super) fn path(context: &mut Context, call: &VarCall<'_>) -> Value {
    of_branch(context, call, |data| data.target.path.clone().map(Value::Text))
}

pub(super) fn q(context: &mut Context, call: &VarCall<'_>) -> Value {
    of_branch(context, call, |data| data.target.q.map(|q| Value::Int(q.into())))
}

pub(super) fn socket(context: &mut Context, call: &VarCall<'_>) -> Value {
    let node = context.node;
    of_branch(context, call, |data| node.socket(data.to.socket).map(|socket| Value::text(socket.text.as_bytes())))
}

pub(super) fn flags(context: &mut Context, call: &VarCall<'_>) -> Value {
    let program = context.node.program();
    of_branch(context, call, |data| {
        let names = program.branch_flag_names().iter().enumerate();
        let set: Vec<&str> =
            names.filter(|(at, _)| data.target.flags >> at & 1 == 1).map(|(_, name)| &**name).collect();
        Some(Value::text(set.join(",").as_bytes()))
    })
}

pub(super) fn last_received(context: &mut Context, call: &VarCall<'_>) -> Value {
    of_branch(context, call, |data| (data.last_received != 0).then(|| Value::Int(data.last_received.into())))
}

pub(super) fn kind(context: &mut Context, call: &VarCall<'_>) -> Value {
    of_branch(context, call, |_| Some(Value::text(b"sip")))
}

fn flag_of(context: &Context, call: &VarCall<'_>) -> Option<u8> {
    context.node.program().find_branch_flag(call.name?)
}

pub(super) fn read_flag(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(flag) = flag_of(context, call) else { return Value::Int(0) };
    if context.kind == RouteKind::Branch && call.index == Index::None {
        return Value::Int(context.has_branch_flag(flag).into());
    }
    of_branch(context, call, |data| Some(Value::Int((data.target.flags >> flag & 1) as i32)))
}

pub(super) fn write_flag(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(flag) = flag_of(context, call) else { return false };
    let is_on = value.as_int().unwrap_or(0) != 0;
    write_branch(context, call, |target| {
        let bit = 1 << flag;
        if is_on {
            target.flags |= bit
        } else {
            target.flags &= !bit
        }
        true
    })
}

pub(super) fn read_attr(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(name) = call.name else { return Value::Null };
    let read = |attrs: &[(Text, Text)]| {
        attrs.iter().find(|(own, _)| own.as_bytes() == name).map(|(_, value)| Value::Text(value.clone()))
    };
    if context.kind == RouteKind::Branch && call.index == Index::None {
        return read(&context.edits.target.attrs).unwrap_or_default();
    }
    of_branch(context, call, |data| read(&data.target.attrs))
}

pub(super) fn write_attr(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(name) = call.name.map(Text::copy) else { return false };
    write_branch(context, call, |target| {
        target.attrs.retain(|(own, _)| *own != name);
        if let Some(text) = value.as_text() {
            target.attrs.push((name, text));
        }
        true
    })
}
