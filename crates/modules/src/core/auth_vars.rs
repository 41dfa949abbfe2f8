//! Variables of digest credentials and challenges, as they stand in the message. Nothing is verified here.

use tandem_module::context::Context;
use tandem_module::declare::VarCall;
use tandem_script::value::Value;
use tandem_sip::{DigestChallenge, DigestCredentials, HeaderKind, Message, Method};

use super::table::{message_of, part_value};

/// The credentials scripts look at: Proxy-Authorization before Authorization; none in ACK and CANCEL.
fn credentials(message: &Message) -> Option<DigestCredentials<'_>> {
    if matches!(message.method(), Method::Ack | Method::Cancel) {
        return None;
    }
    message
        .credentials(HeaderKind::ProxyAuthorization, None)
        .or_else(|| message.credentials(HeaderKind::Authorization, None))
}

fn challenge(message: &Message) -> Option<DigestChallenge<'_>> {
    let kinds = [HeaderKind::ProxyAuthenticate, HeaderKind::WwwAuthenticate];
    kinds.into_iter().find_map(|kind| DigestChallenge::parse(message.value_of(kind)?).ok())
}

macro_rules! readers {
    ($parse:ident: $($name:ident = |$it:ident| $field:expr;)*) => {
        $(pub(super) fn $name(context: &mut Context, call: &VarCall<'_>) -> Value {
            let Some(message) = message_of(context, call) else { return Value::Null };
            let Some($it) = $parse(message) else { return Value::Null };
            // An empty text in quotes is no value.
            part_value(message, $field.filter(|text| !text.is_empty()))
        })*
    };
}

readers! { credentials:
    user = |it| Some(it.user());
    domain = |it| it.domain();
    user_name = |it| Some(it.username);
    realm = |it| Some(it.realm);
    nonce = |it| Some(it.nonce);
    uri = |it| Some(it.uri);
    response = |it| Some(it.response);
    cnonce = |it| it.cnonce;
    opaque = |it| it.opaque;
    algorithm = |it| it.algorithm;
    qop = |it| it.qop;
    nonce_count = |it| it.nc;
}

readers! { challenge:
    challenge_realm = |it| Some(it.realm);
    challenge_nonce = |it| Some(it.nonce);
    challenge_algorithm = |it| it.algorithm;
    challenge_qop = |it| it.qop;
    challenge_opaque = |it| it.opaque;
}
