//! Node records from SQL: loading at start and on command, storing the state that a command sets.

use std::time::Duration;

use serde_json::json;
use tandem_cluster::{BRIDGES_MAX, Bridge, ClusterConfig, ClusterId, ClusterNodeConfig, NodeConfig, NodeId};
use tandem_module::db::{Db, DbError, DbOp, DbRows, DbValue, Statement};
use tandem_module::mi::{MiError, MiReply};
use tandem_module::worker::WorkerId;
use tandem_module::{NodeRef, SetupError};

use super::params::{self, Configuration, TableNames};
use super::service::Clusterer;

/// Pause before a node table that could not be read at start is read again; doubles each time.
const RETRY: Duration = Duration::from_secs(1);
/// Upper bound of the doubled [`RETRY`].
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Loads the records and starts the core with them. A table that cannot be read is read again until it can: SIP is served
/// meanwhile, cluster functions return -3.
///
/// Deviation: OpenSIPS does not start then.
pub(super) fn begin(node: NodeRef, clusterer: &'static Clusterer) -> Result<(), SetupError> {
    let Some(names) = clusterer.configuration.database.as_ref() else { return Ok(()) };
    node.db.open(&names.url).map_err(|error| SetupError::param("db_url", error.to_string()))?;
    load_and_begin(node, clusterer, RETRY);
    Ok(())
}

fn load_and_begin(node: NodeRef, clusterer: &'static Clusterer, wait: Duration) {
    let Some(workers) = node.workers() else { return };
    workers.spawn(Box::pin(async move {
        let loaded = load(node, &clusterer.configuration).await.map_err(|error| error.to_string());
        let begun = loaded.and_then(|config| begin_with(node, clusterer, config));
        let Err(reason) = begun else {
            if wait > RETRY {
                clusterer.report("node_states".into(), "the node table has been loaded".into());
            }
            return;
        };
        // By the command to reload.
        if clusterer.is_running() {
            return;
        }
        if wait == RETRY {
            clusterer.report("node_states".into(), format!("the node table cannot be loaded: {reason}"));
        }
        tracing::error!(
            "this node is in no cluster yet: its node table cannot be loaded, trying again in {} s (at once with \
             clusterer:reload): {reason}",
            wait.as_secs()
        );
        if let Some(workers) = node.workers() {
            let again = move |_| load_and_begin(node, clusterer, (wait * 2).min(RETRY_MAX));
            workers.after(WorkerId(0), tandem_module::clock::now() + wait, Box::new(again));
        }
    }));
}

fn begin_with(node: NodeRef, clusterer: &'static Clusterer, config: ClusterNodeConfig) -> Result<(), String> {
    // Unlike the script the table may name the listener of a later restart.
    if let Err(error) = super::service::check_listeners(node, &config) {
        tracing::error!("{error}");
    }
    if clusterer.begin(node, config).map_err(|error| error.to_string())? {
        super::security::start(node, clusterer);
    }
    Ok(())
}

/// `clusterer:reload`. When the table cannot be read, or what it says cannot be used, all stays as it is.
pub(super) fn reload(node: NodeRef, clusterer: &'static Clusterer) -> MiReply {
    if clusterer.configuration.database.is_none() {
        return MiReply::Now(Err(MiError::new(400, "Non-DB mode")));
    }
    MiReply::Later(Box::pin(async move {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!("clusterer:reload failed, the nodes are those of before: {error}");
            MiError::new(500, "Failed to reload")
        };
        let config = load(node, &clusterer.configuration).await.map_err(|error| failed(&error))?;
        if !clusterer.is_running() {
            return begin_with(node, clusterer, config).map(|()| json!("OK")).map_err(|error| failed(&error));
        }
        let (bridges, clusters) = (config.bridges, config.clusters.clone());
        let reload = |core: &mut tandem_cluster::ClusterNode| {
            let before: Vec<ClusterId> = core.cluster_ids().collect();
            core.reload(config.clusters, clusterer.now())?;
            clusterer.security.set_clusters(&clusters);
            // The modules registered when this node was not in it yet.
            clusterer.register_in(core, |id| clusters.iter().any(|new| new.cluster_id == id) && !before.contains(&id));
            core.set_bridges(bridges, clusterer.now());
            Ok(())
        };
        let reloaded: Option<Result<(), tandem_cluster::ConfigError>> = clusterer.with(node, reload);
        match reloaded {
            Some(Err(error)) => Err(failed(&error)),
            _ => Ok(json!("OK")),
        }
    }))
}

/// Stores the state that `set_status` has set; for the own node in all clusters.
pub(super) fn store_state(
    node: NodeRef,
    clusterer: &Clusterer,
    cluster: ClusterId,
    id: Option<NodeId>,
    is_enabled: bool,
) {
    let Some(names) = clusterer.configuration.database.clone() else { return };
    let own = clusterer.configuration.core.node_id;
    let id = id.unwrap_or(own);
    let [_, cluster_col, node_col, _, state_col, ..] = &names.columns;
    let mut keys = vec![(node_col.clone(), DbOp::Eq, DbValue::Int(id.0.into()))];
    if id != own {
        keys.push((cluster_col.clone(), DbOp::Eq, DbValue::Int(cluster.0.into())));
    }
    let values = vec![(state_col.clone(), DbValue::Int(is_enabled.into()))];
    let statement = Statement::Update { table: names.table.clone(), values, keys };
    let Ok(db) = node.db.open(&names.url) else { return };
    node.spawn_write(async move {
        if let Err(error) = db.run(statement).await {
            tracing::error!("the state of node {id} was not stored: {error}");
        }
    });
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{0}")]
    Database(#[from] DbError),
    #[error("no row of table '{0}' has the id of this node ({1})")]
    NoOwnRow(String, NodeId),
    #[error("row {0}: {1}")]
    Row(usize, String),
}

async fn load(node: NodeRef, configuration: &Configuration) -> Result<ClusterNodeConfig, LoadError> {
    let mut configuration = configuration.clone();
    let Some(names) = configuration.database.clone() else { return Ok(configuration.core) };
    let db = node.db.open(&names.url)?;
    let statement = Statement::Select {
        table: names.table.clone(),
        columns: names.columns.to_vec(),
        keys: Vec::new(),
        order: None,
        limit: None,
    };
    let rows = db.run(statement).await?;
    configuration.core.clusters = clusters_of(&rows, configuration.core.node_id, &names)?;
    configuration.core.bridges = load_bridges(db.as_ref(), &names, &configuration.core.clusters).await?;
    params::apply(&mut configuration);
    Ok(configuration.core)
}

/// Rows of the bridge table (OpenSIPS 4.0). A table that is not there means that there are no bridges; a database that has
/// gone away meanwhile does not.
async fn load_bridges(db: &dyn Db, names: &TableNames, clusters: &[ClusterConfig]) -> Result<Vec<Bridge>, DbError> {
    let columns = ["cluster_a", "cluster_b", "send_shtag", "dst_node_csv"];
    let statement = Statement::Select {
        table: names.bridges.clone(),
        columns: columns.map(str::to_owned).to_vec(),
        keys: Vec::new(),
        order: None,
        limit: None,
    };
    let rows = match db.run(statement).await {
        Ok(rows) => rows,
        Err(error) if error.is_away() => return Err(error),
        Err(error) => {
            tracing::info!("no bridges to other clusters: table '{}' cannot be read: {error}", names.bridges);
            return Ok(Vec::new());
        }
    };
    let mut bridges = Vec::new();
    for (at, row) in rows.rows.iter().enumerate() {
        match bridge(row) {
            // The bridges of other clusters concern others.
            Ok(bridge) if !clusters.iter().any(|known| known.cluster_id == bridge.cluster) => {}
            Ok(_) if bridges.len() >= BRIDGES_MAX => {
                tracing::error!(
                    "table '{}' names more than {BRIDGES_MAX} bridges; the others are left out",
                    names.bridges
                );
                break;
            }
            Ok(bridge) => bridges.push(bridge),
            Err(reason) => tracing::error!("table '{}', row {}: {reason}; the row is left out", names.bridges, at + 1),
        }
    }
    Ok(bridges)
}

fn bridge(row: &[DbValue]) -> Result<Bridge, String> {
    let cluster = |at: usize, name: &str| {
        let id = row.get(at).and_then(DbValue::as_int).and_then(|id| i32::try_from(id).ok()).filter(|id| *id > 0);
        id.map(ClusterId).ok_or_else(|| format!("{name} is no cluster id"))
    };
    let text = |at: usize| {
        row.get(at)
            .and_then(DbValue::to_text)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    };
    let send_shtag = text(2).trim().to_owned();
    if send_shtag.is_empty() {
        return Err("send_shtag is empty".into());
    }
    let list = text(3);
    let urls = list.split(',').map(str::trim).filter(|url| !url.is_empty());
    let destinations: Result<Vec<_>, String> =
        urls.map(|url| url.parse().map_err(|error: tandem_cluster::UrlError| format!("{url}: {error}"))).collect();
    let destinations = destinations?;
    if destinations.is_empty() {
        return Err("dst_node_csv is empty".into());
    }
    Ok(Bridge { cluster: cluster(0, "cluster_a")?, to_cluster: cluster(1, "cluster_b")?, send_shtag, destinations })
}

fn clusters_of(rows: &DbRows, own: NodeId, names: &TableNames) -> Result<Vec<ClusterConfig>, LoadError> {
    let mut records = Vec::new();
    for (at, row) in rows.rows.iter().enumerate() {
        records.push(record(row).map_err(|reason| LoadError::Row(at + 1, reason))?);
    }
    let own_rows = records.iter().filter(|(_, record)| record.node_id == own);
    let mut clusters: Vec<ClusterConfig> =
        own_rows.map(|(cluster, record)| ClusterConfig::new(*cluster, record.clone(), Vec::new())).collect();
    if clusters.is_empty() {
        return Err(LoadError::NoOwnRow(names.table.clone(), own));
    }
    for (id, record) in records {
        if record.node_id != own
            && let Some(cluster) = clusters.iter_mut().find(|cluster| cluster.cluster_id == id)
        {
            cluster.nodes.push(record);
        }
    }
    Ok(clusters)
}

/// One row in the order of [`TableNames::columns`].
fn record(row: &[DbValue]) -> Result<(ClusterId, NodeConfig), String> {
    let int = |at: usize| row.get(at).and_then(DbValue::as_int).and_then(|int| i32::try_from(int).ok());
    let text = |at: usize| {
        row.get(at)
            .and_then(DbValue::to_text)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .filter(|text| !text.is_empty())
    };
    let cluster = int(1).ok_or("no cluster_id")?;
    let id = int(2).ok_or("no node_id")?;
    let url = text(3).ok_or("no url")?.parse().map_err(|error: tandem_cluster::UrlError| error.to_string())?;
    let mut record = NodeConfig::new(NodeId(id), url);
    record.db_id = int(0).unwrap_or(-1);
    record.is_enabled = int(4).unwrap_or(1) != 0;
    record.no_ping_retries = int(5).unwrap_or(3);
    record.priority = int(6).unwrap_or(50);
    record.sip_addr = text(7).unwrap_or_default();
    record.is_seed = text(8).is_some_and(|flags| flags.starts_with("seed"));
    record.description = text(9);
    Ok((ClusterId(cluster), record))
}
