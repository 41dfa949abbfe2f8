//! Routes that no message starts: startup, timer and event routes; and replies without a stateful layer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_module::context::Context;
use tandem_module::declare::SetupError;
use tandem_module::event::Event;
use tandem_module::node::NodeRef;
use tandem_module::run::{self, End};
use tandem_module::worker::WorkerId;
use tandem_script::ast::{EventMode, RouteKind};
use tandem_script::value::Text;
use tandem_script::vm::{RouteId, StartOptions};

/// Connects every event that has a route in the program, and checks that the events exist.
///
/// # Errors
/// An event route for an event that no loaded module raises.
pub(crate) fn connect_events(node: NodeRef) -> Result<(), SetupError> {
    for (name, _, _) in node.program().event_routes() {
        if node.events.name(name.as_bytes()).is_none() {
            // Events of raise_event() come to life when they are raised first; their names are free.
            node.events.declare_dynamic(name);
        }
    }
    for name in node.events.names() {
        listen(node, name);
    }
    Ok(())
}

/// Listens for one event on behalf of event routes; which route that is, is asked anew each time (reload).
fn listen(node: NodeRef, name: &'static str) {
    let has_route = node.program().event_routes().any(|(event, _, _)| event == name);
    if !has_route {
        return;
    }
    node.events.listen(name, Arc::new(on_event));
}

fn on_event(node: NodeRef, event: &Arc<Event>, context: Option<&mut Context>) {
    let program = node.program();
    let Some((_, route, mode)) = program.event_routes().find(|(name, _, _)| *name == event.name) else { return };
    let mut options = StartOptions::new(RouteKind::Event);
    options.params = event.params.iter().map(|(name, value)| (Some(Text::from(*name)), value.clone())).collect();
    match (mode, context) {
        (EventMode::Sync, Some(context)) => {
            let kind = context.kind;
            let called = run::nested(context, route, options, |_, _| tandem_module::Called::Done(1));
            if matches!(called, tandem_module::Called::Pending(_)) {
                tracing::warn!(event = event.name, "a sync event route had to wait; the rest of it was dropped");
            }
            context.kind = kind;
        }
        _ => run::queue(Context::dummy(node, RouteKind::Event), route, options, Box::new(recycle)),
    }
}

fn recycle(context: Box<Context>, _: End) {
    context.recycle();
}

/// Runs `startup_route` on worker 0, before anything else it does.
pub(crate) fn run_startup(node: NodeRef) {
    let Some(route) = node.program().startup() else { return };
    run::start(
        Context::dummy(node, RouteKind::Startup),
        route,
        StartOptions::new(RouteKind::Startup),
        Box::new(recycle),
    );
}

/// Starts the timer routes, spread over the workers. They follow a reload: a route is found by its name at each tick.
pub(crate) fn start_timers(node: NodeRef) {
    let Some(workers) = node.workers() else { return };
    let program = node.program();
    for (at, timer) in program.timers().enumerate() {
        let worker = WorkerId((at % usize::from(workers.count().max(1))) as u16);
        let span = Duration::from_secs(u64::from(timer.interval_secs));
        let name = program.route_info(timer.route).and_then(|info| info.name.clone()).unwrap_or_default();
        tick(node, worker, name, span, Instant::now() + span);
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
