//! Module `presence`: a server for PUBLISH, SUBSCRIBE and NOTIFY of any event package (RFC 3903, RFC 6665, RFC 3856,
//! RFC 3857). Packages come from other modules. Publications live in the database, subscriptions in memory with a copy in
//! the database. Nodes of a cluster share nothing here but the database (`fallback2db`).

mod config;
mod management;
mod notify;
mod package;
mod publish;
mod refresh;
mod rows;
mod status;
mod subscribe;
mod surface;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod winfo;
mod writer;

use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_module::context::{Called, Context};
use tandem_module::db::{Db, DbError, DbRows, Statement};
use tandem_module::declare::Setup;
use tandem_module::stat::Stat;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::vm::LogLevel;
use tandem_sip::Uri;

pub use package::{Asked, Decision, DocumentFuture, Package, Policy, PolicyFuture, Refusal, Source, View};
pub use status::Status;
pub use table::SUBSCRIPTIONS_MAX;

use crate::sqlops::{check_tables_of, wait};

/// Valid publications of one presentity and package at most; further ones are refused with 503.
pub const PUBLICATIONS_MAX: usize = 32;
/// Longest published document in bytes; longer ones are refused with 413 (a MySQL BLOB has 65,535).
pub const BODY_BYTES_MAX: usize = 60_000;
/// Longest user or domain in bytes (the tables' columns have 64 characters).
pub const NAME_BYTES_MAX: usize = 64;
/// Longest URI in bytes (the tables' columns have 255 characters).
pub const URI_BYTES_MAX: usize = 255;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "presence",
    doc: "presence server: PUBLISH, SUBSCRIBE, NOTIFY",
    params: config::PARAMS,
    functions: surface::FUNCTIONS,
    events: surface::EVENTS,
    commands: surface::COMMANDS,
    stats: surface::STATS,
    depends: &["tm"],
    setup,
    init,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

/// State of the module.
pub(crate) struct Presence {
    config: config::Config,
    packages: package::Packages,
    db: OnceLock<Arc<dyn Db>>,
    table: Mutex<table::Table>,
    /// Resources whose watchers are being told something, and what came up meanwhile.
    refreshes: Mutex<HashMap<table::Resource, refresh::Wanted>>,
    writer: Mutex<writer::Writer>,
    errors: OnceLock<Arc<Stat>>,
}

impl Presence {
    /// Runs a statement; what goes wrong is logged and counted.
    async fn run(&self, statement: Statement) -> Result<DbRows, DbError> {
        let Some(db) = self.db.get() else {
            return Err(DbError::Unavailable("module presence has no db_url".into()));
        };
        let result = db.run(statement).await;
        if let Err(error) = &result {
            tracing::error!("presence: {}: {error}", db.name());
            if let Some(errors) = self.errors.get() {
                errors.inc();
            }
        }
        result
    }
}

/// Adds an event package; false when module `presence` is not loaded (OpenSIPS: presence, add_event()).
pub fn add_package(node: NodeRef, package: Arc<dyn Package>) -> bool {
    let Some(own) = node.state::<Presence>() else { return false };
    own.packages.add(package);
    true
}

/// Whether remote targets of `dialog;sla` documents are to be rewritten (parameter `bla_fix_remote_target`).
pub fn fixes_remote_target(node: NodeRef) -> bool {
    node.state::<Presence>().is_some_and(|own| own.config.fixes_remote_target)
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let config = config::Config::read(setup)?;
    setup.state(Presence {
        config,
        packages: package::Packages::default(),
        db: OnceLock::new(),
        table: Mutex::default(),
        refreshes: Mutex::default(),
        writer: Mutex::default(),
        errors: OnceLock::new(),
    });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Presence>() else { return Ok(()) };
    let _ = own.errors.set(node.stats.stat("presence", "db_errors"));
    for event in surface::EVENTS {
        node.events.declare(event.name);
    }
    management::register(node, own);
    let Some(url) = own.config.db_url.as_deref() else { return Ok(()) };
    crate::core::db_load::open(node, "db_url", url).map(|_| ())
}

/// Drivers and packages are known by now.
fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Presence>() else { return Ok(()) };
    let config = &own.config;
    let Some(url) = &config.db_url else { return Ok(()) };
    let db = node.db.open(url).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    let tables = [
        (config.presentity_table.as_str(), "presentity"),
        (config.active_watchers_table.as_str(), "active_watchers"),
        (config.watchers_table.as_str(), "watchers"),
    ];
    check_tables_of(&*db, "presence", &tables)?;
    let rows = wait(db.run(rows::all_subscriptions(config, SUBSCRIPTIONS_MAX))).map_err(|error| {
        let hint = "the subscriptions cannot be read: see what 'tandem db check' says";
        SetupError::param("db_url", format!("presence: {}: {error}: {hint}", db.name()))
    })?;
    let _ = own.db.set(db);
    let subscriptions = rows::read_subscriptions(config, &own.packages, &rows);
    let mut table = own.table.lock();
    for subscription in subscriptions {
        table.insert(subscription, true);
    }
    drop(table);
    timers::start(node, own);
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some(own) = node.state::<Presence>() {
        writer::write_later(node, own, own.config.update_period.is_some() || own.config.is_shared);
    }
}

/// The state, when the module can serve.
fn serving(context: &Context) -> Option<&'static Presence> {
    let own = context.node.state::<Presence>()?;
    if own.db.get().is_none() {
        context.log(
            LogLevel::Error,
            "presence: there is no database, so nothing is served: modparam(\"presence\", \"db_url\", \"mysql://...\")",
        );
        return None;
    }
    Some(own)
}

/// Answers with the refusal; the function has failed.
fn refuse(context: &mut Context, refusal: &Refusal) -> Called {
    if !refusal.headers.is_empty() {
        context.edits.lumps.append_to_reply(refusal.headers.clone().into_bytes());
    }
    context.answer(refusal.code, refusal.reason.as_bytes());
    Called::Done(-1)
}

/// 489 with what there is.
fn bad_event(own: &Presence) -> Refusal {
    let names = own.packages.names();
    let headers = if names.is_empty() { String::new() } else { format!("Allow-Events: {names}\r\n") };
    Refusal { headers, ..Refusal::new(489, "Bad Event") }
}

/// 500 for what the database did not do.
fn failed() -> Refusal {
    Refusal::new(500, "Server Internal Error")
}

/// A part of a message as text.
fn text(bytes: &[u8], bytes_max: usize) -> Result<String, Refusal> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= bytes_max && !text.contains(['\0', '\r', '\n']) => Ok(text.to_owned()),
        _ => Err(Refusal::new(400, "Bad request")),
    }
}

/// User and domain of a URI, the domain in small letters.
fn account(uri: &[u8]) -> Result<(String, String), Refusal> {
    let bad = || Refusal::new(400, "Bad request");
    let uri = Uri::parse(uri).map_err(|_| bad())?;
    if uri.host.is_empty() {
        return Err(bad());
    }
    let user = text(uri.user_or_empty(), NAME_BYTES_MAX)?;
    let domain = text(uri.host, NAME_BYTES_MAX)?.to_ascii_lowercase();
    // They stand between angle brackets in what is sent.
    if user.contains(['<', '>', '"', ' ']) || domain.contains(['<', '>', '"', ' ']) {
        return Err(bad());
    }
    Ok((user, domain))
}
