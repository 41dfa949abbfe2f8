//! Results in the text form of OpenSIPS 2.4's FIFO: a status line and a tree of `Name:: value attribute=value` lines.
//! Commands whose tree is another than their JSON bring a [`TextLayout`](tandem_module::mi::TextLayout).

use serde_json::Value as Json;
use tandem_module::mi::{MiError, MiResult};

/// A whole reply: `200 OK`, the tree and an empty line, or the status of the error (as 2.4.11 answers over both transports).
pub fn render_reply(result: &MiResult) -> String {
    match result {
        Ok(json) => format!("200 OK\n{}\n", render_tree(json)),
        Err(error) => render_error(error),
    }
}

/// Errors that are SIP-like codes keep them; those of JSON-RPC become what 2.4 would have said.
fn render_error(error: &MiError) -> String {
    let (code, message) = match error.code {
        100..=699 => (error.code, error.message.as_str()),
        -32601 => (500, "command not available"),
        -32602 => (400, error.data.as_ref().and_then(Json::as_str).unwrap_or("Too few or too many arguments")),
        _ => (500, error.message.as_str()),
    };
    let mut line = format!("{code} ");
    push_line_safe(&mut line, message);
    line.push('\n');
    line
}

/// The tree of a result. Members of an object which are neither array nor object become attributes of its line (at the
/// top, lines of their own); an array is one line per element under the same name. `"OK"` needs no line.
pub fn render_tree(json: &Json) -> String {
    let mut out = String::new();
    match json {
        Json::String(text) if text == "OK" => {}
        Json::Object(members) => {
            for (name, value) in members {
                node(&mut out, 0, name, value);
            }
        }
        other => node(&mut out, 0, "", other),
    }
    out
}

fn node(out: &mut String, depth: usize, name: &str, value: &Json) {
    if let Json::Array(items) = value {
        for item in items {
            node(out, depth, name, item);
        }
        return;
    }
    out.extend(std::iter::repeat_n('\t', depth));
    push_line_safe(out, name);
    if !name.is_empty() {
        out.push_str("::");
    }
    let Json::Object(members) = value else {
        if !name.is_empty() {
            out.push(' ');
        }
        push_scalar(out, value);
        out.push('\n');
        return;
    };
    let is_nested = |value: &Json| matches!(value, Json::Array(_) | Json::Object(_));
    for (name, value) in members.iter().filter(|(_, value)| !is_nested(value)) {
        out.push(' ');
        // Without a name: the value of the line itself.
        if !name.is_empty() {
            push_line_safe(out, name);
            out.push('=');
        }
        push_scalar(out, value);
    }
    out.push('\n');
    for (name, value) in members.iter().filter(|(_, value)| is_nested(value)) {
        node(out, depth + 1, name, value);
    }
}

fn push_scalar(out: &mut String, value: &Json) {
    match value {
        Json::String(text) => push_line_safe(out, text),
        Json::Null => {}
        other => out.push_str(&other.to_string()),
    }
}

/// A line end inside a value would end the line: it is written as an escape.
pub fn push_line_safe(out: &mut String, text: &str) {
    for char in text.chars() {
        if char.is_control() {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{render_reply, render_tree};
    use serde_json::json;
    use tandem_module::mi::MiError;

    #[test]
    fn objects_arrays_and_scalars_become_a_tree() {
        let json = json!({"Cluster": [{"id": 1, "Node": [{"id": 3, "URL": "bin:127.0.0.1:1"}, {"id": 4, "URL": null}]}], "count": 2, "list": [1, "b"]});
        assert_eq!(
            render_tree(&json),
            "Cluster:: id=1\n\tNode:: id=3 URL=bin:127.0.0.1:1\n\tNode:: id=4 URL=\ncount:: 2\nlist:: 1\nlist:: b\n"
        );
        let json = json!({"Cluster": [{"": 1, "Node": [{"": 3, "Enabled": 1}]}]});
        assert_eq!(render_tree(&json), "Cluster:: 1\n\tNode:: 3 Enabled=1\n");
        assert_eq!(render_tree(&json!("OK")), "");
        assert_eq!(render_tree(&json!(["a", "b"])), "a\nb\n");
        assert_eq!(render_tree(&json!({"a": "two\nlines\t"})), "a:: two\\nlines\\t\n");
    }

    #[test]
    fn replies_begin_with_a_status_line() {
        assert_eq!(render_reply(&Ok(json!("OK"))), "200 OK\n\n");
        assert_eq!(render_reply(&Err(MiError::new(404, "No such\nnode"))), "404 No such\\nnode\n");
        assert_eq!(render_reply(&Err(MiError::new(-32601, "Method not found"))), "500 command not available\n");
        assert_eq!(render_reply(&Err(MiError::missing("x"))), "400 missing parameter: 'x'\n");
    }
}
