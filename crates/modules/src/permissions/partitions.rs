//! A partition: one table of addresses and its copy in memory.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use tandem_module::context::write_log;
use tandem_module::db::Db;
use tandem_module::{NodeRef, SetupError};
use tandem_script::vm::LogLevel;

use super::addresses::{Addresses, Entry};
use crate::core::db_load;

/// Rows of one table that are read at most.
const ADDRESSES_MAX: u32 = 2_000_000;
const TABLE_VERSIONS: [i64; 1] = [5];
/// Broken rows of one table that are logged one by one.
const COMPLAINTS_MAX: usize = 20;

/// Names of the columns: group, address, mask, port, transport, pattern, info.
pub(super) struct Columns(pub(super) [String; 7]);

/// One table.
pub(super) struct Partition {
    pub(super) name: String,
    param: &'static str,
    url: String,
    table: String,
    columns: Arc<Columns>,
    db: OnceLock<Arc<dyn Db>>,
    addresses: ArcSwapOption<Addresses>,
}

impl Partition {
    pub(super) fn new(
        name: String,
        param: &'static str,
        url: String,
        table: String,
        columns: Arc<Columns>,
    ) -> Partition {
        Partition { name, param, url, table, columns, db: OnceLock::new(), addresses: ArcSwapOption::empty() }
    }

    /// Opens the database and reads the table, once the driver is there.
    pub(super) fn open(&'static self, node: NodeRef) -> Result<(), SetupError> {
        if self.db.get().is_some() {
            return Ok(());
        }
        let Some(db) = db_load::open(node, self.param, &self.url)? else { return Ok(()) };
        if self.db.set(db.clone()).is_err() {
            return Ok(());
        }
        let load = async move {
            db_load::version(&*db, &self.table, &TABLE_VERSIONS).await?;
            self.load().await
        };
        db_load::load_at_start(node, "permissions", Box::pin(load))
    }

    /// Reads the table again; what was there stays when that fails.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) async fn load(&self) -> Result<(), String> {
        let db = self.db.get().ok_or("no database driver is loaded for db_url")?;
        let columns: Vec<&str> = self.columns.0.iter().map(String::as_str).collect();
        let rows = db_load::read_all(&**db, &self.table, &columns, None, ADDRESSES_MAX).await?;
        let (mut all, mut broken) = (Addresses::default(), 0);
        for (at, row) in rows.iter().enumerate() {
            match Entry::from_row(row) {
                Ok(Some(entry)) => all.push(entry),
                Ok(None) => {}
                Err(error) => {
                    broken += 1;
                    if broken <= COMPLAINTS_MAX {
                        let text =
                            format!("permissions: row {} of table '{}' is left out: {error}", at + 1, self.table);
                        write_log(LogLevel::Warning, &text);
                    }
                }
            }
        }
        if broken > COMPLAINTS_MAX {
            let text = format!("permissions: {broken} rows of table '{}' are left out", self.table);
            write_log(LogLevel::Warning, &text);
        }
        self.addresses.store(Some(Arc::new(all)));
        Ok(())
    }

    /// The copy in memory; `None` before it was read for the first time.
    pub(super) fn addresses(&self) -> Option<Arc<Addresses>> {
        self.addresses.load_full()
    }
}
