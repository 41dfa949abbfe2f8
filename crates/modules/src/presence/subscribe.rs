//! `handle_subscribe()`: SUBSCRIBE as of RFC 6665, new and inside of its dialog, and who may watch whom.

use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::db::DbError;
use tandem_module::declare::{arg_int, arg_text};
use tandem_module::run::Pending;
use tandem_module::transport::Proto;
use tandem_script::vm::Arg;
use tandem_sip::{ContactValue, HeaderKind, Message, RequestOut, Uri, write_request};

use super::package::{Asked, Decision, Package, Refusal};
use super::refresh::{self, Wanted};
use super::rows::{self, Owner, Watcher};
use super::status::Status;
use super::table::{DialogKey, Resource, Subscription, uri_of};
use super::{NAME_BYTES_MAX, Presence, URI_BYTES_MAX};
use super::{account, bad_event, failed, refuse, serving, text, writer};

/// Longest Call-ID or tag in bytes.
const TOKEN_BYTES_MAX: usize = 255;
/// Longest route set in bytes.
const ROUTES_BYTES_MAX: usize = 2048;

/// A SUBSCRIBE that has been read.
struct Subscribe {
    package: Arc<dyn Package>,
    /// Our tag is empty in a new one.
    subscription: Subscription,
    /// Whether it names a contact; without one a refresh leaves the old.
    has_contact: bool,
    expires_secs: u32,
    is_forced: bool,
    at: i64,
}

pub(super) fn handle(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = serving(context) else { return Called::Done(-1) };
    let subscribe = match read(context, own, args) {
        Ok(subscribe) => subscribe,
        Err(refusal) => return refuse(context, &refusal),
    };
    if subscribe.subscription.key.to_tag.is_empty() {
        begin(context, own, subscribe)
    } else {
        go_on(context, own, subscribe)
    }
}

fn bad() -> Refusal {
    Refusal::new(400, "Bad request")
}

fn gone() -> Refusal {
    Refusal::new(481, "Subscription does not exist")
}

/// The Contact as the script has left it (it may have put the source address in).
fn contact(context: &Context) -> Result<Option<String>, Refusal> {
    let first = |message: &Message| match message.contacts().next() {
        None => Ok(None),
        Some(Ok(ContactValue::Address(address))) if Uri::parse(address.uri).is_ok_and(|uri| !uri.host.is_empty()) => {
            text(address.uri, URI_BYTES_MAX).map(Some)
        }
        Some(_) => Err(bad()),
    };
    if context.edits.lumps.is_empty() {
        return first(&context.message);
    }
    let mut out = Vec::with_capacity(context.message.buffer().len() + 128);
    let as_is = RequestOut { uri: None, via: None, headers: b"", is_stream: false };
    write_request(&context.message, &context.edits.lumps, &as_is, &mut out);
    match Message::parse(out.into()) {
        Ok(message) => first(&message),
        Err(_) => first(&context.message),
    }
}

/// The URI by which this server is reached in the dialog.
fn local_contact(context: &Context, own: &Presence) -> String {
    if let Some(address) = &own.config.server_address {
        return address.clone();
    }
    let Some(socket) = context.node.socket(context.source.socket) else { return String::new() };
    let host = String::from_utf8_lossy(&socket.sent_by);
    let user = &own.config.contact_user;
    let at = if user.is_empty() { "" } else { "@" };
    let transport =
        if socket.proto == Proto::Udp { String::new() } else { format!(";transport={}", socket.proto.name()) };
    format!("sip:{user}{at}{host}{transport}")
}

fn record_route(message: &Message) -> Result<String, Refusal> {
    let mut set = String::new();
    for route in message.record_routes() {
        let route = route.map_err(|_| bad())?;
        if !set.is_empty() {
            set.push(',');
        }
        set.push_str(&text(route.raw, ROUTES_BYTES_MAX)?);
        if set.len() > ROUTES_BYTES_MAX {
            return Err(bad());
        }
    }
    Ok(set)
}

/// Whom a new subscription is to. Phones of a shared line name themselves in Contact.
fn presentity(
    context: &mut Context,
    own: &Presence,
    package: &Arc<dyn Package>,
    contact: &str,
) -> Result<String, Refusal> {
    if package.is_shared_line() {
        if let Some(var) = &own.config.bla_presentity {
            let value = context.read_var(var).as_text().ok_or_else(bad)?;
            let (user, domain) = account(&value)?;
            return Ok(uri_of(&user, &domain));
        }
        let user = account(contact.as_bytes())?.0;
        let domain = account(context.message.from().map_err(|_| bad())?.uri)?.1;
        return Ok(uri_of(&user, &domain));
    }
    let (user, domain) = account(context.request_uri().unwrap_or_default())?;
    Ok(uri_of(&user, &domain))
}

fn read(context: &mut Context, own: &Presence, args: &[Arg]) -> Result<Subscribe, Refusal> {
    let event = context.message.value_of(HeaderKind::Event).ok_or_else(|| bad_event(own))?;
    let (package, event_id) = own.packages.of_event(event).ok_or_else(|| bad_event(own))?;
    let event_id = text(event_id.as_bytes(), NAME_BYTES_MAX)?;
    let contact = contact(context)?;
    let message = &context.message;
    let (from, to) = (message.from().map_err(|_| bad())?, message.to().map_err(|_| bad())?);
    let (watcher_username, watcher_domain) = account(from.uri)?;
    let (to_user, to_domain) = account(to.uri)?;
    let key = DialogKey {
        call_id: text(message.call_id().map_err(|_| bad())?, TOKEN_BYTES_MAX)?,
        from_tag: text(from.tag().ok_or_else(bad)?, TOKEN_BYTES_MAX)?,
        to_tag: text(to.tag().unwrap_or_default(), TOKEN_BYTES_MAX)?,
    };
    let (remote_cseq, ..) = message.cseq().map_err(|_| bad())?;
    let asked = message.expires().unwrap_or_else(|| package.default_expires_secs());
    let expires_secs = asked.min(own.config.subscribe_secs_max);
    let record_route = record_route(message)?;
    let is_new = key.to_tag.is_empty();
    if is_new && contact.is_none() {
        return Err(bad());
    }
    let has_contact = contact.is_some();
    let contact = contact.unwrap_or_default();
    let uri = if is_new { presentity(context, own, &package, &contact)? } else { uri_of(&to_user, &to_domain) };
    let at = tandem_module::node::unix_secs_at(context.source.at);
    let socket = context.node.socket(context.source.socket);
    Ok(Subscribe {
        subscription: Subscription {
            key,
            resource: Resource::new(&uri, package.name()),
            watcher_username,
            watcher_domain,
            to_user,
            to_domain,
            event_id,
            local_cseq: 0,
            remote_cseq,
            contact,
            record_route,
            expires: at + i64::from(expires_secs),
            status: Status::Active,
            reason: String::new(),
            version: 0,
            socket_info: socket.map(|socket| socket.text.clone()).unwrap_or_default(),
            local_contact: local_contact(context, own),
            sharing_tag: text(arg_text(args, 1).unwrap_or_default(), 32)?,
        },
        package,
        has_contact,
        expires_secs,
        is_forced: arg_int(args, 0).unwrap_or(0) != 0,
        at,
    })
}

/// Answers 200.
fn accept(context: &mut Context, expires_secs: u32, local_contact: &str) -> bool {
    let headers = format!("Expires: {expires_secs}\r\nContact: <{local_contact}>\r\n");
    context.edits.lumps.append_to_reply(headers.into_bytes());
    context.answer(200, b"OK")
}

/// The tag that a reply to the request carries.
fn our_tag(context: &Context) -> String {
    let tag = match context.transaction {
        Some(_) => crate::tm::local_to_tag(&context.message).to_vec(),
        None => tandem_module::reply::to_tag(&context.message).to_vec(),
    };
    String::from_utf8_lossy(&tag).into_owned()
}

/// A new subscription.
fn begin(context: &mut Context, own: &'static Presence, subscribe: Subscribe) -> Called {
    let node = context.node;
    let (user, domain) = match account(subscribe.subscription.resource.uri.as_bytes()) {
        Ok(account) => account,
        Err(refusal) => return refuse(context, &refusal),
    };
    let owner = Owner { user, domain, event: subscribe.package.name() };
    let policy = subscribe.package.policy(node, &owner.user, &owner.domain).filter(|_| !subscribe.is_forced);
    let Some(policy) = policy else {
        return open(context, own, subscribe, &Decision::ACTIVE);
    };
    let writing = node.writes.begin();
    let job = async move {
        let decided = decide(own, &subscribe, &owner, policy).await;
        drop(writing);
        (subscribe, decided)
    };
    Pending::job(node, job, move |context, result| match result {
        Some((subscribe, Ok(decision))) => open(context, own, subscribe, &decision),
        _ => refuse(context, &failed()),
    })
}

/// What the rules, or what an operator wrote into `watchers`, say about the watcher.
async fn decide(
    own: &'static Presence,
    subscribe: &Subscribe,
    owner: &Owner,
    policy: super::PolicyFuture,
) -> Result<Decision, DbError> {
    let subscription = &subscribe.subscription;
    let sphere = refresh::sphere(own, &subscribe.package, owner, subscribe.at).await?;
    let policy = policy.await?;
    let watcher = subscription.watcher();
    let asked = Asked { watcher: &watcher, sphere: sphere.as_deref(), unix_secs: subscribe.at };
    let mut decision = policy.decide(&asked);
    let one = Some((subscription.watcher_username.as_str(), subscription.watcher_domain.as_str()));
    let rows = own.run(rows::watchers(&own.config, &subscription.resource, one, 1)).await?;
    match rows::read_watchers(&rows).first() {
        // Decided before: that holds until refresh_watchers.
        Some(known) if matches!(known.status, Status::Active | Status::Terminated) => {
            decision.status = known.status;
        }
        // Undecided it stays as it was first seen, so that it is forgotten in time.
        Some(known) if known.status == decision.status => {}
        _ => {
            let watcher = Watcher {
                user: subscription.watcher_username.clone(),
                domain: subscription.watcher_domain.clone(),
                status: decision.status,
                reason: decision.reason.to_owned(),
            };
            own.run(rows::write_watcher(&own.config, &subscription.resource, &watcher, subscribe.at)).await?;
        }
    }
    Ok(decision)
}

fn open(context: &mut Context, own: &'static Presence, subscribe: Subscribe, decision: &Decision) -> Called {
    let Subscribe { mut subscription, expires_secs, at, .. } = subscribe;
    if decision.status == Status::Terminated {
        return refuse(context, &Refusal::new(403, "Forbidden"));
    }
    let node = context.node;
    subscription.status = decision.status;
    subscription.reason = decision.reason.to_owned();
    subscription.key.to_tag = our_tag(context);
    let resource = subscription.resource.clone();
    if expires_secs == 0 {
        // A look without a subscription (RFC 6665 §4.4.3).
        if !accept(context, 0, &subscription.local_contact) {
            return Called::Done(-1);
        }
        refresh::tell(node, own, &resource, Wanted::farewell(subscription, "timeout", at));
        return Called::Done(1);
    }
    let local_contact = subscription.local_contact.clone();
    let inserted = own.table.lock().insert(subscription, false);
    let Some(id) = inserted else {
        tracing::error!("presence: there are {} subscriptions; another one was refused", super::SUBSCRIPTIONS_MAX);
        return refuse(context, &Refusal::new(503, "Too many subscriptions"));
    };
    if !accept(context, expires_secs, &local_contact) {
        own.table.lock().remove(id);
        return Called::Done(-1);
    }
    refresh::tell(node, own, &resource, Wanted::one(id, at));
    refresh::watchers_changed(node, own, &resource.uri, resource.event, at);
    writer::changed(node, own);
    Called::Done(1)
}

/// A SUBSCRIBE inside of its dialog.
fn go_on(context: &mut Context, own: &'static Presence, subscribe: Subscribe) -> Called {
    let is_known = own.table.lock().id_of(&subscribe.subscription.key).is_some();
    if is_known || !own.config.is_shared {
        return renew(context, own, subscribe);
    }
    let job = async move {
        let rows = own.run(rows::subscription(&own.config, &subscribe.subscription.key)).await?;
        let found = rows::read_subscriptions(&own.config, &own.packages, &rows);
        let mut table = own.table.lock();
        found.into_iter().for_each(|row| table.merge(row));
        drop(table);
        Ok::<_, DbError>(subscribe)
    };
    Pending::job(context.node, job, move |context, result| match result {
        Some(Ok(subscribe)) => renew(context, own, subscribe),
        _ => refuse(context, &failed()),
    })
}

fn renew(context: &mut Context, own: &'static Presence, subscribe: Subscribe) -> Called {
    let Subscribe { subscription: new, has_contact, expires_secs, at, .. } = subscribe;
    let node = context.node;
    let result = {
        let mut table = own.table.lock();
        let known = table.id_of(&new.key).filter(|id| {
            let found = table.find(*id);
            found.is_some_and(|old| old.resource.event == new.resource.event && old.event_id == new.event_id)
        });
        match known {
            None => Err(gone()),
            Some(id) => {
                let renewed = table.change(id, |old| {
                    if new.remote_cseq <= old.remote_cseq {
                        return Err(Refusal::new(500, "CSeq out of order"));
                    }
                    old.remote_cseq = new.remote_cseq;
                    if has_contact {
                        old.contact = new.contact;
                    }
                    if expires_secs > 0 {
                        old.expires = new.expires;
                    }
                    Ok((old.local_contact.clone(), old.resource.clone()))
                });
                let ended = match renewed {
                    Some(Ok(_)) if expires_secs == 0 => table.remove(id),
                    _ => None,
                };
                renewed.unwrap_or_else(|| Err(gone())).map(|(contact, resource)| (id, contact, resource, ended))
            }
        }
    };
    let (id, local_contact, resource, ended) = match result {
        Ok(renewed) => renewed,
        Err(refusal) => return refuse(context, &refusal),
    };
    let is_answered = accept(context, expires_secs, &local_contact);
    match ended {
        Some(subscription) => {
            refresh::tell(node, own, &resource, Wanted::farewell(subscription, "timeout", at));
            refresh::watchers_changed(node, own, &resource.uri, resource.event, at);
            writer::write_later(node, own, false);
        }
        None => {
            refresh::tell(node, own, &resource, Wanted::one(id, at));
            writer::changed(node, own);
        }
    }
    Called::Done(if is_answered { 1 } else { -1 })
}
