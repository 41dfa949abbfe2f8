//! Module `alias_db`: aliases of users in SQL, looked up with one query each; nothing is kept in memory.

mod lookup;
#[cfg(test)]
mod tests;

use tandem_module::declare::{Function, Setup};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ArgType::{Text, VarOut};
use tandem_script::surface::{ParamSpec, Routes, arg, opt};

use crate::core::table::{function, int, text};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "alias_db",
    doc: "aliases of users, by a table in SQL",
    params: PARAMS,
    functions: FUNCTIONS,
    setup,
    init,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "the database; db_default_url when unset"),
    text("user_column", "username", "column with the user"),
    text("domain_column", "domain", "column with the user's domain"),
    text("alias_user_column", "alias_username", "column with the user part of the alias"),
    text("alias_domain_column", "alias_domain", "column with the domain of the alias"),
    text("domain_prefix", "", "taken off the front of a domain before it is looked up"),
    int("append_branches", "0", "1: further users of an alias become branches"),
];

static FUNCTIONS: &[Function] = &[
    function(
        "alias_db_lookup",
        &[arg("table_name", Text), opt("flags", Text)],
        Routes::REQUEST.or(Routes::FAILURE),
        "when the request URI is an alias, the user's URI replaces it; flags: d without domain, r from user to alias",
        lookup::lookup,
    ),
    function(
        "alias_db_find",
        &[arg("table_name", Text), arg("input_uri", Text), arg("output_var", VarOut), opt("flags", Text)],
        Routes::REQUEST
            .or(Routes::BRANCH)
            .or(Routes::LOCAL)
            .or(Routes::STARTUP)
            .or(Routes::FAILURE)
            .or(Routes::ONREPLY),
        "the same for any URI; the result goes to a variable",
        lookup::find,
    ),
];

/// State of the module.
struct AliasDb {
    url: String,
    /// Columns of the user: name and domain.
    user: (String, String),
    /// Columns of the alias: name and domain.
    alias: (String, String),
    domain_prefix: String,
    appends_branches: bool,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let url = params.text("db_url").or_else(|| setup.settings.db_default_url.clone());
    let url = url
        .ok_or_else(|| SetupError::new("db_url is not set: modparam(\"alias_db\", \"db_url\", \"sqlite:///path\")"))?;
    let state = AliasDb {
        url,
        user: (params.text_or("user_column", "username"), params.text_or("domain_column", "domain")),
        alias: (
            params.text_or("alias_user_column", "alias_username"),
            params.text_or("alias_domain_column", "alias_domain"),
        ),
        domain_prefix: params.text_or("domain_prefix", ""),
        appends_branches: params.int("append_branches", 0) != 0,
    };
    setup.state(state);
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<AliasDb>() else { return Ok(()) };
    crate::core::db_load::open(node, "db_url", &own.url).map(|_| ())
}
