//! Statistics: named atomic numbers in groups, read by MI, scripts and Prometheus. No export here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

/// A counter or gauge.
#[derive(Debug, Default)]
pub struct Stat(AtomicI64);

impl Stat {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one off.
    #[inline]
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds `by`.
    #[inline]
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
enum Source {
    Stored(Arc<Stat>),
    Computed(Arc<dyn Fn() -> i64 + Send + Sync>),
}

/// Statistics of group `core` that are counted deep inside.
#[derive(Debug)]
pub struct CoreStats {
    /// Replies forwarded statelessly.
    pub fwd_replies: Arc<Stat>,
    /// Requests dropped before a script saw them.
    pub drop_requests: Arc<Stat>,
    /// Replies dropped: nobody is behind us, or they could not be sent.
    pub drop_replies: Arc<Stat>,
    /// URIs that cannot be parsed, found when something was to be sent there.
    pub bad_uris: Arc<Stat>,
}

impl CoreStats {
    pub(crate) fn new(stats: &StatRegistry) -> CoreStats {
        let stat = |name| stats.stat("core", name);
        CoreStats {
            fwd_replies: stat("fwd_replies"),
            drop_requests: stat("drop_requests"),
            drop_replies: stat("drop_replies"),
            bad_uris: stat("bad_URIs_rcvd"),
        }
    }
}

/// All statistics of the process, by group and name.
#[derive(Default)]
pub struct StatRegistry {
    all: RwLock<HashMap<String, Vec<(String, Source)>>>,
}

impl StatRegistry {
    /// The statistic `group:name`, created when needed.
    pub fn stat(&self, group: &str, name: &str) -> Arc<Stat> {
        let mut all = self.all.write();
        let group = all.entry_ref(group).or_default();
        if let Some((_, Source::Stored(stat))) = group.iter().find(|(other, _)| other == name) {
            return stat.clone();
        }
        let stat = Arc::new(Stat::default());
        group.push((name.to_owned(), Source::Stored(stat.clone())));
        stat
    }

    /// Registers a value that is computed when read.
    pub fn computed(&self, group: &str, name: &str, compute: impl Fn() -> i64 + Send + Sync + 'static) {
        let mut all = self.all.write();
        let group = all.entry_ref(group).or_default();
        group.retain(|(other, _)| other != name);
        group.push((name.to_owned(), Source::Computed(Arc::new(compute))));
    }

    /// The value of `name`; without a group that of `core`, else that of `dynamic` (the scripts' own), else the first in the
    /// alphabet that has it.
    pub fn value(&self, name: &str) -> Option<i64> {
        self.find(name).map(|source| source.value())
    }

    fn find(&self, name: &str) -> Option<Source> {
        let all = self.all.read();
        let in_group = |group: &str, name: &str| {
            all.get(group)?.iter().find(|(other, _)| other == name).map(|(_, source)| source.clone())
        };
        if let Some((group, name)) = name.split_once(':') {
            return in_group(group, name);
        }
        let others = || {
            let group = all
                .iter()
                .filter(|(_, stats)| stats.iter().any(|(other, _)| other == name))
                .map(|(group, _)| group.as_str())
                .min()?;
            in_group(group, name)
        };
        in_group("core", name).or_else(|| in_group("dynamic", name)).or_else(others)
    }

    /// Sets a stored statistic to zero; false when there is none.
    pub fn reset(&self, name: &str) -> bool {
        match self.find(name) {
            Some(Source::Stored(stat)) => {
                stat.set(0);
                true
            }
            _ => false,
        }
    }

    /// All values as (group, name, value), sorted.
    pub fn snapshot(&self) -> Vec<(String, String, i64)> {
        let sources: Vec<(String, String, Source)> = {
            let all = self.all.read();
            all.iter()
                .flat_map(|(group, stats)| {
                    stats.iter().map(move |(name, source)| (group.clone(), name.clone(), source.clone()))
                })
                .collect()
        };
        let mut values: Vec<_> =
            sources.into_iter().map(|(group, name, source)| (group, name, source.value())).collect();
        values.sort();
        values
    }
}

impl Source {
    fn value(&self) -> i64 {
        match self {
            Source::Stored(stat) => stat.value(),
            Source::Computed(compute) => compute(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_group_is_that_of_core_then_of_scripts_then_the_first() {
        let stats = StatRegistry::default();
        for (at, group) in ["zeta", "alpha", "dynamic", "core"].into_iter().enumerate() {
            stats.stat(group, "x").set(at as i64);
            stats.stat(group, "y").set(at as i64);
        }
        assert_eq!(stats.value("x"), Some(3));
        assert_eq!(stats.value("alpha:x"), Some(1));
        assert!(stats.reset("x"));
        assert_eq!((stats.value("core:x"), stats.value("dynamic:x")), (Some(0), Some(2)));
        stats.stat("usrloc", "only").set(9);
        stats.stat("acc", "only").set(8);
        assert_eq!(stats.value("only"), Some(8));
        assert_eq!(stats.value("none"), None);
    }
}
