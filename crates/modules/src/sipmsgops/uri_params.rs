//! Parameters of the Request-URI and `tel:` to `sip:`.

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::value::Text;
use tandem_script::vm::Arg;
use tandem_sip::{Scheme, Uri, UriEdit, edit_uri};

use crate::core::table::done;

/// Whether the Request-URI has a parameter: without value, or with that value (case ignored).
pub(crate) fn has(context: &mut Context, args: &[Arg]) -> Called {
    let Some(name) = arg_text(args, 0) else { return done(false) };
    let Some(uri) = context.request_uri().and_then(|uri| Uri::parse(uri).ok()) else { return done(false) };
    let Some(param) = uri.params.find(name) else { return done(false) };
    done(match arg_text(args, 1) {
        None => param.value.is_none_or(<[u8]>::is_empty),
        Some(wanted) => param.value.is_some_and(|value| value.eq_ignore_ascii_case(wanted)),
    })
}

fn change(context: &mut Context, edit: &UriEdit<'_>) -> bool {
    let Some(Ok(uri)) = context.request_uri().map(|uri| edit_uri(uri, edit)) else { return false };
    context.edits.target.uri = Some(Text::from(uri));
    true
}

pub(crate) fn add(context: &mut Context, args: &[Arg]) -> Called {
    let Some(param) = arg_text(args, 0).filter(|param| !param.is_empty()) else { return done(false) };
    let param = param.strip_prefix(b";").unwrap_or(param);
    let (name, value) = match memchr::memchr(b'=', param) {
        Some(at) => (param.get(..at).unwrap_or_default(), param.get(at + 1..)),
        None => (param, None),
    };
    done(change(context, &UriEdit::Param(name, value)))
}

pub(crate) fn remove(context: &mut Context, args: &[Arg]) -> Called {
    let Some(name) = arg_text(args, 0) else { return done(false) };
    let uri = context.request_uri().and_then(|uri| Uri::parse(uri).ok());
    if !uri.is_some_and(|uri| uri.has_param(name)) {
        return done(false);
    }
    done(change(context, &UriEdit::RemoveParam(name)))
}

/// The number and its parameters become the user part (RFC 3261 §19.1.6), the host is that of From.
pub(crate) fn tel_to_sip(context: &mut Context, _: &[Arg]) -> Called {
    let Some(uri) = context.request_uri() else { return done(false) };
    let Ok(parsed) = Uri::parse(uri) else { return done(false) };
    if parsed.scheme != Scheme::Tel {
        return done(true);
    }
    let from = context.message.from().ok().and_then(|from| from.parsed_uri().ok());
    let Some(host) = from.map(|from| from.host).filter(|host| !host.is_empty()) else { return done(false) };
    let rest = uri.get(4..).unwrap_or_default();
    let made = [&b"sip:"[..], rest, b"@", host, b";user=phone"].concat();
    context.edits.target.uri = Some(Text::from(made));
    done(true)
}
