//! Which keys of the shared collections changed lately, when and by whom: a sync that broke off goes on without losing a
//! change, a node that missed changes is told those only, and what was changed here meanwhile is not undone by it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashMap, HashSet};

use crate::clusterer::NodeId;

/// Keys remembered; who missed more gets everything.
pub(super) const CHANGES_MAX: usize = 65_536;
/// Bytes of keys remembered; same effect as [`CHANGES_MAX`].
pub(super) const CHANGES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A key and the position of its collection.
pub(super) type Place = (usize, Box<[u8]>);

struct Change {
    at: Instant,
    by: NodeId,
    place: Place,
}

/// The latest changes, oldest first.
pub(super) struct Changes {
    /// Names this record of changes: a cursor of another one is of no use.
    pub(super) id: u64,
    /// Number of the oldest.
    first: u64,
    list: VecDeque<Change>,
    bytes: usize,
    /// When the latest of those forgotten happened.
    forgotten: Option<Instant>,
    /// While a repair of another node's changes is being received.
    guard: Option<Guard>,
}

impl Default for Changes {
    fn default() -> Changes {
        let id = rand::random();
        Changes { id, first: 0, list: VecDeque::new(), bytes: 0, forgotten: None, guard: None }
    }
}

/// Two changes of a key less apart were at once: the clocks of two nodes are compared over the network.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What a repair must not touch, and what it brought.
pub(super) struct Guard {
    pub(super) donor: NodeId,
    own: NodeId,
    /// All that the donor has comes, not only what it changed.
    is_whole: bool,
    /// It is known what changed here since the first change that was missed.
    is_known: bool,
    /// Changed here since then, but not by the donor: when last, and by whom.
    changed: HashMap<Place, (Instant, NodeId)>,
    /// Changed here by this node since the repair began: newer than what it brings.
    newer: HashSet<Place>,
    /// What the repair brought, as hashes: two of one hash keep a key that should go.
    brought: HashSet<u64>,
    hasher: DefaultHashBuilder,
}

impl Guard {
    pub(super) fn set_whole(&mut self) {
        self.is_whole = true;
    }

    /// Whether what the donor has for the key is to be taken, which it changed at that moment if it knows.
    pub(super) fn takes(&mut self, place: &Place, at: Option<Instant>) -> bool {
        self.brought.insert(self.hash(place));
        if self.newer.contains(place) {
            return false;
        }
        let Some((here, by)) = self.changed.get(place) else { return true };
        // Without a moment it may be what the donor has of others, older than what is here.
        let Some(there) = at else { return false };
        let apart = there.max(*here) - there.min(*here);
        // Of two changes at once that of the lower id stands, wherever they meet.
        if apart > AT_ONCE { there > *here } else { self.donor < *by }
    }

    /// Whether keys that were not brought can be taken for removed.
    pub(super) fn can_remove(&self) -> bool {
        self.is_whole && self.is_known
    }

    /// Whether the key exists no more as far as the donor knows.
    pub(super) fn is_removed(&self, place: &Place) -> bool {
        let is_changed = self.newer.contains(place) || self.changed.contains_key(place);
        !is_changed && !self.brought.contains(&self.hash(place))
    }

    fn hash(&self, place: &Place) -> u64 {
        use std::hash::BuildHasher as _;
        self.hasher.hash_one(place)
    }
}

impl Changes {
    /// A key was changed by a node.
    pub(super) fn note(&mut self, at: Instant, by: NodeId, collection: usize, key: &[u8]) {
        while self.list.len() >= CHANGES_MAX || (self.bytes + key.len() > CHANGES_BYTES_MAX && !self.list.is_empty()) {
            if let Some(oldest) = self.list.pop_front() {
                self.first += 1;
                self.bytes -= oldest.place.1.len();
                self.forgotten = Some(oldest.at);
            }
        }
        self.bytes += key.len();
        if let Some(guard) = self.guard.as_mut().filter(|guard| guard.own == by) {
            if guard.newer.len() < CHANGES_MAX {
                guard.newer.insert((collection, key.into()));
            } else {
                guard.is_known = false;
            }
        }
        self.list.push_back(Change { at, by, place: (collection, key.into()) });
    }

    /// The number the next change gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.list.len() as u64
    }

    /// What changed from `number` on; `None` when it is not known any more.
    pub(super) fn from(&self, id: u64, number: u64) -> Option<VecDeque<Place>> {
        if self.id != id || number < self.first || number > self.next() {
            return None;
        }
        let skipped = usize::try_from(number - self.first).ok()?;
        Some(self.list.iter().skip(skipped).map(|change| change.place.clone()).collect())
    }

    fn knows(&self, since: Instant) -> bool {
        self.forgotten.is_none_or(|at| at < since)
    }

    fn since(&self, since: Instant) -> impl Iterator<Item = &Change> {
        self.list.iter().rev().take_while(move |change| change.at >= since)
    }

    /// Keys that the node changed since a moment, and when last; `None` when they are not known any more.
    pub(super) fn of(&self, node: NodeId, since: Instant) -> Option<VecDeque<(Place, Instant)>> {
        if !self.knows(since) {
            return None;
        }
        let mut all: HashMap<&Place, Instant> = HashMap::new();
        for change in self.since(since).filter(|change| change.by == node) {
            // The latest comes first.
            all.entry(&change.place).or_insert(change.at);
        }
        Some(all.into_iter().map(|(place, at)| (place.clone(), at)).collect())
    }

    /// A repair of what `donor` changed begins.
    pub(super) fn begin_repair(&mut self, own: NodeId, donor: NodeId, since: Instant) {
        let mut changed = HashMap::new();
        for change in self.since(since).filter(|change| change.by != donor) {
            changed.entry(change.place.clone()).or_insert((change.at, change.by));
        }
        self.guard = Some(Guard {
            donor,
            own,
            is_whole: false,
            is_known: self.knows(since),
            changed,
            newer: HashSet::new(),
            brought: HashSet::new(),
            hasher: DefaultHashBuilder::default(),
        });
    }

    /// The repair that is being received.
    pub(super) fn guard(&mut self) -> Option<&mut Guard> {
        self.guard.as_mut()
    }

    /// No repair goes on any more.
    pub(super) fn end_repair(&mut self) -> Option<Guard> {
        self.guard.take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId(2);
    const OTHER: NodeId = NodeId(3);
    const SEC: Duration = Duration::from_secs(1);

    fn place(key: &[u8]) -> Place {
        (0, key.into())
    }

    #[test]
    fn changes_are_told_by_number_and_by_time_until_they_are_forgotten() {
        let now = Instant::now();
        let mut changes = Changes::default();
        let (id, begin) = (changes.id, changes.next());
        changes.note(now, OWN, 0, b"one");
        changes.note(now + SEC, OTHER, 0, b"two");
        changes.note(now + 2 * SEC, OWN, 0, b"three");
        changes.note(now + 3 * SEC, OWN, 0, b"three");
        assert_eq!(changes.from(id, begin).unwrap().len(), 4);
        assert_eq!(changes.from(id, begin + 3).unwrap().len(), 1);
        assert!(changes.from(id.wrapping_add(1), begin).is_none(), "another record");
        assert_eq!(changes.of(OWN, now + SEC).unwrap(), [(place(b"three"), now + 3 * SEC)]);
        assert_eq!(changes.of(OTHER, now).unwrap(), [(place(b"two"), now + SEC)]);
        for _ in 0..CHANGES_MAX - 2 {
            changes.note(now + 4 * SEC, OWN, 0, b"more");
        }
        assert!(changes.from(id, begin).is_none(), "forgotten");
        assert!(changes.of(OWN, now + SEC).is_none() && changes.of(OWN, now + 2 * SEC).is_some());
        let long = vec![b'k'; CHANGES_BYTES_MAX / 2];
        for _ in 0..3 {
            changes.note(now + 5 * SEC, OWN, 0, &long);
        }
        assert_eq!((changes.list.len(), changes.bytes), (2, CHANGES_BYTES_MAX));
    }

    #[test]
    fn of_two_changes_the_later_stands_or_that_of_the_lower_id_and_what_is_newer_is_kept() {
        let now = Instant::now();
        let mut changes = Changes::default();
        changes.note(now, OWN, 0, b"early");
        changes.note(now + 20 * SEC, OWN, 0, b"both");
        changes.note(now + 20 * SEC, NodeId(7), 0, b"third");
        let mut takes = |donor: i32, key: &[u8], at: Option<u32>| {
            changes.begin_repair(OWN, NodeId(donor), now + SEC);
            changes.note(now + 30 * SEC, OWN, 0, b"newer");
            changes.guard().unwrap().takes(&place(key), at.map(|secs| now + secs * SEC))
        };
        assert!(!takes(3, b"both", Some(20)) && takes(1, b"both", Some(20)), "at once");
        assert!(takes(3, b"both", Some(23)) && !takes(1, b"both", Some(17)), "the later one");
        assert!(takes(3, b"third", Some(20)) && !takes(8, b"third", Some(20)), "of a third node, too");
        assert!(!takes(1, b"newer", Some(25)) && !takes(1, b"newer", Some(30)));
        assert!(takes(3, b"early", None) && takes(3, b"unknown", None) && !takes(1, b"both", None));
    }

    #[test]
    fn only_a_whole_repair_removes_and_never_what_changed_here() {
        let now = Instant::now();
        let mut changes = Changes::default();
        changes.note(now, OWN, 0, b"old");
        changes.note(now + 2 * SEC, NodeId(7), 0, b"third");
        changes.begin_repair(OWN, OTHER, now + SEC);
        let guard = changes.guard().unwrap();
        assert!(!guard.can_remove());
        guard.set_whole();
        assert!(guard.takes(&place(b"there"), None) && guard.can_remove());
        assert!(guard.is_removed(&place(b"old")));
        assert!(!guard.is_removed(&place(b"third")) && !guard.is_removed(&place(b"there")));
    }
}
