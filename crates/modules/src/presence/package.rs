//! What an event package brings: its documents, how several make one, and who may see them. Other modules register theirs
//! here (OpenSIPS: presence, add_event()). Nothing is stored or sent.

use std::sync::Arc;

use parking_lot::RwLock;
use tandem_module::NodeRef;
use tandem_module::db::{BoxFuture, DbError};
use tandem_sip::{Params, trim};

use super::status::Status;

/// Turns a whole document into what one watcher may see; `None` for nothing.
pub type View = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// A request refused: code, reason, further header lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Code of the reply.
    pub code: u16,
    /// Its reason.
    pub reason: &'static str,
    /// Header lines with their ends; often empty.
    pub headers: String,
}

impl Refusal {
    /// A refusal without further headers.
    pub fn new(code: u16, reason: &'static str) -> Refusal {
        Refusal { code, reason, headers: String::new() }
    }
}

/// Where the documents of a package come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// PUBLISH.
    Publications,
    /// The watchers of that package (RFC 3857).
    Watchers(&'static str),
}

/// A watcher asking for a presentity.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// URI of the watcher.
    pub watcher: &'a str,
    /// Sphere the presentity says it is in, when that is looked at.
    pub sphere: Option<&'a str>,
    /// Unix time.
    pub unix_secs: i64,
}

/// What was decided about a watcher.
#[derive(Clone)]
pub struct Decision {
    /// State of its subscription.
    pub status: Status,
    /// Why; empty when active.
    pub reason: &'static str,
    /// What it sees of the document; everything without one.
    pub view: Option<View>,
}

impl Decision {
    /// Allowed without limits.
    pub const ACTIVE: Decision = Decision { status: Status::Active, reason: "", view: None };
}

/// The rules of one presentity.
pub trait Policy: Send + Sync {
    /// Decides about one watcher.
    fn decide(&self, asked: &Asked<'_>) -> Decision;
}

/// Rules being fetched.
pub type PolicyFuture = BoxFuture<Result<Arc<dyn Policy>, DbError>>;
/// A standing document being fetched.
pub type DocumentFuture = BoxFuture<Result<Option<Vec<u8>>, DbError>>;

/// An event package.
pub trait Package: Send + Sync {
    /// Its name as in Event, parameters behind semicolons (`dialog;sla`).
    fn name(&self) -> &'static str;

    /// Type of its documents.
    fn content_type(&self) -> &'static str;

    /// Where its documents come from.
    fn source(&self) -> Source {
        Source::Publications
    }

    /// Seconds when a request names none.
    fn default_expires_secs(&self) -> u32 {
        3600
    }

    /// Whether a publication keeps its entity tag when it is refreshed.
    fn keeps_etag(&self) -> bool {
        false
    }

    /// Whether a subscription is to the user of its Contact in the domain of From, not to the request URI (BLA).
    fn is_shared_line(&self) -> bool {
        false
    }

    /// Looks at a published document.
    ///
    /// # Errors
    /// 400 for one that cannot be read, 415 for another type.
    fn check(&self, content_type: &str, body: &[u8]) -> Result<(), Refusal>;

    /// Makes one document out of all publications, oldest first; the last one alone unless the package knows better.
    fn compose(&self, presentity: &str, bodies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let _ = presentity;
        bodies.last().cloned()
    }

    /// What is left to be told of a publication that has ended.
    fn ended(&self, body: &[u8]) -> Option<Vec<u8>> {
        let _ = body;
        None
    }

    /// What is told when nothing is published (OpenSIPS: presence, notify_offline_body).
    fn closed(&self, presentity: &str) -> Option<Vec<u8>> {
        let _ = presentity;
        None
    }

    /// A document that is there without being published (RFC 4827), if the package has such.
    fn standing(&self, node: NodeRef, user: &str, domain: &str) -> Option<DocumentFuture> {
        let _ = (node, user, domain);
        None
    }

    /// The rules of the presentity; `None` when everybody may watch.
    fn policy(&self, node: NodeRef, user: &str, domain: &str) -> Option<PolicyFuture> {
        let _ = (node, user, domain);
        None
    }

    /// The sphere a document names.
    fn sphere(&self, body: &[u8]) -> Option<String> {
        let _ = body;
        None
    }
}

/// The packages of a node.
#[derive(Default)]
pub(super) struct Packages(RwLock<Vec<Arc<dyn Package>>>);

impl Packages {
    pub(super) fn add(&self, package: Arc<dyn Package>) {
        self.0.write().push(package);
    }

    /// The package of that exact name.
    pub(super) fn named(&self, name: &str) -> Option<Arc<dyn Package>> {
        self.0.read().iter().find(|package| package.name() == name).cloned()
    }

    /// The package an Event header means, and its `id`.
    pub(super) fn of_event(&self, value: &[u8]) -> Option<(Arc<dyn Package>, String)> {
        let value = trim(value);
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let (base, rest) = value.split_at_checked(end)?;
        let params = Params::new(rest.strip_prefix(b";").unwrap_or(rest));
        let id = std::str::from_utf8(params.value(b"id").unwrap_or_default()).ok()?.to_owned();
        let base = std::str::from_utf8(trim(base)).ok()?;
        let fits = |package: &&Arc<dyn Package>| {
            let mut parts = package.name().split(';');
            parts.next() == Some(base) && parts.all(|part| params.has(part.as_bytes()))
        };
        let packages = self.0.read();
        let best = packages.iter().filter(fits).max_by_key(|package| package.name().len())?;
        Some((best.clone(), id))
    }

    /// All names, as Allow-Events has them.
    pub(super) fn names(&self) -> String {
        let packages = self.0.read();
        packages.iter().map(|package| package.name()).collect::<Vec<_>>().join(", ")
    }
}
