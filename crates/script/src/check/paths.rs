//! Follows a request through the main route and all routes called from there: does every path answer, relay or drop it, and
//! what happens when a relay fails. Conditions are not compared with each other; a path is any way through the statements.

use hashbrown::{HashMap, HashSet};

use super::effects::{self, Effect};
use super::methods::Methods;
use super::routes::{RouteTable, title};
use crate::ast::{
    Arg, ArgKind, Call, CallKind, Case, Compare, CompareOp, CompareRight, Cond, Constant, Expr, Function, If, Route,
    RouteKind, RouteName, Span, Stmt, StmtKind, Var,
};
use crate::diagnostic::Diagnostic;
use crate::surface::Surface;

/// Statements, conditions and routes inside each other that are followed; deeper ones count as handled.
const DEPTH_MAX: usize = 300;

/// Statements that are followed in all; when a script has more ways than that, the rest counts as handled.
const STEPS_MAX: usize = 200_000;

/// All ways that lead to a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Methods of requests that are not handled so far.
    open: Methods,
    /// The same where there is a transaction, so that nobody answers by himself.
    open_tx: Methods,
    /// Something comes here that is answered, relayed, dropped, or in no need of an answer.
    is_done: bool,
    /// A relay of a calling route has failed.
    is_failed: bool,
    /// Relays whose failure nobody has dealt with, and whether there was a transaction before.
    relays: Vec<(Span, bool)>,
}

impl State {
    fn done() -> State {
        State { is_done: true, ..State::default() }
    }

    fn is_dead(&self) -> bool {
        *self == State::default()
    }

    fn is_open(&self) -> bool {
        !self.open.or(self.open_tx).is_empty()
    }

    fn join(&mut self, other: State) {
        self.open = self.open.or(other.open);
        self.open_tx = self.open_tx.or(other.open_tx);
        self.is_done |= other.is_done;
        self.is_failed |= other.is_failed;
        for relay in other.relays {
            if !self.relays.contains(&relay) {
                self.relays.push(relay);
            }
        }
    }

    fn handled(&self) -> State {
        State { is_done: !self.is_dead(), ..State::default() }
    }

    /// Only requests with these methods; of what is handled the methods are not known.
    fn only(&self, methods: Methods) -> State {
        State { open: self.open.and(methods), open_tx: self.open_tx.and(methods), ..self.clone() }
    }

    /// The script looks at the outcome of the last call.
    fn looked_at(mut self) -> State {
        if !self.relays.is_empty() || self.is_failed {
            self.relays.clear();
            self.is_failed = false;
            self.is_done = true;
        }
        self
    }

    fn with_transaction(mut self) -> State {
        self.open_tx = self.open_tx.or(self.open);
        self.open = Methods::default();
        self
    }
}

/// Where a call or condition leads: when true, when false.
#[derive(Clone, Default)]
struct Outcome {
    yes: State,
    no: State,
}

impl Outcome {
    fn both(state: State) -> Outcome {
        Outcome { no: state.clone(), yes: state }
    }

    fn joined(self) -> State {
        let mut state = self.yes;
        state.join(self.no);
        state
    }

    fn swapped(self) -> Outcome {
        Outcome { yes: self.no, no: self.yes }
    }
}

/// What a route does with a request that enters it in one state.
#[derive(Clone, Default)]
struct Summary {
    returns: Outcome,
    /// It may end the script while a relay of the caller has failed.
    ends_failed: bool,
}

pub(super) fn check(table: &RouteTable<'_>, surface: &Surface, diagnostics: &mut Vec<Diagnostic>) {
    let Some(main) = table.find(RouteKind::Request, "") else { return };
    let mut paths = Paths {
        table,
        surface,
        diagnostics,
        known: HashMap::new(),
        active: Vec::new(),
        frames: Vec::new(),
        breaks: Vec::new(),
        reported: HashSet::new(),
        depth: 0,
        steps: 0,
    };
    // Nobody answers an ACK, and a CANCEL is answered by the transaction it belongs to.
    let start = State { open: Methods::ANSWERED, is_done: true, ..State::default() };
    let summary = paths.summary(main, start);
    if let Some(route) = table.get(main) {
        let end = Span { start: route.span.end.saturating_sub(1), ..route.span };
        paths.active.push(main);
        paths.end(&summary.returns.joined(), end);
    }
}

struct Frame {
    returns: Outcome,
    ends_failed: bool,
}

struct Paths<'a> {
    table: &'a RouteTable<'a>,
    surface: &'a Surface,
    diagnostics: &'a mut Vec<Diagnostic>,
    /// By route, and by what is open, open with a transaction, done, failed when it is entered.
    known: HashMap<(usize, Methods, Methods, bool, bool), Summary>,
    /// Routes being followed, outermost first.
    active: Vec<usize>,
    frames: Vec<Frame>,
    /// What leaves the open loops and switches by `break`.
    breaks: Vec<State>,
    reported: HashSet<Span>,
    depth: usize,
    steps: usize,
}

impl Paths<'_> {
    /// The script ends here.
    fn end(&mut self, state: &State, span: Span) {
        if state.is_failed
            && let Some(frame) = self.frames.last_mut()
        {
            frame.ends_failed = true;
        }
        for (relay, has_transaction) in state.relays.clone() {
            self.report_relay(relay, has_transaction);
        }
        if state.is_open() && self.reported.insert(span) {
            let text = "a request that comes here is neither answered nor relayed nor dropped";
            let mut warning = Diagnostic::warning("unanswered-request", span, text);
            let way: Vec<String> = self.active.iter().filter_map(|index| self.table.get(*index)).map(title).collect();
            if way.len() > 1 {
                warning = warning.with_note(format!("on the way {}", way.join(" -> ")));
            }
            let methods = state.open.or(state.open_tx);
            if let Some(names) = methods.names() {
                warning = warning.with_note(format!("a request with the method {names}"));
            }
            self.diagnostics.push(
                warning
                    .with_note("its sender repeats it until it gives up, 32 seconds later")
                    .with_suggestion("answer it with `send_reply(...)`, or write `drop;` when silence is meant"),
            );
        }
    }

    fn report_relay(&mut self, span: Span, has_transaction: bool) {
        if !self.reported.insert(span) {
            return;
        }
        let note = if has_transaction {
            "there is a transaction already, so no answer is sent by itself: the caller hears nothing"
        } else {
            "the caller gets a general answer at most (477, 478 or 500), and the script goes on as if it had worked"
        };
        self.diagnostics.push(
            Diagnostic::warning("relay-unchecked", span, "nothing is done when this relay fails")
                .with_note(note)
                .with_suggestion("write `if (!t_relay()) send_reply(500, \"Internal Error\");`"),
        );
    }

    fn summary(&mut self, route: usize, entry: State) -> Summary {
        let key = (route, entry.open, entry.open_tx, entry.is_done, entry.is_failed);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let Some(body) = self.table.get(route) else { return Summary::default() };
        if self.active.contains(&route) || self.depth >= DEPTH_MAX {
            return Summary { returns: Outcome::both(State::done()), ends_failed: false };
        }
        self.active.push(route);
        self.frames.push(Frame { returns: Outcome::default(), ends_failed: false });
        let breaks = std::mem::take(&mut self.breaks);
        let last = self.route_body(body, entry);
        self.breaks = breaks;
        self.active.pop();
        let frame = self.frames.pop();
        let mut summary = Summary::default();
        if let Some(frame) = frame {
            summary = Summary { returns: frame.returns, ends_failed: frame.ends_failed };
            summary.returns.yes.join(last.yes);
            summary.returns.no.join(last.no);
        }
        self.known.insert(key, summary.clone());
        summary
    }

    /// The outcome of a last call is the outcome of the route.
    fn route_body(&mut self, route: &Route, state: State) -> Outcome {
        let body: &[Stmt] = &route.body;
        let end = body.iter().rposition(|stmt| !matches!(stmt.kind, StmtKind::Null));
        match end.and_then(|at| body.get(..at).zip(body.get(at))) {
            Some((first, Stmt { kind: StmtKind::Call(call), .. })) => {
                let state = self.statements(first, state);
                self.call(call, state)
            }
            _ => Outcome::both(self.statements(body, state)),
        }
    }

    fn statements(&mut self, statements: &[Stmt], mut state: State) -> State {
        if self.depth >= DEPTH_MAX || self.steps >= STEPS_MAX {
            return state.handled();
        }
        self.depth += 1;
        for statement in statements {
            self.steps += 1;
            if state.is_dead() {
                break;
            }
            state = self.statement(statement, state);
        }
        self.depth -= 1;
        state
    }

    fn statement(&mut self, statement: &Stmt, state: State) -> State {
        match &statement.kind {
            StmtKind::Null => state,
            StmtKind::Block(block) => self.statements(block, state),
            StmtKind::Call(call) => self.call(call, state).joined(),
            StmtKind::Assign(assign) => self.expr(&assign.value, state).joined(),
            StmtKind::If(first) => self.if_chain(first, state),
            StmtKind::While { cond, body } => {
                let Outcome { yes, no } = self.cond(cond, state);
                self.breaks.push(State::default());
                let round = self.statements(body, yes);
                let mut out = self.breaks.pop().unwrap_or_default();
                out.join(no);
                out.join(round);
                out
            }
            StmtKind::For { body, .. } => {
                self.breaks.push(State::default());
                let round = self.statements(body, state.clone());
                let mut out = self.breaks.pop().unwrap_or_default();
                out.join(state);
                out.join(round);
                out
            }
            StmtKind::Switch { selector, cases } => self.switch(selector, cases, state),
            StmtKind::Break => {
                if let Some(breaks) = self.breaks.last_mut() {
                    breaks.join(state);
                }
                State::default()
            }
        }
    }

    fn if_chain(&mut self, first: &If, state: State) -> State {
        let mut out = State::default();
        let mut current = first;
        let mut state = state;
        loop {
            let Outcome { yes, no } = self.cond(&current.cond, state);
            let then = self.statements(&current.then, yes);
            out.join(then);
            let Some(otherwise) = &current.otherwise else {
                out.join(no);
                return out;
            };
            match otherwise.as_slice() {
                [Stmt { kind: StmtKind::If(next), .. }] => {
                    current = next;
                    state = no;
                }
                _ => {
                    let last = self.statements(otherwise, no);
                    out.join(last);
                    return out;
                }
            }
        }
    }

    fn switch(&mut self, selector: &Var, cases: &[Case], state: State) -> State {
        let state = if is_code(selector) { state.looked_at() } else { state };
        let is_method = selector.text == "$rm";
        self.breaks.push(State::default());
        let mut running = State::default();
        let mut rest = state;
        let mut has_default = false;
        for case in cases {
            let label = case.label.as_ref().map(|label| &label.node);
            has_default |= label.is_none();
            let entry = match label {
                Some(Constant::Text(text)) if is_method => {
                    let methods = Methods::listed(text).unwrap_or_default();
                    let entry = rest.only(methods);
                    rest = rest.only(methods.not());
                    entry
                }
                _ => rest.clone(),
            };
            running.join(entry);
            running = self.statements(&case.body, running);
        }
        let mut out = self.breaks.pop().unwrap_or_default();
        out.join(running);
        if !has_default {
            out.join(rest);
        }
        out
    }

    fn cond(&mut self, cond: &Cond, state: State) -> Outcome {
        if self.depth >= DEPTH_MAX || state.is_dead() {
            return Outcome::both(state.handled());
        }
        self.depth += 1;
        let outcome = self.cond_inside(cond, state);
        self.depth -= 1;
        outcome
    }

    fn cond_inside(&mut self, cond: &Cond, state: State) -> Outcome {
        match cond {
            Cond::And(left, right) => {
                let Outcome { yes, mut no } = self.cond(left, state);
                let right = self.cond(right, yes);
                no.join(right.no);
                Outcome { yes: right.yes, no }
            }
            Cond::Or(left, right) => {
                let Outcome { mut yes, no } = self.cond(left, state);
                let right = self.cond(right, no);
                yes.join(right.yes);
                Outcome { yes, no: right.no }
            }
            Cond::Not(inner) => self.cond(inner, state).swapped(),
            Cond::Group(inner) => self.cond(inner, state),
            Cond::Bracket(expr) => self.expr(expr, state),
            Cond::Compare(compare) => compare_outcome(compare, state),
            Cond::Call(call) => self.call(call, state),
            Cond::If(first, _) => Outcome::both(self.if_chain(first, state)),
            Cond::Assign(assign) => Outcome::both(self.expr(&assign.value, state).joined()),
            Cond::Block(block, _) => Outcome::both(self.statements(block, state)),
            Cond::Int(0) => Outcome { yes: State::default(), no: state },
            Cond::Int(_) => Outcome { yes: state, no: State::default() },
            Cond::Var(var) if is_code(var) => Outcome::both(state.looked_at()),
            Cond::Var(_) => Outcome::both(state),
        }
    }

    fn expr(&mut self, expr: &Expr, state: State) -> Outcome {
        if self.depth >= DEPTH_MAX {
            return Outcome::both(state.handled());
        }
        self.depth += 1;
        let outcome = match expr {
            Expr::Int(_) | Expr::Text(_) | Expr::Null => Outcome::both(state),
            Expr::Var(var) if is_code(var) => Outcome::both(state.looked_at()),
            Expr::Var(_) => Outcome::both(state),
            Expr::Compare(compare) => compare_outcome(compare, state),
            // The code is kept, so somebody looks at it.
            Expr::Call(call) => Outcome::both(self.call(call, state).joined().looked_at()),
            Expr::Group(inner) | Expr::BitNot(inner) => self.expr(inner, state),
            Expr::Binary(_, left, right) => {
                let state = self.expr(left, state).joined();
                self.expr(right, state)
            }
        };
        self.depth -= 1;
        outcome
    }

    fn call(&mut self, call: &Call, state: State) -> Outcome {
        match &call.kind {
            CallKind::Exit => {
                self.end(&state, call.span);
                Outcome::default()
            }
            CallKind::Drop => Outcome::default(),
            CallKind::Return { code, .. } => self.return_from(code.as_ref(), state, call.span),
            CallKind::Assert { .. } | CallKind::Log { .. } | CallKind::Xlog { .. } | CallKind::Launch { .. } => {
                Outcome::both(state)
            }
            CallKind::Route { name, .. } => match &name.node {
                RouteName::Text(text) if !text.contains('$') => match self.table.find(RouteKind::Request, text) {
                    Some(route) => self.enter(route, state),
                    None => Outcome::both(state.handled()),
                },
                // Known only at run time.
                _ => Outcome::both(state.handled()),
            },
            CallKind::Async { function, resume, .. } => {
                let state = self.function(function, state, call.span).joined().with_transaction();
                if let Some(route) = self.table.find(RouteKind::Request, &resume.node) {
                    let last = self.enter(route, state).joined();
                    let end = self
                        .table
                        .get(route)
                        .map_or(call.span, |route| Span { start: route.span.end.saturating_sub(1), ..route.span });
                    self.active.push(route);
                    self.end(&last, end);
                    self.active.pop();
                }
                Outcome::default()
            }
            CallKind::Function(function) => self.function(function, state, call.span),
        }
    }

    fn return_from(&mut self, code: Option<&Arg>, state: State, span: Span) -> Outcome {
        let kind = code.map_or(&ArgKind::Int(1), |code| &code.kind);
        if let ArgKind::Int(0) = kind {
            self.end(&state, span);
            return Outcome::default();
        }
        if self.frames.len() == 1 {
            // Nothing comes behind the main route.
            self.end(&state, span);
            return Outcome::default();
        }
        let is_code = matches!(kind, ArgKind::Var(var) if is_code(var));
        let state = if is_code { state.looked_at() } else { state };
        if let Some(frame) = self.frames.last_mut() {
            match kind {
                ArgKind::Int(code) if *code > 0 => frame.returns.yes.join(state),
                ArgKind::Missing => frame.returns.yes.join(state),
                ArgKind::Int(_) => frame.returns.no.join(state),
                _ => {
                    frame.returns.yes.join(state.clone());
                    frame.returns.no.join(state);
                }
            }
        }
        Outcome::default()
    }

    /// A called route.
    fn enter(&mut self, route: usize, state: State) -> Outcome {
        if state.is_dead() {
            return Outcome::default();
        }
        let was_failed = state.is_failed;
        let entry = State { is_failed: was_failed || !state.relays.is_empty(), relays: Vec::new(), ..state.clone() };
        let Summary { mut returns, ends_failed } = self.summary(route, entry);
        if ends_failed {
            for (relay, has_transaction) in &state.relays {
                self.report_relay(*relay, *has_transaction);
            }
            if let (true, Some(frame)) = (was_failed, self.frames.last_mut()) {
                frame.ends_failed = true;
            }
        }
        for side in [&mut returns.yes, &mut returns.no] {
            if side.is_failed {
                side.is_failed = was_failed;
                side.join(State { relays: state.relays.clone(), ..State::default() });
            }
        }
        returns
    }

    fn function(&mut self, function: &Function, state: State, span: Span) -> Outcome {
        let name = function.name.node.as_str();
        if state.is_dead() {
            return Outcome::default();
        }
        match effects::of(name) {
            Effect::Handled => Outcome::both(state.handled()),
            Effect::Relayed => {
                let mut no = State { is_done: state.is_done, ..State::default() };
                if state.is_open() || state.is_failed || !state.relays.is_empty() {
                    no.relays.push((span, !state.open_tx.is_empty() || answers_not(function)));
                }
                Outcome { yes: state.handled(), no }
            }
            Effect::Transaction => Outcome { yes: state.clone().with_transaction(), no: state },
            Effect::Matched => Outcome { yes: state.handled(), no: state },
            Effect::Method => match function.args.first() {
                Some(Arg { kind: ArgKind::Text(methods), .. }) => by_method(&state, methods),
                _ => Outcome::both(state),
            },
            Effect::None => {
                let is_known =
                    !self.surface.functions_named(name).is_empty() || self.surface.missing_function(name).is_some();
                Outcome::both(if is_known { state } else { state.handled() })
            }
        }
    }
}

/// Whether the flags of a `t_relay` say that it answers nothing itself.
fn answers_not(function: &Function) -> bool {
    match function.args.first().map(|arg| &arg.kind) {
        Some(ArgKind::Text(text)) => memchr::memmem::find(text, b"no-auto-477").is_some() || text.as_slice() == b"0x02",
        Some(ArgKind::Int(bits)) => bits & 2 != 0,
        _ => function.name.node == "forward",
    }
}

/// Whether a variable is the return code.
pub(super) fn is_code(var: &Var) -> bool {
    ["$rc", "$retcode", "$(rc", "$(retcode"].iter().any(|begin| var.text.starts_with(begin))
}

fn compare_outcome(compare: &Compare, state: State) -> Outcome {
    let is_right_code = matches!(&compare.right, CompareRight::Var(var) if is_code(var));
    if is_code(&compare.left) || is_right_code {
        return Outcome::both(state.looked_at());
    }
    match &compare.right {
        CompareRight::Text(text) if compare.left.text == "$rm" => match compare.op {
            CompareOp::Eq | CompareOp::Match => by_method(&state, &text.node),
            CompareOp::Ne | CompareOp::NotMatch => by_method(&state, &text.node).swapped(),
            _ => Outcome::both(state),
        },
        _ => Outcome::both(state),
    }
}

/// A test of the method.
fn by_method(state: &State, list: &[u8]) -> Outcome {
    match Methods::listed(list) {
        Some(methods) => Outcome { yes: state.only(methods), no: state.only(methods.not()) },
        None => Outcome::both(state.clone()),
    }
}
