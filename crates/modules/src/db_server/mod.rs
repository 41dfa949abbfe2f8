//! What `db_mysql` and `db_postgres` have in common: limits out of parameters, statistics. No module of a script; the
//! drivers themselves are in `tandem-store`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tandem_module::declare::ParamValues;
use tandem_module::{NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType, StatSpec};
use tandem_store::watch::DbStats;
use tandem_store::{PoolLimits, ServerOptions, Tls};

use crate::core::table::{int, list_param, stat};

/// Most connections a pool may be given.
const POOL_SIZE_MAX: i32 = 1000;
/// Longest a statement may be given, in milliseconds.
const QUERY_TIMEOUT_MAX: i32 = 600_000;

pub(crate) const POOL_SIZE: ParamSpec = int("pool_size", "10", "Tandem only: most connections to a database at a time");
pub(crate) const POOL_QUEUE: ParamSpec =
    int("pool_queue", "10000", "Tandem only: most statements that run or wait; further ones fail at once");
pub(crate) const QUERY_TIMEOUT: ParamSpec = int(
    "query_timeout",
    "5000",
    "Tandem only: milliseconds until a statement that has no answer fails, waiting included",
);
pub(crate) const TLS_CA: ParamSpec = list_param(
    "tls_ca",
    ParamType::Text,
    "Tandem only: name=/path: file with the authorities for URLs with ?tls_domain=name; the system's without",
);

pub(crate) const STATS: &[StatSpec] = &[
    stat("queries", "statements that ended, well or not"),
    stat("refused_queries", "statements the server refused, such as for a missing column"),
    stat("unavailable_queries", "statements that failed since the server was away"),
    stat("timed_out_queries", "statements that took longer than query_timeout"),
    stat("overloaded_queries", "statements refused since pool_queue others waited"),
    stat("retried_queries", "statements run once more after a lost connection or a deadlock"),
    stat("slow_queries", "statements slower than exec_query_threshold"),
    stat("connections", "connections made since the start"),
    stat("failed_connections", "attempts to connect that failed"),
];

/// Registers the statistics of a driver.
pub(crate) fn register(node: NodeRef, group: &str, stats: &Arc<DbStats>) {
    let counters: [fn(&DbStats) -> &AtomicU64; 9] = [
        |stats| &stats.statements,
        |stats| &stats.refused,
        |stats| &stats.unavailable,
        |stats| &stats.timeouts,
        |stats| &stats.overloads,
        |stats| &stats.retries,
        |stats| &stats.slow,
        |stats| &stats.connects,
        |stats| &stats.failed_connects,
    ];
    for (spec, counter) in STATS.iter().zip(counters) {
        let stats = stats.clone();
        node.stats.computed(group, spec.name, move || counter(&stats).load(Ordering::Relaxed).cast_signed());
    }
}

/// What the parameters come to.
pub(crate) fn options(
    params: &ParamValues,
    connect_timeout: Duration,
    connects_max: usize,
) -> Result<ServerOptions, SetupError> {
    let within = |name: &'static str, default: i32, max: i32| match params.int(name, default) {
        number if (1..=max).contains(&number) => Ok(number.unsigned_abs() as usize),
        number => Err(SetupError::param(name, format!("{number} is not between 1 and {max}"))),
    };
    let slow = u64::try_from(params.int("exec_query_threshold", 0)).ok().filter(|micros| *micros > 0);
    let mut tls_domains = Vec::new();
    for (at, text) in params.all("tls_ca").iter().enumerate() {
        let Some((name, path)) = text.split_once('=') else {
            return Err(SetupError::param_at("tls_ca", at, format!("'{text}' is not name=/path")));
        };
        let path = PathBuf::from(path.trim());
        if !path.is_file() {
            return Err(SetupError::param_at("tls_ca", at, format!("there is no file '{}'", path.display())));
        }
        tls_domains.push((name.trim().to_owned(), path));
    }
    Ok(ServerOptions {
        limits: PoolLimits {
            connections_max: within("pool_size", 10, POOL_SIZE_MAX)?,
            waiting_max: within("pool_queue", 10_000, i32::MAX)?,
            timeout: Duration::from_millis(within("query_timeout", 5_000, QUERY_TIMEOUT_MAX)? as u64),
            connect_timeout,
            connects_max,
            // A value that makes no sense means the default, as with OpenSIPS.
            retries_max: usize::try_from(params.int("max_db_queries", 2)).unwrap_or(2),
            slow: slow.map(Duration::from_micros),
            ..ServerOptions::default().limits
        },
        tls: if params.int("use_tls", 0) != 0 { Tls::Prefer } else { Tls::Off },
        tls_domains,
        stats: Arc::default(),
        hook: None,
    })
}
