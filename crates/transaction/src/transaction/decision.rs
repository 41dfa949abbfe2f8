//! When all branches of a set have failed: which outcome wins and who is asked first. Ranks are in `best_reply`.

use std::time::Instant;

use super::{Decision, FailOver, Transaction, branch_index};
use crate::best_reply::rank_reply;
use crate::branch::BranchIndex;
use crate::config::Kind;
use crate::output::Output;
use crate::timer::{Ms, Timer};

/// How long the engine may take to build a reply it was asked for.
const LOCAL_REPLY_WAIT_MS: Ms = 1_000;

impl<R> Transaction<R> {
    /// The engine has dealt with [`Output::AllBranchesFailed`]. What it did says the rest: after adding branches (or
    /// asking to wait for some) these are waited for, after replying nothing more happens, otherwise the best reply
    /// goes up.
    pub fn fail_over_done(&mut self, now: Instant) -> FailOver {
        let now = self.epoch.ms(now);
        let outcome = self.close_decision(now);
        self.settle(now);
        outcome
    }

    pub(super) fn close_decision(&mut self, now: Ms) -> FailOver {
        let Some(decision) = self.pending_decision.take() else {
            return FailOver::NothingOwed;
        };
        self.server.clear_guard();
        if self.is_answered() {
            return FailOver::Answered;
        }
        let is_waiting = self.waits_for_count.is_some();
        if is_waiting {
            self.server.set_guard(Timer::FrInv, self.fr_inv, now);
        }
        let has_new = self.branches.iter().skip(decision.branch_count).any(|new| !new.is_dropped);
        if has_new {
            if self.flags.is_cancelled {
                self.cancel_active(now);
            }
            // They may all have failed meanwhile; then the question is put again.
            self.decide(now);
            return FailOver::WaitsForBranches;
        }
        if is_waiting {
            return FailOver::WaitsForBranches;
        }
        self.send_best(&decision, now);
        FailOver::UsesBest
    }

    fn cancel_active(&mut self, now: Ms) {
        for at in 0..self.branches.len() {
            self.cancel_branch(at, now);
        }
    }

    fn send_best(&mut self, decision: &Decision, now: Ms) {
        let best = decision.best;
        let kept =
            best.and_then(|index| self.branches.get_mut(index.as_usize())).and_then(|branch| branch.reply.take());
        match (best, kept) {
            (Some(branch), Some(reply)) => {
                let code = decision.code;
                self.sent_code = code;
                self.outputs.push(Output::ForwardReply { branch, code, reply, is_last_reply: true });
                self.server.final_sent(code, false, now, &self.timings);
                self.end_other_branches(None, now);
            }
            _ => self.ask_local_reply(best, decision.code, now),
        }
    }

    /// Asks for a reply of our own; if it never comes the transaction ends silently.
    pub(super) fn ask_local_reply(&mut self, branch: Option<BranchIndex>, code: u16, now: Ms) {
        self.outputs.push(Output::LocalReply { branch, code });
        self.server.abandon(self.timings.wt.max(LOCAL_REPLY_WAIT_MS), now);
    }

    /// A branch ended without success.
    pub(super) fn branch_failed(&mut self, index: BranchIndex, code: u16, reply: Option<R>, is_local: bool, now: Ms) {
        let is_answered = self.is_answered();
        let Some(branch) = self.branches.get_mut(index.as_usize()) else {
            return;
        };
        branch.code = code;
        branch.is_local_final = is_local;
        if !is_answered {
            branch.reply = reply;
        }
        if !is_local {
            self.outputs.push(Output::ReplyAbsorbed { branch: index, code });
        }
        if is_answered {
            return;
        }
        if code >= 600 && !is_local && !self.flags.disable_6xx_block {
            self.flags.no_new_branches = true;
            self.waits_for_count = None;
            self.cancel_active(now);
            if self.pending_decision.is_none() {
                self.ask_decision(Some(index), code, now);
            }
            return;
        }
        self.decide(now);
    }

    pub(super) fn has_final_in_set(&self) -> bool {
        self.branches.iter().skip(self.first_active).any(|branch| branch.code >= 300)
    }

    /// Puts the question when nothing of the current set is pending any more.
    pub(super) fn decide(&mut self, now: Ms) {
        if self.is_answered() || self.pending_decision.is_some() || self.flags.is_terminated {
            return;
        }
        let mut has_minor = false;
        for branch in self.branches.iter().skip(self.first_active) {
            if branch.is_pending() {
                if !branch.is_minor {
                    return;
                }
                has_minor = true;
            }
        }
        if self.waits_for_count.is_some() {
            return;
        }
        if has_minor {
            if !self.has_final_in_set() {
                return;
            }
            self.cancel_active(now);
        }
        let best = self.best_in_set();
        let fallback = if self.branches.is_empty() { 408 } else { 500 };
        let code = best.map_or(fallback, |(_, code)| code);
        self.ask_decision(best.map(|(index, _)| index), code, now);
    }

    fn ask_decision(&mut self, best: Option<BranchIndex>, code: u16, now: Ms) {
        self.pending_decision = Some(Decision { best, code, branch_count: self.branches.len() });
        self.server.set_guard(Timer::Fr, self.fr, now);
        self.outputs.push(Output::AllBranchesFailed { best, code });
    }

    fn best_in_set(&self) -> Option<(BranchIndex, u16)> {
        self.branches
            .iter()
            .enumerate()
            .skip(self.first_active)
            .filter(|(_, branch)| branch.code >= 300 && !branch.is_pending() && !branch.is_dropped)
            .min_by_key(|(_, branch)| rank_reply(branch.code, self.flags.is_cancelled))
            .map(|(at, branch)| (branch_index(at), branch.code))
    }

    /// A final reply is on its way up: the branches still pending are cancelled (INVITE) or forgotten.
    pub(super) fn end_other_branches(&mut self, winner: Option<BranchIndex>, now: Ms) {
        self.waits_for_count = None;
        self.pending_decision = None;
        let is_success = (200..300).contains(&self.sent_code);
        if self.kind == Kind::Invite && self.flags.keep_branches_after_2xx && is_success {
            return;
        }
        for at in 0..self.branches.len() {
            if winner.is_some_and(|index| index.as_usize() == at) {
                continue;
            }
            if self.kind == Kind::Invite {
                self.cancel_branch(at, now);
            }
            let Some(branch) = self.branches.get_mut(at) else {
                continue;
            };
            if is_success {
                branch.reply = None;
            }
            if self.kind == Kind::Invite {
                branch.machine.stop_retransmitting();
            } else {
                branch.machine.give_up(now, &self.timings);
            }
        }
    }
}
