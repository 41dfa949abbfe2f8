//! From a script text to a node, without sockets: a short form of what the program's loader does.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use hashbrown::HashMap;
use tandem_module::declare::{ModuleDecl, ParamValues, ScriptNames};
use tandem_module::node::{Alias, NodeBuilder, NodeRef};
use tandem_module::settings::Settings;
use tandem_module::transport::{Proto, Socket, SocketId};
use tandem_script::ast::{Dialect, Item, Modparam, ModparamValue, Script, SocketDef};
use tandem_script::diagnostic;
use tandem_script::format::Format;
use tandem_script::globals::{self, Globals};
use tandem_script::program::Program;
use tandem_script::pvar::{self, CompiledVar, Scope};
use tandem_script::regex::PosixRegex;
use tandem_script::source::SourceMap;
use tandem_script::surface::{ParamType, Surface};
use tandem_script::vm::LogLevel;
use tandem_script::{check, compile, dialect, parser};

pub(super) struct Loaded {
    pub(super) node: NodeRef,
    pub(super) sockets: Vec<Socket>,
}

struct Names<'a> {
    program: &'a mut Program,
    surface: &'a Surface,
}

impl Names<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope { surface: self.surface, dialect: self.program.dialect() }
    }
}

impl ScriptNames for Names<'_> {
    fn message_flag(&mut self, name: &str) -> Option<u8> {
        self.program.message_flag(name)
    }

    fn branch_flag(&mut self, name: &str) -> Option<u8> {
        self.program.branch_flag(name)
    }

    fn variable(&mut self, text: &str) -> Result<Arc<CompiledVar>, String> {
        let spelled = if text.starts_with('$') { text.to_owned() } else { format!("$avp({text})") };
        pvar::parse_exact(spelled.as_bytes(), self.scope()).map(Arc::new).map_err(|error| error.message)
    }

    fn format(&mut self, text: &str) -> Result<Format, String> {
        Format::parse_in(text.as_bytes(), self.scope()).map_err(|error| error.message)
    }
}

pub(super) fn load(text: &str, wanted: Option<Dialect>) -> Result<Loaded, String> {
    let sources = SourceMap::from_text("test.cfg", text);
    let (script, mut diagnostics) = parser::parse(&sources);
    let dialect = wanted.unwrap_or_else(|| dialect::detect(&script));
    let (globals, found) = globals::evaluate(&script, dialect);
    diagnostics.extend(found);
    let mut builder = NodeBuilder::default();
    builder.add_module(tandem_modules::CORE);
    let mut errors = Vec::new();
    let params = modules(&script, &mut builder, &mut errors);
    let surface = builder.surface().clone();
    diagnostics.extend(check::check(&script, dialect, &surface, &check::CheckOptions::default()));
    let mut program = None;
    if !diagnostic::has_errors(&diagnostics) {
        let (compiled, found) = compile::compile(&script, dialect, &surface, &sources);
        diagnostics.extend(found);
        program = compiled;
    }
    if diagnostic::has_errors(&diagnostics) {
        errors.push(diagnostic::render(&diagnostics, &sources));
    }
    let mut program = match program {
        Some(program) if errors.is_empty() => program,
        _ => return Err(errors.join("\n")),
    };
    let settings = settings(&globals, dialect);
    let none = ParamValues::default();
    for module in builder.modules().to_vec() {
        let mut names = Names { program: &mut program, surface: &surface };
        builder
            .setup(module, params.get(module.name).unwrap_or(&none), &mut names, &settings)
            .map_err(|error| format!("module {}: {error}", module.name))?;
    }
    let node = builder.build(settings, Arc::new(program));
    node.add_aliases(globals.aliases.iter().map(|alias| Alias {
        proto: alias.proto.as_deref().and_then(|proto| Proto::from_name(proto.as_bytes())),
        host: alias.host.to_ascii_lowercase(),
        port: alias.port,
        accept_subdomain: alias.accept_subdomain,
    }));
    Ok(Loaded { node, sockets: sockets(&globals)? })
}

type Params = HashMap<&'static str, ParamValues>;

fn modules(script: &Script, builder: &mut NodeBuilder, errors: &mut Vec<String>) -> Params {
    let mut params = Params::new();
    for item in &script.items {
        match item {
            Item::LoadModule(text) => {
                let base = text.node.rsplit('/').next().unwrap_or_default();
                let name = base.strip_suffix(".so").unwrap_or(base);
                match tandem_modules::named(name) {
                    _ if builder.modules().iter().any(|module| module.name == name) => {
                        errors.push(format!("module '{name}' is loaded twice"));
                    }
                    Some(module) => builder.add_module(module),
                    None => errors.push(format!("there is no module '{name}'")),
                }
            }
            Item::Modparam(param) => modparam(param, builder.modules(), &mut params, errors),
            Item::Global(_) | Item::Route(_) => {}
        }
    }
    for module in builder.modules() {
        for needed in module.depends {
            if !builder.modules().iter().any(|other| other.name == *needed) {
                errors.push(format!("module '{}' needs module '{needed}'", module.name));
            }
        }
    }
    params
}

fn modparam(param: &Modparam, loaded: &[&'static ModuleDecl], params: &mut Params, errors: &mut Vec<String>) {
    let regex = PosixRegex::new(format!("^({})$", param.modules.node).as_bytes()).unwrap();
    let mut hits = 0;
    for module in loaded.iter().filter(|module| regex.is_match(module.name.as_bytes())) {
        hits += 1;
        let Some(spec) = module.params.iter().find(|spec| spec.name == param.name.node) else {
            errors.push(format!("module {} has no parameter '{}'", module.name, param.name.node));
            continue;
        };
        let fits = match (&param.value.node, spec.ty) {
            (ModparamValue::Int(_), ParamType::Text) | (ModparamValue::Text(_), ParamType::Int) => false,
            (ModparamValue::Int(_) | ModparamValue::Text(_), _) => true,
        };
        if !fits {
            errors.push(format!("parameter '{}' of module {} has the wrong type", spec.name, module.name));
            continue;
        }
        params.entry(module.name).or_default().set(spec, param.value.node.clone());
    }
    if hits == 0 {
        errors.push(format!("no module loaded so far matches '{}'", param.modules.node));
    }
}

fn level(level: i32) -> LogLevel {
    match level {
        i32::MIN..=-3 => LogLevel::Alert,
        -2 => LogLevel::Critical,
        -1 | 0 => LogLevel::Error,
        1 => LogLevel::Warning,
        2 => LogLevel::Notice,
        3 => LogLevel::Info,
        4.. => LogLevel::Debug,
    }
}

fn settings(globals: &Globals, dialect: Dialect) -> Settings {
    Settings {
        log_level: AtomicI32::new(globals.log_level),
        xlog_level: AtomicI32::new(globals.xlog_level),
        xlog_default_level: level(globals.xlog_print_level),
        asserts_enabled: globals.enable_asserts,
        translates_503: !globals.disable_503_translation,
        while_loops_max: globals.max_while_loops,
        is_multihomed: globals.mhomed,
        accept_aliases: globals.tcp_accept_aliases,
        advertised: (globals.advertised_address.clone(), globals.advertised_port),
        db_default_url: globals.db_default_url.clone(),
        is_v2_4: dialect == Dialect::V2_4,
        ..Settings::default()
    }
}

fn sockets(globals: &Globals) -> Result<Vec<Socket>, String> {
    let mut sockets = Vec::new();
    for def in &globals.sockets {
        add_sockets(&def.node, &mut sockets)?;
    }
    if sockets.is_empty() {
        let mut parts = super::LISTENER.splitn(2, ':');
        let _ = parts.next();
        let addr = parts.next().unwrap().parse().unwrap();
        sockets.push(Socket::new(SocketId(0), Proto::Udp, addr, None, None));
    }
    Ok(sockets)
}

fn add_sockets(def: &SocketDef, sockets: &mut Vec<Socket>) -> Result<(), String> {
    let proto = Proto::from_name(def.proto.as_bytes()).ok_or_else(|| format!("no transport '{}'", def.proto))?;
    let ip = match def.host.as_str() {
        "*" => std::net::IpAddr::from([127, 0, 0, 1]),
        host => host.parse().unwrap_or_else(|_| std::net::IpAddr::from([127, 0, 0, 1])),
    };
    let ports =
        if def.ports.is_empty() { vec![(proto.default_port(), proto.default_port())] } else { def.ports.clone() };
    for port in ports.into_iter().flat_map(|(first, last)| first..=last) {
        let advertised = def.advertised.as_ref().map(|(host, shown)| (host.clone(), shown.unwrap_or(port)));
        let id = SocketId(sockets.len() as u16);
        let mut socket = Socket::new(id, proto, (ip, port).into(), advertised, def.tag.clone());
        socket.is_anycast = def.options.iter().any(|option| option == "anycast");
        sockets.push(socket);
    }
    Ok(())
}
