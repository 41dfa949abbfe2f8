//! Comparison of contact URIs (RFC 3261 §19.1.4). It parses only as far as comparing needs and never fails: what is
//! not a SIP URI is compared byte by byte.

/// More parameters or headers than this are not compared one by one; such a URI only equals its exact copy.
const URI_PARTS_MAX: usize = 64;

/// Parameters that make URIs differ when only one of them has it (RFC 3261 §19.1.4).
const SIGNIFICANT_PARAMS: [&[u8]; 5] = [b"transport", b"user", b"ttl", b"method", b"maddr"];

/// True if both texts name the same resource by the rules of RFC 3261 §19.1.4, or are equal bytes.
pub fn uris_match(left: &[u8], right: &[u8]) -> bool {
    left == right || matches!((ContactUri::parse(left), ContactUri::parse(right)), (Some(a), Some(b)) if a.matches(&b))
}

/// The parts of a `sip:` or `sips:` URI, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContactUri<'a> {
    is_secure: bool,
    /// User and password, empty if absent.
    user_info: &'a [u8],
    host: &'a [u8],
    port: Option<u16>,
    params: &'a [u8],
    headers: &'a [u8],
}

impl<'a> ContactUri<'a> {
    /// `None` for another scheme, an empty host, a bad port, or more than [`URI_PARTS_MAX`] parameters or headers.
    pub(crate) fn parse(uri: &'a [u8]) -> Option<Self> {
        let (scheme, rest) = split_at_byte(uri, b':')?;
        let is_secure = match scheme {
            _ if scheme.eq_ignore_ascii_case(b"sip") => false,
            _ if scheme.eq_ignore_ascii_case(b"sips") => true,
            _ => return None,
        };
        // `;` and `?` may stand unescaped in the user part, `@` may not.
        let (user_info, rest) = split_at_byte(rest, b'@').unwrap_or((b"", rest));
        let host_end = rest.iter().position(|byte| matches!(byte, b';' | b'?')).unwrap_or(rest.len());
        let (host_port, tail) = rest.split_at_checked(host_end)?;
        let (host, port) = split_port(host_port)?;
        let (params, headers) = split_at_byte(tail, b'?').unwrap_or((tail, b""));
        let uri = ContactUri { is_secure, user_info, host, port, params, headers };
        let is_bounded = uri.params().count() <= URI_PARTS_MAX && uri.headers().count() <= URI_PARTS_MAX;
        (!host.is_empty() && is_bounded).then_some(uri)
    }

    fn params(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        name_values(self.params, b';')
    }

    fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        name_values(self.headers, b'&')
    }

    /// Value of a URI parameter, empty for one without value.
    pub(crate) fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.params().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn matches(&self, other: &ContactUri<'_>) -> bool {
        self.is_secure == other.is_secure
            && self.port == other.port
            && self.host.eq_ignore_ascii_case(other.host)
            && equals_unescaped(self.user_info, other.user_info, false)
            && self.params_agree_with(other)
            && other.params_agree_with(self)
            && self.headers().count() == other.headers().count()
            && self.headers().all(|(name, value)| {
                other.headers().any(|(other_name, other_value)| {
                    equals_unescaped(name, other_name, true) && equals_unescaped(value, other_value, false)
                })
            })
    }

    fn params_agree_with(&self, other: &ContactUri<'_>) -> bool {
        self.params().all(|(name, value)| match other.param(name) {
            Some(other_value) => equals_unescaped(value, other_value, true),
            None => !SIGNIFICANT_PARAMS.iter().any(|significant| name.eq_ignore_ascii_case(significant)),
        })
    }
}

/// Values of two URI parameters, compared as [`ContactUri::matches`] does.
pub(crate) fn param_values_match(left: &[u8], right: &[u8]) -> bool {
    equals_unescaped(left, right, true)
}

fn split_at_byte(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn split_port(host_port: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_end = match host_port.first() {
        Some(b'[') => host_port.iter().position(|byte| *byte == b']')? + 1,
        _ => host_port.iter().position(|byte| *byte == b':').unwrap_or(host_port.len()),
    };
    let (host, rest) = host_port.split_at_checked(host_end)?;
    match rest {
        [] => Some((host, None)),
        [b':', digits @ ..] => {
            let port = std::str::from_utf8(digits).ok()?.parse().ok()?;
            Some((host, Some(port)))
        }
        _ => None,
    }
}

fn name_values(text: &[u8], separator: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    let parts = text.split(move |byte| *byte == separator).filter(|part| !part.is_empty());
    parts.map(|part| split_at_byte(part, b'=').unwrap_or((part, b"")))
}

/// Compares with `%HH` escapes resolved; a broken escape stands for itself.
fn equals_unescaped(left: &[u8], right: &[u8], ignore_case: bool) -> bool {
    if left == right {
        return true;
    }
    let fold = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    unescaped(left).map(fold).eq(unescaped(right).map(fold))
}

fn unescaped(mut text: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (first, rest) = text.split_first()?;
        if let (b'%', [high, low, after @ ..]) = (*first, rest)
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            text = after;
            return Some((high * 16 + low) as u8);
        }
        text = rest;
        Some(*first)
    })
}
