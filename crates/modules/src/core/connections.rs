//! Stream connections in scripts and management. They are opened and kept by the transport.

use std::net::SocketAddr;

use serde_json::{Value as Json, json};
use tandem_module::clock;
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::transport::Proto;
use tandem_script::surface::CommandSpec;
use tandem_script::vm::{Arg, LogLevel};

use super::table::{command, done, renamed_command};

pub(super) const LIST: CommandSpec = renamed_command(
    "list_tcp_conns",
    &["tcp:list"],
    &["proto?"],
    "stream connections, those of a protocol or all; Age is in seconds",
);
pub(super) const CLOSE: CommandSpec =
    command("tcp:close", &["ipport"], "closes the stream connections to `ip:port`, those of cluster links aside");

/// Closes the connections to a peer; how many there were.
fn close_to(node: NodeRef, peer: SocketAddr) -> usize {
    let Some(transport) = node.transport() else { return 0 };
    // Cluster links belong to their module.
    let is_meant = |proto: Proto| !matches!(proto, Proto::Bin | Proto::Bins);
    let found = transport.connections().into_iter().filter(|conn| conn.remote == peer && is_meant(conn.proto));
    found.map(|conn| transport.close_connection(conn.conn)).count()
}

/// `tcp_close_conn("ip:port")`: 1 when there was such a connection.
pub(super) fn close(context: &mut Context, args: &[Arg]) -> Called {
    let text = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default()).into_owned();
    match text.trim().parse() {
        Ok(peer) => done(close_to(context.node, peer) > 0),
        Err(_) => {
            context.log(LogLevel::Error, &format!("tcp_close_conn(): '{text}' is not ip:port"));
            done(false)
        }
    }
}

pub(super) fn list(node: NodeRef, request: &MiRequest) -> MiResult {
    let wanted = match request.text_opt("proto")? {
        Some(name) if !name.eq_ignore_ascii_case("any") => {
            Some(Proto::from_name(name.as_bytes()).ok_or_else(|| MiError::new(400, "Bad protocol"))?)
        }
        _ => None,
    };
    let mut all = node.transport().map(|transport| transport.connections()).unwrap_or_default();
    all.retain(|conn| wanted.is_none_or(|wanted| wanted == conn.proto));
    all.sort_by_key(|conn| conn.conn.0);
    let now = clock::now();
    let rows: Vec<Json> = all
        .iter()
        .map(|conn| {
            json!({
                "ID": conn.conn.0,
                "Type": conn.proto.name(),
                "Remote": conn.remote.to_string(),
                "Local": conn.local.to_string(),
                "Age": now.saturating_duration_since(conn.since).as_secs(),
            })
        })
        .collect();
    Ok(json!({ "Connections": rows }))
}

pub(super) fn close_command(node: NodeRef, request: &MiRequest) -> MiResult {
    let peer = request.text("ipport")?.trim().parse().map_err(|_| MiError::new(400, "Bad tcp connection"))?;
    Ok(if close_to(node, peer) > 0 { json!("OK") } else { Json::Null })
}
