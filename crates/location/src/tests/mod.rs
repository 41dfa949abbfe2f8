//! Tests of the location crate.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod keys;
mod properties;
mod registration;
mod replication;
mod table;

use std::sync::Arc;

use crate::{
    Aor, Binding, Change, ContactRequest, LocationConfig, LocationTable, LookupFilter, RegisterError, RegisterOutcome,
    RegisterPolicy, RegisterRequest, RemovalReason,
};

pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) fn new_table() -> LocationTable {
    LocationTable::new(&LocationConfig { shard_count: 4, aors_max: 1000, seed: 7 })
}

pub(crate) fn alice() -> Aor {
    Aor::from("alice@example.com")
}

pub(crate) fn contact(uri: &str) -> ContactRequest<'_> {
    ContactRequest::new(uri.as_bytes())
}

/// A REGISTER with default policy and Call-ID `c`.
pub(crate) fn register(
    table: &LocationTable,
    cseq: u32,
    expires: u32,
    contacts: &[ContactRequest<'_>],
    now: i64,
) -> Result<RegisterOutcome, RegisterError> {
    let request =
        RegisterRequest { call_id: b"c", cseq, contacts, expires: Some(expires), ..RegisterRequest::default() };
    table.register(&alice(), &request, &RegisterPolicy::default(), now)
}

pub(crate) fn contacts_of(bindings: &[Arc<Binding>]) -> Vec<String> {
    bindings.iter().map(|binding| String::from_utf8_lossy(binding.contact()).into_owned()).collect()
}

pub(crate) fn lookup(table: &LocationTable, now: i64) -> Vec<String> {
    contacts_of(&table.lookup(&alice(), now, &LookupFilter::default()))
}

/// Changes as short words: `+aor`, `+sip:a@h`, `~sip:a@h`, `-sip:a@h Expired`, `-aor`.
pub(crate) fn words(changes: &[Change]) -> Vec<String> {
    let name = |binding: &Binding| String::from_utf8_lossy(binding.contact()).into_owned();
    let word = |change: &Change| match change {
        Change::AorInserted => "+aor".to_owned(),
        Change::Inserted(binding) => format!("+{}", name(binding)),
        Change::Updated(binding) => format!("~{}", name(binding)),
        Change::Removed { binding, reason: RemovalReason::Unregistered } => format!("-{}", name(binding)),
        Change::Removed { binding, reason } => format!("-{} {reason:?}", name(binding)),
        Change::AorDeleted => "-aor".to_owned(),
    };
    changes.iter().map(word).collect()
}
