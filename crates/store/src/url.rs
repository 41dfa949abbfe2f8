//! Database URLs in the OpenSIPS form, taken apart and with the password masked. Opens nothing.

use tandem_module::db::DbError;

/// A database URL in pieces: `scheme://user:password@host:port/database`.
#[derive(Clone, PartialEq, Eq)]
pub struct DbUrl {
    /// Scheme without colon.
    pub scheme: String,
    /// User, empty when there is none.
    pub user: String,
    /// Password; never printed.
    pub password: Option<String>,
    /// Host (an IPv6 address without its brackets), empty when there is none.
    pub host: String,
    /// Port, when given.
    pub port: Option<u16>,
    /// Database, or the path of the file for SQLite.
    pub database: String,
    /// What follows a `?` behind the database of a server: `name=value`, joined with `&`.
    pub options: Vec<(String, String)>,
    masked: String,
}

impl std::fmt::Debug for DbUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DbUrl({})", self.masked)
    }
}

impl DbUrl {
    /// The URL with the password replaced, for messages.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// The value of an option, if it is there.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Takes a URL of a server apart (`mysql://user:password@host:port/database`). The password may contain any
    /// character but the user may not contain a colon; the last `@` before the database ends the credentials.
    ///
    /// # Errors
    /// [`DbError::BadUrl`], the password masked.
    pub fn server(url: &str) -> Result<DbUrl, DbError> {
        let bad = |reason: &str| DbError::BadUrl { url: mask(url), reason: reason.to_owned() };
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| bad("expected scheme://user:password@host/database"))?;
        let (credentials, address) = rest.rsplit_once('@').map_or((None, rest), |(left, right)| (Some(left), right));
        let (authority, database) =
            address.split_once('/').ok_or_else(|| bad("the database is missing (scheme://host/database)"))?;
        let (database, query) = database.split_once('?').unwrap_or((database, ""));
        if database.is_empty() {
            return Err(bad("the database is empty"));
        }
        let options = query.split('&').filter(|option| !option.is_empty()).map(|option| {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            (name.to_owned(), value.to_owned())
        });
        let options = options.collect();
        let (user, password) = match credentials {
            None => (String::new(), None),
            Some(both) => match both.split_once(':') {
                Some((user, password)) => (user.to_owned(), Some(password.to_owned())),
                None => (both.to_owned(), None),
            },
        };
        let (host, port) = host_port(authority).ok_or_else(|| bad("the port is no number of 1 to 65535"))?;
        Ok(DbUrl {
            scheme: scheme.to_owned(),
            user,
            password,
            host,
            port,
            database: database.to_owned(),
            options,
            masked: mask(url),
        })
    }

    /// Takes a URL of a file apart (`sqlite:///var/db/x.sqlite`, `sqlite://relative/path`).
    ///
    /// # Errors
    /// [`DbError::BadUrl`].
    pub fn file(url: &str) -> Result<DbUrl, DbError> {
        let bad = |reason: &str| DbError::BadUrl { url: mask(url), reason: reason.to_owned() };
        let (scheme, path) = url.split_once("://").ok_or_else(|| bad("expected scheme:///path"))?;
        if path.is_empty() {
            return Err(bad("the path is missing (scheme:///path)"));
        }
        if path.contains('\0') {
            return Err(bad("the path contains a NUL"));
        }
        Ok(DbUrl {
            scheme: scheme.to_owned(),
            user: String::new(),
            password: None,
            host: String::new(),
            port: None,
            database: path.to_owned(),
            options: Vec::new(),
            masked: mask(url),
        })
    }
}

fn host_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
        None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
    };
    Some((host.to_owned(), port))
}

/// `url` with everything between the first colon behind `://` and the last `@` replaced by `***`; also fit for text
/// that is no URL at all.
pub fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Without `://` nothing says where a password is: show the scheme only.
        return match url.split_once(':') {
            Some((scheme, _)) if url.contains('@') => format!("{scheme}:***"),
            _ => url.to_owned(),
        };
    };
    match rest.rsplit_once('@') {
        None => url.to_owned(),
        Some((credentials, address)) => match credentials.split_once(':') {
            None => url.to_owned(),
            Some((user, _)) => format!("{scheme}://{user}:***@{address}"),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{DbUrl, mask};

    #[test]
    fn server_urls_are_taken_apart() {
        let url = DbUrl::server("mysql://opensips:p@ss:w/rd@db.example:3307/opensips").unwrap();
        assert_eq!((url.user.as_str(), url.password.as_deref()), ("opensips", Some("p@ss:w/rd")));
        assert_eq!((url.host.as_str(), url.port, url.database.as_str()), ("db.example", Some(3307), "opensips"));
        let url = DbUrl::server("postgres://u@[::1]:5432/db").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.password), ("::1", Some(5432), None));
        let url = DbUrl::server("mysql://localhost/opensips").unwrap();
        assert_eq!((url.user.as_str(), url.host.as_str(), url.port), ("", "localhost", None));
        let url = DbUrl::server("mysql://u:p@/db?unix_socket=/run/x.sock&tls_domain=dom1").unwrap();
        assert_eq!((url.database.as_str(), url.host.as_str()), ("db", ""));
        assert_eq!((url.option("unix_socket"), url.option("tls_domain")), (Some("/run/x.sock"), Some("dom1")));
        assert_eq!(url.option("tls_opts"), None);
    }

    #[test]
    fn file_urls_keep_absolute_and_relative_paths() {
        assert_eq!(DbUrl::file("sqlite:///var/db/x.sqlite").unwrap().database, "/var/db/x.sqlite");
        assert_eq!(DbUrl::file("sqlite://x.sqlite").unwrap().database, "x.sqlite");
        assert!(DbUrl::file("sqlite://").is_err());
        assert!(DbUrl::file("sqlite:/x").is_err());
    }

    #[test]
    fn no_message_shows_a_password() {
        for url in [
            "mysql://u:secret@h/",
            "mysql://u:secret@h/?x=y",
            "mysql://u:secret@h",
            "mysql://u:se@secret@h:0/db",
            "mysql://u:secret@h:x/db",
            "mysql:u:secret@h",
        ] {
            let error = DbUrl::server(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let url = DbUrl::server("mysql://u:secret@h/db").unwrap();
        assert!(!format!("{url:?} {}", url.masked()).contains("secret"));
        assert_eq!(mask("sqlite:///a/b.db"), "sqlite:///a/b.db");
        assert_eq!(mask("mysql://u:p@h/d"), "mysql://u:***@h/d");
    }
}
