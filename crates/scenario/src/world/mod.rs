//! The node under test and everything around it: it is loaded by the real loader and runs the real machine, transactions and
//! cluster on one thread and a clock moved by hand. It knows no steps and judges nothing.

mod around;
pub(crate) mod database;
pub(crate) mod logs;
mod names;
mod peers;
pub(crate) mod phone;
pub(crate) mod wire;
mod workers;

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_cluster::{NodeId, parse_node_info};
use tandem_engine::loader::{self, LoadOptions, Loaded};
use tandem_module::clock;
use tandem_module::mi::{MiParams, MiReply, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::transport::{Proto, Socket, SocketId};
use tandem_module::worker::WorkerId;
use tandem_script::ast::{Dialect, Item, ModparamValue, RouteKind};
use tandem_script::coverage::LineRuns;
use tandem_script::program::Program;
use tandem_script::pvar::{self, Scope};
use tandem_script::value::{Text, Value};
use tandem_store::{MemoryLimits, MemoryStore};

pub(crate) use around::Around;
use database::Database;
use names::Names;
use peers::{Own, Peers};
use wire::{Listener, Wire};
use workers::VirtualWorkers;

use crate::syntax::TestFile;

/// Modules whose start opens sockets of their own: they are loaded, but not started.
const WITH_SOCKETS: [&str; 8] =
    ["httpd", "mi_fifo", "mi_datagram", "mi_xmlrpc_ng", "mi_http", "event_datagram", "event_stream", "proto_hep"];
/// How long the cluster may take to come up before a test begins.
const CLUSTER_UP_MAX: Duration = Duration::from_secs(30);
/// How long before the time of the test the node starts, in milliseconds.
const LEAD_MS: i64 = 60_000;
/// How far time moves between two looks at the cluster.
const CLUSTER_STEP: Duration = Duration::from_millis(50);

/// What a node is started with.
pub(crate) struct Setup<'a> {
    pub(crate) file: &'a TestFile,
    pub(crate) database: &'a Database,
    /// Names of the DNS.
    pub(crate) names: Vec<(String, Proto, SocketAddr)>,
    /// Wall clock, Unix milliseconds.
    pub(crate) unix_ms: i64,
    /// Nodes that are down from the start.
    pub(crate) down: Vec<i32>,
    /// Whether lines are counted.
    pub(crate) is_counted: bool,
}

/// A running node in its surroundings.
pub(crate) struct World {
    pub(crate) node: NodeRef,
    pub(crate) around: Arc<Around>,
    pub(crate) wire: Arc<Wire>,
    workers: Arc<VirtualWorkers>,
    /// When the first step begins.
    pub(crate) begun: Instant,
    program: Arc<tandem_script::program::Program>,
}

/// Loads the script of a file, as `tandem check` would, for its errors.
pub(crate) fn load(file: &TestFile, names: &[(String, Proto, SocketAddr)]) -> Result<Loaded, String> {
    let options = LoadOptions {
        dialect: file.dialect,
        permissive: file.is_permissive,
        workers: Some(1),
        files: file.files.iter().map(|(asked, other)| (PathBuf::from(asked), other.clone())).collect(),
        hosts: names.iter().map(|(host, _, addr)| (host.clone(), addr.ip())).collect(),
        ..LoadOptions::default()
    };
    loader::load(&file.script, &options).map_err(|refused| refused.render())
}

impl World {
    pub(crate) fn start(setup: Setup<'_>) -> Result<World, String> {
        tandem_module::worker::enter(WorkerId(0));
        // The node was there for a while when the test begins; so its clock never has to be set back.
        clock::hold(setup.unix_ms.saturating_sub(LEAD_MS));
        logs::install();
        logs::clear();
        let loaded = load(setup.file, &setup.names)?;
        let node = loaded.node;
        let mut program = (*node.program()).clone();
        if setup.is_counted {
            program.count_runs();
        }
        let program = Arc::new(program);
        node.set_program(program.clone());
        let workers = Arc::new(VirtualWorkers::default());
        let wire = Arc::new(Wire::new(workers.clone()));
        node.set_sockets(sockets(&loaded));
        node.set_workers(workers.clone());
        node.set_transport(wire.clone());
        node.set_resolver(Arc::new(Names::new(setup.names)));
        node.db.set_stand_in(setup.database.shared());
        node.caches
            .set_stand_in(Box::new(|_| Arc::new(MemoryStore::new(MemoryLimits::default(), Arc::new(store_clock)))));
        start_modules(node, &workers)?;
        let around = Around::new(node, workers.clone(), wire.clone(), setup.file, listeners(node));
        wire.set_receivers(Arc::new(around.clone()));
        let mut world = World { node, around, wire, workers, begun: clock::now(), program };
        world.settle();
        world.start_cluster(&loaded, setup.file, &setup.down)?;
        // What the start itself has caused is not a part of the test.
        world.wire.with_entries(Vec::clear);
        logs::clear();
        clock::hold(setup.unix_ms);
        world.begun = clock::now();
        Ok(world)
    }

    fn start_cluster(&self, loaded: &Loaded, file: &TestFile, down: &[i32]) -> Result<(), String> {
        if file.nodes.is_empty() {
            return Ok(());
        }
        let own = own_record(loaded)
            .ok_or("the test has nodes, but the script has no clusterer with my_node_id and my_node_info")?;
        let mut peers = Peers::new(own, &file.nodes)?;
        for id in down {
            peers.stop(*id);
        }
        self.around.set_peers(peers);
        let end = clock::now() + CLUSTER_UP_MAX;
        while clock::now() < end {
            self.pass(CLUSTER_STEP);
            let (running, is_connected) =
                self.around.with_peers(|peers| (peers.running(), peers.is_connected())).unwrap_or((0, true));
            let up = self.node.stats.value("clusterer_nodes_up").unwrap_or(0);
            if is_connected && usize::try_from(up).is_ok_and(|up| up >= running) {
                // What follows a link that came up, such as topology updates, may take a moment.
                self.pass(CLUSTER_STEP);
                return Ok(());
            }
        }
        Err("the nodes of the test do not come up: do their addresses fit what the script calls its neighbours?"
            .to_owned())
    }

    /// Does all that is to be done at this moment.
    pub(crate) fn settle(&self) {
        self.workers.run_to(clock::now(), || false);
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, span: Duration) {
        self.workers.run_to(clock::now() + span, || false);
    }

    /// Lets time pass until `is_enough`, at most `span`.
    pub(crate) fn pass_until(&self, span: Duration, is_enough: impl FnMut() -> bool) {
        self.workers.run_to(clock::now() + span, is_enough);
    }

    /// Runs a future of the node to its end.
    pub(crate) fn wait_for<T: Send + 'static>(&self, future: tandem_module::db::BoxFuture<T>) -> Result<T, String> {
        self.workers.wait_for(future).ok_or_else(|| "it did not end within ten seconds of real time".to_owned())
    }

    /// Runs a management command.
    pub(crate) fn mi(&self, command: &str, params: MiParams) -> Result<MiResult, String> {
        match self.node.mi.run(command, params) {
            MiReply::Now(result) => Ok(result),
            MiReply::Later(future) => self.wait_for(future),
        }
    }

    /// Runs a timer route now.
    pub(crate) fn fire(&self, route: &str) -> Result<(), String> {
        let find = |program: &Program| program.route(RouteKind::Timer, route);
        if !tandem_module::run::start_alone(self.node, RouteKind::Timer, find) {
            return Err(format!("the script has no timer_route[{route}, ...]"));
        }
        self.settle();
        Ok(())
    }

    fn variable(&self, text: &str) -> Result<pvar::CompiledVar, String> {
        let scope = Scope { surface: self.node.surface(), dialect: self.program.dialect() };
        pvar::parse_exact(text.as_bytes(), scope).map_err(|error| format!("{text}: {}", error.message))
    }

    /// The text of a variable that needs no message; `None` for null.
    pub(crate) fn read(&self, text: &str) -> Result<Option<String>, String> {
        let var = self.variable(text)?;
        let value = tandem_module::run::on_dummy(self.node, |context| context.read_var(&var));
        Ok(value.as_text().map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    /// Writes a variable.
    pub(crate) fn write(&self, text: &str, value: &str) -> Result<(), String> {
        let var = self.variable(text)?;
        let value = match value.parse::<i32>() {
            Ok(number) => Value::Int(number),
            Err(_) => Value::Text(Text::copy(value.as_bytes())),
        };
        let is_written = tandem_module::run::on_dummy(self.node, |context| context.write_var(&var, value));
        if is_written { Ok(()) } else { Err(format!("{text} cannot be written")) }
    }

    /// Which lines ran how often; empty when they were not counted.
    pub(crate) fn line_runs(&self) -> Vec<LineRuns> {
        self.program.line_runs()
    }

    pub(crate) fn is_v2_4(&self) -> bool {
        self.program.dialect() == Dialect::V2_4
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for module in self.node.modules().iter().rev().filter(|module| !WITH_SOCKETS.contains(&module.name)) {
            (module.stop)(self.node);
        }
        self.workers.clear();
    }
}

/// Milliseconds on the clock of the test, for key-value stores.
fn store_clock() -> u64 {
    u64::try_from(clock::unix_ms()).unwrap_or(0)
}

fn start_modules(node: NodeRef, workers: &VirtualWorkers) -> Result<(), String> {
    let failed = |name: &str, error: tandem_module::SetupError| format!("module {name}: {error}");
    for module in node.modules() {
        (module.init)(node).map_err(|error| failed(module.name, error))?;
    }
    tandem_module::event_routes::connect(node);
    tandem_engine::run_startup(node);
    for module in node.modules().iter().filter(|module| !WITH_SOCKETS.contains(&module.name)) {
        (module.start)(node).map_err(|error| failed(module.name, error))?;
    }
    tandem_engine::start_timers(node);
    workers.settle();
    Ok(())
}

fn sockets(loaded: &Loaded) -> Vec<Socket> {
    let specs = loaded.listeners.iter().enumerate();
    let sockets = specs.map(|(at, spec)| {
        let proto = tandem_engine::transport::module_proto(spec.proto);
        let addr = SocketAddr::new(spec.ip, spec.port);
        let socket = Socket::new(SocketId(at as u16), proto, addr, spec.advertised.clone(), spec.tag.clone());
        Socket { is_anycast: spec.is_anycast, ..socket }
    });
    sockets.collect()
}

fn listeners(node: NodeRef) -> Vec<Listener> {
    node.sockets().iter().map(|socket| Listener { id: socket.id, addr: socket.addr, proto: socket.proto }).collect()
}

/// What the script says about its own node.
fn own_record(loaded: &Loaded) -> Option<Own> {
    let (script, _) = tandem_script::parser::parse(&loaded.sources);
    let (mut id, mut info) = (None, None);
    for item in &script.items {
        let Item::Modparam(param) = item else { continue };
        if !param.modules.node.contains("clusterer") {
            continue;
        }
        match (param.name.node.as_str(), &param.value.node) {
            ("my_node_id" | "current_id", ModparamValue::Int(number)) => id = Some(*number),
            ("my_node_info" | "current_info", ModparamValue::Text(text)) => info = Some(text.clone()),
            _ => {}
        }
    }
    let id = NodeId(id?);
    let (cluster, record) = parse_node_info(std::str::from_utf8(&info?).ok()?, Some(id)).ok()?;
    Some(Own { cluster, id, record })
}

/// A path as it is shown: without `folder/..`.
pub(crate) fn shown(path: &Path) -> String {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::ParentDir, Some(Component::Normal(_))) => {
                parts.pop();
            }
            (Component::CurDir, _) => {}
            _ => parts.push(part),
        }
    }
    parts.iter().collect::<PathBuf>().display().to_string()
}
