//! Bindings whose UAs are woken by push notifications (RFC 8599): found by their id, waited for, and told of before they
//! expire. Who is woken and when is the business of module `registrar`; how, that of the script.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_location::{Aor, Binding, ContactId, binding_flags};

/// Requests of one table that may wait for a UA to register at the same time; more are not held.
pub(crate) const WAITS_MAX: usize = 100_000;

type Waiter = Box<dyn FnOnce(&Arc<Binding>) + Send>;

struct Known {
    aor: Aor,
    expires_at: i64,
}

#[derive(Default)]
struct State {
    known: HashMap<ContactId, Known>,
    /// Bindings that may have to be refreshed, by the moment they expire; each once until it is registered again.
    due: BTreeSet<(i64, ContactId)>,
    waits: HashMap<ContactId, Vec<(u64, Waiter)>>,
    waits_count: usize,
    next_wait: u64,
}

/// The bindings of one table that carry [`binding_flags::PUSH_NOTIFICATION`].
#[derive(Default)]
pub(crate) struct PushIndex {
    state: Mutex<State>,
    /// Number of bindings known: tables without any pay nothing.
    count: AtomicUsize,
}

impl PushIndex {
    /// A binding is new, or has been registered again.
    pub(super) fn note(&self, aor: &Aor, binding: &Arc<Binding>) {
        let id = binding.contact_id();
        if binding.flags() & binding_flags::PUSH_NOTIFICATION == 0 {
            return self.forget(id);
        }
        let woken = {
            let mut state = self.state.lock();
            let State { known, due, waits, waits_count, .. } = &mut *state;
            let expires_at = binding.expires_at();
            if let Some(old) = known.insert(id, Known { aor: aor.clone(), expires_at }) {
                due.remove(&(old.expires_at, id));
            }
            // A permanent binding is never due.
            if expires_at != 0 {
                due.insert((expires_at, id));
            }
            self.count.store(known.len(), Ordering::Release);
            let woken = waits.remove(&id).unwrap_or_default();
            *waits_count = waits_count.saturating_sub(woken.len());
            woken
        };
        for (_, waiter) in woken {
            waiter(binding);
        }
    }

    /// A binding is gone.
    pub(super) fn forget(&self, id: ContactId) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        if let Some(old) = state.known.remove(&id) {
            state.due.remove(&(old.expires_at, id));
            self.count.store(state.known.len(), Ordering::Release);
        }
    }

    /// The address of record of a binding.
    pub(crate) fn aor(&self, id: ContactId) -> Option<Aor> {
        self.state.lock().known.get(&id).map(|known| known.aor.clone())
    }

    /// Calls `waiter` once, when the UA of that binding registers; [`PushIndex::cancel`] it when its time is over. `None`
    /// when [`WAITS_MAX`] wait already.
    pub(crate) fn wait(&self, id: ContactId, waiter: impl FnOnce(&Arc<Binding>) + Send + 'static) -> Option<u64> {
        let mut state = self.state.lock();
        if state.waits_count >= WAITS_MAX {
            return None;
        }
        state.waits_count += 1;
        state.next_wait += 1;
        let number = state.next_wait;
        state.waits.entry(id).or_default().push((number, Box::new(waiter)));
        Some(number)
    }

    /// Ends a wait; nothing happens when it is over already.
    pub(crate) fn cancel(&self, id: ContactId, number: u64) {
        let mut state = self.state.lock();
        let State { waits, waits_count, .. } = &mut *state;
        let Some(list) = waits.get_mut(&id) else { return };
        let before = list.len();
        list.retain(|(own, _)| *own != number);
        *waits_count = waits_count.saturating_sub(before - list.len());
        if list.is_empty() {
            waits.remove(&id);
        }
    }

    /// Takes up to `count_max` bindings that expire until `unix_secs`; each comes once.
    pub(super) fn take_due(&self, unix_secs: i64, count_max: usize) -> Vec<(Aor, ContactId)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let State { known, due, .. } = &mut *state;
        let mut taken = Vec::new();
        while taken.len() < count_max
            && let Some((at, id)) = due.first().copied().filter(|(at, _)| *at <= unix_secs)
        {
            due.remove(&(at, id));
            taken.extend(known.get(&id).map(|known| (known.aor.clone(), id)));
        }
        taken
    }
}
