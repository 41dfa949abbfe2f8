//! Overlay nodes, datagrams between them, and the virtual clock. Judges nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{
    ClusterId, NodeId, Now, OverlayConfig, OverlayEvent, OverlayKind, OverlayNode, OverlayOutput, OverlayTimers,
};

use crate::network::UNIX_START;
use crate::queue::Queue;
use crate::rng::SplitMix64;

/// What the network is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayNetSettings {
    /// Of a thousand packets so many are lost.
    pub loss_per_mille: u64,
    /// Least delay of a packet.
    pub delay: Duration,
    /// Up to so much is added to it.
    pub spread: Duration,
    /// Of a thousand packets so many are late, by up to [`OverlayNetSettings::late`], and so overtaken by others.
    pub late_per_mille: u64,
    /// Greatest delay of those.
    pub late: Duration,
    /// Times of the nodes.
    pub timers: OverlayTimers,
}

impl Default for OverlayNetSettings {
    fn default() -> Self {
        Self {
            loss_per_mille: 20,
            delay: Duration::from_millis(1),
            spread: Duration::from_millis(9),
            late_per_mille: 10,
            late: Duration::from_millis(60),
            timers: OverlayTimers::default(),
        }
    }
}

#[derive(Debug)]
enum Step {
    Arrive {
        to: usize,
        from: usize,
        bytes: Bytes,
    },
    Tick {
        at: usize,
        life: u32,
    },
    /// The connection to a process that was killed closes.
    Closed {
        at: usize,
        life: u32,
        peer: usize,
    },
}

#[derive(Debug)]
struct Process {
    node: Option<OverlayNode>,
    contacts: Vec<usize>,
    /// Counts starts, so that what was meant for an earlier one is dropped.
    life: u32,
    /// The earliest tick in the queue.
    tick_at: Option<Duration>,
    held_until: Duration,
    /// Only those on the same side reach each other.
    side: u8,
    sent_this_second: u32,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets sent, lost ones included.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The virtual network.
#[derive(Debug)]
pub struct OverlayNet {
    settings: OverlayNetSettings,
    origin: Instant,
    now: Duration,
    rng: SplitMix64,
    processes: Vec<Process>,
    queue: Queue<Step>,
    traffic: [Traffic; OverlayKind::ALL.len()],
    second: u64,
    busiest: u32,
    events: Vec<(Duration, usize, OverlayEvent)>,
    fingerprint: u64,
}

const CLUSTER: ClusterId = ClusterId(1);
const PORT: u16 = 5555;

/// The id of a process.
#[must_use]
pub fn node_id(index: usize) -> NodeId {
    NodeId(i32::try_from(index + 1).unwrap_or(i32::MAX))
}

/// The process of an id.
#[must_use]
pub fn index_of(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap_or(0).saturating_sub(1)
}

fn addr(index: usize) -> SocketAddr {
    let host = u32::from(Ipv4Addr::new(10, 0, 0, 1)) + u32::try_from(index).unwrap_or(0);
    SocketAddr::new(Ipv4Addr::from(host).into(), PORT)
}

impl OverlayNet {
    /// A network of `nodes` processes that do not run yet. The contact of all is the first one, and its own the second.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, settings: OverlayNetSettings, origin: Instant) -> Self {
        let process = |index: usize| Process {
            node: None,
            contacts: if nodes < 2 { Vec::new() } else { vec![usize::from(index == 0)] },
            life: 0,
            tick_at: None,
            held_until: Duration::ZERO,
            side: 0,
            sent_this_second: 0,
        };
        Self {
            settings,
            origin,
            now: Duration::ZERO,
            rng: SplitMix64::new(seed),
            processes: (0..nodes).map(process).collect(),
            queue: Queue::new(),
            traffic: [Traffic::default(); OverlayKind::ALL.len()],
            second: 0,
            busiest: 0,
            events: Vec::new(),
            fingerprint: 0,
        }
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// How many processes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Whether there is no process.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// The core of a process that runs.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&OverlayNode> {
        self.processes.get(index).and_then(|process| process.node.as_ref())
    }

    /// Whether a process runs.
    #[must_use]
    pub fn is_running(&self, index: usize) -> bool {
        self.node(index).is_some()
    }

    /// Processes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.processes.len()).filter(|index| self.is_running(*index))
    }

    /// Whether nothing separates two processes.
    #[must_use]
    pub fn is_connected(&self, a: usize, b: usize) -> bool {
        let side = |index: usize| self.processes.get(index).map(|process| process.side);
        side(a) == side(b)
    }

    /// Traffic of one kind since the start.
    #[must_use]
    pub fn traffic(&self, kind: OverlayKind) -> Traffic {
        let at = OverlayKind::ALL.iter().position(|known| *known == kind);
        at.and_then(|at| self.traffic.get(at)).copied().unwrap_or_default()
    }

    /// Traffic of all kinds since the start.
    #[must_use]
    pub fn total_traffic(&self) -> Traffic {
        self.traffic.iter().fold(Traffic::default(), |sum, one| Traffic {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
        })
    }

    /// Most packets that one node sent within one second, since this was last called.
    pub fn take_busiest(&mut self) -> u32 {
        std::mem::take(&mut self.busiest)
    }

    /// The same number after the same history.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Takes what happened since the last call: when, at which process, what.
    pub fn take_events(&mut self) -> Vec<(Duration, usize, OverlayEvent)> {
        std::mem::take(&mut self.events)
    }

    fn moment(&self) -> Now {
        let secs = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        Now { mono: self.origin + self.now, unix_secs: UNIX_START + secs }
    }

    /// Runs a command on a core that runs, and does what follows.
    pub fn with<T>(&mut self, index: usize, command: impl FnOnce(&mut OverlayNode, Now) -> T) -> Option<T> {
        let now = self.moment();
        let node = self.processes.get_mut(index)?.node.as_mut()?;
        let result = command(node, now);
        self.drain(index);
        Some(result)
    }

    // ---- faults ----

    /// Starts a process; false when it runs already.
    pub fn start(&mut self, index: usize) -> bool {
        let now = self.moment();
        let rng = SplitMix64::new(self.rng.next_bits());
        let timers = self.settings.timers;
        let Some(process) = self.processes.get_mut(index).filter(|process| process.node.is_none()) else {
            return false;
        };
        let contacts = process.contacts.iter().map(|contact| (node_id(*contact), addr(*contact))).collect();
        let config = OverlayConfig { timers, ..OverlayConfig::new(CLUSTER, node_id(index), addr(index), contacts) };
        let Ok(node) = OverlayNode::new(config, Box::new(rng), now) else { return false };
        process.node = Some(node);
        process.life += 1;
        process.tick_at = None;
        self.drain(index);
        true
    }

    /// The host vanishes: nobody is told.
    pub fn kill_host(&mut self, index: usize) {
        if let Some(process) = self.processes.get_mut(index) {
            process.node = None;
        }
    }

    /// SIGKILL: the connections of its links close.
    pub fn kill(&mut self, index: usize) {
        self.kill_host(index);
        self.close_links(index);
    }

    /// All connections to a process break; the process lives.
    pub fn close_links(&mut self, index: usize) {
        let id = node_id(index);
        let linked: Vec<usize> = self.running().filter(|other| self.is_linked(*other, id)).collect();
        for other in linked {
            let life = self.life(other);
            let at = self.now + self.delay();
            self.schedule(at, Step::Closed { at: other, life, peer: index });
        }
    }

    fn is_linked(&self, index: usize, to: NodeId) -> bool {
        self.node(index).is_some_and(|node| node.linked_nodes().any(|linked| linked == to))
    }

    /// SIGSTOP for a while: everything waits.
    pub fn hold_up(&mut self, index: usize, span: Duration) {
        let until = self.now + span;
        if let Some(process) = self.processes.get_mut(index) {
            process.held_until = process.held_until.max(until);
        }
    }

    /// Puts a process on one side of a separation.
    pub fn set_side(&mut self, index: usize, side: u8) {
        if let Some(process) = self.processes.get_mut(index) {
            process.side = side;
        }
    }

    // ---- the clock ----

    fn life(&self, index: usize) -> u32 {
        self.processes.get(index).map_or(0, |process| process.life)
    }

    fn delay(&mut self) -> Duration {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let mut delay = self.settings.delay + Duration::from_nanos(self.rng.below(nanos(self.settings.spread)));
        if self.rng.below(1_000) < self.settings.late_per_mille {
            delay += Duration::from_nanos(self.rng.below(nanos(self.settings.late)));
        }
        delay
    }

    fn schedule(&mut self, at: Duration, step: Step) {
        self.queue.push(at, step);
    }

    fn count(&mut self, from: usize, kind: OverlayKind, len: usize) {
        let at = OverlayKind::ALL.iter().position(|known| *known == kind);
        if let Some(traffic) = at.and_then(|at| self.traffic.get_mut(at)) {
            traffic.packets += 1;
            traffic.bytes += len as u64;
        }
        let second = self.now.as_secs();
        if second != self.second {
            self.second = second;
            self.processes.iter_mut().for_each(|process| process.sent_this_second = 0);
        }
        if let Some(process) = self.processes.get_mut(from) {
            process.sent_this_second += 1;
            self.busiest = self.busiest.max(process.sent_this_second);
        }
    }

    /// Does what a core wants and plans its next tick.
    fn drain(&mut self, index: usize) {
        while let Some(output) = self.processes.get_mut(index).and_then(|process| process.node.as_mut()?.poll_output())
        {
            match output {
                OverlayOutput::Send { node, kind, bytes, .. } => {
                    self.count(index, kind, bytes.len());
                    if self.rng.below(1_000) >= self.settings.loss_per_mille {
                        let at = self.now + self.delay();
                        self.schedule(at, Step::Arrive { to: index_of(node), from: index, bytes });
                    }
                }
                OverlayOutput::Link { .. } | OverlayOutput::Unlink { .. } => {}
                OverlayOutput::Event(event) => self.events.push((self.now, index, event)),
            }
        }
        let (origin, now) = (self.origin, self.now);
        let Some(process) = self.processes.get_mut(index) else { return };
        let Some(due) = process.node.as_ref().and_then(OverlayNode::poll_timeout) else { return };
        let due = due.saturating_duration_since(origin).max(now);
        // A later deadline is planned when the earlier tick finds nothing to do.
        if process.tick_at.is_none_or(|at| due < at) {
            process.tick_at = Some(due);
            let life = process.life;
            self.schedule(due, Step::Tick { at: index, life });
        }
    }

    fn run_step(&mut self, step: Step) {
        let (index, life) = match &step {
            Step::Arrive { to, from, .. } if !self.is_connected(*to, *from) => return,
            Step::Arrive { to, .. } => (*to, None),
            Step::Tick { at, life } | Step::Closed { at, life, .. } => (*at, Some(*life)),
        };
        let now = self.moment();
        let Some(process) = self.processes.get_mut(index) else { return };
        if life.is_some_and(|life| life != process.life) {
            return;
        }
        if process.held_until > self.now && process.node.is_some() {
            let until = process.held_until;
            return self.schedule(until, step);
        }
        let Some(node) = process.node.as_mut() else { return };
        match step {
            Step::Arrive { from, bytes, .. } => {
                node.handle_packet(addr(from), &bytes, now);
                let mark = (from as u64) << 32 | index as u64;
                self.fingerprint = (self.fingerprint.rotate_left(5) ^ mark ^ bytes.len() as u64)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .wrapping_add(u64::from(self.now.subsec_nanos()));
            }
            Step::Tick { .. } => {
                if process.tick_at.is_some_and(|at| at <= self.now) {
                    process.tick_at = None;
                }
                if node.poll_timeout().is_some_and(|due| due <= now.mono) {
                    node.handle_timeout(now);
                }
            }
            Step::Closed { peer, .. } => node.handle_link_closed(node_id(peer), now),
        }
        self.drain(index);
    }

    /// Runs until that much virtual time has passed since the start.
    pub fn run_until(&mut self, until: Duration) {
        while self.queue.next_at().is_some_and(|at| at <= until) {
            let Some((at, step)) = self.queue.pop() else { break };
            self.now = at;
            self.run_step(step);
        }
        self.now = self.now.max(until);
    }

    /// Runs for so much virtual time.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Where the view of a process is not the truth, at most so many lines.
    #[must_use]
    pub fn differences(&self, most: usize) -> Vec<String> {
        let wrong = self.running().filter_map(|index| self.node(index)).flat_map(|node| {
            let all = (0..self.len()).map(|other| (node_id(other), self.is_running(other)));
            let wrong = all.filter(|(id, runs)| node.is_live(*id) != *runs);
            let line = |(id, runs)| {
                format!("node {} thinks node {id} {}", node.node_id(), if runs { "dead" } else { "alive" })
            };
            wrong.map(line).chain([format!("node {} has view {:x}", node.node_id(), node.view())])
        });
        if self.is_converged() { Vec::new() } else { wrong.take(most).collect() }
    }

    /// Whether all that run think exactly those alive that run.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        let truth: Vec<NodeId> = self.running().map(node_id).collect();
        let view = self.running().next().and_then(|index| self.node(index)).map(OverlayNode::view);
        self.running().filter_map(|index| self.node(index)).enumerate().all(|(at, node)| {
            let is_same = Some(node.view()) == view && node.live_count() == truth.len();
            is_same && (at > 0 || node.live_nodes() == truth)
        })
    }
}
