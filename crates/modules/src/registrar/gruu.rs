//! Globally routable URIs of a UA (RFC 5627): how they are made and read again. A public one names user and instance; a
//! temporary one hides both behind authenticated encryption, so that any node with the same secret can read it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use tandem_location::{Aor, Binding};
use tandem_sip::{Scheme, Uri};

/// Begins the user part of temporary ones.
const TEMPORARY: &[u8] = b"tgruu.";
/// Longest user part that is taken for a temporary one.
const TOKEN_BYTES_MAX: usize = 2048;

/// Makes and reads them.
pub(super) struct Gruu {
    key: LessSafeKey,
}

/// What a temporary one says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Temporary {
    pub(super) aor: Aor,
    /// Without angle brackets.
    pub(super) instance: Vec<u8>,
    pub(super) call_id: Vec<u8>,
}

/// An instance as URIs write it.
pub(super) fn bare(instance: &[u8]) -> &[u8] {
    instance.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">")).unwrap_or(instance)
}

/// Writes a URI parameter's value: what may not stand there is escaped.
fn escape(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()[]/:&+$".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

impl Gruu {
    /// With a secret (`gruu_secret`), which all nodes of a cluster share; without one temporary GRUUs end with the process.
    pub(super) fn new(secret: &[u8]) -> Option<Gruu> {
        let key: [u8; 32] = match secret {
            b"" => rand::random(),
            secret => Sha256::digest(secret).into(),
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).ok()?;
        Some(Gruu { key: LessSafeKey::new(key) })
    }

    /// The parameters of a Contact in a 200: `;pub-gruu="...";temp-gruu="..."`. `to` is the URI that was registered.
    pub(super) fn write(&self, aor: &Aor, to: &Uri<'_>, binding: &Binding, out: &mut Vec<u8>) {
        let instance = bare(binding.instance());
        let scheme: &[u8] = if to.scheme == Scheme::Sips { b"sips:" } else { b"sip:" };
        out.extend_from_slice(b";pub-gruu=\"");
        out.extend_from_slice(scheme);
        if let Some(user) = to.user {
            out.extend_from_slice(user);
            out.push(b'@');
        }
        out.extend_from_slice(to.host);
        out.extend_from_slice(b";gr=");
        escape(instance, out);
        out.push(b'"');
        if let Some(token) = self.seal(aor, instance, binding.call_id()) {
            out.extend_from_slice(b";temp-gruu=\"");
            out.extend_from_slice(scheme);
            out.extend_from_slice(TEMPORARY);
            out.extend_from_slice(token.as_bytes());
            out.push(b'@');
            out.extend_from_slice(to.host);
            out.extend_from_slice(b";gr\"");
        }
    }

    fn seal(&self, aor: &Aor, instance: &[u8], call_id: &[u8]) -> Option<String> {
        let mut text = [aor.as_bytes(), b"\0", instance, b"\0", call_id].concat();
        let nonce: [u8; NONCE_LEN] = rand::random();
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat()))
    }

    /// Reads the user part of a temporary one; `None` for any other user, and for one that was not made with our secret.
    pub(super) fn open(&self, user: &[u8]) -> Option<Temporary> {
        let token = user.strip_prefix(TEMPORARY).filter(|token| token.len() <= TOKEN_BYTES_MAX)?;
        let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut text).ok()?;
        let mut parts = opened.splitn(3, |byte| *byte == 0);
        let (aor, instance, call_id) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Temporary { aor: Aor::from_raw(aor), instance: instance.to_vec(), call_id: call_id.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tandem_location::{BindingFields, ContactId};

    use super::*;

    fn written(gruu: &Gruu) -> String {
        let fields = BindingFields {
            contact: b"sip:a@10.0.0.1",
            instance: b"<urn:uuid:1 2>",
            call_id: b"c\xc3\xa4ll",
            ..BindingFields::default()
        };
        let binding = Binding::new(ContactId::default(), &fields).unwrap();
        let mut out = Vec::new();
        let to = Uri::parse(b"sip:alice@example.org").unwrap();
        gruu.write(&Aor::from("alice@example.org"), &to, &binding, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn token(text: &str) -> &str {
        let (_, rest) = text.split_once("temp-gruu=\"sip:").unwrap();
        rest.split_once('@').unwrap().0
    }

    #[test]
    fn a_temporary_one_says_what_went_in_and_never_looks_the_same() {
        let gruu = Gruu::new(b"secret").unwrap();
        let (first, second) = (written(&gruu), written(&gruu));
        assert!(
            first.starts_with(";pub-gruu=\"sip:alice@example.org;gr=urn:uuid:1%202\";temp-gruu=\"sip:tgruu."),
            "{first}"
        );
        assert!(first.ends_with("@example.org;gr\""), "{first}");
        assert_ne!(token(&first), token(&second));
        let wanted = Temporary {
            aor: Aor::from("alice@example.org"),
            instance: b"urn:uuid:1 2".to_vec(),
            call_id: b"c\xc3\xa4ll".to_vec(),
        };
        assert_eq!(gruu.open(token(&first).as_bytes()), Some(wanted));
        assert!(Gruu::new(b"secret").unwrap().open(token(&second).as_bytes()).is_some(), "another node reads it");
    }

    #[test]
    fn a_forged_or_broken_one_is_none() {
        let gruu = Gruu::new(b"").unwrap();
        let text = written(&gruu);
        let mut forged = token(&text).as_bytes().to_vec();
        let last = forged.len() - 3;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        assert_eq!(gruu.open(&forged), None);
        assert_eq!(Gruu::new(b"other").unwrap().open(token(&text).as_bytes()), None);
        for user in [&b"alice"[..], b"tgruu.", b"tgruu.!!", b"tgruu.AAAA", b"\xff"] {
            assert_eq!(gruu.open(user), None);
        }
        assert_eq!(gruu.open(&[b"tgruu.".to_vec(), vec![b'A'; 5000]].concat()), None);
    }
}
