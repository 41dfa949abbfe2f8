//! What can happen to a transaction from upstream, from the script and from time. Replies are in `replies`.

use std::time::Instant;

use bytes::Bytes;

use super::{AddBranchError, CancelBranches, MAX_BRANCHES, RespondError, Transaction, branch_index};
use crate::branch::{Branch, BranchIndex, BranchSpec};
use crate::client_machine::ClientMachine;
use crate::config::{Kind, millis};
use crate::output::Output;
use crate::server_machine::ServerState;
use crate::timer::{Ms, Timer};

impl<R> Transaction<R> {
    /// The request came again: answered with the last reply, if the state wants that (RFC 3261 §17.2).
    pub fn handle_request_retransmission(&mut self, _now: Instant) {
        if !self.flags.is_terminated && self.server.answers_repeats() && !self.last_reply.is_empty() {
            self.outputs.push(Output::SendReply { is_retransmission: true });
        }
    }

    /// An ACK matched this INVITE (hop by hop for negative finals, end to end for a 2xx of our own). Returns true when
    /// it was the awaited one.
    pub fn handle_ack(&mut self, now: Instant) -> bool {
        if self.flags.is_terminated {
            return false;
        }
        let now = self.epoch.ms(now);
        let was_awaited = self.server.acknowledged(now, &self.timings);
        self.settle(now);
        was_awaited
    }

    /// The client cancelled the request. The CANCEL itself is answered by the engine (200). Pending branches are
    /// cancelled; without any the request is answered 487 at once (RFC 3261 §9.2), even while a script is suspended.
    /// Returns false when it comes too late, or for a second time.
    pub fn handle_cancel(&mut self, now: Instant) -> bool {
        if self.flags.is_terminated || self.flags.is_cancelled || self.kind != Kind::Invite || self.is_answered() {
            return false;
        }
        let now = self.epoch.ms(now);
        self.flags.is_cancelled = true;
        self.waits_for_count = None;
        if self.pending_decision.is_none() {
            self.server.clear_guard();
            if self.has_pending_branches() {
                for at in 0..self.branches.len() {
                    self.cancel_branch(at, now);
                }
            } else {
                self.ask_local_reply(None, 487, now);
            }
        }
        self.settle(now);
        true
    }

    /// Adds a branch and starts sending it. Inside the decision after [`Output::AllBranchesFailed`] the first one opens
    /// a new serial set, whose outcomes alone count from then on.
    pub fn add_branch(&mut self, spec: BranchSpec, now: Instant) -> Result<BranchIndex, AddBranchError> {
        self.check_new_branch()?;
        let now = self.epoch.ms(now);
        if let Some(decision) = &self.pending_decision {
            self.first_active = decision.branch_count;
        }
        if self.waits_for_count.is_none() && self.pending_decision.is_none() {
            self.server.revive();
        }
        let index = branch_index(self.branches.len());
        let fr = spec.fr_timeout.map_or(self.fr, millis);
        self.branches.push(Branch {
            machine: ClientMachine::new(self.kind, spec.is_reliable, fr, now, &self.timings),
            request: spec.request,
            cancel: Bytes::new(),
            ack: Bytes::new(),
            reply: None,
            code: 0,
            is_local_final: false,
            is_dropped: false,
            is_minor: spec.is_minor,
            group: spec.group,
            fr_inv: spec.fr_inv_timeout.map(millis),
        });
        self.outputs.push(Output::SendRequest { branch: index, attempt: 0 });
        if self.waits_for_count.is_some_and(|count| self.branches.len() >= count) {
            self.waits_for_count = None;
            if self.pending_decision.is_none() {
                self.server.clear_guard();
            }
        }
        Ok(index)
    }

    /// Whether a branch may be added now; ask before spending a branch route on it.
    pub fn check_new_branch(&self) -> Result<(), AddBranchError> {
        if self.flags.is_terminated || self.server.is_terminated() {
            Err(AddBranchError::Terminated)
        } else if self.is_answered() {
            Err(AddBranchError::Answered)
        } else if self.flags.is_cancelled {
            Err(AddBranchError::Cancelled)
        } else if self.flags.no_new_branches {
            Err(AddBranchError::Blocked)
        } else if self.branches.len() >= MAX_BRANCHES {
            Err(AddBranchError::TooMany)
        } else {
            Ok(())
        }
    }

    /// Takes a branch back that could not be sent at all, as if it had not been added: it takes no part in the choice of
    /// the best reply. Returns true while another branch of the set is pending; when none is left and none had failed
    /// otherwise, nothing is decided and the relaying function reports its own error (OpenSIPS: tm, 477).
    pub fn drop_branch(&mut self, index: BranchIndex, now: Instant) -> bool {
        let now = self.epoch.ms(now);
        if let Some(branch) = self.branches.get_mut(index.as_usize())
            && branch.is_pending()
        {
            branch.machine.terminate();
            branch.is_dropped = true;
            if self.has_final_in_set() {
                self.decide(now);
            }
        }
        self.settle(now);
        self.has_pending_branches()
    }

    /// The transport reported that the branch cannot be reached: it counts as answered 503 (RFC 3261 §16.9).
    pub fn handle_transport_error(&mut self, index: BranchIndex, now: Instant) {
        self.fail_branch(index, 503, now);
    }

    /// Ends a pending branch with a code of our own (OpenSIPS uses 477 for sending failures, 478 for bad addresses).
    pub fn fail_branch(&mut self, index: BranchIndex, code: u16, now: Instant) {
        let now = self.epoch.ms(now);
        let code = code.clamp(300, 699);
        if let Some(branch) = self.branches.get_mut(index.as_usize())
            && branch.is_pending()
        {
            branch.machine.terminate();
            self.branch_failed(index, code, None, true, now);
        }
        self.settle(now);
    }

    /// Sending upstream failed for good: replies are no longer repeated (RFC 3261 §17.2.4).
    pub fn handle_reply_transport_error(&mut self, now: Instant) {
        let now = self.epoch.ms(now);
        self.server.transport_failed(now, &self.timings);
        self.settle(now);
    }

    /// Sends a reply of our own upstream (OpenSIPS: tm, `t_reply`). A final one ends the forking: pending INVITE
    /// branches are cancelled, others forgotten.
    pub fn respond_local(&mut self, code: u16, reply: Bytes, now: Instant) -> Result<(), RespondError> {
        if self.flags.is_terminated || self.server.is_terminated() {
            return Err(RespondError::Terminated);
        }
        if self.is_answered() {
            return Err(RespondError::Answered);
        }
        if !(100..=699).contains(&code) {
            return Err(RespondError::BadCode);
        }
        let now = self.epoch.ms(now);
        self.last_reply = reply;
        self.sent_code = code;
        self.outputs.push(Output::SendReply { is_retransmission: false });
        if code < 200 {
            self.server.provisional_sent();
        } else {
            self.server.final_sent(code, true, now, &self.timings);
            self.end_other_branches(None, now);
        }
        self.settle(now);
        Ok(())
    }

    /// Cancels branches on behalf of the script; unlike [`Transaction::handle_cancel`] the request itself lives on and
    /// may get new branches.
    pub fn cancel_branches(&mut self, which: CancelBranches, now: Instant) {
        let now = self.epoch.ms(now);
        for at in 0..self.branches.len() {
            let is_meant = match which {
                CancelBranches::All => true,
                CancelBranches::Others(index) => index.as_usize() != at,
                CancelBranches::One(index) => index.as_usize() == at,
            };
            if is_meant {
                self.cancel_branch(at, now);
            }
        }
        self.settle(now);
    }

    /// Keeps the transaction from ending although all its branches failed, until `max_branches` branches exist
    /// (`None`: as many as come) or the `fr_inv` time is over (OpenSIPS: tm, `t_wait_for_new_branches`).
    pub fn wait_for_new_branches(&mut self, max_branches: Option<usize>, now: Instant) {
        if self.check_new_branch().is_err() {
            return;
        }
        let count = max_branches.unwrap_or(MAX_BRANCHES).min(MAX_BRANCHES);
        if self.branches.len() >= count {
            return;
        }
        let now = self.epoch.ms(now);
        self.server.revive();
        self.waits_for_count = Some(count);
        self.server.set_guard(Timer::FrInv, self.fr_inv, now);
    }

    /// Ends [`Transaction::wait_for_new_branches`] (OpenSIPS: tm, `t_wait_no_more_branches`).
    pub fn wait_no_more_branches(&mut self, now: Instant) {
        let now = self.epoch.ms(now);
        if self.waits_for_count.take().is_some() {
            if self.pending_decision.is_none() {
                self.server.clear_guard();
            }
            // While a script runs it may still add branches; when none does, nobody else would answer the client.
            if self.first_active < self.branches.len() || self.holds == 0 {
                self.decide(now);
            }
        }
        self.settle(now);
    }

    /// One more script works on this transaction (a suspended `async`, a reply route): it cannot end before
    /// [`Transaction::release`]. Timers keep running.
    pub fn hold(&mut self) {
        self.holds = self.holds.saturating_add(1);
        if self.waits_for_count.is_none() && self.pending_decision.is_none() && !self.has_pending_branches() {
            self.server.revive();
        }
    }

    /// A script ended, the first one included. When nobody holds the transaction, nothing was sent either way and
    /// nothing is awaited, it ends silently after `wt_timer`.
    pub fn release(&mut self, now: Instant) {
        self.holds = self.holds.saturating_sub(1);
        let now = self.epoch.ms(now);
        self.settle(now);
    }

    /// [`Transaction::hold`] or [`Transaction::release`] by a flag.
    pub fn keep_alive(&mut self, is_kept: bool, now: Instant) {
        if is_kept {
            self.hold();
        } else {
            self.release(now);
        }
    }

    /// Fires every timer that is due.
    pub fn handle_timer(&mut self, now: Instant) {
        let now = self.epoch.ms(now);
        for at in 0..self.branches.len() {
            self.handle_branch_timer(at, now);
        }
        let due = self.server.handle_timer(now, &self.timings);
        if due.resend_reply && !self.last_reply.is_empty() {
            self.outputs.push(Output::SendReply { is_retransmission: true });
        }
        if due.guard {
            self.handle_guard(now);
        }
        self.settle(now);
    }

    fn handle_branch_timer(&mut self, at: usize, now: Ms) {
        let Some(branch) = self.branches.get_mut(at) else {
            return;
        };
        let index = branch_index(at);
        let due = branch.machine.handle_timer(now, &self.timings);
        if due.cancel_retransmit {
            self.outputs.push(Output::SendCancel { branch: index, is_retransmission: true });
        }
        if due.retransmit {
            let attempt = branch.machine.attempt();
            self.outputs.push(Output::SendRequest { branch: index, attempt });
        }
        if due.timeout {
            let was_silent = branch.code == 0;
            let must_cancel = branch.machine.give_up(now, &self.timings);
            // Deviation: OpenSIPS answers 408 here although the client cancelled; RFC 3261 §9.2 promises it a 487.
            let code = if self.flags.is_cancelled { 487 } else { 408 };
            self.outputs.push(Output::BranchTimeout { branch: index, code, was_silent });
            if must_cancel {
                self.outputs.push(Output::SendCancel { branch: index, is_retransmission: false });
            }
            self.branch_failed(index, code, None, true, now);
        }
    }

    fn handle_guard(&mut self, now: Ms) {
        if self.pending_decision.is_some() {
            if self.holds > 0 {
                // The failure route itself is suspended.
                self.server.set_guard(Timer::Fr, self.fr, now);
            } else {
                let _outcome = self.close_decision(now);
            }
        } else if self.waits_for_count.take().is_some() {
            self.decide(now);
        } else if matches!(self.server.state(), ServerState::Trying | ServerState::Proceeding) {
            // A parked call nobody took, or a local reply nobody built.
            let code = if self.flags.is_cancelled { 487 } else { 408 };
            self.ask_local_reply(None, code, now);
        }
    }

    pub(super) fn cancel_branch(&mut self, at: usize, now: Ms) {
        if let Some(branch) = self.branches.get_mut(at)
            && branch.machine.request_cancel(now, &self.timings)
        {
            self.outputs.push(Output::SendCancel { branch: branch_index(at), is_retransmission: false });
        }
    }
}
