//! Module `cfgutils`: small tools: sleep, random, shared variables, locks.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "cfgutils", doc: "small tools: sleep, random, shared variables, locks", ..ModuleDecl::EMPTY };
