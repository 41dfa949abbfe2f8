//! The numbers that name clusters, nodes and connections, and the time as the caller passes it.

use std::fmt;
use std::time::Instant;

/// Number of a cluster, above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub i32);

/// Number of a node, above 0, unique over all clusters of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

/// The caller's number of one TCP connection, opened by either side; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The moment of a call: a monotonic time for timers, wall clock seconds for the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time; all deadlines are measured in it.
    pub mono: Instant,
    /// Unix time in seconds, sent (cut to 32 bits) as the timestamp of updates.
    pub unix_secs: i64,
}

impl Now {
    /// The wall clock as it goes on the wire.
    pub(crate) fn wire_secs(&self) -> i32 {
        let [a, b, c, d, ..] = self.unix_secs.to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    }
}
