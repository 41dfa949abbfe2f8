//! What the VM asks of the world around it. Implemented once, by the run context of the server; tests have their own.

use std::sync::Arc;

use super::frame::Frame;
use super::trace::Trace;
use crate::ast::Span;
use crate::avp::AvpList;
use crate::surface::{FunctionId, VariableId};
use crate::value::{Text, Value};

/// Index of a route block in the compiled program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u16);

/// Index of a variable: `$(hdr(x)[...])`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Index {
    /// None written; most classes take it as 0.
    #[default]
    None,
    /// `[n]`, negative from the end.
    At(i32),
    /// `[*]`.
    All,
    /// `[append]` (AVPs).
    Append,
}

/// `$(<request>...)` and `$(<reply>...)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageContext {
    /// The request of the transaction.
    Request,
    /// The winning reply of the transaction.
    Reply,
}

/// Why a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallMode {
    /// As a statement or in a condition: the run may be parked and goes on right behind the call.
    Plain,
    /// Inside `async()`: the run ends here, a resume route follows.
    Async,
    /// Inside `launch()`: the run goes on at once.
    Launch,
}

/// An evaluated argument.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Left out.
    Missing,
    /// An integer.
    Int(i32),
    /// A text (formats are expanded already).
    Text(Text),
    /// For [`ArgType::Words`](crate::surface::ArgType::Words).
    Words(Vec<Text>),
    /// For [`ArgType::Any`](crate::surface::ArgType::Any).
    Value(Value),
    /// A variable by reference; read and written through [`crate::vm::read_var`] and [`crate::vm::write_var`].
    Var(Arc<crate::pvar::CompiledVar>),
    /// A compiled regular expression.
    Regex(Arc<crate::regex::PosixRegex>),
    /// Index of a message or branch flag, 0 to 31.
    Flag(u8),
}

impl Arg {
    /// The text, if this is one.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Arg::Text(text) | Arg::Value(Value::Text(text)) | Arg::Value(Value::Dual(text, _)) => Some(text),
            _ => None,
        }
    }

    /// The integer, if this is one.
    pub fn int(&self) -> Option<i32> {
        match self {
            Arg::Int(int) => Some(*int),
            Arg::Value(value) => value.as_int(),
            _ => None,
        }
    }

    /// Whether the argument was left out.
    pub fn is_missing(&self) -> bool {
        matches!(self, Arg::Missing)
    }
}

/// Outcome of a function call.
#[derive(Debug)]
pub enum Called<P> {
    /// Finished with this code; 0 ends the whole script run.
    Done(i32),
    /// Ends the script run as `exit` does.
    Exit,
    /// Ends the script run as `drop` does.
    Drop,
    /// Not finished: the run is to be parked until the host calls `resume` with the code.
    Pending(P),
}

/// Levels of log output, as `log_level` counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum LogLevel {
    /// -3
    Alert = -3,
    /// -2
    Critical = -2,
    /// -1
    Error = -1,
    /// 1
    Warning = 1,
    /// 2
    Notice = 2,
    /// 3
    Info = 3,
    /// 4
    Debug = 4,
}

impl LogLevel {
    /// The level of a number as scripts write it; 0 and numbers outside the range take the nearest level.
    pub const fn from_number(number: i32) -> LogLevel {
        match number {
            i32::MIN..=-3 => LogLevel::Alert,
            -2 => LogLevel::Critical,
            -1 | 0 => LogLevel::Error,
            1 => LogLevel::Warning,
            2 => LogLevel::Notice,
            3 => LogLevel::Info,
            4..=i32::MAX => LogLevel::Debug,
        }
    }

    /// The level of a name such as `L_ERR`: its third character decides, as in OpenSIPS.
    pub fn from_name(name: &[u8]) -> Option<LogLevel> {
        Some(match name.get(2)? {
            b'A' => LogLevel::Alert,
            b'C' => LogLevel::Critical,
            b'E' => LogLevel::Error,
            b'W' => LogLevel::Warning,
            b'N' => LogLevel::Notice,
            b'I' => LogLevel::Info,
            b'D' => LogLevel::Debug,
            _ => return None,
        })
    }
}

/// Values of `$var(...)`, one slot per name of the program, left by each run to the next one of its worker.
/// While a run is going on it also holds what that run shows in `$rc`, `$param(...)`, `$route` and the like; the machine puts it
/// there and takes it back, so that variables read inside a function call see the run, also when runs nest.
#[derive(Clone, Debug, Default)]
pub struct VarStore {
    slots: Vec<Value>,
    pub(crate) frame: Frame,
    /// A buffer that format expansion reuses.
    pub(crate) scratch: Vec<u8>,
}

impl VarStore {
    /// The value of `slot`, NULL when it was never set.
    pub fn value(&self, slot: u32) -> &Value {
        const NULL: &Value = &Value::Null;
        self.slots.get(slot as usize).unwrap_or(NULL)
    }

    /// Whether none was ever set.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Forgets all values; buffers stay.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.scratch.clear();
        self.frame = Frame::default();
    }

    /// Has every statement of this run logged from now on, or no longer.
    pub fn trace(&mut self, trace: Option<Trace>) {
        self.frame.trace = trace.map(Arc::new);
    }

    /// Sets `slot`.
    pub fn set(&mut self, slot: u32, value: Value) {
        let slot = slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Value::Null);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = value.into_stored();
        }
    }
}

/// The world of a script run.
pub trait Host: Sized {
    /// What a suspended call waits for.
    type Pending;

    /// `$var` slots of this worker. Slots are process-wide ids from [`crate::pvar`]'s interner, so that they survive a reload.
    fn vars(&mut self) -> &mut VarStore;

    /// AVPs of the current scope.
    fn avps(&mut self) -> &mut AvpList;

    /// Reads a variable class that the VM does not handle itself (it handles `$var $avp $rc $retcode $return $param $route... $cfg_line $cfg_file $$`).
    fn read_variable(
        &mut self,
        var: VariableId,
        context: Option<MessageContext>,
        name: Option<&[u8]>,
        index: Index,
    ) -> Value;

    /// Writes such a class; `is_replace` for `:=`; false when refused. NULL deletes or resets, as the class defines.
    fn write_variable(
        &mut self,
        var: VariableId,
        name: Option<&[u8]>,
        index: Index,
        is_replace: bool,
        value: Value,
    ) -> bool;

    /// Calls a function.
    fn call(&mut self, function: FunctionId, args: &[Arg], mode: CallMode) -> Called<Self::Pending>;

    /// Before an `async()` call in a route that can wait: makes sure there is a transaction to hang on to.
    /// `Err(None)` ends the script silently (a retransmission); `Err(Some(code))` runs the resume route inline with that code.
    fn begin_async(&mut self) -> Result<(), Option<i32>>;

    /// Takes over a pending `launch()`: when it is done, `report` runs on a message of its own with `value` as `$param(1)`.
    fn launch(&mut self, pending: Self::Pending, report: Option<RouteId>, value: Option<Text>);

    /// Whether `xlog` output of that level is wanted.
    fn wants_xlog(&self, level: LogLevel) -> bool;

    /// Writes an `xlog` line.
    fn xlog(&mut self, level: LogLevel, text: &[u8]);

    /// The default level of `xlog` without a level.
    fn xlog_default_level(&self) -> LogLevel;

    /// A complaint of the VM about the running script (failed assignment, guard overflow, unknown route, ...).
    fn complain(&mut self, level: LogLevel, at: Span, text: &str);

    /// Whether asserts are enabled (`enable_asserts`).
    fn asserts_enabled(&self) -> bool {
        false
    }

    /// An assert has failed, which was complained about already (`abort_on_assert`).
    fn assert_failed(&mut self) {}

    /// Whether the last action left an error record, so that `error_route` has to run; asked only when the program has one.
    fn has_error(&mut self) -> bool {
        false
    }

    /// Records an error for `error_route`.
    fn record_error(&mut self, class: i32, level: i32, info: &str, code: i32, reason: &str) {
        let _ = (class, level, info, code, reason);
    }

    /// The error route has finished: clears the record.
    fn clear_error(&mut self) {}

    /// Address of a host name, as text, for `{ip.resolve}`; must not block. `None` when it is not known.
    fn resolve(&mut self, host: &[u8]) -> Option<Text> {
        let _ = host;
        None
    }
}
