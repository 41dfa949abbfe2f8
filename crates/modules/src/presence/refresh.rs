//! Tells the watchers of a resource what there is to know. For each resource one job at a time: what comes up meanwhile is
//! put together and told next, so that no watcher gets an old document behind a newer one.

use std::sync::Arc;
use std::time::Duration;

use tandem_module::NodeRef;
use tandem_module::db::DbError;
use tandem_module::worker::WorkerId;

use super::package::{Asked, Package, Policy, Source};
use super::rows::Owner;
use super::status::Status;
use super::table::{Resource, SUBSCRIPTIONS_MAX, Subscription};
use super::{Presence, account, notify, rows, winfo, writer};

/// How long after a failure of the database it is tried again.
const RETRY_STEP: Duration = Duration::from_secs(5);
/// How often; then watchers are told without a document.
const RETRIES_MAX: u8 = 5;
/// Watchers whose numbers are taken under one lock of the table.
const RESERVED_AT_ONCE: usize = 100;

/// What is to be told about a resource.
#[derive(Default)]
pub(super) struct Wanted {
    /// To all watchers.
    pub(super) to_all: bool,
    /// But not to this URI or contact.
    pub(super) except: Option<String>,
    /// To these subscriptions.
    pub(super) only: Vec<u64>,
    /// To these that have been taken out, with the reason.
    pub(super) last: Vec<(Subscription, &'static str)>,
    /// Documents of publications that have ended.
    pub(super) ended: Vec<Vec<u8>>,
    /// Unix time.
    pub(super) at: i64,
    pub(super) tries: u8,
}

impl Wanted {
    /// To all watchers, at `at`.
    pub(super) fn all(at: i64) -> Wanted {
        Wanted { to_all: true, at, ..Wanted::default() }
    }

    /// To one subscription.
    pub(super) fn one(id: u64, at: i64) -> Wanted {
        Wanted { only: vec![id], at, ..Wanted::default() }
    }

    /// To one that has been taken out.
    pub(super) fn farewell(subscription: Subscription, reason: &'static str, at: i64) -> Wanted {
        Wanted { last: vec![(subscription, reason)], at, ..Wanted::default() }
    }

    fn is_empty(&self) -> bool {
        !self.to_all && self.only.is_empty() && self.last.is_empty()
    }

    fn add(&mut self, other: Wanted) {
        if self.to_all && other.to_all && self.except != other.except {
            self.except = None;
        } else if other.to_all && !self.to_all {
            self.except = other.except;
        }
        self.to_all |= other.to_all;
        self.only.extend(other.only);
        self.last.extend(other.last);
        self.ended.extend(other.ended);
        self.at = self.at.max(other.at);
        self.tries = self.tries.max(other.tries);
    }

    fn wants(&self, own: &Subscription) -> bool {
        let is_excepted = |uri: &str| uri == own.contact || uri == own.watcher();
        !self.except.as_deref().is_some_and(is_excepted)
    }
}

/// Tells watchers about a resource as soon as its last telling is over.
pub(super) fn tell(node: NodeRef, own: &'static Presence, resource: &Resource, wanted: Wanted) {
    let Some(workers) = node.workers() else { return };
    {
        let mut refreshes = own.refreshes.lock();
        if let Some(next) = refreshes.get_mut(resource) {
            return next.add(wanted);
        }
        refreshes.insert(resource.clone(), Wanted::default());
    }
    let resource = resource.clone();
    workers.spawn(Box::pin(async move { run(node, own, resource, wanted).await }));
}

/// Tells those who watch the watchers.
pub(super) fn watchers_changed(node: NodeRef, own: &'static Presence, uri: &str, event: &str, at: i64) {
    let Some(package) = own.packages.named(&format!("{event}.winfo")) else { return };
    let resource = Resource::new(uri, package.name());
    if !own.config.is_shared && !own.table.lock().is_watched(&resource) {
        return;
    }
    tell(node, own, &resource, Wanted::all(at));
}

async fn run(node: NodeRef, own: &'static Presence, resource: Resource, mut wanted: Wanted) {
    loop {
        let result = once(node, own, &resource, &mut wanted).await;
        let mut refreshes = own.refreshes.lock();
        let next = refreshes.get_mut(&resource).map(std::mem::take).unwrap_or_default();
        if result.is_err() {
            wanted.add(next);
            wanted.tries += 1;
            refreshes.remove(&resource);
            drop(refreshes);
            return retry(node, own, resource, wanted);
        }
        if next.is_empty() {
            refreshes.remove(&resource);
            return;
        }
        wanted = next;
    }
}

fn retry(node: NodeRef, own: &'static Presence, resource: Resource, wanted: Wanted) {
    let Some(workers) = node.workers() else { return };
    let at = tandem_module::clock::now() + RETRY_STEP;
    workers.after(WorkerId(0), at, Box::new(move |_| tell(node, own, &resource, wanted)));
}

/// What watchers may be told.
struct Content {
    content_type: &'static str,
    body: Option<Vec<u8>>,
    policy: Option<Arc<dyn Policy>>,
    sphere: Option<String>,
    /// In place of a body: the watchers, for a document with a version of its own for each subscriber.
    watchers: Option<(&'static str, Vec<winfo::Line>)>,
}

impl Content {
    /// The document for one watcher. Nobody is told anything before it is allowed to watch.
    fn for_watcher(&self, own: &Subscription, at: i64) -> Option<Vec<u8>> {
        if own.status != Status::Active {
            return None;
        }
        if let Some((event, lines)) = &self.watchers {
            return Some(winfo::document(&own.resource.uri, event, lines, own.version));
        }
        let body = self.body.as_ref()?;
        let Some(policy) = &self.policy else { return Some(body.clone()) };
        let watcher = own.watcher();
        let asked = Asked { watcher: &watcher, sphere: self.sphere.as_deref(), unix_secs: at };
        match policy.decide(&asked).view {
            Some(view) => view(body),
            None => Some(body.clone()),
        }
    }
}

async fn once(node: NodeRef, own: &'static Presence, resource: &Resource, wanted: &mut Wanted) -> Result<(), DbError> {
    let Some(package) = own.packages.named(resource.event) else { return Ok(()) };
    let gives_up = wanted.tries >= RETRIES_MAX;
    if own.config.is_shared && wanted.to_all {
        let result = own.run(rows::subscriptions_to(&own.config, resource, SUBSCRIPTIONS_MAX)).await;
        match result {
            Ok(found) => {
                let found = rows::read_subscriptions(&own.config, &own.packages, &found);
                let mut table = own.table.lock();
                found.into_iter().for_each(|row| table.merge(row));
            }
            Err(error) if !gives_up => return Err(error),
            Err(_) => {}
        }
    }
    if !wanted.to_all || !own.table.lock().is_watched(resource) {
        // Nobody to tell: no need to read what there would be to tell.
        if wanted.only.is_empty() && wanted.last.is_empty() {
            return Ok(());
        }
    }
    let content = match content(node, own, &package, resource, wanted).await {
        Ok(content) => content,
        Err(error) if !gives_up => return Err(error),
        Err(_) => {
            Content { content_type: package.content_type(), body: None, policy: None, sphere: None, watchers: None }
        }
    };
    let notices = notices(node, own, resource, wanted, &content);
    notify::send(node, own, resource, notices);
    writer::changed(node, own);
    Ok(())
}

fn notices(
    node: NodeRef,
    own: &Presence,
    resource: &Resource,
    wanted: &mut Wanted,
    content: &Content,
) -> Vec<notify::Notice> {
    let at = wanted.at;
    let mut notices = Vec::new();
    let mut ids = std::mem::take(&mut wanted.only);
    if wanted.to_all {
        let table = own.table.lock();
        let wants = |id: &u64| table.find(*id).is_some_and(|own| own.expires >= at && wanted.wants(own));
        ids.extend(table.of_resource(resource).into_iter().filter(wants));
        drop(table);
        ids.sort_unstable();
        ids.dedup();
    }
    let has_version = content.watchers.is_some();
    for ids in ids.chunks(RESERVED_AT_ONCE) {
        // Documents take their time: they are made of copies, without the lock that every SUBSCRIBE needs.
        let reserved: Vec<(u64, Subscription)> = {
            let mut table = own.table.lock();
            let reserve = |id: &u64| Some((*id, table.change(*id, |own| own.reserve(has_version))?));
            ids.iter().filter_map(reserve).collect()
        };
        for (id, subscription) in reserved {
            let body = content.for_watcher(&subscription, at);
            let spec = notify::write(node, &subscription, None, at, content.content_type, body);
            notices.push(notify::Notice { id: Some(id), spec });
        }
    }
    for (mut subscription, reason) in std::mem::take(&mut wanted.last) {
        let reserved = subscription.reserve(has_version);
        let body = if reason == "timeout" { content.for_watcher(&reserved, at) } else { None };
        let spec = notify::write(node, &reserved, Some(reason), at, content.content_type, body);
        notices.push(notify::Notice { id: None, spec });
    }
    notices
}

async fn content(
    node: NodeRef,
    own: &'static Presence,
    package: &Arc<dyn Package>,
    resource: &Resource,
    wanted: &Wanted,
) -> Result<Content, DbError> {
    let mut content =
        Content { content_type: package.content_type(), body: None, policy: None, sphere: None, watchers: None };
    match package.source() {
        Source::Watchers(event) => {
            content.watchers = Some((event, winfo::lines(node, own, &resource.uri, event).await?));
        }
        Source::Publications => {
            let Ok((user, domain)) = account(resource.uri.as_bytes()) else { return Ok(content) };
            let owner = Owner { user, domain, event: package.name() };
            fill(node, own, package, &owner, wanted, &mut content).await?;
        }
    }
    Ok(content)
}

async fn fill(
    node: NodeRef,
    own: &'static Presence,
    package: &Arc<dyn Package>,
    owner: &Owner,
    wanted: &Wanted,
    content: &mut Content,
) -> Result<(), DbError> {
    let config = &own.config;
    let rows = own.run(rows::publications_of(config, owner, wanted.at, super::PUBLICATIONS_MAX)).await?;
    let published = rows::read_publications(&rows);
    if config.checks_sphere {
        content.sphere = published.iter().rev().find_map(|publication| package.sphere(&publication.body));
    }
    let mut bodies: Vec<Vec<u8>> = wanted.ended.iter().filter_map(|body| package.ended(body)).collect();
    if let Some(standing) = package.standing(node, &owner.user, &owner.domain) {
        bodies.extend(standing.await?);
    }
    bodies.extend(published.into_iter().map(|publication| publication.body).filter(|body| !body.is_empty()));
    let uri = owner.uri();
    content.body = package.compose(&uri, &bodies);
    if content.body.is_none() && config.has_offline_body {
        content.body = package.closed(&uri);
    }
    if let Some(policy) = package.policy(node, &owner.user, &owner.domain) {
        content.policy = Some(policy.await?);
    }
    Ok(())
}

/// The sphere a presentity says it is in, where that is looked at.
pub(super) async fn sphere(
    own: &'static Presence,
    package: &Arc<dyn Package>,
    owner: &Owner,
    at: i64,
) -> Result<Option<String>, DbError> {
    if !own.config.checks_sphere {
        return Ok(None);
    }
    let rows = own.run(rows::publications_of(&own.config, owner, at, super::PUBLICATIONS_MAX)).await?;
    let published = rows::read_publications(&rows);
    Ok(published.iter().rev().find_map(|publication| package.sphere(&publication.body)))
}
