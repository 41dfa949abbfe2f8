//! Names of the script for modules that take them as parameters: flags, variables, formats.

use std::sync::Arc;

use tandem_script::format::Format;
use tandem_script::program::Program;
use tandem_script::pvar::{self, CompiledVar, Scope};
use tandem_script::surface::Surface;

use crate::declare::ScriptNames;

/// Resolves against the program being loaded.
pub struct ProgramNames<'a> {
    /// The program; flags are defined in it.
    pub program: &'a mut Program,
    /// What its variables are.
    pub surface: &'a Surface,
}

impl ProgramNames<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope { surface: self.surface, dialect: self.program.dialect() }
    }
}

impl ScriptNames for ProgramNames<'_> {
    fn message_flag(&mut self, name: &str) -> Option<u8> {
        self.program.message_flag(name)
    }

    fn branch_flag(&mut self, name: &str) -> Option<u8> {
        self.program.branch_flag(name)
    }

    fn variable(&mut self, text: &str) -> Result<Arc<CompiledVar>, String> {
        let text = text.trim();
        // Older scripts name an AVP without dollar sign and parentheses.
        let spelled = if text.starts_with('$') { text.to_owned() } else { format!("$avp({text})") };
        pvar::parse_exact(spelled.as_bytes(), self.scope()).map(Arc::new).map_err(|error| error.message)
    }

    fn format(&mut self, text: &str) -> Result<Format, String> {
        Format::parse_in(text.as_bytes(), self.scope()).map_err(|error| error.message)
    }
}
