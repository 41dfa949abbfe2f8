//! Module `auth_db`: digest authentication against a database.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "auth_db", doc: "digest authentication against a database", ..ModuleDecl::EMPTY };
