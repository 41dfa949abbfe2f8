//! What a run keeps besides its stack: called routes, parameters, returned values, `$rc`. During a run it lies in the
//! host's [`VarStore`](super::VarStore), so that variables read by functions see it too. It runs nothing.

use std::sync::Arc;

use super::host::RouteId;
use super::machine::StartOptions;
use super::trace::Trace;
use crate::ast::{RouteKind, Span};
use crate::avp::AvpList;
use crate::program::Program;
use crate::pvar::CompiledVar;
use crate::value::{Text, Value};

/// The state of a run that variables can show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) program: Option<Arc<Program>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) params: Vec<Param>,
    pub(crate) returns: Vec<Value>,
    pub(crate) rc: i32,
    pub(crate) kind: Option<RouteKind>,
    pub(crate) can_park: bool,
    /// The running instruction.
    pub(crate) pc: u32,
    /// Instructions left until the run is ended.
    pub(crate) fuel: u64,
    /// Nesting of `{s.eval}`.
    pub(crate) eval_depth: u8,
    /// Set while statements are logged.
    pub(crate) trace: Option<Arc<Trace>>,
    /// The statement logged last.
    pub(crate) traced: Span,
}

/// A running route.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) route: RouteId,
    pub(crate) return_pc: u32,
    pub(crate) params_start: u32,
    pub(crate) params_count: u32,
    pub(crate) stack_base: u32,
    pub(crate) loops_base: u32,
    pub(crate) after: After,
}

/// What follows the end of a route.
#[derive(Clone, Debug)]
pub(crate) enum After {
    /// The caller goes on.
    Caller,
    /// `error_route`: the script goes on with the code and `$rc` from before.
    Error { code: i32, rc: i32 },
    /// `error_route` after a failed assert: the script ends.
    ErrorThenEnd,
    /// Report route of a `launch()` that was done at once: the script goes on with its own AVPs.
    Report(Box<AvpList>),
}

/// A parameter of a route.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: Option<Text>,
    pub(crate) value: ParamValue,
}

#[derive(Clone, Debug)]
pub(crate) enum ParamValue {
    Value(Value),
    /// 2.4: evaluated whenever it is read, among the parameters of the caller.
    Lazy(Arc<CompiledVar>),
}

impl Param {
    pub(crate) fn named(name: Option<Text>, value: Value) -> Param {
        Param { name, value: ParamValue::Value(value) }
    }
}

impl Frame {
    pub(crate) fn restart(&mut self, program: Arc<Program>, options: StartOptions) {
        self.program = Some(program);
        self.calls.clear();
        self.params.clear();
        self.params.extend(options.params.into_iter().map(|(name, value)| Param::named(name, value)));
        self.returns.clear();
        self.rc = options.rc;
        self.kind = Some(options.kind);
        self.can_park = options.can_park;
        self.pc = 0;
        self.fuel = 0;
        self.eval_depth = 0;
        self.trace = None;
    }

    /// Makes `route` the only running one; returns its first instruction.
    pub(crate) fn enter_top(&mut self, route: RouteId) -> u32 {
        self.calls.clear();
        self.calls.push(Call {
            route,
            return_pc: 0,
            params_start: 0,
            params_count: self.params.len() as u32,
            stack_base: 0,
            loops_base: 0,
            after: After::Caller,
        });
        self.entry(route)
    }

    /// Replaces the run (or the report route it is in) by one of `route` that starts with `$rc` = `rc`; returns its first instruction.
    pub(crate) fn replace_run(&mut self, route: RouteId, rc: i32) -> u32 {
        self.returns.clear();
        self.rc = rc;
        let Some(at) = self.report_at() else {
            self.params.clear();
            return self.enter_top(route);
        };
        self.calls.truncate(at + 1);
        if let Some(call) = self.calls.get_mut(at) {
            call.route = route;
            call.params_count = 0;
            self.params.truncate(call.params_start as usize);
        }
        self.entry(route)
    }

    /// Sizes of the value and loop stacks below the run that [`Frame::replace_run`] replaces.
    pub(crate) fn bases(&self) -> (usize, usize) {
        let call = self.report_at().and_then(|at| self.calls.get(at));
        call.map_or((0, 0), |call| (call.stack_base as usize, call.loops_base as usize))
    }

    /// Index of the innermost report route that runs inside this run.
    pub(crate) fn report_at(&self) -> Option<usize> {
        self.calls.iter().rposition(|call| matches!(call.after, After::Report(_)))
    }

    /// Whether an `error_route` is running.
    pub(crate) fn is_in_error_route(&self) -> bool {
        self.calls.iter().any(|call| matches!(call.after, After::Error { .. } | After::ErrorThenEnd))
    }

    pub(crate) fn entry(&self, route: RouteId) -> u32 {
        self.program.as_ref().and_then(|program| program.route_info(route)).map_or(u32::MAX, |info| info.entry)
    }

    /// Lets go of the program and of values that may be large.
    pub(crate) fn release(&mut self) {
        self.program = None;
        self.calls.clear();
        self.params.clear();
        self.returns.clear();
        self.trace = None;
    }

    /// The parameter `index` (from 1) of the route at `level` calls.
    pub(crate) fn param(&self, level: usize, index: i32) -> Option<&Param> {
        let call = self.calls.get(level.checked_sub(1)?)?;
        let offset = u32::try_from(index).ok()?.checked_sub(1)?;
        if offset >= call.params_count {
            return None;
        }
        self.params.get((call.params_start + offset) as usize)
    }

    /// The parameter of that name.
    pub(crate) fn named_param(&self, level: usize, name: &[u8]) -> Option<&Param> {
        let call = self.calls.get(level.checked_sub(1)?)?;
        let start = call.params_start as usize;
        self.params
            .get(start..start + call.params_count as usize)?
            .iter()
            .find(|param| param.name.as_deref() == Some(name))
    }
}
