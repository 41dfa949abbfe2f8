//! `remove()` and `remove_ip_port()`: bindings taken out by a script.

use tandem_location::{Aor, Binding, RemovalReason, uris_match};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_module::node::NodeRef;
use tandem_module::transport::NameQuery;
use tandem_script::vm::Arg;

use super::aor_of;
use super::lookup::first_hop;
use super::queries::is_at;
use crate::usrloc::{Domain, Usrloc};

fn some(args: &[Arg], at: usize) -> Option<&[u8]> {
    arg_text(args, at).filter(|text| !text.is_empty())
}

/// The URI of the next hop towards a binding: its Path, else its source, else its contact.
fn next_hop(binding: &Binding) -> &[u8] {
    match first_hop(binding) {
        Some(hop) => hop,
        None if binding.received().is_empty() => binding.contact(),
        None => binding.received(),
    }
}

/// A host and the addresses the resolver knows for it already.
fn hosts(node: NodeRef, host: &[u8]) -> Vec<Vec<u8>> {
    let mut hosts = vec![host.to_vec()];
    if let Ok(name) = std::str::from_utf8(host)
        && name.parse::<std::net::IpAddr>().is_err()
    {
        let query = NameQuery { host: name.to_ascii_lowercase(), port: Some(5060), proto: None, is_secure: false };
        let known = node.resolver().and_then(|resolver| resolver.cached(&query)).unwrap_or_default();
        hosts.extend(known.iter().map(|(_, addr)| addr.ip().to_string().into_bytes()));
    }
    hosts
}

pub(super) fn remove(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let domain = super::db_only(context, args, 0);
    match domain {
        Some(domain) => {
            let aors = arg_text(args, 1).and_then(|uri| aor_of(node, uri).ok()).into_iter().collect();
            super::at_hand(context, args, domain, aors, -1, remove_now)
        }
        None => remove_now(context, args),
    }
}

fn remove_now(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let domain = node.state::<Usrloc>().and_then(|usrloc| Some((usrloc, usrloc.domain(node, arg_text(args, 0)?)?)));
    let (Some((usrloc, domain)), Ok(aor)) = (domain, aor_of(node, arg_text(args, 1).unwrap_or_default())) else {
        return Called::Done(-1);
    };
    let (contact, instance) = (some(args, 2), some(args, 4));
    let hops = some(args, 3).map(|host| hosts(node, host));
    let flag = match some(args, 5).map(|name| node.program().find_branch_flag(name)) {
        // A flag no part of the script knows is on no binding.
        Some(None) => return Called::Done(-1),
        found => found.flatten(),
    };
    let select = |binding: &Binding| {
        contact.is_none_or(|contact| uris_match(contact, binding.contact()))
            && instance.is_none_or(|instance| instance == binding.instance())
            && flag.is_none_or(|flag| binding.has_branch_flag(flag))
            && hops.as_ref().is_none_or(|hops| hops.iter().any(|host| is_at(next_hop(binding), host, None)))
    };
    Called::Done(if take_out(node, usrloc, domain, &aor, select) { 1 } else { -1 })
}

fn take_out(
    node: NodeRef,
    usrloc: &'static Usrloc,
    domain: &'static Domain,
    aor: &Aor,
    select: impl FnMut(&Binding) -> bool,
) -> bool {
    let changes = domain.table.remove_where(aor, RemovalReason::Administrative, select);
    usrloc.publish(node, domain, aor, &changes);
    !changes.is_empty()
}

pub(super) fn remove_ip_port(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let domain = super::db_only(context, args, 2);
    match (domain, some(args, 3)) {
        (Some(domain), Some(uri)) => {
            let aors = aor_of(node, uri).ok().into_iter().collect();
            super::at_hand(context, args, domain, aors, -1, remove_ip_port_now)
        }
        (Some(_), None) => {
            let text = "remove_ip_port(): name an address of record: the contacts are in the database only";
            context.log(tandem_script::vm::LogLevel::Error, text);
            Called::Done(-1)
        }
        (None, _) => remove_ip_port_now(context, args),
    }
}

fn remove_ip_port_now(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(ip), Some(port)) = (some(args, 0), arg_int(args, 1).and_then(|port| u16::try_from(port).ok())) else {
        return Called::Done(-1);
    };
    let domain = node.state::<Usrloc>().and_then(|usrloc| Some((usrloc, usrloc.domain(node, arg_text(args, 2)?)?)));
    let Some((usrloc, domain)) = domain else { return Called::Done(-1) };
    let fits = |binding: &Binding| is_at(next_hop(binding), ip, Some(port));
    let aors = match some(args, 3) {
        Some(uri) => match aor_of(node, uri) {
            Ok(aor) => vec![aor],
            Err(_) => return Called::Done(-1),
        },
        None => {
            let mut aors = Vec::new();
            domain.table.for_each(|record| {
                if record.bindings().iter().any(|binding| fits(binding)) {
                    aors.push(record.aor().clone());
                }
            });
            aors
        }
    };
    let mut is_any = false;
    for aor in aors {
        is_any |= take_out(node, usrloc, domain, &aor, fits);
    }
    Called::Done(if is_any { 1 } else { -1 })
}
