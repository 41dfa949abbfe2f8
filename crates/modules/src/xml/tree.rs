//! XML documents as `$xml` sees them: a tree that keeps what it does not understand, read by `quick-xml`, printed as libxml2
//! does. No document type definitions, no validation.

use quick_xml::Reader;
use quick_xml::escape::{resolve_xml_entity, unescape_with};
use quick_xml::events::{BytesStart, Event};

/// Elements inside each other at most.
pub const DEPTH_MAX: usize = 64;
/// Nodes of one document at most.
pub const NODES_MAX: usize = 100_000;

/// A node of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Element(Element),
    /// Text, entities resolved.
    Text(String),
    CData(String),
    /// Comments and processing instructions, as written.
    Other(String),
}

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) children: Vec<Node>,
}

/// A document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Document {
    /// Encoding of the declaration, if it names one.
    encoding: Option<String>,
    /// Before and behind the root.
    pub(crate) nodes: Vec<Node>,
}

/// Why a text is no document. The position is a byte offset.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no well-formed XML at byte {at}: {what}")]
pub(crate) struct XmlError {
    at: u64,
    what: String,
}

struct Builder {
    open: Vec<Element>,
    done: Vec<Node>,
    count: usize,
}

impl Builder {
    fn add(&mut self, node: Node) -> Result<(), &'static str> {
        self.count += 1;
        if self.count > NODES_MAX {
            return Err("too many nodes");
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(node),
            None => match node {
                Node::Text(text) if text.trim().is_empty() => {}
                Node::Text(_) | Node::CData(_) => return Err("text outside of the root element"),
                Node::Element(_) if self.done.iter().any(|node| matches!(node, Node::Element(_))) => {
                    return Err("more than one root element");
                }
                node => self.done.push(node),
            },
        }
        Ok(())
    }

    fn text(&mut self, more: &str) -> Result<(), &'static str> {
        if let Some(Node::Text(text)) = self.open.last_mut().and_then(|parent| parent.children.last_mut()) {
            text.push_str(more);
            return Ok(());
        }
        self.add(Node::Text(more.to_owned()))
    }
}

fn element(start: &BytesStart<'_>) -> Result<Element, String> {
    let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
    let mut attributes = Vec::new();
    for attribute in start.attributes().with_checks(true) {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let raw = std::str::from_utf8(&attribute.value).map_err(|error| error.to_string())?;
        if raw.contains('<') {
            return Err("`<` in an attribute".to_owned());
        }
        let value = unescape_with(raw, resolve_xml_entity).map_err(|error| error.to_string())?.into_owned();
        attributes.push((String::from_utf8_lossy(attribute.key.as_ref()).into_owned(), value));
    }
    Ok(Element { name, attributes, children: Vec::new() })
}

impl Document {
    /// Reads a document.
    pub(crate) fn parse(text: &str) -> Result<Document, XmlError> {
        let mut reader = Reader::from_str(text);
        let mut builder = Builder { open: Vec::new(), done: Vec::new(), count: 0 };
        let mut encoding = None;
        loop {
            let at = reader.buffer_position();
            let fail = |what: String| XmlError { at, what };
            let event = reader.read_event().map_err(|error| fail(error.to_string()))?;
            let added = match event {
                Event::Start(start) if builder.open.len() < DEPTH_MAX => {
                    builder.open.push(element(&start).map_err(fail)?);
                    Ok(())
                }
                Event::Start(_) => Err("elements too deep inside each other"),
                Event::Empty(start) => builder.add(Node::Element(element(&start).map_err(fail)?)),
                Event::End(_) => match builder.open.pop() {
                    Some(done) => builder.add(Node::Element(done)),
                    None => Err("an end without a start"),
                },
                Event::Text(text) => builder.text(&String::from_utf8_lossy(&text)),
                Event::GeneralRef(entity) => {
                    let name = String::from_utf8_lossy(&entity).into_owned();
                    let text = unescape_with(&format!("&{name};"), resolve_xml_entity)
                        .map_err(|error| fail(error.to_string()))?
                        .into_owned();
                    builder.text(&text)
                }
                Event::CData(text) => builder.add(Node::CData(String::from_utf8_lossy(&text).into_owned())),
                Event::Comment(text) => builder.add(Node::Other(format!("<!--{}-->", String::from_utf8_lossy(&text)))),
                Event::PI(text) => builder.add(Node::Other(format!("<?{}?>", String::from_utf8_lossy(&text)))),
                Event::DocType(text) => {
                    builder.add(Node::Other(format!("<!DOCTYPE {}>", String::from_utf8_lossy(&text).trim())))
                }
                Event::Decl(declaration) => {
                    let named = declaration.encoding().and_then(Result::ok);
                    encoding = named.map(|name| String::from_utf8_lossy(&name).into_owned());
                    Ok(())
                }
                Event::Eof => break,
            };
            added.map_err(|what| fail(what.to_owned()))?;
        }
        let at = reader.buffer_position();
        if !builder.open.is_empty() {
            return Err(XmlError { at, what: "an element is not closed".to_owned() });
        }
        if !builder.done.iter().any(|node| matches!(node, Node::Element(_))) {
            return Err(XmlError { at, what: "no root element".to_owned() });
        }
        Ok(Document { encoding, nodes: builder.done })
    }

    /// The text of the document, with its declaration.
    pub(crate) fn print(&self) -> String {
        let mut out = "<?xml version=\"1.0\"".to_owned();
        if let Some(encoding) = &self.encoding {
            out.push_str(&format!(" encoding=\"{encoding}\""));
        }
        out.push_str("?>\n");
        // Without an encoding of its own a document is written in ASCII.
        let is_ascii = self.encoding.is_none();
        for node in &self.nodes {
            print(node, is_ascii, &mut out);
            out.push('\n');
        }
        out.truncate(out.trim_end_matches('\n').len());
        out
    }
}

fn escape(text: &str, is_attribute: bool, is_ascii: bool, out: &mut String) {
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' if is_attribute => out.push_str("&quot;"),
            '\n' if is_attribute => out.push_str("&#10;"),
            '\t' if is_attribute => out.push_str("&#9;"),
            '\r' => out.push_str("&#13;"),
            letter if is_ascii && !letter.is_ascii() => out.push_str(&format!("&#x{:X};", u32::from(letter))),
            letter => out.push(letter),
        }
    }
}

/// Writes a node. Letters beyond ASCII become references when `is_ascii`.
pub(crate) fn print(node: &Node, is_ascii: bool, out: &mut String) {
    match node {
        Node::Text(text) => escape(text, false, is_ascii, out),
        Node::CData(text) => {
            out.push_str("<![CDATA[");
            out.push_str(text);
            out.push_str("]]>");
        }
        Node::Other(text) => out.push_str(text),
        Node::Element(element) => {
            out.push('<');
            out.push_str(&element.name);
            for (name, value) in &element.attributes {
                out.push(' ');
                out.push_str(name);
                out.push_str("=\"");
                escape(value, true, is_ascii, out);
                out.push('"');
            }
            if element.children.is_empty() {
                out.push_str("/>");
                return;
            }
            out.push('>');
            for child in &element.children {
                print(child, is_ascii, out);
            }
            out.push_str("</");
            out.push_str(&element.name);
            out.push('>');
        }
    }
}
