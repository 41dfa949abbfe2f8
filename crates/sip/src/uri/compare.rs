//! URI equality after RFC 3261 §19.1.4. Aliases, DNS and defaults play no part in it.

use crate::list::Params;
use crate::text::{eq_ignore_case, next_unescaped};
use crate::uri::{Scheme, Uri};

/// Parameters that make URIs differ when only one has them. `transport` is on the list of the RFC's examples, though not
/// of its rule text.
const MUST_BE_IN_BOTH: [&[u8]; 5] = [b"user", b"ttl", b"method", b"maddr", b"transport"];

/// Whether two URIs are equivalent (RFC 3261 §19.1.4).
#[must_use]
pub fn uri_eq(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    if a.scheme != b.scheme {
        return false;
    }
    match a.scheme {
        Scheme::Other => a.raw == b.raw,
        Scheme::Tel => number_eq(a.user_or_empty(), b.user_or_empty()) && params_eq(a.params, b.params),
        Scheme::Sip | Scheme::Sips => {
            option_eq(a.user, b.user)
                && option_eq(a.password, b.password)
                && eq_ignore_case(a.host, b.host)
                && a.port == b.port
                && params_eq(a.params, b.params)
                && headers_eq(a.headers, b.headers)
        }
    }
}

fn option_eq(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => escaped_eq(a, b, false),
        (None, None) => true,
        _ => false,
    }
}

/// `reserved` of RFC 3261 §25.1: these differ from their escaped form.
const fn is_reserved(byte: u8) -> bool {
    matches!(byte, b';' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b'+' | b'$' | b',')
}

/// Equality where an escape equals its character unless that is reserved.
fn escaped_eq(mut a: &[u8], mut b: &[u8], ignore_case: bool) -> bool {
    loop {
        match (next_unescaped(a), next_unescaped(b)) {
            (None, None) => return true,
            (Some((x, x_escaped, next_a)), Some((y, y_escaped, next_b))) => {
                let same = if ignore_case { x.eq_ignore_ascii_case(&y) } else { x == y };
                if !same || (x_escaped != y_escaped && is_reserved(x)) {
                    return false;
                }
                (a, b) = (next_a, next_b);
            }
            _ => return false,
        }
    }
}

/// Telephone numbers compare without visual separators (RFC 3966 §4).
fn number_eq(a: &[u8], b: &[u8]) -> bool {
    let digits = |text: &[u8]| -> Vec<u8> {
        text.iter().filter(|c| !matches!(c, b'-' | b'.' | b'(' | b')')).map(u8::to_ascii_lowercase).collect()
    };
    digits(a) == digits(b)
}

fn params_eq(a: Params<'_>, b: Params<'_>) -> bool {
    let covered = |from: Params<'_>, by: Params<'_>| {
        from.iter().all(|param| match by.find(param.name) {
            Some(other) => match (param.value, other.value) {
                (Some(x), Some(y)) => escaped_eq(x, y, true),
                (None, None) => true,
                _ => false,
            },
            None => !MUST_BE_IN_BOTH.iter().any(|name| eq_ignore_case(name, param.name)),
        })
    };
    covered(a, b) && covered(b, a)
}

fn headers_eq(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    let split = |text: &'_ [u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut list: Vec<_> = text
            .split(|&c| c == b'&')
            .map(|one| match one.iter().position(|&c| c == b'=') {
                Some(at) => (
                    one.get(..at).unwrap_or_default().to_ascii_lowercase(),
                    crate::unescape_percent(one.get(at + 1..).unwrap_or_default()).into_owned(),
                ),
                None => (one.to_ascii_lowercase(), Vec::new()),
            })
            .collect();
        list.sort();
        list
    };
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a == b || split(a) == split(b),
        _ => false,
    }
}
