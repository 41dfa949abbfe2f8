//! Module `auth`: digest authentication.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "auth", doc: "digest authentication", ..ModuleDecl::EMPTY };
