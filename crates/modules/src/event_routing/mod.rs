//! Module `event_routing`: waiting for an event in a script, without holding anything but the parked script.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tandem_module::declare::{Function, arg_int, arg_text, arg_var};
use tandem_module::event::{Event, EventFilter};
use tandem_module::run::{self, Pending, Wake};
use tandem_module::{Called, Context, ModuleDecl, NodeRef};
use tandem_script::ast::RouteKind;
use tandem_script::avp::AvpName;
use tandem_script::surface::{ArgType, FunctionSpec, Routes, arg, opt};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel, StartOptions};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "event_routing",
    doc: "waiting for events in a script",
    functions: FUNCTIONS,
    ..ModuleDecl::EMPTY
};

/// Code of a wait that ran out of time. OpenSIPS gives it to the blocking form only; here `async()` gets it as well, so
/// that a resume route can tell a time-out from an answer.
pub const TIMED_OUT: i32 = -2;

const FUNCTIONS: &[Function] = &[
    Function {
        spec: FunctionSpec {
            name: "wait_for_event",
            args: &[arg("event", ArgType::Text), arg("filter", ArgType::Var), arg("timeout", ArgType::Int)],
            routes: Routes::ANY,
            is_async: true,
            doc: "waits for an event that fits the filter; its parameters become AVPs; 1 event, -2 time-out, -1 error",
        },
        call: wait_for_event,
    },
    Function {
        spec: FunctionSpec {
            name: "notify_on_event",
            args: &[
                arg("event", ArgType::Text),
                arg("filter", ArgType::Var),
                arg("route", ArgType::Route(RouteKind::Request)),
                arg("timeout", ArgType::Int),
                opt("with_transaction", ArgType::Int),
            ],
            routes: Routes::REQUEST,
            is_async: false,
            doc: "runs a route for each event that fits, until the time is over",
        },
        call: notify_on_event,
    },
];

/// Reads the filters, one `key=value` per value of the AVP. `None` when one of them is malformed.
fn filter_of(context: &mut Context, args: &[Arg]) -> Option<EventFilter> {
    let mut filter = EventFilter::default();
    let var = arg_var(args, 1)?;
    let values: Vec<Text> = match var.avp_name() {
        Some(name) => context.avps.values(name).filter_map(Value::as_text).collect(),
        None => context.read_var(var).as_text().into_iter().collect(),
    };
    for value in values {
        let split = value.iter().position(|byte| *byte == b'=')?;
        let (key, wanted) = value.split_at(split);
        filter.add(key.trim_ascii(), wanted.get(1..).unwrap_or_default());
    }
    Some(filter)
}

/// Makes the parameters AVPs named after them.
fn expose(context: &mut Context, event: &Event) {
    for (name, value) in &event.params {
        if let Some(avp) = AvpName::intern(name.as_bytes()) {
            context.avps.push(avp, value.clone());
        }
    }
}

fn wait_for_event(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let Some(name) = arg_text(args, 0).and_then(|name| node.events.name(name)) else {
        context.log(LogLevel::Error, "wait_for_event: no such event");
        return Called::Done(-1);
    };
    let Some(filter) = filter_of(context, args) else {
        context.log(LogLevel::Error, "wait_for_event: a filter is not of the form key=value");
        return Called::Done(-1);
    };
    let Some(secs) = arg_int(args, 2).and_then(|secs| u64::try_from(secs).ok()) else { return Called::Done(-1) };
    let wait: Arc<Mutex<Option<u64>>> = Arc::default();
    let (started, waited_for) = (wait.clone(), filter.clone());
    let start = move |waker: run::Waker| {
        *started.lock() = node.events.wait(name, waited_for, move |event| waker.wake(Box::new(event)));
    };
    let finish = move |context: &mut Context, wake: Wake| match wake {
        Wake::Done(event) => match event.downcast::<Arc<Event>>() {
            Ok(event) => {
                expose(context, &event);
                Called::Done(1)
            }
            Err(_) => Called::Done(-1),
        },
        Wake::Timeout => {
            if let Some(id) = wait.lock().take() {
                node.events.cancel_wait(name, &filter, id);
            }
            Called::Done(TIMED_OUT)
        }
    };
    Called::Pending(Pending::new(Duration::from_secs(secs), start, finish))
}

fn notify_on_event(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(name), Some(filter)) =
        (arg_text(args, 0).and_then(|name| node.events.name(name)), filter_of(context, args))
    else {
        context.log(LogLevel::Error, "notify_on_event: no such event, or a filter that is not key=value");
        return Called::Done(-1);
    };
    let Some(route) = arg_text(args, 2).map(|route| String::from_utf8_lossy(route).into_owned()) else {
        return Called::Done(-1);
    };
    let Some(secs) = arg_int(args, 3).and_then(|secs| u64::try_from(secs).ok()) else { return Called::Done(-1) };
    if context.program().route(RouteKind::Request, &route).is_none() {
        context.log(LogLevel::Error, &format!("notify_on_event: there is no route[{route}]"));
        return Called::Done(-1);
    }
    let transaction = context.transaction.clone();
    let program = context.program().clone();
    let sink = move |node: NodeRef, event: &Arc<Event>, _: Option<&mut Context>| {
        if !filter.matches(event) {
            return;
        }
        let mut run_context = Context::dummy(node, RouteKind::Event);
        // The route of the script that subscribed, whatever has been reloaded since.
        run_context.bind_program(&program);
        let Some(id) = program.route(RouteKind::Request, &route) else { return run_context.recycle() };
        expose(&mut run_context, event);
        if let Some(transaction) = &transaction {
            run_context.set_slot(NotifiedTransaction(transaction.id()));
        }
        let recycle = Box::new(|context: Box<Context>, _: run::End| context.recycle());
        run::queue(run_context, id, StartOptions::new(RouteKind::Event), recycle);
    };
    let id = node.events.listen(name, Arc::new(sink));
    if let Some(workers) = node.workers() {
        let at = tandem_module::clock::now() + Duration::from_secs(secs);
        workers.after(tandem_module::worker::current(), at, Box::new(move |_| node.events.unlisten(name, id)));
    }
    Called::Done(1)
}

/// Attached to the run of a notification route: id of the transaction that subscribed (for `t_inject_branches`).
#[derive(Clone, Copy, Debug)]
pub struct NotifiedTransaction(pub u64);
