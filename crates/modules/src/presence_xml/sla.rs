//! The package `dialog;sla` (shared line appearances, BLA): dialog documents (RFC 4235) are passed on as they come, except
//! for remote targets that name an address.

use std::net::IpAddr;

use tandem_sip::Uri;

use super::document::{self, attribute, local};
use super::packages::unsupported;
use crate::presence::{Package, Refusal};
use crate::xml::tree::{Element, Node};

const TYPES: &[&str] = &["application/dialog-info+xml"];

/// `dialog;sla`.
pub(super) struct SharedLinePackage {
    pub(super) fixes_target: bool,
}

impl Package for SharedLinePackage {
    fn name(&self) -> &'static str {
        "dialog;sla"
    }

    fn content_type(&self) -> &'static str {
        "application/dialog-info+xml"
    }

    fn keeps_etag(&self) -> bool {
        true
    }

    fn is_shared_line(&self) -> bool {
        true
    }

    fn check(&self, content_type: &str, body: &[u8]) -> Result<(), Refusal> {
        if !TYPES.iter().any(|known| known.eq_ignore_ascii_case(content_type)) {
            return Err(unsupported(TYPES));
        }
        document::parse(body).map(|_| ()).ok_or_else(|| Refusal::new(400, "Bad dialog document"))
    }

    fn compose(&self, presentity: &str, bodies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let body = bodies.last()?;
        let fixed = if self.fixes_target { fixed(presentity, body) } else { None };
        Some(fixed.unwrap_or_else(|| body.clone()))
    }
}

/// The document with the domain of the presentity in place of addresses in `remote/target`; `None` when nothing changes.
/// A phone that picks up for another one would else call that address and not us.
fn fixed(presentity: &str, body: &[u8]) -> Option<Vec<u8>> {
    let domain = Uri::parse(presentity.as_bytes()).ok().map(|uri| String::from_utf8_lossy(uri.host).into_owned())?;
    let mut document = document::parse(body)?;
    let root = document::root_mut(&mut document)?;
    let mut is_changed = false;
    for dialog in children_named(root, "dialog") {
        for remote in children_named(dialog, "remote") {
            for target in children_named(remote, "target") {
                if let Some(uri) = attribute(target, "uri").and_then(|uri| with_domain(uri, &domain)) {
                    document::set_attribute(target, "uri", &uri);
                    is_changed = true;
                }
            }
        }
    }
    is_changed.then(|| document.print().into_bytes())
}

fn children_named<'a>(parent: &'a mut Element, name: &'a str) -> impl Iterator<Item = &'a mut Element> {
    parent.children.iter_mut().filter_map(move |node| match node {
        Node::Element(element) if local(element) == name => Some(element),
        _ => None,
    })
}

fn with_domain(uri: &str, domain: &str) -> Option<String> {
    let parsed = Uri::parse(uri.as_bytes()).ok()?;
    let host = std::str::from_utf8(parsed.host).ok()?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().ok()?;
    let user = String::from_utf8_lossy(parsed.user_or_empty());
    Some(if user.is_empty() { format!("sip:{domain}") } else { format!("sip:{user}@{domain}") })
}
