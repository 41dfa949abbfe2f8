//! Spreading a busy upstream over all workers. One peer's datagrams come to one worker (that keeps their order); when more
//! wait there than it can handle at once, whole calls are handed over by their Call-ID, never single messages.
//!
//! Order is kept without a table of calls: a message goes to the worker of its Call-ID while earlier ones handed to that
//! worker are unfinished, or when this worker is behind; else it is handled here, where everything earlier is finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use tandem_module::worker::WorkerId;

/// Messages that were waiting at one look at the sockets, from which on a worker counts as behind.
const BEHIND_COUNT: usize = 64;

/// What one worker has handed to the others.
pub(crate) struct Spread {
    own: usize,
    /// Unfinished messages by worker they were handed to.
    unfinished: Vec<Arc<AtomicUsize>>,
    /// Messages since the sockets were last looked at.
    run: usize,
}

/// Counts a handed-over message as finished, also when its handling panics or the message is dropped.
pub(crate) struct Unfinished(Arc<AtomicUsize>);

impl Unfinished {
    /// How many are unfinished on that way, this one included.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Spread {
    pub(crate) fn new(own: usize, workers: usize) -> Spread {
        Spread { own, unfinished: (0..workers).map(|_| Arc::default()).collect(), run: 0 }
    }

    /// The sockets have been looked at again.
    pub(crate) fn new_turn(&mut self) {
        self.run = 0;
    }

    /// Who handles a message of that call; `None`: this worker, here and now.
    pub(crate) fn hand_over(&mut self, call_id: &[u8]) -> Option<(WorkerId, Unfinished)> {
        self.run += 1;
        if self.unfinished.len() < 2 {
            return None;
        }
        // The same for all workers and runs of the process; a peer that bends it only loads one worker, as one address does.
        let target = FixedState::default().hash_one(call_id) as usize % self.unfinished.len();
        if target == self.own {
            return None;
        }
        let count = self.unfinished.get(target)?;
        if self.run <= BEHIND_COUNT && count.load(Ordering::Acquire) == 0 {
            return None;
        }
        count.fetch_add(1, Ordering::AcqRel);
        Some((WorkerId(target as u16), Unfinished(count.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_stay_here_until_the_worker_is_behind_and_then_whole() {
        let mut spread = Spread::new(0, 2);
        let foreign =
            (0..100u32).map(|n| n.to_string()).find(|id| FixedState::default().hash_one(id.as_bytes()) % 2 == 1);
        let Some(foreign) = foreign else { panic!("no such Call-ID") };
        for _ in 0..BEHIND_COUNT {
            assert!(spread.hand_over(foreign.as_bytes()).is_none());
        }
        let first = spread.hand_over(foreign.as_bytes());
        assert!(first.is_some());
        spread.new_turn();
        let second = spread.hand_over(foreign.as_bytes());
        assert!(second.is_some(), "an earlier message of the call is still with the other worker");
        drop((first, second));
        assert!(spread.hand_over(foreign.as_bytes()).is_none(), "all finished: back to handling it here");
    }

    #[test]
    fn one_worker_hands_nothing_over() {
        let mut spread = Spread::new(0, 1);
        assert!((0..1000).all(|_| spread.hand_over(b"x").is_none()));
    }
}
