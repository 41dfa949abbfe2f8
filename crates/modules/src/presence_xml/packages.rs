//! The packages `presence` (RFC 3856) and `presence.winfo` (RFC 3857): which documents they take and give.

use std::sync::Arc;

use tandem_module::NodeRef;

use super::rules::Rules;
use super::{PresenceXml, pidf};
use crate::presence::{DocumentFuture, Package, Policy, PolicyFuture, Refusal, Source};
use crate::xcap::{self, DocumentKind};

/// Types that PUBLISH may carry.
const TYPES: &[&str] = &[pidf::TYPE, "application/cpim-pidf+xml"];

/// 415, saying what is taken.
pub(super) fn unsupported(types: &[&str]) -> Refusal {
    Refusal { headers: format!("Accept: {}\r\n", types.join(", ")), ..Refusal::new(415, "Unsupported Media Type") }
}

/// `presence`.
pub(super) struct PresencePackage {
    pub(super) own: &'static PresenceXml,
}

impl Package for PresencePackage {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn content_type(&self) -> &'static str {
        pidf::TYPE
    }

    fn check(&self, content_type: &str, body: &[u8]) -> Result<(), Refusal> {
        if !TYPES.iter().any(|known| known.eq_ignore_ascii_case(content_type)) {
            return Err(unsupported(TYPES));
        }
        pidf::parse(body).map(|_| ()).ok_or_else(|| Refusal::new(400, "Bad presence document"))
    }

    fn compose(&self, presentity: &str, bodies: &[Vec<u8>]) -> Option<Vec<u8>> {
        pidf::compose(presentity, bodies)
    }

    fn ended(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.own.tells_end { pidf::ended(body) } else { None }
    }

    fn closed(&self, presentity: &str) -> Option<Vec<u8>> {
        Some(pidf::closed(presentity))
    }

    fn standing(&self, node: NodeRef, user: &str, domain: &str) -> Option<DocumentFuture> {
        if !self.own.has_standing {
            return None;
        }
        let (user, domain) = (user.to_owned(), domain.to_owned());
        Some(Box::pin(xcap::document(node, user, domain, DocumentKind::PidfManipulation, "index")))
    }

    fn policy(&self, node: NodeRef, user: &str, domain: &str) -> Option<PolicyFuture> {
        let own = self.own;
        if own.is_open {
            return None;
        }
        let kind = match own.rules_auid.as_str() {
            "org.openmobilealliance.pres-rules" => DocumentKind::OmaPresRules,
            _ => DocumentKind::PresRules,
        };
        let presentity = format!("sip:{user}@{domain}");
        let (user, domain) = (user.to_owned(), domain.to_owned());
        Some(Box::pin(async move {
            let document = xcap::document(node, user, domain, kind, &own.rules_filename).await?;
            let rules = match document {
                Some(document) => Rules::parse(&presentity, &document).unwrap_or_else(|| {
                    tracing::warn!("presence_xml: the rules of {presentity} cannot be read; nobody is let in by them");
                    Rules::none(&presentity)
                }),
                None => Rules::none(&presentity),
            };
            Ok(Arc::new(rules) as Arc<dyn Policy>)
        }))
    }

    fn sphere(&self, body: &[u8]) -> Option<String> {
        pidf::sphere(body)
    }
}

/// `presence.winfo`.
pub(super) struct WinfoPackage;

impl Package for WinfoPackage {
    fn name(&self) -> &'static str {
        "presence.winfo"
    }

    fn content_type(&self) -> &'static str {
        "application/watcherinfo+xml"
    }

    fn source(&self) -> Source {
        Source::Watchers("presence")
    }

    /// Nobody publishes watchers.
    fn check(&self, _: &str, _: &[u8]) -> Result<(), Refusal> {
        Err(unsupported(&[]))
    }
}
