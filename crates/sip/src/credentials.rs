//! Digest header bodies as received: credentials of a request and challenges of a response. Checking and computing them
//! is done in [`crate::digest`].

use crate::error::ParseError;
use crate::list::Params;
use crate::text::{eq_ignore_case, tail, trim_start};

fn scheme_body(text: &[u8]) -> Result<&[u8], ParseError> {
    let text = trim_start(text);
    match text.get(..6) {
        Some(scheme) if eq_ignore_case(scheme, b"Digest") => {}
        _ => return Err(ParseError::value(0)),
    }
    let body = tail(text, 6);
    let params = trim_start(body);
    if params.is_empty() || params.len() == body.len() {
        return Err(ParseError::value(6));
    }
    Ok(params)
}

/// Quotes removed without resolving escapes: digest hashes the text between the quotes as it stands (RFC 8760 §2.4,
/// RFC 7616 §3.4: `unq()`), and borrowing keeps the hot path free of allocations.
fn bare(text: &[u8]) -> &[u8] {
    match text {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    }
}

/// Digest credentials of an Authorization or Proxy-Authorization header (RFC 3261 §20.7, RFC 8760). Values are given
/// without quotes, escapes inside are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestCredentials<'a> {
    /// Whole `username`, such as `bob` or `bob@example.org`; see also [`DigestCredentials::user`].
    pub username: &'a [u8],
    /// `realm`.
    pub realm: &'a [u8],
    /// `nonce`.
    pub nonce: &'a [u8],
    /// `uri`.
    pub uri: &'a [u8],
    /// `response`, hexadecimal.
    pub response: &'a [u8],
    /// `algorithm`; `None` means MD5.
    pub algorithm: Option<&'a [u8]>,
    /// `qop`.
    pub qop: Option<&'a [u8]>,
    /// `nc`, eight hexadecimal digits.
    pub nc: Option<&'a [u8]>,
    /// `cnonce`.
    pub cnonce: Option<&'a [u8]>,
    /// `opaque`.
    pub opaque: Option<&'a [u8]>,
    /// `auts` of IMS AKA (RFC 3310), for those who need it.
    pub auts: Option<&'a [u8]>,
}

impl<'a> DigestCredentials<'a> {
    /// Parses a header body.
    ///
    /// # Errors
    /// `BadValue` when the scheme is not Digest or one of username, realm, nonce, uri, response is absent.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        let mut found = Self::default();
        let mut seen = 0u8;
        for param in Params::comma_separated(scheme_body(text)?) {
            let Some(raw) = param.value else { continue };
            let value = bare(raw);
            let mut lower = [0u8; 9];
            let Some(name) = lower.get_mut(..param.name.len()) else { continue };
            name.copy_from_slice(param.name);
            name.make_ascii_lowercase();
            match &*name {
                b"username" => (found.username, seen) = (value, seen | 1),
                b"realm" => (found.realm, seen) = (value, seen | 2),
                b"nonce" => (found.nonce, seen) = (value, seen | 4),
                b"uri" => (found.uri, seen) = (value, seen | 8),
                b"response" => (found.response, seen) = (value, seen | 16),
                b"algorithm" => found.algorithm = Some(value),
                b"qop" => found.qop = Some(value),
                b"nc" => found.nc = Some(value),
                b"cnonce" => found.cnonce = Some(value),
                b"opaque" => found.opaque = Some(value),
                b"auts" => found.auts = Some(value),
                _ => {}
            }
        }
        if seen == 31 { Ok(found) } else { Err(ParseError::value(text.len())) }
    }

    /// The part of `username` before the `@`, or all of it.
    #[must_use]
    pub fn user(&self) -> &'a [u8] {
        memchr::memchr(b'@', self.username).map_or(self.username, |at| self.username.get(..at).unwrap_or_default())
    }

    /// The part of `username` behind the `@`, when there is one.
    #[must_use]
    pub fn domain(&self) -> Option<&'a [u8]> {
        memchr::memchr(b'@', self.username).map(|at| tail(self.username, at + 1))
    }

    /// `nc` as a number; `None` when absent or not hexadecimal.
    #[must_use]
    pub fn nonce_count(&self) -> Option<u32> {
        let text = std::str::from_utf8(self.nc?).ok()?;
        if text.starts_with('+') { None } else { u32::from_str_radix(text, 16).ok() }
    }
}

/// A Digest challenge of a WWW-Authenticate or Proxy-Authenticate header (RFC 3261 §20.44, RFC 8760), values without quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestChallenge<'a> {
    /// `realm`.
    pub realm: &'a [u8],
    /// `nonce`.
    pub nonce: &'a [u8],
    /// `algorithm`; `None` means MD5.
    pub algorithm: Option<&'a [u8]>,
    /// `qop` options, comma-separated.
    pub qop: Option<&'a [u8]>,
    /// `opaque`.
    pub opaque: Option<&'a [u8]>,
    /// `domain`.
    pub domain: Option<&'a [u8]>,
    /// Whether `stale=true`.
    pub stale: bool,
}

impl<'a> DigestChallenge<'a> {
    /// Parses a header body.
    ///
    /// # Errors
    /// `BadValue` when the scheme is not Digest or realm or nonce is absent.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        let params = Params::comma_separated(scheme_body(text)?);
        let value = |name: &[u8]| params.value(name).map(bare);
        let (Some(realm), Some(nonce)) = (value(b"realm"), value(b"nonce")) else {
            return Err(ParseError::value(text.len()));
        };
        Ok(Self {
            realm,
            nonce,
            algorithm: value(b"algorithm"),
            qop: value(b"qop"),
            opaque: value(b"opaque"),
            domain: value(b"domain"),
            stale: value(b"stale").is_some_and(|text| eq_ignore_case(text, b"true")),
        })
    }

    /// Whether one of the offered `qop` options is `wanted`.
    #[must_use]
    pub fn offers_qop(&self, wanted: &[u8]) -> bool {
        self.qop.is_some_and(|list| list.split(|&b| b == b',').any(|one| eq_ignore_case(crate::trim(one), wanted)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BODY: &[u8] = b"Digest username=\"bob@dom.org\", realm=\"a, b\",nonce=\"abc=\" , uri=\"sip:example.org\",\r\n response=\"0123\", Algorithm=MD5, qop=auth, nc=0000000a, cnonce=\"cn\", opaque=\"\"";

    #[test]
    fn credentials_are_read_with_commas_in_quotes_and_folds() {
        let found = DigestCredentials::parse(BODY).unwrap();
        assert_eq!(found.username, b"bob@dom.org");
        assert_eq!((found.user(), found.domain()), (&b"bob"[..], Some(&b"dom.org"[..])));
        assert_eq!(found.realm, b"a, b");
        assert_eq!(found.nonce, b"abc=");
        assert_eq!(found.response, b"0123");
        assert_eq!(found.algorithm, Some(&b"MD5"[..]));
        assert_eq!(found.nonce_count(), Some(10));
        assert_eq!(found.opaque, Some(&b""[..]));
    }

    #[test]
    fn incomplete_or_foreign_credentials_are_refused() {
        for text in [
            &b"Basic abc"[..],
            b"Digest",
            b"Digest ",
            b"Digestusername=\"x\"",
            b"Digest username=\"x\", realm=\"y\"",
            b"",
        ] {
            assert!(DigestCredentials::parse(text).is_err());
        }
    }

    #[test]
    fn challenges_are_read() {
        let text = b"DIGEST realm=\"r\", nonce=\"n\", stale=TRUE, algorithm=SHA-256, qop=\"auth,auth-int\"";
        let found = DigestChallenge::parse(text).unwrap();
        assert!(found.stale);
        assert!(found.offers_qop(b"auth-int") && !found.offers_qop(b"auth-conf"));
        assert_eq!(found.algorithm, Some(&b"SHA-256"[..]));
        assert!(DigestChallenge::parse(b"Digest realm=\"r\"").is_err());
    }
}
