//! Module `cfgutils`: sleep, random decisions, shared variables, locks, time. Nothing here blocks a thread: waits suspend the run.

mod functions;
mod locks;
#[cfg(test)]
mod tests;
pub(crate) mod time_rec;
mod variables;

pub(crate) use functions::shuffle_avps;
use hashbrown::HashMap;
use parking_lot::RwLock;
use tandem_module::ModuleDecl;
use tandem_module::declare::{Function, SetupError, Variable};
use tandem_script::surface::ArgType::{Int, Static, Text, Var, VarOut};
use tandem_script::surface::NameRule::{Named, Plain};
use tandem_script::surface::{ArgSpec, CommandSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::value::{Text as Bytes, Value};

use crate::core::table::{async_function, command, function, list_param, param, variable, writable};

/// Shared variables a process keeps; further names are refused.
pub const SHARED_MAX: usize = 100_000;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "cfgutils",
    doc: "sleep, random decisions, shared variables, locks, time",
    params: PARAMS,
    functions: FUNCTIONS,
    variables: VARIABLES,
    commands: COMMANDS,
    setup,
    init: functions::init,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    param("initial_probability", ParamType::IntOrText, "10", "probability of rand_event() at the start, in percent"),
    list_param("shvset", ParamType::Text, "a shared variable at the start: `name=i:1` or `name=s:text`"),
    list_param("varset", ParamType::Text, "accepted, no effect: set $var in the startup route"),
    param("shv_hash_size", ParamType::Int, "64", "accepted, no effect"),
    param("lock_pool_size", ParamType::Int, "32", "number of locks that the keys of get_dynamic_lock() share"),
    param("hash_file", ParamType::Text, "", "accepted, no effect"),
];

const KEY: &[ArgSpec] = &[arg("key", Text)];
const STATIC_KEY: &[ArgSpec] = &[arg("key", Static)];
const TIME: &[ArgSpec] = &[arg("time", Int)];

static FUNCTIONS: &[Function] = &[
    function(
        "rand_event",
        &[opt("probability", Int)],
        Routes::ANY,
        "true with the set probability in percent",
        functions::rand_event,
    ),
    function(
        "rand_set_prob",
        &[arg("probability", Int)],
        Routes::ANY,
        "sets the probability",
        functions::rand_set_prob,
    ),
    function("rand_reset_prob", &[], Routes::ANY, "the initial probability", functions::rand_reset_prob),
    function("rand_get_prob", &[], Routes::ANY, "the probability as code", functions::rand_get_prob),
    async_function("sleep", TIME, Routes::ANY, "waits so many seconds", functions::sleep),
    async_function("usleep", TIME, Routes::ANY, "waits so many microseconds", functions::usleep),
    function("abort", &[], Routes::ANY, "accepted, no effect but an error in the log", functions::abort),
    function("pkg_status", &[], Routes::ANY, "accepted, no effect", functions::nothing),
    function("shm_status", &[], Routes::ANY, "accepted, no effect", functions::nothing),
    function(
        "set_count",
        &[arg("set", Var), arg("result", VarOut)],
        Routes::ANY,
        "number of values",
        functions::set_count,
    ),
    function(
        "set_select_weight",
        &[arg("set", Var)],
        Routes::ANY,
        "index of a value drawn by weight",
        functions::select_weight,
    ),
    function(
        "ts_usec_delta",
        &[
            arg("t1_sec", Int),
            arg("t1_usec", Int),
            arg("t2_sec", Int),
            arg("t2_usec", Int),
            opt("delta_str", VarOut),
            opt("delta_int", VarOut),
        ],
        Routes::ANY,
        "microseconds between two moments",
        functions::ts_usec_delta,
    ),
    function(
        "get_accurate_time",
        &[arg("sec", VarOut), arg("usec", VarOut), opt("text", VarOut)],
        Routes::ANY,
        "the time now",
        functions::accurate_time,
    ),
    function(
        "check_time_rec",
        &[arg("recurrence", Text), opt("timestamp", Text)],
        Routes::ANY,
        "whether a moment lies in a time recurrence: 1, -1, -2 when it cannot be understood",
        time_rec::check,
    ),
    function("get_static_lock", STATIC_KEY, Routes::ANY, "waits for a lock of its own per key", locks::lock_static),
    function("release_static_lock", STATIC_KEY, Routes::ANY, "gives it back", locks::release_static),
    function("get_dynamic_lock", KEY, Routes::ANY, "waits for one of the shared locks", locks::lock_dynamic),
    function("release_dynamic_lock", KEY, Routes::ANY, "gives it back", locks::release_dynamic),
    function(
        "strings_share_lock",
        &[arg("key1", Text), arg("key2", Text)],
        Routes::ANY,
        "whether two keys share a lock",
        locks::share_lock,
    ),
    function(
        "shuffle_avps",
        &[arg("avp", Var)],
        Routes::ANY,
        "puts the values of an AVP in random order",
        functions::shuffle,
    ),
];

static VARIABLES: &[Variable] = &[
    writable("shv", Named, "a variable that all workers share", variables::shared, variables::set_shared),
    variable("RANDOM", Plain, "a random number", variables::random),
    variable("env", Named, "an environment variable", variables::environment),
    variable(
        "ctime",
        Named,
        "a part of the local time: sec min hour mday mon year wday yday isdst",
        variables::local_time,
    ),
];

static COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        aliases: &["rand_set_prob"],
        ..command("cfgutils:rand_set_prob", &["prob_proc"], "sets the probability of rand_event()")
    },
    CommandSpec {
        aliases: &["rand_reset_prob"],
        ..command("cfgutils:rand_reset_prob", &[], "the initial probability")
    },
    CommandSpec {
        aliases: &["rand_get_prob"],
        ..command("cfgutils:rand_get_prob", &[], "the probability of rand_event()")
    },
    CommandSpec {
        aliases: &["shv_set"],
        ..command("cfgutils:shv_set", &["name", "type", "value"], "sets a shared variable (int or str)")
    },
    CommandSpec { aliases: &["shv_get"], ..command("cfgutils:shv_get", &["name?"], "one or all shared variables") },
];

/// State of the module.
pub(crate) struct State {
    probability: std::sync::atomic::AtomicI32,
    initial_probability: i32,
    shared: RwLock<HashMap<Bytes, Value>>,
    locks: locks::Locks,
}

fn setup(setup: &mut tandem_module::declare::Setup<'_>) -> Result<(), SetupError> {
    let initial = setup.params.int("initial_probability", 10);
    if !(0..=100).contains(&initial) {
        return Err(SetupError::param("initial_probability", "has to be between 0 and 100"));
    }
    let pool = setup.params.int("lock_pool_size", 32);
    if pool < 1 || pool & (pool - 1) != 0 {
        return Err(SetupError::param("lock_pool_size", "has to be a power of 2"));
    }
    let mut shared = HashMap::new();
    for (at, line) in setup.params.all("shvset").iter().enumerate() {
        let (name, value) =
            parse_set(line).ok_or_else(|| SetupError::param_at("shvset", at, "is not name=i:1 or name=s:text"))?;
        shared.insert(name, value);
    }
    setup.state(State {
        probability: initial.into(),
        initial_probability: initial,
        shared: RwLock::new(shared),
        locks: locks::Locks::new(pool as u64),
    });
    Ok(())
}

/// `name=i:1` or `name=s:text`.
fn parse_set(line: &str) -> Option<(Bytes, Value)> {
    let (name, rest) = line.split_once('=')?;
    let (kind, value) = rest.split_once(':')?;
    let value = match kind.trim() {
        "i" | "I" => Value::Int(value.trim().parse().ok()?),
        "s" | "S" => Value::from(value),
        _ => return None,
    };
    Some((Bytes::from(name.trim()), value))
}
