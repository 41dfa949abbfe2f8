//! A request of our own: BYE of a dialog, OPTIONS ping, `t_uac_dlg`. One destination; fail-over is the caller's.

use std::time::Instant;

use bytes::Bytes;

use crate::branch::CancelState;
use crate::client_machine::{ClientMachine, ClientState};
use crate::config::{Config, Kind, Timings};
use crate::output::Queue;
use crate::timer::{Epoch, Timer};

/// What a [`ClientTransaction`] asks of its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send [`ClientTransaction::request`]; `attempt` is 0 the first time.
    SendRequest {
        /// The number of the retransmission.
        attempt: u8,
    },
    /// A reply to hand to the requester. A repeated 2xx to an INVITE comes each time: it wants its ACK again.
    Reply {
        /// Its status code.
        code: u16,
    },
    /// Acknowledge the negative final of an INVITE (RFC 3261 §17.1.1.3). The ACK to a 2xx is the requester's.
    SendAck,
    /// Send the CANCEL asked for with [`ClientTransaction::cancel`].
    SendCancel {
        /// True when this CANCEL has been sent before.
        is_retransmission: bool,
    },
    /// No final reply in time; counts as 408.
    Timeout,
    /// The transport failed; counts as 503.
    TransportError,
    /// The transaction is over: remove it. Comes exactly once and last.
    Terminated,
}

/// The client machines of RFC 3261 §17.1 and RFC 6026 for a request without a server side.
#[derive(Debug)]
pub struct ClientTransaction {
    epoch: Epoch,
    timings: Timings,
    machine: ClientMachine,
    request: Bytes,
    outputs: Queue<ClientOutput>,
    is_terminated: bool,
    last_code: u16,
}

impl ClientTransaction {
    /// Starts sending `request`. `is_reliable` is that of the destination; [`Config::is_reliable`] is not looked at.
    pub fn new(kind: Kind, request: Bytes, is_reliable: bool, config: &Config, now: Instant) -> Self {
        let timings = Timings::new(config);
        let mut outputs = Queue::new();
        outputs.push(ClientOutput::SendRequest { attempt: 0 });
        ClientTransaction {
            epoch: Epoch::new(now),
            machine: ClientMachine::new(kind, is_reliable, timings.fr, 0, &timings),
            timings,
            request,
            outputs,
            is_terminated: false,
            last_code: 0,
        }
    }

    /// The request as sent.
    pub fn request(&self) -> &Bytes {
        &self.request
    }

    /// The state of the machine.
    pub fn state(&self) -> ClientState {
        self.machine.state()
    }

    /// How far a CANCEL has come.
    pub fn cancel_state(&self) -> CancelState {
        self.machine.cancel_state()
    }

    /// The last status code received, 0 before any.
    pub fn last_code(&self) -> u16 {
        self.last_code
    }

    /// True after [`ClientOutput::Terminated`] was queued.
    pub fn is_terminated(&self) -> bool {
        self.is_terminated
    }

    /// The next thing to do; drain after every input.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop()
    }

    /// When [`ClientTransaction::handle_timer`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.epoch.instant(self.machine.next_deadline())
    }

    /// The armed timers, for MI and tests.
    pub fn armed_timers(&self) -> impl Iterator<Item = (Timer, Instant)> + '_ {
        self.machine.armed().filter_map(|(timer, at)| Some((timer, self.epoch.instant(at)?)))
    }

    /// A reply came.
    pub fn handle_reply(&mut self, code: u16, now: Instant) {
        if self.is_terminated {
            return;
        }
        let now = self.epoch.ms(now);
        let receipt = self.machine.receive(code, self.timings.fr_inv, now, &self.timings);
        if receipt.must_ack {
            self.outputs.push(ClientOutput::SendAck);
        }
        if receipt.must_cancel {
            self.outputs.push(ClientOutput::SendCancel { is_retransmission: false });
        }
        if receipt.is_news {
            self.last_code = code;
            self.outputs.push(ClientOutput::Reply { code });
            self.machine.finish(code, now, &self.timings);
        }
        self.settle();
    }

    /// A reply to our CANCEL came.
    pub fn handle_cancel_reply(&mut self, code: u16, now: Instant) {
        let now = self.epoch.ms(now);
        self.machine.receive_cancel_reply(code, now, &self.timings);
    }

    /// Cancels the INVITE, at once or after its first provisional reply (OpenSIPS: tm, MI `uac_cancel`).
    pub fn cancel(&mut self, now: Instant) {
        let now = self.epoch.ms(now);
        if self.machine.request_cancel(now, &self.timings) {
            self.outputs.push(ClientOutput::SendCancel { is_retransmission: false });
        }
    }

    /// The destination cannot be reached.
    pub fn handle_transport_error(&mut self, _now: Instant) {
        if self.machine.is_pending() {
            self.machine.terminate();
            self.outputs.push(ClientOutput::TransportError);
        }
        self.settle();
    }

    /// Fires every timer that is due.
    pub fn handle_timer(&mut self, now: Instant) {
        if self.is_terminated {
            return;
        }
        let now = self.epoch.ms(now);
        let due = self.machine.handle_timer(now, &self.timings);
        if due.cancel_retransmit {
            self.outputs.push(ClientOutput::SendCancel { is_retransmission: true });
        }
        if due.retransmit {
            self.outputs.push(ClientOutput::SendRequest { attempt: self.machine.attempt() });
        }
        if due.timeout {
            self.outputs.push(ClientOutput::Timeout);
            if self.machine.give_up(now, &self.timings) {
                self.outputs.push(ClientOutput::SendCancel { is_retransmission: false });
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        if !self.is_terminated && self.machine.is_terminated() {
            self.is_terminated = true;
            self.outputs.push(ClientOutput::Terminated);
        }
    }
}
