//! Variables in code: do they exist, can they be written.

use super::Checker;
use crate::ast::{Span, Var};
use crate::diagnostic::Diagnostic;
use crate::names::nearest;
use crate::pvar::{BUILTIN_NAMES, CompiledVar, VarError, parse_code};

impl Checker<'_> {
    pub(super) fn variable_error(&self, error: &VarError, span: Span) -> Diagnostic {
        match error.unknown.as_deref() {
            Some(name) if !name.is_empty() => {
                let known = self.surface.variable_names().chain(BUILTIN_NAMES);
                let meant = nearest(name, known).map(|name| format!("${name}"));
                Diagnostic::error("unknown-variable", span, format!("there is no variable `${name}`"))
                    .with_nearest(meant.as_deref())
            }
            _ => Diagnostic::error("bad-variable", span, error.message.clone()),
        }
    }

    fn parse_variable(&mut self, var: &Var) -> Option<CompiledVar> {
        let inner = var.text.trim_start_matches(['$', '(']);
        let name = inner.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        if name.starts_with("()") {
            self.error("bad-variable", var.span, "the name in the parentheses is empty");
            return None;
        }
        match parse_code(var.text.as_bytes(), self.scope) {
            Ok(parsed) => {
                if parsed.source().len() < var.text.len() && var.text.starts_with(parsed.source()) {
                    self.glued_text(var, parsed.source());
                }
                self.check_context(var.text.as_bytes(), var.span);
                self.missing_variables(&parsed, var.span);
                Some(parsed)
            }
            Err(error) => {
                let diagnostic = self.variable_error(&error, var.span);
                self.report(diagnostic);
                None
            }
        }
    }

    /// Variables that OpenSIPS has and this program lacks, in the variable, its name and its index.
    pub(super) fn missing_variables(&mut self, parsed: &CompiledVar, span: Span) {
        let mut missing = Vec::new();
        parsed.visit(&mut |var| {
            if var.is_missing() {
                missing.push(var.source().to_owned());
            }
        });
        for source in missing {
            let name = source.trim_start_matches(['$', '(']);
            let name = name.split(['(', '[', '{', ')']).next().unwrap_or("").to_owned();
            if let Some(module) = self.surface.missing_variable(&name) {
                let text = format!("variable `${name}` of module {module} is known to OpenSIPS, not yet here");
                self.missing("missing-variable", span, text, "it reads NULL");
            }
        }
    }

    fn glued_text(&mut self, var: &Var, used: &str) {
        let ignored = var.text.get(used.len()..).unwrap_or("");
        let name = used.trim_start_matches('$');
        let warning = Diagnostic::warning(
            "ignored-text",
            var.span,
            format!("`{ignored}` behind the short form `{used}` is ignored"),
        );
        self.report(
            warning.with_suggestion(format!("indexes and transformations need the long form: `$({name}{ignored})`")),
        );
    }

    /// `$(<request>...)` and `$(<reply>...)` exist only with the transaction module.
    pub(super) fn check_context(&mut self, text: &[u8], span: Span) {
        let has_context = memchr::memmem::find(text, b"$(<").is_some();
        if has_context && self.surface.functions_named("t_relay").is_empty() {
            self.error(
                "missing-module",
                span,
                "`$(<request>...)` and `$(<reply>...)` need the transaction module: load `tm`",
            );
        }
    }

    pub(super) fn read_variable(&mut self, var: &Var) {
        self.parse_variable(var);
    }

    pub(super) fn target_variable(&mut self, var: &Var) {
        let Some(parsed) = self.parse_variable(var) else { return };
        if parsed.has_transforms() {
            self.error("not-writable", var.span, "a variable with transformations cannot be assigned");
        } else if !parsed.is_writable() {
            self.error("not-writable", var.span, format!("`{}` is read-only", parsed.source()));
        }
    }
}
