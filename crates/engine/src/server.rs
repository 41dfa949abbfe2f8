//! Starts and stops a server: sockets, workers, the I/O runtime, modules in order.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tandem_module::declare::SetupError;
use tandem_module::mi::MiError;
use tandem_module::node::NodeRef;
use tandem_module::transport::Socket;
use tandem_module::worker::{Task, WorkerId, Workers};
use tandem_net::{BindError, Mailbox, Network};

use crate::handler::Worker;
use crate::links::LinkFilters;
use crate::loader::Loaded;
use crate::reload::Reloader;
use crate::resolver::DnsResolver;
use crate::routes::{self, TimerRoutes};
use crate::shed::Limits;
use crate::transport::{NetTransport, module_proto, module_socket};
use crate::workers::{MAILBOX_MAX, Pool};

/// Threads of the I/O runtime (databases, HTTP): they wait, they do not compute.
const IO_THREADS: usize = 1;
/// How often the end of a drain is looked for.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// What modules have to write at the end (rows of accounting, contacts) gets so long.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// How long ending the workers may take.
const JOIN_MAX: Duration = Duration::from_secs(2);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A module refuses.
    #[error("module {module}: {error}")]
    Module {
        /// Its name.
        module: &'static str,
        /// Why.
        error: SetupError,
    },
    /// The system refuses a thread or the runtime.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A running server.
pub struct Server {
    node: NodeRef,
    network: Arc<Network>,
    threads: Vec<JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
    reloader: Option<Arc<Reloader>>,
}

impl Server {
    /// Opens the sockets, starts modules and workers. Returns when requests are being served.
    ///
    /// # Errors
    /// [`StartError`]; everything opened is closed again.
    pub fn start(loaded: Loaded) -> Result<Server, StartError> {
        let Loaded { node, listeners, net, origin, limits, .. } = loaded;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("tandem-io")
            .enable_all()
            .build()?;
        let network = Network::bind_with(net, listeners, Some(Arc::new(LinkFilters::new(node))))?;
        let sockets = network.listeners().iter().map(|listener| {
            let spec = listener.spec();
            let socket = Socket::new(
                module_socket(listener.id()),
                module_proto(spec.proto),
                listener.local(),
                spec.advertised.clone(),
                spec.tag.clone(),
            );
            Socket { is_anycast: spec.is_anycast, ..socket }
        });
        node.set_sockets(sockets.collect());
        let mailboxes: Vec<Arc<Mailbox<Task>>> =
            (0..network.workers()).map(|worker| Arc::new(Mailbox::new(MAILBOX_MAX, network.waker(worker)))).collect();
        let pool = Arc::new(Pool::new(mailboxes.clone(), runtime.handle().clone()));
        node.set_workers(pool.clone());
        node.set_transport(Arc::new(NetTransport::new(network.clone())));
        node.set_resolver(Arc::new({
            // Its sockets belong to the I/O runtime.
            let _entered = runtime.enter();
            DnsResolver::system()
        }));
        register_statistics(node, &network, &pool);
        let mut server = Server { node, network, threads: Vec::new(), runtime: Some(runtime), reloader: None };
        server.start_modules(|module| (module.init)(node))?;
        tandem_module::event_routes::connect(node);
        server.start_workers(&pool, &mailboxes, limits)?;
        pool.post(WorkerId(0), Box::new(move |_| routes::run_startup(node)));
        server.start_modules(|module| (module.start)(node))?;
        let timers = TimerRoutes::start(node);
        if let Some(origin) = origin {
            let reloader = Arc::new(Reloader::new(origin, timers));
            server.reloader = Some(reloader.clone());
            node.set_reload(Box::new(move |node| reloader.command(node)));
        }
        Ok(server)
    }

    fn start_modules(
        &self,
        step: impl Fn(&'static tandem_module::ModuleDecl) -> Result<(), SetupError>,
    ) -> Result<(), StartError> {
        let _entered = self.runtime.as_ref().map(tokio::runtime::Runtime::enter);
        for module in self.node.modules() {
            step(module).map_err(|error| StartError::Module { module: module.name, error })?;
        }
        Ok(())
    }

    fn start_workers(
        &mut self,
        pool: &Arc<Pool>,
        mailboxes: &[Arc<Mailbox<Task>>],
        limits: Limits,
    ) -> Result<(), StartError> {
        for (index, mailbox) in mailboxes.iter().enumerate() {
            let (node, pool, mailbox, network) = (self.node, pool.clone(), mailbox.clone(), self.network.clone());
            let thread = std::thread::Builder::new().name(format!("tandem-{index}")).spawn(move || {
                let mut worker = Worker::enter(index, node, pool, mailbox, limits);
                if let Err(error) = tandem_net::run_worker(index, &network, &mut worker) {
                    tracing::error!(%error, index, "a worker ended");
                }
            })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// The node.
    pub fn node(&self) -> NodeRef {
        self.node
    }

    /// Reads the script again and puts its routes in place, as `reload_routes` does; blocks for as long as that takes.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub fn reload(&self) -> Result<Json, MiError> {
        match &self.reloader {
            Some(reloader) => reloader.run(self.node),
            None => Err(MiError::new(500, "the script of this process did not come from a file")),
        }
    }

    /// Stops: refuses new requests, waits up to `drain` for suspended scripts, then ends modules, which get up to
    /// 5 s to write what they have to, workers and the runtime.
    pub fn stop(mut self, drain: Duration) {
        self.node.begin_stop();
        let node = self.node;
        wait_until(drain, || node.parked.is_empty());
        self.shut_down();
    }

    fn shut_down(&mut self) {
        {
            let _entered = self.runtime.as_ref().map(tokio::runtime::Runtime::enter);
            for module in self.node.modules().iter().rev() {
                (module.stop)(self.node);
            }
        }
        let node = self.node;
        if !wait_until(FLUSH_MAX, || node.writes.is_empty()) {
            tracing::error!(
                "{} writes to databases were not done within {} s and are lost",
                node.writes.len(),
                FLUSH_MAX.as_secs()
            );
        }
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async {
                // A server that does not answer must not hold up the end.
                let _ = tokio::time::timeout(JOIN_MAX, node.db.close_all()).await;
            });
        }
        self.network.shutdown();
        let end = Instant::now() + JOIN_MAX;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < end {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(JOIN_MAX);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.runtime.is_some() {
            self.shut_down();
        }
    }
}

/// Waits until `holds` or the time is over; whether it held.
fn wait_until(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::park_timeout(DRAIN_STEP);
    }
    true
}

fn register_statistics(node: NodeRef, network: &Arc<Network>, pool: &Arc<Pool>) {
    let pool = pool.clone();
    node.stats.computed("core", "dropped_work", move || pool.dropped.load(std::sync::atomic::Ordering::Relaxed) as i64);
    node.stats.computed("core", "parked_runs", move || node.parked.len() as i64);
    node.stats.computed("core", "held_messages", move || node.call_order.held() as i64);
    let network = network.clone();
    node.stats.computed("net", "connections", move || network.connection_count() as i64);
}
