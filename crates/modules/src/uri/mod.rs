//! Module `uri` of 2.4: questions about URIs. Its successors are in `sipmsgops`; the checks against a database are not here.

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_text};
use tandem_script::surface::ArgType::Text;
use tandem_script::surface::{Routes, arg, opt};
use tandem_script::vm::Arg;
use tandem_sip::HeaderKind;

use crate::core::table::{REQUEST_ROUTES, done, function};
use crate::sipmsgops::{questions, uri_params};

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "uri", doc: "2.4: questions about URIs", functions: FUNCTIONS, ..ModuleDecl::EMPTY };

static FUNCTIONS: &[Function] = &[
    function("is_user", &[arg("username", Text)], Routes::REQUEST, "whether the credentials name that user", is_user),
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
