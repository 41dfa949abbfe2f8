//! NOTIFY: written from a subscription, sent through `tm`, and what its outcome means for the subscription.

use std::sync::Arc;

use tandem_module::NodeRef;
use tandem_module::worker::WorkerId;
use tandem_sip::CommaList;

use super::table::{Resource, Subscription, uri_of};
use super::{Presence, refresh, writer};
use crate::tm::uac::{RequestSpec, send_request};

/// Requests that a worker sends before other work gets its turn.
const SEND_BATCH: usize = 50;

/// A NOTIFY to send.
pub(super) struct Notice {
    /// The subscription, unless it has ended.
    pub(super) id: Option<u64>,
    pub(super) spec: RequestSpec,
}

/// `Subscription-State` of a subscription at `at`; with `reason` it is the last one.
fn state_line(subscription: &Subscription, reason: Option<&str>, at: i64) -> String {
    match reason {
        Some(reason) => format!("terminated;reason={reason}"),
        None => format!("{};expires={}", subscription.status.name(), (subscription.expires - at).max(0)),
    }
}

/// The NOTIFY of a subscription as it was reserved for it.
pub(super) fn write(
    node: NodeRef,
    own: &Subscription,
    reason: Option<&str>,
    at: i64,
    content_type: &str,
    body: Option<Vec<u8>>,
) -> RequestSpec {
    let mut event = own.resource.event.to_owned();
    if !own.event_id.is_empty() {
        event.push_str(";id=");
        event.push_str(&own.event_id);
    }
    let state = state_line(own, reason, at);
    let from = uri_of(&own.to_user, &own.to_domain);
    RequestSpec {
        method: b"NOTIFY".to_vec(),
        uri: own.contact.clone().into_bytes(),
        from: format!("<{from}>;tag={}", own.key.to_tag).into_bytes(),
        to: format!("<{}>;tag={}", own.watcher(), own.key.from_tag).into_bytes(),
        call_id: own.key.call_id.clone().into_bytes(),
        cseq: own.local_cseq,
        routes: CommaList::new(own.record_route.as_bytes()).map(<[u8]>::to_vec).collect(),
        contact: Some(format!("<{}>", own.local_contact).into_bytes()),
        headers: format!("Event: {event}\r\nSubscription-State: {state}\r\n").into_bytes(),
        content_type: content_type.as_bytes().to_vec(),
        body: body.unwrap_or_default(),
        socket: node.socket_named(own.socket_info.as_bytes()).map(|socket| socket.id),
        ..RequestSpec::default()
    }
}

/// Sends in order, on the worker that all requests of the resource leave by.
pub(super) fn send(node: NodeRef, own: &'static Presence, resource: &Resource, notices: Vec<Notice>) {
    let Some(workers) = node.workers() else { return };
    let hash = resource.uri.bytes().fold(0_u16, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let worker = WorkerId(hash % workers.count().max(1));
    let mut notices = notices.into_iter();
    loop {
        let batch: Vec<Notice> = notices.by_ref().take(SEND_BATCH).collect();
        if batch.is_empty() {
            return;
        }
        workers.post(worker, Box::new(move |_| batch.into_iter().for_each(|notice| send_one(node, own, notice))));
    }
}

fn send_one(node: NodeRef, own: &'static Presence, notice: Notice) {
    let Notice { id, spec } = notice;
    let done = Box::new(move |outcome: &crate::tm::uac::UacReply<'_>| settle(outcome.node, own, id, outcome.code));
    if let Err(error) = send_request(node, spec, Some(done)) {
        tracing::warn!("presence: a NOTIFY was not sent: {error}");
        settle(node, own, id, 477);
    }
}

/// Whether a reply ends the subscription (RFC 5057 §5.1): it does not exist there any more, or nobody is there.
fn ends(own: &Presence, code: u16) -> bool {
    match code {
        408 | 477 | 478 => own.config.ends_on_timeout,
        404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604 => true,
        _ => false,
    }
}

fn settle(node: NodeRef, own: &'static Presence, id: Option<u64>, code: u16) {
    let Some(id) = id.filter(|_| ends(own, code)) else { return };
    let removed = own.table.lock().remove(id);
    let Some(subscription) = removed else { return };
    tracing::debug!("presence: {} watches {} no more: {code}", subscription.watcher(), subscription.resource.uri);
    writer::write_later(node, own, false);
    let uri: Arc<str> = subscription.resource.uri;
    refresh::watchers_changed(node, own, &uri, subscription.resource.event, tandem_module::node::unix_secs());
}
