//! Listeners as scripts see and choose them, Via handling, "is this me". Sending is elsewhere.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{VarCall, arg_int, arg_text};
use tandem_module::transport::Socket;
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;

use super::request_vars::{ip_text, proto_value};
use super::table::done;

pub(super) fn is_myself(context: &mut Context, args: &[Arg]) -> Called {
    let Some(host) = arg_text(args, 0) else { return done(false) };
    let port = match args.get(1) {
        None | Some(Arg::Missing) => None,
        Some(_) => match arg_int(args, 1).and_then(|port| u16::try_from(port).ok()) {
            Some(port) => Some(port),
            None => return done(false),
        },
    };
    done(context.node.is_myself(host, port))
}

pub(super) fn force_rport(context: &mut Context, _: &[Arg]) -> Called {
    context.edits.force_rport = true;
    done(true)
}

pub(super) fn add_local_rport(context: &mut Context, _: &[Arg]) -> Called {
    context.edits.add_local_rport = true;
    done(true)
}

pub(super) fn set_advertised_address(context: &mut Context, args: &[Arg]) -> Called {
    let Some(host) = arg_text(args, 0) else { return done(false) };
    context.edits.advertised.0 = Some(Text::copy(host)).filter(|host| !host.is_empty());
    done(true)
}

pub(super) fn set_advertised_port(context: &mut Context, args: &[Arg]) -> Called {
    let port = arg_text(args, 0).and_then(|port| std::str::from_utf8(port).ok()).map(str::trim);
    match port.filter(|port| port.parse::<u16>().is_ok()) {
        Some(port) => {
            context.edits.advertised.1 = Some(Text::from(port));
            done(true)
        }
        None => done(false),
    }
}

pub(super) fn force_send_socket(context: &mut Context, args: &[Arg]) -> Called {
    let socket = arg_text(args, 0).and_then(|text| context.node.socket_named(text));
    match socket {
        Some(socket) => {
            context.edits.target.socket = Some(socket.id);
            done(true)
        }
        None => done(false),
    }
}

pub(super) fn force_tcp_alias(context: &mut Context, args: &[Arg]) -> Called {
    let Some(conn) = context.source.conn else { return done(false) };
    let given = arg_int(args, 0).and_then(|port| u16::try_from(port).ok());
    let port = given.or_else(|| context.message.top_via().ok().map(|via| via.port_or_default()));
    match (port, context.node.transport()) {
        (Some(port), Some(transport)) => {
            transport.add_alias(conn, port);
            done(true)
        }
        _ => done(false),
    }
}

/// `socket_belongs_to_bond(socket, bond)`.
pub(super) fn belongs_to_bond(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(socket), Some(bond)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let node = context.node;
    let bond = node.settings.bonds.iter().find(|(name, _)| name.as_bytes() == bond);
    let (Some((_, members)), Some(socket)) = (bond, node.socket_named(socket)) else { return done(false) };
    done(members.iter().any(|member| node.socket_named(member.as_bytes()).is_some_and(|own| own.id == socket.id)))
}

/// `set_via_handling("force-rport,add-local-rport,...")`.
pub(super) fn set_via_handling(context: &mut Context, args: &[Arg]) -> Called {
    for word in arg_text(args, 0).unwrap_or_default().split(|byte| *byte == b',') {
        match word.trim_ascii() {
            b"" => {}
            b"force-rport" => context.edits.force_rport = true,
            b"add-local-rport" => context.edits.add_local_rport = true,
            b"force-tcp-alias" => drop(force_tcp_alias(context, &[])),
            // Replies go by Via here in any case.
            b"reply-to-via" => {}
            _ => return done(false),
        }
    }
    done(true)
}

fn field(socket: &Socket, name: Option<&[u8]>) -> Value {
    let Some(name) = name else { return Value::from(socket.text.as_str()) };
    let port = |port: u16| Value::Int(i32::from(port));
    match name.to_ascii_lowercase().as_slice() {
        b"ip" => Value::Text(ip_text(socket.addr.ip())),
        b"port" => port(socket.addr.port()),
        b"proto" => proto_value(socket.proto),
        b"advertised_ip" => socket.advertised.as_ref().map_or(Value::Null, |(host, _)| Value::from(host.as_str())),
        b"advertised_port" => socket.advertised.as_ref().map_or(Value::Null, |(_, shown)| port(*shown)),
        b"tag" => socket.tag.as_deref().map_or(Value::Null, Value::from),
        b"anycast" => Value::Int(i32::from(socket.is_anycast)),
        b"af" => family(socket),
        b"forced" => Value::from(socket.text.as_str()),
        _ => Value::Null,
    }
}

fn family(socket: &Socket) -> Value {
    Value::from(if socket.addr.is_ipv4() { "INET" } else { "INET6" })
}

/// The listener a message came in by; none for the dummy request of timer, event and startup routes.
fn receiving(context: &Context) -> Option<&'static Socket> {
    if context.source.src.ip().is_unspecified() {
        return None;
    }
    context.node.socket(context.source.socket)
}

fn forced(context: &Context) -> Option<&'static Socket> {
    context.edits.target.socket.and_then(|id| context.node.socket(id))
}

/// `$socket_in`, `$socket_in(field)`.
pub(super) fn socket_in(context: &mut Context, call: &VarCall<'_>) -> Value {
    receiving(context).map_or(Value::Null, |socket| field(socket, call.name))
}

/// `$socket_out`, `$socket_out(field)`.
pub(super) fn socket_out(context: &mut Context, call: &VarCall<'_>) -> Value {
    let is_forced_only = call.name.is_some_and(|name| name.eq_ignore_ascii_case(b"forced"));
    let socket = forced(context).or_else(|| if is_forced_only { None } else { receiving(context) });
    socket.map_or(Value::Null, |socket| field(socket, call.name))
}

pub(super) fn set_socket_out(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    let Some(text) = value.as_text() else {
        if value.is_null() {
            context.edits.target.socket = None;
        }
        return value.is_null();
    };
    match context.node.socket_named(&text) {
        Some(socket) => context.edits.target.socket = Some(socket.id),
        // Unknown sockets leave the choice as it was, with a warning (specification §6.4).
        None => context.log(tandem_script::vm::LogLevel::Warning, &format!("no listener '{}'", text.to_str())),
    }
    true
}

/// `$fs` (2.4).
pub(super) fn forced_socket(context: &mut Context, _: &VarCall<'_>) -> Value {
    forced(context).map_or(Value::Null, |socket| Value::from(socket.text.as_str()))
}

/// `$Ri` (2.4).
pub(super) fn received_ip(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Text(ip_text(context.source.dst.ip()))
}

/// `$Rp` (2.4).
pub(super) fn received_port(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(i32::from(context.source.dst.port()))
}

/// `$proto`, `$pr` (2.4).
pub(super) fn received_proto(context: &mut Context, _: &VarCall<'_>) -> Value {
    proto_value(context.source.proto)
}

/// `$af` (2.4).
pub(super) fn received_family(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::from(if context.source.dst.is_ipv4() { "INET" } else { "INET6" })
}

/// `$proxy_protocol(field)`: PROXY headers are not read here.
pub(super) fn proxy_protocol(_: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Null
}
