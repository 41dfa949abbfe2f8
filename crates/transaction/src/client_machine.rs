//! One client side: RFC 3261 §17.1 with the Accepted state of RFC 6026, plus the CANCEL it may have to send. Keeps no
//! message and chooses no reply; [`crate::Transaction`] and [`crate::ClientTransaction`] do.

use crate::branch::CancelState;
use crate::config::{Kind, Timings};
use crate::timer::{Deadlines, Ms, Timer};

/// Where a client side stands (RFC 3261 figures 5 and 6, RFC 6026 figure 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientState {
    /// Sent, no reply yet ("Calling" for INVITE, "Trying" for others).
    Calling,
    /// A provisional reply came.
    Proceeding,
    /// A final reply came and its reply routes are still running.
    Held,
    /// Ended with a negative final (or any final when not INVITE), real or local; repeats are absorbed.
    Completed,
    /// An INVITE answered 2xx; repeats are handed up (RFC 6026 §7.2).
    Accepted,
    /// Nothing more is expected.
    Terminated,
}

const RETRANSMIT: usize = 0;
/// The wait for a final reply, afterwards the lingering of timers D, K and M.
const FINAL: usize = 1;
const CANCEL_RETRANSMIT: usize = 2;
const CANCEL_FINAL: usize = 3;

#[derive(Debug)]
pub(crate) struct ClientMachine {
    kind: Kind,
    is_reliable: bool,
    state: ClientState,
    cancel: CancelState,
    attempt: u8,
    last_provisional: u16,
    /// Whether the last provisional reply started the wait anew.
    restarts_fr: bool,
    interval: Ms,
    cancel_interval: Ms,
    deadlines: Deadlines<4>,
}

/// What a received reply means for this side, before anybody looks at its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The reply is new (or a 2xx that passes through): work on it.
    pub(crate) is_news: bool,
    pub(crate) must_ack: bool,
    pub(crate) must_cancel: bool,
}

/// What came due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClientDue {
    pub(crate) retransmit: bool,
    pub(crate) cancel_retransmit: bool,
    /// No (final) reply in time; the caller must call [`ClientMachine::give_up`].
    pub(crate) timeout: bool,
}

impl ClientMachine {
    pub(crate) fn new(kind: Kind, is_reliable: bool, fr: Ms, now: Ms, timings: &Timings) -> Self {
        let mut machine = ClientMachine {
            kind,
            is_reliable,
            state: ClientState::Calling,
            cancel: CancelState::None,
            attempt: 0,
            last_provisional: 0,
            restarts_fr: false,
            interval: timings.t1,
            cancel_interval: timings.t1,
            deadlines: Deadlines::new(),
        };
        if !is_reliable {
            machine.deadlines.set(RETRANSMIT, machine.retransmit_timer(), now, timings.t1);
        }
        let timer = match (timings.has_fr, kind) {
            (true, _) => Timer::Fr,
            (false, Kind::Invite) => Timer::B,
            (false, Kind::NonInvite) => Timer::F,
        };
        machine.deadlines.set(FINAL, timer, now, fr);
        machine
    }

    pub(crate) fn state(&self) -> ClientState {
        self.state
    }

    pub(crate) fn cancel_state(&self) -> CancelState {
        self.cancel
    }

    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, ClientState::Calling | ClientState::Proceeding | ClientState::Held)
    }

    pub(crate) fn is_terminated(&self) -> bool {
        self.state == ClientState::Terminated
    }

    pub(crate) fn attempt(&self) -> u8 {
        self.attempt
    }

    pub(crate) fn next_deadline(&self) -> Ms {
        self.deadlines.next()
    }

    pub(crate) fn armed(&self) -> impl Iterator<Item = (Timer, Ms)> + '_ {
        self.deadlines.armed()
    }

    fn retransmit_timer(&self) -> Timer {
        if self.kind == Kind::Invite { Timer::A } else { Timer::E }
    }

    /// A reply was read from the network. Stops retransmissions; `fr_inv` is the wait after a provisional reply.
    pub(crate) fn receive(&mut self, code: u16, fr_inv: Ms, now: Ms, timings: &Timings) -> Receipt {
        let is_invite = self.kind == Kind::Invite;
        match code {
            100..=199 => self.receive_provisional(code, fr_inv, now, timings),
            200..=299 if is_invite => {
                Receipt { is_news: self.receive_2xx(now, timings), must_ack: false, must_cancel: false }
            }
            200..=699 => {
                let is_news = self.is_open();
                if is_news {
                    self.await_routes(now, fr_inv);
                } else {
                    self.end_cancel();
                }
                // RFC 3261 §17.1.1.2: every copy is acknowledged; even after we gave up, or the sender never stops.
                Receipt { is_news, must_ack: is_invite, must_cancel: false }
            }
            _ => Receipt { is_news: false, must_ack: false, must_cancel: false },
        }
    }

    /// No final reply has been read.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, ClientState::Calling | ClientState::Proceeding)
    }

    fn receive_provisional(&mut self, code: u16, fr_inv: Ms, now: Ms, timings: &Timings) -> Receipt {
        // After a local time-out the phone may still ring: a wanted CANCEL goes out now (RFC 3261 §9.1).
        let must_cancel = self.cancel == CancelState::Wanted
            && matches!(self.state, ClientState::Calling | ClientState::Proceeding | ClientState::Completed);
        let is_news = self.is_open();
        if is_news {
            let is_first = self.state == ClientState::Calling;
            self.state = ClientState::Proceeding;
            match self.kind {
                Kind::Invite => {
                    self.deadlines.clear(RETRANSMIT);
                    self.restarts_fr = is_first || timings.restart_fr || (code >= 180 && code > self.last_provisional);
                    self.apply_fr_inv(fr_inv, now, timings);
                }
                Kind::NonInvite => {
                    if is_first && !self.is_reliable {
                        self.interval = timings.t2;
                        self.deadlines.set(RETRANSMIT, Timer::E, now, timings.t2);
                    }
                }
            }
            self.last_provisional = self.last_provisional.max(code);
        }
        if must_cancel {
            self.start_cancel(now, timings);
        }
        Receipt { is_news, must_ack: false, must_cancel }
    }

    /// Starts the wait for a final reply to a ringing INVITE anew, if its last provisional reply is one to do so and no
    /// CANCEL bounds the wait already.
    pub(crate) fn apply_fr_inv(&mut self, fr_inv: Ms, now: Ms, timings: &Timings) {
        if self.restarts_fr
            && self.state == ClientState::Proceeding
            && self.kind == Kind::Invite
            && !self.cancel.is_sent()
        {
            let timer = if timings.has_fr_inv { Timer::FrInv } else { Timer::C };
            self.deadlines.set(FINAL, timer, now, fr_inv);
        }
    }

    fn receive_2xx(&mut self, now: Ms, timings: &Timings) -> bool {
        match self.state {
            ClientState::Calling | ClientState::Proceeding => {
                self.await_routes(now, timings.fr_inv);
                true
            }
            // Too late for the choice, not too late for the caller (RFC 3261 §16.7 step 5).
            ClientState::Completed => {
                self.accept(now, timings);
                true
            }
            ClientState::Accepted | ClientState::Terminated => true,
            ClientState::Held => false,
        }
    }

    /// The final reply is with the reply routes; should they never return it, the wait ends as a time-out.
    fn await_routes(&mut self, now: Ms, guard: Ms) {
        self.deadlines.clear_all();
        self.state = ClientState::Held;
        self.deadlines.set(FINAL, Timer::Fr, now, guard);
        self.end_cancel();
    }

    /// A final reply came: there is nothing left to cancel.
    fn end_cancel(&mut self) {
        self.deadlines.clear(CANCEL_RETRANSMIT);
        self.deadlines.clear(CANCEL_FINAL);
        if self.cancel != CancelState::None {
            self.cancel = CancelState::Done;
        }
    }

    /// The held final reply has been worked on.
    pub(crate) fn finish(&mut self, code: u16, now: Ms, timings: &Timings) {
        if self.state != ClientState::Held {
            return;
        }
        if self.kind == Kind::Invite && (200..300).contains(&code) {
            self.accept(now, timings);
        } else {
            self.complete(now, timings);
        }
    }

    fn accept(&mut self, now: Ms, timings: &Timings) {
        self.deadlines.clear_all();
        self.end_cancel();
        self.linger(ClientState::Accepted, Timer::M, timings.l, now);
    }

    fn complete(&mut self, now: Ms, timings: &Timings) {
        self.deadlines.clear(RETRANSMIT);
        let (timer, wait) = match (self.kind, self.is_reliable) {
            (Kind::Invite, true) => (Timer::D, 0),
            (Kind::Invite, false) => (Timer::D, timings.d),
            (Kind::NonInvite, true) => (Timer::K, 0),
            (Kind::NonInvite, false) => (Timer::K, timings.t4),
        };
        self.linger(ClientState::Completed, timer, wait, now);
    }

    fn linger(&mut self, state: ClientState, timer: Timer, wait: Ms, now: Ms) {
        if wait == 0 {
            self.terminate();
        } else {
            self.state = state;
            self.deadlines.set(FINAL, timer, now, wait);
        }
    }

    pub(crate) fn terminate(&mut self) {
        self.deadlines.clear_all();
        self.state = ClientState::Terminated;
    }

    /// Counts the side as answered by ourselves. Returns true when a CANCEL must go out: the other end may be ringing.
    pub(crate) fn give_up(&mut self, now: Ms, timings: &Timings) -> bool {
        if !self.is_pending() {
            return false;
        }
        let must_cancel = self.request_cancel(now, timings);
        self.deadlines.clear(RETRANSMIT);
        // On any transport: the answer to the CANCEL and the 487 still have to be absorbed.
        let (timer, wait) = match self.kind {
            Kind::Invite => (Timer::D, timings.d),
            Kind::NonInvite if self.is_reliable => (Timer::K, 0),
            Kind::NonInvite => (Timer::K, timings.t4),
        };
        self.linger(ClientState::Completed, timer, wait, now);
        must_cancel && self.state != ClientState::Terminated
    }

    /// Asks for a CANCEL. Returns true when it goes out now, false when it must wait for a provisional reply or makes
    /// no sense (RFC 3261 §9.1).
    pub(crate) fn request_cancel(&mut self, now: Ms, timings: &Timings) -> bool {
        if self.kind != Kind::Invite || !matches!(self.cancel, CancelState::None | CancelState::Wanted) {
            return false;
        }
        match self.state {
            ClientState::Calling => {
                self.cancel = CancelState::Wanted;
                false
            }
            ClientState::Proceeding => {
                self.start_cancel(now, timings);
                true
            }
            _ => false,
        }
    }

    fn start_cancel(&mut self, now: Ms, timings: &Timings) {
        self.cancel = CancelState::Sent;
        if !self.is_reliable {
            self.cancel_interval = timings.t1;
            self.deadlines.set(CANCEL_RETRANSMIT, Timer::E, now, timings.t1);
        }
        self.deadlines.set(CANCEL_FINAL, Timer::F, now, timings.t1_x64());
        // RFC 3261 §9.1: without a final reply 64*T1 after the CANCEL the request counts as cancelled.
        let bound = now.saturating_add(timings.t1_x64());
        if self.state == ClientState::Proceeding && self.deadlines.at(FINAL) > bound {
            self.deadlines.set(FINAL, Timer::Fr, now, timings.t1_x64());
        }
    }

    /// A reply to our CANCEL came.
    pub(crate) fn receive_cancel_reply(&mut self, code: u16, now: Ms, timings: &Timings) {
        if self.cancel != CancelState::Sent {
            return;
        }
        if code >= 200 {
            self.end_cancel();
        } else if self.deadlines.is_armed(CANCEL_RETRANSMIT) {
            self.cancel_interval = timings.t2;
            self.deadlines.set(CANCEL_RETRANSMIT, Timer::E, now, timings.t2);
        }
    }

    /// The transaction is decided: do not make a phone ring that has not rung yet.
    pub(crate) fn stop_retransmitting(&mut self) {
        self.deadlines.clear(RETRANSMIT);
    }

    /// Fires what is due at `now`, each timer at most once.
    pub(crate) fn handle_timer(&mut self, now: Ms, timings: &Timings) -> ClientDue {
        let mut due = ClientDue::default();
        if self.deadlines.next() > now {
            return due;
        }
        if self.deadlines.take_due(CANCEL_FINAL, now).is_some() {
            self.deadlines.clear(CANCEL_RETRANSMIT);
            self.cancel = CancelState::Done;
        }
        if let Some(timer) = self.deadlines.take_due(CANCEL_RETRANSMIT, now) {
            self.cancel_interval = self.cancel_interval.saturating_mul(2).min(timings.t2);
            self.deadlines.set(CANCEL_RETRANSMIT, timer, now, self.cancel_interval);
            due.cancel_retransmit = true;
        }
        if self.deadlines.take_due(FINAL, now).is_some() {
            self.deadlines.clear(RETRANSMIT);
            due.timeout = self.is_pending();
            if !due.timeout {
                self.terminate();
                due.cancel_retransmit = false;
            }
        }
        if let Some(timer) = self.deadlines.take_due(RETRANSMIT, now) {
            self.interval = self.interval.saturating_mul(2);
            if self.kind == Kind::NonInvite {
                self.interval = self.interval.min(timings.t2);
            }
            self.deadlines.set(RETRANSMIT, timer, now, self.interval);
            self.attempt = self.attempt.saturating_add(1);
            due.retransmit = true;
        }
        due
    }
}
