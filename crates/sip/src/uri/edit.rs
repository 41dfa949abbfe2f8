//! New URIs from old ones by changing one part, as OpenSIPS' core functions on the request URI do. The result is not
//! parsed again: assigning garbage succeeds, as it does there.

use crate::error::UriError;
use crate::text::{eq_ignore_case, push_decimal, sub, tail};
use crate::uri::{Scheme, Uri};

/// One change of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriEdit<'a> {
    /// New host, port kept, `maddr` dropped (OpenSIPS: core, `sethost()`).
    Host(&'a [u8]),
    /// New `host[:port]`, old port and `maddr` dropped (OpenSIPS: core, `sethostport()`).
    HostPort(&'a [u8]),
    /// New user, password kept; empty removes it (OpenSIPS: core, `setuser()`).
    User(&'a [u8]),
    /// New `user[:password]` (OpenSIPS: core, `setuserpass()`).
    UserPassword(&'a [u8]),
    /// New port text, empty removes it (OpenSIPS: core, `setport()`).
    Port(&'a [u8]),
    /// New port number.
    PortNumber(u16),
    /// Removes the port.
    RemovePort,
    /// Removes user and password.
    RemoveUser,
    /// Text in front of the user, which appears if there was none (OpenSIPS: core, `prefix()`).
    Prefix(&'a [u8]),
    /// Removes so many bytes from the front of the user; too many remove it (OpenSIPS: core, `strip()`).
    Strip(usize),
    /// Removes so many bytes from the end of the user; too many remove it (OpenSIPS: core, `strip_tail()`).
    StripTail(usize),
    /// Sets or adds a parameter; `None` makes it one without value.
    Param(&'a [u8], Option<&'a [u8]>),
    /// Removes a parameter; absent ones are no error.
    RemoveParam(&'a [u8]),
    /// Removes the `?headers`.
    RemoveHeaders,
}

/// The URI `uri` with one change.
///
/// # Errors
/// When `uri` cannot be parsed, is of an unknown scheme, or has no such part (`BadEdit`).
pub fn edit_uri(uri: &[u8], edit: &UriEdit<'_>) -> Result<Vec<u8>, UriError> {
    let mut out = Vec::with_capacity(uri.len() + 32);
    edit_uri_into(uri, edit, &mut out)?;
    Ok(out)
}

/// As [`edit_uri`], appending to `out`, which is untouched on error.
///
/// # Errors
/// As [`edit_uri`].
pub fn edit_uri_into(uri: &[u8], edit: &UriEdit<'_>, out: &mut Vec<u8>) -> Result<(), UriError> {
    let parsed = Uri::parse(uri)?;
    match parsed.scheme {
        Scheme::Sip | Scheme::Sips => {}
        Scheme::Tel
            if !matches!(edit, UriEdit::Host(_) | UriEdit::HostPort(_) | UriEdit::Port(_) | UriEdit::PortNumber(_)) => {
        }
        Scheme::Tel | Scheme::Other => return Err(UriError::BadEdit),
    }
    out.extend_from_slice(parsed.scheme_text);
    out.push(b':');
    write_user(&parsed, edit, out);
    match edit {
        UriEdit::Host(host) | UriEdit::HostPort(host) => out.extend_from_slice(host),
        _ => out.extend_from_slice(parsed.host),
    }
    write_port(&parsed, edit, out);
    write_params(&parsed, edit, out);
    if let Some(headers) = parsed.headers
        && !matches!(edit, UriEdit::RemoveHeaders)
    {
        out.push(b'?');
        out.extend_from_slice(headers);
    }
    Ok(())
}

fn write_user(uri: &Uri<'_>, edit: &UriEdit<'_>, out: &mut Vec<u8>) {
    let old = uri.user_or_empty();
    let (prefix, user): (&[u8], &[u8]) = match *edit {
        UriEdit::User(text) | UriEdit::UserPassword(text) => (b"", text),
        UriEdit::RemoveUser => (b"", b""),
        UriEdit::Prefix(text) => (text, old),
        UriEdit::Strip(count) => (b"", tail(old, count)),
        UriEdit::StripTail(count) => (b"", sub(old, 0, old.len().saturating_sub(count))),
        _ => (b"", old),
    };
    let password = match edit {
        UriEdit::UserPassword(_) | UriEdit::RemoveUser => None,
        _ => uri.password,
    };
    // A password cannot stand without a user (RFC 3261 §25.1 `userinfo`), so it goes with it.
    if prefix.is_empty() && user.is_empty() {
        return;
    }
    out.extend_from_slice(prefix);
    out.extend_from_slice(user);
    if let Some(password) = password {
        out.push(b':');
        out.extend_from_slice(password);
    }
    if uri.scheme != Scheme::Tel {
        out.push(b'@');
    }
}

fn write_port(uri: &Uri<'_>, edit: &UriEdit<'_>, out: &mut Vec<u8>) {
    match *edit {
        UriEdit::HostPort(_) | UriEdit::RemovePort | UriEdit::Port([]) => {}
        UriEdit::Port(text) => {
            out.push(b':');
            out.extend_from_slice(text);
        }
        UriEdit::PortNumber(port) => {
            out.push(b':');
            push_decimal(u64::from(port), out);
        }
        _ => {
            if let Some(port) = uri.port {
                out.push(b':');
                push_decimal(u64::from(port), out);
            }
        }
    }
}

fn write_params(uri: &Uri<'_>, edit: &UriEdit<'_>, out: &mut Vec<u8>) {
    let replaced: &[u8] = match *edit {
        UriEdit::Host(_) | UriEdit::HostPort(_) => b"maddr",
        UriEdit::Param(name, _) | UriEdit::RemoveParam(name) => name,
        _ => b"",
    };
    let set = |out: &mut Vec<u8>| {
        if let UriEdit::Param(name, value) = *edit {
            out.push(b';');
            out.extend_from_slice(name);
            if let Some(value) = value {
                out.push(b'=');
                out.extend_from_slice(value);
            }
        }
    };
    if replaced.is_empty() || !uri.params.has(replaced) {
        if !uri.params.raw().is_empty() {
            out.push(b';');
            out.extend_from_slice(uri.params.raw());
        }
        return set(out);
    }
    let mut is_set = false;
    for param in uri.params {
        if !eq_ignore_case(param.name, replaced) {
            out.push(b';');
            out.extend_from_slice(param.raw);
        } else if !is_set {
            set(out);
            is_set = true;
        }
    }
}
