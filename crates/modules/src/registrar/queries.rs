//! Questions about bindings that change nothing but a branch attribute, and `add_sock_hdr()`.

use smallvec::SmallVec;
use tandem_location::{Aor, Binding, Record, uris_match};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_text, arg_var};
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;
use tandem_sip::{ContactValue, Method, Uri};

use super::aor_of;
use super::config::Registrar;
use crate::usrloc::Usrloc;

fn done(is_true: bool) -> Called {
    Called::Done(if is_true { 1 } else { -1 })
}

/// The address in argument `at`, or of To (REGISTER) or From (other requests).
fn aor_at(context: &Context, args: &[Arg], at: usize) -> Option<Aor> {
    let message = &context.message;
    let uri = match arg_text(args, at).filter(|aor| !aor.is_empty()) {
        Some(aor) => aor,
        None if !message.is_request() => return None,
        None if message.method() == Method::Register => message.to().ok()?.uri,
        None => message.from().ok()?.uri,
    };
    aor_of(context.node, uri).ok()
}

/// Asks `now` when the bindings of the address are at hand.
fn ask(context: &mut Context, args: &[Arg], now: fn(&mut Context, &[Arg]) -> Called) -> Called {
    let domain = super::db_only(context, args, 0);
    match domain {
        Some(domain) => {
            let aors = aor_at(context, args, 1).into_iter().collect();
            super::at_hand(context, args, domain, aors, -1, now)
        }
        None => now(context, args),
    }
}

/// Runs `test` on the record of the address in argument `at`, or of To (REGISTER) or From (other requests).
fn with_record<T>(context: &Context, args: &[Arg], at: usize, test: impl FnOnce(&Record, i64) -> T) -> Option<T> {
    let usrloc = context.node.state::<Usrloc>()?;
    let domain = usrloc.domain(context.node, arg_text(args, 0)?)?;
    let aor = aor_at(context, args, at)?;
    let now = tandem_module::node::unix_secs_at(context.source.at);
    domain.table.with_record(&aor, |record| test(record, now))
}

fn valid(record: &Record, now: i64) -> impl Iterator<Item = &Binding> {
    record.bindings().iter().map(AsRef::as_ref).filter(move |binding| binding.is_valid(now))
}

pub(super) fn is_registered(context: &mut Context, args: &[Arg]) -> Called {
    ask(context, args, is_registered_now)
}

fn is_registered_now(context: &mut Context, args: &[Arg]) -> Called {
    let registrar = context.node.state::<Registrar>();
    let wants_attr = registrar.is_some_and(|registrar| !registrar.attr_name.is_empty());
    let found = with_record(context, args, 1, |record, now| {
        let first = valid(record, now).next()?;
        Some((wants_attr && !first.attr().is_empty()).then(|| Text::copy(first.attr())))
    });
    let Some(attr) = found.flatten() else { return done(false) };
    if let (Some(attr), Some(registrar)) = (attr, registrar) {
        let attrs = &mut context.edits.target.attrs;
        attrs.retain(|(name, _)| *name != registrar.attr_name);
        attrs.push((registrar.attr_name.clone(), attr));
    }
    done(true)
}

pub(super) fn is_contact_registered(context: &mut Context, args: &[Arg]) -> Called {
    ask(context, args, is_contact_registered_now)
}

fn is_contact_registered_now(context: &mut Context, args: &[Arg]) -> Called {
    let call_id = arg_text(args, 3).filter(|call_id| !call_id.is_empty());
    let mut contact = arg_text(args, 2).filter(|contact| !contact.is_empty());
    if contact.is_none() && call_id.is_none() {
        contact = match context.message.contacts().next() {
            Some(Ok(ContactValue::Address(address))) => Some(address.uri),
            _ => return done(false),
        };
    }
    let fits = |binding: &Binding| {
        contact.is_none_or(|contact| uris_match(contact, binding.contact()))
            && call_id.is_none_or(|call_id| call_id == binding.call_id())
    };
    done(with_record(context, args, 1, |record, now| valid(record, now).any(fits)) == Some(true))
}

/// All values of a variable argument: an AVP may have several.
fn values(context: &mut Context, args: &[Arg], at: usize) -> SmallVec<[Value; 2]> {
    let Some(var) = arg_var(args, at) else { return SmallVec::new() };
    match var.avp_name() {
        Some(name) => context.avps.values(name).cloned().collect(),
        None => [context.read_var(var)].into_iter().filter(|value| !value.is_null()).collect(),
    }
}

pub(super) fn is_ip_registered(context: &mut Context, args: &[Arg]) -> Called {
    ask(context, args, is_ip_registered_now)
}

fn is_ip_registered_now(context: &mut Context, args: &[Arg]) -> Called {
    let has_ports = arg_var(args, 3).is_some();
    let (ips, ports) = (values(context, args, 2), values(context, args, 3));
    if has_ports && ports.len() != ips.len() {
        return done(false);
    }
    let hosts: SmallVec<[(Text, Option<u16>); 2]> = ips
        .iter()
        .enumerate()
        .filter_map(|(at, ip)| {
            let port = match ports.get(at) {
                Some(port) => Some(number(port)?),
                None => None,
            };
            Some((ip.as_text()?, port))
        })
        .collect();
    let fits = |binding: &Binding| {
        let hop = if binding.received().is_empty() { binding.contact() } else { binding.received() };
        hosts.iter().any(|(ip, port)| is_at(hop, ip, *port))
    };
    done(with_record(context, args, 1, |record, now| valid(record, now).any(fits)) == Some(true))
}

fn number(value: &Value) -> Option<u16> {
    match value.as_int() {
        Some(int) => u16::try_from(int).ok(),
        None => std::str::from_utf8(&value.as_text()?).ok()?.trim().parse().ok(),
    }
}

/// Whether a URI leads to that host (and port, the default one when the URI has none).
pub(super) fn is_at(uri: &[u8], host: &[u8], port: Option<u16>) -> bool {
    let Ok(uri) = Uri::parse(uri) else { return false };
    let bare = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    let same_host =
        match (uri.host_ip(), std::str::from_utf8(bare).ok().and_then(|host| host.parse::<std::net::IpAddr>().ok())) {
            (Some(own), Some(wanted)) => own == wanted,
            _ => uri.host.eq_ignore_ascii_case(host),
        };
    same_host && port.is_none_or(|port| uri.port_or_default() == port)
}

pub(super) fn add_sock_hdr(context: &mut Context, args: &[Arg]) -> Called {
    let name = arg_text(args, 0).unwrap_or_default();
    let Some(socket) = context.node.socket(context.source.socket) else { return done(false) };
    if name.is_empty() || !context.is_request() {
        return done(false);
    }
    let line = [name, b": ", socket.text.as_bytes(), b"\r\n"].concat();
    context.edits.lumps.append_header(&context.message, line);
    done(true)
}
