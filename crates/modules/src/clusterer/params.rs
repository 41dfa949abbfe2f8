//! Parameters of the module, in both dialects' names, and the configuration made of them.

use std::time::Duration;

use tandem_cluster::{
    ClusterConfig, ClusterId, ClusterNodeConfig, Family, NodeConfig, NodeId, Provisioning, SharingTagConfig,
    SyncSettings, TagSettings, Timers, parse_node_info,
};
use tandem_module::SetupError;
use tandem_module::declare::{ParamValues, Setup};
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::{int, list_param, text};

use super::security;
use super::service::Clusterer;

pub(super) const PARAMS: &[ParamSpec] = &[
    int("my_node_id", "", "id of this node"),
    int("current_id", "", "id of this node (name of 2.4)"),
    list_param(
        "my_node_info",
        ParamType::Text,
        "own record: cluster_id=1, url=bin:host[:port][, sip_addr=..., flags=seed, ...]; one per cluster",
    ),
    list_param("current_info", ParamType::Text, "own record (name of 2.4)"),
    list_param(
        "neighbor_node_info",
        ParamType::Text,
        "entry point: cluster_id=1, node_id=2, url=bin:host[:port]; repeatable",
    ),
    list_param("neighbor_info", ParamType::Text, "entry point (name of 2.4)"),
    int("db_mode", "1", "1: nodes come from the database; 0: from the script, others are learned"),
    text("db_url", "", "database of the node table"),
    text("db_table", "clusterer", "the node table"),
    text("db_bridge_table", "clusterer_bridge", "table of the bridges to other clusters; without it there are none"),
    text("db_bridges_table", "clusterer_bridge", "the same, as the code of 4.0 calls it"),
    list_param("sharing_tag", ParamType::Text, "name/cluster_id=active or =backup; repeatable"),
    list_param(
        "cluster_family",
        ParamType::Text,
        "cluster_id=2.4, =3.0, =3.2 or =3.3: version family spoken in a cluster; as the script's dialect, 2.4 or 3.3, when not given (Tandem only)",
    ),
    int("ping_interval", "4", "seconds between pings"),
    int("ping_timeout", "1000", "milliseconds to wait for a pong"),
    int("node_timeout", "60", "seconds between attempts to reach a node that is down"),
    int("seed_fallback_interval", "5", "seconds a seed node waits for a donor; 0 in scripts of 2.4"),
    int("sync_timeout", "15", "seconds of silence that end a sync"),
    int("sync_packet_size", "32768", "bytes a sync packet should not exceed"),
    int("dispatch_jobs", "1", "accepted, no effect: packets are always spread over the workers"),
    int("enable_stats", "1", "accepted, no effect: statistics cost nothing here"),
    int("tandem_extensions", "1", "1: Tandem nodes tell each other more in a capability others ignore (Tandem only)"),
    int("tag_lease", "10", "seconds a sharing tag stays with a silent Tandem node (Tandem only)"),
    int("tag_takeover", "0", "1: the node with the lowest priority takes a tag whose holder is gone (Tandem only)"),
    list_param(
        "shared_keys",
        ParamType::Text,
        "id of a cluster whose nodes share keys (cluster_publish, cluster_count); repeatable (Tandem only)",
    ),
    list_param(
        "cluster_secret",
        ParamType::Text,
        "[cluster_id=1, ]file=/path, or id=2026a, secret=TEXT: links are proven and encrypted; two per cluster, the newest last (Tandem only)",
    ),
    list_param(
        "cluster_legacy",
        ParamType::Text,
        "cluster_id=1, node_id=2[, address=...]: a peer that may speak plain BIN although there is a secret (Tandem only)",
    ),
    list_param(
        "cluster_roles",
        ParamType::Text,
        "cluster_id=1, node_id=2, roles=observer, or no-mi|no-tags|no-donor: what a node may not do (Tandem only)",
    ),
    list_param(
        "cluster_mi_allow",
        ParamType::Text,
        "cluster_id=1, command=NAME[, node_id=2]: with a secret, what other nodes may run here (Tandem only)",
    ),
    text("join_token", "", "a join token or its file: the secret is asked for at the first start (Tandem only)"),
    int("enable_rerouting", "1", "reach nodes over others when the direct link is down"),
    text("id_col", "id", "column"),
    text("cluster_id_col", "cluster_id", "column"),
    text("node_id_col", "node_id", "column"),
    text("url_col", "url", "column"),
    text("state_col", "state", "column"),
    text("no_ping_retries_col", "no_ping_retries", "column"),
    text("priority_col", "priority", "column"),
    text("sip_addr_col", "sip_addr", "column"),
    text("flags_col", "flags", "column"),
    text("description_col", "description", "column"),
];

/// Where node records come from in database mode.
#[derive(Clone, Debug)]
pub(super) struct TableNames {
    pub(super) url: String,
    pub(super) table: String,
    pub(super) bridges: String,
    /// id, cluster_id, node_id, url, state, no_ping_retries, priority, sip_addr, flags, description.
    pub(super) columns: [String; 10],
}

/// Everything the parameters say.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) core: ClusterNodeConfig,
    pub(super) database: Option<TableNames>,
    pub(super) families: Vec<(ClusterId, Family)>,
    /// Spoken in clusters that `families` does not name: that of the script's dialect.
    pub(super) default_family: Family,
    pub(super) tags: Vec<(ClusterId, SharingTagConfig)>,
    /// Clusters whose nodes share keys.
    pub(super) shared_keys: Vec<ClusterId>,
    pub(super) security: security::Settings,
}

pub(super) fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let configuration = read(setup)?;
    setup.state(Clusterer::new(configuration));
    Ok(())
}

fn read(setup: &Setup<'_>) -> Result<Configuration, SetupError> {
    let params = setup.params;
    let id = if params.is_set("my_node_id") { params.int("my_node_id", 0) } else { params.int("current_id", 0) };
    if id <= 0 {
        return Err(SetupError::new("my_node_id (current_id in 2.4) must be set to a number above 0"));
    }
    let id = NodeId(id);
    let families = families(params)?;
    let tags = sharing_tags(params)?;
    let mut core = ClusterNodeConfig::new(id, Vec::new());
    core.timers = timers(params)?;
    // A seed of 2.4 has its data from the beginning.
    let seed_fallback = if setup.settings.is_v2_4 { 0 } else { 5 };
    core.sync = SyncSettings {
        seed_fallback_interval: secs(params, "seed_fallback_interval", seed_fallback)?,
        sync_timeout: secs(params, "sync_timeout", 15)?,
        sync_packet_size: positive(params, "sync_packet_size", 32_768)? as usize,
        ..SyncSettings::default()
    };
    core.has_extensions = params.int("tandem_extensions", 1) != 0;
    core.tags =
        TagSettings { lease: secs(params, "tag_lease", 10)?, is_takeover_enabled: params.int("tag_takeover", 0) != 0 };
    core.sync.has_flow_control = true;
    core.is_rerouting_enabled = params.int("enable_rerouting", 1) != 0;
    let security = security::Settings::read(params)?;
    core.roles.clone_from(&security.roles);
    for (at, (cluster, tag)) in tags.iter().enumerate() {
        if tag.is_active && tandem_cluster::Roles::of(&core.roles, *cluster, id).has_no_tags {
            let text =
                format!("cluster_roles takes tags from this node, so {}/{cluster} cannot be active here", tag.name);
            return Err(SetupError::param_at("sharing_tag", at, text));
        }
    }
    let database = if params.int("db_mode", 1) == 0 {
        core.clusters = script_clusters(params, id)?;
        if let Some(token) = &security.token {
            add_seed(&mut core.clusters, token).map_err(|error| SetupError::param("join_token", error))?;
        }
        None
    } else {
        core.provisioning = Provisioning::Database;
        Some(database(setup)?)
    };
    // A script of 2.4 runs beside nodes of 2.4, and those understand no other family.
    let default_family = if setup.settings.is_v2_4 { Family::V2_4 } else { Family::default() };
    let shared_keys = shared_keys(params)?;
    let mut configuration = Configuration { core, database, families, default_family, tags, shared_keys, security };
    apply(&mut configuration);
    configuration.core.check().map_err(|error| SetupError::new(error.to_string()))?;
    Ok(configuration)
}

/// Puts families and tags into the clusters they are meant for.
pub(super) fn apply(configuration: &mut Configuration) {
    for cluster in &mut configuration.core.clusters {
        let named = configuration.families.iter().find(|(id, _)| *id == cluster.cluster_id);
        cluster.family = named.map_or(configuration.default_family, |(_, family)| *family);
        let tags = configuration.tags.iter().filter(|(id, _)| *id == cluster.cluster_id);
        cluster.sharing_tags = tags.map(|(_, tag)| tag.clone()).collect();
    }
}

fn script_clusters(params: &ParamValues, id: NodeId) -> Result<Vec<ClusterConfig>, SetupError> {
    let own_param = if params.is_set("my_node_info") { "my_node_info" } else { "current_info" };
    let mut clusters: Vec<ClusterConfig> = Vec::new();
    for (at, line) in params.all(own_param).iter().enumerate() {
        let (cluster, record) = parse_node_info(line, Some(id))
            .map_err(|error| SetupError::param_at(own_param, at, format!("{error} in \"{line}\"")))?;
        clusters.push(ClusterConfig::new(cluster, record, Vec::new()));
    }
    if clusters.is_empty() {
        return Err(SetupError::new(
            "db_mode=0 needs my_node_info (current_info in 2.4): \"cluster_id=1, url=bin:192.0.2.1:5555\"",
        ));
    }
    for param in ["neighbor_node_info", "neighbor_info"] {
        for (at, line) in params.all(param).iter().enumerate() {
            let (cluster, record) = parse_node_info(line, None)
                .map_err(|error| SetupError::param_at(param, at, format!("{error} in \"{line}\"")))?;
            add_neighbour(&mut clusters, cluster, record)
                .map_err(|message| SetupError::param_at(param, at, message))?;
        }
    }
    Ok(clusters)
}

/// The node that gave the join token is an entry point.
fn add_seed(clusters: &mut [ClusterConfig], token: &tandem_link::JoinToken) -> Result<(), String> {
    let (cluster, seed) = (ClusterId(token.ticket.cluster), NodeId(token.seed_node));
    let known = clusters.iter().find(|known| known.cluster_id == cluster);
    if known.is_some_and(|known| known.own.node_id.0 != token.ticket.node) {
        return Err(format!("the join token is for node {}, this is another", token.ticket.node));
    }
    if known.is_some_and(|known| known.nodes.iter().any(|node| node.node_id == seed)) {
        return Ok(());
    }
    let url = token.seed_url.parse().map_err(|_| "the join token names a listener that cannot be used".to_owned())?;
    add_neighbour(clusters, cluster, NodeConfig::new(seed, url))
}

fn add_neighbour(clusters: &mut [ClusterConfig], id: ClusterId, record: NodeConfig) -> Result<(), String> {
    let found = clusters.iter_mut().find(|cluster| cluster.cluster_id == id);
    let cluster = found.ok_or_else(|| format!("this node is not in cluster {id}: my_node_info does not name it"))?;
    if record.node_id == cluster.own.node_id {
        return Err(format!("node {} is this node itself", record.node_id));
    }
    if cluster.nodes.iter().any(|node| node.node_id == record.node_id) {
        return Err(format!("node {} of cluster {id} is given twice", record.node_id));
    }
    cluster.nodes.push(record);
    Ok(())
}

fn database(setup: &Setup<'_>) -> Result<TableNames, SetupError> {
    let params = setup.params;
    let url = params.text("db_url").or_else(|| setup.settings.db_default_url.clone());
    let url = url.ok_or_else(|| SetupError::new("db_mode=1 needs db_url; or set db_mode=0 and my_node_info"))?;
    let column = |name: &str| params.text_or(&format!("{name}_col"), name);
    let names = [
        "id",
        "cluster_id",
        "node_id",
        "url",
        "state",
        "no_ping_retries",
        "priority",
        "sip_addr",
        "flags",
        "description",
    ];
    let bridges = if params.is_set("db_bridges_table") { "db_bridges_table" } else { "db_bridge_table" };
    let bridges = params.text_or(bridges, "clusterer_bridge");
    Ok(TableNames { url, table: params.text_or("db_table", "clusterer"), bridges, columns: names.map(column) })
}

fn timers(params: &ParamValues) -> Result<Timers, SetupError> {
    Ok(Timers {
        ping_interval: secs(params, "ping_interval", 4)?,
        ping_timeout: Duration::from_millis(positive(params, "ping_timeout", 1000)?),
        node_timeout: secs(params, "node_timeout", 60)?,
    })
}

fn secs(params: &ParamValues, name: &'static str, default: i32) -> Result<Duration, SetupError> {
    if name == "seed_fallback_interval" && params.int(name, default) == 0 {
        return Ok(Duration::ZERO);
    }
    positive(params, name, default).map(Duration::from_secs)
}

fn positive(params: &ParamValues, name: &'static str, default: i32) -> Result<u64, SetupError> {
    match params.int(name, default) {
        value @ 1.. => Ok(value.unsigned_abs().into()),
        value => Err(SetupError::param(name, format!("{name} must be above 0, not {value}"))),
    }
}

fn families(params: &ParamValues) -> Result<Vec<(ClusterId, Family)>, SetupError> {
    let mut families = Vec::new();
    for (at, line) in params.all("cluster_family").iter().enumerate() {
        let parsed = line
            .split_once('=')
            .and_then(|(cluster, family)| Some((ClusterId(cluster.trim().parse().ok()?), family.trim().parse().ok()?)));
        let wrong = || {
            SetupError::param_at("cluster_family", at, format!("\"{line}\" is not cluster_id=2.4 or cluster_id=3.3"))
        };
        families.push(parsed.ok_or_else(wrong)?);
    }
    Ok(families)
}

fn shared_keys(params: &ParamValues) -> Result<Vec<ClusterId>, SetupError> {
    let mut clusters = Vec::new();
    for (at, line) in params.all("shared_keys").iter().enumerate() {
        let wrong = || SetupError::param_at("shared_keys", at, format!("\"{line}\" is no cluster id"));
        let cluster = ClusterId(line.trim().parse().map_err(|_| wrong())?);
        if !clusters.contains(&cluster) {
            clusters.push(cluster);
        }
    }
    Ok(clusters)
}

fn sharing_tags(params: &ParamValues) -> Result<Vec<(ClusterId, SharingTagConfig)>, SetupError> {
    let mut tags = Vec::new();
    for (at, line) in params.all("sharing_tag").iter().enumerate() {
        let parsed = line.split_once('=').and_then(|(tag, state)| {
            let (name, cluster) = tag.trim().rsplit_once('/')?;
            let is_active = match state.trim() {
                "active" => true,
                "backup" => false,
                _ => return None,
            };
            Some((
                ClusterId(cluster.trim().parse().ok()?),
                SharingTagConfig { name: name.trim().to_owned(), is_active },
            ))
        });
        let wrong =
            || SetupError::param_at("sharing_tag", at, format!("\"{line}\" is not name/cluster_id=active or =backup"));
        tags.push(parsed.ok_or_else(wrong)?);
    }
    Ok(tags)
}
