//! The figures of a run, as text; measures nothing.

use std::fmt;
use std::time::Duration;

use tandem_cluster::OverlayKind;

/// Times, or other figures, of which the middle and the worst count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread(Vec<Duration>);

impl Spread {
    pub(crate) fn push(&mut self, one: Duration) {
        self.0.push(one);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that `percent` of all do not exceed; zero when there is none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    }

    /// The greatest one.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |at: Duration| at.as_millis();
        let (half, most) = (ms(self.percentile(50)), ms(self.percentile(99)));
        write!(f, "p50 {half} ms, p99 {most} ms, max {} ms of {}", ms(self.max()), self.count())
    }
}

/// What a run found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OverlayReport {
    /// Seed that replays it.
    pub seed: u64,
    /// Processes.
    pub nodes: usize,
    /// Virtual time that was measured.
    pub measured: Duration,
    /// Until all nodes that were started knew all.
    pub joined: Duration,
    /// Per killed process (its connections closed), until the last of all others knew.
    pub killed: Spread,
    /// Per vanished host, likewise.
    pub vanished: Spread,
    /// Failures that not all others knew when the process was started again.
    pub unknown_failures: u64,
    /// A live node was thought dead by one that nothing separated from it.
    pub false_deaths: u64,
    /// Live nodes that had to object to a suspicion, but for those after a separation.
    pub false_alarms: u64,
    /// Of those, while no process was held up, no connection broken and nothing separated shortly before.
    pub false_alarms_by_loss: u64,
    /// Per separation, from its end until all views were the same again.
    pub healed: Spread,
    /// Separations after which that took longer than a minute.
    pub unhealed: u64,
    /// Packets per node and second.
    pub packets_per_second: f64,
    /// Those of each kind.
    pub by_kind: Vec<(OverlayKind, f64)>,
    /// Bytes per node and second.
    pub bytes_per_second: f64,
    /// Most packets one node sent within one second.
    pub busiest_second: u32,
    /// Messages to all that were measured.
    pub broadcasts: u64,
    /// Packets per such message, announcements and repairs included.
    pub packets_per_broadcast: f64,
    /// Receivers that lived all the time, over all such messages.
    pub wanted: u64,
    /// How many of them got it.
    pub delivered: u64,
    /// Messages that came twice.
    pub doubles: u64,
    /// Per received message, from sending to delivery.
    pub delivery: Spread,
    /// Messages to one node; how many arrived, and of how many the sender learned that they did not.
    pub letters: u64,
    /// See [`OverlayReport::letters`].
    pub letters_delivered: u64,
    /// See [`OverlayReport::letters`].
    pub letters_undelivered: u64,
    /// Where views did not equal the truth at the end, some of it.
    pub differences: Vec<String>,
    /// The same for the same history.
    pub fingerprint: u64,
}

impl OverlayReport {
    /// What is not as it has to be; empty when all is well.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let slowest = self.killed.max().max(self.vanished.max());
        let checks = [
            (slowest > Duration::from_secs(3), format!("a failure was known everywhere after {slowest:?} only")),
            (self.unknown_failures > 0, format!("{} failures were not known everywhere", self.unknown_failures)),
            (self.false_deaths > 0, format!("{} false deaths", self.false_deaths)),
            (self.packets_per_second > 30.0, format!("{:.1} packets per node and second", self.packets_per_second)),
            (self.delivered < self.wanted, format!("{} deliveries missing", self.wanted - self.delivered)),
            (self.doubles > 0, format!("{} messages came twice", self.doubles)),
            (self.unhealed > 0, format!("{} separations did not heal", self.unhealed)),
            (!self.differences.is_empty(), format!("at the end {}", self.differences.join(", "))),
        ];
        checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| what).collect()
    }
}

impl fmt::Display for OverlayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = self.delivered as f64 * 100.0 / (self.wanted.max(1)) as f64;
        writeln!(f, "nodes {}, seed {}, {:?} of virtual time", self.nodes, self.seed, self.measured)?;
        writeln!(f, "all know all after the start   {:.1} s", self.joined.as_secs_f64())?;
        writeln!(f, "killed process known by all    {}", self.killed)?;
        writeln!(f, "vanished host known by all     {}", self.vanished)?;
        writeln!(f, "not known by all               {}", self.unknown_failures)?;
        writeln!(f, "false deaths                   {}", self.false_deaths)?;
        writeln!(
            f,
            "false alarms, objected in time {} (by loss alone {})",
            self.false_alarms, self.false_alarms_by_loss
        )?;
        writeln!(f, "views equal after separations  {} ({} never)", self.healed, self.unhealed)?;
        let kinds: Vec<String> = self.by_kind.iter().map(|(kind, rate)| format!("{kind:?} {rate:.2}")).collect();
        writeln!(f, "packets per node and second    {:.2} ({})", self.packets_per_second, kinds.join(", "))?;
        writeln!(f, "bytes per node and second      {:.0}", self.bytes_per_second)?;
        writeln!(f, "busiest node and second        {} packets", self.busiest_second)?;
        writeln!(
            f,
            "packets per broadcast          {:.0} ({} broadcasts)",
            self.packets_per_broadcast, self.broadcasts
        )?;
        writeln!(
            f,
            "delivered                      {share:.4} % of {} ({} missing, {} twice)",
            self.wanted,
            self.wanted - self.delivered,
            self.doubles
        )?;
        writeln!(f, "time to delivery               {}", self.delivery)?;
        writeln!(
            f,
            "messages to one node           {} of {} arrived, {} told as undelivered",
            self.letters_delivered, self.letters, self.letters_undelivered
        )?;
        write!(
            f,
            "views equal the truth at last  {}, fingerprint {:016x}",
            self.differences.is_empty(),
            self.fingerprint
        )
    }
}
