//! `sipmsg_validate()`: the checks of OpenSIPS with its codes. It answers nothing; the script does.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_text, arg_var};
use tandem_module::transport::Proto;
use tandem_script::value::Value;
use tandem_script::vm::Arg;
use tandem_sip::{ContactValue, HeaderKind, Message, Method, NameAddr, Scheme, Uri};

/// What is wrong: the code and a text.
type Fault = (i32, &'static str);

#[derive(Default)]
struct Checks {
    sdp: bool,
    headers: bool,
    skips_max_forwards: bool,
    ruri: bool,
    from: bool,
    to: bool,
    contact: bool,
}

/// `sipmsg_validate([flags[, $reason]])`.
pub(super) fn sipmsg_validate(context: &mut Context, args: &[Arg]) -> Called {
    let mut checks = Checks::default();
    for flag in arg_text(args, 0).unwrap_or_default() {
        match flag {
            b's' => checks.sdp = true,
            b'h' => checks.headers = true,
            b'm' => checks.skips_max_forwards = true,
            b'r' => checks.ruri = true,
            b'f' => checks.from = true,
            b't' => checks.to = true,
            b'c' => checks.contact = true,
            _ => {}
        }
    }
    match validate(&context.message, context.source.proto, &checks) {
        Ok(()) => Called::Done(1),
        Err((code, reason)) => {
            if let Some(var) = arg_var(args, 1) {
                context.write_var(var, Value::from(reason));
            }
            Called::Done(code)
        }
    }
}

fn validate(message: &Message, proto: Proto, checks: &Checks) -> Result<(), Fault> {
    let needs = |kind: HeaderKind, fault: Fault| if message.has(kind) { Ok(()) } else { Err(fault) };
    needs(HeaderKind::CallId, (-3, "No Call-ID header"))?;
    if proto.is_reliable() {
        needs(HeaderKind::ContentLength, (-4, "No Content-Length header for transports that require it"))?;
    }
    body(message, checks)?;
    needs(HeaderKind::CSeq, (-7, "No CSeq header"))?;
    needs(HeaderKind::From, (-8, "No From header"))?;
    needs(HeaderKind::To, (-9, "No To header"))?;
    needs(HeaderKind::Via, (-10, "No Via header"))?;
    if message.vias().any(|via| via.is_err()) || message.cseq().is_err() || message.call_id().is_err() {
        return Err((-2, "Header Parsing error"));
    }
    if message.is_request() {
        request(message, checks)?
    } else {
        reply(message)?
    }
    if checks.to {
        let address = message.to().map_err(|_| (-22, "To header parse error"))?;
        address_uri(
            &address,
            (-22, "To header parse error"),
            (-23, "Bad hostname in To header"),
            (-29, "Bad To URI username"),
        )?;
    }
    if checks.from {
        let address = message.from().map_err(|_| (-24, "From header parse error"))?;
        address_uri(
            &address,
            (-24, "From header parse error"),
            (-25, "Bad hostname in From header"),
            (-28, "Bad From URI username"),
        )?;
    }
    if checks.contact || checks.headers {
        contacts(message)?;
    }
    if checks.headers {
        headers(message)?;
    }
    Ok(())
}

fn body(message: &Message, checks: &Checks) -> Result<(), Fault> {
    let received = message.buffer().len() as u32 - message.body_start();
    match message.content_length() {
        Err(_) => return Err((-5, "Invalid Content-Length")),
        Ok(Some(length)) if length != received => {
            return Err((-5, "Invalid Content-Length, other than the size of the body"));
        }
        Ok(_) => {}
    }
    if !message.body().is_empty() && !message.has(HeaderKind::ContentType) {
        return Err((-21, "No Content-Type header"));
    }
    if checks.sdp
        && !message.body().is_empty()
        && message.content_type().is_some_and(|mime| mime.eq_ignore_ascii_case(b"application/sdp"))
    {
        sdp(message.body())?;
    }
    Ok(())
}

fn sdp(text: &[u8]) -> Result<(), Fault> {
    const BAD: Fault = (-6, "SDP body parsing error");
    let sdp = tandem_sip::sdp::Sdp::parse(text);
    let has = |letter: u8| sdp.session_lines().any(|line| line.letter == letter);
    if !text.starts_with(b"v=") || !has(b'o') || !has(b's') {
        return Err(BAD);
    }
    for media in sdp.media() {
        let has_address = media.connection().is_some() || sdp.connection().is_some();
        if media.port().is_none() || media.kind.is_empty() || media.formats.is_empty() || !has_address {
            return Err(BAD);
        }
    }
    Ok(())
}

fn request(message: &Message, checks: &Checks) -> Result<(), Fault> {
    let uri = Uri::parse(message.request_uri().unwrap_or_default()).map_err(|_| (-11, "Request URI parse error"))?;
    if checks.ruri {
        if !is_host(&uri) {
            return Err((-12, "Bad hostname in R-URI"));
        }
        if !is_user(&uri) {
            return Err((-27, "Bad URI username"));
        }
    }
    if !checks.skips_max_forwards && !message.has(HeaderKind::MaxForwards) {
        return Err((-13, "No Max-Forwards header"));
    }
    let needs_contact = matches!(
        message.method(),
        Method::Invite | Method::Subscribe | Method::Notify | Method::Refer | Method::Update
    );
    if needs_contact && !message.has(HeaderKind::Contact) {
        return Err((-14, "No Contact header"));
    }
    if message.has(HeaderKind::Path) && message.method() != Method::Register {
        return Err((-15, "Path used for a non-REGISTER request"));
    }
    Ok(())
}

fn reply(message: &Message) -> Result<(), Fault> {
    let lacks = |kind: HeaderKind| !message.has(kind);
    match message.status() {
        Some(405) if lacks(HeaderKind::Allow) => Err((-16, "No Allow header in 405 reply")),
        Some(423) if lacks(HeaderKind::MinExpires) => Err((-17, "No Min-Expires header in 423 reply")),
        Some(407) if lacks(HeaderKind::ProxyAuthenticate) => Err((-18, "No Proxy-Authenticate header in 407 reply")),
        Some(420) if lacks(HeaderKind::Unsupported) => Err((-19, "No Unsupported header in 420 reply")),
        Some(401) if lacks(HeaderKind::WwwAuthenticate) => Err((-20, "No WWW-Authenticate header in 401 reply")),
        _ => Ok(()),
    }
}

fn address_uri(address: &NameAddr<'_>, bad: Fault, bad_host: Fault, bad_user: Fault) -> Result<(), Fault> {
    let uri = address.parsed_uri().map_err(|_| bad)?;
    if !is_host(&uri) {
        return Err(bad_host);
    }
    if !is_user(&uri) {
        return Err(bad_user);
    }
    Ok(())
}

fn contacts(message: &Message) -> Result<(), Fault> {
    const BAD: Fault = (-26, "Contact header parse error");
    for contact in message.contacts() {
        match contact {
            Ok(ContactValue::Star) => {}
            Ok(ContactValue::Address(address)) => {
                address.parsed_uri().map_err(|_| BAD)?;
            }
            Err(_) => return Err(BAD),
        }
    }
    Ok(())
}

/// The well-known headers with a grammar of their own.
fn headers(message: &Message) -> Result<(), Fault> {
    const BAD: Fault = (-2, "Header Parsing error");
    let lists = [
        HeaderKind::Route,
        HeaderKind::RecordRoute,
        HeaderKind::Path,
        HeaderKind::PAssertedIdentity,
        HeaderKind::Diversion,
    ];
    let is_bad_list = lists.into_iter().any(|kind| message.name_addrs(kind).any(|address| address.is_err()));
    let is_bad = is_bad_list
        || message.from().is_err()
        || message.to().is_err()
        || message.max_forwards().is_err()
        || message.number(HeaderKind::MinExpires).is_err();
    if is_bad { Err(BAD) } else { Ok(()) }
}

fn is_host(uri: &Uri<'_>) -> bool {
    match uri.scheme {
        Scheme::Tel | Scheme::Other => true,
        Scheme::Sip | Scheme::Sips => {
            uri.host.starts_with(b"[")
                || (!uri.host.is_empty()
                    && uri.host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
                    && !uri.host.starts_with(b".")
                    && !uri.host.starts_with(b"-"))
        }
    }
}

/// RFC 3261 §25.1 `user`: unreserved, escaped, user-unreserved.
fn is_user(uri: &Uri<'_>) -> bool {
    uri.user_or_empty().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/%#".contains(byte))
}
