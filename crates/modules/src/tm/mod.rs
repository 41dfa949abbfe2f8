//! Module `tm`: transactions: relaying, forking, failure routes, local replies.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "tm", doc: "transactions: relaying, forking, failure routes, local replies", ..ModuleDecl::EMPTY };
