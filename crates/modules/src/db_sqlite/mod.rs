//! Module `db_sqlite`: SQLite files as databases (`sqlite:///path`). The driver itself is in `tandem-store`.

use std::sync::Arc;
use std::time::Duration;

use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};
use tandem_store::{SqliteDriver, SqliteOptions};

use crate::core::table::{list_param, param};

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "db_sqlite", doc: "SQLite driver", params: PARAMS, setup, init, ..ModuleDecl::EMPTY };

static PARAMS: &[ParamSpec] = &[
    param("busy_timeout", ParamType::Int, "500", "milliseconds to wait for a lock that another process holds"),
    list_param("exec_pragma", ParamType::Text, "name=value, run as PRAGMA on every connection"),
    param("alloc_limit", ParamType::Int, "10", "accepted, no effect: rows are counted as they come"),
];

struct Options(SqliteOptions);

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let busy = u64::try_from(setup.params.int("busy_timeout", 500)).unwrap_or(0);
    let pragmas = setup.params.all("exec_pragma");
    for (at, pragma) in pragmas.iter().enumerate() {
        if !pragma.contains('=') {
            return Err(SetupError::param_at("exec_pragma", at, format!("'{pragma}' is not name=value")));
        }
    }
    setup.state(Options(SqliteOptions {
        busy_timeout: Duration::from_millis(busy),
        pragmas,
        ..SqliteOptions::default()
    }));
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let options = node.state::<Options>().map(|options| options.0.clone()).unwrap_or_default();
    node.db.add_driver(Arc::new(SqliteDriver::with_options(handle, options)));
    Ok(())
}
