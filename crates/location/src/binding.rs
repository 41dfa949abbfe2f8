//! One contact of an address of record, packed into two allocations. It holds values only; when a binding may change is
//! decided in `register` and `merge`.

use std::fmt;

use thiserror::Error;

/// Value of [`BindingFields::q_thousandths`] when the UA gave no q parameter.
pub const Q_UNSET: i16 = -1;

/// Methods mask of a UA that did not tell: everything is allowed.
pub const METHODS_ALL: u32 = u32::MAX;

/// Longest sum of all texts of one binding; a longer one is refused with [`BindingError::TextTooLong`].
pub const MAX_BINDING_TEXT_BYTES: usize = 16 * 1024;

/// Bits of [`BindingFields::flags`] as OpenSIPS' usrloc numbers them.
pub mod binding_flags {
    /// The binding must not be written to a database.
    pub const MEMORY_ONLY: u32 = 1;
    /// The UA asked for push notifications (RFC 8599).
    pub const PUSH_NOTIFICATION: u32 = 4;
}

/// Identifier of a binding on this node: contact label (bits 0–13), record label (14–45), low 16 bits of the AoR's
/// core hash (46–61). Never compare ids of different nodes; they are renumbered by a synchronisation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ContactId(pub u64);

/// Contact labels count modulo this (14 bits).
pub(crate) const CONTACT_LABEL_MASK: u16 = 0x3FFF;

impl ContactId {
    /// Composes an id; labels wider than their field are cut.
    pub fn compose(aor_hash: u32, record_label: u32, contact_label: u16) -> Self {
        let contact = u64::from(contact_label & CONTACT_LABEL_MASK);
        ContactId(contact | u64::from(record_label) << 14 | u64::from(aor_hash & 0xFFFF) << 46)
    }

    /// The part that is unique within the record.
    pub fn contact_label(self) -> u16 {
        (self.0 as u16) & CONTACT_LABEL_MASK
    }

    /// The part that is unique within the AoR's hash slot.
    pub fn record_label(self) -> u32 {
        (self.0 >> 14) as u32
    }

    /// The low 16 bits of the AoR's core hash.
    pub fn aor_hash(self) -> u16 {
        (self.0 >> 46) as u16
    }
}

impl fmt::Debug for ContactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContactId({})", self.0)
    }
}

/// Why a binding cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BindingError {
    /// Contact, Path, User-Agent and the like are longer together than a binding may hold.
    #[error("the texts of the contact take {length} bytes, the limit is {MAX_BINDING_TEXT_BYTES}")]
    TextTooLong {
        /// Sum of all texts in bytes.
        length: usize,
    },
    /// The contact URI is empty.
    #[error("the contact URI is empty")]
    EmptyContact,
}

/// All values of a binding, borrowed: what a binding is made of and what it shows. Texts not given are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingFields<'a> {
    /// Contact URI without angle brackets and header parameters.
    pub contact: &'a [u8],
    /// URI of the address the REGISTER really came from (`sip:ip:port[;transport=..]`).
    pub received: &'a [u8],
    /// Bodies of the Path headers, joined by commas (RFC 3327).
    pub path: &'a [u8],
    /// Text of the receiving socket, `proto:address:port` or `proto:tag`; kept even if it is not a local one.
    pub socket: &'a [u8],
    /// User-Agent header; OpenSIPS writes `n/a` when there was none.
    pub user_agent: &'a [u8],
    /// Call-ID of the last accepted REGISTER.
    pub call_id: &'a [u8],
    /// `+sip.instance` with angle brackets, without quotes (RFC 5626).
    pub instance: &'a [u8],
    /// Attributes a script attached.
    pub attr: &'a [u8],
    /// Key-value store as one unformatted JSON object, or empty.
    pub kv: &'a [u8],
    /// CSeq number of the last accepted REGISTER.
    pub cseq: u32,
    /// Preference in thousandths, or [`Q_UNSET`].
    pub q_thousandths: i16,
    /// Absolute expiry in UNIX seconds; 0 = permanent.
    pub expires_at: i64,
    /// Bits of [`binding_flags`].
    pub flags: u32,
    /// Branch flags of the script as a local bitmask.
    pub branch_flags: u32,
    /// Allowed methods, bits as OpenSIPS numbers them (INVITE 1, CANCEL 2, ACK 4, BYE 8, ...), or [`METHODS_ALL`].
    pub methods: u32,
    /// When the binding was last inserted or updated, UNIX seconds.
    pub last_modified: i64,
    /// `reg-id` of RFC 5626, 0 if none. Not replicated by OpenSIPS.
    pub reg_id: u32,
}

impl Default for BindingFields<'_> {
    fn default() -> Self {
        BindingFields {
            contact: b"",
            received: b"",
            path: b"",
            socket: b"",
            user_agent: b"",
            call_id: b"",
            instance: b"",
            attr: b"",
            kv: b"",
            cseq: 0,
            q_thousandths: Q_UNSET,
            expires_at: 0,
            flags: 0,
            branch_flags: 0,
            methods: METHODS_ALL,
            last_modified: 0,
            reg_id: 0,
        }
    }
}

const TEXT_COUNT: usize = 9;

/// One binding, immutable; an update makes a new one, so a lookup result is a cheap `Arc` that never changes.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// All texts one behind the other: one allocation instead of nine.
    text: Box<[u8]>,
    /// Where each text ends, in the order of [`BindingFields`].
    ends: [u16; TEXT_COUNT],
    q_thousandths: i16,
    cseq: u32,
    expires_at: i64,
    last_modified: i64,
    contact_id: ContactId,
    flags: u32,
    branch_flags: u32,
    methods: u32,
    reg_id: u32,
}

impl Binding {
    /// Packs the fields. Fails on an empty contact or on more than [`MAX_BINDING_TEXT_BYTES`] of text.
    pub fn new(contact_id: ContactId, fields: &BindingFields<'_>) -> Result<Self, BindingError> {
        let texts: [&[u8]; TEXT_COUNT] = [
            fields.contact,
            fields.received,
            fields.path,
            fields.socket,
            fields.user_agent,
            fields.call_id,
            fields.instance,
            fields.attr,
            fields.kv,
        ];
        if fields.contact.is_empty() {
            return Err(BindingError::EmptyContact);
        }
        let length = texts.iter().map(|text| text.len()).sum();
        if length > MAX_BINDING_TEXT_BYTES {
            return Err(BindingError::TextTooLong { length });
        }
        let mut text = Vec::with_capacity(length);
        let mut ends = [0u16; TEXT_COUNT];
        for (end, part) in ends.iter_mut().zip(texts) {
            text.extend_from_slice(part);
            *end = text.len() as u16;
        }
        Ok(Binding {
            text: text.into_boxed_slice(),
            ends,
            q_thousandths: fields.q_thousandths.clamp(Q_UNSET, 1000),
            cseq: fields.cseq,
            expires_at: fields.expires_at,
            last_modified: fields.last_modified,
            contact_id,
            flags: fields.flags,
            branch_flags: fields.branch_flags,
            methods: fields.methods,
            reg_id: fields.reg_id,
        })
    }

    fn text(&self, index: usize) -> &[u8] {
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or_default(),
            None => 0,
        };
        let end = self.ends.get(index).copied().unwrap_or_default();
        self.text.get(usize::from(start)..usize::from(end)).unwrap_or_default()
    }

    /// All values at once: to show them, or to make an updated copy with `BindingFields { cseq: 7, ..old.fields() }`.
    pub fn fields(&self) -> BindingFields<'_> {
        BindingFields {
            contact: self.contact(),
            received: self.received(),
            path: self.path(),
            socket: self.socket(),
            user_agent: self.user_agent(),
            call_id: self.call_id(),
            instance: self.instance(),
            attr: self.attr(),
            kv: self.kv(),
            cseq: self.cseq,
            q_thousandths: self.q_thousandths,
            expires_at: self.expires_at,
            flags: self.flags,
            branch_flags: self.branch_flags,
            methods: self.methods,
            last_modified: self.last_modified,
            reg_id: self.reg_id,
        }
    }

    /// Contact URI without angle brackets.
    pub fn contact(&self) -> &[u8] {
        self.text(0)
    }

    /// Source URI of the REGISTER, empty if it equals the contact or was not noted.
    pub fn received(&self) -> &[u8] {
        self.text(1)
    }

    /// Path header bodies joined by commas (RFC 3327).
    pub fn path(&self) -> &[u8] {
        self.text(2)
    }

    /// Text of the receiving socket.
    pub fn socket(&self) -> &[u8] {
        self.text(3)
    }

    /// User-Agent header.
    pub fn user_agent(&self) -> &[u8] {
        self.text(4)
    }

    /// Call-ID of the last accepted REGISTER.
    pub fn call_id(&self) -> &[u8] {
        self.text(5)
    }

    /// `+sip.instance`, or empty.
    pub fn instance(&self) -> &[u8] {
        self.text(6)
    }

    /// Attributes a script attached, or empty.
    pub fn attr(&self) -> &[u8] {
        self.text(7)
    }

    /// Key-value store as JSON, or empty.
    pub fn kv(&self) -> &[u8] {
        self.text(8)
    }

    /// CSeq number of the last accepted REGISTER.
    pub fn cseq(&self) -> u32 {
        self.cseq
    }

    /// Preference in thousandths, `None` if the UA gave none.
    pub fn q_thousandths(&self) -> Option<u16> {
        u16::try_from(self.q_thousandths).ok()
    }

    /// Absolute expiry in UNIX seconds; 0 = permanent.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Whole seconds until expiry, never negative; `None` = permanent.
    pub fn remaining_secs(&self, now: i64) -> Option<i64> {
        (self.expires_at != 0).then(|| (self.expires_at - now).max(0))
    }

    /// True while the binding may be used for routing.
    pub fn is_valid(&self, now: i64) -> bool {
        self.expires_at == 0 || self.expires_at > now
    }

    /// Bits of [`binding_flags`].
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Branch flags as a local bitmask.
    pub fn branch_flags(&self) -> u32 {
        self.branch_flags
    }

    /// Whether a branch flag is set.
    pub fn has_branch_flag(&self, flag: u8) -> bool {
        self.branch_flags >> u32::from(flag.min(31)) & 1 == 1
    }

    /// Allowed methods mask.
    pub fn methods(&self) -> u32 {
        self.methods
    }

    /// Time of the last insert or update, UNIX seconds.
    pub fn last_modified(&self) -> i64 {
        self.last_modified
    }

    /// `reg-id` of RFC 5626, 0 if none.
    pub fn reg_id(&self) -> u32 {
        self.reg_id
    }

    /// Identifier on this node.
    pub fn contact_id(&self) -> ContactId {
        self.contact_id
    }

    /// Heap bytes behind this binding (its texts), for memory accounting.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("contact", &String::from_utf8_lossy(self.contact()))
            .field("call_id", &String::from_utf8_lossy(self.call_id()))
            .field("cseq", &self.cseq)
            .field("q", &self.q_thousandths)
            .field("expires_at", &self.expires_at)
            .field("last_modified", &self.last_modified)
            .field("contact_id", &self.contact_id)
            .finish_non_exhaustive()
    }
}
