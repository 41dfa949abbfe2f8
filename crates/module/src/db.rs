//! SQL as modules see it: values, statements, the engine trait. Drivers live in `tandem-store`; nothing connects here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum DbValue {
    /// SQL NULL.
    Null,
    /// Any integer type.
    Int(i64),
    /// Any floating type.
    Double(f64),
    /// Character types, as bytes (not necessarily UTF-8).
    Text(Vec<u8>),
    /// Binary types.
    Blob(Vec<u8>),
    /// Date and time, Unix seconds UTC.
    Time(i64),
}

impl DbValue {
    /// A text value.
    pub fn text(bytes: impl AsRef<[u8]>) -> DbValue {
        DbValue::Text(bytes.as_ref().to_vec())
    }

    /// The integer, also out of decimal text.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            DbValue::Int(int) | DbValue::Time(int) => Some(*int),
            // Text with a binary collation may come as bytes.
            DbValue::Text(text) | DbValue::Blob(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
            DbValue::Double(double) => Some(*double as i64),
            DbValue::Null => None,
        }
    }

    /// The bytes of a text or blob, the decimal form of a number; `None` for NULL.
    pub fn to_text(&self) -> Option<Vec<u8>> {
        match self {
            DbValue::Null => None,
            DbValue::Int(int) | DbValue::Time(int) => Some(int.to_string().into_bytes()),
            DbValue::Double(double) => Some(double.to_string().into_bytes()),
            DbValue::Text(bytes) | DbValue::Blob(bytes) => Some(bytes.clone()),
        }
    }
}

impl From<i64> for DbValue {
    fn from(int: i64) -> DbValue {
        DbValue::Int(int)
    }
}

impl From<&str> for DbValue {
    fn from(text: &str) -> DbValue {
        DbValue::Text(text.as_bytes().to_vec())
    }
}

/// Rows of a result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DbRows {
    /// Column names as the server gives them.
    pub columns: Vec<String>,
    /// Values, one `Vec` per row, in the order of `columns`.
    pub rows: Vec<Vec<DbValue>>,
    /// Rows changed by INSERT, UPDATE or DELETE.
    pub affected: u64,
}

/// A statement. Values are always bound; identifiers come from configuration only.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// Text exactly as a script wrote it, variables already expanded (`sql_query`, `avp_db_query`).
    Raw(Vec<u8>),
    /// Text with a `?` for each value, on every engine (`sql_query_bound`).
    Bound(Vec<u8>, Vec<DbValue>),
    /// `SELECT columns FROM table WHERE keys ORDER BY order LIMIT limit`.
    Select {
        /// Table.
        table: String,
        /// Columns.
        columns: Vec<String>,
        /// Conditions, joined with AND.
        keys: Vec<(String, DbOp, DbValue)>,
        /// Column to sort by; ` DESC` may follow.
        order: Option<String>,
        /// Greatest number of rows.
        limit: Option<u32>,
    },
    /// `INSERT INTO table (columns) VALUES (values)`.
    Insert {
        /// Table.
        table: String,
        /// Columns with values.
        values: Vec<(String, DbValue)>,
    },
    /// Insert, or replace the row with the same unique key.
    Replace {
        /// Table.
        table: String,
        /// Columns with values.
        values: Vec<(String, DbValue)>,
        /// The columns of the unique key.
        unique: Vec<String>,
    },
    /// `UPDATE table SET values WHERE keys`.
    Update {
        /// Table.
        table: String,
        /// New values.
        values: Vec<(String, DbValue)>,
        /// Conditions.
        keys: Vec<(String, DbOp, DbValue)>,
    },
    /// `DELETE FROM table WHERE keys`.
    Delete {
        /// Table.
        table: String,
        /// Conditions.
        keys: Vec<(String, DbOp, DbValue)>,
    },
}

/// Comparison in a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbOp {
    /// `=`
    Eq,
    /// `<>`
    Ne,
    /// `<`
    Lt,
    /// `>`
    Gt,
    /// `<=`
    Le,
    /// `>=`
    Ge,
}

/// What went wrong with a database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// No driver for the scheme of the URL is loaded.
    #[error("no database driver for '{scheme}:' is loaded (loadmodule \"db_{scheme}.so\")")]
    NoDriver {
        /// The scheme.
        scheme: String,
    },
    /// The URL cannot be understood. Passwords are masked.
    #[error("bad database URL '{url}': {reason}")]
    BadUrl {
        /// The URL without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server cannot be reached, or no connection was free in time.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The server refused the statement.
    #[error("database error: {0}")]
    Refused(String),
    /// The answer took too long.
    #[error("database did not answer within {0} ms")]
    Timeout(u64),
    /// Too many queries wait already.
    #[error("too many queries waiting for the database")]
    Overloaded,
}

impl DbError {
    /// Whether the same may succeed later: the database is away, slow or busy. What it refused would be refused again. After
    /// [`DbError::Timeout`] it may have been done already.
    pub fn is_away(&self) -> bool {
        matches!(self, DbError::Unavailable(_) | DbError::Timeout(_) | DbError::Overloaded)
    }
}

/// An open database (a pool of connections). Cheap to clone by `Arc`.
pub trait Db: Send + Sync {
    /// Runs a statement. The future is bounded in time by the driver.
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>>;

    /// The URL without its password, for messages.
    fn name(&self) -> &str;

    /// Closes the connections that nobody uses, at the end of the process: a database may have to tidy up behind the last one.
    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

/// A driver: opens databases of its URL schemes.
pub trait DbDriver: Send + Sync {
    /// Schemes without colon: `sqlite`, `mysql`, ...
    fn schemes(&self) -> &'static [&'static str];

    /// Opens `url` (OpenSIPS form, `scheme://user:password@host/database`, `sqlite:///path`). Does not wait for the server:
    /// connections are made when needed; errors of the URL are reported here.
    ///
    /// # Errors
    /// [`DbError::BadUrl`].
    fn open(&self, url: &str) -> Result<Arc<dyn Db>, DbError>;
}

/// Drivers by scheme, and the databases opened so far (one pool per URL and process).
#[derive(Default)]
pub struct DbRegistry {
    drivers: RwLock<HashMap<&'static str, Arc<dyn DbDriver>>>,
    open: RwLock<HashMap<String, Arc<dyn Db>>>,
    stand_in: std::sync::OnceLock<Arc<dyn Db>>,
}

impl DbRegistry {
    /// Adds a driver (its module was loaded).
    pub fn add_driver(&self, driver: Arc<dyn DbDriver>) {
        for scheme in driver.schemes() {
            self.drivers.write().insert(scheme, driver.clone());
        }
    }

    /// From now on this database stands for that of every URL, whatever drivers are loaded (tests of scripts).
    pub fn set_stand_in(&self, db: Arc<dyn Db>) {
        let _ = self.stand_in.set(db);
    }

    /// Closes what is open, at the end of the process.
    pub async fn close_all(&self) {
        let open: Vec<_> = self.open.write().drain().map(|(_, db)| db).collect();
        for db in open {
            db.close().await;
        }
    }

    /// The database of `url`.
    ///
    /// # Errors
    /// [`DbError::NoDriver`] or [`DbError::BadUrl`].
    pub fn open(&self, url: &str) -> Result<Arc<dyn Db>, DbError> {
        if let Some(db) = self.stand_in.get() {
            return Ok(db.clone());
        }
        if let Some(db) = self.open.read().get(url) {
            return Ok(db.clone());
        }
        let scheme = url.split(':').next().unwrap_or_default();
        let driver = self.drivers.read().get(scheme).cloned();
        let driver = driver.ok_or_else(|| DbError::NoDriver { scheme: scheme.to_owned() })?;
        let db = driver.open(url)?;
        self.open.write().insert(url.to_owned(), db.clone());
        Ok(db)
    }
}
