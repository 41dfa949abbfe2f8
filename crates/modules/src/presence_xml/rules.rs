//! Authorisation rules (RFC 4745, RFC 5025, with the conditions of OMA): read from a document, asked about a watcher.
//! Where several rules fit, what they give adds up. What a rule demands and we do not know keeps it from fitting.

use std::sync::Arc;

use chrono::DateTime;
use tandem_sip::Uri;

use super::document::{self, attribute, child, elements, local, text};
use super::pidf;
use super::view::Grants;
use crate::presence::{Asked, Decision, Policy, Status};
use crate::xml::tree::Element;

/// Rules of a document that are looked at; further ones are not.
pub const RULES_MAX: usize = 200;

/// What a rule lets happen to a subscription, weakest first (RFC 5025 §3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Handling {
    Block,
    Confirm,
    PoliteBlock,
    Allow,
}

#[derive(Debug)]
enum Condition {
    Identity(Vec<Identity>),
    Sphere(String),
    /// Any of these spans of Unix seconds.
    Validity(Vec<(i64, i64)>),
    Anonymous,
    /// When no other rule fits.
    Other,
    Unknown,
}

#[derive(Debug)]
enum Identity {
    One(String),
    /// In a domain, or everybody; except these.
    Many {
        domain: Option<String>,
        except: Vec<Except>,
    },
}

#[derive(Debug)]
enum Except {
    Domain(String),
    Id(String),
}

#[derive(Debug)]
struct Rule {
    conditions: Vec<Condition>,
    handling: Handling,
    /// `None` when the rule says nothing about it: everything is seen.
    grants: Option<Grants>,
}

/// The rules of one presentity.
pub(super) struct Rules {
    presentity: String,
    rules: Vec<Rule>,
}

/// A URI as it is compared: with scheme, without parameters, the domain in small letters.
fn normal(uri: &str) -> String {
    let uri = tandem_sip::unescape_percent(uri.trim().as_bytes());
    let uri = String::from_utf8_lossy(&uri);
    let uri = if uri.contains(':') || !uri.contains('@') { uri.into_owned() } else { format!("sip:{uri}") };
    match Uri::parse(uri.as_bytes()) {
        Ok(parsed) if !parsed.host.is_empty() => {
            let user = String::from_utf8_lossy(parsed.user_or_empty());
            let host = String::from_utf8_lossy(parsed.host).to_ascii_lowercase();
            format!("sip:{user}@{host}")
        }
        _ => uri.to_ascii_lowercase(),
    }
}

fn domain_of(uri: &str) -> &str {
    uri.rsplit_once('@').map_or(uri, |(_, domain)| domain)
}

impl Identity {
    fn read(element: &Element) -> Option<Identity> {
        match local(element) {
            "one" => Some(Identity::One(normal(attribute(element, "id")?))),
            "many" => {
                let except =
                    elements(element).filter(|element| local(element) == "except").filter_map(|except| {
                        match (attribute(except, "id"), attribute(except, "domain")) {
                            (Some(id), _) => Some(Except::Id(normal(id))),
                            (None, Some(domain)) => Some(Except::Domain(domain.to_ascii_lowercase())),
                            (None, None) => None,
                        }
                    });
                let domain = attribute(element, "domain").map(str::to_ascii_lowercase);
                Some(Identity::Many { domain, except: except.collect() })
            }
            _ => None,
        }
    }

    fn fits(&self, watcher: &str) -> bool {
        match self {
            Identity::One(id) => id == watcher,
            Identity::Many { domain, except } => {
                let own = domain_of(watcher);
                domain.as_deref().is_none_or(|domain| domain == own)
                    && !except.iter().any(|except| match except {
                        Except::Domain(domain) => domain == own,
                        Except::Id(id) => id == watcher,
                    })
            }
        }
    }
}

fn validity(element: &Element) -> Vec<(i64, i64)> {
    let time = |element: &Element| DateTime::parse_from_rfc3339(&text(element)).ok().map(|time| time.timestamp());
    let mut spans = Vec::new();
    let mut from = None;
    for element in elements(element) {
        match local(element) {
            "from" => from = time(element),
            "until" => spans.extend(from.take().zip(time(element))),
            _ => {}
        }
    }
    spans
}

fn condition(element: &Element) -> Condition {
    match local(element) {
        "identity" => Condition::Identity(elements(element).filter_map(Identity::read).collect()),
        "sphere" => Condition::Sphere(attribute(element, "value").unwrap_or_default().to_owned()),
        "validity" => Condition::Validity(validity(element)),
        "anonymous-request" => Condition::Anonymous,
        "other-identity" => Condition::Other,
        _ => Condition::Unknown,
    }
}

impl Rule {
    fn read(element: &Element) -> Rule {
        let conditions = child(element, "conditions");
        let handling = child(element, "actions").and_then(|actions| child(actions, "sub-handling")).map(text);
        Rule {
            conditions: conditions.map(|all| elements(all).map(condition).collect()).unwrap_or_default(),
            handling: match handling.as_deref() {
                Some("allow") => Handling::Allow,
                Some("polite-block") => Handling::PoliteBlock,
                Some("confirm") => Handling::Confirm,
                _ => Handling::Block,
            },
            grants: child(element, "transformations").map(Grants::read),
        }
    }

    fn is_other(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition, Condition::Other))
    }

    fn fits(&self, watcher: &str, asked: &Asked<'_>) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::Identity(any) => any.iter().any(|identity| identity.fits(watcher)),
            Condition::Sphere(sphere) => asked.sphere.is_some_and(|own| own.eq_ignore_ascii_case(sphere)),
            Condition::Validity(spans) => spans.iter().any(|(from, until)| (*from..*until).contains(&asked.unix_secs)),
            Condition::Anonymous => domain_of(watcher) == "anonymous.invalid",
            Condition::Other => true,
            Condition::Unknown => false,
        })
    }
}

impl Rules {
    /// Reads a document; `None` when it is not one of rules.
    pub(super) fn parse(presentity: &str, document: &[u8]) -> Option<Rules> {
        let document = document::parse(document)?;
        let root = document::root(&document).filter(|root| local(root) == "ruleset")?;
        let rules = elements(root).filter(|element| local(element) == "rule").take(RULES_MAX).map(Rule::read);
        Some(Rules { presentity: presentity.to_owned(), rules: rules.collect() })
    }

    /// No rules: nobody has been decided about.
    pub(super) fn none(presentity: &str) -> Rules {
        Rules { presentity: presentity.to_owned(), rules: Vec::new() }
    }
}

impl Policy for Rules {
    fn decide(&self, asked: &Asked<'_>) -> Decision {
        let watcher = normal(asked.watcher);
        let fitting = |is_other: bool| {
            let fits = |rule: &&Rule| rule.is_other() == is_other && rule.fits(&watcher, asked);
            self.rules.iter().filter(fits).collect::<Vec<_>>()
        };
        let mut rules = fitting(false);
        if rules.is_empty() {
            rules = fitting(true);
        }
        let pending = Decision { status: Status::Pending, reason: "", view: None };
        let Some(handling) = rules.iter().map(|rule| rule.handling).max() else { return pending };
        match handling {
            Handling::Block => Decision { status: Status::Terminated, reason: "rejected", view: None },
            Handling::Confirm => pending,
            Handling::PoliteBlock => {
                let presentity = self.presentity.clone();
                let view = move |_: &[u8]| Some(pidf::closed(&presentity));
                Decision { view: Some(Arc::new(view)), ..Decision::ACTIVE }
            }
            Handling::Allow => {
                let mut all = Grants::default();
                for rule in rules.iter().filter(|rule| rule.handling == Handling::Allow) {
                    match &rule.grants {
                        Some(grants) => all.add(grants),
                        None => return Decision::ACTIVE,
                    }
                }
                Decision { view: Some(Arc::new(move |body: &[u8]| all.apply(body))), ..Decision::ACTIVE }
            }
        }
    }
}
