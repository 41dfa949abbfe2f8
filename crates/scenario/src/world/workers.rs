//! The only worker of a node under test: queued work, timers on the stopped clock, futures polled on the calling thread.
//! Futures that wait for other threads (a database) get real time, not virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tandem_module::clock;
use tandem_module::db::BoxFuture;
use tandem_module::worker::{Task, TimerClass, TimerHandler, WorkerId, Workers};

/// How long is waited in real time for what other threads do; what takes longer goes on in the background.
const WAIT_REAL_MAX: Duration = Duration::from_secs(10);
/// Tasks at one moment; a script that goes round in circles without time passing ends its test.
const TASKS_PER_MOMENT_MAX: usize = 200_000;
/// Timers of one node.
const TIMERS_MAX: usize = 1_000_000;

enum Due {
    Task(Task),
    Keyed(TimerClass, u64),
}

struct Waiting {
    future: BoxFuture<()>,
    ready: Arc<Ready>,
    /// Nobody waits for it any more.
    is_background: bool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    timers: BTreeMap<(Instant, u64), Due>,
    classes: Vec<Arc<dyn TimerHandler>>,
    futures: Vec<Waiting>,
    number: u64,
}

type Woken = Arc<(Mutex<bool>, Condvar)>;

/// The worker.
#[derive(Default)]
pub(crate) struct VirtualWorkers {
    state: Mutex<State>,
    woken: Woken,
}

struct Ready {
    is_ready: Mutex<bool>,
    woken: Woken,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        *self.is_ready.lock() = true;
        notify(&self.woken);
    }
}

fn notify(woken: &Woken) {
    *woken.0.lock() = true;
    woken.1.notify_all();
}

impl VirtualWorkers {
    /// Runs `task` at that moment.
    pub(crate) fn at(&self, moment: Instant, task: Task) {
        self.insert(moment, Due::Task(task));
    }

    fn insert(&self, moment: Instant, due: Due) {
        let mut state = self.state.lock();
        if state.timers.len() >= TIMERS_MAX {
            tracing::error!("more than {TIMERS_MAX} timers: a timer was not set");
            return;
        }
        state.number += 1;
        let number = state.number;
        state.timers.insert((moment, number), due);
    }

    /// Runs what is queued and polls what is ready, until nothing is left to do at this moment.
    pub(crate) fn settle(&self) {
        let give_up = Instant::now() + WAIT_REAL_MAX;
        let mut count = 0;
        loop {
            while let Some(task) = self.next_task() {
                task(clock::now());
                count += 1;
                if count > TASKS_PER_MOMENT_MAX {
                    tracing::error!("more than {TASKS_PER_MOMENT_MAX} tasks while no time passed: the rest is dropped");
                    self.state.lock().queue.clear();
                }
            }
            if self.poll_futures() {
                continue;
            }
            let is_idle = {
                let mut state = self.state.lock();
                if Instant::now() >= give_up {
                    state.futures.iter_mut().for_each(|waiting| waiting.is_background = true);
                }
                state.queue.is_empty() && state.futures.iter().all(|waiting| waiting.is_background)
            };
            if is_idle {
                return;
            }
            let mut woken = self.woken.0.lock();
            if !*woken {
                self.woken.1.wait_until(&mut woken, give_up);
            }
            *woken = false;
        }
    }

    fn next_task(&self) -> Option<Task> {
        self.state.lock().queue.pop_front()
    }

    /// Polls every ready future once; true when one finished.
    fn poll_futures(&self) -> bool {
        let futures = std::mem::take(&mut self.state.lock().futures);
        let mut is_any_done = false;
        let mut kept = Vec::new();
        for mut waiting in futures {
            if !std::mem::take(&mut *waiting.ready.is_ready.lock()) {
                kept.push(waiting);
                continue;
            }
            let waker = Waker::from(waiting.ready.clone());
            match waiting.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => is_any_done = true,
                Poll::Pending => kept.push(waiting),
            }
        }
        self.state.lock().futures.extend(kept);
        is_any_done
    }

    /// Runs a future to its end, with everything else that is to be done; `None` when it does not end in time.
    pub(crate) fn wait_for<T: Send + 'static>(&self, future: BoxFuture<T>) -> Option<T> {
        let slot: Arc<Mutex<Option<T>>> = Arc::default();
        let keep = slot.clone();
        self.spawn(Box::pin(async move {
            let output = future.await;
            *keep.lock() = Some(output);
        }));
        self.settle();
        slot.lock().take()
    }

    /// Lets time pass up to `end`, firing timers in order; stops early when `is_enough` says so after one of them.
    pub(crate) fn run_to(&self, end: Instant, mut is_enough: impl FnMut() -> bool) {
        self.settle();
        loop {
            if is_enough() {
                return;
            }
            let next = {
                let mut state = self.state.lock();
                match state.timers.first_key_value() {
                    Some(((moment, _), _)) if *moment <= end => state.timers.pop_first(),
                    _ => None,
                }
            };
            let Some(((moment, _), due)) = next else { break };
            clock::move_to(moment);
            match due {
                Due::Task(task) => task(clock::now()),
                Due::Keyed(class, key) => {
                    let handler = self.state.lock().classes.get(usize::from(class.0)).cloned();
                    if let Some(handler) = handler {
                        handler.on_timer(key, clock::now());
                    }
                }
            }
            self.settle();
        }
        clock::move_to(end);
        self.settle();
    }

    /// Drops all that would still be done: the test is over.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        let old = std::mem::take(&mut *state);
        drop(state);
        drop(old);
    }
}

impl Workers for VirtualWorkers {
    fn count(&self) -> u16 {
        1
    }

    fn post(&self, _worker: WorkerId, task: Task) -> bool {
        self.state.lock().queue.push_back(task);
        notify(&self.woken);
        true
    }

    fn after(&self, _worker: WorkerId, at: Instant, task: Task) {
        self.insert(at, Due::Task(task));
    }

    fn add_timer_class(&self, handler: Arc<dyn TimerHandler>) -> TimerClass {
        let mut state = self.state.lock();
        state.classes.push(handler);
        TimerClass((state.classes.len() - 1) as u8)
    }

    fn arm(&self, class: TimerClass, key: u64, at: Instant) {
        self.insert(at, Due::Keyed(class, key));
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let ready = Arc::new(Ready { is_ready: Mutex::new(true), woken: self.woken.clone() });
        self.state.lock().futures.push(Waiting { future, ready, is_background: false });
        notify(&self.woken);
    }
}
