//! Module `textops`: regular expressions over message and header text.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "textops", doc: "regular expressions over message and header text", ..ModuleDecl::EMPTY };
