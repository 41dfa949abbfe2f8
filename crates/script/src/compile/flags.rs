//! Flags that are named only in variables (`$msg.flag(NAT)`): a flag exists from its first mention anywhere. Functions name theirs themselves.

use std::sync::Arc;

use crate::program::{ArgPlan, Program, flag_index};
use crate::pvar::CompiledVar;
use crate::vm::Arg;

/// Classes whose argument is the name of a flag, and whether it is one of a branch.
const FLAG_CLASSES: [(&str, bool); 3] = [("msg.flag", false), ("branch.flag", true), ("msg.branch.flag", true)];

/// Defines the flags that variables of the program name; beyond the limit they stay undefined and read as unset.
pub(super) fn define(program: &mut Program) {
    let mut found = Vec::new();
    let surface = Arc::clone(&program.surface);
    let mut note = |var: &CompiledVar| {
        let class = var.host_class().and_then(|id| surface.variable(id));
        let Some((_, is_branch)) = class.and_then(|(_, spec)| FLAG_CLASSES.iter().find(|(name, _)| *name == spec.name))
        else {
            return;
        };
        if let Some(Ok(name)) = var.constant_name().map(String::from_utf8) {
            found.push((name, *is_branch));
        }
    };
    for var in &program.vars {
        var.visit(&mut note);
    }
    for var in program.formats.iter().flat_map(|format| format.vars()) {
        var.visit(&mut note);
    }
    for plan in program.calls.iter().flat_map(|call| &call.args) {
        if let ArgPlan::Constant(Arg::Var(var)) = plan {
            var.visit(&mut note);
        }
    }
    for (name, is_branch) in found {
        flag_index(if is_branch { &mut program.branch_flags } else { &mut program.message_flags }, &name);
    }
}
