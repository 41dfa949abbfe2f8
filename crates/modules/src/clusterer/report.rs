//! Status/report of group `clusterer` (`sr_…` commands) and `cluster_explain`. What is reported comes from the core.

use serde_json::{Value as Json, json};
use tandem_cluster::{ClusterId, Explanation, NodeId, Subject};
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;

use super::security;
use super::service::Clusterer;
use crate::core::table::{command, renamed_command};

const GROUP: &str = "clusterer";

const GET: CommandSpec = renamed_command(
    "status_report:get",
    &["sr_get_status"],
    &["group", "identifier?"],
    "status of one identifier of a group, the first without a name",
);
const STATUS: CommandSpec = renamed_command(
    "status_report:status",
    &["sr_list_status"],
    &["group?"],
    "status of all identifiers; of group clusterer: tags, nodes and capabilities",
);
const REPORTS: CommandSpec = renamed_command(
    "status_report:reports",
    &["sr_list_reports"],
    &["group?", "identifier?"],
    "what happened to each identifier, newest first",
);
const IDENTIFIERS: CommandSpec =
    renamed_command("status_report:identifiers", &["sr_list_identifiers"], &["group?"], "names of the identifiers");
const EXPLAIN: CommandSpec = command(
    "cluster_explain",
    &["node_id?"],
    "in one sentence each: why a node is not up, a capability not in sync, a tag not here (Tandem only)",
);

pub(super) const COMMANDS: [CommandSpec; 5] = [GET, STATUS, REPORTS, IDENTIFIERS, EXPLAIN];

pub(super) fn register(node: NodeRef, clusterer: &'static Clusterer) {
    let mi = &node.mi;
    mi.register(GET, move |request| get(clusterer, request).into());
    mi.register(STATUS, move |request| grouped(request, || Ok(status(clusterer))).into());
    mi.register(REPORTS, move |request| reports(clusterer, request).into());
    mi.register(IDENTIFIERS, move |request| identifiers(clusterer, request).into());
    mi.register(EXPLAIN, move |request| explain(node, clusterer, request).into());
}

/// Identifier, status number and its text.
fn all(clusterer: &Clusterer) -> Vec<(String, i32, Option<&'static str>)> {
    let mut all = vec![("sharing_tags".to_owned(), 1, None), ("node_states".to_owned(), 1, None)];
    let lists = clusterer.read(tandem_cluster::ClusterNode::list_cap).unwrap_or_default();
    for row in lists.into_iter().flat_map(|list| list.capabilities) {
        let name = format!("cap:{}", row.name);
        // One identifier per name, as in OpenSIPS: with the worst state of all clusters.
        match all.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, code, text)) if row.status.code() < *code => {
                (*code, *text) = (row.status.code(), Some(row.status.as_str()));
            }
            Some(_) => {}
            None => all.push((name, row.status.code(), Some(row.status.as_str()))),
        }
    }
    all
}

fn state_json(code: i32, text: Option<&str>) -> Json {
    let mut object = json!({ "Readiness": code > 0, "Status": code });
    if let (Some(text), Some(map)) = (text, object.as_object_mut()) {
        map.insert("Details".into(), text.into());
    }
    object
}

/// The bare list when the group is named, else the list of groups.
fn grouped(request: &MiRequest, list: impl FnOnce() -> MiResult) -> MiResult {
    match request.text_opt("group")? {
        None => Ok(json!([{ "Name": GROUP, "Identifiers": list()? }])),
        Some(group) if group == GROUP => list(),
        Some(_) => Err(MiError::new(404, "Group not found")),
    }
}

fn status(clusterer: &Clusterer) -> Json {
    let rows = all(clusterer).into_iter().map(|(name, code, text)| {
        let mut row = serde_json::Map::new();
        row.insert("Name".into(), name.into());
        if let Json::Object(state) = state_json(code, text) {
            row.extend(state);
        }
        Json::Object(row)
    });
    Json::Array(rows.collect())
}

fn get(clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    if request.text("group")? != GROUP {
        return Err(MiError::new(404, "Group not found"));
    }
    let wanted = request.text_opt("identifier")?;
    let found = all(clusterer).into_iter().find(|(name, ..)| wanted.as_ref().is_none_or(|wanted| wanted == name));
    let (_, code, text) = found.ok_or_else(|| MiError::new(404, "Identity not found"))?;
    Ok(state_json(code, text))
}

fn log_json(lines: Vec<(i64, String)>) -> Json {
    let rows = lines.into_iter().rev().map(|(at, text)| {
        let date = chrono::DateTime::from_timestamp(at, 0).map(|utc| utc.with_timezone(&chrono::Local));
        let date = date.map(|date| date.format("%a %b %e %H:%M:%S %Y").to_string()).unwrap_or_default();
        json!({ "Timestamp": at, "Date": date, "Log": text })
    });
    Json::Array(rows.collect())
}

fn reports(clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let mut known: Vec<(String, Vec<(i64, String)>)> =
        all(clusterer).into_iter().map(|(name, ..)| (name, Vec::new())).collect();
    for (name, lines) in clusterer.reports() {
        match known.iter_mut().find(|(other, _)| *other == name) {
            Some((_, slot)) => *slot = lines,
            None => known.push((name, lines)),
        }
    }
    if let Some(wanted) = request.text_opt("identifier")? {
        return grouped(request, || {
            let found = known.into_iter().find(|(name, _)| *name == wanted);
            found.map(|(_, lines)| log_json(lines)).ok_or_else(|| MiError::new(404, "Identifier not found"))
        });
    }
    let rows = known.into_iter().map(|(name, lines)| json!({ "Name": name, "Reports": log_json(lines) }));
    let rows = Json::Array(rows.collect());
    grouped(request, || Ok(rows))
}

fn identifiers(clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let names: Vec<String> = all(clusterer).into_iter().map(|(name, ..)| name).collect();
    let group = json!({ "Group": GROUP, "Identifiers": names });
    match request.text_opt("group")? {
        None => Ok(json!([group])),
        Some(wanted) if wanted == GROUP => Ok(group),
        Some(_) => Err(MiError::new(404, "Group not found")),
    }
}

fn explain(node: NodeRef, clusterer: &Clusterer, request: &MiRequest) -> MiResult {
    let only = request.int_opt("node_id")?;
    let only = only.map(i32::try_from).transpose().map_err(|_| MiError::bad("node_id"))?.map(NodeId);
    let sentences = clusterer.with(node, |core| core.explain(only, clusterer.now()));
    let Some(sentences) = sentences else {
        return Ok(json!([{ "About": "this node", "Well": false,
            "Text": "the node table has not been loaded yet; see the log for what the database says" }]));
    };
    let is_known = |id| sentences.iter().any(|sentence| sentence.subject == Subject::Node(id));
    if only.is_some_and(|id| !is_known(id)) {
        return Err(MiError::new(404, "Node id not found"));
    }
    let mut rows: Vec<Json> = sentences.iter().map(sentence_json).collect();
    rows.extend(security::explained(&clusterer.security, only));
    Ok(Json::Array(rows))
}

fn sentence_json(sentence: &Explanation) -> Json {
    let Explanation { cluster: ClusterId(cluster), subject, is_well, text, history } = sentence;
    let about = match subject {
        Subject::OwnNode => "this node".to_owned(),
        Subject::Node(id) => format!("node {id}"),
        Subject::Capability(name) => format!("capability {name}"),
        Subject::Tag(name) => format!("tag {name}"),
    };
    let mut row = json!({ "Cluster": cluster, "About": about, "Well": is_well, "Text": text });
    if let (false, Some(map)) = (history.is_empty(), row.as_object_mut()) {
        let lines = history.iter().map(
            |change| json!({ "Timestamp": change.unix_secs, "From": change.from.as_str(), "To": change.to.as_str() }),
        );
        map.insert("History".into(), lines.collect());
    }
    row
}
