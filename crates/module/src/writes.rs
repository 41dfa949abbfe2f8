//! Writes that must not be lost when the process ends: modules announce them, shutdown waits for them. It writes nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts writes under way (database rows, files) that a stopping process waits for, within a bound.
#[derive(Debug, Default)]
pub struct Writes {
    count: AtomicUsize,
}

/// One write under way; over when dropped, however it ended.
#[derive(Debug)]
pub struct Write(&'static Writes);

impl Writes {
    /// Announces a write. Keep the result until it is done or given up: move it into the future that writes.
    pub fn begin(&'static self) -> Write {
        self.count.fetch_add(1, Ordering::AcqRel);
        Write(self)
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether nothing has to be waited for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_until_it_is_dropped() {
        static WRITES: Writes = Writes { count: AtomicUsize::new(0) };
        let first = WRITES.begin();
        let second = WRITES.begin();
        assert_eq!(WRITES.len(), 2);
        drop(first);
        assert!(!WRITES.is_empty());
        drop(second);
        assert!(WRITES.is_empty());
    }
}
