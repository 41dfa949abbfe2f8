//! A request on its way out: next hop, sending socket, Record-Route and Via, and the bytes. Shared by stateless and
//! stateful forwarding; it keeps no state and sends nothing.

use std::net::{IpAddr, SocketAddr};

use tandem_sip::{Message, RequestOut, Uri, ViaOut, write_request, write_via};

use crate::edits::{Edits, RecordRoute, Target};
use crate::node::NodeRef;
use crate::transport::{Destination, NameQuery, Proto, SocketId, Source};

/// Targets of one branch at most (SRV and address records).
pub const TARGETS_MAX: usize = 8;

/// Where a URI leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// To these addresses, best first.
    Known(Vec<(Proto, SocketAddr)>),
    /// A name has to be looked up first.
    Lookup(NameQuery),
}

/// Why a request cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The URI cannot be parsed.
    #[error("bad URI '{0}'")]
    BadUri(String),
    /// A transport we do not have.
    #[error("unsupported transport in '{0}'")]
    BadTransport(String),
    /// The name does not exist, or could not be looked up.
    #[error("cannot resolve '{0}'")]
    Unresolved(String),
    /// No listener fits.
    #[error("no {0} socket to send from")]
    NoSocket(&'static str),
    /// A blacklist in use forbids it.
    #[error("{0} is on a blacklist in use")]
    Blocked(SocketAddr),
}

/// Where a SIP URI leads (RFC 3263 §4): `maddr` first, then host; the transport from the URI, else that of the listener
/// `forced` by the script or by a doubled Record-Route (OpenSIPS: tm, the forced socket), else UDP for addresses.
///
/// # Errors
/// [`RouteError::BadUri`] and [`RouteError::BadTransport`].
pub fn next_hop(node: NodeRef, uri: &[u8], forced: Option<SocketId>) -> Result<NextHop, RouteError> {
    let shown = || String::from_utf8_lossy(uri).into_owned();
    let parsed = Uri::parse(uri).map_err(|_| {
        node.core_stats.bad_uris.inc();
        RouteError::BadUri(shown())
    })?;
    let is_secure = matches!(parsed.scheme, tandem_sip::Scheme::Sips);
    let proto = match parsed.transport_text() {
        Some(name) => Some(Proto::from_name(name).ok_or_else(|| RouteError::BadTransport(shown()))?),
        None if is_secure => Some(Proto::Tls),
        None => forced.and_then(|id| node.socket(id)).map(|socket| socket.proto),
    };
    let host = parsed.maddr().unwrap_or(parsed.host);
    if host.is_empty() {
        return Err(RouteError::BadUri(shown()));
    }
    let bare = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    let bare = std::str::from_utf8(bare).map_err(|_| RouteError::BadUri(shown()))?;
    let port = parsed.port;
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let proto = proto.unwrap_or(Proto::Udp);
        let port = port.unwrap_or_else(|| proto.default_port());
        return Ok(NextHop::Known(vec![(proto, SocketAddr::new(ip, port))]));
    }
    let query = NameQuery { host: bare.to_ascii_lowercase(), port, proto, is_secure };
    match node.resolver().and_then(|resolver| resolver.cached(&query)) {
        Some(targets) if targets.is_empty() => Err(RouteError::Unresolved(query.host)),
        Some(targets) => Ok(NextHop::Known(targets)),
        None => Ok(NextHop::Lookup(query)),
    }
}

/// The URI that decides the next hop of a target: `$du`, else its URI, else the received request URI.
pub fn next_hop_uri<'a>(message: &'a Message, target: &'a Target) -> &'a [u8] {
    match (&target.dst_uri, &target.uri) {
        (Some(dst), _) => dst,
        (None, Some(uri)) => uri,
        (None, None) => message.request_uri().unwrap_or_default(),
    }
}

/// The destination for an address: the listener forced by the script, else with `mhomed` the one the system would choose,
/// else the receiving one when it fits, else the first that does.
///
/// # Errors
/// [`RouteError::NoSocket`].
pub fn destination(
    node: NodeRef,
    source: &Source,
    forced: Option<SocketId>,
    (proto, addr): (Proto, SocketAddr),
) -> Result<Destination, RouteError> {
    let by_route = if forced.is_none() { node.socket_by_route(proto, addr) } else { None };
    let chosen = by_route.or_else(|| node.socket_towards(proto, addr, forced.or(Some(source.socket))));
    let socket = chosen.ok_or(RouteError::NoSocket(proto.name()))?;
    Ok(Destination { proto, addr, socket: socket.id, conn: None })
}

/// Whether a blacklist in use forbids to send the request to `to` (OpenSIPS: core, check_against_blacklist()). Patterns of
/// rules look at the request as it would be sent; it is written for that only when there is such a rule.
pub fn is_blocked(
    node: NodeRef,
    message: &Message,
    source: &Source,
    edits: &Edits,
    target: &Target,
    to: &Destination,
) -> bool {
    if node.blacklists.bits(edits.blacklists) == 0 {
        return false;
    }
    let written = std::cell::OnceCell::new();
    node.blacklists.blocks(edits.blacklists, Some(to.proto.name()), to.addr, || {
        let text: &Vec<u8> = written.get_or_init(|| {
            let mut out = Vec::with_capacity(message.buffer().len() + 256);
            write_branch(node, message, source, edits, target, to, b"z9hG4bK", &mut out);
            out
        });
        text.as_slice()
    })
}

/// Writes the request for one branch: request URI, our Via with `branch`, Record-Route, Path, lumps.
// What a branch is made of; a struct would only rename the same eight things.
#[allow(clippy::too_many_arguments)]
pub fn write_branch(
    node: NodeRef,
    message: &Message,
    source: &Source,
    edits: &Edits,
    target: &Target,
    to: &Destination,
    branch: &[u8],
    out: &mut Vec<u8>,
) {
    let mut via = Vec::with_capacity(96);
    let mut sent_by = Vec::new();
    sent_by_of(node, edits, to.socket, &mut sent_by);
    write_via(
        &ViaOut {
            transport: to.proto.sip(),
            host: &sent_by,
            port: None,
            branch,
            rport: edits.add_local_rport,
            params: b"",
        },
        &mut via,
    );
    let mut headers = Vec::new();
    write_record_routes(node, source, edits, to, &mut headers);
    if let Some(path) = &target.path {
        headers.extend_from_slice(b"Route: ");
        headers.extend_from_slice(path);
        headers.extend_from_slice(b"\r\n");
    }
    let uri = target.uri.as_ref().map(|uri| uri.as_bytes());
    let request = RequestOut { uri, via: Some(&via), headers: &headers, is_stream: to.proto.is_reliable() };
    if let Some(fix) = crate::reply::via_fix(message, source, edits.force_rport) {
        let mut lumps = edits.lumps.clone();
        // Fails only without a usable Via, which `via_fix` has just read.
        let _ = tandem_sip::annotate_top_via(message, &fix, &mut lumps);
        write_request(message, &lumps, &request, out);
    } else {
        write_request(message, &edits.lumps, &request, out);
    }
}

/// `host:port` shown to peers by a listener, with what the script or the global parameters advertise.
fn sent_by_of(node: NodeRef, edits: &Edits, socket: SocketId, out: &mut Vec<u8>) {
    let Some(socket) = node.socket(socket) else { return };
    let global = &node.settings.advertised;
    let host = edits.advertised.0.as_ref().map(|host| host.as_bytes());
    let port = edits.advertised.1.as_ref().map(|port| port.as_bytes());
    if host.is_none() && port.is_none() && global.0.is_none() && global.1.is_none() {
        out.extend_from_slice(&socket.sent_by);
        return;
    }
    let own = String::from_utf8_lossy(&socket.sent_by).into_owned();
    let (own_host, own_port) = own.rsplit_once(':').unwrap_or((&own, "5060"));
    let has_own = socket.advertised.is_some();
    let global_host = global.0.as_deref().filter(|_| !has_own).unwrap_or(own_host);
    let global_port = global.1.filter(|_| !has_own).map_or_else(|| own_port.to_owned(), |port| port.to_string());
    out.extend_from_slice(host.unwrap_or(global_host.as_bytes()));
    out.push(b':');
    out.extend_from_slice(port.unwrap_or(global_port.as_bytes()));
}

/// Writes the Record-Route lines. Two of them when the request leaves by another listener than it came in (`r2=on`),
/// so that each side finds an address it can reach (OpenSIPS: rr, enable_double_rr).
fn write_record_routes(node: NodeRef, source: &Source, edits: &Edits, to: &Destination, out: &mut Vec<u8>) {
    for route in edits.record_routes.iter().rev() {
        let is_double = route.preset.is_none() && to.socket != source.socket;
        if is_double {
            write_record_route(node, edits, route, to.socket, to.proto, true, out);
            write_record_route(node, edits, route, source.socket, source.proto, true, out);
        } else if let Some(preset) = &route.preset {
            write_preset(route, preset, route.preset2.is_some(), out);
            if let Some(second) = &route.preset2 {
                write_preset(route, second, true, out);
            }
        } else {
            write_record_route(node, edits, route, to.socket, to.proto, false, out);
        }
    }
}

fn write_record_route(
    node: NodeRef,
    edits: &Edits,
    route: &RecordRoute,
    socket: SocketId,
    proto: Proto,
    is_double: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"Record-Route: <sip:");
    write_user(route, out);
    sent_by_of(node, edits, socket, out);
    if proto != Proto::Udp {
        out.extend_from_slice(b";transport=");
        out.extend_from_slice(proto.name().as_bytes());
    }
    if is_double {
        out.extend_from_slice(b";r2=on");
    }
    out.extend_from_slice(b";lr");
    out.extend_from_slice(&route.params);
    out.extend_from_slice(&edits.rr_params);
    out.extend_from_slice(b">\r\n");
}

fn write_user(route: &RecordRoute, out: &mut Vec<u8>) {
    if let Some(user) = &route.user {
        out.extend_from_slice(user);
        out.push(b'@');
    }
}

fn write_preset(route: &RecordRoute, host: &[u8], is_double: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Record-Route: <sip:");
    write_user(route, out);
    out.extend_from_slice(host);
    if is_double {
        out.extend_from_slice(b";r2=on");
    }
    out.extend_from_slice(b";lr");
    out.extend_from_slice(&route.params);
    out.extend_from_slice(b">\r\n");
}
