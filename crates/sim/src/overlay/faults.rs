//! One long run of a large cluster: who is started, killed, separated and held up when, all from the seed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::OverlayKind;

use super::measure::{DELIVERY_MAX, Measure};
use super::network::{OverlayNet, OverlayNetSettings, Traffic, node_id};
use super::report::OverlayReport;
use crate::rng::SplitMix64;

/// What happens in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlaySettings {
    /// Processes.
    pub nodes: usize,
    /// Virtual time that is measured, after all have joined.
    pub span: Duration,
    /// All are started within this.
    pub start_within: Duration,
    /// Mean distance of kills; every second one is a host that vanishes. Zero: none.
    pub kill_every: Duration,
    /// A killed process is started again after this and up to as much more.
    pub restart_after: Duration,
    /// Mean distance of broken connections of a live process. Zero: none.
    pub break_every: Duration,
    /// Mean distance of processes being held up for up to a second. Zero: none.
    pub hold_every: Duration,
    /// Distance of separations of 20 s. Zero: none.
    pub separate_every: Duration,
    /// Distance of messages to all, and of messages to one node. Zero: none.
    pub message_every: Duration,
    /// The network.
    pub net: OverlayNetSettings,
}

impl Default for OverlaySettings {
    fn default() -> Self {
        Self {
            nodes: 1_000,
            span: Duration::from_secs(3_600),
            start_within: Duration::from_secs(10),
            kill_every: Duration::from_secs(10),
            restart_after: Duration::from_secs(15),
            break_every: Duration::from_secs(30),
            hold_every: Duration::from_secs(60),
            separate_every: Duration::from_secs(900),
            message_every: Duration::from_secs(2),
            net: OverlayNetSettings::default(),
        }
    }
}

/// How long a separation lasts, and for how long after it differing views are no fault.
const SEPARATION: Duration = Duration::from_secs(20);
const HEALING: Duration = Duration::from_secs(60);
/// Lines about views that differ at the end.
const DIFFERENCES_MAX: usize = 300;
const STEP: Duration = Duration::from_millis(100);

/// A run that goes on.
#[derive(Debug)]
pub struct OverlayRun {
    settings: OverlaySettings,
    net: OverlayNet,
    rng: SplitMix64,
    measure: Measure,
    /// When what is started again.
    restarts: Vec<(Duration, usize)>,
    kill_at: Duration,
    break_at: Duration,
    hold_at: Duration,
    separate_at: Duration,
    heal_at: Option<Duration>,
    /// A separation ended then and the views are not the same yet.
    healing_since: Option<Duration>,
    message_at: Duration,
    texts: u64,
    end: Duration,
}

impl OverlayRun {
    /// Starts all processes and waits until all know all, at most two minutes.
    #[must_use]
    pub fn new(seed: u64, settings: OverlaySettings, origin: Instant) -> Self {
        let mut net = OverlayNet::new(seed, settings.nodes, settings.net, origin);
        let mut rng = SplitMix64::new(seed ^ 0x5851_f42d_4c95_7f2d);
        let within = u64::try_from(settings.start_within.as_millis()).unwrap_or(0);
        let mut starts: Vec<(u64, usize)> = (1..settings.nodes).map(|index| (rng.below(within), index)).collect();
        starts.push((0, 0));
        starts.sort_unstable();
        for (at, index) in starts {
            net.run_until(Duration::from_millis(at));
            net.start(index);
        }
        net.run_until(settings.start_within);
        while !net.is_converged() && net.elapsed() < settings.start_within + Duration::from_secs(120) {
            net.run_for(STEP);
        }
        let mut measure = Measure::new(seed, settings.nodes);
        measure.report.joined = net.elapsed();
        net.run_for(Duration::from_secs(5));
        let _ = (net.take_events(), net.take_busiest());
        let begin = net.elapsed();
        let mut run = Self {
            end: begin + settings.span,
            kill_at: Duration::MAX,
            break_at: Duration::MAX,
            hold_at: Duration::MAX,
            separate_at: Duration::MAX,
            message_at: Duration::MAX,
            settings,
            net,
            rng,
            measure,
            restarts: Vec::new(),
            heal_at: None,
            healing_since: None,
            texts: 0,
        };
        run.kill_at = run.next(settings.kill_every);
        run.break_at = run.next(settings.break_every);
        run.hold_at = run.next(settings.hold_every);
        if !settings.separate_every.is_zero() {
            run.separate_at = begin + settings.separate_every / 2;
        }
        if !settings.message_every.is_zero() {
            run.message_at = begin;
        }
        run
    }

    /// Half to one and a half of a mean distance from now.
    fn next(&mut self, mean: Duration) -> Duration {
        if mean.is_zero() {
            return Duration::MAX;
        }
        let millis = u64::try_from(mean.as_millis()).unwrap_or(0);
        self.net.elapsed() + mean / 2 + Duration::from_millis(self.rng.below(millis))
    }

    fn pick(&mut self) -> usize {
        loop {
            let index = self.rng.index(self.net.len());
            if self.net.is_running(index) {
                return index;
            }
        }
    }

    fn start_due(&mut self, now: Duration) {
        while let Some(at) = self.restarts.iter().position(|(due, _)| *due <= now) {
            let (_, index) = self.restarts.swap_remove(at);
            self.measure.restarted(index, now);
            self.net.start(index);
        }
    }

    fn kill_due(&mut self, now: Duration) {
        self.kill_at = self.next(self.settings.kill_every);
        let index = self.pick();
        let has_closed = self.rng.below(2) == 0;
        // While views may differ nothing could be measured.
        if !self.measure.is_whole(now) || self.separate_at.saturating_sub(now) < Duration::from_secs(10) {
            return;
        }
        self.measure.failing(&self.net, index, has_closed);
        if has_closed {
            self.net.kill(index);
        } else {
            self.net.kill_host(index);
        }
        let after = self.settings.restart_after;
        let millis = u64::try_from(after.as_millis()).unwrap_or(0);
        let again = now + after + Duration::from_millis(self.rng.below(millis));
        self.restarts.push((again, index));
    }

    fn separate(&mut self, now: Duration) {
        self.separate_at = now + self.settings.separate_every;
        // A tenth or a half.
        let share = if self.rng.below(2) == 0 { 10 } else { 2 };
        let sides: Vec<bool> = (0..self.net.len()).map(|_| self.rng.below(share) == 0).collect();
        for (index, side) in sides.iter().enumerate() {
            self.net.set_side(index, u8::from(*side));
        }
        self.measure.separated(sides, now + SEPARATION + HEALING);
        self.heal_at = Some(now + SEPARATION);
    }

    fn heal_due(&mut self, now: Duration) {
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.healing_since = Some(now);
            (0..self.net.len()).for_each(|index| self.net.set_side(index, 0));
        }
        let Some(since) = self.healing_since else { return };
        if self.net.is_converged() {
            self.measure.report.healed.push(now - since);
            self.healing_since = None;
        } else if now - since > HEALING {
            self.measure.report.unhealed += 1;
            self.healing_since = None;
        }
    }

    fn send_due(&mut self, now: Duration) {
        self.message_at = now + self.settings.message_every;
        if !self.measure.is_whole(now) || self.separate_at.saturating_sub(now) < DELIVERY_MAX {
            return;
        }
        let (from, letter_from, to) = (self.pick(), self.pick(), self.pick());
        self.texts += 1;
        let text = Bytes::from(format!("to all {:08} {}", self.texts, "x".repeat(180)));
        self.measure.broadcast(&self.net, from, text.clone());
        let _ = self.net.with(from, |node, now| node.broadcast(&text, now));
        let text = Bytes::from(format!("to one {:08} {}", self.texts, "x".repeat(180)));
        let is_sent = self.net.with(letter_from, |node, now| node.send_message(node_id(to), &text, now));
        if is_sent.is_some_and(|sent| sent.is_ok()) {
            self.measure.letter(to, text);
        }
    }

    fn step(&mut self) {
        self.net.run_for(STEP);
        let now = self.net.elapsed();
        self.measure.take(&mut self.net);
        self.measure.end_broadcasts(now);
        self.start_due(now);
        self.heal_due(now);
        if self.separate_at <= now {
            self.separate(now);
        }
        if self.kill_at <= now {
            self.kill_due(now);
        }
        if self.break_at <= now {
            self.break_at = self.next(self.settings.break_every);
            let index = self.pick();
            self.measure.disturbed(now);
            self.net.close_links(index);
        }
        if self.hold_at <= now {
            self.hold_at = self.next(self.settings.hold_every);
            let (index, millis) = (self.pick(), self.rng.below(1_000));
            self.measure.disturbed(now);
            self.net.hold_up(index, Duration::from_millis(millis));
        }
        if self.message_at <= now {
            self.send_due(now);
        }
    }

    /// Runs to the end, lets all come to rest, and tells what was found. `progress` is called every virtual minute.
    pub fn finish(mut self, mut progress: impl FnMut(&OverlayNet)) -> OverlayReport {
        let (before, begin) = (self.net.total_traffic(), self.net.elapsed());
        let per_kind = |net: &OverlayNet| OverlayKind::ALL.map(|kind| net.traffic(kind).packets);
        let kinds_before = per_kind(&self.net);
        let mut minute = begin;
        // Running processes change all the time: their number is summed up step by step.
        let mut node_seconds = 0.0;
        while self.net.elapsed() < self.end {
            self.step();
            node_seconds += self.net.running().count() as f64 * STEP.as_secs_f64();
            if self.net.elapsed() >= minute {
                minute += Duration::from_secs(60);
                progress(&self.net);
            }
        }
        let after: Traffic = self.net.total_traffic();
        self.measure.report.packets_per_second = (after.packets - before.packets) as f64 / node_seconds;
        self.measure.report.bytes_per_second = (after.bytes - before.bytes) as f64 / node_seconds;
        self.measure.report.busiest_second = self.net.take_busiest();
        let kinds = per_kind(&self.net).into_iter().zip(kinds_before).map(|(after, before)| (after - before) as f64);
        let kinds: Vec<(OverlayKind, f64)> = OverlayKind::ALL.into_iter().zip(kinds).collect();
        let is_upkeep = |kind: &OverlayKind| [OverlayKind::Data, OverlayKind::Tree].contains(kind);
        let of_tree: f64 = kinds.iter().filter(|(kind, _)| is_upkeep(kind)).map(|(_, packets)| packets).sum();
        let broadcasts = self.measure.report.broadcasts.max(1) as f64;
        self.measure.report.packets_per_broadcast = of_tree / broadcasts;
        self.measure.report.by_kind = kinds.into_iter().map(|(kind, packets)| (kind, packets / node_seconds)).collect();
        self.measure.report.measured = self.net.elapsed() - begin;
        self.come_to_rest();
        self.measure.report
    }

    fn come_to_rest(&mut self) {
        for at in
            [&mut self.kill_at, &mut self.break_at, &mut self.hold_at, &mut self.separate_at, &mut self.message_at]
        {
            *at = Duration::MAX;
        }
        self.heal_at = self.heal_at.map(|_| self.net.elapsed());
        let most = self.net.elapsed() + self.settings.restart_after * 2 + HEALING;
        let least = self.net.elapsed() + DELIVERY_MAX + STEP * 2;
        loop {
            let is_busy = !self.restarts.is_empty() || self.healing_since.is_some() || !self.net.is_converged();
            if self.net.elapsed() >= most || (!is_busy && self.net.elapsed() > least) {
                break;
            }
            self.step();
        }
        self.measure.report.differences = self.net.differences(DIFFERENCES_MAX);
        self.measure.report.fingerprint = self.net.fingerprint();
    }
}

/// Starts a cluster, runs it and tells what was found.
#[must_use]
pub fn run_overlay(
    seed: u64,
    settings: OverlaySettings,
    origin: Instant,
    progress: impl FnMut(&OverlayNet),
) -> OverlayReport {
    OverlayRun::new(seed, settings, origin).finish(progress)
}
