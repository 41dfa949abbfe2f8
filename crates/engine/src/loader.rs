//! From the text of a script to a node that can be started: globals, modules and their parameters, the compiled program.
//! All that is wrong with a script is reported at once.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use tandem_module::declare::{ModuleDecl, ParamValues};
use tandem_module::names::ProgramNames;
use tandem_module::node::{Alias, NodeBuilder, NodeRef};
use tandem_module::settings::Settings;
use tandem_module::transport::Proto;
use tandem_net::{ListenSpec, NetConfig};
use tandem_script::ast::{Dialect, FileId, Item, Modparam, ModparamValue, Script, SocketDef, Span, Spanned};
use tandem_script::diagnostic::{self, Diagnostic};
use tandem_script::globals::{self, Globals};
use tandem_script::program::Program;
use tandem_script::regex::PosixRegex;
use tandem_script::source::{self, SourceMap};
use tandem_script::surface::ParamType;
use tandem_script::{check, compile, dialect, names as spelling, parser};

use crate::fixed::Fixed;
use crate::net_settings;
use crate::preprocess;
use crate::reload::Origin;
use crate::shed::Limits;

/// Transports of OpenSIPS that the sockets have no name for.
const OTHER_TRANSPORTS: [&str; 7] = ["sctp", "hep_udp", "hep_tcp", "hep_tls", "smpp", "msrp", "msrps"];

/// How to load a script.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The rules to apply; detected when `None`.
    pub dialect: Option<Dialect>,
    /// Load although functions or modules are missing here; calling such a function then fails at run time.
    pub permissive: bool,
    /// Threads; as many as processors when `None`.
    pub workers: Option<usize>,
    /// Also report what is allowed but doubtful.
    pub warnings: bool,
    /// The `-p` preprocessor: a command that the script is piped through, at each reload again.
    pub preprocessor: Option<String>,
    /// From when on new requests are refused.
    pub limits: Limits,
    /// Files to read in place of others: path as the script or command line writes it, and the file to open.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Hosts of sockets that are not asked the system for (tests of scripts, which open no sockets).
    pub hosts: Vec<(String, IpAddr)>,
}

/// A script that is ready to run.
pub struct Loaded {
    /// The node.
    pub node: NodeRef,
    /// Its listeners.
    pub listeners: Vec<ListenSpec>,
    /// Limits of the sockets.
    pub net: NetConfig,
    /// Global parameters, for logging and the process.
    pub globals: Globals,
    /// Warnings.
    pub diagnostics: Vec<Diagnostic>,
    /// Source texts, to print the warnings.
    pub sources: SourceMap,
    /// From when on new requests are refused.
    pub limits: Limits,
    /// Where it came from, for reloads; `None` for a script that is no file.
    pub(crate) origin: Option<Origin>,
}

/// A script that cannot run.
pub struct Refused {
    /// Errors and warnings.
    pub diagnostics: Vec<Diagnostic>,
    /// Source texts.
    pub sources: SourceMap,
}

impl Refused {
    /// All of it as text for a terminal.
    pub fn render(&self) -> String {
        diagnostic::render(&self.diagnostics, &self.sources)
    }
}

/// A script as far as it can be taken without making a node.
pub struct Checked {
    /// Source texts.
    pub sources: SourceMap,
    /// What was found.
    pub diagnostics: Vec<Diagnostic>,
    /// The dialect.
    pub dialect: Dialect,
    globals: Globals,
    builder: NodeBuilder,
    params: HashMap<&'static str, ParamValues>,
    param_spans: HashMap<(&'static str, &'static str), Vec<Span>>,
    module_spans: Vec<(String, Span)>,
    fixed: Fixed,
    program: Option<Program>,
}

/// A script that can take the place of the running one.
pub(crate) struct Reloaded {
    /// The program.
    pub(crate) program: Program,
    /// What only a restart puts into effect.
    pub(crate) notes: Vec<String>,
}

/// Reads a script and its includes.
pub fn read(path: &Path, options: &LoadOptions) -> (SourceMap, Vec<Diagnostic>) {
    let (sources, mut diagnostics) = source::load(path, &|path: &Path| {
        let other = options.files.iter().find(|(asked, _)| asked == path).map(|(_, other)| other.as_path());
        std::fs::read(other.unwrap_or(path))
    });
    let Some(command) = &options.preprocessor else { return (sources, diagnostics) };
    match preprocess::run(command, sources.marked_text()) {
        Ok(output) => (sources.with_preprocessed(&output), diagnostics),
        Err(text) => {
            diagnostics.push(Diagnostic::error("preprocessor", Span::default(), text));
            // What the command should have worked on says nothing about the script.
            (SourceMap::from_text(&path.display().to_string(), ""), diagnostics)
        }
    }
}

/// Loads a script for running.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, Box<Refused>> {
    let (sources, diagnostics) = read(path, options);
    let checked = check(sources, diagnostics, options);
    let origin = Origin { path: path.to_owned(), options: options.clone(), fixed: checked.fixed.clone() };
    let mut loaded = finish(checked, options)?;
    // The rules it is started with stay, whatever a later text looks like.
    loaded.origin = Some(origin);
    Ok(loaded)
}

/// Loads a script from text (tests, the demo).
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(name: &str, text: &str, options: &LoadOptions) -> Result<Loaded, Box<Refused>> {
    finish(check(SourceMap::from_text(name, text), Vec::new(), options), options)
}

/// Parses, checks and compiles; opens and starts nothing.
pub fn check(sources: SourceMap, mut diagnostics: Vec<Diagnostic>, options: &LoadOptions) -> Checked {
    let front = front(&sources, &mut diagnostics, options, None);
    let Front { script, detected: dialect, globals, builder, params, param_spans, fixed } = front;
    let module_spans = module_spans(&script);
    diagnostics.extend(check::check(&script, dialect, builder.surface(), &check_options(options)));
    let mut program = None;
    if !diagnostic::has_errors(&diagnostics) {
        let (compiled, found) = compile::compile(&script, dialect, builder.surface(), &sources);
        diagnostics.extend(found);
        program = compiled;
    }
    diagnostic::sort(&mut diagnostics);
    check::silence(&mut diagnostics, &sources);
    Checked { sources, diagnostics, dialect, globals, builder, params, param_spans, module_spans, fixed, program }
}

/// A script that is read, with its modules and their parameters.
struct Front {
    script: Script,
    /// The dialect of this text; a running process keeps its own.
    detected: Dialect,
    globals: Globals,
    builder: NodeBuilder,
    params: HashMap<&'static str, ParamValues>,
    param_spans: HashMap<(&'static str, &'static str), Vec<Span>>,
    fixed: Fixed,
}

/// What a start and a reload do alike before the routes are checked. `rules`: the dialect of the running process.
fn front(
    sources: &SourceMap,
    diagnostics: &mut Vec<Diagnostic>,
    options: &LoadOptions,
    rules: Option<Dialect>,
) -> Front {
    let (script, found) = parser::parse(sources);
    diagnostics.extend(found);
    let detected = options.dialect.unwrap_or_else(|| dialect::detect(&script));
    let (globals, found) = globals::evaluate(&script, rules.unwrap_or(detected));
    diagnostics.extend(found);
    diagnostics.extend(globals.sockets.iter().filter_map(missing_transport));
    let mut builder = NodeBuilder::default();
    builder.add_module(tandem_modules::CORE);
    load_modules(&script, &mut builder, options, diagnostics);
    note_missing(&script, &mut builder);
    let (params, param_spans) = apply_modparams(&script, &builder, options, diagnostics);
    check_dependencies(&script, &builder, diagnostics);
    let fixed = Fixed::new(&script, detected, &builder, &params);
    Front { script, detected, globals, builder, params, param_spans, fixed }
}

fn check_options(options: &LoadOptions) -> check::CheckOptions {
    check::CheckOptions {
        warnings: options.warnings,
        is_permissive: options.permissive,
        about_function: Some(about_function),
    }
}

/// Checks and compiles a script for a process that runs another one. It must be good enough to start with, and its routes
/// must be content with the modules that are there.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn reload(
    sources: SourceMap,
    mut diagnostics: Vec<Diagnostic>,
    options: &LoadOptions,
    running: &Fixed,
    program: &Program,
) -> Result<Reloaded, Box<Refused>> {
    let front = front(&sources, &mut diagnostics, options, Some(program.dialect()));
    let Front { script, builder, fixed: newer, .. } = front;
    let options = check_options(options);
    diagnostics.extend(check::check(&script, program.dialect(), program.surface(), &options));
    if !running.has_same_modules(&newer) {
        // What a restart would refuse is refused now.
        diagnostics.extend(check::check(&script, program.dialect(), builder.surface(), &options));
    }
    let mut compiled = None;
    if !diagnostic::has_errors(&diagnostics) {
        let (program, found) = compile::recompile(&script, &sources, program);
        diagnostics.extend(found);
        compiled = program;
    }
    let Some(program) = compiled.filter(|_| !diagnostic::has_errors(&diagnostics)) else {
        explain(&mut diagnostics, running, &newer);
        diagnostic::sort(&mut diagnostics);
        return Err(Box::new(Refused { diagnostics, sources }));
    };
    Ok(Reloaded { program, notes: running.differences(&newer) })
}

/// Says what is different from a start where that may be the reason for an error.
fn explain(diagnostics: &mut [Diagnostic], running: &Fixed, newer: &Fixed) {
    let added: Vec<_> = running.modules_only_in(newer).collect();
    for finding in diagnostics {
        match finding.code {
            "too-many-flags" => {
                finding.notes.push("flags of earlier scripts keep their place: restart to make room".to_owned());
            }
            "missing-function" | "unknown-function" | "unknown-variable" if !added.is_empty() => {
                let names = added.join(", ");
                finding.notes.push(format!("new in the script: {names}; modules are loaded at start only: restart"));
            }
            _ => {}
        }
    }
}

fn finish(checked: Checked, options: &LoadOptions) -> Result<Loaded, Box<Refused>> {
    let Checked {
        sources,
        mut diagnostics,
        dialect,
        globals,
        mut builder,
        params,
        param_spans,
        module_spans,
        program,
        ..
    } = checked;
    let Some(mut program) = program.filter(|_| !diagnostic::has_errors(&diagnostics)) else {
        return Err(Box::new(Refused { diagnostics, sources }));
    };
    let mut settings = Settings::from_globals(&globals, dialect);
    let script = Path::new(sources.name(FileId(0)));
    settings.predates_v4_0 |= builder.modules().iter().any(|module| tandem_modules::known::is_gone(module.name));
    settings.script_dir = script.parent().map(Path::to_path_buf).unwrap_or_default();
    let surface = builder.surface().clone();
    let none = ParamValues::default();
    for module in builder.modules().to_vec() {
        let values = params.get(module.name).unwrap_or(&none);
        let mut names = ProgramNames { program: &mut program, surface: &surface };
        if let Err(error) = builder.setup(module, values, &mut names, &settings) {
            let span = error.param.and_then(|(param, at)| {
                param_spans.get(&(module.name, param)).and_then(|spans| spans.get(at).or(spans.last())).copied()
            });
            let text = format!("module {}: {error}", module.name);
            let own = || module_spans.iter().find(|(name, _)| name == module.name).map(|(_, span)| *span);
            diagnostics.push(Diagnostic::error("module-parameter", span.or_else(own).unwrap_or_default(), text));
        }
    }
    let (listeners, found) = listeners(&globals, options);
    diagnostics.extend(found);
    if diagnostic::has_errors(&diagnostics) {
        diagnostic::sort(&mut diagnostics);
        return Err(Box::new(Refused { diagnostics, sources }));
    }
    let node = builder.build(settings, Arc::new(program));
    node.add_aliases(globals.aliases.iter().map(|alias| Alias {
        proto: alias.proto.as_deref().and_then(|proto| Proto::from_name(proto.as_bytes())),
        host: alias.host.to_ascii_lowercase(),
        port: alias.port,
        accept_subdomain: alias.accept_subdomain,
    }));
    let net = net_settings::of(&globals, options.workers);
    Ok(Loaded { node, listeners, net, globals, diagnostics, sources, limits: options.limits, origin: None })
}

/// The base name of `loadmodule "dir/name.so"`.
fn module_name(text: &str) -> String {
    let base = PathBuf::from(text).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    base.strip_suffix(".so").unwrap_or(&base).to_owned()
}

/// Where each module is loaded, for what no parameter can be blamed for.
fn module_spans(script: &Script) -> Vec<(String, Span)> {
    let spans = script.items.iter().filter_map(|item| match item {
        Item::LoadModule(text) => Some((module_name(&text.node), text.span)),
        _ => None,
    });
    spans.collect()
}

fn load_modules(script: &Script, builder: &mut NodeBuilder, options: &LoadOptions, diagnostics: &mut Vec<Diagnostic>) {
    for item in &script.items {
        let Item::LoadModule(Spanned { node: text, span }) = item else { continue };
        if diagnostics.len() > check::FINDINGS_MAX {
            return;
        }
        let name = module_name(text);
        if builder.modules().iter().any(|module| module.name == name) {
            diagnostics.push(Diagnostic::error("module-twice", *span, format!("module '{name}' is loaded twice")));
            continue;
        }
        match tandem_modules::named(&name) {
            Some(module) => builder.add_module(module),
            None => diagnostics.push(missing_module(&name, *span, options)),
        }
    }
}

/// What the modules of the script have in OpenSIPS and not here: named by the checker, compiled to calls that fail.
fn note_missing(script: &Script, builder: &mut NodeBuilder) {
    for item in &script.items {
        let Item::LoadModule(text) = item else { continue };
        let name = module_name(&text.node);
        let older = tandem_modules::named(&name).map(|module| module.name);
        for function in tandem_modules::known::older_functions_of(&name) {
            builder.surface_mut().add_missing_function(older.unwrap_or("an older release"), function);
        }
        let Some(known) = tandem_modules::known::module(&name) else { continue };
        for function in &known.functions {
            builder.surface_mut().add_missing_function(known.name, function);
        }
        for variable in tandem_modules::known::variables_of(known.name) {
            builder.surface_mut().add_missing_variable(known.name, variable);
        }
    }
}

fn missing_module(name: &str, span: Span, options: &LoadOptions) -> Diagnostic {
    let is_known = tandem_modules::known::has_module(name);
    let text = if is_known {
        format!("module '{name}' is known to OpenSIPS, not yet here")
    } else {
        format!("there is no module '{name}'")
    };
    if is_known && options.permissive {
        return Diagnostic::warning("module-missing", span, text).with_note("its functions fail when they are called");
    }
    if is_known {
        let hint = "with --permissive the script loads, and calls of its functions fail";
        return Diagnostic::error("module-missing", span, text).with_suggestion(hint);
    }
    let all = tandem_modules::ALL.iter().map(|module| module.name);
    Diagnostic::error("module-missing", span, text).with_nearest(spelling::nearest(name, all))
}

type ParamTables = (HashMap<&'static str, ParamValues>, HashMap<(&'static str, &'static str), Vec<Span>>);

fn apply_modparams(
    script: &Script,
    builder: &NodeBuilder,
    options: &LoadOptions,
    diagnostics: &mut Vec<Diagnostic>,
) -> ParamTables {
    let mut tables: ParamTables = (HashMap::new(), HashMap::new());
    let mut loaded: Vec<&'static ModuleDecl> = Vec::new();
    let mut skipped: Vec<String> = Vec::new();
    for item in &script.items {
        match item {
            Item::LoadModule(name) => {
                let name = module_name(&name.node);
                match builder.modules().iter().find(|module| module.name == name) {
                    Some(module) => loaded.push(module),
                    None => skipped.push(name),
                }
            }
            Item::Modparam(param) => apply_modparam(param, &loaded, &skipped, options, &mut tables, diagnostics),
            Item::Global(_) | Item::Route(_) => {}
        }
    }
    tables
}

fn apply_modparam(
    param: &Modparam,
    loaded: &[&'static ModuleDecl],
    skipped: &[String],
    options: &LoadOptions,
    tables: &mut ParamTables,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let pattern = format!("^({})$", param.modules.node);
    let Ok(regex) = PosixRegex::new(pattern.as_bytes()) else {
        let text = format!("'{}' is not a valid regular expression over module names", param.modules.node);
        diagnostics.push(Diagnostic::error("modparam-module", param.modules.span, text));
        return;
    };
    let hits: Vec<_> = loaded.iter().filter(|module| regex.is_match(module.name.as_bytes())).collect();
    if hits.is_empty() {
        if skipped.iter().any(|name| regex.is_match(name.as_bytes())) {
            // The missing module has been reported already.
            return;
        }
        let text = format!("no module loaded so far matches '{}'", param.modules.node);
        let nearest = spelling::nearest(&param.modules.node, loaded.iter().map(|module| module.name));
        let hint = "modparam must follow the loadmodule of its module";
        let error = Diagnostic::error("modparam-module", param.modules.span, text);
        diagnostics.push(error.with_note(hint).with_nearest(nearest));
        return;
    }
    for module in hits {
        let name = param.name.node.as_str();
        let Some(spec) = module.params.iter().find(|spec| spec.name == name) else {
            diagnostics.push(unknown_param(module, param, options));
            continue;
        };
        let fits = match (&param.value.node, spec.ty) {
            (ModparamValue::Int(_), ParamType::Text) | (ModparamValue::Text(_), ParamType::Int) => false,
            (ModparamValue::Int(_) | ModparamValue::Text(_), _) => true,
        };
        if !fits {
            let wanted = if spec.ty == ParamType::Int { "a number" } else { "a string" };
            let text = format!("parameter '{name}' of module {} takes {wanted}", module.name);
            diagnostics.push(Diagnostic::error("modparam-type", param.value.span, text));
            continue;
        }
        let spans = tables.1.entry((module.name, spec.name)).or_default();
        if !spec.is_repeatable {
            spans.clear();
        }
        spans.push(param.value.span);
        tables.0.entry(module.name).or_default().set(spec, param.value.node.clone());
    }
}

fn unknown_param(module: &ModuleDecl, param: &Modparam, options: &LoadOptions) -> Diagnostic {
    let name = &param.name.node;
    let advice = check::advice_on_parameter(module.name, name);
    let is_known = tandem_modules::known::has_param(module.name, name) && advice.is_none();
    if is_known || advice.is_some() && options.permissive {
        let text = format!("parameter '{name}' of module {} is known to OpenSIPS, not yet here", module.name);
        return if options.permissive {
            Diagnostic::warning("modparam-missing", param.name.span, text)
        } else {
            Diagnostic::error("modparam-missing", param.name.span, text)
        };
    }
    let text = format!("module {} has no parameter '{name}'", module.name);
    if let Some(advice) = advice {
        return Diagnostic::error("modparam-unknown", param.name.span, text).with_suggestion(advice);
    }
    let nearest = spelling::nearest(name, module.params.iter().map(|spec| spec.name));
    Diagnostic::error("modparam-unknown", param.name.span, text).with_nearest(nearest)
}

fn check_dependencies(script: &Script, builder: &NodeBuilder, diagnostics: &mut Vec<Diagnostic>) {
    let span_of = |name: &str| {
        script.items.iter().find_map(|item| match item {
            Item::LoadModule(text) if module_name(&text.node) == name => Some(text.span),
            _ => None,
        })
    };
    for module in builder.modules() {
        for needed in module.depends {
            if !builder.modules().iter().any(|other| needed.split('|').any(|one| one == other.name)) {
                let names = needed.replace('|', "' or '");
                let needed = needed.split('|').next().unwrap_or(needed);
                let text = format!("module '{}' needs module '{names}'", module.name);
                let span = span_of(module.name).unwrap_or_default();
                diagnostics.push(
                    Diagnostic::error("module-depends", span, text)
                        .with_note(format!("add: loadmodule \"{needed}.so\"")),
                );
            }
        }
    }
}

/// What is known of a function that no loaded module has.
fn about_function(name: &str) -> Option<String> {
    let has = |module: &&&'static ModuleDecl| module.functions.iter().any(|function| function.spec.name == name);
    if let Some(module) = tandem_modules::ALL.iter().find(has) {
        return Some(format!("it is a function of module {0}: loadmodule \"{0}.so\"", module.name));
    }
    let modules = tandem_modules::known::modules_with_function(name);
    match modules.as_slice() {
        [] => None,
        [module] => Some(format!("function '{name}' of module {module} is known to OpenSIPS, not yet here")),
        _ => Some(format!("function '{name}' of modules {} is known to OpenSIPS, not yet here", modules.join(", "))),
    }
}

fn listeners(globals: &Globals, options: &LoadOptions) -> (Vec<ListenSpec>, Vec<Diagnostic>) {
    let mut specs = Vec::new();
    let mut diagnostics = Vec::new();
    if globals.sockets.is_empty() {
        let text = "the script has no socket= (listen= in 2.4): nothing to listen on";
        diagnostics.push(Diagnostic::error("no-socket", Span::default(), text));
    }
    for Spanned { node: socket, span } in &globals.sockets {
        match listen_specs(socket, options) {
            Ok(list) => specs.extend(list),
            Err(text) => diagnostics.push(Diagnostic::error("socket", *span, text)),
        }
    }
    (specs, diagnostics)
}

/// The error for a listener whose transport OpenSIPS has and this program has not.
fn missing_transport(socket: &Spanned<SocketDef>) -> Option<Diagnostic> {
    let proto = socket.node.proto.parse::<tandem_net::Proto>().ok();
    let text = match proto {
        Some(tandem_net::Proto::Udp | tandem_net::Proto::Tcp | tandem_net::Proto::Bin | tandem_net::Proto::Bins) => {
            return None;
        }
        None if !OTHER_TRANSPORTS.contains(&socket.node.proto.as_str()) => {
            format!("there is no transport '{}'", socket.node.proto)
        }
        _ => format!("transport '{}' is known to OpenSIPS, not yet here", socket.node.proto),
    };
    Some(
        Diagnostic::error("transport-missing", socket.span, text)
            .with_note("listeners can be udp, tcp, bin, and bins with proto_bins and tls_mgm"),
    )
}

fn listen_specs(socket: &SocketDef, options: &LoadOptions) -> Result<Vec<ListenSpec>, String> {
    let proto: tandem_net::Proto =
        socket.proto.parse().map_err(|()| format!("transport '{}' is not available here", socket.proto))?;
    let known: Vec<IpAddr> = options.hosts.iter().filter(|(host, _)| *host == socket.host).map(|(_, ip)| *ip).collect();
    let ips = match known.is_empty() {
        false => known,
        true => tandem_net::resolve_host(&socket.host)
            .map_err(|error| format!("cannot resolve '{}': {error}", socket.host))?,
    };
    if ips.is_empty() {
        return Err(format!("'{}' has no address on this host", socket.host));
    }
    let ports: Vec<u16> = if socket.ports.is_empty() {
        vec![proto.default_port()]
    } else {
        socket.ports.iter().flat_map(|(first, last)| *first..=*last).collect()
    };
    let mut specs = Vec::new();
    for ip in ips {
        for port in &ports {
            let mut spec = ListenSpec::new(proto, ip, *port);
            spec.is_anycast = socket.options.iter().any(|option| option == "anycast");
            spec.advertised = socket.advertised.as_ref().map(|(host, shown)| (host.clone(), shown.unwrap_or(*port)));
            spec.tag = socket.tag.clone();
            spec.tos = socket.tos.and_then(|tos| u8::try_from(tos).ok());
            spec.reuse_port = socket.options.iter().any(|option| option == "reuse_port");
            specs.push(spec);
        }
    }
    Ok(specs)
}
