//! Routes of a script: double ones, which calls which, and whether functions stand in kinds of route that allow them.

use hashbrown::{HashMap, HashSet};

use crate::ast::{Item, Route, RouteKind, Script, Span};
use crate::diagnostic::Diagnostic;
use crate::surface::Surface;

/// The keyword of a kind.
pub(super) fn word(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Request => "route",
        RouteKind::Branch => "branch_route",
        RouteKind::Failure => "failure_route",
        RouteKind::OnReply => "onreply_route",
        RouteKind::Error => "error_route",
        RouteKind::Local => "local_route",
        RouteKind::Startup => "startup_route",
        RouteKind::Timer => "timer_route",
        RouteKind::Event => "event_route",
    }
}

/// `route[x]`, or the bare keyword.
pub(super) fn title(route: &Route) -> String {
    match &route.name {
        Some(name) => format!("{}[{}]", word(route.kind), name.node),
        None => word(route.kind).to_owned(),
    }
}

/// All routes, by kind and name.
pub(super) struct RouteTable<'a> {
    routes: Vec<&'a Route>,
    by_name: HashMap<(RouteKind, &'a str), usize>,
}

impl<'a> RouteTable<'a> {
    pub(super) fn new(script: &'a Script, diagnostics: &mut Vec<Diagnostic>) -> RouteTable<'a> {
        let mut table = RouteTable { routes: Vec::new(), by_name: HashMap::new() };
        for item in &script.items {
            let Item::Route(route) = item else { continue };
            let name = route.name.as_ref().map_or("", |name| name.node.as_str());
            let key = (route.kind, name);
            match table.by_name.get(&key).and_then(|index| table.routes.get(*index)) {
                Some(_) => {
                    let head = route.name.as_ref().map_or(head_span(route), |name| name.span);
                    diagnostics.push(Diagnostic::error(
                        "duplicate-route",
                        head,
                        format!("`{}` is defined twice", title(route)),
                    ));
                }
                None => {
                    table.by_name.insert(key, table.routes.len());
                }
            }
            table.routes.push(route);
        }
        table
    }

    pub(super) fn routes(&self) -> &[&'a Route] {
        &self.routes
    }

    pub(super) fn get(&self, index: usize) -> Option<&'a Route> {
        self.routes.get(index).copied()
    }

    /// The route of that kind and name; `0` is the main route.
    pub(super) fn find(&self, kind: RouteKind, name: &str) -> Option<usize> {
        let name = if kind == RouteKind::Request && name == "0" { "" } else { name };
        self.by_name.get(&(kind, name)).copied()
    }

    /// Another kind that has a route of that name.
    pub(super) fn other_kind(&self, kind: RouteKind, name: &str) -> Option<RouteKind> {
        let other = self
            .routes
            .iter()
            .find(|route| route.kind != kind && route.name.as_ref().is_some_and(|own| own.node == name));
        other.map(|route| route.kind)
    }

    pub(super) fn names(&self, kind: RouteKind) -> impl Iterator<Item = &'a str> {
        self.routes
            .iter()
            .filter(move |route| route.kind == kind)
            .filter_map(|route| route.name.as_ref().map(|name| name.node.as_str()))
    }
}

/// The head of a route, without its body.
pub(super) fn head_span(route: &Route) -> Span {
    let end = route.span.start + word(route.kind).len() as u32;
    Span { end: end.min(route.span.end), ..route.span }
}

/// What the routes use, as the walk found it.
#[derive(Default)]
pub(super) struct Reached {
    /// Per route: routes it calls, by the rules of its own kind.
    calls: HashMap<usize, Vec<usize>>,
    /// Routes that something names.
    used: HashSet<usize>,
    /// Per route: functions and where.
    functions: HashMap<usize, Vec<(String, Span)>>,
    /// Errors reported so far.
    pub(super) error_count: usize,
    /// Some route is called by a name that is known only at run time.
    pub(super) has_dynamic_calls: bool,
}

impl Reached {
    pub(super) fn add_use(&mut self, from: usize, to: usize, _span: Span, is_followed: bool) {
        self.used.insert(to);
        if is_followed {
            self.calls.entry(from).or_default().push(to);
        }
    }

    pub(super) fn add_function(&mut self, route: usize, name: &str, span: Span) {
        self.functions.entry(route).or_default().push((name.to_owned(), span));
    }

    pub(super) fn is_used(&self, route: usize) -> bool {
        self.used.contains(&route)
    }
}

/// Follows the calls from every top route and reports functions that its kind does not allow, once per place and kind.
pub(super) fn check_kinds(
    table: &RouteTable<'_>,
    reached: &Reached,
    surface: &Surface,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut seen: HashSet<(RouteKind, usize)> = HashSet::new();
    for (top, route) in table.routes().iter().enumerate() {
        if route.kind == RouteKind::Request && route.name.is_some() {
            continue;
        }
        // Where each route was reached from, to show the way.
        let mut from: HashMap<usize, usize> = HashMap::new();
        let mut queue = vec![top];
        while let Some(index) = queue.pop() {
            if !seen.insert((route.kind, index)) {
                continue;
            }
            for (name, span) in reached.functions.get(&index).into_iter().flatten() {
                if diagnostics.len() < super::FINDINGS_MAX + super::NOTES_MAX && !is_allowed(surface, name, route.kind)
                {
                    diagnostics.push(not_allowed(table, surface, name, *span, route.kind, index, &from));
                }
            }
            for next in reached.calls.get(&index).into_iter().flatten() {
                if !seen.contains(&(route.kind, *next)) {
                    from.entry(*next).or_insert(index);
                    queue.push(*next);
                }
            }
        }
    }
}

fn is_allowed(surface: &Surface, name: &str, kind: RouteKind) -> bool {
    let functions = surface.functions_named(name).iter().filter_map(|id| surface.function(*id));
    functions.into_iter().any(|(_, spec)| spec.routes.contains(kind))
}

fn not_allowed(
    table: &RouteTable<'_>,
    surface: &Surface,
    name: &str,
    span: Span,
    kind: RouteKind,
    index: usize,
    from: &HashMap<usize, usize>,
) -> Diagnostic {
    const KINDS: [RouteKind; 9] = [
        RouteKind::Request,
        RouteKind::Failure,
        RouteKind::OnReply,
        RouteKind::Branch,
        RouteKind::Error,
        RouteKind::Local,
        RouteKind::Startup,
        RouteKind::Timer,
        RouteKind::Event,
    ];
    let mut way = vec![index];
    while let Some(before) = way.last().and_then(|last| from.get(last)) {
        if way.contains(before) {
            break;
        }
        way.push(*before);
    }
    let steps: Vec<String> = way.iter().rev().filter_map(|index| table.get(*index)).map(title).collect();
    let allowed: Vec<&str> = KINDS.into_iter().filter(|kind| is_allowed(surface, name, *kind)).map(word).collect();
    let mut error = Diagnostic::error("route-kind", span, format!("`{name}` cannot be used in a `{}`", word(kind)));
    if steps.len() > 1 {
        error = error.with_note(format!("it is reached through {}", steps.join(" -> ")));
    }
    error.with_note(format!("it is allowed in {}", allowed.join(", ")))
}
