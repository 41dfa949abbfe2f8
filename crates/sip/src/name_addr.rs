//! The `name-addr` / `addr-spec` bodies of From, To, Contact, Route and their kind (RFC 3261 §20.10). The URI inside is
//! found, not parsed.

use crate::error::{ParseError, UriError};
use crate::list::Params;
use crate::text::{skip_quoted, sub, tail, trim, trim_end, trim_start};
use crate::uri::Uri;

/// One address: display name, URI, header parameters. In the bare form (no angle brackets) everything behind the
/// first `;` belongs to the header, not to the URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The whole value.
    pub raw: &'a [u8],
    /// The display name as received, quotes kept; empty when absent.
    pub display: &'a [u8],
    /// The URI text without brackets.
    pub uri: &'a [u8],
    /// The header parameters.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Parses one value (not a comma list).
    ///
    /// # Errors
    /// `BadValue` with the offset where the text stops following the grammar.
    #[inline]
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        let raw = trim(text);
        let lead = text.len() - trim_start(text).len();
        let Some(open) = find_bracket(raw).map_err(|at| ParseError::value(lead + at))? else {
            return Self::parse_bare(raw, lead);
        };
        let after = tail(raw, open + 1);
        let close = memchr::memchr(b'>', after).ok_or_else(|| ParseError::value(lead + raw.len()))?;
        let behind = open + 1 + close + 1;
        let rest = trim_start(tail(raw, behind));
        let params = match rest {
            [] => Params::default(),
            [b';', params @ ..] => Params::new(params),
            _ => return Err(ParseError::value(lead + behind)),
        };
        let uri = trim(sub(after, 0, close));
        if uri.is_empty() {
            return Err(ParseError::value(lead + open + 1));
        }
        Ok(Self { raw, display: trim_end(sub(raw, 0, open)), uri, params })
    }

    fn parse_bare(raw: &'a [u8], lead: usize) -> Result<Self, ParseError> {
        let end = memchr::memchr(b';', raw).unwrap_or(raw.len());
        let uri = trim_end(sub(raw, 0, end));
        if uri.is_empty() || memchr::memchr3(b' ', b'\t', b'\n', uri).is_some() {
            return Err(ParseError::value(lead));
        }
        Ok(Self { raw, display: &[], uri, params: Params::new(tail(raw, end + 1)) })
    }

    /// Whether the bare form holds `?` or `,`, which RFC 3261 §20.10 wants in brackets only: registrars refuse such contacts.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.raw.starts_with(self.uri) && memchr::memchr2(b'?', b',', self.uri).is_some()
    }

    /// The `tag` parameter; `None` when absent or without value.
    #[inline]
    #[must_use]
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.params.value(b"tag")
    }

    /// The URI, parsed.
    ///
    /// # Errors
    /// What [`Uri::parse`] finds wrong.
    #[inline]
    pub fn parsed_uri(&self) -> Result<Uri<'a>, UriError> {
        Uri::parse(self.uri)
    }

    /// The `q` parameter in thousandths, 0 to 1000 (RFC 3261 §25.1 `qvalue`); `None` when absent or malformed.
    #[must_use]
    pub fn q(&self) -> Option<u16> {
        parse_q(self.params.value(b"q")?)
    }

    /// The `expires` parameter in seconds; numbers above `u32::MAX` are capped (RFC 3261 §20.19), malformed ones are `None`.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        parse_delta_seconds(self.params.value(b"expires")?)
    }
}

/// Index of the `<` that opens the URI, `None` for the bare form, `Err(offset)` for an unterminated quote.
fn find_bracket(raw: &[u8]) -> Result<Option<usize>, usize> {
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'<' => return Ok(Some(at)),
            b';' => return Ok(None),
            b'"' => at = skip_quoted(raw, at).ok_or(at)?,
            _ => at += 1,
        }
    }
    Ok(None)
}

/// A qvalue such as `0.75` in thousandths; more than three decimals or a value above 1 is refused.
pub(crate) fn parse_q(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match memchr::memchr(b'.', text) {
        Some(at) => (sub(text, 0, at), tail(text, at + 1)),
        None => (text, &[][..]),
    };
    let whole: u16 = match whole {
        b"0" => 0,
        b"1" => 1000,
        b"" if !fraction.is_empty() => 0,
        _ => return None,
    };
    if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut scale = 100;
    let mut value = whole;
    for digit in fraction {
        value += u16::from(digit - b'0') * scale;
        scale /= 10;
    }
    (value <= 1000).then_some(value)
}

/// Seconds; digits only, capped at `u32::MAX`.
pub(crate) fn parse_delta_seconds(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn display_names_keep_quotes_and_params_follow_the_bracket() {
        let addr = NameAddr::parse(b" \"A \\\"B\\\" <x>\" <sip:a@b;lr>;tag=t1;x ").unwrap();
        assert_eq!(addr.display, b"\"A \\\"B\\\" <x>\"");
        assert_eq!(addr.uri, b"sip:a@b;lr");
        assert_eq!(addr.tag(), Some(&b"t1"[..]));
        assert!(addr.params.has(b"x"));
    }

    #[test]
    fn token_display_names_may_hold_folds_and_no_blank_before_the_bracket() {
        let addr = NameAddr::parse(b"Mr. Watson\r\n <sip:w@b>").unwrap();
        assert_eq!(addr.display, b"Mr. Watson");
        assert_eq!(NameAddr::parse(b"caller<sip:w@b>").unwrap().display, b"caller");
    }

    #[test]
    fn bare_form_parameters_belong_to_the_header() {
        let addr = NameAddr::parse(b"sip:a@b;transport=tcp;tag=9").unwrap();
        assert_eq!(addr.uri, b"sip:a@b");
        assert_eq!(addr.params.value(b"transport"), Some(&b"tcp"[..]));
        assert_eq!(addr.tag(), Some(&b"9"[..]));
    }

    #[test]
    fn brackets_within_a_parameter_of_the_bare_form_are_not_the_uri() {
        let addr = NameAddr::parse(b"sip:a@b;x=\"<sip:evil@c>\"").unwrap();
        assert_eq!(addr.uri, b"sip:a@b");
    }

    #[test]
    fn broken_addresses_are_refused_with_their_offset() {
        for text in
            [&b"\"unterminated <sip:a@b>"[..], b"<sip:a@b", b"<>", b"", b"Bell, Alexander sip:a@b", b"<sip:a@b> junk"]
        {
            assert!(NameAddr::parse(text).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(NameAddr::parse(b"  <>"), Err(ParseError::value(3)));
    }

    #[test]
    fn q_values_are_read_in_thousandths() {
        for (text, want) in [
            ("0.7", Some(700)),
            ("1", Some(1000)),
            ("1.0", Some(1000)),
            ("0", Some(0)),
            ("0.333", Some(333)),
            (".5", Some(500)),
            ("1.1", None),
            ("0.1234", None),
            ("-1", None),
            ("", None),
            ("2", None),
        ] {
            assert_eq!(parse_q(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn huge_expires_are_capped() {
        let addr = NameAddr::parse(b"<sip:a@b>;expires=280297596632815").unwrap();
        assert_eq!(addr.expires(), Some(u32::MAX));
        assert_eq!(NameAddr::parse(b"<sip:a@b>;expires=\"1\"").unwrap().expires(), None);
    }
}
