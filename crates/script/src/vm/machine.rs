//! The machine: instruction pointer, value stack, loop counters; runs until the end or until something has to be waited for. It does no I/O.

use std::sync::Arc;

use super::frame::Frame;
use super::host::{Arg, Host, RouteId};
use crate::ast::RouteKind;
use crate::program::Program;
use crate::value::{Text, Value};

/// Nested `route()` calls.
pub const CALL_DEPTH_MAX: usize = 100;
/// Instructions a run may take without waiting for anything; then it ends with a logged error.
pub const INSTRUCTIONS_MAX: u64 = 50_000_000;

/// How a run starts.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The kind of top route it runs as; decides what `async()` and `error_route` do. A resume route runs as the kind of the run it continues.
    pub kind: RouteKind,
    /// `$rc` at the start.
    pub rc: i32,
    /// `$param(...)`: event parameters with their names, or the value of a `launch()` report.
    pub params: Vec<(Option<Text>, Value)>,
    /// Whether `async()` may park this run (not so for ACK, and in the global reply route).
    pub can_park: bool,
}

impl StartOptions {
    /// A run of that kind with `$rc` 1 and no parameters.
    pub fn new(kind: RouteKind) -> StartOptions {
        StartOptions { kind, rc: 1, params: Vec::new(), can_park: true }
    }
}

/// What a run came to.
#[derive(Debug)]
pub enum Outcome<P> {
    /// It ended.
    Finished {
        /// Whether `drop` ended it.
        is_dropped: bool,
        /// Code of the last action, or of the `return` of the top route; 0 after `exit` and `drop`.
        code: i32,
    },
    /// A call has to be waited for; [`Machine::resume`] continues right behind it.
    Waiting(P),
    /// An `async()` call has to be waited for; then a new run of `resume` starts, of the same kind, with the result as `$rc`.
    Async {
        /// What is waited for.
        pending: P,
        /// The route to run then.
        resume: RouteId,
        /// The time-out argument, in seconds.
        timeout_secs: Option<i32>,
    },
}

/// A script run. It is a plain value: it can be kept, sent to another thread and resumed there. Reuse it: its buffers stay.
#[derive(Debug)]
pub struct Machine {
    instructions_max: u64,
    pub(super) program: Option<Arc<Program>>,
    pub(super) frame: Frame,
    pub(super) pc: u32,
    pub(super) cond: Condition,
    pub(super) code: i32,
    /// `None` stands for an expression without a value.
    pub(super) stack: Vec<Option<Value>>,
    pub(super) loops: Vec<u32>,
    pub(super) args: Vec<Arg>,
    pub(super) scratch: Vec<u8>,
    pub(super) waiting: Waiting,
    /// Result of the call that was waited for, to be taken before the next instruction.
    pub(super) delivered: Option<i32>,
}

/// Result of a condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    True,
    #[default]
    False,
    Error,
}

/// What happens with the code that a waiting call delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It does not wait.
    #[default]
    No,
    /// The code of a plain call.
    Call,
    /// The code of an `async()` that had to run in place; the route runs next.
    AsyncInline(RouteId),
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::limited(INSTRUCTIONS_MAX)
    }
}

impl Machine {
    /// A machine that has nothing to run, with the limit [`INSTRUCTIONS_MAX`].
    pub fn new() -> Machine {
        Machine::default()
    }

    /// A machine that ends a run, with a logged error, after so many instructions without waiting for anything.
    pub fn limited(instructions_max: u64) -> Machine {
        Machine {
            instructions_max,
            program: None,
            frame: Frame::default(),
            pc: 0,
            cond: Condition::False,
            code: 1,
            stack: Vec::new(),
            loops: Vec::new(),
            args: Vec::new(),
            scratch: Vec::new(),
            waiting: Waiting::No,
            delivered: None,
        }
    }

    /// Prepares a run of `route`.
    pub fn start(&mut self, program: Arc<Program>, route: RouteId, options: StartOptions) {
        self.frame.restart(Arc::clone(&program), options);
        self.program = Some(program);
        self.stack.clear();
        self.loops.clear();
        self.cond = Condition::False;
        self.code = 1;
        self.waiting = Waiting::No;
        self.delivered = None;
        self.pc = self.frame.enter_top(route);
    }

    /// Runs until the end or until something has to be waited for.
    pub fn run<H: Host>(&mut self, host: &mut H) -> Outcome<H::Pending> {
        let Some(program) = self.program.clone() else { return Outcome::Finished { is_dropped: false, code: 1 } };
        self.frame.fuel = self.instructions_max;
        std::mem::swap(&mut host.vars().frame, &mut self.frame);
        let outcome = super::execute::execute(self, &program, host);
        std::mem::swap(&mut host.vars().frame, &mut self.frame);
        if matches!(outcome, Outcome::Finished { .. } | Outcome::Async { .. }) {
            self.program = None;
            self.frame.release();
        }
        outcome
    }

    /// Continues behind the call that was waited for; `code` is its result. Does nothing useful unless [`Outcome::Waiting`] came before.
    pub fn resume<H: Host>(&mut self, host: &mut H, code: i32) -> Outcome<H::Pending> {
        match std::mem::take(&mut self.waiting) {
            Waiting::No => {}
            Waiting::Call => self.delivered = Some(code),
            Waiting::AsyncInline(route) => {
                self.replace(self.frame.bases());
                self.pc = self.frame.replace_run(route, code);
            }
        }
        self.run(host)
    }

    /// Drops what the replaced run has on the stacks.
    pub(super) fn replace(&mut self, (stack, loops): (usize, usize)) {
        self.stack.truncate(stack);
        self.loops.truncate(loops);
        self.code = 1;
    }

    /// Whether a call is being waited for.
    pub fn is_waiting(&self) -> bool {
        self.waiting != Waiting::No
    }
}
