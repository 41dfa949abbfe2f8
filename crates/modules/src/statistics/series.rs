//! Statistic series: numbers of the last so many seconds, summed up, averaged or as a percentage (OpenSIPS: statistics,
//! stat_series_profile and update_stat_series()). What is older than the window counts no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tandem_module::clock;
use tandem_module::node::NodeRef;

/// Slots a window may have.
pub(super) const SLOTS_MAX: u64 = 86_400;
/// Series that scripts may create at run time; further ones are refused.
pub(super) const SERIES_MAX: usize = 10_000;

/// What the value of a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// The sum of all values.
    Accumulate,
    /// The sum divided by their number.
    Average,
    /// The share of values above zero in all that are not zero, by magnitude.
    Percentage,
}

/// One `stat_series_profile`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: String,
    algorithm: Algorithm,
    group: String,
    slot: Duration,
    slots: usize,
    factor: i64,
}

impl Profile {
    /// Reads `name: attribute=value ...`.
    ///
    /// # Errors
    /// What is wrong with it and what is expected.
    pub(super) fn parse(line: &str) -> Result<Profile, String> {
        let (name, attributes) = line.split_once(':').unwrap_or((line, ""));
        let name = name.trim();
        if name.is_empty() {
            return Err("a profile begins with its name and a colon, e.g. \"avg: algorithm=average\"".into());
        }
        let (mut algorithm, mut group, mut window, mut slots, mut factor) =
            (Algorithm::Accumulate, name.to_owned(), 60, None, 100);
        for attribute in attributes.split_whitespace() {
            let Some((key, value)) = attribute.split_once('=') else {
                return Err(format!("'{attribute}' is no attribute=value"));
            };
            match key {
                "algorithm" => {
                    algorithm = match value {
                        "accumulate" => Algorithm::Accumulate,
                        "average" => Algorithm::Average,
                        "percentage" => Algorithm::Percentage,
                        _ => return Err(format!("algorithm '{value}' is none of accumulate, average, percentage")),
                    }
                }
                "group" => value.clone_into(&mut group),
                "window" => window = number(key, value)?,
                "slots" => slots = Some(number(key, value)?),
                "percentage_factor" => factor = i64::try_from(number(key, value)?).unwrap_or(i64::MAX),
                // The size of a table that grows by itself here.
                "hash_size" => {
                    number(key, value)?;
                }
                _ => {
                    return Err(format!(
                        "unknown attribute '{key}'; there are algorithm, group, window, slots, percentage_factor, hash_size"
                    ));
                }
            }
        }
        let slots = slots.unwrap_or(window);
        if slots > SLOTS_MAX || slots > window {
            return Err(format!("{slots} slots: a window of {window} s has at most {}", window.min(SLOTS_MAX)));
        }
        let slot = Duration::from_secs(window) / u32::try_from(slots).unwrap_or(u32::MAX);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Ok(Profile { name: name.to_owned(), algorithm, group, slot, slots, factor })
    }
}

fn number(key: &str, value: &str) -> Result<u64, String> {
    value.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{key} '{value}' is no number above 0"))
}

/// What came in during one slot.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Number of the slot since the series began; tells a value of this window from one of an earlier.
    number: u64,
    /// Values above zero.
    above: i64,
    /// Values below zero.
    below: i64,
    count: i64,
}

struct Series {
    begin: Instant,
    profile: Arc<Profile>,
    ring: Mutex<Vec<Slot>>,
}

impl Series {
    fn new(profile: Arc<Profile>, now: Instant) -> Series {
        Series { begin: now, profile, ring: Mutex::default() }
    }

    fn slot_of(&self, at: Instant) -> u64 {
        let slots = at.saturating_duration_since(self.begin).as_nanos() / self.profile.slot.as_nanos().max(1);
        u64::try_from(slots).unwrap_or(u64::MAX)
    }

    fn add(&self, value: i64, now: Instant) {
        let number = self.slot_of(now);
        let mut ring = self.ring.lock();
        let at = usize::try_from(number % self.profile.slots.max(1) as u64).unwrap_or(0);
        if ring.len() <= at {
            ring.resize(at + 1, Slot::default());
        }
        let Some(slot) = ring.get_mut(at) else { return };
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot.count += 1;
        if value >= 0 {
            slot.above = slot.above.saturating_add(value);
        } else {
            slot.below = slot.below.saturating_add(value);
        }
    }

    fn value(&self, now: Instant) -> i64 {
        let now = self.slot_of(now);
        let (mut above, mut below, mut count) = (0_i64, 0_i64, 0_i64);
        for slot in self.ring.lock().iter() {
            if now.saturating_sub(slot.number) < self.profile.slots as u64 {
                above = above.saturating_add(slot.above);
                below = below.saturating_add(slot.below);
                count += slot.count;
            }
        }
        let sum = above.saturating_add(below);
        match self.profile.algorithm {
            Algorithm::Accumulate => sum,
            Algorithm::Average => sum.checked_div(count).unwrap_or(0),
            Algorithm::Percentage => {
                let all = above.saturating_sub(below);
                above.saturating_mul(self.profile.factor).checked_div(all).unwrap_or(0)
            }
        }
    }
}

/// All profiles, and the series made with them.
#[derive(Default)]
pub(super) struct AllSeries {
    profiles: HashMap<String, Arc<Profile>>,
    known: RwLock<HashMap<(String, String), Arc<Series>>>,
}

impl AllSeries {
    /// With one more profile; false when there is one of that name.
    pub(super) fn add_profile(&mut self, profile: Profile) -> bool {
        self.profiles.insert(profile.name.clone(), Arc::new(profile)).is_none()
    }

    /// Adds a value to a series, made when there is none.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn update(&self, node: NodeRef, profile: &str, name: &str, value: i64) -> Result<(), String> {
        let Some(profile) = self.profiles.get(profile) else {
            return Err(format!("no stat_series_profile '{profile}'"));
        };
        let (group, short) = name.split_once(':').unwrap_or((&profile.group, name));
        let key = (group.to_owned(), short.to_owned());
        let now = clock::now();
        if let Some(series) = self.known.read().get(&key) {
            series.add(value, now);
            return Ok(());
        }
        let mut known = self.known.write();
        if known.len() >= SERIES_MAX && !known.contains_key(&key) {
            return Err(format!("there are {SERIES_MAX} series already"));
        }
        let series = known.entry(key).or_insert_with(|| {
            let series = Arc::new(Series::new(profile.clone(), now));
            let shown = series.clone();
            node.stats.computed(group, short, move || shown.value(clock::now()));
            series
        });
        series.add(value, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn profiles_are_read_with_their_defaults() {
        let profile = Profile::parse("avg_10m: algorithm=average window=600 slots=10").unwrap();
        assert_eq!(profile.group, "avg_10m");
        assert_eq!((profile.slot, profile.slots), (Duration::from_secs(60), 10));
        assert_eq!(Profile::parse("sum").unwrap().slots, 60);
    }

    #[test]
    fn mistakes_in_a_profile_say_what_is_expected() {
        for (line, complaint) in [
            (": window=3", "begins with its name"),
            ("a: median", "no attribute=value"),
            ("a: algorithm=median", "none of accumulate"),
            ("a: window=0", "no number above 0"),
            ("a: window=10 slots=11", "at most 10"),
            ("a: windows=10", "unknown attribute 'windows'"),
        ] {
            assert!(Profile::parse(line).unwrap_err().contains(complaint), "{line}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let begin = Instant::now();
        let after = |secs| begin + Duration::from_secs(secs);
        let series = |line| Series::new(Arc::new(Profile::parse(line).unwrap()), begin);
        let sum = series("sum: window=10");
        sum.add(5, begin);
        sum.add(5, after(9));
        assert_eq!(sum.value(after(9)), 10);
        assert_eq!(sum.value(after(10)), 5);
        sum.add(7, after(10));
        assert_eq!((sum.value(after(18)), sum.value(after(19)), sum.value(after(1000))), (12, 7, 0));

        let average = series("avg: algorithm=average window=60 slots=6");
        assert_eq!(average.value(begin), 0, "nothing yet");
        for (secs, value) in [(0, 1), (9, 4), (18, 4), (67, 10)] {
            average.add(value, after(secs));
        }
        assert_eq!(average.value(after(67)), 7, "the first two are more than a window back");

        let percentage = series("perc: algorithm=percentage percentage_factor=1000");
        for value in [1, -1, 1] {
            percentage.add(value, begin);
        }
        assert_eq!(percentage.value(after(59)), 666);
        assert_eq!(percentage.value(after(60)), 0);
    }
}
