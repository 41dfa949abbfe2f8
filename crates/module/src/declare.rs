//! The table by which a module declares itself, and the values of its parameters. One table per module; the loader, the
//! checker, the documentation and the MI help read it. Nothing is declared twice.

use std::any::{Any, TypeId};

use hashbrown::HashMap;
use tandem_script::ast::ModparamValue;
use tandem_script::surface::{CommandSpec, EventSpec, FunctionSpec, ParamSpec, StatSpec, VariableSpec};
use tandem_script::value::Value;
use tandem_script::vm::{Arg, Index, MessageContext};

use crate::context::{Called, Context};
use crate::node::NodeRef;

/// A function and what it does. Arguments have the types the specification demands; optional ones at the end may be
/// missing from the slice or be [`Arg::Missing`]: use [`arg_text`] and [`arg_int`].
#[derive(Clone, Copy)]
pub struct Function {
    /// Its surface.
    pub spec: FunctionSpec,
    /// Its work.
    pub call: fn(&mut Context, &[Arg]) -> Called,
}

/// How a variable is addressed.
#[derive(Clone, Copy, Debug)]
pub struct VarCall<'a> {
    /// `$name(this)`.
    pub name: Option<&'a [u8]>,
    /// `[index]`.
    pub index: Index,
    /// `$(<request>...)`.
    pub context: Option<MessageContext>,
    /// `:=` instead of `=` (writing).
    pub is_replace: bool,
}

/// A variable class and what it does.
#[derive(Clone, Copy)]
pub struct Variable {
    /// Its surface.
    pub spec: VariableSpec,
    /// Reading.
    pub read: fn(&mut Context, &VarCall<'_>) -> Value,
    /// Writing; `None` for read-only ones.
    pub write: Option<fn(&mut Context, &VarCall<'_>, Value) -> bool>,
}

/// A module.
#[derive(Clone, Copy)]
pub struct ModuleDecl {
    /// Name as in `loadmodule "name.so"`.
    pub name: &'static str,
    /// One line for the documentation.
    pub doc: &'static str,
    /// Parameters.
    pub params: &'static [ParamSpec],
    /// Functions.
    pub functions: &'static [Function],
    /// Variables.
    pub variables: &'static [Variable],
    /// Events.
    pub events: &'static [EventSpec],
    /// MI commands.
    pub commands: &'static [CommandSpec],
    /// Statistics (group = module name).
    pub stats: &'static [StatSpec],
    /// Modules that must be loaded, too; of `one|other` either will do.
    pub depends: &'static [&'static str],
    /// Reads the parameters and puts the state of the module into the setup.
    pub setup: fn(&mut Setup<'_>) -> Result<(), SetupError>,
    /// Runs when all modules are set up and the node exists, before sockets are open: registers commands, drivers, hooks.
    pub init: fn(NodeRef) -> Result<(), SetupError>,
    /// Runs when the sockets are open and the workers run.
    pub start: fn(NodeRef) -> Result<(), SetupError>,
    /// Runs at shutdown, before the workers stop; must not block.
    pub stop: fn(NodeRef),
}

impl ModuleDecl {
    /// A module with nothing in it, to be filled by struct update.
    pub const EMPTY: ModuleDecl = ModuleDecl {
        name: "",
        doc: "",
        params: &[],
        functions: &[],
        variables: &[],
        events: &[],
        commands: &[],
        stats: &[],
        depends: &[],
        setup: |_| Ok(()),
        init: |_| Ok(()),
        start: |_| Ok(()),
        stop: |_| {},
    };
}

/// Why a module cannot be set up. The loader adds file and line of the parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SetupError {
    /// The parameter concerned and which of its lines.
    pub param: Option<(&'static str, usize)>,
    /// What is wrong and what to do.
    pub message: String,
}

impl SetupError {
    /// An error that no parameter causes.
    pub fn new(message: impl Into<String>) -> SetupError {
        SetupError { param: None, message: message.into() }
    }

    /// An error in the last value of `param`.
    pub fn param(param: &'static str, message: impl Into<String>) -> SetupError {
        SetupError { param: Some((param, 0)), message: message.into() }
    }

    /// An error in the value number `at` of a repeatable parameter.
    pub fn param_at(param: &'static str, at: usize, message: impl Into<String>) -> SetupError {
        SetupError { param: Some((param, at)), message: message.into() }
    }
}

/// Parameter values of one module, as the script set them.
#[derive(Clone, Debug, Default)]
pub struct ParamValues {
    values: HashMap<&'static str, Vec<ModparamValue>>,
}

impl ParamValues {
    /// Adds a value; for a parameter that is not repeatable it replaces the earlier one.
    pub fn set(&mut self, spec: &ParamSpec, value: ModparamValue) {
        let list = self.values.entry(spec.name).or_default();
        if !spec.is_repeatable {
            list.clear();
        }
        list.push(value);
    }

    /// Whether the script set it.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The number, or `default`.
    pub fn int(&self, name: &str, default: i32) -> i32 {
        match self.values.get(name).and_then(|list| list.last()) {
            Some(ModparamValue::Int(int)) => *int,
            Some(ModparamValue::Text(text)) => {
                std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(default)
            }
            None => default,
        }
    }

    /// The text as UTF-8 (a number as its decimal text).
    pub fn text(&self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    /// The text, or `default`.
    pub fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    /// All values in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let list = self.values.get(name).map_or(&[] as &[ModparamValue], Vec::as_slice);
        list.iter()
            .map(|value| match value {
                ModparamValue::Int(int) => int.to_string(),
                ModparamValue::Text(text) => String::from_utf8_lossy(text).into_owned(),
            })
            .collect()
    }
}

/// Resolves names of the script for modules that take them as parameters.
pub trait ScriptNames {
    /// Index of a message flag, created when new; `None` when all 32 are taken.
    fn message_flag(&mut self, name: &str) -> Option<u8>;
    /// Index of a branch flag, created when new; `None` when all 32 are taken.
    fn branch_flag(&mut self, name: &str) -> Option<u8>;
    /// A variable such as `$avp(x)`, or the bare name of an AVP.
    ///
    /// # Errors
    /// What is wrong with it.
    fn variable(&mut self, text: &str) -> Result<std::sync::Arc<tandem_script::pvar::CompiledVar>, String>;
    /// A format string.
    ///
    /// # Errors
    /// What is wrong with it.
    fn format(&mut self, text: &str) -> Result<tandem_script::format::Format, String>;
}

/// State of one type.
pub(crate) type State = Box<dyn Any + Send + Sync>;

/// What a module sees while it is set up.
pub struct Setup<'a> {
    /// Its parameters.
    pub params: &'a ParamValues,
    /// Names of the script.
    pub names: &'a mut dyn ScriptNames,
    /// Global parameters.
    pub settings: &'a crate::settings::Settings,
    pub(crate) states: &'a mut HashMap<TypeId, State>,
}

impl<'a> Setup<'a> {
    /// A setup for one module, collecting into `states` (see [`crate::node::NodeBuilder`]).
    pub(crate) fn new(
        params: &'a ParamValues,
        names: &'a mut dyn ScriptNames,
        settings: &'a crate::settings::Settings,
        states: &'a mut HashMap<TypeId, State>,
    ) -> Setup<'a> {
        Setup { params, names, settings, states }
    }

    /// Keeps the state of the module; found again by its type through [`crate::Node::state`].
    pub fn state<T: Any + Send + Sync>(&mut self, state: T) {
        self.states.insert(TypeId::of::<T>(), Box::new(state));
    }

    /// The branch flag that parameter `name` names, if it is set.
    ///
    /// # Errors
    /// When there is no room for another flag.
    pub fn branch_flag(&mut self, name: &'static str) -> Result<Option<u8>, SetupError> {
        let Some(flag) = self.params.text(name).filter(|flag| !flag.is_empty()) else { return Ok(None) };
        let index = self.names.branch_flag(&flag);
        index
            .map(Some)
            .ok_or_else(|| SetupError::param(name, format!("more than 32 branch flags; no room for '{flag}'")))
    }

    /// The message flag that parameter `name` names, if it is set.
    ///
    /// # Errors
    /// When there is no room for another flag.
    pub fn message_flag(&mut self, name: &'static str) -> Result<Option<u8>, SetupError> {
        let Some(flag) = self.params.text(name).filter(|flag| !flag.is_empty()) else { return Ok(None) };
        let index = self.names.message_flag(&flag);
        index
            .map(Some)
            .ok_or_else(|| SetupError::param(name, format!("more than 32 message flags; no room for '{flag}'")))
    }
}

/// Argument `at` as text.
pub fn arg_text(args: &[Arg], at: usize) -> Option<&[u8]> {
    args.get(at).and_then(Arg::text)
}

/// Argument `at` as an integer.
pub fn arg_int(args: &[Arg], at: usize) -> Option<i32> {
    args.get(at).and_then(Arg::int)
}

/// Argument `at` as a variable reference.
pub fn arg_var(args: &[Arg], at: usize) -> Option<&std::sync::Arc<tandem_script::pvar::CompiledVar>> {
    match args.get(at) {
        Some(Arg::Var(var)) => Some(var),
        _ => None,
    }
}

/// Argument `at` as a flag index.
pub fn arg_flag(args: &[Arg], at: usize) -> Option<u8> {
    match args.get(at) {
        Some(Arg::Flag(flag)) => Some(*flag),
        _ => None,
    }
}
