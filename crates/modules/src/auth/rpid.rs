//! Remote-Party-ID out of a value that an authentication backend or the script has loaded.

use std::sync::Arc;

use tandem_module::SetupError;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Setup, arg_text};
use tandem_script::pvar::CompiledVar;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::NameAddr;

use super::Auth;
use crate::core::table::done;

/// Default of parameter `rpid_suffix`.
pub(super) const SUFFIX: &str = ";party=calling;id-type=subscriber;screen=yes";
/// Digits of an E.164 number.
const DIGITS_MAX: usize = 15;

/// The parameters.
pub(super) struct Rpid {
    value: Option<Arc<CompiledVar>>,
    prefix: String,
    suffix: String,
}

impl Rpid {
    pub(super) fn new(setup: &mut Setup<'_>) -> Result<Rpid, SetupError> {
        Ok(Rpid {
            value: super::variable(setup, "rpid_avp", "$avp(rpid)")?,
            prefix: setup.params.text_or("rpid_prefix", ""),
            suffix: setup.params.text_or("rpid_suffix", SUFFIX),
        })
    }
}

fn value(context: &mut Context) -> Option<(&'static Rpid, Text)> {
    let rpid = &context.node.state::<Auth>()?.rpid;
    let Some(var) = &rpid.value else {
        context.log(LogLevel::Error, "auth: parameter rpid_avp is NULL");
        return None;
    };
    let text = context.read_var(var).as_text().filter(|text| !text.is_empty())?;
    Some((rpid, text))
}

/// `is_rpid_user_e164()`.
pub(super) fn is_user_e164(context: &mut Context, _: &[Arg]) -> Called {
    let Some((_, text)) = value(context) else { return done(false) };
    let uri = NameAddr::parse(&text).ok().and_then(|address| address.parsed_uri().ok());
    let digits = uri.as_ref().and_then(|uri| uri.user_or_empty().strip_prefix(b"+"));
    done(digits.is_some_and(|digits| {
        !digits.is_empty() && digits.len() <= DIGITS_MAX && digits.iter().all(u8::is_ascii_digit)
    }))
}

/// `append_rpid_hf([prefix, suffix])`.
pub(super) fn append(context: &mut Context, args: &[Arg]) -> Called {
    let Some((rpid, text)) = value(context) else { return done(false) };
    let prefix = arg_text(args, 0).unwrap_or(rpid.prefix.as_bytes());
    let suffix = arg_text(args, 1).unwrap_or(rpid.suffix.as_bytes());
    let mut line = b"Remote-Party-ID: ".to_vec();
    for part in [prefix, &text, suffix] {
        // The value comes from a database or the message: it must not start a header of its own.
        line.extend(part.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    }
    line.extend_from_slice(b"\r\n");
    let message = &context.message;
    context.edits.lumps.append_header(message, line);
    done(true)
}
