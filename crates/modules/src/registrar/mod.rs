//! Module `registrar`: `save()`, `lookup()` and their kind on the location tables (RFC 3261 §10.3). The tables belong to
//! module `usrloc`.

mod config;
mod flags;
mod gruu;
mod lookup;
mod push;
mod queries;
mod remove;
mod reply;
mod request;
mod save;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_push;
#[cfg(test)]
mod torture;
mod wake;

use tandem_location::Aor;
use tandem_module::context::{Called, Context};
use tandem_module::declare::Function;
use tandem_module::node::NodeRef;
use tandem_module::run::Pending;
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::surface::{ArgSpec, ArgType, Routes, StatSpec, arg, opt};
use tandem_script::vm::Arg;
use tandem_sip::{Scheme, Uri};

use crate::usrloc::{Domain, Usrloc};
use config::Registrar;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "registrar",
    doc: "REGISTER processing and lookup",
    params: config::PARAMS,
    functions: FUNCTIONS,
    stats: STATS,
    depends: &["usrloc", "signaling"],
    setup: config::setup,
    init,
    ..ModuleDecl::EMPTY
};

use crate::core::table::{async_function, function};

const DOMAIN: ArgSpec = arg("domain", ArgType::Static);
const QUERY_ROUTES: Routes = Routes::REQUEST
    .or(Routes::FAILURE)
    .or(Routes::BRANCH)
    .or(Routes::ONREPLY)
    .or(Routes::LOCAL)
    .or(Routes::EVENT)
    .or(Routes::TIMER)
    .or(Routes::STARTUP);

const FUNCTIONS: &[Function] = &[
    function(
        "save",
        &[DOMAIN, opt("flags", ArgType::Text), opt("aor", ArgType::Text), opt("ownership_tag", ArgType::Text)],
        Routes::REQUEST.or(Routes::ONREPLY),
        "processes a REGISTER and answers it (not with no-reply); -1 when it was refused",
        save::save,
    ),
    function(
        "lookup",
        &[DOMAIN, opt("flags", ArgType::Text), opt("aor", ArgType::Text)],
        Routes::REQUEST.or(Routes::FAILURE).or(Routes::ONREPLY),
        "puts the bindings of the request URI into it and into branches; 2 none yet, their UAs are being woken; -1 none, -2 none for this method, -3 bad address",
        lookup::lookup,
    ),
    function(
        "remove",
        &[
            DOMAIN,
            arg("aor", ArgType::Text),
            opt("contact", ArgType::Text),
            opt("next_hop", ArgType::Text),
            opt("sip_instance", ArgType::Text),
            opt("bflag", ArgType::Text),
        ],
        Routes::ANY,
        "removes bindings of an address; filters that are left out match all",
        remove::remove,
    ),
    function(
        "remove_ip_port",
        &[arg("ip", ArgType::Text), arg("port", ArgType::Int), DOMAIN, opt("aor", ArgType::Text)],
        Routes::ANY,
        "removes bindings whose next hop is that address and port",
        remove::remove_ip_port,
    ),
    function(
        "is_registered",
        &[DOMAIN, opt("aor", ArgType::Text)],
        QUERY_ROUTES,
        "whether an address (of To in a REGISTER, else of From) has a binding",
        queries::is_registered,
    ),
    function(
        "is_contact_registered",
        &[DOMAIN, opt("aor", ArgType::Text), opt("contact", ArgType::Text), opt("callid", ArgType::Text)],
        QUERY_ROUTES,
        "whether an address has a binding with that contact and Call-ID; without both: with the contact of the message",
        queries::is_contact_registered,
    ),
    function(
        "is_ip_registered",
        &[DOMAIN, opt("aor", ArgType::Text), arg("ip", ArgType::Var), opt("port", ArgType::Var)],
        QUERY_ROUTES,
        "whether an address has a binding from that IP address (and port)",
        queries::is_ip_registered,
    ),
    async_function(
        "pn_process_purr",
        &[DOMAIN],
        Routes::REQUEST,
        "wakes the UA that a request within a call is for, and waits until it registers: 1, 2 nothing to wake, -1",
        wake::process_purr,
    ),
    function(
        "add_sock_hdr",
        &[arg("hdr_name", ArgType::Text)],
        Routes::REQUEST,
        "adds a header with the receiving socket, for save() with flag s on another server",
        queries::add_sock_hdr,
    ),
];

const STATS: &[StatSpec] = &[
    StatSpec { name: "max_expires", doc: "the parameter" },
    StatSpec { name: "max_contacts", doc: "the parameter" },
    StatSpec { name: "default_expire", doc: "the parameter" },
    StatSpec { name: "accepted_regs", doc: "REGISTER requests accepted" },
    StatSpec { name: "rejected_regs", doc: "REGISTER requests refused" },
];

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(registrar) = node.state::<Registrar>() else { return Ok(()) };
    registrar.register_statistics(node);
    if let (Some(push), Some(usrloc)) = (&registrar.push, node.state::<Usrloc>()) {
        if !node.has_module("tm") {
            return Err(SetupError::param("pn_enable", "push notifications need module tm: loadmodule \"tm.so\""));
        }
        usrloc.set_push_trigger(push.trigger_secs);
    }
    Ok(())
}

type Work = fn(&mut Context, &[Arg]) -> Called;

/// The domain in argument `at`, where its bindings have to be fetched before the table is used.
fn db_only(context: &Context, args: &[Arg], at: usize) -> Option<&'static Domain> {
    let usrloc = context.node.state::<Usrloc>().filter(|usrloc| usrloc.lives_in_db_only())?;
    usrloc.domain(context.node, tandem_module::declare::arg_text(args, at)?).filter(|domain| domain.is_db_only())
}

/// Calls `work` once the bindings of `aors` are in the table of a domain that lives in the database only; with `failed` as
/// its result when the database does not give them.
fn at_hand(
    context: &Context,
    args: &[Arg],
    domain: &'static Domain,
    aors: Vec<Aor>,
    failed: i32,
    work: Work,
) -> Called {
    let args = args.to_vec();
    Pending::job(context.node, domain.fetch(aors), move |context, fetched| match fetched.flatten() {
        Some(_fetched) => work(context, &args),
        None => Called::Done(failed),
    })
}

/// Why a URI gives no address of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AorError {
    /// It is no SIP or tel URI.
    Unparsable,
    /// It has no user.
    NoUser,
    /// User, host or both are longer than the parameters allow.
    TooLong,
}

/// The record key of a URI.
fn aor_of(node: NodeRef, uri: &[u8]) -> Result<Aor, AorError> {
    let (Some(usrloc), Some(registrar)) = (node.state::<Usrloc>(), node.state::<Registrar>()) else {
        return Err(AorError::Unparsable);
    };
    let uri = Uri::parse(uri).map_err(|_| AorError::Unparsable)?;
    if uri.scheme == Scheme::Other {
        return Err(AorError::Unparsable);
    }
    let user = tandem_sip::unescape_percent(uri.user_or_empty());
    let host = registrar.without_realm_prefix(uri.host);
    if user.is_empty() && !usrloc.uses_domain() {
        return Err(AorError::NoUser);
    }
    let limits = &registrar.limits;
    if user.len() > limits.user_max || host.len() > limits.domain_max || uri.raw.len() > limits.aor_max {
        return Err(AorError::TooLong);
    }
    let aor = usrloc.aor(&user, host, registrar.is_case_sensitive);
    if aor.is_empty() { Err(AorError::NoUser) } else { Ok(aor) }
}
