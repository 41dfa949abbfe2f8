//! A small stand-in for what modules offer, for the tests of this crate's front end.

use crate::surface::ArgType::{BranchFlag, Flag, Int, Raw, Regex, Route, Static, Text, Var, VarOut, Words};
use crate::surface::{ArgSpec, FunctionSpec, NameRule, Routes, Surface, VariableSpec, arg, opt};

const fn function(name: &'static str, args: &'static [ArgSpec]) -> FunctionSpec {
    FunctionSpec { name, args, routes: Routes::ANY, is_async: false, doc: "" }
}

const RELAY: Routes = Routes::REQUEST.or(Routes::FAILURE);

static CORE: &[FunctionSpec] = &[
    function("forward", &[opt("dest", Text)]),
    function("send", &[arg("dest", Text), opt("headers", Text)]),
    function("setflag", &[arg("flag", Flag)]),
    function("resetflag", &[arg("flag", Flag)]),
    function("isflagset", &[arg("flag", Flag)]),
    function("setbflag", &[arg("flag", BranchFlag), opt("branch", Int)]),
    function("isbflagset", &[arg("flag", BranchFlag), opt("branch", Int)]),
    function("strip", &[arg("count", Int)]),
    function("prefix", &[arg("text", Text)]),
    function("force_rport", &[]),
    function("force_send_socket", &[arg("socket", Text)]),
    function("set_advertised_address", &[arg("address", Text)]),
    function("is_myself", &[arg("host", Text), opt("port", Int)]),
    function("append_branch", &[opt("uri", Text), opt("q", Text)]),
    function("append_msg_branch", &[arg("uri", Text), opt("q", Text), opt("flags", Text)]),
    function("cache_store", &[arg("engine", Text), arg("key", Text), arg("value", Text), opt("expire", Int)]),
    function("cache_fetch", &[arg("engine", Text), arg("key", Text), arg("out", VarOut)]),
    function("cache_raw_query", &[arg("engine", Text), arg("query", Words), opt("out", Raw)]),
    function("raise_event", &[arg("name", Text), opt("names", Var), opt("values", Var)]),
    function("use_blacklist", &[arg("name", Text)]),
    function("unuse_blacklist", &[arg("name", Text)]),
    function("script_trace", &[opt("level", Int), opt("format", Text), opt("info", Text)]),
];

static MODULES: &[FunctionSpec] = &[
    FunctionSpec { routes: RELAY, ..function("t_relay", &[opt("flags", Text), opt("proxy", Text)]) },
    FunctionSpec { routes: RELAY, ..function("t_on_branch", &[arg("route", Route(crate::ast::RouteKind::Branch))]) },
    FunctionSpec { routes: RELAY, ..function("t_on_failure", &[arg("route", Route(crate::ast::RouteKind::Failure))]) },
    FunctionSpec { routes: RELAY, ..function("t_on_reply", &[arg("route", Route(crate::ast::RouteKind::OnReply))]) },
    function("is_method", &[arg("methods", Static)]),
    function("send_reply", &[arg("code", Int), arg("reason", Text)]),
    function("sl_send_reply", &[arg("code", Int), arg("reason", Text)]),
    function("lookup", &[arg("domain", Static), opt("flags", Text)]),
    function("save", &[arg("domain", Static), opt("flags", Text)]),
    function("ds_match", &[arg("pattern", Regex)]),
    function("fetch_event_params", &[arg("variables", Raw)]),
    FunctionSpec {
        is_async: true,
        ..function("wait_for_event", &[arg("event", Text), arg("filter", Var), arg("timeout", Int)])
    },
];

static MAXFWD: &[FunctionSpec] =
    &[FunctionSpec { routes: Routes::REQUEST, ..function("mf_process_maxfwd_header", &[arg("max", Int)]) }];

const VARIABLES: &[(&str, NameRule, bool)] = &[
    ("rm", NameRule::Plain, false),
    ("ru", NameRule::Plain, true),
    ("rU", NameRule::Plain, true),
    ("rd", NameRule::Plain, true),
    ("rp", NameRule::Plain, true),
    ("du", NameRule::Plain, true),
    ("fu", NameRule::Plain, false),
    ("tu", NameRule::Plain, false),
    ("ci", NameRule::Plain, false),
    ("si", NameRule::Plain, false),
    ("sp", NameRule::Plain, false),
    ("rs", NameRule::Plain, false),
    ("proto", NameRule::Plain, false),
    ("socket_in", NameRule::Both, false),
    ("hdr", NameRule::Named, false),
    ("time", NameRule::Named, false),
    ("C", NameRule::Named, false),
    ("argv", NameRule::Named, false),
    ("json", NameRule::Named, true),
    ("T_reply_code", NameRule::Plain, false),
];

/// Core functions and variables, those of `maxfwd`, and with `has_modules` those of some more modules.
pub(crate) fn surface(has_modules: bool) -> Surface {
    let mut surface = Surface::default();
    let more = if has_modules { MODULES } else { &[] };
    for spec in CORE.iter().chain(MAXFWD).chain(more) {
        surface.add_function("test", *spec);
    }
    for (name, rule, is_writable) in VARIABLES {
        surface.add_variable("test", VariableSpec { name, rule: *rule, is_writable: *is_writable, doc: "" });
    }
    surface
}
