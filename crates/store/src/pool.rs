//! A bounded pool of connections of any SQL engine: limits on connections, waiting queries and time; reconnects by
//! connecting anew. Knows no SQL and no engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tandem_module::db::{BoxFuture, DbError, DbRows, Statement};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::watch::{Watch, describe};

/// Between two attempts to connect for the same statement.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Most connections open at a time.
    pub connections_max: usize,
    /// Most statements running or waiting; beyond, [`DbError::Overloaded`] at once.
    pub waiting_max: usize,
    /// Greatest time from `run()` to the result: waiting, connecting and the statement itself. Beyond,
    /// [`DbError::Timeout`], and the connection is given up; [`DbError::Unavailable`] when the statement never left.
    pub timeout: Duration,
    /// Greatest time of one attempt to connect.
    pub connect_timeout: Duration,
    /// How long a failed attempt to connect speaks for the server: statements of that time fail with its error at once, so
    /// that a server which is down is not flooded and nothing waits in vain.
    pub outage_pause: Duration,
    /// Attempts to connect for one statement, at least one.
    pub connects_max: usize,
    /// How often a statement is run again after its connection broke or the server asked for it (deadlock).
    pub retries_max: usize,
    /// Statements that take longer are logged, if set.
    pub slow: Option<Duration>,
}

impl Default for PoolLimits {
    fn default() -> PoolLimits {
        PoolLimits {
            connections_max: 4,
            waiting_max: 10_000,
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            outage_pause: Duration::ZERO,
            connects_max: 1,
            retries_max: 0,
            slow: None,
        }
    }
}

/// What came of a statement, and of the connection.
pub struct Outcome {
    /// Rows or refusal.
    pub result: Result<DbRows, DbError>,
    /// Whether the connection can be used again.
    pub is_reusable: bool,
    /// Whether the statement may succeed when it is run once more, on a new connection if this one is not reusable.
    pub can_retry: bool,
}

/// What a pool asks of an engine.
pub trait Engine: Send + Sync + 'static {
    /// A connection. Dropping it closes it.
    type Connection: Send + 'static;

    /// Connects.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, DbError>> + Send;

    /// Runs a statement; must stop working on it soon after `deadline`, when nobody waits any more.
    fn execute(
        &self,
        connection: &mut Self::Connection,
        statement: &Statement,
        deadline: Instant,
    ) -> impl Future<Output = Outcome> + Send;

    /// Closes a connection in good order.
    fn close(&self, connection: Self::Connection) -> impl Future<Output = ()> + Send {
        drop(connection);
        std::future::ready(())
    }
}

/// A pool.
pub struct Pool<E: Engine> {
    inner: Arc<Inner<E>>,
    handle: Handle,
}

struct Inner<E: Engine> {
    engine: E,
    limits: PoolLimits,
    permits: Semaphore,
    idle: Mutex<Vec<E::Connection>>,
    pending: AtomicUsize,
    watch: Watch,
    /// Whether the newest news of the server was bad.
    is_down: AtomicBool,
    /// The newest attempt to connect, if it failed.
    outage: Mutex<Option<(Instant, DbError)>>,
}

impl<E: Engine> Pool<E> {
    /// A pool without connections: they are made when needed.
    pub fn new(engine: E, limits: PoolLimits, handle: Handle) -> Pool<E> {
        Pool::watched(engine, limits, handle, Watch::default())
    }

    /// The same, with somebody to tell what happens.
    pub fn watched(engine: E, limits: PoolLimits, handle: Handle, watch: Watch) -> Pool<E> {
        let connections_max = limits.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let inner = Inner {
            engine,
            limits,
            permits: Semaphore::new(connections_max),
            idle: Mutex::new(Vec::new()),
            pending: AtomicUsize::new(0),
            watch,
            is_down: AtomicBool::new(false),
            outage: Mutex::new(None),
        };
        Pool { inner: Arc::new(inner), handle }
    }

    /// Runs a statement. It starts at once, inside the runtime of the pool; the future only waits for the result, so
    /// any executor may poll it, and dropping it does not take the statement back.
    pub fn run(&self, statement: Statement) -> BoxFuture<Result<DbRows, DbError>> {
        let Some(place) = Place::take(&self.inner) else {
            self.inner.watch.count_result(&Err(DbError::Overloaded));
            return Box::pin(std::future::ready(Err(DbError::Overloaded)));
        };
        let task = self.handle.spawn(async move { place.0.run(statement).await });
        Box::pin(async move {
            task.await.unwrap_or_else(|error| {
                let reason = if error.is_panic() { "its answer makes no sense" } else { "the program is stopping" };
                Err(DbError::Unavailable(reason.into()))
            })
        })
    }

    /// Closes the unused connections in good order.
    pub fn close(&self) -> BoxFuture<()> {
        let inner = self.inner.clone();
        let task = self.handle.spawn(async move {
            let idle = std::mem::take(&mut *inner.idle.lock());
            for connection in idle {
                inner.engine.close(connection).await;
            }
        });
        Box::pin(async move {
            // Fails only when the runtime is gone, and the connections with it.
            let _ = task.await;
        })
    }

    /// Statements running or waiting now.
    pub fn pending(&self) -> usize {
        self.inner.pending.load(Ordering::Relaxed)
    }

    /// Connections open and unused now.
    pub fn idle(&self) -> usize {
        self.inner.idle.lock().len()
    }
}

/// A place among the waiting, given back when dropped.
struct Place<E: Engine>(Arc<Inner<E>>);

impl<E: Engine> Place<E> {
    fn take(inner: &Arc<Inner<E>>) -> Option<Place<E>> {
        if inner.pending.fetch_add(1, Ordering::Relaxed) >= inner.limits.waiting_max {
            inner.pending.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(inner.clone()))
    }
}

impl<E: Engine> Drop for Place<E> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<E: Engine> Inner<E> {
    async fn run(&self, statement: Statement) -> Result<DbRows, DbError> {
        let start = Instant::now();
        let deadline = start + self.limits.timeout;
        // When time is up the inner future is dropped, and its connection with it: what an engine has left half done
        // must not meet the next statement.
        let has_left = AtomicBool::new(false);
        let result = tokio::time::timeout_at(deadline, self.run_within(&statement, deadline, &has_left)).await;
        // Whoever would do harm by running it twice has to know.
        let result = result.unwrap_or_else(|_| match has_left.load(Ordering::Relaxed) {
            true => Err(DbError::Timeout(self.timeout_ms())),
            false => Err(self.never_left()),
        });
        self.watch.count_result(&result);
        if let Some(slow) = self.limits.slow.filter(|slow| start.elapsed() > *slow) {
            self.watch.note_slow(&describe(&statement), start.elapsed(), slow);
        }
        result
    }

    async fn run_within(
        &self,
        statement: &Statement,
        deadline: Instant,
        has_left: &AtomicBool,
    ) -> Result<DbRows, DbError> {
        let _permit = self.permits.acquire().await.map_err(|_| DbError::Unavailable("the pool is closed".into()))?;
        let mut retries_left = self.limits.retries_max;
        loop {
            // The permit may have come with the end of the wait.
            if Instant::now() >= deadline {
                return Err(self.never_left());
            }
            let mut connection = self.connection().await?;
            has_left.store(true, Ordering::Relaxed);
            let outcome = self.engine.execute(&mut connection, statement, deadline).await;
            if outcome.is_reusable {
                self.idle.lock().push(connection);
            } else if outcome.can_retry {
                // Connections made before the server went are as dead as this one.
                self.idle.lock().clear();
                // A living server may refuse a connection's state, too, after its tables were changed.
                if matches!(outcome.result, Err(DbError::Unavailable(_))) {
                    self.went_down();
                }
            }
            if !outcome.can_retry || retries_left == 0 {
                return outcome.result;
            }
            retries_left -= 1;
            self.watch.count_retry();
        }
    }

    fn timeout_ms(&self) -> u64 {
        u64::try_from(self.limits.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    fn never_left(&self) -> DbError {
        DbError::Unavailable(format!("no connection was free within {} ms", self.timeout_ms()))
    }

    async fn connection(&self) -> Result<E::Connection, DbError> {
        if let Some(idle) = self.idle.lock().pop() {
            return Ok(idle);
        }
        if let Some((at, error)) = self.outage.lock().as_ref()
            && at.elapsed() < self.limits.outage_pause
        {
            return Err(error.clone());
        }
        let mut attempts_left = self.limits.connects_max.max(1);
        loop {
            let limit_ms = u64::try_from(self.limits.connect_timeout.as_millis()).unwrap_or(u64::MAX);
            let made = tokio::time::timeout(self.limits.connect_timeout, self.engine.connect()).await;
            let made =
                made.unwrap_or_else(|_| Err(DbError::Unavailable(format!("no connection within {limit_ms} ms"))));
            attempts_left -= 1;
            match made {
                Ok(connection) => {
                    self.came_up();
                    return Ok(connection);
                }
                Err(error) if attempts_left == 0 => {
                    self.watch.count_failed_connect();
                    *self.outage.lock() = Some((Instant::now(), error.clone()));
                    self.went_down();
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
            }
        }
    }

    fn went_down(&self) {
        if !self.is_down.swap(true, Ordering::AcqRel) {
            self.watch.tell(false);
        }
    }

    fn came_up(&self) {
        self.watch.count_connect();
        *self.outage.lock() = None;
        if self.is_down.swap(false, Ordering::AcqRel) {
            self.watch.tell(true);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::sync::atomic::AtomicU32;
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Fake {
        connects: AtomicU32,
        running: AtomicU32,
        running_max: AtomicU32,
        broken: AtomicU32,
        release: Notify,
        hangs: bool,
        refuses: bool,
    }

    impl Engine for Arc<Fake> {
        type Connection = u32;

        async fn connect(&self) -> Result<u32, DbError> {
            Ok(self.connects.fetch_add(1, Ordering::SeqCst))
        }

        async fn execute(&self, connection: &mut u32, _: &Statement, _: Instant) -> Outcome {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.running_max.fetch_max(running, Ordering::SeqCst);
            if self.hangs {
                self.release.notified().await;
            }
            tokio::task::yield_now().await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            let is_reusable = self.broken.load(Ordering::SeqCst) == 0;
            if self.refuses {
                let result = Err(DbError::Refused("the table has changed".into()));
                return Outcome { result, is_reusable: false, can_retry: true };
            }
            Outcome {
                result: Ok(DbRows { affected: u64::from(*connection), ..DbRows::default() }),
                is_reusable,
                can_retry: false,
            }
        }
    }

    fn pool(fake: &Arc<Fake>, connections_max: usize, waiting_max: usize) -> Pool<Arc<Fake>> {
        Pool::new(fake.clone(), PoolLimits { connections_max, waiting_max, ..PoolLimits::default() }, Handle::current())
    }

    fn statement() -> Statement {
        Statement::Raw(b"select 1".to_vec())
    }

    #[tokio::test]
    async fn connections_are_reused_and_bounded() {
        let fake = Arc::new(Fake::default());
        let pool = pool(&fake, 3, 1000);
        let all: Vec<_> = (0..200).map(|_| pool.run(statement())).collect();
        for one in all {
            one.await.unwrap();
        }
        assert!(fake.running_max.load(Ordering::SeqCst) <= 3);
        assert!(fake.connects.load(Ordering::SeqCst) <= 3);
        assert_eq!(pool.pending(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_waiting_ends() {
        let fake = Arc::new(Fake { hangs: true, ..Fake::default() });
        let pool = pool(&fake, 1, 2);
        let (first, second) = (pool.run(statement()), pool.run(statement()));
        assert!(matches!(pool.run(statement()).await, Err(DbError::Overloaded)));
        assert!(matches!(first.await, Err(DbError::Timeout(5000))));
        assert!(matches!(second.await, Err(DbError::Unavailable(_))), "it never left");
        assert_eq!((pool.pending(), pool.idle()), (0, 0));
    }

    #[tokio::test]
    async fn a_broken_connection_is_replaced() {
        let fake = Arc::new(Fake::default());
        let pool = pool(&fake, 1, 10);
        assert_eq!(pool.run(statement()).await.unwrap().affected, 0);
        fake.broken.store(1, Ordering::SeqCst);
        assert_eq!(pool.run(statement()).await.unwrap().affected, 0);
        assert_eq!(pool.run(statement()).await.unwrap().affected, 1);
        fake.broken.store(0, Ordering::SeqCst);
        assert_eq!(pool.run(statement()).await.unwrap().affected, 2);
        assert_eq!(pool.run(statement()).await.unwrap().affected, 2);
    }

    #[tokio::test]
    async fn a_server_that_refuses_a_connection_is_not_called_lost() {
        let fake = Arc::new(Fake { refuses: true, ..Fake::default() });
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        let hook: crate::watch::StateHook = Arc::new(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let watch = Watch { hook: Some(hook), ..Watch::default() };
        let limits = PoolLimits { retries_max: 1, ..PoolLimits::default() };
        let pool = Pool::watched(fake.clone(), limits, Handle::current(), watch);
        assert!(matches!(pool.run(statement()).await, Err(DbError::Refused(_))));
        assert!(fake.connects.load(Ordering::SeqCst) > 1, "tried again on a new connection");
        assert_eq!(told.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_dropped_future_still_runs_its_statement() {
        let fake = Arc::new(Fake::default());
        let pool = pool(&fake, 1, 10);
        drop(pool.run(statement()));
        while pool.pending() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(fake.connects.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_future_may_be_polled_outside_the_runtime_and_survives_its_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = Arc::new(Fake { hangs: true, ..Fake::default() });
        let pool = Pool::new(fake.clone(), PoolLimits::default(), runtime.handle().clone());
        let future = pool.run(statement());
        runtime.shutdown_background();
        let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(matches!(other.block_on(future), Err(DbError::Unavailable(_))));
    }
}
