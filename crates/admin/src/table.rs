//! Results as tables for people at a terminal (`tandem ctl`). Never passes control characters on.

use serde_json::{Map, Value as Json};

use crate::text::push_line_safe;

/// Renders a result: arrays of flat objects as tables, other objects as `name  value` lines, nested ones indented under
/// their name.
pub fn render(json: &Json) -> String {
    let mut out = String::new();
    write(&mut out, json, 0);
    out
}

fn write(out: &mut String, json: &Json, depth: usize) {
    match json {
        Json::Object(members) => object(out, members, depth),
        Json::Array(items) => array(out, items, depth),
        scalar => line(out, depth, &cell(scalar)),
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.extend(std::iter::repeat_n("  ", depth));
    out.push_str(text.trim_end());
    out.push('\n');
}

fn object(out: &mut String, members: &Map<String, Json>, depth: usize) {
    let rows: Vec<Vec<String>> = members
        .iter()
        .filter(|(_, value)| is_flat(value))
        .map(|(name, value)| vec![clean(name), cell(value)])
        .collect();
    columns(out, &rows, depth);
    for (name, value) in members.iter().filter(|(_, value)| !is_flat(value)) {
        line(out, depth, &format!("{}:", clean(name)));
        write(out, value, depth + 1);
    }
}

fn array(out: &mut String, items: &[Json], depth: usize) {
    let objects: Option<Vec<&Map<String, Json>>> = items.iter().map(Json::as_object).collect();
    match objects {
        Some(objects) if !objects.is_empty() && objects.iter().all(|members| members.values().all(is_flat)) => {
            table(out, &objects, depth)
        }
        Some(objects) => {
            for (index, members) in objects.into_iter().enumerate() {
                if index > 0 {
                    out.push('\n');
                }
                object(out, members, depth);
            }
        }
        None => {
            for item in items {
                write(out, item, depth);
            }
        }
    }
}

fn table(out: &mut String, objects: &[&Map<String, Json>], depth: usize) {
    let mut names: Vec<&String> = Vec::new();
    for members in objects {
        for name in members.keys() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let mut rows = vec![names.iter().map(|name| clean(name)).collect::<Vec<String>>()];
    rows.push(rows.iter().flatten().map(|name| "-".repeat(name.chars().count())).collect());
    rows.extend(
        objects
            .iter()
            .map(|members| names.iter().map(|name| members.get(*name).map(cell).unwrap_or_default()).collect()),
    );
    columns(out, &rows, depth);
}

/// Writes rows with their columns aligned.
fn columns(out: &mut String, rows: &[Vec<String>], depth: usize) {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(out, depth, &cells.join("  "));
    }
}

/// Scalars, and lists of them, fit into a cell.
fn is_flat(value: &Json) -> bool {
    match value {
        Json::Object(members) => members.is_empty(),
        Json::Array(items) => items.iter().all(|item| !matches!(item, Json::Array(_) | Json::Object(_))),
        _ => true,
    }
}

fn cell(value: &Json) -> String {
    match value {
        Json::Null | Json::Object(_) => String::new(),
        Json::String(text) => clean(text),
        Json::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_line_safe(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::render;
    use serde_json::json;

    #[test]
    fn flat_objects_in_an_array_become_a_table() {
        let json = json!({"Clusters": [{"cluster_id": 1, "Nodes": [
            {"node_id": 1, "url": "bin:127.0.0.1:5555", "state": "Up"},
            {"node_id": 22, "url": "bin:127.0.0.2:5555", "hops": [1, 2]}]}]});
        let expected = "Clusters:
  cluster_id  1
  Nodes:
    node_id  url                 state  hops
    -------  ---                 -----  ----
    1        bin:127.0.0.1:5555  Up
    22       bin:127.0.0.2:5555         1, 2
";
        assert_eq!(render(&json), expected);
    }

    #[test]
    fn scalars_lists_and_control_characters() {
        assert_eq!(render(&json!("OK")), "OK\n");
        assert_eq!(render(&json!(["a", ["b"]])), "a\nb\n");
        assert_eq!(render(&json!({"name": "x\u{1b}[2Jy", "long_name": null})), "name       x\\u{1b}[2Jy\nlong_name\n");
        assert_eq!(render(&json!([])), "");
    }
}
