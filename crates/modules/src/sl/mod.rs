//! Module `sl`: stateless replies.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "sl", doc: "stateless replies", ..ModuleDecl::EMPTY };
