//! `loose_route()`: which Route values are ours, what the next hop is; strict routers before and after us.

use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{HeaderKind, Message, NameAddr, Span, Uri};

use super::Settings;
use crate::core::table::{done, part};

/// Route values one request may carry here; of longer lists the rest stays as it is.
const ROUTES_MAX: usize = 64;

/// Which way a request of a dialog goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the one who began the dialog.
    Downstream,
    /// Towards the one who began the dialog.
    Upstream,
}

/// A Route value: where it stands and what it says.
#[derive(Clone, Copy)]
struct Route<'m> {
    /// Start of its header line, which tells lines apart.
    line: Span,
    span: Span,
    uri: &'m [u8],
}

fn routes(message: &Message) -> Option<SmallVec<[Route<'_>; 4]>> {
    message
        .values_of(HeaderKind::Route)
        .take(ROUTES_MAX)
        .map(|value| {
            let address = NameAddr::parse(value.bytes).ok()?;
            Some(Route { line: value.entry.whole, span: value.span, uri: address.uri })
        })
        .collect()
}

/// Takes the first `count` values off; lines that become empty go as a whole.
fn remove_front(context: &mut Context, all: &[(Span, Span)], count: usize) {
    let lumps = &mut context.edits.lumps;
    let mut at = 0;
    while at < count {
        let Some((line, first)) = all.get(at).copied() else { return };
        let behind = all.iter().skip(at).take_while(|(other, _)| *other == line).count();
        if at + behind <= count {
            lumps.delete(line);
            at += behind;
            continue;
        }
        if let Some((_, kept)) = all.get(count) {
            lumps.delete(Span::new(first.start, kept.start));
        }
        return;
    }
}

/// Takes the last value off, with the comma before it.
fn remove_last(context: &mut Context, all: &[(Span, Span)], removed: usize) {
    let Some((line, last)) = all.last().copied() else { return };
    let before = all.iter().rev().skip(1).find(|(other, _)| *other == line);
    let lumps = &mut context.edits.lumps;
    match before {
        // Values in front of it that are already taken off leave the line empty.
        Some((_, previous)) if all.len() - removed > 1 => lumps.delete(Span::new(previous.end, last.end)),
        _ => lumps.delete(line),
    }
}

fn is_mine(context: &Context, uri: &Uri<'_>) -> bool {
    let ignored = context.node.state::<Settings>().map_or(&b""[..], |settings| &settings.ignored_user);
    if !ignored.is_empty() && uri.user == Some(ignored) {
        return false;
    }
    context.node.is_myself(uri.host, uri.port)
}

/// Whether our previous hop is a strict router: the Request-URI of an in-dialog request is ours (RFC 3261 §16.4).
fn is_after_strict(context: &Context) -> bool {
    let has_to_tag = context.message.to().is_ok_and(|to| to.tag().is_some());
    has_to_tag
        && context
            .request_uri()
            .and_then(|uri| Uri::parse(uri).ok())
            .is_some_and(|uri| !uri.has_param(b"gr") && is_mine(context, &uri))
}

/// Parameters of our own Route, once `loose_route()` has taken it off.
pub fn own_params(context: &Context) -> Option<&[u8]> {
    if !context.edits.is_loose_routed {
        return None;
    }
    let message = &context.message;
    let received = Uri::parse(message.request_uri()?).ok()?;
    let has_to_tag = message.to().is_ok_and(|to| to.tag().is_some());
    if has_to_tag && !received.has_param(b"gr") && is_mine(context, &received) && received.is_loose_router() {
        return Some(received.params.raw());
    }
    let route = message.routes().next()?.ok()?;
    let uri = Uri::parse(route.uri).ok()?;
    Some(uri.params.raw()).filter(|_| is_mine(context, &uri))
}

/// What one pass over the Routes came to.
struct Plan {
    /// Values to take off the front.
    removed: usize,
    /// The next hop.
    next: Option<Text>,
    /// The request URI to use.
    uri: Option<Text>,
    /// Whether the last value goes, too (it became the request URI).
    takes_last: bool,
    /// Host and port of our address towards the next hop, from the second of a double Route.
    own: Option<(Text, Option<u16>, Option<Text>)>,
    /// Whether one of our Routes was used.
    is_own: bool,
    code: i32,
}

/// `loose_route()`.
pub(super) fn loose_route(context: &mut Context, _: &[Arg]) -> Called {
    if !context.is_request() || !context.message.has(HeaderKind::Route) {
        return done(false);
    }
    if context.edits.is_loose_routed {
        // A second call would see the received Routes again and take off one too many.
        return done(true);
    }
    let is_double = context.node.state::<Settings>().is_none_or(|settings| settings.is_double);
    let (plan, places) = {
        let Some(routes) = routes(&context.message) else {
            context.log(LogLevel::Error, "loose_route(): a Route header cannot be parsed");
            return done(false);
        };
        let plan = if is_after_strict(context) {
            after_strict(context, &routes, is_double)
        } else {
            after_loose(context, &routes, is_double)
        };
        let places: SmallVec<[(Span, Span); 4]> = routes.iter().map(|route| (route.line, route.span)).collect();
        match plan {
            Some(plan) => (plan, places),
            None => return done(false),
        }
    };
    apply(context, plan, &places)
}

fn apply(context: &mut Context, plan: Plan, places: &[(Span, Span)]) -> Called {
    remove_front(context, places, plan.removed);
    if plan.takes_last {
        remove_last(context, places, plan.removed);
    }
    if let Some(uri) = plan.uri {
        context.edits.target.uri = Some(uri);
    }
    if plan.next.is_some() {
        context.edits.target.dst_uri = plan.next;
    }
    if let Some((host, port, transport)) = plan.own {
        choose_socket(context, &host, port, transport.as_ref());
    }
    if plan.is_own {
        context.edits.is_loose_routed = true;
        if plan.code > 0 {
            run_hooks(context);
        }
    }
    Called::Done(plan.code)
}

/// The second of a double Route names the listener on the other side.
fn choose_socket(context: &mut Context, host: &[u8], port: Option<u16>, transport: Option<&Text>) {
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    let Ok(host) = std::str::from_utf8(host) else { return };
    let proto = transport.map_or("udp", |transport| std::str::from_utf8(transport).unwrap_or("udp"));
    let port = Some(port.unwrap_or(5060));
    let found =
        context.node.sockets().iter().find(|socket| {
            socket.proto.name().eq_ignore_ascii_case(proto) && context.node.is_known_as(socket, host, port)
        });
    match found {
        Some(socket) => context.edits.target.socket = Some(socket.id),
        None => context.log(LogLevel::Warning, "loose_route(): no listener fits the second of a double Route"),
    }
}

fn run_hooks(context: &mut Context) {
    let hooks = context.node.route_hooks();
    if hooks.is_empty() {
        return;
    }
    let Some(params) = own_params(context).map(|params| part(&context.message, params)) else { return };
    for hook in hooks {
        hook(context, &params);
    }
}

/// The previous hop is a loose router: the first Route may be ours.
fn after_loose(context: &Context, routes: &[Route<'_>], is_double: bool) -> Option<Plan> {
    let message = &context.message;
    let first = routes.first()?;
    let uri = Uri::parse(first.uri).ok()?;
    let is_preloaded = message.to().ok()?.tag().is_none();
    let mut plan = Plan { removed: 0, next: None, uri: None, takes_last: false, own: None, is_own: false, code: 1 };
    if is_mine(context, &uri) {
        plan.is_own = true;
        plan.removed = 1;
        if is_double
            && uri.has_param(b"r2")
            && let Some(second) = routes.get(1).and_then(|second| Uri::parse(second.uri).ok())
            && second.has_param(b"r2")
            && is_mine(context, &second)
        {
            plan.removed = 2;
            plan.own = Some((Text::copy(second.host), second.port, second.transport_text().map(Text::copy)));
        }
    }
    let Some(next) = routes.get(plan.removed) else {
        // Only we were in there. A request that begins something is then routed by its URI alone.
        plan.code = if is_preloaded { -1 } else { 1 };
        return Some(plan);
    };
    let next_uri = Uri::parse(next.uri).ok()?;
    if next_uri.is_loose_router() {
        plan.next = Some(part(message, next.uri));
    } else {
        // A strict router comes next: it wants itself in the Request-URI and the target as the last Route (§16.6 step 6).
        plan.uri = Some(part(message, next.uri));
        plan.removed += 1;
    }
    Some(plan)
}

/// The previous hop is a strict router: the Request-URI is ours, the target is the last Route.
fn after_strict(context: &Context, routes: &[Route<'_>], is_double: bool) -> Option<Plan> {
    let message = &context.message;
    let own = Uri::parse(message.request_uri()?).ok()?;
    let mut plan = Plan { removed: 0, next: None, uri: None, takes_last: false, own: None, is_own: true, code: 1 };
    let mut first = routes.first()?;
    let mut uri = Uri::parse(first.uri).ok()?;
    // After a strict router our own (first) address stands in the URI; a second one of ours may follow.
    if is_double && own.has_param(b"r2") && uri.has_param(b"r2") && is_mine(context, &uri) {
        plan.own = Some((Text::copy(uri.host), uri.port, uri.transport_text().map(Text::copy)));
        plan.removed = 1;
        first = routes.get(1)?;
        uri = Uri::parse(first.uri).ok()?;
    }
    if !uri.is_loose_router() {
        // The next hop is strict, or the last value is the target itself: it becomes the Request-URI.
        plan.uri = Some(part(message, first.uri));
        plan.removed += 1;
        return Some(plan);
    }
    let last = routes.last()?;
    plan.uri = Some(part(message, last.uri));
    if routes.len() - plan.removed > 1 {
        plan.next = Some(part(message, first.uri));
        plan.takes_last = true;
    } else {
        plan.removed = routes.len();
    }
    Some(plan)
}

/// The way of a request by the `ftag` that our Route carried; downstream when there is none.
pub fn direction(context: &Context) -> Option<Direction> {
    let params = own_params(context)?;
    let Some(ftag) = tandem_sip::Params::new(params).value(b"ftag") else { return Some(Direction::Downstream) };
    let tag = context.message.from().ok()?.tag().unwrap_or_default();
    Some(if ftag == tag { Direction::Downstream } else { Direction::Upstream })
}

/// `is_direction(dir)`.
pub(super) fn is_direction(context: &mut Context, args: &[Arg]) -> Called {
    let wanted = match arg_text(args, 0) {
        Some(text) if text.eq_ignore_ascii_case(b"downstream") => Direction::Downstream,
        Some(text) if text.eq_ignore_ascii_case(b"upstream") => Direction::Upstream,
        _ => return done(false),
    };
    done(direction(context) == Some(wanted))
}

/// `check_route_param(re)`.
pub(super) fn check_route_param(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Arg::Regex(regex)) = args.first() else { return done(false) };
    done(own_params(context).is_some_and(|params| regex.is_match(params)))
}
