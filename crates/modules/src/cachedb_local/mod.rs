//! Module `cachedb_local`: memory key-value store.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "cachedb_local", doc: "memory key-value store", ..ModuleDecl::EMPTY };
