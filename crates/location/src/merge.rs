//! How records and contacts sent by a peer of a full-sharing cluster are merged into the table (OpenSIPS: usrloc,
//! capability `usrloc-contact-repl`). It decodes no packet and sends none: nothing received is forwarded.

use std::sync::Arc;

use thiserror::Error;

use crate::aor::Aor;
use crate::binding::{Binding, BindingError, BindingFields, CONTACT_LABEL_MASK, ContactId};
use crate::record::{MAX_CONTACTS_PER_AOR, Record};
use crate::register::{Change, EXPIRES_SECS_MAX, Matching, RemovalReason, find_match};
use crate::shard::Shard;
use crate::table::LocationTable;
use crate::uri_match::ContactUri;

/// How long a record a peer announced may stay without contact, in seconds.
pub const EMPTY_RECORD_SECS: i64 = 60;

/// What a replicated change did here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeOutcome {
    /// Applied; the changes are to be raised as events (and not to be replicated again).
    Applied(Vec<Change>),
    /// Not applied: the record or contact is not here, or what is here is newer.
    Ignored,
}

/// Why a replicated change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MergeError {
    /// The packet names no address of record.
    #[error("the address of record is empty")]
    EmptyAor,
    /// Contact, received or Path is not a SIP URI.
    #[error("the contact or its next hop is not a SIP URI")]
    BadUri,
    /// The expiry lies absurdly far ahead or is negative.
    #[error("the expiry {expires_at} is not plausible")]
    BadExpiry {
        /// The value received, UNIX seconds.
        expires_at: i64,
    },
    /// The record holds as many contacts as it may.
    #[error("more than {MAX_CONTACTS_PER_AOR} contacts for one address of record")]
    TooManyContacts,
    /// The contact cannot be stored.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The table holds as many records as it may.
    #[error("the location table is full")]
    TableFull,
}

impl LocationTable {
    /// Packet type 1: a peer created a record. An existing record is left alone, its key-value store included. A record
    /// that gets no contact is dropped again after [`EMPTY_RECORD_SECS`].
    pub fn merge_record_insert(
        &self,
        aor: &Aor,
        record_label: u32,
        next_contact_label: u16,
        kv: &[u8],
        now: i64,
    ) -> Result<MergeOutcome, MergeError> {
        self.merge(aor, |shard| {
            if shard.find(aor).is_some() {
                return Ok(MergeOutcome::Ignored);
            }
            if shard.is_full() {
                return Err(MergeError::TableFull);
            }
            let mut record = Record::new(aor.clone(), record_label, next_contact_label);
            record.set_kv(kv);
            shard.raise_record_label(record_label);
            shard.insert_record_until(record, now.saturating_add(EMPTY_RECORD_SECS));
            Ok(MergeOutcome::Applied(vec![Change::AorInserted]))
        })
    }

    /// Packet type 2: a peer removed the record with all contacts.
    pub fn merge_record_delete(&self, aor: &Aor) -> Result<MergeOutcome, MergeError> {
        self.merge(aor, |shard| {
            let changes = shard.remove_where(aor, RemovalReason::Replicated, |_| true);
            Ok(if changes.is_empty() { MergeOutcome::Ignored } else { MergeOutcome::Applied(changes) })
        })
    }

    /// Packet type 3 and synchronisation: a contact. A known one is updated only by a higher CSeq of the same Call-ID, or
    /// by another Call-ID.
    pub fn merge_contact_insert(
        &self,
        aor: &Aor,
        contact_id: ContactId,
        fields: &BindingFields<'_>,
        matching: &Matching,
        now: i64,
    ) -> Result<MergeOutcome, MergeError> {
        check(fields, now)?;
        self.merge(aor, |shard| shard.merge_contact(aor, contact_id, fields, matching, Packet::Insert))
    }

    /// Packet type 4: new values of a contact, applied also with an equal CSeq; an unknown one is stored.
    pub fn merge_contact_update(
        &self,
        aor: &Aor,
        contact_id: ContactId,
        fields: &BindingFields<'_>,
        matching: &Matching,
        now: i64,
    ) -> Result<MergeOutcome, MergeError> {
        check(fields, now)?;
        self.merge(aor, |shard| shard.merge_contact(aor, contact_id, fields, matching, Packet::Update))
    }

    /// Packet type 5: a peer removed a contact whose stored CSeq was `cseq`. Refused when a newer one is here. A record
    /// left without contacts goes too.
    pub fn merge_contact_delete(
        &self,
        aor: &Aor,
        contact: &[u8],
        call_id: &[u8],
        cseq: u32,
        matching: &Matching,
    ) -> Result<MergeOutcome, MergeError> {
        self.merge(aor, |shard| {
            let Some(record) = shard.find(aor) else { return Ok(MergeOutcome::Ignored) };
            let found = find_match(&record.bindings, contact, call_id, matching).and_then(|at| record.bindings.get(at));
            let Some(stored) = found.filter(|stored| is_newer(stored, call_id, i64::from(cseq) + 1)) else {
                return Ok(MergeOutcome::Ignored);
            };
            let id = stored.contact_id();
            let is_it = |binding: &Binding| binding.contact_id() == id;
            Ok(MergeOutcome::Applied(shard.remove_where(aor, RemovalReason::Replicated, is_it)))
        })
    }

    fn merge(
        &self,
        aor: &Aor,
        work: impl FnOnce(&mut Shard) -> Result<MergeOutcome, MergeError>,
    ) -> Result<MergeOutcome, MergeError> {
        if aor.is_empty() {
            return Err(MergeError::EmptyAor);
        }
        self.with_shard(aor, work).unwrap_or(Err(MergeError::TableFull))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Packet {
    Insert,
    Update,
}

/// CSeq decides within one Call-ID, arrival otherwise.
fn is_newer(stored: &Binding, call_id: &[u8], cseq: i64) -> bool {
    stored.call_id() != call_id || cseq > i64::from(stored.cseq())
}

fn check(fields: &BindingFields<'_>, now: i64) -> Result<(), MergeError> {
    let expires_at = fields.expires_at;
    if expires_at < 0 || expires_at > now.saturating_add(i64::from(EXPIRES_SECS_MAX)) {
        return Err(MergeError::BadExpiry { expires_at });
    }
    let next_hop = match (first_path_uri(fields.path), fields.received) {
        (Some(path), _) => path,
        (None, b"") => fields.contact,
        (None, received) => received,
    };
    match (ContactUri::parse(fields.contact), ContactUri::parse(next_hop)) {
        (Some(_), Some(_)) => Ok(()),
        _ => Err(MergeError::BadUri),
    }
}

fn first_path_uri(path: &[u8]) -> Option<&[u8]> {
    let path = path.trim_ascii();
    if path.is_empty() {
        return None;
    }
    let from = path.iter().position(|byte| *byte == b'<').map_or(0, |at| at + 1);
    let rest = path.get(from..).unwrap_or_default();
    let end = rest.iter().position(|byte| matches!(byte, b'>' | b',')).unwrap_or(rest.len());
    rest.get(..end)
}

impl Shard {
    fn merge_contact(
        &mut self,
        aor: &Aor,
        contact_id: ContactId,
        fields: &BindingFields<'_>,
        matching: &Matching,
        packet: Packet,
    ) -> Result<MergeOutcome, MergeError> {
        let found = self.find(aor).and_then(|record| {
            record.bindings.get(find_match(&record.bindings, fields.contact, fields.call_id, matching)?)
        });
        let Some(stored) = found.cloned() else {
            return self.merge_new_contact(aor, contact_id, fields, packet);
        };
        let cseq = i64::from(fields.cseq) + i64::from(packet == Packet::Update);
        if !is_newer(&stored, fields.call_id, cseq) {
            return Ok(MergeOutcome::Ignored);
        }
        let mut fields = *fields;
        // Deviation: OpenSIPS keeps the old URI here even when matching by parameters, and the nodes diverge.
        if !matches!(matching, Matching::Params(_)) {
            fields.contact = stored.contact();
        }
        fields.instance = stored.instance();
        fields.reg_id = stored.reg_id();
        if fields.kv.is_empty() {
            fields.kv = stored.kv();
        }
        let changed = self.update_binding(aor, stored.contact_id(), |old| old.with_fields(&fields));
        match changed {
            Some(change) => Ok(MergeOutcome::Applied(vec![change?])),
            None => Ok(MergeOutcome::Ignored),
        }
    }

    fn merge_new_contact(
        &mut self,
        aor: &Aor,
        sent_id: ContactId,
        fields: &BindingFields<'_>,
        packet: Packet,
    ) -> Result<MergeOutcome, MergeError> {
        let mut changes = Vec::with_capacity(2);
        let (record_label, next_label) = match self.find(aor) {
            Some(record) if record.bindings.len() >= MAX_CONTACTS_PER_AOR => return Err(MergeError::TooManyContacts),
            Some(record) => (record.record_label, record.next_contact_label),
            None if self.is_full() => return Err(MergeError::TableFull),
            None if sent_id == ContactId::default() => {
                let label = self.take_record_label();
                (label, self.first_contact_label(label))
            }
            None => (sent_id.record_label(), 0),
        };
        let sent_label = sent_id.contact_label();
        let label = if sent_label >= next_label { sent_label } else { next_label };
        let composed = ContactId::compose(aor.core_hash(), record_label, label);
        let is_taken = |id: ContactId| self.find(aor).is_some_and(|record| record.binding(id).is_some());
        let (id, next_contact_label) = match packet {
            Packet::Update if sent_id != ContactId::default() && !is_taken(sent_id) => {
                (sent_id, next_label.max(sent_label + 1))
            }
            _ => (composed, label + 1),
        };
        let binding = Arc::new(Binding::new(id, fields)?);
        if self.find(aor).is_none() {
            self.raise_record_label(record_label);
            self.insert_record(Record::new(aor.clone(), record_label, 0));
            changes.push(Change::AorInserted);
        }
        changes.push(Change::Inserted(Arc::clone(&binding)));
        self.push_binding(aor, binding, next_contact_label & CONTACT_LABEL_MASK);
        Ok(MergeOutcome::Applied(changes))
    }
}
