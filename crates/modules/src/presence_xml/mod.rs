//! Module `presence_xml`: the event packages `presence`, `presence.winfo` and `dialog;sla` for module `presence`: their
//! documents, and the rules of RFC 5025 out of the table of module `xcap`. It fetches nothing over HTTP.

mod document;
mod packages;
mod pidf;
mod rules;
mod sla;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::{int, list_param, param, text};
use crate::presence::add_package;

pub use document::ELEMENTS_MAX;
pub use rules::RULES_MAX;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "presence_xml",
    doc: "presence, watcher information and shared lines for module presence",
    params: PARAMS,
    depends: &["presence"],
    setup: |setup| {
        let params = setup.params;
        setup.state(PresenceXml {
            is_open: params.int("force_active", 0) != 0,
            has_standing: params.int("pidf_manipulation", 0) != 0,
            servers: params.all("xcap_server"),
            rules_auid: params.text_or("pres_rules_auid", "pres-rules"),
            rules_filename: params.text_or("pres_rules_filename", "index"),
            tells_end: params.int("generate_offline_body", 1) != 0,
        });
        Ok(())
    },
    init,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    int("force_active", "0", "1: everybody may watch everybody, no rules are looked at"),
    int("pidf_manipulation", "0", "1: the standing presence document of module xcap is told, too (RFC 4827)"),
    list_param(
        "xcap_server",
        ParamType::Text,
        "an XCAP server; accepted, no effect: rules come from the table of module xcap",
    ),
    text("pres_rules_auid", "pres-rules", "kind of rules: pres-rules or org.openmobilealliance.pres-rules"),
    text("pres_rules_filename", "index", "name of the rules document, when a user has several"),
    param(
        "generate_offline_body",
        ParamType::IntOrText,
        "1",
        "1: when a publication ends, watchers are told that it is closed",
    ),
];

/// State of the module.
struct PresenceXml {
    is_open: bool,
    has_standing: bool,
    servers: Vec<String>,
    rules_auid: String,
    rules_filename: String,
    tells_end: bool,
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<PresenceXml>() else { return Ok(()) };
    if !own.is_open && !node.has_module("xcap") {
        return Err(SetupError::new(
            "rules are in the table of module xcap: loadmodule \"xcap.so\", or let everybody watch: \
             modparam(\"presence_xml\", \"force_active\", 1)",
        ));
    }
    if !own.servers.is_empty() {
        tracing::warn!(
            "presence_xml: rules are not fetched from {}: they are read from the table of module xcap",
            own.servers.join(", ")
        );
    }
    add_package(node, Arc::new(packages::PresencePackage { own }));
    add_package(node, Arc::new(packages::WinfoPackage));
    add_package(node, Arc::new(sla::SharedLinePackage { fixes_target: crate::presence::fixes_remote_target(node) }));
    Ok(())
}
