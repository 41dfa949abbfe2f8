//! What is to happen, in the order of its time; of equal times what was put in first.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

#[derive(Debug)]
struct Scheduled<S> {
    at: Duration,
    order: u64,
    step: S,
}

impl<S> PartialEq for Scheduled<S> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl<S> Eq for Scheduled<S> {}
impl<S> PartialOrd for Scheduled<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<S> Ord for Scheduled<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Steps that wait for their time.
#[derive(Debug)]
pub(crate) struct Queue<S> {
    heap: BinaryHeap<Reverse<Scheduled<S>>>,
    next_order: u64,
}

impl<S> Queue<S> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), next_order: 0 }
    }

    pub(crate) fn push(&mut self, at: Duration, step: S) {
        let order = self.next_order;
        self.next_order += 1;
        self.heap.push(Reverse(Scheduled { at, order, step }));
    }

    /// Time of the next step.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(next)| next.at)
    }

    /// The next step and its time.
    pub(crate) fn pop(&mut self) -> Option<(Duration, S)> {
        self.heap.pop().map(|Reverse(next)| (next.at, next.step))
    }
}
