//! Sets of relays: the definitions of the script or of a table, which relay a call uses, and which are to be left alone.
//! It sends nothing; time is told by the caller.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::address::{Address, AddressError};
use crate::control::{ControlClient, Framing};

/// Relays a process knows at most; more are refused.
pub const NODES_MAX: usize = 1024;
/// Greatest weight.
pub const WEIGHT_MAX: u32 = 10_000;

/// A relay as it is written down: `udp:host:port[|advertised][=weight]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its address as written, by which it is named in commands and events.
    pub url: String,
    /// The address.
    pub address: Address,
    /// Address to show to peers instead of the one the relay answers with.
    pub advertised: Option<String>,
    /// Share of the calls.
    pub weight: u32,
}

/// What is wrong with the definition of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// An address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The number in front of `==`.
    #[error("'{0}' is no number of a set")]
    BadSet(String),
    /// The weight behind `=`.
    #[error("'{0}' is no weight from 0 to 10000")]
    BadWeight(String),
    /// No relay is named.
    #[error("the set is empty")]
    Empty,
    /// [`NODES_MAX`].
    #[error("more than 1024 relays")]
    TooMany,
}

/// Reads `[set ==] relay relay ...`.
///
/// # Errors
/// See [`SetError`].
pub fn parse_set(text: &str) -> Result<(Option<i32>, Vec<NodeSpec>), SetError> {
    let (set, list) = match text.split_once("==") {
        Some((set, list)) => {
            let set = set.trim();
            (Some(set.parse().map_err(|_| SetError::BadSet(set.to_owned()))?), list)
        }
        None => (None, text),
    };
    let nodes: Result<Vec<NodeSpec>, SetError> = list.split_whitespace().map(parse_node).collect();
    let nodes = nodes?;
    if nodes.is_empty() { Err(SetError::Empty) } else { Ok((set, nodes)) }
}

fn parse_node(word: &str) -> Result<NodeSpec, SetError> {
    let (word, weight) = match word.rsplit_once('=') {
        Some((word, weight)) => {
            let number = weight.parse().ok().filter(|weight| *weight <= WEIGHT_MAX);
            (word, number.ok_or_else(|| SetError::BadWeight(weight.to_owned()))?)
        }
        None => (word, 1),
    };
    let (url, advertised) = match word.split_once('|') {
        Some((url, advertised)) => (url, Some(advertised.to_owned()).filter(|text| !text.is_empty())),
        None => (word, None),
    };
    Ok(NodeSpec { url: url.to_owned(), address: Address::parse(url)?, advertised, weight })
}

/// Whether a relay is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Yes.
    Active,
    /// It did not answer; it is asked again at that moment.
    Down(Instant),
    /// An operator took it out.
    Off,
}

/// A relay.
pub struct MediaNode {
    /// Its definition.
    pub spec: NodeSpec,
    /// Number of its set.
    pub set: i32,
    /// How to ask it.
    pub client: ControlClient,
    index: AtomicU32,
    state: Mutex<NodeState>,
    last_answer: Mutex<Option<Instant>>,
}

impl MediaNode {
    /// Number of the relay in the order of definition, counted over all sets.
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    /// Whether it is used.
    pub fn state(&self) -> NodeState {
        *self.state.lock()
    }

    /// Whether calls may use it.
    pub fn is_active(&self) -> bool {
        self.state() == NodeState::Active
    }

    /// It did not answer: left alone until `now + pause`. True when that is news.
    pub fn mark_down(&self, now: Instant, pause: Duration) -> bool {
        let mut state = self.state.lock();
        let was_active = *state == NodeState::Active;
        if *state != NodeState::Off {
            *state = NodeState::Down(now + pause);
        }
        was_active
    }

    /// It answered. True when that is news; a relay an operator took out stays out.
    pub fn mark_active(&self, now: Instant) -> bool {
        *self.last_answer.lock() = Some(now);
        let mut state = self.state.lock();
        let is_news = matches!(*state, NodeState::Down(_));
        if is_news {
            *state = NodeState::Active;
        }
        is_news
    }

    /// An operator decides. True when it was active before and is not any more, or the other way round.
    pub fn set_state(&self, to: NodeState) -> bool {
        let mut state = self.state.lock();
        let was_active = *state == NodeState::Active;
        *state = to;
        was_active != (to == NodeState::Active)
    }

    /// Whether it is time to ask a relay again that did not answer.
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.state(), NodeState::Down(at) if at <= now)
    }

    /// Whether it has answered anything since `since`.
    pub fn has_answered_since(&self, since: Instant) -> bool {
        self.last_answer.lock().is_some_and(|at| at >= since)
    }
}

/// All sets of a module.
pub struct Sets {
    framing: Framing,
    nodes: RwLock<BTreeMap<i32, Vec<Arc<MediaNode>>>>,
}

impl Sets {
    /// No sets yet.
    pub fn new(framing: Framing) -> Sets {
        Sets { framing, nodes: RwLock::default() }
    }

    /// Puts these definitions in place of all others. With `keeps_state`, relays that were there before stay as they
    /// are (MI `reload` with `soft`).
    ///
    /// # Errors
    /// [`SetError::TooMany`]; nothing is changed then.
    pub fn replace(
        &self,
        specs: &[(i32, NodeSpec)],
        handle: &tokio::runtime::Handle,
        keeps_state: bool,
    ) -> Result<(), SetError> {
        if specs.len() > NODES_MAX {
            return Err(SetError::TooMany);
        }
        let mut made: BTreeMap<i32, Vec<Arc<MediaNode>>> = BTreeMap::new();
        let mut sets = self.nodes.write();
        for (index, (set, spec)) in specs.iter().enumerate() {
            let own = made.entry(*set).or_default();
            // One that is written down twice stays two.
            let is_free = |node: &&Arc<MediaNode>| {
                node.spec == *spec && !own.iter().any(|taken: &Arc<MediaNode>| Arc::ptr_eq(taken, node))
            };
            let known = sets.get(set).filter(|_| keeps_state).and_then(|nodes| nodes.iter().find(is_free)).cloned();
            let node = known.unwrap_or_else(|| {
                Arc::new(MediaNode {
                    spec: spec.clone(),
                    set: *set,
                    index: AtomicU32::default(),
                    client: ControlClient::new(spec.address.clone(), self.framing, handle.clone()),
                    state: Mutex::new(NodeState::Active),
                    last_answer: Mutex::default(),
                })
            });
            node.index.store(index as u32, Ordering::Relaxed);
            own.push(node);
        }
        *sets = made;
        Ok(())
    }

    /// All relays, by set and in the order of their definition.
    pub fn all(&self) -> Vec<Arc<MediaNode>> {
        self.nodes.read().values().flatten().cloned().collect()
    }

    /// Whether there is such a set.
    pub fn has_set(&self, set: i32) -> bool {
        self.nodes.read().contains_key(&set)
    }

    /// The relay of that name in a set.
    pub fn named(&self, set: i32, url: &str) -> Option<Arc<MediaNode>> {
        self.nodes.read().get(&set)?.iter().find(|node| node.spec.url == url).cloned()
    }

    /// The relay a call would have if all were usable.
    pub fn first_choice(&self, set: i32, key: &[u8]) -> Option<Arc<MediaNode>> {
        let sets = self.nodes.read();
        let all = sets.get(&set)?.iter().filter(|node| node.spec.weight > 0);
        all.max_by(|a, b| score(a, key).total_cmp(&score(b, key))).cloned()
    }

    /// The relay for a call: always the same for the same key while the relay is usable, and in proportion to the
    /// weights. Relays in `tried` are passed over.
    pub fn select(&self, set: i32, key: &[u8], tried: &[Arc<MediaNode>]) -> Option<Arc<MediaNode>> {
        let sets = self.nodes.read();
        let usable = sets.get(&set)?.iter().filter(|node| {
            node.spec.weight > 0 && node.is_active() && !tried.iter().any(|other| Arc::ptr_eq(other, node))
        });
        // Rendezvous hashing: a relay that goes away moves only its own calls.
        usable.max_by(|a, b| score(a, key).total_cmp(&score(b, key))).cloned()
    }
}

fn score(node: &MediaNode, key: &[u8]) -> f64 {
    let mut hasher = DefaultHasher::new();
    node.spec.url.hash(&mut hasher);
    key.hash(&mut hasher);
    let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(node.spec.weight) / uniform.ln()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sets(text: &[&str]) -> (Sets, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sets = Sets::new(Framing::Lines);
        let mut specs = Vec::new();
        for line in text {
            let (set, nodes) = parse_set(line).unwrap();
            specs.extend(nodes.into_iter().map(|node| (set.unwrap_or(0), node)));
        }
        sets.replace(&specs, runtime.handle(), false).unwrap();
        (sets, runtime)
    }

    #[test]
    fn definitions_are_read() {
        let (set, nodes) = parse_set("1 == udp:localhost:22222|8.8.8.8=2 tcp6:[::1]:3 ").unwrap();
        assert_eq!(set, Some(1));
        assert_eq!((nodes[0].url.as_str(), nodes[0].weight), ("udp:localhost:22222", 2));
        assert_eq!(nodes[0].advertised.as_deref(), Some("8.8.8.8"));
        assert_eq!((nodes[1].weight, nodes[1].advertised.as_deref()), (1, None));
        for text in ["", "1 ==", "x == udp:a:1", "udp:a:1=x", "udp:a:1=99999", "nothing:1"] {
            assert!(parse_set(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_soft_reload_keeps_what_is_known_and_counts_anew() {
        let (sets, runtime) = sets(&["udp:a:1 udp:b:1", "2 == udp:c:1"]);
        let down = sets.named(0, "udp:b:1").unwrap();
        down.mark_down(Instant::now(), Duration::from_secs(60));
        let spec = |url: &str| parse_set(url).unwrap().1.remove(0);
        let specs = [(0, spec("udp:new:1")), (0, spec("udp:b:1")), (0, spec("udp:b:1")), (2, spec("udp:c:1"))];
        sets.replace(&specs, runtime.handle(), true).unwrap();
        let shown = || sets.all().iter().map(|node| (node.index(), node.is_active())).collect::<Vec<_>>();
        assert_eq!(shown(), [(0, true), (1, false), (2, true), (3, true)]);
        assert!(Arc::ptr_eq(&down, &sets.all()[1]));
        sets.replace(&specs, runtime.handle(), false).unwrap();
        assert_eq!(shown(), [(0, true), (1, true), (2, true), (3, true)]);
    }

    #[test]
    fn calls_are_spread_by_weight_and_stay_where_they_are() {
        let (sets, _runtime) = sets(&["udp:a:1=3 udp:b:1 udp:c:1=0"]);
        let pick = |call: u32| sets.select(0, &call.to_be_bytes(), &[]).map(|node| node.spec.url.clone());
        let before: Vec<_> = (0..4000).map(|call| pick(call).unwrap()).collect();
        let heavy = before.iter().filter(|url| *url == "udp:a:1").count();
        assert!((2800..3200).contains(&heavy), "{heavy}");
        let now = Instant::now();
        let node = sets.named(0, "udp:b:1").unwrap();
        assert!(node.mark_down(now, Duration::from_secs(60)) && !node.mark_down(now, Duration::from_secs(60)));
        assert!((0..4000).all(|call| pick(call).as_deref() == Some("udp:a:1")));
        assert!(!node.is_due(now) && node.is_due(now + Duration::from_secs(60)));
        assert!(node.mark_active(now));
        assert!((0..4000).map(|call| pick(call).unwrap()).eq(before), "calls come back to their relay");
        node.set_state(NodeState::Off);
        assert!(!node.mark_active(now) && !node.is_active());
        let tried = sets.all();
        assert!(sets.select(0, b"x", &tried).is_none() && sets.select(7, b"x", &[]).is_none());
    }
}
