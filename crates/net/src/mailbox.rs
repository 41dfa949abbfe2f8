//! Waking a worker and handing it values from other threads. Knows nothing of what the values mean.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The sleeping state of one worker.
pub(crate) struct WakeState {
    waker: mio::Waker,
    /// Something is waiting for the worker. Set by producers, cleared by the worker.
    notified: AtomicBool,
    /// The worker is, or is about to be, blocked in the event queue.
    asleep: AtomicBool,
}

impl WakeState {
    pub(crate) fn new(waker: mio::Waker) -> Self {
        WakeState { waker, notified: AtomicBool::new(false), asleep: AtomicBool::new(false) }
    }

    /// Announces sleep; false when there is work and the worker must not block.
    ///
    /// The producer writes `notified` then reads `asleep`, the worker writes `asleep` then reads `notified`, all
    /// sequentially consistent: at least one of them sees the other.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.notified.load(Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// True when something was announced since the last call.
    pub(crate) fn take_notified(&self) -> bool {
        self.notified.swap(false, Ordering::SeqCst)
    }

    fn wake(&self) {
        if self.notified.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.asleep.load(Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "waking a worker failed");
        }
    }
}

/// Wakes one worker; cheap when the worker is already awake. Any thread may use it.
#[derive(Clone)]
pub struct WorkerWaker {
    state: Arc<WakeState>,
}

impl WorkerWaker {
    pub(crate) fn new(state: Arc<WakeState>) -> Self {
        WorkerWaker { state }
    }

    /// Makes the worker call [`crate::Handler::on_wakeup`] soon. Calls before it does so count as one.
    pub fn wake(&self) {
        self.state.wake();
    }
}

impl fmt::Debug for WorkerWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerWaker")
    }
}

/// A bounded queue from any thread to one worker. Share it in an `Arc`.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    waker: WorkerWaker,
}

impl<T> Mailbox<T> {
    /// An empty queue of at most `capacity` values, waking the worker of `waker` (see [`crate::Network::waker`]).
    pub fn new(capacity: usize, waker: WorkerWaker) -> Self {
        Mailbox { queue: Mutex::new(VecDeque::new()), capacity, waker }
    }

    /// Queues a value and wakes the worker; gives the value back when the queue is full.
    pub fn push(&self, value: T) -> Result<(), T> {
        {
            let mut queue = self.queue.lock();
            if queue.len() >= self.capacity {
                return Err(value);
            }
            queue.push_back(value);
        }
        self.waker.wake();
        Ok(())
    }

    /// Takes the oldest value.
    pub fn pop(&self) -> Option<T> {
        self.queue.lock().pop_front()
    }

    /// Takes everything at once by swapping with `into`, which must be empty (its capacity is reused); keep the
    /// emptied deque for the next call and no allocation is needed.
    pub fn drain_into(&self, into: &mut VecDeque<T>) {
        let mut queue = self.queue.lock();
        if into.is_empty() {
            std::mem::swap(&mut *queue, into);
        } else {
            into.append(&mut queue);
        }
    }

    /// Number of waiting values.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
