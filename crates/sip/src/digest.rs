//! Digest computation for SIP: HA1, HA2, response (RFC 3261 §22.4, RFC 7616, RFC 8760) and writing challenges and
//! credentials. Nonces are made and remembered elsewhere.

use md5::Md5;
use sha2::{Sha256, Sha512_256};
use subtle::ConstantTimeEq as _;

use crate::text::eq_ignore_case;

/// Hash algorithm of a challenge (RFC 8760 §2.1), with its session variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `MD5`, also meant when none is named.
    #[default]
    Md5,
    /// `MD5-sess`.
    Md5Sess,
    /// `SHA-256`.
    Sha256,
    /// `SHA-256-sess`.
    Sha256Sess,
    /// `SHA-512-256`.
    Sha512_256,
    /// `SHA-512-256-sess`.
    Sha512_256Sess,
}

impl Algorithm {
    /// Recognises the `algorithm` value without regard to case; `None` for unknown ones.
    #[must_use]
    pub fn from_bytes(text: &[u8]) -> Option<Self> {
        [Self::Md5, Self::Md5Sess, Self::Sha256, Self::Sha256Sess, Self::Sha512_256, Self::Sha512_256Sess]
            .into_iter()
            .find(|algorithm| eq_ignore_case(algorithm.as_str().as_bytes(), text))
    }

    /// The `algorithm` value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Md5Sess => "MD5-sess",
            Self::Sha256 => "SHA-256",
            Self::Sha256Sess => "SHA-256-sess",
            Self::Sha512_256 => "SHA-512-256",
            Self::Sha512_256Sess => "SHA-512-256-sess",
        }
    }

    /// Whether HA1 covers nonce and cnonce.
    #[must_use]
    pub const fn is_session(self) -> bool {
        matches!(self, Self::Md5Sess | Self::Sha256Sess | Self::Sha512_256Sess)
    }

    /// Length of a digest in hexadecimal digits: 32 or 64.
    #[must_use]
    pub const fn hex_length(self) -> usize {
        match self {
            Self::Md5 | Self::Md5Sess => 32,
            _ => 64,
        }
    }

    /// Lower-case hexadecimal digest of the parts joined with `:`.
    #[must_use]
    pub fn hash(self, parts: &[&[u8]]) -> HexDigest {
        fn joined<D: sha2::Digest>(parts: &[&[u8]]) -> HexDigest {
            let mut hasher = D::new();
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    hasher.update(b":");
                }
                hasher.update(part);
            }
            HexDigest::of(&hasher.finalize())
        }
        match self {
            Self::Md5 | Self::Md5Sess => joined::<Md5>(parts),
            Self::Sha256 | Self::Sha256Sess => joined::<Sha256>(parts),
            Self::Sha512_256 | Self::Sha512_256Sess => joined::<Sha512_256>(parts),
        }
    }
}

/// A digest as lower-case hexadecimal text, kept without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HexDigest {
    text: [u8; 64],
    length: u8,
}

impl HexDigest {
    fn of(digest: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
            if let [high, low] = pair {
                *high = HEX[usize::from(byte >> 4)];
                *low = HEX[usize::from(byte & 15)];
            }
        }
        Self { text, length: (digest.len() * 2).min(64) as u8 }
    }

    /// The digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        crate::text::sub(&self.text, 0, usize::from(self.length))
    }

    /// Takes a stored HA1: 32 or 64 hexadecimal digits, made lower case; `None` otherwise.
    #[must_use]
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        if !matches!(text.len(), 32 | 64) || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut own = [0u8; 64];
        own.get_mut(..text.len())?.copy_from_slice(text);
        own.make_ascii_lowercase();
        Some(Self { text: own, length: text.len() as u8 })
    }

    /// Compares with a received response in time that does not depend on where they differ; upper-case digits are accepted.
    #[must_use]
    pub fn matches(&self, received: &[u8]) -> bool {
        Self::from_hex(received).is_some_and(|other| bool::from(self.as_bytes().ct_eq(other.as_bytes())))
    }
}

/// HA1 without session: H(user:realm:password).
#[must_use]
pub fn ha1(algorithm: Algorithm, user: &[u8], realm: &[u8], password: &[u8]) -> HexDigest {
    algorithm.hash(&[user, realm, password])
}

/// HA1 of a session algorithm from the plain one: H(HA1:nonce:cnonce).
#[must_use]
pub fn ha1_session(algorithm: Algorithm, ha1: &HexDigest, nonce: &[u8], cnonce: &[u8]) -> HexDigest {
    algorithm.hash(&[ha1.as_bytes(), nonce, cnonce])
}

/// What the response covers beside HA1. `qop` decides the form: `None` is RFC 2069, `auth` or `auth-int` else.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseInput<'a> {
    /// Request method.
    pub method: &'a [u8],
    /// `uri` parameter as it stands in the credentials.
    pub uri: &'a [u8],
    /// `nonce`.
    pub nonce: &'a [u8],
    /// `qop`; `None` when the credentials have none.
    pub qop: Option<&'a [u8]>,
    /// `nc` text.
    pub nc: &'a [u8],
    /// `cnonce`.
    pub cnonce: &'a [u8],
    /// Body of the request, covered by `auth-int` only.
    pub body: &'a [u8],
}

/// The response (RFC 7616 §3.4.1). `ha1` is the plain one; session algorithms derive theirs here.
#[must_use]
pub fn response(algorithm: Algorithm, ha1: &HexDigest, input: &ResponseInput<'_>) -> HexDigest {
    let session;
    let ha1 = if algorithm.is_session() {
        session = ha1_session(algorithm, ha1, input.nonce, input.cnonce);
        &session
    } else {
        ha1
    };
    let ha2 = match input.qop {
        Some(qop) if eq_ignore_case(qop, b"auth-int") => {
            let body = algorithm.hash(&[input.body]);
            algorithm.hash(&[input.method, input.uri, body.as_bytes()])
        }
        _ => algorithm.hash(&[input.method, input.uri]),
    };
    match input.qop {
        Some(qop) => algorithm.hash(&[ha1.as_bytes(), input.nonce, input.nc, input.cnonce, qop, ha2.as_bytes()]),
        None => algorithm.hash(&[ha1.as_bytes(), input.nonce, ha2.as_bytes()]),
    }
}

/// Whether credentials prove knowledge of `ha1`. `method` and `body` are those of the request. An algorithm unknown here
/// or other than `expected` fails.
#[must_use]
pub fn verify(
    credentials: &crate::DigestCredentials<'_>,
    expected: Algorithm,
    ha1: &HexDigest,
    method: &[u8],
    body: &[u8],
) -> bool {
    let named = credentials.algorithm.map_or(Some(Algorithm::Md5), Algorithm::from_bytes);
    if named != Some(expected) {
        return false;
    }
    let input = ResponseInput {
        method,
        uri: credentials.uri,
        nonce: credentials.nonce,
        qop: credentials.qop,
        nc: credentials.nc.unwrap_or_default(),
        cnonce: credentials.cnonce.unwrap_or_default(),
        body,
    };
    response(expected, ha1, &input).matches(credentials.response)
}

/// A challenge to be written as the body of WWW-Authenticate or Proxy-Authenticate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Challenge<'a> {
    /// `realm`, without quotes.
    pub realm: &'a [u8],
    /// `nonce`.
    pub nonce: &'a [u8],
    /// `algorithm`; `None` leaves the parameter out, which means MD5.
    pub algorithm: Option<Algorithm>,
    /// `qop` options such as `auth` or `auth,auth-int`; `None` leaves it out.
    pub qop: Option<&'a [u8]>,
    /// `opaque`.
    pub opaque: Option<&'a [u8]>,
    /// Whether to say `stale=true`.
    pub stale: bool,
}

impl Challenge<'_> {
    /// Appends `Digest realm="…", nonce="…"…` to `out`, without header name and line end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Digest realm=");
        push_quoted(self.realm, out);
        out.extend_from_slice(b", nonce=");
        push_quoted(self.nonce, out);
        if let Some(opaque) = self.opaque {
            out.extend_from_slice(b", opaque=");
            push_quoted(opaque, out);
        }
        if let Some(qop) = self.qop {
            out.extend_from_slice(b", qop=");
            push_quoted(qop, out);
        }
        if self.stale {
            out.extend_from_slice(b", stale=true");
        }
        if let Some(algorithm) = self.algorithm {
            out.extend_from_slice(b", algorithm=");
            out.extend_from_slice(algorithm.as_str().as_bytes());
        }
    }
}

/// What a client answers a challenge with.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// User name.
    pub username: &'a [u8],
    /// Password.
    pub password: &'a [u8],
    /// Request method.
    pub method: &'a [u8],
    /// Request URI.
    pub uri: &'a [u8],
    /// Client nonce, random text of the caller.
    pub cnonce: &'a [u8],
    /// How often this nonce was used, from 1.
    pub nonce_count: u32,
    /// Request body, for `auth-int`.
    pub body: &'a [u8],
}

/// Appends the body of Authorization or Proxy-Authorization that answers `challenge`; `false` when its algorithm is unknown.
/// `auth` is preferred over `auth-int` when both are offered.
#[must_use]
pub fn write_answer(challenge: &crate::DigestChallenge<'_>, answer: &Answer<'_>, out: &mut Vec<u8>) -> bool {
    let Some(algorithm) = challenge.algorithm.map_or(Some(Algorithm::Md5), Algorithm::from_bytes) else {
        return false;
    };
    let qop: Option<&[u8]> = if challenge.offers_qop(b"auth") {
        Some(b"auth")
    } else if challenge.offers_qop(b"auth-int") {
        Some(b"auth-int")
    } else {
        None
    };
    let nc = format!("{:08x}", answer.nonce_count);
    let secret = ha1(algorithm, answer.username, challenge.realm, answer.password);
    let input = ResponseInput {
        method: answer.method,
        uri: answer.uri,
        nonce: challenge.nonce,
        qop,
        nc: nc.as_bytes(),
        cnonce: answer.cnonce,
        body: answer.body,
    };
    let proof = response(algorithm, &secret, &input);
    out.extend_from_slice(b"Digest username=");
    push_quoted(answer.username, out);
    // Texts taken from the challenge still carry their escapes, so they go back as they came.
    let echoed: [(&[u8], &[u8]); 4] = [
        (b", realm=", challenge.realm),
        (b", nonce=", challenge.nonce),
        (b", uri=", answer.uri),
        (b", response=", proof.as_bytes()),
    ];
    for (name, value) in echoed {
        push_raw_quoted(name, value, out);
    }
    if challenge.algorithm.is_some() {
        out.extend_from_slice(b", algorithm=");
        out.extend_from_slice(algorithm.as_str().as_bytes());
    }
    if let Some(qop) = qop {
        out.extend_from_slice(b", qop=");
        out.extend_from_slice(qop);
        out.extend_from_slice(b", nc=");
        out.extend_from_slice(nc.as_bytes());
    }
    if qop.is_some() || algorithm.is_session() {
        push_raw_quoted(b", cnonce=", answer.cnonce, out);
    }
    if let Some(opaque) = challenge.opaque {
        push_raw_quoted(b", opaque=", opaque, out);
    }
    true
}

fn push_raw_quoted(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.push(b'"');
    out.extend_from_slice(value);
    out.push(b'"');
}

/// Text in quotes, quotes and backslashes escaped; line ends, which could start a new header, are left out.
fn push_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\r' | b'\n' => {}
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;
