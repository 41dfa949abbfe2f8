//! Module `freeswitch_scripting`: events of FreeSWITCH for scripts (`E_FREESWITCH`), and commands to it. The connections are
//! those of module `freeswitch`; no call holds a worker.

mod database;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use smallvec::smallvec;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, Setup, arg_text, arg_var};
use tandem_module::event::Event;
use tandem_module::mi::{MiError, MiParams, MiReply, MiRequest, MiResult};
use tandem_module::run::Pending;
use tandem_module::worker::WorkerId;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ArgType::{Text as TextArg, VarOut};
use tandem_script::surface::{CommandSpec, EventSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use crate::core::table::{async_function, done, list_param, renamed_command, text};
use crate::freeswitch::{EslEvent, EslSink, EslSocket, EslUrl, Freeswitch, event_name};
use database::Table;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "freeswitch_scripting",
    doc: "events and commands of FreeSWITCH",
    params: PARAMS,
    functions: FUNCTIONS,
    events: &[EventSpec {
        name: EVENT,
        params: &["name", "sender", "body"],
        doc: "FreeSWITCH sent an event that was subscribed to; body is its JSON text",
    }],
    commands: &[SUBSCRIBE, UNSUBSCRIBE, LIST, RELOAD],
    depends: &["freeswitch"],
    setup,
    init,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

const EVENT: &str = "E_FREESWITCH";
/// Events one management command may name.
const EVENTS_MAX: usize = 64;

static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "database of sockets and their events; without one there is none"),
    text("db_table", "freeswitch", "table of the sockets"),
    text("db_col_username", "username", "column of db_table"),
    text("db_col_password", "password", "column of db_table"),
    text("db_col_ip", "ip", "column of db_table"),
    text("db_col_port", "port", "column of db_table"),
    text("db_col_events", "events_csv", "column of db_table: names of events, separated by commas"),
    list_param("fs_subscribe", ParamType::Text, "[fs://][[user]:password@]host[:port][?event,event]"),
];

static FUNCTIONS: &[Function] = &[async_function(
    "freeswitch_esl",
    &[arg("command", TextArg), arg("freeswitch_url", TextArg), opt("response", VarOut)],
    Routes::ANY,
    "runs a command of the event socket: 1 when there is an answer, whatever it says",
    freeswitch_esl,
)];

const SUBSCRIBE: CommandSpec = renamed_command(
    "freeswitch_scripting:subscribe",
    &["fs_subscribe"],
    &["freeswitch_url", "events..."],
    "subscribes to events of a socket",
);
const UNSUBSCRIBE: CommandSpec = renamed_command(
    "freeswitch_scripting:unsubscribe",
    &["fs_unsubscribe"],
    &["freeswitch_url", "events..."],
    "ends subscriptions of a socket",
);
const LIST: CommandSpec =
    renamed_command("freeswitch_scripting:list", &["fs_list"], &[], "the sockets and the events subscribed to");
const RELOAD: CommandSpec = renamed_command(
    "freeswitch_scripting:reload",
    &["fs_reload"],
    &[],
    "makes sockets and events those of the database, and no others",
);

struct Scripting {
    urls: Vec<EslUrl>,
    table: Option<Table>,
    is_stopping: AtomicBool,
    /// One reload at a time.
    reloading: Mutex<()>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let mut urls = Vec::new();
    for (at, text) in setup.params.all("fs_subscribe").iter().enumerate() {
        let wrong = |reason: String| SetupError::param_at("fs_subscribe", at, reason);
        let url = EslUrl::parse(text).map_err(wrong)?;
        if url.password.is_none() {
            return Err(wrong(format!("{url:?}: the password is missing (:password@host)")));
        }
        urls.push(url);
    }
    let table = Table::of(setup);
    setup.state(Scripting { urls, table, is_stopping: AtomicBool::new(false), reloading: Mutex::new(()) });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let (Some(own), Some(freeswitch)) = (node.state::<Scripting>(), Freeswitch::of(node)) else { return Ok(()) };
    if let Some(table) = &own.table {
        table.check(node)?;
    }
    freeswitch.set_sink(sink(node));
    node.mi.register(SUBSCRIBE, move |request| subscribe(freeswitch, request).into());
    node.mi.register(UNSUBSCRIBE, move |request| unsubscribe(freeswitch, request).into());
    node.mi.register(LIST, move |_| Ok(list(freeswitch)).into());
    node.mi.register(RELOAD, move |_| match &own.table {
        Some(table) => MiReply::Later(Box::pin(async move {
            let urls = table.load(node).await.map_err(|error| MiError::new(500, error))?;
            replace(own, freeswitch, &urls).map(|()| json!("OK"))
        })),
        None => MiReply::Now(Err(MiError::new(500, "there is no database (parameter db_url)"))),
    });
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let (Some(own), Some(freeswitch)) = (node.state::<Scripting>(), Freeswitch::of(node)) else { return Ok(()) };
    for url in &own.urls {
        add(freeswitch, url).map_err(|reason| SetupError::param("fs_subscribe", reason))?;
    }
    let Some(table) = &own.table else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    handle.spawn(async move {
        while !own.is_stopping.load(Ordering::Relaxed) {
            match table.load(node).await {
                Ok(urls) => {
                    for url in urls {
                        if let Err(reason) = add(freeswitch, &url) {
                            tracing::error!(reason, "freeswitch_scripting: socket of the database left out");
                        }
                    }
                    return;
                }
                Err(error) => tracing::error!(error, "freeswitch_scripting: sockets not loaded, tried again later"),
            }
            tokio::time::sleep(database::RETRY).await;
        }
    });
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some(own) = node.state::<Scripting>() {
        own.is_stopping.store(true, Ordering::Relaxed);
    }
}

fn add(freeswitch: &Freeswitch, url: &EslUrl) -> Result<(), String> {
    freeswitch.socket(url).map(|socket| socket.subscribe(url.events.iter().cloned()))
}

/// Makes sockets and events those of `urls`.
fn replace(own: &Scripting, freeswitch: &Freeswitch, urls: &[EslUrl]) -> Result<(), MiError> {
    let _turn = own.reloading.lock();
    let wanted = |socket: &EslSocket| {
        let of_socket = |url: &&EslUrl| socket.is_at(url);
        urls.iter().filter(of_socket).flat_map(|url| url.events.clone()).collect::<Vec<_>>()
    };
    for url in urls {
        freeswitch.socket(url).map_err(|reason| MiError::new(500, reason))?;
    }
    for socket in freeswitch.sockets() {
        socket.set_events(wanted(&socket));
    }
    Ok(())
}

/// Raises events on workers: those of one server on one of them, so that they stay in order.
fn sink(node: NodeRef) -> EslSink {
    let dropped = node.stats.stat("freeswitch", "events_dropped");
    Arc::new(move |event: EslEvent| {
        let Some(workers) = node.workers() else { return };
        if !node.events.has_listeners(EVENT) {
            return;
        }
        let number = event.sender.to_string().bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31) ^ u16::from(byte));
        let worker = WorkerId(number % workers.count().max(1));
        let is_taken = workers.post(worker, Box::new(move |_| raise(node, event)));
        if !is_taken {
            dropped.inc();
        }
    })
}

fn raise(node: NodeRef, event: EslEvent) {
    let EslEvent { name, sender, body, permit } = event;
    let params = smallvec![
        ("name", Value::Text(Text::from(name))),
        ("sender", Value::Text(Text::from(sender.to_string()))),
        ("body", Value::Text(Text::from(body))),
    ];
    node.events.raise(node, Event { name: EVENT, params }, None);
    drop(permit);
}

/// `freeswitch_esl(command, url[, $response])`.
fn freeswitch_esl(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(command), Some(url)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let response = arg_var(args, 2).cloned();
    let Some(freeswitch) = Freeswitch::of(context.node) else { return done(false) };
    let socket = EslUrl::parse(&String::from_utf8_lossy(url)).and_then(|url| freeswitch.socket(&url));
    let socket = match socket {
        Ok(socket) => socket,
        Err(reason) => {
            context.log(LogLevel::Error, &format!("freeswitch_esl(): {reason}"));
            return done(false);
        }
    };
    Pending::job(context.node, socket.command(command.to_vec()), move |context, result| match result {
        Some(Ok(answer)) => done(response.is_none_or(|var| context.write_var(&var, Value::Text(Text::from(answer))))),
        Some(Err(error)) => {
            context.log(LogLevel::Error, &format!("freeswitch_esl(): {error}"));
            done(false)
        }
        None => {
            context.log(LogLevel::Error, "freeswitch_esl(): no answer in time");
            done(false)
        }
    })
}

/// The socket and the events of a request: an array, a text with commas, or one parameter for each.
fn of_request(request: &MiRequest) -> Result<(EslUrl, Vec<String>), MiError> {
    let url = EslUrl::parse(&request.text("freeswitch_url")?).map_err(|reason| MiError::new(400, reason))?;
    let given: Vec<Json> = match &request.params {
        MiParams::Positional(list) => list.iter().skip(1).cloned().collect(),
        _ => request.param("events").cloned().into_iter().collect(),
    };
    let mut events = Vec::new();
    for value in given {
        let list = if let Json::Array(list) = value { list } else { vec![value] };
        for name in list {
            let Json::String(names) = name else { return Err(MiError::bad("events")) };
            for name in names.split(',') {
                events.push(event_name(name).map_err(|reason| MiError::new(400, reason))?.to_owned());
            }
        }
    }
    if events.is_empty() {
        return Err(MiError::missing("events"));
    }
    if events.len() > EVENTS_MAX {
        return Err(MiError::new(400, format!("more than {EVENTS_MAX} events")));
    }
    Ok((url, events))
}

fn subscribe(freeswitch: &Freeswitch, request: &MiRequest) -> MiResult {
    let (url, events) = of_request(request)?;
    let socket = freeswitch.socket(&url).map_err(|reason| MiError::new(500, reason))?;
    socket.subscribe(events);
    Ok(json!("OK"))
}

fn unsubscribe(freeswitch: &Freeswitch, request: &MiRequest) -> MiResult {
    let (url, events) = of_request(request)?;
    let socket = freeswitch.known(&url).ok_or_else(|| MiError::new(404, "no such socket"))?;
    socket.unsubscribe(events.iter().map(String::as_str));
    Ok(json!("OK"))
}

fn list(freeswitch: &Freeswitch) -> Json {
    let sockets = freeswitch.sockets();
    let shown = sockets.iter().filter(|socket| !socket.events().is_empty());
    let list: Vec<Json> = shown
        .map(|socket| {
            let connected = if socket.is_connected() { "yes" } else { "no" };
            json!({ "if": socket.address(), "connected": connected, "Events": socket.events() })
        })
        .collect();
    json!({ "Sockets": list })
}
