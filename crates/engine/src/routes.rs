//! Routes that no message starts: startup and timer routes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tandem_module::node::NodeRef;
use tandem_module::run;
use tandem_module::worker::WorkerId;
use tandem_script::ast::RouteKind;
use tandem_script::program::Program;

/// Timer routes have whole seconds; so often it is looked which are due.
const TICK: Duration = Duration::from_secs(1);

/// Runs `startup_route` on worker 0, before anything else it does. A reload does not run it again.
pub fn run_startup(node: NodeRef) {
    run::start_alone(node, RouteKind::Startup, Program::startup);
}

/// Starts the timer routes of a node that is never reloaded (scripts under test).
pub fn start_timers(node: NodeRef) {
    TimerRoutes::start(node);
}

/// When each timer route runs next. One timer serves them all, so that reloads leave nothing behind.
#[derive(Default)]
pub(crate) struct TimerRoutes {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: Box<str>,
    span: Duration,
    next: Instant,
}

impl TimerRoutes {
    /// Starts with the routes of the running program.
    pub(crate) fn start(node: NodeRef) -> Arc<TimerRoutes> {
        let timers = Arc::new(TimerRoutes::default());
        timers.follow(&node.program());
        tick(node, timers.clone(), tandem_module::clock::now() + TICK);
        timers
    }

    /// From now on the routes of `program`: known ones with the same interval keep their rhythm.
    pub(crate) fn follow(&self, program: &Program) {
        self.follow_at(program, tandem_module::clock::now());
    }

    fn follow_at(&self, program: &Program, now: Instant) {
        let mut entries = self.entries.lock();
        let entry = |timer: tandem_script::program::TimerRoute| {
            let name = program.route_info(timer.route).and_then(|info| info.name.clone()).unwrap_or_default();
            let span = Duration::from_secs(u64::from(timer.interval_secs));
            let known = entries.iter().find(|entry| entry.name == name && entry.span == span);
            known.cloned().unwrap_or(Entry { name, span, next: now + span })
        };
        let newer: Vec<Entry> = program.timers().map(entry).collect();
        *entries = newer;
    }

    /// Names of the routes that are due, with their places in the list.
    fn due(&self, now: Instant) -> Vec<(usize, Box<str>)> {
        let mut due = Vec::new();
        for (at, entry) in self.entries.lock().iter_mut().enumerate().filter(|(_, entry)| entry.next <= now) {
            due.push((at, entry.name.clone()));
            // Missed ticks are not made up for.
            let next = entry.next + entry.span;
            entry.next = if next > now { next } else { now + entry.span };
        }
        due
    }
}

fn tick(node: NodeRef, timers: Arc<TimerRoutes>, at: Instant) {
    let Some(workers) = node.workers() else { return };
    let task = move |now: Instant| {
        for (at, name) in timers.due(now) {
            run_timer(node, at, name);
        }
        tick(node, timers, (at + TICK).max(now));
    };
    workers.after(WorkerId(0), at, Box::new(task));
}

/// Runs a timer route; they are spread over the workers.
fn run_timer(node: NodeRef, at: usize, name: Box<str>) {
    let Some(workers) = node.workers() else { return };
    let worker = WorkerId((at % usize::from(workers.count().max(1))) as u16);
    let run = move |_: Instant| {
        run::start_alone(node, RouteKind::Timer, |program| program.route(RouteKind::Timer, &name));
    };
    workers.post(worker, Box::new(run));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_script::source::SourceMap;
    use tandem_script::surface::Surface;

    fn program(text: &str) -> Program {
        let sources = SourceMap::from_text("test.cfg", text);
        let (script, _) = tandem_script::parser::parse(&sources);
        let dialect = tandem_script::ast::Dialect::V4_0;
        let (program, found) = tandem_script::compile::compile(&script, dialect, &Surface::default(), &sources);
        program.unwrap_or_else(|| panic!("{found:?}"))
    }

    #[test]
    fn a_reload_keeps_the_rhythm_of_unchanged_routes_and_starts_changed_ones_anew() {
        let start = Instant::now();
        let secs = |count| start + Duration::from_secs(count);
        let timers = TimerRoutes::default();
        timers.follow_at(&program("timer_route[a, 10] { exit; } timer_route[b, 10] { exit; }"), start);
        assert!(timers.due(secs(9)).is_empty());
        timers.follow_at(
            &program("timer_route[a, 10] { exit; } timer_route[b, 2] { exit; } timer_route[c, 3] { exit; }"),
            secs(9),
        );
        let names = |now| timers.due(now).into_iter().map(|(_, name)| name.into_string()).collect::<Vec<_>>();
        assert_eq!(names(secs(10)), ["a"]);
        assert_eq!(names(secs(11)), ["b"]);
        assert_eq!(names(secs(12)), ["c"]);
        timers.follow_at(&program("timer_route[c, 3] { exit; }"), secs(13));
        assert_eq!(names(secs(30)), ["c"], "removed routes run no more, and missed ticks are not made up for");
        assert!(names(secs(30)).is_empty());
    }
}
