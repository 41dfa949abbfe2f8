//! The tables OpenSIPS scripts expect: columns, keys and versions as data, rendered for each engine; creates them and
//! checks their versions. What a database really has is looked at in [`inspect`].

pub mod inspect;
mod tables;

use std::fmt::Write as _;

use tandem_module::db::{Db, DbError, DbOp, DbValue, Statement};

use crate::render::{Dialect, quote_identifier};

pub use tables::TABLES;

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Integer that counts itself up: the primary key.
    AutoId,
    /// The same with 64 bits.
    AutoBigId,
    /// 64-bit integer given by the program: the primary key.
    BigId,
    /// 16-bit integer.
    Small,
    /// 32-bit integer.
    Int,
    /// The same without a sign, on engines that know such.
    UnsignedInt,
    /// 64-bit integer without a sign, on engines that know such.
    UnsignedBig,
    /// Floating number.
    Float,
    /// The same with double precision.
    Double,
    /// Text of at most so many characters.
    Char(u16),
    /// Longer text.
    Text,
    /// Bytes.
    Blob,
    /// Date and time.
    DateTime,
}

/// Value of a column when none is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnDefault {
    /// None: the column must be given, or is NULL.
    None,
    /// NULL, said aloud.
    Null,
    /// A number.
    Number(&'static str),
    /// Text or a date.
    Text(&'static str),
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: ColumnType,
    /// Whether NULL is refused.
    pub is_required: bool,
    /// Default.
    pub default: ColumnDefault,
}

/// An index.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Name.
    pub name: &'static str,
    /// Columns.
    pub columns: &'static [&'static str],
    /// Whether it allows each combination once.
    pub is_unique: bool,
}

/// A version of a table that older releases of OpenSIPS have.
#[derive(Clone, Copy, Debug)]
pub struct Older {
    /// Version.
    pub version: i64,
    /// Releases that have it.
    pub releases: &'static str,
    /// Columns of the newest version that it lacks.
    pub missing: &'static [&'static str],
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name, as the modules' `*_table` parameters have it by default.
    pub name: &'static str,
    /// What the `version` table must say about it (OpenSIPS 4.0); 0 for `version` itself.
    pub version: i64,
    /// Columns.
    pub columns: &'static [Column],
    /// Indexes.
    pub indexes: &'static [Index],
    /// Versions of older releases, oldest first.
    pub older: &'static [Older],
}

impl Table {
    /// Whether that is its version in any release since 2.4.
    pub fn knows(&self, version: i64) -> bool {
        self.version == version || self.older.iter().any(|older| older.version == version)
    }
}

/// What is wrong with the tables.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SchemaError {
    /// The name is none of [`TABLES`].
    #[error("table '{0}' is not known")]
    UnknownTable(String),
    /// The `version` table has no row for it, so it was never created (or under another name).
    #[error(
        "{database}: the version table does not know table '{table}' (create it first; expected version {expected})"
    )]
    NotListed {
        /// Database without password.
        database: String,
        /// Table.
        table: String,
        /// Version needed.
        expected: i64,
    },
    /// The table has been made for another release.
    #[error("{database}: table '{table}' has version {found}, expected {expected}")]
    WrongVersion {
        /// Database without password.
        database: String,
        /// Table.
        table: String,
        /// Version there.
        found: i64,
        /// Version needed.
        expected: i64,
    },
    /// The table has a version that no known release has; nobody knows what is in it.
    #[error("{database}: table '{table}' has version {found}, which no release from 2.4 to 4.0 has; it is left alone")]
    UnknownVersion {
        /// Database without password.
        database: String,
        /// Table.
        table: String,
        /// Version there.
        found: i64,
    },
    /// The database refused or did not answer.
    #[error("{database}: {error}")]
    Db {
        /// Database without password.
        database: String,
        /// Why.
        error: DbError,
    },
}

/// The table of that name.
pub fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

/// Creates `tables` (and the `version` table) where they are missing, and notes their versions. What is there already
/// stays as it is, its version too.
///
/// # Errors
/// [`SchemaError::UnknownTable`] before anything is done, or [`SchemaError::Db`].
pub async fn create(db: &dyn Db, tables: &[&str]) -> Result<(), SchemaError> {
    let dialect = dialect(db);
    let mut wanted = vec![&tables::VERSION];
    for name in tables {
        wanted.push(table(name).ok_or_else(|| SchemaError::UnknownTable((*name).to_owned()))?);
    }
    let failed = |error| SchemaError::Db { database: db.name().to_owned(), error };
    for table in wanted {
        for sql in ddl(table, dialect).map_err(failed)? {
            db.run(Statement::Raw(sql.into_bytes())).await.map_err(failed)?;
        }
        if table.name != tables::VERSION.name && version(db, table.name).await.map_err(failed)?.is_none() {
            let values = vec![
                ("table_name".to_owned(), DbValue::from(table.name)),
                ("table_version".to_owned(), table.version.into()),
            ];
            db.run(Statement::Insert { table: tables::VERSION.name.to_owned(), values }).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Checks that the `version` table has `expected` for `table`, as every OpenSIPS module does when it starts.
///
/// # Errors
/// [`SchemaError::NotListed`], [`SchemaError::WrongVersion`], [`SchemaError::Db`].
pub async fn check(db: &dyn Db, table: &str, expected: i64) -> Result<(), SchemaError> {
    let database = || db.name().to_owned();
    match version(db, table).await {
        Err(error) => Err(SchemaError::Db { database: database(), error }),
        Ok(None) => Err(SchemaError::NotListed { database: database(), table: table.to_owned(), expected }),
        Ok(Some(found)) if found != expected => {
            Err(SchemaError::WrongVersion { database: database(), table: table.to_owned(), found, expected })
        }
        Ok(Some(_)) => Ok(()),
    }
}

/// What the `version` table says about `table`.
///
/// # Errors
/// Of the database.
pub async fn version(db: &dyn Db, table: &str) -> Result<Option<i64>, DbError> {
    let select = Statement::Select {
        table: tables::VERSION.name.to_owned(),
        columns: vec!["table_version".to_owned()],
        keys: vec![("table_name".to_owned(), DbOp::Eq, table.into())],
        order: None,
        limit: Some(1),
    };
    let rows = db.run(select).await?;
    Ok(rows.rows.first().and_then(|row| row.first()).and_then(DbValue::as_int))
}

/// The statements that create a table and its indexes unless they exist.
///
/// # Errors
/// Only for names which no engine would take, which [`TABLES`] does not contain.
pub fn ddl(table: &Table, dialect: Dialect) -> Result<Vec<String>, DbError> {
    let mut sql = String::from("CREATE TABLE IF NOT EXISTS ");
    quote_identifier(&mut sql, table.name, dialect)?;
    sql.push_str(" (");
    for (index, column) in table.columns.iter().enumerate() {
        if index > 0 {
            sql.push_str(", ");
        }
        column_ddl(&mut sql, column, dialect)?;
    }
    for index in table.indexes.iter().filter(|index| index.is_unique) {
        sql.push_str(", CONSTRAINT ");
        quote_identifier(&mut sql, index.name, dialect)?;
        sql.push_str(" UNIQUE (");
        names(&mut sql, index.columns, dialect)?;
        sql.push(')');
    }
    // MySQL knows no CREATE INDEX IF NOT EXISTS: there, indexes are part of the table.
    let (inside, outside): (Vec<&Index>, Vec<&Index>) =
        table.indexes.iter().filter(|index| !index.is_unique).partition(|_| dialect == Dialect::MySql);
    for index in inside {
        sql.push_str(", INDEX ");
        quote_identifier(&mut sql, index.name, dialect)?;
        sql.push_str(" (");
        names(&mut sql, index.columns, dialect)?;
        sql.push(')');
    }
    sql.push(')');
    if dialect == Dialect::MySql {
        // A server may have another default, which knows no transactions.
        sql.push_str(" ENGINE=InnoDB");
    }
    let mut all = vec![sql];
    for index in outside {
        let mut sql = String::from("CREATE INDEX IF NOT EXISTS ");
        quote_identifier(&mut sql, index.name, dialect)?;
        sql.push_str(" ON ");
        quote_identifier(&mut sql, table.name, dialect)?;
        sql.push_str(" (");
        names(&mut sql, index.columns, dialect)?;
        sql.push(')');
        all.push(sql);
    }
    Ok(all)
}

fn names(sql: &mut String, columns: &[&str], dialect: Dialect) -> Result<(), DbError> {
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            sql.push_str(", ");
        }
        quote_identifier(sql, column, dialect)?;
    }
    Ok(())
}

fn column_ddl(sql: &mut String, column: &Column, dialect: Dialect) -> Result<(), DbError> {
    quote_identifier(sql, column.name, dialect)?;
    sql.push(' ');
    match (column.kind, dialect) {
        (ColumnType::AutoId, Dialect::Sqlite) => sql.push_str("INTEGER PRIMARY KEY AUTOINCREMENT"),
        (ColumnType::AutoId, Dialect::MySql) => sql.push_str("INT UNSIGNED AUTO_INCREMENT PRIMARY KEY"),
        (ColumnType::AutoId, Dialect::Postgres) => sql.push_str("SERIAL PRIMARY KEY"),
        (ColumnType::AutoBigId, Dialect::Sqlite) => sql.push_str("INTEGER PRIMARY KEY AUTOINCREMENT"),
        (ColumnType::AutoBigId, Dialect::MySql) => sql.push_str("BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY"),
        (ColumnType::AutoBigId, Dialect::Postgres) => sql.push_str("BIGSERIAL PRIMARY KEY"),
        (ColumnType::BigId, Dialect::MySql) => sql.push_str("BIGINT UNSIGNED PRIMARY KEY"),
        (ColumnType::BigId, _) => sql.push_str("BIGINT PRIMARY KEY"),
        // Ports need 16 bits without sign, which PostgreSQL does not have.
        (ColumnType::Small, Dialect::Postgres) => sql.push_str("INTEGER"),
        (ColumnType::Small, Dialect::MySql) => sql.push_str("SMALLINT UNSIGNED"),
        (ColumnType::Small, Dialect::Sqlite) => sql.push_str("SMALLINT"),
        (ColumnType::Int, Dialect::Sqlite | Dialect::Postgres) => sql.push_str("INTEGER"),
        (ColumnType::Int, Dialect::MySql) => sql.push_str("INT"),
        (ColumnType::UnsignedInt, Dialect::MySql) => sql.push_str("INT UNSIGNED"),
        (ColumnType::UnsignedInt, Dialect::Postgres) => sql.push_str("INTEGER"),
        (ColumnType::UnsignedInt, Dialect::Sqlite) => sql.push_str("INTEGER"),
        (ColumnType::UnsignedBig, Dialect::MySql) => sql.push_str("BIGINT UNSIGNED"),
        (ColumnType::UnsignedBig, _) => sql.push_str("BIGINT"),
        (ColumnType::Float | ColumnType::Double, Dialect::Postgres) => sql.push_str("DOUBLE PRECISION"),
        (ColumnType::Float, _) => sql.push_str("FLOAT"),
        (ColumnType::Double, _) => sql.push_str("DOUBLE"),
        (ColumnType::Char(length), Dialect::Postgres) => {
            let _ = write!(sql, "VARCHAR({length})");
        }
        (ColumnType::Char(length), _) => {
            let _ = write!(sql, "CHAR({length})");
        }
        (ColumnType::Text, _) => sql.push_str("TEXT"),
        (ColumnType::Blob, Dialect::Postgres) => sql.push_str("BYTEA"),
        (ColumnType::Blob, _) => sql.push_str("BLOB"),
        (ColumnType::DateTime, Dialect::Postgres) => sql.push_str("TIMESTAMP WITHOUT TIME ZONE"),
        (ColumnType::DateTime, _) => sql.push_str("DATETIME"),
    }
    match column.default {
        ColumnDefault::None => {}
        ColumnDefault::Null => sql.push_str(" DEFAULT NULL"),
        ColumnDefault::Number(number) => {
            let _ = write!(sql, " DEFAULT {number}");
        }
        ColumnDefault::Text(text) => {
            let _ = write!(sql, " DEFAULT '{}'", text.replace('\'', "''"));
        }
    }
    if column.is_required {
        sql.push_str(" NOT NULL");
    }
    Ok(())
}

/// How the engine of a database writes SQL, by the scheme of its URL.
pub fn dialect(db: &dyn Db) -> Dialect {
    match db.name().split(':').next() {
        Some("mysql") => Dialect::MySql,
        Some("postgres") => Dialect::Postgres,
        _ => Dialect::Sqlite,
    }
}
