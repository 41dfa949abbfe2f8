//! The module tables as text for an editor: documentation of functions, variables, parameters, events and modules.

use tandem_module::ModuleDecl;
use tandem_module::declare::{Function, Variable};
use tandem_modules::{ALL, CORE};
use tandem_script::ast::RouteKind;
use tandem_script::surface::{ArgSpec, ArgType, EventSpec, ParamSpec, ParamType, Routes};

/// Kinds of route by name, for the documentation.
const KINDS: [(RouteKind, &str); 9] = [
    (RouteKind::Request, "route"),
    (RouteKind::Failure, "failure_route"),
    (RouteKind::OnReply, "onreply_route"),
    (RouteKind::Branch, "branch_route"),
    (RouteKind::Error, "error_route"),
    (RouteKind::Local, "local_route"),
    (RouteKind::Startup, "startup_route"),
    (RouteKind::Timer, "timer_route"),
    (RouteKind::Event, "event_route"),
];

/// The core and all modules.
pub(super) fn modules() -> impl Iterator<Item = &'static ModuleDecl> {
    std::iter::once(CORE).chain(ALL.iter().copied())
}

/// All functions of a name.
pub(super) fn functions(name: &str) -> impl Iterator<Item = (&'static ModuleDecl, &'static Function)> {
    modules().flat_map(move |module| {
        module
            .functions
            .iter()
            .filter(move |function| function.spec.name == name)
            .map(move |function| (module, function))
    })
}

/// The variable of a name.
pub(super) fn variable(name: &str) -> Option<(&'static ModuleDecl, &'static Variable)> {
    modules().find_map(|module| {
        module.variables.iter().find(|variable| variable.spec.name == name).map(|found| (module, found))
    })
}

/// The event of a name.
pub(super) fn event(name: &str) -> Option<(&'static ModuleDecl, &'static EventSpec)> {
    modules().find_map(|module| module.events.iter().find(|event| event.name == name).map(|found| (module, found)))
}

/// The parameter of a module; of a list of modules (`auth|auth_db`), the first that has it.
pub(super) fn param(modules: &str, name: &str) -> Option<(&'static ModuleDecl, &'static ParamSpec)> {
    modules
        .split('|')
        .filter_map(tandem_modules::named)
        .find_map(|module| module.params.iter().find(|param| param.name == name).map(|found| (module, found)))
}

/// `name(argument: type, [optional: type])`.
pub(super) fn signature(name: &str, args: &[ArgSpec]) -> String {
    let shown: Vec<String> = args
        .iter()
        .map(|arg| {
            let text = format!("{}: {}", arg.name, type_word(arg.ty));
            if arg.optional { format!("[{text}]") } else { text }
        })
        .collect();
    format!("{name}({})", shown.join(", "))
}

fn type_word(ty: ArgType) -> &'static str {
    match ty {
        ArgType::Int => "number",
        ArgType::Any => "value",
        ArgType::Text => "text",
        ArgType::Static => "constant text",
        ArgType::Raw => "variable names",
        ArgType::Var => "variable",
        ArgType::VarOut => "variable to set",
        ArgType::VarOrText => "variable to set, or text",
        ArgType::Words => "words",
        ArgType::Regex => "regular expression",
        ArgType::Flag => "message flag",
        ArgType::BranchFlag => "branch flag",
        ArgType::Route(_) => "route name",
    }
}

/// Markdown about a function.
pub(super) fn function_doc(module: &ModuleDecl, function: &Function) -> String {
    let spec = &function.spec;
    let mut text =
        format!("```opensips\n{}\n```\n{}\n\nModule `{}`", signature(spec.name, spec.args), spec.doc, module.name);
    if spec.routes != Routes::ANY {
        let kinds: Vec<&str> =
            KINDS.iter().filter(|(kind, _)| spec.routes.contains(*kind)).map(|(_, word)| *word).collect();
        text.push_str(&format!("; allowed in {}", kinds.join(", ")));
    }
    if spec.is_async {
        text.push_str("; can be waited for with `async` and `launch`");
    }
    text.push('.');
    text
}

/// Markdown about a variable.
pub(super) fn variable_doc(module: &ModuleDecl, variable: &Variable) -> String {
    let access = if variable.spec.is_writable { "can be assigned" } else { "read-only" };
    format!("```opensips\n${}\n```\n{}\n\nModule `{}`; {access}.", variable.spec.name, variable.spec.doc, module.name)
}

/// Markdown about a parameter.
pub(super) fn param_doc(module: &ModuleDecl, param: &ParamSpec) -> String {
    let ty = match param.ty {
        ParamType::Int => "number",
        ParamType::Text => "text",
        ParamType::IntOrText => "number or text",
    };
    let default =
        if param.default.is_empty() { "no default".to_owned() } else { format!("default `{}`", param.default) };
    let repeats = if param.is_repeatable { ", may be set several times" } else { "" };
    format!("`modparam(\"{}\", \"{}\", {ty})`\n\n{}\n\n{default}{repeats}.", module.name, param.name, param.doc)
}

/// Markdown about an event.
pub(super) fn event_doc(module: &ModuleDecl, event: &EventSpec) -> String {
    let params = if event.params.is_empty() { "none".to_owned() } else { event.params.join(", ") };
    format!("`{}`\n\n{}\n\nModule `{}`; parameters: {params}.", event.name, event.doc, module.name)
}
