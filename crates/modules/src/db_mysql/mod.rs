//! Module `db_mysql`: MariaDB and MySQL as databases (`mysql://user:password@host:port/database`). The driver itself is in
//! `tandem-store`.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;
use tandem_module::declare::Setup;
use tandem_module::event::Event;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{EventSpec, ParamSpec};
use tandem_script::value::Value;
use tandem_store::{MySqlDriver, ServerOptions};

use crate::core::table::int;
use crate::db_server::{POOL_QUEUE, POOL_SIZE, QUERY_TIMEOUT, STATS, TLS_CA, options, register};

const NAME: &str = "db_mysql";

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: NAME,
    doc: "MariaDB and MySQL driver",
    params: PARAMS,
    events: EVENTS,
    stats: STATS,
    setup,
    init,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    int("exec_query_threshold", "0", "microseconds from which a statement is logged as slow; 0: never"),
    int("timeout_interval", "2", "seconds one attempt to connect may take"),
    int("max_db_queries", "2", "how often a statement is run again after a lost connection or a deadlock"),
    int("max_db_retries", "3", "attempts to connect for one statement"),
    int("ps_max_col_size", "1024", "accepted, no effect: values are never cut"),
    int("use_tls", "0", "1: connections use TLS when the server has it; with ?tls_domain=name in the URL it must"),
    POOL_SIZE,
    POOL_QUEUE,
    QUERY_TIMEOUT,
    TLS_CA,
];

const CONNECTION: &str = "E_MYSQL_CONNECTION";

static EVENTS: &[EventSpec] = &[EventSpec {
    name: CONNECTION,
    params: &["url", "status"],
    doc: "a server was lost (disconnected) or is back (connected); the URL comes without its password",
}];

struct Options(ServerOptions);

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let seconds = params.int("timeout_interval", 2);
    let connect_timeout = match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => return Err(SetupError::param("timeout_interval", format!("{seconds} is no number of seconds above 0"))),
    };
    let connects_max = usize::try_from(params.int("max_db_retries", 3)).unwrap_or(3);
    let options = options(params, connect_timeout, connects_max)?;
    setup.state(Options(options));
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let Some(Options(options)) = node.state::<Options>() else { return Ok(()) };
    register(node, NAME, &options.stats);
    let hook = Arc::new(move |url: &str, is_up: bool| {
        let status = if is_up { "connected" } else { "disconnected" };
        let params = smallvec![("url", Value::from(url)), ("status", Value::from(status))];
        node.events.raise(node, Event { name: CONNECTION, params }, None);
    });
    let options = ServerOptions { hook: Some(hook), ..options.clone() };
    node.db.add_driver(Arc::new(MySqlDriver::new(handle, options)));
    Ok(())
}
