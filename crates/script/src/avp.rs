//! Attribute-value pairs `$avp(name)`: interned names and the newest-first list of one scope. It knows no scripts.

use hashbrown::HashMap;
use smallvec::SmallVec;
use std::sync::{OnceLock, RwLock};

use crate::value::Value;

/// Distinct AVP names a process accepts; names built at run time beyond it share nothing and are refused.
pub const AVP_NAMES_MAX: usize = 100_000;
/// Values one scope can hold; further pushes are refused.
pub const AVP_VALUES_MAX: usize = 10_000;

/// An interned AVP name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvpName(u32);

struct Names {
    by_name: HashMap<Box<[u8]>, u32>,
    by_id: Vec<Box<[u8]>>,
}

fn names() -> &'static RwLock<Names> {
    static NAMES: OnceLock<RwLock<Names>> = OnceLock::new();
    NAMES.get_or_init(|| RwLock::new(Names { by_name: HashMap::new(), by_id: Vec::new() }))
}

impl AvpName {
    /// The id of `name`, the same over the whole process and over script reloads.
    /// `None` when [`AVP_NAMES_MAX`] names exist already.
    pub fn intern(name: &[u8]) -> Option<AvpName> {
        if let Some(id) = names().read().ok()?.by_name.get(name) {
            return Some(AvpName(*id));
        }
        let mut names = names().write().ok()?;
        if let Some(id) = names.by_name.get(name) {
            return Some(AvpName(*id));
        }
        if names.by_id.len() >= AVP_NAMES_MAX {
            return None;
        }
        let id = names.by_id.len() as u32;
        names.by_id.push(name.into());
        names.by_name.insert(name.into(), id);
        Some(AvpName(id))
    }

    /// The name as text.
    pub fn name(self) -> Vec<u8> {
        names()
            .read()
            .ok()
            .and_then(|names| names.by_id.get(self.0 as usize).map(|name| name.to_vec()))
            .unwrap_or_default()
    }
}

/// The AVPs of one scope (a message or its transaction), newest first per name.
#[derive(Clone, Debug, Default)]
pub struct AvpList {
    /// Oldest first, so that a push is cheap; read from the back.
    entries: SmallVec<[(AvpName, Value); 8]>,
}

impl AvpList {
    /// An empty list.
    pub fn new() -> AvpList {
        AvpList::default()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Pushes a value in front (index 0 becomes it). Stored as `$avp` stores. False when the list is full.
    pub fn push(&mut self, name: AvpName, value: Value) -> bool {
        if self.entries.len() >= AVP_VALUES_MAX {
            return false;
        }
        self.entries.push((name, value.into_stored()));
        true
    }

    /// Adds a value behind all others of that name.
    pub fn append(&mut self, name: AvpName, value: Value) -> bool {
        if self.entries.len() >= AVP_VALUES_MAX {
            return false;
        }
        let at = self.entries.iter().position(|(other, _)| *other == name).unwrap_or(self.entries.len());
        self.entries.insert(at, (name, value.into_stored()));
        true
    }

    /// Value `index` of `name`, 0 the newest, negative from the oldest (-1).
    pub fn value(&self, name: AvpName, index: i32) -> Option<&Value> {
        self.position(name, index).and_then(|at| self.entries.get(at)).map(|(_, value)| value)
    }

    /// All values of `name`, newest first.
    pub fn values(&self, name: AvpName) -> impl Iterator<Item = &Value> {
        self.entries.iter().rev().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// All entries, newest first.
    pub fn iter(&self) -> impl Iterator<Item = (AvpName, &Value)> {
        self.entries.iter().rev().map(|(name, value)| (*name, value))
    }

    /// Replaces value `index`; false when there is no such value.
    pub fn replace(&mut self, name: AvpName, index: i32, value: Value) -> bool {
        let slot = self.position(name, index).and_then(|at| self.entries.get_mut(at));
        let Some((_, slot)) = slot else { return false };
        *slot = value.into_stored();
        true
    }

    /// Removes value `index`; false when there is no such value.
    pub fn remove(&mut self, name: AvpName, index: i32) -> bool {
        let Some(at) = self.position(name, index) else { return false };
        self.entries.remove(at);
        true
    }

    /// Removes all values of `name`.
    pub fn remove_all(&mut self, name: AvpName) {
        self.entries.retain(|(other, _)| *other != name);
    }

    fn position(&self, name: AvpName, index: i32) -> Option<usize> {
        let mut hits = self.entries.iter().enumerate().filter(|(_, (other, _))| *other == name).map(|(at, _)| at);
        if index >= 0 { hits.rev().nth(index as usize) } else { hits.nth(index.unsigned_abs() as usize - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_newest_first_and_negative_from_the_oldest() {
        let Some(name) = AvpName::intern(b"t") else { panic!("no room") };
        let mut list = AvpList::new();
        for int in 1..=3 {
            assert!(list.push(name, Value::Int(int)));
        }
        assert_eq!(list.value(name, 0), Some(&Value::Int(3)));
        assert_eq!(list.value(name, -1), Some(&Value::Int(1)));
        assert_eq!(list.value(name, 3), None);
        assert!(list.append(name, Value::Int(0)));
        assert_eq!(list.value(name, -1), Some(&Value::Int(0)));
        assert!(list.remove(name, 0));
        assert_eq!(list.value(name, 0), Some(&Value::Int(2)));
    }
}
