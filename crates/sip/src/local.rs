//! Requests made here: ACK and CANCEL that belong to an INVITE sent before, and requests from scratch. Transactions,
//! dialogs and destinations are kept elsewhere.

use crate::error::ParseError;
use crate::message::Message;
use crate::reply::{copy_line, push_body, push_line};
use crate::text::push_decimal;
use crate::{HeaderKind, Method};

/// Max-Forwards of requests made here (RFC 3261 §8.1.1.6).
pub const MAX_FORWARDS: u32 = 70;

/// ACK for a non-2xx final reply, from the INVITE as it was sent on that branch and the reply (RFC 3261 §17.1.1.3): same
/// request URI, topmost Via, From, Call-ID, Route and CSeq number, To of the reply. Appends to `out`.
///
/// # Errors
/// When the INVITE lacks a needed header or the reply lacks To.
pub fn build_ack_non2xx(invite: &Message, reply: &Message, out: &mut Vec<u8>) -> Result<(), ParseError> {
    let to = reply.value_of(HeaderKind::To).ok_or(ParseError::Missing(HeaderKind::To))?;
    build_along(invite, Method::Ack, to, &[], out)
}

/// CANCEL for an INVITE as it was sent on that branch (RFC 3261 §9.1). `headers` are added, such as a Reason (RFC 3326).
/// Appends to `out`.
///
/// # Errors
/// When the INVITE lacks a needed header.
pub fn build_cancel(invite: &Message, headers: &[&[u8]], out: &mut Vec<u8>) -> Result<(), ParseError> {
    let to = invite.value_of(HeaderKind::To).ok_or(ParseError::Missing(HeaderKind::To))?;
    build_along(invite, Method::Cancel, to, headers, out)
}

fn build_along(
    invite: &Message,
    method: Method,
    to: &[u8],
    headers: &[&[u8]],
    out: &mut Vec<u8>,
) -> Result<(), ParseError> {
    let uri = invite.request_uri().ok_or(ParseError::BadStartLine)?;
    let via = invite.values_of(HeaderKind::Via).next().ok_or(ParseError::Missing(HeaderKind::Via))?;
    let from = invite.header(HeaderKind::From).ok_or(ParseError::Missing(HeaderKind::From))?;
    let call_id = invite.header(HeaderKind::CallId).ok_or(ParseError::Missing(HeaderKind::CallId))?;
    let (number, _, _) = invite.cseq()?;
    out.reserve(512);
    push_request_line(method.as_bytes(), uri, out);
    push_header(b"Via", via.bytes, out);
    push_header(b"Max-Forwards", b"70", out);
    for entry in invite.headers_of(HeaderKind::Route) {
        copy_line(invite, entry, out);
    }
    copy_line(invite, from, out);
    push_header(b"To", to, out);
    copy_line(invite, call_id, out);
    push_cseq(number, method.as_bytes(), out);
    for line in headers {
        push_line(line, out);
    }
    push_body(None, &[], out);
    Ok(())
}

fn push_request_line(method: &[u8], uri: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(uri);
    out.extend_from_slice(b" SIP/2.0\r\n");
}

fn push_header(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_cseq(number: u32, method: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"CSeq: ");
    push_decimal(u64::from(number), out);
    out.push(b' ');
    out.extend_from_slice(method);
    out.extend_from_slice(b"\r\n");
}

/// A request made here. Fill the fields, then [`RequestBuilder::write`]; texts go out as given, so they must be sound.
#[derive(Clone, Copy, Debug)]
pub struct RequestBuilder<'a> {
    /// Method text.
    pub method: &'a [u8],
    /// Request URI.
    pub uri: &'a [u8],
    /// Via value with branch; `None` when the transport layer adds it (see [`crate::RequestOut::via`]).
    pub via: Option<&'a [u8]>,
    /// From body with tag.
    pub from: &'a [u8],
    /// To body, with tag inside a dialog.
    pub to: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// CSeq number.
    pub cseq: u32,
    /// Max-Forwards, [`MAX_FORWARDS`] by default.
    pub max_forwards: u32,
    /// Route values, topmost first, each `<uri>` with its parameters.
    pub routes: &'a [&'a [u8]],
    /// Contact body.
    pub contact: Option<&'a [u8]>,
    /// More header lines; a missing line end is added.
    pub headers: &'a [&'a [u8]],
    /// Content-Type; ignored without body.
    pub content_type: Option<&'a [u8]>,
    /// Body, often empty.
    pub body: &'a [u8],
}

impl Default for RequestBuilder<'_> {
    fn default() -> Self {
        Self {
            method: b"OPTIONS",
            uri: &[],
            via: None,
            from: &[],
            to: &[],
            call_id: &[],
            cseq: 1,
            max_forwards: MAX_FORWARDS,
            routes: &[],
            contact: None,
            headers: &[],
            content_type: None,
            body: &[],
        }
    }
}

impl RequestBuilder<'_> {
    /// Appends the request to `out`; Content-Length is always there.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(512 + self.body.len());
        push_request_line(self.method, self.uri, out);
        if let Some(via) = self.via {
            push_header(b"Via", via, out);
        }
        out.extend_from_slice(b"Max-Forwards: ");
        push_decimal(u64::from(self.max_forwards), out);
        out.extend_from_slice(b"\r\n");
        for route in self.routes {
            push_header(b"Route", route, out);
        }
        push_header(b"From", self.from, out);
        push_header(b"To", self.to, out);
        push_header(b"Call-ID", self.call_id, out);
        push_cseq(self.cseq, self.method, out);
        if let Some(contact) = self.contact {
            push_header(b"Contact", contact, out);
        }
        for line in self.headers {
            push_line(line, out);
        }
        push_body(self.content_type, self.body, out);
    }

    /// The request as a buffer of its own.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}
