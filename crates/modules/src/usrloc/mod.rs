//! Module `usrloc`: the location tables, their expiry, events, statistics, management commands and SQL copy. What a
//! REGISTER may do is decided by `tandem-location` and module `registrar`; contacts are not shared with a cluster yet.

mod changes;
mod config;
mod domain;
mod expiry;
mod kv;
mod load;
mod management;
mod push;
mod rows;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tandem_location::{Aor, LocationConfig, Matching, RegisterPolicy};
use tandem_module::context::write_log;
use tandem_module::db::{Db, DbError};
use tandem_module::declare::Setup;
use tandem_module::node::NodeRef;
use tandem_module::worker;
use tandem_module::{ModuleDecl, SetupError};
use tandem_script::surface::StatSpec;
use tandem_script::vm::LogLevel;

use crate::core::db_load::is_table_name;
use crate::sqlops::check_tables_of;

pub(crate) use changes::{LATENCY_UPDATE, raise_latency, raise_refresh};
pub use config::WriteMode;
pub use domain::Domain;
pub(crate) use load::Fetched;
pub(crate) use store::Ack;

use config::Config;
use store::Store;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "usrloc",
    doc: "the location table",
    params: config::PARAMS,
    functions: kv::FUNCTIONS,
    events: changes::EVENTS,
    commands: management::COMMANDS,
    stats: STATS,
    setup,
    init,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

const STATS: &[StatSpec] = &[
    StatSpec { name: "registered_users", doc: "addresses of record in all domains" },
    StatSpec { name: "db_errors", doc: "statements on the location tables that failed" },
    StatSpec { name: "db_lost_writes", doc: "changes of contacts that never reached the database" },
];

/// Domains a process makes; a script names few.
const DOMAINS_MAX: usize = 64;
/// How long the start waits for contacts to be loaded; after that they come in while requests are served.
const LOAD_WAIT_MAX: Duration = Duration::from_secs(60);

/// State of the module.
pub struct Usrloc {
    domains: RwLock<Vec<&'static Domain>>,
    config: Config,
    db: OnceLock<Arc<dyn Db>>,
    /// Held while the key-value store of a record is read, changed and written back.
    kv_lock: Mutex<()>,
    /// Branch flag of contacts behind NAT (`nat_bflag`).
    pub nat_bflag: Option<u8>,
    /// Seconds before their expiry at which UAs with push notifications are woken; unset without any.
    push_trigger_secs: OnceLock<u32>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let nat_bflag = setup.branch_flag("nat_bflag")?;
    let config = Config::read(setup.params, setup.settings)?;
    setup.state(Usrloc {
        domains: RwLock::default(),
        config,
        db: OnceLock::new(),
        kv_lock: Mutex::default(),
        nat_bflag,
        push_trigger_secs: OnceLock::new(),
    });
    Ok(())
}

impl Usrloc {
    /// The domain of that name (`location`), made when it is named first. `None` for a name that cannot be a table, or
    /// when there are too many.
    pub fn domain(&'static self, node: NodeRef, name: &[u8]) -> Option<&'static Domain> {
        self.find_domain(name).or_else(|| self.add_domain(node, name))
    }

    /// Whether contacts live in the database only, by configuration.
    pub fn lives_in_db_only(&self) -> bool {
        self.config.write_mode == WriteMode::Only
    }

    /// The domain of that name, if it has been named before.
    pub fn find_domain(&self, name: &[u8]) -> Option<&'static Domain> {
        self.domains.read().iter().copied().find(|domain| domain.name.as_bytes() == name)
    }

    /// All domains, by name.
    pub fn domains(&self) -> Vec<&'static Domain> {
        let mut all = self.domains.read().clone();
        all.sort_by_key(|domain| domain.name);
        all
    }

    fn add_domain(&'static self, node: NodeRef, name: &[u8]) -> Option<&'static Domain> {
        let name = std::str::from_utf8(name).ok().filter(|name| is_table_name(name.as_bytes()))?;
        // A domain that is named before the database is open would have no copy there.
        if let Err(error) = self.open(node) {
            write_log(LogLevel::Error, &format!("usrloc: table '{name}': {error}"));
            return None;
        }
        let (domain, is_new) = {
            let mut domains = self.domains.write();
            match domains.iter().copied().find(|domain| domain.name == name) {
                Some(domain) => (domain, false),
                None if domains.len() >= DOMAINS_MAX => return None,
                None => {
                    let domain: &'static Domain = Box::leak(Box::new(self.new_domain(node, name)));
                    domains.push(domain);
                    (domain, true)
                }
            }
        };
        if is_new {
            domain.register_statistics(node);
            if domain.store.is_some() {
                domain.start_loading();
            }
        }
        Some(domain)
    }

    fn new_domain(&self, node: NodeRef, name: &str) -> Domain {
        let shard_count = 1usize << self.config.hash_size.clamp(0, LocationConfig::MAX_SHARDS.ilog2() as i32);
        let config = LocationConfig { shard_count, seed: rand::random(), ..LocationConfig::default() };
        let store = self.db.get().map(|db| Store::new(node, db.clone(), name, &self.config));
        Domain::new(node, name, &config, store)
    }

    /// The key of a user at a host: with the host when `use_domain` is on. `is_case_sensitive` as registrar's parameter.
    pub fn aor(&self, user: &[u8], host: &[u8], is_case_sensitive: bool) -> Aor {
        Aor::from_parts(user, host, self.config.use_domain, is_case_sensitive)
    }

    /// Whether the host is a part of the key (`use_domain`).
    pub fn uses_domain(&self) -> bool {
        self.config.use_domain
    }

    /// Whether lookups order by time instead of q (`desc_time_order`).
    pub fn orders_by_time(&self) -> bool {
        self.config.desc_time_order
    }

    /// Module `registrar` serves push notifications: UAs are woken so many seconds before their expiry, where
    /// `contact_refresh_timer` is on.
    pub(crate) fn set_push_trigger(&self, secs: u32) {
        let _ = self.push_trigger_secs.set(secs);
    }

    /// The part of a registrar's policy that belongs to this module.
    pub fn policy(&self) -> RegisterPolicy {
        RegisterPolicy {
            matching: self.matching(),
            cseq_delay_secs: self.config.cseq_delay_secs,
            has_foreign_writers: self.lives_in_db_only(),
            ..RegisterPolicy::default()
        }
    }

    fn matching(&self) -> Matching {
        self.config.matching.clone()
    }

    /// Opens the database once its driver is there.
    fn open(&'static self, node: NodeRef) -> Result<(), DbError> {
        let Some(url) = self.config.db_url.as_deref().filter(|_| self.config.write_mode != WriteMode::None) else {
            return Ok(());
        };
        if self.db.get().is_none() {
            let _ = self.db.set(open_db(node, url)?);
        }
        Ok(())
    }
}

fn open_db(node: NodeRef, url: &str) -> Result<Arc<dyn Db>, DbError> {
    #[cfg(test)]
    if let Some(db) = tests::planted_db() {
        return Ok(db);
    }
    node.db.open(url)
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(usrloc) = node.state::<Usrloc>() else { return Ok(()) };
    management::register(node, usrloc);
    node.stats.computed("usrloc", "registered_users", move || {
        usrloc.domains().iter().map(|domain| domain.table.totals().users as i64).sum()
    });
    // A driver that is loaded behind this module is not there yet: `start` tries again.
    match usrloc.open(node) {
        Ok(()) => open_location(node, usrloc)?,
        Err(DbError::NoDriver { .. }) => {}
        Err(error) => return Err(SetupError::param("db_url", error.to_string())),
    }
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(usrloc) = node.state::<Usrloc>() else { return Ok(()) };
    usrloc.open(node).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    open_location(node, usrloc)?;
    if let Some(note) = usrloc.config.note {
        write_log(LogLevel::Warning, note);
    }
    expiry::start(node, usrloc);
    Ok(())
}

/// Makes the domain every script has, and waits for its contacts when that is possible. A database that does not answer is
/// an error: this node would serve without the contacts it is said to keep.
fn open_location(node: NodeRef, usrloc: &'static Usrloc) -> Result<(), SetupError> {
    if let Some(db) = usrloc.db.get().filter(|_| usrloc.find_domain(b"location").is_none()) {
        check_tables_of(&**db, "usrloc", &[("location", "location")])?;
    }
    let Some(domain) = usrloc.domain(node, b"location") else { return Ok(()) };
    // Only the starting thread may wait, a worker never.
    if domain.store.is_some() && !worker::is_worker() && !domain.wait_loaded(LOAD_WAIT_MAX) {
        write_log(LogLevel::Warning, "contacts are still being loaded: serving begins without the rest");
    }
    Ok(())
}

fn stop(node: NodeRef) {
    let Some(usrloc) = node.state::<Usrloc>() else { return };
    for domain in usrloc.domains() {
        if let Some(store) = &domain.store {
            store.flush_later();
        }
    }
}
