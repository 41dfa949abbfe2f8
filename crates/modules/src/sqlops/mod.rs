//! Module `sqlops`: SQL from the script: text queries, structured queries, user preferences. No statement blocks a
//! worker: the run is parked until the answer is there, with or without `async()`.

mod databases;
mod preferences;
mod query;
mod startup;
mod structured;
#[cfg(test)]
pub(crate) mod tests;

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::Function;
use tandem_script::surface::ArgType::{Int, Raw, Text};
use tandem_script::surface::{ArgSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::vm::Arg;

use crate::core::table::{async_function, function, list_param, param};

pub(crate) use databases::{Databases, ask, lookup, open_at_start};
pub(crate) use preferences::{delete as delete_preferences, load as load_preferences, store as store_preferences};
pub(crate) use query::{query, script_value};
pub(crate) use startup::{check_tables, check_tables_of, wait};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "sqlops",
    doc: "SQL queries from the script",
    params: PARAMS,
    functions: FUNCTIONS,
    setup: |setup| {
        let databases = Databases::new(setup, "sqlops", "usr_table", true)?;
        setup.state(Sqlops(databases));
        Ok(())
    },
    init: |node| node.state::<Sqlops>().map_or(Ok(()), |sqlops| sqlops.0.check(node)),
    ..ModuleDecl::EMPTY
};

struct Sqlops(Databases);

static PARAMS: &[ParamSpec] = &[
    list_param(
        "db_url",
        ParamType::Text,
        "a database, a number before its URL names it: \"1 sqlite:///path\"; 0 without",
    ),
    param("usr_table", ParamType::Text, "usr_preferences", "table of sql_avp_load(), _store(), _delete()"),
    list_param(
        "db_scheme",
        ParamType::Text,
        "another table for them: name:table=t;uuid_col=c;value_col=c;value_type=string",
    ),
    param("use_domain", ParamType::Int, "1", "whether a URI selects preferences by its domain, too"),
    param(
        "ps_id_max_buf_len",
        ParamType::Int,
        "1024",
        "accepted, no effect: statements are prepared and kept by the driver",
    ),
    param(
        "bigint_to_str",
        ParamType::Int,
        "0",
        "1: integers beyond 32 bits become text instead of losing their upper bits",
    ),
    param("uuid_column", ParamType::Text, "uuid", "column of usr_table"),
    param("username_column", ParamType::Text, "username", "column of usr_table"),
    param("domain_column", ParamType::Text, "domain", "column of usr_table"),
    param("attribute_column", ParamType::Text, "attribute", "column of usr_table: name of the AVP"),
    param("value_column", ParamType::Text, "value", "column of usr_table"),
    param("type_column", ParamType::Text, "type", "column of usr_table: 2 text, 0 integer"),
];

const QUERY: &[ArgSpec] = &[arg("query", Text), opt("avps", Raw), opt("db_id", Int)];
const SELECT: &[ArgSpec] = &[
    opt("columns", Text),
    arg("table", Text),
    opt("filter", Text),
    opt("order", Text),
    opt("results", Raw),
    opt("db_id", Int),
];
const NEW_ROW: &[ArgSpec] = &[arg("table", Text), arg("columns", Text), opt("db_id", Int)];
const PREFERENCE: &[ArgSpec] = &[arg("source", Raw), arg("name", Raw), opt("db_id", Int)];

macro_rules! with {
    ($run:path) => {
        |context: &mut Context, args: &[Arg]| -> Called {
            match context.node.state::<Sqlops>() {
                Some(sqlops) => $run(&sqlops.0, context, args),
                None => Called::Done(-1),
            }
        }
    };
}

static FUNCTIONS: &[Function] = &[
    async_function(
        "sql_query",
        QUERY,
        Routes::ANY,
        "runs a query; columns go to AVPs, the first row on top; 1 rows, -2 none, -1 error. Escape what is not yours: {s.escape.common}",
        with!(query::query),
    ),
    async_function(
        "sql_query_one",
        &[arg("query", Text), opt("vars", Raw), opt("db_id", Int)],
        Routes::ANY,
        "runs a query; the first row goes to variables of any kind; 1 a row, -2 none, -1 error",
        with!(query::query_one),
    ),
    async_function(
        "sql_query_bound",
        &[arg("query", Text), arg("values", Raw), opt("avps", Raw), opt("db_id", Int)],
        Routes::ANY,
        "Tandem only: as sql_query(), each ? stands for one of the variables, whose values never become SQL",
        with!(query::query_bound),
    ),
    async_function(
        "sql_select",
        SELECT,
        Routes::ANY,
        "SELECT with JSON columns and filter; results as sql_query()",
        with!(structured::select),
    ),
    async_function(
        "sql_select_one",
        SELECT,
        Routes::ANY,
        "the same for one row; results as sql_query_one()",
        with!(structured::select_one),
    ),
    async_function(
        "sql_update",
        &[arg("columns", Text), arg("table", Text), opt("filter", Text), opt("db_id", Int)],
        Routes::ANY,
        "UPDATE with JSON columns and filter",
        with!(structured::update),
    ),
    async_function("sql_insert", NEW_ROW, Routes::ANY, "INSERT with JSON columns", with!(structured::insert)),
    async_function("sql_replace", NEW_ROW, Routes::ANY, "REPLACE with JSON columns", with!(structured::replace)),
    async_function(
        "sql_delete",
        &[arg("table", Text), opt("filter", Text), opt("db_id", Int)],
        Routes::ANY,
        "DELETE with a JSON filter",
        with!(structured::delete),
    ),
    function(
        "sql_avp_load",
        &[arg("source", Raw), arg("name", Raw), opt("db_id", Int), opt("prefix", Text)],
        Routes::ANY,
        "loads preferences of a user into AVPs; 1 when there were some",
        with!(preferences::load),
    ),
    function(
        "sql_avp_store",
        PREFERENCE,
        Routes::ANY,
        "stores AVPs as preferences of a user",
        with!(preferences::store),
    ),
    function("sql_avp_delete", PREFERENCE, Routes::ANY, "deletes preferences of a user", with!(preferences::delete)),
];
