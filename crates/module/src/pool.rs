//! Things that are made once and used again and again. Every worker keeps a few; what one has too many of goes to those that
//! have none: a run that waited ends on the worker that woke it, so one would make for ever what another throws away.

use std::cell::RefCell;
use std::thread::LocalKey;

use parking_lot::Mutex;

/// Things a worker keeps for itself. Few, so that those it takes are still in its cache.
const OWN_MAX: usize = 16;
/// Things that change hands at a time.
const BATCH: usize = 8;
/// Things that wait for a worker that has none.
const SHARED_MAX: usize = 512;

/// What one worker keeps.
pub(crate) type Own<T> = RefCell<Vec<T>>;

/// A store of used things.
pub(crate) struct Pool<T: 'static> {
    own: &'static LocalKey<Own<T>>,
    shared: Mutex<Vec<T>>,
}

impl<T> Pool<T> {
    pub(crate) const fn new(own: &'static LocalKey<Own<T>>) -> Pool<T> {
        Pool { own, shared: Mutex::new(Vec::new()) }
    }

    /// A used thing; `None` when one has to be made.
    pub(crate) fn take(&self) -> Option<T> {
        self.own.with_borrow_mut(|own| {
            // Waiting for another worker would cost more than making one.
            if own.is_empty()
                && let Some(mut shared) = self.shared.try_lock()
            {
                let from = shared.len().saturating_sub(BATCH);
                own.extend(shared.drain(from..));
            }
            own.pop()
        })
    }

    /// Keeps a thing for [`Pool::take`], on whichever worker, unless there are enough.
    pub(crate) fn keep(&self, thing: T) {
        let _surplus = self.own.with_borrow_mut(|own| {
            if own.len() < OWN_MAX {
                own.push(thing);
                return None;
            }
            let Some(mut shared) = self.shared.try_lock().filter(|shared| shared.len() + BATCH <= SHARED_MAX) else {
                return Some(thing);
            };
            shared.extend(own.drain(OWN_MAX - BATCH..));
            own.push(thing);
            None
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static OWN: Own<u32> = const { RefCell::new(Vec::new()) };
    }
    static NUMBERS: Pool<u32> = Pool::new(&OWN);

    fn on_another_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    #[test]
    fn what_one_worker_has_too_many_of_another_takes_and_no_more_than_enough_are_kept() {
        assert_eq!(NUMBERS.take(), None);
        let kept = OWN_MAX + BATCH;
        on_another_thread(|| (0..kept as u32).for_each(|number| NUMBERS.keep(number)));
        let taken: Vec<u32> = std::iter::from_fn(|| NUMBERS.take()).collect();
        assert_eq!(taken.len(), BATCH, "the rest ended with its thread: {taken:?}");
        (0..2_000).for_each(|number| NUMBERS.keep(number));
        on_another_thread(|| assert_eq!(std::iter::from_fn(|| NUMBERS.take()).count(), SHARED_MAX));
        assert_eq!(std::iter::from_fn(|| NUMBERS.take()).count(), OWN_MAX);
    }
}
