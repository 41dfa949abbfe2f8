//! Holds events against what really happened. Breaks nothing itself.

use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use tandem_cluster::{OverlayDown, OverlayEvent, OverlayNode};

use super::network::{OverlayNet, index_of, node_id};
use super::report::OverlayReport;

/// After a start a node may still hear of the end of its last life.
const SETTLING: Duration = Duration::from_secs(10);
/// Alarms so soon after a disturbance are not put down to loss.
const DISTURBED: Duration = Duration::from_secs(10);
/// A delivery later than this does not count.
pub(super) const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// A failure that others have to learn of.
#[derive(Debug)]
struct Failure {
    index: usize,
    at: Duration,
    has_closed: bool,
    /// Who has to learn of it, and how many of them have not.
    observers: Vec<bool>,
    left: usize,
    last: Duration,
}

/// A message to all that is under way.
#[derive(Debug)]
struct Broadcast {
    at: Duration,
    wanted: Vec<bool>,
    got: Vec<bool>,
}

/// The truth, and what was found so far.
#[derive(Debug)]
pub(super) struct Measure {
    pub(super) report: OverlayReport,
    failures: Vec<Failure>,
    broadcasts: HashMap<Bytes, Broadcast>,
    letters: HashMap<Bytes, (usize, u32)>,
    started_at: Vec<Duration>,
    /// Nothing is expected of nodes on different sides until then.
    separated_until: Duration,
    /// Sides of the last separation.
    sides: Vec<bool>,
    disturbed_at: Option<Duration>,
}

impl Measure {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        Self {
            report: OverlayReport { seed, nodes, ..OverlayReport::default() },
            failures: Vec::new(),
            broadcasts: HashMap::new(),
            letters: HashMap::new(),
            started_at: vec![Duration::ZERO; nodes],
            separated_until: Duration::ZERO,
            sides: vec![false; nodes],
            disturbed_at: None,
        }
    }

    pub(super) fn separated(&mut self, sides: Vec<bool>, until: Duration) {
        self.sides = sides;
        self.separated_until = until;
    }

    pub(super) fn disturbed(&mut self, at: Duration) {
        self.disturbed_at = Some(at);
    }

    /// Whether nothing separates anybody now or did shortly before.
    pub(super) fn is_whole(&self, now: Duration) -> bool {
        now >= self.separated_until
    }

    /// A process is about to be killed.
    pub(super) fn failing(&mut self, net: &OverlayNet, index: usize, has_closed: bool) {
        for failure in &mut self.failures {
            failure.left -= usize::from(take_off(&mut failure.observers, index));
        }
        for broadcast in self.broadcasts.values_mut() {
            take_off(&mut broadcast.wanted, index);
        }
        let knows = |other: usize| {
            other != index && net.node(other).is_some_and(|node: &OverlayNode| node.is_live(node_id(index)))
        };
        let observers: Vec<bool> = (0..net.len()).map(knows).collect();
        let left = observers.iter().filter(|one| **one).count();
        let at = net.elapsed();
        self.failures.push(Failure { index, at, has_closed, observers, left, last: at });
        self.end_failures();
    }

    fn end_failures(&mut self) {
        let report = &mut self.report;
        self.failures.retain(|failure| {
            if failure.left == 0 {
                let spread = if failure.has_closed { &mut report.killed } else { &mut report.vanished };
                spread.push(failure.last.saturating_sub(failure.at));
            }
            failure.left > 0
        });
    }

    /// A process was started again.
    pub(super) fn restarted(&mut self, index: usize, at: Duration) {
        if let Some(started) = self.started_at.get_mut(index) {
            *started = at;
        }
        let before = self.failures.len();
        self.failures.retain(|failure| failure.index != index);
        self.report.unknown_failures += (before - self.failures.len()) as u64;
    }

    pub(super) fn broadcast(&mut self, net: &OverlayNet, from: usize, text: Bytes) {
        let wanted = (0..net.len()).map(|other| {
            let knows = net.node(other).is_some_and(|node| node.is_live(node_id(from)));
            other != from && knows && net.node(from).is_some_and(|node| node.is_live(node_id(other)))
        });
        let (wanted, got) = (wanted.collect(), vec![false; net.len()]);
        self.report.broadcasts += 1;
        self.broadcasts.insert(text, Broadcast { at: net.elapsed(), wanted, got });
    }

    pub(super) fn letter(&mut self, to: usize, text: Bytes) {
        self.report.letters += 1;
        self.letters.insert(text, (to, 0));
    }

    /// Counts what no delivery can change any more.
    pub(super) fn end_broadcasts(&mut self, now: Duration) {
        let report = &mut self.report;
        self.broadcasts.retain(|_, broadcast| {
            let is_over = now.saturating_sub(broadcast.at) > DELIVERY_MAX;
            if is_over {
                let pairs = broadcast.wanted.iter().zip(&broadcast.got).filter(|(wanted, _)| **wanted);
                report.wanted += pairs.clone().count() as u64;
                report.delivered += pairs.filter(|(_, got)| **got).count() as u64;
            }
            !is_over
        });
    }

    /// Takes what the nodes said.
    pub(super) fn take(&mut self, net: &mut OverlayNet) {
        for (at, index, event) in net.take_events() {
            match event {
                OverlayEvent::NodeDown { node, reason } => self.down(net, at, index, index_of(node), reason),
                OverlayEvent::Objected => {
                    // After a separation everybody has to object to what the other side thought.
                    let is_quiet = self.disturbed_at.is_none_or(|then| at.saturating_sub(then) > DISTURBED);
                    self.report.false_alarms += u64::from(self.is_whole(at));
                    self.report.false_alarms_by_loss += u64::from(is_quiet && self.is_whole(at));
                }
                OverlayEvent::Message { msg, is_broadcast: true, .. } => self.got(at, index, &msg),
                OverlayEvent::Message { msg, .. } => {
                    if let Some((to, count)) = self.letters.get_mut(&msg) {
                        *count += 1;
                        self.report.letters_delivered += u64::from(*count == 1 && *to == index);
                        self.report.doubles += u64::from(*count > 1);
                    }
                }
                OverlayEvent::Undelivered { .. } => self.report.letters_undelivered += 1,
                OverlayEvent::NodeUp { .. } | OverlayEvent::Suspected { .. } => {}
            }
        }
        self.end_failures();
    }

    fn got(&mut self, at: Duration, index: usize, msg: &Bytes) {
        let Some(broadcast) = self.broadcasts.get_mut(msg) else { return };
        let Some(got) = broadcast.got.get_mut(index) else { return };
        if std::mem::replace(got, true) {
            self.report.doubles += 1;
        } else if broadcast.wanted.get(index).is_some_and(|wanted| *wanted) {
            self.report.delivery.push(at.saturating_sub(broadcast.at));
        }
    }

    fn down(&mut self, net: &OverlayNet, at: Duration, observer: usize, node: usize, reason: OverlayDown) {
        for failure in self.failures.iter_mut().filter(|failure| failure.index == node) {
            if take_off(&mut failure.observers, observer) {
                failure.left -= 1;
                failure.last = at;
            }
        }
        let is_separated = !self.is_whole(at) && self.sides.get(observer) != self.sides.get(node);
        let started = self.started_at.get(node).copied().unwrap_or_default();
        let lives = net.is_running(node) && at.saturating_sub(started) > SETTLING;
        if lives && !is_separated && reason == OverlayDown::Failed {
            self.report.false_deaths += 1;
        }
    }
}

/// Takes one off; true when it was on.
fn take_off(flags: &mut [bool], index: usize) -> bool {
    flags.get_mut(index).is_some_and(std::mem::take)
}
