//! Script runs: started, parked while they wait, resumed, ended. A parked run is a plain value in a bounded table; nothing
//! holds a thread while it waits.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_script::ast::RouteKind;
use tandem_script::program::Program;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{LogLevel, Machine, Outcome, RouteId, StartOptions};

use crate::call_order::{CallOrder, Hold};
use crate::context::{Called, Context, write_log};
use crate::node::NodeRef;
use crate::pool::{Own, Pool};
use crate::worker::{self, WorkerId};

/// Runs that may wait at the same time; beyond it a wait fails at once with -1.
pub const PARKED_MAX: usize = 200_000;
/// No wait lasts longer than this, whatever it waits for.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Waits of database and cache jobs without a limit of their own.
pub const JOB_MAX: Duration = Duration::from_secs(30);

const SHARDS: usize = 16;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// `drop` ended it.
    pub is_dropped: bool,
    /// Code of the last action.
    pub code: i32,
}

/// What a wait came to.
pub enum Wake {
    /// It was woken with this.
    Done(Box<dyn Any + Send>),
    /// Its time ran out, or there was no room to wait.
    Timeout,
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wake::Done(_) => "Done",
            Wake::Timeout => "Timeout",
        })
    }
}

type Start = Box<dyn FnOnce(Waker) + Send>;
type Finish = Box<dyn FnOnce(&mut Context, Wake) -> Called + Send>;

/// A call that has to wait.
pub struct Pending {
    start: Start,
    finish: Finish,
    timeout: Duration,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:?})", self.timeout)
    }
}

impl Pending {
    /// A wait. `start` is called once the run is parked and gets the means to wake it, from any thread; `finish` is called
    /// on a worker with the result and may wait again. After `timeout` it is called with [`Wake::Timeout`].
    pub fn new(
        timeout: Duration,
        start: impl FnOnce(Waker) + Send + 'static,
        finish: impl FnOnce(&mut Context, Wake) -> Called + Send + 'static,
    ) -> Pending {
        Pending { start: Box::new(start), finish: Box::new(finish), timeout: timeout.min(WAIT_MAX) }
    }

    /// Runs `future` on the I/O runtime; `finish` gets its output, or `None` when it took longer than [`JOB_MAX`].
    pub fn job<T: Any + Send>(
        node: NodeRef,
        future: impl Future<Output = T> + Send + 'static,
        finish: impl FnOnce(&mut Context, Option<T>) -> Called + Send + 'static,
    ) -> Called {
        let start = move |waker: Waker| {
            let Some(workers) = node.workers() else { return };
            workers.spawn(Box::pin(async move { waker.wake(Box::new(future.await)) }));
        };
        Called::Pending(Pending::new(JOB_MAX, start, move |context, wake| {
            let output = match wake {
                Wake::Done(output) => output.downcast().ok().map(|output| *output),
                Wake::Timeout => None,
            };
            finish(context, output)
        }))
    }

    /// Waits for `span`, then calls `finish`.
    pub fn sleep(span: Duration, finish: impl FnOnce(&mut Context) -> Called + Send + 'static) -> Called {
        Called::Pending(Pending::new(span, |_| {}, move |context, _| finish(context)))
    }

    /// The same wait with something done after it.
    pub fn then(self, next: impl FnOnce(&mut Context, Called) -> Called + Send + 'static) -> Pending {
        let finish = self.finish;
        let chained = move |context: &mut Context, wake: Wake| match finish(context, wake) {
            Called::Pending(again) => Called::Pending(again.then(next)),
            done => next(context, done),
        };
        Pending { start: self.start, finish: Box::new(chained), timeout: self.timeout }
    }
}

/// Wakes one parked run, once.
#[derive(Debug)]
pub struct Waker {
    node: NodeRef,
    worker: WorkerId,
    token: u64,
}

impl fmt::Debug for crate::node::Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

impl Waker {
    /// Wakes the run with a result; does nothing when it has timed out. The run goes on where it is woken when that is a
    /// worker: it keeps all it has with it, and waking another thread costs more than most runs.
    pub fn wake(self, result: Box<dyn Any + Send>) {
        let Waker { node, worker, token } = self;
        let worker = if worker::is_worker() { worker::current() } else { worker };
        if let Some(workers) = node.workers() {
            workers.post(worker, Box::new(move |_| resume(node, token, Wake::Done(result))));
        }
    }
}

/// Called with the context when a run has ended.
pub type After = Box<dyn FnOnce(Box<Context>, End) + Send>;

/// What follows the run of a received request: its transaction is told, its context goes back to the worker.
pub fn end_of_request(mut context: Box<Context>, _: End) {
    if let Some(layer) = context.node.transactions() {
        layer.end_of_request(&mut context);
    }
    context.recycle();
}

struct Run {
    context: Box<Context>,
    machine: Machine,
    /// The program it began with; route indexes belong to it, also after a reload.
    program: Arc<Program>,
    after: After,
    /// Keeps what follows in the call behind this run.
    hold: Option<Hold>,
}

enum Then {
    /// Go on behind the call.
    Continue,
    /// Start the resume route of `async()`.
    Resume(RouteId),
    /// Start the report route of `launch()`.
    Report(Option<RouteId>, Option<Text>),
}

struct Parked {
    run: Run,
    finish: Finish,
    then: Then,
}

/// The table of parked runs.
pub struct ParkingLot {
    shards: [Mutex<HashMap<u64, Parked>>; SHARDS],
    count: AtomicUsize,
    next: AtomicU64,
}

impl Default for ParkingLot {
    fn default() -> ParkingLot {
        ParkingLot {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            next: AtomicU64::new(1),
        }
    }
}

impl ParkingLot {
    /// How many runs wait now.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, token: u64) -> &Mutex<HashMap<u64, Parked>> {
        // In range by construction; the fallback keeps this free of panics.
        self.shards.get(token as usize % SHARDS).unwrap_or(&self.shards[0])
    }

    fn put(&self, parked: Parked) -> Result<u64, Box<Parked>> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= PARKED_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Box::new(parked));
        }
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(token).lock().insert(token, parked);
        Ok(token)
    }

    fn take(&self, token: u64) -> Option<Parked> {
        let parked = self.shard(token).lock().remove(&token)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(parked)
    }
}

/// Starts `route` of [`Context::program`] on `context`; `after` is called with the context when the run has ended, on whichever worker that is.
/// Must be called on a worker that runs no script at the moment; use [`queue`] elsewhere.
pub fn start(mut context: Box<Context>, route: RouteId, options: StartOptions, after: After) {
    let mut machine = spare_machine();
    let program = context.program().clone();
    machine.start(program.clone(), route, options);
    drive(Run { context, machine, program, after, hold: None });
}

/// Starts a route that no message starts, of the program of now, on a message of its own; false when there is none.
pub fn start_alone(node: NodeRef, kind: RouteKind, route: impl FnOnce(&Program) -> Option<RouteId>) -> bool {
    let mut context = Context::dummy(node, kind);
    match route(context.program()) {
        Some(route) => {
            start(context, route, StartOptions::new(kind), Box::new(|context, _| context.recycle()));
            true
        }
        None => {
            context.recycle();
            false
        }
    }
}

/// Starts `route` on `context` on the current worker, as soon as it has finished what it does now.
pub fn queue(mut context: Box<Context>, route: RouteId, options: StartOptions, after: After) {
    // The index belongs to the program of now, not to the one that is in place when its turn comes.
    context.program();
    let Some(workers) = context.node.workers().cloned() else { return };
    workers.post(worker::current(), Box::new(move |_| start(context, route, options, after)));
}

/// Runs `route` inside another run, on the same context, to its end (branch routes, sync event routes, local routes).
/// When it has to wait, the rest is given as a [`Pending`] that the calling function must return in turn;
/// `then` is called with the end in either case.
pub fn nested(
    context: &mut Context,
    route: RouteId,
    options: StartOptions,
    then: impl FnOnce(&mut Context, End) -> Called + Send + 'static,
) -> Called {
    let mut machine = spare_machine();
    let program = context.program().clone();
    machine.start(program.clone(), route, options);
    let outcome = machine.run(context);
    nested_outcome(context, Nested { machine, program }, outcome, Box::new(then))
}

type NestedThen = Box<dyn FnOnce(&mut Context, End) -> Called + Send>;

struct Nested {
    machine: Machine,
    program: Arc<Program>,
}

fn nested_outcome(context: &mut Context, mut nested: Nested, outcome: Outcome<Pending>, then: NestedThen) -> Called {
    match outcome {
        Outcome::Finished { is_dropped, code } => {
            keep_machine(nested.machine);
            then(context, End { is_dropped, code })
        }
        Outcome::Waiting(pending) => Called::Pending(pending.then(move |context, called| {
            let outcome = match called {
                Called::Done(code) => nested.machine.resume(context, code),
                Called::Drop => Outcome::Finished { is_dropped: true, code: 0 },
                Called::Exit | Called::Pending(_) => Outcome::Finished { is_dropped: false, code: 0 },
            };
            nested_outcome(context, nested, outcome, then)
        })),
        Outcome::Async { pending, resume, .. } => {
            let kind = context.kind;
            Called::Pending(pending.then(move |context, called| {
                let mut options = StartOptions::new(kind);
                options.rc = code_of(&called);
                nested.machine.start(nested.program.clone(), resume, options);
                let outcome = nested.machine.run(context);
                nested_outcome(context, nested, outcome, then)
            }))
        }
    }
}

/// Does something with the dummy request and the `$var` values of this worker, as a script run would see them.
pub fn on_dummy<T>(node: NodeRef, work: impl FnOnce(&mut Context) -> T) -> T {
    let mut context = Context::dummy(node, RouteKind::Request);
    context.vars = worker::take_vars();
    let result = work(&mut context);
    worker::put_vars(std::mem::take(&mut context.vars));
    context.recycle();
    result
}

/// Takes over a pending call of `launch()`.
pub(crate) fn launch(
    node: NodeRef,
    program: Arc<Program>,
    pending: Pending,
    report: Option<RouteId>,
    value: Option<Text>,
) {
    let mut context = Context::dummy(node, RouteKind::Request);
    context.bind_program(&program);
    let after: After = Box::new(|context, _| context.recycle());
    park(
        Run { context, machine: spare_machine(), program, after, hold: None },
        pending,
        Then::Report(report, value),
        None,
    );
}

/// Waits for `pending` on `context` without a script: `after` gets the context when it is done.
pub fn wait(mut context: Box<Context>, pending: Pending, after: impl FnOnce(Box<Context>, Called) + Send + 'static) {
    let finish = pending.finish;
    let slot: Arc<Mutex<Option<Called>>> = Arc::default();
    let keep = slot.clone();
    let pending = Pending {
        start: pending.start,
        finish: Box::new(move |context, wake| match finish(context, wake) {
            Called::Pending(again) => Called::Pending(again),
            done => {
                *keep.lock() = Some(done);
                Called::Exit
            }
        }),
        timeout: pending.timeout,
    };
    let after: After = Box::new(move |context, _| {
        let called = slot.lock().take().unwrap_or(Called::Done(-1));
        after(context, called);
    });
    let program = context.program().clone();
    park(Run { context, machine: spare_machine(), program, after, hold: None }, pending, Then::Continue, None);
}

/// Does some of a run; complains when it takes longer than `exec_msg_threshold`. Waits are not in it.
fn watched<T>(node: NodeRef, work: impl FnOnce() -> T) -> T {
    let limit = node.settings.slow_run_micros;
    if limit == 0 {
        return work();
    }
    // The time of this thread is meant, also where tests have stopped the clock.
    let begin = std::time::Instant::now();
    let result = work();
    let spent = begin.elapsed().as_micros();
    if spent > u128::from(limit) {
        node.stats.stat("core", "slow_messages").inc();
        write_log(LogLevel::Warning, &format!("a script ran {spent} us, exec_msg_threshold is {limit} us"));
    }
    result
}

fn drive(mut run: Run) {
    run.context.vars = worker::take_vars();
    let outcome = watched(run.context.node, || run.machine.run(&mut *run.context));
    settle(run, outcome);
}

fn settle(run: Run, outcome: Outcome<Pending>) {
    match outcome {
        Outcome::Finished { is_dropped, code } => end(run, End { is_dropped, code }),
        Outcome::Waiting(pending) => park(run, pending, Then::Continue, None),
        Outcome::Async { pending, resume, timeout_secs } => {
            let timeout = timeout_secs.and_then(|secs| u64::try_from(secs).ok()).map(Duration::from_secs);
            park(run, pending, Then::Resume(resume), timeout);
        }
    }
}

fn end(run: Run, end: End) {
    let Run { mut context, machine, after, hold, .. } = run;
    worker::put_vars(std::mem::take(&mut context.vars));
    keep_machine(machine);
    after(context, end);
    // Only now is the message where it had to go.
    drop(hold);
}

fn park(mut run: Run, pending: Pending, then: Then, timeout: Option<Duration>) {
    let node = run.context.node;
    if run.context.kind == RouteKind::Request
        && run.context.transaction.is_none()
        && !matches!(then, Then::Report(..))
        && let Some(layer) = node.transactions()
    {
        layer.on_park(&mut run.context);
    }
    match then {
        Then::Continue => run.hold = run.hold.take().or_else(|| CallOrder::hold(&run.context)),
        // Who writes async() wants others to go on.
        Then::Resume(_) | Then::Report(..) => run.hold = None,
    }
    let Pending { start, finish, timeout: own } = pending;
    let timeout = timeout.map_or(own, |timeout| timeout.min(own));
    let worker = worker::current();
    match node.parked.put(Parked { run, finish, then }) {
        Ok(token) => {
            if let Some(workers) = node.workers() {
                let at = crate::clock::now() + timeout;
                workers.after(worker, at, Box::new(move |_| resume(node, token, Wake::Timeout)));
            }
            start(Waker { node, worker, token });
        }
        Err(parked) => {
            write_log(LogLevel::Error, "too many script runs are waiting; a wait was refused");
            node.stats.stat("core", "parked_refused").inc();
            go_on(*parked, Wake::Timeout);
        }
    }
}

fn resume(node: NodeRef, token: u64, wake: Wake) {
    if let Some(parked) = node.parked.take(token) {
        go_on(parked, wake);
    }
}

fn go_on(parked: Parked, wake: Wake) {
    let Parked { mut run, finish, then } = parked;
    let node = run.context.node;
    let called = finish(&mut run.context, wake);
    let again = match called {
        Called::Pending(pending) => Err(pending),
        done => Ok(done),
    };
    let done = match again {
        Ok(done) => done,
        Err(pending) => return park(run, pending, then, None),
    };
    let outcome = watched(node, || match then {
        Then::Continue => match done {
            Called::Done(code) if run.machine.is_waiting() => run.machine.resume(&mut *run.context, code),
            Called::Drop => Outcome::Finished { is_dropped: true, code: 0 },
            _ => Outcome::Finished { is_dropped: false, code: 0 },
        },
        Then::Resume(route) => run_route(&mut run, route, &done, Vec::new()),
        Then::Report(Some(route), value) => {
            let params = value.map(|value| (None, Value::Text(value))).into_iter().collect();
            run_route(&mut run, route, &done, params)
        }
        Then::Report(None, _) => Outcome::Finished { is_dropped: false, code: code_of(&done) },
    });
    settle(run, outcome);
}

fn run_route(run: &mut Run, route: RouteId, done: &Called, params: Vec<(Option<Text>, Value)>) -> Outcome<Pending> {
    let mut options = StartOptions::new(run.context.kind);
    options.rc = code_of(done);
    options.params = params;
    run.machine.start(run.program.clone(), route, options);
    run.machine.run(&mut *run.context)
}

fn code_of(called: &Called) -> i32 {
    match called {
        Called::Done(code) => *code,
        _ => -1,
    }
}

thread_local! {
    static OWN_MACHINES: Own<Machine> = const { RefCell::new(Vec::new()) };
}

static MACHINES: Pool<Machine> = Pool::new(&OWN_MACHINES);

fn spare_machine() -> Machine {
    MACHINES.take().unwrap_or_default()
}

fn keep_machine(machine: Machine) {
    // One that was ended in the middle of a call still holds its program and values.
    if !machine.is_waiting() {
        MACHINES.keep(machine);
    }
}
