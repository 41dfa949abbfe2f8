//! Module `usrloc`: the location table.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "usrloc", doc: "the location table", ..ModuleDecl::EMPTY };
