//! Events for external programs: `subscribe_event()` and the management commands of the event interface. Transports are
//! modules.

use serde_json::{Map, Value as Json, json};
use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_module::event::Event;
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::subscription::{SubscribeError, Subscription};
use tandem_script::surface::CommandSpec;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use super::misc::State;
use super::table::{done, renamed_command};

pub(super) const SUBSCRIBE: CommandSpec = renamed_command(
    "event_subscribe",
    &["evi:subscribe"],
    &["event", "socket", "expire?"],
    "sends an event to a socket for 3600 or `expire` seconds; 0 ends that",
);
pub(super) const SUBSCRIBERS: CommandSpec = renamed_command(
    "subscribers_list",
    &["evi:subscribers"],
    &["event?", "socket?"],
    "sockets that events are sent to",
);
pub(super) const RAISE: CommandSpec =
    renamed_command("raise_event", &["evi:raise"], &["event", "params?"], "raises an event with parameters");

/// Seconds of a subscription that names none (OpenSIPS: event interface).
const EXPIRES: u32 = 3600;

/// `subscribe_event("E_NAME", "socket"[, expire])`: for ever without the last.
pub(super) fn subscribe_event(context: &mut Context, args: &[Arg]) -> Called {
    let text = |at| arg_text(args, at).map(|text| String::from_utf8_lossy(text).into_owned());
    let (Some(event), Some(socket)) = (text(0), text(1)) else { return done(false) };
    let expires = arg_int(args, 2).and_then(|secs| u32::try_from(secs).ok()).filter(|secs| *secs > 0);
    let node = context.node;
    match node.subscriptions.subscribe(node, &event, &socket, expires) {
        Ok(()) => done(true),
        Err(error) => {
            context.log(LogLevel::Error, &format!("subscribe_event(): {error}"));
            done(false)
        }
    }
}

pub(super) fn subscribe(node: NodeRef, request: &MiRequest) -> MiResult {
    let (event, socket) = (request.text("event")?, request.text("socket")?);
    let expires = match request.int_opt("expire")? {
        None => EXPIRES,
        Some(secs) => u32::try_from(secs).map_err(|_| MiError::bad("expire"))?,
    };
    match node.subscriptions.subscribe(node, &event, &socket, Some(expires)) {
        Ok(()) => Ok(json!("OK")),
        Err(error @ SubscribeError::NoEvent(_)) => Err(MiError::new(404, error.to_string())),
        Err(error) => Err(MiError::new(400, error.to_string())),
    }
}

fn shown(subscription: &Subscription) -> Json {
    match subscription.expires {
        None => json!({ "socket": subscription.socket, "expire": "never" }),
        Some((secs, until)) => {
            let left = until.saturating_duration_since(tandem_module::clock::now()).as_secs();
            json!({ "socket": subscription.socket, "expire": secs, "ttl": left })
        }
    }
}

pub(super) fn subscribers(node: NodeRef, request: &MiRequest) -> MiResult {
    let all = node.subscriptions.list();
    let mut names = node.events.names();
    names.sort_unstable();
    let event_of = |name: &'static str| {
        let list: Vec<Json> = all.iter().filter(|one| one.event == name).map(shown).collect();
        let id = names.iter().position(|other| *other == name).unwrap_or(0);
        json!({ "name": name, "id": id, "Subscribers": list })
    };
    let Some(wanted) = request.text_opt("event")? else {
        let with_any = names.iter().filter(|name| all.iter().any(|one| one.event == **name));
        return Ok(json!({ "Events": with_any.map(|name| event_of(name)).collect::<Vec<_>>() }));
    };
    let name = node.events.name(wanted.as_bytes()).ok_or_else(|| MiError::new(404, "Event not published"))?;
    let Some(socket) = request.text_opt("socket")? else { return Ok(json!({ "Event": event_of(name) })) };
    let one = all.iter().find(|one| one.event == name && (one.socket == socket || one.socket.ends_with(&socket)));
    let one = one.ok_or_else(|| MiError::new(404, "Subscriber does not exist"))?;
    let id = names.iter().position(|other| *other == name).unwrap_or(0);
    Ok(json!({ "Event": { "name": name, "id": id, "Subscriber": shown(one) } }))
}

pub(super) fn raise(node: NodeRef, request: &MiRequest) -> MiResult {
    let event = request.text("event")?;
    let name = node.events.name(event.as_bytes()).ok_or_else(|| MiError::new(404, "Event not registered"))?;
    let value = |json: &Json| match json {
        Json::Number(number) => number.as_i64().and_then(|int| i32::try_from(int).ok()).map(Value::Int),
        Json::String(text) => Some(Value::Text(Text::from(text.as_str()))),
        _ => None,
    };
    let mut params: SmallVec<[(&'static str, Value); 4]> = SmallVec::new();
    match request.param("params") {
        None => {}
        Some(Json::Array(list)) => {
            for json in list {
                params.push(("", value(json).ok_or_else(|| MiError::bad("params"))?));
            }
        }
        Some(Json::Object(map)) => push_named(node, map, &mut params, value)?,
        Some(json) => params.push(("", value(json).ok_or_else(|| MiError::bad("params"))?)),
    }
    node.events.raise(node, Event { name, params }, None);
    Ok(json!("OK"))
}

fn push_named(
    node: NodeRef,
    map: &Map<String, Json>,
    params: &mut SmallVec<[(&'static str, Value); 4]>,
    value: impl Fn(&Json) -> Option<Value>,
) -> Result<(), MiError> {
    for (name, json) in map {
        let name = State::of(node).param_name(name.as_bytes());
        params.push((name, value(json).ok_or_else(|| MiError::bad("params"))?));
    }
    Ok(())
}
