//! `tandem db`: creates, checks and upgrades OpenSIPS' tables in a database. What the tables are is said in `tandem-store`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tandem_module::db::{Db, DbDriver as _, DbError};
use tandem_store::schema::inspect::{self, Difference};
use tandem_store::schema::{self, SchemaError, TABLES, Table};
use tandem_store::{MySqlDriver, PoolLimits, PostgresDriver, ServerOptions, SqliteDriver, SqliteOptions};

use crate::cli::{DbAction, DbArgs};

/// Longest time for one statement: adding a column may rewrite a large table.
const STATEMENT_MAX: Duration = Duration::from_secs(600);

/// Runs it: 0 when all is well, 1 when something is missing or failed.
pub(crate) fn run(args: &DbArgs) -> ExitCode {
    match act(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tandem db: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: &DbArgs) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (DbAction::Init(target) | DbAction::Check(target) | DbAction::Migrate(target)) = &args.action;
    let names: Vec<&str> = target.tables.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    for name in &names {
        if schema::table(name).is_none() {
            bail!("there is no table '{name}'; known are {}", known());
        }
    }
    let may_create = matches!(args.action, DbAction::Init(_));
    let db = open(&target.url, may_create, runtime.handle().clone())?;
    runtime.block_on(async {
        match &args.action {
            DbAction::Init(_) => init(&*db, &names).await,
            DbAction::Check(_) => check(&*db, &names).await,
            DbAction::Migrate(_) => migrate(&*db, &names).await,
        }
    })
}

fn known() -> String {
    TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", ")
}

fn open(url: &str, may_create: bool, handle: tokio::runtime::Handle) -> anyhow::Result<Arc<dyn Db>> {
    let servers = || ServerOptions {
        limits: PoolLimits {
            connections_max: 1,
            timeout: STATEMENT_MAX,
            connects_max: 1,
            ..ServerOptions::default().limits
        },
        ..ServerOptions::default()
    };
    let opened = match url.split(':').next() {
        Some("mysql") => MySqlDriver::new(handle, servers()).open(url),
        Some("postgres") => PostgresDriver::new(handle, servers()).open(url),
        Some("sqlite") => {
            let options = SqliteOptions { query_timeout: STATEMENT_MAX, ..SqliteOptions::default() };
            let driver = SqliteDriver::with_options(handle, options);
            if may_create { driver.create(url) } else { driver.open(url) }
        }
        _ => bail!("the URL of a database begins with mysql://, postgres:// or sqlite://"),
    };
    opened.map_err(|error| anyhow!(error))
}

/// What can be done about an error that an operator meets first.
fn explain(error: SchemaError) -> anyhow::Error {
    let is_away = matches!(&error, SchemaError::Db { error: DbError::Unavailable(_) | DbError::Timeout(_), .. });
    let error = anyhow!(error);
    if is_away {
        return error.context("the server must run, the database exist, and user and password be right");
    }
    error
}

async fn init(db: &dyn Db, names: &[&str]) -> anyhow::Result<bool> {
    let wanted: Vec<&str> =
        if names.is_empty() { TABLES.iter().map(|table| table.name).collect() } else { names.to_vec() };
    let mut is_there = Vec::new();
    for table in selected(names) {
        let found = inspect::compare(db, table).await.map_err(explain)?;
        if !found.contains(&Difference::NoTable) {
            is_there.push(table.name);
        }
    }
    schema::create(db, &wanted).await.map_err(explain)?;
    let made = wanted.iter().filter(|name| !is_there.contains(name)).count();
    println!("{}: {made} tables created, {} were there already", db.name(), is_there.len());
    check(db, names).await
}

fn selected<'a>(names: &'a [&'a str]) -> impl Iterator<Item = &'static Table> + 'a {
    TABLES.iter().filter(move |table| names.is_empty() || names.contains(&table.name))
}

/// Reports every difference. Tables that are not there count only when they were asked for.
async fn check(db: &dyn Db, names: &[&str]) -> anyhow::Result<bool> {
    let (mut is_fine, mut count, mut missing) = (true, 0, Vec::new());
    for table in selected(names) {
        let found = inspect::compare(db, table).await.map_err(explain)?;
        if found.contains(&Difference::NoTable) && names.is_empty() {
            missing.push(table.name);
            continue;
        }
        count += 1;
        for difference in &found {
            let word = if difference.is_error() { "error" } else { "note" };
            println!("{word}: table '{}' {difference}", table.name);
            is_fine &= !difference.is_error();
        }
    }
    if !missing.is_empty() {
        println!("note: not there: {}", missing.join(", "));
    }
    if count == 0 {
        println!("error: {} has no table of OpenSIPS: 'tandem db init' creates them", db.name());
        return Ok(false);
    }
    let verdict = if is_fine { "fine" } else { "not usable as it is" };
    println!("{}: {count} tables checked: {verdict}", db.name());
    Ok(is_fine)
}

async fn migrate(db: &dyn Db, names: &[&str]) -> anyhow::Result<bool> {
    let done = inspect::migrate(db, names).await.map_err(explain).context("the upgrade is not complete")?;
    for table in &done {
        let from = table.from.map_or_else(|| "without a version".to_owned(), |version| format!("of version {version}"));
        let added = if table.added.is_empty() { "no column".to_owned() } else { table.added.join(", ") };
        println!("table '{}' {from} is now as in OpenSIPS 4.0; added: {added}", table.table);
    }
    if done.is_empty() {
        println!("{}: nothing to do", db.name());
    }
    check(db, names).await
}

#[cfg(test)]
mod tests {
    use super::{DbAction, DbArgs, act};
    use crate::cli::DbTarget;

    fn args(action: fn(DbTarget) -> DbAction, url: &str, tables: &[&str]) -> DbArgs {
        let tables = tables.iter().map(|name| (*name).to_owned()).collect();
        DbArgs { action: action(DbTarget { url: url.to_owned(), tables }) }
    }

    #[test]
    fn a_file_is_made_checked_and_left_alone() -> anyhow::Result<()> {
        let path = std::env::temp_dir().join(format!("tandem-db-{}.sqlite", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let url = format!("sqlite://{}", path.display());
        assert!(act(&args(DbAction::Check, &url, &[])).is_err(), "there is no such file");
        assert!(act(&args(DbAction::Init, &url, &["subscriber"]))?);
        assert!(act(&args(DbAction::Check, &url, &[]))?);
        assert!(!act(&args(DbAction::Check, &url, &["location"]))?, "the table was not made");
        assert!(act(&args(DbAction::Init, &url, &[]))?);
        assert!(act(&args(DbAction::Migrate, &url, &["location"]))?);
        std::fs::remove_file(&path)?;
        Ok(())
    }

    #[test]
    fn wrong_names_are_told_and_no_password_is_shown() {
        let table = act(&args(DbAction::Init, "sqlite:///tmp/x", &["subscribers"]));
        assert!(table.is_err_and(|error| error.to_string().contains("subscriber,")));
        let away = args(DbAction::Check, "mysql://u:secret@127.0.0.1:9/db", &[]);
        let error = act(&away).map_err(|error| format!("{error:#}"));
        assert!(error.is_err_and(|text| text.contains("u:***@127.0.0.1:9/db") && !text.contains("secret")));
        assert!(act(&args(DbAction::Check, "oracle://x", &[])).is_err());
    }
}
