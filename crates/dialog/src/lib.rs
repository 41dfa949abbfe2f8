//! Calls followed by a proxy: the dialog states, matching, lifetime, values and profiles of OpenSIPS' dialog module. No
//! I/O, no clock, no SIP parsing: callers hand in the values of the header fields and send what the events ask for.
//!
//! * [`DialogTable`] holds all dialogs, sharded; every access is a short closure on a `&mut` [`Dialog`].
//! * [`Dialog`] is the state machine: `on_reply`, `on_request`, `on_failure`, `end`, ... each returns [`Events`].
//! * [`DialogTable::match_request`] finds the dialog of an in-dialog request by the Record-Route cookie or by tags.
//! * [`DialogTable::handle_timeout`] ends dialogs whose lifetime is over and forgets ended ones.
//!
//! * [`DialogTable::restore`] follows a call again that was saved with [`Dialog::saved`].
//!
//! Session timers (RFC 4028) and replication are not here yet.

mod dialog;
mod event;
mod id;
mod machine;
mod profile;
mod saved;
mod sequential;
mod shard;
mod table;
mod value;

pub use dialog::{Dialog, LEGS_MAX, Leg, NewDialog, Routes, TextTooLong, dialog_flags};
pub use event::{DialogEvent, DialogState, Direction, EndReason, Events, Party};
pub use id::DialogId;
pub use machine::{InviteReply, Method, WithinRequest};
pub use profile::{ProfileError, ProfileInfo, ProfileMembership, ValueCount};
pub use saved::{RestoreError, SavedDialog};
pub use sequential::{SequentialRequest, ValidationError};
pub use table::{
    DialogConfig, DialogError, DialogMatch, DialogTable, DialogTotals, MatchMode, MatchRequest, Moment, PageCursor,
    TimedOut,
};
pub use value::{DialogValue, VALUES_MAX, ValueError, Values, ValuesForm};

#[cfg(test)]
mod tests;
