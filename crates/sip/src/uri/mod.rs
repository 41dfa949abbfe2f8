//! URIs as they stand in SIP messages: `sip`, `sips`, `tel`, and anything else as opaque text. Nothing is resolved and
//! no escape is decoded by parsing.

mod compare;
mod edit;

pub use compare::uri_eq;
pub use edit::{UriEdit, edit_uri, edit_uri_into};

use crate::error::UriError;
use crate::list::Params;
use crate::text::{eq_ignore_case, escapes_are_valid, is_host, parse_u32, sub, tail};
use crate::via::Transport;

/// Scheme of a URI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:` (RFC 3261 §19.1).
    #[default]
    Sip,
    /// `sips:`.
    Sips,
    /// `tel:` (RFC 3966).
    Tel,
    /// Any other scheme; such URIs have neither user nor host here.
    Other,
}

/// A parsed URI; all parts are slices of the text, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// The whole text.
    pub raw: &'a [u8],
    /// The scheme, recognised.
    pub scheme: Scheme,
    /// The scheme as written, without the colon.
    pub scheme_text: &'a [u8],
    /// User part, escapes kept; the number of a `tel:` URI. `None` when absent, `Some(b"")` for `sip:@host`.
    pub user: Option<&'a [u8]>,
    /// Password; `None` when absent.
    pub password: Option<&'a [u8]>,
    /// Host, IPv6 with brackets; empty for `tel:` and unknown schemes.
    pub host: &'a [u8],
    /// Port, when written.
    pub port: Option<u16>,
    /// Parameters behind the first `;`.
    pub params: Params<'a>,
    /// Text behind `?`; `None` when absent.
    pub headers: Option<&'a [u8]>,
}

impl<'a> Uri<'a> {
    /// Parses one URI without surrounding blanks or brackets.
    ///
    /// # Errors
    /// Says which part is unusable. URIs of unknown schemes are accepted as they are.
    pub fn parse(raw: &'a [u8]) -> Result<Self, UriError> {
        let colon = memchr::memchr(b':', raw).ok_or(UriError::NoScheme)?;
        let scheme_text = sub(raw, 0, colon);
        let is_scheme = scheme_text.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme_text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !is_scheme {
            return Err(UriError::NoScheme);
        }
        let scheme = match scheme_text.len() {
            3 if eq_ignore_case(scheme_text, b"sip") => Scheme::Sip,
            4 if eq_ignore_case(scheme_text, b"sips") => Scheme::Sips,
            3 if eq_ignore_case(scheme_text, b"tel") => Scheme::Tel,
            _ => Scheme::Other,
        };
        let blank = Self {
            raw,
            scheme,
            scheme_text,
            user: None,
            password: None,
            host: &[],
            port: None,
            params: Params::default(),
            headers: None,
        };
        let rest = tail(raw, colon + 1);
        match scheme {
            Scheme::Sip | Scheme::Sips => blank.parse_sip(rest),
            Scheme::Tel => blank.parse_tel(rest),
            Scheme::Other if has_forbidden(rest) || rest.is_empty() => Err(UriError::BadParams),
            Scheme::Other => Ok(blank),
        }
    }

    fn parse_sip(mut self, rest: &'a [u8]) -> Result<Self, UriError> {
        let mut host_part = rest;
        if let Some(at) = memchr::memchr(b'@', rest) {
            let user_info = sub(rest, 0, at);
            host_part = tail(rest, at + 1);
            // A backslash has no meaning in a URI; two hops could read it differently.
            // Angle brackets pass: scripts make such users from unset variables, and no form of address lets them out.
            let is_bad = |b: &u8| matches!(b, 0..=0x20 | 0x7f | b'"' | b'\\');
            if user_info.iter().any(is_bad) || !escapes_are_valid(user_info) {
                return Err(UriError::BadUser);
            }
            match memchr::memchr(b':', user_info) {
                Some(colon) => {
                    self.user = Some(sub(user_info, 0, colon));
                    self.password = Some(tail(user_info, colon + 1));
                }
                None => self.user = Some(user_info),
            }
        }
        let host_end = host_length(host_part)?;
        self.host = sub(host_part, 0, host_end);
        let mut rest = tail(host_part, host_end);
        if let [b':', after @ ..] = rest {
            let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
            let number = parse_u32(sub(after, 0, digits)).and_then(|n| u16::try_from(n).ok()).filter(|&n| n != 0);
            self.port = Some(number.ok_or(UriError::BadPort)?);
            rest = tail(after, digits);
        }
        self.parse_tail(rest)
    }

    fn parse_tel(mut self, rest: &'a [u8]) -> Result<Self, UriError> {
        let end = memchr::memchr2(b';', b'?', rest).unwrap_or(rest.len());
        let number = sub(rest, 0, end);
        if number.is_empty() || has_forbidden(number) {
            return Err(UriError::BadUser);
        }
        self.user = Some(number);
        self.parse_tail(tail(rest, end))
    }

    /// Parameters and headers.
    fn parse_tail(mut self, rest: &'a [u8]) -> Result<Self, UriError> {
        if has_forbidden(rest) {
            return Err(UriError::BadParams);
        }
        let (params, headers) = match memchr::memchr(b'?', rest) {
            Some(mark) => (sub(rest, 0, mark), Some(tail(rest, mark + 1))),
            None => (rest, None),
        };
        self.headers = headers;
        match params {
            [] => Ok(self),
            [b';', params @ ..] => {
                self.params = Params::new(params);
                Ok(self)
            }
            _ if self.port.is_some() => Err(UriError::BadPort),
            _ => Err(UriError::BadHost),
        }
    }

    /// The user part; empty when absent.
    #[inline]
    #[must_use]
    pub fn user_or_empty(&self) -> &'a [u8] {
        self.user.unwrap_or_default()
    }

    /// Value of parameter `name` (case ignored): `None` when absent, `Some(b"")` when it has no value.
    #[inline]
    #[must_use]
    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.params.find(name).map(|param| param.value.unwrap_or_default())
    }

    /// Whether parameter `name` is there.
    #[inline]
    #[must_use]
    pub fn has_param(&self, name: &[u8]) -> bool {
        self.params.has(name)
    }

    /// Value of `transport`.
    #[inline]
    #[must_use]
    pub fn transport_text(&self) -> Option<&'a [u8]> {
        self.params.value(b"transport")
    }

    /// Transport asked for by `transport=`; `None` when absent.
    #[inline]
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.transport_text().map(Transport::from_bytes)
    }

    /// Transport to use without DNS: `transport=`, else TLS for `sips`, else UDP (OpenSIPS: core, `$rP`).
    #[must_use]
    pub fn transport_or_default(&self) -> Transport {
        match self.transport() {
            Some(Transport::Tcp) if self.scheme == Scheme::Sips => Transport::Tls,
            Some(Transport::Ws) if self.scheme == Scheme::Sips => Transport::Wss,
            Some(transport) => transport,
            None if self.scheme == Scheme::Sips => Transport::Tls,
            None => Transport::Udp,
        }
    }

    /// Port written, else the default of scheme and transport.
    #[must_use]
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or_else(|| self.transport_or_default().default_port())
    }

    /// Value of `maddr`.
    #[inline]
    #[must_use]
    pub fn maddr(&self) -> Option<&'a [u8]> {
        self.params.value(b"maddr")
    }

    /// Whether `lr` marks a loose router (RFC 3261 §16.12).
    #[inline]
    #[must_use]
    pub fn is_loose_router(&self) -> bool {
        self.params.has(b"lr")
    }

    /// Host without the brackets of IPv6.
    #[must_use]
    pub const fn host_without_brackets(&self) -> &'a [u8] {
        match self.host {
            [b'[', inner @ .., b']'] => inner,
            host => host,
        }
    }

    /// The host as an address; `None` for names.
    #[must_use]
    pub fn host_ip(&self) -> Option<std::net::IpAddr> {
        std::str::from_utf8(self.host_without_brackets()).ok()?.parse().ok()
    }

    /// User, host and port from the user to the port as written: what stands between `sip:` and the parameters.
    #[must_use]
    pub fn authority(&self) -> &'a [u8] {
        let from = self.scheme_text.len() + 1;
        let rest = tail(self.raw, from);
        let host_at = if self.host.is_empty() { 0 } else { self.host.as_ptr() as usize - rest.as_ptr() as usize };
        let after = tail(rest, host_at + self.host.len());
        let end = memchr::memchr2(b';', b'?', after).unwrap_or(after.len());
        sub(rest, 0, host_at + self.host.len() + end)
    }
}

/// Length of the host at the start of `text`.
fn host_length(text: &[u8]) -> Result<usize, UriError> {
    if text.first() == Some(&b'[') {
        let close = memchr::memchr(b']', text).ok_or(UriError::BadHost)?;
        let inner = sub(text, 1, close);
        let is_address = memchr::memchr(b':', inner).is_some()
            && inner.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'%'));
        return if is_address { Ok(close + 1) } else { Err(UriError::BadHost) };
    }
    match text.iter().take_while(|&&b| is_host(b)).count() {
        0 if text.is_empty() || matches!(text.first(), Some(b';' | b'?' | b':')) => Err(UriError::NoHost),
        0 => Err(UriError::BadHost),
        length => Ok(length),
    }
}

/// Bytes that can stand nowhere in a URI: blanks, controls, angle brackets, quotes, backslash.
fn has_forbidden(text: &[u8]) -> bool {
    text.iter().any(|b| matches!(b, 0..=0x20 | 0x7f | b'<' | b'>' | b'"' | b'\\'))
}

#[cfg(test)]
mod tests;
