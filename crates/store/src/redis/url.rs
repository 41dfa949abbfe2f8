//! Addresses of Redis servers as OpenSIPS writes them (`redis:group://user:password@host:port/db?option=value`), taken
//! apart. Opens nothing.

use crate::url::mask;

/// Port of a Redis server when the URL names none.
pub const DEFAULT_PORT: u16 = 6379;
/// Port of a sentinel when the URL names none.
pub const SENTINEL_PORT: u16 = 26379;

/// Where one server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedisAddr {
    /// Host (an IPv6 address without its brackets) and port.
    Tcp(String, u16),
    /// Path of a Unix socket.
    Unix(String),
}

impl std::fmt::Display for RedisAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RedisAddr::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            RedisAddr::Tcp(host, port) => write!(f, "{host}:{port}"),
            RedisAddr::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A URL in pieces.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// What scripts call it: `redis` or `redis:group`.
    pub engine: String,
    /// The group, empty without one.
    pub group: String,
    /// User of the access list; empty for the password alone.
    pub user: String,
    /// Password; `None` does not sign in.
    pub password: Option<String>,
    /// Servers, or sentinels, in the order they are tried.
    pub hosts: Vec<RedisAddr>,
    /// Number of the database.
    pub db: u32,
    /// `?sentinel=name`: the hosts are sentinels, the server is the master of that name.
    pub sentinel: Option<String>,
    /// `?tls_domain=name`.
    pub tls_domain: Option<String>,
    masked: String,
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisUrl({})", self.masked)
    }
}

impl RedisUrl {
    /// The URL with its password replaced, for messages.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn parse(url: &str) -> Result<RedisUrl, String> {
        let bad = |reason: &str| format!("'{}': {reason}", mask(url));
        let (engine, rest) = url.split_once("://").ok_or_else(|| bad("expected redis:group://host:port/"))?;
        let engine = engine.trim_end_matches(':');
        let group = match engine.split_once(':') {
            None if engine == "redis" => "",
            Some(("redis", group)) if !group.is_empty() => group,
            _ => return Err(bad("it does not begin with redis:// or redis:group://")),
        };
        // The last @ ends the credentials, so that a password may hold any character.
        let (credentials, address) = rest.rsplit_once('@').map_or((None, rest), |(left, right)| (Some(left), right));
        let (user, password) = match credentials {
            None => ("", None),
            Some(both) => both.split_once(':').map_or((both, None), |(user, password)| (user, Some(password))),
        };
        if credentials.is_some() && password.is_none_or(str::is_empty) {
            return Err(bad("a password is written :password@host"));
        }
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let (authority, db) = address.split_once('/').unwrap_or((address, ""));
        let db = match db.trim_end_matches('/') {
            "" => 0,
            text => text.parse().map_err(|_| bad("the database is no number"))?,
        };
        let (mut socket, mut sentinel, mut tls_domain) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("socket", path)) if path.starts_with('/') => socket = Some(path.to_owned()),
                Some(("sentinel", name)) if !name.is_empty() => sentinel = Some(name.to_owned()),
                Some(("tls_domain", name)) if !name.is_empty() => tls_domain = Some(name.to_owned()),
                _ => return Err(bad("known options are socket=/path, sentinel=name, tls_domain=name")),
            }
        }
        let default_port = if sentinel.is_some() { SENTINEL_PORT } else { DEFAULT_PORT };
        let mut hosts = Vec::new();
        for host in authority.split(',').map(str::trim).filter(|host| !host.is_empty()) {
            hosts.push(host_port(host, default_port).ok_or_else(|| bad("a port is no number of 1 to 65535"))?);
        }
        if let Some(path) = socket {
            if hosts.len() > 1 || sentinel.is_some() {
                return Err(bad("socket= goes with one host and without sentinel="));
            }
            hosts = vec![RedisAddr::Unix(path)];
        }
        if hosts.is_empty() {
            return Err(bad("the host is missing"));
        }
        Ok(RedisUrl {
            engine: engine.to_owned(),
            group: group.to_owned(),
            user: user.to_owned(),
            password: password.map(str::to_owned),
            hosts,
            db,
            sentinel,
            tls_domain,
            masked: mask(url),
        })
    }
}

fn host_port(text: &str, default_port: u16) -> Option<RedisAddr> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
    };
    (!host.is_empty()).then(|| RedisAddr::Tcp(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{RedisAddr, RedisUrl};

    fn tcp(host: &str, port: u16) -> RedisAddr {
        RedisAddr::Tcp(host.to_owned(), port)
    }

    #[test]
    fn every_form_of_the_documentation_is_understood() {
        let url = RedisUrl::parse("redis:group1://localhost:6379/").unwrap();
        assert_eq!((url.engine.as_str(), url.group.as_str(), url.db), ("redis:group1", "group1", 0));
        assert_eq!((url.hosts, url.password), (vec![tcp("localhost", 6379)], None));
        let url = RedisUrl::parse("redis:g://joe:p@ss:w/rd@h1,[::1]:7000,h3:7001/2").unwrap();
        assert_eq!((url.user.as_str(), url.password.as_deref(), url.db), ("joe", Some("p@ss:w/rd"), 2));
        assert_eq!(url.hosts, [tcp("h1", 6379), tcp("::1", 7000), tcp("h3", 7001)]);
        let url = RedisUrl::parse("redis://:pass@localhost/3?socket=/run/redis.sock").unwrap();
        assert_eq!((url.engine.as_str(), url.db), ("redis", 3));
        assert_eq!(url.hosts, [RedisAddr::Unix("/run/redis.sock".to_owned())]);
        let url = RedisUrl::parse("redis:s://s1,s2:1/?sentinel=mymaster").unwrap();
        assert_eq!((url.hosts, url.sentinel.as_deref()), (vec![tcp("s1", 26379), tcp("s2", 1)], Some("mymaster")));
        assert_eq!(RedisUrl::parse("redis:t://h/?tls_domain=d").unwrap().tls_domain.as_deref(), Some("d"));
    }

    #[test]
    fn wrong_ones_are_refused_and_never_show_the_password() {
        for text in [
            "redis:g://",
            "local://x",
            "redis:g://:secret@",
            "redis:g://:secret@h:0/",
            "redis:g://:secret@h/x",
            "redis:g://:secret@h/?socket=rel",
            "redis:g://:secret@h,h2/?socket=/a",
            "redis:g:/:secret@h",
            "redisx://:secret@h/",
            "redis:g://user@h/",
        ] {
            let error = RedisUrl::parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(!format!("{:?}", RedisUrl::parse("redis://:secret@h/").unwrap()).contains("secret"));
    }
}
