//! Module `drouting`: calls are routed by prefixes, groups, times and priorities to gateways and carriers, which are tried one
//! after the other and probed. Their states may be shared with a cluster.

mod blacklists;
mod config;
mod data;
mod load;
mod management;
mod matching;
mod output;
mod partition;
mod probing;
mod routing;
mod rows;
mod sharing;
mod surface;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tandem_module::context::Context;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::vm::LogLevel;

use crate::core::db_load;

use config::Config;
use partition::Partition;
use sharing::Sharing;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "drouting",
    doc: "dynamic routing: prefixes to gateways and carriers",
    params: surface::PARAMS,
    functions: surface::FUNCTIONS,
    events: surface::EVENTS,
    commands: surface::COMMANDS,
    setup: |setup| {
        let config = Config::read(setup)?;
        let sharing = config.clustering.clone().map(Sharing::new);
        let (is_probing, is_loaded) = (AtomicBool::new(true), AtomicBool::new(false));
        setup.state(Drouting { config, partitions: RwLock::default(), is_probing, is_loaded, sharing });
        Ok(())
    },
    init,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

/// State of the module.
struct Drouting {
    config: Config,
    partitions: RwLock<Vec<Arc<Partition>>>,
    /// `drouting:enable_probing`.
    is_probing: AtomicBool,
    /// All partitions are known and were tried to be read.
    is_loaded: AtomicBool,
    /// With `cluster_id`.
    sharing: Option<Sharing>,
}

impl Drouting {
    fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().clone()
    }

    fn partition(&self, name: &[u8]) -> Option<Arc<Partition>> {
        self.partitions.read().iter().find(|partition| partition.name.as_bytes() == name).cloned()
    }

    /// The partitions that a script means; none (logged) for a name that there is not.
    fn wanted(&self, context: &Context, name: Option<&[u8]>) -> Vec<Arc<Partition>> {
        if !self.config.uses_partitions {
            return self.partitions();
        }
        match name.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            None => {
                context.log(LogLevel::Error, "drouting: with use_partitions the partition must be named");
                Vec::new()
            }
            Some(b"*") => self.partitions(),
            Some(name) => {
                let found: Vec<_> = self.partition(name).into_iter().collect();
                if found.is_empty() {
                    let name = String::from_utf8_lossy(name.get(..64).unwrap_or(name)).into_owned();
                    context.log(LogLevel::Error, &format!("drouting: there is no partition '{name}'"));
                }
                found
            }
        }
    }
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Drouting>() else { return Ok(()) };
    management::register(node, own);
    blacklists::define(node, own)?;
    if let Some(sharing) = &own.sharing {
        sharing.join(node)?;
    }
    // A wrong URL is told before anything is opened; a driver that comes later in the script is waited for.
    let (param, url) = own.config.first_url();
    db_load::open(node, param, url).map(|_| ())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Drouting>() else { return Ok(()) };
    let loading = async move {
        let result = load::start(node, own).await;
        own.is_loaded.store(true, Ordering::Release);
        blacklists::check(own);
        result
    };
    db_load::load_at_start(node, "drouting", Box::pin(loading))?;
    probing::start(node, own);
    Ok(())
}

fn stop(node: NodeRef) {
    let Some(own) = node.state::<Drouting>() else { return };
    for partition in own.partitions() {
        partition.flush_later(node);
    }
}
