//! Event routes: the routes of a script as listeners of events.

use std::sync::Arc;

use tandem_script::ast::{EventMode, RouteKind};
use tandem_script::value::Text;
use tandem_script::vm::StartOptions;

use crate::context::{Called, Context};
use crate::event::Event;
use crate::node::NodeRef;
use crate::run;

/// Connects every event that has a route in the program. Events that no module declares come to life with
/// `raise_event()`; their names are free.
pub fn connect(node: NodeRef) {
    let names: Vec<String> = node.program().event_routes().map(|(name, _, _)| name.to_owned()).collect();
    for name in names {
        let name = node.events.declare_dynamic(&name);
        node.events.listen(name, Arc::new(on_event));
    }
}

/// Runs the route, which is asked for anew each time, so that a reload is followed: in the raising run when it is `sync`
/// and there is one (2.4), else queued on a message of its own.
fn on_event(node: NodeRef, event: &Arc<Event>, context: Option<&mut Context>) {
    let Some((route, mode)) = node.program().event_route(event.name) else { return };
    let mut options = StartOptions::new(RouteKind::Event);
    options.params = event.params.iter().map(|(name, value)| (Some(Text::from(*name)), value.clone())).collect();
    match (mode, context) {
        (EventMode::Sync, Some(context)) => {
            let called = run::nested(context, route, options, |_, _| Called::Done(1));
            if matches!(called, Called::Pending(_)) {
                tracing::warn!(event = event.name, "a sync event route had to wait; the rest of it was dropped");
            }
        }
        _ => {
            let context = Context::dummy(node, RouteKind::Event);
            run::queue(context, route, options, Box::new(|context, _| context.recycle()));
        }
    }
}
