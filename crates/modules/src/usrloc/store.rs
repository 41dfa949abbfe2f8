//! The SQL copy of a location table: pending changes per contact, the writer, the loader. What a row looks like is in
//! `rows`. No request waits for the database; a change that fails stays pending and is tried again.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_location::{Aor, Binding, ContactId, MergeOutcome};
use tandem_module::context::write_log;
use tandem_module::db::{BoxFuture, Db, DbError, DbOp, DbRows, DbValue, Statement};
use tandem_module::node::{self, NodeRef};
use tandem_module::stat::Stat;
use tandem_script::vm::LogLevel;

use super::config::{Columns, Config, WriteMode};
use super::{Domain, rows};

/// Independent writers of one table. Changes of one address of record share a lane and are written one after the other.
const LANES: usize = 8;
/// Changes that may wait in one lane while the database is away; further ones are lost, counted and logged.
const LANE_PENDING_MAX: usize = 1_000_000;
/// Rows read at once when contacts are loaded.
const LOAD_PAGE_ROWS: u32 = 5_000;

/// What is to happen to the row of a contact; of several changes only the last is written.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Insert or replace it.
    Write(Aor, Arc<Binding>),
    /// Delete it.
    Delete,
}

#[derive(Default)]
struct Lane {
    pending: HashMap<ContactId, Op>,
    is_running: bool,
}

/// The copy of one domain.
pub(super) struct Store {
    node: NodeRef,
    db: Arc<dyn Db>,
    table: String,
    columns: Columns,
    uses_domain: bool,
    mode: WriteMode,
    lanes: [Mutex<Lane>; LANES],
    errors: Arc<Stat>,
    lost: Arc<Stat>,
}

impl Store {
    pub(super) fn new(node: NodeRef, db: Arc<dyn Db>, table: &str, config: &Config) -> Store {
        Store {
            node,
            db,
            table: table.to_owned(),
            columns: config.columns.clone(),
            uses_domain: config.use_domain,
            mode: config.write_mode,
            lanes: std::array::from_fn(|_| Mutex::default()),
            errors: node.stats.stat("usrloc", "db_errors"),
            lost: node.stats.stat("usrloc", "db_lost_writes"),
        }
    }

    /// Notes a change; in write-through mode its lane starts to write at once.
    pub(super) fn put(&'static self, id: ContactId, op: Op) {
        let Some(slot) = self.lanes.get(usize::from(id.aor_hash()) % LANES) else { return };
        let starts = {
            let mut lane = slot.lock();
            if lane.pending.len() >= LANE_PENDING_MAX && !lane.pending.contains_key(&id) {
                self.lost.inc();
                return;
            }
            lane.pending.insert(id, op);
            self.mode == WriteMode::Through && !std::mem::replace(&mut lane.is_running, true)
        };
        if starts {
            self.spawn_lane(slot);
        }
    }

    /// Whether a change of the contact is not in the database yet.
    pub(super) fn is_pending(&self, id: ContactId) -> bool {
        self.lanes.get(usize::from(id.aor_hash()) % LANES).is_some_and(|slot| slot.lock().pending.contains_key(&id))
    }

    /// Starts to write everything that is pending.
    pub(super) fn flush_later(&'static self) {
        for slot in self.lanes_to_run() {
            self.spawn_lane(slot);
        }
    }

    /// Writes everything that is pending now; false when something could not be written.
    pub(super) async fn flush(&self) -> bool {
        let mut is_clean = true;
        for slot in self.lanes_to_run() {
            is_clean &= self.run_lane(slot).await;
        }
        is_clean
    }

    /// Lanes with work that no writer is on; they are marked as running.
    fn lanes_to_run(&self) -> Vec<&Mutex<Lane>> {
        let has_work = |slot: &&Mutex<Lane>| {
            let mut lane = slot.lock();
            !lane.pending.is_empty() && !std::mem::replace(&mut lane.is_running, true)
        };
        self.lanes.iter().filter(has_work).collect()
    }

    fn spawn_lane(&'static self, slot: &'static Mutex<Lane>) {
        match self.node.workers() {
            Some(workers) => {
                let writing = self.node.writes.begin();
                workers.spawn(Box::pin(async move {
                    self.run_lane(slot).await;
                    drop(writing);
                }));
            }
            None => slot.lock().is_running = false,
        }
    }

    /// Writes until the lane is empty or the database is away; true when it is empty.
    async fn run_lane(&self, slot: &Mutex<Lane>) -> bool {
        loop {
            let batch = {
                let mut lane = slot.lock();
                if lane.pending.is_empty() {
                    lane.is_running = false;
                    return true;
                }
                std::mem::take(&mut lane.pending)
            };
            if let Some(unwritten) = self.write_batch(batch).await {
                let mut lane = slot.lock();
                for (id, op) in unwritten {
                    // A newer change of the same contact wins.
                    lane.pending.entry(id).or_insert(op);
                }
                lane.is_running = false;
                return false;
            }
        }
    }

    /// Writes a batch; gives back what is left when the database is away.
    async fn write_batch(&self, batch: HashMap<ContactId, Op>) -> Option<Vec<(ContactId, Op)>> {
        let mut left = batch.into_iter();
        while let Some((id, op)) = left.next() {
            let Err(error) = self.db.run(self.statement(id, &op)).await else { continue };
            self.report(&error);
            if matches!(error, DbError::Refused(_)) {
                // It would be refused again: give up this one, go on with the others.
                self.lost.inc();
                continue;
            }
            return Some(std::iter::once((id, op)).chain(left).collect());
        }
        None
    }

    fn statement(&self, id: ContactId, op: &Op) -> Statement {
        let id_column = rows::id_column(&self.columns).to_owned();
        match op {
            Op::Write(aor, binding) => Statement::Replace {
                table: self.table.clone(),
                values: rows::write(
                    &self.columns,
                    aor,
                    binding,
                    self.uses_domain,
                    &flag_names(self.node, binding.branch_flags()),
                ),
                unique: vec![id_column],
            },
            Op::Delete => Statement::Delete {
                table: self.table.clone(),
                keys: vec![(id_column, DbOp::Eq, DbValue::Int(id.0.cast_signed()))],
            },
        }
    }

    /// Deletes the rows of one address of record, or all.
    pub(super) async fn clear(&self, aor: Option<&Aor>) -> Result<(), DbError> {
        let keys = aor.map(|aor| rows::aor_keys(&self.columns, aor, self.uses_domain)).unwrap_or_default();
        self.run(Statement::Delete { table: self.table.clone(), keys }).await.map(|_| ())
    }

    async fn run(&self, statement: Statement) -> Result<DbRows, DbError> {
        let result = self.db.run(statement).await;
        if let Err(error) = &result {
            self.report(error);
        }
        result
    }

    /// Deletes what expired while nobody looked.
    async fn delete_expired(&self, now: i64) -> Result<(), DbError> {
        let column = rows::expires_column(&self.columns);
        let keys =
            vec![(column.to_owned(), DbOp::Le, DbValue::Int(now)), (column.to_owned(), DbOp::Ne, DbValue::Int(0))];
        self.run(Statement::Delete { table: self.table.clone(), keys }).await.map(|_| ())
    }

    /// Asks for the rows behind contact id `last`, in order of their ids. The query starts at once, whoever polls it when.
    fn ask_page(&self, last: Option<i64>) -> BoxFuture<Result<DbRows, DbError>> {
        let id_column = rows::id_column(&self.columns).to_owned();
        let keys = last.map(|last| (id_column.clone(), DbOp::Gt, DbValue::Int(last))).into_iter().collect();
        self.db.run(Statement::Select {
            table: self.table.clone(),
            columns: self.columns.names.to_vec(),
            keys,
            order: Some(id_column),
            limit: Some(LOAD_PAGE_ROWS),
        })
    }

    fn report(&self, error: &DbError) {
        self.errors.inc();
        write_log(LogLevel::Error, &format!("usrloc: table '{}' of {}: {error}", self.table, self.db.name()));
    }
}

/// Names of branch flags, blank separated, as OpenSIPS writes them.
pub(super) fn flag_names(node: NodeRef, mask: u32) -> String {
    if mask == 0 {
        return String::new();
    }
    let program = node.program();
    let names = program.branch_flag_names().iter().take(32).enumerate().filter(|(at, _)| mask >> at & 1 == 1);
    names.map(|(_, name)| &**name).collect::<Vec<_>>().join(" ")
}

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
        let Some(workers) = store.node.workers() else { return self.set_loaded() };
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
        matches!(merged, Ok(MergeOutcome::Applied(_)))
    }
}
