//! The copy of the calls in a database: what has to be written, the writers, the loader. No message waits for it; a change
//! that cannot be written stays noted and is tried again. What a row looks like is in `rows`.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tandem_dialog::{DialogId, DialogState, RestoreError};
use tandem_module::NodeRef;
use tandem_module::context::write_log;
use tandem_module::db::{Db, DbError, DbValue, Statement};
use tandem_module::stat::Stat;
use tandem_script::vm::LogLevel;
use tandem_store::schema;

use super::rows::{self, Columns, Fingerprint, Unusable};
use super::{Dialogs, clock};
use crate::core::db_load::Pages;

/// When calls are written (`db_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DbMode {
    /// 0: never.
    None,
    /// 1: at each change.
    Realtime,
    /// 2: every `db_update_period`.
    Delayed,
    /// 3: when the server stops.
    Shutdown,
}

/// What the parameters say about the database.
#[derive(Debug)]
pub(super) struct StoreConfig {
    pub(super) mode: DbMode,
    pub(super) url: String,
    pub(super) table: String,
    pub(super) columns: Columns,
    pub(super) period: Duration,
    /// Rows deleted with one statement.
    pub(super) bulk: usize,
}

/// Independent writers; a call always has the same one.
const LANES: usize = 4;
/// Calls a writer takes at once.
const BATCH_MAX: usize = 256;
/// Rows read at most; more are refused.
const ROWS_MAX: usize = 2_000_000;
/// How soon what could not be written or loaded is tried again.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Lane {
    /// What the database has.
    written: HashMap<DialogId, Fingerprint>,
    /// Calls to look at.
    dirty: HashSet<DialogId>,
    is_running: bool,
}

#[derive(Clone, Copy)]
struct Times {
    flush: Option<Instant>,
    retry: Option<Instant>,
}

/// The copy.
pub(super) struct Store {
    config: StoreConfig,
    db: OnceLock<Arc<dyn Db>>,
    /// Version of the table; 0 until it is known.
    version: AtomicI64,
    is_loading: AtomicBool,
    lanes: [Mutex<Lane>; LANES],
    times: Mutex<Times>,
    errors: OnceLock<Arc<Stat>>,
}

/// What loading came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) calls: usize,
    /// Rows of calls that are over, to be deleted.
    over: usize,
    /// Rows of other nodes: their sockets are not ours.
    foreign: usize,
    unusable: usize,
}

/// Why nothing was loaded.
pub(super) enum LoadError {
    /// Later it may work.
    Away(String),
    /// The operator has to do something.
    Refused(String),
}

impl LoadError {
    pub(super) fn into_text(self) -> String {
        match self {
            LoadError::Away(text) | LoadError::Refused(text) => text,
        }
    }
}

impl Store {
    pub(super) fn new(config: StoreConfig) -> Store {
        Store {
            config,
            db: OnceLock::new(),
            version: AtomicI64::new(0),
            is_loading: AtomicBool::new(false),
            lanes: std::array::from_fn(|_| Mutex::default()),
            times: Mutex::new(Times { flush: None, retry: None }),
            errors: OnceLock::new(),
        }
    }

    pub(super) fn mode(&self) -> DbMode {
        self.config.mode
    }

    /// The URL of the database, when one is used.
    pub(super) fn url(&self) -> Option<&str> {
        (self.config.mode != DbMode::None).then_some(self.config.url.as_str())
    }

    pub(super) fn attach(&self, node: NodeRef, db: Arc<dyn Db>) {
        let _ = self.db.set(db);
        let _ = self.errors.set(node.stats.stat("dialog", "db_errors"));
    }

    /// Calls whose last change the database may not have.
    pub(super) fn pending(&self) -> usize {
        self.lanes.iter().map(|lane| lane.lock().dirty.len()).sum()
    }

    fn is_loaded(&self) -> bool {
        self.version.load(Ordering::Acquire) != 0
    }

    fn lane(&self, id: DialogId) -> &Mutex<Lane> {
        // In range by construction; the fallback keeps this free of panics.
        self.lanes.get(id.entry as usize % LANES).unwrap_or(&self.lanes[0])
    }

    fn report(&self, error: &DbError) {
        if let Some(errors) = self.errors.get() {
            errors.inc();
        }
        let name = self.db.get().map_or("database", |db| db.name());
        write_log(LogLevel::Error, &format!("dialog: table '{}' of {name}: {error}", self.config.table));
    }

    /// A call has changed; in realtime mode it is written at once.
    pub(super) fn touch(&'static self, node: NodeRef, dialogs: &'static Dialogs, id: DialogId) {
        if self.config.mode != DbMode::Realtime {
            return;
        }
        self.mark(dialogs, id);
        self.spawn(node, dialogs, self.lane(id));
    }

    /// Notes that a call has to be looked at.
    fn mark(&self, dialogs: &Dialogs, id: DialogId) {
        // A call that has come and gone while the database was away needs no row: what waits is bounded by the calls that are
        // up and the rows that may be there.
        let is_up = dialogs.table.with_dialog(id, |dialog| dialog.state().is_active()) == Some(true);
        let mut lane = self.lane(id).lock();
        let Lane { written, dirty, .. } = &mut *lane;
        if is_up || written.contains_key(&id) {
            dirty.insert(id);
        } else {
            dirty.remove(&id);
        }
    }

    /// Looks at all calls, those in the database included, and writes what has changed.
    pub(super) fn sweep(&'static self, node: NodeRef, dialogs: &'static Dialogs) {
        if self.config.mode == DbMode::None {
            return;
        }
        self.mark_all(dialogs);
        for lane in &self.lanes {
            self.spawn(node, dialogs, lane);
        }
    }

    fn mark_all(&self, dialogs: &Dialogs) {
        dialogs.table.for_each(|dialog| {
            if dialog.state().is_active() {
                self.lane(dialog.id()).lock().dirty.insert(dialog.id());
            }
        });
        for lane in &self.lanes {
            let mut lane = lane.lock();
            let Lane { written, dirty, .. } = &mut *lane;
            dirty.extend(written.keys().copied());
        }
    }

    /// Starts the writer of a lane unless it runs, has nothing to do, or must not write yet.
    fn spawn(&'static self, node: NodeRef, dialogs: &'static Dialogs, lane: &'static Mutex<Lane>) {
        if !self.is_loaded() || node.workers().is_none() {
            return;
        }
        {
            let mut lane = lane.lock();
            if lane.dirty.is_empty() || std::mem::replace(&mut lane.is_running, true) {
                return;
            }
        }
        node.spawn_write(async move {
            self.run(node, dialogs, lane).await;
        });
    }

    /// Writes until the lane is empty or the database is away; true when it is empty.
    async fn run(&self, node: NodeRef, dialogs: &Dialogs, lane: &Mutex<Lane>) -> bool {
        loop {
            let batch: Vec<DialogId> = {
                let mut lane = lane.lock();
                let batch: Vec<DialogId> = lane.dirty.iter().take(BATCH_MAX).copied().collect();
                for id in &batch {
                    lane.dirty.remove(id);
                }
                if batch.is_empty() {
                    lane.is_running = false;
                    return true;
                }
                batch
            };
            if let Err(error) = self.write_batch(node, dialogs, lane, &batch).await {
                self.report(&error);
                for id in batch {
                    self.mark(dialogs, id);
                }
                lane.lock().is_running = false;
                return false;
            }
        }
    }

    /// The row of a call that is up.
    fn row(&self, node: NodeRef, dialogs: &Dialogs, id: DialogId) -> Option<Vec<DbValue>> {
        let now = clock::now().moment();
        let saved = dialogs.table.with_dialog(id, |dialog| dialog.saved(now))??;
        let profiles = dialogs.table.memberships(id);
        let suffix = |name: &str| dialogs.table.profiles().find(|profile| profile.name == name)?.sharing;
        Some(rows::write(&saved, &profiles, suffix, &node.program(), self.version.load(Ordering::Acquire)))
    }

    /// # Errors
    /// When the database is away. A row that it refuses is reported and left out until it changes.
    async fn write_batch(
        &self,
        node: NodeRef,
        dialogs: &Dialogs,
        lane: &Mutex<Lane>,
        batch: &[DialogId],
    ) -> Result<(), DbError> {
        let Some(db) = self.db.get() else { return Ok(()) };
        let mut gone = Vec::new();
        for id in batch {
            let known = lane.lock().written.get(id).copied();
            let Some(row) = self.row(node, dialogs, *id) else {
                gone.extend(known.map(|_| *id));
                continue;
            };
            let print = Fingerprint::of(&row);
            if known.is_some_and(|known| known.is_same(print)) {
                continue;
            }
            // Should the call end meanwhile, or the answer get lost, there may be a row to delete.
            lane.lock().written.entry(*id).or_default();
            match db.run(self.replace(row)).await {
                Err(error) if error.is_away() => return Err(error),
                Err(error) => self.report(&error),
                Ok(_) => {}
            }
            lane.lock().written.insert(*id, print);
        }
        for ids in gone.chunks(self.config.bulk.max(1)) {
            match db.run(self.delete(ids)).await {
                Err(error) if error.is_away() => return Err(error),
                Err(error) => self.report(&error),
                Ok(_) => {}
            }
            let mut lane = lane.lock();
            for id in ids {
                lane.written.remove(id);
            }
        }
        Ok(())
    }

    fn columns(&self) -> &[String] {
        self.config.columns.of(self.version.load(Ordering::Acquire))
    }

    fn replace(&self, row: Vec<DbValue>) -> Statement {
        Statement::Replace {
            table: self.config.table.clone(),
            values: self.columns().iter().cloned().zip(row).collect(),
            unique: vec![self.config.columns.id().to_owned()],
        }
    }

    fn delete(&self, ids: &[DialogId]) -> Statement {
        let places = vec!["?"; ids.len()].join(", ");
        let sql = format!("DELETE FROM {} WHERE {} IN ({places})", self.config.table, self.config.columns.id());
        Statement::Bound(sql.into_bytes(), ids.iter().map(|id| rows::id_value(*id)).collect())
    }

    /// Reads the table and follows its calls again.
    ///
    /// # Errors
    /// Why nothing, or not everything, was read.
    pub(super) async fn load(&self, node: NodeRef, dialogs: &'static Dialogs) -> Result<Loaded, LoadError> {
        let db = self.db.get().ok_or_else(|| LoadError::Refused("no database is open (db_mode is 0)".to_owned()))?;
        let table = &self.config.table;
        let version = match schema::version(&**db, table).await {
            Ok(Some(found)) if rows::VERSIONS.contains(&found) => found,
            Ok(found) => {
                let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
                return Err(LoadError::Refused(format!(
                    "{}: table '{table}' has version {found}, 10 to 12 are needed: create or migrate the table",
                    db.name()
                )));
            }
            Err(error) if error.is_away() => return Err(LoadError::Away(error.to_string())),
            Err(error) => return Err(LoadError::Refused(format!("{}: table 'version': {error}", db.name()))),
        };
        let columns: Vec<&str> = self.config.columns.of(version).iter().map(String::as_str).collect();
        let mut loaded = Loaded::default();
        let pages = Pages { table, columns: &columns, rows_max: ROWS_MAX };
        let read = pages.read(&**db, |row| self.take_row(node, dialogs, &row, version, &mut loaded)).await;
        read.map_err(LoadError::Away)?;
        self.version.store(version, Ordering::Release);
        Ok(loaded)
    }

    fn take_row(&self, node: NodeRef, dialogs: &Dialogs, row: &[DbValue], version: i64, loaded: &mut Loaded) {
        let id = row.first().and_then(DbValue::as_int).map(|id| DialogId::from_db_id(id.cast_unsigned()));
        let read = match rows::read(row, &node.program(), version) {
            Ok(read) => read,
            Err(Unusable::Over) => {
                // Known as written and not up: the next writer deletes it.
                loaded.over += 1;
                if let Some(id) = id {
                    let mut lane = self.lane(id).lock();
                    lane.written.insert(id, Fingerprint::default());
                    lane.dirty.insert(id);
                }
                return;
            }
            Err(Unusable::Damaged(why)) => {
                loaded.unusable += 1;
                return write_log(LogLevel::Warning, &format!("dialog: row {id:?} is passed over: {why}"));
            }
        };
        let socket = &read.saved.caller.socket;
        if !socket.is_empty() && node.socket_named(socket).is_none() {
            loaded.foreign += 1;
            return;
        }
        let (id, flags, is_confirmed) = (read.saved.id, read.saved.flags, read.saved.state == DialogState::Confirmed);
        match dialogs.table.restore(read.saved, clock::now().moment()) {
            Ok(()) => {}
            Err(RestoreError::Known) => return,
            Err(error) => {
                loaded.unusable += 1;
                return write_log(LogLevel::Warning, &format!("dialog: row {} is passed over: {error}", id.db_id()));
            }
        }
        loaded.calls += 1;
        for (profile, value) in read.profiles {
            if let Err(error) = dialogs.table.set_profile(id, &profile, Some(&value), false) {
                write_log(LogLevel::Warning, &format!("dialog {id}: profile '{profile}' of the database: {error}"));
            }
        }
        self.lane(id).lock().written.insert(id, Fingerprint::of(row));
        if is_confirmed {
            dialogs.pings.begin(id, flags);
        }
    }

    /// Loads at the start or when the database is back; what it came to goes to the log.
    ///
    /// # Errors
    /// What the operator has to do; a database that is away is no error, it is tried again.
    pub(super) async fn load_and_tell(&'static self, node: NodeRef, dialogs: &'static Dialogs) -> Result<(), String> {
        if self.is_loading.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let result = self.load(node, dialogs).await;
        self.is_loading.store(false, Ordering::Release);
        match result {
            Ok(loaded) => {
                let Loaded { calls, over, foreign, unusable } = loaded;
                let level = if unusable == 0 { LogLevel::Notice } else { LogLevel::Warning };
                write_log(
                    level,
                    &format!(
                        "dialog: {calls} calls loaded; rows passed over: {over} over, {foreign} of other nodes, \
                         {unusable} unusable"
                    ),
                );
                Ok(())
            }
            Err(LoadError::Away(text)) => {
                if let Some(errors) = self.errors.get() {
                    errors.inc();
                }
                write_log(LogLevel::Error, &format!("dialog: calls are not loaded yet, it is tried again: {text}"));
                Ok(())
            }
            Err(LoadError::Refused(text)) => Err(text),
        }
    }

    /// What is due: a period is over, or something failed before.
    pub(super) fn tick(&'static self, node: NodeRef, dialogs: &'static Dialogs, now: Instant) {
        if self.config.mode == DbMode::None {
            return;
        }
        let mut times = *self.times.lock();
        let is_due = |at: &mut Option<Instant>, span: Duration| {
            let is_due = at.is_some_and(|at| at <= now);
            if is_due || at.is_none() {
                *at = Some(now + span);
            }
            is_due
        };
        let (flushes, retries) = (is_due(&mut times.flush, self.config.period), is_due(&mut times.retry, RETRY));
        *self.times.lock() = times;
        if !self.is_loaded() {
            if let Some(workers) = node.workers().filter(|_| retries) {
                workers.spawn(Box::pin(async move {
                    if let Err(text) = self.load_and_tell(node, dialogs).await {
                        write_log(LogLevel::Error, &format!("dialog: {text}"));
                    }
                }));
            }
            return;
        }
        if flushes && self.config.mode == DbMode::Delayed {
            self.sweep(node, dialogs);
        } else if retries && self.config.mode == DbMode::Realtime {
            for lane in &self.lanes {
                self.spawn(node, dialogs, lane);
            }
        }
    }

    /// Empties the table and writes all calls anew (OpenSIPS: dialog, MI restore_db).
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn rewrite(&self, node: NodeRef, dialogs: &Dialogs) -> Result<(), String> {
        let db = self.db.get().filter(|_| self.is_loaded()).ok_or_else(|| "no database is in use".to_owned())?;
        let empty = Statement::Delete { table: self.config.table.clone(), keys: Vec::new() };
        db.run(empty).await.map_err(|error| error.to_string())?;
        for lane in &self.lanes {
            lane.lock().written.clear();
        }
        self.mark_all(dialogs);
        for lane in &self.lanes {
            // One that runs already takes the rest along.
            let is_idle = !std::mem::replace(&mut lane.lock().is_running, true);
            if is_idle && !self.run(node, dialogs, lane).await {
                return Err("the database is away; the rest is written later".to_owned());
            }
        }
        Ok(())
    }
}
