//! Tree to program: flat instructions with jumps, variables and formats parsed, routes and functions resolved. It runs nothing;
//! what it cannot resolve becomes a diagnostic. Run the checker first: its messages are the better ones.

// Errors are diagnostics, made once per defect at load time: their size does not matter.
#[allow(clippy::result_large_err)]
mod arguments;
mod calls;
mod conditions;
mod expressions;
mod flags;
mod intern;
mod statements;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;

use crate::ast::{Dialect, GlobalValue, Item, Route, RouteKind, Script, Span};
use crate::diagnostic::{Diagnostic, has_errors};
use crate::program::{
    Op, Position, Program, RouteInfo, RouteKey, WHILE_ROUNDS_MAX, WHILE_ROUNDS_MAX_2_4, XLOG_BYTES_MAX,
};
use crate::pvar::{Scope, VarError};
use crate::source::SourceMap;
use crate::surface::Surface;
use crate::value::Text;
use crate::vm::{RouteId, kind_name};

/// Parentheses and right-nested operators in one expression or condition.
pub const EXPRESSION_DEPTH_MAX: usize = 100;
/// Statements inside each other (`else if` chains count once).
pub const BLOCK_DEPTH_MAX: usize = 100;
/// Arguments of a function or of a route.
pub const ARGUMENTS_MAX: usize = 8;
/// Route blocks of a script.
pub const ROUTES_MAX: usize = 10_000;

/// Compiles a script. No program when there is an error among the diagnostics.
pub fn compile(
    script: &Script,
    dialect: Dialect,
    surface: &Surface,
    sources: &SourceMap,
) -> (Option<Program>, Vec<Diagnostic>) {
    let surface = Arc::new(surface.clone());
    finish(Compiler::new(dialect, &surface, sources), script)
}

/// Compiles a script to take the place of a running one: same dialect, same surface, and the flags keep their indexes, for
/// transactions and contacts hold flags by index. Flags of earlier scripts keep their place among the
/// [`FLAG_NAMES_MAX`](crate::program::FLAG_NAMES_MAX). AVP names and `$var` slots are numbered over the whole process.
pub fn recompile(script: &Script, sources: &SourceMap, running: &Program) -> (Option<Program>, Vec<Diagnostic>) {
    let mut compiler = Compiler::new(running.dialect, &running.surface, sources);
    compiler.program.message_flags.clone_from(&running.message_flags);
    compiler.program.branch_flags.clone_from(&running.branch_flags);
    finish(compiler, script)
}

fn finish(mut compiler: Compiler<'_>, script: &Script) -> (Option<Program>, Vec<Diagnostic>) {
    compiler.limits(script);
    let routes: Vec<&Route> =
        script.items.iter().filter_map(|item| if let Item::Route(route) = item { Some(route) } else { None }).collect();
    for route in &routes {
        compiler.declare(route);
    }
    for (at, route) in routes.iter().enumerate().take(compiler.program.routes.len()) {
        compiler.route(at, route);
    }
    let Compiler { mut program, diagnostics, .. } = compiler;
    flags::define(&mut program);
    let program = (!has_errors(&diagnostics)).then_some(program);
    (program, diagnostics)
}

struct Compiler<'a> {
    program: Program,
    surface: &'a Surface,
    dialect: Dialect,
    sources: &'a SourceMap,
    diagnostics: Vec<Diagnostic>,
    /// The statement being compiled.
    position: Position,
    /// Jumps of `break` that still need their target, one list per open loop or switch.
    breaks: Vec<Vec<usize>>,
    has_error_route: bool,
    interned: intern::Interned,
}

impl<'a> Compiler<'a> {
    fn new(dialect: Dialect, surface: &'a Arc<Surface>, sources: &'a SourceMap) -> Compiler<'a> {
        let files =
            (0..sources.file_count()).map(|at| Text::from(sources.name(crate::ast::FileId(at as u16)))).collect();
        let program = Program {
            dialect,
            surface: Arc::clone(surface),
            code: Vec::new(),
            positions: Vec::new(),
            files,
            routes: Vec::new(),
            names: HashMap::new(),
            vars: Vec::new(),
            formats: Vec::new(),
            values: Vec::new(),
            comparisons: Vec::new(),
            calls: Vec::new(),
            route_calls: Vec::new(),
            returns: Vec::new(),
            switches: Vec::new(),
            asyncs: Vec::new(),
            launches: Vec::new(),
            texts: Vec::new(),
            message_flags: Vec::new(),
            branch_flags: Vec::new(),
            while_rounds_max: if dialect == Dialect::V2_4 { WHILE_ROUNDS_MAX_2_4 } else { WHILE_ROUNDS_MAX },
            xlog_bytes_max: XLOG_BYTES_MAX,
            coverage: None,
        };
        Compiler {
            program,
            surface,
            dialect,
            sources,
            diagnostics: Vec::new(),
            position: Position::default(),
            breaks: Vec::new(),
            has_error_route: false,
            interned: intern::Interned::default(),
        }
    }

    /// The global parameters that the machine has to know.
    fn limits(&mut self, script: &Script) {
        for item in &script.items {
            let Item::Global(global) = item else { continue };
            let GlobalValue::Int(value) = global.value else { continue };
            match global.name.node.as_str() {
                "max_while_loops" => self.program.while_rounds_max = value.max(0).unsigned_abs(),
                "xlog_buf_size" => self.program.xlog_bytes_max = usize::try_from(value).unwrap_or(XLOG_BYTES_MAX),
                _ => {}
            }
        }
    }

    fn scope(&self) -> Scope<'a> {
        Scope { surface: self.surface, dialect: self.dialect }
    }

    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(code, span, message));
    }

    fn variable_error(&mut self, span: Span, error: &VarError) {
        let nearest =
            error.unknown.as_deref().and_then(|name| crate::names::nearest(name, self.surface.variable_names()));
        let code = if error.unknown.is_some() { "unknown-variable" } else { "bad-variable" };
        self.diagnostics.push(Diagnostic::error(code, span, error.message.clone()).with_nearest(nearest));
    }

    /// Gives every route its number before any body is compiled.
    fn declare(&mut self, route: &Route) {
        let name = route.name.as_ref().map_or("", |name| name.node.as_str());
        // The main route may be written `route[0]`.
        let key = if route.kind == RouteKind::Request && name.is_empty() { "0" } else { name };
        if self.program.routes.len() >= ROUTES_MAX {
            self.error("too-many-routes", route.span, format!("more than {ROUTES_MAX} route blocks"));
            return;
        }
        let id = RouteId(self.program.routes.len() as u16);
        if self.program.names.contains_key(&RouteKey(route.kind, key)) {
            let text = if name.is_empty() {
                format!("{} is defined twice", head(route.kind))
            } else {
                format!("{}[{name}] is defined twice", head(route.kind))
            };
            self.error("duplicate-route", route.span, text);
        } else {
            self.program.names.insert((route.kind, key.into()), id);
        }
        self.has_error_route |= route.kind == RouteKind::Error;
        let has_name = !(name.is_empty() || route.kind == RouteKind::Request && name == "0");
        let shown_type = head(route.kind);
        let shown = if has_name { format!("{shown_type}[{name}]") } else { shown_type.to_owned() };
        self.program.routes.push(RouteInfo {
            kind: route.kind,
            name: has_name.then(|| name.into()),
            interval_secs: route.interval,
            event_mode: route.event_mode,
            span: route.span,
            entry: 0,
            shown: Text::from(shown),
            shown_name: Text::from(if has_name { name } else { "" }),
            shown_type: Text::from(shown_type),
        });
    }

    fn route(&mut self, at: usize, route: &Route) {
        self.position = self.position_of(route.span);
        let entry = self.here();
        if let Some(info) = self.program.routes.get_mut(at) {
            info.entry = entry;
        }
        self.block(&route.body, 0);
        self.position = self.position_of(Span { start: route.span.end.saturating_sub(1), ..route.span });
        self.emit(Op::EndRoute);
    }

    fn position_of(&self, span: Span) -> Position {
        Position { span, line: self.sources.location(span).line }
    }

    /// Where the next instruction will stand.
    fn here(&self) -> u32 {
        self.program.code.len() as u32
    }

    fn emit(&mut self, op: Op) -> usize {
        self.program.code.push(op);
        self.program.positions.push(self.position);
        self.program.code.len() - 1
    }

    /// Sets the target of the jump at `at` to the next instruction.
    fn land(&mut self, at: usize) {
        let target = self.here();
        match self.program.code.get_mut(at) {
            Some(
                Op::Jump(to)
                | Op::JumpUnlessTrue(to)
                | Op::JumpUnlessFalse(to)
                | Op::Branch(to)
                | Op::AssertBegin(to)
                | Op::LoopTick(to),
            ) => {
                *to = target;
            }
            Some(Op::ForNext { exit, .. }) => *exit = target,
            _ => {}
        }
    }
}

/// The keyword of a kind of route.
fn head(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Request => "route",
        other => kind_name(other),
    }
}
