//! Shared secrets: derived from text, named by an id, never shown. Reading and writing lines of secret files, not the files.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::hello::SECRET_ID_MAX;

/// Shortest text of a secret, bytes: whoever records a handshake can try texts at leisure.
pub const SECRET_TEXT_MIN: usize = 16;
/// Separates this use of HMAC from all others.
const CONTEXT: &[u8] = b"tandem cluster secret 1";
/// Marks a line that holds the derived key instead of the text.
const KEY_PREFIX: &str = "key=";

/// A text that cannot be a secret. Does not repeat the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The id is empty, too long or has characters that are not printable.
    #[error("the id of a secret is 1 to {SECRET_ID_MAX} printable characters without spaces")]
    Id,
    /// The text is too short.
    #[error("a secret has at least {SECRET_TEXT_MIN} characters; `openssl rand -base64 32` makes a good one")]
    Short,
    /// A line of a file is not `ID SECRET`.
    #[error("line {0} is not `ID SECRET`")]
    Line(usize),
    /// A derived key is not 64 hexadecimal digits.
    #[error("what follows key= is not 64 hexadecimal digits")]
    Key,
}

/// A secret that both ends of a link have.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    id: String,
    key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// HMAC-SHA256 of parts that are each of a fixed length, or last.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length; an error cannot happen.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

impl Secret {
    /// A secret from its text.
    ///
    /// # Errors
    /// When id or text cannot be used.
    pub fn from_text(id: &str, text: &str) -> Result<Secret, SecretError> {
        check_id(id)?;
        if let Some(key) = text.strip_prefix(KEY_PREFIX) {
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(key, bytes.as_mut_slice()).map_err(|_| SecretError::Key)?;
            return Ok(Secret { id: id.to_owned(), key: bytes });
        }
        if text.len() < SECRET_TEXT_MIN {
            return Err(SecretError::Short);
        }
        Ok(Secret { id: id.to_owned(), key: Zeroizing::new(mac(CONTEXT, &[text.as_bytes()])) })
    }

    /// A secret from a key that is already derived (of a join token).
    pub(crate) fn from_key(id: String, key: [u8; 32]) -> Secret {
        Secret { id, key: Zeroizing::new(key) }
    }

    /// Its id, which is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

fn check_id(id: &str) -> Result<(), SecretError> {
    let is_good = !id.is_empty() && id.len() <= SECRET_ID_MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good { Ok(()) } else { Err(SecretError::Id) }
}

/// The secrets of a file: one `ID SECRET` a line, the newest last. Empty lines and those that begin with `#` are left out.
///
/// # Errors
/// The first line that cannot be used.
pub fn read_lines(text: &str) -> Result<Vec<Secret>, SecretError> {
    let mut secrets = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (id, text) = line.split_once(char::is_whitespace).ok_or(SecretError::Line(at + 1))?;
        secrets.push(Secret::from_text(id, text.trim())?);
    }
    Ok(secrets)
}

/// The line of a secret for such a file, with its derived key. What it returns is as secret as the secret.
#[must_use]
pub fn write_line(secret: &Secret) -> Zeroizing<String> {
    let key = Zeroizing::new(hex::encode(secret.key()));
    Zeroizing::new(format!("{} {KEY_PREFIX}{}\n", secret.id, key.as_str()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::from_text("2026a", "correct horse battery").unwrap();
        let shown = format!("{secret:?}");
        assert!(shown.contains("2026a") && !shown.contains("correct"), "{shown}");
        assert!(!shown.contains(&hex::encode(secret.key())), "{shown}");
    }

    #[test]
    fn lines_of_a_file_are_read_and_written() {
        let secrets =
            read_lines("# the cluster\n\n2026a correct horse battery\n 2026b another long secret \n").unwrap();
        assert_eq!(secrets.iter().map(Secret::id).collect::<Vec<_>>(), ["2026a", "2026b"]);
        let written: String = secrets.iter().map(|secret| write_line(secret).to_string()).collect();
        assert!(!written.contains("horse"));
        assert_eq!(read_lines(&written).unwrap(), secrets);
    }

    #[test]
    fn bad_lines_say_what_is_wrong_without_the_secret() {
        assert_eq!(read_lines("only\n"), Err(SecretError::Line(1)));
        assert_eq!(Secret::from_text("a", "short"), Err(SecretError::Short));
        assert_eq!(Secret::from_text("", "correct horse battery"), Err(SecretError::Id));
        assert_eq!(Secret::from_text("a b", "correct horse battery"), Err(SecretError::Id));
        assert_eq!(Secret::from_text("a", "key=12"), Err(SecretError::Key));
    }
}
