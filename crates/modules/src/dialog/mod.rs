//! Module `dialog`: calls followed by the proxy. The rules of a dialog are in `tandem-dialog`; here are messages, script
//! routes, sending, pings and the copy in a database. Sharing over the cluster is not here yet.
//!
//! For other modules: [`create`], [`current`], [`add_listener`].

pub mod clock;
mod effects;
mod follow;
mod functions;
mod functions_more;
mod functions_send;
mod management;
mod management_late;
mod params;
mod pings;
mod prack;
mod requests;
mod rows;
mod shared;
mod store;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod tests_race;
#[cfg(test)]
mod tests_send;
#[cfg(test)]
mod tests_store;
mod variables;

use std::sync::Weak;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tandem_dialog::{DialogConfig, DialogId, DialogTable};
use tandem_module::declare::Setup;
use tandem_module::transaction::Transaction;
use tandem_module::worker::WorkerId;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{EventSpec, StatSpec};

pub use effects::{DialogListener, DialogNotice};
pub use follow::{Current, create, current};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "dialog",
    doc: "calls: states, matching, lifetime, values, profiles",
    params: params::PARAMS,
    functions: functions::FUNCTIONS,
    variables: variables::VARIABLES,
    events: EVENTS,
    commands: management::COMMANDS,
    stats: STATS,
    depends: &["tm", "rr"],
    setup,
    init,
    start,
    stop,
};

use crate::core::db_load;
use crate::core::table::stat;

pub(super) const STATE_CHANGED: &str = "E_DLG_STATE_CHANGED";

const EVENTS: &[EventSpec] = &[EventSpec {
    name: STATE_CHANGED,
    params: &["id", "db_id", "hash_entry", "hash_id", "callid", "from_tag", "to_tag", "old_state", "new_state"],
    doc: "the state of a dialog has changed",
}];

const STATS: &[StatSpec] = &[
    stat("active_dialogs", "calls answered and not over"),
    stat("early_dialogs", "calls that ring"),
    stat("processed_dialogs", "dialogs created since start"),
    stat("expired_dialogs", "calls ended by their lifetime"),
    stat("failed_dialogs", "calls that were never established"),
    stat("db_errors", "statements that the database refused or did not answer"),
    stat("db_pending", "calls whose last change the database may not have"),
];

/// Locks over which pending INVITEs are spread.
const SHARDS: usize = 16;
/// How often dialogs whose time has come are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Dialogs served in one go before messages get their turn.
const TICK_DIALOGS_MAX: usize = 1000;

/// State of the module.
pub struct Dialogs {
    /// All dialogs of this node.
    pub table: DialogTable,
    config: params::Config,
    /// INVITE transactions in work, for CANCEL.
    pending: [Mutex<HashMap<DialogId, Weak<dyn Transaction>>>; SHARDS],
    listeners: RwLock<Vec<DialogListener>>,
    store: store::Store,
    pings: pings::Pings,
    shared: shared::Shared,
}

impl Dialogs {
    fn pending(&self, id: DialogId) -> &Mutex<HashMap<DialogId, Weak<dyn Transaction>>> {
        // In range by construction; the fallback keeps this free of panics.
        self.pending.get(id.entry as usize % SHARDS).unwrap_or(&self.pending[0])
    }
}

/// Adds one who is told of every event of every dialog, outside of all locks; false without module `dialog`.
pub fn add_listener(node: NodeRef, listener: DialogListener) -> bool {
    let Some(dialogs) = node.state::<Dialogs>() else { return false };
    dialogs.listeners.write().push(listener);
    true
}

/// Whether calls are kept in a database, with their values.
pub fn is_saved(node: NodeRef) -> bool {
    node.state::<Dialogs>().is_some_and(|dialogs| dialogs.store.mode() != store::DbMode::None)
}

/// Sets a value of a call; false when there is no such call, or no room.
pub fn set_value(node: NodeRef, id: DialogId, name: &[u8], value: &[u8]) -> bool {
    let Some(dialogs) = node.state::<Dialogs>() else { return false };
    let is_set = dialogs.table.with_dialog(id, |dialog| dialog.values.set(name, value).is_ok());
    dialogs.store.touch(node, dialogs, id);
    is_set == Some(true)
}

/// A value of a call that is a text.
pub fn text_value(node: NodeRef, id: DialogId, name: &[u8]) -> Option<Vec<u8>> {
    let value = node.state::<Dialogs>()?.table.with_dialog(id, |dialog| dialog.values.get(name).cloned())??;
    match value {
        tandem_dialog::DialogValue::Text(text) => Some(text.into_vec()),
        tandem_dialog::DialogValue::Int(_) => None,
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let config = params::Config::read(setup.params, setup.settings)?;
    let table = DialogTable::new(
        DialogConfig {
            hash_size: config.hash_size,
            default_timeout_secs: config.default_timeout_secs,
            delete_delay: config.delete_delay,
            race_condition_timeout: config.race_timeout,
            profiles: config.profiles.clone(),
            seed: rand::random(),
            ..DialogConfig::default()
        },
        tandem_module::clock::now(),
    );
    let store = store::Store::new(params::store(setup.params, setup.settings)?);
    let [options, reinvite] = config.ping_intervals;
    let shared = shared::Shared::read(setup.params);
    setup.state(Dialogs {
        store,
        shared,
        pings: pings::Pings::new(options, reinvite),
        table,
        config,
        pending: std::array::from_fn(|_| Mutex::default()),
        listeners: RwLock::default(),
    });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(dialogs) = node.state::<Dialogs>() else { return Ok(()) };
    let computed = |name, read: fn(&tandem_dialog::DialogTotals) -> u64| {
        node.stats.computed("dialog", name, move || i64::try_from(read(&dialogs.table.totals())).unwrap_or(i64::MAX));
    };
    computed("active_dialogs", |totals| totals.active);
    computed("early_dialogs", |totals| totals.early);
    computed("processed_dialogs", |totals| totals.processed);
    computed("expired_dialogs", |totals| totals.expired);
    computed("failed_dialogs", |totals| totals.failed);
    let pending = || i64::try_from(dialogs.store.pending()).unwrap_or(i64::MAX);
    node.stats.computed("dialog", "db_pending", pending);
    if !crate::tm::add_request_hook(node, follow::on_new_transaction) {
        return Err(SetupError::new("module dialog needs module tm: loadmodule \"tm.so\" before it"));
    }
    node.add_route_hook(follow::on_route);
    // A URL that no driver takes is told before anything else starts; the driver itself may be loaded later in the script.
    if let Some(url) = dialogs.store.url()
        && let Some(db) = db_load::open(node, "db_url", url)?
    {
        dialogs.store.attach(node, db);
    }
    management::register(node, dialogs);
    for note in &dialogs.config.notes {
        tracing::warn!("{note}");
    }
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    if let Some(workers) = node.workers() {
        workers.after(WorkerId(0), tandem_module::clock::now() + TICK, Box::new(move |now| tick(node, now)));
    }
    let Some(dialogs) = node.state::<Dialogs>() else { return Ok(()) };
    dialogs.shared.connect(node)?;
    let Some(url) = dialogs.store.url() else { return Ok(()) };
    let db = node.db.open(url).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    dialogs.store.attach(node, db);
    db_load::load_at_start(node, "dialog", Box::pin(dialogs.store.load_and_tell(node, dialogs)))
}

/// Writes what has changed; the server waits a bounded time for it.
fn stop(node: NodeRef) {
    if let Some(dialogs) = node.state::<Dialogs>() {
        dialogs.store.sweep(node, dialogs);
    }
}

/// Ends dialogs whose time has come, and forgets ended ones.
fn tick(node: NodeRef, now: Instant) {
    let (Some(dialogs), Some(workers)) = (node.state::<Dialogs>(), node.workers()) else { return };
    clock::note(now);
    let at = clock::now();
    let mut is_full = false;
    if dialogs.table.poll_timeout().is_some_and(|first| first <= at.monotonic) {
        let served = dialogs.table.handle_timeout(at.moment(), TICK_DIALOGS_MAX);
        is_full = served.len() >= TICK_DIALOGS_MAX;
        for timed_out in served {
            effects::apply(node, dialogs, timed_out.id, timed_out.events, &[]);
        }
    }
    is_full |= pings::Pings::tick(node, dialogs, at.monotonic, TICK_DIALOGS_MAX);
    dialogs.store.tick(node, dialogs, at.monotonic);
    let wait = if is_full { Duration::from_millis(1) } else { TICK };
    workers.after(WorkerId(0), now + wait, Box::new(move |now| tick(node, now)));
}
