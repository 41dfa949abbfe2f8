//! Module `registrar`: REGISTER processing and lookup.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "registrar", doc: "REGISTER processing and lookup", ..ModuleDecl::EMPTY };
