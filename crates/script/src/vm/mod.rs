//! The virtual machine: runs a compiled program over a host until it finishes or has to wait. It owns no message,
//! does no I/O; whatever a statement touches outside the language goes through [`Host`].

mod arguments;
mod control;
mod execute;
mod frame;
mod host;
mod machine;
mod operators;
#[cfg(test)]
mod tests;
mod trace;
mod variables;

pub use host::{Arg, CallMode, Called, Host, Index, LogLevel, MessageContext, RouteId, VarStore};
pub use machine::{CALL_DEPTH_MAX, INSTRUCTIONS_MAX, Machine, Outcome, StartOptions};
pub use operators::TEXT_BYTES_MAX;
pub use trace::Trace;
pub(crate) use variables::{Failed, eval_at, eval_var, kind_name};
pub use variables::{JOIN_BYTES_MAX, path_name, read_var, write_var};
