//! Module `group`: membership of users in groups, by a table in SQL, or by regular expressions on their URI that are kept
//! in memory. Groups on a RADIUS or Diameter server are not here.

mod functions;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use tandem_module::context::write_log;
use tandem_module::db::Db;
use tandem_module::declare::{Function, Setup};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::regex::PosixRegex;
use tandem_script::surface::ArgType::{Text, VarOut};
use tandem_script::surface::{ParamSpec, Routes, arg};
use tandem_script::vm::LogLevel;

use crate::core::db_load::{self, int_of, text_of};
use crate::core::table::{function, int, text};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "group",
    doc: "groups of users, by tables in SQL",
    params: PARAMS,
    functions: FUNCTIONS,
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "the database; db_default_url when unset"),
    text("table", "grp", "table with users and their groups"),
    text("user_column", "username", "column of that table"),
    text("domain_column", "domain", "column of that table"),
    text("group_column", "grp", "column of that table"),
    int("use_domain", "1", "whether the domain counts, too; 0 for scripts of 2.4 and, where it can be seen, of 3.x"),
    text("re_table", "", "table with regular expressions; empty: none"),
    text("re_exp_column", "reg_exp", "column of re_table"),
    text("re_gid_column", "group_id", "column of re_table"),
    int("multiple_gid", "1", "0: db_get_user_group() gives only the first group that fits"),
];

static FUNCTIONS: &[Function] = &[
    function(
        "db_is_user_in",
        &[arg("uri", Text), arg("group", Text)],
        Routes::REQUEST.or(Routes::FAILURE),
        "whether the user of a URI, of \"Request-URI\", \"To\", \"From\" or of the \"Credentials\" is in a group",
        functions::is_user_in,
    ),
    function(
        "db_get_user_group",
        &[arg("uri", Text), arg("output_avp", VarOut)],
        Routes::REQUEST.or(Routes::FAILURE),
        "the groups whose regular expressions fit the user",
        functions::user_group,
    ),
];

/// Rows of `re_table` that are read at most.
const EXPRESSIONS_MAX: u32 = 100_000;
const TABLE_VERSIONS: [i64; 1] = [3];
const RE_TABLE_VERSIONS: [i64; 1] = [2];

/// State of the module.
struct Group {
    url: String,
    table: String,
    user_column: String,
    domain_column: String,
    group_column: String,
    uses_domain: bool,
    re_table: Option<String>,
    re_columns: [String; 2],
    gives_all: bool,
    db: OnceLock<Arc<dyn Db>>,
    /// In the order in which they are tried: the last row first.
    expressions: OnceLock<Vec<(PosixRegex, i32)>>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let url = params.text("db_url").or_else(|| setup.settings.db_default_url.clone());
    let url =
        url.ok_or_else(|| SetupError::new("db_url is not set: modparam(\"group\", \"db_url\", \"sqlite:///path\")"))?;
    let state = Group {
        url,
        table: params.text_or("table", "grp"),
        user_column: params.text_or("user_column", "username"),
        domain_column: params.text_or("domain_column", "domain"),
        group_column: params.text_or("group_column", "grp"),
        uses_domain: params.int("use_domain", i32::from(!setup.settings.predates_v4_0)) != 0,
        re_table: params.text("re_table").filter(|table| !table.is_empty()),
        re_columns: [params.text_or("re_exp_column", "reg_exp"), params.text_or("re_gid_column", "group_id")],
        gives_all: params.int("multiple_gid", 1) != 0,
        db: OnceLock::new(),
        expressions: OnceLock::new(),
    };
    setup.state(state);
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    start(node)
}

/// Opens the database and reads the expressions, once the driver is there.
fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Group>() else { return Ok(()) };
    if own.db.get().is_some() {
        return Ok(());
    }
    let Some(db) = db_load::open(node, "db_url", &own.url)? else { return Ok(()) };
    if own.db.set(db.clone()).is_err() {
        return Ok(());
    }
    db_load::load_at_start(node, "group", Box::pin(async move { own.load(&*db).await }))
}

impl Group {
    async fn load(&self, db: &dyn Db) -> Result<(), String> {
        if !self.table.is_empty() {
            db_load::version(db, &self.table, &TABLE_VERSIONS).await?;
        }
        let Some(table) = &self.re_table else { return Ok(()) };
        db_load::version(db, table, &RE_TABLE_VERSIONS).await?;
        let columns = [self.re_columns[0].as_str(), self.re_columns[1].as_str()];
        let rows = db_load::read_all(db, table, &columns, None, EXPRESSIONS_MAX).await?;
        let mut all = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let parsed = text_of(row, 0).filter(|text| !text.is_empty()).and_then(|text| PosixRegex::new(&text).ok());
            match (parsed, int_of(row, 1).and_then(|group| i32::try_from(group).ok())) {
                (Some(regex), Some(group)) => all.push((regex, group)),
                _ => {
                    let shown = String::from_utf8_lossy(&text_of(row, 0).unwrap_or_default()).into_owned();
                    let text = format!(
                        "group: row {} of '{table}' ('{shown}') is left out: no regular expression, or no group number",
                        at + 1
                    );
                    write_log(LogLevel::Error, &text);
                }
            }
        }
        all.reverse();
        let _ = self.expressions.set(all);
        Ok(())
    }
}
