//! Module `dialog`: dialogs.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "dialog", doc: "dialogs", ..ModuleDecl::EMPTY };
