//! Module `mi_fifo`: management over a named pipe.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "mi_fifo", doc: "management over a named pipe", ..ModuleDecl::EMPTY };
