//! SQLite (`db_sqlite`): one writing connection and some reading ones per file, in WAL mode. Creates no file unless told
//! so, and keeps nothing in memory only.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Column, ConnectOptions, Connection, Either, Executor, Row, SqliteConnection, TypeInfo, ValueRef};
use tandem_module::db::{BoxFuture, Db, DbDriver, DbError, DbRows, DbValue, Statement};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::datetime;
use crate::pool::{Engine, Outcome, Pool, PoolLimits};
use crate::render::{Dialect, is_read_only, render};
use crate::url::DbUrl;

/// Most rows a statement may give; beyond, it is refused.
pub const ROWS_MAX: usize = 1_000_000;

/// How many steps of SQLite's machine pass between two looks at the clock (about a millisecond).
const STEPS_BETWEEN_CHECKS: i32 = 20_000;

/// Settings, the parameters of `db_sqlite` among them.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// How long a statement waits for a lock another process holds (`busy_timeout`, 500 ms), at most `query_timeout`.
    pub busy_timeout: Duration,
    /// Greatest time from `run()` to the result (5 s).
    pub query_timeout: Duration,
    /// Reading connections, beside the single writing one (4).
    pub readers: usize,
    /// Most statements running or waiting, for readers and the writer each (10,000).
    pub waiting_max: usize,
    /// `name=value` pairs run as PRAGMA on every new connection (`exec_pragma`).
    pub pragmas: Vec<String>,
    /// Whether the file is switched to WAL, where reading and writing do not block each other (yes).
    pub is_wal: bool,
}

impl Default for SqliteOptions {
    fn default() -> SqliteOptions {
        SqliteOptions {
            busy_timeout: Duration::from_millis(500),
            query_timeout: Duration::from_secs(5),
            readers: 4,
            waiting_max: 10_000,
            pragmas: Vec::new(),
            is_wal: true,
        }
    }
}

/// The driver of the scheme `sqlite`.
pub struct SqliteDriver {
    handle: Handle,
    options: SqliteOptions,
}

impl SqliteDriver {
    /// A driver whose statements run on `handle`'s runtime (which needs its timer enabled), with default settings.
    pub fn new(handle: Handle) -> SqliteDriver {
        SqliteDriver::with_options(handle, SqliteOptions::default())
    }

    /// A driver with other settings.
    pub fn with_options(handle: Handle, options: SqliteOptions) -> SqliteDriver {
        SqliteDriver { handle, options }
    }

    /// Opens the database of `url`, creating an empty file when there is none; its folder must exist.
    ///
    /// # Errors
    /// [`DbError::BadUrl`], also when the file cannot be created.
    pub fn create(&self, url: &str) -> Result<Arc<dyn Db>, DbError> {
        let parsed = DbUrl::file(url)?;
        let created = std::fs::OpenOptions::new().create(true).append(true).open(&parsed.database);
        created.map_err(|error| DbError::BadUrl { url: parsed.masked().to_owned(), reason: error.to_string() })?;
        self.open(url)
    }
}

impl DbDriver for SqliteDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    /// A missing file is an error here, as with OpenSIPS: an empty one would only move the error to every query.
    fn open(&self, url: &str) -> Result<Arc<dyn Db>, DbError> {
        let url = DbUrl::file(url)?;
        let path = PathBuf::from(&url.database);
        let reason = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("there is no such file".to_owned()),
            Err(error) => Some(error.to_string()),
            Ok(metadata) if metadata.is_dir() => Some("this is a folder, not a file".to_owned()),
            Ok(_) => foreign_content(&path),
        };
        if let Some(reason) = reason {
            return Err(DbError::BadUrl { url: url.masked().to_owned(), reason });
        }
        Ok(Arc::new(SqliteDb::new(&url, path, &self.options, &self.handle)))
    }
}

/// Why the file cannot be a database, by its first bytes; an empty file can become one.
fn foreign_content(path: &std::path::Path) -> Option<String> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut head = [0; MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
    match read {
        Ok(0) => None,
        Ok(_) if head == *MAGIC => None,
        Ok(_) => Some("this is no SQLite database".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// An open file.
struct SqliteDb {
    writer: Pool<SqliteEngine>,
    readers: Pool<SqliteEngine>,
    name: String,
}

impl SqliteDb {
    fn new(url: &DbUrl, path: PathBuf, options: &SqliteOptions, handle: &Handle) -> SqliteDb {
        let pool = |is_writer, connections_max| {
            let engine = SqliteEngine {
                path: path.clone(),
                options: options.clone(),
                is_writer,
                started: Instant::now().into_std(),
            };
            let limits = PoolLimits {
                connections_max,
                waiting_max: options.waiting_max,
                timeout: options.query_timeout,
                connect_timeout: options.query_timeout,
                ..PoolLimits::default()
            };
            Pool::new(engine, limits, handle.clone())
        };
        SqliteDb { writer: pool(true, 1), readers: pool(false, options.readers.max(1)), name: url.masked().to_owned() }
    }
}

impl Db for SqliteDb {
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        if is_read_only(&statement) { self.readers.run(statement) } else { self.writer.run(statement) }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn close(&self) -> BoxFuture<()> {
        let (readers, writer) = (self.readers.close(), self.writer.close());
        // The writer last: the connection that goes last takes the write-ahead log with it, and a reader may not write.
        Box::pin(async move {
            readers.await;
            writer.await;
        })
    }
}

struct SqliteEngine {
    path: PathBuf,
    options: SqliteOptions,
    is_writer: bool,
    /// What deadlines count from.
    started: std::time::Instant,
}

struct SqliteConn {
    connection: SqliteConnection,
    /// Milliseconds since `started` from which on the running statement is broken off.
    deadline_ms: Arc<AtomicU64>,
}

impl Engine for SqliteEngine {
    type Connection = SqliteConn;

    async fn connect(&self) -> Result<SqliteConn, DbError> {
        let mut options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(false)
            .foreign_keys(false)
            .busy_timeout(self.options.busy_timeout.min(self.options.query_timeout))
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging();
        for pragma in &self.options.pragmas {
            let (name, value) = pragma.split_once('=').unwrap_or((pragma, ""));
            options = options.pragma(name.trim().to_owned(), value.trim().to_owned());
        }
        if !self.is_writer {
            options = options.pragma("query_only", "ON");
        }
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(|error| self.explain(&error))?;
        if self.is_writer && self.options.is_wal {
            // A file that cannot be switched (read-only medium, lock) works all the same.
            if let Err(error) = connection.execute("PRAGMA journal_mode=WAL").await {
                tracing::warn!(file = %self.path.display(), %error, "SQLite file not switched to WAL");
            }
        }
        let deadline_ms = Arc::new(AtomicU64::new(u64::MAX));
        let (deadline, started) = (deadline_ms.clone(), self.started);
        let mut handle = connection.lock_handle().await.map_err(|error| self.explain(&error))?;
        handle.set_progress_handler(STEPS_BETWEEN_CHECKS, move || {
            millis(started.elapsed()) < deadline.load(Ordering::Relaxed)
        });
        drop(handle);
        Ok(SqliteConn { connection, deadline_ms })
    }

    async fn execute(&self, connection: &mut SqliteConn, statement: &Statement, deadline: Instant) -> Outcome {
        let ends = deadline.into_std().saturating_duration_since(self.started);
        connection.deadline_ms.store(millis(ends), Ordering::Relaxed);
        let result = execute(&mut connection.connection, statement).await;
        match result {
            Ok(result) => Outcome { result, is_reusable: true, can_retry: false },
            Err(error) => {
                Outcome { is_reusable: is_reusable(&error), can_retry: false, result: Err(self.explain(&error)) }
            }
        }
    }

    async fn close(&self, connection: SqliteConn) {
        // Moving the write-ahead log into the file is no statement with a deadline.
        connection.deadline_ms.store(u64::MAX, Ordering::Relaxed);
        if let Err(error) = connection.connection.close().await {
            tracing::warn!(file = %self.path.display(), %error, "SQLite file not closed in good order");
        }
    }
}

impl SqliteEngine {
    fn explain(&self, error: &sqlx::Error) -> DbError {
        let file = self.path.display();
        let Some((code, message)) = code(error) else {
            return match error {
                sqlx::Error::Database(error) => DbError::Refused(error.message().to_owned()),
                other => DbError::Unavailable(format!("SQLite file '{file}': {other}")),
            };
        };
        match code {
            BUSY | LOCKED => DbError::Unavailable(format!("SQLite file '{file}' is locked: {message}")),
            INTERRUPT => DbError::Timeout(millis(self.options.query_timeout)),
            CANTOPEN | IOERR | FULL | PERM | PROTOCOL => {
                DbError::Unavailable(format!("SQLite file '{file}': {message}"))
            }
            NOTADB | CORRUPT => DbError::Refused(format!("SQLite file '{file}' is damaged: {message}")),
            _ => DbError::Refused(message),
        }
    }
}

// Primary result codes of SQLite (sqlite.org/rescode.html).
const PERM: u32 = 3;
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const INTERRUPT: u32 = 9;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const CANTOPEN: u32 = 14;
const PROTOCOL: u32 = 15;
const NOTADB: u32 = 26;

/// Primary result code and message.
fn code(error: &sqlx::Error) -> Option<(u32, String)> {
    let sqlx::Error::Database(error) = error else { return None };
    let code: u32 = error.code()?.parse().ok()?;
    Some((code & 0xff, error.message().to_owned()))
}

/// Whether the connection is sound after this error: a refused statement says nothing against it.
fn is_reusable(error: &sqlx::Error) -> bool {
    match code(error) {
        Some((code, _)) => !matches!(code, INTERRUPT | IOERR | CORRUPT | CANTOPEN | PROTOCOL | NOTADB),
        None => matches!(error, sqlx::Error::ColumnDecode { .. }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The outer error is the engine's, the inner one ours.
async fn execute(
    connection: &mut SqliteConnection,
    statement: &Statement,
) -> Result<Result<DbRows, DbError>, sqlx::Error> {
    let rendered = match render(statement, Dialect::Sqlite) {
        Ok(rendered) => rendered,
        Err(error) => return Ok(Err(error)),
    };
    let mut query = sqlx::query(&rendered.sql).persistent(rendered.is_repeated);
    for value in &rendered.values {
        query = match value {
            DbValue::Null => query.bind(None::<i64>),
            DbValue::Int(int) => query.bind(*int),
            DbValue::Double(double) => query.bind(*double),
            DbValue::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => query.bind(text),
                Err(_) => query.bind(text.as_slice()),
            },
            DbValue::Blob(blob) => query.bind(blob.as_slice()),
            DbValue::Time(secs) => query.bind(datetime::format(*secs)),
        };
    }
    let mut answer = DbRows::default();
    let mut stream = connection.fetch_many(query);
    while let Some(item) = stream.try_next().await? {
        match item {
            Either::Left(done) => answer.affected += done.rows_affected(),
            Either::Right(row) => {
                if answer.rows.len() >= ROWS_MAX {
                    return Ok(Err(DbError::Refused(format!("more than {ROWS_MAX} rows"))));
                }
                if answer.columns.is_empty() {
                    answer.columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
                }
                answer.rows.push((0..row.len()).map(|at| value(&row, at)).collect::<Result<_, _>>()?);
            }
        }
    }
    drop(stream);
    name_columns(&mut answer, statement);
    if rendered.has_rows && is_read_only(statement) {
        // SQLite reports the changes of the statement before for one that changes nothing.
        answer.affected = 0;
    }
    Ok(Ok(answer))
}

/// Without rows the server names no columns; those asked for are known.
pub(crate) fn name_columns(answer: &mut DbRows, statement: &Statement) {
    if let Statement::Select { columns, .. } = statement
        && answer.columns.is_empty()
        && !columns.iter().any(|column| column == "*")
    {
        answer.columns.clone_from(columns);
    }
}

/// The value as it is stored: in SQLite the type belongs to the value, not to the column.
fn value(row: &SqliteRow, at: usize) -> Result<DbValue, sqlx::Error> {
    let raw = row.try_get_raw(at)?;
    if raw.is_null() {
        return Ok(DbValue::Null);
    }
    let kind = raw.type_info();
    Ok(match kind.name() {
        "INTEGER" | "BOOLEAN" => DbValue::Int(row.try_get_unchecked(at)?),
        "REAL" => DbValue::Double(row.try_get_unchecked(at)?),
        "BLOB" => DbValue::Blob(row.try_get_unchecked::<&[u8], _>(at)?.to_vec()),
        _ => DbValue::Text(row.try_get_unchecked::<&[u8], _>(at)?.to_vec()),
    })
}
