//! Event routes: the routes of a script as listeners of events.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_script::ast::{EventMode, RouteKind};
use tandem_script::value::Text;
use tandem_script::vm::StartOptions;

use crate::context::{Called, Context};
use crate::event::Event;
use crate::node::NodeRef;
use crate::run;

/// The events that have a route, with the ids of their listeners.
pub(crate) type Connected = Mutex<HashMap<&'static str, u64>>;

/// Connects every event that has a route in the program and disconnects those that have none any more; called at start
/// and after each reload. Events that no module declares come to life with `raise_event()`; their names are free.
pub fn connect(node: NodeRef) {
    let program = node.program();
    let wanted: Vec<&'static str> =
        program.event_routes().map(|(name, _, _)| node.events.declare_dynamic(name)).collect();
    let mut connected = node.event_routes.lock();
    connected.retain(|name, id| {
        let stays = wanted.contains(name);
        if !stays {
            node.events.unlisten(name, *id);
        }
        stays
    });
    for name in wanted {
        connected.entry(name).or_insert_with(|| node.events.listen(name, Arc::new(on_event)));
    }
}

/// Runs the route: in the raising run and in its program when it is `sync` there (2.4), else queued on a message of its
/// own, in the program of now.
fn on_event(node: NodeRef, event: &Arc<Event>, context: Option<&mut Context>) {
    let options = || {
        let mut options = StartOptions::new(RouteKind::Event);
        options.params = event.params.iter().map(|(name, value)| (Some(Text::from(*name)), value.clone())).collect();
        options
    };
    if let Some(context) = context
        && let Some((route, EventMode::Sync)) = context.program().event_route(event.name)
    {
        let called = run::nested(context, route, options(), |_, _| Called::Done(1));
        if matches!(called, Called::Pending(_)) {
            tracing::warn!(event = event.name, "a sync event route had to wait; the rest of it was dropped");
        }
        return;
    }
    let mut context = Context::dummy(node, RouteKind::Event);
    match context.program().event_route(event.name) {
        Some((route, _)) => run::queue(context, route, options(), Box::new(|context, _| context.recycle())),
        None => context.recycle(),
    }
}
