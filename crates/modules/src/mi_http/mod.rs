//! Module `mi_http`: management over HTTP, JSON-RPC 2.0.

use std::sync::Arc;

use tandem_admin::JsonRpc;
use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};

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

const PARAMS: &[ParamSpec] =
    &[ParamSpec { name: "root", ty: ParamType::Text, default: "mi", is_repeatable: false, doc: "path of the interface" }];

struct MiHttp {
    root: String,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let root = setup.params.text_or("root", "mi");
    setup.state(MiHttp { root });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let (Some(own), Some(httpd)) = (node.state::<MiHttp>(), node.state::<Httpd>()) else { return Ok(()) };
    let rpc = Arc::new(JsonRpc::new(node.mi.clone()));
    if httpd.routes.add(&own.root, "mi_http", tandem_admin::http::mi_handler(rpc)) {
        return Ok(());
    }
    Err(SetupError::param("root", format!("the path '{}' is taken by another module", own.root)))
}
