//! Gateways, carriers and rules in memory, and the search for the rule of a number. Read-only once built, but for the
//! states of gateways and carriers.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use chrono::{DateTime, Local};
use hashbrown::HashMap;
use smallvec::SmallVec;
use tandem_module::transport::Proto;
use tandem_script::value::Text;

use crate::cfgutils::time_rec;

/// Longest prefix of a rule, bytes.
pub(super) const PREFIX_MAX: usize = 64;

/// State of a gateway, as the `state` column has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active = 0,
    /// By an operator; probing does not bring it back.
    Disabled = 1,
    /// By the script or by probing.
    Inactive = 2,
}

impl State {
    pub(super) fn from_number(number: i64) -> Option<State> {
        [State::Active, State::Disabled, State::Inactive].into_iter().find(|state| *state as i64 == number)
    }
}

/// When a gateway is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    Never,
    WhenInactive,
    Always,
}

/// A gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: Text,
    pub(super) kind: i32,
    /// `host[:port][;params]`.
    pub(super) address: Text,
    pub(super) is_secure: bool,
    /// Port; the default one of the transport when the address has none.
    pub(super) port: u16,
    pub(super) proto: Proto,
    pub(super) strip: usize,
    pub(super) prefix: Text,
    pub(super) attrs: Text,
    pub(super) probing: Probing,
    /// As the table has it.
    pub(super) socket: Option<Text>,
    pub(super) ips: Vec<IpAddr>,
    /// The first carrier that has it.
    pub(super) carrier: Option<u32>,
    pub(super) state: StateCell,
    pub(super) is_dirty: AtomicBool,
    /// Core hash of the ID: which node of a cluster probes it.
    pub(super) hash: u32,
    pub(super) turn: Turn,
}

/// A state that changes while calls are routed.
#[derive(Debug)]
pub(super) struct StateCell(AtomicU8);

impl From<State> for StateCell {
    fn from(state: State) -> StateCell {
        StateCell(AtomicU8::new(state as u8))
    }
}

/// Whose work the probes of a gateway are, as far as the last look goes.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU8);

impl Turn {
    const OTHERS: u8 = 1;
    const OURS: u8 = 2;
    /// Ours since a moment, and not probed since.
    const TAKEN_OVER: u8 = 3;

    /// Looks again. Whether the gateway came from another node and was not probed here since.
    pub(super) fn look(&self, is_ours: bool) -> bool {
        let next = match (self.0.load(Ordering::Relaxed), is_ours) {
            (_, false) => Turn::OTHERS,
            (Turn::OTHERS | Turn::TAKEN_OVER, true) => Turn::TAKEN_OVER,
            (_, true) => Turn::OURS,
        };
        self.0.store(next, Ordering::Relaxed);
        next == Turn::TAKEN_OVER
    }

    /// It was this gateway's turn.
    pub(super) fn done(&self) {
        self.0.store(Turn::OURS, Ordering::Relaxed);
    }
}

impl Gateway {
    pub(super) fn state(&self) -> State {
        State::from_number(i64::from(self.state.0.load(Ordering::Relaxed))).unwrap_or(State::Active)
    }

    /// Sets the state; true when it was another.
    pub(super) fn set_state(&self, state: State) -> bool {
        self.state.0.swap(state as u8, Ordering::Relaxed) != state as u8
    }

    /// Whether it gets calls.
    pub(super) fn is_active(&self) -> bool {
        self.state() == State::Active
    }

    /// The state for events, in lower case.
    pub(super) fn status(&self) -> &'static str {
        match (self.state(), self.probing) {
            (State::Active, _) => "active",
            (State::Disabled, _) => "disabled MI",
            (State::Inactive, Probing::WhenInactive) => "probing",
            (State::Inactive, _) => "inactive",
        }
    }
}

/// A carrier: gateways and how they are ordered.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) id: Text,
    pub(super) gateways: Vec<(u32, u32)>,
    pub(super) is_weighted: bool,
    /// Only the first usable gateway counts.
    pub(super) is_first_only: bool,
    pub(super) attrs: Text,
    pub(super) is_on: AtomicBool,
    pub(super) is_dirty: AtomicBool,
}

/// An element of a rule's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Gateway(u32),
    Carrier(u32),
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: i64,
    pub(super) priority: i32,
    pub(super) time: Option<Box<str>>,
    pub(super) route: Option<Box<str>>,
    pub(super) attrs: Text,
    pub(super) is_weighted: bool,
    /// Goals with their weights.
    pub(super) goals: Box<[(Goal, u32)]>,
}

impl Rule {
    fn is_valid_at(&self, now: &DateTime<Local>) -> bool {
        self.time.as_deref().is_none_or(|text| time_rec::contains(text, now) == Some(true))
    }
}

/// Rules of one group, by prefix; those of one prefix with the highest priority first.
#[derive(Debug, Default)]
struct Group {
    prefixes: HashMap<Box<[u8]>, SmallVec<[u32; 2]>>,
    longest: usize,
}

/// A place in the search: rules with shorter prefixes, or further ones of this prefix, come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) prefix: usize,
    pub(super) place: usize,
}

impl Position {
    /// Before everything.
    pub(super) const START: Position = Position { prefix: usize::MAX, place: 0 };

    /// Behind what was found there.
    pub(super) fn next(self) -> Position {
        Position { place: self.place + 1, ..self }
    }
}

/// Everything of one partition.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) gateways: Vec<Gateway>,
    pub(super) carriers: Vec<Carrier>,
    pub(super) rules: Vec<Rule>,
    gateway_ids: HashMap<Text, u32>,
    carrier_ids: HashMap<Text, u32>,
    groups: HashMap<i32, Group>,
    by_ip: HashMap<IpAddr, Vec<u32>>,
    /// MD5 of the rows, when asked for.
    pub(super) checksum: Option<String>,
}

impl Tables {
    /// Adds a gateway; false for an ID that there is already.
    pub(super) fn add_gateway(&mut self, gateway: Gateway) -> bool {
        let at = self.gateways.len() as u32;
        if self.gateway_ids.contains_key(&gateway.id) {
            return false;
        }
        self.gateway_ids.insert(gateway.id.clone(), at);
        self.gateways.push(gateway);
        true
    }

    /// Adds addresses of a gateway.
    pub(super) fn add_addresses(&mut self, at: u32, ips: Vec<IpAddr>) {
        for ip in &ips {
            self.by_ip.entry(*ip).or_default().push(at);
        }
        if let Some(gateway) = self.gateways.get_mut(at as usize) {
            gateway.ips.extend(ips);
        }
    }

    /// Adds a carrier; false for an ID that there is already.
    pub(super) fn add_carrier(&mut self, carrier: Carrier) -> bool {
        let at = self.carriers.len() as u32;
        if self.carrier_ids.contains_key(&carrier.id) {
            return false;
        }
        for (gateway, _) in &carrier.gateways {
            if let Some(gateway) = self.gateways.get_mut(*gateway as usize) {
                gateway.carrier.get_or_insert(at);
            }
        }
        self.carrier_ids.insert(carrier.id.clone(), at);
        self.carriers.push(carrier);
        true
    }

    /// Adds a rule to its groups.
    pub(super) fn add_rule(&mut self, rule: Rule, groups: &[i32], prefix: &[u8]) {
        let at = self.rules.len() as u32;
        let priority = rule.priority;
        self.rules.push(rule);
        for id in groups {
            let group = self.groups.entry(*id).or_default();
            group.longest = group.longest.max(prefix.len());
            let list = group.prefixes.entry_ref(prefix).or_default();
            // Behind those of the same priority: the order of the table decides between them.
            let rules = &self.rules;
            let place = list
                .partition_point(|other| rules.get(*other as usize).is_some_and(|other| other.priority >= priority));
            list.insert(place, at);
        }
    }

    pub(super) fn gateway(&self, id: &[u8]) -> Option<(u32, &Gateway)> {
        let at = *self.gateway_ids.get(&Text::copy(id))?;
        self.gateways.get(at as usize).map(|gateway| (at, gateway))
    }

    pub(super) fn carrier(&self, id: &[u8]) -> Option<(u32, &Carrier)> {
        let at = *self.carrier_ids.get(&Text::copy(id))?;
        self.carriers.get(at as usize).map(|carrier| (at, carrier))
    }

    /// Gateways with that address, in the order of the table.
    pub(super) fn gateways_at(&self, ip: IpAddr) -> impl Iterator<Item = &Gateway> {
        self.by_ip.get(&ip).into_iter().flatten().filter_map(|at| self.gateways.get(*at as usize))
    }

    /// Groups that have rules.
    pub(super) fn group_ids(&self) -> impl Iterator<Item = i32> {
        self.groups.keys().copied()
    }

    /// The first rule at or behind `from` that fits now: longest prefix, then highest priority. With `is_whole` the prefix
    /// has to be the number.
    pub(super) fn find(
        &self,
        group: i32,
        number: &[u8],
        from: Position,
        is_whole: bool,
        now: &DateTime<Local>,
    ) -> Option<(Position, &Rule)> {
        let group = self.groups.get(&group)?;
        let longest = if is_whole { number.len() } else { number.len().min(group.longest) }.min(from.prefix);
        let shortest = if is_whole { number.len() } else { 0 };
        if longest > PREFIX_MAX || longest < shortest {
            return None;
        }
        for length in (shortest..=longest).rev() {
            let Some(list) = number.get(..length).and_then(|prefix| group.prefixes.get(prefix)) else { continue };
            let skip = if length == from.prefix { from.place } else { 0 };
            for (place, at) in list.iter().enumerate().skip(skip) {
                if let Some(rule) = self.rules.get(*at as usize).filter(|rule| rule.is_valid_at(now)) {
                    return Some((Position { prefix: length, place }, rule));
                }
            }
        }
        None
    }

    /// The rule at a place that [`Tables::find`] has given.
    pub(super) fn find_at(&self, group: i32, number: &[u8], at: Position) -> Option<&Rule> {
        let list = self.groups.get(&group)?.prefixes.get(number.get(..at.prefix)?)?;
        self.rules.get(*list.get(at.place)? as usize)
    }

    /// Takes over the states of gateways and carriers that there were already.
    pub(super) fn inherit(&self, old: &Tables) {
        for gateway in &self.gateways {
            if let Some((_, old)) = old.gateway(&gateway.id) {
                gateway.set_state(old.state());
                gateway.is_dirty.store(old.is_dirty.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        for carrier in &self.carriers {
            if let Some((_, old)) = old.carrier(&carrier.id) {
                carrier.is_on.store(old.is_on.load(Ordering::Relaxed), Ordering::Relaxed);
                carrier.is_dirty.store(old.is_dirty.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}
