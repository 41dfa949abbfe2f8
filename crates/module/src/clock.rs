//! The present moment, for everything that a script can notice. It is the system's clock, unless the process runs scripts
//! under test: then it stands still and is moved by hand. It arms no timers.
//!
//! Modules ask this clock and not `Instant::now()`, `SystemTime::now()` or `Local::now()`: a test that lets 30 seconds pass
//! would otherwise see two times at once. Waiting for the outside world (sockets, databases) goes by the real clock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that stands still.
struct Held {
    base: Instant,
    /// Nanoseconds it was moved since.
    ahead: AtomicU64,
    /// Wall clock at `base`, Unix milliseconds.
    base_unix_ms: AtomicI64,
}

static HELD: OnceLock<Held> = OnceLock::new();

impl Held {
    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead.load(Ordering::Acquire))
    }

    fn unix_ms(&self) -> i64 {
        let ahead = i64::try_from(self.ahead().as_millis()).unwrap_or(i64::MAX);
        self.base_unix_ms.load(Ordering::Acquire).saturating_add(ahead)
    }
}

/// Now, for differences and timers.
pub fn now() -> Instant {
    match HELD.get() {
        None => Instant::now(),
        Some(held) => held.base + held.ahead(),
    }
}

/// Wall clock in Unix milliseconds.
pub fn unix_ms() -> i64 {
    match HELD.get() {
        None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as i64),
        Some(held) => held.unix_ms(),
    }
}

/// Wall clock.
pub fn system() -> SystemTime {
    match HELD.get() {
        None => SystemTime::now(),
        Some(held) => UNIX_EPOCH + Duration::from_millis(u64::try_from(held.unix_ms()).unwrap_or(0)),
    }
}

/// Stops the clock of this process for good, or sets the wall clock of the stopped one. For programs that test scripts.
pub fn hold(unix_ms: i64) {
    let held = HELD.get_or_init(|| Held {
        base: Instant::now(),
        ahead: AtomicU64::new(0),
        base_unix_ms: AtomicI64::new(unix_ms),
    });
    let ahead = i64::try_from(held.ahead().as_millis()).unwrap_or(i64::MAX);
    held.base_unix_ms.store(unix_ms.saturating_sub(ahead), Ordering::Release);
}

/// Moves a stopped clock forward to `moment`; never backwards. Nothing happens when the clock runs.
pub fn move_to(moment: Instant) {
    if let Some(held) = HELD.get() {
        let ahead = moment.saturating_duration_since(held.base).as_nanos();
        held.ahead.fetch_max(u64::try_from(ahead).unwrap_or(u64::MAX), Ordering::AcqRel);
    }
}
