//! Module `xml`: documents of a worker read and written by path (`$xml(name/root/item[1].attr/k)`). They outlive the message,
//! as `$var` does.

#[cfg(test)]
mod tests;
pub(crate) mod tree;

use std::cell::RefCell;

use hashbrown::HashMap;
use tandem_module::ModuleDecl;
use tandem_module::context::Context;
use tandem_module::declare::{VarCall, Variable};
use tandem_script::surface::{NameRule, VariableSpec};
use tandem_script::value::{Text, Value};

use crate::json::path::{Given, index, variable};
use tree::{Document, Element, Node, print};

pub use tree::{DEPTH_MAX, NODES_MAX};

/// Documents a worker keeps; a further name is refused.
pub const DOCUMENTS_MAX: usize = 10_000;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "xml", doc: "XML documents as variables", variables: VARIABLES, ..ModuleDecl::EMPTY };

static VARIABLES: &[Variable] = &[Variable {
    spec: VariableSpec {
        name: "xml",
        rule: NameRule::Path,
        is_writable: true,
        doc: "a document, an element, its text (.val) or an attribute (.attr/name)",
    },
    read,
    write: Some(write),
}];

thread_local! {
    static DOCUMENTS: RefCell<HashMap<Vec<u8>, Document>> = RefCell::new(HashMap::new());
}

/// What of an element is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Access {
    Whole,
    Value,
    Attribute(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Path {
    name: Vec<u8>,
    /// Name and number of each element.
    steps: Vec<(String, usize)>,
    access: Access,
}

/// A name at the start of `text`, written or from a variable, and what follows.
fn word<'a>(text: &'a [u8], ends: &[u8]) -> Option<(String, &'a [u8])> {
    if let Some((given, rest)) = variable(text) {
        let Some(Given::Text(name)) = given else { return None };
        return Some((String::from_utf8_lossy(name).into_owned(), rest));
    }
    let end = text.iter().position(|byte| ends.contains(byte)).unwrap_or(text.len());
    Some((String::from_utf8_lossy(text.get(..end)?).into_owned(), text.get(end..)?))
}

impl Path {
    fn parse(text: &[u8]) -> Option<Path> {
        let end = text.iter().position(|byte| matches!(byte, b'/' | b'.')).unwrap_or(text.len());
        let mut path = Path { name: text.get(..end)?.to_vec(), steps: Vec::new(), access: Access::Whole };
        let mut rest = text.get(end..)?;
        while let Some(inner) = rest.strip_prefix(b"/") {
            let (name, behind) = word(inner, b"/[.")?;
            let (at, behind) = match behind.strip_prefix(b"[") {
                Some(inner) => index(inner)?,
                None => (0, behind),
            };
            if path.steps.len() >= DEPTH_MAX {
                return None;
            }
            path.steps.push((name, usize::try_from(at).ok()?));
            rest = behind;
        }
        path.access = match rest {
            b"" => Access::Whole,
            b".val" => Access::Value,
            rest => Access::Attribute(word(rest.strip_prefix(b".attr/")?, b"")?.0),
        };
        // Only elements have texts and attributes.
        (path.access == Access::Whole || !path.steps.is_empty()).then_some(path)
    }
}

fn child<'a>(nodes: &'a [Node], (name, at): &(String, usize)) -> Option<(usize, &'a Element)> {
    let elements = nodes.iter().enumerate().filter_map(|(place, node)| match node {
        // Names are compared without their namespace prefix.
        Node::Element(element) if element.name.rsplit(':').next() == Some(name) => Some((place, element)),
        _ => None,
    });
    elements.into_iter().nth(*at)
}

fn find<'a>(document: &'a Document, steps: &[(String, usize)]) -> Option<&'a Element> {
    let (first, rest) = steps.split_first()?;
    let mut found = child(&document.nodes, first)?.1;
    for step in rest {
        found = child(&found.children, step)?.1;
    }
    Some(found)
}

/// The list the last step is in, and its place there.
fn place<'a>(document: &'a mut Document, steps: &[(String, usize)]) -> Option<(&'a mut Vec<Node>, usize)> {
    let (last, above) = steps.split_last()?;
    let mut nodes = &mut document.nodes;
    for step in above {
        let at = child(nodes, step)?.0;
        nodes = match nodes.get_mut(at)? {
            Node::Element(element) => &mut element.children,
            _ => return None,
        };
    }
    let at = child(nodes, last)?.0;
    Some((nodes, at))
}

fn read(_: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(path) = Path::parse(call.name.unwrap_or_default()) else { return Value::Null };
    DOCUMENTS.with_borrow(|all| all.get(&path.name).and_then(|document| shown(document, &path))).unwrap_or_default()
}

fn shown(document: &Document, path: &Path) -> Option<Value> {
    if path.steps.is_empty() {
        return Some(Value::Text(Text::from(document.print())));
    }
    let element = find(document, &path.steps)?;
    let text = match &path.access {
        Access::Whole => {
            let mut out = String::new();
            print(&Node::Element(element.clone()), false, &mut out);
            out
        }
        Access::Value => element
            .children
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) | Node::CData(text) => Some(text.as_str()),
                _ => None,
            })
            .collect(),
        Access::Attribute(name) => element.attributes.iter().find(|(other, _)| other == name)?.1.clone(),
    };
    Some(Value::Text(Text::from(text)))
}

fn write(_: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(path) = Path::parse(call.name.unwrap_or_default()) else { return false };
    let text = match &value {
        Value::Null => None,
        value => match value.as_text() {
            Some(text) => Some(text.to_str().into_owned()),
            None => return false,
        },
    };
    DOCUMENTS.with_borrow_mut(|all| match (path.steps.is_empty(), text) {
        (true, None) => all.remove(&path.name).is_some(),
        (true, Some(text)) if text.is_empty() => {
            all.remove(&path.name);
            true
        }
        (true, Some(_)) if all.len() >= DOCUMENTS_MAX && !all.contains_key(&path.name) => false,
        (true, Some(text)) => match Document::parse(text.trim_start()) {
            Ok(document) => {
                all.insert(path.name.clone(), document);
                true
            }
            Err(error) => {
                tracing::error!("$xml({}): {error}", String::from_utf8_lossy(&path.name));
                false
            }
        },
        (false, text) => all.get_mut(&path.name).is_some_and(|document| change(document, &path, text).is_some()),
    })
}

fn change(document: &mut Document, path: &Path, text: Option<String>) -> Option<()> {
    let (nodes, at) = place(document, &path.steps)?;
    if path.access == Access::Whole && text.is_none() {
        nodes.remove(at);
        return Some(());
    }
    let Some(Node::Element(element)) = nodes.get_mut(at) else { return None };
    match (&path.access, text) {
        (Access::Whole, None) => return None,
        (Access::Whole, Some(text)) => {
            // Blanks around the new element are kept.
            let inner = text.trim();
            let parsed = Document::parse(inner).ok()?;
            let head = text.get(..text.len() - text.trim_start().len())?.to_owned();
            let tail = text.get(text.trim_end().len()..)?.to_owned();
            append_text(&mut element.children, head);
            element.children.extend(parsed.nodes);
            append_text(&mut element.children, tail);
        }
        (Access::Value, text) => {
            let first = element.children.iter().position(|node| matches!(node, Node::Text(_) | Node::CData(_)));
            element.children.retain(|node| !matches!(node, Node::Text(_) | Node::CData(_)));
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                let at = first.unwrap_or(element.children.len()).min(element.children.len());
                element.children.insert(at, Node::Text(text));
            }
        }
        (Access::Attribute(name), None) => {
            let at = element.attributes.iter().position(|(other, _)| other == name)?;
            element.attributes.remove(at);
        }
        (Access::Attribute(name), Some(text)) => match element.attributes.iter_mut().find(|(other, _)| other == name) {
            Some((_, value)) => *value = text,
            None => element.attributes.push((name.clone(), text)),
        },
    }
    Some(())
}

fn append_text(children: &mut Vec<Node>, text: String) {
    match children.last_mut() {
        _ if text.is_empty() => {}
        Some(Node::Text(last)) => last.push_str(&text),
        _ => children.push(Node::Text(text)),
    }
}
