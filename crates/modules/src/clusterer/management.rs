//! The management commands of the cluster, with the results OpenSIPS gives.

use serde_json::{Value as Json, json};
use tandem_cluster::{
    ClusterId, ClusterList, MiSendError, NodeId, RemoveNodeError, SetStatusError, SharingTagError, SharingTagReason,
    TopologyList,
};
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiParams, MiReply, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;

use super::database;
use super::service::Clusterer;
use super::text_form;
use super::variable::parse_tag;

const LIST: CommandSpec = CommandSpec {
    name: "clusterer:list",
    aliases: &["clusterer_list"],
    params: &[],
    doc: "nodes and links of all clusters",
};
const TOPOLOGY: CommandSpec = CommandSpec {
    name: "clusterer:list_topology",
    aliases: &["clusterer_list_topology"],
    params: &[],
    doc: "which node sees which others",
};
const CAPABILITIES: CommandSpec = CommandSpec {
    name: "clusterer:list_cap",
    aliases: &["clusterer_list_cap"],
    params: &[],
    doc: "capabilities of this node and whether they are in sync",
};
const SET_CAP_STATUS: CommandSpec = CommandSpec {
    name: "clusterer:set_cap_status",
    aliases: &["clusterer_set_cap_status"],
    params: &["cluster_id", "capability", "status"],
    doc: "enables (1) or disables (0) a capability",
};
const SET_STATUS: CommandSpec = CommandSpec {
    name: "clusterer:set_status",
    aliases: &["clusterer_set_status"],
    params: &["cluster_id", "node_id?", "status?"],
    doc: "enables (1) or disables (0) a node as seen from here; the own one without node_id",
};
const REMOVE_NODE: CommandSpec = CommandSpec {
    name: "clusterer:remove_node",
    aliases: &["clusterer_remove_node"],
    params: &["cluster_id", "node_id"],
    doc: "removes a node from the cluster on all nodes",
};
const SEND_MI: CommandSpec = CommandSpec {
    name: "clusterer:send_mi",
    aliases: &["cluster_send_mi"],
    params: &["cluster_id", "destination", "cmd_name", "cmd_params?..."],
    doc: "runs a command on another node; its result is only in that node's log",
};
const BROADCAST_MI: CommandSpec = CommandSpec {
    name: "clusterer:broadcast_mi",
    aliases: &["cluster_broadcast_mi"],
    params: &["cluster_id", "cmd_name", "cmd_params?..."],
    doc: "runs a command here and on all nodes; gives the local result",
};
const LIST_TAGS: CommandSpec = CommandSpec {
    name: "clusterer:list_shtags",
    aliases: &["clusterer_list_shtags"],
    params: &[],
    doc: "sharing tags and whether they are active here",
};
const TAG_SET_ACTIVE: CommandSpec = CommandSpec {
    name: "clusterer:shtag_set_active",
    aliases: &["clusterer_shtag_set_active"],
    params: &["tag"],
    doc: "takes a sharing tag (name/cluster_id) for this node",
};
const RELOAD: CommandSpec = CommandSpec {
    name: "clusterer:reload",
    aliases: &["clusterer_reload"],
    params: &[],
    doc: "reads the node table again",
};
const REPORTS: CommandSpec = CommandSpec {
    name: "clusterer:reports",
    aliases: &[],
    params: &[],
    doc: "what happened to nodes, tags and capabilities, newest last (Tandem only)",
};

pub(super) const COMMANDS: [CommandSpec; 12] = [
    LIST,
    TOPOLOGY,
    CAPABILITIES,
    SET_CAP_STATUS,
    SET_STATUS,
    REMOVE_NODE,
    SEND_MI,
    BROADCAST_MI,
    LIST_TAGS,
    TAG_SET_ACTIVE,
    RELOAD,
    REPORTS,
];

/// Registers all commands.
pub(super) fn register(node: NodeRef, clusterer: &'static Clusterer) {
    let mi = &node.mi;
    mi.register(LIST, move |_| listing(clusterer.read(|core| clusters_json(&core.list()))).into());
    mi.register(TOPOLOGY, move |_| listing(clusterer.read(|core| topology_json(&core.list_topology()))).into());
    mi.register(CAPABILITIES, move |_| listing(clusterer.read(capabilities_json)).into());
    mi.register(LIST_TAGS, move |_| Ok(clusterer.read(tags_json).unwrap_or_else(|| json!([]))).into());
    mi.register(SET_STATUS, move |request| set_status(node, clusterer, request).into());
    mi.register(SET_CAP_STATUS, move |request| set_cap_status(node, clusterer, request).into());
    mi.register(REMOVE_NODE, move |request| remove_node(node, clusterer, request).into());
    mi.register(SEND_MI, move |request| send_mi(node, clusterer, request).into());
    mi.register(BROADCAST_MI, move |request| broadcast_mi(node, clusterer, request));
    mi.register(TAG_SET_ACTIVE, move |request| set_tag(node, clusterer, request).into());
    mi.register(RELOAD, move |_| database::reload(node, clusterer));
    mi.register(REPORTS, move |_| Ok(reports_json(clusterer)).into());
    mi.lay_out(LIST, |json| text_form::clusters(json, "Nodes", text_form::node));
    mi.lay_out(TOPOLOGY, |json| text_form::clusters(json, "Nodes", text_form::neighbours));
    mi.lay_out(CAPABILITIES, |json| text_form::clusters(json, "Capabilities", text_form::capability));
}

fn listing(clusters: Option<Vec<Json>>) -> MiResult {
    Ok(json!({ "Clusters": clusters.unwrap_or_default() }))
}

fn none_or(text: Option<String>) -> String {
    text.unwrap_or_else(|| "none".to_owned())
}

fn clusters_json(clusters: &[ClusterList]) -> Vec<Json> {
    let rows = clusters.iter().map(|cluster| {
        let nodes: Vec<Json> = cluster
            .nodes
            .iter()
            .map(|row| {
                json!({
                    "node_id": row.node_id.0,
                    "db_id": row.db_id,
                    "url": row.url,
                    "link_state": row.link_state.as_str(),
                    "state": if row.is_enabled { "enabled" } else { "disabled" },
                    "next_hop": none_or(row.next_hop.map(|hop| hop.0.to_string())),
                    "description": none_or(row.description.clone()),
                })
            })
            .collect();
        json!({ "cluster_id": cluster.cluster_id.0, "Nodes": nodes })
    });
    rows.collect()
}

fn topology_json(clusters: &[TopologyList]) -> Vec<Json> {
    let rows = clusters.iter().map(|cluster| {
        let nodes: Vec<Json> = cluster
            .nodes
            .iter()
            .map(|row| {
                let neighbours: Vec<i32> = row.neighbours.iter().map(|node| node.0).collect();
                json!({ "node_id": row.node_id.0, "Neighbours": neighbours })
            })
            .collect();
        json!({ "cluster_id": cluster.cluster_id.0, "Nodes": nodes })
    });
    rows.collect()
}

fn capabilities_json(core: &tandem_cluster::ClusterNode) -> Vec<Json> {
    let rows = core.list_cap().into_iter().map(|cluster| {
        let capabilities: Vec<Json> = cluster
            .capabilities
            .iter()
            .map(|row| {
                json!({
                    "name": row.name.as_ref(),
                    "state": if row.is_ok { "Ok" } else { "not synced" },
                    "enabled": if row.is_enabled { "yes" } else { "no" },
                })
            })
            .collect();
        json!({ "cluster_id": cluster.cluster_id.0, "Capabilities": capabilities })
    });
    rows.collect()
}

fn tags_json(core: &tandem_cluster::ClusterNode) -> Json {
    let rows = core.list_shtags().into_iter().map(|row| {
        let state = if row.is_active { "active" } else { "backup" };
        json!({ "Tag": row.tag, "Cluster": row.cluster.0, "State": state })
    });
    Json::Array(rows.collect())
}

fn reports_json(clusterer: &Clusterer) -> Json {
    let rows = clusterer.reports().into_iter().map(|(identifier, lines)| {
        let lines: Vec<Json> = lines.into_iter().map(|(at, text)| json!({ "Timestamp": at, "Log": text })).collect();
        json!({ "Name": identifier, "Reports": lines })
    });
    Json::Array(rows.collect())
}

fn cluster_of(request: &MiRequest) -> Result<ClusterId, MiError> {
    id_of(request, "cluster_id").map(ClusterId)
}

fn id_of(request: &MiRequest, name: &str) -> Result<i32, MiError> {
    i32::try_from(request.int(name)?).map_err(|_| MiError::bad(name))
}

fn status_of(request: &MiRequest, name: &str) -> Result<bool, MiError> {
    match request.int(name)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(MiError::new(400, "Bad value for 'status'")),
    }
}

fn set_status(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let cluster = cluster_of(request)?;
    // By position OpenSIPS also takes (cluster_id, status).
    let two_positional = matches!(&request.params, MiParams::Positional(list) if list.len() == 2);
    let (id, is_enabled) = if two_positional {
        (None, status_of(request, "node_id")?)
    } else {
        let id = request.int_opt("node_id")?.map(i32::try_from).transpose().map_err(|_| MiError::bad("node_id"))?;
        (id.map(NodeId), status_of(request, "status")?)
    };
    let done = clusterer.with(node, |core| core.set_status(cluster, id, is_enabled, clusterer.now()));
    match done {
        Some(Ok(())) => {
            database::store_state(node, clusterer, cluster, id, is_enabled);
            Ok(json!("OK"))
        }
        Some(Err(SetStatusError::UnknownNode)) => Err(MiError::new(404, "Node id not found")),
        Some(Err(SetStatusError::UnknownCluster)) | None => Err(MiError::new(404, "Cluster id not found")),
    }
}

fn set_cap_status(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let (cluster, capability) = (cluster_of(request)?, request.text("capability")?);
    let is_enabled = status_of(request, "status")?;
    let done = clusterer.with(node, |core| core.set_cap_status(cluster, &capability, is_enabled, clusterer.now()));
    match done {
        Some(Ok(())) => Ok(json!("OK")),
        Some(Err(tandem_cluster::CapabilityError::UnknownCluster)) | None => {
            Err(MiError::new(404, "Cluster id not found"))
        }
        Some(Err(_)) => Err(MiError::new(404, "Capability not found")),
    }
}

fn remove_node(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let (cluster, id) = (cluster_of(request)?, NodeId(id_of(request, "node_id")?));
    match clusterer.with(node, |core| core.remove_node(cluster, id, clusterer.now())) {
        Some(Ok(())) => Ok(json!("OK")),
        Some(Err(RemoveNodeError::DatabaseMode)) => Err(MiError::new(400, "Running in DB mode")),
        Some(Err(error @ RemoveNodeError::Role)) => Err(MiError::new(403, error.to_string())),
        Some(Err(RemoveNodeError::UnknownNode)) => Err(MiError::new(400, "Unknown node id")),
        Some(Err(RemoveNodeError::UnknownCluster)) | None => Err(MiError::new(400, "Unknown cluster id")),
    }
}

/// The parameters for the other node, as text: an array, or, as in 2.4, all that follows by position.
fn command_params(request: &MiRequest) -> Result<Vec<String>, MiError> {
    let list = match (request.param("cmd_params"), &request.params) {
        (None, _) => &[],
        (Some(Json::Array(list)), _) => list.as_slice(),
        (Some(_), MiParams::Positional(all)) => all.get(request.spec.params.len() - 1..).unwrap_or_default(),
        (Some(_), _) => return Err(MiError::bad("cmd_params")),
    };
    let text = |value: &Json| match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => Ok(number.to_string()),
        _ => Err(MiError::bad("cmd_params")),
    };
    list.iter().map(text).collect()
}

fn may_send_commands(clusterer: &Clusterer, cluster: ClusterId) -> Result<(), MiError> {
    if clusterer.security.own_roles(cluster).has_no_mi {
        return Err(MiError::new(403, "the role of this node (cluster_roles) is no-mi: it sends no commands"));
    }
    Ok(())
}

fn send_mi(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let (cluster, to) = (cluster_of(request)?, NodeId(id_of(request, "destination")?));
    let (command, params) = (request.text("cmd_name")?, command_params(request)?);
    may_send_commands(clusterer, cluster)?;
    let params: Vec<&[u8]> = params.iter().map(|param| param.as_bytes()).collect();
    match clusterer.with(node, |core| core.send_mi(cluster, to, command.as_bytes(), &params, clusterer.now())) {
        Some(Ok(())) => Ok(json!("OK")),
        Some(Err(MiSendError::LocalNodeDisabled)) => Ok(json!("Local node disabled")),
        Some(Err(error)) => Err(MiError::new(400, error.to_string())),
        None => Err(MiError::new(400, "Send error")),
    }
}

fn broadcast_mi(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiReply {
    let parsed = (|| {
        let cluster = cluster_of(request)?;
        may_send_commands(clusterer, cluster)?;
        Ok((cluster, request.text("cmd_name")?, command_params(request)?))
    })();
    let (cluster, command, params): (ClusterId, String, Vec<String>) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return MiReply::Now(Err(error)),
    };
    let raw: Vec<&[u8]> = params.iter().map(|param| param.as_bytes()).collect();
    let sent = clusterer.with(node, |core| core.broadcast_mi(cluster, command.as_bytes(), &raw, clusterer.now()));
    if !matches!(sent, Some(Ok(_))) {
        tracing::warn!("command '{command}' could not be sent to any node of cluster {cluster}");
    }
    let params = if params.is_empty() {
        MiParams::None
    } else {
        MiParams::Positional(params.into_iter().map(Json::String).collect())
    };
    node.mi.run(&command, params)
}

fn set_tag(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let text = request.text("tag")?;
    let Some((_, number)) = text.rsplit_once('/') else {
        return Err(MiError::new(400, "Bad tag format <name/cluster_id>"));
    };
    if number.trim().parse::<i32>().is_err() {
        return Err(MiError::new(400, "Bad cluster ID in tag"));
    }
    let Some((name, cluster)) = parse_tag(&text) else {
        return Err(MiError::new(400, "Bad tag format <name/cluster_id>"));
    };
    match clusterer
        .with(node, |core| core.activate_sharing_tag(cluster, name, SharingTagReason::MiCommand, clusterer.now()))
    {
        Some(Ok(())) => Ok(json!("OK")),
        Some(Err(SharingTagError::UnknownCluster)) | None => Err(MiError::new(404, "Cluster ID not found")),
        Some(Err(error)) => Err(MiError::new(400, error.to_string())),
    }
}
