//! Routes that no message starts: startup and timer routes.

use std::time::{Duration, Instant};

use tandem_module::context::Context;
use tandem_module::node::NodeRef;
use tandem_module::run::{self, End};
use tandem_module::worker::WorkerId;
use tandem_script::ast::RouteKind;
use tandem_script::vm::{RouteId, StartOptions};

fn recycle(context: Box<Context>, _: End) {
    context.recycle();
}

/// Runs `startup_route` on worker 0, before anything else it does.
pub fn run_startup(node: NodeRef) {
    let Some(route) = node.program().startup() else { return };
    run::start(
        Context::dummy(node, RouteKind::Startup),
        route,
        StartOptions::new(RouteKind::Startup),
        Box::new(recycle),
    );
}

/// Starts the timer routes, spread over the workers. They follow a reload: a route is found by its name at each tick.
pub fn start_timers(node: NodeRef) {
    let Some(workers) = node.workers() else { return };
    let program = node.program();
    for (at, timer) in program.timers().enumerate() {
        let worker = WorkerId((at % usize::from(workers.count().max(1))) as u16);
        let span = Duration::from_secs(u64::from(timer.interval_secs));
        let name = program.route_info(timer.route).and_then(|info| info.name.clone()).unwrap_or_default();
        tick(node, worker, name, span, tandem_module::clock::now() + span);
    }
}

fn tick(node: NodeRef, worker: WorkerId, name: Box<str>, span: Duration, at: Instant) {
    let Some(workers) = node.workers() else { return };
    let task = move |now: Instant| {
        if let Some(route) = node.program().route(RouteKind::Timer, &name) {
            run_timer(node, route);
        }
        // Missed ticks are not made up for.
        tick(node, worker, name, span, (at + span).max(now));
    };
    workers.after(worker, at, Box::new(task));
}

fn run_timer(node: NodeRef, route: RouteId) {
    run::start(Context::dummy(node, RouteKind::Timer), route, StartOptions::new(RouteKind::Timer), Box::new(recycle));
}
