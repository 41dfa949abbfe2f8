//! UAs that are woken by a push notification before a request reaches them (RFC 8599 §5.6 and §6). The push itself is sent by
//! the script, in `event_route[E_UL_CONTACT_REFRESH]`.

use std::sync::Arc;
use std::time::Duration;

use tandem_location::{Aor, Binding, ContactId};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::run::{Pending, Waker};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{HeaderKind, Uri};

use super::config::Registrar;
use super::lookup::target_of;
use super::push::{Push, purr_id};
use crate::tm::awaited;
use crate::usrloc::{Domain, Usrloc, raise_refresh};

/// Every contact found has to be woken: there is nothing to relay to yet.
pub(super) const WOKEN: i32 = 2;
const FAILED: i32 = -3;

/// Why a UA is woken: `ini-INVITE`, `mid-BYE`, and the Call-ID of the request.
fn reason(context: &Context, prefix: &str) -> (String, Vec<u8>) {
    let method = String::from_utf8_lossy(context.message.method_bytes()).into_owned();
    (format!("{prefix}-{method}"), context.message.call_id().map(<[u8]>::to_vec).unwrap_or_default())
}

/// Keeps the request for `count` branches and wakes the UAs of `bindings`; each that registers in time becomes a branch. The
/// return code of `lookup()` when it cannot be done.
pub(super) fn wake(
    context: &mut Context,
    (registrar, push): (&'static Registrar, &'static Push),
    domain: &'static Domain,
    bindings: &[Arc<Binding>],
    count: usize,
) -> Result<(), Called> {
    let node = context.node;
    let transaction = awaited::begin(context, count).map_err(|called| match called {
        Called::Done(code) if code < 0 => Called::Done(FAILED),
        other => other,
    })?;
    let (reason, call_id) = reason(context, "ini");
    let mut waits = Vec::with_capacity(bindings.len());
    for binding in bindings {
        let id = binding.contact_id();
        let waiter = move |binding: &Arc<Binding>| {
            awaited::inject(node, transaction, target_of(node, registrar, binding));
        };
        match domain.push.wait(id, waiter) {
            Some(number) => waits.push((id, number)),
            None => context.log(LogLevel::Error, "lookup(): too many requests wait for UAs that are being woken"),
        }
    }
    if let Some(workers) = node.workers() {
        let at = tandem_module::clock::now() + Duration::from_secs(push.refresh_secs.into());
        let over = move |_| {
            for (id, number) in waits {
                domain.push.cancel(id, number);
            }
            awaited::end(node, transaction);
        };
        workers.after(tandem_module::worker::current(), at, Box::new(over));
    }
    for binding in bindings {
        let aor = domain.push.aor(binding.contact_id());
        raise_refresh(node, domain, &aor.unwrap_or_else(|| Aor::from("")), binding, &reason, &call_id);
    }
    Ok(())
}

/// The reference to a registration in the request URI or in the topmost Route.
fn purr_in(context: &Context) -> Option<ContactId> {
    let of = |uri: &[u8]| Uri::parse(uri).ok().and_then(|uri| uri.param(b"pn-purr").and_then(purr_id));
    let route = || context.message.name_addrs(HeaderKind::Route).next()?.ok().and_then(|route| of(route.uri));
    context.request_uri().and_then(of).or_else(route)
}

/// `pn_process_purr(domain)`: 1 the UA was woken, or was given its time; 2 nothing to wake; -1.
pub(super) fn process_purr(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(usrloc), Some(registrar)) = (node.state::<Usrloc>(), node.state::<Registrar>()) else {
        return Called::Done(-1);
    };
    let Some(push) = registrar.push.as_ref().filter(|push| push.has_purr) else {
        context.log(LogLevel::Error, "pn_process_purr(): parameters pn_enable and pn_enable_purr are off");
        return Called::Done(-1);
    };
    let domain = usrloc.domain(node, arg_text(args, 0).unwrap_or_default()).filter(|_| context.is_request());
    let Some(domain) = domain else { return Called::Done(-1) };
    let Some(id) = purr_in(context) else { return Called::Done(WOKEN) };
    let Some((aor, binding)) = domain.push_binding(id) else { return Called::Done(WOKEN) };
    let (reason, call_id) = reason(context, "mid");
    let number = Arc::new(parking_lot::Mutex::new(None));
    let keep = number.clone();
    let start = move |waker: Waker| {
        *keep.lock() = domain.push.wait(id, move |_| waker.wake(Box::new(())));
        raise_refresh(node, domain, &aor, &binding, &reason, &call_id);
    };
    let finish = move |_: &mut Context, _| {
        if let Some(number) = number.lock().take() {
            domain.push.cancel(id, number);
        }
        // Too late or in time: the request goes on either way.
        Called::Done(1)
    };
    Called::Pending(Pending::new(Duration::from_secs(push.refresh_secs.into()), start, finish))
}
