//! Module `avpops`: SQL queries and AVP tools under their 2.4 names.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "avpops", doc: "SQL queries and AVP tools under their 2.4 names", ..ModuleDecl::EMPTY };
