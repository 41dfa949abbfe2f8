//! Module `auth_db`: digest authentication against a subscriber table, and checks of who may use which user name. All
//! values are bound; tables and columns come from the script.

mod authorize;
pub(crate) mod checks;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::db::{DbRows, Statement};
use tandem_module::declare::{Function, Setup};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::pvar::CompiledVar;
use tandem_script::surface::ArgType::{Text, VarOut};
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg};

use crate::auth::Side;
use crate::core::table::{function, param};
use crate::sqlops::{check_tables, lookup};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "auth_db",
    doc: "digest authentication against SQL",
    params: PARAMS,
    functions: FUNCTIONS,
    depends: &["auth"],
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    param("db_url", ParamType::Text, "", "the database; db_default_url when unset"),
    param("user_column", ParamType::Text, "username", "column of the subscriber table"),
    param("domain_column", ParamType::Text, "domain", "column of the subscriber table"),
    param("password_column", ParamType::Text, "ha1", "column with MD5 HA1, or with the password (calculate_ha1)"),
    param("password_column_2", ParamType::Text, "ha1b", "2.4: column with HA1 of user names with a domain"),
    param("hash_column_sha256", ParamType::Text, "ha1_sha256", "column with SHA-256 HA1"),
    param("hash_column_sha512t256", ParamType::Text, "ha1_sha512t256", "column with SHA-512-256 HA1"),
    param("calculate_ha1", ParamType::Int, "0", "1: password_column has the password; 0: the columns have HA1"),
    param(
        "use_domain",
        ParamType::Int,
        "1",
        "whether the domain selects the row, too; 0 for scripts of 2.4 and, where it can be seen, of 3.x",
    ),
    param("load_credentials", ParamType::Text, "", "columns that go to AVPs on success: \"$avp(x)=col;col2\""),
    param(
        "skip_version_check",
        ParamType::Int,
        "0",
        "1: the version of table subscriber is not looked at when the server starts",
    ),
    param("uri_user_column", ParamType::Text, "username", "column of the URI table"),
    param("uri_domain_column", ParamType::Text, "domain", "column of the URI table"),
    param("uri_uriuser_column", ParamType::Text, "uri_user", "column of the URI table"),
];

static FUNCTIONS: &[Function] = &[
    function(
        "www_authorize",
        &[arg("realm", Text), arg("table", Text)],
        Routes::REQUEST,
        "checks Authorization; 1, or -1 user, -2 password, -3 stale, -4 none, -5 error",
        |context, args| authorize::authorize(context, args, Side::Www),
    ),
    function(
        "proxy_authorize",
        &[arg("realm", Text), arg("table", Text)],
        Routes::REQUEST,
        "checks Proxy-Authorization; codes as www_authorize()",
        |context, args| authorize::authorize(context, args, Side::Proxy),
    ),
    function(
        "db_is_to_authorized",
        &[arg("table", Text)],
        Routes::REQUEST,
        "whether the URI table lets the authorised user use the user of To",
        |context, args| checks::is_authorized(context, args, true),
    ),
    function(
        "db_is_from_authorized",
        &[arg("table", Text)],
        Routes::REQUEST,
        "whether the URI table lets the authorised user use the user of From",
        |context, args| checks::is_authorized(context, args, false),
    ),
    function(
        "db_does_uri_exist",
        &[arg("uri", Text), arg("table", Text)],
        Routes::REQUEST,
        "whether user (and domain) of the URI are in the subscriber table",
        checks::does_uri_exist,
    ),
    function(
        "db_get_auth_id",
        &[arg("table", Text), arg("uri", Text), arg("auth", VarOut), arg("realm", VarOut)],
        Routes::REQUEST.or(Routes::FAILURE).or(Routes::LOCAL),
        "user name and realm that the URI table has for a URI",
        checks::auth_id,
    ),
];

/// State of the module.
struct AuthDb {
    url: String,
    user_column: String,
    domain_column: String,
    password_column: String,
    /// For user names with a domain.
    password_column_2: Option<String>,
    sha256_column: String,
    sha512_column: String,
    has_passwords: bool,
    uses_domain: bool,
    loads: Vec<(Arc<CompiledVar>, String)>,
    checks_version: bool,
    uri_user_column: String,
    uri_domain_column: String,
    uri_uriuser_column: String,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let is_v2_4 = setup.settings.is_v2_4;
    let url = params.text("db_url").or_else(|| setup.settings.db_default_url.clone());
    let url =
        url.ok_or_else(|| SetupError::new("db_url is not set: modparam(\"auth_db\", \"db_url\", \"sqlite:///path\")"))?;
    let mut loads = Vec::new();
    for item in params.text_or("load_credentials", "").split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let (var, column) = match item.split_once('=') {
            Some((var, column)) => (var.trim(), column.trim()),
            None => (item, item),
        };
        let var = setup.names.variable(var).map_err(|error| SetupError::param("load_credentials", error))?;
        loads.push((var, column.to_owned()));
    }
    let has_second = is_v2_4 || params.is_set("password_column_2");
    let state = AuthDb {
        url,
        user_column: params.text_or("user_column", "username"),
        domain_column: params.text_or("domain_column", "domain"),
        password_column: params.text_or("password_column", "ha1"),
        password_column_2: has_second.then(|| params.text_or("password_column_2", "ha1b")),
        sha256_column: params.text_or("hash_column_sha256", "ha1_sha256"),
        sha512_column: params.text_or("hash_column_sha512t256", "ha1_sha512t256"),
        has_passwords: params.int("calculate_ha1", 0) != 0,
        uses_domain: params.int("use_domain", i32::from(!setup.settings.predates_v4_0)) != 0,
        loads,
        checks_version: params.int("skip_version_check", 0) == 0,
        uri_user_column: params.text_or("uri_user_column", "username"),
        uri_domain_column: params.text_or("uri_domain_column", "domain"),
        uri_uriuser_column: params.text_or("uri_uriuser_column", "uri_user"),
    };
    setup.state(state);
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<AuthDb>() else { return Ok(()) };
    crate::core::db_load::open(node, "db_url", &own.url).map(|_| ())
}

/// The database has to answer before the first user asks. Tables of the script's own have no version to look at.
fn start(node: NodeRef) -> Result<(), SetupError> {
    match node.state::<AuthDb>() {
        Some(own) if own.checks_version => check_tables(node, "auth_db", &own.url, &[("subscriber", "subscriber")]),
        _ => Ok(()),
    }
}

impl AuthDb {
    /// Runs a statement; `then` gets the rows, a failure is logged and gives `code`.
    fn run(
        &self,
        context: &mut Context,
        statement: Statement,
        code: i32,
        then: impl FnOnce(&mut Context, DbRows) -> i32 + Send + 'static,
    ) -> Called {
        lookup(context, "auth_db", &self.url, statement, code, then)
    }
}
