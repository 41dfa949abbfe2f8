//! Management commands of the location tables, in the shapes OpenSIPS answers.

use serde_json::{Map, Value as Json, json};
use tandem_location::{
    Aor, Binding, BindingFields, ContactId, METHODS_ALL, MergeOutcome, Q_UNSET, Record, RemovalReason,
};
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_module::node::{self, NodeRef};
use tandem_script::surface::CommandSpec;

use crate::core::table::renamed_command;

use super::changes::is_memory_only;
use super::store::{Op, flag_names};
use super::{Domain, Usrloc};

const DUMP: CommandSpec = renamed_command("usrloc:dump", &["ul_dump"], &["brief?"], "all records with their bindings");
const SHOW: CommandSpec = renamed_command(
    "usrloc:show_contact",
    &["ul_show_contact"],
    &["table_name", "aor"],
    "the bindings of an address of record",
);
const REMOVE: CommandSpec = renamed_command(
    "usrloc:rm",
    &["ul_rm"],
    &["table_name", "aor"],
    "removes an address of record with all its bindings",
);
const REMOVE_CONTACT: CommandSpec =
    renamed_command("usrloc:rm_contact", &["ul_rm_contact"], &["table_name", "aor", "contact"], "removes one binding");
const ADD: CommandSpec = renamed_command(
    "usrloc:add",
    &["ul_add"],
    &["table_name", "aor", "contact", "expires", "q", "flags", "cflags", "methods"],
    "adds or replaces a binding; expires 0 is permanent",
);
/// The form of 2.4, with a parameter that nothing uses.
const ADD_V2_4: CommandSpec = renamed_command(
    "usrloc:add",
    &["ul_add"],
    &["table_name", "aor", "contact", "expires", "q", "unused", "flags", "cflags", "methods"],
    "adds or replaces a binding; expires 0 is permanent",
);
const FLUSH: CommandSpec =
    renamed_command("usrloc:flush", &["ul_flush"], &[], "writes all pending changes to the database");
const SYNC: CommandSpec = renamed_command(
    "usrloc:sync",
    &["ul_sync"],
    &["table_name", "aor?"],
    "empties the database table (or one address of record) and writes it anew from memory",
);
const CLUSTER_SYNC: CommandSpec = renamed_command(
    "usrloc:cluster_sync",
    &["ul_cluster_sync"],
    &[],
    "refused: contacts are not shared with a cluster yet",
);

pub(super) const COMMANDS: &[CommandSpec] = &[DUMP, SHOW, REMOVE, REMOVE_CONTACT, ADD, FLUSH, SYNC, CLUSTER_SYNC];

/// Call-ID of contacts made by `usrloc:add`.
const MI_CALL_ID: &[u8] = b"mi-usrloc-add@tandem";
/// Their User-Agent.
const MI_USER_AGENT: &[u8] = b"Tandem MI";

/// Registers the commands.
pub(super) fn register(node: NodeRef, usrloc: &'static Usrloc) {
    node.mi.register(DUMP, move |request| dump(node, usrloc, request).into());
    node.mi.register(SHOW, move |request| at_hand(node, usrloc, request, show));
    node.mi.register(REMOVE, move |request| at_hand(node, usrloc, request, remove));
    node.mi.register(REMOVE_CONTACT, move |request| at_hand(node, usrloc, request, remove_contact));
    let add_spec = if node.settings.is_v2_4 { ADD_V2_4 } else { ADD };
    node.mi.register(add_spec, move |request| at_hand(node, usrloc, request, add));
    node.mi.register(FLUSH, move |_| MiReply::Later(Box::pin(flush(usrloc))));
    node.mi.register(SYNC, move |request| sync(usrloc, request).unwrap_or_else(|error| MiReply::Now(Err(error))));
    node.mi.register(CLUSTER_SYNC, |_| Err(MiError::new(400, "Clustering not enabled")).into());
}

type Work = fn(NodeRef, &'static Usrloc, &MiRequest) -> MiResult;

/// Runs a command on one address of record: at once, or when its bindings have been read (domains that live in the
/// database only).
fn at_hand(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest, work: Work) -> MiReply {
    let found = domain_of(usrloc, request).and_then(|domain| Ok((domain, aor_of(usrloc, request)?)));
    match found {
        Err(error) => MiReply::Now(Err(error)),
        Ok((domain, _)) if !domain.is_db_only() => work(node, usrloc, request).into(),
        Ok((domain, aor)) => {
            let request = request.clone();
            MiReply::Later(Box::pin(async move {
                let Some(_fetched) = domain.fetch(vec![aor]).await else {
                    return Err(MiError::new(500, "The location database does not answer"));
                };
                work(node, usrloc, &request)
            }))
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A q value as it is written in headers: `1`, `0.5`; empty when there is none.
fn q_text(q: Option<u16>) -> String {
    q.map_or_else(String::new, |q| (f64::from(q) / 1000.0).to_string())
}

fn contact(node: NodeRef, usrloc: &Usrloc, domain: &Domain, binding: &Binding, now: i64) -> Json {
    let expires = match binding.remaining_secs(now) {
        None => json!("permanent"),
        Some(0) => json!("expired"),
        Some(left) => json!(left),
    };
    let state = match &domain.store {
        Some(store) if store.is_pending(binding.contact_id()) => "CS_DIRTY",
        Some(_) => "CS_SYNC",
        None => "CS_NEW",
    };
    let mut shown = Map::new();
    let mut add = |name: &str, value: Json| drop(shown.insert(name.to_owned(), value));
    let some = |value: &[u8]| (!value.is_empty()).then(|| json!(text(value)));
    let entries = [
        ("Contact", Some(json!(text(binding.contact())))),
        ("ContactID", Some(json!(binding.contact_id().0.to_string()))),
        ("Expires", Some(expires)),
        ("Q", Some(json!(q_text(binding.q_thousandths())))),
        ("Callid", Some(json!(text(binding.call_id())))),
        ("Cseq", Some(json!(binding.cseq()))),
        ("User-agent", some(binding.user_agent())),
        ("Received", some(binding.received())),
        ("Path", some(binding.path())),
        ("State", Some(json!(state))),
        ("Flags", Some(json!(binding.flags()))),
        ("Cflags", Some(json!(flag_names(node, binding.branch_flags())))),
        ("Socket", some(binding.socket())),
        ("Methods", Some(json!(binding.methods()))),
        ("Attr", some(binding.attr())),
        ("SIP_instance", some(binding.instance())),
        ("KV-Store", some(binding.kv()).filter(|_| usrloc.config.dumps_kv)),
    ];
    for (name, value) in entries {
        if let Some(value) = value {
            add(name, value);
        }
    }
    Json::Object(shown)
}

fn record_json(node: NodeRef, usrloc: &Usrloc, domain: &Domain, record: &Record) -> Json {
    let now = node::unix_secs();
    let contacts: Vec<_> =
        record.bindings().iter().map(|binding| contact(node, usrloc, domain, binding, now)).collect();
    let mut shown = json!({ "AOR": text(record.aor().as_bytes()), "Contacts": contacts });
    if usrloc.config.dumps_kv
        && !record.kv().is_empty()
        && let Some(object) = shown.as_object_mut()
    {
        object.insert("KV-Store".to_owned(), json!(text(record.kv())));
    }
    shown
}

fn dump(node: NodeRef, usrloc: &Usrloc, request: &MiRequest) -> MiResult {
    let is_brief = match request.text_opt("brief")?.as_deref() {
        None | Some("" | "0") => false,
        Some("brief" | "1") => true,
        Some(_) => return Err(MiError::bad("brief")),
    };
    let mut domains = Vec::new();
    for domain in usrloc.domains() {
        let mut records = Vec::new();
        domain.table.for_each(|record| {
            records.push(match is_brief {
                true => json!({ "AOR": text(record.aor().as_bytes()) }),
                false => record_json(node, usrloc, domain, record),
            });
        });
        domains.push(json!({ "name": domain.name, "hash_size": domain.table.shard_count(), "AORs": records }));
    }
    Ok(json!({ "Domains": domains }))
}

fn domain_of(usrloc: &Usrloc, request: &MiRequest) -> Result<&'static Domain, MiError> {
    let name = request.text("table_name")?;
    usrloc.find_domain(name.as_bytes()).ok_or_else(|| MiError::new(404, "Table not found"))
}

/// `user[@domain]`: the domain is demanded when `use_domain` is on and left away when it is off.
fn aor_of(usrloc: &Usrloc, request: &MiRequest) -> Result<Aor, MiError> {
    let aor = request.text("aor")?;
    match aor.rsplit_once('@') {
        None if usrloc.uses_domain() => Err(MiError::new(400, "Domain missing in AOR")),
        Some((user, _)) if !usrloc.uses_domain() => Ok(Aor::from_raw(user.as_bytes())),
        _ => Ok(Aor::from_raw(aor.as_bytes())),
    }
}

fn show(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> MiResult {
    let (domain, aor) = (domain_of(usrloc, request)?, aor_of(usrloc, request)?);
    let shown = domain.table.with_record(&aor, |record| record_json(node, usrloc, domain, record));
    shown.ok_or_else(|| MiError::new(404, "AOR not found"))
}

fn remove(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> MiResult {
    let (domain, aor) = (domain_of(usrloc, request)?, aor_of(usrloc, request)?);
    let changes = domain.table.remove_aor(&aor, RemovalReason::Administrative);
    if changes.is_empty() {
        return Err(MiError::new(404, "AOR not found"));
    }
    usrloc.publish(node, domain, &aor, &changes);
    Ok(json!("OK"))
}

fn remove_contact(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> MiResult {
    let (domain, aor) = (domain_of(usrloc, request)?, aor_of(usrloc, request)?);
    let contact = request.text("contact")?;
    if domain.table.with_record(&aor, |_| ()).is_none() {
        return Err(MiError::new(404, "AOR not found"));
    }
    let changes = domain.table.remove_contact(&aor, contact.as_bytes(), RemovalReason::Administrative);
    if changes.is_empty() {
        return Err(MiError::new(404, "Contact not found"));
    }
    usrloc.publish(node, domain, &aor, &changes);
    Ok(json!("OK"))
}

fn q_of(q: &str) -> Result<i16, MiError> {
    let q = q.trim();
    if q.is_empty() || q == "-1" {
        return Ok(Q_UNSET);
    }
    let number: f64 = q.parse().map_err(|_| MiError::bad("q"))?;
    if (0.0..=1.0).contains(&number) { Ok((number * 1000.0).round() as i16) } else { Err(MiError::bad("q")) }
}

fn add(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> MiResult {
    let (domain, aor) = (domain_of(usrloc, request)?, aor_of(usrloc, request)?);
    let contact = request.text("contact")?;
    let number = |name: &str| u32::try_from(request.int(name)?).map_err(|_| MiError::bad(name));
    let now = node::unix_secs();
    let expires_at = match number("expires")? {
        0 => 0,
        secs => now + i64::from(secs),
    };
    let methods = match number("methods")? {
        // "All standard methods" of the documentation.
        0x7FFF => METHODS_ALL,
        mask => mask,
    };
    let fields = BindingFields {
        contact: contact.as_bytes(),
        user_agent: MI_USER_AGENT,
        call_id: MI_CALL_ID,
        cseq: 1,
        q_thousandths: q_of(&request.text("q")?)?,
        expires_at,
        flags: number("flags")?,
        branch_flags: number("cflags")?,
        methods,
        last_modified: now,
        ..BindingFields::default()
    };
    let merged = domain.table.merge_contact_update(&aor, ContactId::default(), &fields, &usrloc.matching(), now);
    match merged {
        Ok(MergeOutcome::Applied(changes)) => usrloc.publish(node, domain, &aor, &changes),
        Ok(MergeOutcome::Ignored) => {}
        Err(error) => {
            return Err(MiError {
                code: 400,
                message: "Bad parameter value".into(),
                data: Some(json!(error.to_string())),
            });
        }
    }
    Ok(json!("OK"))
}

async fn flush(usrloc: &'static Usrloc) -> MiResult {
    let mut is_clean = true;
    for domain in usrloc.domains() {
        if let Some(store) = &domain.store {
            is_clean &= store.flush().await;
        }
    }
    if is_clean { Ok(json!("OK")) } else { Err(MiError::new(500, "Some contacts could not be written")) }
}

fn sync(usrloc: &'static Usrloc, request: &MiRequest) -> Result<MiReply, MiError> {
    let domain = domain_of(usrloc, request)?;
    // What lives in the database only is not written anew from memory.
    let Some(store) = domain.store.as_ref().filter(|store| !store.is_only()) else {
        return Err(MiError::new(200, "Contacts already synced"));
    };
    let aor = request.param("aor").map(|_| aor_of(usrloc, request)).transpose()?;
    Ok(MiReply::Later(Box::pin(async move {
        if store.clear(aor.as_ref()).await.is_err() {
            return Err(MiError::new(500, "DB delete failed"));
        }
        let write = |record: &Record| {
            for binding in record.bindings().iter().filter(|binding| !is_memory_only(binding)) {
                store.put(binding.contact_id(), Op::Write(record.aor().clone(), binding.clone()), None);
            }
        };
        match &aor {
            Some(aor) => domain.table.with_record(aor, write).ok_or_else(|| MiError::new(404, "AOR not found"))?,
            None => domain.table.for_each(write),
        }
        if store.flush().await { Ok(json!("OK")) } else { Err(MiError::new(500, "Some contacts could not be written")) }
    })))
}
