//! A compiled script: flat instructions, tables of routes, variables, formats and calls, flag names. It runs nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hashbrown::HashMap;

use crate::ast::{AssignOp, BinaryOp, CompareOp, Dialect, EventMode, RouteKind, Span};
use crate::coverage::Coverage;
use crate::format::Format;
use crate::pvar::CompiledVar;
use crate::regex::PosixRegex;
use crate::surface::{FunctionId, Surface};
use crate::value::{Text, Value};
use crate::vm::{Arg, LogLevel, RouteId};

/// Message flag names and branch flag names a script may use, each.
pub const FLAG_NAMES_MAX: usize = 32;
/// Rounds of a `while` when the script sets no `max_while_loops`, 4.0 dialect.
pub const WHILE_ROUNDS_MAX: u32 = 10_000;
/// The same for the 2.4 dialect.
pub const WHILE_ROUNDS_MAX_2_4: u32 = 100;
/// Longest `xlog` text in bytes when the script sets no `xlog_buf_size`.
pub const XLOG_BYTES_MAX: usize = 4096;

/// A compiled script. Shared by all workers; changed only by [`Program::message_flag`] and [`Program::branch_flag`] before that.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) dialect: Dialect,
    pub(crate) surface: Arc<Surface>,
    pub(crate) code: Vec<Op>,
    /// Beside each instruction: the statement it belongs to.
    pub(crate) positions: Vec<Position>,
    pub(crate) files: Vec<Text>,
    pub(crate) routes: Vec<RouteInfo>,
    pub(crate) names: HashMap<(RouteKind, Box<str>), RouteId>,
    pub(crate) vars: Vec<Arc<CompiledVar>>,
    pub(crate) formats: Vec<Format>,
    pub(crate) values: Vec<Value>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) calls: Vec<CallPlan>,
    pub(crate) route_calls: Vec<RouteCall>,
    pub(crate) returns: Vec<ReturnPlan>,
    pub(crate) switches: Vec<SwitchTable>,
    pub(crate) asyncs: Vec<AsyncPlan>,
    pub(crate) launches: Vec<LaunchPlan>,
    pub(crate) texts: Vec<Text>,
    pub(crate) message_flags: Vec<Box<str>>,
    pub(crate) branch_flags: Vec<Box<str>>,
    pub(crate) while_rounds_max: u32,
    pub(crate) xlog_bytes_max: usize,
    /// What has run, when that is wanted.
    pub(crate) coverage: Option<Arc<Coverage>>,
}

/// Where a statement stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    pub(crate) span: Span,
    pub(crate) line: u32,
}

/// A route block of the program.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    /// Its kind.
    pub kind: RouteKind,
    /// Its name; `None` for the main route, the global reply route, error, local and startup routes.
    pub name: Option<Box<str>>,
    /// Seconds of a timer route.
    pub interval_secs: Option<i32>,
    /// `sync` or `async` of a 2.4 event route, as written.
    pub event_mode: Option<EventMode>,
    /// Where it stands.
    pub span: Span,
    pub(crate) entry: u32,
    /// What `$route` shows, `$route.name` and `$route.type`.
    pub(crate) shown: Text,
    pub(crate) shown_name: Text,
    pub(crate) shown_type: Text,
}

/// A timer route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerRoute {
    /// The route.
    pub route: RouteId,
    /// Seconds between two runs.
    pub interval_secs: u32,
}

impl Program {
    /// The rules it was compiled for.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What its functions and variables are.
    pub fn surface(&self) -> &Surface {
        &self.surface
    }

    /// The main request route.
    pub fn main_route(&self) -> Option<RouteId> {
        self.route(RouteKind::Request, "0")
    }

    /// The route of that kind and name; the empty name for kinds without names.
    pub fn route(&self, kind: RouteKind, name: &str) -> Option<RouteId> {
        // `(RouteKind, Box<str>)` cannot be looked up by a borrowed pair; the scan is only taken for names built at run time.
        self.names.get(&RouteKey(kind, name)).copied()
    }

    /// `onreply_route` without a name.
    pub fn global_onreply(&self) -> Option<RouteId> {
        self.route(RouteKind::OnReply, "")
    }

    /// `startup_route`.
    pub fn startup(&self) -> Option<RouteId> {
        self.route(RouteKind::Startup, "")
    }

    /// `local_route`.
    pub fn local(&self) -> Option<RouteId> {
        self.route(RouteKind::Local, "")
    }

    /// `error_route`.
    pub fn error(&self) -> Option<RouteId> {
        self.route(RouteKind::Error, "")
    }

    /// All timer routes.
    pub fn timers(&self) -> impl Iterator<Item = TimerRoute> {
        self.routes_with_ids().filter(|(_, info)| info.kind == RouteKind::Timer).map(|(route, info)| TimerRoute {
            route,
            interval_secs: info.interval_secs.unwrap_or(1).max(1).unsigned_abs(),
        })
    }

    /// All event routes: event name, route, and whether it runs in the raising run (2.4 `sync`, its default) or queued.
    pub fn event_routes(&self) -> impl Iterator<Item = (&str, RouteId, EventMode)> {
        let events = self.routes_with_ids().filter(|(_, info)| info.kind == RouteKind::Event);
        events.map(|(route, info)| (info.name.as_deref().unwrap_or(""), route, self.event_mode(info)))
    }

    /// The route of one event.
    pub fn event_route(&self, name: &str) -> Option<(RouteId, EventMode)> {
        let route = self.route(RouteKind::Event, name)?;
        Some((route, self.event_mode(self.route_info(route)?)))
    }

    fn event_mode(&self, info: &RouteInfo) -> EventMode {
        let default = if self.dialect == Dialect::V2_4 { EventMode::Sync } else { EventMode::Async };
        info.event_mode.unwrap_or(default)
    }

    /// What is known about a route.
    pub fn route_info(&self, route: RouteId) -> Option<&RouteInfo> {
        self.routes.get(usize::from(route.0))
    }

    /// All routes.
    pub fn routes_with_ids(&self) -> impl Iterator<Item = (RouteId, &RouteInfo)> {
        self.routes.iter().enumerate().map(|(at, info)| (RouteId(at as u16), info))
    }

    /// Index of a message flag, defined now when it is new; `None` beyond [`FLAG_NAMES_MAX`] names.
    pub fn message_flag(&mut self, name: &str) -> Option<u8> {
        flag_index(&mut self.message_flags, name)
    }

    /// Index of a branch flag, defined now when it is new; `None` beyond [`FLAG_NAMES_MAX`] names.
    pub fn branch_flag(&mut self, name: &str) -> Option<u8> {
        flag_index(&mut self.branch_flags, name)
    }

    /// Index of a message flag that was defined before.
    pub fn find_message_flag(&self, name: &[u8]) -> Option<u8> {
        find_flag(&self.message_flags, name)
    }

    /// Index of a branch flag that was defined before.
    pub fn find_branch_flag(&self, name: &[u8]) -> Option<u8> {
        find_flag(&self.branch_flags, name)
    }

    /// Names of the message flags, by index.
    pub fn message_flag_names(&self) -> &[Box<str>] {
        &self.message_flags
    }

    /// Names of the branch flags, by index.
    pub fn branch_flag_names(&self) -> &[Box<str>] {
        &self.branch_flags
    }

    /// From now on it is counted what runs. Before that, and without it, nothing is counted and nothing is paid for it.
    pub fn count_runs(&mut self) {
        self.coverage = Some(Arc::new(Coverage::new(self.code.len())));
    }

    /// Lines with statements and how often each has run, by file and line; empty before [`Program::count_runs`].
    pub fn line_runs(&self) -> Vec<crate::coverage::LineRuns> {
        let Some(coverage) = &self.coverage else { return Vec::new() };
        let ops = self.code.iter().zip(&self.positions).enumerate();
        // Jumps and ends of routes are made by the compiler: no statement of the script stands for them.
        let own = ops.filter(|(_, (op, _))| !matches!(op, Op::Jump(_) | Op::EndRoute | Op::CondToRc));
        crate::coverage::by_line(
            own.map(|(at, (_, place))| (place.span.file, place.line, coverage.runs(at))),
            &self.files,
        )
    }

    /// Number of instructions.
    pub fn op_count(&self) -> usize {
        self.code.len()
    }

    pub(crate) fn position(&self, pc: u32) -> Position {
        self.positions.get(pc as usize).copied().unwrap_or_default()
    }
}

/// Looks up a route by a borrowed name.
#[derive(Hash)]
pub(crate) struct RouteKey<'a>(pub(crate) RouteKind, pub(crate) &'a str);

impl hashbrown::Equivalent<(RouteKind, Box<str>)> for RouteKey<'_> {
    fn equivalent(&self, key: &(RouteKind, Box<str>)) -> bool {
        self.0 == key.0 && self.1 == &*key.1
    }
}

pub(crate) fn flag_index(names: &mut Vec<Box<str>>, name: &str) -> Option<u8> {
    if let Some(at) = find_flag(names, name.as_bytes()) {
        return Some(at);
    }
    if names.len() >= FLAG_NAMES_MAX {
        return None;
    }
    names.push(name.into());
    Some((names.len() - 1) as u8)
}

fn find_flag(names: &[Box<str>], name: &[u8]) -> Option<u8> {
    names.iter().position(|known| known.as_bytes() == name).map(|at| at as u8)
}

/// Index into [`Program::vars`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VarRef(pub(crate) u32);

/// An operand without side effects.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Value(Value),
    Var(VarRef),
}

/// One instruction. Jump targets are instruction indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Jump(u32),
    /// Sets the condition.
    CondInt(bool),
    CondVar(VarRef),
    CondCompare(u32),
    /// From the value on the stack: true when non-zero and non-empty.
    CondPop,
    /// From the code of the last action; 0 ends the script.
    CondCode,
    Not,
    /// Skips the right side of `&&`.
    JumpUnlessTrue(u32),
    /// Skips the right side of `||`.
    JumpUnlessFalse(u32),
    /// Takes the false branch; an error is logged.
    Branch(u32),
    /// After an `if` without a branch to run: `$rc` from the condition, code 1.
    CondToRc,
    /// `$rc` becomes the code of the last action.
    CodeToRc,
    /// Code of the last action becomes this, `$rc` stays.
    SetCode(i32),
    /// Both become this.
    SetBoth(i32),
    PushValue(u32),
    PushVar(VarRef),
    PushCompare(u32),
    /// Pushes the code of the last action.
    PushCode,
    Binary(BinaryOp),
    BitNot,
    /// `target op operand`, without the stack.
    AssignVar {
        target: VarRef,
        op: AssignOp,
        from: VarRef,
    },
    AssignValue {
        target: VarRef,
        op: AssignOp,
        value: u32,
    },
    /// `target op` the value on the stack.
    AssignPop {
        target: VarRef,
        op: AssignOp,
    },
    Call(u32),
    CallRoute(u32),
    Return(u32),
    /// End of a route block.
    EndRoute,
    Exit,
    Drop,
    Xlog {
        level: XlogLevel,
        format: u32,
    },
    /// Skips to the target when asserts are off.
    AssertBegin(u32),
    /// Ends the script unless the condition is true.
    AssertCheck(u32),
    LoopEnter,
    /// Counts a round; jumps when there were too many.
    LoopTick(u32),
    LoopLeave,
    /// Assigns the next element, or jumps behind the loop.
    ForNext {
        iterator: VarRef,
        list: VarRef,
        exit: u32,
    },
    /// `for` over something without `[*]`.
    ForRefused,
    Switch(u32),
    Async(u32),
    Launch(u32),
    /// Runs `error_route` when the last action left an error record.
    CheckError,
}

/// Level of an `xlog`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum XlogLevel {
    Default,
    Fixed(LogLevel),
    Var(VarRef),
}

#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) left: VarRef,
    pub(crate) op: CompareOp,
    pub(crate) right: CompareTo,
}

#[derive(Clone, Debug)]
pub(crate) enum CompareTo {
    Var(VarRef),
    Text(Text),
    Int(i32),
    Null,
    Network(crate::transform::Network),
    Regex(Arc<PosixRegex>),
}

/// A function call with its arguments.
#[derive(Clone, Debug)]
pub(crate) struct CallPlan {
    pub(crate) function: FunctionId,
    pub(crate) name: &'static str,
    /// One per argument place.
    pub(crate) args: Vec<ArgPlan>,
    /// All arguments, when none has to be evaluated.
    pub(crate) constant: Option<Vec<Arg>>,
    /// Set for a function that OpenSIPS has and this program lacks.
    pub(crate) missing: Option<Arc<MissingCall>>,
}

/// A call that cannot work: it yields -1 and tells why, once per place in the script.
#[derive(Debug)]
pub(crate) struct MissingCall {
    /// Function, module and place, for the log.
    pub(crate) reason: Box<str>,
    pub(crate) is_told: AtomicBool,
}

/// How an argument is made.
#[derive(Clone, Debug)]
pub(crate) enum ArgPlan {
    Constant(Arg),
    /// Integer form of a variable.
    Int(VarRef),
    /// Integer form of a variable written as a string: its text is parsed when it has none.
    IntOrParse(VarRef),
    /// Decimal text of a format.
    IntOfFormat(u32),
    /// Text form of a variable.
    Text(VarRef),
    Format(u32),
    /// Value of a variable as it is.
    Any(VarRef),
    /// A regular expression made at run time.
    RegexVar(VarRef),
    /// Words, each a format of its own.
    Words(Vec<u32>),
    /// Words out of the text of a variable.
    WordsOfVar(VarRef),
}

#[derive(Clone, Debug)]
pub(crate) struct RouteCall {
    pub(crate) target: RouteTarget,
    pub(crate) args: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub(crate) enum RouteTarget {
    Fixed(RouteId),
    Var(VarRef),
    Format(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct ReturnPlan {
    pub(crate) code: Operand,
    pub(crate) values: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub(crate) struct SwitchTable {
    pub(crate) selector: VarRef,
    pub(crate) cases: Vec<(SwitchLabel, u32)>,
    pub(crate) default: Option<u32>,
    pub(crate) end: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum SwitchLabel {
    Int(i32),
    Text(Text),
}

#[derive(Clone, Debug)]
pub(crate) struct AsyncPlan {
    pub(crate) call: u32,
    pub(crate) resume: RouteId,
    pub(crate) timeout_secs: Option<i32>,
}

#[derive(Clone, Debug)]
pub(crate) struct LaunchPlan {
    pub(crate) call: u32,
    pub(crate) report: Option<RouteId>,
    pub(crate) value: Option<u32>,
}

/// All arguments, when none of them has to be evaluated.
pub(crate) fn constant_args(plans: &[ArgPlan]) -> Option<Vec<Arg>> {
    plans.iter().map(|plan| if let ArgPlan::Constant(arg) = plan { Some(arg.clone()) } else { None }).collect()
}
