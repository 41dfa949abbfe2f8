//! Variables of the first line, the next hop and the message as a whole (specification §6.4). Headers are elsewhere.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use tandem_module::context::{Context, ErrorRecord};
use tandem_module::declare::VarCall;
use tandem_module::transport::Proto;
use tandem_script::value::{Text, Value, int_text};
use tandem_script::vm::{Index, MessageContext};
use tandem_sip::{Scheme, Uri, UriEdit, edit_uri};

use super::table::{message_of, part_value};

/// `user@realm` of the credentials that were found right in this run; set as a slot of the context by module `auth`.
pub struct Authenticated(pub Text);

/// A part of a URI.
#[derive(Clone, Copy)]
pub(super) enum UriPart {
    /// All of it.
    Whole,
    /// User.
    User,
    /// Host.
    Host,
    /// Port.
    Port,
    /// Transport.
    Transport,
}

/// Number OpenSIPS gives a transport.
const fn proto_number(name: &[u8]) -> i32 {
    match name {
        b"udp" | b"UDP" => 1,
        b"tcp" | b"TCP" => 2,
        b"tls" | b"TLS" => 3,
        b"sctp" | b"SCTP" => 4,
        b"ws" | b"WS" => 5,
        b"wss" | b"WSS" => 6,
        _ => 0,
    }
}

fn uri_part(uri: &Uri<'_>, part: UriPart) -> Value {
    match part {
        UriPart::Whole => Value::text(uri.raw),
        UriPart::User => uri.user.filter(|user| !user.is_empty()).map_or(Value::Null, Value::text),
        UriPart::Host if uri.host.is_empty() => Value::Null,
        UriPart::Host => Value::text(uri.host),
        UriPart::Port => match uri.port {
            Some(port) => Value::Dual(int_text(i32::from(port)), i32::from(port)),
            None => Value::Int(i32::from(uri.port_or_default())),
        },
        UriPart::Transport => {
            let name = match uri.transport_text() {
                Some(name) if !name.is_empty() => name,
                _ if uri.scheme == Scheme::Sips => b"tls",
                _ => b"udp",
            };
            Value::Dual(Text::copy(name), proto_number(name))
        }
    }
}

/// A URI scripts can look into.
fn readable(uri: &[u8]) -> Option<Uri<'_>> {
    Uri::parse(uri).ok().filter(tandem_script::transform::is_readable)
}

/// What `error_route` is told of a request URI that cannot be parsed.
fn bad_uri() -> ErrorRecord {
    ErrorRecord {
        class: 1,
        level: 3,
        info: "error parsing r-uri".to_owned(),
        code: 400,
        reason: "Bad Request-URI".to_owned(),
    }
}

fn current_uri<'a>(context: &'a Context, call: &VarCall<'_>) -> Option<&'a [u8]> {
    match (call.context, &context.request) {
        (Some(MessageContext::Reply), _) => None,
        (Some(MessageContext::Request), Some(stored)) => match &stored.edits.target.uri {
            Some(uri) => Some(uri),
            None => stored.message.request_uri(),
        },
        _ if context.is_request() => context.request_uri(),
        _ => None,
    }
}

fn read_current(context: &mut Context, call: &VarCall<'_>, part: UriPart) -> Value {
    let Some(uri) = current_uri(context, call) else { return Value::Null };
    match readable(uri) {
        Some(uri) => uri_part(&uri, part),
        None => {
            context.error = Some(bad_uri());
            Value::Null
        }
    }
}

fn read_original(context: &mut Context, call: &VarCall<'_>, part: UriPart) -> Value {
    let uri = message_of(context, call).and_then(|message| message.request_uri());
    uri.and_then(readable).map_or(Value::Null, |uri| uri_part(&uri, part))
}

fn read_next_hop(context: &mut Context, part: UriPart) -> Value {
    let Some(uri) = &context.edits.target.dst_uri else { return Value::Null };
    match part {
        UriPart::Whole => Value::Text(uri.clone()),
        part => readable(uri).map_or(Value::Null, |uri| uri_part(&uri, part)),
    }
}

macro_rules! readers {
    ($($name:ident = $reader:ident($part:ident);)*) => {
        $(pub(super) fn $name(context: &mut Context, call: &VarCall<'_>) -> Value {
            $reader(context, call, UriPart::$part)
        })*
    };
}

readers! {
    ruri = read_current(Whole);
    ruri_user = read_current(User);
    ruri_host = read_current(Host);
    ruri_port = read_current(Port);
    ruri_transport = read_current(Transport);
    ouri = read_original(Whole);
    ouri_user = read_original(User);
    ouri_host = read_original(Host);
    ouri_port = read_original(Port);
    ouri_transport = read_original(Transport);
}

pub(super) fn duri(context: &mut Context, _: &VarCall<'_>) -> Value {
    read_next_hop(context, UriPart::Whole)
}

pub(super) fn duri_host(context: &mut Context, _: &VarCall<'_>) -> Value {
    read_next_hop(context, UriPart::Host)
}

pub(super) fn duri_port(context: &mut Context, _: &VarCall<'_>) -> Value {
    read_next_hop(context, UriPart::Port)
}

pub(super) fn duri_transport(context: &mut Context, _: &VarCall<'_>) -> Value {
    read_next_hop(context, UriPart::Transport)
}

/// Changes one part of the request URI; false when there is none, or it cannot be parsed (OpenSIPS: core, `set_ruri` family).
pub(super) fn edit_ruri(context: &mut Context, edit: &UriEdit<'_>) -> bool {
    if !context.is_request() {
        return false;
    }
    let Some(uri) = context.request_uri() else { return false };
    match edit_uri(uri, edit).and_then(|edited| readable(uri).map(|_| edited).ok_or(tandem_sip::UriError::BadUser)) {
        Ok(uri) => {
            context.edits.target.uri = Some(Text::from(uri));
            true
        }
        Err(_) => false,
    }
}

/// A new request URI has no preference of its own; an empty text is the URI as received.
pub(super) fn replace_ruri(context: &mut Context, uri: Text) {
    if uri.is_empty() {
        context.edits.target.uri = None;
        return;
    }
    context.edits.target.uri = Some(uri);
    context.edits.target.q = None;
}

pub(super) fn set_ruri(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    match value.as_text() {
        Some(text) if context.is_request() => {
            replace_ruri(context, text);
            true
        }
        _ => false,
    }
}

pub(super) fn set_ruri_user(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    match value.as_text() {
        None if value.is_null() => edit_ruri(context, &UriEdit::RemoveUser),
        None => false,
        Some(user) => edit_ruri(context, &UriEdit::User(&user)),
    }
}

pub(super) fn set_ruri_host(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    value.as_text().is_some_and(|host| edit_ruri(context, &UriEdit::Host(&host)))
}

fn port_text(value: &Value) -> Option<Text> {
    value.as_text().or_else(|| value.as_int().map(int_text))
}

pub(super) fn set_ruri_port(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    match port_text(&value) {
        None => edit_ruri(context, &UriEdit::RemovePort),
        Some(port) => edit_ruri(context, &UriEdit::Port(&port)),
    }
}

pub(super) fn set_duri(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    context.edits.target.dst_uri = match &value {
        Value::Null => None,
        value => match value.as_text() {
            Some(text) => Some(text).filter(|text| !text.is_empty()),
            None => return false,
        },
    };
    true
}

fn edit_duri(context: &mut Context, edit: &UriEdit<'_>) -> bool {
    let Some(uri) = &context.edits.target.dst_uri else { return false };
    let Ok(uri) = edit_uri(uri, edit) else { return false };
    context.edits.target.dst_uri = Some(Text::from(uri));
    true
}

pub(super) fn set_duri_host(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    value.as_text().is_some_and(|host| edit_duri(context, &UriEdit::Host(&host)))
}

pub(super) fn set_duri_port(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    match port_text(&value) {
        None => edit_duri(context, &UriEdit::RemovePort),
        Some(port) => edit_duri(context, &UriEdit::Port(&port)),
    }
}

pub(super) fn ruri_q(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.edits.target.q.map_or(-1, i32::from))
}

pub(super) fn set_ruri_q(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    match value.as_int() {
        Some(q @ 0..=1000) => context.edits.target.q = Some(q as u16),
        Some(-1) => context.edits.target.q = None,
        _ => return false,
    }
    true
}

pub(super) fn method(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(message) = message_of(context, call) else { return Value::Null };
    Value::Dual(Text::copy(message.method_bytes()), message.method().id() as i32)
}

pub(super) fn status(context: &mut Context, call: &VarCall<'_>) -> Value {
    let status = message_of(context, call).and_then(|message| message.status());
    status.map_or(Value::Null, |status| Value::Int(i32::from(status)))
}

pub(super) fn reason(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call).map_or(Value::Null, |message| part_value(message, message.reason()))
}

/// An address as scripts see it: IPv6 in upper case and without `::` (specification §15).
pub(super) fn ip_text(ip: IpAddr) -> Text {
    let mut buffer = [0u8; 40];
    let size = buffer.len();
    let mut rest = &mut buffer[..];
    let written = match ip {
        IpAddr::V4(ip) => write!(rest, "{ip}"),
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            write!(rest, "{a:X}:{b:X}:{c:X}:{d:X}:{e:X}:{f:X}:{g:X}:{h:X}")
        }
    };
    let length = size - rest.len();
    if written.is_err() { Text::EMPTY } else { Text::copy(buffer.get(..length).unwrap_or_default()) }
}

fn source_of(context: &Context, call: &VarCall<'_>) -> SocketAddr {
    match (call.context, &context.request) {
        (Some(MessageContext::Request), Some(stored)) => stored.source.src,
        _ => context.source.src,
    }
}

pub(super) fn source_ip(context: &mut Context, call: &VarCall<'_>) -> Value {
    Value::Text(ip_text(source_of(context, call).ip()))
}

pub(super) fn source_port(context: &mut Context, call: &VarCall<'_>) -> Value {
    Value::Int(i32::from(source_of(context, call).port()))
}

pub(super) fn length(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call).map_or(Value::Null, |message| Value::Int(message.buffer().len() as i32))
}

pub(super) fn whole(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call).map_or(Value::Null, |message| Value::Text(Text::share(message.buffer())))
}

pub(super) fn number(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.number as i32)
}

pub(super) fn is_request(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call).map_or(Value::Null, |message| super::table::truth(message.is_request()))
}

pub(super) fn kind(context: &mut Context, call: &VarCall<'_>) -> Value {
    message_of(context, call)
        .map_or(Value::Null, |message| Value::from(if message.is_request() { "request" } else { "reply" }))
}

pub(super) fn path(context: &mut Context, _: &VarCall<'_>) -> Value {
    context.edits.target.path.clone().map_or(Value::Null, Value::Text)
}

pub(super) fn set_path(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    context.edits.target.path = value.as_text().filter(|text| !text.is_empty());
    true
}

/// `$rb`, `$(rb[n])`, `$(rb(mime))`: the body or one of its parts.
pub(super) fn body(context: &mut Context, call: &VarCall<'_>) -> Value {
    let is_edited = call.context.is_none() && context.slot::<super::sdp_vars::SdpEdited>().is_some();
    if let (true, None, Index::None, Some(body)) = (is_edited, call.name, call.index, context.edits.lumps.body()) {
        return if body.is_empty() { Value::Null } else { Value::Text(Text::share(body)) };
    }
    let Some(message) = message_of(context, call) else { return Value::Null };
    let body = message.body();
    if body.is_empty() {
        return Value::Null;
    }
    let at = match call.index {
        Index::At(at) => Some(at),
        _ => None,
    };
    if call.name.is_none() && at.is_none() {
        return Value::Text(super::table::part(message, body));
    }
    let wanted = call.name.unwrap_or_default();
    let fits = |mime: &[u8]| wanted.is_empty() || mime.eq_ignore_ascii_case(wanted);
    let parts: smallvec::SmallVec<[&[u8]; 4]> = if crate::sipmsgops::body::is_multipart(message) {
        crate::sipmsgops::body::parts(message).filter(|part| fits(part.mime)).map(|part| part.body).collect()
    } else if fits(message.content_type().unwrap_or_default()) {
        std::iter::once(body).collect()
    } else {
        return Value::Null;
    };
    let at = super::table::position(at.unwrap_or(0), parts.len());
    part_value(message, at.and_then(|at| parts.get(at)).map(|part| &part[..]))
}

/// `$Au`: `user@realm` of credentials that module `auth` has checked, else `user@host` of From.
pub(super) fn accounting_user(context: &mut Context, call: &VarCall<'_>) -> Value {
    if let Some(Authenticated(user)) = context.slot::<Authenticated>() {
        return Value::Text(user.clone());
    }
    let Some(message) = message_of(context, call) else { return Value::Null };
    let Some(uri) = message.from().ok().and_then(|from| from.parsed_uri().ok()) else { return Value::Null };
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(uri.user_or_empty());
    out.push(b'@');
    out.extend_from_slice(uri.host);
    Value::Text(Text::from(out))
}

/// `$err.class` and its kin.
pub(super) fn error_class(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.error.as_ref().map_or(0, |error| error.class))
}

pub(super) fn error_level(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.error.as_ref().map_or(0, |error| error.level))
}

pub(super) fn error_info(context: &mut Context, _: &VarCall<'_>) -> Value {
    context.error.as_ref().map_or(Value::Text(Text::EMPTY), |error| Value::from(error.info.as_str()))
}

pub(super) fn error_code(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.error.as_ref().map_or(0, |error| error.code))
}

pub(super) fn error_reason(context: &mut Context, _: &VarCall<'_>) -> Value {
    context.error.as_ref().map_or(Value::Text(Text::EMPTY), |error| Value::from(error.reason.as_str()))
}

/// A transport as a value with OpenSIPS' number beside it.
pub(super) fn proto_value(proto: Proto) -> Value {
    Value::Text(Text::from(proto.name()))
}
