//! Status/report of group `clusterer` (`sr_…` commands) and `cluster_explain`. What is reported comes from the core.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use tandem_cluster::{ClusterId, Explanation, NodeId, Subject};
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::status::{Report, Status, StatusGroup};
use tandem_script::surface::CommandSpec;

use super::security;
use super::service::Clusterer;
use crate::core::table::command;

const EXPLAIN: CommandSpec = command(
    "cluster_explain",
    &["node_id?"],
    "in one sentence each: why a node is not up, a capability not in sync, a tag not here (Tandem only)",
);

pub(super) const COMMANDS: [CommandSpec; 1] = [EXPLAIN];

pub(super) fn register(node: NodeRef, clusterer: &'static Clusterer) {
    node.status.register("clusterer", Arc::new(ClusterStatus(clusterer)));
    node.mi.register(EXPLAIN, move |request| explain(node, clusterer, request).into());
}

/// Identifier, status number and its text.
fn all(clusterer: &Clusterer) -> Vec<(String, i32, Option<&'static str>)> {
    let nodes = if clusterer.is_running() { (1, None) } else { (-1, Some("the node table is not loaded")) };
    let mut all = vec![("sharing_tags".to_owned(), 1, None), ("node_states".to_owned(), nodes.0, nodes.1)];
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

/// Tags, nodes and capabilities for `sr_...` commands.
struct ClusterStatus(&'static Clusterer);

impl StatusGroup for ClusterStatus {
    fn all(&self) -> Vec<Status> {
        let row =
            |(name, code, text): (String, i32, Option<&str>)| Status { name, code, details: text.map(str::to_owned) };
        all(self.0).into_iter().map(row).collect()
    }

    /// Newest first.
    fn reports(&self, identifier: &str) -> Vec<Report> {
        let found = self.0.reports().into_iter().find(|(name, _)| name == identifier);
        found.map(|(_, lines)| lines.into_iter().rev().collect()).unwrap_or_default()
    }

    fn further(&self) -> Vec<String> {
        self.0.reports().into_iter().map(|(name, _)| name).collect()
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
        Subject::Bridge(to) => format!("bridge to cluster {to}"),
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
