//! The worker of a test rig: queued work, timers on a clock moved by hand, futures polled on the calling thread.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tandem_module::db::BoxFuture;
use tandem_module::worker::{Task, TimerClass, TimerHandler, WorkerId, Workers};

/// How long a test waits in real time for a future that other threads complete.
const WAIT_REAL_MAX: Duration = Duration::from_secs(10);

enum Due {
    Task(Task),
    Keyed(TimerClass, u64),
}

struct Timer {
    at: Instant,
    number: u64,
    due: Due,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    timers: Vec<Timer>,
    classes: Vec<Arc<dyn TimerHandler>>,
    futures: Vec<(BoxFuture<()>, Arc<Ready>)>,
    offset: Duration,
    number: u64,
}

/// The only worker of a rig.
#[derive(Default)]
pub struct ManualWorkers {
    state: Mutex<State>,
    woken: Arc<(Mutex<bool>, Condvar)>,
}

struct Ready {
    is_ready: Mutex<bool>,
    woken: Arc<(Mutex<bool>, Condvar)>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        *self.is_ready.lock() = true;
        *self.woken.0.lock() = true;
        self.woken.1.notify_all();
    }
}

impl ManualWorkers {
    /// The real clock plus what the test has added.
    pub fn now(&self) -> Instant {
        Instant::now() + self.state.lock().offset
    }

    /// Adds a timer at an exact moment of the rig's clock.
    pub fn add_timer(&self, at: Instant, task: Task) {
        self.insert(at, Due::Task(task));
    }

    fn insert(&self, at: Instant, due: Due) {
        let mut state = self.state.lock();
        state.number += 1;
        // Code that reads the real clock knows nothing of the moves of this one: a moment that seems past is relative to it.
        let virtual_now = Instant::now() + state.offset;
        let at = if at < virtual_now { at + state.offset } else { at };
        let number = state.number;
        state.timers.push(Timer { at, number, due });
    }

    /// Runs what is queued and polls what is ready; waits a bounded real time for futures that work elsewhere.
    pub fn settle(&self) {
        let give_up = Instant::now() + WAIT_REAL_MAX;
        loop {
            self.run_ready();
            let is_idle = {
                let state = self.state.lock();
                state.queue.is_empty() && state.futures.is_empty()
            };
            if is_idle || Instant::now() >= give_up {
                return;
            }
            let mut woken = self.woken.0.lock();
            if !*woken {
                self.woken.1.wait_for(&mut woken, Duration::from_millis(200));
            }
            *woken = false;
        }
    }

    /// Runs what is queued and polls what is ready; waits for nothing.
    pub fn run_ready(&self) {
        loop {
            while let Some(task) = self.next_task() {
                task(self.now());
            }
            if !self.poll_futures() {
                return;
            }
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
        for (mut future, ready) in futures {
            if !std::mem::take(&mut *ready.is_ready.lock()) {
                kept.push((future, ready));
                continue;
            }
            let waker = Waker::from(ready.clone());
            match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
                Poll::Ready(()) => is_any_done = true,
                Poll::Pending => kept.push((future, ready)),
            }
        }
        self.state.lock().futures.extend(kept);
        is_any_done
    }

    /// Runs a future to its end on this thread, with everything else that is to be done.
    pub fn wait_for<T: Send + 'static>(&self, future: BoxFuture<T>) -> T {
        let slot: Arc<Mutex<Option<T>>> = Arc::default();
        let keep = slot.clone();
        self.spawn(Box::pin(async move {
            let output = future.await;
            *keep.lock() = Some(output);
        }));
        self.settle();
        let output = slot.lock().take();
        output.expect("the future did not finish in time")
    }

    /// Moves the clock, firing timers in order of their moments.
    pub fn advance(&self, span: Duration) {
        let end = self.now() + span;
        loop {
            let next = {
                let mut state = self.state.lock();
                let first = state.timers.iter().enumerate().min_by_key(|(_, timer)| (timer.at, timer.number));
                let at = first.filter(|(_, timer)| timer.at <= end).map(|(at, _)| at);
                at.map(|at| state.timers.swap_remove(at))
            };
            let Some(timer) = next else { break };
            self.move_to(timer.at);
            match timer.due {
                Due::Task(task) => task(timer.at),
                Due::Keyed(class, key) => {
                    let handler = self.state.lock().classes.get(usize::from(class.0)).cloned();
                    if let Some(handler) = handler {
                        handler.on_timer(key, timer.at);
                    }
                }
            }
            self.settle();
        }
        self.move_to(end);
        self.settle();
    }

    fn move_to(&self, moment: Instant) {
        let now = self.now();
        if moment > now {
            self.state.lock().offset += moment - now;
        }
    }
}

impl Workers for ManualWorkers {
    fn count(&self) -> u16 {
        1
    }

    fn post(&self, _worker: WorkerId, task: Task) -> bool {
        self.state.lock().queue.push_back(task);
        *self.woken.0.lock() = true;
        self.woken.1.notify_all();
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
        self.state.lock().futures.push((future, ready));
        *self.woken.0.lock() = true;
    }
}
