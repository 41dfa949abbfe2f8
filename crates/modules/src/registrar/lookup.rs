//! `lookup()`: the bindings of an address put into the request as its target and branches.

use std::sync::Arc;

use smallvec::SmallVec;
use tandem_location::{Aor, Binding, LookupFilter};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::edits::Target;
use tandem_module::node::NodeRef;
use tandem_script::regex::PosixRegex;
use tandem_script::value::Text;
use tandem_script::vm::Arg;
use tandem_sip::{CommaList, NameAddr, Uri};

use super::config::Registrar;
use super::flags::LookupFlags;
use super::gruu::Temporary;
use super::{AorError, aor_of, wake};
use crate::usrloc::{Domain, Usrloc};

const NOT_FOUND: i32 = -1;
const NOT_FOR_METHOD: i32 = -2;
const FAILED: i32 = -3;

type Found = SmallVec<[Arc<Binding>; 4]>;

/// One search for bindings.
struct Search {
    domain: &'static Domain,
    orders_by_time: bool,
    methods: u32,
    user_agent: Option<Arc<PosixRegex>>,
    now: i64,
}

/// Whom a URI means.
struct Wanted {
    aor: Aor,
    /// For a GRUU: the instance without angle brackets, and the Call-ID of a temporary one.
    gruu: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Reads a URI, which may be a GRUU.
fn wanted(node: NodeRef, uri: &[u8]) -> Result<Wanted, AorError> {
    let gruu = node.state::<Registrar>().and_then(|registrar| registrar.gruu.as_ref());
    if let Some(gruu) = gruu
        && let Ok(parsed) = Uri::parse(uri)
        && let Some(instance) = parsed.param(b"gr")
    {
        if let Some(Temporary { aor, instance, call_id }) = gruu.open(parsed.user_or_empty()) {
            return Ok(Wanted { aor, gruu: Some((instance, Some(call_id))) });
        }
        if !instance.is_empty() {
            let instance = tandem_sip::unescape_percent(instance).into_owned();
            return Ok(Wanted { aor: aor_of(node, uri)?, gruu: Some((instance, None)) });
        }
    }
    Ok(Wanted { aor: aor_of(node, uri)?, gruu: None })
}

/// Of the flows of one UA (RFC 5626 §7) the newest alone: further ones are other ways to the same telephone.
fn one_flow_each(found: &mut Vec<Arc<Binding>>) {
    if found.iter().filter(|binding| binding.reg_id() != 0).count() < 2 {
        return;
    }
    let is_other_flow = |one: &Binding, other: &Binding| {
        one.reg_id() != 0 && other.reg_id() != 0 && !one.instance().is_empty() && one.instance() == other.instance()
    };
    let all = found.clone();
    found.retain(|binding| {
        !all.iter().any(|other| {
            is_other_flow(binding, other)
                && (other.last_modified(), other.contact_id()) > (binding.last_modified(), binding.contact_id())
        })
    });
}

impl Search {
    /// The bindings of a URI, best first, or the return code of a failure.
    fn run(&self, context: &Context, uri: &[u8]) -> Result<Found, i32> {
        let Wanted { aor, gruu } = wanted(context.node, uri).map_err(|_| FAILED)?;
        let mut found = self.domain.table.lookup(&aor, self.now, &LookupFilter::default());
        if let Some((instance, call_id)) = &gruu {
            found.retain(|binding| {
                super::gruu::bare(binding.instance()) == instance
                    && call_id.as_ref().is_none_or(|call_id| binding.call_id() == call_id)
            });
        }
        one_flow_each(&mut found);
        if found.is_empty() {
            return Err(NOT_FOUND);
        }
        if let Some(pattern) = &self.user_agent {
            found.retain(|binding| pattern.is_match(binding.user_agent()));
            if found.is_empty() {
                return Err(NOT_FOUND);
            }
        }
        if self.methods != 0 {
            found.retain(|binding| binding.methods() & self.methods != 0);
            if found.is_empty() {
                return Err(NOT_FOR_METHOD);
            }
        }
        if self.orders_by_time {
            found.sort_by_key(|binding| std::cmp::Reverse(binding.last_modified()));
        }
        Ok(found.into())
    }
}

pub(super) fn lookup(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let domain = super::db_only(context, args, 0);
    let Some(domain) = domain else { return lookup_now(context, args) };
    let uri = arg_text(args, 2).filter(|aor| !aor.is_empty()).or_else(|| context.request_uri());
    let branches = context.edits.branches.iter().filter_map(|branch| branch.uri.as_deref());
    let flags = LookupFlags::parse(arg_text(args, 1).unwrap_or_default());
    let others = branches.filter(|_| flags.expands_branches);
    let aors =
        uri.into_iter().chain(others).filter_map(|uri| wanted(node, uri).ok()).map(|wanted| wanted.aor).collect();
    super::at_hand(context, args, domain, aors, FAILED, lookup_now)
}

fn lookup_now(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(usrloc), Some(registrar)) = (node.state::<Usrloc>(), node.state::<Registrar>()) else {
        return Called::Done(FAILED);
    };
    let Some(domain) = usrloc.domain(node, arg_text(args, 0).unwrap_or_default()) else { return Called::Done(FAILED) };
    let flags = LookupFlags::parse(arg_text(args, 1).unwrap_or_default());
    let user_agent = match flags.user_agent.map(|pattern| registrar.pattern(pattern, flags.ignores_case)) {
        Some(None) => return Called::Done(FAILED),
        found => found.flatten(),
    };
    let search = Search {
        domain,
        orders_by_time: usrloc.orders_by_time(),
        methods: if flags.filters_method { context.message.method().id() } else { 0 },
        user_agent,
        now: tandem_module::node::unix_secs_at(context.source.at),
    };
    let uri = arg_text(args, 2).filter(|aor| !aor.is_empty()).or_else(|| context.request_uri());
    let mut result = uri.ok_or(FAILED).and_then(|uri| search.run(context, uri));
    if flags.expands_branches && !flags.no_branches {
        let old = std::mem::take(&mut context.edits.branches);
        for branch in old {
            let Some(more) = branch.uri.and_then(|uri| search.run(context, &uri).ok()) else { continue };
            match &mut result {
                Ok(found) => found.extend(more),
                Err(_) => result = Ok(more),
            }
        }
    }
    match result {
        Ok(found) => deliver(context, registrar, &flags, &search, found),
        Err(code) => Called::Done(code),
    }
}

/// Puts the bindings into the request; those whose UA sleeps are woken and become branches when they register.
fn deliver(
    context: &mut Context,
    registrar: &'static Registrar,
    flags: &LookupFlags<'_>,
    search: &Search,
    mut found: Found,
) -> Called {
    let Some(push) = registrar.push.as_ref().filter(|_| context.is_request()) else {
        put(context, registrar, flags, &found);
        return Called::Done(1);
    };
    if flags.no_branches {
        found.truncate(1);
    }
    let count = found.len();
    let (asleep, awake): (Found, Found) = found.into_iter().partition(|binding| push.has_to_wake(binding, search.now));
    if !awake.is_empty() {
        put(context, registrar, flags, &awake);
    }
    if asleep.is_empty() {
        return Called::Done(1);
    }
    match wake::wake(context, (registrar, push), search.domain, &asleep, count) {
        Ok(()) => Called::Done(if awake.is_empty() { wake::WOKEN } else { 1 }),
        Err(called) => called,
    }
}

/// Puts the bindings into the request: the first as its target, the others as branches.
fn put(context: &mut Context, registrar: &Registrar, flags: &LookupFlags<'_>, found: &[Arc<Binding>]) {
    let mut left = found.iter();
    if !flags.only_branches
        && let Some(first) = left.next()
    {
        let mut target = target_of(context.node, registrar, first);
        let old = std::mem::take(&mut context.edits.target);
        target.socket = target.socket.or(old.socket);
        target.attrs.extend(old.attrs.into_iter().filter(|(name, _)| *name != registrar.attr_name));
        context.edits.target = target;
        if flags.no_branches {
            return;
        }
    }
    for binding in left {
        let target = target_of(context.node, registrar, binding);
        // The limit of branches: what comes last is worth least.
        if !context.edits.add_branch(target) {
            break;
        }
    }
}

/// How requests reach a binding: over its Path (RFC 3327 §5.3), else at the address its REGISTER came from.
pub(super) fn target_of(node: NodeRef, registrar: &Registrar, binding: &Binding) -> Target {
    let some = |text: &[u8]| (!text.is_empty()).then(|| Text::copy(text));
    let path = some(binding.path());
    let dst_uri = match first_hop(binding) {
        Some(hop) => Some(Text::copy(hop)),
        None => some(binding.received()),
    };
    let mut target = Target {
        uri: match &registrar.push {
            Some(push) => some(&push.without_params(binding.contact())),
            None => some(binding.contact()),
        },
        dst_uri,
        path,
        q: binding.q_thousandths(),
        socket: node.socket_named(binding.socket()).map(|socket| socket.id),
        flags: binding.branch_flags(),
        ..Target::default()
    };
    if !binding.attr().is_empty() && !registrar.attr_name.is_empty() {
        target.attrs.push((registrar.attr_name.clone(), Text::copy(binding.attr())));
    }
    target
}

/// The URI of the first Path value.
pub(super) fn first_hop(binding: &Binding) -> Option<&[u8]> {
    if binding.path().is_empty() {
        return None;
    }
    CommaList::new(binding.path()).next().and_then(|hop| NameAddr::parse(hop).ok()).map(|hop| hop.uri)
}
