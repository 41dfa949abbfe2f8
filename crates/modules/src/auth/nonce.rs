//! Nonces: made without keeping anything, checked by a keyed hash, used once. They know neither users nor messages.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap};
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use rand::Rng;
use sha2::Sha256;
use tandem_sip::digest::Algorithm;

/// Nonces remembered as used at a time; beyond, they are treated as stale, which costs the client one more round.
pub(crate) const USED_MAX: usize = 1 << 20;

/// A clock of another server with the same secret may be ahead this much.
const SKEW_SECS: u64 = 10;
const SHARDS: usize = 16;
const TIME_BYTES: usize = 5;
const BODY_BYTES: usize = TIME_BYTES + 1 + 8;
const MAC_BYTES: usize = 16;
/// Bytes of a nonce before it is written in hexadecimal.
const NONCE_BYTES: usize = BODY_BYTES + MAC_BYTES;

/// The `qop` values a challenge offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Qop {
    pub(crate) auth: bool,
    pub(crate) auth_int: bool,
}

impl Qop {
    /// Reads `auth`, `auth-int`, both with a comma, and the numbers 2.4 scripts have.
    pub(crate) fn parse(text: &[u8]) -> Option<Qop> {
        let mut qop = Qop::default();
        for word in text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match word.to_ascii_lowercase().as_slice() {
                b"" | b"0" => {}
                b"1" | b"auth" => qop.auth = true,
                b"auth-int" => qop.auth_int = true,
                _ => return None,
            }
        }
        Some(qop)
    }

    /// The value of the `qop` parameter of a challenge.
    pub(crate) fn text(self) -> Option<&'static [u8]> {
        match (self.auth, self.auth_int) {
            (false, false) => None,
            (true, false) => Some(b"auth"),
            (false, true) => Some(b"auth-int"),
            (true, true) => Some(b"auth,auth-int"),
        }
    }

    /// Whether credentials may answer with `qop`. Clients of RFC 2069 leave it out although `auth` was offered.
    pub(crate) fn accepts(self, qop: Option<&[u8]>) -> bool {
        match qop {
            None => self.auth || !self.auth_int,
            Some(qop) if qop.eq_ignore_ascii_case(b"auth") => self.auth,
            Some(qop) if qop.eq_ignore_ascii_case(b"auth-int") => self.auth_int,
            Some(_) => false,
        }
    }
}

/// What a nonce was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonce {
    id: u64,
    issued_secs: u64,
    pub(crate) algorithm: Algorithm,
    pub(crate) qop: Qop,
}

const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::Md5,
    Algorithm::Md5Sess,
    Algorithm::Sha256,
    Algorithm::Sha256Sess,
    Algorithm::Sha512_256,
    Algorithm::Sha512_256Sess,
];

/// Makes and checks nonces.
pub(crate) struct Nonces {
    secret: Vec<u8>,
    expire_secs: u64,
    /// Whether a nonce may be used once only, or with a growing count (`disable_nonce_check` off).
    is_checked: bool,
    hasher: DefaultHashBuilder,
    used: [Mutex<Used>; SHARDS],
}

/// Greatest count of each used nonce; two maps by time of issue, so that old ones go all at once.
#[derive(Default)]
struct Used {
    period: u64,
    current: HashMap<u64, u32>,
    previous: HashMap<u64, u32>,
}

impl Nonces {
    pub(crate) fn new(secret: Option<String>, expire_secs: u64, is_checked: bool) -> Nonces {
        let secret = match secret {
            Some(secret) => secret.into_bytes(),
            None => rand::rng().random::<[u8; 32]>().to_vec(),
        };
        Nonces {
            secret,
            expire_secs,
            is_checked,
            hasher: DefaultHashBuilder::default(),
            used: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// A new nonce as text.
    pub(crate) fn issue(&self, now_secs: u64, algorithm: Algorithm, qop: Qop) -> String {
        let kind = ALGORITHMS.iter().position(|other| *other == algorithm).unwrap_or(0) as u8;
        let flags = kind | u8::from(qop.auth) << 4 | u8::from(qop.auth_int) << 5;
        let mut bytes = Vec::with_capacity(NONCE_BYTES);
        bytes.extend_from_slice(now_secs.to_be_bytes().get(8 - TIME_BYTES..).unwrap_or_default());
        bytes.push(flags);
        bytes.extend_from_slice(&rand::rng().random::<[u8; 8]>());
        let mac = self.mac(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(mac.get(..MAC_BYTES).unwrap_or_default());
        hex::encode(bytes)
    }

    /// What a received nonce was made for; `None` for foreign and expired ones.
    pub(crate) fn read(&self, now_secs: u64, text: &[u8]) -> Option<Nonce> {
        let mut bytes = [0; NONCE_BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        let (body, mac) = bytes.split_at_checked(BODY_BYTES)?;
        // Compares in constant time.
        self.mac(body).verify_truncated_left(mac).ok()?;
        let (time, rest) = body.split_at_checked(TIME_BYTES)?;
        let issued_secs = time.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (flags, id) = rest.split_first()?;
        let is_expired = now_secs > issued_secs + self.expire_secs || issued_secs > now_secs + SKEW_SECS;
        if is_expired {
            return None;
        }
        Some(Nonce {
            id: id.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            issued_secs,
            algorithm: *ALGORITHMS.get(usize::from(flags & 15))?,
            qop: Qop { auth: flags & 16 != 0, auth_int: flags & 32 != 0 },
        })
    }

    /// Notes that a nonce has proved somebody; false when it had done so before with this count or a greater one, which
    /// is what a replayed request looks like. Without a `qop` the count is 0: such a nonce serves once.
    pub(crate) fn take(&self, nonce: &Nonce, count: u32) -> bool {
        if !self.is_checked {
            return true;
        }
        let span = self.expire_secs.max(1) + SKEW_SECS;
        let period = nonce.issued_secs / span;
        let shard = self.hasher.hash_one(nonce.id) as usize % SHARDS;
        let Some(used) = self.used.get(shard) else { return false };
        let mut used = used.lock();
        used.move_to(period);
        let map = if period == used.period { &mut used.current } else { &mut used.previous };
        let is_full = map.len() >= USED_MAX / SHARDS;
        match map.get_mut(&nonce.id) {
            Some(last) if *last >= count => false,
            Some(last) => {
                *last = count;
                true
            }
            None if is_full => false,
            None => {
                map.insert(nonce.id, count);
                true
            }
        }
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        // Any length of key is fine for HMAC; the fallback only satisfies the type.
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.secret);
        let mut mac = mac.unwrap_or_else(|_| <Hmac<Sha256> as Mac>::new(&Default::default()));
        mac.update(body);
        mac
    }
}

impl Used {
    /// A nonce that is valid now was issued in this period or the one before.
    fn move_to(&mut self, period: u64) {
        if period <= self.period {
            return;
        }
        let old = std::mem::take(&mut self.current);
        self.previous = if period == self.period + 1 { old } else { HashMap::new() };
        self.period = period;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const AUTH: Qop = Qop { auth: true, auth_int: false };

    fn nonces(is_checked: bool) -> Nonces {
        Nonces::new(Some("secret".to_owned()), 30, is_checked)
    }

    #[test]
    fn a_nonce_tells_what_it_was_made_for_until_it_expires() {
        let nonces = nonces(true);
        for algorithm in ALGORITHMS {
            let text = nonces.issue(NOW, algorithm, AUTH);
            let read = nonces.read(NOW + 30, text.as_bytes()).unwrap();
            assert_eq!((read.algorithm, read.qop, read.issued_secs), (algorithm, AUTH, NOW));
            assert_eq!(nonces.read(NOW + 31, text.as_bytes()), None);
            assert_eq!(nonces.read(NOW - 11, text.as_bytes()), None);
        }
    }

    #[test]
    fn no_changed_byte_and_no_other_secret_passes() {
        let nonces = nonces(true);
        let text = nonces.issue(NOW, Algorithm::Md5, AUTH).into_bytes();
        for at in 0..text.len() {
            let mut forged = text.clone();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(nonces.read(NOW, &forged), None, "byte {at}");
        }
        assert_eq!(nonces.read(NOW, &text[1..]), None);
        assert_eq!(nonces.read(NOW, b""), None);
        assert_eq!(Nonces::new(None, 30, true).read(NOW, &text), None);
        assert!(Nonces::new(Some("secret".to_owned()), 30, true).read(NOW, &text).is_some());
    }

    #[test]
    fn a_count_counts_once_and_has_to_grow() {
        let nonces = nonces(true);
        let nonce = nonces.read(NOW, nonces.issue(NOW, Algorithm::Md5, AUTH).as_bytes()).unwrap();
        assert!(nonces.take(&nonce, 1));
        assert!(!nonces.take(&nonce, 1));
        assert!(nonces.take(&nonce, 2));
        assert!(!nonces.take(&nonce, 1));
        let unchecked = Nonces::new(None, 30, false);
        assert!(unchecked.take(&nonce, 1) && unchecked.take(&nonce, 1));
    }

    #[test]
    fn used_nonces_are_forgotten_only_when_they_have_expired() {
        let nonces = nonces(true);
        let at = |secs| nonces.read(secs, nonces.issue(secs, Algorithm::Md5, AUTH).as_bytes()).unwrap();
        let first = at(NOW);
        assert!(nonces.take(&first, 1));
        for later in 1..=30 {
            assert!(nonces.take(&at(NOW + later), 1));
            assert!(!nonces.take(&first, 1), "{later} s later");
        }
        for later in 31..300 {
            assert!(nonces.take(&at(NOW + later), 1));
        }
        let count = |used: &Mutex<Used>| {
            let used = used.lock();
            used.current.len() + used.previous.len()
        };
        let kept: usize = nonces.used.iter().map(count).sum();
        assert!(kept <= 160, "{kept}");
    }

    #[test]
    fn qop_lists_are_read_in_both_dialects() {
        assert_eq!(Qop::parse(b"1"), Some(AUTH));
        assert_eq!(Qop::parse(b"0").unwrap().text(), None);
        assert_eq!(Qop::parse(b"auth, auth-int").unwrap().text(), Some(&b"auth,auth-int"[..]));
        assert_eq!(Qop::parse(b"confidential"), None);
        assert!(AUTH.accepts(None) && !AUTH.accepts(Some(b"auth-int")));
        assert!(!Qop::parse(b"auth-int").unwrap().accepts(None));
    }
}
