//! Calls of functions: do they exist, how many arguments, of which types (specification §5.3).

use super::Checker;
use crate::ast::{Arg, ArgKind, Dialect, Function, RouteKind, Span};
use crate::diagnostic::Diagnostic;
use crate::pvar::{parse_code, parse_exact};
use crate::regex::PosixRegex;
use crate::surface::{ArgSpec, ArgType, FunctionId, FunctionSpec};

/// Functions of 2.4 that take addresses and sockets without quotes.
const BARE_ADDRESSES: &[&str] =
    &["force_send_socket", "set_advertised_address", "set_advertised_port", "forward", "send"];

/// Flags that 2.4 names by number.
const NUMBERED_FLAGS: std::ops::Range<i32> = 0..32;

impl Checker<'_> {
    pub(super) fn check_function(&mut self, function: &Function, is_async: bool) {
        let name = function.name.node.as_str();
        let candidates = self.surface.functions_named(name);
        if candidates.is_empty() {
            self.unknown_function(function);
            self.check_loose_arguments(function);
            return;
        }
        let specs: Vec<(FunctionId, FunctionSpec)> =
            candidates.iter().filter_map(|id| self.surface.function(*id).map(|(_, spec)| (*id, *spec))).collect();
        self.reached.add_function(self.route, name, function.span);
        let count = function.args.len();
        let fitting = specs.iter().find(|(_, spec)| count <= spec.args.len() && count >= mandatory(spec));
        let Some((_, spec)) = fitting else {
            self.wrong_count(function, &specs);
            self.check_loose_arguments(function);
            return;
        };
        if is_async && !specs.iter().any(|(_, spec)| spec.is_async) {
            self.error("not-async", function.name.span, format!("`{name}` cannot be used in `async` or `launch`"));
        }
        let spec = *spec;
        if let Some([flag, index]) = self.index_first(function, &spec) {
            self.only(Dialect::V2_4, function.span, "the number of a branch before the name of its flag");
            for (arg, arg_spec) in [flag, index].into_iter().zip(spec.args) {
                self.argument(name, arg, arg_spec);
            }
            return;
        }
        self.order = other_order(function, &spec);
        for (arg, arg_spec) in function.args.iter().zip(spec.args) {
            self.argument(name, arg, arg_spec);
        }
        self.order = None;
        self.check_by_name(function);
    }

    /// 2.4 writes `setbflag(index, FLAG)`, 4.0 `setbflag("FLAG", index)`: the arguments in the order of 4.0 when they came in the other.
    fn index_first<'f>(&self, function: &'f Function, spec: &FunctionSpec) -> Option<[&'f Arg; 2]> {
        let ([first, second], [flag, int]) = (function.args.as_slice(), spec.args) else { return None };
        if flag.ty != ArgType::BranchFlag || int.ty != ArgType::Int {
            return None;
        }
        let is_swapped = match (&first.kind, &second.kind) {
            (ArgKind::Int(_), ArgKind::Int(_)) => self.scope.dialect == Dialect::V2_4,
            (ArgKind::Int(_) | ArgKind::Var(_), ArgKind::Word(_) | ArgKind::Text(_)) => true,
            _ => false,
        };
        is_swapped.then_some([second, first])
    }

    /// Variables and formats of a call whose types are not known.
    fn check_loose_arguments(&mut self, function: &Function) {
        for arg in &function.args {
            if let ArgKind::Var(var) = &arg.kind {
                self.read_variable(var);
            }
        }
    }

    fn wrong_count(&mut self, function: &Function, specs: &[(FunctionId, FunctionSpec)]) {
        let name = function.name.node.as_str();
        let given = function.args.len();
        let least = specs.iter().map(|(_, spec)| mandatory(spec)).min().unwrap_or(0);
        let most = specs.iter().map(|(_, spec)| spec.args.len()).max().unwrap_or(0);
        let wanted = match (least, most) {
            (0, 0) => "none".to_owned(),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let mut error = Diagnostic::error(
            "argument-count",
            function.span,
            format!("`{name}` takes {wanted} of arguments, found {given}"),
        )
        .with_label(format!("expected {wanted}"));
        for (_, spec) in specs {
            error = error.with_note(signature(spec));
        }
        self.report(error);
    }

    fn only(&mut self, dialect: Dialect, span: Span, message: &str) {
        self.report(Diagnostic::only(dialect, span, message));
    }

    fn mismatch(&mut self, function: &str, spec: &ArgSpec, span: Span, takes: &str, suggestion: Option<String>) {
        let error = Diagnostic::error(
            "argument-type",
            span,
            format!("the argument `{}` of `{function}` takes {takes}", spec.name),
        );
        let suggestion = match &self.order {
            Some(order) => Some(format!("the order of the arguments is another one: `{order}`")),
            None => suggestion,
        };
        self.report(match suggestion {
            Some(suggestion) => error.with_suggestion(suggestion),
            None => error,
        });
    }

    fn argument(&mut self, function: &str, arg: &Arg, spec: &ArgSpec) {
        if arg.kind == ArgKind::Missing {
            if !spec.optional {
                let error = Diagnostic::error(
                    "argument-count",
                    arg.span,
                    format!("the argument `{}` of `{function}` cannot be left out", spec.name),
                );
                self.report(error);
            }
            return;
        }
        if let (ArgKind::Word(word), false) = (&arg.kind, takes_words(function, spec.ty)) {
            let suggestion = Some(format!("write `\"{word}\"`"));
            return self.mismatch(function, spec, arg.span, "no bare word", suggestion);
        }
        if arg.kind == ArgKind::Null {
            return self.mismatch(function, spec, arg.span, "no NULL", None);
        }
        match spec.ty {
            ArgType::Int => self.int_argument(function, arg, spec),
            ArgType::Any | ArgType::Text | ArgType::Words => self.text_argument(arg, spec.ty),
            ArgType::Static => self.static_argument(function, arg, spec),
            ArgType::Raw => self.raw_argument(arg),
            ArgType::Var => self.variable_argument(function, arg, spec, false),
            ArgType::VarOut => self.variable_argument(function, arg, spec, true),
            ArgType::VarOrText => match &arg.kind {
                ArgKind::Text(text) if parse_exact(text, self.scope).is_err() => {
                    self.only(Dialect::V2_4, arg.span, "a text in the place of a variable");
                    self.text_argument(arg, spec.ty);
                }
                ArgKind::Text(_) | ArgKind::Var(_) => {
                    let is_output = self.scope.dialect != Dialect::V2_4;
                    self.variable_argument(function, arg, spec, is_output);
                }
                _ => self.text_argument(arg, spec.ty),
            },
            ArgType::Regex => self.regex_argument(arg),
            ArgType::Flag | ArgType::BranchFlag => self.flag_argument(function, arg, spec),
            ArgType::Route(kind) => self.route_argument(arg, kind),
        }
    }

    fn int_argument(&mut self, function: &str, arg: &Arg, spec: &ArgSpec) {
        match &arg.kind {
            ArgKind::Var(var) => self.read_variable(var),
            ArgKind::Text(text) => {
                self.only(Dialect::V2_4, arg.span, "a number in quotes");
                if text.contains(&b'$') {
                    return self.format(text, arg.span);
                }
                let shown = String::from_utf8_lossy(text);
                if shown.trim().parse::<i32>().is_err() {
                    self.mismatch(function, spec, arg.span, "a number", None);
                }
            }
            _ => {}
        }
    }

    fn text_argument(&mut self, arg: &Arg, ty: ArgType) {
        match &arg.kind {
            ArgKind::Text(text) => self.format(text, arg.span),
            ArgKind::Var(var) => self.read_variable(var),
            ArgKind::Int(_) if ty != ArgType::Any => self.only(Dialect::V2_4, arg.span, "a number for a text"),
            _ => {}
        }
    }

    fn static_argument(&mut self, function: &str, arg: &Arg, spec: &ArgSpec) {
        match &arg.kind {
            ArgKind::Text(text) if text.contains(&b'$') && !text.starts_with(b"$$") => {
                self.mismatch(function, spec, arg.span, "a constant text without variables", None);
            }
            ArgKind::Var(_) => self.mismatch(function, spec, arg.span, "a constant text, not a variable", None),
            ArgKind::Int(_) => self.only(Dialect::V2_4, arg.span, "a number for a text"),
            _ => {}
        }
    }

    /// Lists of variables are taken apart by the function; a bare variable stands for its own name.
    fn raw_argument(&mut self, arg: &Arg) {
        match &arg.kind {
            ArgKind::Var(var) => self.read_variable(var),
            ArgKind::Int(_) => self.only(Dialect::V2_4, arg.span, "a number for a text"),
            _ => {}
        }
    }

    fn variable_argument(&mut self, function: &str, arg: &Arg, spec: &ArgSpec, is_output: bool) {
        match &arg.kind {
            ArgKind::Var(var) if is_output => self.target_variable(var),
            ArgKind::Var(var) => self.read_variable(var),
            ArgKind::Text(text) => match parse_exact(text, self.scope) {
                Ok(parsed) => {
                    self.only(Dialect::V2_4, arg.span, "a variable in quotes");
                    if is_output && !parsed.is_writable() {
                        self.error("not-writable", arg.span, format!("`{}` is read-only", parsed.source()));
                    }
                }
                Err(error) if text.trim_ascii().starts_with(b"$") => {
                    let diagnostic = self.variable_error(&error, arg.span);
                    self.report(diagnostic);
                }
                Err(_) => self.mismatch(function, spec, arg.span, "a variable", None),
            },
            _ => self.mismatch(function, spec, arg.span, "a variable", None),
        }
    }

    fn regex_argument(&mut self, arg: &Arg) {
        match &arg.kind {
            ArgKind::Var(var) => self.read_variable(var),
            ArgKind::Text(text) if !text.contains(&b'$') || parse_code(text, self.scope).is_err() => {
                if let Err(error) = PosixRegex::new(text) {
                    self.error("bad-regex", arg.span, format!("this regular expression is broken: {}", error.0));
                }
            }
            _ => {}
        }
    }

    fn flag_argument(&mut self, function: &str, arg: &Arg, spec: &ArgSpec) {
        match &arg.kind {
            ArgKind::Text(text) => {
                self.only(Dialect::V4_0, arg.span, "the name of a flag in quotes");
                if text.is_empty() || text.contains(&b'$') {
                    self.mismatch(function, spec, arg.span, "the constant name of a flag", None);
                }
            }
            ArgKind::Int(number) => {
                self.only(Dialect::V2_4, arg.span, "a flag named by a number");
                if !NUMBERED_FLAGS.contains(number) {
                    self.mismatch(function, spec, arg.span, "a flag number from 0 to 31", None);
                }
            }
            ArgKind::Var(_) => self.mismatch(function, spec, arg.span, "the constant name of a flag", None),
            _ => {}
        }
    }

    fn route_argument(&mut self, arg: &Arg, kind: RouteKind) {
        let name = match &arg.kind {
            ArgKind::Var(var) => {
                self.reached.has_dynamic_calls = true;
                return self.read_variable(var);
            }
            ArgKind::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ArgKind::Word(word) => word.clone(),
            ArgKind::Int(number) => number.to_string(),
            ArgKind::Missing | ArgKind::Null => return,
        };
        if name.contains('$') {
            self.reached.has_dynamic_calls = true;
            return self.format(name.as_bytes(), arg.span);
        }
        self.use_route(kind, &name, arg.span, false);
    }

    /// Checks that only single functions need.
    fn check_by_name(&mut self, function: &Function) {
        match function.name.node.as_str() {
            "forward" if self.lists.is_stateless_forward_off => {
                self.error(
                    "forward-disabled",
                    function.span,
                    "`forward` is refused because `disable_stateless_fwd` is set",
                );
            }
            "use_blacklist" | "unuse_blacklist" => {
                let Some(Arg { kind: ArgKind::Text(name), span }) = function.args.first() else { return };
                let name = String::from_utf8_lossy(name);
                if !name.contains('$') && !self.lists.has_blacklist(&name) {
                    self.error("unknown-blacklist", *span, format!("there is no blacklist `{name}`"));
                }
            }
            _ => {}
        }
    }
}

fn mandatory(spec: &FunctionSpec) -> usize {
    spec.args.iter().rposition(|arg| !arg.optional).map_or(0, |last| last + 1)
}

fn takes_words(function: &str, ty: ArgType) -> bool {
    matches!(ty, ArgType::Flag | ArgType::BranchFlag | ArgType::Route(_)) || BARE_ADDRESSES.contains(&function)
}

/// Whether the argument can stand there, by its form alone; stricter than what is accepted.
fn fits(arg: &Arg, ty: ArgType) -> bool {
    match (&arg.kind, ty) {
        (ArgKind::Int(_), ArgType::Int | ArgType::Any) | (ArgKind::Var(_), _) => true,
        (ArgKind::Text(text), ArgType::Int) => {
            text.contains(&b'$') || String::from_utf8_lossy(text).trim().parse::<i32>().is_ok()
        }
        (ArgKind::Text(text), ArgType::Var | ArgType::VarOut) => text.trim_ascii().starts_with(b"$"),
        (ArgKind::Text(text), ArgType::Static) => !text.contains(&b'$'),
        (ArgKind::Text(_), ArgType::Text | ArgType::Any | ArgType::Raw | ArgType::Regex) => true,
        _ => false,
    }
}

/// The call as it should be written, when exactly one exchange of two arguments makes all of them fit.
fn other_order(function: &Function, spec: &FunctionSpec) -> Option<String> {
    let args = &function.args;
    let does_fit = |order: &[usize]| {
        order.iter().zip(spec.args).all(|(at, spec)| args.get(*at).is_some_and(|arg| fits(arg, spec.ty)))
    };
    let written: Vec<usize> = (0..args.len()).collect();
    if args.len() < 2 || args.len() > super::ROUTE_ARGUMENTS_MAX || does_fit(&written) {
        return None;
    }
    let mut found = None;
    for first in 0..args.len() {
        for second in first + 1..args.len() {
            let mut order = written.clone();
            order.swap(first, second);
            if does_fit(&order) && found.replace(order).is_some() {
                return None;
            }
        }
    }
    let shown: Vec<String> = found?.iter().filter_map(|at| args.get(*at)).map(shown).collect();
    Some(format!("{}({})", spec.name, shown.join(", ")))
}

/// An argument as written.
fn shown(arg: &Arg) -> String {
    match &arg.kind {
        ArgKind::Missing => String::new(),
        ArgKind::Int(int) => int.to_string(),
        ArgKind::Text(text) => format!("\"{}\"", String::from_utf8_lossy(text)),
        ArgKind::Var(var) => var.text.clone(),
        ArgKind::Word(word) => word.clone(),
        ArgKind::Null => "NULL".to_owned(),
    }
}

/// `name(argument, [optional])`.
fn signature(spec: &FunctionSpec) -> String {
    let args: Vec<String> = spec
        .args
        .iter()
        .map(|arg| if arg.optional { format!("[{}]", arg.name) } else { arg.name.to_owned() })
        .collect();
    format!("{}({})", spec.name, args.join(", "))
}
