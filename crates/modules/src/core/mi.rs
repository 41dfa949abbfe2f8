//! Management commands of the core: statistics, process facts, log levels, events, caches. Transports are elsewhere.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value as Json, json};
use tandem_module::cachedb::{CacheError, CacheReply};
use tandem_module::declare::SetupError;
use tandem_module::mi::{MiError, MiParams, MiReply, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_script::surface::CommandSpec;

use super::table::renamed_command;
use super::{blacklists, connections, status, subscriptions};

pub(super) static COMMANDS: &[CommandSpec] = &[
    renamed_command(
        "get_statistics",
        &["statistics:get"],
        &["statistics"],
        "values of statistics: names, `group:` or `all`",
    ),
    renamed_command(
        "list_statistics",
        &["statistics:list"],
        &["statistics?"],
        "names of the statistics, or of the given groups",
    ),
    renamed_command("reset_statistics", &["statistics:reset"], &["statistics"], "sets the named statistics to zero"),
    renamed_command(
        "reset_all_statistics",
        &["statistics:reset_all"],
        &[],
        "sets all statistics that can be reset to zero",
    ),
    renamed_command(
        "reload_routes",
        &["core:reload_routes"],
        &[],
        "reads the script again and runs its routes from now on; an invalid one changes nothing",
    ),
    renamed_command(
        "uptime",
        &["core:uptime"],
        &[],
        "the time now, since when the process runs, and for how many seconds",
    ),
    renamed_command("version", &["core:version"], &[], "name and version"),
    renamed_command("pwd", &["core:pwd"], &[], "working directory"),
    renamed_command("arg", &["core:arg"], &[], "command line"),
    renamed_command(
        "which",
        &["core:which"],
        &["command?"],
        "names of all commands, of those of a module (`module:`), or the parameters a command takes",
    ),
    renamed_command("help", &["core:help"], &["mi_cmd"], "what a command does"),
    renamed_command("ps", &["core:ps"], &[], "the process and its workers"),
    renamed_command("log_level", &["core:log_level"], &["level?", "pid?"], "shows or sets the log level"),
    renamed_command("xlog_level", &["core:xlog_level"], &["level?"], "shows or sets the xlog level"),
    renamed_command("events_list", &["evi:list"], &[], "names of all events"),
    subscriptions::SUBSCRIBE,
    subscriptions::SUBSCRIBERS,
    subscriptions::RAISE,
    blacklists::LIST,
    blacklists::CHECK_ALL,
    blacklists::CHECK,
    blacklists::ADD,
    blacklists::DELETE,
    status::GET,
    status::STATUS,
    status::REPORTS,
    status::IDENTIFIERS,
    connections::LIST,
    connections::CLOSE,
    renamed_command(
        "cache_store",
        &["cache:store"],
        &["system", "attr", "value", "expire?"],
        "stores a value in a cache engine",
    ),
    renamed_command("cache_fetch", &["cache:fetch"], &["system", "attr"], "reads a value of a cache engine"),
    renamed_command("cache_remove", &["cache:remove"], &["system", "attr"], "removes a value of a cache engine"),
];

pub(super) fn init(node: NodeRef) -> Result<(), SetupError> {
    status::register_core(node);
    let started = node.started().1;
    node.stats.computed("core", "timestamp", move || tandem_module::node::unix_secs() - started);
    for spec in COMMANDS {
        let name = spec.name;
        node.mi.register(*spec, move |request| run(node, name, request));
    }
    Ok(())
}

fn run(node: NodeRef, name: &str, request: &MiRequest) -> MiReply {
    match name {
        "cache_store" | "cache_fetch" | "cache_remove" => cache(node, name, request),
        "reload_routes" => node.reload_routes(),
        _ => MiReply::Now(now(node, name, request)),
    }
}

fn now(node: NodeRef, name: &str, request: &MiRequest) -> MiResult {
    match name {
        "get_statistics" => get_statistics(node, request),
        "list_statistics" => Ok(list_statistics(node, request)),
        "reset_statistics" => reset_statistics(node, request),
        "reset_all_statistics" => {
            for (group, name, _) in node.stats.snapshot() {
                node.stats.reset(&format!("{group}:{name}"));
            }
            Ok(json!("OK"))
        }
        "uptime" => Ok(uptime(node)),
        "version" => Ok(json!({ "Server": server_name(node) })),
        "pwd" => {
            let dir = std::env::current_dir().map_err(|error| MiError::new(500, error.to_string()))?;
            Ok(json!({ "WD": dir.to_string_lossy() }))
        }
        "arg" => Ok(std::env::args_os().map(|arg| json!(arg.to_string_lossy())).collect()),
        "which" => which(node, request),
        "help" => help(node, request),
        "ps" => Ok(processes(node)),
        "log_level" => level(node, request, "Log level", true),
        "xlog_level" => level(node, request, "xLog Level", false),
        "events_list" => Ok(events(node)),
        "event_subscribe" => subscriptions::subscribe(node, request),
        "subscribers_list" => subscriptions::subscribers(node, request),
        "raise_event" => subscriptions::raise(node, request),
        "list_blacklists" => blacklists::list(node, request),
        "check_blacklists" => blacklists::check_all(node, request),
        "check_blacklist" => blacklists::check(node, request),
        "add_blacklist_rule" => blacklists::add(node, request),
        "del_blacklist_rule" => blacklists::delete(node, request),
        "status_report:get" => status::get(node, request),
        "status_report:status" => status::list(node, request),
        "status_report:reports" => status::reports(node, request),
        "status_report:identifiers" => status::identifiers(node, request),
        "list_tcp_conns" => connections::list(node, request),
        "tcp:close" => connections::close_command(node, request),
        _ => Err(MiError::new(-32601, "Method not found")),
    }
}

/// The `statistics` parameter: one name, or a list of names.
fn names(request: &MiRequest) -> Result<Vec<String>, MiError> {
    let positional = match &request.params {
        MiParams::Positional(list) if list.len() > 1 => Some(list.clone()),
        _ => None,
    };
    let list = match (positional, request.param("statistics")) {
        (Some(list), _) => list,
        (None, Some(Json::Array(list))) => list.clone(),
        (None, Some(one)) => vec![one.clone()],
        (None, None) => Vec::new(),
    };
    list.into_iter()
        .map(|name| match name {
            Json::String(name) => Ok(name),
            _ => Err(MiError::bad("statistics")),
        })
        .collect()
}

fn get_statistics(node: NodeRef, request: &MiRequest) -> MiResult {
    let names = names(request)?;
    let mut found = Map::new();
    for (group, name, value) in node.stats.snapshot() {
        let full = format!("{group}:{name}");
        let is_wanted = names.iter().any(|wanted| match wanted.strip_suffix(':') {
            Some(of_group) => of_group == group,
            None => wanted == "all" || *wanted == name || *wanted == full,
        });
        if is_wanted {
            found.insert(full, json!(value));
        }
    }
    if found.is_empty() { Err(MiError::new(404, "Statistics Not Found")) } else { Ok(Json::Object(found)) }
}

fn list_statistics(node: NodeRef, request: &MiRequest) -> Json {
    let groups = names(request).unwrap_or_default();
    let mut found = Map::new();
    for (group, name, _) in node.stats.snapshot() {
        if groups.is_empty() || groups.iter().any(|wanted| wanted.trim_end_matches(':') == group) {
            found.insert(format!("{group}:{name}"), json!("counter"));
        }
    }
    Json::Object(found)
}

fn reset_statistics(node: NodeRef, request: &MiRequest) -> MiResult {
    let mut count = 0;
    for name in names(request)? {
        count += usize::from(node.stats.reset(&name));
    }
    if count == 0 { Err(MiError::new(404, "Statistics Not Found")) } else { Ok(json!("OK")) }
}

fn date(unix_secs: i64) -> String {
    super::process_vars::local_time(unix_secs)
        .and_then(|moment| super::process_vars::format_time(moment, "%a %b %e %H:%M:%S %Y"))
        .unwrap_or_default()
}

fn uptime(node: NodeRef) -> Json {
    let (_, started) = node.started();
    let now = tandem_module::node::unix_secs();
    json!({ "Now": date(now), "Up since": date(started), "Up time": format!("{} [sec]", (now - started).max(0)) })
}

fn server_name(node: NodeRef) -> String {
    match &node.settings.server_header {
        Some(line) => line.split_once(':').map_or(line.as_str(), |(_, name)| name).trim().to_owned(),
        None => concat!("Tandem/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

fn which(node: NodeRef, request: &MiRequest) -> MiResult {
    let unknown = || MiError::new(404, "unknown MI command");
    let names = |spec: &CommandSpec| std::iter::once(spec.name).chain(spec.aliases.iter().copied()).collect::<Vec<_>>();
    let Some(wanted) = request.text_opt("command")? else {
        // opensips-cli sends no command that is not in this list, so names of older versions are, too.
        let mut all: Vec<&str> = node.mi.list().iter().flat_map(names).collect();
        all.sort_unstable();
        return Ok(all.into());
    };
    if wanted.ends_with(':') {
        let list: Vec<Json> = node
            .mi
            .list()
            .iter()
            .flat_map(names)
            .filter(|name| name.starts_with(&wanted))
            .map(|name| json!(name))
            .collect();
        return if list.is_empty() { Err(unknown()) } else { Ok(Json::Array(list)) };
    }
    let spec = node.mi.list().into_iter().find(|spec| names(spec).contains(&wanted.as_str())).ok_or_else(unknown)?;
    Ok(recipes(&spec))
}

/// The ways to call a command: with its mandatory parameters, then with one optional parameter more each time.
fn recipes(spec: &CommandSpec) -> Json {
    let names: Vec<&str> =
        spec.params.iter().map(|param| param.trim_end_matches("...").trim_end_matches('?')).collect();
    let mandatory = spec.params.iter().take_while(|param| !param.trim_end_matches("...").ends_with('?')).count();
    let ways = (mandatory..=names.len()).map(|count| names.iter().take(count).copied().collect());
    ways.collect::<Vec<Json>>().into()
}

fn help(node: NodeRef, request: &MiRequest) -> MiResult {
    let name = request.text("mi_cmd")?;
    let spec = node.mi.list().into_iter().find(|spec| spec.name == name || spec.aliases.contains(&name.as_str()));
    let Some(spec) = spec else { return Err(MiError::new(404, "unknown MI command")) };
    let owner = node.modules().iter().find(|module| module.commands.iter().any(|other| other.name == spec.name));
    Ok(json!({
        "Help": spec.doc,
        "Parameters": spec.params,
        "Exported by": owner.map_or("core", |module| module.name),
    }))
}

fn processes(node: NodeRef) -> Json {
    let pid = std::process::id();
    let count = node.workers().map_or(0, |workers| workers.count());
    let workers = (0..count).map(|at| json!({ "ID": at + 1, "PID": pid, "Type": format!("SIP worker {at}") }));
    let main = json!({ "ID": 0, "PID": pid, "Type": "attendant" });
    json!({ "Processes": std::iter::once(main).chain(workers).collect::<Vec<_>>() })
}

fn level(node: NodeRef, request: &MiRequest, shown: &str, is_log: bool) -> MiResult {
    let level = if is_log { &node.settings.log_level } else { &node.settings.xlog_level };
    if let Some(wanted) = request.int_opt("level")? {
        let wanted = i32::try_from(wanted).map_err(|_| MiError::bad("level"))?;
        level.store(wanted.clamp(-3, 4), Ordering::Relaxed);
        let name = match (is_log, request.int_opt("pid")?) {
            (true, None) => "New global log level",
            (true, Some(_)) => "New log level",
            (false, _) => "New xLog level",
        };
        return Ok(json!({ name: level.load(Ordering::Relaxed) }));
    }
    if is_log {
        let count = node.workers().map_or(0, |workers| workers.count());
        let value = level.load(Ordering::Relaxed);
        let pid = std::process::id();
        let list: Vec<Json> = (0..count.max(1))
            .map(|at| json!({ "PID": pid, shown: value, "Type": format!("SIP worker {at}") }))
            .collect();
        return Ok(json!({ "Processes": list }));
    }
    Ok(json!({ shown: level.load(Ordering::Relaxed) }))
}

fn events(node: NodeRef) -> Json {
    let mut names = node.events.names();
    names.sort_unstable();
    let list: Vec<Json> = names.iter().enumerate().map(|(at, name)| json!({ "name": name, "id": at })).collect();
    json!({ "Events": list })
}

fn cache_error(error: &CacheError) -> MiError {
    match error {
        CacheError::NotFound => MiError::new(404, "no such key"),
        error => MiError::new(500, error.to_string()),
    }
}

fn answer<T: Send + 'static>(
    reply: CacheReply<T>,
    then: impl FnOnce(Result<T, CacheError>) -> MiResult + Send + 'static,
) -> MiReply {
    match reply {
        CacheReply::Now(result) => MiReply::Now(then(result)),
        CacheReply::Later(future) => MiReply::Later(Box::pin(async move { then(future.await) })),
    }
}

fn cache(node: NodeRef, name: &str, request: &MiRequest) -> MiReply {
    let arguments = (|| Ok::<_, MiError>((request.text("system")?, request.text("attr")?)))();
    let (system, key) = match arguments {
        Ok(arguments) => arguments,
        Err(error) => return MiReply::Now(Err(error)),
    };
    let Some(engine) = node.caches.engine(system.as_bytes()) else {
        return MiReply::Now(Err(MiError::new(404, "no such cache system")));
    };
    match name {
        "cache_store" => {
            let arguments = (|| Ok::<_, MiError>((request.text("value")?, request.int_opt("expire")?)))();
            let (value, expire) = match arguments {
                Ok(arguments) => arguments,
                Err(error) => return MiReply::Now(Err(error)),
            };
            let expire = expire.and_then(|secs| u32::try_from(secs).ok()).unwrap_or(0);
            answer(engine.store(key.as_bytes(), value.as_bytes(), expire), |result| {
                result.map(|()| json!("OK")).map_err(|error| cache_error(&error))
            })
        }
        "cache_fetch" => answer(engine.fetch(key.as_bytes()), move |result| {
            let value = result.map_err(|error| cache_error(&error))?;
            Ok(json!({ "key": key, "value": String::from_utf8_lossy(&value) }))
        }),
        _ => answer(engine.remove(key.as_bytes()), |result| {
            result.map(|_| json!("OK")).map_err(|error| cache_error(&error))
        }),
    }
}
