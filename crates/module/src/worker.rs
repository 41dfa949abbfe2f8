//! Worker threads as modules see them: posting work and timers. The threads are in `tandem-engine`.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use tandem_script::vm::VarStore;

use crate::context::Context;
use crate::pool::{Own, Pool};

/// Sets of `$var` values a worker keeps for reuse.
const VARS_KEPT_MAX: usize = 64;

/// Index of a worker thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub u16);

/// Work for a worker; runs there with the current time.
pub type Task = Box<dyn FnOnce(Instant) + Send>;

/// A running timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(pub u64);

/// Called when a keyed timer fires; registered once, so that arming one allocates nothing.
pub trait TimerHandler: Send + Sync {
    /// The timer of `key` has expired.
    fn on_timer(&self, key: u64, now: Instant);
}

/// Index of a registered [`TimerHandler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerClass(pub u8);

/// The worker threads.
pub trait Workers: Send + Sync {
    /// How many there are.
    fn count(&self) -> u16;

    /// Runs `task` on `worker`, after what it is doing now. A full mailbox drops the task, counts and logs it: false.
    fn post(&self, worker: WorkerId, task: Task) -> bool;

    /// Runs `task` at `at` on `worker` (the calling one, when the caller is a worker).
    fn after(&self, worker: WorkerId, at: Instant, task: Task);

    /// Registers a handler for keyed timers.
    fn add_timer_class(&self, handler: std::sync::Arc<dyn TimerHandler>) -> TimerClass;

    /// Arms a keyed timer on the calling worker (on worker 0 when called from another thread). It cannot be cancelled:
    /// the handler checks whether the moment still means something.
    fn arm(&self, class: TimerClass, key: u64, at: Instant);

    /// Runs a future on the I/O runtime.
    fn spawn(&self, future: crate::db::BoxFuture<()>);
}

thread_local! {
    static OWN_CONTEXTS: Own<Box<Context>> = const { RefCell::new(Vec::new()) };
    static OWN_VARS: Own<VarStore> = const { RefCell::new(Vec::new()) };
}

static CONTEXTS: Pool<Box<Context>> = Pool::new(&OWN_CONTEXTS);
/// Sets without values.
static EMPTY_VARS: Pool<VarStore> = Pool::new(&OWN_VARS);

thread_local! {
    static WORKER: Cell<Option<WorkerId>> = const { Cell::new(None) };
    static VARS: RefCell<Vec<VarStore>> = const { RefCell::new(Vec::new()) };
}

/// Marks the calling thread as that worker.
pub fn enter(worker: WorkerId) {
    WORKER.set(Some(worker));
}

/// The worker this thread is; worker 0 for other threads.
pub fn current() -> WorkerId {
    WORKER.get().unwrap_or(WorkerId(0))
}

/// Whether the calling thread is a worker.
pub fn is_worker() -> bool {
    WORKER.get().is_some()
}

/// Takes the `$var` values that the last run on this worker left, as a process of OpenSIPS would have them. A run that
/// waits keeps its own; a worker all of whose sets are in use begins an empty one, as a process does that has just started.
pub(crate) fn take_vars() -> VarStore {
    VARS.with_borrow_mut(Vec::pop).or_else(|| EMPTY_VARS.take()).unwrap_or_default()
}

/// Leaves them to the next run.
pub(crate) fn put_vars(vars: VarStore) {
    let surplus = VARS.with_borrow_mut(|all| {
        // Behind others one without values would hide theirs.
        if all.is_empty() || (all.len() < VARS_KEPT_MAX && !vars.is_empty()) {
            all.push(vars);
            return None;
        }
        Some(vars)
    });
    if let Some(mut surplus) = surplus {
        surplus.clear();
        EMPTY_VARS.keep(surplus);
    }
}

pub(crate) fn spare_context() -> Option<Box<Context>> {
    CONTEXTS.take()
}

pub(crate) fn keep_context(context: Box<Context>) {
    CONTEXTS.keep(context);
}
