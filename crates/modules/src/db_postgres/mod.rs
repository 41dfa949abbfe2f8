//! Module `db_postgres`: PostgreSQL as a database (`postgres://user:password@host:port/database`). The driver itself is in
//! `tandem-store`.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ParamSpec;
use tandem_store::{PostgresDriver, ServerOptions};

use crate::core::table::int;
use crate::db_server::{POOL_QUEUE, POOL_SIZE, QUERY_TIMEOUT, STATS, TLS_CA, options, register};

const NAME: &str = "db_postgres";
/// Attempts to connect for one statement.
const CONNECTS: usize = 3;
/// Longest attempt when the script wants to wait without end, in seconds: nothing waits without end here.
const TIMEOUT_ENDLESS: u64 = 30;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: NAME, doc: "PostgreSQL driver", params: PARAMS, stats: STATS, setup, init, ..ModuleDecl::EMPTY };

static PARAMS: &[ParamSpec] = &[
    int("exec_query_threshold", "0", "microseconds from which a statement is logged as slow; 0: never"),
    int("max_db_queries", "2", "how often a statement is run again after a lost connection or a deadlock"),
    int("timeout", "5", "seconds one attempt to connect may take; below 0: half a minute"),
    int("use_tls", "0", "1: connections use TLS when the server has it; with ?tls_domain=name in the URL it must"),
    POOL_SIZE,
    POOL_QUEUE,
    QUERY_TIMEOUT,
    TLS_CA,
];

struct Options(ServerOptions);

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let seconds = match setup.params.int("timeout", 5) {
        0 => return Err(SetupError::param("timeout", "0 seconds are not enough to connect")),
        seconds => u64::try_from(seconds).unwrap_or(TIMEOUT_ENDLESS),
    };
    let options = options(setup.params, Duration::from_secs(seconds), CONNECTS)?;
    setup.state(Options(options));
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let Some(Options(options)) = node.state::<Options>() else { return Ok(()) };
    register(node, NAME, &options.stats);
    node.db.add_driver(Arc::new(PostgresDriver::new(handle, options.clone())));
    Ok(())
}
