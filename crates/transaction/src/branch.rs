//! One client branch of a proxy transaction as the engine sees it: its buffers, its outcome. Decides nothing.

use std::time::Duration;

use bytes::Bytes;

use crate::client_machine::{ClientMachine, ClientState};
use crate::timer::Ms;

/// The number of a branch, from 0 in the order of [`crate::Transaction::add_branch`]; stable for the life of the
/// transaction (`$T_branch_idx`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchIndex(pub u8);

impl BranchIndex {
    /// The index for arrays kept beside the transaction.
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }
}

/// What the engine says about a branch it adds.
#[derive(Debug, Clone, Default)]
pub struct BranchSpec {
    /// The request exactly as it goes to the wire.
    pub request: Bytes,
    /// True for TCP, TLS, WebSocket and SCTP destinations: no retransmissions.
    pub is_reliable: bool,
    /// The serial group the branch belongs to; only kept for the engine.
    pub group: u16,
    /// A branch nobody waits for when all others failed (OpenSIPS: tm, `minor_branch_flag`).
    pub is_minor: bool,
    /// Overrides [`crate::Config::fr_timeout`] for this branch.
    pub fr_timeout: Option<Duration>,
    /// Overrides [`crate::Config::fr_inv_timeout`] for this branch.
    pub fr_inv_timeout: Option<Duration>,
}

/// How far the cancelling of a branch has come (RFC 3261 §9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelState {
    /// Nobody asked.
    None,
    /// Asked, but no provisional reply came yet, so nothing may be sent.
    Wanted,
    /// CANCEL sent, its answer is awaited.
    Sent,
    /// CANCEL answered or given up, or overtaken by a final reply.
    Done,
}

impl CancelState {
    /// True once a CANCEL has gone out or lost its purpose.
    pub fn is_sent(self) -> bool {
        matches!(self, CancelState::Sent | CancelState::Done)
    }
}

/// One client branch: read it through [`crate::Transaction::branch`].
#[derive(Debug)]
pub struct Branch<R> {
    pub(crate) machine: ClientMachine,
    pub(crate) request: Bytes,
    pub(crate) cancel: Bytes,
    pub(crate) ack: Bytes,
    pub(crate) reply: Option<R>,
    pub(crate) code: u16,
    pub(crate) is_local_final: bool,
    pub(crate) is_dropped: bool,
    pub(crate) is_minor: bool,
    pub(crate) group: u16,
    pub(crate) fr_inv: Option<Ms>,
}

impl<R> Branch<R> {
    /// The request as sent; empty once the branch was accepted (nothing is built from it any more).
    pub fn request(&self) -> &Bytes {
        &self.request
    }

    /// The CANCEL stored with [`crate::Transaction::set_cancel`]; empty before.
    pub fn cancel(&self) -> &Bytes {
        &self.cancel
    }

    /// The ACK stored with [`crate::Transaction::set_ack`]; empty before.
    pub fn ack(&self) -> &Bytes {
        &self.ack
    }

    /// The negative final reply kept for the choice; `None` before it came, when it is local, and once forwarded.
    pub fn reply(&self) -> Option<&R> {
        self.reply.as_ref()
    }

    /// The last status code of this branch, real or local; 0 before any (`$T_branch_last_reply_code`).
    pub fn code(&self) -> u16 {
        self.code
    }

    /// True when the final code was made here: time-out or transport error (OpenSIPS: tm, `t_local_replied`).
    pub fn is_local_final(&self) -> bool {
        self.is_local_final
    }

    /// True when the branch was taken back with [`crate::Transaction::drop_branch`].
    pub fn is_dropped(&self) -> bool {
        self.is_dropped
    }

    /// True while a final reply is awaited or with the reply routes.
    pub fn is_pending(&self) -> bool {
        self.machine.is_pending()
    }

    /// The state of the client side.
    pub fn state(&self) -> ClientState {
        self.machine.state()
    }

    /// How far the cancelling has come.
    pub fn cancel_state(&self) -> CancelState {
        self.machine.cancel_state()
    }

    /// The serial group given in [`BranchSpec::group`].
    pub fn group(&self) -> u16 {
        self.group
    }

    /// True for a branch nobody waits for ([`BranchSpec::is_minor`]).
    pub fn is_minor(&self) -> bool {
        self.is_minor
    }
}
