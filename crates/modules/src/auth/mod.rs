//! Module `auth`: digest authentication (RFC 7616, RFC 8760) against values of the script, challenges, and what `auth_db`
//! needs. Nonces are made and checked without keeping more than those which were used.

mod check;
mod nonce;
mod rpid;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, Setup, arg_text};
use tandem_module::node::unix_secs;
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::pvar::CompiledVar;
use tandem_script::surface::ArgType::Text as TextArg;
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::digest::{Algorithm, Challenge};

use crate::core::table::{done, function, param};
use nonce::{Nonces, Qop};

pub use check::{
    AUTHORIZED, Attempt, GENERIC_ERROR, INVALID_PASSWORD, NO_CREDENTIALS, STALE_NONCE, Side, USER_UNKNOWN,
    authorized_user, begin, finish, ha1_of, realm,
};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "auth",
    doc: "digest authentication",
    params: PARAMS,
    functions: FUNCTIONS,
    depends: &["signaling"],
    setup,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    param(
        "secret",
        ParamType::Text,
        "",
        "key of the nonces; random when unset; the same on servers that accept each other's nonces",
    ),
    param("nonce_expire", ParamType::Int, "30", "seconds a nonce is valid"),
    param(
        "disable_nonce_check",
        ParamType::Int,
        "0",
        "1: a nonce may be used again within its time, also with the same nc",
    ),
    param("realm_prefix", ParamType::Text, "", "taken off a realm that is made from the request"),
    param("username_spec", ParamType::Text, "", "variable with the user name, for pv_*_authorize()"),
    param("password_spec", ParamType::Text, "", "variable with the password or HA1, for pv_*_authorize()"),
    param("calculate_ha1", ParamType::Int, "0", "1: password_spec holds the password; 0: it holds HA1"),
    param("rpid_prefix", ParamType::Text, "", "put before the URI of Remote-Party-ID"),
    param("rpid_suffix", ParamType::Text, rpid::SUFFIX, "put behind the URI of Remote-Party-ID"),
    param("rpid_avp", ParamType::Text, "$avp(rpid)", "variable with the URI for Remote-Party-ID"),
];

const RPID_ROUTES: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::BRANCH);

static FUNCTIONS: &[Function] = &[
    function(
        "www_challenge",
        &[arg("realm", TextArg), opt("qop", TextArg), opt("algorithms", TextArg)],
        Routes::REQUEST,
        "answers 401 with challenges and ends the script; qop auth, auth-int, both (2.4: 0 or 1)",
        |context, args| challenge(context, args, Side::Www),
    ),
    function(
        "proxy_challenge",
        &[arg("realm", TextArg), opt("qop", TextArg), opt("algorithms", TextArg)],
        Routes::REQUEST,
        "answers 407 with challenges and ends the script; qop auth, auth-int, both (2.4: 0 or 1)",
        |context, args| challenge(context, args, Side::Proxy),
    ),
    function(
        "pv_www_authorize",
        &[arg("realm", TextArg)],
        Routes::REQUEST,
        "checks Authorization against username_spec and password_spec; 1, or -1 user, -2 password, -3 stale, -4 none, -5 error",
        |context, args| authorize(context, args, Side::Www),
    ),
    function(
        "pv_proxy_authorize",
        &[arg("realm", TextArg)],
        Routes::REQUEST,
        "checks Proxy-Authorization against username_spec and password_spec; codes as pv_www_authorize()",
        |context, args| authorize(context, args, Side::Proxy),
    ),
    function(
        "consume_credentials",
        &[],
        Routes::REQUEST,
        "takes the authorised credentials out of the request; -1 when there are none",
        consume_credentials,
    ),
    function(
        "is_rpid_user_e164",
        &[],
        Routes::REQUEST,
        "whether the URI for Remote-Party-ID has a number of + and up to 15 digits",
        rpid::is_user_e164,
    ),
    function(
        "append_rpid_hf",
        &[opt("prefix", TextArg), opt("suffix", TextArg)],
        RPID_ROUTES,
        "adds Remote-Party-ID with the URI of rpid_avp",
        rpid::append,
    ),
];

/// State of the module. Neither the secret nor passwords are ever printed.
pub(crate) struct Auth {
    nonces: Nonces,
    realm_prefix: String,
    username: Option<Arc<CompiledVar>>,
    password: Option<Arc<CompiledVar>>,
    has_passwords: bool,
    rpid: rpid::Rpid,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let expire = setup.params.int("nonce_expire", 30);
    let expire_secs = u64::try_from(expire)
        .ok()
        .filter(|secs| (1..=86_400).contains(secs))
        .ok_or_else(|| SetupError::param("nonce_expire", format!("{expire} is not within 1 to 86400 seconds")))?;
    let secret = setup.params.text("secret").filter(|secret| !secret.is_empty());
    let is_checked = setup.params.int("disable_nonce_check", 0) == 0;
    let state = Auth {
        nonces: Nonces::new(secret, expire_secs, is_checked),
        realm_prefix: setup.params.text_or("realm_prefix", ""),
        username: variable(setup, "username_spec", "")?,
        password: variable(setup, "password_spec", "")?,
        has_passwords: setup.params.int("calculate_ha1", 0) != 0,
        rpid: rpid::Rpid::new(setup)?,
    };
    setup.state(state);
    Ok(())
}

/// The variable that a parameter names; `None` when it is unset, empty or NULL.
fn variable(setup: &mut Setup<'_>, name: &'static str, default: &str) -> Result<Option<Arc<CompiledVar>>, SetupError> {
    let text = setup.params.text_or(name, default);
    if text.is_empty() || text.eq_ignore_ascii_case("null") {
        return Ok(None);
    }
    setup.names.variable(&text).map(Some).map_err(|error| SetupError::param(name, error))
}

/// Algorithms of a challenge, the strongest first (RFC 8760 §2.4), MD5 when none is named.
fn algorithms(list: &[u8]) -> Option<Vec<Algorithm>> {
    let mut all = Vec::new();
    for word in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty()) {
        let algorithm = Algorithm::from_bytes(word)?;
        if !all.contains(&algorithm) {
            all.push(algorithm);
        }
    }
    if all.is_empty() {
        all.push(Algorithm::Md5);
    }
    let strength = |algorithm: &Algorithm| match algorithm {
        Algorithm::Sha512_256Sess => 0,
        Algorithm::Sha512_256 => 1,
        Algorithm::Sha256Sess => 2,
        Algorithm::Sha256 => 3,
        Algorithm::Md5Sess => 4,
        Algorithm::Md5 => 5,
    };
    all.sort_by_key(strength);
    Some(all)
}

fn challenge(context: &mut Context, args: &[Arg], side: Side) -> Called {
    let Some(auth) = context.node.state::<Auth>() else { return done(false) };
    let Some(realm) = check::realm(context, side, arg_text(args, 0).unwrap_or_default()) else {
        context.log(LogLevel::Error, "auth: no realm given and none can be made from the request");
        return done(false);
    };
    let (Some(qop), Some(algorithms)) =
        (Qop::parse(arg_text(args, 1).unwrap_or_default()), algorithms(arg_text(args, 2).unwrap_or_default()))
    else {
        context.log(LogLevel::Error, "auth: qop has to be auth, auth-int or both, algorithms those of RFC 8760");
        return done(false);
    };
    let (name, code, reason): (_, _, &[u8]) = match side {
        Side::Www => ("WWW-Authenticate: ", 401, b"Unauthorized"),
        Side::Proxy => ("Proxy-Authenticate: ", 407, b"Proxy Authentication Required"),
    };
    let stale = check::findings(context).is_stale;
    let is_plain_md5 = algorithms == [Algorithm::Md5];
    for algorithm in algorithms {
        let nonce = auth.nonces.issue(unix_secs().unsigned_abs(), algorithm, qop);
        let mut line = name.as_bytes().to_vec();
        // Clients older than RFC 8760 know MD5 without its name.
        let algorithm = Some(algorithm).filter(|_| !is_plain_md5);
        Challenge { realm: &realm, nonce: nonce.as_bytes(), algorithm, qop: qop.text(), opaque: None, stale }
            .write(&mut line);
        context.edits.lumps.append_to_reply(line);
    }
    // A challenge ends the script, as `exit` does.
    if context.answer(code, reason) { Called::Done(0) } else { done(false) }
}

fn authorize(context: &mut Context, args: &[Arg], side: Side) -> Called {
    let attempt = match begin(context, side, arg_text(args, 0).unwrap_or_default()) {
        Ok(attempt) => attempt,
        Err(code) => return Called::Done(code),
    };
    let Some((username, password, has_passwords)) = context
        .node
        .state::<Auth>()
        .and_then(|auth| Some((auth.username.as_ref()?, auth.password.as_ref()?, auth.has_passwords)))
    else {
        context.log(
            LogLevel::Error,
            "auth: pv_www_authorize() and pv_proxy_authorize() need username_spec and password_spec",
        );
        return Called::Done(GENERIC_ERROR);
    };
    let (user, secret) = (context.read_var(username).as_text(), context.read_var(password).as_text());
    let (Some(user), Some(secret)) = (user, secret) else { return Called::Done(GENERIC_ERROR) };
    let Some(found) = attempt.credentials(&context.message) else { return Called::Done(GENERIC_ERROR) };
    if !user.eq_ignore_case(found.username) {
        return Called::Done(USER_UNKNOWN);
    }
    let code = match ha1_of(&attempt, found.username, &secret, has_passwords) {
        Some(ha1) => finish(context, &attempt, &ha1),
        None => {
            context.log(LogLevel::Error, "auth: the value of password_spec is no HA1 of the algorithm asked for");
            INVALID_PASSWORD
        }
    };
    Called::Done(code)
}

fn consume_credentials(context: &mut Context, _: &[Arg]) -> Called {
    let findings = check::findings(context);
    let Some(at) = findings.authorized else {
        context.log(LogLevel::Error, "consume_credentials(): no credentials have been authorised");
        return done(false);
    };
    check::keep(context, check::Findings { authorized: None, ..findings });
    let Some(entry) = context.message.headers().get(at) else { return done(false) };
    context.edits.lumps.remove_header(entry);
    done(true)
}
