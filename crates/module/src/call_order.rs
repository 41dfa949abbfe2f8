//! Order within a call while scripts wait. A function that waits by itself (SQL, Redis) lets its worker go on with other
//! messages; those that follow in the same call from the same sender in the same direction wait behind it, so that no BYE
//! overtakes its ACK and no 200 its 180. `async()` asks for the opposite and holds nobody up.
//!
//! Only requests inside dialogs and replies are kept in order: what begins a call has nothing before it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use tandem_script::ast::RouteKind;
use tandem_sip::Method;

use crate::context::Context;
use crate::node::NodeRef;
use crate::worker::{self, Task};

/// A message waits for its turn no longer than this; then it is worked on whatever is before it.
pub const HELD_FOR_MAX: Duration = Duration::from_secs(10);
/// Messages that wait behind one run; further ones are worked on at once.
pub const HELD_PER_CALL_MAX: usize = 32;
/// Messages that wait in all; further ones are worked on at once.
pub const HELD_MAX: usize = 50_000;

const SHARDS: usize = 16;

/// Which messages are kept in order among each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(u64);

/// One call in one direction in which a script waits.
struct Turn {
    /// Tells this turn from an earlier one of the same call.
    generation: u64,
    /// Runs that wait.
    holders: u32,
    /// A task is on its way that takes up the next message.
    is_draining: bool,
    has_timer: bool,
    waiting: VecDeque<Task>,
}

/// The calls in which scripts wait, and what waits behind them.
pub struct CallOrder {
    hasher: DefaultHashBuilder,
    shards: [Mutex<HashMap<u64, Turn>>; SHARDS],
    turns: AtomicUsize,
    held: AtomicUsize,
    generations: AtomicU64,
}

impl Default for CallOrder {
    fn default() -> CallOrder {
        CallOrder {
            hasher: DefaultHashBuilder::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            turns: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            generations: AtomicU64::new(0),
        }
    }
}

/// While it lives, what follows in the call waits.
pub(crate) struct Hold {
    node: NodeRef,
    key: Key,
    generation: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let order = &self.node.call_order;
        order.with(self.key, self.generation, |turn| {
            turn.holders = turn.holders.saturating_sub(1);
        });
        order.settle(self.node, self.key, self.generation);
    }
}

/// Takes up the next message when the work on one is done, also when that panics.
struct Next {
    node: NodeRef,
    key: Key,
    generation: u64,
}

impl Drop for Next {
    fn drop(&mut self) {
        let order = &self.node.call_order;
        order.with(self.key, self.generation, |turn| turn.is_draining = false);
        order.settle(self.node, self.key, self.generation);
    }
}

impl CallOrder {
    /// How many messages wait for their turn now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Lets a message wait when an earlier one of its call still does; else gives it back, to be worked on now. `later`
    /// makes the work that is done when its turn has come; it is called only for a message that waits.
    ///
    /// # Errors
    /// The message, when nothing is before it (or when a limit is reached: it is never lost).
    pub fn wait_behind(
        &self,
        context: Box<Context>,
        later: impl FnOnce(Box<Context>) -> Task,
    ) -> Result<(), Box<Context>> {
        if self.turns.load(Ordering::Acquire) == 0 {
            return Err(context);
        }
        let node = context.node;
        let Some(key) = self.key(&context) else { return Err(context) };
        let mut shard = self.shard(key).lock();
        let Some(turn) = shard.get_mut(&key.0) else { return Err(context) };
        if turn.waiting.len() >= HELD_PER_CALL_MAX || self.held.load(Ordering::Relaxed) >= HELD_MAX {
            return Err(context);
        }
        turn.waiting.push_back(later(context));
        self.held.fetch_add(1, Ordering::Relaxed);
        let generation = turn.generation;
        let needs_timer = !std::mem::replace(&mut turn.has_timer, true);
        drop(shard);
        if needs_timer && let Some(workers) = node.workers() {
            let at = crate::clock::now() + HELD_FOR_MAX;
            workers.after(worker::current(), at, Box::new(move |_| node.call_order.expire(node, key, generation)));
        }
        Ok(())
    }

    /// What follows in the call of this message waits as long as the result lives; `None` where no order is kept.
    pub(crate) fn hold(context: &Context) -> Option<Hold> {
        let node = context.node;
        let order = &node.call_order;
        let key = order.key(context)?;
        let mut shard = order.shard(key).lock();
        let turn = shard.entry(key.0).or_insert_with(|| {
            order.turns.fetch_add(1, Ordering::Release);
            let generation = order.generations.fetch_add(1, Ordering::Relaxed);
            Turn { generation, holders: 0, is_draining: false, has_timer: false, waiting: VecDeque::new() }
        });
        turn.holders += 1;
        Some(Hold { node, key, generation: turn.generation })
    }

    fn key(&self, context: &Context) -> Option<Key> {
        let message = &context.message;
        let is_request = message.is_request();
        // CANCEL is meant to overtake; routes that no received message started have no sender.
        let is_ordered = match context.kind {
            RouteKind::Request => {
                is_request && message.method() != Method::Cancel && message.to().is_ok_and(|to| to.tag().is_some())
            }
            RouteKind::OnReply => !is_request,
            _ => false,
        };
        let sender: SocketAddr = context.source.src;
        if !is_ordered || sender.port() == 0 {
            return None;
        }
        let call_id = message.call_id().ok()?;
        Some(Key(self.hasher.hash_one((call_id, sender, is_request))))
    }

    fn shard(&self, key: Key) -> &Mutex<HashMap<u64, Turn>> {
        // In range by construction; the fallback keeps this free of panics.
        self.shards.get(key.0 as usize % SHARDS).unwrap_or(&self.shards[0])
    }

    fn with<T>(&self, key: Key, generation: u64, work: impl FnOnce(&mut Turn) -> T) -> Option<T> {
        let mut shard = self.shard(key).lock();
        shard.get_mut(&key.0).filter(|turn| turn.generation == generation).map(work)
    }

    /// Ends the turn when nothing waits in it, or has the next message taken up.
    fn settle(&self, node: NodeRef, key: Key, generation: u64) {
        let mut shard = self.shard(key).lock();
        let Some(turn) = shard.get_mut(&key.0).filter(|turn| turn.generation == generation) else { return };
        if turn.holders > 0 || turn.is_draining {
            return;
        }
        if turn.waiting.is_empty() {
            shard.remove(&key.0);
            self.turns.fetch_sub(1, Ordering::Release);
            return;
        }
        turn.is_draining = true;
        drop(shard);
        // Refused by a full queue: the timer of the turn takes it up.
        if let Some(workers) = node.workers() {
            let next: Task = Box::new(move |now| node.call_order.take_up(node, key, generation, now));
            workers.post(worker::current(), next);
        }
    }

    fn take_up(&self, node: NodeRef, key: Key, generation: u64, now: Instant) {
        let Some(Some(task)) = self.with(key, generation, |turn| turn.waiting.pop_front()) else { return };
        self.held.fetch_sub(1, Ordering::Relaxed);
        let _next = Next { node, key, generation };
        task(now);
    }

    /// They have waited long enough: all are worked on, in their order.
    fn expire(&self, node: NodeRef, key: Key, generation: u64) {
        let mut shard = self.shard(key).lock();
        if shard.get(&key.0).is_none_or(|turn| turn.generation != generation) {
            return;
        }
        let Some(turn) = shard.remove(&key.0) else { return };
        self.turns.fetch_sub(1, Ordering::Release);
        self.held.fetch_sub(turn.waiting.len(), Ordering::Relaxed);
        drop(shard);
        let Some(workers) = node.workers() else { return };
        for task in turn.waiting {
            workers.post(worker::current(), task);
        }
    }
}
