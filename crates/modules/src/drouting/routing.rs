//! `do_routing()`, `route_to_carrier()`, `route_to_gw()`, `use_next_gw()`: which gateways a call may use, in which order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::Rng as _;
use tandem_module::context::{Called, Context};
use tandem_module::db::{DbOp, DbRows, DbValue, Statement};
use tandem_module::declare::arg_text;
use tandem_module::run::{self, Pending};
use tandem_script::ast::RouteKind;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel, StartOptions};
use tandem_sip::Uri;

use super::Drouting;
use super::data::{Goal, Position, Rule, Tables};
use super::output::{self, Choice, DESTINATIONS_MAX, Next, Vars};
use super::partition::Partition;
use crate::core::db_load::int_of;
use crate::core::table::done;

/// Rules that one call falls back to.
const FALLBACKS_MAX: usize = 64;
/// Names in a white list.
const WHITELIST_MAX: usize = 256;

const FALLBACK: u8 = 1;
const WHOLE: u8 = 2;
const CHECK: u8 = 4;
const WEIGHT: u8 = 8;

/// An argument as text, whatever it is.
pub(super) fn text(context: &mut Context, args: &[Arg], at: usize) -> Option<Vec<u8>> {
    let found = match args.get(at)? {
        Arg::Missing => None,
        Arg::Int(int) => Some(int.to_string().into_bytes()),
        Arg::Text(text) => Some(text.to_vec()),
        Arg::Value(value) => value.as_text().map(|text| text.to_vec()),
        Arg::Var(var) => context.read_var(var).as_text().map(|text| text.to_vec()),
        Arg::Regex(_) | Arg::Flag(_) | Arg::Words(_) => None,
    };
    found.filter(|text| !text.is_empty())
}

/// A number out of a text.
pub(super) fn number(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

pub(super) fn refuse(context: &Context, text: &str) -> Called {
    context.log(LogLevel::Error, &format!("drouting: {text}"));
    done(false)
}

/// `partition:rest` of 2.4, where the partition stands in front.
fn split_partition(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match text.iter().position(|byte| *byte == b':') {
        Some(at) => (text.get(..at), text.get(at + 1..).unwrap_or_default()),
        None => (None, text),
    }
}

fn flags(context: &Context, text: &[u8]) -> Option<u8> {
    let mut all = 0;
    for letter in text {
        all |= match letter {
            b'F' => FALLBACK,
            b'L' => WHOLE,
            b'C' => CHECK,
            b'W' => WEIGHT,
            b' ' => 0,
            other => {
                let text = format!("drouting: unknown flag '{}': F, L, C, W", other.escape_ascii());
                context.log(LogLevel::Error, &text);
                return None;
            }
        };
    }
    Some(all)
}

/// A routing on its way.
struct Job {
    own: &'static Drouting,
    /// Partitions still to be asked, next one last.
    partitions: Vec<Arc<Partition>>,
    vars: Vars,
    group: Option<i32>,
    flags: u8,
    whitelist: Option<Text>,
    base: Text,
    is_wildcard: bool,
}

/// `do_routing([group][, flags][, whitelist][, $rule][, $gateway][, $carrier][, partition])`.
pub(super) fn do_routing(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Drouting>() else { return done(false) };
    let first = text(context, args, 0);
    let (in_front, group) = match &first {
        Some(text) if own.config.uses_partitions => split_partition(text),
        Some(text) => (None, text.as_slice()),
        None => (None, &b""[..]),
    };
    let group = match (group.trim_ascii(), in_front) {
        (b"", _) => None,
        (text, _) => match number(text) {
            Some(group) => Some(group),
            None => return refuse(context, "do_routing(): the group is no number"),
        },
    };
    let name = in_front.or_else(|| arg_text(args, 6)).map(<[u8]>::to_vec);
    let Some(flags) = flags(context, arg_text(args, 1).unwrap_or_default()) else { return done(false) };
    let whitelist = arg_text(args, 2).filter(|text| !text.is_empty()).map(Text::copy);
    if whitelist.as_ref().is_some_and(|list| list.split(|byte| *byte == b',').count() > WHITELIST_MAX) {
        return refuse(context, "do_routing(): the white list is too long");
    }
    let Some(base) = context.request_uri().map(Text::copy) else {
        return refuse(context, "do_routing() needs a request");
    };
    let mut partitions = own.wanted(context, name.as_deref());
    partitions.reverse();
    let vars = Vars { rule: output::var(args, 3), gateway: output::var(args, 4), carrier: output::var(args, 5) };
    let is_wildcard = name.as_deref().map(<[u8]>::trim_ascii) == Some(b"*");
    run_next(context, Job { own, partitions, vars, group, flags, whitelist, base, is_wildcard })
}

/// Asks the next partition.
fn run_next(context: &mut Context, mut job: Job) -> Called {
    let Some(partition) = job.partitions.pop() else { return done(false) };
    output::clear(context, &partition);
    match job.group {
        Some(group) => attempt(context, job, partition, group, Position::START, 0),
        None => ask_group(context, job, partition),
    }
}

/// The group of the caller, from the table of groups.
fn ask_group(context: &mut Context, job: Job, partition: Arc<Partition>) -> Called {
    let caller = context.message.from().ok().and_then(|from| {
        let uri = from.parsed_uri().ok()?;
        Some((uri.user_or_empty().to_vec(), uri.host.to_vec()))
    });
    let Some((user, host)) = caller.filter(|(user, host)| !user.contains(&0) && !host.contains(&0)) else {
        return refuse(context, "the URI of From cannot be parsed");
    };
    let [user_column, domain_column, group_column] = &job.own.config.group_columns;
    let mut keys = vec![(user_column.clone(), DbOp::Eq, DbValue::text(user))];
    if job.own.config.uses_domain {
        keys.push((domain_column.clone(), DbOp::Eq, DbValue::text(host)));
    }
    let statement = Statement::Select {
        table: partition.origin.groups.clone(),
        columns: vec![group_column.clone()],
        keys,
        order: None,
        limit: Some(1),
    };
    let asked = partition.db.run(statement);
    Pending::job(context.node, asked, move |context, result: Option<Result<DbRows, _>>| {
        let found = match result {
            Some(Ok(rows)) => {
                rows.rows.first().and_then(|row| int_of(row, 0)).and_then(|group| i32::try_from(group).ok())
            }
            Some(Err(error)) => {
                context.log(LogLevel::Error, &format!("drouting: {}: {error}", partition.db.name()));
                None
            }
            None => {
                context.log(LogLevel::Error, &format!("drouting: {}: no answer in time", partition.db.name()));
                None
            }
        };
        match found.or(job.own.config.default_group) {
            Some(group) => attempt(context, job, partition, group, Position::START, 0),
            None => {
                context.log(LogLevel::Info, "drouting: the caller is in no group, and there is no default_group");
                run_next(context, job)
            }
        }
    })
}

/// Takes the next rule that fits, from a place on; the partition after it when there is none.
fn attempt(
    context: &mut Context,
    job: Job,
    partition: Arc<Partition>,
    group: i32,
    from: Position,
    tries: usize,
) -> Called {
    let Some(tables) = partition.tables() else {
        context.log(LogLevel::Error, &format!("drouting: partition {} has not been read yet", partition.name));
        return run_next(context, job);
    };
    let base = job.base.clone();
    let Ok(uri) = Uri::parse(&base) else { return refuse(context, "the request URI cannot be parsed") };
    let dialled = uri.user_or_empty();
    let found = tables.find(group, dialled, from, job.flags & WHOLE != 0, &crate::core::local_now());
    let Some((position, rule)) = found.filter(|_| tries < FALLBACKS_MAX) else { return run_next(context, job) };
    let prefix = dialled.get(..position.prefix).unwrap_or_default();
    output::set_rule(context, &partition, rule, prefix, &job.vars);
    if job.flags & CHECK != 0 {
        name_partition(context, &job, &partition);
        return done(true);
    }
    let route = rule.route.as_deref().and_then(|name| {
        let route = context.node.program().route(RouteKind::Request, name);
        if route.is_none() {
            context
                .log(LogLevel::Error, &format!("drouting: rule {} names route[{name}], which there is not", rule.id));
        }
        route
    });
    let chosen = Chosen { partition, tables: tables.clone(), group, position, tries };
    match route {
        None => choose(context, job, chosen),
        Some(route) => {
            let options = StartOptions::new(context.kind);
            run::nested(context, route, options, move |context, end| {
                // `drop` in the route of a rule ends the routing.
                if end.is_dropped { done(false) } else { choose(context, job, chosen) }
            })
        }
    }
}

/// A rule that fits.
struct Chosen {
    partition: Arc<Partition>,
    tables: Arc<Tables>,
    group: i32,
    position: Position,
    tries: usize,
}

/// Sends the request to the gateways of the rule; without a usable one, to those of the next rule when that is wanted.
fn choose(context: &mut Context, job: Job, chosen: Chosen) -> Called {
    let Chosen { partition, tables, group, position, tries } = chosen;
    let base = job.base.clone();
    let dialled = Uri::parse(&base).map(|uri| uri.user_or_empty().to_vec()).unwrap_or_default();
    // Found again by its place: the tables are those of before.
    let found = tables.find_at(group, &dialled, position);
    let Some(rule) = found else { return run_next(context, job) };
    let choices = choices(&job, &tables, rule, &base);
    if choices.is_empty() {
        if job.flags & FALLBACK != 0 {
            return attempt(context, job, partition, group, position.next(), tries + 1);
        }
        let text = format!("drouting: rule {} of partition {} has no usable gateway", rule.id, partition.name);
        context.log(LogLevel::Notice, &text);
        return run_next(context, job);
    }
    let is_set = output::apply(context, &partition, &choices, &job.vars);
    if job.flags & FALLBACK != 0 {
        remember(context, &job, &partition, group, position);
    }
    name_partition(context, &job, &partition);
    done(is_set)
}

fn name_partition(context: &mut Context, job: &Job, partition: &Partition) {
    if let Some(var) = job.own.config.partition_var.clone().filter(|_| job.is_wildcard) {
        context.write_var(&var, Value::from(partition.name.as_str()));
    }
}

/// Keeps in AVPs where the next rule is to be looked for.
fn remember(context: &mut Context, job: &Job, partition: &Partition, group: i32, position: Position) {
    let avps = partition.avps();
    let place = format!("{group} {} {} {}", position.prefix, position.place, job.flags);
    for (name, text) in [
        (avps.fallback, Some(Text::from(place))),
        (avps.whitelist, job.whitelist.clone()),
        (avps.base_uri, Some(job.base.clone())),
    ] {
        context.avps.remove_all(name);
        if let Some(text) = text {
            context.avps.append(name, Value::Text(text));
        }
    }
}

/// Order in which the elements of a list are tried: as they stand, or each next one drawn by its weight.
pub(super) fn ordered<T: Copy>(list: &[(T, u32)], is_weighted: bool) -> Vec<T> {
    let mut left: Vec<(T, u32)> = list.to_vec();
    if !is_weighted {
        return left.into_iter().map(|(item, _)| item).collect();
    }
    let mut rng = rand::rng();
    let mut all = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let sum: u64 = left.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let at = if sum == 0 {
            // Only elements without weight are left: all the same.
            rng.random_range(0..left.len())
        } else {
            let mut drawn = rng.random_range(0..sum);
            let hit = left.iter().position(|(_, weight)| {
                let is_hit = drawn < u64::from(*weight);
                drawn = drawn.saturating_sub(u64::from(*weight));
                is_hit
            });
            hit.unwrap_or(0)
        };
        all.push(left.remove(at).0);
    }
    all
}

fn choices(job: &Job, tables: &Tables, rule: &Rule, base: &[u8]) -> Vec<Choice> {
    let names: Option<Vec<&[u8]>> =
        job.whitelist.as_ref().map(|list| list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect());
    let is_listed = |id: &[u8]| names.as_ref().is_none_or(|names| names.contains(&id));
    let is_carrier_listed =
        |id: &[u8]| names.as_ref().is_none_or(|names| names.iter().any(|name| name.strip_prefix(b"#") == Some(id)));
    let mut all = Vec::new();
    for goal in ordered(&rule.goals, rule.is_weighted || job.flags & WEIGHT != 0) {
        match goal {
            Goal::Gateway(at) => {
                if let Some(gateway) =
                    tables.gateways.get(at as usize).filter(|one| one.is_active() && is_listed(&one.id))
                {
                    all.extend(Choice::new(base, gateway, None));
                }
            }
            Goal::Carrier(at) => {
                let is_whole = tables.carriers.get(at as usize).is_some_and(|carrier| is_carrier_listed(&carrier.id));
                add_carrier(&mut all, tables, at, base, |id| is_whole || is_listed(id));
            }
        }
    }
    all.truncate(DESTINATIONS_MAX);
    all
}

/// The usable gateways of a carrier in its order.
fn add_carrier(all: &mut Vec<Choice>, tables: &Tables, at: u32, base: &[u8], is_listed: impl Fn(&[u8]) -> bool) {
    let carrier = tables.carriers.get(at as usize).filter(|carrier| carrier.is_on.load(Ordering::Relaxed));
    let Some(carrier) = carrier else { return };
    for at in ordered(&carrier.gateways, carrier.is_weighted) {
        let gateway = tables.gateways.get(at as usize).filter(|one| one.is_active() && is_listed(&one.id));
        if let Some(choice) = gateway.and_then(|gateway| Choice::new(base, gateway, Some(carrier))) {
            all.push(choice);
            if carrier.is_first_only {
                return;
            }
        }
    }
}

/// What `route_to_carrier()` and `route_to_gw()` are asked.
struct Direct {
    partition: Arc<Partition>,
    tables: Arc<Tables>,
    /// IDs, separated by commas.
    list: Vec<u8>,
    vars: Vars,
    base: Text,
}

fn direct(context: &mut Context, args: &[Arg]) -> Option<Direct> {
    let own = context.node.state::<Drouting>()?;
    let given = text(context, args, 0)?;
    let (in_front, list) =
        if own.config.uses_partitions && own.config.is_v2_4 { split_partition(&given) } else { (None, &given[..]) };
    let name = in_front.or_else(|| arg_text(args, 3)).map(<[u8]>::to_vec);
    let partition = own.wanted(context, name.as_deref()).into_iter().next()?;
    let Some(tables) = partition.tables() else {
        context.log(LogLevel::Error, &format!("drouting: partition {} has not been read yet", partition.name));
        return None;
    };
    let vars = Vars { rule: None, gateway: output::var(args, 1), carrier: output::var(args, 2) };
    let base = context.request_uri().map(Text::copy)?;
    output::clear(context, &partition);
    Some(Direct { partition, tables, list: list.to_vec(), vars, base })
}

/// `route_to_carrier(carriers[, $gateway][, $carrier][, partition])`.
pub(super) fn route_to_carrier(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Direct { partition, tables, list, vars, base }) = direct(context, args) else { return done(false) };
    let mut all = Vec::new();
    for name in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
        match tables.carrier(name.strip_prefix(b"#").unwrap_or(name)) {
            Some((at, _)) => add_carrier(&mut all, &tables, at, &base, |_| true),
            None => {
                let name = String::from_utf8_lossy(name.get(..64).unwrap_or(name)).into_owned();
                context.log(LogLevel::Warning, &format!("drouting: there is no carrier '{name}'"));
            }
        }
    }
    all.truncate(DESTINATIONS_MAX);
    done(output::apply(context, &partition, &all, &vars))
}

/// `route_to_gw(gateways[, $gateway][, $carrier][, partition])`.
pub(super) fn route_to_gw(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Direct { partition, tables, list, vars, base }) = direct(context, args) else { return done(false) };
    let mut all = Vec::new();
    for name in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
        match tables.gateway(name) {
            Some((_, gateway)) if gateway.is_active() => {
                let carrier = gateway.carrier.and_then(|at| tables.carriers.get(at as usize));
                all.extend(Choice::new(&base, gateway, carrier));
            }
            Some(_) => {}
            None => {
                let name = String::from_utf8_lossy(name.get(..64).unwrap_or(name)).into_owned();
                context.log(LogLevel::Warning, &format!("drouting: there is no gateway '{name}'"));
            }
        }
    }
    all.truncate(DESTINATIONS_MAX);
    done(output::apply(context, &partition, &all, &vars))
}

/// `use_next_gw([$rule][, $gateway][, $carrier][, partition])`; 2.4 with partitions has the partition in front.
pub(super) fn use_next_gw(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = context.node.state::<Drouting>() else { return done(false) };
    let is_in_front = own.config.uses_partitions && own.config.is_v2_4;
    let (first, at) = if is_in_front { (1, 0) } else { (0, 3) };
    let name = text(context, args, at);
    let vars = Vars {
        rule: output::var(args, first),
        gateway: output::var(args, first + 1),
        carrier: output::var(args, first + 2),
    };
    let Some(partition) = own.wanted(context, name.as_deref()).into_iter().next() else { return done(false) };
    let tables = partition.tables();
    let is_usable = |id: &[u8]| {
        tables.as_ref().and_then(|tables| tables.gateway(id)).is_some_and(|(_, gateway)| gateway.is_active())
    };
    match output::next(context, &partition, &vars, is_usable) {
        Next::Set => done(true),
        Next::NoRouting => {
            context.log(LogLevel::Warning, "drouting: use_next_gw() without a do_routing() before it");
            done(false)
        }
        Next::NoneLeft => fall_back(context, own, partition, vars),
    }
}

/// The next rule, when `do_routing()` was asked to fall back.
fn fall_back(context: &mut Context, own: &'static Drouting, partition: Arc<Partition>, vars: Vars) -> Called {
    let avps = partition.avps().clone();
    let Some(place) = output::top(context, avps.fallback) else { return done(false) };
    let Some(base) = output::top(context, avps.base_uri) else { return done(false) };
    let whitelist = output::top(context, avps.whitelist);
    let place = place.to_str().into_owned();
    let numbers: Vec<i64> = place.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [group, prefix, at, flags] = numbers.as_slice() else { return done(false) };
    let (Ok(group), Ok(prefix), Ok(at), Ok(flags)) =
        (i32::try_from(*group), usize::try_from(*prefix), usize::try_from(*at), u8::try_from(*flags))
    else {
        return done(false);
    };
    output::clear(context, &partition);
    let job = Job { own, partitions: Vec::new(), vars, group: Some(group), flags, whitelist, base, is_wildcard: false };
    attempt(context, job, partition, group, Position { prefix, place: at }.next(), 0)
}
