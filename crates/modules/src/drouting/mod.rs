//! Module `drouting`: placeholder while the table is written.
use tandem_module::ModuleDecl;
/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "drouting", ..ModuleDecl::EMPTY };
