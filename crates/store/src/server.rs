//! What the drivers of database servers have in common: settings, an open database. No SQL and no protocol.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tandem_module::db::{BoxFuture, Db, DbError, DbOp, DbRows, DbValue, Statement};
use tokio::runtime::Handle;

use crate::pool::{Engine, Pool, PoolLimits};
use crate::url::DbUrl;
use crate::watch::{DbStats, StateHook, Watch};

/// How long a server that could not be reached is left alone.
pub const OUTAGE_PAUSE: Duration = Duration::from_millis(300);

/// How connections are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    #[default]
    Off,
    /// If the server can; whoever it is.
    Prefer,
    /// Always; the server must have a certificate signed by one of those in the file, or by one the system trusts.
    Require(Option<PathBuf>),
}

/// Settings, the parameters of `db_mysql` and `db_postgres` among them.
#[derive(Clone)]
pub struct ServerOptions {
    /// Limits of each database's pool.
    pub limits: PoolLimits,
    /// Protection of connections; an option of the URL may ask for more.
    pub tls: Tls,
    /// Certificates of authorities for URLs with `tls_domain`, by the name there.
    pub tls_domains: Vec<(String, PathBuf)>,
    /// Counters.
    pub stats: Arc<DbStats>,
    /// Told when a server is lost and when it is back.
    pub hook: Option<StateHook>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            limits: PoolLimits {
                connections_max: 10,
                waiting_max: 10_000,
                timeout: Duration::from_secs(5),
                connect_timeout: Duration::from_secs(2),
                outage_pause: OUTAGE_PAUSE,
                connects_max: 3,
                retries_max: 2,
                slow: None,
            },
            tls: Tls::Off,
            tls_domains: Vec::new(),
            stats: Arc::default(),
            hook: None,
        }
    }
}

impl ServerOptions {
    /// How a connection to `url` is protected: `?tls_domain=name` makes TLS a must when TLS is on at all.
    pub(crate) fn tls_of(&self, url: &DbUrl) -> Tls {
        match (&self.tls, url.option("tls_domain")) {
            (Tls::Prefer, Some(domain)) => {
                let ca = self.tls_domains.iter().find(|(name, _)| name == domain).map(|(_, path)| path.clone());
                Tls::Require(ca)
            }
            (tls, _) => tls.clone(),
        }
    }
}

/// Whether a condition asks for a text which the server cannot even be told, and which no row has: one that is not UTF-8, or
/// has a NUL where the server knows none. The answer is known, and no error: anybody can send such a user name.
pub(crate) fn is_impossible(statement: &Statement, knows_nul: bool) -> bool {
    let keys = match statement {
        Statement::Select { keys, .. } | Statement::Update { keys, .. } | Statement::Delete { keys, .. } => keys,
        _ => return false,
    };
    let is_unknown = |text: &[u8]| (!knows_nul && text.contains(&0)) || std::str::from_utf8(text).is_err();
    keys.iter().any(|(_, op, value)| *op == DbOp::Eq && matches!(value, DbValue::Text(text) if is_unknown(text)))
}

/// An open database of a server.
pub(crate) struct ServerDb<E: Engine> {
    pool: Pool<E>,
    name: String,
}

impl<E: Engine> ServerDb<E> {
    pub(crate) fn new(engine: E, url: &DbUrl, options: &ServerOptions, handle: &Handle) -> ServerDb<E> {
        let name = url.masked().to_owned();
        let watch = Watch { name: name.clone(), stats: options.stats.clone(), hook: options.hook.clone() };
        ServerDb { pool: Pool::watched(engine, options.limits, handle.clone(), watch), name }
    }
}

impl<E: Engine> Db for ServerDb<E> {
    fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        self.pool.run(statement)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::is_impossible;
    use tandem_module::db::{DbOp, DbValue, Statement};

    #[test]
    fn a_user_name_no_row_can_have_is_not_asked_for() {
        let select = |op, value: &[u8]| Statement::Select {
            table: "t".into(),
            columns: vec!["a".into()],
            keys: vec![("u".into(), op, DbValue::text(value))],
            order: None,
            limit: None,
        };
        assert!(is_impossible(&select(DbOp::Eq, b"bob\0"), false));
        assert!(!is_impossible(&select(DbOp::Eq, b"bob\0"), true));
        assert!(is_impossible(&select(DbOp::Eq, b"\xff"), true));
        assert!(!is_impossible(&select(DbOp::Eq, b"bob"), false));
        assert!(!is_impossible(&select(DbOp::Ne, b"bob\0"), false));
    }
}
