//! The first bytes of a link, in the clear: which secret the opener is about to prove, and what for.
//!
//! `TNDL`, u8 version, u8 purpose, i32 cluster, u8 length and text of the secret's id, all big-endian. All of it is bound into
//! the handshake, so that a change on the way makes it fail.

use crate::error::LinkError;

/// What a link begins with; a plain BIN packet begins with `P4CK`.
pub const MAGIC: [u8; 4] = *b"TNDL";
/// Version of hello and handshake.
pub const VERSION: u8 = 1;
/// Longest id of a secret, bytes.
pub const SECRET_ID_MAX: usize = 64;

/// Magic, version, purpose, cluster, length of the id.
const FIXED: usize = 4 + 1 + 1 + 4 + 1;

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Packets of the cluster.
    Member,
    /// Handing out the secret to a new node that has a join token.
    Join,
}

/// The first words of the opener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the link is for.
    pub purpose: Purpose,
    /// Cluster of the secret; 0 for a secret of all clusters.
    pub cluster: i32,
    /// Id of the secret, or of the join token in hexadecimal.
    pub secret_id: String,
}

impl Hello {
    /// The bytes on the wire; an id that is too long is cut and will not be known to anybody.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let id = self.secret_id.as_bytes();
        let id = id.get(..id.len().min(SECRET_ID_MAX)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(FIXED + id.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.push(match self.purpose {
            Purpose::Member => 0,
            Purpose::Join => 1,
        });
        bytes.extend_from_slice(&self.cluster.to_be_bytes());
        bytes.push(id.len() as u8);
        bytes.extend_from_slice(id);
        bytes
    }

    /// Reads a hello from the beginning of `bytes`: it and its length, or `None` while bytes are missing.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Hello, usize)>, LinkError> {
        let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
            return match bytes.get(4) {
                Some(version) if *version != VERSION => Err(LinkError::Version(*version)),
                _ => Ok(None),
            };
        };
        let [m0, m1, m2, m3, version, purpose, c0, c1, c2, c3, id_len] = *fixed else {
            return Err(LinkError::Hello("its length"));
        };
        if [m0, m1, m2, m3] != MAGIC {
            return Err(LinkError::Hello("its first bytes"));
        }
        if version != VERSION {
            return Err(LinkError::Version(version));
        }
        let purpose = match purpose {
            0 => Purpose::Member,
            1 => Purpose::Join,
            _ => return Err(LinkError::Hello("its purpose")),
        };
        let id_len = usize::from(id_len);
        if id_len == 0 || id_len > SECRET_ID_MAX {
            return Err(LinkError::Hello("the length of the secret's id"));
        }
        let Some(id) = rest.get(..id_len) else { return Ok(None) };
        let is_printable = id.iter().all(|byte| byte.is_ascii_graphic());
        let secret_id = match std::str::from_utf8(id) {
            Ok(id) if is_printable => id.to_owned(),
            _ => return Err(LinkError::Hello("the secret's id")),
        };
        let hello = Hello { purpose, cluster: i32::from_be_bytes([c0, c1, c2, c3]), secret_id };
        Ok(Some((hello, FIXED + id_len)))
    }
}
