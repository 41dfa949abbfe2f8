//! The proxy transaction: one server side, up to twelve client branches, and what links them. The rules live in the
//! submodules (`inputs`, `replies`, `decision`); builds and parses no message.

mod decision;
mod inputs;
mod replies;

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::branch::{Branch, BranchIndex};
use crate::config::{Config, Kind, Timings, millis};
use crate::output::{Output, Queue};
use crate::server_machine::{ServerMachine, ServerState};
use crate::timer::{Epoch, Ms, NEVER, Timer};

/// The most branches one transaction may have over its whole life, serial ones included (as OpenSIPS).
pub const MAX_BRANCHES: usize = 12;

/// Why [`Transaction::add_branch`] refused a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddBranchError {
    /// [`MAX_BRANCHES`] reached.
    #[error("the transaction already has {MAX_BRANCHES} branches")]
    TooMany,
    /// The client cancelled the request (OpenSIPS: tm, `t_relay` code -3).
    #[error("the request has been cancelled")]
    Cancelled,
    /// A final reply was sent upstream already.
    #[error("the request has been answered")]
    Answered,
    /// A 6xx reply ended the forking (OpenSIPS: tm, `disable_6xx_block`).
    #[error("a 6xx reply ended the forking")]
    Blocked,
    /// The transaction is over.
    #[error("the transaction is over")]
    Terminated,
}

/// Why [`Transaction::respond_local`] sent nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    /// A final reply was sent upstream already.
    #[error("the request has been answered")]
    Answered,
    /// The code is not between 100 and 699.
    #[error("not a SIP status code")]
    BadCode,
    /// The transaction is over.
    #[error("the transaction is over")]
    Terminated,
}

/// What to do with a reply just read, from [`Transaction::receive_reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyAction {
    /// Run the reply routes, then call [`Transaction::process_reply`] (or nothing, for a dropped provisional).
    Process,
    /// A repetition or out of place: nothing more to do but to drain the outputs.
    Absorbed,
}

/// What came of [`Output::AllBranchesFailed`], from [`Transaction::fail_over_done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOver {
    /// New branches were added or are waited for.
    WaitsForBranches,
    /// The failure route replied itself, or a 2xx came meanwhile.
    Answered,
    /// The best reply goes upstream.
    UsesBest,
    /// No decision was owed.
    NothingOwed,
}

/// Which branches [`Transaction::cancel_branches`] means (OpenSIPS: tm, `t_cancel_branch` flags).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelBranches {
    /// Every pending branch (`a`).
    All,
    /// Every pending branch but this one (`o`).
    Others(BranchIndex),
    /// Only this one.
    One(BranchIndex),
}

/// A request that came in, its forwarded copies, and the replies on their way back. `R` is the engine's handle of a
/// received reply (a shared message, a buffer); one is kept per failed branch until the choice is made.
#[derive(Debug)]
pub struct Transaction<R> {
    kind: Kind,
    epoch: Epoch,
    timings: Timings,
    server: ServerMachine,
    branches: SmallVec<[Branch<R>; 4]>,
    outputs: Queue<Output<R>>,
    last_reply: Bytes,
    /// Code of the last reply sent upstream, 0 before any.
    sent_code: u16,
    /// Scripts that still work on this transaction.
    holds: u32,
    fr: Ms,
    fr_inv: Ms,
    /// Start of the current serial set of branches.
    first_active: usize,
    /// The decision the engine owes us.
    pending_decision: Option<Decision>,
    /// OpenSIPS: tm, `t_wait_for_new_branches`: the branch count that ends the wait.
    waits_for_count: Option<usize>,
    flags: Flags,
}

#[derive(Debug, Clone, Copy)]
struct Decision {
    best: Option<BranchIndex>,
    code: u16,
    /// Branches that existed when the question was put.
    branch_count: usize,
}

#[derive(Debug, Clone, Copy)]
struct Flags {
    is_cancelled: bool,
    is_terminated: bool,
    no_new_branches: bool,
    auto_100_trying: bool,
    disable_6xx_block: bool,
    keep_branches_after_2xx: bool,
}

impl<R> Transaction<R> {
    /// A transaction for a request just received. It starts held once, by the script that will run on it: call
    /// [`Transaction::release`] when that script has ended.
    pub fn new(kind: Kind, config: &Config, now: Instant) -> Self {
        let timings = Timings::new(config);
        Transaction {
            kind,
            epoch: Epoch::new(now),
            server: ServerMachine::new(kind, config.is_reliable, &timings),
            branches: SmallVec::new(),
            outputs: Queue::new(),
            last_reply: Bytes::new(),
            sent_code: 0,
            holds: 1,
            fr: timings.fr,
            fr_inv: timings.fr_inv,
            first_active: 0,
            pending_decision: None,
            waits_for_count: None,
            flags: Flags {
                is_cancelled: false,
                is_terminated: false,
                no_new_branches: false,
                auto_100_trying: config.auto_100_trying,
                disable_6xx_block: config.disable_6xx_block,
                keep_branches_after_2xx: config.keep_branches_after_2xx,
            },
            timings,
        }
    }

    /// The next thing to do; drain after every input.
    pub fn poll_output(&mut self) -> Option<Output<R>> {
        self.outputs.pop()
    }

    /// When [`Transaction::handle_timer`] wants to be called; `None` when no timer is armed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let branches = self.branches.iter().map(|branch| branch.machine.next_deadline()).min();
        self.epoch.instant(self.server.next_deadline().min(branches.unwrap_or(NEVER)))
    }

    /// The armed timers, for MI and tests; those of the server side come without a branch.
    pub fn armed_timers(&self) -> impl Iterator<Item = (Option<BranchIndex>, Timer, Instant)> + '_ {
        let server = self.server.armed().map(|(timer, at)| (None, timer, at));
        let branches = self
            .indexed()
            .flat_map(|(index, branch)| branch.machine.armed().map(move |(timer, at)| (Some(index), timer, at)));
        server.chain(branches).filter_map(|(branch, timer, at)| Some((branch, timer, self.epoch.instant(at)?)))
    }

    /// INVITE or not.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the server side stands.
    pub fn server_state(&self) -> ServerState {
        self.server.state()
    }

    /// True when a 100 Trying is due (OpenSIPS: tm, `auto_100trying`): an INVITE, nothing sent yet.
    pub fn wants_trying(&self) -> bool {
        self.kind == Kind::Invite
            && self.flags.auto_100_trying
            && self.sent_code == 0
            && self.server.state() == ServerState::Trying
    }

    /// The last reply sent upstream, as bytes; empty before any.
    pub fn last_reply(&self) -> &Bytes {
        &self.last_reply
    }

    /// The status code of the last reply sent upstream, 0 before any (`$T_reply_code` in a request route).
    pub fn sent_code(&self) -> u16 {
        self.sent_code
    }

    /// True once a final reply went upstream.
    pub fn is_answered(&self) -> bool {
        self.sent_code >= 200
    }

    /// True once the client sent CANCEL (OpenSIPS: tm, `t_was_cancelled`).
    pub fn was_cancelled(&self) -> bool {
        self.flags.is_cancelled
    }

    /// True after [`Output::Terminated`] was queued.
    pub fn is_terminated(&self) -> bool {
        self.flags.is_terminated
    }

    /// Until when it stays, if all it does until then is to repeat its final reply and to absorb what comes again: its owner
    /// can keep [`Transaction::repeatable_reply`] until that moment instead. Never for INVITE, whose late replies pass.
    pub fn lingers_until(&self) -> Option<Instant> {
        let is_over = self.kind == Kind::NonInvite
            && matches!(self.server.state(), ServerState::Completed | ServerState::Terminated)
            && !self.flags.is_terminated
            && self.holds == 0
            && self.pending_decision.is_none()
            && self.outputs.is_empty()
            && !self.has_pending_branches();
        if !is_over {
            return None;
        }
        let branches = self.branches.iter().map(|branch| branch.machine.next_deadline());
        let last = branches.chain([self.server.next_deadline()]).filter(|at| *at != NEVER).max();
        last.and_then(|at| self.epoch.instant(at))
    }

    /// The reply that a repeated request is answered with, empty for none.
    pub fn repeatable_reply(&self) -> Bytes {
        if self.server.answers_repeats() { self.last_reply.clone() } else { Bytes::new() }
    }

    /// True while the engine owes [`Transaction::fail_over_done`].
    pub fn is_deciding(&self) -> bool {
        self.pending_decision.is_some()
    }

    /// The branch, if that many were added.
    pub fn branch(&self, index: BranchIndex) -> Option<&Branch<R>> {
        self.branches.get(index.as_usize())
    }

    /// How many branches were added so far, dropped ones included.
    pub fn branch_count(&self) -> usize {
        self.branches.len()
    }

    /// All branches in the order they were added.
    pub fn branches(&self) -> impl Iterator<Item = (BranchIndex, &Branch<R>)> {
        self.indexed()
    }

    /// The branches of the current serial set (`$tm.branch.*[…]/active`): those added since the last failure.
    pub fn active_branches(&self) -> Range<usize> {
        self.first_active..self.branches.len()
    }

    /// The index the next added branch will have: needed for its Via before its bytes exist.
    pub fn next_branch_index(&self) -> BranchIndex {
        branch_index(self.branches.len())
    }

    /// Whether any branch still awaits a final reply.
    pub fn has_pending_branches(&self) -> bool {
        self.branches.iter().any(Branch::is_pending)
    }

    /// The branches of the current set that ended with 401 or 407: all their challenges belong into the best reply
    /// when that is one of them (RFC 3261 §16.7 step 7). The winner's reply is in the output, no longer in its branch.
    pub fn challenged_branches(&self) -> impl Iterator<Item = (BranchIndex, &Branch<R>)> {
        let first = self.first_active;
        self.indexed().skip(first).filter(|(_, branch)| matches!(branch.code, 401 | 407))
    }

    /// Keeps the bytes built for a forwarded reply, for repeated requests and timer G. After a final one the replies
    /// kept for the choice (and for [`Transaction::challenged_branches`]) are let go.
    pub fn set_last_reply(&mut self, reply: Bytes) {
        if self.is_answered() {
            for branch in &mut self.branches {
                branch.reply = None;
            }
        }
        if !self.flags.is_terminated {
            self.last_reply = reply;
        }
    }

    /// Keeps the CANCEL built for a branch.
    pub fn set_cancel(&mut self, index: BranchIndex, cancel: Bytes) {
        if let Some(branch) = self.branches.get_mut(index.as_usize()) {
            branch.cancel = cancel;
        }
    }

    /// Keeps the ACK built for a branch.
    pub fn set_ack(&mut self, index: BranchIndex, ack: Bytes) {
        if let Some(branch) = self.branches.get_mut(index.as_usize()) {
            branch.ack = ack;
        }
    }

    /// Changes the final-reply waits for what starts from now on: new branches, and the next provisional reply
    /// (`$T_fr_timeout`, `$T_fr_inv_timeout`). `None` goes back to the configured value.
    pub fn set_fr_timeouts(&mut self, fr: Option<Duration>, fr_inv: Option<Duration>) {
        self.fr = fr.map_or(self.timings.fr, millis);
        self.fr_inv = fr_inv.map_or(self.timings.fr_inv, millis);
    }

    /// The waits now in force: first reply, then final reply of a ringing INVITE.
    pub fn fr_timeouts(&self) -> (Duration, Duration) {
        (Duration::from_millis(u64::from(self.fr)), Duration::from_millis(u64::from(self.fr_inv)))
    }

    /// Whether branches or outputs ever outgrew their inline place.
    #[cfg(test)]
    pub(crate) fn has_spilled(&self) -> bool {
        self.branches.spilled() || self.outputs.has_spilled()
    }

    fn indexed(&self) -> impl Iterator<Item = (BranchIndex, &Branch<R>)> {
        self.branches.iter().enumerate().map(|(at, branch)| (branch_index(at), branch))
    }

    /// After every input: is there still anything to wait for?
    fn settle(&mut self, now: Ms) {
        if self.flags.is_terminated {
            return;
        }
        let has_pending = self.has_pending_branches();
        let is_unanswered = matches!(self.server.state(), ServerState::Trying | ServerState::Proceeding);
        if is_unanswered
            && self.holds == 0
            && !has_pending
            && self.pending_decision.is_none()
            && self.waits_for_count.is_none()
            && self.server.is_idle()
        {
            if self.sent_code == 0 || self.kind == Kind::NonInvite {
                self.server.abandon(self.timings.wt, now);
            } else {
                // A parked call (OpenSIPS: tm, t_reply(180) and exit): someone may still answer it.
                self.server.set_guard(Timer::FrInv, self.fr_inv, now);
            }
        }
        if self.holds == 0
            && self.server.is_terminated()
            && self.branches.iter().all(|branch| branch.machine.is_terminated())
        {
            self.flags.is_terminated = true;
            self.pending_decision = None;
            self.waits_for_count = None;
            self.outputs.push(Output::Terminated);
        }
    }
}

fn branch_index(at: usize) -> BranchIndex {
    BranchIndex(u8::try_from(at).unwrap_or(u8::MAX))
}
