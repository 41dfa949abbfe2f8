//! Management commands: reload and show the addresses, ask the files.

use serde_json::{Map, Value as Json, json};
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;

use super::Permissions;
use super::addresses::{Addresses, Entry};
use super::partitions::Partition;
use crate::core::table::renamed_command;

pub(super) static COMMANDS: &[CommandSpec] = &[
    renamed_command(
        "permissions:address_reload",
        &["address_reload"],
        &["partition?"],
        "reads the addresses of one or all partitions again",
    ),
    renamed_command("permissions:address_dump", &["address_dump"], &["partition?"], "the single addresses in memory"),
    renamed_command("permissions:subnet_dump", &["subnet_dump"], &["partition?"], "the networks in memory"),
    renamed_command(
        "permissions:allow_uri",
        &["allow_uri"],
        &["basename", "uri", "contact"],
        "whether the files, which a script must have used, allow a pair of URIs",
    ),
];

pub(super) fn register(node: NodeRef, own: &'static Permissions) {
    for spec in COMMANDS {
        let name = spec.name;
        node.mi.register(*spec, move |request| match name {
            "permissions:address_reload" => reload(own, request),
            "permissions:address_dump" => dump(own, request, true).into(),
            "permissions:subnet_dump" => dump(own, request, false).into(),
            _ => allow_uri(own, request).into(),
        });
    }
}

fn wanted(own: &'static Permissions, request: &MiRequest) -> Result<Option<&'static Partition>, MiError> {
    let Some(name) = request.text_opt("partition")? else { return Ok(None) };
    own.partition(name.as_bytes()).map(Some).ok_or_else(|| MiError::new(404, "No such partition"))
}

fn reload(own: &'static Permissions, request: &MiRequest) -> MiReply {
    let wanted = match wanted(own, request) {
        Ok(wanted) => wanted,
        Err(error) => return MiReply::Now(Err(error)),
    };
    MiReply::Later(Box::pin(async move {
        for partition in own.partitions.iter().filter(|one| wanted.is_none_or(|wanted| wanted.name == one.name)) {
            if let Err(error) = partition.load().await {
                tracing::error!("permissions: partition '{}': {error}", partition.name);
                return Err(MiError { code: 500, message: "Failed to reload".into(), data: Some(json!(error)) });
            }
        }
        Ok(json!("OK"))
    }))
}

fn dump(own: &'static Permissions, request: &MiRequest, are_hosts: bool) -> MiResult {
    if let Some(partition) = wanted(own, request)? {
        return Ok(match partition.addresses() {
            Some(addresses) => json!({ "part": partition.name, "Destinations": list(&addresses, are_hosts) }),
            None => json!("OK"),
        });
    }
    let mut all = Vec::new();
    for partition in &own.partitions {
        if let Some(addresses) = partition.addresses() {
            all.push(json!({ "name": partition.name, "Destinations": list(&addresses, are_hosts) }));
        }
    }
    Ok(json!({ "Partitions": all }))
}

fn list(addresses: &Addresses, are_hosts: bool) -> Vec<Json> {
    addresses.rows(are_hosts).map(item).collect()
}

fn item(entry: &Entry) -> Json {
    let mut item = Map::new();
    item.insert("grp".into(), json!(entry.group));
    item.insert("ip".into(), json!(entry.net.to_string()));
    item.insert("mask".into(), json!(entry.mask.to_string()));
    item.insert("port".into(), json!(entry.port));
    item.insert("proto".into(), json!(entry.proto_name()));
    item.insert("pattern".into(), json!(entry.pattern.as_ref().map(|text| text.to_str())));
    item.insert("context_info".into(), json!(entry.info.as_ref().map(|text| text.to_str())));
    Json::Object(item)
}

fn allow_uri(own: &Permissions, request: &MiRequest) -> MiResult {
    let (basename, uri, contact) = (request.text("basename")?, request.text("uri")?, request.text("contact")?);
    if basename.is_empty() {
        return Err(MiError::new(404, "Basename is empty"));
    }
    match own.files.loaded_allow(&basename, uri.as_bytes(), contact.as_bytes()) {
        Some(true) => Ok(json!("OK")),
        Some(false) => Err(MiError::new(403, "Forbidden")),
        None => Err(MiError::new(404, "No script has used files of that basename yet")),
    }
}
