//! `save()`: one REGISTER applied to a location table, and its answer.

use tandem_location::{Aor, Change, RegisterPolicy, RegisterRequest, binding_flags};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::node::NodeRef;
use tandem_module::transport::Source;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::Message;

use super::config::{Registrar, text_of};
use super::flags::SaveFlags;
use super::request::{self, Refusal};
use super::{aor_of, reply};
use crate::usrloc::{Domain, Usrloc, unix_secs_at};

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
    branch_flags: u32,
}

/// What came of it.
struct Saved {
    aor: Aor,
    changes: Vec<Change>,
    contact_line: Vec<u8>,
    path_line: Vec<u8>,
}

pub(super) fn save(context: &mut Context, args: &[Arg]) -> Called {
    let node = context.node;
    let (Some(usrloc), Some(registrar)) = (node.state::<Usrloc>(), node.state::<Registrar>()) else {
        return Called::Done(-1);
    };
    let flags = SaveFlags::parse(arg_text(args, 1).unwrap_or_default());
    let no_reply = flags.no_reply || !context.is_request();
    let result = match usrloc.domain(node, arg_text(args, 0).unwrap_or_default()) {
        Some(domain) => prepare(context, args, usrloc, registrar, domain, flags),
        None => Err(Refusal::NoTable),
    };
    match result {
        Ok((domain, saved)) => {
            count(&registrar.accepted);
            usrloc.publish(node, domain, &saved.aor, &saved.changes);
            if !no_reply {
                for line in [saved.contact_line, saved.path_line].into_iter().filter(|line| !line.is_empty()) {
                    context.edits.lumps.append_to_reply(line);
                }
                context.answer(200, b"OK");
            }
            Called::Done(1)
        }
        Err(refusal) => {
            count(&registrar.rejected);
            let (code, text) = refusal.reply();
            if node.settings.wants_log(LogLevel::Info) {
                context.log(LogLevel::Info, &format!("registrar: REGISTER refused with {code}: {text}"));
            }
            if !no_reply {
                reply::refuse(context, registrar, &refusal);
            }
            Called::Done(-1)
        }
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
    usrloc: &'static Usrloc,
    registrar: &'static Registrar,
    domain: &'static Domain,
    flags: SaveFlags,
) -> Result<(&'static Domain, Saved), Refusal> {
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
        now: unix_secs_at(context.source.at),
    };
    let saved = if is_request {
        job.run(Register {
            message: &context.message,
            source: &context.source,
            branch_flags: context.edits.target.flags,
        })
    } else {
        let stored = context.request.as_ref().ok_or(Refusal::Unparsable("no request belongs to this reply"))?;
        job.run(Register { message: &stored.message, source: &stored.source, branch_flags: stored.edits.target.flags })
    };
    saved.map(|saved| (domain, saved))
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
        let mut branch_flags = register.branch_flags;
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
            flags: if self.flags.is_memory_only { binding_flags::MEMORY_ONLY } else { 0 },
            branch_flags,
            methods: request::allowed_methods(message),
            expires_deviation_secs: self.deviation(),
        };
        let outcome = self.domain.table.register(&aor, &request, &self.policy(), self.now).map_err(Refusal::Table)?;
        let only = self.flags.only_request_contacts.then_some(&list.contacts[..]);
        let contact_line = match self.flags.no_reply {
            true => Vec::new(),
            false => reply::contact_line(&outcome.bindings, only, self.registrar, self.now),
        };
        let path_line = if path.is_shown { reply::path_line(&path.stored) } else { Vec::new() };
        Ok(Saved { aor, changes: outcome.changes, contact_line, path_line })
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
