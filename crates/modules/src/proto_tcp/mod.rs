//! Module `proto_tcp`: TCP transport.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "proto_tcp", doc: "TCP transport", ..ModuleDecl::EMPTY };
