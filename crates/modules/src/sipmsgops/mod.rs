//! Module `sipmsgops`: headers, body parts and questions about a message.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "sipmsgops", doc: "headers, body parts and questions about a message", ..ModuleDecl::EMPTY };
