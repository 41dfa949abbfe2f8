//! Module `proto_udp`: UDP transport.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "proto_udp", doc: "UDP transport", ..ModuleDecl::EMPTY };
