//! Makes the arguments of a function call from their plans. It calls nothing.

use std::sync::Arc;

use super::host::{Arg, Host};
use super::variables::{Failed, decimal, eval_var};
use crate::program::{ArgPlan, CallPlan, Program, VarRef};
use crate::regex::PosixRegex;
use crate::value::{Text, Value};
use crate::words;

/// Fills `args`; the number (from 1) of the first argument that has no fitting value is the error.
pub(super) fn evaluate<H: Host>(
    program: &Program,
    host: &mut H,
    plan: &CallPlan,
    args: &mut Vec<Arg>,
) -> Result<(), usize> {
    args.clear();
    for (at, arg) in plan.args.iter().enumerate() {
        let arg = one(program, host, arg).ok_or(at + 1)?;
        args.push(arg);
    }
    Ok(())
}

fn one<H: Host>(program: &Program, host: &mut H, plan: &ArgPlan) -> Option<Arg> {
    match plan {
        ArgPlan::Constant(arg) => Some(arg.clone()),
        ArgPlan::Int(var) => value(program, host, *var).ok()?.as_int().map(Arg::Int),
        ArgPlan::IntOrParse(var) => {
            let value = value(program, host, *var).ok()?;
            value.as_int().or_else(|| value.as_text().and_then(|text| decimal(&text))).map(Arg::Int)
        }
        ArgPlan::IntOfFormat(format) => decimal(&program.formats.get(*format as usize)?.eval_text(host)?).map(Arg::Int),
        ArgPlan::Text(var) => value(program, host, *var).ok()?.as_text().map(Arg::Text),
        ArgPlan::Format(format) => program.formats.get(*format as usize)?.eval_text(host).map(Arg::Text),
        ArgPlan::Any(var) => value(program, host, *var).ok().map(Arg::Value),
        ArgPlan::RegexVar(var) => {
            let text = value(program, host, *var).ok()?.as_text()?;
            PosixRegex::new(&text).ok().map(|regex| Arg::Regex(Arc::new(regex)))
        }
        ArgPlan::Words(formats) => {
            let word = |format: &u32| program.formats.get(*format as usize)?.eval_text(host);
            formats.iter().map(word).collect::<Option<Vec<_>>>().map(Arg::Words)
        }
        ArgPlan::WordsOfVar(var) => {
            let text = value(program, host, *var).ok()?.as_text()?;
            Some(Arg::Words(words::split(&text).into_iter().map(Text::from).collect()))
        }
    }
}

fn value<H: Host>(program: &Program, host: &mut H, var: VarRef) -> Result<Value, Failed> {
    match program.vars.get(var.0 as usize) {
        Some(var) => eval_var(host, var),
        None => Err(Failed),
    }
}
