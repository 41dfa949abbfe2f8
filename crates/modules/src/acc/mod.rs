//! Module `acc`: accounting of transactions and calls to the log, a database and events. AAA servers are not here yet.

mod account;
mod functions;
mod params;
mod record;
mod rows;
mod saved;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_more;

use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_dialog::DialogId;
use tandem_module::db::Db;
use tandem_module::declare::Setup;
use tandem_module::stat::Stat;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{EventSpec, StatSpec};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "acc",
    doc: "accounting of transactions and calls",
    params: params::PARAMS,
    functions: functions::FUNCTIONS,
    variables: functions::VARIABLES,
    events: EVENTS,
    stats: &[
        StatSpec { name: "db_errors", doc: "statements that the database refused or did not answer" },
        StatSpec { name: "db_lost_rows", doc: "rows that went to the log because they could not be written" },
    ],
    depends: &["tm"],
    setup,
    init,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

const TRANSACTION: &[&str] = &["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time"];

const EVENTS: &[EventSpec] = &[
    EventSpec { name: record::EVENT, params: TRANSACTION, doc: "a transaction is accounted; extra fields follow" },
    EventSpec {
        name: record::EVENT_MISSED,
        params: TRANSACTION,
        doc: "a missed call; setuptime, created and extra fields follow",
    },
    EventSpec {
        name: record::EVENT_CDR,
        params: &[
            "method",
            "from_tag",
            "to_tag",
            "callid",
            "sip_code",
            "sip_reason",
            "time",
            "setuptime",
            "created",
            "duration",
            "ms_duration",
        ],
        doc: "a call is over; extra fields follow",
    },
];

/// Locks over which accounts are spread.
const SHARDS: usize = 16;

type Shards<K, V> = [Mutex<HashMap<K, V>>; SHARDS];

/// State of the module.
pub(crate) struct Acc {
    config: params::Config,
    db: OnceLock<Arc<dyn Db>>,
    errors: OnceLock<Arc<Stat>>,
    lost: OnceLock<Arc<Stat>>,
    rows: rows::Rows,
    /// What is wanted for a transaction, by its id.
    accounts: Shards<u64, Arc<account::Account>>,
    /// Calls that are up and will be written when they end.
    calls: Shards<DialogId, record::Call>,
}

impl Acc {
    fn account_shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<account::Account>>> {
        // In range by construction; the fallback keeps this free of panics.
        self.accounts.get(id as usize % SHARDS).unwrap_or(&self.accounts[0])
    }

    fn call_shard(&self, id: DialogId) -> &Mutex<HashMap<DialogId, record::Call>> {
        self.calls.get(id.entry as usize % SHARDS).unwrap_or(&self.calls[0])
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let config = params::Config::read(setup.params, setup.settings)?;
    setup.state(Acc {
        config,
        db: OnceLock::new(),
        errors: OnceLock::new(),
        lost: OnceLock::new(),
        rows: rows::Rows::default(),
        accounts: std::array::from_fn(|_| Mutex::default()),
        calls: std::array::from_fn(|_| Mutex::default()),
    });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(acc) = node.state::<Acc>() else { return Ok(()) };
    let _ = acc.errors.set(node.stats.stat("acc", "db_errors"));
    let _ = acc.lost.set(node.stats.stat("acc", "db_lost_rows"));
    if !crate::tm::add_request_hook(node, account::on_new_transaction) {
        return Err(SetupError::new("module acc needs module tm: loadmodule \"tm.so\" before it"));
    }
    // Without module dialog there are no CDRs; do_accounting() says so when they are asked for.
    crate::dialog::add_listener(node, account::on_dialog);
    for note in &acc.config.notes {
        tracing::warn!("{note}");
    }
    Ok(())
}

/// Drivers are known by now.
fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(acc) = node.state::<Acc>() else { return Ok(()) };
    let Some(url) = &acc.config.db_url else { return Ok(()) };
    let db = node.db.open(url).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    let _ = acc.db.set(db);
    Ok(())
}

/// Writes what is waiting; the server waits a bounded time for it.
fn stop(node: NodeRef) {
    if let Some(acc) = node.state::<Acc>() {
        acc.rows.stop(node, acc);
    }
}
