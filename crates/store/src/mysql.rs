//! MariaDB and MySQL (`db_mysql`): every statement is prepared, values are bound, results come in the binary protocol. A
//! connection uses utf8mb4 and the server's own time zone and SQL mode, as OpenSIPS does.

use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow, MySqlSslMode};
use sqlx::{Column, ConnectOptions, Decode, Either, Executor, MySql, MySqlConnection, Row, TypeInfo, ValueRef};
use tandem_module::db::{Db, DbDriver, DbError, DbRows, DbValue, Statement};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::datetime;
use crate::pool::{Engine, Outcome};
use crate::render::{Dialect, render};
use crate::server::{ServerDb, ServerOptions, Tls, is_impossible};
use crate::sqlite::{ROWS_MAX, name_columns};
use crate::url::DbUrl;

/// Where servers have their Unix socket; `localhost` without a port means it, as for every MySQL client.
const SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

/// The driver of the scheme `mysql`.
pub struct MySqlDriver {
    handle: Handle,
    options: ServerOptions,
}

impl MySqlDriver {
    /// A driver whose statements run on `handle`'s runtime, which needs its timer and input-output enabled.
    pub fn new(handle: Handle, options: ServerOptions) -> MySqlDriver {
        MySqlDriver { handle, options }
    }
}

impl DbDriver for MySqlDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &["mysql"]
    }

    fn open(&self, url: &str) -> Result<Arc<dyn Db>, DbError> {
        let url = DbUrl::server(url)?;
        let options = connect_options(&url, &self.options.tls_of(&url));
        Ok(Arc::new(ServerDb::new(MySqlEngine { options }, &url, &self.options, &self.handle)))
    }
}

fn connect_options(url: &DbUrl, tls: &Tls) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .username(&url.user)
        .database(&url.database)
        .charset("utf8mb4")
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .disable_statement_logging();
    if let Some(password) = &url.password {
        options = options.password(password);
    }
    let is_local = url.host.is_empty() || url.host == "localhost";
    let standard = || SOCKETS.iter().copied().find(|path| Path::new(path).exists());
    let socket = url.option("unix_socket").or_else(|| standard().filter(|_| is_local && url.port.is_none()));
    options = match socket {
        Some(socket) => options.socket(socket),
        None => options.host(if url.host.is_empty() { "localhost" } else { &url.host }).port(url.port.unwrap_or(3306)),
    };
    match tls {
        Tls::Off => options.ssl_mode(MySqlSslMode::Disabled),
        Tls::Prefer => options.ssl_mode(MySqlSslMode::Preferred),
        Tls::Require(Some(ca)) => options.ssl_mode(MySqlSslMode::VerifyCa).ssl_ca(ca),
        Tls::Require(None) => options.ssl_mode(MySqlSslMode::VerifyCa),
    }
}

struct MySqlEngine {
    options: MySqlConnectOptions,
}

impl Engine for MySqlEngine {
    type Connection = MySqlConnection;

    async fn connect(&self) -> Result<MySqlConnection, DbError> {
        self.options.connect().await.map_err(|error| match explain(&error).0 {
            // Nothing was asked yet: whatever the server says, it is not there for us.
            DbError::Refused(reason) => DbError::Unavailable(reason),
            other => other,
        })
    }

    async fn execute(&self, connection: &mut MySqlConnection, statement: &Statement, _deadline: Instant) -> Outcome {
        match execute(connection, statement).await {
            Ok(result) => Outcome { is_reusable: result.is_ok(), result, can_retry: false },
            Err(error) => {
                let (error, is_reusable, can_retry) = explain(&error);
                Outcome { result: Err(error), is_reusable, can_retry }
            }
        }
    }
}

// Error numbers of the servers (mariadb.com/kb/en/mariadb-error-code-reference).
const DISK_FULL: u16 = 1021;
const CON_COUNT: u16 = 1040;
const SHUTDOWN: u16 = 1053;
const TABLE_FULL: u16 = 1114;
const ABORTING: u16 = 1152;
const NET_ERRORS: std::ops::RangeInclusive<u16> = 1158..=1161;
const TOO_MANY_USER_CONNECTIONS: u16 = 1203;
const LOCK_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const UNKNOWN_STATEMENT: u16 = 1243;
const TOO_MANY_STATEMENTS: u16 = 1461;
const NEED_REPREPARE: u16 = 1615;
const KILLED: u16 = 1927;
const DISCONNECTED: u16 = 4031;

/// What an error means: for the caller, for the connection (usable again), for the statement (worth another try).
fn explain(error: &sqlx::Error) -> (DbError, bool, bool) {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Encode(error) => (DbError::Refused(error.to_string()), false, false),
            sqlx::Error::ColumnDecode { source, .. } => (DbError::Refused(source.to_string()), false, false),
            other => (DbError::Unavailable(other.to_string()), false, true),
        };
    };
    let number = database.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
    let message = format!("{} (error {number})", database.message());
    match number {
        CON_COUNT | TOO_MANY_USER_CONNECTIONS => (DbError::Unavailable(message), false, false),
        // There may be room later.
        DISK_FULL | TABLE_FULL => (DbError::Unavailable(message), true, false),
        SHUTDOWN | ABORTING | KILLED | DISCONNECTED => (DbError::Unavailable(message), false, true),
        number if NET_ERRORS.contains(&number) => (DbError::Unavailable(message), false, true),
        LOCK_TIMEOUT | DEADLOCK => (DbError::Refused(message), true, true),
        UNKNOWN_STATEMENT | NEED_REPREPARE => (DbError::Refused(message), false, true),
        // The connection has prepared more than the server wants to keep: a new one begins anew.
        TOO_MANY_STATEMENTS => (DbError::Refused(message), false, true),
        _ => (DbError::Refused(message), true, false),
    }
}

/// The outer error is the engine's, the inner one ours.
async fn execute(
    connection: &mut MySqlConnection,
    statement: &Statement,
) -> Result<Result<DbRows, DbError>, sqlx::Error> {
    let mut answer = DbRows::default();
    if is_impossible(statement, true) {
        name_columns(&mut answer, statement);
        return Ok(Ok(answer));
    }
    let rendered = match render(statement, Dialect::MySql) {
        Ok(rendered) => rendered,
        Err(error) => return Ok(Err(error)),
    };
    let mut query = sqlx::query(&rendered.sql).persistent(rendered.is_repeated);
    for value in &rendered.values {
        query = match value {
            DbValue::Null => query.bind(None::<i64>),
            DbValue::Int(int) => query.bind(*int),
            DbValue::Double(double) => query.bind(*double),
            // As text it is compared by the collation of the column; only what is no text becomes binary.
            DbValue::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => query.bind(text),
                Err(_) => query.bind(text.as_slice()),
            },
            DbValue::Blob(blob) => query.bind(blob.as_slice()),
            DbValue::Time(secs) => query.bind(datetime::format(datetime::wall_clock(*secs))),
        };
    }
    let mut kinds = Vec::new();
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
                    kinds = row.columns().iter().map(|column| Kind::of(column.type_info().name())).collect();
                }
                answer.rows.push(values(&row, &kinds)?);
            }
        }
    }
    drop(stream);
    name_columns(&mut answer, statement);
    Ok(Ok(answer))
}

fn values(row: &MySqlRow, kinds: &[Kind]) -> Result<Vec<DbValue>, sqlx::Error> {
    let mut values = Vec::with_capacity(kinds.len());
    for (at, kind) in kinds.iter().enumerate() {
        let raw = row.try_get_raw(at)?;
        // The "zero" date is NULL, too.
        if raw.is_null() {
            values.push(DbValue::Null);
            continue;
        }
        let bytes = <&[u8] as Decode<MySql>>::decode(raw).map_err(sqlx::Error::Decode)?;
        values.push(kind.read(bytes));
    }
    Ok(values)
}

/// What a column holds, as far as reading it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Signed,
    Unsigned,
    Float,
    Decimal,
    Bits,
    Moment,
    TimeOfDay,
    Text,
    Blob,
}

impl Kind {
    /// By the name sqlx gives the type. OpenSIPS: DECIMAL is a floating number, dates are moments, TEXT is like a blob.
    fn of(name: &str) -> Kind {
        match name {
            "YEAR" => Kind::Unsigned,
            name if name.ends_with(" UNSIGNED") => Kind::Unsigned,
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => Kind::Signed,
            "FLOAT" | "DOUBLE" => Kind::Float,
            "DECIMAL" => Kind::Decimal,
            "BIT" => Kind::Bits,
            "DATE" | "DATETIME" | "TIMESTAMP" => Kind::Moment,
            "TIME" => Kind::TimeOfDay,
            "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" | "GEOMETRY" => Kind::Blob,
            // Text with a binary collation is called binary; it is text all the same.
            _ => Kind::Text,
        }
    }

    fn read(self, bytes: &[u8]) -> DbValue {
        match self {
            Kind::Signed => DbValue::Int(signed(bytes)),
            Kind::Unsigned => {
                let number = unsigned(bytes);
                i64::try_from(number).map_or_else(|_| DbValue::text(number.to_string()), DbValue::Int)
            }
            Kind::Float => DbValue::Double(float(bytes)),
            Kind::Decimal => {
                let number = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
                number.map_or_else(|| DbValue::text(bytes), DbValue::Double)
            }
            Kind::Bits => DbValue::Int(bytes.iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte))),
            Kind::Moment => moment(bytes).map_or(DbValue::Null, DbValue::Time),
            Kind::TimeOfDay => DbValue::text(time_of_day(bytes)),
            Kind::Text => DbValue::text(bytes),
            Kind::Blob => DbValue::Blob(bytes.to_vec()),
        }
    }
}

fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Little-endian, with the sign in its topmost bit.
fn signed(bytes: &[u8]) -> i64 {
    let shift = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    (unsigned(bytes) << shift).cast_signed() >> shift
}

/// A 4-byte number by its shortest decimal form: 0.7 stays 0.7.
fn float(bytes: &[u8]) -> f64 {
    match bytes.len() {
        4 => {
            let short = f32::from_bits(unsigned(bytes) as u32);
            short.to_string().parse().unwrap_or_else(|_| f64::from(short))
        }
        _ => f64::from_bits(unsigned(bytes)),
    }
}

/// Length, year (2 bytes), month, day, and perhaps hour, minute, second, microseconds.
fn moment(bytes: &[u8]) -> Option<i64> {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let year = u16::from_le_bytes([at(1), at(2)]);
    let text = format!("{year:04}-{:02}-{:02} {:02}:{:02}:{:02}", at(3), at(4), at(5), at(6), at(7));
    datetime::parse(text.as_bytes()).map(datetime::from_wall_clock)
}

/// Length, sign, days (4 bytes), hour, minute, second, perhaps microseconds.
fn time_of_day(bytes: &[u8]) -> String {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let days = u32::from_le_bytes([at(2), at(3), at(4), at(5)]);
    let sign = if at(1) == 1 { "-" } else { "" };
    format!("{sign}{:02}:{:02}:{:02}", u64::from(days) * 24 + u64::from(at(6)), at(7), at(8))
}

#[cfg(test)]
mod tests {
    use super::{Kind, connect_options, float, moment, signed, time_of_day};
    use crate::server::Tls;
    use crate::url::DbUrl;
    use tandem_module::db::DbValue;

    #[test]
    fn numbers_are_read_in_their_size_with_their_sign() {
        assert_eq!(signed(&[0xff]), -1);
        assert_eq!(signed(&[0x00, 0x80]), -32768);
        assert_eq!(signed(&[1, 0, 0, 0]), 1);
        assert_eq!(signed(&i64::MIN.to_le_bytes()), i64::MIN);
        assert_eq!(Kind::Unsigned.read(&[0xff]), DbValue::Int(255));
        assert_eq!(Kind::Unsigned.read(&[0xff; 8]), DbValue::text("18446744073709551615"));
        assert!((float(&0.7f32.to_le_bytes()) - 0.7).abs() < f64::EPSILON);
        assert_eq!(Kind::Bits.read(&[1, 2]), DbValue::Int(258));
        assert_eq!(Kind::Decimal.read(b"12.50"), DbValue::Double(12.5));
    }

    #[test]
    fn dates_without_sense_are_null() {
        assert!(moment(&[4, 0xe7, 0x07, 11, 14]).is_some());
        assert_eq!(moment(&[4, 0xe7, 0x07, 13, 14]), None);
        assert_eq!(moment(&[]), None);
        assert_eq!(time_of_day(&[8, 1, 1, 0, 0, 0, 2, 3, 4]), "-26:03:04");
    }

    #[test]
    fn a_socket_of_the_url_goes_before_the_host() {
        let url = DbUrl::server("mysql://u:secret@localhost/db?unix_socket=/run/my.sock");
        let options = url.map(|url| format!("{:?}", connect_options(&url, &Tls::Off)));
        assert!(options.is_ok_and(|options| options.contains("/run/my.sock")));
    }
}
