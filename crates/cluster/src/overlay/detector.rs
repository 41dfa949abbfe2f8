//! Finds failures: SWIM (Das et al., DSN 2002) on the links, with the additions of Lifeguard (Dadgar et al., 2018).
//!
//! A linked node of which nothing was heard for a while is probed, then probed through others, then suspected. The cluster
//! hears of it, its other neighbours look for themselves, and the more accuse it the shorter it has to object. Only an
//! accuser declares it dead, so a node that missed the objection does no harm.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::limits::{
    ACCUSERS_MAX, ERRAND_WAIT, ERRANDS_MAX, HEALTH_MAX, HELPERS, PROBES_MAX, REMIND, SENTENCE_WAIT, SUSPICION_FALLBACK,
};
use super::members::Member;
use super::wire::{Item, Record, Status};
use super::{OverlayDown, OverlayEvent, OverlayKind, OverlayNode};
use crate::ids::NodeId;

/// A node that is asked whether it is there.
#[derive(Debug)]
struct Probe {
    target: NodeId,
    nonce: u64,
    /// Others try, too.
    is_indirect: bool,
    /// Begun because a connection closed.
    is_closed: bool,
    due: Instant,
    /// Others asked, and how many of them had anything to say.
    asked: u32,
    echoes: u32,
}

/// A probe made for another node.
#[derive(Debug)]
struct Errand {
    asker: NodeId,
    /// The asker's number, and ours.
    nonce: u64,
    own_nonce: u64,
    due: Instant,
}

/// A node that has to object or is dead.
#[derive(Debug)]
struct Suspicion {
    node: NodeId,
    accusers: SmallVec<[NodeId; ACCUSERS_MAX]>,
    since: Instant,
    /// This node is one of the accusers.
    is_own: bool,
    is_closed: bool,
    /// When it is over, and the latest time for that.
    due: Instant,
    latest: Instant,
    /// When the node is told once more.
    remind_at: Option<Instant>,
}

/// Probes and suspicions.
#[derive(Debug, Default)]
pub(super) struct Detector {
    probes: Vec<Probe>,
    errands: Vec<Errand>,
    suspicions: Vec<Suspicion>,
    /// 0 is well; more lengthens the own time-outs (Lifeguard: local health).
    health: u32,
}

impl Detector {
    pub(super) fn due(&self) -> Option<Instant> {
        let probes = self.probes.iter().map(|probe| probe.due);
        let errands = self.errands.iter().map(|errand| errand.due);
        let suspicions = self.suspicions.iter().flat_map(|one| [Some(one.due), one.remind_at]).flatten();
        probes.chain(errands).chain(suspicions).min()
    }

    /// A node is known to be well, or to be gone: nothing is asked of it any more.
    pub(super) fn settle(&mut self, node: NodeId) {
        self.probes.retain(|probe| probe.target != node);
        self.suspicions.retain(|suspicion| suspicion.node != node);
    }

    /// Whether a node was suspected long enough to be believed dead.
    pub(super) fn has_suspected(&self, node: NodeId, now: Instant) -> bool {
        let is_old = |one: &Suspicion| now.saturating_duration_since(one.since) >= SENTENCE_WAIT;
        self.suspicions.iter().any(|one| one.node == node && is_old(one))
    }

    /// Others declared a suspected node dead: it has little time left.
    pub(super) fn sentence(&mut self, node: NodeId, now: Instant) {
        if let Some(suspicion) = self.suspicions.iter_mut().find(|one| one.node == node) {
            suspicion.latest = suspicion.latest.min(now + SENTENCE_WAIT);
            suspicion.due = suspicion.due.min(suspicion.latest);
        }
    }

    pub(super) fn worsen(&mut self) {
        self.health = (self.health + 1).min(HEALTH_MAX);
    }

    /// This node accuses it.
    fn is_accused(&self, node: NodeId) -> bool {
        self.suspicions.iter().any(|one| one.node == node && one.is_own)
    }

    fn is_probing(&self, node: NodeId) -> bool {
        self.probes.iter().any(|probe| probe.target == node)
    }
}

impl OverlayNode {
    /// Something came from a node: it is there.
    pub(super) fn heard(&mut self, src: NodeId, now: Instant) {
        let interval = self.config.timers.probe_interval;
        let before = self.detector.probes.len();
        self.detector.probes.retain(|probe| probe.target != src);
        if self.detector.probes.len() < before {
            self.detector.health = self.detector.health.saturating_sub(1);
        }
        let span = self.jitter(interval);
        if let Some(link) = self.link_mut(src) {
            link.due = now + span;
        }
        let member = self.members.find(src).filter(|member| member.record.status == Status::Suspect);
        if member.is_some() {
            self.remind(src, now);
        }
    }

    /// Tells a node that it is suspected, so that it objects; not more often than needed.
    pub(super) fn remind(&mut self, node: NodeId, now: Instant) {
        let Some(record) = self.members.find(node).map(|member| member.record) else { return };
        let own = self.config.node_id;
        let Some(suspicion) = self.detector.suspicions.iter_mut().find(|one| one.node == node) else { return };
        if suspicion.remind_at.is_some_and(|at| at > now) {
            return;
        }
        suspicion.remind_at = Some(now + REMIND);
        let by = suspicion.accusers.first().copied().unwrap_or(own);
        let nonce = self.rng.next_u64();
        self.send(node, OverlayKind::Probe, &[Item::News(Record { by, ..record }), Item::Ping { nonce }]);
    }

    fn patience(&self, span: Duration) -> Duration {
        span * (1 + self.detector.health)
    }

    pub(super) fn probe(&mut self, target: NodeId, now: Instant) {
        let is_spared = self.detector.is_probing(target) || self.detector.is_accused(target);
        if is_spared || self.detector.probes.len() >= PROBES_MAX {
            return;
        }
        let nonce = self.rng.next_u64();
        let due = now + self.patience(self.config.timers.probe_timeout);
        let (is_indirect, is_closed) = (false, false);
        self.detector.probes.push(Probe { target, nonce, is_indirect, is_closed, due, asked: 0, echoes: 0 });
        self.send(target, OverlayKind::Probe, &[Item::Ping { nonce }]);
    }

    /// Probes a node whose connection closed: others are asked at once.
    pub(super) fn probe_closed(&mut self, target: NodeId, now: Instant) {
        self.probe(target, now);
        let wait = self.patience(self.config.timers.indirect_timeout);
        let Some(probe) = self.detector.probes.iter_mut().find(|probe| probe.target == target) else { return };
        if probe.is_closed {
            return;
        }
        probe.is_closed = true;
        let nonce = probe.nonce;
        if !probe.is_indirect {
            probe.is_indirect = true;
            probe.due = now + wait;
            self.ask_helpers(target, nonce);
        }
    }

    /// Asks some nodes to try one, and tries once more itself.
    fn ask_helpers(&mut self, target: NodeId, nonce: u64) {
        let own = self.config.node_id;
        let mut helpers: SmallVec<[NodeId; HELPERS]> = SmallVec::new();
        for _ in 0..HELPERS {
            let bits = self.rng.next_u64();
            let may_help = |member: &Member| {
                let id = member.id();
                member.record.status == Status::Alive && id != own && id != target && !helpers.contains(&id)
            };
            let Some(helper) = self.members.pick(bits, may_help).map(Member::id) else { break };
            helpers.push(helper);
        }
        self.send(target, OverlayKind::Probe, &[Item::Ping { nonce }]);
        for helper in &helpers {
            self.send(*helper, OverlayKind::Probe, &[Item::PingFor { nonce, target }]);
        }
        if let Some(probe) = self.detector.probes.iter_mut().find(|probe| probe.target == target) {
            probe.asked = u32::try_from(helpers.len()).unwrap_or(0);
        }
    }

    pub(super) fn run_errand(&mut self, asker: NodeId, nonce: u64, target: NodeId, now: Instant) {
        if target == self.config.node_id {
            return self.send(asker, OverlayKind::Probe, &[Item::Ack { nonce }]);
        }
        if self.detector.errands.len() >= ERRANDS_MAX {
            return;
        }
        let own_nonce = self.rng.next_u64();
        self.detector.errands.push(Errand { asker, nonce, own_nonce, due: now + ERRAND_WAIT });
        self.send(target, OverlayKind::Probe, &[Item::Ping { nonce: own_nonce }]);
    }

    pub(super) fn take_ack(&mut self, nonce: u64, now: Instant) {
        if let Some(at) = self.detector.errands.iter().position(|errand| errand.own_nonce == nonce) {
            let errand = self.detector.errands.swap_remove(at);
            self.send(errand.asker, OverlayKind::Probe, &[Item::Ack { nonce: errand.nonce }]);
            return;
        }
        // An answer that came by way of a helper.
        let found = self.detector.probes.iter().find(|probe| probe.nonce == nonce).map(|probe| probe.target);
        if let Some(target) = found {
            self.heard(target, now);
        }
    }

    pub(super) fn take_nack(&mut self, nonce: u64) {
        if let Some(probe) = self.detector.probes.iter_mut().find(|probe| probe.nonce == nonce) {
            probe.echoes += 1;
        }
    }

    /// This process was held up: everybody gets the time again that it lost.
    pub(super) fn detector_stalled(&mut self, now: Instant) {
        let (wait, least) = (self.config.timers.probe_timeout, self.config.timers.suspicion_min);
        for probe in &mut self.detector.probes {
            probe.due = now + wait;
        }
        for suspicion in &mut self.detector.suspicions {
            suspicion.latest = suspicion.latest.max(now + least);
            suspicion.due = suspicion.due.max(now + least);
        }
        self.detector.worsen();
    }

    pub(super) fn run_detector(&mut self, now: Instant) {
        while let Some(errand) = self.detector.errands.iter().position(|errand| errand.due <= now) {
            let errand = self.detector.errands.swap_remove(errand);
            self.send(errand.asker, OverlayKind::Probe, &[Item::Nack { nonce: errand.nonce }]);
        }
        self.run_probes(now);
        self.run_suspicions(now);
        let due: SmallVec<[NodeId; 8]> =
            self.links.iter().filter(|link| link.due <= now).map(|link| link.node).collect();
        for node in due {
            let span = self.jitter(self.config.timers.probe_interval);
            if let Some(link) = self.link_mut(node) {
                link.due = now + span;
            }
            self.probe(node, now);
        }
    }

    fn run_probes(&mut self, now: Instant) {
        let patience = self.patience(self.config.timers.indirect_timeout);
        while let Some(at) = self.detector.probes.iter().position(|probe| probe.due <= now) {
            let Some(probe) = self.detector.probes.get_mut(at) else { return };
            let (target, nonce) = (probe.target, probe.nonce);
            if !probe.is_indirect {
                probe.is_indirect = true;
                probe.due = now + patience;
                self.ask_helpers(target, nonce);
                continue;
            }
            let probe = self.detector.probes.swap_remove(at);
            if probe.asked > 0 && probe.echoes == 0 {
                // Not one of the others said anything: it may be this node that hears nobody.
                self.detector.worsen();
            }
            self.accuse(target, probe.is_closed, now);
        }
    }

    fn accuse(&mut self, target: NodeId, is_closed: bool, now: Instant) {
        let Some(record) = self.members.find(target).filter(|member| member.is_live()).map(|member| member.record)
        else {
            return;
        };
        self.event(OverlayEvent::Suspected { node: target });
        let record = Record { status: Status::Suspect, by: self.config.node_id, ..record };
        self.suspect(&record, is_closed, self.config.node_id, now);
        self.remind(target, now);
    }

    /// Notes an accusation of a live node, tells it on when it is new, and looks for itself when the node is linked.
    pub(super) fn suspect(&mut self, record: &Record, is_closed: bool, from: NodeId, now: Instant) {
        let (node, by, own) = (record.node, record.by, self.config.node_id);
        let at = self.detector.suspicions.iter().position(|one| one.node == node).unwrap_or_else(|| {
            let accusers = SmallVec::new();
            let latest = now + SUSPICION_FALLBACK;
            let (is_own, is_closed, remind_at) = (false, false, None);
            let new = Suspicion { node, accusers, since: now, is_own, is_closed, due: latest, latest, remind_at };
            self.detector.suspicions.push(new);
            self.detector.suspicions.len() - 1
        });
        let Some(suspicion) = self.detector.suspicions.get_mut(at) else { return };
        let is_known = suspicion.accusers.contains(&by);
        let is_news = !is_known && suspicion.accusers.len() < ACCUSERS_MAX;
        if is_news {
            suspicion.accusers.push(by);
        }
        suspicion.is_closed |= is_closed;
        suspicion.is_own |= by == own;
        self.set_suspicion_due(at);
        if let Some(member) = self.members.find(node).filter(|member| member.record.status == Status::Alive) {
            self.members.put(Member { record: Record { status: Status::Suspect, ..member.record }, since: now });
        }
        if is_news {
            self.spread(*record, from, now);
        }
        if self.links.iter().any(|link| link.node == node) {
            self.probe(node, now);
        }
    }

    /// Lifeguard: the more accusers, the less time.
    fn set_suspicion_due(&mut self, at: usize) {
        let timers = self.config.timers;
        let health = self.detector.health;
        let Some(suspicion) = self.detector.suspicions.get_mut(at).filter(|one| one.is_own) else { return };
        let least = if suspicion.is_closed { timers.suspicion_closed } else { timers.suspicion_min };
        let most = timers.suspicion_max.max(least);
        let span = match suspicion.accusers.len() {
            0 | 1 => most,
            2 => (least + most) / 2,
            _ => least,
        };
        suspicion.due = (suspicion.since + span * (1 + health)).min(suspicion.latest);
    }

    fn run_suspicions(&mut self, now: Instant) {
        while let Some(suspicion) = self.detector.suspicions.iter().find(|one| one.due <= now) {
            let node = suspicion.node;
            self.detector.settle(node);
            if let Some(record) = self.members.find(node).map(|member| member.record) {
                self.bury(&record, OverlayDown::Failed, self.config.node_id, now);
            }
        }
        let remind = |one: &&Suspicion| one.is_own && one.remind_at.is_some_and(|at| at <= now);
        let due: SmallVec<[NodeId; 8]> = self.detector.suspicions.iter().filter(remind).map(|one| one.node).collect();
        for node in due {
            self.remind(node, now);
        }
        // Those of others are only answered, never repeated.
        for suspicion in self.detector.suspicions.iter_mut().filter(|one| !one.is_own) {
            suspicion.remind_at = suspicion.remind_at.filter(|at| *at > now);
        }
    }
}
