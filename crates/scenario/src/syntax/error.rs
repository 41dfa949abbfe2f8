//! What is wrong with a test file, with line and column and what could have been meant.

use std::fmt::Write as _;

/// Something wrong with a test file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters concerned.
    pub width: u32,
    /// The line as written.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl SyntaxError {
    /// As text for a terminal, with the line and an underline.
    pub fn render(&self) -> String {
        let mut out = format!("error: {}\n  --> {}:{}:{}\n", self.message, self.file, self.line, self.column);
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let _ = writeln!(out, " {margin} |\n {number} | {}", self.source);
        // Tabs stay tabs, so that the underline stands where the line shows it.
        let before = self.source.chars().take(self.column.saturating_sub(1) as usize);
        let indent: String = before.map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
        let _ = writeln!(out, " {margin} | {indent}{}", "^".repeat(self.width.max(1) as usize));
        if let Some(help) = &self.help {
            let _ = writeln!(out, " {margin} = help: {help}");
        }
        out
    }
}

/// The same without file and line, as the parser of one line knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) column: u32,
    pub(super) width: u32,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Fault {
    pub(super) fn at(column: u32, width: u32, message: impl Into<String>) -> Fault {
        Fault { column, width, message: message.into(), help: None }
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub(super) fn nearest<'a>(self, word: &str, all: impl IntoIterator<Item = &'a str>) -> Fault {
        match tandem_script::names::nearest(word, all) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}
