//! Checks of digest credentials, in two steps with the lookup of the secret between them: `begin` finds the credentials and
//! looks at their nonce, `finish` compares. Where the secret comes from is the business of the caller (`auth`, `auth_db`).

use tandem_module::context::Context;
use tandem_module::node::unix_secs;
use tandem_script::value::Text;
use tandem_sip::digest::{self, Algorithm, HexDigest};
use tandem_sip::{DigestCredentials, HeaderKind, Message, Method};

use super::Auth;
use super::nonce::Nonce;
use crate::core::Authenticated;

/// The credentials are right.
pub const AUTHORIZED: i32 = 1;
/// The user does not exist.
pub const USER_UNKNOWN: i32 = -1;
/// The user exists, the password is wrong.
pub const INVALID_PASSWORD: i32 = -2;
/// The nonce has expired, was used before or is not ours; the next challenge says `stale=true`.
pub const STALE_NONCE: i32 = -3;
/// There are no credentials for this realm.
pub const NO_CREDENTIALS: i32 = -4;
/// Something else is wrong; no reply was sent.
pub const GENERIC_ERROR: i32 = -5;

/// Which pair of headers is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// WWW-Authenticate and Authorization, 401.
    Www,
    /// Proxy-Authenticate and Proxy-Authorization, 407.
    Proxy,
}

impl Side {
    pub(super) fn credentials(self) -> HeaderKind {
        match self {
            Side::Www => HeaderKind::Authorization,
            Side::Proxy => HeaderKind::ProxyAuthorization,
        }
    }
}

/// What the checks of one message have come to; kept with the run for challenges and `consume_credentials()`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings {
    /// The next challenge says `stale=true`.
    pub(super) is_stale: bool,
    /// Place of the authorised header among the headers.
    pub(super) authorized: Option<usize>,
}

/// Credentials whose nonce is in order, waiting for the secret they are compared with.
#[derive(Clone, Debug)]
pub struct Attempt {
    header: usize,
    realm: Text,
    nonce: Nonce,
}

impl Attempt {
    /// The credentials, as they stand in the message.
    pub fn credentials<'m>(&self, message: &'m Message) -> Option<DigestCredentials<'m>> {
        let entry = message.headers().get(self.header)?;
        DigestCredentials::parse(message.value(entry)).ok()
    }

    /// The realm asked for.
    pub fn realm(&self) -> &[u8] {
        &self.realm
    }

    /// The algorithm that was asked for and is answered with.
    pub fn algorithm(&self) -> Algorithm {
        self.nonce.algorithm
    }
}

/// The realm as a script gave it; for an empty one the host of the To URI (REGISTER, WWW) or the From URI, without the
/// prefix of parameter `realm_prefix`.
pub fn realm(context: &Context, side: Side, realm: &[u8]) -> Option<Text> {
    if !realm.is_empty() {
        return Some(Text::copy(realm));
    }
    let message = &context.message;
    let is_to = side == Side::Www && message.method() == Method::Register;
    let address = if is_to { message.to() } else { message.from() };
    let host = address.ok()?.parsed_uri().ok()?.host;
    let prefix = context.node.state::<Auth>().map_or("", |auth| auth.realm_prefix.as_str()).as_bytes();
    let begins = !prefix.is_empty() && host.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix));
    let host = if begins { host.get(prefix.len()..).unwrap_or_default() } else { host };
    (!host.is_empty()).then(|| Text::copy(host))
}

/// Finds the credentials for `realm` and checks their nonce.
///
/// # Errors
/// The code for the script: [`AUTHORIZED`] for ACK and CANCEL, which cannot be challenged, else a negative one.
pub fn begin(context: &mut Context, side: Side, wanted: &[u8]) -> Result<Attempt, i32> {
    if matches!(context.message.method(), Method::Ack | Method::Cancel) {
        return Err(AUTHORIZED);
    }
    let auth = context.node.state::<Auth>().ok_or(GENERIC_ERROR)?;
    let realm = realm(context, side, wanted).ok_or(GENERIC_ERROR)?;
    let header = find(&context.message, side.credentials(), &realm)?;
    let entry = context.message.headers().get(header).ok_or(NO_CREDENTIALS)?;
    let found = DigestCredentials::parse(context.message.value(entry)).map_err(|_| GENERIC_ERROR)?;
    let nonce = auth.nonces.read(unix_secs().unsigned_abs(), found.nonce);
    let named = found.algorithm.map_or(Some(Algorithm::Md5), Algorithm::from_bytes);
    // An answer with another algorithm or protection than asked for would let somebody on the way weaken both.
    let nonce = nonce.filter(|nonce| named == Some(nonce.algorithm) && nonce.qop.accepts(found.qop));
    match nonce {
        Some(nonce) => Ok(Attempt { header, realm, nonce }),
        None => Err(mark_stale(context)),
    }
}

/// Place of the Digest header for `realm`. One that is Digest but lacks something is an error, unless another one fits.
fn find(message: &Message, kind: HeaderKind, realm: &[u8]) -> Result<usize, i32> {
    let mut code = NO_CREDENTIALS;
    for (at, entry) in message.headers().iter().enumerate().filter(|(_, entry)| entry.kind == kind) {
        let value = message.value(entry);
        match DigestCredentials::parse(value) {
            Ok(found) if found.realm == realm => return Ok(at),
            Ok(_) => {}
            Err(_) if value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"digest")) => {
                code = GENERIC_ERROR
            }
            Err(_) => {}
        }
    }
    Err(code)
}

/// Compares the credentials with the secret of the user; the code for the script.
pub fn finish(context: &mut Context, attempt: &Attempt, ha1: &HexDigest) -> i32 {
    let Some(auth) = context.node.state::<Auth>() else { return GENERIC_ERROR };
    let Some(found) = attempt.credentials(&context.message) else { return GENERIC_ERROR };
    let is_right =
        digest::verify(&found, attempt.algorithm(), ha1, context.message.method_bytes(), context.message.body());
    if !is_right {
        return INVALID_PASSWORD;
    }
    let count = if found.qop.is_some() { found.nonce_count() } else { Some(0) };
    let Some(count) = count else { return GENERIC_ERROR };
    if !auth.nonces.take(&attempt.nonce, count) {
        return mark_stale(context);
    }
    let name = [found.user(), attempt.realm()].join(&b'@');
    context.set_slot(Authenticated(Text::from(name)));
    keep(context, Findings { is_stale: false, authorized: Some(attempt.header) });
    AUTHORIZED
}

/// HA1 out of a stored value: computed from a password, or the stored digits; `None` when these are none of this
/// algorithm. `user` is the whole user name of the credentials.
pub fn ha1_of(attempt: &Attempt, user: &[u8], stored: &[u8], is_password: bool) -> Option<HexDigest> {
    let algorithm = attempt.algorithm();
    if is_password {
        return Some(digest::ha1(algorithm, user, attempt.realm(), stored));
    }
    HexDigest::from_hex(stored.trim_ascii()).filter(|ha1| ha1.as_bytes().len() == algorithm.hex_length())
}

/// User part of the authorised user name, and its realm; `None` before anything was authorised.
pub fn authorized_user(context: &mut Context) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = findings(context).authorized?;
    let message = &context.message;
    let found = DigestCredentials::parse(message.value(message.headers().get(at)?)).ok()?;
    Some((found.user().to_vec(), found.realm.to_vec()))
}

/// What the checks of this run have come to so far.
pub(super) fn findings(context: &mut Context) -> Findings {
    context.slot::<Findings>().copied().unwrap_or_default()
}

/// Keeps what has been found.
pub(super) fn keep(context: &mut Context, findings: Findings) {
    context.set_slot(findings);
}

fn mark_stale(context: &mut Context) -> i32 {
    let findings = findings(context);
    keep(context, Findings { is_stale: true, ..findings });
    STALE_NONCE
}
