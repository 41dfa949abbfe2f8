//! Module `mi_http`: management over HTTP.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "mi_http", doc: "management over HTTP", ..ModuleDecl::EMPTY };
