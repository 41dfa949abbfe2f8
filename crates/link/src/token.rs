//! Join tokens: what a new node needs to be let in once. Who was given one and whether it was used is known to the inviter.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::hello::{Hello, Purpose};
use crate::secret::{Secret, mac};

/// Length of the number of a ticket, bytes.
pub const TICKET_LEN: usize = 8;
const PREFIX: &str = "tandem-join-1.";
const CONTEXT: &[u8] = b"tandem join token 1";
const CHECK_CONTEXT: &[u8] = b"tandem join token check";
/// Cluster, node, seed node, expiry, ticket, key.
const FIXED: usize = 4 + 4 + 4 + 8 + TICKET_LEN + 32;
const CHECK_LEN: usize = 4;
/// Longest URL of a seed, bytes.
const URL_MAX: usize = 255;

/// A text that is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error("a join token begins with {PREFIX}")]
    Prefix,
    /// Cut or mistyped.
    #[error("the join token is incomplete or mistyped: copy it as a whole")]
    Malformed,
}

/// What the inviter remembers of a token, and what both ends derive its key from. Holds no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Cluster to join.
    pub cluster: i32,
    /// The only node id it is good for.
    pub node: i32,
    /// End of its life, Unix seconds.
    pub expires: i64,
    /// Random number that names it.
    pub number: [u8; TICKET_LEN],
}

impl Ticket {
    /// Its name in listings and in the hello.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(self.number)
    }

    /// The one-time secret of this ticket, derived from the secret of the cluster.
    #[must_use]
    pub fn one_time(&self, secret: &Secret) -> Secret {
        let parts: [&[u8]; 5] =
            [CONTEXT, &self.cluster.to_be_bytes(), &self.node.to_be_bytes(), &self.expires.to_be_bytes(), &self.number];
        Secret::from_key(self.id(), mac(secret.key(), &parts))
    }
}

/// What the new node is given.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// What it is good for.
    pub ticket: Ticket,
    /// The inviting node.
    pub seed_node: i32,
    /// Its listener, such as `bin:192.0.2.1:5555`.
    pub seed_url: String,
    one_time: Secret,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("ticket", &self.ticket)
            .field("seed_url", &self.seed_url)
            .finish_non_exhaustive()
    }
}

impl JoinToken {
    /// A token for `ticket`, to be used at the inviting node.
    #[must_use]
    pub fn new(ticket: Ticket, secret: &Secret, seed_node: i32, seed_url: String) -> JoinToken {
        let one_time = ticket.one_time(secret);
        JoinToken { ticket, seed_node, seed_url, one_time }
    }

    /// The secret to prove with [`Purpose::Join`].
    #[must_use]
    pub fn one_time(&self) -> &Secret {
        &self.one_time
    }

    /// The hello of a link that uses the token.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello { purpose: Purpose::Join, cluster: self.ticket.cluster, secret_id: self.ticket.id() }
    }

    /// The text to hand over. It is a secret until it is used or expired.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(FIXED + CHECK_LEN + self.seed_url.len()));
        bytes.extend_from_slice(&self.ticket.cluster.to_be_bytes());
        bytes.extend_from_slice(&self.ticket.node.to_be_bytes());
        bytes.extend_from_slice(&self.seed_node.to_be_bytes());
        bytes.extend_from_slice(&self.ticket.expires.to_be_bytes());
        bytes.extend_from_slice(&self.ticket.number);
        bytes.extend_from_slice(self.one_time.key());
        bytes.extend_from_slice(self.seed_url.as_bytes());
        let check = mac(CHECK_CONTEXT, &[bytes.as_slice()]);
        bytes.extend_from_slice(check.first_chunk::<CHECK_LEN>().map_or(&[], |check| check.as_slice()));
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())))
    }
}

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(TokenError::Malformed)?;
    *bytes = rest;
    Ok(*first)
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > 2 * (FIXED + URL_MAX + CHECK_LEN) {
            return Err(TokenError::Malformed);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?);
        let at = bytes.len().checked_sub(CHECK_LEN).ok_or(TokenError::Malformed)?;
        let (mut bytes, check) = bytes.split_at_checked(at).ok_or(TokenError::Malformed)?;
        if mac(CHECK_CONTEXT, &[bytes]).get(..CHECK_LEN) != Some(check) {
            return Err(TokenError::Malformed);
        }
        let cluster = i32::from_be_bytes(take(&mut bytes)?);
        let node = i32::from_be_bytes(take(&mut bytes)?);
        let seed_node = i32::from_be_bytes(take(&mut bytes)?);
        let expires = i64::from_be_bytes(take(&mut bytes)?);
        let ticket = Ticket { cluster, node, expires, number: take(&mut bytes)? };
        let one_time = Secret::from_key(ticket.id(), take(&mut bytes)?);
        let seed_url = std::str::from_utf8(bytes).map_err(|_| TokenError::Malformed)?.to_owned();
        if seed_url.len() > URL_MAX {
            return Err(TokenError::Malformed);
        }
        Ok(JoinToken { ticket, seed_node, seed_url, one_time })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        let secret = Secret::from_text("2026a", "correct horse battery").unwrap();
        let ticket = Ticket { cluster: 1, node: 4, expires: 1_800_000_000, number: [7; TICKET_LEN] };
        JoinToken::new(ticket, &secret, 1, "bin:192.0.2.1:5555".to_owned())
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_is_not_shown() {
        let token = token();
        let text = token.encode();
        let read: JoinToken = format!("  {}\n", text.as_str()).parse().unwrap();
        assert_eq!(read, token);
        assert!(!format!("{token:?}").contains(&hex::encode(token.one_time.key())));
    }

    #[test]
    fn every_cut_and_every_wrong_letter_is_noticed() {
        let text = token().encode();
        for end in 0..text.len() {
            assert!(text.get(..end).unwrap().parse::<JoinToken>().is_err(), "{end}");
        }
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(bytes).unwrap().parse::<JoinToken>().is_err(), "{at}");
        }
    }

    #[test]
    fn the_key_depends_on_everything_the_ticket_says() {
        let secret = Secret::from_text("2026a", "correct horse battery").unwrap();
        let base = token().ticket;
        let others = [
            Ticket { cluster: 2, ..base.clone() },
            Ticket { node: 5, ..base.clone() },
            Ticket { expires: base.expires + 1, ..base.clone() },
            Ticket { number: [8; TICKET_LEN], ..base.clone() },
        ];
        for other in others {
            assert_ne!(other.one_time(&secret).key(), base.one_time(&secret).key());
        }
    }
}
