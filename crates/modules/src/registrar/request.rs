//! What a REGISTER says, read from its headers into the values the location table works on. It changes nothing.

use std::borrow::Cow;

use smallvec::SmallVec;
use tandem_location::{ContactRequest, METHODS_ALL, Q_UNSET, RegisterError};
use tandem_sip::{ContactValue, HeaderKind, Message, Method, NameAddr};

use super::AorError;
use super::config::Registrar;
use super::flags::{PathMode, SaveFlags};

/// Longest Call-ID accepted.
const CALL_ID_BYTES_MAX: usize = 255;

/// Why a REGISTER is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The address of record cannot be used.
    Aor(AorError),
    /// A header is missing or cannot be parsed.
    Unparsable(&'static str),
    /// A contact or source URI is longer than `max_contact_len`.
    ContactTooLong,
    /// The Call-ID is too long.
    CallIdTooLong,
    /// There is a Path and the UA does not support it (path-strict).
    PathUnsupported,
    /// The location table refused.
    Table(RegisterError),
    /// The push notification service that a contact names is not here, or it lacks what is needed (RFC 8599 §5.3).
    PushUnsupported,
    /// The domain cannot be used now.
    NoTable,
    /// The database did not take the change (write-through).
    NotWritten,
}

impl Refusal {
    /// The reply code and the text of the `P-Registrar-Error` header.
    pub(super) fn reply(&self) -> (u16, &'static str) {
        match self {
            Refusal::Aor(AorError::NoUser) => (400, "No username in the address of record"),
            Refusal::Aor(AorError::Unparsable) => (400, "Address of record cannot be parsed"),
            Refusal::Aor(AorError::TooLong) => (500, "Address of record too long"),
            Refusal::Unparsable(what) => (400, what),
            Refusal::ContactTooLong => (400, "Contact or received too long"),
            Refusal::CallIdTooLong => (400, "Call-ID too long"),
            Refusal::PathUnsupported => (420, "Path found but not supported"),
            Refusal::Table(error) => (error.response_code(), table_text(error)),
            Refusal::PushUnsupported => (555, "Push notification service not supported"),
            Refusal::NoTable => (500, "Location table not available"),
            Refusal::NotWritten => (500, "Location table not written"),
        }
    }
}

fn table_text(error: &RegisterError) -> &'static str {
    match error {
        RegisterError::EmptyAor => "Empty address of record",
        RegisterError::BadWildcard => "Contact * must be alone and expire at once",
        RegisterError::OutOfOrder { .. } => "CSeq out of order",
        RegisterError::TooManyContacts { .. } => "Too many registered contacts",
        RegisterError::IntervalTooBrief { .. } => "Expiry too brief",
        RegisterError::Binding(_) => "Contact cannot be stored",
        RegisterError::TableFull => "Location table full",
    }
}

/// The contacts of a request.
#[derive(Debug, Default)]
pub(super) struct ContactList<'m> {
    pub(super) contacts: SmallVec<[ContactRequest<'m>; 2]>,
    pub(super) is_star: bool,
}

/// Reads all contacts. `received` is the source URI to store with each.
pub(super) fn contacts<'m>(
    message: &'m Message,
    registrar: &Registrar,
    received: &'m [u8],
) -> Result<ContactList<'m>, Refusal> {
    let mut list = ContactList::default();
    if received.len() > registrar.limits.contact_max {
        return Err(Refusal::ContactTooLong);
    }
    for value in message.contacts() {
        match value.map_err(|_| Refusal::Unparsable("Contact cannot be parsed"))? {
            ContactValue::Star => list.is_star = true,
            ContactValue::Address(address) => list.contacts.push(contact(&address, registrar, received)?),
        }
    }
    Ok(list)
}

fn contact<'m>(
    address: &NameAddr<'m>,
    registrar: &Registrar,
    received: &'m [u8],
) -> Result<ContactRequest<'m>, Refusal> {
    if address.uri.len() > registrar.limits.contact_max {
        return Err(Refusal::ContactTooLong);
    }
    if address.is_ambiguous() || address.parsed_uri().is_err() {
        return Err(Refusal::Unparsable("Contact cannot be parsed"));
    }
    // One pass over the parameters: most contacts have one or two.
    let mut contact =
        ContactRequest { q_thousandths: registrar.default_q, received, ..ContactRequest::new(address.uri) };
    for param in address.params.iter() {
        let value = param.value.unwrap_or_default();
        match param.name.len() {
            1 if param.name.eq_ignore_ascii_case(b"q") => {
                let q = address.q().ok_or(Refusal::Unparsable("q of a contact cannot be parsed"))?;
                contact.q_thousandths = q.cast_signed();
            }
            6 if param.name.eq_ignore_ascii_case(b"reg-id") => {
                contact.reg_id = tandem_sip::parse_u32(value).unwrap_or(0);
            }
            7 if param.name.eq_ignore_ascii_case(b"expires") => contact.expires = address.expires(),
            7 if param.name.eq_ignore_ascii_case(b"methods") => {
                contact.methods = Some(methods_in(unquoted(value)));
            }
            13 if param.name.eq_ignore_ascii_case(b"+sip.instance") => contact.instance = unquoted(value),
            _ => {}
        }
    }
    debug_assert!(contact.q_thousandths >= Q_UNSET);
    Ok(contact)
}

/// Without quotes; escapes do not occur in what is read this way.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

fn methods_in(list: &[u8]) -> u32 {
    list.split(|byte| *byte == b',')
        .map(|name| Method::from_bytes(tandem_sip::trim(name)).id())
        .fold(0, |mask, id| mask | id)
}

/// Methods of the Allow headers; all when there are none.
pub(super) fn allowed_methods(message: &Message) -> u32 {
    if !message.has(HeaderKind::Allow) {
        return METHODS_ALL;
    }
    let values = message.headers_of(HeaderKind::Allow).map(|entry| methods_in(message.value(entry)));
    values.fold(0, |mask, id| mask | id)
}

/// The Call-ID.
pub(super) fn call_id(message: &Message) -> Result<&[u8], Refusal> {
    let call_id = message.call_id().map_err(|_| Refusal::Unparsable("Call-ID missing"))?;
    if call_id.len() > CALL_ID_BYTES_MAX { Err(Refusal::CallIdTooLong) } else { Ok(call_id) }
}

/// Whether the UA says it supports an extension such as `path` (RFC 3327 §5.1), `gruu` or `outbound`.
pub(super) fn supports(message: &Message, tag: &[u8]) -> bool {
    message.values_of(HeaderKind::Supported).any(|value| value.bytes.eq_ignore_ascii_case(tag))
}

/// Path headers as the flags want them.
#[derive(Debug, Default)]
pub(super) struct PathVector<'m> {
    /// Bodies joined by commas; empty when nothing is to be stored.
    pub(super) stored: Cow<'m, [u8]>,
    /// Whether it is shown in the reply.
    pub(super) is_shown: bool,
    /// `received` parameter of the first Path URI, with flag path-received.
    pub(super) received: Option<Vec<u8>>,
}

/// Reads the Path headers.
pub(super) fn path<'m>(message: &'m Message, flags: &SaveFlags) -> Result<PathVector<'m>, Refusal> {
    if flags.path == PathMode::Ignore || !message.has(HeaderKind::Path) {
        return Ok(PathVector::default());
    }
    let is_supported = supports(message, b"path");
    if flags.path == PathMode::Strict && !is_supported {
        return Err(Refusal::PathUnsupported);
    }
    let mut received = None;
    for (at, hop) in message.name_addrs(HeaderKind::Path).enumerate() {
        let hop = hop.ok().and_then(|hop| hop.parsed_uri().ok()).ok_or(Refusal::Unparsable("Path cannot be parsed"))?;
        if at == 0 && flags.path_received {
            let value = hop.param(b"received").map(|value| tandem_sip::unescape_percent(unquoted(value)).into_owned());
            received = value.filter(|value| tandem_sip::Uri::parse(value).is_ok());
        }
    }
    Ok(PathVector { stored: joined(message), is_shown: flags.path != PathMode::Off && is_supported, received })
}

/// All Path bodies behind each other.
pub(super) fn joined(message: &Message) -> Cow<'_, [u8]> {
    let mut bodies = message.headers_of(HeaderKind::Path).map(|entry| message.unfolded(entry));
    let first = bodies.next().unwrap_or_default();
    let mut all = first;
    for body in bodies {
        let all = all.to_mut();
        all.push(b',');
        all.extend_from_slice(&body);
    }
    all
}
