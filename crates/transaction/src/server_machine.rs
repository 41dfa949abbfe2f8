//! The server side: RFC 3261 §17.2 with the Accepted state of RFC 6026. Keeps no message.

use crate::config::{Kind, Timings};
use crate::timer::{Deadlines, Ms, Timer};

/// Where the server side stands (RFC 3261 figures 7 and 8, RFC 6026 figure 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// The request came, nothing was sent back.
    Trying,
    /// A provisional reply was sent.
    Proceeding,
    /// A final reply was sent (for INVITE: a negative one, its ACK is awaited).
    Completed,
    /// The ACK came; repeats of it are absorbed.
    Confirmed,
    /// A 2xx to an INVITE was sent (RFC 6026 §7.1).
    Accepted,
    /// Nothing more is expected from upstream.
    Terminated,
}

const RETRANSMIT: usize = 0;
const WAIT: usize = 1;
/// Bounds what the engine or a script owes us.
const GUARD: usize = 2;

#[derive(Debug)]
pub(crate) struct ServerMachine {
    kind: Kind,
    is_reliable: bool,
    state: ServerState,
    interval: Ms,
    deadlines: Deadlines<3>,
}

/// What came due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServerDue {
    pub(crate) resend_reply: bool,
    pub(crate) guard: bool,
}

impl ServerMachine {
    pub(crate) fn new(kind: Kind, is_reliable: bool, timings: &Timings) -> Self {
        ServerMachine {
            kind,
            is_reliable,
            state: ServerState::Trying,
            interval: timings.t1,
            deadlines: Deadlines::new(),
        }
    }

    pub(crate) fn state(&self) -> ServerState {
        self.state
    }

    pub(crate) fn is_terminated(&self) -> bool {
        self.state == ServerState::Terminated
    }

    pub(crate) fn next_deadline(&self) -> Ms {
        self.deadlines.next()
    }

    pub(crate) fn armed(&self) -> impl Iterator<Item = (Timer, Ms)> + '_ {
        self.deadlines.armed()
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.deadlines.is_armed(WAIT) && !self.deadlines.is_armed(GUARD)
    }

    pub(crate) fn provisional_sent(&mut self) {
        if self.state == ServerState::Trying {
            self.state = ServerState::Proceeding;
        }
    }

    /// A final reply goes upstream. A local 2xx nobody else will repeat until the ACK comes.
    pub(crate) fn final_sent(&mut self, code: u16, is_local: bool, now: Ms, timings: &Timings) {
        if !matches!(self.state, ServerState::Trying | ServerState::Proceeding) {
            return;
        }
        self.deadlines.clear_all();
        match (self.kind, code) {
            (Kind::Invite, 200..=299) => {
                self.state = ServerState::Accepted;
                self.deadlines.set(WAIT, Timer::L, now, timings.l);
                if is_local {
                    // RFC 3261 §13.3.1.4: even over reliable transports, one hop further may be unreliable.
                    self.start_retransmitting(now, timings);
                }
            }
            (Kind::Invite, _) => {
                self.state = ServerState::Completed;
                if matches!(code, 401 | 407) {
                    // RFC 3261 §26.3.2.4: a challenge is cheap to ask for, so it is not repeated unasked.
                    self.wait(Timer::Wt, timings.wt, now);
                } else {
                    self.deadlines.set(WAIT, Timer::H, now, timings.t1_x64());
                    if !self.is_reliable {
                        self.start_retransmitting(now, timings);
                    }
                }
            }
            (Kind::NonInvite, _) => {
                self.state = ServerState::Completed;
                self.wait(Timer::J, if self.is_reliable { 0 } else { timings.wt }, now);
            }
        }
    }

    fn start_retransmitting(&mut self, now: Ms, timings: &Timings) {
        self.interval = timings.t1;
        self.deadlines.set(RETRANSMIT, Timer::G, now, timings.t1);
    }

    fn wait(&mut self, timer: Timer, wait: Ms, now: Ms) {
        if wait == 0 {
            self.terminate();
        } else {
            self.deadlines.set(WAIT, timer, now, wait);
        }
    }

    pub(crate) fn terminate(&mut self) {
        self.deadlines.clear_all();
        self.state = ServerState::Terminated;
    }

    /// An ACK matched this INVITE. Returns true when it was the awaited one.
    pub(crate) fn acknowledged(&mut self, now: Ms, timings: &Timings) -> bool {
        match self.state {
            ServerState::Completed if self.kind == Kind::Invite => {
                self.deadlines.clear_all();
                self.state = ServerState::Confirmed;
                self.wait(Timer::I, if self.is_reliable { 0 } else { timings.t4 }, now);
                true
            }
            ServerState::Accepted => {
                let was_repeating = self.deadlines.is_armed(RETRANSMIT);
                self.deadlines.clear(RETRANSMIT);
                was_repeating
            }
            _ => false,
        }
    }

    /// Whether a repeated request is answered with the last reply (RFC 6026 §7.1: not in Accepted).
    pub(crate) fn answers_repeats(&self) -> bool {
        match self.state {
            ServerState::Proceeding | ServerState::Completed => true,
            ServerState::Accepted => self.deadlines.is_armed(RETRANSMIT),
            ServerState::Trying | ServerState::Confirmed | ServerState::Terminated => false,
        }
    }

    /// The upstream transport is gone: nothing is repeated any more (RFC 3261 §17.2.4).
    pub(crate) fn transport_failed(&mut self, now: Ms, timings: &Timings) {
        self.deadlines.clear(RETRANSMIT);
        if self.state == ServerState::Completed {
            self.wait(Timer::Wt, timings.wt, now);
        }
    }

    pub(crate) fn set_guard(&mut self, timer: Timer, wait: Ms, now: Ms) {
        if self.state != ServerState::Terminated {
            self.deadlines.set(GUARD, timer, now, wait.max(1));
        }
    }

    pub(crate) fn clear_guard(&mut self) {
        self.deadlines.clear(GUARD);
    }

    /// Nobody will answer: forget the request after a while (OpenSIPS: tm, a script that ends without replying).
    pub(crate) fn abandon(&mut self, wait: Ms, now: Ms) {
        if matches!(self.state, ServerState::Trying | ServerState::Proceeding) {
            self.wait(Timer::Wt, wait, now);
        }
    }

    /// Somebody works on the request again.
    pub(crate) fn revive(&mut self) {
        if matches!(self.state, ServerState::Trying | ServerState::Proceeding) {
            self.deadlines.clear(WAIT);
            self.deadlines.clear(GUARD);
        }
    }

    /// Fires what is due at `now`, each timer at most once.
    pub(crate) fn handle_timer(&mut self, now: Ms, timings: &Timings) -> ServerDue {
        let mut due = ServerDue::default();
        if self.deadlines.next() > now {
            return due;
        }
        if self.deadlines.take_due(WAIT, now).is_some() {
            self.terminate();
            return due;
        }
        due.guard = self.deadlines.take_due(GUARD, now).is_some();
        if let Some(timer) = self.deadlines.take_due(RETRANSMIT, now) {
            self.interval = self.interval.saturating_mul(2).min(timings.t2);
            self.deadlines.set(RETRANSMIT, timer, now, self.interval);
            due.resend_reply = true;
        }
        due
    }
}
