//! Script variables as compiled: class, argument, index, transformations; the process-wide numbering of `$var` names.
//! Parsing is in `parse`, reading and writing in [`crate::vm`].

mod parse;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::ast::Dialect;
use crate::avp::AvpName;
use crate::format::Format;
use crate::surface::{Surface, VariableId};
use crate::transform::Transform;
use crate::vm::MessageContext;

pub(crate) use parse::parse_at;
pub use parse::{parse_code, parse_exact};
pub use slots::{VARS_MAX, var_slot};

/// Variables inside variables (dynamic names, indexes, transformation arguments) that are accepted.
pub const VAR_NESTING_MAX: usize = 8;
/// Transformations one variable may have.
pub const TRANSFORMS_MAX: usize = 32;

/// What a variable is parsed against.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The variable classes that exist.
    pub surface: &'a Surface,
    /// The rules for failing transformations.
    pub dialect: Dialect,
}

/// A variable that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct VarError {
    /// What is wrong.
    pub message: String,
    /// Byte offset in the text that was parsed.
    pub at: usize,
    /// The unknown variable class, when that is what is wrong.
    pub unknown: Option<String>,
}

impl VarError {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> VarError {
        VarError { message: message.into(), at, unknown: None }
    }
}

/// A variable, ready to be read or written.
#[derive(Clone, Debug)]
pub struct CompiledVar {
    pub(crate) source: Box<str>,
    pub(crate) context: Option<MessageContext>,
    pub(crate) class: VarClass,
    pub(crate) name: VarName,
    pub(crate) index: VarIndex,
    pub(crate) transforms: Vec<Transform>,
    pub(crate) dialect: Dialect,
    pub(crate) is_writable: bool,
}

impl CompiledVar {
    /// The variable as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it can stand on the left of an assignment: a writable class, no transformation, no message context.
    pub fn is_writable(&self) -> bool {
        self.is_writable && self.transforms.is_empty() && self.context.is_none()
    }

    /// Whether it has transformations.
    pub fn has_transforms(&self) -> bool {
        !self.transforms.is_empty()
    }

    /// Whether it is written with `[*]`.
    pub fn is_all(&self) -> bool {
        matches!(self.index, VarIndex::All)
    }

    /// The AVP name, for `$avp(name)` with a constant name.
    pub fn avp_name(&self) -> Option<AvpName> {
        match &self.class {
            VarClass::Avp => match &self.name {
                VarName::Avp(name) => Some(*name),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether OpenSIPS has this variable and this program lacks it (see [`Surface::missing_variable`]).
    pub fn is_missing(&self) -> bool {
        matches!(self.class, VarClass::Missing)
    }

    /// Whether this is an `$avp`.
    pub fn is_avp(&self) -> bool {
        matches!(self.class, VarClass::Avp)
    }

    /// The class of the host that reads it; `None` for those the VM handles itself.
    pub fn host_class(&self) -> Option<VariableId> {
        match self.class {
            VarClass::Host(id) => Some(id),
            _ => None,
        }
    }

    /// This variable and those in its argument and index. The nesting is bounded by [`VAR_NESTING_MAX`].
    pub(crate) fn visit(&self, note: &mut impl FnMut(&CompiledVar)) {
        note(self);
        match &self.name {
            VarName::Var(inner) => inner.visit(note),
            VarName::Format(format) | VarName::Path(format) => {
                for var in format.vars() {
                    var.visit(note);
                }
            }
            VarName::None | VarName::Text(_) | VarName::Avp(_) => {}
        }
        if let VarIndex::Var(inner) = &self.index {
            inner.visit(note);
        }
    }

    /// The constant argument in parentheses, if it has one.
    pub fn constant_name(&self) -> Option<Vec<u8>> {
        match &self.name {
            VarName::Text(text) => Some(text.to_vec()),
            VarName::Avp(name) => Some(name.name()),
            _ => None,
        }
    }
}

/// The index `[insert]`: in front of what the variable names (`$sdp.line(...)`).
pub const INDEX_INSERT: i32 = i32::MIN;
/// The index `[insertAfter]`: behind it.
pub const INDEX_INSERT_AFTER: i32 = i32::MIN + 1;
/// Starts a variable inside a path ([`crate::surface::NameRule::Path`]): this byte, the kind, the value, [`PATH_VAR_END`].
pub const PATH_VAR_START: u8 = 1;
/// Ends a variable inside a path.
pub const PATH_VAR_END: u8 = 2;
/// Kind of a variable inside a path: an integer, in decimal.
pub const PATH_INT: u8 = b'i';
/// Kind of a variable inside a path: a text.
pub const PATH_TEXT: u8 = b's';
/// Kind of a variable inside a path: NULL.
pub const PATH_NULL: u8 = b'n';

/// Stands between the argument and the index of a variable whose index is a text
/// ([`crate::surface::NameRule::Keyed`]).
pub const KEY_START: u8 = 3;

/// The class of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarClass {
    /// `$var(name)`, by slot.
    Var(u32),
    Avp,
    /// `$rc`, `$retcode`.
    Rc,
    Return,
    Param,
    Route(RouteField),
    /// `$rT`.
    TopRouteKind,
    CfgLine,
    CfgFile,
    /// `$$`.
    Dollar,
    /// A variable of OpenSIPS that no module here has (see [`Surface::missing_variable`]): NULL, and not to be set.
    Missing,
    Host(VariableId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteField {
    Whole,
    Name,
    Type,
}

/// The argument in parentheses.
#[derive(Clone, Debug)]
pub(crate) enum VarName {
    None,
    Text(Box<[u8]>),
    Avp(AvpName),
    Var(Box<CompiledVar>),
    Format(Arc<Format>),
    /// A path with variables inside.
    Path(Arc<Format>),
}

/// The index as written.
#[derive(Clone, Debug)]
pub(crate) enum VarIndex {
    None,
    At(i32),
    All,
    Append,
    Var(Box<CompiledVar>),
}

/// Names of the classes the VM handles itself, without the dollar sign.
pub const BUILTIN_NAMES: [&str; 13] = [
    "var",
    "avp",
    "rc",
    "retcode",
    "return",
    "param",
    "route",
    "route.name",
    "route.type",
    "rT",
    "cfg_line",
    "cfg_file",
    "$",
];
