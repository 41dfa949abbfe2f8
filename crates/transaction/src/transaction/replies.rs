//! Replies from downstream: absorbed, relayed, or kept for the choice (RFC 3261 §16.7). The choice is in `decision`.

use std::time::Instant;

use bytes::Bytes;

use super::{ReplyAction, Transaction};
use crate::branch::BranchIndex;
use crate::client_machine::Receipt;
use crate::config::Kind;
use crate::output::Output;
use crate::timer::Ms;

impl<R> Transaction<R> {
    /// First step for a reply: its retransmissions stop, negative INVITE finals are acknowledged, repeats are absorbed,
    /// a waiting CANCEL goes out on a provisional. Call before the reply routes run; they may be suspended for long.
    pub fn receive_reply(&mut self, index: BranchIndex, code: u16, now: Instant) -> ReplyAction {
        if self.flags.is_terminated {
            return ReplyAction::Absorbed;
        }
        let now = self.epoch.ms(now);
        let Some(branch) = self.branches.get_mut(index.as_usize()) else {
            return ReplyAction::Absorbed;
        };
        let fr_inv = branch.fr_inv.unwrap_or(self.fr_inv);
        let Receipt { is_news, must_ack, must_cancel } = branch.machine.receive(code, fr_inv, now, &self.timings);
        if is_news && code < 200 {
            branch.code = code;
        }
        if must_ack {
            self.outputs.push(Output::SendAck { branch: index });
        }
        if must_cancel {
            self.outputs.push(Output::SendCancel { branch: index, is_retransmission: false });
        }
        if is_news {
            ReplyAction::Process
        } else {
            self.outputs.push(Output::ReplyAbsorbed { branch: index, code });
            ReplyAction::Absorbed
        }
    }

    /// Second step, after the reply routes: relays the reply or keeps it for the choice. Not called for a provisional
    /// reply that a route dropped.
    pub fn process_reply(&mut self, index: BranchIndex, code: u16, reply: R, now: Instant) {
        if self.flags.is_terminated {
            return;
        }
        let now = self.epoch.ms(now);
        let Some(branch) = self.branches.get_mut(index.as_usize()) else {
            return;
        };
        if code < 200 {
            let fr_inv = branch.fr_inv.unwrap_or(self.fr_inv);
            // The reply route may have changed $T_fr_inv_timeout.
            branch.machine.apply_fr_inv(fr_inv, now, &self.timings);
            let is_open = branch.is_pending();
            self.process_provisional(index, code, reply, is_open);
        } else if branch.machine.is_open() {
            // A final reply that was never received cannot have come from the network.
            self.outputs.push(Output::ReplyAbsorbed { branch: index, code });
        } else {
            branch.machine.finish(code, now, &self.timings);
            match (self.kind, code) {
                (Kind::Invite, 200..=299) => self.process_invite_2xx(index, code, reply, now),
                (Kind::NonInvite, 200..=299) => self.process_success(index, code, reply, now),
                (_, 300..=699) => self.process_negative(index, code, reply, now),
                _ => {}
            }
        }
        self.settle(now);
    }

    /// Both steps at once, for replies without reply routes.
    pub fn handle_reply(&mut self, index: BranchIndex, code: u16, reply: R, now: Instant) -> ReplyAction {
        let action = self.receive_reply(index, code, now);
        if action == ReplyAction::Process {
            self.process_reply(index, code, reply, now);
        }
        action
    }

    /// A reply to the CANCEL of a branch; it ends there and is never relayed.
    pub fn handle_cancel_reply(&mut self, index: BranchIndex, code: u16, now: Instant) {
        let now = self.epoch.ms(now);
        if let Some(branch) = self.branches.get_mut(index.as_usize()) {
            branch.machine.receive_cancel_reply(code, now, &self.timings);
        }
        self.settle(now);
    }

    fn process_provisional(&mut self, index: BranchIndex, code: u16, reply: R, is_open: bool) {
        // 100 is hop by hop (RFC 3261 §16.7 step 5); a held provisional may come after the final of its branch.
        if code <= 100 || !is_open || self.is_answered() {
            self.outputs.push(Output::ReplyAbsorbed { branch: index, code });
            return;
        }
        self.sent_code = code;
        self.server.provisional_sent();
        self.outputs.push(Output::ForwardReply { branch: index, code, reply, is_last_reply: true });
    }

    /// Every 2xx to an INVITE goes up, the first, a repeated and a late one (RFC 3261 §16.7 step 5, RFC 6026 §7).
    fn process_invite_2xx(&mut self, index: BranchIndex, code: u16, reply: R, now: Ms) {
        let is_first = !self.is_answered();
        if let Some(branch) = self.branches.get_mut(index.as_usize()) {
            branch.code = code;
            branch.is_local_final = false;
            branch.reply = None;
            branch.request = Bytes::new();
        }
        self.outputs.push(Output::ForwardReply { branch: index, code, reply, is_last_reply: is_first });
        if is_first {
            self.sent_code = code;
            self.server.final_sent(code, false, now, &self.timings);
            self.end_other_branches(Some(index), now);
        }
    }

    fn process_success(&mut self, index: BranchIndex, code: u16, reply: R, now: Ms) {
        let is_late = self.is_answered();
        let Some(branch) = self.branches.get_mut(index.as_usize()) else {
            return;
        };
        if is_late || branch.code >= 200 {
            self.outputs.push(Output::ReplyAbsorbed { branch: index, code });
            return;
        }
        branch.code = code;
        self.sent_code = code;
        self.outputs.push(Output::ForwardReply { branch: index, code, reply, is_last_reply: true });
        self.server.final_sent(code, false, now, &self.timings);
        self.end_other_branches(Some(index), now);
    }

    fn process_negative(&mut self, index: BranchIndex, code: u16, reply: R, now: Ms) {
        let is_ended = self.branches.get(index.as_usize()).is_none_or(|branch| branch.code >= 200);
        if is_ended {
            self.outputs.push(Output::ReplyAbsorbed { branch: index, code });
            return;
        }
        self.branch_failed(index, code, Some(reply), false, now);
    }
}
