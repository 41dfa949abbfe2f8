//! Address-of-record bindings: registration rules, expiry and replication merge. No I/O, no clock, no SIP parsing
//! (callers hand in the values of the header fields), no storage.
//!
//! * [`LocationTable`] is one usrloc "domain" (`location`): sharded, shared by all workers, closures under short locks.
//! * [`LocationTable::register`] applies one REGISTER atomically (RFC 3261 §10.3).
//! * [`LocationTable::lookup`] gives the valid bindings of an address of record, best first.
//! * [`LocationTable::expire`] removes what is due, found through an ordered index, never by a scan.
//! * `LocationTable::merge_*` apply what a peer of a full-sharing cluster sent (OpenSIPS: usrloc, `usrloc-contact-repl`).
//!
//! Times are UNIX seconds (`i64`); an expiry of 0 means permanent, as in OpenSIPS.

mod aor;
mod binding;
mod merge;
mod record;
mod register;
mod shard;
mod table;
mod uri_match;

pub use aor::Aor;
pub use binding::{
    Binding, BindingError, BindingFields, ContactId, MAX_BINDING_TEXT_BYTES, METHODS_ALL, Q_UNSET, binding_flags,
};
pub use merge::{EMPTY_RECORD_SECS, MergeError, MergeOutcome};
pub use record::{MAX_CONTACTS_PER_AOR, Record};
pub use register::{
    Change, ContactRequest, DEFAULT_CSEQ_DELAY_SECS, Matching, RegisterError, RegisterOutcome, RegisterPolicy,
    RegisterRequest, RemovalReason,
};
pub use table::{Expired, LocationConfig, LocationTable, LocationTotals, LookupFilter, PageCursor};
pub use uri_match::uris_match;

#[cfg(test)]
mod tests;
