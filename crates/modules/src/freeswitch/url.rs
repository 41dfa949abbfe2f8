//! Addresses of FreeSWITCH event sockets as OpenSIPS writes them, with the events they name. Resolves and connects nothing.

use std::fmt;

/// Port of the event socket when the URL names none.
pub(super) const DEFAULT_PORT: u16 = 8021;
/// Longest name of an event, in bytes.
const EVENT_BYTES_MAX: usize = 128;

/// `[fs://][[user]:password@]host[:port][?event,event...]`.
#[derive(Clone, PartialEq, Eq)]
pub struct EslUrl {
    /// User; empty for the socket's own password.
    pub user: String,
    /// Password; `None` when the URL has none.
    pub password: Option<String>,
    /// Host, lower case; an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Events behind the question mark.
    pub events: Vec<String>,
}

impl fmt::Debug for EslUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fs://{}:{}", self.host, self.port)
    }
}

impl EslUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn parse(text: &str) -> Result<EslUrl, String> {
        let text = text.trim();
        let rest = text.strip_prefix("fs://").unwrap_or(text);
        // A password may hold any character; the last @ ends it.
        let (credentials, address) = rest.rsplit_once('@').map_or((None, rest), |(left, right)| (Some(left), right));
        let (authority, events) = address.split_once('?').unwrap_or((address, ""));
        let (user, password) = match credentials {
            None => (String::new(), None),
            Some(both) => {
                let (user, password) =
                    both.split_once(':').ok_or("write user:password@host or :password@host".to_owned())?;
                (user.to_owned(), Some(password.to_owned()).filter(|password| !password.is_empty()))
            }
        };
        if [Some(user.as_str()), password.as_deref()].into_iter().flatten().any(|text| text.contains(char::is_control))
        {
            return Err("user and password cannot hold control characters".to_owned());
        }
        let (host, port) = host_port(authority.trim_end_matches('/'))?;
        let events = events.split(',').map(str::trim).filter(|event| !event.is_empty());
        let events = events.map(|event| event_name(event).map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok(EslUrl { user, password, host, port, events })
    }
}

fn host_port(authority: &str) -> Result<(String, u16), String> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_clean) {
        return Err(format!("'{authority}' has no host"));
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(format!("'{port}' is no port"))?,
    };
    Ok((host.to_ascii_lowercase(), port))
}

/// The name of an event as it may be subscribed to: `DTMF`, `CUSTOM sofia::register`.
///
/// # Errors
/// When it could be taken for something else by FreeSWITCH.
pub fn event_name(name: &str) -> Result<&str, String> {
    let name = name.trim();
    let is_clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | ' ');
    if name.is_empty() || name.len() > EVENT_BYTES_MAX || !name.chars().all(is_clean) {
        return Err(format!("'{}' is no name of an event", name.escape_debug()));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{EslUrl, event_name};

    #[test]
    fn every_form_of_the_documentation_is_understood() {
        let url = EslUrl::parse(":ClueCon@10.0.0.11:8022?DTMF,BACKGROUND_JOB").unwrap();
        assert_eq!((url.user.as_str(), url.password.as_deref()), ("", Some("ClueCon")));
        assert_eq!((url.host.as_str(), url.port), ("10.0.0.11", 8022));
        assert_eq!(url.events, ["DTMF", "BACKGROUND_JOB"]);
        let url = EslUrl::parse("fs://joe@x:p@ss?w:rd@FS.Example").unwrap();
        assert_eq!((url.user.as_str(), url.password.as_deref()), ("joe@x", Some("p@ss?w:rd")));
        assert_eq!((url.host.as_str(), url.port), ("fs.example", 8021));
        let url = EslUrl::parse("[::1]:9").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.password), ("::1", 9, None));
        assert_eq!(EslUrl::parse("h?CUSTOM sofia::register, ALL").unwrap().events, ["CUSTOM sofia::register", "ALL"]);
    }

    #[test]
    fn wrong_ones_are_refused_without_their_password() {
        for text in [
            "",
            "fs://",
            ":secret@",
            ":secret@h:0",
            ":secret@h:x",
            "secret@h",
            ":secret@h?a\nb",
            ":sec\nret@h",
            ":secret@h h",
        ] {
            let error = EslUrl::parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(event_name("DTMF\n\nexit").is_err());
        assert!(!format!("{:?}", EslUrl::parse(":secret@h").unwrap()).contains("secret"));
    }
}
