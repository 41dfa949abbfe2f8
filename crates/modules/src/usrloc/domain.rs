//! One location table with its name, statistics and SQL copy.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tandem_location::{Aor, Binding, ContactId, LocationConfig, LocationTable};
use tandem_module::node::NodeRef;
use tandem_module::stat::Stat;

use super::push::PushIndex;
use super::store::Store;

/// A domain such as `location`. It lives as long as the process.
pub struct Domain {
    /// Its name, which is also that of its database table.
    pub name: &'static str,
    /// The bindings. Changes made here directly must be given to [`super::Usrloc::publish`].
    pub table: LocationTable,
    pub(super) store: Option<Store>,
    /// Bindings of UAs that are woken by push notifications.
    pub(crate) push: PushIndex,
    pub(super) expired: Arc<Stat>,
    loaded: (Mutex<bool>, Condvar),
    /// Held by who works on addresses of record of a table that lives in the database only.
    pub(super) locks: Vec<Arc<tokio::sync::Mutex<()>>>,
}

/// Independently locked groups of addresses of record.
const LOCKS: usize = 256;

impl Domain {
    pub(super) fn new(node: NodeRef, name: &str, config: &LocationConfig, store: Option<Store>) -> Domain {
        Domain {
            name: Box::leak(name.to_owned().into_boxed_str()),
            table: LocationTable::new(config),
            store,
            push: PushIndex::default(),
            expired: node.stats.stat("usrloc", &format!("{name}-expires")),
            loaded: (Mutex::new(false), Condvar::new()),
            locks: (0..LOCKS).map(|_| Arc::default()).collect(),
        }
    }

    /// The binding with push notifications that has this id, and its address of record.
    pub(crate) fn push_binding(&self, id: ContactId) -> Option<(Aor, Arc<Binding>)> {
        let aor = self.push.aor(id)?;
        let find = |record: &tandem_location::Record| {
            record.bindings().iter().find(|binding| binding.contact_id() == id).cloned()
        };
        let binding = self.table.with_record(&aor, find)??;
        Some((aor, binding))
    }

    /// Whether its contacts live in the database only: [`Domain::fetch`] them before the table is used.
    pub fn is_db_only(&self) -> bool {
        self.store.as_ref().is_some_and(Store::is_only)
    }

    pub(super) fn register_statistics(&'static self, node: NodeRef) {
        let name = self.name;
        node.stats.computed("usrloc", &format!("{name}-users"), || self.table.totals().users as i64);
        node.stats.computed("usrloc", &format!("{name}-contacts"), || self.table.totals().contacts as i64);
    }

    /// Tells those who wait in [`Domain::wait_loaded`] that the contacts are there, or will not come.
    pub(super) fn set_loaded(&self) {
        *self.loaded.0.lock() = true;
        self.loaded.1.notify_all();
    }

    /// Blocks until the contacts are loaded; false when it takes longer than `limit`.
    pub(super) fn wait_loaded(&self, limit: Duration) -> bool {
        let mut is_loaded = self.loaded.0.lock();
        if !*is_loaded {
            self.loaded.1.wait_for(&mut is_loaded, limit);
        }
        *is_loaded
    }
}
