//! What the drivers of database servers have in common: settings, an open database. No SQL and no protocol.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tandem_module::db::{BoxFuture, Db, DbError, DbRows, Statement};
use tokio::runtime::Handle;

use crate::pool::{Engine, Pool, PoolLimits};
use crate::url::DbUrl;
use crate::watch::{DbStats, StateHook, Watch};

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
