//! What is wrong with a script and where: the diagnostic type, its text form with source excerpts, its JSON form. It decides nothing about scripts.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::json;

use crate::ast::{Dialect, Span};
use crate::source::SourceMap;

/// Lines longer than this many bytes are not shown as an excerpt, only located.
const EXCERPT_LINE_MAX: usize = 400;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The script cannot be loaded.
    Error,
    /// The script loads, but this is probably not what was meant.
    Warning,
    /// Worth knowing, for example a form that only one dialect has; hidden unless asked for.
    Note,
}

impl Severity {
    /// Lower-case word, as in the JSON form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable short name of the kind of finding (`syntax`, `unknown-function`, ...), used to silence warnings.
    pub code: &'static str,
    /// Where.
    pub span: Span,
    /// What is wrong, one line without a final dot.
    pub message: String,
    /// Text beside the underlined place, mostly what was expected there.
    pub label: Option<String>,
    /// Further explanations.
    pub notes: Vec<String>,
    /// What to write instead, one line (`did you mean "t_relay"?`).
    pub suggestion: Option<String>,
    /// The form exists in this dialect only: accepted by default, an error when the other one is checked strictly (see [`make_strict`]).
    pub only: Option<Dialect>,
}

impl Diagnostic {
    /// A finding without notes.
    pub fn new(severity: Severity, code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity,
            code,
            span,
            message: message.into(),
            label: None,
            notes: Vec::new(),
            suggestion: None,
            only: None,
        }
    }

    /// An error.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Error, code, span, message)
    }

    /// A warning.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Warning, code, span, message)
    }

    /// A note that the construct exists in one dialect only.
    pub fn only(dialect: Dialect, span: Span, message: impl Into<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(Severity::Note, "dialect-form", span, message);
        diagnostic.only = Some(dialect);
        diagnostic
    }

    /// Sets the text beside the underlined place.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// Adds an explanation.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Diagnostic {
        self.notes.push(note.into());
        self
    }

    /// Sets what to write instead.
    #[must_use]
    pub fn with_suggestion(mut self, suggestion: impl Into<String>) -> Diagnostic {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Sets "did you mean ...?" when there is a near name.
    #[must_use]
    pub fn with_nearest(self, nearest: Option<&str>) -> Diagnostic {
        match nearest {
            Some(name) => self.with_suggestion(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Whether the script cannot be loaded because of this.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Whether any of them is an error.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(Diagnostic::is_error)
}

/// Sorts by file and position, errors first at the same place, and drops exact repetitions.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by_key(|d| (d.span.file.0, d.span.start, d.severity, d.span.end));
    diagnostics.dedup();
}

/// Turns the notes about forms that `dialect` does not have into errors.
pub fn make_strict(diagnostics: &mut [Diagnostic], dialect: Dialect) {
    for diagnostic in diagnostics {
        if diagnostic.only.is_some_and(|only| only != dialect) {
            diagnostic.severity = Severity::Error;
        }
    }
}

/// The diagnostics as text with source excerpts, in the order given; notes about dialects are left out.
pub fn render(diagnostics: &[Diagnostic], sources: &SourceMap) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics.iter().filter(|d| d.severity != Severity::Note) {
        out.push_str(&render_one(diagnostic, sources));
        out.push_str("\n\n");
    }
    out
}

/// One diagnostic as text with its source excerpt, without a final newline.
pub fn render_one(diagnostic: &Diagnostic, sources: &SourceMap) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code);
    let location = sources.location(diagnostic.span);
    let excerpt = sources.excerpt(diagnostic.span);
    let group = if excerpt.text.len() > EXCERPT_LINE_MAX || excerpt.text.is_empty() {
        let origin = Origin::path(location.name).line(location.line as usize).char_column(location.column as usize);
        let mut group = Group::with_title(title).element(origin);
        if let Some(label) = &diagnostic.label {
            group = group.element(Level::NOTE.message(label.as_str()));
        }
        group
    } else {
        let mut annotation = AnnotationKind::Primary.span(excerpt.span.clone());
        if let Some(label) = &diagnostic.label {
            annotation = annotation.label(label.as_str());
        }
        let snippet = Snippet::source(excerpt.text.as_str())
            .line_start(location.line as usize)
            .path(location.name)
            .annotation(annotation);
        Group::with_title(title).element(snippet)
    };
    let group = diagnostic.notes.iter().fold(group, |group, note| group.element(Level::NOTE.message(note.as_str())));
    let group = match &diagnostic.suggestion {
        Some(suggestion) => group.element(Level::HELP.message(suggestion.as_str())),
        None => group,
    };
    Renderer::plain().render(&[group])
}

/// The diagnostics as a JSON array; lines and columns count from 1.
pub fn to_json(diagnostics: &[Diagnostic], sources: &SourceMap) -> serde_json::Value {
    diagnostics
        .iter()
        .map(|d| {
            let start = sources.location(d.span);
            let end = sources.end_location(d.span);
            json!({
                "severity": d.severity.as_str(),
                "code": d.code,
                "file": start.name,
                "line": start.line,
                "column": start.column,
                "end_line": end.line,
                "end_column": end.column,
                "message": d.message,
                "label": d.label,
                "notes": d.notes,
                "suggestion": d.suggestion,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
