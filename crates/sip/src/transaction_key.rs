//! Keys under which transactions are found (RFC 3261 §17.1.3, §17.2.3). The tables are kept elsewhere.

use std::borrow::Borrow;

use smallvec::SmallVec;

use crate::error::ParseError;
use crate::message::Message;
use crate::text::push_decimal;
use crate::{HeaderKind, Method, Via};

/// Start of every branch made after RFC 3261 (§8.1.1.7).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// Kinds of keys never mix, even when their texts agree.
const SERVER: u8 = b'S';
const SERVER_2543: u8 = b'O';
const CLIENT: u8 = b'C';
/// Stands between the parts of a key; no part can contain it, for header bodies with NUL bytes are refused as branch or host.
const SEPARATOR: u8 = 0;

/// A hashable key, kept inline for usual lengths. It equals and hashes like its bytes, so a map can be asked with `&[u8]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionKey(SmallVec<[u8; 96]>);

impl std::hash::Hash for TransactionKey {
    #[inline]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_slice().hash(state);
    }
}

impl Borrow<[u8]> for TransactionKey {
    #[inline]
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl TransactionKey {
    /// The key's bytes.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Key of the server transaction a request belongs to: branch, sent-by and method, where ACK counts as INVITE; for
    /// requests without magic cookie the RFC 2543 rules (request URI, From tag, Call-ID, CSeq number, topmost Via; the To
    /// tag is left out, since it differs between INVITE and ACK).
    ///
    /// # Errors
    /// When the headers this needs are missing or malformed.
    pub fn for_request(request: &Message) -> Result<Self, ParseError> {
        Self::for_request_as(request, request.method())
    }

    /// Key of the INVITE transaction that a CANCEL is about (RFC 3261 §9.2).
    ///
    /// # Errors
    /// As [`TransactionKey::for_request`].
    pub fn of_cancelled(cancel: &Message) -> Result<Self, ParseError> {
        Self::for_request_as(cancel, Method::Invite)
    }

    /// As [`TransactionKey::for_request`] with another method in place of that of the request.
    ///
    /// # Errors
    /// As [`TransactionKey::for_request`].
    pub fn for_request_as(request: &Message, method: Method) -> Result<Self, ParseError> {
        let via = request.top_via()?;
        let method = if method == Method::Ack { Method::Invite } else { method };
        let method_text = if method == Method::Other { request.method_bytes() } else { method.as_bytes() };
        let mut key = SmallVec::new();
        match via.branch {
            // The cookie alone is not unique (RFC 4475 §3.2.1), so such a request falls back to the old rules.
            Some(branch) if via.has_magic_cookie() && branch.len() > MAGIC_COOKIE.len() => {
                key.push(SERVER);
                key.extend_from_slice(branch);
                key.push(SEPARATOR);
                push_sent_by(&via, &mut key);
                key.push(SEPARATOR);
                key.extend_from_slice(method_text);
            }
            _ => push_2543(request, &via, method_text, &mut key)?,
        }
        Ok(Self(key))
    }

    /// Key of the client transaction a reply belongs to: branch of the topmost Via and CSeq method (RFC 3261 §17.1.3).
    ///
    /// # Errors
    /// When Via or CSeq is missing or malformed, or there is no branch.
    pub fn for_reply(reply: &Message) -> Result<Self, ParseError> {
        let via = reply.top_via()?;
        let (_, _, method) = reply.cseq()?;
        Ok(Self::for_client(via.branch.ok_or(ParseError::value(0).in_header(HeaderKind::Via))?, method))
    }

    /// Key of a client transaction with this branch and method.
    #[must_use]
    pub fn for_client(branch: &[u8], method: &[u8]) -> Self {
        let mut key = SmallVec::new();
        key.push(CLIENT);
        key.extend_from_slice(branch);
        key.push(SEPARATOR);
        key.extend_from_slice(method);
        Self(key)
    }
}

/// Host in lower case and port; an absent port differs from a written 5060, as the sender repeats what it wrote.
fn push_sent_by(via: &Via<'_>, key: &mut SmallVec<[u8; 96]>) {
    key.extend(via.host.iter().map(u8::to_ascii_lowercase));
    if let Some(port) = via.port {
        let mut digits = [0u8; 6];
        let mut at = digits.len();
        let mut rest = port;
        while rest > 0 {
            at -= 1;
            if let Some(slot) = digits.get_mut(at) {
                *slot = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
        }
        key.push(b':');
        key.extend_from_slice(crate::text::tail(&digits, at));
    }
}

fn push_2543(request: &Message, via: &Via<'_>, method: &[u8], key: &mut SmallVec<[u8; 96]>) -> Result<(), ParseError> {
    let (number, _, _) = request.cseq()?;
    key.push(SERVER_2543);
    for part in [
        request.request_uri().ok_or(ParseError::BadStartLine)?,
        request.from()?.tag().unwrap_or_default(),
        request.call_id()?,
        via.raw,
        method,
    ] {
        key.extend_from_slice(part);
        key.push(SEPARATOR);
    }
    let mut digits = Vec::with_capacity(10);
    push_decimal(u64::from(number), &mut digits);
    key.extend_from_slice(&digits);
    Ok(())
}
