//! Module `httpd`: the HTTP server that management and metrics are reached through.

use std::sync::{Arc, OnceLock};

use tandem_admin::{HttpConfig, HttpRoutes, HttpServer};
use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};
use tokio::sync::Notify;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "httpd",
    doc: "HTTP server",
    params: PARAMS,
    setup,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec { name: "ip", ty: ParamType::Text, default: "127.0.0.1", is_repeatable: false, doc: "address to listen on" },
    ParamSpec { name: "port", ty: ParamType::Int, default: "8888", is_repeatable: false, doc: "port to listen on" },
    ParamSpec { name: "buf_size", ty: ParamType::Int, default: "0", is_repeatable: false, doc: "accepted, no effect" },
    ParamSpec { name: "post_buf_size", ty: ParamType::Int, default: "1024", is_repeatable: false, doc: "accepted, no effect" },
];

/// State of the module.
pub struct Httpd {
    config: HttpConfig,
    /// Other modules add their paths here in `init`.
    pub routes: Arc<HttpRoutes>,
    stop: OnceLock<Arc<Notify>>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let port = params.int("port", 8888);
    let port = u16::try_from(port).map_err(|_| SetupError::param("port", format!("{port} is not a port")))?;
    let config = HttpConfig { ip: params.text_or("ip", "127.0.0.1"), port, ..HttpConfig::default() };
    setup.state(Httpd { config, routes: Arc::new(HttpRoutes::default()), stop: OnceLock::new() });
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(httpd) = node.state::<Httpd>() else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let bound = handle.block_on(HttpServer::bind(httpd.config.clone(), httpd.routes.clone()));
    let server = bound.map_err(|error| SetupError::param("port", error.to_string()))?;
    let stop = Arc::new(Notify::new());
    let _ = httpd.stop.set(stop.clone());
    handle.spawn(server.run(async move { stop.notified().await }));
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some(stop) = node.state::<Httpd>().and_then(|httpd| httpd.stop.get()) {
        stop.notify_one();
    }
}
