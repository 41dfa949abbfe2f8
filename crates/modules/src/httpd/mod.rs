//! Module `httpd`: the HTTP server that management and metrics are reached through. It listens on loopback unless told
//! otherwise, in both dialects. TLS is not there: put a TLS proxy in front.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tandem_admin::{HttpConfig, HttpRoutes, HttpServer};
use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{CommandSpec, ParamSpec, ParamType};
use tokio::sync::Notify;

use crate::core::table::param;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "httpd",
    doc: "HTTP server",
    params: PARAMS,
    commands: &[LIST_ROOTS],
    setup,
    init,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    param("ip", ParamType::Text, "127.0.0.1", "address to listen on; * for all of IPv6 and IPv4"),
    param("port", ParamType::Int, "8888", "port to listen on"),
    param("conn_timeout", ParamType::Int, "30", "seconds after which an idle connection is closed; 0 never"),
    param("post_buf_size", ParamType::Int, "1024", "longest body in bytes, when it is more than 1 MiB"),
    param("receive_buf_size", ParamType::Int, "1024", "longest body in bytes, when it is more than 1 MiB"),
    param("buf_size", ParamType::Int, "0", "accepted, no effect: answers are as long as they are"),
    param("auth_realm", ParamType::Text, "OpenSIPS MI", "realm of the password challenge"),
    param("auth_username", ParamType::Text, "", "user that every request has to name, with auth_password"),
    param("auth_password", ParamType::Text, "", "password that every request has to have, with auth_username"),
];

const LIST_ROOTS: CommandSpec = CommandSpec {
    name: "httpd:list_root_path",
    aliases: &["httpd_list_root_path"],
    params: &[],
    doc: "the paths of the server and the modules that answer there",
};

/// State of the module.
pub struct Httpd {
    config: HttpConfig,
    /// Other modules add their paths here in `init`.
    pub routes: Arc<HttpRoutes>,
    running: OnceLock<Running>,
}

struct Running {
    stop: Arc<Notify>,
    address: Option<SocketAddr>,
}

impl Httpd {
    /// Where the server listens, once it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.running.get().and_then(|running| running.address)
    }
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let port = params.int("port", 8888);
    let port = u16::try_from(port).map_err(|_| SetupError::param("port", format!("{port} is not a port")))?;
    let seconds = |name, default| u64::try_from(params.int(name, default)).unwrap_or(0);
    let bytes = |name| usize::try_from(params.int(name, 0)).unwrap_or(0);
    let defaults = HttpConfig::default();
    let credentials = match (params.text("auth_username"), params.text("auth_password")) {
        (Some(user), Some(password)) if !user.is_empty() && !password.is_empty() => Some((user, password)),
        (None, None) => None,
        (Some(user), Some(password)) if user.is_empty() && password.is_empty() => None,
        // Half a pair would leave the interface open although somebody meant to close it.
        _ => {
            return Err(SetupError::param(
                "auth_username",
                "auth_username and auth_password belong together, one is missing",
            ));
        }
    };
    let config = HttpConfig {
        ip: params.text_or("ip", &defaults.ip),
        port,
        conn_timeout: Duration::from_secs(seconds("conn_timeout", 30)),
        body_bytes_max: defaults.body_bytes_max.max(bytes("post_buf_size")).max(bytes("receive_buf_size")),
        realm: params.text_or("auth_realm", &defaults.realm),
        credentials,
        ..defaults
    };
    setup.state(Httpd { config, routes: Arc::new(HttpRoutes::default()), running: OnceLock::new() });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(httpd) = node.state::<Httpd>() else { return Ok(()) };
    node.mi.register(LIST_ROOTS, |_| {
        let roots =
            httpd.routes.list().into_iter().map(|(root, module)| json!({ "http_root": root, "module": module }));
        Ok(roots.collect()).into()
    });
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(httpd) = node.state::<Httpd>() else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let bound = handle.block_on(HttpServer::bind(httpd.config.clone(), httpd.routes.clone()));
    let server = bound.map_err(|error| SetupError::param("port", error.to_string()))?;
    let stop = Arc::new(Notify::new());
    let _ = httpd.running.set(Running { stop: stop.clone(), address: server.local_addr().ok() });
    handle.spawn(server.run(async move { stop.notified().await }));
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some(running) = node.state::<Httpd>().and_then(|httpd| httpd.running.get()) {
        running.stop.notify_one();
    }
}
