//! The present moment as this thread knows it: never behind what the message or timer in work has told. That keeps the
//! machines' time from running backwards, also where a clock is moved by hand.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static LATEST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A message came or a timer fired at `moment`.
pub(crate) fn note(moment: Instant) {
    LATEST.set(Some(moment));
}

/// Now.
pub(crate) fn now() -> Instant {
    let now = tandem_module::clock::now();
    LATEST.get().map_or(now, |latest| latest.max(now))
}
