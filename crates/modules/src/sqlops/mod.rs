//! Module `sqlops`: SQL queries from the script.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "sqlops", doc: "SQL queries from the script", ..ModuleDecl::EMPTY };
