//! The key of a location record and the hash OpenSIPS nodes agree on. It does not parse SIP URIs: the caller hands in
//! user and host.

use std::fmt;
use std::sync::Arc;

/// An address of record as usrloc keys it: `user@host` (`use_domain` on) or `user`, without scheme. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Aor(Arc<[u8]>);

impl Aor {
    /// Takes a key as it came over the wire or from a database, byte for byte.
    pub fn from_raw(key: &[u8]) -> Self {
        Aor(Arc::from(key))
    }

    /// Builds the key from a URI's user and host. `use_domain` and `case_sensitive` are the parameters of the same name
    /// of OpenSIPS: usrloc and registrar. When `case_sensitive` is off the whole key is lower-cased, else nothing is
    /// (so that keys stay equal to those of OpenSIPS peers).
    pub fn from_parts(user: &[u8], host: &[u8], use_domain: bool, case_sensitive: bool) -> Self {
        let mut key = Vec::with_capacity(user.len() + host.len() + 1);
        key.extend_from_slice(user);
        if use_domain && !host.is_empty() {
            if !user.is_empty() {
                key.push(b'@');
            }
            key.extend_from_slice(host);
        }
        if !case_sensitive {
            key.make_ascii_lowercase();
        }
        Aor(Arc::from(key))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for the key without any byte, which no record may have.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The user part: everything in front of the last `@`, or the whole key if there is none.
    pub fn user(&self) -> &[u8] {
        match self.0.iter().rposition(|byte| *byte == b'@') {
            Some(at) => self.0.get(..at).unwrap_or_default(),
            None => &self.0,
        }
    }

    /// The 32-bit hash that contact ids and ping partitioning use on every node of a cluster.
    pub fn core_hash(&self) -> u32 {
        tandem_sip::core_hash(&self.0)
    }
}

impl AsRef<[u8]> for Aor {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Aor {
    fn from(key: &str) -> Self {
        Aor::from_raw(key.as_bytes())
    }
}

impl fmt::Debug for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aor({})", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}
