//! All bindings of one address of record. It applies changes it is told; the rules are in `register` and `merge`.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::aor::Aor;
use crate::binding::{Binding, CONTACT_LABEL_MASK, ContactId};

/// Hard limit of bindings of one address of record, whatever the policy says; more are refused with
/// `RegisterError::TooManyContacts`.
pub const MAX_CONTACTS_PER_AOR: usize = 1000;

/// Most records have one binding; more go to the heap.
pub(crate) type Bindings = SmallVec<[Arc<Binding>; 1]>;

/// An address of record with its bindings, as closures under the shard's lock see it.
#[derive(Debug, Clone)]
pub struct Record {
    aor: Aor,
    /// Oldest insertion first. May hold expired bindings which `expire` has not met yet.
    pub(crate) bindings: Bindings,
    /// Key-value store of the record as JSON; most have none.
    pub(crate) kv: Option<Box<[u8]>>,
    pub(crate) record_label: u32,
    pub(crate) next_contact_label: u16,
    /// Under which time the expiry index holds this record; `i64::MAX` = not in it.
    pub(crate) scheduled_at: i64,
}

impl Record {
    pub(crate) fn new(aor: Aor, record_label: u32, next_contact_label: u16) -> Self {
        Record {
            aor,
            bindings: Bindings::new(),
            kv: None,
            record_label,
            next_contact_label: next_contact_label & CONTACT_LABEL_MASK,
            scheduled_at: i64::MAX,
        }
    }

    /// The key.
    pub fn aor(&self) -> &Aor {
        &self.aor
    }

    /// All bindings in insertion order, expired ones included until `expire` removes them.
    pub fn bindings(&self) -> &[Arc<Binding>] {
        &self.bindings
    }

    /// The binding with this id on this node.
    pub fn binding(&self, id: ContactId) -> Option<&Arc<Binding>> {
        self.bindings.iter().find(|binding| binding.contact_id() == id)
    }

    /// Label of the record, unique among the records of the same hash slot.
    pub fn record_label(&self) -> u32 {
        self.record_label
    }

    /// Label the next new contact gets.
    pub fn next_contact_label(&self) -> u16 {
        self.next_contact_label
    }

    /// Key-value store of the record as unformatted JSON, empty if there is none.
    pub fn kv(&self) -> &[u8] {
        self.kv.as_deref().unwrap_or_default()
    }

    pub(crate) fn set_kv(&mut self, kv: &[u8]) {
        self.kv = (!kv.is_empty()).then(|| Box::from(kv));
    }

    /// When the first binding expires; `i64::MAX` if all are permanent.
    pub(crate) fn first_expiry(&self) -> i64 {
        first_expiry(&self.bindings)
    }
}

pub(crate) fn first_expiry(bindings: &[Arc<Binding>]) -> i64 {
    bindings.iter().map(|binding| binding.expires_at()).filter(|at| *at != 0).min().unwrap_or(i64::MAX)
}

/// Best first: higher q, then newer, then later in the record (RFC 3261 §16.6 leaves ties open). A binding without q
/// ranks lowest, as in OpenSIPS.
pub(crate) fn sort_for_routing(bindings: &mut [Arc<Binding>]) {
    // Stable sort on a reversed list keeps "later inserted first" for full ties.
    bindings.reverse();
    bindings.sort_by_key(|binding| {
        std::cmp::Reverse((binding.q_thousandths().map_or(-1, i32::from), binding.last_modified()))
    });
}
