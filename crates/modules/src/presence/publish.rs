//! `handle_publish()`: PUBLISH as of RFC 3903, on the table `presentity`. What watchers are told is elsewhere.

use std::sync::Arc;

use smallvec::smallvec;
use tandem_module::NodeRef;
use tandem_module::context::{Called, Context};
use tandem_module::db::{DbError, DbOp, DbValue, Statement};
use tandem_module::declare::arg_text;
use tandem_module::event::Event;
use tandem_module::run::Pending;
use tandem_script::value::Value;
use tandem_script::vm::Arg;
use tandem_sip::{HeaderKind, NameAddr};

use super::package::{Package, Refusal, Source};
use super::refresh::{self, Wanted};
use super::rows::{self, Owner, Publication};
use super::table::Resource;
use super::{BODY_BYTES_MAX, NAME_BYTES_MAX, PUBLICATIONS_MAX, Presence, URI_BYTES_MAX};
use super::{account, bad_event, failed, refuse, serving, surface, text};

/// A PUBLISH that has been read.
struct Publish {
    package: Arc<dyn Package>,
    owner: Owner,
    if_match: Option<String>,
    expires_secs: u32,
    body: Option<Vec<u8>>,
    sender: String,
    at: i64,
}

/// What came of it.
struct Published {
    publish: Publish,
    etag: String,
    /// The document that is no more.
    ended: Option<Vec<u8>>,
}

pub(super) fn handle(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = serving(context) else { return Called::Done(-1) };
    let publish = match read(context, own, arg_text(args, 0).unwrap_or_default()) {
        Ok(publish) => publish,
        Err(refusal) => return refuse(context, &refusal),
    };
    let node = context.node;
    let writing = node.writes.begin();
    let job = async move {
        let result = keep(own, publish).await;
        drop(writing);
        result
    };
    Pending::job(node, job, move |context, result| match result {
        Some(Ok(published)) => finish(context, own, published),
        Some(Err(refusal)) => refuse(context, &refusal),
        None => refuse(context, &failed()),
    })
}

fn read(context: &Context, own: &Presence, sender: &[u8]) -> Result<Publish, Refusal> {
    let message = &context.message;
    let sender = match NameAddr::parse(sender) {
        Ok(address) if sender.contains(&b'<') => address.uri,
        _ => sender,
    };
    let event = message.value_of(HeaderKind::Event).ok_or_else(|| bad_event(own))?;
    let (package, _) = own.packages.of_event(event).ok_or_else(|| bad_event(own))?;
    if package.source() != Source::Publications {
        return Err(bad_event(own));
    }
    let (user, domain) = account(context.request_uri().unwrap_or_default())?;
    let if_match = match message.value_of(HeaderKind::SipIfMatch) {
        Some(etag) => Some(text(tandem_sip::trim(etag), NAME_BYTES_MAX).map_err(|_| stale())?),
        None => None,
    };
    let body = Some(message.body().to_vec()).filter(|body| !body.is_empty());
    let expires_secs = message.expires().unwrap_or_else(|| package.default_expires_secs());
    if let Some(body) = &body {
        if body.len() > BODY_BYTES_MAX {
            return Err(Refusal::new(413, "Request Entity Too Large"));
        }
        let content_type = String::from_utf8_lossy(message.content_type().unwrap_or_default());
        package.check(&content_type, body)?;
    } else if if_match.is_none() && expires_secs > 0 {
        return Err(Refusal::new(400, "Bad request"));
    }
    Ok(Publish {
        owner: Owner { user, domain, event: package.name() },
        package,
        if_match,
        expires_secs: expires_secs.min(own.config.publish_secs_max),
        body,
        sender: text(sender, URI_BYTES_MAX)?,
        at: tandem_module::node::unix_secs_at(context.source.at),
    })
}

fn stale() -> Refusal {
    Refusal::new(412, "Conditional Request Failed")
}

/// 500, unless there is too much to do just now.
fn refused(error: DbError) -> Refusal {
    match error {
        DbError::Overloaded => {
            Refusal { headers: "Retry-After: 5\r\n".into(), ..Refusal::new(503, "Service Unavailable") }
        }
        _ => failed(),
    }
}

async fn keep(own: &'static Presence, publish: Publish) -> Result<Published, Refusal> {
    match publish.if_match.clone() {
        None => first(own, publish).await,
        Some(etag) if publish.expires_secs == 0 => remove(own, publish, etag).await,
        Some(etag) => again(own, publish, etag).await,
    }
}

async fn first(own: &'static Presence, publish: Publish) -> Result<Published, Refusal> {
    let etag = format!("{:032x}", rand::random::<u128>());
    let Some(body) = publish.body.as_deref().filter(|_| publish.expires_secs > 0) else {
        return Ok(Published { publish, etag, ended: None });
    };
    let (config, owner, at) = (&own.config, &publish.owner, publish.at);
    let held = own.run(rows::publications_of(config, owner, at, PUBLICATIONS_MAX)).await.map_err(refused)?;
    if held.rows.len() >= PUBLICATIONS_MAX {
        return Err(Refusal { headers: "Retry-After: 60\r\n".into(), ..Refusal::new(503, "Too many publications") });
    }
    let times = (expires_at(own, &publish), at);
    let insert = rows::insert_publication(config, owner, &etag, times, body, &publish.sender);
    own.run(insert).await.map_err(refused)?;
    Ok(Published { publish, etag, ended: None })
}

fn expires_at(own: &Presence, publish: &Publish) -> i64 {
    publish.at + i64::from(publish.expires_secs) + own.config.expires_offset_secs
}

async fn find(own: &'static Presence, owner: &Owner, etag: &str) -> Result<Option<Publication>, Refusal> {
    let found = own.run(rows::publication(&own.config, owner, etag)).await.map_err(refused)?;
    Ok(rows::read_publications(&found).into_iter().next())
}

async fn remove(own: &'static Presence, publish: Publish, etag: String) -> Result<Published, Refusal> {
    let found = find(own, &publish.owner, &etag).await?.ok_or_else(stale)?;
    let delete = rows::delete_publication(&own.config, &publish.owner.row_keys(), &etag, None);
    if own.run(delete).await.map_err(refused)?.affected == 0 {
        return Err(stale());
    }
    Ok(Published { publish, etag, ended: Some(found.body) })
}

async fn again(own: &'static Presence, publish: Publish, etag: String) -> Result<Published, Refusal> {
    let next = if publish.package.keeps_etag() { etag.clone() } else { format!("{:032x}", rand::random::<u128>()) };
    let times = (expires_at(own, &publish), publish.at);
    let mut update =
        rows::update_publication(&own.config, &publish.owner, (&etag, &next), times, publish.body.as_deref());
    if let Statement::Update { keys, .. } = &mut update {
        keys.push(("expires".into(), DbOp::Ge, DbValue::Int(publish.at)));
    }
    let changed = own.run(update).await.map_err(refused)?.affected;
    // Some servers count rows only when a value differs.
    if changed == 0 && find(own, &publish.owner, &next).await?.is_none_or(|found| found.expires < publish.at) {
        return Err(stale());
    }
    Ok(Published { publish, etag: next, ended: None })
}

fn finish(context: &mut Context, own: &'static Presence, published: Published) -> Called {
    let Published { publish, etag, ended } = published;
    let headers = format!("Expires: {}\r\nSIP-ETag: {etag}\r\n", publish.expires_secs);
    context.edits.lumps.append_to_reply(headers.into_bytes());
    let is_answered = context.answer(200, b"OK");
    raise(
        context.node,
        surface::PUBLISHED,
        &Exposed {
            user: &publish.owner.user,
            domain: &publish.owner.domain,
            event: publish.owner.event,
            expires: i64::from(publish.expires_secs),
            etag: &etag,
            old_etag: publish.if_match.as_deref().unwrap_or_default(),
            body: publish.body.as_deref().unwrap_or_default(),
        },
    );
    if publish.body.is_some() || ended.is_some() {
        let except = Some(publish.sender).filter(|sender| !sender.is_empty());
        let wanted = Wanted { except, ended: ended.into_iter().collect(), ..Wanted::all(publish.at) };
        let resource = Resource::new(&publish.owner.uri(), publish.owner.event);
        refresh::tell(context.node, own, &resource, wanted);
    }
    Called::Done(if is_answered { 1 } else { -1 })
}

/// A publication as events carry it.
pub(super) struct Exposed<'a> {
    pub(super) user: &'a str,
    pub(super) domain: &'a str,
    pub(super) event: &'a str,
    pub(super) expires: i64,
    pub(super) etag: &'a str,
    pub(super) old_etag: &'a str,
    pub(super) body: &'a [u8],
}

/// Raises an event about a publication, if anybody listens.
pub(super) fn raise(node: NodeRef, name: &'static str, shown: &Exposed<'_>) {
    if !node.events.has_listeners(name) {
        return;
    }
    let params = smallvec![
        ("user", Value::text(shown.user.as_bytes())),
        ("domain", Value::text(shown.domain.as_bytes())),
        ("event", Value::text(shown.event.as_bytes())),
        ("expires", Value::Int(i32::try_from(shown.expires).unwrap_or(i32::MAX))),
        ("etag", Value::text(shown.etag.as_bytes())),
        ("old_etag", Value::text(shown.old_etag.as_bytes())),
        ("body", Value::text(shown.body)),
    ];
    node.events.raise(node, Event { name, params }, None);
}
