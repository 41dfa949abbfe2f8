//! Presence documents (PIDF, RFC 3863; RPID, RFC 4480): checked, put together, closed. Who sees what of them is elsewhere.

use super::document::{self, attribute, child, elements, local, namespaces, set_attribute, set_text, text};
use crate::xml::tree::{Document, Element, Node};

/// Media type.
pub(super) const TYPE: &str = "application/pidf+xml";
/// Its namespace.
const NAMESPACE: &str = "urn:ietf:params:xml:ns:pidf";
/// Elements of which a presence document has several, told apart by `id`.
const PARTS: &[&str] = &["tuple", "person", "device", "note"];

/// Reads a presence document.
pub(super) fn parse(body: &[u8]) -> Option<Document> {
    document::parse(body).filter(|document| document::root(document).is_some_and(|root| local(root) == "presence"))
}

fn is_same(a: &Element, b: &Element) -> bool {
    local(a) == local(b)
        && match (attribute(a, "id"), attribute(b, "id")) {
            (Some(a), Some(b)) => a == b,
            (None, None) => text(a) == text(b),
            _ => false,
        }
}

/// A part that goes into another document takes the namespaces along that mean something else there.
fn with_namespaces(part: &Element, from: &Element, to: &Element) -> Element {
    let mut part = part.clone();
    let declared: Vec<(String, String)> = namespaces(from)
        .filter(|(name, uri)| attribute(to, name) != Some(uri) && attribute(&part, name).is_none())
        .cloned()
        .collect();
    part.attributes.extend(declared);
    part
}

/// One document out of several, oldest first: the newest with the parts of the others that it does not have itself
/// (RFC 3856 §6.7 leaves it to the server). What cannot be read is left out.
pub(super) fn compose(presentity: &str, bodies: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut documents: Vec<Document> = bodies.iter().filter_map(|body| parse(body)).collect();
    let mut newest = documents.pop()?;
    let base = document::root_mut(&mut newest)?;
    set_attribute(base, "entity", presentity);
    for other in documents.iter().rev() {
        let Some(other) = document::root(other) else { continue };
        for part in elements(other).filter(|part| PARTS.contains(&local(part))) {
            if !elements(base).any(|own| is_same(own, part)) {
                let part = with_namespaces(part, other, base);
                base.children.push(Node::Element(part));
            }
        }
    }
    Some(newest.print().into_bytes())
}

/// What is left of a document when its publication has ended: its tuples, closed.
pub(super) fn ended(body: &[u8]) -> Option<Vec<u8>> {
    let mut document = parse(body)?;
    let root = document::root_mut(&mut document)?;
    root.children.retain(|node| matches!(node, Node::Element(element) if local(element) == "tuple"));
    for node in &mut root.children {
        if let Node::Element(tuple) = node {
            close(tuple);
        }
    }
    if root.children.is_empty() {
        return None;
    }
    Some(document.print().into_bytes())
}

/// Leaves only the status, and that closed.
fn close(tuple: &mut Element) {
    tuple.children.retain(|node| matches!(node, Node::Element(element) if local(element) == "status"));
    let prefix = tuple.name.rsplit_once(':').map(|(prefix, _)| format!("{prefix}:")).unwrap_or_default();
    let basic = || {
        let mut basic = Element { name: format!("{prefix}basic"), ..Element::default() };
        set_text(&mut basic, "closed");
        Node::Element(basic)
    };
    let status = tuple.children.iter_mut().find_map(|node| match node {
        Node::Element(status) => Some(status),
        _ => None,
    });
    match status {
        Some(status) => status.children = vec![basic()],
        None => {
            let status = Element { name: format!("{prefix}status"), children: vec![basic()], ..Element::default() };
            tuple.children.push(Node::Element(status));
        }
    }
}

/// Somebody of whom nothing is to be seen.
pub(super) fn closed(presentity: &str) -> Vec<u8> {
    let entity = quick_xml::escape::escape(presentity);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"{NAMESPACE}\" entity=\"{entity}\">\
         <tuple id=\"offline\"><status><basic>closed</basic></status></tuple></presence>"
    )
    .into_bytes()
}

/// The sphere a document names (RFC 4480 §3.9): the name of the element in `sphere`, or its text.
pub(super) fn sphere(body: &[u8]) -> Option<String> {
    let document = parse(body)?;
    let root = document::root(&document)?;
    let person = elements(root).filter(|part| matches!(local(part), "person" | "tuple"));
    let sphere = person.filter_map(|part| child(part, "sphere")).next()?;
    let named = elements(sphere).next().map(|element| local(element).to_owned());
    named.or_else(|| Some(text(sphere))).filter(|sphere| !sphere.is_empty())
}
