//! Module `statistics`: statistics from the script.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "statistics", doc: "statistics from the script", ..ModuleDecl::EMPTY };
