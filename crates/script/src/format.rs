//! Format strings (`"from $fu to $ru"`): parsed once into literal and variable pieces, printed per use. It evaluates no variable itself.

use std::sync::Arc;

use crate::ast::Dialect;
use crate::pvar::{self, CompiledVar, Scope, VarError};
use crate::surface::Surface;
use crate::value::Text;
use crate::vm::{Host, eval_var};
use crate::words::{Splitter, Step};

/// Longest expanded format in bytes (the reference has `pv_print_buf_size`, 20000 by default).
pub const FORMAT_BYTES_MAX: usize = 1024 * 1024;

/// A parsed format string.
#[derive(Clone, Debug, Default)]
pub struct Format {
    pieces: Vec<Piece>,
}

/// A part of a format.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Literal(Box<[u8]>),
    Var(Arc<CompiledVar>),
}

impl Format {
    /// Parses with 4.0 rules. Errors name the variable that does not exist and its offset.
    pub fn parse(text: &[u8], surface: &Surface) -> Result<Format, VarError> {
        Format::parse_in(text, Scope { surface, dialect: Dialect::V4_0 })
    }

    /// Parses with the rules of a dialect.
    pub fn parse_in(text: &[u8], scope: Scope<'_>) -> Result<Format, VarError> {
        Format::parse_nested(text, scope, 0)
    }

    /// A text that is printed as it is.
    pub fn constant(text: &[u8]) -> Format {
        Format { pieces: vec![Piece::Literal(text.into())] }
    }

    pub(crate) fn parse_nested(text: &[u8], scope: Scope<'_>, depth: usize) -> Result<Format, VarError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut literal = Vec::new();
        let mut at = 0;
        while let Some(offset) = text.get(at..).and_then(|rest| memchr::memchr(b'$', rest)) {
            let dollar = at + offset;
            literal.extend_from_slice(text.get(at..dollar).unwrap_or(&[]));
            if text.get(dollar + 1) == Some(&b'$') {
                literal.push(b'$');
                at = dollar + 2;
                continue;
            }
            let (var, end) = pvar::parse_at(text, dollar, scope, depth)?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Var(Arc::new(var)));
            at = end;
        }
        literal.extend_from_slice(text.get(at..).unwrap_or(&[]));
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Format { pieces })
    }

    /// Appends the expanded text. False, with a partial text, when it grows beyond [`FORMAT_BYTES_MAX`].
    pub fn eval<H: Host>(&self, host: &mut H, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Var(var) => {
                    // A failing transformation (2.4 rules) prints as nothing.
                    if let Ok(value) = eval_var(host, var) {
                        value.print_into(out);
                    }
                }
            }
            if out.len() - start > FORMAT_BYTES_MAX {
                return false;
            }
        }
        true
    }

    /// Exactly one variable.
    pub(crate) fn of_var(var: CompiledVar) -> Format {
        Format { pieces: vec![Piece::Var(Arc::new(var))] }
    }

    /// The expanded text of a path: variables are marked with the kind of their values.
    pub(crate) fn eval_path<H: Host>(&self, host: &mut H) -> Text {
        let mut out = Vec::new();
        for piece in &self.pieces {
            let var = match piece {
                Piece::Literal(bytes) => {
                    out.extend_from_slice(bytes);
                    continue;
                }
                Piece::Var(var) => var,
            };
            let value = eval_var(host, var).unwrap_or_default();
            out.push(pvar::PATH_VAR_START);
            match (value.is_int_primary(), value.as_int()) {
                (true, Some(int)) => {
                    out.push(pvar::PATH_INT);
                    out.extend_from_slice(&crate::value::int_text(int));
                }
                _ => match value.as_text() {
                    Some(text) => {
                        out.push(pvar::PATH_TEXT);
                        out.extend(text.iter().filter(|byte| **byte > pvar::PATH_VAR_END));
                    }
                    None => out.push(pvar::PATH_NULL),
                },
            }
            out.push(pvar::PATH_VAR_END);
        }
        Text::from(out)
    }

    /// The expanded text as a value; `None` when it grows beyond [`FORMAT_BYTES_MAX`].
    pub fn eval_text<H: Host>(&self, host: &mut H) -> Option<Text> {
        if let Some(text) = self.as_constant() {
            return Some(Text::copy(text));
        }
        let mut out = std::mem::take(&mut host.vars().scratch);
        out.clear();
        let is_complete = self.eval(host, &mut out);
        let text = Text::copy(&out);
        host.vars().scratch = out;
        is_complete.then_some(text)
    }

    /// The format as words: blanks in its literal text separate them, blanks inside of quotes and inside of variables do
    /// not. Each word is a format of its own.
    pub fn words(&self) -> Vec<Format> {
        let mut splitter = Splitter::default();
        let mut all = Vec::new();
        let mut word: Vec<Piece> = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => {
                    let mut literal = Vec::new();
                    for byte in bytes {
                        match splitter.step(*byte) {
                            Step::Byte(byte) => literal.push(byte),
                            Step::Nothing => {}
                            Step::End => {
                                close(&mut word, &mut literal);
                                all.push(Format { pieces: std::mem::take(&mut word) });
                            }
                        }
                    }
                    close(&mut word, &mut literal);
                }
                Piece::Var(var) => {
                    splitter.open();
                    word.push(Piece::Var(var.clone()));
                }
            }
        }
        if splitter.is_open() {
            all.push(Format { pieces: word });
        }
        all
    }

    /// The variables in it.
    pub(crate) fn vars(&self) -> impl Iterator<Item = &CompiledVar> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Var(var) => Some(&**var),
            Piece::Literal(_) => None,
        })
    }

    /// Whether it holds no variable.
    pub fn is_constant(&self) -> bool {
        self.as_constant().is_some()
    }

    /// The text, when it holds no variable.
    pub fn as_constant(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [] => Some(&[]),
            [Piece::Literal(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// The variable, when it is exactly one.
    pub fn single_var(&self) -> Option<&Arc<CompiledVar>> {
        match self.pieces.as_slice() {
            [Piece::Var(var)] => Some(var),
            _ => None,
        }
    }
}

/// Ends a literal piece of a word.
fn close(word: &mut Vec<Piece>, literal: &mut Vec<u8>) {
    if !literal.is_empty() {
        word.push(Piece::Literal(std::mem::take(literal).into()));
    }
}
