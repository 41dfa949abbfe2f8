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

    /// The value of `name` (without group: the first group that has it).
    pub fn value(&self, name: &str) -> Option<i64> {
        let source = {
            let all = self.all.read();
            let (group, name) = name.split_once(':').map_or((None, name), |(group, name)| (Some(group), name));
            all.iter()
                .filter(|(other, _)| group.is_none_or(|group| group == other.as_str()))
                .find_map(|(_, stats)| stats.iter().find(|(other, _)| other == name).map(|(_, source)| source.clone()))
        };
        source.map(|source| source.value())
    }

    /// Sets a stored statistic to zero; false when there is none.
    pub fn reset(&self, name: &str) -> bool {
        let (group, name) = name.split_once(':').map_or((None, name), |(group, name)| (Some(group), name));
        for (other, stats) in self.all.read().iter() {
            if group.is_some_and(|group| group != other.as_str()) {
                continue;
            }
            if let Some((_, Source::Stored(stat))) = stats.iter().find(|(other, _)| other == name) {
                stat.set(0);
                return true;
            }
        }
        false
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
