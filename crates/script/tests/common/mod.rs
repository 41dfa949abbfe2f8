//! A host for tests: `$var` and AVPs, the dummy message's request URI, flags, and functions whose codes the script chooses.
#![allow(unreachable_pub, reason = "shared by several test files")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use tandem_script::ast::{AssignOp, Dialect, RouteKind, Span};
use tandem_script::avp::AvpList;
use tandem_script::compile::compile;
use tandem_script::diagnostic::Diagnostic;
use tandem_script::program::Program;
use tandem_script::source::SourceMap;
use tandem_script::surface::{
    ArgSpec, ArgType, FunctionId, FunctionSpec, NameRule, Routes, Surface, VariableId, VariableSpec, arg, opt,
};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{
    Arg, CallMode, Called, Host, Index, LogLevel, Machine, MessageContext, Outcome, RouteId, StartOptions, VarStore,
    read_var, write_var,
};
use tandem_sip::{Scheme, Uri, UriEdit, edit_uri};

const DUMMY_URI: &[u8] = b"sip:user@dummy.com";

const TEXT: &[ArgSpec] = &[arg("text", ArgType::Text)];
const RAISE: &[ArgSpec] = &[arg("event", ArgType::Text), opt("names", ArgType::Var), opt("values", ArgType::Var)];
const INT: &[ArgSpec] = &[arg("number", ArgType::Int)];
const NONE: &[ArgSpec] = &[];
const FLAG: &[ArgSpec] = &[arg("flag", ArgType::Flag)];
const BRANCH_FLAG: &[ArgSpec] = &[arg("flag", ArgType::BranchFlag), opt("index", ArgType::Int)];
const PRINTF: &[ArgSpec] = &[arg("var", ArgType::VarOut), arg("format", ArgType::Text)];
const STAMP: &[ArgSpec] = &[arg("seconds", ArgType::VarOut), arg("micros", ArgType::VarOut)];
const MYSELF: &[ArgSpec] = &[arg("host", ArgType::Text), opt("port", ArgType::Int)];
const ANY: &[ArgSpec] = &[arg("value", ArgType::Any), opt("more", ArgType::Any)];

const FUNCTIONS: &[(&str, &[ArgSpec])] = &[
    ("setflag", FLAG),
    ("resetflag", FLAG),
    ("isflagset", FLAG),
    ("setbflag", BRANCH_FLAG),
    ("resetbflag", BRANCH_FLAG),
    ("isbflagset", BRANCH_FLAG),
    ("pv_printf", PRINTF),
    ("avp_printf", PRINTF),
    ("prefix", TEXT),
    ("strip", INT),
    ("strip_tail", INT),
    ("setuser", TEXT),
    ("setu", TEXT),
    ("rewriteuser", TEXT),
    ("rewritehost", TEXT),
    ("setuserpass", TEXT),
    ("setup", TEXT),
    ("sethost", TEXT),
    ("seth", TEXT),
    ("sethostport", TEXT),
    ("sethp", TEXT),
    ("setport", TEXT),
    ("setp", TEXT),
    ("seturi", TEXT),
    ("rewriteuri", TEXT),
    ("revert_uri", NONE),
    ("setdsturi", TEXT),
    ("resetdsturi", NONE),
    ("resetduri", NONE),
    ("isdsturiset", NONE),
    ("isduriset", NONE),
    ("get_timestamp", STAMP),
    ("is_myself", MYSELF),
    ("force_rport", NONE),
    ("add_rport", NONE),
    ("force_local_rport", NONE),
    ("raise_event", RAISE),
    // For these tests only: yields the number, waits first when the host says so.
    ("yields", INT),
    // Yields 1 and notes its argument; waits first when the host says so.
    ("note", ANY),
    ("fails", NONE),
];

const VARIABLES: &[(&str, NameRule, bool)] = &[
    ("rm", NameRule::Plain, false),
    ("ru", NameRule::Plain, true),
    ("rU", NameRule::Plain, true),
    ("rd", NameRule::Plain, true),
    ("rp", NameRule::Plain, true),
    ("rP", NameRule::Plain, false),
    ("ou", NameRule::Plain, false),
    ("ru_q", NameRule::Plain, true),
    ("du", NameRule::Plain, true),
    ("dd", NameRule::Plain, true),
    ("dp", NameRule::Plain, true),
    ("dP", NameRule::Plain, false),
    ("fu", NameRule::Plain, false),
    ("ft", NameRule::Plain, false),
    ("tu", NameRule::Plain, false),
    ("tt", NameRule::Plain, false),
    ("ci", NameRule::Plain, false),
    ("cs", NameRule::Plain, false),
    ("si", NameRule::Plain, false),
    ("sp", NameRule::Plain, false),
    ("mf", NameRule::Plain, false),
    ("bf", NameRule::Plain, false),
    ("msg.flag", NameRule::Named, true),
    ("Ts", NameRule::Plain, false),
    ("TS", NameRule::Plain, false),
    ("pp", NameRule::Plain, false),
    ("time", NameRule::Named, false),
    ("xlog_level", NameRule::Plain, true),
    ("err.class", NameRule::Plain, false),
    ("err.level", NameRule::Plain, false),
    ("err.rcode", NameRule::Plain, false),
];

/// The functions and variables of [`TestHost`].
pub fn surface() -> Surface {
    let mut surface = Surface::default();
    for (name, args) in FUNCTIONS {
        let is_async = matches!(*name, "yields" | "note" | "fails");
        surface.add_function("test", FunctionSpec { name, args, routes: Routes::ANY, is_async, doc: "" });
    }
    for (name, rule, is_writable) in VARIABLES {
        surface.add_variable("test", VariableSpec { name, rule: *rule, is_writable: *is_writable, doc: "" });
    }
    surface
}

/// Parses and compiles.
pub fn build(text: &str, dialect: Dialect) -> Result<Arc<Program>, Vec<Diagnostic>> {
    let sources = SourceMap::from_text("test.cfg", text);
    let (script, mut diagnostics) = tandem_script::parser::parse(&sources);
    diagnostics.retain(Diagnostic::is_error);
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    let (program, diagnostics) = compile(&script, dialect, &surface(), &sources);
    program.map(Arc::new).ok_or(diagnostics)
}

/// The world of a test.
#[derive(Debug)]
pub struct TestHost {
    pub vars: VarStore,
    pub avps: AvpList,
    /// What `xlog` wrote.
    pub printed: Vec<u8>,
    /// Printing costs no memory: only counts.
    pub is_mute: bool,
    pub complaints: Vec<String>,
    pub calls: u64,
    /// Whether `yields` and `note` are waited for.
    pub is_waiting: bool,
    pub has_asserts: bool,
    /// How often the host was told of a failed assert.
    pub failed_asserts: u64,
    pub begin: Result<(), Option<i32>>,
    pub launched: Vec<(i32, Option<RouteId>, Option<Text>)>,
    pub dialect: Dialect,
    pub program: Option<Arc<Program>>,
    pub error: Option<String>,
    flags: u32,
    branch_flags: u32,
    uri: Vec<u8>,
    destination: Option<Vec<u8>>,
    q: i32,
    xlog_level: Option<i32>,
    surface: Surface,
}

impl TestHost {
    pub fn new(dialect: Dialect) -> TestHost {
        TestHost {
            vars: VarStore::default(),
            avps: AvpList::new(),
            printed: Vec::new(),
            is_mute: false,
            complaints: Vec::new(),
            calls: 0,
            is_waiting: false,
            has_asserts: false,
            failed_asserts: 0,
            begin: Ok(()),
            launched: Vec::new(),
            dialect,
            program: None,
            error: None,
            flags: 0,
            branch_flags: 0,
            uri: DUMMY_URI.to_vec(),
            destination: None,
            q: 0,
            xlog_level: None,
            surface: surface(),
        }
    }

    /// Runs a route of the program to its end, answering every wait and every `async()`; whether it was dropped, and its code.
    pub fn run(
        &mut self,
        machine: &mut Machine,
        program: &Arc<Program>,
        kind: RouteKind,
        route: RouteId,
    ) -> (bool, i32) {
        self.program = Some(Arc::clone(program));
        let mut options = StartOptions::new(kind);
        options.rc = 1;
        machine.start(Arc::clone(program), route, options);
        let mut outcome = machine.run(self);
        loop {
            outcome = match outcome {
                Outcome::Finished { is_dropped, code } => return (is_dropped, code),
                Outcome::Waiting(code) => machine.resume(self, code),
                Outcome::Async { pending, resume, .. } => {
                    let mut options = StartOptions::new(kind);
                    options.rc = pending;
                    machine.start(Arc::clone(program), resume, options);
                    machine.run(self)
                }
            };
        }
    }

    /// Lines printed with the prefix `@=`, without it.
    pub fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.printed).into_owned();
        text.split('\n').filter_map(|line| line.strip_prefix("@=")).map(str::to_owned).collect()
    }

    fn edit(&mut self, edit: &UriEdit<'_>) -> bool {
        match edit_uri(&self.uri, edit) {
            Ok(uri) => {
                self.uri = uri;
                true
            }
            Err(_) => false,
        }
    }

    fn flag_names(&self, flags: u32, is_branch: bool) -> Value {
        let Some(program) = &self.program else { return Value::Null };
        let names = if is_branch { program.branch_flag_names() } else { program.message_flag_names() };
        let set: Vec<&str> =
            names.iter().enumerate().rev().filter(|(at, _)| flags & (1 << at) != 0).map(|(_, name)| &**name).collect();
        Value::from(set.join(" ").as_str())
    }
}

fn port(uri: &Uri<'_>) -> Value {
    match uri.port {
        Some(port) => Value::Dual(Text::from(port.to_string()), i32::from(port)),
        None => Value::Int(i32::from(uri.port_or_default())),
    }
}

fn proto(uri: &Uri<'_>) -> Value {
    match uri.transport_text() {
        Some(text) => Value::text(text),
        None => Value::from(if uri.scheme == Scheme::Sips { "tls" } else { "udp" }),
    }
}

fn part(text: Option<&[u8]>) -> Value {
    text.filter(|text| !text.is_empty()).map_or(Value::Null, Value::text)
}

impl Host for TestHost {
    type Pending = i32;

    fn vars(&mut self) -> &mut VarStore {
        &mut self.vars
    }

    fn avps(&mut self) -> &mut AvpList {
        &mut self.avps
    }

    fn read_variable(&mut self, var: VariableId, _: Option<MessageContext>, name: Option<&[u8]>, _: Index) -> Value {
        let class = self.surface.variable(var).map_or("", |(_, spec)| spec.name);
        let uri = Uri::parse(&self.uri).ok().filter(|uri| uri.scheme != Scheme::Other);
        let destination = self.destination.as_deref().and_then(|uri| Uri::parse(uri).ok());
        match class {
            "rm" => Value::from("DUMMY"),
            "ru" => uri.map_or(Value::Null, |uri| Value::text(uri.raw)),
            "rU" => {
                if uri.is_none() {
                    self.error = Some("bad uri".into());
                }
                uri.map_or(Value::Null, |uri| part(uri.user))
            }
            "rd" => uri.map_or(Value::Null, |uri| part(Some(uri.host))),
            "rp" => uri.as_ref().map_or(Value::Null, port),
            "rP" => uri.as_ref().map_or(Value::Null, proto),
            "ou" => Value::text(DUMMY_URI),
            "ru_q" => Value::Int(self.q),
            "du" => self.destination.as_deref().map_or(Value::Null, Value::text),
            "dd" => destination.map_or(Value::Null, |uri| part(Some(uri.host))),
            "dp" => destination.as_ref().map_or(Value::Null, port),
            "dP" => destination.as_ref().map_or(Value::Null, proto),
            "fu" => Value::from("sip:from@dummy.com"),
            "ft" | "cs" => Value::from("1"),
            "tu" => Value::from("sip:to@dummy.com"),
            "ci" => Value::from("dummy-1"),
            "si" => Value::from("0.0.0.0"),
            "sp" => Value::Int(0),
            "mf" => self.flag_names(self.flags, false),
            "bf" => self.flag_names(self.branch_flags, true),
            "msg.flag" => {
                let at = self.program.as_ref().and_then(|program| program.find_message_flag(name.unwrap_or(b"")));
                at.map_or(Value::Null, |at| Value::Bool(self.flags & (1 << at) != 0))
            }
            "err.class" => Value::Int(1),
            "err.level" => Value::Int(3),
            "err.rcode" => Value::Int(400),
            "Ts" => Value::Int(1_700_000_000),
            "TS" => Value::Int(1_699_999_999),
            "pp" => Value::Int(77),
            "time" => Value::from("2026"),
            "xlog_level" => Value::Int(self.xlog_level.unwrap_or(3)),
            _ => Value::Null,
        }
    }

    fn write_variable(&mut self, var: VariableId, name: Option<&[u8]>, _: Index, _: bool, value: Value) -> bool {
        let class = self.surface.variable(var).map_or("", |(_, spec)| spec.name);
        let text = match &value {
            Value::Literal(int) => Some(Text::from(int.to_string())),
            other => other.as_text(),
        };
        match class {
            "ru" => match text {
                Some(text) => {
                    self.uri = text.to_vec();
                    true
                }
                None => false,
            },
            "rU" => match text.as_deref().filter(|text| !text.is_empty()) {
                Some(user) => self.edit(&UriEdit::User(user)),
                None => self.edit(&UriEdit::RemoveUser),
            },
            "rd" => text.is_some_and(|text| self.edit(&UriEdit::Host(&text))),
            "rp" => self.edit(&value.as_int().map_or(UriEdit::RemovePort, |port| UriEdit::PortNumber(port as u16))),
            "ru_q" => {
                self.q = value.as_int().unwrap_or(-1);
                true
            }
            "du" => {
                self.destination = text.map(|text| text.to_vec());
                true
            }
            "dd" | "dp" => {
                let Some(uri) = self.destination.take() else { return false };
                let edit = match (class, &text) {
                    ("dd", Some(text)) => UriEdit::Host(text),
                    _ => value.as_int().map_or(UriEdit::RemovePort, |port| UriEdit::PortNumber(port as u16)),
                };
                self.destination = edit_uri(&uri, &edit).ok();
                self.destination.is_some()
            }
            "msg.flag" => {
                let at = self.program.as_ref().and_then(|program| program.find_message_flag(name.unwrap_or(b"")));
                let Some(at) = at else { return false };
                self.flags = if value.is_true() { self.flags | 1 << at } else { self.flags & !(1 << at) };
                true
            }
            "xlog_level" => {
                self.xlog_level = value.as_int();
                true
            }
            _ => false,
        }
    }

    fn call(&mut self, function: FunctionId, args: &[Arg], mode: CallMode) -> Called<i32> {
        self.calls += 1;
        let name = self.surface.function(function).map_or("", |(_, spec)| spec.name);
        let text = args.first().and_then(Arg::text).map(<[u8]>::to_vec).unwrap_or_default();
        let number = args.first().and_then(Arg::int).unwrap_or(0);
        let flag = match args.first() {
            Some(Arg::Flag(at)) => 1u32 << at,
            _ => 0,
        };
        let code = |is_done: bool| Called::Done(if is_done { 1 } else { -1 });
        match name {
            "setflag" => self.flags |= flag,
            "resetflag" => self.flags &= !flag,
            "isflagset" => return code(self.flags & flag != 0),
            "setbflag" => self.branch_flags |= flag,
            "resetbflag" => self.branch_flags &= !flag,
            "isbflagset" => return code(self.branch_flags & flag != 0),
            "pv_printf" | "avp_printf" => {
                let (Some(Arg::Var(var)), Some(text)) = (args.first(), args.get(1).and_then(Arg::text)) else {
                    return Called::Done(-1);
                };
                return code(write_var(self, var, AssignOp::Set, Value::text(text)));
            }
            "prefix" => return code(self.edit(&UriEdit::Prefix(&text))),
            "strip" => return code(self.edit(&UriEdit::Strip(number.max(0) as usize))),
            "strip_tail" => return code(self.edit(&UriEdit::StripTail(number.max(0) as usize))),
            "setuser" | "setu" | "rewriteuser" => return code(self.edit(&UriEdit::User(&text))),
            "setuserpass" | "setup" => return code(self.edit(&UriEdit::UserPassword(&text))),
            "sethost" | "seth" => return code(self.edit(&UriEdit::Host(&text))),
            "sethostport" | "sethp" => return code(self.edit(&UriEdit::HostPort(&text))),
            "setport" | "setp" => return code(self.edit(&UriEdit::Port(&text))),
            "seturi" | "rewriteuri" => self.uri = text,
            "revert_uri" => self.uri = DUMMY_URI.to_vec(),
            "setdsturi" => self.destination = Some(text),
            "resetdsturi" | "resetduri" => self.destination = None,
            "isdsturiset" | "isduriset" => return code(self.destination.is_some()),
            "get_timestamp" => {
                for (at, value) in [(0, 1_700_000_000), (1, 5)] {
                    if let Some(Arg::Var(var)) = args.get(at) {
                        write_var(self, var, AssignOp::Set, Value::Int(value));
                    }
                }
            }
            "is_myself" => {
                let port = args.get(1).and_then(Arg::int);
                return code(text == b"127.0.3.1" && port.is_none_or(|port| port == 5071));
            }
            "yields" if self.is_waiting && mode != CallMode::Launch => return Called::Pending(number),
            "yields" if mode == CallMode::Launch && self.is_waiting => return Called::Pending(number),
            "yields" => return Called::Done(number),
            "note" => {
                let mut line = b"@=note ".to_vec();
                for arg in args {
                    match arg {
                        Arg::Value(value) => value.print_into(&mut line),
                        Arg::Text(text) => line.extend_from_slice(text),
                        Arg::Var(var) => read_var(self, var).print_into(&mut line),
                        Arg::Missing => {}
                        _ => line.push(b'?'),
                    }
                }
                line.push(b'\n');
                self.printed.extend_from_slice(&line);
                if self.is_waiting {
                    return Called::Pending(1);
                }
            }
            "fails" => return Called::Done(-1),
            _ => {}
        }
        Called::Done(1)
    }

    fn begin_async(&mut self) -> Result<(), Option<i32>> {
        self.begin
    }

    fn launch(&mut self, pending: i32, report: Option<RouteId>, value: Option<Text>) {
        self.launched.push((pending, report, value));
    }

    fn wants_xlog(&self, level: LogLevel) -> bool {
        let limit = if self.dialect == Dialect::V2_4 { 2 } else { self.xlog_level.unwrap_or(3) };
        (level as i8) as i32 <= limit
    }

    fn xlog(&mut self, _: LogLevel, text: &[u8]) {
        if !self.is_mute {
            self.printed.extend_from_slice(text);
        }
    }

    fn xlog_default_level(&self) -> LogLevel {
        if self.dialect == Dialect::V2_4 { LogLevel::Error } else { LogLevel::Notice }
    }

    fn complain(&mut self, _: LogLevel, _: Span, text: &str) {
        // The newest are kept: that a run was ended by its instruction limit is always the last one.
        if self.complaints.len() >= 1000 {
            self.complaints.remove(0);
        }
        self.complaints.push(text.to_owned());
    }

    fn asserts_enabled(&self) -> bool {
        self.has_asserts
    }

    fn assert_failed(&mut self) {
        self.failed_asserts += 1;
    }

    fn has_error(&mut self) -> bool {
        self.error.is_some()
    }

    fn record_error(&mut self, _: i32, _: i32, info: &str, _: i32, _: &str) {
        self.error = Some(info.to_owned());
    }

    fn clear_error(&mut self) {
        self.error = None;
    }
}
