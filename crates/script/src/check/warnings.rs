//! What is allowed but probably not meant: code that never runs, routes never called, comparisons that always fail, the code
//! of a `break` taken for an answer. The longer analyses are beside it.

use hashbrown::HashMap;

use super::names_used::{NamesUsed, is_text};
use super::routes::{Reached, RouteTable, head_span, title};
use super::visit::{Visitor, walk_route};
use super::{paths, waits};
use crate::ast::{
    Block, Call, CallKind, Compare, CompareOp, CompareRight, Cond, Dialect, Expr, If, Item, ModparamValue, RouteKind,
    RouteName, Script, Span, Stmt, StmtKind,
};
use crate::diagnostic::Diagnostic;
use crate::surface::Surface;

/// Blocks that are searched for a last `break`; deeper ones are not.
const ENDS_DEPTH_MAX: usize = 100;

pub(super) fn check(
    script: &Script,
    table: &RouteTable<'_>,
    reached: &Reached,
    dialect: Dialect,
    surface: &Surface,
    diagnostics: &mut Vec<Diagnostic>,
) {
    unused_routes(script, table, reached, diagnostics);
    if dialect == Dialect::V4_0 {
        switch_codes(table, diagnostics);
    }
    paths::check(table, surface, diagnostics);
    waits::check(script, table, surface, diagnostics);
    let mut names = NamesUsed::new(script, surface);
    for route in table.routes() {
        walk_route(route, &mut Doubts { diagnostics });
        walk_route(route, &mut names);
    }
    names.report(diagnostics);
}

fn unused_routes(script: &Script, table: &RouteTable<'_>, reached: &Reached, diagnostics: &mut Vec<Diagnostic>) {
    if !table.routes().iter().any(|route| route.kind == RouteKind::Request && route.name.is_none()) {
        let span = script.items.last().map(item_span).unwrap_or_default();
        diagnostics.push(Diagnostic::warning(
            "no-main-route",
            span,
            "the script has no main `route`: every request is dropped",
        ));
    }
    if reached.has_dynamic_calls {
        return;
    }
    let parameters: Vec<&[u8]> = script
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Modparam(modparam) => match &modparam.value.node {
                ModparamValue::Text(text) => Some(text.as_slice()),
                ModparamValue::Int(_) => None,
            },
            _ => None,
        })
        .collect();
    for (index, route) in table.routes().iter().enumerate() {
        let is_called =
            matches!(route.kind, RouteKind::Request | RouteKind::Branch | RouteKind::Failure | RouteKind::OnReply);
        let Some(name) = &route.name else { continue };
        let is_named = parameters.iter().any(|text| memchr::memmem::find(text, name.node.as_bytes()).is_some());
        if is_called && !reached.is_used(index) && !is_named {
            diagnostics.push(Diagnostic::warning(
                "unused-route",
                name.span,
                format!("nothing calls `{}`", title(route)),
            ));
        }
    }
}

fn item_span(item: &Item) -> Span {
    match item {
        Item::Global(global) => global.span,
        Item::LoadModule(name) => name.span,
        Item::Modparam(modparam) => modparam.span,
        Item::Route(route) => head_span(route),
    }
}

/// 4.0: a route that ends with a `switch` left by `break` returns -5, so that it is false as a condition.
fn switch_codes(table: &RouteTable<'_>, diagnostics: &mut Vec<Diagnostic>) {
    #[derive(Default)]
    struct Conditions(Vec<(String, Span)>);
    impl Conditions {
        fn call(&mut self, call: &Call) {
            if let CallKind::Route { name, .. } = &call.kind
                && let RouteName::Text(text) = &name.node
            {
                self.0.push((text.clone(), call.span));
            }
        }
    }
    impl Visitor for Conditions {
        fn head(&mut self, cond: &Cond) {
            let mut pending = vec![cond];
            while let Some(cond) = pending.pop() {
                match cond {
                    Cond::And(left, right) | Cond::Or(left, right) => pending.extend([left.as_ref(), right.as_ref()]),
                    Cond::Not(inner) | Cond::Group(inner) => pending.push(inner),
                    Cond::Call(call) => self.call(call),
                    Cond::Bracket(expr) => {
                        if let Expr::Call(call) = expr.as_ref() {
                            self.call(call);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    let mut conditions = Conditions::default();
    for route in table.routes() {
        walk_route(route, &mut conditions);
    }
    let mut ends: HashMap<usize, bool> = HashMap::new();
    for (name, span) in conditions.0 {
        let Some(index) = table.find(RouteKind::Request, &name) else { continue };
        let Some(route) = table.get(index) else { continue };
        if !*ends.entry(index).or_insert_with(|| last_break(&route.body, 0)) {
            continue;
        }
        let title = title(route);
        let text = format!("`{title}` ends with a `break`: as a condition it is false then");
        let warning = Diagnostic::warning("switch-code", span, text);
        let warning = warning.with_note("in this dialect the code of a `break` is -5, whatever ran before it");
        diagnostics.push(warning.with_suggestion(format!("end `{title}` with `return(1);`")));
    }
}

/// Whether a `break` may be the last action of the block.
fn last_break(block: &[Stmt], depth: usize) -> bool {
    if depth > ENDS_DEPTH_MAX {
        return false;
    }
    let Some(last) = block.iter().rev().find(|statement| !matches!(statement.kind, StmtKind::Null)) else {
        return false;
    };
    match &last.kind {
        StmtKind::Block(block) => last_break(block, depth + 1),
        StmtKind::Switch { cases, .. } => cases.iter().any(|case| own_break(&case.body, depth + 1)),
        StmtKind::If(first) => {
            let mut current: &If = first;
            loop {
                if last_break(&current.then, depth + 1) {
                    return true;
                }
                match current.otherwise.as_deref() {
                    Some([Stmt { kind: StmtKind::If(next), .. }]) => current = next,
                    Some(block) => return last_break(block, depth + 1),
                    None => return false,
                }
            }
        }
        _ => false,
    }
}

/// Whether a `break` in the block belongs to the switch around it.
fn own_break(block: &[Stmt], depth: usize) -> bool {
    depth <= ENDS_DEPTH_MAX
        && block.iter().any(|statement| match &statement.kind {
            StmtKind::Break => true,
            StmtKind::Block(block) => own_break(block, depth + 1),
            StmtKind::If(first) => {
                own_break(&first.then, depth + 1)
                    || first.otherwise.as_deref().is_some_and(|block| own_break(block, depth + 1))
            }
            _ => false,
        })
}

struct Doubts<'a> {
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Visitor for Doubts<'_> {
    fn block(&mut self, block: &Block) {
        let mut ended_by = None;
        for statement in block {
            match (ended_by, &statement.kind) {
                (_, StmtKind::Null) => {}
                (Some(word), _) => {
                    let warning = Diagnostic::warning(
                        "unreachable-code",
                        statement.span,
                        format!("this never runs: `{word}` stands before it"),
                    );
                    self.diagnostics.push(warning);
                    return;
                }
                (None, StmtKind::Call(call)) => ended_by = end_word(call),
                (None, StmtKind::Break) => ended_by = Some("break"),
                (None, _) => {}
            }
        }
    }

    fn compare(&mut self, compare: &Compare) {
        let is_number = matches!(compare.right, CompareRight::Int(_));
        if is_number && is_text(&compare.left) {
            let warning = Diagnostic::warning(
                "text-and-number",
                compare.span,
                "a text is never equal to, smaller or greater than a number: this is always false",
            );
            let inner = compare.left.text.trim_start_matches(['$', '(']);
            // The long form ends with a parenthesis of its own.
            let inner =
                if compare.left.text.starts_with("$(") { inner.strip_suffix(')').unwrap_or(inner) } else { inner };
            self.diagnostics.push(warning.with_suggestion(format!("compare the number in it: `$({inner}{{s.int}})`")));
        }
        if let (CompareRight::Null, CompareOp::Eq | CompareOp::Ne) = (&compare.right, compare.op)
            && compare.left.text.starts_with("$$")
        {
            self.diagnostics.push(Diagnostic::warning(
                "constant-condition",
                compare.span,
                "`$$` is a dollar sign, never NULL",
            ));
        }
    }
}

fn end_word(call: &Call) -> Option<&'static str> {
    match call.kind {
        CallKind::Exit => Some("exit"),
        CallKind::Drop => Some("drop"),
        CallKind::Return { .. } => Some("return"),
        CallKind::Async { .. } => Some("async"),
        _ => None,
    }
}
