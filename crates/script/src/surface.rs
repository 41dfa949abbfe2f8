//! What a script may use: functions, variables, parameters, events, commands, statistics, as plain data tables.
//! One table per module is the source for the loader, the checker, the documentation and the MI help. No behaviour here.

use hashbrown::HashMap;

use crate::ast::RouteKind;

/// A set of route kinds in which a function may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routes(u16);

impl Routes {
    /// `route`.
    pub const REQUEST: Routes = Routes(1);
    /// `failure_route`.
    pub const FAILURE: Routes = Routes(2);
    /// `onreply_route`.
    pub const ONREPLY: Routes = Routes(4);
    /// `branch_route`.
    pub const BRANCH: Routes = Routes(8);
    /// `error_route`.
    pub const ERROR: Routes = Routes(16);
    /// `local_route`.
    pub const LOCAL: Routes = Routes(32);
    /// `startup_route`.
    pub const STARTUP: Routes = Routes(64);
    /// `timer_route`.
    pub const TIMER: Routes = Routes(128);
    /// `event_route`.
    pub const EVENT: Routes = Routes(256);
    /// Everywhere.
    pub const ANY: Routes = Routes(511);

    /// Both sets.
    pub const fn or(self, other: Routes) -> Routes {
        Routes(self.0 | other.0)
    }

    /// Whether `kind` is in the set.
    pub const fn contains(self, kind: RouteKind) -> bool {
        self.0 & Routes::of(kind).0 != 0
    }

    /// The set of one kind.
    pub const fn of(kind: RouteKind) -> Routes {
        match kind {
            RouteKind::Request => Routes::REQUEST,
            RouteKind::Failure => Routes::FAILURE,
            RouteKind::OnReply => Routes::ONREPLY,
            RouteKind::Branch => Routes::BRANCH,
            RouteKind::Error => Routes::ERROR,
            RouteKind::Local => Routes::LOCAL,
            RouteKind::Startup => Routes::STARTUP,
            RouteKind::Timer => Routes::TIMER,
            RouteKind::Event => Routes::EVENT,
        }
    }
}

/// Type of a function argument (specification §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgType {
    /// An integer: number, variable with an integer form, or (2.4) a quoted number or variable.
    Int,
    /// Either an integer or a text; passed on as it evaluates.
    Any,
    /// A text: a format string or a variable with a text form.
    Text,
    /// A constant without variables.
    Static,
    /// A constant that is not expanded (lists of output variables such as `"$avp(a);$avp(b)"`).
    Raw,
    /// Words separated by blanks, told apart before variables go in: what a variable holds is one word or a part of one.
    /// Quotes keep blanks together. A lone variable holds the whole text and is split when it is read.
    Words,
    /// A readable variable, passed by reference.
    Var,
    /// A writable variable, passed by reference.
    VarOut,
    /// A writable variable, passed by reference, or any other text, expanded: 2.4 writes `""` for none, and puts a name
    /// (of a partition) into the place where later versions have the variable.
    VarOrText,
    /// A regular expression, POSIX extended; constants are compiled at load.
    Regex,
    /// Name of a message flag, resolved to its index at load.
    Flag,
    /// Name of a branch flag, resolved to its index at load.
    BranchFlag,
    /// Name of a route of that kind, checked at load, passed as text.
    Route(RouteKind),
}

/// One parameter of a function.
#[derive(Clone, Copy, Debug)]
pub struct ArgSpec {
    /// Name in documentation and messages.
    pub name: &'static str,
    /// Type.
    pub ty: ArgType,
    /// Whether it may be left out.
    pub optional: bool,
}

/// A mandatory parameter.
pub const fn arg(name: &'static str, ty: ArgType) -> ArgSpec {
    ArgSpec { name, ty, optional: false }
}

/// An optional parameter.
pub const fn opt(name: &'static str, ty: ArgType) -> ArgSpec {
    ArgSpec { name, ty, optional: true }
}

/// A function of the script language.
#[derive(Clone, Copy, Debug)]
pub struct FunctionSpec {
    /// Name.
    pub name: &'static str,
    /// Parameters in order.
    pub args: &'static [ArgSpec],
    /// Where it may stand.
    pub routes: Routes,
    /// Whether `async()` and `launch()` take it.
    pub is_async: bool,
    /// One line for the documentation.
    pub doc: &'static str,
}

/// Whether a variable takes an argument in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// `$name`.
    Plain,
    /// `$name(arg)`.
    Named,
    /// Either.
    Both,
    /// Either; an index is a text and no number, given to the reader behind the argument (see [`crate::pvar::KEY_START`]).
    Keyed,
    /// `$name(path)`: variables inside the path are given to the reader with the kind of their values (see [`crate::pvar::PATH_VAR_START`]).
    Path,
}

/// A variable class of the script language.
#[derive(Clone, Copy, Debug)]
pub struct VariableSpec {
    /// Name after the dollar sign.
    pub name: &'static str,
    /// Argument rule.
    pub rule: NameRule,
    /// Whether it can be assigned.
    pub is_writable: bool,
    /// One line for the documentation.
    pub doc: &'static str,
}

/// Type of a module parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// Number.
    Int,
    /// Text.
    Text,
    /// Either.
    IntOrText,
}

/// A module parameter.
#[derive(Clone, Copy, Debug)]
pub struct ParamSpec {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub ty: ParamType,
    /// Default as a script would write it; empty when none.
    pub default: &'static str,
    /// Whether several `modparam` lines add up.
    pub is_repeatable: bool,
    /// One line for the documentation; starts with "accepted, no effect" where it has none here.
    pub doc: &'static str,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub struct EventSpec {
    /// Name, `E_...`.
    pub name: &'static str,
    /// Parameters in order.
    pub params: &'static [&'static str],
    /// One line for the documentation.
    pub doc: &'static str,
}

/// A management command.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// Name (`clusterer:list`).
    pub name: &'static str,
    /// Other names it answers to (`clusterer_list`).
    pub aliases: &'static [&'static str],
    /// Parameters; a name ending in `?` is optional, a last one ending in `...` may stand several times.
    pub params: &'static [&'static str],
    /// One line for the documentation.
    pub doc: &'static str,
}

/// A statistic.
#[derive(Clone, Copy, Debug)]
pub struct StatSpec {
    /// Name inside the group.
    pub name: &'static str,
    /// One line for the documentation.
    pub doc: &'static str,
}

/// Index of a function in the loaded set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub u16);

/// Index of a variable class in the loaded set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VariableId(pub u16);

/// Everything that the loaded modules offer to a script.
#[derive(Clone, Debug, Default)]
pub struct Surface {
    functions: Vec<(&'static str, FunctionSpec)>,
    function_names: HashMap<&'static str, Vec<FunctionId>>,
    variables: Vec<(&'static str, VariableSpec)>,
    variable_names: HashMap<&'static str, VariableId>,
    events: Vec<&'static EventSpec>,
    /// Functions of loaded modules that OpenSIPS has and this program lacks, with their module.
    missing_functions: HashMap<&'static str, &'static str>,
    /// Variables of the same kind.
    missing_variables: HashMap<&'static str, &'static str>,
}

impl Surface {
    /// Adds a function of `module`. Several functions may share a name; they are told apart by their argument count.
    pub fn add_function(&mut self, module: &'static str, spec: FunctionSpec) -> FunctionId {
        let id = FunctionId(self.functions.len() as u16);
        self.functions.push((module, spec));
        self.function_names.entry(spec.name).or_default().push(id);
        id
    }

    /// Adds a variable class of `module`; a later one of the same name wins.
    pub fn add_variable(&mut self, module: &'static str, spec: VariableSpec) -> VariableId {
        let id = VariableId(self.variables.len() as u16);
        self.variables.push((module, spec));
        self.variable_names.insert(spec.name, id);
        id
    }

    /// Adds an event of a loaded module.
    pub fn add_event(&mut self, event: &'static EventSpec) {
        self.events.push(event);
    }

    /// Notes that `module` has such a function in OpenSIPS and not here; without effect when some module offers it here.
    pub fn add_missing_function(&mut self, module: &'static str, name: &'static str) {
        if !self.function_names.contains_key(name) {
            self.missing_functions.entry(name).or_insert(module);
        }
    }

    /// Notes that `module` has such a variable in OpenSIPS and not here; without effect when some module offers it here.
    pub fn add_missing_variable(&mut self, module: &'static str, name: &'static str) {
        if !self.variable_names.contains_key(name) {
            self.missing_variables.entry(name).or_insert(module);
        }
    }

    /// The loaded module that has this function in OpenSIPS and not here. Calls of it compile, and fail at run time.
    pub fn missing_function(&self, name: &str) -> Option<&'static str> {
        self.missing_functions.get(name).copied()
    }

    /// The loaded module that has this variable in OpenSIPS and not here. It reads NULL.
    pub fn missing_variable(&self, name: &str) -> Option<&'static str> {
        self.missing_variables.get(name).copied()
    }

    /// The event of that name.
    pub fn event(&self, name: &str) -> Option<&'static EventSpec> {
        self.events.iter().copied().find(|event| event.name == name)
    }

    /// All functions of that name.
    pub fn functions_named(&self, name: &str) -> &[FunctionId] {
        self.function_names.get(name).map_or(&[], Vec::as_slice)
    }

    /// The function and its module.
    pub fn function(&self, id: FunctionId) -> Option<(&'static str, &FunctionSpec)> {
        self.functions.get(usize::from(id.0)).map(|(module, spec)| (*module, spec))
    }

    /// The variable class of that name.
    pub fn variable_named(&self, name: &str) -> Option<(VariableId, &VariableSpec)> {
        let id = *self.variable_names.get(name)?;
        self.variables.get(usize::from(id.0)).map(|(_, spec)| (id, spec))
    }

    /// The variable class and its module.
    pub fn variable(&self, id: VariableId) -> Option<(&'static str, &VariableSpec)> {
        self.variables.get(usize::from(id.0)).map(|(module, spec)| (*module, spec))
    }

    /// All function names, for suggestions.
    pub fn function_names(&self) -> impl Iterator<Item = &'static str> {
        self.functions.iter().map(|(_, spec)| spec.name)
    }

    /// All variable names, for suggestions.
    pub fn variable_names(&self) -> impl Iterator<Item = &'static str> {
        self.variables.iter().map(|(_, spec)| spec.name)
    }
}
