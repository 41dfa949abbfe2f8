//! Management commands: lists, cleaning, telling watchers again.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde_json::{Value as Json, json};
use tandem_module::NodeRef;
use tandem_module::db::DbError;
use tandem_module::mi::{MiError, MiReply, MiRequest};
use tandem_script::regex::PosixRegex;

use super::package::{Asked, Package};
use super::publish::{Exposed, raise};
use super::refresh::{self, Wanted};
use super::rows::{self, Owner, Watcher};
use super::status::Status;
use super::table::{Resource, Subscription, uri_of};
use super::{Presence, account, surface, timers, writer};

/// Publications a command reads at most.
const LIST_MAX: usize = 10_000;

pub(super) fn register(node: NodeRef, own: &'static Presence) {
    for spec in surface::COMMANDS {
        let name = spec.name;
        node.mi.register(*spec, move |request| match name {
            "presence:refresh_watchers" => refresh_watchers(node, own, request),
            "presence:cleanup" => {
                timers::clean(node, own, now());
                writer::write_later(node, own, true);
                MiReply::Now(Ok(json!("OK")))
            }
            "presence:phtable_list" => publications(own),
            "presence:subs_phtable_list" => {
                subscriptions(own, request).map_or_else(|error| Err(error).into(), |list| Ok(list).into())
            }
            _ => expose(node, own, request),
        });
    }
}

fn now() -> i64 {
    tandem_module::node::unix_secs()
}

fn database(error: DbError) -> MiError {
    MiError::new(500, format!("Database error: {error}"))
}

fn refresh_watchers(node: NodeRef, own: &'static Presence, request: &MiRequest) -> MiReply {
    let wanted = (|| {
        let uri = request.text("presentity_uri")?;
        let event = request.text("event")?;
        let kind = request.int("refresh_type")?;
        let (user, domain) = account(uri.as_bytes()).map_err(|_| MiError::new(404, "Empty presentity URI"))?;
        let package = own.packages.named(&event).ok_or_else(|| MiError::new(400, "Unknown event"))?;
        Ok((Owner { user, domain, event: package.name() }, package, kind))
    })();
    let (owner, package, kind) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return MiReply::Now(Err(error)),
    };
    let resource = Resource::new(&owner.uri(), owner.event);
    if kind != 0 {
        refresh::tell(node, own, &resource, Wanted::all(now()));
        return MiReply::Now(Ok(json!("OK")));
    }
    let writing = node.writes.begin();
    MiReply::Later(Box::pin(async move {
        let result = decide_again(node, own, &package, &owner, &resource).await;
        drop(writing);
        result.map(|()| json!("OK")).map_err(database)
    }))
}

/// Asks the rules about every watcher again and tells all of them what has become of them.
async fn decide_again(
    node: NodeRef,
    own: &'static Presence,
    package: &Arc<dyn Package>,
    owner: &Owner,
    resource: &Resource,
) -> Result<(), DbError> {
    let at = now();
    if let Some(policy) = package.policy(node, &owner.user, &owner.domain) {
        let sphere = refresh::sphere(own, package, owner, at).await?;
        let policy = policy.await?;
        let decide = |watcher: &str| {
            let decision = policy.decide(&Asked { watcher, sphere: sphere.as_deref(), unix_secs: at });
            (decision.status, decision.reason)
        };
        let known = own.run(rows::watchers(&own.config, resource, None, LIST_MAX)).await?;
        for mut watcher in rows::read_watchers(&known) {
            let (status, reason) = decide(&uri_of(&watcher.user, &watcher.domain));
            if status != watcher.status {
                watcher.status = status;
                reason.clone_into(&mut watcher.reason);
                own.run(rows::write_watcher(&own.config, resource, &watcher, at)).await?;
            }
        }
        let refused = apply(own, resource, decide);
        let watchers: Vec<Watcher> = refused.iter().map(watcher_of).collect();
        for watcher in watchers {
            own.run(rows::write_watcher(&own.config, resource, &watcher, at)).await?;
        }
        let last = refused.into_iter().map(|subscription| (subscription, "rejected")).collect();
        refresh::tell(node, own, resource, Wanted { last, ..Wanted::all(at) });
        refresh::watchers_changed(node, own, &resource.uri, resource.event, at);
        writer::write_later(node, own, own.config.is_shared);
        return Ok(());
    }
    refresh::tell(node, own, resource, Wanted::all(at));
    Ok(())
}

fn watcher_of(subscription: &Subscription) -> Watcher {
    Watcher {
        user: subscription.watcher_username.clone(),
        domain: subscription.watcher_domain.clone(),
        status: Status::Terminated,
        reason: "rejected".into(),
    }
}

/// Gives every subscription the status it has now; takes those out that are refused.
fn apply(own: &Presence, resource: &Resource, decide: impl Fn(&str) -> (Status, &'static str)) -> Vec<Subscription> {
    let watchers: HashSet<String> = {
        let table = own.table.lock();
        table.of_resource(resource).into_iter().filter_map(|id| table.find(id)).map(Subscription::watcher).collect()
    };
    // Rules may be long: they are asked without the lock that every SUBSCRIBE needs.
    let decided: HashMap<String, (Status, &'static str)> =
        watchers.into_iter().map(|watcher| (watcher.clone(), decide(&watcher))).collect();
    let mut refused = Vec::new();
    let mut table = own.table.lock();
    for id in table.of_resource(resource) {
        let Some(subscription) = table.find(id) else { continue };
        // Who has come meanwhile was decided about by the same rules.
        let Some((status, reason)) = decided.get(&subscription.watcher()).copied() else { continue };
        if status == Status::Terminated {
            refused.extend(table.remove(id));
        } else if subscription.status != status {
            table.change(id, |subscription| {
                subscription.status = status;
                reason.clone_into(&mut subscription.reason);
            });
        }
    }
    refused
}

fn publications(own: &'static Presence) -> MiReply {
    MiReply::Later(Box::pin(async move {
        let rows = own.run(rows::all_publications(&own.config, None, LIST_MAX)).await.map_err(database)?;
        let mut list: Vec<Json> = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        for publication in rows::read_publications(&rows) {
            let place = places.get(&(publication.uri(), publication.event.clone())).copied();
            match place.and_then(|place| list.get_mut(place)) {
                Some(item) => {
                    let count = item["etag_count"].as_u64().unwrap_or(1) + 1;
                    item["etag_count"] = json!(count);
                }
                None => {
                    places.insert((publication.uri(), publication.event.clone()), list.len());
                    list.push(json!({
                        "pres_uri": publication.uri(),
                        "event": publication.event,
                        "etag_count": 1,
                        "etag": publication.etag,
                        "expires": publication.expires,
                    }));
                }
            }
        }
        Ok(Json::Array(list))
    }))
}

fn shown(subscription: &Subscription) -> Json {
    let mut item = json!({
        "pres_uri": subscription.resource.uri.as_ref(),
        "event": subscription.resource.event,
        "expires": subscription.expires,
        "status": subscription.status.name(),
        "version": subscription.version,
        "to_user": subscription.to_user,
        "to_domain": subscription.to_domain,
        "to_tag": subscription.key.to_tag,
        "from_user": subscription.watcher_username,
        "from_domain": subscription.watcher_domain,
        "from_tag": subscription.key.from_tag,
        "contact": subscription.contact,
        "callid": subscription.key.call_id,
        "local_cseq": subscription.local_cseq,
        "remote_cseq": subscription.remote_cseq,
    });
    if !subscription.event_id.is_empty() {
        item["event_id"] = json!(subscription.event_id);
    }
    if !subscription.sharing_tag.is_empty() {
        item["sharing_tag"] = json!(subscription.sharing_tag);
    }
    item
}

fn subscriptions(own: &Presence, request: &MiRequest) -> Result<Json, MiError> {
    let (from, to) = (request.text_opt("from")?, request.text_opt("to")?);
    let fits = |pattern: &Option<String>, uri: &str| {
        pattern.as_deref().is_none_or(|pattern| tandem_module::glob::matches(pattern.as_bytes(), uri.as_bytes()))
    };
    let table = own.table.lock();
    let wanted = table.all().filter(|subscription| {
        fits(&from, &subscription.watcher()) && fits(&to, &uri_of(&subscription.to_user, &subscription.to_domain))
    });
    Ok(Json::Array(wanted.take(LIST_MAX).map(shown).collect()))
}

fn expose(node: NodeRef, own: &'static Presence, request: &MiRequest) -> MiReply {
    let wanted = (|| {
        let event = request.text("event")?;
        let package = own.packages.named(&event).ok_or_else(|| MiError::new(404, "unknown event"))?;
        let filter = match request.text_opt("filter")? {
            Some(filter) => Some(PosixRegex::new(filter.as_bytes()).map_err(|_| MiError::bad("filter"))?),
            None => None,
        };
        Ok((package.name(), filter))
    })();
    let (event, filter) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return MiReply::Now(Err(error)),
    };
    MiReply::Later(Box::pin(async move {
        let rows = own.run(rows::all_publications(&own.config, Some(event), LIST_MAX)).await.map_err(database)?;
        let at = now();
        for publication in rows::read_publications(&rows) {
            let uri = publication.uri();
            if publication.expires < at || filter.as_ref().is_some_and(|filter| !filter.is_match(uri.as_bytes())) {
                continue;
            }
            let shown = Exposed {
                user: &publication.user,
                domain: &publication.domain,
                event,
                expires: publication.expires - at,
                etag: &publication.etag,
                old_etag: "",
                body: &publication.body,
            };
            raise(node, surface::EXPOSED, &shown);
        }
        Ok(json!("OK"))
    }))
}
