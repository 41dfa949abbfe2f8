//! What a database has and how it differs from what OpenSIPS' modules expect; upgrades of tables that only lack columns. It
//! removes nothing and moves no data.

use tandem_module::db::{Db, DbError, DbOp, DbValue, Statement};

use super::{Column, ColumnType, SchemaError, TABLES, Table, column_ddl, ddl, dialect, tables, version};
use crate::render::{Dialect, quote_identifier};

/// Something about a table that is not as it should be, or that is worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The table is not there.
    NoTable,
    /// It is there, but the `version` table does not know it.
    NoVersion,
    /// It has a version that no release since 2.4 has.
    UnknownVersion(i64),
    /// It is of an older release, which is fine.
    Older {
        /// Its version.
        version: i64,
        /// The releases that have it.
        releases: &'static str,
    },
    /// A column is missing.
    NoColumn(&'static str),
    /// A column is of a kind that cannot hold its values.
    OtherType {
        /// The column.
        column: &'static str,
        /// Its type there.
        found: String,
        /// The kind it should be.
        expected: &'static str,
    },
    /// A column is there which OpenSIPS does not have; it is left alone.
    ExtraColumn(String),
}

impl Difference {
    /// Whether a module would fail with it.
    pub fn is_error(&self) -> bool {
        !matches!(self, Difference::Older { .. } | Difference::ExtraColumn(_))
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::NoTable => f.write_str("is missing (tandem db init creates it)"),
            Difference::NoVersion => f.write_str("has no row in the table 'version' (tandem db init adds it)"),
            Difference::UnknownVersion(version) => {
                write!(f, "has version {version}, which no release from 2.4 to 4.0 has")
            }
            Difference::Older { version, releases } => {
                write!(f, "has version {version} of OpenSIPS {releases}: accepted")
            }
            Difference::NoColumn(column) => write!(f, "lacks the column '{column}' (tandem db migrate may add it)"),
            Difference::OtherType { column, found, expected } => {
                write!(f, "has the column '{column}' as {found}, expected is {expected}")
            }
            Difference::ExtraColumn(column) => write!(f, "has a column '{column}' more, which is left alone"),
        }
    }
}

/// Looks at a table; no difference means it is as OpenSIPS 4.0 has it.
///
/// # Errors
/// Of the database.
pub async fn compare(db: &dyn Db, table: &Table) -> Result<Vec<Difference>, SchemaError> {
    let failed = |error| SchemaError::Db { database: db.name().to_owned(), error };
    let there = columns(db, table.name).await.map_err(failed)?;
    if there.is_empty() {
        return Ok(vec![Difference::NoTable]);
    }
    let mut found = Vec::new();
    let mut lacking: &[&str] = &[];
    if table.name != tables::VERSION.name {
        match version(db, table.name).await {
            Ok(Some(version)) if version == table.version => {}
            Ok(Some(version)) => match table.older.iter().find(|older| older.version == version) {
                Some(older) => {
                    lacking = older.missing;
                    found.push(Difference::Older { version, releases: older.releases });
                }
                None => found.push(Difference::UnknownVersion(version)),
            },
            // Without the `version` table no table has a version.
            Ok(None) | Err(DbError::Refused(_)) => found.push(Difference::NoVersion),
            Err(error) => return Err(failed(error)),
        }
    }
    for column in table.columns.iter().filter(|column| !lacking.contains(&column.name)) {
        match there.iter().find(|(name, _)| name.eq_ignore_ascii_case(column.name)) {
            None => found.push(Difference::NoColumn(column.name)),
            Some((_, kind)) if !holds(column.kind, kind) => found.push(Difference::OtherType {
                column: column.name,
                found: kind.clone(),
                expected: expected(column.kind),
            }),
            Some(_) => {}
        }
    }
    let extra =
        there.iter().filter(|(name, _)| !table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)));
    found.extend(extra.map(|(name, _)| Difference::ExtraColumn(name.clone())));
    Ok(found)
}

/// Name and type of the columns of a table, in order; none when there is no such table.
async fn columns(db: &dyn Db, table: &str) -> Result<Vec<(String, String)>, DbError> {
    let query: &[u8] = match dialect(db) {
        Dialect::Sqlite => b"SELECT name, type FROM pragma_table_info(?)",
        Dialect::MySql => {
            b"SELECT column_name, data_type FROM information_schema.columns \
              WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position"
        }
        Dialect::Postgres => {
            b"SELECT column_name::text, data_type::text FROM information_schema.columns \
              WHERE table_schema = ANY (current_schemas(false)) AND table_name = ? ORDER BY ordinal_position"
        }
    };
    let rows = db.run(Statement::Bound(query.to_vec(), vec![DbValue::from(table)])).await?;
    let text = |value: Option<&DbValue>| {
        let text = value.and_then(DbValue::to_text).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    Ok(rows.rows.iter().map(|row| (text(row.first()), text(row.get(1)).to_ascii_lowercase())).collect())
}

/// Whether a column of the server's type can hold values of a kind. SQLite columns hold anything.
fn holds(kind: ColumnType, found: &str) -> bool {
    let is_number = ["int", "serial", "bit", "dec", "numeric", "bool", "float", "double", "real"];
    let is_bytes = ["blob", "bytea", "text", "binary"];
    let is_text = ["char", "text", "enum", "json", "blob", "string"];
    let is_moment = ["date", "time"];
    let any: &[&str] = match kind {
        ColumnType::Char(_) | ColumnType::Text => &is_text,
        ColumnType::Blob => &is_bytes,
        ColumnType::DateTime => &is_moment,
        _ => &is_number,
    };
    found.is_empty() || any.iter().any(|word| found.contains(word))
}

fn expected(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Char(_) | ColumnType::Text => "text",
        ColumnType::Blob => "bytes",
        ColumnType::DateTime => "a date with time",
        ColumnType::Float | ColumnType::Double => "a floating number",
        _ => "an integer",
    }
}

/// What [`migrate`] did to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The table.
    pub table: &'static str,
    /// Columns that were added.
    pub added: Vec<&'static str>,
    /// Its version before, if it had one; now it is that of OpenSIPS 4.0.
    pub from: Option<i64>,
}

/// Brings the tables that are there to the versions of OpenSIPS 4.0: adds the columns they lack, then notes the version.
/// An OpenSIPS of the older release no longer starts with such a table. Tables that are missing stay missing.
///
/// # Errors
/// [`SchemaError::Db`]; tables before the one that failed are done.
pub async fn migrate(db: &dyn Db, only: &[&str]) -> Result<Vec<Migrated>, SchemaError> {
    let failed = |error| SchemaError::Db { database: db.name().to_owned(), error };
    let dialect = dialect(db);
    let mut done = Vec::new();
    for sql in ddl(&tables::VERSION, dialect).map_err(failed)? {
        db.run(Statement::Raw(sql.into_bytes())).await.map_err(failed)?;
    }
    let wanted = TABLES.iter().filter(|table| only.is_empty() || only.contains(&table.name));
    for table in wanted.filter(|table| table.name != tables::VERSION.name) {
        let there = columns(db, table.name).await.map_err(failed)?;
        if there.is_empty() {
            continue;
        }
        let from = version(db, table.name).await.map_err(failed)?;
        if from.is_some_and(|from| !table.knows(from)) {
            let (table, found) = (table.name.to_owned(), from.unwrap_or_default());
            return Err(SchemaError::UnknownVersion { database: db.name().to_owned(), table, found });
        }
        let lacks = |column: &&Column| !there.iter().any(|(name, _)| name.eq_ignore_ascii_case(column.name));
        let mut added = Vec::new();
        for column in table.columns.iter().filter(lacks) {
            db.run(Statement::Raw(add_column(table, column, dialect).map_err(failed)?.into_bytes()))
                .await
                .map_err(failed)?;
            added.push(column.name);
        }
        if from != Some(table.version) {
            note_version(db, table, from.is_some()).await.map_err(failed)?;
        }
        if !added.is_empty() || from != Some(table.version) {
            done.push(Migrated { table: table.name, added, from });
        }
    }
    Ok(done)
}

fn add_column(table: &Table, column: &Column, dialect: Dialect) -> Result<String, DbError> {
    let mut sql = String::from("ALTER TABLE ");
    quote_identifier(&mut sql, table.name, dialect)?;
    sql.push_str(" ADD COLUMN ");
    column_ddl(&mut sql, column, dialect)?;
    Ok(sql)
}

async fn note_version(db: &dyn Db, table: &Table, is_listed: bool) -> Result<(), DbError> {
    let name = ("table_name".to_owned(), DbValue::from(table.name));
    let version = ("table_version".to_owned(), DbValue::Int(table.version));
    let versions = tables::VERSION.name.to_owned();
    let statement = if is_listed {
        Statement::Update { table: versions, values: vec![version], keys: vec![(name.0, DbOp::Eq, name.1)] }
    } else {
        Statement::Insert { table: versions, values: vec![name, version] }
    };
    db.run(statement).await.map(|_| ())
}
