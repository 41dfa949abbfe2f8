//! Module `rr`: record routing and loose routing (RFC 3261 §16.4, §16.6, §16.12). The Record-Route header itself is written
//! when the request leaves, because its address depends on the listener (`tandem_module::outgoing`).

mod loose;
mod record;
#[cfg(test)]
mod tests;

use tandem_module::ModuleDecl;
use tandem_module::context::Context;
use tandem_module::declare::{Function, VarCall, Variable};
use tandem_script::surface::ArgType::{Regex, Text};
use tandem_script::surface::NameRule::Plain;
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::value::Value;

use crate::core::table::{function, param, part_value, variable};

pub use loose::{Direction, direction, own_params};
pub use record::add_param;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "rr",
    doc: "record routing and loose routing",
    params: PARAMS,
    functions: FUNCTIONS,
    variables: VARIABLES,
    setup: |setup| {
        setup.state(Settings {
            appends_from_tag: setup.params.int("append_fromtag", 1) != 0,
            is_double: setup.params.int("enable_double_rr", 1) != 0,
            adds_username: setup.params.int("add_username", 0) != 0,
            ignored_user: setup.params.text_or("ignore_user", "").into_bytes(),
        });
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

/// Parameters of the module.
pub(crate) struct Settings {
    appends_from_tag: bool,
    is_double: bool,
    adds_username: bool,
    /// `ignore_user`; empty for none.
    ignored_user: Vec<u8>,
}

static PARAMS: &[ParamSpec] = &[
    param("append_fromtag", ParamType::Int, "1", "put the From tag into Record-Route as ftag=, for is_direction()"),
    param(
        "enable_double_rr",
        ParamType::Int,
        "1",
        "take off two of our Routes at once when they belong together (r2=on)",
    ),
    param("add_username", ParamType::Int, "0", "1: our Record-Route carries the user of the received Request-URI"),
    param("ignore_user", ParamType::Text, "", "Routes with this user are not ours, whatever their host (2.4)"),
    param("enable_full_lr", ParamType::Int, "0", "accepted, no effect: `lr` is written without a value"),
    param("enable_socket_mismatch_warning", ParamType::Int, "1", "accepted, no effect"),
];

const RECORDING: Routes = Routes::REQUEST.or(Routes::BRANCH).or(Routes::FAILURE);

static FUNCTIONS: &[Function] = &[
    function(
        "loose_route",
        &[],
        Routes::REQUEST,
        "takes off our Route and sets the next hop from the one below it; -1 when the Request-URI decides",
        loose::loose_route,
    ),
    function(
        "record_route",
        &[opt("params", Text)],
        RECORDING,
        "adds a Record-Route of this server",
        record::record_route,
    ),
    function(
        "record_route_preset",
        &[arg("first", Text), opt("second", Text)],
        RECORDING,
        "adds a Record-Route with a given address",
        record::record_route_preset,
    ),
    function(
        "add_rr_param",
        &[arg("param", Text)],
        RECORDING,
        "adds a parameter to our Record-Route",
        record::add_rr_param,
    ),
    function(
        "check_route_param",
        &[arg("re", Regex)],
        Routes::REQUEST,
        "whether the parameters of our Route match, after loose_route()",
        loose::check_route_param,
    ),
    function(
        "is_direction",
        &[arg("dir", Text)],
        Routes::REQUEST,
        "whether the request goes `upstream` or `downstream`, after loose_route()",
        loose::is_direction,
    ),
];

static VARIABLES: &[Variable] =
    &[variable("rr_params", Plain, "parameters of our Route, after loose_route()", rr_params)];

fn rr_params(context: &mut Context, _: &VarCall<'_>) -> Value {
    part_value(&context.message, own_params(context))
}
