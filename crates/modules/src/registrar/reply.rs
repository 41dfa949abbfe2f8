//! Replies to a REGISTER: the list of contacts, Path, and what accompanies a refusal.

use std::io::Write;
use std::sync::Arc;

use tandem_location::{Aor, Binding, ContactRequest, RegisterError, uris_match};
use tandem_module::context::Context;
use tandem_sip::{Message, Uri};

use super::config::Registrar;
use super::gruu::Gruu;
use super::request::{self, Refusal};

/// Shown for a permanent binding: a header has no word for it.
const PERMANENT_SECS: i64 = i32::MAX as i64;

/// What the contacts of a 200 say beside URI, q and expiry.
#[derive(Clone, Copy, Default)]
pub(super) struct Extensions<'a> {
    /// For UAs that support it: how to make GRUUs, and for whom.
    pub(super) gruu: Option<(&'a Gruu, &'a Aor, &'a Uri<'a>)>,
    /// The UA registers flows (RFC 5626): instance and `reg-id` are shown.
    pub(super) is_outbound: bool,
}

impl Extensions<'_> {
    fn write(&self, binding: &Binding, line: &mut Vec<u8>) {
        if binding.instance().is_empty() {
            return;
        }
        if let Some((gruu, aor, to)) = self.gruu {
            gruu.write(aor, to, binding, line);
        }
        if self.gruu.is_some() || self.is_outbound {
            line.extend_from_slice(b";+sip.instance=\"");
            line.extend_from_slice(binding.instance());
            line.push(b'"');
        }
        if self.is_outbound && binding.reg_id() != 0 {
            line.extend_from_slice(format!(";reg-id={}", binding.reg_id()).as_bytes());
        }
    }
}

/// The Contact line of a 200, or nothing when there is no binding. `only` limits it to those contacts of the request.
pub(super) fn contact_line(
    bindings: &[Arc<Binding>],
    only: Option<&[ContactRequest<'_>]>,
    registrar: &Registrar,
    extensions: Extensions<'_>,
    now: i64,
) -> Vec<u8> {
    let is_wanted = |binding: &&Arc<Binding>| {
        only.is_none_or(|contacts| contacts.iter().any(|contact| uris_match(contact.uri, binding.contact())))
    };
    let mut line = Vec::new();
    for binding in bindings.iter().filter(is_wanted) {
        if line.is_empty() {
            line.reserve(64 + bindings.len() * (binding.contact().len() + 32));
            line.extend_from_slice(b"Contact: <");
        } else {
            line.extend_from_slice(b", <");
        }
        line.extend_from_slice(binding.contact());
        line.push(b'>');
        // Writing to a vector cannot fail.
        if let Some(q) = binding.q_thousandths() {
            let _ = write!(line, ";q={}", f64::from(q) / 1000.0);
        }
        let left = binding.remaining_secs(now).unwrap_or(PERMANENT_SECS);
        let _ = write!(line, ";expires={left}");
        if !binding.received().is_empty() {
            line.push(b';');
            line.extend_from_slice(&registrar.received_param);
            line.extend_from_slice(b"=\"");
            line.extend_from_slice(binding.received());
            line.push(b'"');
        }
        extensions.write(binding, &mut line);
    }
    if !line.is_empty() {
        line.extend_from_slice(b"\r\n");
    }
    line
}

/// A Path line with all Path bodies of the request.
pub(super) fn path_line(stored: &[u8]) -> Vec<u8> {
    [b"Path: ", stored, b"\r\n"].concat()
}

/// Answers a refused REGISTER.
pub(super) fn refuse(context: &mut Context, registrar: &Registrar, refusal: &Refusal) {
    let (code, text) = refusal.reply();
    let mut lines: Vec<Vec<u8>> = vec![format!("P-Registrar-Error: {text}\r\n").into_bytes()];
    match refusal {
        Refusal::PathUnsupported => {
            lines.push(b"Unsupported: path\r\n".to_vec());
            lines.push(path_line(&request::joined(&context.message)));
        }
        Refusal::Table(RegisterError::IntervalTooBrief { min_expires }) => {
            lines.push(format!("Min-Expires: {min_expires}\r\n").into_bytes());
        }
        _ => {}
    }
    if code >= 500 && registrar.retry_after > 0 {
        lines.push(format!("Retry-After: {}\r\n", registrar.retry_after).into_bytes());
    }
    for line in lines {
        context.edits.lumps.append_to_reply(line);
    }
    context.answer(code, tandem_sip::default_reason(code).as_bytes());
}

/// The expiry that the registrar behind us granted for a contact: that of the contact in its reply, else its Expires.
pub(super) fn granted_expires(reply: &Message, contact: &[u8]) -> Option<u32> {
    let addresses = reply.contacts().filter_map(|value| match value {
        Ok(tandem_sip::ContactValue::Address(address)) => Some(address),
        _ => None,
    });
    let own = addresses.into_iter().find(|address| uris_match(address.uri, contact));
    own.and_then(|address| address.expires()).or_else(|| reply.expires())
}
