//! Management commands of the location tables.

use serde_json::{Value as Json, json};
use tandem_location::{Aor, Record, RemovalReason};
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node::{self, NodeRef};
use tandem_script::surface::CommandSpec;

use super::Usrloc;

const DUMP: CommandSpec =
    CommandSpec { name: "usrloc:dump", aliases: &["ul_dump"], params: &["brief?"], doc: "all records with their bindings" };
const SHOW: CommandSpec = CommandSpec {
    name: "usrloc:show_contact",
    aliases: &["ul_show_contact"],
    params: &["table_name", "aor"],
    doc: "the bindings of an address of record",
};
const REMOVE: CommandSpec = CommandSpec {
    name: "usrloc:rm",
    aliases: &["ul_rm"],
    params: &["table_name", "aor"],
    doc: "removes an address of record with all its bindings",
};
const REMOVE_CONTACT: CommandSpec = CommandSpec {
    name: "usrloc:rm_contact",
    aliases: &["ul_rm_contact"],
    params: &["table_name", "aor", "contact"],
    doc: "removes one binding",
};

pub(super) const COMMANDS: &[CommandSpec] = &[DUMP, SHOW, REMOVE, REMOVE_CONTACT];

/// Registers the commands.
pub(super) fn register(node: NodeRef, usrloc: &'static Usrloc) {
    node.mi.register(DUMP, move |request| dump(usrloc, request).into());
    node.mi.register(SHOW, move |request| show(node, usrloc, request).into());
    node.mi.register(REMOVE, move |request| remove(node, usrloc, request).into());
    node.mi.register(REMOVE_CONTACT, move |request| remove(node, usrloc, request).into());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn contacts(record: &Record) -> Vec<Json> {
    let now = node::unix_secs();
    let rows = record.bindings().iter().map(|binding| {
        json!({
            "Contact": text(binding.contact()),
            "Expires": binding.remaining_secs(now),
            "Q": binding.q_thousandths().map(|q| f64::from(q) / 1000.0),
            "Callid": text(binding.call_id()),
            "Cseq": binding.cseq(),
            "User-agent": text(binding.user_agent()),
            "Received": text(binding.received()),
            "Path": text(binding.path()),
            "Socket": text(binding.socket()),
            "Methods": binding.methods(),
        })
    });
    rows.collect()
}

fn dump(usrloc: &Usrloc, request: &MiRequest) -> MiResult {
    let is_brief = request.int_opt("brief")?.is_some_and(|brief| brief != 0);
    let mut domains = Vec::new();
    for (name, table) in usrloc.all() {
        let mut records = Vec::new();
        table.for_each(|record| {
            let aor = text(record.aor().as_bytes());
            records.push(if is_brief { json!({ "AOR": aor }) } else { json!({ "AOR": aor, "Contacts": contacts(record) }) });
        });
        domains.push(json!({ "name": name, "AORs": records }));
    }
    Ok(json!({ "Domains": domains }))
}

fn aor_of(usrloc: &Usrloc, request: &MiRequest) -> Result<Aor, MiError> {
    let aor = request.text("aor")?;
    let bare = aor.strip_prefix("sip:").unwrap_or(&aor);
    let (user, host) = bare.split_once('@').unwrap_or((bare, ""));
    Ok(usrloc.aor(user.as_bytes(), host.as_bytes(), false))
}

fn table_of(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> Result<std::sync::Arc<tandem_location::LocationTable>, MiError> {
    let name = request.text("table_name")?;
    if !usrloc.all().iter().any(|(known, _)| *known == name) {
        return Err(MiError::new(404, "Table not found"));
    }
    Ok(usrloc.domain(node, &name))
}

fn show(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> MiResult {
    let table = table_of(node, usrloc, request)?;
    let rows = table.with_record(&aor_of(usrloc, request)?, contacts);
    rows.map(|rows| json!({ "Contacts": rows })).ok_or_else(|| MiError::new(404, "AOR not found"))
}

fn remove(node: NodeRef, usrloc: &'static Usrloc, request: &MiRequest) -> MiResult {
    let table = table_of(node, usrloc, request)?;
    let aor = aor_of(usrloc, request)?;
    let changes = match request.text_opt("contact")? {
        Some(contact) => table.remove_contact(&aor, contact.as_bytes(), RemovalReason::Administrative),
        None => table.remove_aor(&aor, RemovalReason::Administrative),
    };
    if changes.is_empty() {
        return Err(MiError::new(404, "AOR or contact not found"));
    }
    usrloc.announce(node, &request.text("table_name")?, &aor, &changes);
    Ok(json!("OK"))
}
