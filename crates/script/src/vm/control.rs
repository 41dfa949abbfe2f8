//! Calls of routes, their ends, `async`, `launch`, `assert`, `error_route`. It evaluates nothing itself.

use super::execute::{Flow, complain, invoke, operand};
use super::frame::{After, Call, Param, ParamValue};
use super::host::{CallMode, Called, Host, LogLevel, RouteId};
use super::machine::{CALL_DEPTH_MAX, Condition, Machine, Outcome, Waiting};
use super::variables::eval_var;
use crate::ast::{Dialect, RouteKind};
use crate::program::{AsyncPlan, Op, Operand, Program, ReturnPlan, RouteCall, RouteTarget};
use crate::value::{Text, Value, int_text};

/// Class, level and code that a failed assert leaves for `error_route`.
const ASSERT_ERROR: (i32, i32, i32) = (1, 4, 500);

/// An action yielded `code`: it becomes `$rc`; 0 ends the script.
pub(super) fn acted<H: Host>(m: &mut Machine, host: &mut H, code: i32) -> Flow<H::Pending> {
    if code == 0 {
        return stop(m, host, false, 0);
    }
    m.code = code;
    host.vars().frame.rc = code;
    Flow::Next
}

/// Ends the run, or the report route that runs inside it.
pub(super) fn stop<H: Host>(m: &mut Machine, host: &mut H, is_dropped: bool, code: i32) -> Flow<H::Pending> {
    let frame = &mut host.vars().frame;
    match frame.report_at() {
        Some(at) => {
            frame.calls.truncate(at + 1);
            leave(m, host, 1)
        }
        None => Flow::Leave(Outcome::Finished { is_dropped, code }),
    }
}

/// Ends the run at once, whatever it is in.
pub(super) fn abandon<H: Host>(host: &mut H) -> Outcome<H::Pending> {
    while let Some(call) = host.vars().frame.calls.pop() {
        if let After::Report(avps) = call.after {
            *host.avps() = *avps;
        }
    }
    Outcome::Finished { is_dropped: false, code: 0 }
}

/// The running route ends with `code`.
fn leave<H: Host>(m: &mut Machine, host: &mut H, code: i32) -> Flow<H::Pending> {
    let frame = &mut host.vars().frame;
    let Some(call) = frame.calls.pop() else { return Flow::Leave(Outcome::Finished { is_dropped: false, code }) };
    if frame.calls.is_empty() {
        return Flow::Leave(Outcome::Finished { is_dropped: false, code });
    }
    frame.params.truncate(call.params_start as usize);
    m.stack.truncate(call.stack_base as usize);
    m.loops.truncate(call.loops_base as usize);
    m.pc = call.return_pc;
    match call.after {
        After::Caller => acted(m, host, code),
        After::Error { code, rc } => {
            m.code = code;
            frame.rc = rc;
            host.clear_error();
            Flow::Next
        }
        After::ErrorThenEnd => {
            host.clear_error();
            stop(m, host, false, 0)
        }
        After::Report(avps) => {
            *host.avps() = *avps;
            acted(m, host, 1)
        }
    }
}

/// Enters a route; its parameters from `params_start` on are in the frame already.
fn enter<H: Host>(m: &mut Machine, host: &mut H, route: RouteId, params_start: usize, after: After) {
    let frame = &mut host.vars().frame;
    frame.calls.push(Call {
        route,
        return_pc: m.pc,
        params_start: params_start as u32,
        params_count: (frame.params.len() - params_start) as u32,
        stack_base: m.stack.len() as u32,
        loops_base: m.loops.len() as u32,
        after,
    });
    m.pc = frame.entry(route);
    m.code = 1;
}

pub(super) fn step<H: Host>(m: &mut Machine, program: &Program, host: &mut H, op: Op) -> Flow<H::Pending> {
    match op {
        Op::CallRoute(at) => match program.route_calls.get(at as usize) {
            Some(plan) => call_route(m, program, host, plan),
            None => Flow::Leave(abandon(host)),
        },
        Op::Return(at) => match program.returns.get(at as usize) {
            Some(plan) => finish_route(m, program, host, plan),
            None => Flow::Leave(abandon(host)),
        },
        Op::EndRoute => {
            host.vars().frame.returns.clear();
            let code = m.code;
            leave(m, host, code)
        }
        Op::Exit => stop(m, host, false, 0),
        Op::Drop => stop(m, host, true, 0),
        Op::AssertBegin(target) if !host.asserts_enabled() => {
            m.pc = target;
            acted(m, host, -5)
        }
        Op::AssertCheck(_) if m.cond == Condition::True => acted(m, host, 1),
        Op::AssertCheck(text) => failed_assert(m, program, host, text),
        Op::Async(at) => match program.asyncs.get(at as usize) {
            Some(plan) => run_async(m, program, host, plan),
            None => Flow::Leave(abandon(host)),
        },
        Op::Launch(at) => launch(m, program, host, at),
        Op::CheckError => {
            if let Some(route) = error_route(program, host)
                && host.has_error()
            {
                let rc = host.vars().frame.rc;
                let start = host.vars().frame.params.len();
                let code = m.code;
                enter(m, host, route, start, After::Error { code, rc });
            }
            Flow::Next
        }
        _ => Flow::Next,
    }
}

/// The error route, when one may run here.
fn error_route<H: Host>(program: &Program, host: &mut H) -> Option<RouteId> {
    let route = program.error()?;
    let frame = &host.vars().frame;
    let is_refused = matches!(frame.kind, Some(RouteKind::OnReply | RouteKind::Local | RouteKind::Error))
        || frame.is_in_error_route();
    (!is_refused).then_some(route)
}

fn failed_assert<H: Host>(m: &mut Machine, program: &Program, host: &mut H, text: u32) -> Flow<H::Pending> {
    let text = program.texts.get(text as usize).map(|text| text.to_str().into_owned()).unwrap_or_default();
    complain(program, host, m.pc.saturating_sub(1), LogLevel::Critical, &format!("assertion failed: {text}"));
    host.assert_failed();
    let (class, level, code) = ASSERT_ERROR;
    host.record_error(class, level, &text, code, "assertion failed");
    match error_route(program, host) {
        Some(route) => {
            let start = host.vars().frame.params.len();
            enter(m, host, route, start, After::ErrorThenEnd);
            Flow::Next
        }
        None => stop(m, host, false, 0),
    }
}

fn call_route<H: Host>(m: &mut Machine, program: &Program, host: &mut H, plan: &RouteCall) -> Flow<H::Pending> {
    let pc = m.pc.saturating_sub(1);
    let name = match &plan.target {
        RouteTarget::Fixed(route) => Ok(*route),
        RouteTarget::Var(var) => {
            let value = program.vars.get(var.0 as usize).and_then(|var| eval_var(host, var).ok());
            find_route(program, value.and_then(|value| value.as_text()))
        }
        RouteTarget::Format(format) => {
            let text = program.formats.get(*format as usize).and_then(|format| format.eval_text(host));
            find_route(program, text)
        }
    };
    let route = match name {
        Ok(route) => route,
        Err(name) => {
            complain(program, host, pc, LogLevel::Error, &format!("there is no route[{name}]"));
            // `$rc` keeps its value here.
            m.code = -5;
            return Flow::Next;
        }
    };
    if host.vars().frame.calls.len() >= CALL_DEPTH_MAX {
        complain(program, host, pc, LogLevel::Error, "too many nested route calls, this one is not run");
        return acted(m, host, -1);
    }
    let base = m.stack.len();
    for arg in &plan.args {
        let value = match arg {
            Operand::Var(_) if program.dialect == Dialect::V2_4 => None,
            arg => Some(operand(program, host, arg).unwrap_or(Value::Null)),
        };
        m.stack.push(value);
    }
    let frame = &mut host.vars().frame;
    let start = frame.params.len();
    for (value, arg) in m.stack.drain(base..).zip(&plan.args) {
        let value = match (value, arg) {
            (Some(Value::Literal(int)), _) => ParamValue::Value(Value::Int(int)),
            (Some(value), _) => ParamValue::Value(value),
            (None, Operand::Var(var)) => match program.vars.get(var.0 as usize) {
                Some(var) => ParamValue::Lazy(var.clone()),
                None => ParamValue::Value(Value::Null),
            },
            (None, Operand::Value(_)) => ParamValue::Value(Value::Null),
        };
        frame.params.push(Param { name: None, value });
    }
    enter(m, host, route, start, After::Caller);
    Flow::Next
}

fn find_route(program: &Program, name: Option<Text>) -> Result<RouteId, String> {
    let Some(name) = name else { return Err("<null>".into()) };
    let name = name.to_str();
    program.route(RouteKind::Request, &name).ok_or_else(|| name.into_owned())
}

fn finish_route<H: Host>(m: &mut Machine, program: &Program, host: &mut H, plan: &ReturnPlan) -> Flow<H::Pending> {
    let code = match operand(program, host, &plan.code) {
        Ok(Value::Null) | Err(_) => -1,
        Ok(value) => value.as_int().unwrap_or(1),
    };
    let base = m.stack.len();
    for value in &plan.values {
        let value = match operand(program, host, value).unwrap_or(Value::Null) {
            Value::Int(int) | Value::Literal(int) => Value::Dual(int_text(int), int),
            value => value,
        };
        m.stack.push(Some(value));
    }
    let frame = &mut host.vars().frame;
    frame.returns.clear();
    frame.returns.extend(m.stack.drain(base..).map(Option::unwrap_or_default));
    leave(m, host, code)
}

fn run_async<H: Host>(m: &mut Machine, program: &Program, host: &mut H, plan: &AsyncPlan) -> Flow<H::Pending> {
    let frame = &host.vars().frame;
    let kind = frame.kind.unwrap_or(RouteKind::Request);
    let top = frame.calls.first().and_then(|call| program.route_info(call.route));
    if kind == RouteKind::OnReply && top.is_none_or(|top| top.kind == RouteKind::OnReply && top.name.is_none()) {
        // No transaction is matched yet in the global reply route.
        return inline(m, host, plan.resume, -1);
    }
    let can_park =
        frame.can_park && matches!(kind, RouteKind::Request | RouteKind::OnReply) && frame.report_at().is_none();
    let mode = if can_park {
        match host.begin_async() {
            Ok(()) => CallMode::Async,
            Err(None) => return stop(m, host, false, 0),
            Err(Some(code)) => return inline(m, host, plan.resume, code),
        }
    } else {
        CallMode::Plain
    };
    let Some(call) = program.calls.get(plan.call as usize) else { return Flow::Leave(abandon(host)) };
    match invoke(m, program, host, call, mode) {
        None => inline(m, host, plan.resume, -1),
        Some(Called::Done(code)) => inline(m, host, plan.resume, code),
        Some(Called::Exit) => stop(m, host, false, 0),
        Some(Called::Drop) => stop(m, host, true, 0),
        Some(Called::Pending(pending)) if can_park => {
            Flow::Leave(Outcome::Async { pending, resume: plan.resume, timeout_secs: plan.timeout_secs })
        }
        Some(Called::Pending(pending)) => {
            m.waiting = Waiting::AsyncInline(plan.resume);
            Flow::Leave(Outcome::Waiting(pending))
        }
    }
}

/// The resume route takes the place of the rest of the script.
fn inline<H: Host>(m: &mut Machine, host: &mut H, resume: RouteId, code: i32) -> Flow<H::Pending> {
    let bases = host.vars().frame.bases();
    m.replace(bases);
    m.pc = host.vars().frame.replace_run(resume, code);
    Flow::Next
}

fn launch<H: Host>(m: &mut Machine, program: &Program, host: &mut H, at: u32) -> Flow<H::Pending> {
    let plan = program.launches.get(at as usize);
    let Some((plan, call)) = plan.and_then(|plan| Some((plan, program.calls.get(plan.call as usize)?))) else {
        return Flow::Leave(abandon(host));
    };
    let value = plan.value.and_then(|at| program.formats.get(at as usize)).and_then(|format| format.eval_text(host));
    match invoke(m, program, host, call, CallMode::Launch) {
        Some(Called::Pending(pending)) => {
            host.launch(pending, plan.report, value);
            acted(m, host, 1)
        }
        Some(Called::Done(code)) if code >= 0 => {
            let Some(report) = plan.report.filter(|_| host.vars().frame.calls.len() < CALL_DEPTH_MAX) else {
                return acted(m, host, 1);
            };
            let avps = std::mem::take(host.avps());
            let frame = &mut host.vars().frame;
            let start = frame.params.len();
            frame.params.extend(value.map(|value| Param::named(None, Value::Text(value))));
            frame.rc = code;
            enter(m, host, report, start, After::Report(Box::new(avps)));
            Flow::Next
        }
        Some(Called::Exit | Called::Drop) => acted(m, host, 1),
        Some(Called::Done(_)) | None => acted(m, host, -1),
    }
}
