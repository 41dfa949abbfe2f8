//! `opensips.cfg`: text → tree → checked program → VM; diagnostics. It opens no sockets, reads no clock,
//! knows no module: what functions and variables exist comes in as a [`surface::Surface`], what they do through [`vm::Host`].

pub mod ast;
pub mod avp;
pub mod check;
pub mod compile;
pub mod coverage;
pub mod diagnostic;
pub mod dialect;
pub mod format;
pub mod globals;
mod include;
mod lexer;
pub mod names;
pub mod parser;
pub mod program;
pub mod pvar;
pub mod regex;
pub mod source;
pub mod surface;
pub mod transform;
pub mod value;
pub mod vm;
pub mod words;
