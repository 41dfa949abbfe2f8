//! Tables of the program filled without repetition: variables, values, formats. It resolves no functions.

use std::sync::Arc;

use hashbrown::HashMap;

use super::Compiler;
use crate::ast::{Span, Var};
use crate::format::Format;
use crate::program::VarRef;
use crate::pvar::{self, CompiledVar};
use crate::value::Value;

/// Values that a new one is compared with before it is kept.
const VALUES_COMPARED: usize = 64;

/// What is in the tables already.
#[derive(Default)]
pub(super) struct Interned {
    vars: HashMap<Box<str>, VarRef>,
}

impl Compiler<'_> {
    /// The variable as written in code; a placeholder and an error when it cannot be parsed.
    pub(super) fn var(&mut self, var: &Var) -> Option<VarRef> {
        if let Some(known) = self.interned.vars.get(var.text.as_str()) {
            return Some(*known);
        }
        match pvar::parse_code(var.text.as_bytes(), self.scope()) {
            Ok(parsed) => {
                let at = self.add_var(Arc::new(parsed));
                self.interned.vars.insert(var.text.as_str().into(), at);
                Some(at)
            }
            Err(error) => {
                self.variable_error(var.span, &error);
                None
            }
        }
    }

    /// A variable that is going to be assigned.
    pub(super) fn target(&mut self, var: &Var) -> Option<VarRef> {
        let at = self.var(var)?;
        let parsed = self.parsed(at)?;
        if !parsed.is_writable() {
            let reason =
                if parsed.has_transforms() { "a transformation cannot stand on the left side" } else { "is read-only" };
            let text = format!("`{}` cannot be assigned: {reason}", var.text);
            self.error("read-only-variable", var.span, text);
            return None;
        }
        Some(at)
    }

    pub(super) fn parsed(&self, at: VarRef) -> Option<Arc<CompiledVar>> {
        self.program.vars.get(at.0 as usize).cloned()
    }

    pub(super) fn add_var(&mut self, var: Arc<CompiledVar>) -> VarRef {
        self.program.vars.push(var);
        VarRef(self.program.vars.len() as u32 - 1)
    }

    pub(super) fn value(&mut self, value: Value) -> u32 {
        // Only the newest are compared, so that long scripts stay linear; a value kept twice costs nothing.
        let oldest = self.program.values.len().saturating_sub(VALUES_COMPARED);
        if let Some(at) = self.program.values.get(oldest..).and_then(|new| new.iter().position(|known| *known == value))
        {
            return (oldest + at) as u32;
        }
        self.program.values.push(value);
        self.program.values.len() as u32 - 1
    }

    pub(super) fn add_format(&mut self, format: Format) -> u32 {
        self.program.formats.push(format);
        self.program.formats.len() as u32 - 1
    }

    /// Parses a format string.
    pub(super) fn parse_format(&mut self, text: &[u8], span: Span) -> Option<Format> {
        match Format::parse_in(text, self.scope()) {
            Ok(format) => Some(format),
            Err(error) => {
                self.variable_error(span, &error);
                None
            }
        }
    }
}
