//! The two clocks of a dialog. Never behind what the message or timer in work has told, so that time does not run backwards,
//! also where a clock is moved by hand.

use std::cell::Cell;
use std::time::Instant;

use tandem_dialog::Moment;
use tandem_module::node;

thread_local! {
    static LATEST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A moment on both clocks, finer than [`Moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For differences: not moved by corrections of the wall clock.
    pub monotonic: Instant,
    /// Wall clock, Unix milliseconds.
    pub unix_ms: i64,
}

impl Now {
    /// What the dialog table works with.
    pub fn moment(self) -> Moment {
        Moment { monotonic: self.monotonic, unix_secs: self.unix_ms.div_euclid(1000) }
    }
}

/// A message came or a timer fired at `moment`.
pub(super) fn note(moment: Instant) {
    LATEST.set(Some(moment));
}

/// Now.
pub fn now() -> Now {
    let real = tandem_module::clock::now();
    let monotonic = LATEST.get().map_or(real, |latest| latest.max(real));
    let ahead_ms = i64::try_from(monotonic.saturating_duration_since(real).as_millis()).unwrap_or(0);
    Now { monotonic, unix_ms: node::unix_ms() + ahead_ms }
}
