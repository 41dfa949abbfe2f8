//! Module `db_sqlite`: SQLite driver.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "db_sqlite", doc: "SQLite driver", ..ModuleDecl::EMPTY };
