//! Small helpers over XML trees: elements by their local names, namespaces kept as written. Documents with a document type
//! are refused, so there are no entities of their own.

use crate::xml::tree::{Document, Element, Node};

/// Children of the root at most; a document with more is refused.
pub const ELEMENTS_MAX: usize = 500;

/// Reads a document. `None` when it is not well-formed, has a document type, or too much of anything.
pub(super) fn parse(body: &[u8]) -> Option<Document> {
    let text = std::str::from_utf8(body).ok()?;
    let document = Document::parse(text.trim_start_matches('\u{feff}').trim_start()).ok()?;
    let has_type =
        |node: &Node| matches!(node, Node::Other(text) if text.starts_with("<!"  ) && !text.starts_with("<!--"));
    if document.nodes.iter().any(has_type) {
        return None;
    }
    let is_bounded = root(&document).is_some_and(|root| elements(root).count() <= ELEMENTS_MAX);
    is_bounded.then_some(document)
}

/// The root element.
pub(super) fn root(document: &Document) -> Option<&Element> {
    document.nodes.iter().find_map(element_of)
}

/// The root element, to change it.
pub(super) fn root_mut(document: &mut Document) -> Option<&mut Element> {
    document.nodes.iter_mut().find_map(|node| match node {
        Node::Element(element) => Some(element),
        _ => None,
    })
}

fn element_of(node: &Node) -> Option<&Element> {
    match node {
        Node::Element(element) => Some(element),
        _ => None,
    }
}

/// Child elements.
pub(super) fn elements(parent: &Element) -> impl Iterator<Item = &Element> {
    parent.children.iter().filter_map(element_of)
}

/// The name without its prefix.
pub(super) fn local(element: &Element) -> &str {
    element.name.rsplit(':').next().unwrap_or_default()
}

/// The first child of that local name.
pub(super) fn child<'a>(parent: &'a Element, name: &str) -> Option<&'a Element> {
    elements(parent).find(|element| local(element) == name)
}

/// An attribute.
pub(super) fn attribute<'a>(element: &'a Element, name: &str) -> Option<&'a str> {
    element.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

/// Sets an attribute.
pub(super) fn set_attribute(element: &mut Element, name: &str, value: &str) {
    match element.attributes.iter_mut().find(|(own, _)| own == name) {
        Some((_, old)) => value.clone_into(old),
        None => element.attributes.push((name.to_owned(), value.to_owned())),
    }
}

/// The text directly in an element, without blanks around it.
pub(super) fn text(element: &Element) -> String {
    let mut out = String::new();
    for node in &element.children {
        if let Node::Text(text) | Node::CData(text) = node {
            out.push_str(text);
        }
    }
    out.trim().to_owned()
}

/// Puts text in place of everything in an element.
pub(super) fn set_text(element: &mut Element, text: &str) {
    element.children = vec![Node::Text(text.to_owned())];
}

/// Namespace declarations of an element.
pub(super) fn namespaces(element: &Element) -> impl Iterator<Item = &(String, String)> {
    element.attributes.iter().filter(|(name, _)| name == "xmlns" || name.starts_with("xmlns:"))
}
