//! SIP pings: the request, and the replies to it. No transaction is kept for them: the Call-ID says which contact was
//! pinged and when, under a key of this process, so that nobody can answer for another.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tandem_location::{Binding, ContactId};
use tandem_module::NodeRef;
use tandem_module::context::Context;
use tandem_module::transport::Destination;
use tandem_sip::{CommaList, Message, RequestBuilder, ViaOut, write_via};

use super::Nathelper;
use super::tracks::Track;
use crate::usrloc::{Domain, LATENCY_UPDATE, Usrloc, raise_latency};

const PREFIX: &str = "tandem-np";

/// Proof that a Call-ID was made by this process.
fn proof(id: ContactId, sent_ms: u64, domain: &[u8]) -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(id.0);
    hasher.write_u64(sent_ms);
    hasher.write(domain);
    hasher.finish()
}

fn since_start_ms(node: NodeRef, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(node.started().0).as_millis()).unwrap_or(u64::MAX)
}

/// The request for a contact.
pub(super) fn write(
    node: NodeRef,
    own: &Nathelper,
    domain: &Domain,
    binding: &Binding,
    to: &Destination,
    now: Instant,
) -> Option<Vec<u8>> {
    let socket = node.socket(to.socket)?;
    let config = own.pings.config();
    let sent_ms = since_start_ms(node, now);
    let proof = proof(binding.contact_id(), sent_ms, domain.name.as_bytes());
    let call_id = format!("{PREFIX}:{:x}:{sent_ms:x}:{proof:016x}:{}", binding.contact_id().0, domain.name);
    let mut via = Vec::with_capacity(96);
    let branch = format!("z9hG4bKnp{proof:016x}");
    let via_out = ViaOut {
        transport: to.proto.sip(),
        host: &socket.sent_by,
        port: None,
        branch: branch.as_bytes(),
        rport: true,
        params: b"",
    };
    write_via(&via_out, &mut via);
    let from = format!("<{}>;tag={proof:016x}", config.sipping_from);
    let address = [b"<", binding.contact(), b">"].concat();
    let routes: Vec<&[u8]> = CommaList::new(binding.path()).collect();
    let request = RequestBuilder {
        method: config.sipping_method.as_bytes(),
        uri: binding.contact(),
        via: Some(&via),
        from: from.as_bytes(),
        to: &address,
        call_id: call_id.as_bytes(),
        cseq: 1,
        routes: &routes,
        ..RequestBuilder::default()
    };
    Some(request.build())
}

/// What a Call-ID of ours says.
struct Pinged {
    id: ContactId,
    sent_ms: u64,
    domain: String,
}

fn pinged(message: &Message) -> Option<Pinged> {
    let call_id = std::str::from_utf8(message.call_id().ok()?).ok()?;
    let mut parts = call_id.splitn(5, ':');
    if parts.next()? != PREFIX {
        return None;
    }
    let mut hex = || u64::from_str_radix(parts.next()?, 16).ok();
    let (id, sent_ms, claimed) = (ContactId(hex()?), hex()?, hex()?);
    let domain = parts.next()?;
    (proof(id, sent_ms, domain.as_bytes()) == claimed).then(|| Pinged { id, sent_ms, domain: domain.to_owned() })
}

/// Takes replies to SIP pings.
pub(super) fn takes_reply(context: &Context) -> bool {
    let Some(pinged) = pinged(&context.message) else { return false };
    let node = context.node;
    let Some(own) = node.state::<Nathelper>() else { return false };
    let code = context.message.status().unwrap_or_default();
    if code < 200 || own.pings.config().ignored_codes.contains(&code) {
        return true;
    }
    let domain = node.state::<Usrloc>().and_then(|usrloc| usrloc.find_domain(pinged.domain.as_bytes()));
    if let Some(domain) = domain
        && let Some(track) = own.pings.tracks().answered((domain.name, pinged.id))
    {
        let answered_ms = since_start_ms(node, context.source.at);
        let latency = Duration::from_millis(answered_ms.saturating_sub(pinged.sent_ms));
        report_latency(node, own, domain, pinged.id, &track, latency);
    }
    true
}

fn report_latency(node: NodeRef, own: &Nathelper, domain: &Domain, id: ContactId, track: &Track, latency: Duration) {
    let Some(flag) = own.pings.config().latency_flag.filter(|_| node.events.has_listeners(LATENCY_UPDATE)) else {
        return;
    };
    let binding = domain.table.with_record(&track.aor, |record| record.binding(id).cloned()).flatten();
    let Some(binding) = binding.filter(|binding| binding.has_branch_flag(flag)) else { return };
    raise_latency(node, domain, &track.aor, &binding, latency);
}
