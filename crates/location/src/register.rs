//! The rules by which one REGISTER changes the bindings of an address of record (RFC 3261 §10.3), as a function from
//! old bindings to new ones. It parses no SIP, answers nothing and stores nothing.

use std::sync::Arc;

use smallvec::SmallVec;
use thiserror::Error;

use crate::aor::Aor;
use crate::binding::{Binding, BindingError, BindingFields, CONTACT_LABEL_MASK, ContactId, METHODS_ALL, Q_UNSET};
use crate::record::{Bindings, MAX_CONTACTS_PER_AOR, sort_for_routing};
use crate::uri_match::{ContactUri, param_values_match, uris_match};

/// Seconds within which an equal CSeq counts as a retransmission (OpenSIPS: usrloc, `cseq_delay`).
pub const DEFAULT_CSEQ_DELAY_SECS: i64 = 20;

/// More contacts in one REGISTER are refused: each is compared with each stored one.
pub(crate) const CONTACTS_PER_REQUEST_MAX: usize = 100;

/// Longest expiry a registrar grants, ten years; keeps sums of times far from overflow.
pub(crate) const EXPIRES_SECS_MAX: u32 = 315_360_000;

/// When a contact of a request is "the same" as a stored one (OpenSIPS: usrloc, `matching_mode`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Matching {
    /// Equal contact URIs (mode 0, the default).
    #[default]
    Contact,
    /// Equal contact URIs and equal Call-IDs (mode 1).
    ContactAndCallId,
    /// Equal values of these URI parameters; one that is missing on either side counts as equal (mode 2).
    Params(Vec<Vec<u8>>),
    /// Equal values of all of these URI parameters; a contact that lacks one of them is compared by its URI (RFC 8599).
    EachParam(Vec<Vec<u8>>),
}

/// Settings of the registrar for one `save()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterPolicy {
    /// Expiry in seconds when the request names none.
    pub default_expires: u32,
    /// Lower values except 0 are raised to this; 0 = off.
    pub min_expires: u32,
    /// Higher values are lowered to this; 0 = off.
    pub max_expires: u32,
    /// Refuse a value below `min_expires` with [`RegisterError::IntervalTooBrief`] instead of raising it. OpenSIPS
    /// always raises.
    pub reject_too_brief: bool,
    /// Most valid bindings per address of record; 0 = only the hard limit [`MAX_CONTACTS_PER_AOR`].
    pub max_contacts: usize,
    /// When a new binding does not fit, remove the least recently refreshed one (flag `force-registration`, `f`).
    pub force_registration: bool,
    /// How contacts are matched.
    pub matching: Matching,
    /// Accept a REGISTER that repeats the stored CSeq (OpenSIPS: registrar, `allow_dup_cseq`).
    pub allow_duplicate_cseq: bool,
    /// See [`DEFAULT_CSEQ_DELAY_SECS`].
    pub cseq_delay_secs: i64,
    /// A contact with instance and `reg-id` replaces the binding of that flow, whatever its URI (RFC 5626 §6).
    pub matches_flows: bool,
    /// New bindings get ids that no other node can have given: for a table that several nodes write to.
    pub has_foreign_writers: bool,
}

impl Default for RegisterPolicy {
    fn default() -> Self {
        RegisterPolicy {
            default_expires: 3600,
            min_expires: 60,
            max_expires: 0,
            reject_too_brief: false,
            max_contacts: 0,
            force_registration: false,
            matching: Matching::Contact,
            allow_duplicate_cseq: true,
            cseq_delay_secs: DEFAULT_CSEQ_DELAY_SECS,
            matches_flows: false,
            has_foreign_writers: false,
        }
    }
}

/// One value of the Contact header of a REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContactRequest<'a> {
    /// Contact URI without angle brackets.
    pub uri: &'a [u8],
    /// `expires` parameter in seconds.
    pub expires: Option<u32>,
    /// `q` parameter in thousandths, or [`Q_UNSET`].
    pub q_thousandths: i16,
    /// Source URI to store, empty for none.
    pub received: &'a [u8],
    /// `+sip.instance` with angle brackets, without quotes; empty for none.
    pub instance: &'a [u8],
    /// `reg-id`, 0 for none.
    pub reg_id: u32,
    /// Mask of the `methods` parameter; `None` takes that of the request.
    pub methods: Option<u32>,
}

impl<'a> ContactRequest<'a> {
    /// A contact without any parameter.
    pub fn new(uri: &'a [u8]) -> Self {
        ContactRequest {
            uri,
            expires: None,
            q_thousandths: Q_UNSET,
            received: b"",
            instance: b"",
            reg_id: 0,
            methods: None,
        }
    }
}

/// What a REGISTER says, in values. Empty texts mean "not present".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterRequest<'a> {
    /// Call-ID header.
    pub call_id: &'a [u8],
    /// CSeq number.
    pub cseq: u32,
    /// Contacts in the order of the request; none = a query (RFC 3261 §10.3 step 8).
    pub contacts: &'a [ContactRequest<'a>],
    /// True for `Contact: *`, which must be alone and with an Expires of 0.
    pub wildcard: bool,
    /// Expires header in seconds.
    pub expires: Option<u32>,
    /// Path header bodies joined by commas.
    pub path: &'a [u8],
    /// Text of the receiving socket.
    pub socket: &'a [u8],
    /// User-Agent header; `n/a` in the style of OpenSIPS if there was none.
    pub user_agent: &'a [u8],
    /// Attributes the script attached.
    pub attr: &'a [u8],
    /// Key-value store as JSON, for example `{"_st":"vip"}` for an ownership tag; empty keeps the stored one.
    pub kv: &'a [u8],
    /// Bits of [`crate::binding_flags`].
    pub flags: u32,
    /// Branch flags of the request.
    pub branch_flags: u32,
    /// Mask of the Allow header, [`METHODS_ALL`] if there was none.
    pub methods: u32,
    /// Random amount added to the expiry of *new* bindings (OpenSIPS: registrar, `expires_max_deviation`); 0 = none.
    pub expires_deviation_secs: i32,
}

impl Default for RegisterRequest<'_> {
    fn default() -> Self {
        RegisterRequest {
            call_id: b"",
            cseq: 0,
            contacts: &[],
            wildcard: false,
            expires: None,
            path: b"",
            socket: b"",
            user_agent: b"n/a",
            attr: b"",
            kv: b"",
            flags: 0,
            branch_flags: 0,
            methods: METHODS_ALL,
            expires_deviation_secs: 0,
        }
    }
}

/// Why a binding was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemovalReason {
    /// The UA sent an expiry of 0 or `Contact: *`.
    Unregistered,
    /// Its time was over.
    Expired,
    /// It made room for a newer one (`force-registration`).
    Displaced,
    /// By a management command or a script function.
    Administrative,
    /// A peer of the cluster removed it.
    Replicated,
}

/// One thing that happened to a record, in the order it happened; each corresponds to an event of OpenSIPS' usrloc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The record came into being (`E_UL_AOR_INSERT`); stands first.
    AorInserted,
    /// A new binding (`E_UL_CONTACT_INSERT`).
    Inserted(Arc<Binding>),
    /// A binding got new values (`E_UL_CONTACT_UPDATE`); these are the new ones.
    Updated(Arc<Binding>),
    /// A binding was removed (`E_UL_CONTACT_DELETE`); these were its values.
    Removed {
        /// The removed binding.
        binding: Arc<Binding>,
        /// Why.
        reason: RemovalReason,
    },
    /// The record has no binding left and is gone (`E_UL_AOR_DELETE`); stands last.
    AorDeleted,
}

/// What a REGISTER did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterOutcome {
    /// All valid bindings after the request, best first, for the 200 response.
    pub bindings: Vec<Arc<Binding>>,
    /// What changed, ready to be raised as events and replicated. Empty for a query or a retransmission.
    pub changes: Vec<Change>,
    /// The record did not exist before.
    pub aor_created: bool,
    /// The record is gone now.
    pub aor_deleted: bool,
    /// Label of the record (for the replication packet); 0 if there is no record.
    pub record_label: u32,
    /// Label the next new binding gets.
    pub next_contact_label: u16,
}

/// Why a REGISTER was refused; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RegisterError {
    /// The address of record is empty.
    #[error("the address of record is empty")]
    EmptyAor,
    /// `Contact: *` with another contact or with an Expires other than 0 (RFC 3261 §10.3 step 6).
    #[error("a wildcard contact must be alone and with an expiry of 0")]
    BadWildcard,
    /// The Call-ID is known and the CSeq is not higher than the stored one.
    #[error("CSeq {received} is out of order, {stored} was already accepted")]
    OutOfOrder {
        /// CSeq stored with the binding.
        stored: u32,
        /// CSeq of the request.
        received: u32,
    },
    /// One more binding than allowed.
    #[error("more than {max} contacts for one address of record")]
    TooManyContacts {
        /// The limit that was met.
        max: usize,
    },
    /// The requested expiry is below the minimum and the policy refuses that.
    #[error("an expiry below {min_expires} seconds is not accepted")]
    IntervalTooBrief {
        /// For the Min-Expires header.
        min_expires: u32,
    },
    /// A contact cannot be stored.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The table holds as many records as it may.
    #[error("the location table is full")]
    TableFull,
}

impl RegisterError {
    /// The response code OpenSIPS' registrar (and for the brief interval RFC 3261) uses.
    pub fn response_code(&self) -> u16 {
        match self {
            RegisterError::TooManyContacts { .. } | RegisterError::TableFull => 503,
            RegisterError::IntervalTooBrief { .. } => 423,
            RegisterError::Binding(BindingError::TextTooLong { .. }) => 513,
            RegisterError::EmptyAor
            | RegisterError::BadWildcard
            | RegisterError::OutOfOrder { .. }
            | RegisterError::Binding(BindingError::EmptyContact) => 400,
        }
    }
}

impl RegisterPolicy {
    /// Seconds granted for a requested expiry; 0 stays 0 (removal).
    fn granted_expires(&self, requested: Option<u32>) -> Result<u32, RegisterError> {
        let mut granted = requested.unwrap_or(self.default_expires).min(EXPIRES_SECS_MAX);
        if granted == 0 {
            return Ok(0);
        }
        if granted < self.min_expires {
            if self.reject_too_brief {
                return Err(RegisterError::IntervalTooBrief { min_expires: self.min_expires });
            }
            granted = self.min_expires;
        }
        if self.max_expires != 0 {
            granted = granted.min(self.max_expires);
        }
        Ok(granted)
    }

    fn contacts_max(&self) -> usize {
        match self.max_contacts {
            0 => MAX_CONTACTS_PER_AOR,
            max => max.min(MAX_CONTACTS_PER_AOR),
        }
    }
}

/// Looks for the stored binding a contact means.
pub(crate) fn find_match(bindings: &[Arc<Binding>], uri: &[u8], call_id: &[u8], matching: &Matching) -> Option<usize> {
    let parsed = ContactUri::parse(uri);
    let same_uri = |binding: &Binding| {
        binding.contact() == uri
            || parsed.is_some_and(|parsed| {
                ContactUri::parse(binding.contact()).is_some_and(|stored| stored.matches(&parsed))
            })
    };
    match matching {
        Matching::Contact => bindings.iter().position(|binding| same_uri(binding)),
        Matching::ContactAndCallId => {
            bindings.iter().position(|binding| binding.call_id() == call_id && same_uri(binding))
        }
        Matching::Params(names) => {
            bindings.iter().position(|binding| match (parsed, ContactUri::parse(binding.contact())) {
                (Some(new), Some(old)) => names.iter().all(|name| match (new.param(name), old.param(name)) {
                    (Some(new), Some(old)) => param_values_match(new, old),
                    _ => true,
                }),
                _ => uris_match(binding.contact(), uri),
            })
        }
        Matching::EachParam(names) => {
            let is_complete = parsed.is_some_and(|new| names.iter().all(|name| new.param(name).is_some()));
            bindings.iter().position(|binding| match (parsed, ContactUri::parse(binding.contact())) {
                (Some(new), Some(old)) if is_complete => names.iter().all(|name| {
                    new.param(name).zip(old.param(name)).is_some_and(|(new, old)| param_values_match(new, old))
                }),
                _ => same_uri(binding),
            })
        }
    }
}

/// How a request's CSeq stands to a stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    Newer,
    Retransmission,
    OutOfOrder,
}

/// The state the request works on; dropped as a whole when anything is refused.
pub(crate) struct Plan<'a> {
    aor: &'a Aor,
    request: &'a RegisterRequest<'a>,
    policy: &'a RegisterPolicy,
    now: i64,
    record_label: u32,
    pub(crate) next_contact_label: u16,
    pub(crate) bindings: Bindings,
    pub(crate) changes: Vec<Change>,
    /// Ids this request inserted or updated; they are not displaced by it.
    touched: SmallVec<[ContactId; 4]>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        aor: &'a Aor,
        request: &'a RegisterRequest<'a>,
        policy: &'a RegisterPolicy,
        now: i64,
        record: (u32, u16, Bindings),
    ) -> Self {
        let (record_label, next_contact_label, bindings) = record;
        let (changes, touched) = (Vec::new(), SmallVec::new());
        Plan { aor, request, policy, now, record_label, next_contact_label, bindings, changes, touched }
    }

    /// Works out the request; on success `bindings` and `changes` are what to commit.
    pub(crate) fn run(&mut self) -> Result<(), RegisterError> {
        if self.request.wildcard {
            return self.remove_all();
        }
        if self.request.contacts.len() > CONTACTS_PER_REQUEST_MAX {
            return Err(RegisterError::TooManyContacts { max: CONTACTS_PER_REQUEST_MAX });
        }
        let request = self.request;
        request.contacts.iter().try_for_each(|contact| self.apply(contact))
    }

    /// The valid bindings, best first.
    pub(crate) fn valid_bindings(&self) -> Vec<Arc<Binding>> {
        let mut valid: Vec<_> = self.bindings.iter().filter(|binding| binding.is_valid(self.now)).cloned().collect();
        sort_for_routing(&mut valid);
        valid
    }

    fn remove_all(&mut self) -> Result<(), RegisterError> {
        if !self.request.contacts.is_empty() || self.request.expires != Some(0) {
            return Err(RegisterError::BadWildcard);
        }
        for binding in &self.bindings {
            if self.sequence(binding) == Sequence::OutOfOrder {
                return Err(self.out_of_order(binding));
            }
        }
        for binding in std::mem::take(&mut self.bindings) {
            self.changes.push(Change::Removed { binding, reason: RemovalReason::Unregistered });
        }
        Ok(())
    }

    fn apply(&mut self, contact: &ContactRequest<'_>) -> Result<(), RegisterError> {
        let expires = self.policy.granted_expires(contact.expires.or(self.request.expires))?;
        let found = self
            .find_flow(contact)
            .or_else(|| find_match(&self.bindings, contact.uri, self.request.call_id, &self.policy.matching));
        let Some((at, old)) = found.and_then(|at| Some((at, Arc::clone(self.bindings.get(at)?)))) else {
            return if expires == 0 { Ok(()) } else { self.insert(contact, expires) };
        };
        match self.sequence(&old) {
            Sequence::Retransmission => return Ok(()),
            Sequence::OutOfOrder => return Err(self.out_of_order(&old)),
            Sequence::Newer => {}
        }
        if expires == 0 {
            self.bindings.remove(at);
            self.changes.push(Change::Removed { binding: old, reason: RemovalReason::Unregistered });
            return Ok(());
        }
        self.update(contact, expires, at, &old)
    }

    /// The binding of the same flow of the same UA.
    fn find_flow(&self, contact: &ContactRequest<'_>) -> Option<usize> {
        if !self.policy.matches_flows || contact.instance.is_empty() || contact.reg_id == 0 {
            return None;
        }
        let is_flow =
            |binding: &Arc<Binding>| binding.instance() == contact.instance && binding.reg_id() == contact.reg_id;
        self.bindings.iter().position(is_flow)
    }

    fn insert(&mut self, contact: &ContactRequest<'_>, expires: u32) -> Result<(), RegisterError> {
        self.make_room()?;
        let id = ContactId::compose(self.aor.core_hash(), self.record_label, self.next_contact_label);
        let deviated = (i64::from(expires) + i64::from(self.request.expires_deviation_secs)).max(1);
        let binding = Arc::new(Binding::new(id, &self.fields(contact, self.now + deviated))?);
        self.next_contact_label = (self.next_contact_label + 1) & CONTACT_LABEL_MASK;
        self.bindings.push(Arc::clone(&binding));
        self.touched.push(id);
        self.changes.push(Change::Inserted(binding));
        Ok(())
    }

    fn update(
        &mut self,
        contact: &ContactRequest<'_>,
        expires: u32,
        at: usize,
        old: &Binding,
    ) -> Result<(), RegisterError> {
        let mut fields = self.fields(contact, self.now + i64::from(expires));
        if fields.instance.is_empty() {
            fields.instance = old.instance();
        }
        if fields.kv.is_empty() {
            fields.kv = old.kv();
        }
        let binding = Arc::new(Binding::new(old.contact_id(), &fields)?);
        self.touched.push(old.contact_id());
        if !old.is_valid(self.now) {
            // An expired binding comes back to life and counts again.
            self.make_room()?;
        }
        let at = if self.bindings.get(at).is_some_and(|kept| kept.contact_id() == old.contact_id()) {
            Some(at)
        } else {
            self.bindings.iter().position(|kept| kept.contact_id() == old.contact_id())
        };
        if let Some(slot) = at.and_then(|at| self.bindings.get_mut(at)) {
            *slot = Arc::clone(&binding);
        }
        self.changes.push(Change::Updated(binding));
        Ok(())
    }

    fn fields<'f>(&self, contact: &ContactRequest<'f>, expires_at: i64) -> BindingFields<'f>
    where
        'a: 'f,
    {
        BindingFields {
            contact: contact.uri,
            received: contact.received,
            path: self.request.path,
            socket: self.request.socket,
            user_agent: self.request.user_agent,
            call_id: self.request.call_id,
            instance: contact.instance,
            attr: self.request.attr,
            kv: self.request.kv,
            cseq: self.request.cseq,
            q_thousandths: contact.q_thousandths,
            expires_at,
            flags: self.request.flags,
            branch_flags: self.request.branch_flags,
            methods: contact.methods.unwrap_or(self.request.methods),
            last_modified: self.now,
            reg_id: contact.reg_id,
        }
    }

    /// Makes sure one more valid binding fits.
    fn make_room(&mut self) -> Result<(), RegisterError> {
        let max = self.policy.contacts_max();
        let full = RegisterError::TooManyContacts { max };
        while self.bindings.iter().filter(|binding| binding.is_valid(self.now)).count() >= max {
            if !self.policy.force_registration {
                return Err(full);
            }
            let candidates = self.bindings.iter().enumerate();
            let oldest = candidates
                .filter(|(_, binding)| binding.is_valid(self.now) && !self.touched.contains(&binding.contact_id()))
                .min_by_key(|(_, binding)| binding.last_modified())
                .map(|(at, _)| at);
            let binding = self.bindings.remove(oldest.ok_or(full)?);
            self.changes.push(Change::Removed { binding, reason: RemovalReason::Displaced });
        }
        // Expired bindings still in memory count against the hard limit only.
        if self.bindings.len() >= MAX_CONTACTS_PER_AOR {
            return Err(RegisterError::TooManyContacts { max: MAX_CONTACTS_PER_AOR });
        }
        Ok(())
    }

    /// RFC 3261 §10.3 step 7 with the tolerances of OpenSIPS (`allow_dup_cseq`, `cseq_delay`). Another Call-ID is
    /// always newer: it is another UA life.
    fn sequence(&self, stored: &Binding) -> Sequence {
        if stored.call_id() != self.request.call_id {
            return Sequence::Newer;
        }
        let received = i64::from(self.request.cseq) + i64::from(self.policy.allow_duplicate_cseq);
        match received.cmp(&i64::from(stored.cseq())) {
            std::cmp::Ordering::Greater => Sequence::Newer,
            std::cmp::Ordering::Equal if stored.last_modified() + self.policy.cseq_delay_secs > self.now => {
                Sequence::Retransmission
            }
            _ => Sequence::OutOfOrder,
        }
    }

    fn out_of_order(&self, stored: &Binding) -> RegisterError {
        RegisterError::OutOfOrder { stored: stored.cseq(), received: self.request.cseq }
    }
}
