//! The SQL copy of a location table: pending changes per contact, the writer, the loader. What a row looks like is in
//! `rows`. Who registers may wait for the row (write-through); nothing else does. A change that fails stays pending and is
//! tried again, but for a table that other nodes write to as well: there it is given up, and the UA was told so.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_location::{Aor, Binding, ContactId};
use tandem_module::context::write_log;
use tandem_module::db::{BoxFuture, Db, DbError, DbOp, DbRows, DbValue, Statement};
use tandem_module::node::NodeRef;
use tandem_module::stat::Stat;
use tandem_script::vm::LogLevel;
use tokio::sync::oneshot;

use super::config::{Columns, Config, WriteMode};
use super::rows;

/// Independent writers of one table. Changes of one contact share a lane and are written one after the other.
const LANES: usize = 32;
/// Changes that may wait in one lane while the database is away; further ones are lost, counted and logged.
const LANE_PENDING_MAX: usize = 1_000_000;
/// Rows read at once when contacts are loaded.
pub(super) const LOAD_PAGE_ROWS: u32 = 5_000;

/// Tells whether a change has reached the database; an error when it never will.
pub(crate) type Ack = oneshot::Receiver<bool>;

/// What is to happen to the row of a contact; of several changes only the last is written.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Insert or replace it.
    Write(Aor, Arc<Binding>),
    /// Delete it.
    Delete,
}

/// The change a row waits for.
struct Entry {
    op: Op,
    /// Counts the changes of a lane: a newer one may come while an older one is being written.
    version: u64,
    /// Who waits, and for which version.
    waiting: Vec<(u64, oneshot::Sender<bool>)>,
}

impl Entry {
    /// Tells those who wait for versions up to that one.
    fn tell(&mut self, version: u64, is_written: bool) {
        for (wanted, sender) in std::mem::take(&mut self.waiting) {
            if wanted <= version {
                // Nobody listens any more when a time-out was first.
                let _ = sender.send(is_written);
            } else {
                self.waiting.push((wanted, sender));
            }
        }
    }
}

#[derive(Default)]
struct Lane {
    pending: HashMap<ContactId, Entry>,
    version: u64,
    is_running: bool,
}

impl Lane {
    /// Takes a version of a change off the list, unless a newer one has come.
    fn settle(&mut self, id: ContactId, version: u64, is_written: bool) {
        let Some(entry) = self.pending.get_mut(&id) else { return };
        entry.tell(version, is_written);
        if entry.version == version {
            self.pending.remove(&id);
        }
    }
}

/// The copy of one domain.
pub(super) struct Store {
    pub(super) node: NodeRef,
    db: Arc<dyn Db>,
    table: String,
    columns: Columns,
    pub(super) uses_domain: bool,
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

    /// Whether contacts live in the database only.
    pub(super) fn is_only(&self) -> bool {
        self.mode == WriteMode::Only
    }

    /// Whether changes are written at once.
    pub(super) fn is_through(&self) -> bool {
        matches!(self.mode, WriteMode::Through | WriteMode::Only)
    }

    fn lane(&self, id: ContactId) -> Option<&Mutex<Lane>> {
        self.lanes.get(usize::from(id.aor_hash()) % LANES)
    }

    /// Notes a change; in write-through mode its lane starts to write at once. With `acks` somebody waits for it.
    pub(super) fn put(&'static self, id: ContactId, op: Op, acks: Option<&mut Vec<Ack>>) {
        let Some(slot) = self.lane(id) else { return };
        let starts = {
            let mut lane = slot.lock();
            if lane.pending.len() >= LANE_PENDING_MAX && !lane.pending.contains_key(&id) {
                self.lost.inc();
                if let Some(acks) = acks.filter(|_| self.is_through()) {
                    // Its other end is gone already: "never written".
                    acks.push(oneshot::channel().1);
                }
                return;
            }
            lane.version += 1;
            let version = lane.version;
            let entry =
                lane.pending.entry(id).or_insert_with(|| Entry { op: Op::Delete, version, waiting: Vec::new() });
            (entry.op, entry.version) = (op, version);
            if let Some(acks) = acks.filter(|_| self.is_through()) {
                let (sender, receiver) = oneshot::channel();
                entry.waiting.push((version, sender));
                acks.push(receiver);
            }
            self.is_through() && !std::mem::replace(&mut lane.is_running, true)
        };
        if starts {
            self.spawn_lane(slot);
        }
    }

    /// Waits for a change that was noted before and is not written yet.
    pub(super) fn join(&'static self, id: ContactId, acks: &mut Vec<Ack>) {
        let Some(slot) = self.lane(id).filter(|_| self.is_through()) else { return };
        let starts = {
            let mut lane = slot.lock();
            let Some(entry) = lane.pending.get_mut(&id) else { return };
            let (sender, receiver) = oneshot::channel();
            entry.waiting.push((entry.version, sender));
            acks.push(receiver);
            !std::mem::replace(&mut lane.is_running, true)
        };
        if starts {
            self.spawn_lane(slot);
        }
    }

    /// Whether a change of the contact is not in the database yet.
    pub(super) fn is_pending(&self, id: ContactId) -> bool {
        self.lane(id).is_some_and(|slot| slot.lock().pending.contains_key(&id))
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
        let work = async move {
            self.run_lane(slot).await;
        };
        if !self.node.spawn_write(work) {
            slot.lock().is_running = false;
        }
    }

    /// Writes until the lane is empty or the database is away; true when it is empty.
    async fn run_lane(&self, slot: &Mutex<Lane>) -> bool {
        loop {
            let ids: Vec<ContactId> = {
                let mut lane = slot.lock();
                if lane.pending.is_empty() {
                    lane.is_running = false;
                    return true;
                }
                lane.pending.keys().copied().collect()
            };
            for id in ids {
                let next = slot.lock().pending.get(&id).map(|entry| (entry.op.clone(), entry.version));
                let Some((op, version)) = next else { continue };
                match self.db.run(self.statement(id, &op)).await {
                    Ok(_) => slot.lock().settle(id, version, true),
                    Err(error) => {
                        self.report(&error);
                        if !matches!(error, DbError::Refused(_)) {
                            self.give_up(slot);
                            return false;
                        }
                        // It would be refused again: give up this one, go on with the others.
                        self.lost.inc();
                        slot.lock().settle(id, version, false);
                    }
                }
            }
        }
    }

    /// The database is away: who waits is told, the changes stay for the next attempt.
    fn give_up(&self, slot: &Mutex<Lane>) {
        let mut lane = slot.lock();
        lane.is_running = false;
        for entry in lane.pending.values_mut() {
            entry.tell(u64::MAX, false);
        }
        if self.is_only() {
            self.lost.add(lane.pending.len() as i64);
            lane.pending.clear();
        }
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

    /// The rows of one address of record, at most as many as a record holds.
    pub(super) async fn read_aor(&self, aor: &Aor) -> Result<Vec<Vec<DbValue>>, DbError> {
        let rows = self.run(Statement::Select {
            table: self.table.clone(),
            columns: self.columns.names.to_vec(),
            keys: rows::aor_keys(&self.columns, aor, self.uses_domain),
            order: Some(rows::id_column(&self.columns).to_owned()),
            limit: Some(tandem_location::MAX_CONTACTS_PER_AOR as u32),
        });
        Ok(rows.await?.rows)
    }

    /// Deletes what expired while nobody looked.
    pub(super) async fn delete_expired(&self, now: i64) -> Result<(), DbError> {
        let column = rows::expires_column(&self.columns);
        let keys =
            vec![(column.to_owned(), DbOp::Le, DbValue::Int(now)), (column.to_owned(), DbOp::Ne, DbValue::Int(0))];
        self.run(Statement::Delete { table: self.table.clone(), keys }).await.map(|_| ())
    }

    /// Asks for the rows behind contact id `last`, in order of their ids. The query starts at once, whoever polls it when.
    pub(super) fn ask_page(&self, last: Option<i64>) -> BoxFuture<Result<DbRows, DbError>> {
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

    pub(super) fn report(&self, error: &DbError) {
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
