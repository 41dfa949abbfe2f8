//! The worker threads as a service: posting work, timers, the I/O runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::RwLock;
use tandem_module::db::BoxFuture;
use tandem_module::worker::{self, Task, TimerClass, TimerHandler, WorkerId, Workers};
use tandem_net::Mailbox;

use crate::timers;

/// Work that other threads may queue for one worker.
pub(crate) const MAILBOX_MAX: usize = 100_000;

/// All workers of a server.
pub(crate) struct Pool {
    mailboxes: Vec<Arc<Mailbox<Task>>>,
    classes: RwLock<Vec<Arc<dyn TimerHandler>>>,
    runtime: tokio::runtime::Handle,
    /// Work dropped because a mailbox was full.
    pub(crate) dropped: AtomicU64,
}

impl Pool {
    pub(crate) fn new(mailboxes: Vec<Arc<Mailbox<Task>>>, runtime: tokio::runtime::Handle) -> Pool {
        Pool { mailboxes, classes: RwLock::new(Vec::new()), runtime, dropped: AtomicU64::new(0) }
    }

    pub(crate) fn class(&self, class: TimerClass) -> Option<Arc<dyn TimerHandler>> {
        self.classes.read().get(usize::from(class.0)).cloned()
    }

    fn is_here(worker: WorkerId) -> bool {
        worker::is_worker() && worker::current() == worker
    }

    fn refuse(&self) -> bool {
        if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("a worker's queue is full: work is being dropped (statistic core:dropped_work counts it)");
        }
        false
    }
}

impl Workers for Pool {
    fn count(&self) -> u16 {
        self.mailboxes.len() as u16
    }

    fn post(&self, worker: WorkerId, task: Task) -> bool {
        if Self::is_here(worker) {
            return timers::queue(task).is_ok() || self.refuse();
        }
        let Some(mailbox) = self.mailboxes.get(usize::from(worker.0)) else { return self.refuse() };
        mailbox.push(task).is_ok() || self.refuse()
    }

    fn after(&self, worker: WorkerId, at: Instant, task: Task) {
        if Self::is_here(worker) {
            timers::insert_task(at, task);
        } else {
            self.post(worker, Box::new(move |_| timers::insert_task(at, task)));
        }
    }

    fn add_timer_class(&self, handler: Arc<dyn TimerHandler>) -> TimerClass {
        let mut classes = self.classes.write();
        classes.push(handler);
        TimerClass((classes.len() - 1) as u8)
    }

    fn arm(&self, class: TimerClass, key: u64, at: Instant) {
        if worker::is_worker() {
            timers::insert_keyed(at, class, key);
        } else {
            self.post(WorkerId(0), Box::new(move |_| timers::insert_keyed(at, class, key)));
        }
    }

    fn spawn(&self, future: BoxFuture<()>) {
        self.runtime.spawn(future);
    }
}
