//! PostgreSQL (`db_postgres`): every statement is prepared without types, so that the server says which type each value
//! is to have; values are then bound in that type. Results come in the binary format.

mod values;

use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgRow, PgSslMode, PgTypeInfo};
use sqlx::{
    Arguments as _, Column, ConnectOptions, Either, Executor, PgConnection, Row, Statement as _, TypeInfo, ValueRef,
};
use tandem_module::db::{Db, DbDriver, DbError, DbRows, DbValue, Statement};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::pool::{Engine, Outcome};
use crate::render::{Dialect, Rendered, render};
use crate::server::{ServerDb, ServerOptions, Tls, is_impossible};
use crate::sqlite::{ROWS_MAX, name_columns};
use crate::url::DbUrl;
use values::{Bound, oid, read};

/// Where servers have their Unix sockets.
const SOCKET_FOLDER: &str = "/var/run/postgresql";

/// The driver of the scheme `postgres`.
pub struct PostgresDriver {
    handle: Handle,
    options: ServerOptions,
}

impl PostgresDriver {
    /// A driver whose statements run on `handle`'s runtime, which needs its timer and input-output enabled.
    pub fn new(handle: Handle, options: ServerOptions) -> PostgresDriver {
        PostgresDriver { handle, options }
    }
}

impl DbDriver for PostgresDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["postgres"]
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Db>, DbError> {
        let url = DbUrl::server(url)?;
        let options = connect_options(&url, &self.options.tls_of(&url));
        Ok(Arc::new(ServerDb::new(PostgresEngine { options }, &url, &self.options, &self.handle)))
    }
}

fn connect_options(url: &DbUrl, tls: &Tls) -> PgConnectOptions {
    // Nothing of the environment (PGHOST, .pgpass) may change where a configuration leads.
    let mut options = PgConnectOptions::new_without_pgpass()
        .username(&url.user)
        .database(&url.database)
        .port(url.port.unwrap_or(5432))
        .application_name("tandem")
        .disable_statement_logging();
    if let Some(password) = &url.password {
        options = options.password(password);
    }
    options = match url.option("unix_socket") {
        Some(socket) => at_socket(options, socket),
        None if url.host.is_empty() => options.socket(SOCKET_FOLDER),
        None => options.host(&url.host),
    };
    match tls {
        Tls::Off => options.ssl_mode(PgSslMode::Disable),
        Tls::Prefer => options.ssl_mode(PgSslMode::Prefer),
        Tls::Require(Some(ca)) => options.ssl_mode(PgSslMode::VerifyCa).ssl_root_cert(ca),
        Tls::Require(None) => options.ssl_mode(PgSslMode::VerifyCa),
    }
}

/// The path of a socket, or of its folder; the number at its end is the port.
fn at_socket(options: PgConnectOptions, socket: &str) -> PgConnectOptions {
    let path = Path::new(socket);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_prefix(".s.PGSQL.").and_then(|port| port.parse().ok()) {
        Some(port) => options.port(port).socket(path.parent().unwrap_or(path)),
        None => options.socket(path),
    }
}

struct PostgresEngine {
    options: PgConnectOptions,
}

impl Engine for PostgresEngine {
    type Connection = PgConnection;

    async fn connect(&self) -> Result<PgConnection, DbError> {
        self.options.connect().await.map_err(|error| match explain(&error).0 {
            // Nothing was asked yet: whatever the server says, it is not there for us.
            DbError::Refused(reason) => DbError::Unavailable(reason),
            other => other,
        })
    }

    async fn execute(&self, connection: &mut PgConnection, statement: &Statement, _deadline: Instant) -> Outcome {
        match execute(connection, statement).await {
            Ok(result) => Outcome { is_reusable: result.is_ok(), result, can_retry: false },
            Err(error) => {
                let (error, is_reusable, can_retry) = explain(&error);
                Outcome { result: Err(error), is_reusable, can_retry }
            }
        }
    }
}

/// What an error means: for the caller, for the connection (usable again), for the statement (worth another try). Codes:
/// appendix A of the server's manual.
fn explain(error: &sqlx::Error) -> (DbError, bool, bool) {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Encode(error) => (DbError::Refused(error.to_string()), false, false),
            sqlx::Error::ColumnDecode { source, .. } => (DbError::Refused(source.to_string()), false, false),
            other => (DbError::Unavailable(other.to_string()), false, true),
        };
    };
    let code = database.try_downcast_ref::<PgDatabaseError>().map_or("", PgDatabaseError::code);
    let message = format!("{} (SQLSTATE {code})", database.message());
    match code {
        "57P01" | "57P02" | "57P03" => (DbError::Unavailable(message), false, true),
        code if code.starts_with("08") => (DbError::Unavailable(message), false, true),
        code if code.starts_with("53") => (DbError::Unavailable(message), false, false),
        "40001" | "40P01" | "55P03" => (DbError::Refused(message), true, true),
        // The table has changed since the statement was prepared: a new connection prepares it anew.
        "26000" => (DbError::Refused(message), false, true),
        "0A000" if database.message().contains("cached plan") => (DbError::Refused(message), false, true),
        _ => (DbError::Refused(message), true, false),
    }
}

/// The outer error is the engine's, the inner one ours.
async fn execute(connection: &mut PgConnection, statement: &Statement) -> Result<Result<DbRows, DbError>, sqlx::Error> {
    let mut answer = DbRows::default();
    if is_impossible(statement, false) {
        name_columns(&mut answer, statement);
        return Ok(Ok(answer));
    }
    let rendered = match render(statement, Dialect::Postgres) {
        Ok(rendered) => rendered,
        Err(error) => return Ok(Err(error)),
    };
    let refused = if rendered.is_repeated {
        let prepared = connection.prepare(&rendered.sql).await?;
        let types = match prepared.parameters() {
            Some(Either::Left(types)) => types,
            _ => &[],
        };
        match arguments(&rendered, types) {
            Ok(arguments) => collect(connection, prepared.query_with(arguments), &mut answer).await?,
            Err(error) => Some(error),
        }
    } else {
        let query = sqlx::query_with(&rendered.sql, PgArguments::default()).persistent(false);
        collect(connection, query, &mut answer).await?
    };
    if let Some(error) = refused {
        return Ok(Err(error));
    }
    name_columns(&mut answer, statement);
    if rendered.has_rows && !answer.rows.is_empty() {
        // The server counts rows it gives as "affected".
        answer.affected = 0;
    }
    Ok(Ok(answer))
}

fn arguments(rendered: &Rendered<'_>, types: &[PgTypeInfo]) -> Result<PgArguments, DbError> {
    let mut arguments = PgArguments::default();
    for (at, value) in rendered.values.iter().enumerate() {
        let kind = types.get(at).ok_or_else(|| DbError::Refused(format!("value {} has no place", at + 1)))?;
        let bound =
            Bound::new(kind, value).map_err(|reason| DbError::Refused(format!("value {}: {reason}", at + 1)))?;
        arguments.add(bound).map_err(|error| DbError::Refused(error.to_string()))?;
    }
    Ok(arguments)
}

/// Reads the answer; what we refuse in it is given back.
async fn collect<'q>(
    connection: &mut PgConnection,
    query: sqlx::query::Query<'q, sqlx::Postgres, PgArguments>,
    answer: &mut DbRows,
) -> Result<Option<DbError>, sqlx::Error> {
    let mut oids = Vec::new();
    let mut stream = connection.fetch_many(query);
    while let Some(item) = stream.try_next().await? {
        match item {
            Either::Left(done) => answer.affected += done.rows_affected(),
            Either::Right(row) => {
                if answer.rows.len() >= ROWS_MAX {
                    return Ok(Some(DbError::Refused(format!("more than {ROWS_MAX} rows"))));
                }
                if answer.columns.is_empty() {
                    answer.columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
                    oids = row.columns().iter().map(|column| oid(column.type_info())).collect();
                }
                match row_values(&row, &oids)? {
                    Ok(values) => answer.rows.push(values),
                    Err(error) => return Ok(Some(error)),
                }
            }
        }
    }
    Ok(None)
}

fn row_values(row: &PgRow, oids: &[u32]) -> Result<Result<Vec<DbValue>, DbError>, sqlx::Error> {
    let mut all = Vec::with_capacity(oids.len());
    for (at, oid) in oids.iter().enumerate() {
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            all.push(DbValue::Null);
            continue;
        }
        let bytes = raw.as_bytes().map_err(sqlx::Error::Decode)?;
        let Some(value) = read(*oid, bytes) else {
            let column = row.column(at);
            return Ok(Err(DbError::Refused(format!(
                "column '{}' has type {}, which cannot be read: ask for {}::text",
                column.name(),
                column.type_info().name(),
                column.name()
            ))));
        };
        all.push(value);
    }
    Ok(Ok(all))
}
