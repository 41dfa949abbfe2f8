//! Destination blacklists in scripts and management. What a list is and how it matches is in `tandem_module::blacklist`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tandem_module::blacklist::{Blacklist, BlacklistError, Rule};
use tandem_module::clock;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::transport::Proto;
use tandem_script::globals::{BlacklistRule, parse_blacklist_rule};
use tandem_script::surface::CommandSpec;
use tandem_script::vm::{Arg, LogLevel};

use super::table::{done, renamed_command};

pub(super) const LIST: CommandSpec = renamed_command(
    "list_blacklists",
    &["blacklists:list"],
    &["name?"],
    "destination blacklists with their rules, or one of them",
);
pub(super) const CHECK_ALL: CommandSpec = renamed_command(
    "check_blacklists",
    &["blacklists:check_all"],
    &["ip", "proto?", "port?", "pattern?"],
    "names of the blacklists that block a destination",
);
pub(super) const CHECK: CommandSpec = renamed_command(
    "check_blacklist",
    &["blacklists:check"],
    &["name", "ip", "proto?", "port?", "pattern?"],
    "the rule of a blacklist that blocks a destination",
);
pub(super) const ADD: CommandSpec = renamed_command(
    "add_blacklist_rule",
    &["blacklists:add_rule"],
    &["name", "rule", "expire?"],
    "adds a rule `[!][proto,]net[,port[,pattern]]`, for ever or for so many seconds",
);
pub(super) const DELETE: CommandSpec = renamed_command(
    "del_blacklist_rule",
    &["blacklists:del_rule"],
    &["name", "rule"],
    "removes a rule, written as for add_blacklist_rule",
);

fn text(args: &[Arg], at: usize) -> Option<&str> {
    arg_text(args, at).and_then(|text| std::str::from_utf8(text).ok()).map(str::trim).filter(|text| !text.is_empty())
}

fn named(context: &Context, args: &[Arg]) -> Option<(u32, Arc<Blacklist>)> {
    let name = text(args, 0)?;
    let found = context.node.blacklists.find(name);
    if found.is_none() {
        context.log(LogLevel::Error, &format!("there is no blacklist '{name}'; define it with dst_blacklist"));
    }
    found
}

/// Turns bits of lists on or off for the message; `all` means every list.
fn mark(context: &mut Context, args: &[Arg], is_used: bool) -> Called {
    let bits = match text(args, 0) {
        Some("all") => u32::MAX,
        _ => match named(context, args) {
            Some((bit, _)) => bit,
            None => return done(false),
        },
    };
    let now = context.node.blacklists.bits(context.edits.blacklists);
    context.edits.blacklists = Some(if is_used { now | bits } else { now & !bits });
    done(true)
}

/// `use_blacklist("name")`.
pub(super) fn use_list(context: &mut Context, args: &[Arg]) -> Called {
    mark(context, args, true)
}

/// `unuse_blacklist("name"|"all")`.
pub(super) fn unuse_list(context: &mut Context, args: &[Arg]) -> Called {
    mark(context, args, false)
}

/// `check_blacklist_rule(list, ip[, port[, proto[, pattern]]])`: 1 when blocked; list `all`: by the lists in use.
pub(super) fn check_rule(context: &mut Context, args: &[Arg]) -> Called {
    let Some(ip) = text(args, 1).and_then(ip_of) else { return done(false) };
    let port = arg_int(args, 2).and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
    let Ok(proto) = proto_of(text(args, 3)) else { return done(false) };
    let pattern = arg_text(args, 4).unwrap_or_default();
    let to = SocketAddr::new(ip, port);
    if text(args, 0) == Some("all") {
        return done(context.node.blacklists.blocks(context.edits.blacklists, proto, to, || pattern));
    }
    let Some((_, list)) = named(context, args) else { return done(false) };
    done(list.matching(proto, to, || pattern).is_some())
}

/// The rule of `add_blacklist_rule(list, net[, port[, proto[, pattern]]])`.
fn rule_of(args: &[Arg]) -> Result<BlacklistRule, String> {
    let mut rule = parse_blacklist_rule(text(args, 1).unwrap_or_default())?;
    if let Some(port) = arg_int(args, 2) {
        rule.port = Some(u16::try_from(port).map_err(|_| format!("{port} is no port"))?).filter(|port| *port != 0);
    }
    rule.proto = proto_of(text(args, 3))?.map(str::to_owned);
    rule.pattern = text(args, 4).map(str::to_owned);
    Ok(rule)
}

fn edit(
    context: &Context,
    args: &[Arg],
    change: impl FnOnce(&Blacklist, BlacklistRule) -> Result<(), BlacklistError>,
) -> Called {
    let Some((_, list)) = named(context, args) else { return done(false) };
    let result = rule_of(args).and_then(|rule| change(&list, rule).map_err(|error| error.to_string()));
    if let Err(error) = &result {
        context.log(LogLevel::Error, &format!("blacklist '{}': {error}", list.name));
    }
    done(result.is_ok())
}

/// `add_blacklist_rule(list, net[, port[, proto[, pattern[, expire]]]])`.
pub(super) fn add_rule(context: &mut Context, args: &[Arg]) -> Called {
    let expires = arg_int(args, 5).and_then(|secs| u64::try_from(secs).ok()).filter(|secs| *secs > 0);
    edit(context, args, |list, rule| list.add(rule, expires.map(Duration::from_secs)))
}

/// `del_blacklist_rule(list, net[, port[, proto[, pattern]]])`.
pub(super) fn delete_rule(context: &mut Context, args: &[Arg]) -> Called {
    edit(context, args, |list, rule| list.remove(&rule))
}

fn ip_of(text: &str) -> Option<IpAddr> {
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn proto_of(text: Option<&str>) -> Result<Option<&'static str>, String> {
    match text {
        None => Ok(None),
        Some(any) if any.eq_ignore_ascii_case("any") => Ok(None),
        Some(name) => {
            let proto = Proto::from_name(name.as_bytes()).ok_or_else(|| format!("there is no protocol '{name}'"))?;
            Ok(Some(proto.name()))
        }
    }
}

fn rule_json(Rule { rule, until }: &Rule) -> Json {
    let mut row = json!({
        "flags": i32::from(rule.is_inverted),
        "IP": rule.network.address().to_string(),
        "Mask": rule.network.mask().to_string(),
        "Proto": rule.proto.as_deref().unwrap_or("any"),
        "Port": rule.port.unwrap_or(0),
    });
    if let Some(map) = row.as_object_mut() {
        if let Some(pattern) = &rule.pattern {
            map.insert("Match".into(), json!(pattern));
        }
        if let Some(until) = until {
            let left = until.saturating_duration_since(clock::now());
            map.insert("Expire".into(), json!(left.as_millis().div_ceil(1000) as u64));
        }
    }
    row
}

fn list_json(list: &Blacklist) -> Json {
    let flags = [
        ("read-only", list.flags.is_read_only),
        ("expire", list.flags.does_expire),
        ("default", list.flags.is_default),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
    let rules: Vec<Json> = list.rules().iter().map(rule_json).collect();
    json!({ "name": list.name, "owner": list.owner, "flags": flags, "Rules": rules })
}

pub(super) fn list(node: NodeRef, request: &MiRequest) -> MiResult {
    match request.text_opt("name")? {
        None => Ok(json!({ "Lists": node.blacklists.list().iter().map(|list| list_json(list)).collect::<Vec<_>>() })),
        Some(name) => {
            let (_, list) = node.blacklists.find(&name).ok_or_else(|| MiError::new(404, "Unknown name"))?;
            Ok(list_json(&list))
        }
    }
}

/// What a command asks about.
struct Asked {
    proto: Option<&'static str>,
    to: SocketAddr,
    pattern: String,
}

fn asked(request: &MiRequest) -> Result<Asked, MiError> {
    let bad = |what: &str| MiError::new(400, format!("Bad params: {what}"));
    let ip = ip_of(request.text("ip")?.trim()).ok_or_else(|| MiError::new(400, "Missing or bad IP"))?;
    let proto = proto_of(request.text_opt("proto")?.as_deref()).map_err(|error| bad(&error))?;
    let port = request.int_opt("port")?.map_or(Ok(0), u16::try_from).map_err(|_| bad("port"))?;
    let pattern = request.text_opt("pattern")?.unwrap_or_default();
    Ok(Asked { proto, to: SocketAddr::new(ip, port), pattern })
}

pub(super) fn check_all(node: NodeRef, request: &MiRequest) -> MiResult {
    let Asked { proto, to, pattern } = asked(request)?;
    let lists = node.blacklists.list();
    let hits = lists.iter().filter(|list| list.matching(proto, to, || pattern.as_bytes()).is_some());
    Ok(hits.map(|list| json!(list.name)).collect())
}

fn list_of(node: NodeRef, request: &MiRequest) -> Result<Arc<Blacklist>, MiError> {
    let found = node.blacklists.find(&request.text("name")?);
    found.map(|(_, list)| list).ok_or_else(|| MiError::new(400, "Missing or bad blacklist name"))
}

pub(super) fn check(node: NodeRef, request: &MiRequest) -> MiResult {
    let list = list_of(node, request)?;
    let Asked { proto, to, pattern } = asked(request)?;
    let rule = list.matching(proto, to, || pattern.as_bytes());
    rule.map(|rule| rule_json(&rule)).ok_or_else(|| MiError::new(404, "Not Matched"))
}

fn refused(error: BlacklistError) -> MiError {
    match error {
        BlacklistError::ReadOnly => MiError::new(403, "Cannot modify read-only blacklist"),
        BlacklistError::NoExpire => MiError::new(404, "Blacklist without expire support"),
        BlacklistError::NoRule => MiError::new(404, "Rule not found"),
        other => MiError::new(500, other.to_string()),
    }
}

fn rule_param(request: &MiRequest) -> Result<BlacklistRule, MiError> {
    let rule = parse_blacklist_rule(&request.text("rule")?);
    rule.map_err(|error| MiError::new(404, format!("Bad rule: {error}")))
}

pub(super) fn add(node: NodeRef, request: &MiRequest) -> MiResult {
    let list = list_of(node, request)?;
    let rule = rule_param(request)?;
    let expires = match request.int_opt("expire")? {
        None => None,
        Some(secs) => match u32::try_from(secs).ok().filter(|secs| *secs > 0) {
            Some(secs) => Some(Duration::from_secs(u64::from(secs))),
            None => return Err(MiError::new(404, "Bad expire value")),
        },
    };
    list.add(rule, expires).map(|()| json!("OK")).map_err(refused)
}

pub(super) fn delete(node: NodeRef, request: &MiRequest) -> MiResult {
    let list = list_of(node, request)?;
    list.remove(&rule_param(request)?).map(|()| json!("OK")).map_err(refused)
}
