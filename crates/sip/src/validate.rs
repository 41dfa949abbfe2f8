//! Which sound-looking messages RFC 3261 wants refused, and with which status. It answers nothing itself and forgives what
//! OpenSIPS forgives.

use crate::error::ParseError;
use crate::message::{Message, StartLine};
use crate::text::{eq_ignore_case, is_token_text};
use crate::uri::{Scheme, Uri};
use crate::{HeaderKind, Method};

/// Why a request is refused or a reply discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Status to answer a request with (RFC 3261 §21); replies are dropped whatever stands here.
    pub status: u16,
    /// Reason phrase that names the fault.
    pub reason: &'static str,
    /// The header at fault; `Other` when it is the start line or the body.
    pub header: HeaderKind,
}

impl Violation {
    const fn new(status: u16, reason: &'static str, header: HeaderKind) -> Self {
        Self { status, reason, header }
    }

    const fn bad(reason: &'static str, header: HeaderKind) -> Self {
        Self::new(400, reason, header)
    }
}

/// Headers that may stand once only (RFC 3261 §7.3.1, table 2); two of them would be read differently by two hops.
const SINGLE: [(HeaderKind, &str); 6] = [
    (HeaderKind::From, "Multiple From Headers"),
    (HeaderKind::To, "Multiple To Headers"),
    (HeaderKind::CallId, "Multiple Call-ID Headers"),
    (HeaderKind::CSeq, "Multiple CSeq Headers"),
    (HeaderKind::MaxForwards, "Multiple Max-Forwards Headers"),
    (HeaderKind::ContentLength, "Multiple Content-Length Headers"),
];

/// Checks start line and the headers every request needs. Max-Forwards of 0, unknown Require options and authorization
/// are the script's business. `Ok` means that the typed accessors of these headers succeed.
///
/// # Errors
/// The first violation found, with the status to answer.
pub fn validate_request(request: &Message) -> Result<(), Violation> {
    let StartLine::Request { method, method_span, uri, version } = *request.start_line() else {
        return Err(Violation::bad("Not A Request", HeaderKind::Other));
    };
    check_routing_headers(request)?;
    if request.vias().any(|via| via.is_err()) {
        return Err(Violation::bad("Bad Via", HeaderKind::Via));
    }
    if !eq_ignore_case(request.bytes(version), b"SIP/2.0") {
        return Err(Violation::new(505, "Version Not Supported", HeaderKind::Other));
    }
    if !is_token_text(request.bytes(method_span)) {
        return Err(Violation::bad("Bad Method", HeaderKind::Other));
    }
    match Uri::parse(request.bytes(uri)) {
        Ok(uri) if uri.scheme == Scheme::Other => {
            return Err(Violation::new(416, "Unsupported URI Scheme", HeaderKind::Other));
        }
        Ok(_) => {}
        Err(_) => return Err(Violation::bad("Bad Request-URI", HeaderKind::Other)),
    }
    check_cseq_method(request, method)?;
    if request.max_forwards().is_err() {
        return Err(Violation::bad("Bad Max-Forwards", HeaderKind::MaxForwards));
    }
    check_length(request)
}

/// Checks a reply as far as a proxy must to forward it.
///
/// # Errors
/// The violation for which the reply is to be dropped.
pub fn validate_reply(reply: &Message) -> Result<(), Violation> {
    let StartLine::Reply { status, version, .. } = *reply.start_line() else {
        return Err(Violation::bad("Not A Reply", HeaderKind::Other));
    };
    if !(100..700).contains(&status) {
        return Err(Violation::bad("Bad Status Code", HeaderKind::Other));
    }
    if !eq_ignore_case(reply.bytes(version), b"SIP/2.0") {
        return Err(Violation::bad("Version Not Supported", HeaderKind::Other));
    }
    check_routing_headers(reply)?;
    check_length(reply)
}

fn check_routing_headers(message: &Message) -> Result<(), Violation> {
    if let Err(error) = message.top_via() {
        return Err(missing_or_bad(error, "Missing Via", "Bad Via"));
    }
    for (kind, reason) in SINGLE {
        if message.headers_of(kind).nth(1).is_some() {
            return Err(Violation::bad(reason, kind));
        }
    }
    message.from().map_err(|error| missing_or_bad(error, "Missing From", "Bad From"))?;
    message.to().map_err(|error| missing_or_bad(error, "Missing To", "Bad To"))?;
    message.call_id().map_err(|error| missing_or_bad(error, "Missing Call-ID", "Bad Call-ID"))?;
    message.cseq().map_err(|error| missing_or_bad(error, "Missing CSeq", "Bad CSeq"))?;
    Ok(())
}

fn missing_or_bad(error: ParseError, missing: &'static str, bad: &'static str) -> Violation {
    match error {
        ParseError::Missing(kind) => Violation::bad(missing, kind),
        ParseError::BadValue { header, .. } => Violation::bad(bad, header),
        _ => Violation::bad(bad, HeaderKind::Other),
    }
}

fn check_cseq_method(request: &Message, method: Method) -> Result<(), Violation> {
    let agrees = request.cseq().is_ok_and(|(_, cseq_method, text)| {
        if method == Method::Other { text == request.method_bytes() } else { cseq_method == method }
    });
    if agrees { Ok(()) } else { Err(Violation::bad("CSeq Method Does Not Match", HeaderKind::CSeq)) }
}

/// Content-Length must be a number and the body must be there (RFC 3261 §18.3).
fn check_length(message: &Message) -> Result<(), Violation> {
    match message.content_length() {
        Err(_) => Err(Violation::bad("Bad Content-Length", HeaderKind::ContentLength)),
        Ok(Some(length)) if length > message.buffer().len() as u32 - message.body_start() => {
            Err(Violation::bad("Body Shorter Than Content-Length", HeaderKind::ContentLength))
        }
        Ok(_) => Ok(()),
    }
}
