//! Message and branch flags (specification §8): functions and variables.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{VarCall, arg_flag, arg_int};
use tandem_module::edits::Target;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, Index};

use super::table::{done, truth, truth_of};

pub(super) fn set_flag(context: &mut Context, args: &[Arg]) -> Called {
    let Some(flag) = arg_flag(args, 0) else { return done(false) };
    context.set_flag(flag, true);
    done(true)
}

pub(super) fn reset_flag(context: &mut Context, args: &[Arg]) -> Called {
    let Some(flag) = arg_flag(args, 0) else { return done(false) };
    context.set_flag(flag, false);
    done(true)
}

pub(super) fn is_flag_set(context: &mut Context, args: &[Arg]) -> Called {
    done(arg_flag(args, 0).is_some_and(|flag| context.has_flag(flag)))
}

/// The target a branch index means: 0 is the request URI, 1 the first added branch.
pub(super) fn target_mut(context: &mut Context, at: i32) -> Option<&mut Target> {
    match usize::try_from(at).ok()? {
        0 => Some(&mut context.edits.target),
        at => context.edits.branches.get_mut(at - 1),
    }
}

fn branch_target<'a>(context: &'a mut Context, args: &[Arg]) -> Option<(u32, &'a mut Target)> {
    let bit = 1 << u32::from(arg_flag(args, 0)?.min(31));
    let at = match args.get(1) {
        None | Some(Arg::Missing) => 0,
        Some(_) => arg_int(args, 1)?,
    };
    Some((bit, target_mut(context, at)?))
}

pub(super) fn set_branch_flag(context: &mut Context, args: &[Arg]) -> Called {
    let Some((bit, target)) = branch_target(context, args) else { return done(false) };
    target.flags |= bit;
    done(true)
}

pub(super) fn reset_branch_flag(context: &mut Context, args: &[Arg]) -> Called {
    let Some((bit, target)) = branch_target(context, args) else { return done(false) };
    target.flags &= !bit;
    done(true)
}

pub(super) fn is_branch_flag_set(context: &mut Context, args: &[Arg]) -> Called {
    done(branch_target(context, args).is_some_and(|(bit, target)| target.flags & bit != 0))
}

/// Names of the flags that are set, the one defined last first, blank separated.
pub(super) fn names_of(bits: u32, names: &[Box<str>]) -> Text {
    let mut out = Vec::new();
    for (at, name) in names.iter().enumerate().rev() {
        if at < 32 && bits >> at & 1 == 1 {
            if !out.is_empty() {
                out.push(b' ');
            }
            out.extend_from_slice(name.as_bytes());
        }
    }
    Text::from(out)
}

/// The bits of branch flags named in a list separated by blanks, commas or semicolons; unknown names are left out.
pub(super) fn branch_bits(context: &Context, names: &[u8]) -> u32 {
    let program = context.node.program();
    names
        .split(|byte| matches!(byte, b' ' | b',' | b';'))
        .filter_map(|name| program.find_branch_flag(name))
        .fold(0, |bits, flag| bits | 1 << u32::from(flag.min(31)))
}

pub(super) fn message_flags(context: &mut Context, _: &VarCall<'_>) -> Value {
    if context.edits.flags == 0 {
        return Value::Text(Text::EMPTY);
    }
    Value::Text(names_of(context.edits.flags, context.node.program().message_flag_names()))
}

pub(super) fn branch_flags(context: &mut Context, _: &VarCall<'_>) -> Value {
    if context.edits.target.flags == 0 {
        return Value::Text(Text::EMPTY);
    }
    Value::Text(names_of(context.edits.target.flags, context.node.program().branch_flag_names()))
}

/// `$msg.flag(name)`.
pub(super) fn message_flag(context: &mut Context, call: &VarCall<'_>) -> Value {
    let flag = context.node.program().find_message_flag(call.name.unwrap_or_default());
    flag.map_or(Value::Null, |flag| truth(context.has_flag(flag)))
}

pub(super) fn set_message_flag(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let flag = context.node.program().find_message_flag(call.name.unwrap_or_default());
    match (flag, truth_of(&value)) {
        (Some(flag), Some(on)) => {
            context.set_flag(flag, on);
            true
        }
        _ => false,
    }
}

fn branch_flag_target<'a>(context: &'a mut Context, call: &VarCall<'_>) -> Option<(u32, &'a mut Target)> {
    let flag = context.node.program().find_branch_flag(call.name.unwrap_or_default())?;
    let at = match call.index {
        Index::At(at) => at,
        _ => 0,
    };
    Some((1 << u32::from(flag.min(31)), target_mut(context, at)?))
}

/// `$branch.flag(name)`.
pub(super) fn branch_flag(context: &mut Context, call: &VarCall<'_>) -> Value {
    branch_flag_target(context, call).map_or(Value::Null, |(bit, target)| truth(target.flags & bit != 0))
}

pub(super) fn set_branch_flag_var(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    match (branch_flag_target(context, call), truth_of(&value)) {
        (Some((bit, target)), Some(on)) => {
            if on {
                target.flags |= bit
            } else {
                target.flags &= !bit
            }
            true
        }
        _ => false,
    }
}
