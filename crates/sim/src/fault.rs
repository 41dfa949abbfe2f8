//! The faults of random histories: what happens to processes, connections and clocks. Checks nothing.

use std::time::Duration;

use tandem_cluster::SharingTagReason;

use crate::history::CLUSTER;
use crate::network::{Network, ProcessId};
use crate::plan::TAGS;
use crate::rng::SplitMix64;

/// What faults are drawn from.
pub(crate) struct Faults<'a> {
    pub(crate) rng: &'a mut SplitMix64,
    pub(crate) nodes: usize,
    pub(crate) has_extensions: bool,
}

impl Faults<'_> {
    fn pair(&mut self) -> (ProcessId, ProcessId) {
        let a = ProcessId(self.rng.index(self.nodes));
        let b = ProcessId((a.0 + 1 + self.rng.index(self.nodes - 1)) % self.nodes);
        (a, b)
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.rng.below(below))
    }

    /// Does one fault and says what it was.
    pub(crate) fn strike(&mut self, network: &mut Network) -> String {
        match self.rng.below(22) {
            kind @ 0..6 => self.strike_process(network, kind),
            kind @ 6..14 => self.strike_network(network, kind),
            kind => self.strike_more(network, kind),
        }
    }

    fn strike_process(&mut self, network: &mut Network, kind: u64) -> String {
        let a = ProcessId(self.rng.index(self.nodes));
        let one = a.0 + 1;
        match kind {
            0 | 1 => {
                network.kill(a);
                format!("kill {one}")
            }
            2 => {
                network.kill_host(a);
                format!("host of {one} vanishes")
            }
            3 | 4 => {
                let did = network.start(a);
                format!("start {one} ({did})")
            }
            _ => {
                network.kill(a);
                network.start(a);
                format!("restart {one} at once")
            }
        }
    }

    fn strike_network(&mut self, network: &mut Network, kind: u64) -> String {
        let (a, b) = self.pair();
        let (one, other) = (a.0 + 1, b.0 + 1);
        match kind {
            6 | 7 => {
                network.cut(a, b);
                format!("cut {one} - {other}")
            }
            8 => {
                network.cut_one_way(a, b);
                format!("cut {one} -> {other}")
            }
            9 | 10 => {
                network.heal(a, b);
                format!("heal {one} - {other}")
            }
            11 => self.partition(network),
            12 => {
                network.break_connections(a);
                format!("connections of {one} break")
            }
            _ => {
                network.latency = self.millis(200).max(crate::network::LATENCY);
                format!("packets take {:?} to twice that", network.latency)
            }
        }
    }

    fn strike_more(&mut self, network: &mut Network, kind: u64) -> String {
        let a = ProcessId(self.rng.index(self.nodes));
        let (one, twin) = (a.0 + 1, ProcessId(a.0 + self.nodes));
        match kind {
            14 => {
                let by = self.millis(1_500);
                network.slow_down(a, by);
                format!("{one} is slow by {by:?}")
            }
            15 => {
                network.pause(a);
                format!("{one} is stopped")
            }
            16 => {
                network.resume(a);
                format!("{one} goes on")
            }
            17 => {
                // Near and far: late copies and restarts are told apart by times.
                let most = if self.rng.below(2) == 0 { 400 } else { 3_600 };
                let far = i64::try_from(self.rng.below(most)).unwrap_or(0);
                let secs = if self.rng.below(2) == 0 { far } else { -far };
                network.skew_clock(a, secs);
                format!("clock of {one} is wrong by {secs} s")
            }
            18 => {
                network.skew_clock(twin, network.clock_offset(a));
                let did = network.start(twin);
                format!("a second process with id {one} starts ({did})")
            }
            19 => {
                network.kill(twin);
                format!("the second process with id {one} ends")
            }
            // Without epochs the holder of a tag after a partition is whoever speaks last; nothing can be checked.
            _ if self.has_extensions => {
                let reason = SharingTagReason::MiCommand;
                let name = TAGS.get(self.rng.index(TAGS.len())).copied().unwrap_or_default();
                let did = network.with(a, |node, now| node.activate_sharing_tag(CLUSTER, name, reason, now));
                format!("{one} takes {name} ({})", did.is_some())
            }
            _ => "nothing".to_owned(),
        }
    }

    fn partition(&mut self, network: &mut Network) -> String {
        let side = self.rng.next_bits();
        let is_left = |id: ProcessId| side >> (id.0 % 64) & 1 == 0;
        let all: Vec<ProcessId> = (0..self.nodes).map(ProcessId).collect();
        for a in &all {
            for b in all.iter().filter(|b| is_left(*a) != is_left(**b)) {
                network.cut(*a, *b);
            }
        }
        let left: Vec<usize> = all.iter().filter(|id| is_left(**id)).map(|id| id.0 + 1).collect();
        format!("partition: {left:?} and the rest")
    }
}
