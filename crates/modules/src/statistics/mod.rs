//! Module `statistics`: statistics that scripts define and change. Export is elsewhere.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::{Mutex, RwLock};
use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, SetupError, VarCall, arg_int, arg_text, arg_var};
use tandem_module::node::NodeRef;
use tandem_module::stat::Stat;
use tandem_script::surface::ArgType::{Int, Text, VarOut};
use tandem_script::surface::NameRule::Named;
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg};
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};

mod series;

use series::{AllSeries, Profile};

use crate::core::table::{done, function, list_param, writable};

/// Statistics that scripts may create at run time; further ones are refused.
pub const DYNAMIC_MAX: usize = 10_000;
/// Iterators of `stat_iter_init()` at a time.
pub const ITERATORS_MAX: usize = 100;

/// Group of statistics without one.
const GROUP: &str = "dynamic";

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "statistics",
    doc: "statistics that scripts define and change",
    params: PARAMS,
    functions: FUNCTIONS,
    variables: &[writable("stat", Named, "value of a statistic; 0 resets it", read, write)],
    setup,
    init: |node| {
        if let Some(state) = node.state::<State>() {
            for name in &state.declared {
                state.stat(node, name);
            }
        }
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    list_param("variable", ParamType::Text, "name of a statistic, with `/no_reset` when it cannot be reset"),
    list_param("stat_groups", ParamType::Text, "comma separated groups that names may be prefixed with (`group:name`)"),
    list_param(
        "stat_series_profile",
        ParamType::Text,
        "how a series adds up: `name: algorithm=accumulate|average|percentage window=SECONDS slots=N group=G percentage_factor=N`",
    ),
];

static FUNCTIONS: &[Function] = &[
    function("update_stat", &[arg("variable", Text), arg("value", Int)], Routes::ANY, "adds to a statistic", update),
    function(
        "update_stat_series",
        &[arg("profile", Text), arg("variable", Text), arg("value", Int)],
        Routes::ANY,
        "adds a value to a statistic over the window of its profile",
        update_series,
    ),
    function("reset_stat", &[arg("variable", Text)], Routes::ANY, "sets a statistic to zero", reset),
    function(
        "stat_iter_init",
        &[arg("group", Text), arg("iter", Text)],
        Routes::ANY,
        "begins a walk over the statistics of a group",
        iter_init,
    ),
    function(
        "stat_iter_next",
        &[arg("name", VarOut), arg("value", VarOut), arg("iter", Text)],
        Routes::ANY,
        "the next statistic of a walk; -1 at the end",
        iter_next,
    ),
];

struct State {
    declared: Vec<String>,
    groups: HashSet<String>,
    fixed: HashSet<String>,
    known: RwLock<HashMap<String, Arc<Stat>>>,
    iterators: Mutex<HashMap<String, Vec<(String, i64)>>>,
    series: AllSeries,
}

fn setup(setup: &mut tandem_module::declare::Setup<'_>) -> Result<(), SetupError> {
    let mut groups = HashSet::new();
    for list in setup.params.all("stat_groups") {
        groups.extend(list.split(',').map(|group| group.trim().to_owned()).filter(|group| !group.is_empty()));
    }
    let (mut declared, mut fixed) = (Vec::new(), HashSet::new());
    for (at, line) in setup.params.all("variable").iter().enumerate() {
        let (name, flag) = line.split_once('/').map_or((line.as_str(), None), |(name, flag)| (name, Some(flag)));
        match flag {
            None => {}
            Some("no_reset") => {
                fixed.insert(name.to_owned());
            }
            Some(flag) => return Err(SetupError::param_at("variable", at, format!("unknown flag '{flag}'"))),
        }
        declared.push(name.to_owned());
    }
    let mut series = AllSeries::default();
    for (at, line) in setup.params.all("stat_series_profile").iter().enumerate() {
        let profile =
            Profile::parse(line).map_err(|complaint| SetupError::param_at("stat_series_profile", at, complaint))?;
        let name = profile.name.clone();
        if !series.add_profile(profile) {
            return Err(SetupError::param_at("stat_series_profile", at, format!("a second profile '{name}'")));
        }
    }
    let (known, iterators) = (RwLock::default(), Mutex::default());
    setup.state(State { declared, groups, fixed, known, iterators, series });
    Ok(())
}

impl State {
    /// The statistic of that name, created when there is none and room for it.
    fn stat(&self, node: NodeRef, name: &str) -> Option<Arc<Stat>> {
        if let Some(stat) = self.known.read().get(name) {
            return Some(stat.clone());
        }
        let mut known = self.known.write();
        if known.len() >= DYNAMIC_MAX {
            return None;
        }
        let stat = match name.split_once(':') {
            Some((group, short)) if self.groups.contains(group) => node.stats.stat(group, short),
            Some(_) => return None,
            None => node.stats.stat(GROUP, name),
        };
        known.insert(name.to_owned(), stat.clone());
        Some(stat)
    }
}

fn update(context: &mut Context, args: &[Arg]) -> Called {
    let name = arg_text(args, 0).and_then(|name| std::str::from_utf8(name).ok());
    let (Some(name), Some(by)) = (name, arg_int(args, 1)) else { return done(false) };
    let stat = context.node.state::<State>().and_then(|state| state.stat(context.node, name));
    match stat {
        Some(stat) => {
            stat.add(i64::from(by));
            done(true)
        }
        None => {
            context.log(
                LogLevel::Error,
                &format!("update_stat(): no room for '{name}', or its group is not in stat_groups"),
            );
            done(false)
        }
    }
}

fn update_series(context: &mut Context, args: &[Arg]) -> Called {
    let text = |at| arg_text(args, at).and_then(|text| std::str::from_utf8(text).ok());
    let (Some(profile), Some(name), Some(value)) = (text(0), text(1), arg_int(args, 2)) else { return done(false) };
    let Some(state) = context.node.state::<State>() else { return done(false) };
    match state.series.update(context.node, profile, name, i64::from(value)) {
        Ok(()) => done(true),
        Err(complaint) => {
            context.log(LogLevel::Error, &format!("update_stat_series(): {complaint}"));
            done(false)
        }
    }
}

fn reset_named(context: &Context, name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let is_fixed = context.node.state::<State>().is_some_and(|state| state.fixed.contains(name));
    !is_fixed && context.node.stats.reset(name)
}

fn reset(context: &mut Context, args: &[Arg]) -> Called {
    done(arg_text(args, 0).is_some_and(|name| reset_named(context, name)))
}

fn read(context: &mut Context, call: &VarCall<'_>) -> Value {
    let name = call.name.and_then(|name| std::str::from_utf8(name).ok());
    name.and_then(|name| context.node.stats.value(name)).map_or(Value::Null, |value| Value::Int(value as i32))
}

fn write(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    value.as_int() == Some(0) && call.name.is_some_and(|name| reset_named(context, name))
}

fn iter_init(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(group), Some(iter)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let Some(state) = context.node.state::<State>() else { return done(false) };
    let group = String::from_utf8_lossy(group);
    let all = context.node.stats.snapshot().into_iter().filter(|(other, _, _)| *other == group);
    // Last first, so that the next one is popped.
    let mut list: Vec<(String, i64)> = all.map(|(_, name, value)| (name, value)).collect();
    list.reverse();
    let mut iterators = state.iterators.lock();
    let iter = String::from_utf8_lossy(iter).into_owned();
    if iterators.len() >= ITERATORS_MAX && !iterators.contains_key(&iter) {
        return done(false);
    }
    iterators.insert(iter, list);
    done(true)
}

fn iter_next(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(name), Some(value), Some(iter)) = (arg_var(args, 0), arg_var(args, 1), arg_text(args, 2)) else {
        return done(false);
    };
    let Some(state) = context.node.state::<State>() else { return done(false) };
    let iter = String::from_utf8_lossy(iter).into_owned();
    let next = state.iterators.lock().get_mut(&iter).and_then(Vec::pop);
    let Some((stat, number)) = next else {
        state.iterators.lock().remove(&iter);
        return done(false);
    };
    let is_written = context.write_var(name, Value::from(stat.as_str()));
    done(is_written && context.write_var(value, Value::Int(number as i32)))
}

#[cfg(test)]
mod tests;
