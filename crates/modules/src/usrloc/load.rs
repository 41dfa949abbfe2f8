//! Contacts read from the database: all at start, or those of one address of record while a request works on them (tables
//! that live in the database only). It writes nothing but what is expired.

use tandem_location::{Aor, Change, MergeOutcome, RemovalReason};
use tandem_module::context::write_log;
use tandem_module::db::{DbError, DbValue};
use tandem_module::node;
use tandem_script::vm::LogLevel;
use tokio::sync::OwnedMutexGuard;

use super::store::{LOAD_PAGE_ROWS, Store};
use super::{Domain, rows};

/// What loading came to.
#[derive(Default)]
struct Loaded {
    contacts: usize,
    refused: usize,
}

impl Domain {
    /// Loads the contacts in the background.
    pub(super) fn start_loading(&'static self) {
        let Some(store) = &self.store else { return self.set_loaded() };
        let Some(workers) = store.node.workers().filter(|_| !store.is_only()) else { return self.set_loaded() };
        workers.spawn(Box::pin(async move {
            let now = node::unix_secs();
            let mut loaded = Loaded::default();
            let result = self.load(store, now, &mut loaded).await;
            let (name, Loaded { contacts, refused }) = (self.name, loaded);
            match result {
                Ok(()) if refused == 0 => {
                    write_log(LogLevel::Notice, &format!("usrloc: {contacts} contacts loaded from table '{name}'"))
                }
                Ok(()) => write_log(
                    LogLevel::Warning,
                    &format!("usrloc: {contacts} contacts loaded from table '{name}', {refused} unusable rows skipped"),
                ),
                Err(_) => write_log(
                    LogLevel::Error,
                    &format!("usrloc: loading table '{name}' ended after {contacts} contacts"),
                ),
            }
            self.set_loaded();
        }));
    }

    /// Reads the table page by page; the next page is on its way while the rows of this one are taken in.
    async fn load(&self, store: &Store, now: i64, loaded: &mut Loaded) -> Result<(), DbError> {
        // A table that is too large to be cleaned in time can be read all the same: expired rows are passed over.
        if let Err(error @ DbError::Unavailable(_)) = store.delete_expired(now).await {
            return Err(error);
        }
        let mut asked = store.ask_page(None);
        loop {
            let page = asked.await.inspect_err(|error| store.report(error))?.rows;
            let last = page.iter().filter_map(|row| row.first().and_then(DbValue::as_int)).max();
            let is_last = page.len() < LOAD_PAGE_ROWS as usize;
            // A page without any usable id cannot be gone on from.
            let next = last.filter(|_| !is_last).map(|last| store.ask_page(Some(last)));
            for row in page {
                if self.load_row(store, row, now) {
                    loaded.contacts += 1;
                } else {
                    loaded.refused += 1;
                }
            }
            match next {
                Some(next) => asked = next,
                None => return Ok(()),
            }
        }
    }

    fn load_row(&self, store: &Store, row: Vec<DbValue>, now: i64) -> bool {
        let program = store.node.program();
        let Some(row) = rows::read(row, store.uses_domain, |name| program.find_branch_flag(name)) else { return false };
        let fields = row.fields();
        if fields.expires_at != 0 && fields.expires_at <= now {
            return true;
        }
        // What a UA has registered meanwhile is newer.
        let is_there = self.table.with_record(&row.aor, |record| {
            record.bindings().iter().any(|binding| tandem_location::uris_match(binding.contact(), fields.contact))
        });
        if is_there == Some(true) {
            return true;
        }
        // Rows keep their ids, so that the next write meets the same row.
        let merged = self.table.merge_contact_update(
            &row.aor,
            row.id,
            &fields,
            &tandem_location::Matching::ContactAndCallId,
            now,
        );
        if let Some(record_kv) = row.record_kv() {
            self.table.set_record_kv(&row.aor, record_kv.as_bytes());
        }
        let Ok(MergeOutcome::Applied(changes)) = merged else { return false };
        for change in changes {
            if let Change::Inserted(binding) | Change::Updated(binding) = change {
                self.push.note(&row.aor, &binding);
            }
        }
        true
    }
}

/// Bindings of some addresses of record, in memory as long as this lives. Nobody else of this node changes them meanwhile.
pub(crate) struct Fetched {
    domain: &'static Domain,
    aors: Vec<Aor>,
    _guards: Vec<OwnedMutexGuard<()>>,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        for aor in &self.aors {
            self.domain.table.remove_aor(aor, RemovalReason::Administrative);
        }
    }
}

impl Domain {
    /// Reads the bindings of addresses of record of a domain that lives in the database only. `None` when the database
    /// did not give them.
    pub(crate) async fn fetch(&'static self, mut aors: Vec<Aor>) -> Option<Fetched> {
        let store = self.store.as_ref()?;
        aors.sort();
        aors.dedup();
        // In order of the locks, so that two requests cannot wait for each other.
        let mut places: Vec<usize> = aors.iter().map(|aor| aor.core_hash() as usize % self.locks.len()).collect();
        places.sort_unstable();
        places.dedup();
        let mut guards = Vec::with_capacity(places.len());
        for place in places {
            guards.push(self.locks.get(place)?.clone().lock_owned().await);
        }
        let fetched = Fetched { domain: self, aors, _guards: guards };
        let now = node::unix_secs();
        for aor in &fetched.aors {
            let found = store.read_aor(aor).await.ok()?;
            self.table.remove_aor(aor, RemovalReason::Administrative);
            for row in found {
                self.load_row(store, row, now);
            }
        }
        Some(fetched)
    }

    /// Deletes expired rows.
    pub(super) async fn expire_rows(&self, now: i64) {
        if let Some(store) = &self.store {
            // What went wrong has been logged, and the next turn comes.
            let _ = store.delete_expired(now).await;
        }
    }
}
