//! Module `mi_datagram`: management over UDP or a Unix datagram socket: JSON-RPC (3.x, 4.0) and the text form of 2.4, told
//! apart by each request.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tandem_admin::{DatagramConfig, DatagramServer, JsonRpc};
use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};
use tokio::sync::Notify;

use crate::core::table::{int, param, text};
use crate::mi_fifo::{group, mode, user};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "mi_datagram",
    doc: "management over UDP and Unix datagram sockets",
    params: PARAMS,
    setup,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    text("socket_name", "", "udp:host:port or the path of a Unix socket; has to be set"),
    param("children_count", ParamType::IntOrText, "1", "accepted, no effect: requests do not wait for each other"),
    param("unix_socket_mode", ParamType::IntOrText, "0660", "permissions of the socket; a leading 0 means octal"),
    param("unix_socket_group", ParamType::IntOrText, "", "group of the socket, by name or number"),
    param("unix_socket_user", ParamType::IntOrText, "", "owner of the socket, by name or number"),
    int("socket_timeout", "2000", "milliseconds for sending an answer"),
    int("pretty_printing", "0", "1: JSON over several lines"),
    int("socket_buf_size", "65457", "accepted, no effect: requests and answers have at most 65457 bytes"),
    text("reply_indent", "\\t", "accepted, no effect: answers in text are indented by tabs"),
    text("trace_destination", "", "accepted, no effect: commands are not traced"),
    text("trace_bwlist", "", "accepted, no effect: commands are not traced"),
];

/// State of the module.
pub struct MiDatagram {
    config: DatagramConfig,
    is_pretty: bool,
    running: OnceLock<(Arc<Notify>, Option<SocketAddr>)>,
}

impl MiDatagram {
    /// The UDP address, once it is open.
    pub fn address(&self) -> Option<SocketAddr> {
        self.running.get().and_then(|(_, address)| *address)
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let Some(name) = params.text("socket_name").filter(|name| !name.is_empty()) else {
        return Err(SetupError::new(
            "socket_name is not set: modparam(\"mi_datagram\", \"socket_name\", \"udp:127.0.0.1:8080\")",
        ));
    };
    // The path may have its scheme, as sockets of events have.
    let name = name.strip_prefix("unix:").map_or(name.clone(), str::to_owned);
    let timeout = u64::try_from(params.int("socket_timeout", 2000)).ok().filter(|ms| *ms > 0);
    let timeout = timeout.ok_or_else(|| SetupError::param("socket_timeout", "it has to be at least 1 millisecond"))?;
    let defaults = DatagramConfig::new(name);
    let config = DatagramConfig {
        mode: mode(params, "unix_socket_mode")?.unwrap_or(defaults.mode),
        user: user(params, "unix_socket_user")?,
        group: group(params, "unix_socket_group")?,
        socket_timeout: Duration::from_millis(timeout),
        ..defaults
    };
    let is_pretty = params.int("pretty_printing", 0) != 0;
    setup.state(MiDatagram { config, is_pretty, running: OnceLock::new() });
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<MiDatagram>() else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let rpc = Arc::new(JsonRpc::new(node.mi.clone()).pretty(own.is_pretty));
    let bound = handle.block_on(DatagramServer::bind(own.config.clone(), rpc));
    let server = bound.map_err(|error| SetupError::param("socket_name", error.to_string()))?;
    let stop = Arc::new(Notify::new());
    let _ = own.running.set((stop.clone(), server.local_addr()));
    handle.spawn(server.run(async move { stop.notified().await }));
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some((stop, _)) = node.state::<MiDatagram>().and_then(|own| own.running.get()) {
        stop.notify_one();
    }
}
