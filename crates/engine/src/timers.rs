//! The timers of one worker: a wheel, and the work that is due. Lives in the worker's thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Instant;

use tandem_module::worker::{Task, TimerClass};
use tandem_transaction::TimerWheel;

/// Tasks a worker queues for itself; more are refused.
pub(crate) const LOCAL_QUEUE_MAX: usize = 100_000;

#[derive(Clone, Copy)]
enum Due {
    Task(u32),
    Keyed(TimerClass, u64),
}

/// What has to be run now.
pub(crate) enum Fired {
    Task(Task),
    Keyed(TimerClass, u64),
}

struct Local {
    wheel: TimerWheel<Due>,
    tasks: Vec<Option<Task>>,
    free: Vec<u32>,
    expired: Vec<Due>,
    queue: VecDeque<Task>,
}

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

/// Sets this thread up as a worker.
pub(crate) fn enter(now: Instant) {
    LOCAL.set(Some(Local {
        wheel: TimerWheel::new(now),
        tasks: Vec::new(),
        free: Vec::new(),
        expired: Vec::new(),
        queue: VecDeque::new(),
    }));
}

fn with<T>(otherwise: T, work: impl FnOnce(&mut Local) -> T) -> T {
    LOCAL.with_borrow_mut(|local| match local {
        Some(local) => work(local),
        None => otherwise,
    })
}

/// Arms a timer with a task of its own.
pub(crate) fn insert_task(at: Instant, task: Task) {
    with((), |local| {
        let slot = match local.free.pop() {
            Some(slot) => slot,
            None => {
                local.tasks.push(None);
                (local.tasks.len() - 1) as u32
            }
        };
        if let Some(place) = local.tasks.get_mut(slot as usize) {
            *place = Some(task);
        }
        local.wheel.insert(at, Due::Task(slot));
    });
}

/// Arms a keyed timer.
pub(crate) fn insert_keyed(at: Instant, class: TimerClass, key: u64) {
    with((), |local| {
        local.wheel.insert(at, Due::Keyed(class, key));
    });
}

/// When the next timer may be due.
pub(crate) fn next_deadline() -> Option<Instant> {
    with(None, |local| local.wheel.next_deadline())
}

/// Takes what is due at `now`.
pub(crate) fn take_due(now: Instant, into: &mut Vec<Fired>) {
    with((), |local| {
        local.wheel.advance(now, &mut local.expired);
        for due in local.expired.drain(..) {
            match due {
                Due::Keyed(class, key) => into.push(Fired::Keyed(class, key)),
                Due::Task(slot) => {
                    if let Some(task) = local.tasks.get_mut(slot as usize).and_then(Option::take) {
                        local.free.push(slot);
                        into.push(Fired::Task(task));
                    }
                }
            }
        }
    });
}

/// Queues work behind what the worker does now; gives it back when the queue is full.
pub(crate) fn queue(task: Task) -> Result<(), Task> {
    LOCAL.with_borrow_mut(|local| match local {
        Some(local) if local.queue.len() < LOCAL_QUEUE_MAX => {
            local.queue.push_back(task);
            Ok(())
        }
        _ => Err(task),
    })
}

/// Takes the oldest queued work.
pub(crate) fn next_queued() -> Option<Task> {
    with(None, |local| local.queue.pop_front())
}
