//! Locks between script runs. A run that has to wait is suspended; a lock that is not given back within
//! [`HOLD_MAX`] is taken from its holder, because the run that held it may have ended.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::node::NodeRef;
use tandem_module::run::{Pending, Wake, Waker};
use tandem_script::vm::Arg;

use super::State;
use crate::core::table::done;

/// How long a run waits for a lock; then the call fails with -1.
pub(crate) const LOCK_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a lock counts as held.
pub(crate) const HOLD_MAX: Duration = Duration::from_secs(60);

/// Which lock: one of the shared ones, or that of a static key.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Shared(u64),
    Own(Vec<u8>),
}

struct Held {
    since: Instant,
    waiting: VecDeque<(u64, Waker)>,
}

#[derive(Default)]
struct Table {
    held: HashMap<Key, Held>,
    next_ticket: u64,
}

/// All locks.
pub(super) struct Locks {
    table: Mutex<Table>,
    pool: u64,
    hasher: RandomState,
}

impl Locks {
    pub(super) fn new(pool: u64) -> Locks {
        Locks { table: Mutex::default(), pool, hasher: RandomState::new() }
    }

    fn shared(&self, key: &[u8]) -> Key {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        Key::Shared(hasher.finish() & (self.pool - 1))
    }

    /// Takes the lock when it is free.
    fn try_lock(&self, key: &Key) -> Result<(), u64> {
        let mut table = self.table.lock();
        let now = tandem_module::clock::now();
        match table.held.get_mut(key) {
            Some(held) if now.duration_since(held.since) > HOLD_MAX && held.waiting.is_empty() => held.since = now,
            Some(_) => {
                table.next_ticket += 1;
                return Err(table.next_ticket);
            }
            None => {
                table.held.insert(key.clone(), Held { since: now, waiting: VecDeque::new() });
            }
        }
        Ok(())
    }

    /// Queues for the lock, or wakes at once when it has become free.
    fn queue(&self, key: &Key, ticket: u64, waker: Waker) {
        let mut table = self.table.lock();
        match table.held.get_mut(key) {
            Some(held) => held.waiting.push_back((ticket, waker)),
            None => {
                table.held.insert(key.clone(), Held { since: tandem_module::clock::now(), waiting: VecDeque::new() });
                drop(table);
                waker.wake(Box::new(()));
            }
        }
    }

    /// Leaves the queue; false when the lock had been handed over already.
    fn leave(&self, key: &Key, ticket: u64) -> bool {
        let mut table = self.table.lock();
        let Some(held) = table.held.get_mut(key) else { return true };
        let before = held.waiting.len();
        held.waiting.retain(|(other, _)| *other != ticket);
        held.waiting.len() < before
    }

    fn release(&self, key: &Key) {
        let mut table = self.table.lock();
        let Some(held) = table.held.get_mut(key) else { return };
        held.since = tandem_module::clock::now();
        let next = held.waiting.pop_front();
        if next.is_none() {
            table.held.remove(key);
        }
        drop(table);
        if let Some((_, waker)) = next {
            waker.wake(Box::new(()));
        }
    }
}

fn locks(node: NodeRef) -> Option<&'static Locks> {
    node.state::<State>().map(|state| &state.locks)
}

fn lock(context: &mut Context, key: Key) -> Called {
    let Some(locks) = locks(context.node) else { return done(false) };
    let ticket = match locks.try_lock(&key) {
        Ok(()) => return done(true),
        Err(ticket) => ticket,
    };
    let queued = key.clone();
    let start = move |waker: Waker| locks.queue(&queued, ticket, waker);
    Called::Pending(Pending::new(LOCK_WAIT_MAX, start, move |_, wake| match wake {
        Wake::Done(_) => done(true),
        // Handed over while the time ran out: the lock is ours after all.
        Wake::Timeout => done(!locks.leave(&key, ticket)),
    }))
}

fn release(context: &mut Context, key: &Key) -> Called {
    if let Some(locks) = locks(context.node) {
        locks.release(key);
    }
    done(true)
}

fn shared(context: &Context, args: &[Arg], at: usize) -> Option<Key> {
    Some(locks(context.node)?.shared(arg_text(args, at)?))
}

pub(super) fn lock_static(context: &mut Context, args: &[Arg]) -> Called {
    let key = Key::Own(arg_text(args, 0).unwrap_or_default().to_vec());
    lock(context, key)
}

pub(super) fn release_static(context: &mut Context, args: &[Arg]) -> Called {
    let key = Key::Own(arg_text(args, 0).unwrap_or_default().to_vec());
    release(context, &key)
}

pub(super) fn lock_dynamic(context: &mut Context, args: &[Arg]) -> Called {
    match shared(context, args, 0) {
        Some(key) => lock(context, key),
        None => done(false),
    }
}

pub(super) fn release_dynamic(context: &mut Context, args: &[Arg]) -> Called {
    match shared(context, args, 0) {
        Some(key) => release(context, &key),
        None => done(false),
    }
}

pub(super) fn share_lock(context: &mut Context, args: &[Arg]) -> Called {
    let pair = (shared(context, args, 0), shared(context, args, 1));
    done(matches!(pair, (Some(a), Some(b)) if a == b))
}
