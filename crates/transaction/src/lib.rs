//! SIP transactions: the RFC 3261 §17 and RFC 6026 machines, forking and timers as data. No sockets, no clock,
//! no parsing: buffers are opaque [`bytes::Bytes`], replies are a status code and a handle of the caller's choice.
//!
//! A proxy [`Transaction`] is one server transaction and up to [`MAX_BRANCHES`] client branches. A
//! [`ClientTransaction`] is a request of our own. Both follow the same rhythm: call one input
//! (`handle_*`, [`Transaction::add_branch`], [`Transaction::respond_local`] …), then drain `poll_output()`, then put
//! `poll_timeout()` into a [`TimerWheel`] and call `handle_timer(now)` when it is due. Inputs that are late, repeated
//! or out of order are absorbed; nothing here panics on them.
//!
//! # A relayed INVITE, seen from the engine
//!
//! ```text
//! new()                             holds the transaction once for the running script
//! wants_trying()                    true: build 100, respond_local(100, …) -> SendReply
//! next_branch_index(), add_branch() -> SendRequest{branch}
//! release()                         the script ended
//! receive_reply(b, 180)             Process: run the reply routes, then
//! process_reply(b, 180, reply)      -> ForwardReply{b, 180}; build it, set_last_reply(), send
//! receive_reply(b, 486)             -> SendAck{b}
//! process_reply(b, 486, reply)      -> AllBranchesFailed{best}; run DNS fail-over and the failure route, then
//! fail_over_done()                  -> ForwardReply{b, 486}
//! handle_ack()                      … handle_timer() … -> Terminated
//! ```

mod best_reply;
mod branch;
mod client_machine;
mod client_transaction;
mod config;
mod output;
mod server_machine;
mod timer;
mod timer_wheel;
mod transaction;

pub use best_reply::{ReplyRank, rank_reply};
pub use branch::{Branch, BranchIndex, BranchSpec, CancelState};
pub use client_machine::ClientState;
pub use client_transaction::{ClientOutput, ClientTransaction};
pub use config::{Config, Kind};
pub use output::Output;
pub use server_machine::ServerState;
pub use timer::Timer;
pub use timer_wheel::{TimerKey, TimerWheel};
pub use transaction::{AddBranchError, CancelBranches, FailOver, MAX_BRANCHES, ReplyAction, RespondError, Transaction};

#[cfg(test)]
mod tests;
