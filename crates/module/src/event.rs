//! Events (`E_...`): raising, event routes, waiting for one by a filter. Transports of events live in modules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use tandem_script::value::{Text, Value};

use crate::context::Context;
use crate::node::NodeRef;

/// Waiting subscriptions one process holds; more are refused.
pub const EVENT_WAITS_MAX: usize = 100_000;

/// A raised event.
#[derive(Clone, Debug)]
pub struct Event {
    /// `E_...`.
    pub name: &'static str,
    /// Parameters in order.
    pub params: SmallVec<[(&'static str, Value); 4]>,
}

impl Event {
    /// The parameter of that name, ignoring case.
    pub fn param(&self, name: &[u8]) -> Option<&Value> {
        self.params.iter().find(|(other, _)| other.as_bytes().eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Conditions on parameters: all must be equal (text form).
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Name and wanted text.
    pub equal: SmallVec<[(Text, Text); 2]>,
    /// Name and shell pattern (`*`, `?`).
    pub patterns: SmallVec<[(Text, Text); 0]>,
}

impl EventFilter {
    /// Adds a condition; `wanted` may be a shell pattern.
    pub fn add(&mut self, name: &[u8], wanted: &[u8]) {
        let pair = (Text::copy(name), Text::copy(wanted));
        if wanted.iter().any(|byte| matches!(byte, b'*' | b'?')) {
            self.patterns.push(pair);
        } else {
            self.equal.push(pair);
        }
    }

    /// Whether `event` fits.
    pub fn matches(&self, event: &Event) -> bool {
        let text = |name: &Text| event.param(name).and_then(Value::as_text);
        self.equal.iter().all(|(name, wanted)| text(name).is_some_and(|text| text == *wanted))
            && self
                .patterns
                .iter()
                .all(|(name, pattern)| text(name).is_some_and(|text| matches_pattern(pattern, &text)))
    }
}

/// Whether `text` fits a shell pattern of `*` and `?`, in linear space and without recursion.
fn matches_pattern(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || text.get(from) == Some(byte) => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, star_from)) => {
                    at = star_at + 1;
                    from = star_from + 1;
                    star = Some((star_at, star_from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// Called with an event; `context` is that of the raiser, when there is one.
pub type EventSink = Arc<dyn Fn(NodeRef, &Arc<Event>, Option<&mut Context>) + Send + Sync>;

type Waiter = Box<dyn FnOnce(Arc<Event>) + Send>;

struct Wait {
    id: u64,
    filter: EventFilter,
    waiter: Waiter,
}

type HeldLookup = Arc<dyn Fn(&EventFilter) -> Option<Arc<Event>> + Send + Sync>;

#[derive(Default)]
struct EventState {
    sinks: RwLock<Vec<(u64, EventSink)>>,
    /// Waits by the first filter value (the tag of a cluster message); those without a filter are under the empty text.
    waits: Mutex<HashMap<Text, Vec<Wait>>>,
    held: RwLock<Option<HeldLookup>>,
}

/// All events of the process.
#[derive(Default)]
pub struct EventBus {
    events: RwLock<HashMap<&'static str, Arc<EventState>>>,
    next_id: AtomicU64,
}

impl EventBus {
    /// Makes an event known.
    pub fn declare(&self, name: &'static str) {
        self.events.write().entry(name).or_default();
    }

    /// Makes an event known whose name was built at run time (`raise_event`); the name is kept for the life of the process.
    pub fn declare_dynamic(&self, name: &str) -> &'static str {
        if let Some(known) = self.name(name.as_bytes()) {
            return known;
        }
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        self.declare(name);
        name
    }

    /// The declared event of that name.
    pub fn name(&self, name: &[u8]) -> Option<&'static str> {
        let name = std::str::from_utf8(name).ok()?;
        self.events.read().get_key_value(name).map(|(name, _)| *name)
    }

    /// All declared events.
    pub fn names(&self) -> Vec<&'static str> {
        self.events.read().keys().copied().collect()
    }

    /// Whether anybody listens or waits; lets a hot path skip building parameters.
    pub fn has_listeners(&self, name: &str) -> bool {
        self.state(name).is_some_and(|state| !state.sinks.read().is_empty() || !state.waits.lock().is_empty())
    }

    /// Adds a permanent listener; the id is for [`EventBus::unlisten`].
    pub fn listen(&self, name: &'static str, sink: EventSink) -> u64 {
        self.declare(name);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(state) = self.state(name) {
            state.sinks.write().push((id, sink));
        }
        id
    }

    /// Removes a listener.
    pub fn unlisten(&self, name: &str, id: u64) {
        if let Some(state) = self.state(name) {
            state.sinks.write().retain(|(other, _)| *other != id);
        }
    }

    /// Sets where to look for events that came before somebody waits for them.
    pub fn set_held(&self, name: &'static str, held: HeldLookup) {
        self.declare(name);
        if let Some(state) = self.state(name) {
            *state.held.write() = Some(held);
        }
    }

    /// Waits for one event that fits. `waiter` runs once, on the raising thread, or at once when such an event is held
    /// already. `None` for an unknown event or when [`EVENT_WAITS_MAX`] waits exist.
    pub fn wait(
        &self,
        name: &str,
        filter: EventFilter,
        waiter: impl FnOnce(Arc<Event>) + Send + 'static,
    ) -> Option<u64> {
        let state = self.state(name)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let key = filter.equal.first().map_or(Text::EMPTY, |(_, wanted)| wanted.clone());
        let mut waits = state.waits.lock();
        // Under the lock of the waits, so that an event raised now either finds the wait or was held before.
        let held = state.held.read().clone();
        if let Some(event) = held.and_then(|held| held(&filter)) {
            drop(waits);
            waiter(event);
            return Some(id);
        }
        if waits.len() >= EVENT_WAITS_MAX {
            return None;
        }
        waits.entry(key).or_default().push(Wait { id, filter, waiter: Box::new(waiter) });
        Some(id)
    }

    /// Ends a wait; its waiter is dropped.
    pub fn cancel_wait(&self, name: &str, filter: &EventFilter, id: u64) {
        let Some(state) = self.state(name) else { return };
        let key = filter.equal.first().map_or(Text::EMPTY, |(_, wanted)| wanted.clone());
        let mut waits = state.waits.lock();
        if let Some(list) = waits.get_mut(&key) {
            list.retain(|wait| wait.id != id);
            if list.is_empty() {
                waits.remove(&key);
            }
        }
    }

    /// Raises an event: waits that fit are woken, listeners called. Returns how many waits were woken.
    pub fn raise(&self, node: NodeRef, event: Event, mut context: Option<&mut Context>) -> usize {
        let Some(state) = self.state(event.name) else { return 0 };
        let event = Arc::new(event);
        let woken = state.take_waits(&event);
        let count = woken.len();
        for wait in woken {
            (wait.waiter)(event.clone());
        }
        let sinks: SmallVec<[EventSink; 2]> = state.sinks.read().iter().map(|(_, sink)| sink.clone()).collect();
        for sink in sinks {
            sink(node, &event, context.as_deref_mut());
        }
        count
    }

    fn state(&self, name: &str) -> Option<Arc<EventState>> {
        self.events.read().get(name).cloned()
    }
}

impl EventState {
    fn take_waits(&self, event: &Arc<Event>) -> SmallVec<[Wait; 1]> {
        let mut woken = SmallVec::new();
        let mut waits = self.waits.lock();
        if waits.is_empty() {
            return woken;
        }
        let keys = event.params.iter().filter_map(|(_, value)| value.as_text()).chain(std::iter::once(Text::EMPTY));
        for key in keys {
            let Some(list) = waits.get_mut(&key) else { continue };
            let mut at = 0;
            while let Some(wait) = list.get(at) {
                if wait.filter.matches(event) {
                    woken.push(list.swap_remove(at));
                } else {
                    at += 1;
                }
            }
            if list.is_empty() {
                waits.remove(&key);
            }
        }
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_patterns_fit_as_a_shell_does() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*@b", "a@b", true),
            ("*@b", "a@c", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches_pattern(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
