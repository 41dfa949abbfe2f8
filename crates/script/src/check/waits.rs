//! Calls that wait or that need a cluster: blocking ones in timer routes, `wait_for_event` whose time-out nobody looks at,
//! cluster functions without a node id.

use hashbrown::{HashMap, HashSet};

use super::effects;
use super::paths::is_code;
use super::routes::{RouteTable, title};
use super::visit::{Visitor, walk_route};
use crate::ast::{
    Arg, ArgKind, Call, CallKind, Compare, CompareRight, Function, Item, RouteKind, RouteName, Script, Span, Var,
};
use crate::diagnostic::Diagnostic;
use crate::surface::Surface;

/// What one route does, as far as it matters here.
#[derive(Default)]
struct Facts {
    calls: Vec<String>,
    has_dynamic_calls: bool,
    /// Functions called plainly.
    plain: Vec<(String, Span)>,
    cluster: Vec<(String, Span)>,
    waits: Vec<Wait>,
    /// It looks at `$rc`, or whether something is NULL.
    looks_at_code: bool,
}

struct Wait {
    span: Span,
    resume: String,
    has_limit: bool,
}

struct Collector<'a> {
    surface: &'a Surface,
    facts: Facts,
}

impl Visitor for Collector<'_> {
    fn call(&mut self, call: &Call) {
        match &call.kind {
            CallKind::Route { name: crate::ast::Spanned { node: RouteName::Text(name), .. }, args } => {
                self.facts.calls.push(name.clone());
                // The code is handed on.
                self.facts.looks_at_code |=
                    args.iter().any(|arg| matches!(&arg.kind, ArgKind::Var(var) if is_code(var)));
            }
            CallKind::Route { .. } => self.facts.has_dynamic_calls = true,
            CallKind::Async { function, resume, .. } if function.name.node == "wait_for_event" => {
                self.facts.waits.push(Wait {
                    span: function.span,
                    resume: resume.node.clone(),
                    has_limit: has_limit(function.args.get(2)),
                });
            }
            _ => {}
        }
    }

    fn function(&mut self, function: &Function, is_async: bool) {
        let name = function.name.node.as_str();
        let mut specs = self.surface.functions_named(name).iter().filter_map(|id| self.surface.function(*id));
        if name.starts_with("cluster_") || specs.any(|(module, _)| module == "clusterer") {
            self.facts.cluster.push((name.to_owned(), function.name.span));
        }
        if !is_async {
            self.facts.plain.push((name.to_owned(), function.span));
        }
    }

    fn var(&mut self, var: &Var, is_target: bool) {
        self.facts.looks_at_code |= !is_target && is_code(var);
    }

    fn compare(&mut self, compare: &Compare) {
        self.facts.looks_at_code |= matches!(compare.right, CompareRight::Null);
    }
}

fn has_limit(arg: Option<&Arg>) -> bool {
    match arg.map(|arg| &arg.kind) {
        None | Some(ArgKind::Missing) => false,
        Some(ArgKind::Int(seconds)) => *seconds > 0,
        Some(ArgKind::Text(text)) => text.as_slice() != b"0" && !text.is_empty(),
        Some(_) => true,
    }
}

pub(super) fn check(script: &Script, table: &RouteTable<'_>, surface: &Surface, diagnostics: &mut Vec<Diagnostic>) {
    let facts: Vec<Facts> = table
        .routes()
        .iter()
        .map(|route| {
            let mut collector = Collector { surface, facts: Facts::default() };
            walk_route(route, &mut collector);
            collector.facts
        })
        .collect();
    timers(table, &facts, surface, diagnostics);
    waits(table, &facts, diagnostics);
    cluster(script, &facts, diagnostics);
}

/// All routes that are called from `start`, itself included, each with the one it was reached from.
fn reached(table: &RouteTable<'_>, facts: &[Facts], start: usize) -> Vec<(usize, Option<usize>)> {
    let mut found = vec![(start, None)];
    let mut seen: HashSet<usize> = HashSet::from_iter([start]);
    let mut at = 0;
    while let Some((index, _)) = found.get(at).copied() {
        at += 1;
        for name in facts.get(index).map_or(&[] as &[String], |facts| facts.calls.as_slice()) {
            if let Some(next) = table.find(RouteKind::Request, name)
                && seen.insert(next)
            {
                found.push((next, Some(index)));
            }
        }
    }
    found
}

fn timers(table: &RouteTable<'_>, facts: &[Facts], surface: &Surface, diagnostics: &mut Vec<Diagnostic>) {
    let mut told: HashSet<Span> = HashSet::new();
    for (start, route) in table.routes().iter().enumerate() {
        if route.kind != RouteKind::Timer {
            continue;
        }
        let found = reached(table, facts, start);
        let from: HashMap<usize, Option<usize>> = found.iter().copied().collect();
        for (index, _) in &found {
            for (name, span) in facts.get(*index).map_or(&[] as &[_], |facts| facts.plain.as_slice()) {
                let mut specs = surface.functions_named(name).iter().filter_map(|id| surface.function(*id));
                let is_slow = effects::holds_up(name) || specs.any(|(_, spec)| spec.is_async);
                if !is_slow || !told.insert(*span) {
                    continue;
                }
                let text = format!("`{name}` may wait for another system, and the timer route waits with it");
                let mut warning = Diagnostic::warning("blocking-timer", *span, text);
                if *index != start {
                    let way = way_to(table, &from, *index);
                    warning = warning.with_note(format!("it is reached through {way}"));
                }
                diagnostics.push(
                    warning
                        .with_note("runs that come due meanwhile are late or left out")
                        .with_suggestion(format!("let it run beside the timer: `launch({name}(...));`")),
                );
            }
        }
    }
}

fn way_to(table: &RouteTable<'_>, from: &HashMap<usize, Option<usize>>, index: usize) -> String {
    let mut way = vec![index];
    while let Some(Some(before)) = way.last().and_then(|last| from.get(last)) {
        way.push(*before);
    }
    let names: Vec<String> = way.iter().rev().filter_map(|index| table.get(*index)).map(title).collect();
    names.join(" -> ")
}

fn waits(table: &RouteTable<'_>, facts: &[Facts], diagnostics: &mut Vec<Diagnostic>) {
    for wait in facts.iter().flat_map(|facts| &facts.waits) {
        if !wait.has_limit {
            let text = "this wait has no time-out: when the event never comes, the request is never answered";
            let warning = Diagnostic::warning("wait-without-timeout", wait.span, text);
            diagnostics.push(warning.with_suggestion("give the seconds to wait as the third argument"));
            continue;
        }
        let Some(resume) = table.find(RouteKind::Request, &wait.resume) else { continue };
        let is_looked_at = reached(table, facts, resume)
            .iter()
            .filter_map(|(index, _)| facts.get(*index))
            .any(|facts| facts.looks_at_code || facts.has_dynamic_calls);
        if !is_looked_at {
            let text = format!("`route[{}]` does not look whether the event came or the time was up", wait.resume);
            diagnostics.push(
                Diagnostic::warning("wait-without-timeout", wait.span, text)
                    .with_note(
                        "after the time-out the route runs with a negative `$rc` and without the AVPs of the event",
                    )
                    .with_suggestion("begin it with `if ($rc < 0) { t_reply(408, \"Request Timeout\"); exit; }`"),
            );
        }
    }
}

fn cluster(script: &Script, facts: &[Facts], diagnostics: &mut Vec<Diagnostic>) {
    let has_module =
        script.items.iter().any(|item| matches!(item, Item::LoadModule(path) if path.node.contains("clusterer")));
    let has_id = script.items.iter().any(|item| match item {
        Item::Modparam(param) => matches!(param.name.node.as_str(), "my_node_id" | "current_id"),
        _ => false,
    });
    if has_id || !has_module {
        // Without the module the function itself is missing.
        return;
    }
    if let Some((name, span)) = facts.iter().flat_map(|facts| &facts.cluster).next() {
        let text = format!("`{name}` needs a cluster, and this node has no number in one");
        diagnostics.push(
            Diagnostic::warning("cluster-unconfigured", *span, text)
                .with_suggestion("set `modparam(\"clusterer\", \"my_node_id\", 1)` (2.4: `current_id`)"),
        );
    }
}
