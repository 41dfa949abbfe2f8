//! Module `signaling`: replies that choose between stateful and stateless.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "signaling", doc: "replies that choose between stateful and stateless", ..ModuleDecl::EMPTY };
