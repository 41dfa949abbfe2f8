//! What follows from a change of a location table: events and writes to the database. It changes no table.

use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use tandem_location::{Aor, Binding, Change, binding_flags};
use tandem_module::event::Event;
use tandem_module::node::NodeRef;
use tandem_script::surface::EventSpec;
use tandem_script::value::{Text, Value};

use super::store::{Ack, Op};
use super::{Domain, Usrloc};

const AOR_INSERT: &str = "E_UL_AOR_INSERT";
const AOR_DELETE: &str = "E_UL_AOR_DELETE";
const CONTACT_INSERT: &str = "E_UL_CONTACT_INSERT";
const CONTACT_UPDATE: &str = "E_UL_CONTACT_UPDATE";
const CONTACT_DELETE: &str = "E_UL_CONTACT_DELETE";
const CONTACT_REFRESH: &str = "E_UL_CONTACT_REFRESH";
/// Raised by module nathelper.
pub(crate) const LATENCY_UPDATE: &str = "E_UL_LATENCY_UPDATE";

const REFRESH: &[&str] = &[
    "domain",
    "aor",
    "uri",
    "received",
    "path",
    "qval",
    "user_agent",
    "socket",
    "bflags",
    "expires",
    "callid",
    "cseq",
    "attr",
    "latency",
    "shtag",
    "reason",
    "req_callid",
];

/// What an event says of a contact.
const CONTACT: &[&str] = REFRESH.split_at(REFRESH.len() - 2).0;

pub(super) const EVENTS: &[EventSpec] = &[
    EventSpec { name: AOR_INSERT, params: &["domain", "aor"], doc: "an address of record got its first binding" },
    EventSpec { name: AOR_DELETE, params: &["domain", "aor"], doc: "an address of record lost its last binding" },
    EventSpec { name: CONTACT_INSERT, params: CONTACT, doc: "a new binding" },
    EventSpec { name: CONTACT_UPDATE, params: CONTACT, doc: "a binding was refreshed" },
    EventSpec { name: CONTACT_DELETE, params: CONTACT, doc: "a binding is gone" },
    EventSpec {
        name: CONTACT_REFRESH,
        params: REFRESH,
        doc: "a UA has to be woken by a push notification, for a request or because its binding expires soon",
    },
    EventSpec {
        name: LATENCY_UPDATE,
        params: CONTACT,
        doc: "a contact pinged by module nathelper answered; latency in microseconds",
    },
];

impl Usrloc {
    /// Everything that follows from changes of `domain`: events, and the copy in the database.
    pub fn publish(&self, node: NodeRef, domain: &'static Domain, aor: &Aor, changes: &[Change]) {
        self.publish_into(node, domain, aor, changes, None);
    }

    /// The same for changes that somebody is told of: what to wait for before (write-through). Bindings in `told` that an
    /// earlier request has changed are waited for, too.
    pub(crate) fn publish_acknowledged(
        &self,
        node: NodeRef,
        domain: &'static Domain,
        aor: &Aor,
        changes: &[Change],
        told: &[Arc<Binding>],
    ) -> Vec<Ack> {
        let mut acks = Vec::new();
        self.publish_into(node, domain, aor, changes, Some(&mut acks));
        if let Some(store) = domain.store.as_ref().filter(|_| changes.is_empty()) {
            for binding in told {
                store.join(binding.contact_id(), &mut acks);
            }
        }
        acks
    }

    fn publish_into(
        &self,
        node: NodeRef,
        domain: &'static Domain,
        aor: &Aor,
        changes: &[Change],
        mut acks: Option<&mut Vec<Ack>>,
    ) {
        for change in changes {
            let acks = acks.as_deref_mut();
            match change {
                Change::AorInserted => raise_aor(node, AOR_INSERT, domain, aor),
                Change::AorDeleted => raise_aor(node, AOR_DELETE, domain, aor),
                Change::Inserted(binding) => {
                    write(domain, aor, binding, acks);
                    domain.push.note(aor, binding);
                    raise_contact(node, CONTACT_INSERT, domain, aor, binding);
                }
                Change::Updated(binding) => {
                    write(domain, aor, binding, acks);
                    domain.push.note(aor, binding);
                    raise_contact(node, CONTACT_UPDATE, domain, aor, binding);
                }
                Change::Removed { binding, .. } => {
                    domain.push.forget(binding.contact_id());
                    if let Some(store) = domain.store.as_ref().filter(|_| !is_memory_only(binding)) {
                        store.put(binding.contact_id(), Op::Delete, acks);
                    }
                    raise_contact(node, CONTACT_DELETE, domain, aor, binding);
                }
            }
        }
    }
}

pub(super) fn is_memory_only(binding: &Binding) -> bool {
    binding.flags() & binding_flags::MEMORY_ONLY != 0
}

fn write(domain: &'static Domain, aor: &Aor, binding: &Arc<Binding>, acks: Option<&mut Vec<Ack>>) {
    if let Some(store) = domain.store.as_ref().filter(|_| !is_memory_only(binding)) {
        store.put(binding.contact_id(), Op::Write(aor.clone(), binding.clone()), acks);
    }
}

fn raise_aor(node: NodeRef, name: &'static str, domain: &Domain, aor: &Aor) {
    if node.events.has_listeners(name) {
        let params = smallvec![("domain", Value::from(domain.name)), ("aor", Value::text(aor.as_bytes()))];
        node.events.raise(node, Event { name, params }, None);
    }
}

fn raise_contact(node: NodeRef, name: &'static str, domain: &Domain, aor: &Aor, binding: &Binding) {
    if node.events.has_listeners(name) {
        let params = contact_params(domain, aor, binding, 0);
        node.events.raise(node, Event { name, params }, None);
    }
}

/// A UA has to be woken: `reason` says for what, `req_call_id` is that of a request that waits for it.
pub(crate) fn raise_refresh(
    node: NodeRef,
    domain: &Domain,
    aor: &Aor,
    binding: &Binding,
    reason: &str,
    req_call_id: &[u8],
) {
    if node.events.has_listeners(CONTACT_REFRESH) {
        let mut params = contact_params(domain, aor, binding, 0);
        params.extend([("reason", Value::from(reason)), ("req_callid", Value::text(req_call_id))]);
        node.events.raise(node, Event { name: CONTACT_REFRESH, params }, None);
    }
}

/// A contact that was pinged has answered after `latency`.
pub(crate) fn raise_latency(node: NodeRef, domain: &Domain, aor: &Aor, binding: &Binding, latency: Duration) {
    let micros = i64::try_from(latency.as_micros()).unwrap_or(i64::MAX);
    let params = contact_params(domain, aor, binding, micros);
    node.events.raise(node, Event { name: LATENCY_UPDATE, params }, None);
}

fn contact_params(
    domain: &Domain,
    aor: &Aor,
    binding: &Binding,
    latency_micros: i64,
) -> SmallVec<[(&'static str, Value); 4]> {
    let number = |value: i64| Value::Int(i32::try_from(value).unwrap_or(i32::MAX));
    smallvec![
        ("domain", Value::from(domain.name)),
        ("aor", Value::text(aor.as_bytes())),
        ("uri", Value::text(binding.contact())),
        ("received", Value::text(binding.received())),
        ("path", Value::text(binding.path())),
        ("qval", Value::Int(binding.q_thousandths().map_or(-1, i32::from))),
        ("user_agent", Value::text(binding.user_agent())),
        ("socket", Value::text(binding.socket())),
        ("bflags", Value::Int(binding.branch_flags().cast_signed())),
        ("expires", number(binding.expires_at())),
        ("callid", Value::text(binding.call_id())),
        ("cseq", number(binding.cseq().into())),
        ("attr", Value::text(binding.attr())),
        ("latency", number(latency_micros)),
        ("shtag", Value::Text(ownership_tag(binding.kv()).map_or(Text::EMPTY, Text::from))),
    ]
}

/// The ownership tag in the key-value store of a contact (key `_st`), if it has one.
fn ownership_tag(kv: &[u8]) -> Option<String> {
    if kv.is_empty() {
        return None;
    }
    let store: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(kv).ok()?;
    store.get("_st")?.as_str().map(str::to_owned)
}
