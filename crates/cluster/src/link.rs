//! The state of the direct connection to one node, judged by pings; sends nothing itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::config::Timers;
use crate::ids::ConnId;
use crate::limits::{
    CONNS_PER_NODE_MAX, FLAP_HOLD_MAX, FLAP_WINDOW, FLAPS_FREE, KNOCKS_PER_ASK, LINK_HISTORY_MAX, PING_GAP_MIN,
    PING_REPEATS_MAX, UNKNOWN_ID_STREAK_MAX,
};

/// State of a link (`clusterer`, link states 0 to 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Pings are answered.
    Up,
    /// Given up; knocked at every `ping_interval` and pinged every `node_timeout`.
    Down,
    /// The last ping could not be sent.
    RetrySendFail,
    /// To be pinged at once.
    RestartPinging,
    /// Pinged, waiting for the first pong.
    Restarted,
    /// A pong is missing, pinged again.
    Retrying,
}

impl LinkState {
    /// As the management interface shows it: `Up`, `Down` or `Probe`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "Up",
            Self::Down => "Down",
            _ => "Probe",
        }
    }
}

/// What is due on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a ping; true asks for the node list.
    Ping(bool),
    /// No retries are left.
    GoDown,
    /// Try whether its listener takes a connection.
    Knock,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    entered: Instant,
    last_ping: Option<Instant>,
    is_awaiting_pong: bool,
    /// When the node last pinged this one.
    pinged_by_peer: Option<Instant>,
    /// Pings repeated because their connection was closed: since when, and how many.
    repeated: Option<(Instant, u8)>,
    /// Last packet of this node but pongs, over any hop.
    last_recv: Option<Instant>,
    /// Last packet that came on a connection of the node itself.
    last_direct: Option<Instant>,
    /// When it was last nudged, see [`Link::take_nudge`].
    nudged: Option<Instant>,
    retries_left: i32,
    unknown_id_streak: u32,
    /// Connections the node sends on.
    conns: SmallVec<[ConnId; 2]>,
    /// Last changes, oldest first.
    history: VecDeque<LinkChange>,
    /// Moments at which UP was lost.
    losses: VecDeque<Instant>,
    /// The link has to stay good until then before it counts as up.
    held_until: Option<Instant>,
    /// The last try to connect to a node that is down.
    last_knock: Option<Instant>,
    /// Whether its outcome is not known yet.
    is_knocking: bool,
    /// Tries in a row after which the node had a connection and answered no ping.
    knocks_in_vain: u32,
    /// Tries since the link was up.
    knocks: u32,
}

/// A change of a link that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkChange {
    /// Unix time in seconds.
    pub unix_secs: i64,
    /// State before.
    pub from: LinkState,
    /// State after.
    pub to: LinkState,
}

impl Link {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: LinkState::RestartPinging,
            entered: now,
            last_ping: None,
            is_awaiting_pong: false,
            pinged_by_peer: None,
            repeated: None,
            last_recv: None,
            last_direct: None,
            nudged: None,
            retries_left: 0,
            unknown_id_streak: 0,
            conns: SmallVec::new(),
            history: VecDeque::new(),
            losses: VecDeque::new(),
            held_until: None,
            last_knock: None,
            is_knocking: false,
            knocks_in_vain: 0,
            knocks: 0,
        }
    }

    /// Remembers a change. Losses that no command caused are counted: after a few within [`FLAP_WINDOW`] the link is held
    /// back for a time that doubles with each further one.
    pub(crate) fn note_change(
        &mut self,
        now: Instant,
        unix_secs: i64,
        from: LinkState,
        to: LinkState,
        is_enabled: bool,
    ) {
        if from != LinkState::Up && to != LinkState::Up && to != LinkState::Down {
            return;
        }
        if self.history.len() >= LINK_HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(LinkChange { unix_secs, from, to });
        if from != LinkState::Up || !is_enabled {
            return;
        }
        self.losses.push_back(now);
        let losses = self.recent_losses(now);
        if losses > FLAPS_FREE {
            let doublings = u32::try_from(losses - FLAPS_FREE).unwrap_or(u32::MAX).min(8);
            let hold = Duration::from_secs(1_u64 << doublings).min(FLAP_HOLD_MAX);
            self.held_until = Some(now + hold);
        }
    }

    /// Losses within [`FLAP_WINDOW`].
    pub(crate) fn recent_losses(&mut self, now: Instant) -> usize {
        while self.losses.front().is_some_and(|at| now.saturating_duration_since(*at) > FLAP_WINDOW) {
            self.losses.pop_front();
        }
        self.losses.len()
    }

    /// For how long the link is still held back.
    pub(crate) fn hold_left(&self, now: Instant) -> Option<Duration> {
        self.held_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// The last changes, oldest first.
    pub(crate) fn history(&self) -> impl DoubleEndedIterator<Item = LinkChange> + '_ {
        self.history.iter().copied()
    }

    /// When the state was entered.
    pub(crate) fn entered(&self) -> Instant {
        self.entered
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    /// Down, or tried again after it was down: what is remembered last is then that it went down.
    pub(crate) fn is_lost(&self) -> bool {
        self.state == LinkState::Down || self.history.back().is_some_and(|last| last.to == LinkState::Down)
    }

    /// What comes next and when. Waits are measured from the last ping.
    ///
    /// Deviation: addressed packets sent do not stand in for pings (OpenSIPS 3.4 and later), so a
    /// dead peer is noticed while traffic flows to it; packets that come directly from the peer do.
    pub(crate) fn due(&self, timers: &Timers, retries: i32) -> (Instant, Step) {
        let last = self.last_ping.unwrap_or(self.entered);
        match self.state {
            LinkState::RestartPinging => {
                let gap =
                    if self.unknown_id_streak > UNKNOWN_ID_STREAK_MAX { timers.ping_timeout } else { PING_GAP_MIN };
                let earliest = self.last_ping.map_or(self.entered, |ping| ping + gap);
                (earliest.max(self.entered), Step::Ping(true))
            }
            LinkState::RetrySendFail => (last + timers.ping_timeout, Step::Ping(true)),
            LinkState::Up if self.is_awaiting_pong => {
                let heard = self.last_direct.map_or(last, |direct| direct.max(last));
                let step = if retries <= 0 { Step::GoDown } else { Step::Ping(true) };
                (heard + timers.ping_timeout, step)
            }
            LinkState::Restarted => {
                let step = if retries <= 0 { Step::GoDown } else { Step::Ping(true) };
                (last + timers.ping_timeout, step)
            }
            LinkState::Retrying => {
                let step = if self.retries_left > 0 { Step::Ping(true) } else { Step::GoDown };
                (last + timers.ping_timeout, step)
            }
            LinkState::Up => {
                let heard = self.last_direct.map_or(last, |direct| direct.max(last));
                let silence = silence_before_ping(timers);
                let at = (last + timers.ping_interval).min(heard + silence);
                // Halfway between the pings of the other side, so that neither has to wait long in vain.
                let others = self.pinged_by_peer.filter(|ping| *ping > last);
                let at = others.map_or(at, |ping| at.min((ping + timers.ping_interval / 2).max(last + silence)));
                (at, Step::Ping(false))
            }
            LinkState::Down => {
                let ping = last + timers.node_timeout;
                let knock = self.last_knock.map_or(self.entered, |at| at.max(self.entered)) + self.knock_wait(timers);
                if knock < ping { (knock, Step::Knock) } else { (ping, Step::Ping(true)) }
            }
        }
    }

    /// An interval while nothing listens there, for a refused or lost connection attempt costs next to nothing. Where a
    /// connection is made and pings stay unanswered (something in between accepts for a dead node, a process that is
    /// stopped), twice as long each time.
    fn knock_wait(&self, timers: &Timers) -> Duration {
        let factor = 1_u32 << self.knocks_in_vain.min(16);
        timers.ping_interval.saturating_mul(factor).min(timers.node_timeout)
    }

    /// A try to connect is under way. True when the address is to be asked for beside it: often in the beginning, then once
    /// in [`KNOCKS_PER_ASK`] tries.
    pub(crate) fn knocked(&mut self, now: Instant) -> bool {
        self.last_knock = Some(now);
        self.is_knocking = true;
        self.knocks = self.knocks.wrapping_add(1);
        self.knocks.is_power_of_two() || self.knocks.is_multiple_of(KNOCKS_PER_ASK)
    }

    /// The node's listener took a connection; true when that was the outcome of a knock and the link is still down: the
    /// node is to be pinged.
    pub(crate) fn take_connected(&mut self) -> bool {
        let is_asked = std::mem::take(&mut self.is_knocking) && self.state == LinkState::Down;
        if is_asked {
            self.knocks_in_vain = self.knocks_in_vain.saturating_add(1);
        }
        is_asked
    }

    /// The state after a ping was sent or could not be sent. Does not change the state itself, for
    /// leaving UP has consequences that belong to the cluster.
    pub(crate) fn after_ping(&mut self, now: Instant, retries: i32, was_sent: bool) -> LinkState {
        let is_first_loss = self.is_awaiting_pong;
        self.last_ping = Some(now);
        self.is_awaiting_pong = true;
        let give_up = if retries <= 0 { LinkState::Down } else { LinkState::RetrySendFail };
        match (self.state, was_sent) {
            (LinkState::RestartPinging | LinkState::Down, true) => LinkState::Restarted,
            (LinkState::RestartPinging | LinkState::Down, false) => {
                self.retries_left = retries;
                give_up
            }
            (LinkState::RetrySendFail, _) => {
                self.retries_left -= 1;
                if was_sent {
                    LinkState::Retrying
                } else if self.retries_left <= 0 {
                    LinkState::Down
                } else {
                    LinkState::RetrySendFail
                }
            }
            (LinkState::Up, true) if !is_first_loss => LinkState::Up,
            (LinkState::Up | LinkState::Restarted, true) => {
                self.retries_left = retries - 1;
                LinkState::Retrying
            }
            (LinkState::Up | LinkState::Restarted, false) => {
                self.retries_left = retries;
                give_up
            }
            (LinkState::Retrying, _) => {
                self.retries_left -= 1;
                if was_sent { LinkState::Retrying } else { LinkState::RetrySendFail }
            }
        }
    }

    /// The state after the transport reported that something queued for the node was not sent.
    pub(crate) fn after_send_failure(&mut self, retries: i32) -> LinkState {
        match self.state {
            LinkState::Up => LinkState::RestartPinging,
            LinkState::Restarted => {
                self.retries_left = retries;
                if retries <= 0 { LinkState::Down } else { LinkState::RetrySendFail }
            }
            LinkState::Retrying if self.retries_left <= 0 => LinkState::Down,
            LinkState::Retrying => LinkState::RetrySendFail,
            other => other,
        }
    }

    /// Takes a pong; true when it brings the link up.
    ///
    /// A link that is not waiting for an answer to a ping of its own ignores pongs: they can be left
    /// over from before a break (`clusterer`, dead node seen as up).
    pub(crate) fn pong(&mut self, now: Instant, timers: &Timers) -> bool {
        let was_awaiting = std::mem::take(&mut self.is_awaiting_pong);
        self.unknown_id_streak = 0;
        let within =
            |moment: Option<Instant>| moment.is_some_and(|at| now.saturating_duration_since(at) <= timers.ping_timeout);
        match self.state {
            LinkState::Up => false,
            // Good, but held back: as if it had just been pinged for the first time.
            _ if self.hold_left(now).is_some() => {
                if within(self.last_ping) {
                    self.state = LinkState::Restarted;
                }
                false
            }
            LinkState::Restarted | LinkState::Retrying => {
                let is_good = within(self.last_ping) || within(self.last_recv);
                // A late pong must not stop the retries.
                self.is_awaiting_pong = !is_good;
                is_good
            }
            LinkState::RestartPinging | LinkState::RetrySendFail | LinkState::Down => {
                was_awaiting && within(self.last_ping)
            }
        }
    }

    /// True, once per while, when the link is UP and the node has not pinged for two intervals: it may wait for a pong it
    /// took too early, and would do so for ever. A pong it did not ask for frees it and harms no other.
    ///
    /// Deviation: OpenSIPS leaves the other side as it is. Seen with 2.4.11, whose pong was there before it had noted that
    /// its ping was sent.
    pub(crate) fn take_nudge(&mut self, now: Instant, timers: &Timers) -> bool {
        let since = [self.pinged_by_peer, self.nudged].into_iter().flatten().fold(self.entered, Instant::max);
        let is_due = self.is_up() && now.saturating_duration_since(since) > timers.ping_interval * 2;
        if is_due {
            self.nudged = Some(now);
        }
        is_due
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_recv = Some(now);
    }

    /// Remembers that the node itself sent on this connection; true when it did not before.
    pub(crate) fn heard_directly(&mut self, conn: ConnId, now: Instant) -> bool {
        self.last_direct = Some(now);
        if self.conns.contains(&conn) {
            return false;
        }
        if self.conns.len() >= CONNS_PER_NODE_MAX {
            self.conns.remove(0);
        }
        self.conns.push(conn);
        true
    }

    pub(crate) fn has_conn(&self, conn: ConnId) -> bool {
        self.conns.contains(&conn)
    }

    /// Forgets a connection; true when the node was heard on it.
    pub(crate) fn forget_conn(&mut self, conn: ConnId) -> bool {
        let before = self.conns.len();
        self.conns.retain(|known| *known != conn);
        self.conns.len() != before
    }

    pub(crate) fn take_conns(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.conns).into_vec()
    }

    pub(crate) fn unknown_id(&mut self) {
        self.unknown_id_streak = self.unknown_id_streak.saturating_add(1);
    }

    pub(crate) fn enter(&mut self, state: LinkState, now: Instant) {
        self.state = state;
        self.entered = now;
        if state == LinkState::Up {
            self.is_awaiting_pong = false;
            self.knocks_in_vain = 0;
            self.knocks = 0;
        }
    }

    pub(crate) fn pinged_by_peer(&mut self, now: Instant) {
        self.pinged_by_peer = Some(now);
    }

    /// True when a ping now would not repeat one just sent. What was sent on a connection that turned out to be closed
    /// (`is_lost`) is repeated, but not time and again; that is no missed pong as long as the node is heard.
    pub(crate) fn may_probe(&mut self, now: Instant, timers: &Timers, is_lost: bool) -> bool {
        let is_long_ago = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= PING_GAP_MIN);
        if !is_lost {
            return !self.is_awaiting_pong && is_long_ago(self.last_ping);
        }
        // A process that is being killed may still take a connection before it closes its listener, so once is too few.
        let (since, count) = self.repeated.filter(|(since, _)| !is_long_ago(Some(*since))).unwrap_or((now, 0));
        if count >= PING_REPEATS_MAX {
            return false;
        }
        self.repeated = Some((since, count + 1));
        if self.last_direct.is_some_and(|at| now.saturating_duration_since(at) < timers.ping_interval) {
            self.is_awaiting_pong = false;
        }
        true
    }
}

/// Silence of a peer after which it is pinged though the interval is not over: with the wait for the pong, and a tenth of it
/// to spare, it is known within one `ping_interval` that it is gone.
///
/// Deviation: OpenSIPS takes up to an interval and a time-out.
fn silence_before_ping(timers: &Timers) -> Duration {
    let wait = timers.ping_timeout + timers.ping_timeout / 10;
    timers.ping_interval.saturating_sub(wait).max(timers.ping_interval / 2)
}

#[cfg(test)]
mod tests;
