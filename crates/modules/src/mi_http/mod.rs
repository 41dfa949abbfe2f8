//! Module `mi_http`: management over HTTP, JSON-RPC 2.0 by POST under a path of module `httpd`. The XHTML pages of 2.4's
//! `mi_http` are not there; its path parameter is understood.

use std::sync::Arc;

use tandem_admin::{JsonRpc, JsonRpcLimits};
use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::param;
use crate::httpd::Httpd;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "mi_http",
    doc: "management over HTTP",
    params: PARAMS,
    depends: &["httpd"],
    setup,
    init,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    param("root", ParamType::Text, "mi", "path of the interface"),
    param("mi_http_root", ParamType::Text, "mi", "2.4 name of root"),
    param("mi_http_method", ParamType::Int, "0", "accepted, no effect: requests come by POST"),
    param("pretty_printing", ParamType::Int, "0", "1: JSON over several lines"),
    param("trace_destination", ParamType::Text, "", "accepted, no effect: commands are not traced"),
    param("trace_bwlist", ParamType::Text, "", "accepted, no effect: commands are not traced"),
];

struct MiHttp {
    root: String,
    is_pretty: bool,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let root = params.text("root").or_else(|| params.text("mi_http_root")).unwrap_or_else(|| "mi".to_owned());
    let name = root.trim_matches('/');
    if name.is_empty() || name.contains('/') {
        return Err(SetupError::param("root", format!("'{root}' is no path of one segment")));
    }
    setup.state(MiHttp { root: name.to_owned(), is_pretty: params.int("pretty_printing", 0) != 0 });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<MiHttp>() else { return Ok(()) };
    let Some(httpd) = node.state::<Httpd>() else {
        return Err(SetupError::new("module httpd is needed: loadmodule \"httpd.so\""));
    };
    let rpc = Arc::new(JsonRpc::with_limits(node.mi.clone(), JsonRpcLimits::default()).pretty(own.is_pretty));
    if httpd.routes.add(&own.root, "mi_http", tandem_admin::http::mi_handler(rpc)) {
        return Ok(());
    }
    Err(SetupError::param("root", format!("the path '{}' is taken by another module", own.root)))
}
