//! Static checks of a script against what the loaded modules offer. It finds errors and doubtful places; it compiles nothing.

mod arguments;
mod effects;
mod methods;
mod names_used;
mod paths;
mod renames;
mod routes;
mod silence;
#[cfg(test)]
pub(crate) mod test_surface;
mod variables;
pub(crate) mod visit;
mod waits;
mod warnings;

pub use renames::advice_on_parameter;
pub use silence::silence;

use hashbrown::HashSet;

use crate::ast::{
    ArgKind, Call, CallKind, Compare, CompareRight, Dialect, Function, Item, RouteKind, RouteName, Script, Span,
    Spanned, Var,
};
use crate::diagnostic::{Diagnostic, Severity, sort};
use crate::format::Format;
use crate::names::nearest;
use crate::pvar::Scope;
use crate::regex::PosixRegex;
use crate::surface::Surface;

use routes::{Reached, RouteTable};
use visit::{Visitor, walk_route};

/// Arguments of a `route()` call.
pub const ROUTE_ARGUMENTS_MAX: usize = 8;

/// Errors and warnings that are kept; more help nobody.
pub const FINDINGS_MAX: usize = 2_000;
/// Notes that are kept.
const NOTES_MAX: usize = 10_000;

/// What to look for.
#[derive(Clone, Copy, Default)]
pub struct CheckOptions {
    /// Also report what is allowed but doubtful (unreachable code, routes never called, ...).
    pub warnings: bool,
    /// Functions and variables that the loaded modules have in OpenSIPS and not here are warnings, not errors (`--permissive`).
    pub is_permissive: bool,
    /// What else is known about the name of an unknown function, for example the OpenSIPS module it belongs to.
    pub about_function: Option<fn(&str) -> Option<String>>,
}

/// Checks a script that was parsed without errors; partial trees are checked as far as they go. The diagnostics come sorted.
pub fn check(script: &Script, dialect: Dialect, surface: &Surface, options: &CheckOptions) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let table = RouteTable::new(script, &mut diagnostics);
    let lists = Lists::new(script);
    let mut reached = Reached::default();
    for (index, route) in table.routes().iter().enumerate() {
        let mut checker = Checker {
            surface,
            scope: Scope { surface, dialect },
            options,
            table: &table,
            lists: &lists,
            reached: &mut reached,
            diagnostics: &mut diagnostics,
            route: index,
            order: None,
        };
        walk_route(route, &mut checker);
    }
    routes::check_kinds(&table, &reached, surface, &mut diagnostics);
    if options.warnings {
        warnings::check(script, &table, &reached, dialect, surface, &mut diagnostics);
    }
    sort(&mut diagnostics);
    limit(&mut diagnostics);
    diagnostics
}

/// Drops what is beyond the limits, warnings before errors, and says so.
fn limit(diagnostics: &mut Vec<Diagnostic>) {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count().min(FINDINGS_MAX);
    let mut left = [errors, FINDINGS_MAX - errors, NOTES_MAX];
    let mut dropped: Option<Span> = None;
    diagnostics.retain(|diagnostic| {
        let place = match diagnostic.severity {
            Severity::Error => 0,
            Severity::Warning => 1,
            Severity::Note => 2,
        };
        let Some(left) = left.get_mut(place) else { return false };
        if *left == 0 {
            if place < 2 {
                dropped.get_or_insert(diagnostic.span);
            }
            return false;
        }
        *left -= 1;
        true
    });
    if let Some(span) = dropped {
        let text = format!("more than {FINDINGS_MAX} findings, the rest is not shown");
        diagnostics.push(Diagnostic::warning("too-many-findings", span, text));
    }
}

/// Names that the script defines outside of its routes.
struct Lists {
    blacklists: HashSet<String>,
    /// All texts of module parameters, where modules may define lists and name routes.
    parameters: Vec<String>,
    is_stateless_forward_off: bool,
}

impl Lists {
    fn new(script: &Script) -> Lists {
        let (globals, _) = crate::globals::evaluate(script, Dialect::V4_0);
        let text = |item: &Item| match item {
            Item::Modparam(modparam) => match &modparam.value.node {
                crate::ast::ModparamValue::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                crate::ast::ModparamValue::Int(_) => None,
            },
            _ => None,
        };
        Lists {
            blacklists: globals.blacklists.into_iter().map(|list| list.name).collect(),
            parameters: script.items.iter().filter_map(text).collect(),
            is_stateless_forward_off: globals.disable_stateless_fwd,
        }
    }

    fn has_blacklist(&self, name: &str) -> bool {
        name == "all" || self.blacklists.contains(name) || self.parameters.iter().any(|text| text.contains(name))
    }
}

struct Checker<'a> {
    surface: &'a Surface,
    scope: Scope<'a>,
    options: &'a CheckOptions,
    table: &'a RouteTable<'a>,
    lists: &'a Lists,
    reached: &'a mut Reached,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// Index of the route being walked.
    route: usize,
    /// The call being checked with two arguments exchanged, when it fits that way.
    order: Option<String>,
}

impl Checker<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.reached.error_count += usize::from(diagnostic.is_error());
        if self.diagnostics.len() < FINDINGS_MAX + NOTES_MAX || diagnostic.is_error() {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Enough errors for one run: nothing more is looked at.
    fn is_full(&self) -> bool {
        self.reached.error_count > FINDINGS_MAX
    }

    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.report(Diagnostic::error(code, span, message));
    }

    /// A text that is a format; an error names the variable in it that is wrong.
    fn format(&mut self, text: &[u8], span: Span) {
        if !text.contains(&b'$') {
            return;
        }
        self.check_context(text, span);
        match Format::parse_in(text, self.scope) {
            Ok(format) => {
                for var in format.vars() {
                    self.missing_variables(var, span);
                }
            }
            Err(error) => {
                let diagnostic = self.variable_error(&error, span);
                let diagnostic = if has_lone_dollar(text) {
                    diagnostic.with_suggestion("write `$$` for a dollar sign")
                } else {
                    diagnostic
                };
                self.report(diagnostic);
            }
        }
    }

    /// A route that is called, resumed or named here.
    fn use_route(&mut self, kind: RouteKind, name: &str, span: Span, is_followed: bool) {
        match self.table.find(kind, name) {
            Some(target) => self.reached.add_use(self.route, target, span, is_followed),
            None => {
                let word = routes::word(kind);
                let error = Diagnostic::error("undefined-route", span, format!("there is no `{word}[{name}]`"));
                let error = error.with_nearest(nearest(name, self.table.names(kind)));
                let error = match self.table.other_kind(kind, name) {
                    Some(other) => error
                        .with_note(format!("there is a `{}[{name}]`, but it cannot be used here", routes::word(other))),
                    None => error,
                };
                self.report(error);
            }
        }
    }

    fn xlog(&mut self, level: Option<&crate::ast::Arg>, format: &Spanned<Vec<u8>>) {
        if let Some(ArgKind::Text(text)) = level.map(|level| &level.kind)
            && !text.starts_with(b"$")
            && !matches!(text.get(2), Some(b'A' | b'C' | b'E' | b'W' | b'N' | b'I' | b'D'))
        {
            let span = level.map_or(format.span, |level| level.span);
            let shown = String::from_utf8_lossy(text).into_owned();
            let levels = ["L_ALERT", "L_CRIT", "L_ERR", "L_WARN", "L_NOTICE", "L_INFO", "L_DBG"];
            let with_prefix = format!("L_{}", shown.to_ascii_uppercase());
            let meant =
                levels.into_iter().find(|level| *level == with_prefix).or_else(|| nearest(&with_prefix, levels));
            let error = Diagnostic::error("xlog-level", span, format!("`{shown}` is no log level")).with_nearest(meant);
            self.report(error.with_note("the third letter of the level decides: A, C, E, W, N, I or D"));
        }
        if format.node.is_empty() {
            self.error("empty-format", format.span, "the text of `xlog` is empty");
        }
        self.format(&format.node, format.span);
    }

    fn unknown_function(&mut self, function: &Function) {
        let name = function.name.node.as_str();
        let span = function.name.span;
        if let Some(module) = self.surface.missing_function(name) {
            let text = format!("function `{name}` of module {module} is known to OpenSIPS, not yet here");
            self.missing("missing-function", span, text, "the call fails with -1 when it runs");
            if let (Some(hint), Some(last)) = (renames::renamed_function(name), self.diagnostics.last_mut()) {
                last.notes.push(format!("newer releases lack it, too: {hint}"));
            }
            return;
        }
        let about = self.options.about_function.and_then(|about| about(name));
        let renamed = renames::renamed_function(name);
        let error = match (about, renamed) {
            (Some(about), _) => {
                Diagnostic::error("missing-function", span, format!("the function `{name}` is of no loaded module"))
                    .with_note(about)
            }
            (None, Some(hint)) => {
                Diagnostic::error("renamed-function", span, format!("the function `{name}` is of an older OpenSIPS"))
                    .with_suggestion(hint)
            }
            (None, None) => Diagnostic::error("unknown-function", span, format!("there is no function `{name}`"))
                .with_nearest(nearest(name, self.surface.function_names()))
                .with_note("functions come with the modules that the script loads"),
        };
        self.report(error);
    }

    /// Something that OpenSIPS has and this program lacks.
    fn missing(&mut self, code: &'static str, span: Span, text: String, then: &str) {
        let diagnostic = if self.options.is_permissive {
            Diagnostic::warning(code, span, text).with_note(then)
        } else {
            Diagnostic::error(code, span, text)
                .with_suggestion(format!("with --permissive the script loads, and {then}"))
        };
        self.report(diagnostic);
    }
}

/// Whether a dollar sign stands in the text that neither begins a variable nor is doubled.
fn has_lone_dollar(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(offset) = text.get(at..).and_then(|rest| memchr::memchr(b'$', rest)) {
        let next = text.get(at + offset + 1).copied().unwrap_or(b' ');
        if !(next.is_ascii_alphabetic() || matches!(next, b'(' | b'$')) {
            return true;
        }
        at += offset + 2;
    }
    false
}

impl Visitor for Checker<'_> {
    fn call(&mut self, call: &Call) {
        if self.is_full() {
            return;
        }
        match &call.kind {
            CallKind::Xlog { level, format, .. } => self.xlog(level.as_ref(), format),
            CallKind::Route { name, args } => {
                match &name.node {
                    RouteName::Text(text) if text.contains('$') => {
                        self.format(text.as_bytes(), name.span);
                        self.reached.has_dynamic_calls = true;
                    }
                    RouteName::Text(text) => self.use_route(RouteKind::Request, text, name.span, true),
                    RouteName::Var(_) => self.reached.has_dynamic_calls = true,
                }
                if args.len() > ROUTE_ARGUMENTS_MAX {
                    self.error(
                        "argument-count",
                        call.span,
                        format!("a route takes at most {ROUTE_ARGUMENTS_MAX} arguments"),
                    );
                }
            }
            CallKind::Async { resume, .. } => self.use_route(RouteKind::Request, &resume.node, resume.span, true),
            CallKind::Launch { report, value, .. } => {
                if let Some(report) = report {
                    self.use_route(RouteKind::Request, &report.node, report.span, false);
                }
                if let Some(value) = value {
                    self.format(&value.node, value.span);
                }
            }
            _ => {}
        }
    }

    fn function(&mut self, function: &Function, is_async: bool) {
        if !self.is_full() {
            self.check_function(function, is_async);
        }
    }

    fn var(&mut self, var: &Var, is_target: bool) {
        if self.is_full() {
            return;
        }
        if is_target {
            self.target_variable(var);
        } else {
            self.read_variable(var);
        }
    }

    fn compare(&mut self, compare: &Compare) {
        use crate::ast::CompareOp::{Match, NotMatch};
        match (&compare.right, compare.op) {
            (CompareRight::Text(text), Match | NotMatch) => {
                if let Err(error) = PosixRegex::new(&text.node) {
                    self.error("bad-regex", text.span, format!("this regular expression is broken: {}", error.0));
                }
            }
            (CompareRight::Network(network), _) if !is_network(&network.node) => {
                self.error(
                    "bad-network",
                    network.span,
                    format!("`{}` is no network: the length or mask does not fit the address", network.node),
                );
            }
            _ => {}
        }
    }

    fn each(&mut self, iterator: &Var, list: &Var) {
        let is_allowed = ["$var(", "$avp(", "$json(", "$(var(", "$(avp(", "$(json("]
            .iter()
            .any(|begin| iterator.text.starts_with(begin));
        if !is_allowed {
            self.error("for-iterator", iterator.span, "the iterator of `for` must be a `$var`, `$avp` or `$json`");
        }
        if !list.text.contains("[*]") {
            let warning =
                Diagnostic::warning("for-list", list.span, "`for` goes over all values only of a variable with `[*]`");
            let name = list.text.trim_start_matches(['$', '(']).trim_end_matches(')');
            self.report(warning.with_suggestion(format!("write `$({name}[*])`")));
        }
    }
}

/// Whether an address with an optional length or mask is a network.
fn is_network(text: &str) -> bool {
    use std::net::IpAddr;
    let Some((address, mask)) = text.split_once('/') else { return text.parse::<IpAddr>().is_ok() };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    match mask.parse::<u8>() {
        Ok(length) => length <= bits,
        Err(_) => mask.parse::<IpAddr>().is_ok_and(|mask| mask.is_ipv4() == address.is_ipv4()),
    }
}

#[cfg(test)]
mod tests;
