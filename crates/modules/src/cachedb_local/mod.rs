//! Module `cachedb_local`: key-value stores in memory.

use std::sync::Arc;
use std::time::Instant;

use tandem_module::declare::Setup;
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};
use tandem_store::memory::{MemoryLimits, MemoryStore};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "cachedb_local",
    doc: "memory key-value store",
    params: PARAMS,
    setup,
    init,
    ..ModuleDecl::EMPTY
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec {
        name: "cachedb_url",
        ty: ParamType::Text,
        default: "",
        is_repeatable: true,
        doc: "a further store: local:group:///; scripts name it local:group",
    },
    ParamSpec { name: "cache_table_size", ty: ParamType::Int, default: "9", is_repeatable: false, doc: "accepted, no effect" },
    ParamSpec { name: "cache_clean_period", ty: ParamType::Int, default: "600", is_repeatable: false, doc: "accepted, no effect" },
];

struct Groups(Vec<String>);

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let mut groups = Vec::new();
    for (at, url) in setup.params.all("cachedb_url").iter().enumerate() {
        let group = url.strip_prefix("local:").and_then(|rest| rest.split("://").next());
        match group {
            Some(group) => groups.push(group.trim_end_matches(':').to_owned()),
            None => return Err(SetupError::param_at("cachedb_url", at, format!("'{url}' does not begin with local:"))),
        }
    }
    setup.state(Groups(groups));
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let begin = Instant::now();
    let store = || {
        let clock = Arc::new(move || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
        Arc::new(MemoryStore::new(MemoryLimits::default(), clock))
    };
    node.caches.add("local", store());
    if let Some(groups) = node.state::<Groups>() {
        for group in groups.0.iter().filter(|group| !group.is_empty()) {
            node.caches.add(&format!("local:{group}"), store());
        }
    }
    Ok(())
}
