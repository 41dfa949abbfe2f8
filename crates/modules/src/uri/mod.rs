//! Module `uri` of 2.4: questions about URIs, and who may use which user name. Its successors are in `sipmsgops` and
//! `auth_db`.

mod checks;
#[cfg(test)]
mod tests;

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_text};
use tandem_script::surface::ArgType::{Text, VarOut};
use tandem_script::surface::{ParamSpec, Routes, arg, opt};
use tandem_script::vm::Arg;
use tandem_sip::HeaderKind;

use crate::core::table::{REQUEST_ROUTES, done, function, int, text};
use crate::sipmsgops::{questions, uri_params};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "uri",
    doc: "2.4: questions about URIs",
    params: PARAMS,
    functions: FUNCTIONS,
    setup: checks::setup,
    init: checks::init,
    start: checks::start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "the database; db_default_url when unset; without one only the checks that need none work"),
    text("db_table", "subscriber", "table of the checks; \"uri\" with use_uri_table"),
    text("user_column", "username", "column of the table"),
    text("domain_column", "domain", "column of the table"),
    text("uriuser_column", "uri_user", "column of the URI table"),
    int("use_uri_table", "0", "1: a table says who may use which user; 0: the credentials do"),
    int("use_domain", "0", "whether the domain selects rows, too, in db_does_uri_exist() and db_get_auth_id()"),
];

const SIGNED: Routes = Routes::REQUEST.or(Routes::LOCAL);

static FUNCTIONS: &[Function] = &[
    function("is_user", &[arg("username", Text)], SIGNED, "whether the credentials name that user", is_user),
    function(
        "db_check_to",
        &[],
        Routes::REQUEST,
        "whether the authorised user may use the user of To; -2 nobody was authorised, -9 not",
        |context, _| checks::check(context, true),
    ),
    function(
        "db_check_from",
        &[],
        Routes::REQUEST,
        "whether the authorised user may use the user of From; codes as db_check_to()",
        |context, _| checks::check(context, false),
    ),
    function(
        "db_does_uri_exist",
        &[],
        REQUEST_ROUTES,
        "whether the user of the Request-URI is in the table",
        checks::does_uri_exist,
    ),
    function(
        "db_get_auth_id",
        &[arg("uri", Text), arg("auth", VarOut), arg("realm", VarOut)],
        SIGNED,
        "user name and realm that the table has for a URI",
        checks::auth_id,
    ),
    function("has_totag", &[], REQUEST_ROUTES, "whether the To header has a tag", questions::has_to_tag),
    function(
        "uri_param",
        &[arg("param", Text), opt("value", Text)],
        REQUEST_ROUTES,
        "whether the Request-URI has a parameter",
        uri_params::has,
    ),
    function(
        "add_uri_param",
        &[arg("param", Text)],
        REQUEST_ROUTES,
        "adds name=value to the Request-URI",
        uri_params::add,
    ),
    function(
        "del_uri_param",
        &[arg("param", Text)],
        REQUEST_ROUTES,
        "removes a parameter of the Request-URI",
        uri_params::remove,
    ),
    function("tel2sip", &[], REQUEST_ROUTES, "makes a sip: URI of a tel: URI", uri_params::tel_to_sip),
    function(
        "is_uri_user_e164",
        &[arg("uri", Text)],
        REQUEST_ROUTES,
        "whether the user of a URI is an E.164 number",
        questions::is_user_e164,
    ),
];

/// `is_user(name)`: the user part of the credentials in the message.
fn is_user(context: &mut Context, args: &[Arg]) -> Called {
    let Some(wanted) = arg_text(args, 0) else { return done(false) };
    let message = &context.message;
    let credentials = message
        .credentials(HeaderKind::Authorization, None)
        .or_else(|| message.credentials(HeaderKind::ProxyAuthorization, None));
    done(credentials.is_some_and(|credentials| credentials.user() == wanted))
}
