//! Module `httpd`: HTTP server.

use tandem_module::ModuleDecl;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "httpd", doc: "HTTP server", ..ModuleDecl::EMPTY };
