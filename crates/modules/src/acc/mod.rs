//! Module `acc`: accounting and CDRs.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "acc", doc: "accounting and CDRs", ..ModuleDecl::EMPTY };
