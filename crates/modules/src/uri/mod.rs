//! Module `uri`: URI checks (absorbed into other modules after 2.4).

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "uri", doc: "URI checks (absorbed into other modules after 2.4)", ..ModuleDecl::EMPTY };
