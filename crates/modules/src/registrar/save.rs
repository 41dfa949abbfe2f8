//! `save()`: one REGISTER applied to a location table, and its answer.

use std::sync::Arc;
use std::time::Duration;

use tandem_location::{
    Aor, Binding, Change, ContactRequest, Matching, RegisterPolicy, RegisterRequest, binding_flags, uris_match,
};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::edits::Edits;
use tandem_module::node::NodeRef;
use tandem_module::run::Pending;
use tandem_module::transport::Source;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{Message, Uri};

use super::config::{Registrar, text_of};
use super::flags::SaveFlags;
use super::push::Wanted;
use super::request::{self, Refusal};
use super::{aor_of, reply};
use crate::usrloc::{Ack, Domain, Fetched, Usrloc};

/// A connection outlives the registration by this, so that a late refresh still finds it.
const KEEP_MORE_SECS: i64 = 10;

/// What `save()` was given, beside the message.
struct Job<'a> {
    node: NodeRef,
    usrloc: &'static Usrloc,
    registrar: &'static Registrar,
    domain: &'static Domain,
    flags: SaveFlags,
    aor: Option<&'a [u8]>,
    ownership_tag: Option<&'a [u8]>,
    received: Option<Text>,
    attr: Option<Text>,
    /// In a reply route: the reply, and the contact that was sent on.
    reply: Option<(&'a Message, Option<Text>)>,
    now: i64,
}

/// The request a job works on.
#[derive(Clone, Copy)]
struct Register<'m> {
    message: &'m Message,
    source: &'m Source,
    edits: &'m Edits,
}

/// What came of it.
struct Saved {
    aor: Aor,
    changes: Vec<Change>,
    bindings: Vec<Arc<Binding>>,
    /// Contact, Path, Require and Feature-Caps of the 200.
    lines: [Vec<u8>; 4],
    /// How long the connection is wanted, in seconds; `None` leaves it as it is.
    keep_secs: Option<i64>,
}

pub(super) fn save(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(usrloc), Some(registrar)) = (node.state::<Usrloc>(), node.state::<Registrar>()) else {
        return Called::Done(-1);
    };
    let flags = SaveFlags::parse(arg_text(args, 1).unwrap_or_default());
    let Some(domain) = usrloc.domain(node, arg_text(args, 0).unwrap_or_default()) else {
        return end(context, registrar, &flags, Err(Refusal::NoTable));
    };
    if !domain.is_db_only() {
        return save_now(context, args, (usrloc, registrar, domain), flags, None);
    }
    let given = arg_text(args, 2).filter(|aor| !aor.is_empty());
    let message =
        if context.is_request() { Some(&context.message) } else { context.request.as_ref().map(|r| &r.message) };
    let uri = given.or_else(|| Some(message?.to().ok()?.uri));
    // Without an address of record nothing is read, and the refusal says what is wrong.
    let aors = uri.and_then(|uri| aor_of(node, uri).ok()).into_iter().collect();
    let args = args.to_vec();
    Pending::job(node, domain.fetch(aors), move |context, fetched| match fetched.flatten() {
        Some(fetched) => save_now(context, &args, (usrloc, registrar, domain), flags, Some(fetched)),
        None => end(context, registrar, &flags, Err(Refusal::NoTable)),
    })
}

type Places = (&'static Usrloc, &'static Registrar, &'static Domain);

/// Applies the request to the table and answers, in write-through mode when the rows are written: nothing is acknowledged
/// that a crash could take back.
fn save_now(
    context: &mut Context,
    args: &[Arg],
    (usrloc, registrar, domain): Places,
    flags: SaveFlags,
    fetched: Option<Fetched>,
) -> Called {
    let node = context.node;
    let saved = match prepare(context, args, (usrloc, registrar, domain), flags.clone()) {
        Ok(saved) => saved,
        Err(refusal) => return end(context, registrar, &flags, Err(refusal)),
    };
    let acks = usrloc.publish_acknowledged(node, domain, &saved.aor, &saved.changes, &saved.bindings);
    // A reply that passes through was acknowledged by the registrar behind us.
    if acks.is_empty() || (!context.is_request() && fetched.is_none()) {
        return end(context, registrar, &flags, Ok(saved));
    }
    Pending::job(node, all_written(acks), move |context, is_written| {
        drop(fetched);
        let result = if is_written == Some(true) { Ok(saved) } else { Err(Refusal::NotWritten) };
        end(context, registrar, &flags, result)
    })
}

async fn all_written(acks: Vec<Ack>) -> bool {
    let mut is_written = true;
    for ack in acks {
        is_written &= ack.await == Ok(true);
    }
    is_written
}

/// Answers.
fn end(context: &mut Context, registrar: &Registrar, flags: &SaveFlags, result: Result<Saved, Refusal>) -> Called {
    let no_reply = flags.no_reply || !context.is_request();
    match result {
        Ok(saved) => {
            count(&registrar.accepted);
            keep_connection(context, saved.keep_secs);
            if !no_reply {
                for line in saved.lines.into_iter().filter(|line| !line.is_empty()) {
                    context.edits.lumps.append_to_reply(line);
                }
                context.answer(200, b"OK");
            }
            Called::Done(1)
        }
        Err(refusal) => {
            count(&registrar.rejected);
            let (code, text) = refusal.reply();
            if context.node.settings.wants_log(LogLevel::Info) {
                context.log(LogLevel::Info, &format!("registrar: REGISTER refused with {code}: {text}"));
            }
            if !no_reply {
                reply::refuse(context, registrar, &refusal);
            }
            Called::Done(-1)
        }
    }
}

/// `tcp_persistent_flag`.
fn keep_connection(context: &Context, secs: Option<i64>) {
    if let (Some(secs), Some(conn), Some(transport)) = (secs, context.source.conn, context.node.transport()) {
        transport.keep_connection(conn, Duration::from_secs(secs.unsigned_abs()));
    }
}

fn count(stat: &std::sync::OnceLock<std::sync::Arc<tandem_module::stat::Stat>>) {
    if let Some(stat) = stat.get() {
        stat.inc();
    }
}

fn prepare(
    context: &mut Context,
    args: &[Arg],
    (usrloc, registrar, domain): Places,
    flags: SaveFlags,
) -> Result<Saved, Refusal> {
    let received = text_of(context, registrar.received.as_ref());
    let attr = text_of(context, registrar.attr.as_ref());
    let is_request = context.is_request();
    let modified = if is_request { None } else { text_of(context, registrar.modified_contact.as_ref()) };
    let context = &*context;
    let job = Job {
        node: context.node,
        usrloc,
        registrar,
        domain,
        flags,
        aor: arg_text(args, 2).filter(|aor| !aor.is_empty()),
        ownership_tag: arg_text(args, 3).filter(|tag| !tag.is_empty()),
        received,
        attr,
        reply: (!is_request).then_some((&context.message, modified)),
        now: tandem_module::node::unix_secs_at(context.source.at),
    };
    if is_request {
        let (source, edits) = (&context.source, &context.edits);
        return job.run(Register { message: &context.message, source, edits });
    }
    let stored = context.request.as_ref().ok_or(Refusal::Unparsable("no request belongs to this reply"))?;
    job.run(Register { message: &stored.message, source: &stored.source, edits: &stored.edits })
}

impl Job<'_> {
    fn run(&self, register: Register<'_>) -> Result<Saved, Refusal> {
        let message = register.message;
        let to = message.to().map_err(|_| Refusal::Unparsable("To cannot be parsed"))?.uri;
        let aor = aor_of(self.node, self.aor.unwrap_or(to)).map_err(Refusal::Aor)?;
        let call_id = request::call_id(message)?;
        let (cseq, _, _) = message.cseq().map_err(|_| Refusal::Unparsable("CSeq cannot be parsed"))?;
        let path = request::path(message, &self.flags)?;
        let received = path.received.as_deref().or(self.received.as_deref()).unwrap_or_default();
        let mut list = request::contacts(message, self.registrar, received)?;
        if let Some((reply, modified)) = &self.reply {
            for contact in &mut list.contacts {
                let sent = modified.as_deref().unwrap_or(contact.uri);
                contact.expires = reply::granted_expires(reply, sent).or(contact.expires);
            }
        }
        let wanted = self.push_wanted(message, &list.contacts)?;
        let is_push = wanted.iter().any(|wanted| matches!(wanted, Wanted::On(_)));
        let mut branch_flags = register.edits.target.flags;
        if let (true, Some(flag)) = (path.received.is_some(), self.usrloc.nat_bflag) {
            branch_flags |= 1 << u32::from(flag.min(31));
        }
        let kv = self.ownership_tag.map(|tag| serde_json::json!({ "_st": String::from_utf8_lossy(tag) }).to_string());
        let request = RegisterRequest {
            call_id,
            cseq,
            contacts: &list.contacts,
            wildcard: list.is_star,
            expires: message.expires(),
            path: &path.stored,
            socket: self.socket(register),
            user_agent: message.value_of(tandem_sip::HeaderKind::UserAgent).unwrap_or(b"n/a"),
            attr: self.attr.as_deref().unwrap_or_default(),
            kv: kv.as_deref().unwrap_or_default().as_bytes(),
            flags: if self.flags.is_memory_only { binding_flags::MEMORY_ONLY } else { 0 }
                | if is_push { binding_flags::PUSH_NOTIFICATION } else { 0 },
            branch_flags,
            methods: request::allowed_methods(message),
            expires_deviation_secs: self.deviation(),
        };
        let is_outbound = list.contacts.iter().any(|contact| contact.reg_id != 0 && !contact.instance.is_empty())
            && request::supports(message, b"outbound");
        let mut policy = RegisterPolicy { matches_flows: is_outbound, ..self.policy() };
        if let Some(push) = &self.registrar.push
            && wanted.iter().any(|wanted| matches!(wanted, Wanted::On(_) | Wanted::Elsewhere))
        {
            policy.matching = Matching::EachParam(push.match_params.clone());
        }
        let outcome = self.domain.table.register(&aor, &request, &policy, self.now).map_err(Refusal::Table)?;
        let mut lines = <[Vec<u8>; 4]>::default();
        if !self.flags.no_reply {
            let only = self.flags.only_request_contacts.then_some(&list.contacts[..]);
            let gruu = self.registrar.gruu.as_ref().filter(|_| request::supports(message, b"gruu"));
            let to = gruu.and_then(|_| Uri::parse(self.aor.unwrap_or(to)).ok());
            let extensions =
                reply::Extensions { gruu: gruu.zip(to.as_ref()).map(|(gruu, to)| (gruu, &aor, to)), is_outbound };
            lines[0] = reply::contact_line(&outcome.bindings, only, self.registrar, extensions, self.now);
            if path.is_shown {
                lines[1] = reply::path_line(&path.stored);
            }
            if is_outbound {
                lines[2] = b"Require: outbound\r\n".to_vec();
            }
        }
        if let Some(push) = &self.registrar.push {
            for (contact, wanted) in list.contacts.iter().zip(&wanted) {
                let own = outcome.bindings.iter().find(|binding| uris_match(binding.contact(), contact.uri));
                let own = own.map(|binding| binding.contact_id());
                lines[3].extend_from_slice(&push.feature_caps(message, *wanted, own));
            }
        }
        let keep_secs = self.keep_secs(register, &outcome.bindings);
        Ok(Saved { aor, changes: outcome.changes, bindings: outcome.bindings, lines, keep_secs })
    }

    /// What each contact wants of push notifications; nothing where the script says how contacts are matched.
    fn push_wanted(&self, message: &Message, contacts: &[ContactRequest<'_>]) -> Result<Vec<Wanted>, Refusal> {
        let push = self.registrar.push.as_ref().filter(|_| self.flags.matching.is_none());
        let Some(push) = push else { return Ok(Vec::new()) };
        let wanted: Vec<Wanted> = contacts.iter().map(|contact| push.wanted(message, contact.uri)).collect();
        if wanted.contains(&Wanted::Unsupported) { Err(Refusal::PushUnsupported) } else { Ok(wanted) }
    }

    /// How long the connection of a flagged REGISTER is wanted: until its last contact expires, and a little longer.
    fn keep_secs(&self, register: Register<'_>, bindings: &[Arc<Binding>]) -> Option<i64> {
        let flag = self.registrar.persistent_flag.filter(|_| register.source.proto.is_reliable())?;
        if register.edits.flags >> u32::from(flag.min(31)) & 1 == 0 {
            return None;
        }
        let call_id = register.message.call_id().ok()?;
        let own = bindings.iter().filter(|binding| binding.call_id() == call_id);
        let left = own.map(|binding| binding.remaining_secs(self.now).unwrap_or(i64::from(i32::MAX))).max();
        Some(left.map_or(0, |left| left + KEEP_MORE_SECS))
    }

    fn policy(&self) -> RegisterPolicy {
        let (flags, registrar) = (&self.flags, self.registrar);
        let mut policy = self.usrloc.policy();
        policy.default_expires = registrar.default_expires;
        policy.min_expires = flags.min_expires.unwrap_or(registrar.min_expires);
        policy.max_expires = flags.max_expires.unwrap_or(registrar.max_expires);
        policy.max_contacts = flags.max_contacts.unwrap_or(registrar.max_contacts);
        policy.force_registration = flags.force;
        policy.allow_duplicate_cseq = registrar.allows_duplicate_cseq;
        if let Some(matching) = &flags.matching {
            policy.matching = matching.clone();
        }
        policy
    }

    fn deviation(&self) -> i32 {
        match self.registrar.expires_deviation {
            0 => 0,
            most => rand::random_range(-most..=most),
        }
    }

    /// The receiving socket, or with flag s the one that a header names.
    fn socket<'m>(&self, register: Register<'m>) -> &'m [u8] {
        let from_header =
            self.registrar.socket_header.as_deref().filter(|_| self.flags.socket_header).and_then(|name| {
                let entry = register.message.header_by_name(name)?;
                Some(tandem_sip::trim(register.message.value(entry))).filter(|value| !value.is_empty())
            });
        let received_on = || self.node.socket(register.source.socket).map_or(&b""[..], |socket| socket.text.as_bytes());
        from_header.unwrap_or_else(received_on)
    }
}
