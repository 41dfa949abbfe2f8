//! From a script text to a node, without sockets: a short form of what the program's loader does.

use std::sync::Arc;

use hashbrown::HashMap;
use tandem_module::declare::{ModuleDecl, ParamValues};
use tandem_module::names::ProgramNames;
use tandem_module::node::{Alias, NodeBuilder, NodeRef};
use tandem_module::settings::Settings;
use tandem_module::transport::{Proto, Socket, SocketId};
use tandem_script::ast::{Dialect, Item, Modparam, ModparamValue, Script, SocketDef};
use tandem_script::diagnostic;
use tandem_script::globals::{self, Globals};
use tandem_script::program::Program;
use tandem_script::regex::PosixRegex;
use tandem_script::source::SourceMap;
use tandem_script::surface::ParamType;
use tandem_script::{check, compile, dialect, parser};

pub(super) struct Loaded {
    pub(super) node: NodeRef,
    pub(super) sockets: Vec<Socket>,
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
    let settings = Settings::from_globals(&globals, dialect);
    let none = ParamValues::default();
    for module in builder.modules().to_vec() {
        let mut names = ProgramNames { program: &mut program, surface: &surface };
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

/// Compiles a script for a node that runs another one already.
pub(super) fn recompile(text: &str, running: &Program) -> Result<Program, String> {
    let sources = SourceMap::from_text("test.cfg", text);
    let (script, mut diagnostics) = parser::parse(&sources);
    let dialect = running.dialect();
    diagnostics.extend(check::check(&script, dialect, running.surface(), &check::CheckOptions::default()));
    let mut program = None;
    if !diagnostic::has_errors(&diagnostics) {
        let (compiled, found) = compile::recompile(&script, &sources, running);
        diagnostics.extend(found);
        program = compiled;
    }
    program.ok_or_else(|| diagnostic::render(&diagnostics, &sources))
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
            if !builder.modules().iter().any(|other| needed.split('|').any(|one| one == other.name)) {
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
