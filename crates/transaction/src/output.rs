//! What a proxy transaction asks of its engine, and the queue it waits in. Performs nothing itself.

use smallvec::SmallVec;

use crate::branch::BranchIndex;

/// One thing to do or to know, from [`crate::Transaction::poll_output`]. `R` is the engine's reply handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<R> {
    /// Send [`crate::Branch::request`] to the branch's destination.
    SendRequest {
        /// The branch to send.
        branch: BranchIndex,
        /// 0 for the first sending, then the number of the retransmission (statistics `retransmission_req_T1_1` …).
        attempt: u8,
    },
    /// Send [`crate::Transaction::last_reply`] upstream.
    SendReply {
        /// True when this reply has been sent before.
        is_retransmission: bool,
    },
    /// Build the upstream form of this reply and send it.
    ForwardReply {
        /// The branch it came from.
        branch: BranchIndex,
        /// Its status code; never 100.
        code: u16,
        /// The handle given to `process_reply`.
        reply: R,
        /// True when the built bytes must go to [`crate::Transaction::set_last_reply`]; false for repeated and late
        /// 2xx, which pass through without being kept.
        is_last_reply: bool,
    },
    /// Build a reply of our own with this code and give it to [`crate::Transaction::respond_local`] (408 after
    /// time-outs, 487 for a cancelled request, 503 after transport errors).
    LocalReply {
        /// The branch whose outcome won, if there is one.
        branch: Option<BranchIndex>,
        /// The status code to answer with.
        code: u16,
    },
    /// All branches of the current set ended without success: try the next DNS address, run the failure route, then
    /// call [`crate::Transaction::fail_over_done`].
    AllBranchesFailed {
        /// The branch with the best reply; `None` when there was no branch to wait for.
        best: Option<BranchIndex>,
        /// The code that goes upstream if nothing else happens.
        code: u16,
    },
    /// Send the hop-by-hop ACK of this branch: [`crate::Branch::ack`], built and stored with
    /// [`crate::Transaction::set_ack`] the first time (RFC 3261 §17.1.1.3).
    SendAck {
        /// The branch whose negative final is acknowledged.
        branch: BranchIndex,
    },
    /// Send the CANCEL of this branch: [`crate::Branch::cancel`], built and stored with
    /// [`crate::Transaction::set_cancel`] the first time (RFC 3261 §9.1).
    SendCancel {
        /// The branch to cancel.
        branch: BranchIndex,
        /// True when this CANCEL has been sent before.
        is_retransmission: bool,
    },
    /// A branch got no (final) reply in time and now counts as answered with `code`; for statistics and callbacks.
    BranchTimeout {
        /// The branch.
        branch: BranchIndex,
        /// 408, or 487 when the request had been cancelled.
        code: u16,
        /// True when the branch had not even sent a provisional reply.
        was_silent: bool,
    },
    /// A reply was consumed: a retransmission, a 100, one that lost against another, or one kept for the choice of
    /// the best reply.
    ReplyAbsorbed {
        /// The branch it came from.
        branch: BranchIndex,
        /// Its status code.
        code: u16,
    },
    /// The transaction is over: remove it. Comes exactly once and last.
    Terminated,
}

/// A first-in first-out queue that allocates only beyond eight entries and keeps no hole when drained.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: SmallVec<[Option<T>; 8]>,
    head: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Queue { items: SmallVec::new(), head: 0 }
    }

    #[cfg(test)]
    pub(crate) fn has_spilled(&self) -> bool {
        self.items.spilled()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn push(&mut self, item: T) {
        self.items.push(Some(item));
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let item = self.items.get_mut(self.head).and_then(Option::take);
        self.head += 1;
        if self.head >= self.items.len() {
            self.items.clear();
            self.head = 0;
        }
        item
    }
}
