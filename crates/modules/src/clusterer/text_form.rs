//! The listings as the text form of 2.4 lays them out: other names than in JSON, the id of a row in front.

use serde_json::{Map, Value as Json, json};

/// A row: the name of its line, and its members.
type Row = (&'static str, Json);

/// `Cluster:: 1` with one line per row below it.
pub(super) fn clusters(json: &Json, rows: &str, row: fn(&Json) -> Row) -> Json {
    let clusters = json.get("Clusters").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let lines = clusters.iter().map(|cluster| {
        let mut line = Map::new();
        line.insert(String::new(), member(cluster, "cluster_id"));
        for inner in cluster.get(rows).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default() {
            let (name, members) = row(inner);
            if let Json::Array(list) = line.entry(name).or_insert_with(|| json!([])) {
                list.push(members);
            }
        }
        Json::Object(line)
    });
    json!({ "Cluster": lines.collect::<Vec<_>>() })
}

/// The state of a link stands in a column seven wide.
pub(super) fn node(row: &Json) -> Row {
    let state = row.get("link_state").and_then(Json::as_str).unwrap_or_default();
    let is_enabled = row.get("state").and_then(Json::as_str) == Some("enabled");
    let members = json!({
        "": member(row, "node_id"),
        "DB_ID": member(row, "db_id"),
        "URL": member(row, "url"),
        "Enabled": i32::from(is_enabled),
        "Link_state": format!("{state:<7}"),
        "Next_hop": member(row, "next_hop"),
        "Description": member(row, "description"),
    });
    ("Node", members)
}

/// Every neighbour is followed by a blank, the last one, too.
pub(super) fn neighbours(row: &Json) -> Row {
    let ids = row.get("Neighbours").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let ids: String = ids.iter().map(|id| format!("{id} ")).collect();
    ("Node", json!({ "": member(row, "node_id"), "Neighbours": ids }))
}

pub(super) fn capability(row: &Json) -> Row {
    ("Capability", json!({ "": member(row, "name"), "State": member(row, "state") }))
}

fn member(row: &Json, name: &str) -> Json {
    row.get(name).cloned().unwrap_or_default()
}
