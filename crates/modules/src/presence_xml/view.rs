//! What a rule's transformations give to see (RFC 5025 §3.3), applied to a presence document.

use super::document::{self, attribute, child, elements, local, text};
use super::pidf;
use crate::xml::tree::{Element, Node};

/// One way to name parts of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    All,
    Class(String),
    OccurrenceId(String),
    DeviceId(String),
    ServiceUri(String),
    ServiceUriScheme(String),
}

/// What may be seen. Nothing, unless granted.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    services: Vec<Which>,
    persons: Vec<Which>,
    devices: Vec<Which>,
    /// Local names of elements in services, persons and devices.
    elements: Vec<&'static str>,
    has_all_attributes: bool,
    has_unknown: bool,
}

/// Permissions that are true or false, and the elements they are about.
const FLAGS: &[(&str, &[&str])] = &[
    ("provide-activities", &["activities"]),
    ("provide-class", &["class"]),
    ("provide-deviceID", &["deviceID"]),
    ("provide-mood", &["mood"]),
    ("provide-place-is", &["place-is"]),
    ("provide-place-type", &["place-type"]),
    ("provide-privacy", &["privacy"]),
    ("provide-relationship", &["relationship"]),
    ("provide-status-icon", &["status-icon"]),
    ("provide-sphere", &["sphere"]),
    ("provide-time-offset", &["time-offset"]),
    ("provide-note", &["note"]),
];

/// Elements that need no permission of their own (RFC 5025 §3.3.2): they make a tuple, person or device what it is.
const FREE: &[&str] = &["status", "basic", "contact", "timestamp", "service-class"];

fn whiches(element: &Element) -> Vec<Which> {
    let one = |element: &Element| {
        let value = text(element);
        match local(element) {
            "all-services" | "all-persons" | "all-devices" => Some(Which::All),
            "class" => Some(Which::Class(value)),
            "occurrence-id" => Some(Which::OccurrenceId(value)),
            "deviceID" => Some(Which::DeviceId(value)),
            "service-uri" => Some(Which::ServiceUri(value)),
            "service-uri-scheme" => Some(Which::ServiceUriScheme(value)),
            _ => None,
        }
    };
    elements(element).filter_map(one).collect()
}

impl Which {
    fn fits(&self, part: &Element) -> bool {
        let has = |name: &str, value: &str| child(part, name).is_some_and(|element| text(element) == value);
        let contact = || child(part, "contact").map(text).unwrap_or_default();
        match self {
            Which::All => true,
            Which::Class(class) => has("class", class),
            Which::OccurrenceId(id) => attribute(part, "id") == Some(id),
            Which::DeviceId(id) => has("deviceID", id),
            Which::ServiceUri(uri) => contact() == *uri,
            Which::ServiceUriScheme(scheme) => {
                contact().split_once(':').is_some_and(|(own, _)| own.eq_ignore_ascii_case(scheme))
            }
        }
    }
}

impl Grants {
    /// Reads `transformations`.
    pub(super) fn read(transformations: &Element) -> Grants {
        let mut grants = Grants::default();
        for element in elements(transformations) {
            let value = text(element);
            let is_true = matches!(value.as_str(), "true" | "1");
            match local(element) {
                "provide-services" => grants.services.extend(whiches(element)),
                "provide-persons" => grants.persons.extend(whiches(element)),
                "provide-devices" => grants.devices.extend(whiches(element)),
                "provide-all-attributes" => grants.has_all_attributes = true,
                "provide-unknown-attribute" => grants.has_unknown |= is_true,
                "provide-user-input" if !matches!(value.as_str(), "" | "false") => grants.elements.push("user-input"),
                name => {
                    let flag = FLAGS.iter().find(|(flag, _)| *flag == name && is_true);
                    grants.elements.extend(flag.into_iter().flat_map(|(_, elements)| elements.iter()));
                }
            }
        }
        grants
    }

    /// Takes in what another rule grants.
    pub(super) fn add(&mut self, other: &Grants) {
        self.services.extend_from_slice(&other.services);
        self.persons.extend_from_slice(&other.persons);
        self.devices.extend_from_slice(&other.devices);
        self.elements.extend_from_slice(&other.elements);
        self.has_all_attributes |= other.has_all_attributes;
        self.has_unknown |= other.has_unknown;
    }

    fn shows(&self, part: &Element) -> bool {
        let which = match local(part) {
            "tuple" => &self.services,
            "person" => &self.persons,
            "device" => &self.devices,
            "note" => return self.has_all_attributes || self.elements.contains(&"note"),
            _ => return self.has_all_attributes || self.has_unknown,
        };
        which.iter().any(|which| which.fits(part))
    }

    fn shows_inside(&self, element: &Element) -> bool {
        let name = local(element);
        let is_known = name == "user-input" || FLAGS.iter().any(|(_, elements)| elements.contains(&name));
        self.has_all_attributes
            || FREE.contains(&name)
            || self.elements.contains(&name)
            || (!is_known && self.has_unknown)
            // The device of a device says which it is.
            || name == "deviceID" && !self.devices.is_empty()
    }

    /// The document with what may be seen; `None` when it cannot be read.
    pub(super) fn apply(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut document = pidf::parse(body)?;
        let root = document::root_mut(&mut document)?;
        root.children.retain_mut(|node| match node {
            Node::Element(part) => {
                let is_shown = self.shows(part);
                if is_shown && local(part) != "note" {
                    part.children.retain(|node| match node {
                        Node::Element(element) => self.shows_inside(element),
                        Node::Text(_) | Node::CData(_) => true,
                        Node::Other(_) => false,
                    });
                }
                is_shown
            }
            Node::Text(text) => text.trim().is_empty(),
            _ => false,
        });
        Some(document.print().into_bytes())
    }
}
