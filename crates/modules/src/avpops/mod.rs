//! Module `avpops` (until 3.4): operations on AVPs with arguments as strings, and the SQL functions that became `sqlops`.
//! `avp_print()` and `avp_printf()` are core functions here.

mod arguments;
mod operations;
mod subst;
#[cfg(test)]
mod tests;

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::Function;
use tandem_script::surface::ArgType::{Int, Raw, Text};
use tandem_script::surface::{ArgSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::vm::Arg;

use crate::core::table::{async_function, function, list_param, param};
use crate::sqlops::{self, Databases};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "avpops",
    doc: "operations on AVPs (2.4)",
    params: PARAMS,
    functions: FUNCTIONS,
    setup: |setup| {
        let databases = Databases::new(setup, "avpops", "avp_table", false)?;
        setup.state(Avpops { databases, substitutions: subst::Cache::default() });
        Ok(())
    },
    init: |node| node.state::<Avpops>().map_or(Ok(()), |avpops| avpops.databases.check(node)),
    ..ModuleDecl::EMPTY
};

struct Avpops {
    databases: Databases,
    substitutions: subst::Cache,
}

static PARAMS: &[ParamSpec] = &[
    list_param(
        "db_url",
        ParamType::Text,
        "a database, a number before its URL names it: \"1 sqlite:///path\"; 0 without",
    ),
    param("avp_table", ParamType::Text, "usr_preferences", "table of avp_db_load(), _store(), _delete()"),
    list_param(
        "db_scheme",
        ParamType::Text,
        "another table for them: name:table=t;uuid_col=c;value_col=c;value_type=string",
    ),
    param("use_domain", ParamType::Int, "0", "whether a URI selects preferences by its domain, too"),
    param("buf_size", ParamType::Int, "1024", "accepted, no effect: queries are as long as they are"),
    param("uuid_column", ParamType::Text, "uuid", "column of avp_table"),
    param("username_column", ParamType::Text, "username", "column of avp_table"),
    param("domain_column", ParamType::Text, "domain", "column of avp_table"),
    param("attribute_column", ParamType::Text, "attribute", "column of avp_table: name of the AVP"),
    param("value_column", ParamType::Text, "value", "column of avp_table"),
    param("type_column", ParamType::Text, "type", "column of avp_table: 2 text, 0 integer"),
];

const PREFERENCE: &[ArgSpec] = &[arg("source", Raw), arg("name", Raw), opt("db_id", Int)];
const TWO: &[ArgSpec] = &[arg("name", Raw), arg("value", Raw)];

macro_rules! sql {
    ($run:path) => {
        |context: &mut Context, args: &[Arg]| -> Called {
            match context.node.state::<Avpops>() {
                Some(avpops) => $run(&avpops.databases, context, args),
                None => Called::Done(-1),
            }
        }
    };
}

static FUNCTIONS: &[Function] = &[
    async_function(
        "avp_db_query",
        &[arg("query", Text), opt("avps", Raw), opt("db_id", Int)],
        Routes::ANY,
        "runs a query; columns go to AVPs, the first row on top; 1 rows, -2 none, -1 error. Escape what is not yours: {s.escape.common}",
        sql!(sqlops::query),
    ),
    function(
        "avp_db_load",
        &[arg("source", Raw), arg("name", Raw), opt("db_id", Int), opt("prefix", Text)],
        Routes::ANY,
        "loads preferences of a user into AVPs; 1 when there were some",
        sql!(sqlops::load_preferences),
    ),
    function(
        "avp_db_store",
        PREFERENCE,
        Routes::ANY,
        "stores AVPs as preferences of a user",
        sql!(sqlops::store_preferences),
    ),
    function(
        "avp_db_delete",
        PREFERENCE,
        Routes::ANY,
        "deletes preferences of a user",
        sql!(sqlops::delete_preferences),
    ),
    function(
        "avp_delete",
        &[arg("name", Raw)],
        Routes::ANY,
        "deletes the top value, all with /g, all AVPs with *",
        operations::delete,
    ),
    function(
        "avp_copy",
        &[arg("old", Raw), arg("new", Raw)],
        Routes::ANY,
        "copies a value; /g all, /d deletes the old one, /s and /n convert to text or number",
        operations::copy,
    ),
    function(
        "is_avp_set",
        &[arg("name", Raw)],
        Routes::ANY,
        "whether there is a value; /s text, /n number, /e empty or 0",
        operations::is_set,
    ),
    function(
        "avp_check",
        TWO,
        Routes::ANY,
        "compares: eq ne lt le gt ge re fm and or xor, /value[/flags g i]",
        operations::check,
    ),
    function(
        "avp_op",
        TWO,
        Routes::ANY,
        "computes: add sub mul div mod and or xor not, /value[/flags g d]",
        operations::compute,
    ),
    function("avp_subst", TWO, Routes::ANY, "replaces by a regular expression: /re/text/flags", subst::call),
    function(
        "avp_pushto",
        &[arg("destination", Raw), arg("name", Raw)],
        Routes::ANY,
        "writes a value to $ru, $du or $br",
        operations::push_to,
    ),
    function(
        "avp_insert",
        &[arg("name", Raw), arg("value", Text), arg("index", Int)],
        Routes::ANY,
        "puts a value at a place, behind all others when the place is beyond",
        operations::insert,
    ),
    function(
        "avp_shuffle",
        &[arg("name", Raw)],
        Routes::ANY,
        "puts the values in random order; false when there are none",
        operations::shuffle,
    ),
];
