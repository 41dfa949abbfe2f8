//! Calls to instructions: the core statements with a syntax of their own, routes, `async`, `launch`, functions of the surface.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{ARGUMENTS_MAX, BLOCK_DEPTH_MAX, Compiler};
use crate::ast::{Arg, ArgKind, Call, CallKind, Function, RouteKind, RouteName, Span, Spanned};
use crate::diagnostic::Diagnostic;
use crate::format::Format;
use crate::program::{
    AsyncPlan, CallPlan, LaunchPlan, MissingCall, Op, Operand, ReturnPlan, RouteCall, RouteTarget, XlogLevel,
};
use crate::surface::FunctionId;
use crate::value::{Text, Value};
use crate::vm::{LogLevel, RouteId};

/// No function has this number: the plan of a missing one never reaches the host.
const MISSING: FunctionId = FunctionId(u16::MAX);

impl Compiler<'_> {
    /// Leaves the code of the call in the code register.
    pub(super) fn call(&mut self, call: &Call, depth: usize) {
        match &call.kind {
            CallKind::Exit => {
                self.emit(Op::Exit);
            }
            CallKind::Drop => {
                self.emit(Op::Drop);
            }
            CallKind::Return { code, values } => self.return_from(code.as_ref(), values, call.span),
            CallKind::Assert { cond, text } => {
                if depth > 2 * BLOCK_DEPTH_MAX {
                    self.error("too-deep", call.span, "too many statements inside each other");
                    return;
                }
                let skip = self.emit(Op::AssertBegin(0));
                self.condition(cond, depth + 1);
                self.program.texts.push(Text::copy(text.as_deref().unwrap_or(b"")));
                let text = self.program.texts.len() as u32 - 1;
                self.emit(Op::AssertCheck(text));
                self.land(skip);
            }
            CallKind::Log { level, text } => {
                let level = XlogLevel::Fixed(level.map_or(LogLevel::Debug, LogLevel::from_number));
                let format = self.add_format(Format::constant(text));
                self.emit(Op::Xlog { level, format });
            }
            CallKind::Xlog { level, format, is_debug } => self.xlog(level.as_ref(), format, *is_debug),
            CallKind::Route { name, args } => self.route_call(name, args, call.span),
            CallKind::Async { function, resume, timeout } => {
                let resume = self.named_route(&resume.node, resume.span);
                let plan = self.function(function, true);
                if let (Some(resume), Some(call)) = (resume, plan) {
                    self.program.asyncs.push(AsyncPlan { call, resume, timeout_secs: *timeout });
                    let at = self.program.asyncs.len() as u32 - 1;
                    self.emit(Op::Async(at));
                }
            }
            CallKind::Launch { function, report, value } => self.launch(function, report.as_ref(), value.as_ref()),
            CallKind::Function(function) => {
                if let Some(plan) = self.function(function, false) {
                    self.emit(Op::Call(plan));
                }
            }
        }
    }

    fn launch(&mut self, function: &Function, report: Option<&Spanned<String>>, value: Option<&Spanned<Vec<u8>>>) {
        let report = report.map(|report| self.named_route(&report.node, report.span));
        let value = value.map(|value| self.parse_format(&value.node, value.span));
        let Some(call) = self.function(function, true) else { return };
        if report == Some(None) || value.as_ref().is_some_and(Option::is_none) {
            return;
        }
        let value = value.flatten().map(|format| self.add_format(format));
        self.program.launches.push(LaunchPlan { call, report: report.flatten(), value });
        let at = self.program.launches.len() as u32 - 1;
        self.emit(Op::Launch(at));
    }

    /// `route[name]`.
    fn named_route(&mut self, name: &str, span: Span) -> Option<RouteId> {
        let route = self.program.route(RouteKind::Request, name);
        if route.is_none() {
            let names: Vec<String> = self
                .program
                .routes_with_ids()
                .filter_map(|(_, info)| info.name.as_deref().map(str::to_owned))
                .collect();
            let nearest = crate::names::nearest(name, names.iter().map(String::as_str));
            let diagnostic =
                Diagnostic::error("undefined-route", span, format!("there is no route[{name}]")).with_nearest(nearest);
            self.diagnostics.push(diagnostic);
        }
        route
    }

    fn xlog(&mut self, level: Option<&Arg>, format: &Spanned<Vec<u8>>, is_debug: bool) {
        if format.node.is_empty() {
            self.error("empty-format", format.span, "the text of xlog is empty");
            return;
        }
        let level = match level {
            None if is_debug => Some(XlogLevel::Fixed(LogLevel::Debug)),
            None => Some(XlogLevel::Default),
            Some(level) => self.xlog_level(level),
        };
        let format = self.parse_format(&format.node, format.span);
        if let (Some(level), Some(format)) = (level, format) {
            let format = self.add_format(format);
            self.emit(Op::Xlog { level, format });
        }
    }

    fn xlog_level(&mut self, level: &Arg) -> Option<XlogLevel> {
        match &level.kind {
            ArgKind::Int(int) => Some(XlogLevel::Fixed(LogLevel::from_number(*int))),
            ArgKind::Var(var) => self.var(var).map(XlogLevel::Var),
            ArgKind::Text(text) if text.contains(&b'$') => {
                let format = self.parse_format(text, level.span)?;
                match format.single_var() {
                    Some(var) => {
                        let var = self.add_var(var.clone());
                        Some(XlogLevel::Var(var))
                    }
                    None => {
                        self.error("bad-level", level.span, "the level of xlog is a constant or one variable");
                        None
                    }
                }
            }
            ArgKind::Text(text) => self.fixed_level(text, level.span),
            ArgKind::Word(word) => self.fixed_level(word.as_bytes(), level.span),
            ArgKind::Missing | ArgKind::Null => Some(XlogLevel::Default),
        }
    }

    fn fixed_level(&mut self, text: &[u8], span: Span) -> Option<XlogLevel> {
        let level = LogLevel::from_name(text);
        if level.is_none() {
            let text = String::from_utf8_lossy(text).into_owned();
            self.error(
                "bad-level",
                span,
                format!("`{text}` is no log level; write L_ERR, L_WARN, L_NOTICE, L_INFO, L_DBG, ..."),
            );
        }
        level.map(XlogLevel::Fixed)
    }

    /// A value that is passed as it is: to a route, or back from one.
    fn operand(&mut self, arg: &Arg) -> Option<Operand> {
        Some(match &arg.kind {
            ArgKind::Int(int) => Operand::Value(Value::Literal(*int)),
            ArgKind::Text(text) => Operand::Value(Value::text(text)),
            ArgKind::Word(word) => Operand::Value(Value::text(word.as_bytes())),
            ArgKind::Var(var) => Operand::Var(self.var(var)?),
            ArgKind::Null | ArgKind::Missing => Operand::Value(Value::Null),
        })
    }

    fn return_from(&mut self, code: Option<&Arg>, values: &[Arg], span: Span) {
        if values.len() > ARGUMENTS_MAX {
            self.error("too-many-arguments", span, format!("more than {ARGUMENTS_MAX} values"));
            return;
        }
        let code = match code {
            None | Some(Arg { kind: ArgKind::Missing, .. }) => Some(Operand::Value(Value::Literal(1))),
            Some(code) => self.operand(code),
        };
        let values: Vec<Option<Operand>> = values.iter().map(|value| self.operand(value)).collect();
        let values: Option<Vec<Operand>> = values.into_iter().collect();
        if let (Some(code), Some(values)) = (code, values) {
            self.program.returns.push(ReturnPlan { code, values });
            let at = self.program.returns.len() as u32 - 1;
            self.emit(Op::Return(at));
        }
    }

    fn route_call(&mut self, name: &Spanned<RouteName>, args: &[Arg], span: Span) {
        if args.len() > ARGUMENTS_MAX {
            self.error("too-many-arguments", span, format!("a route takes at most {ARGUMENTS_MAX} arguments"));
            return;
        }
        let target = match &name.node {
            RouteName::Var(var) => self.var(var).map(RouteTarget::Var),
            RouteName::Text(text) if text.contains('$') => {
                self.parse_format(text.as_bytes(), name.span).map(|format| {
                    let at = self.add_format(format);
                    RouteTarget::Format(at)
                })
            }
            RouteName::Text(text) => self.named_route(text, name.span).map(RouteTarget::Fixed),
        };
        let args: Vec<Option<Operand>> = args.iter().map(|arg| self.operand(arg)).collect();
        let args: Option<Vec<Operand>> = args.into_iter().collect();
        if let (Some(target), Some(args)) = (target, args) {
            self.program.route_calls.push(RouteCall { target, args });
            let at = self.program.route_calls.len() as u32 - 1;
            self.emit(Op::CallRoute(at));
        }
    }

    /// The plan of a function call; `None` with an error when the function or an argument does not fit.
    fn function(&mut self, function: &Function, is_async: bool) -> Option<u32> {
        let name = function.name.node.as_str();
        let surface = self.surface;
        let candidates = surface.functions_named(name);
        if let (true, Some(module)) = (candidates.is_empty(), surface.missing_function(name)) {
            return Some(self.missing_function(function, module));
        }
        if candidates.is_empty() {
            let nearest = crate::names::nearest(name, surface.function_names());
            let diagnostic =
                Diagnostic::error("unknown-function", function.name.span, format!("unknown function `{name}`"))
                    .with_nearest(nearest);
            self.diagnostics.push(diagnostic);
            return None;
        }
        let mut first_error = None;
        for id in candidates {
            let Some((_, spec)) = surface.function(*id) else { continue };
            if is_async && !spec.is_async {
                first_error.get_or_insert_with(|| {
                    Diagnostic::error(
                        "not-async",
                        function.span,
                        format!("`{name}` cannot be used in async() and launch()"),
                    )
                });
                continue;
            }
            let flags = (self.program.message_flags.len(), self.program.branch_flags.len());
            match self.arguments(function, spec) {
                Ok(args) => {
                    let constant = crate::program::constant_args(&args);
                    self.program.calls.push(CallPlan { function: *id, name: spec.name, args, constant, missing: None });
                    return Some(self.program.calls.len() as u32 - 1);
                }
                Err(diagnostic) => {
                    self.program.message_flags.truncate(flags.0);
                    self.program.branch_flags.truncate(flags.1);
                    first_error.get_or_insert(diagnostic);
                }
            }
        }
        self.diagnostics.extend(first_error);
        None
    }

    /// A call that fails when it runs. Its arguments are of unknown types and are not compiled.
    fn missing_function(&mut self, function: &Function, module: &'static str) -> u32 {
        let name = function.name.node.as_str();
        let place = self.sources.location(function.name.span);
        let reason = format!(
            "{name}() of module {module} is known to OpenSIPS, not yet here: the call at {}:{} fails with -1 (told once)",
            place.name, place.line
        );
        self.program.calls.push(CallPlan {
            function: MISSING,
            name: "missing function",
            args: Vec::new(),
            constant: None,
            missing: Some(Arc::new(MissingCall { reason: reason.into(), is_told: AtomicBool::new(false) })),
        });
        self.program.calls.len() as u32 - 1
    }
}
