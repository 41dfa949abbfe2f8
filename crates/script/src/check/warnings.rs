//! What is allowed but probably not meant: code that never runs, routes never called, comparisons that always fail, misspelt AVPs.

use hashbrown::{HashMap, HashSet};

use super::routes::{Reached, RouteTable, head_span, title};
use super::visit::{Visitor, walk_route};
use crate::ast::{
    ArgKind, Assign, AssignOp, Block, Call, CallKind, Compare, CompareOp, CompareRight, Cond, Dialect, Expr, Function,
    Item, ModparamValue, Route, RouteKind, RouteName, Script, Span, StmtKind, Var,
};
use crate::diagnostic::Diagnostic;
use crate::names::nearest;

/// Variables that never have an integer form.
const TEXT_ONLY: &[&str] = &[
    "hdr", "ru", "rU", "rd", "fu", "fU", "fd", "ft", "tu", "tU", "td", "tt", "ci", "cs", "ua", "si", "du", "ou", "oU",
    "od",
];

pub(super) fn check(
    script: &Script,
    table: &RouteTable<'_>,
    reached: &Reached,
    dialect: Dialect,
    diagnostics: &mut Vec<Diagnostic>,
) {
    unused_routes(script, table, reached, diagnostics);
    if dialect == Dialect::V4_0 {
        switch_codes(table, diagnostics);
    }
    let mut names = AvpNames::default();
    for item in &script.items {
        if let Item::Modparam(modparam) = item
            && let ModparamValue::Text(text) = &modparam.value.node
        {
            names.mention(text);
        }
    }
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
    struct Conditions(Vec<(String, Span)>);
    impl Visitor for Conditions {
        fn head(&mut self, cond: &Cond) {
            let mut pending = vec![cond];
            while let Some(cond) = pending.pop() {
                match cond {
                    Cond::And(left, right) | Cond::Or(left, right) => pending.extend([left.as_ref(), right.as_ref()]),
                    Cond::Not(inner) | Cond::Group(inner) => pending.push(inner),
                    Cond::Call(call) => {
                        if let CallKind::Route { name, .. } = &call.kind
                            && let RouteName::Text(text) = &name.node
                        {
                            self.0.push((text.clone(), call.span));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    let mut conditions = Conditions(Vec::new());
    for route in table.routes() {
        walk_route(route, &mut conditions);
    }
    for (name, span) in conditions.0 {
        let target = table.find(RouteKind::Request, &name).and_then(|index| table.get(index));
        if target.is_some_and(ends_with_break) {
            let warning = Diagnostic::warning(
                "switch-code",
                span,
                format!("`route({name})` is false here when its last `switch` is left by `break`"),
            );
            diagnostics
                .push(warning.with_note("`break` has the code -5").with_suggestion("end the route with `return(1);`"));
        }
    }
}

fn ends_with_break(route: &Route) -> bool {
    let last = route.body.iter().rev().find(|statement| !matches!(statement.kind, StmtKind::Null));
    let Some(StmtKind::Switch { cases, .. }) = last.map(|statement| &statement.kind) else { return false };
    cases.iter().any(|case| case.body.iter().any(|statement| matches!(statement.kind, StmtKind::Break)))
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
        let name = plain_name(&compare.left);
        if is_number && name.is_some_and(|name| TEXT_ONLY.contains(&name)) {
            let warning = Diagnostic::warning(
                "text-and-number",
                compare.span,
                "a text is never equal to, smaller or greater than a number: this is always false",
            );
            let inner = compare.left.text.trim_start_matches('$');
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

/// The class of a variable in short form, without transformations.
fn plain_name(var: &Var) -> Option<&str> {
    let rest = var.text.strip_prefix('$')?;
    if rest.starts_with('(') {
        return None;
    }
    rest.split('(').next()
}

/// Names of AVPs, where they are set and where they are read.
#[derive(Default)]
struct AvpNames {
    set: HashSet<String>,
    read: HashMap<String, Span>,
}

impl AvpNames {
    /// Names of all `$avp(...)` and `$(avp(...)...)` in a text.
    fn names_in(text: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for at in memchr::memmem::find_iter(text, b"avp(") {
            let before = text.get(..at).unwrap_or(&[]);
            let inner = text.get(at + 4..).unwrap_or(&[]);
            let is_variable = before.ends_with(b"$") || before.ends_with(b"$(") || before.ends_with(b">");
            if let (true, Some(end)) = (is_variable, memchr::memchr(b')', inner)) {
                let name = String::from_utf8_lossy(inner.get(..end).unwrap_or(&[])).into_owned();
                if !name.contains('$') {
                    names.push(name);
                }
            }
        }
        names
    }

    fn mention(&mut self, text: &[u8]) {
        self.set.extend(Self::names_in(text));
    }

    fn reads(&mut self, text: &[u8], span: Span) {
        for name in Self::names_in(text) {
            self.read.entry(name).or_insert(span);
        }
    }

    /// An AVP that is only read, and close to one that is set.
    fn report(self, diagnostics: &mut Vec<Diagnostic>) {
        for (name, span) in &self.read {
            if self.set.contains(name) || name.len() < 4 {
                continue;
            }
            let set = self.set.iter().filter(|other| !self.read.contains_key(*other)).map(String::as_str);
            if let Some(meant) = nearest(name, set) {
                let warning = Diagnostic::warning(
                    "misspelt-avp",
                    *span,
                    format!("nothing sets `$avp({name})`, and nothing reads `$avp({meant})`"),
                );
                diagnostics.push(warning.with_nearest(Some(&format!("$avp({meant})"))));
            }
        }
    }
}

impl Visitor for AvpNames {
    fn call(&mut self, call: &Call) {
        if let CallKind::Xlog { format, .. } = &call.kind {
            self.reads(&format.node, format.span);
        }
    }

    fn function(&mut self, function: &Function, _is_async: bool) {
        for arg in &function.args {
            match &arg.kind {
                // An argument may be an output; whatever stands there counts as set, a text with more in it as read.
                ArgKind::Var(var) => self.mention(var.text.as_bytes()),
                ArgKind::Text(text) if text.starts_with(b"$") => self.mention(text),
                ArgKind::Text(text) => self.reads(text, arg.span),
                _ => {}
            }
        }
    }

    fn assign(&mut self, assign: &Assign) {
        let is_clear = matches!((&assign.value, assign.op), (Expr::Null, AssignOp::Set | AssignOp::Replace));
        if !is_clear {
            self.mention(assign.target.text.as_bytes());
        }
    }

    fn var(&mut self, var: &Var, is_target: bool) {
        if !is_target {
            self.reads(var.text.as_bytes(), var.span);
        }
    }

    fn each(&mut self, iterator: &Var, _list: &Var) {
        self.mention(iterator.text.as_bytes());
    }
}
