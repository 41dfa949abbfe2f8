//! Replies made here: the header fields RFC 3261 §8.2.6 copies from the request, and what the caller adds. Whether and
//! when to reply is not decided here.

use crate::error::ParseError;
use crate::lumps::Lumps;
use crate::message::{HeaderEntry, Message};
use crate::text::push_decimal;
use crate::via::ViaFix;
use crate::writer::{copy_with_via_edits, via_fix_edits};
use crate::{HeaderKind, Span};

/// A reply to be built by [`build_reply`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyOut<'a> {
    /// Status code, 100 to 699.
    pub status: u16,
    /// Reason phrase; empty takes [`default_reason`].
    pub reason: &'a [u8],
    /// Tag added to To when the request has none there; usual for all but 100.
    pub to_tag: Option<&'a [u8]>,
    /// Header lines; a missing line end is added.
    pub headers: &'a [&'a [u8]],
    /// Lumps of the request, whose reply headers are added (OpenSIPS: sipmsgops, `append_to_reply()`).
    pub lumps: Option<&'a Lumps>,
    /// Content-Type of the body; ignored without body.
    pub content_type: Option<&'a [u8]>,
    /// Body, often empty.
    pub body: &'a [u8],
    /// What to write into the topmost Via.
    pub via_fix: ViaFix,
}

/// The usual reason phrase of a status (RFC 3261 §21 and later ones), or that of its class.
#[must_use]
pub const fn default_reason(status: u16) -> &'static str {
    // Classes overlap with the named ones on purpose: the first match wins.
    #[allow(clippy::match_overlapping_arm)]
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        101..=199 => "Session Progress",
        200..=299 => "OK",
        300..=399 => "Redirected",
        400..=499 => "Request Failure",
        500..=599 => "Server Failure",
        _ => "Global Failure",
    }
}

/// Builds a reply to `request`: all Via lines, From, To, Call-ID and CSeq as they came; Record-Route in 180 to 299 as
/// OpenSIPS does; Timestamp in 100 (RFC 3261 §8.2.6.1). Headers the request lacks are left out. Appends to `out`.
///
/// # Errors
/// When the topmost Via is missing or malformed: such a request has no way back.
pub fn build_reply(request: &Message, reply: &ReplyOut<'_>, out: &mut Vec<u8>) -> Result<(), ParseError> {
    // A fix looks at it anyway.
    if reply.via_fix.is_empty() {
        request.top_via()?;
    }
    let via_edits = via_fix_edits(request, &reply.via_fix)?;
    out.reserve(request.headers_end() as usize + reply.body.len() + 256);
    out.extend_from_slice(b"SIP/2.0 ");
    push_decimal(u64::from(reply.status.clamp(100, 999)), out);
    out.push(b' ');
    let reason = if reply.reason.is_empty() { default_reason(reply.status).as_bytes() } else { reply.reason };
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    let mut seen = 0u128;
    for entry in request.headers() {
        let is_first = seen & entry.kind.bit() == 0;
        seen |= entry.kind.bit();
        match entry.kind {
            HeaderKind::Via if is_first => {
                copy_with_via_edits(request, line_span(entry), &via_edits, out);
                out.extend_from_slice(b"\r\n");
            }
            HeaderKind::Via => copy_line(request, entry, out),
            HeaderKind::RecordRoute if (180..300).contains(&reply.status) => copy_line(request, entry, out),
            HeaderKind::To if is_first => {
                out.extend_from_slice(request.bytes(line_span(entry)));
                if let Some(tag) = reply.to_tag
                    && !has_tag(request)
                {
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(tag);
                }
                out.extend_from_slice(b"\r\n");
            }
            HeaderKind::From | HeaderKind::CallId | HeaderKind::CSeq if is_first => copy_line(request, entry, out),
            HeaderKind::Timestamp if reply.status == 100 => copy_line(request, entry, out),
            _ => {}
        }
    }
    for line in reply.headers {
        push_line(line, out);
    }
    for line in reply.lumps.map(Lumps::reply_headers).unwrap_or_default() {
        push_line(line, out);
    }
    push_body(reply.content_type, reply.body, out);
    Ok(())
}

/// Whether To has a tag; text that does not parse is searched.
fn has_tag(request: &Message) -> bool {
    match request.to() {
        Ok(to) => to.params.has(b"tag"),
        Err(_) => {
            let text = request.value_of(HeaderKind::To).unwrap_or_default();
            text.windows(5).any(|part| part.eq_ignore_ascii_case(b";tag="))
        }
    }
}

/// Name and body of a header without blanks and line end behind.
pub(crate) const fn line_span(entry: &HeaderEntry) -> Span {
    Span::new(entry.whole.start, entry.value.end)
}

/// Copies a header with a clean line end.
pub(crate) fn copy_line(message: &Message, entry: &HeaderEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(message.bytes(line_span(entry)));
    out.extend_from_slice(b"\r\n");
}

/// Adds a header line given by the caller, with a line end.
pub(crate) fn push_line(line: &[u8], out: &mut Vec<u8>) {
    let bare = crate::text::trim_end(line);
    if !bare.is_empty() {
        out.extend_from_slice(bare);
        out.extend_from_slice(b"\r\n");
    }
}

/// Content-Type when there is a body, Content-Length, blank line, body.
pub(crate) fn push_body(content_type: Option<&[u8]>, body: &[u8], out: &mut Vec<u8>) {
    if let Some(content_type) = content_type
        && !body.is_empty()
    {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(content_type);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(body.len() as u64, out);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}
