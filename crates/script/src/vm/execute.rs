//! The instruction loop. Nothing in it is recursive: conditions and expressions are instructions too, so a run can stop at any call.

use std::sync::atomic::Ordering;

use super::arguments;
use super::control;
use super::host::{CallMode, Called, Host, LogLevel};
use super::machine::{Condition, Machine, Outcome, Waiting};
use super::operators::{binary, bit_not, compare_null, compare_text, compare_values, ordered};
use super::trace;
use super::variables::{Failed, eval_element, eval_var, write_var};
use crate::ast::{AssignOp, BinaryOp, CompareOp, Dialect};
use crate::program::{CallPlan, CompareTo, Comparison, Op, Operand, Program, SwitchLabel, VarRef, XlogLevel};
use crate::regex::PosixRegex;
use crate::transform;
use crate::value::Value;

/// What the loop does after an instruction.
pub(super) enum Flow<P> {
    Next,
    Leave(Outcome<P>),
}

pub(super) fn execute<H: Host>(m: &mut Machine, program: &Program, host: &mut H) -> Outcome<H::Pending> {
    if let Some(code) = m.delivered.take()
        && let Flow::Leave(outcome) = control::acted(m, host, code)
    {
        return outcome;
    }
    match program.coverage.as_deref() {
        None => run_on(m, program, host, |_| ()),
        Some(coverage) => run_on(m, program, host, |pc| coverage.hit(pc)),
    }
}

/// The loop itself; made once for each way of counting, so that a run that is not counted pays nothing.
fn run_on<H: Host>(m: &mut Machine, program: &Program, host: &mut H, count: impl Fn(u32)) -> Outcome<H::Pending> {
    loop {
        let pc = m.pc;
        let frame = &mut host.vars().frame;
        if frame.fuel == 0 {
            complain(program, host, pc, LogLevel::Error, "too many instructions without waiting, the script is ended");
            return control::abandon(host);
        }
        frame.fuel -= 1;
        frame.pc = pc;
        if frame.trace.is_some() {
            trace::statement(program, host, pc);
        }
        let Some(op) = program.code.get(pc as usize) else { return control::abandon(host) };
        m.pc = pc + 1;
        count(pc);
        if let Flow::Leave(outcome) = step(m, program, host, *op) {
            return outcome;
        }
    }
}

pub(super) fn complain<H: Host>(program: &Program, host: &mut H, pc: u32, level: LogLevel, text: &str) {
    host.complain(level, program.position(pc).span, text);
}

/// The current instruction's position, for complaints.
fn complain_here<H: Host>(m: &Machine, program: &Program, host: &mut H, level: LogLevel, text: &str) {
    complain(program, host, m.pc.saturating_sub(1), level, text);
}

fn step<H: Host>(m: &mut Machine, program: &Program, host: &mut H, op: Op) -> Flow<H::Pending> {
    match op {
        Op::Jump(target) => m.pc = target,
        Op::CondInt(is_true) => m.cond = is_true.into(),
        Op::CondVar(var) => {
            m.cond = match read(program, host, var) {
                Ok(value) => value.is_true().into(),
                Err(Failed) => Condition::Error,
            }
        }
        Op::CondCompare(at) => m.cond = compare(program, host, at),
        Op::CondPop => m.cond = m.stack.pop().flatten().map_or(Condition::Error, |value| value.is_true().into()),
        Op::CondCode if m.code == 0 => return control::stop(m, host, false, 0),
        Op::CondCode => m.cond = (m.code > 0).into(),
        Op::Not => {
            m.cond = match m.cond {
                Condition::True => Condition::False,
                Condition::False => Condition::True,
                Condition::Error => Condition::Error,
            }
        }
        Op::JumpUnlessTrue(target) if m.cond != Condition::True => m.pc = target,
        Op::JumpUnlessFalse(target) if m.cond != Condition::False => m.pc = target,
        Op::JumpUnlessTrue(_) | Op::JumpUnlessFalse(_) => {}
        Op::Branch(target) => branch(m, program, host, target),
        Op::CondToRc => {
            host.vars().frame.rc = match m.cond {
                Condition::True => 1,
                Condition::False => 0,
                Condition::Error => -1,
            };
            m.code = 1;
        }
        Op::CodeToRc => host.vars().frame.rc = m.code,
        Op::SetCode(code) => m.code = code,
        Op::SetBoth(code) => return control::acted(m, host, code),
        Op::PushValue(_) | Op::PushVar(_) | Op::PushCompare(_) | Op::PushCode | Op::Binary(_) | Op::BitNot => {
            expression(m, program, host, op);
        }
        Op::AssignVar { target, op, from } => {
            let value = read(program, host, from).ok();
            return assign(m, program, host, target, op, value);
        }
        Op::AssignValue { target, op, value } => {
            let value = program.values.get(value as usize).cloned();
            return assign(m, program, host, target, op, value);
        }
        Op::AssignPop { target, op } => {
            let value = m.stack.pop().flatten();
            return assign(m, program, host, target, op, value);
        }
        Op::Call(plan) => return call(m, program, host, plan),
        Op::Xlog { level, format } => return xlog(m, program, host, level, format),
        Op::LoopEnter | Op::LoopTick(_) | Op::LoopLeave | Op::ForNext { .. } | Op::ForRefused | Op::Switch(_) => {
            repeat(m, program, host, op);
        }
        _ => return control::step(m, program, host, op),
    }
    Flow::Next
}

fn read<H: Host>(program: &Program, host: &mut H, var: VarRef) -> Result<Value, Failed> {
    match program.vars.get(var.0 as usize) {
        Some(var) => eval_var(host, var),
        None => Err(Failed),
    }
}

pub(super) fn operand<H: Host>(program: &Program, host: &mut H, operand: &Operand) -> Result<Value, Failed> {
    match operand {
        Operand::Value(value) => Ok(value.clone()),
        Operand::Var(var) => read(program, host, *var),
    }
}

fn branch<H: Host>(m: &mut Machine, program: &Program, host: &mut H, target: u32) {
    if m.cond == Condition::Error {
        complain_here(m, program, host, LogLevel::Warning, "the condition cannot be evaluated, taken as false");
    }
    if m.cond != Condition::True {
        m.pc = target;
    }
}

fn expression<H: Host>(m: &mut Machine, program: &Program, host: &mut H, op: Op) {
    let value = match op {
        Op::PushValue(at) => program.values.get(at as usize).cloned(),
        Op::PushVar(var) => read(program, host, var).ok(),
        Op::PushCompare(at) => match compare(program, host, at) {
            Condition::True => Some(Value::Literal(1)),
            Condition::False => Some(Value::Literal(0)),
            Condition::Error => None,
        },
        Op::PushCode => Some(Value::Literal(m.code)),
        Op::BitNot => m.stack.pop().flatten().as_ref().and_then(bit_not),
        Op::Binary(op) => {
            let (right, left) = (m.stack.pop().flatten(), m.stack.pop().flatten());
            match (left, right) {
                (Some(left), Some(right)) => calculate(m, program, host, op, &left, &right),
                _ => None,
            }
        }
        _ => None,
    };
    m.stack.push(value);
}

fn calculate<H: Host>(
    m: &Machine,
    program: &Program,
    host: &mut H,
    op: BinaryOp,
    left: &Value,
    right: &Value,
) -> Option<Value> {
    let computed = binary(op, left, right);
    if computed.is_by_zero {
        complain_here(m, program, host, LogLevel::Error, "division by zero, the result is 0");
    }
    computed.value
}

fn assign<H: Host>(
    m: &mut Machine,
    program: &Program,
    host: &mut H,
    target: VarRef,
    op: AssignOp,
    value: Option<Value>,
) -> Flow<H::Pending> {
    let is_done = match (program.vars.get(target.0 as usize), value) {
        (Some(target), Some(value)) => write_var(host, target, op, value),
        _ => false,
    };
    if !is_done {
        complain_here(m, program, host, LogLevel::Warning, "the assignment failed, the variable keeps its value");
    }
    control::acted(m, host, if is_done { 1 } else { -1 })
}

fn compare<H: Host>(program: &Program, host: &mut H, at: u32) -> Condition {
    let Some(Comparison { left, op, right }) = program.comparisons.get(at as usize) else { return Condition::Error };
    let op = *op;
    let Ok(left) = read(program, host, *left) else { return Condition::Error };
    match right {
        CompareTo::Null => match op {
            CompareOp::Ne | CompareOp::NotMatch => (!left.is_null()).into(),
            _ => left.is_null().into(),
        },
        CompareTo::Var(right) => {
            let Ok(right) = read(program, host, *right) else { return Condition::Error };
            compare_two(program.dialect, op, &left, &right)
        }
        _ if left.is_null() => compare_null(op, false).into(),
        CompareTo::Int(right) => left.as_int().map_or(Condition::Error, |left| ordered(op, left.cmp(right)).into()),
        CompareTo::Text(right) => match &left {
            Value::Text(left) | Value::Dual(left, _) => compare_text(op, left, right).into(),
            other => other.as_text().map_or(Condition::Error, |left| compare_text(op, &left, right).into()),
        },
        CompareTo::Regex(regex) => matches(op, &left, regex),
        CompareTo::Network(network) => {
            let address = left.as_text().and_then(|text| transform::address(&text));
            address.map_or(Condition::Error, |address| (network.contains(address) == (op == CompareOp::Eq)).into())
        }
    }
}

fn compare_two(dialect: Dialect, op: CompareOp, left: &Value, right: &Value) -> Condition {
    if left.is_null() || right.is_null() {
        if dialect == Dialect::V2_4 && op == CompareOp::NotMatch && right.is_null() {
            return Condition::Error;
        }
        return compare_null(op, left.is_null() && right.is_null()).into();
    }
    match op {
        CompareOp::Match | CompareOp::NotMatch => match right.as_text().map(|pattern| PosixRegex::new(&pattern)) {
            Some(Ok(regex)) => matches(op, left, &regex),
            _ => Condition::Error,
        },
        _ => compare_values(op, left, right),
    }
}

fn matches(op: CompareOp, left: &Value, regex: &PosixRegex) -> Condition {
    match left.as_text() {
        Some(text) => (regex.is_match(&text) == (op == CompareOp::Match)).into(),
        None => Condition::Error,
    }
}

/// Makes the arguments and calls; `None` when an argument has no fitting value (complained about already).
pub(super) fn invoke<H: Host>(
    m: &mut Machine,
    program: &Program,
    host: &mut H,
    plan: &CallPlan,
    mode: CallMode,
) -> Option<Called<H::Pending>> {
    if let Some(missing) = &plan.missing {
        if !missing.is_told.swap(true, Ordering::Relaxed) {
            complain_here(m, program, host, LogLevel::Error, &missing.reason);
        }
        return Some(Called::Done(-1));
    }
    if let Some(args) = &plan.constant {
        return Some(host.call(plan.function, args, mode));
    }
    let mut args = std::mem::take(&mut m.args);
    let called = match arguments::evaluate(program, host, plan, &mut args) {
        Ok(()) => Some(host.call(plan.function, &args, mode)),
        Err(number) => {
            let text = format!("argument {number} of {}() has no fitting value, the function is not run", plan.name);
            complain_here(m, program, host, LogLevel::Error, &text);
            None
        }
    };
    args.clear();
    m.args = args;
    called
}

fn call<H: Host>(m: &mut Machine, program: &Program, host: &mut H, plan: u32) -> Flow<H::Pending> {
    let Some(plan) = program.calls.get(plan as usize) else { return Flow::Leave(control::abandon(host)) };
    match invoke(m, program, host, plan, CallMode::Plain) {
        None => control::acted(m, host, -1),
        Some(Called::Done(code)) => control::acted(m, host, code),
        Some(Called::Exit) => control::stop(m, host, false, 0),
        Some(Called::Drop) => control::stop(m, host, true, 0),
        Some(Called::Pending(pending)) => {
            m.waiting = Waiting::Call;
            Flow::Leave(Outcome::Waiting(pending))
        }
    }
}

/// Level of a number or of a text like `L_ERR`, of which the third character counts.
fn level_of(value: &Value) -> Option<LogLevel> {
    match value.as_int() {
        Some(int) => Some(LogLevel::from_number(int)),
        None => LogLevel::from_name(&value.as_text()?),
    }
}

fn xlog<H: Host>(m: &mut Machine, program: &Program, host: &mut H, level: XlogLevel, format: u32) -> Flow<H::Pending> {
    let level = match level {
        XlogLevel::Default => Some(host.xlog_default_level()),
        XlogLevel::Fixed(level) => Some(level),
        XlogLevel::Var(var) => read(program, host, var).ok().as_ref().and_then(level_of),
    };
    let Some(level) = level else {
        complain_here(m, program, host, LogLevel::Error, "the level of xlog has no fitting value");
        return control::acted(m, host, -1);
    };
    if !host.wants_xlog(level) {
        return control::acted(m, host, 1);
    }
    let mut text = std::mem::take(&mut m.scratch);
    text.clear();
    let is_complete = program.formats.get(format as usize).is_some_and(|format| format.eval(host, &mut text));
    let is_printed = is_complete && text.len() <= program.xlog_bytes_max;
    if is_printed {
        host.xlog(level, &text);
    } else {
        complain_here(m, program, host, LogLevel::Error, "the text is longer than xlog_buf_size and is not printed");
    }
    m.scratch = text;
    control::acted(m, host, if is_printed { 1 } else { -1 })
}

fn repeat<H: Host>(m: &mut Machine, program: &Program, host: &mut H, op: Op) {
    match op {
        Op::LoopEnter => m.loops.push(0),
        Op::LoopLeave => {
            m.loops.pop();
        }
        Op::LoopTick(target) => {
            let rounds = m.loops.last_mut().map_or(u32::MAX, |rounds| {
                *rounds = rounds.saturating_add(1);
                *rounds
            });
            if rounds > program.while_rounds_max {
                complain_here(m, program, host, LogLevel::Error, "max_while_loops reached, the loop is left");
                host.vars().frame.rc = m.code;
                m.pc = target;
            }
        }
        Op::ForNext { iterator, list, exit } => for_next(m, program, host, iterator, list, exit),
        Op::ForRefused => {
            complain_here(m, program, host, LogLevel::Error, "the list of a `for` has to be written with [*]");
            m.code = -10;
            host.vars().frame.rc = -10;
        }
        Op::Switch(table) => switch(m, program, host, table),
        _ => {}
    }
}

fn for_next<H: Host>(m: &mut Machine, program: &Program, host: &mut H, iterator: VarRef, list: VarRef, exit: u32) {
    let round = m.loops.last().copied().unwrap_or(0);
    let element = match (program.vars.get(list.0 as usize), i32::try_from(round)) {
        (Some(list), Ok(at)) => eval_element(host, list, at).unwrap_or(Value::Null),
        _ => Value::Null,
    };
    if element.is_null() {
        if round == 0 {
            m.code = 1;
        }
        host.vars().frame.rc = m.code;
        m.pc = exit;
        return;
    }
    if let Some(rounds) = m.loops.last_mut() {
        *rounds = round.saturating_add(1);
    }
    let is_done = program.vars.get(iterator.0 as usize).is_some_and(|iterator| {
        // Elements of a document are documents: `$json` parses them.
        let op = if iterator.host_class().is_some() { AssignOp::Replace } else { AssignOp::Set };
        write_var(host, iterator, op, element)
    });
    if !is_done {
        complain_here(m, program, host, LogLevel::Error, "the variable of the `for` cannot take the element");
        m.code = -5;
        host.vars().frame.rc = -5;
        m.pc = exit;
    }
}

fn switch<H: Host>(m: &mut Machine, program: &Program, host: &mut H, table: u32) {
    let Some(table) = program.switches.get(table as usize) else { return };
    let value = read(program, host, table.selector).unwrap_or(Value::Null);
    let (int, text) = (value.as_int(), value.as_text());
    let case = table.cases.iter().find(|(label, _)| match label {
        SwitchLabel::Int(label) => int == Some(*label),
        SwitchLabel::Text(label) => text.as_ref().is_some_and(|text| text.eq_ignore_case(label)),
    });
    m.code = 1;
    m.pc = case.map(|(_, target)| *target).or(table.default).unwrap_or(table.end);
}
