//! `forward()` and `send()`: a request goes on without a transaction (RFC 3261 §16.11). Replies come back by Via alone.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::outgoing::{self, NextHop, RouteError};
use tandem_module::run::Pending;
use tandem_module::transport::{Destination, Proto};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::Message;

use super::misc::State;
use super::table::done;

/// Bytes of a branch made here: magic cookie, `sl`, 16 hexadecimal digits.
const BRANCH_BYTES: usize = 25;

/// The branch for a stateless hop. The same for retransmissions, for the CANCEL and for the ACK of a failure, because all
/// of them carry the branch of the request they belong to (RFC 3261 §16.11).
fn branch_of(message: &Message) -> [u8; BRANCH_BYTES] {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    let via = message.top_via().ok();
    match via.filter(|via| via.has_magic_cookie()) {
        Some(via) => {
            hasher.write(via.branch.unwrap_or_default());
            hasher.write(via.sent_by);
        }
        None => {
            hasher.write(via.map_or(&b""[..], |via| via.raw));
            hasher.write(message.call_id().unwrap_or_default());
            hasher.write(message.from().ok().and_then(|from| from.tag()).unwrap_or_default());
            hasher.write(message.to().ok().and_then(|to| to.tag()).unwrap_or_default());
            hasher.write(message.request_uri().unwrap_or_default());
            hasher.write_u32(message.cseq().map_or(0, |(number, _, _)| number));
        }
    }
    let number = hasher.finish();
    let mut branch = *b"z9hG4bKsl0000000000000000";
    for (at, slot) in branch.iter_mut().skip(9).enumerate() {
        *slot = b"0123456789abcdef"[(number >> (at * 4)) as usize & 15];
    }
    branch
}

/// `[proto:]host[:port]` as a URI.
fn uri_of(target: &[u8]) -> Vec<u8> {
    let colon = memchr::memchr(b':', target);
    let proto = colon.and_then(|at| Proto::from_name(target.get(..at)?).map(|proto| (proto, at)));
    let mut uri = b"sip:".to_vec();
    match proto {
        Some((proto, at)) => {
            uri.extend_from_slice(target.get(at + 1..).unwrap_or_default());
            uri.extend_from_slice(b";transport=");
            uri.extend_from_slice(proto.name().as_bytes());
        }
        None => uri.extend_from_slice(target),
    }
    uri
}

#[derive(Clone)]
enum What {
    /// Forwarded as a proxy does: Via, Record-Route, edits.
    Forward,
    /// The received bytes, with further header lines behind the first line.
    Unchanged(Vec<u8>),
}

/// `forward([dest])`.
pub(super) fn forward(context: &mut Context, args: &[Arg]) -> Called {
    let uri = match arg_text(args, 0) {
        Some(target) if !target.is_empty() => uri_of(target),
        _ => outgoing::next_hop_uri(&context.message, &context.edits.target).to_vec(),
    };
    go(context, &uri, What::Forward)
}

/// `send(dest[, headers])`.
pub(super) fn send(context: &mut Context, args: &[Arg]) -> Called {
    let Some(target) = arg_text(args, 0) else { return done(false) };
    let headers = arg_text(args, 1).unwrap_or_default().to_vec();
    go(context, &uri_of(target), What::Unchanged(headers))
}

fn go(context: &mut Context, uri: &[u8], what: What) -> Called {
    if !context.is_request() && matches!(what, What::Forward) {
        return done(false);
    }
    match outgoing::next_hop(context.node, uri, context.edits.target.socket) {
        Ok(NextHop::Known(targets)) => transmit(context, &targets, &what),
        Ok(NextHop::Lookup(query)) => {
            let Some(resolver) = context.node.resolver() else { return done(false) };
            let host = query.host.clone();
            Pending::job(context.node, resolver.lookup(query), move |context, found| match found {
                Some(targets) if !targets.is_empty() => transmit(context, &targets, &what),
                _ => fail(context, &RouteError::Unresolved(host)),
            })
        }
        Err(error) => fail(context, &error),
    }
}

fn fail(context: &Context, error: &RouteError) -> Called {
    context.log(LogLevel::Error, &format!("forward: {error}"));
    done(false)
}

/// Sends to the first target for which there is a listener; without state there is no trying of others later.
fn transmit(context: &mut Context, targets: &[(Proto, std::net::SocketAddr)], what: &What) -> Called {
    let forced = context.edits.target.socket;
    let mut last = RouteError::NoSocket("fitting");
    for target in targets.iter().take(outgoing::TARGETS_MAX) {
        match outgoing::destination(context.node, &context.source, forced, *target) {
            Ok(to) => {
                let edits = &context.edits;
                let is_blocked =
                    outgoing::is_blocked(context.node, &context.message, &context.source, edits, &edits.target, &to);
                if !is_blocked || !matches!(what, What::Forward) {
                    return done(send_to(context, &to, what));
                }
                last = RouteError::Blocked(to.addr);
            }
            Err(error) => last = error,
        }
    }
    fail(context, &last)
}

fn send_to(context: &mut Context, to: &Destination, what: &What) -> bool {
    let message = &context.message;
    let mut out = Vec::with_capacity(message.buffer().len() + 256);
    match what {
        What::Forward => {
            let branch = branch_of(message);
            let edits = &context.edits;
            outgoing::write_branch(context.node, message, &context.source, edits, &edits.target, to, &branch, &mut out);
        }
        What::Unchanged(headers) => {
            let line_end = message.first_line().end as usize;
            let (first, rest) = message.buffer().split_at(line_end.min(message.buffer().len()));
            out.extend_from_slice(first);
            out.extend_from_slice(headers);
            if !headers.is_empty() && !headers.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(rest);
        }
    }
    let Some(transport) = context.node.transport() else { return false };
    match transport.send(to, &out) {
        Ok(()) => {
            if matches!(what, What::Forward) {
                context.is_answered = true;
                State::of(context.node).forwarded(context.node).inc();
            }
            true
        }
        Err(error) => {
            context.log(LogLevel::Error, &format!("forward to {to}: {error}"));
            false
        }
    }
}
