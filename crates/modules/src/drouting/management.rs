//! Management commands: reload, states of gateways and carriers, where a number goes, probing on and off.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value as Json, json};
use tandem_module::NodeRef;
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};

use super::Drouting;
use super::data::{Carrier, Gateway, Goal, Position, Rule, State, Tables};
use super::load::{self, Refused};
use super::partition::{Change, Partition, Source};
use super::surface::{COMMANDS, PLAIN_COMMANDS};
use crate::core::local_time;

pub(super) fn register(node: NodeRef, own: &'static Drouting) {
    let commands = if own.config.uses_partitions { COMMANDS } else { PLAIN_COMMANDS };
    for spec in commands {
        let name = spec.name;
        node.mi.register(*spec, move |request| match name {
            "drouting:reload" => reload(node, own, request),
            "drouting:gw_status" => gateway_status(node, own, request).into(),
            "drouting:carrier_status" => carrier_status(node, own, request).into(),
            "drouting:reload_status" => reload_status(own, request).into(),
            "drouting:number_routing" => number_routing(own, request).into(),
            _ => enable_probing(own, request).into(),
        });
    }
}

fn bad(code: i64, message: &str, data: &str) -> MiError {
    MiError { code, message: message.into(), data: Some(json!(data)) }
}

/// The partition a command names; `None` when it names none.
fn named(own: &Drouting, request: &MiRequest) -> Result<Option<Arc<Partition>>, MiError> {
    let Some(name) = request.text_opt("partition_name")? else { return Ok(None) };
    if !own.config.uses_partitions {
        return Err(bad(
            400,
            "Invalid parameter: 'partition_name'",
            "'partition_name' supported only when 'use_partitions' is set",
        ));
    }
    own.partition(name.as_bytes()).map(Some).ok_or_else(|| MiError::new(404, "Partition not found"))
}

/// The partition a command is about; with partitions it has to be named.
fn partition(own: &Drouting, request: &MiRequest) -> Result<Arc<Partition>, MiError> {
    match named(own, request)? {
        Some(partition) => Ok(partition),
        None if own.config.uses_partitions => Err(bad(
            400,
            "Missing parameter: 'partition_name'",
            "'partition_name' is required when 'use_partitions' is set",
        )),
        None => own.partitions().into_iter().next().ok_or_else(no_data),
    }
}

fn no_data() -> MiError {
    MiError::new(404, "No Data available yet")
}

fn reload(node: NodeRef, own: &'static Drouting, request: &MiRequest) -> MiReply {
    let wanted = named(own, request).and_then(|partition| {
        let inherits = match request.text_opt("inherit_state")?.as_deref() {
            None | Some("y") | Some("Y") => true,
            Some("n") | Some("N") => false,
            Some(_) => return Err(MiError::bad("inherit_state")),
        };
        Ok((partition, inherits))
    });
    let (partition, inherits) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return MiReply::Now(Err(error)),
    };
    MiReply::Later(Box::pin(async move {
        let all = partition.map_or_else(|| own.partitions(), |one| vec![one]);
        for partition in all {
            match load::reload(node, own, &partition, inherits).await {
                Ok(()) => {}
                Err(Refused::Busy) => return Err(MiError::new(500, "Reload in progress")),
                Err(Refused::Failed(error)) => {
                    tracing::error!("drouting: partition {}: reload failed: {error}", partition.name);
                    return Err(bad(500, "Failed to reload", &error));
                }
            }
        }
        Ok(json!("OK"))
    }))
}

/// 0 or 1.
fn status(request: &MiRequest) -> Result<Option<bool>, MiError> {
    match request.int_opt("status")? {
        None => Ok(None),
        Some(0) => Ok(Some(false)),
        Some(1) => Ok(Some(true)),
        Some(_) => Err(MiError::bad("status")),
    }
}

fn add_attrs(item: &mut Map<String, Json>, attrs: &[u8]) {
    if !attrs.is_empty() {
        item.insert("ATTRS".into(), json!(String::from_utf8_lossy(attrs)));
    }
}

fn gateway_item(item: &mut Map<String, Json>, gateway: &Gateway) {
    add_attrs(item, &gateway.attrs);
    let state = match gateway.status() {
        "active" => "Active",
        "disabled MI" => "Disabled MI",
        "probing" => "Probing",
        _ => "Inactive",
    };
    item.insert("State".into(), json!(state));
}

fn gateway_status(node: NodeRef, own: &Drouting, request: &MiRequest) -> MiResult {
    let partition = partition(own, request)?;
    let tables = partition.tables().ok_or_else(no_data)?;
    let Some(id) = request.text_opt("gw_id")? else {
        let mut all = Vec::new();
        for gateway in &tables.gateways {
            let mut item = Map::new();
            item.insert("ID".into(), json!(gateway.id.to_str()));
            item.insert("IP".into(), json!(gateway.address.to_str()));
            gateway_item(&mut item, gateway);
            all.push(Json::Object(item));
        }
        return Ok(json!({ "Gateways": all }));
    };
    let unknown = || MiError::new(404, "GW ID not found");
    match status(request)? {
        None => {
            let (_, gateway) = tables.gateway(id.as_bytes()).ok_or_else(unknown)?;
            let mut item = Map::new();
            gateway_item(&mut item, gateway);
            Ok(Json::Object(item))
        }
        Some(is_on) => {
            let to = if is_on { State::Active } else { State::Disabled };
            let change = Change { to, reason: "MI command", source: Source::Here };
            let is_known = partition.change_gateway(node, id.as_bytes(), change, |_| true);
            if is_known { Ok(json!("OK")) } else { Err(unknown()) }
        }
    }
}

fn carrier_item(item: &mut Map<String, Json>, carrier: &Carrier) {
    add_attrs(item, &carrier.attrs);
    item.insert("Enabled".into(), json!(if carrier.is_on.load(Ordering::Relaxed) { "yes" } else { "no" }));
}

fn carrier_status(node: NodeRef, own: &Drouting, request: &MiRequest) -> MiResult {
    let partition = partition(own, request)?;
    let tables = partition.tables().ok_or_else(no_data)?;
    let Some(id) = request.text_opt("carrier_id")? else {
        let mut all = Vec::new();
        for carrier in &tables.carriers {
            let mut item = Map::new();
            item.insert("ID".into(), json!(carrier.id.to_str()));
            carrier_item(&mut item, carrier);
            all.push(Json::Object(item));
        }
        return Ok(json!({ "Carriers": all }));
    };
    let unknown = || MiError::new(404, "Carrier ID not found");
    match status(request)? {
        None => {
            let (_, carrier) = tables.carrier(id.as_bytes()).ok_or_else(unknown)?;
            let mut item = Map::new();
            carrier_item(&mut item, carrier);
            Ok(Json::Object(item))
        }
        Some(is_on) => {
            let is_known = partition.change_carrier(node, id.as_bytes(), is_on, Source::Here);
            if is_known { Ok(json!("OK")) } else { Err(unknown()) }
        }
    }
}

fn reload_item(partition: &Partition, has_name: bool) -> Json {
    let mut item = Map::new();
    if has_name {
        item.insert("name".into(), json!(partition.name));
    }
    let at = local_time(partition.loaded_at()).filter(|_| partition.loaded_at() > 0);
    let date = at.map_or_else(|| "never".to_owned(), |at| at.format("%a %b %e %H:%M:%S %Y").to_string());
    item.insert("Date".into(), json!(date));
    if let Some(checksum) = partition.tables().and_then(|tables| tables.checksum.clone()) {
        item.insert("Hash".into(), json!(checksum));
    }
    Json::Object(item)
}

fn reload_status(own: &Drouting, request: &MiRequest) -> MiResult {
    if let Some(partition) = named(own, request)? {
        return Ok(reload_item(&partition, true));
    }
    if own.config.uses_partitions {
        let all: Vec<Json> = own.partitions().iter().map(|partition| reload_item(partition, true)).collect();
        return Ok(json!({ "Partitions": all }));
    }
    let partition = partition(own, request)?;
    Ok(reload_item(&partition, false))
}

fn number_routing(own: &Drouting, request: &MiRequest) -> MiResult {
    let partition = partition(own, request)?;
    let tables = partition.tables().ok_or_else(no_data)?;
    // With one positional parameter it is the number.
    let (group, number) = match (request.text_opt("group_id")?, request.text_opt("number")?) {
        (Some(number), None) => (None, number),
        (group, Some(number)) => (group, number),
        (None, None) => return Err(MiError::missing("number")),
    };
    let groups: Vec<i32> = match group {
        Some(text) => vec![text.trim().parse().map_err(|_| MiError::bad("group_id"))?],
        None => own.config.default_group.map_or_else(|| tables.group_ids().collect(), |group| vec![group]),
    };
    let now = crate::core::local_now();
    let found = groups
        .into_iter()
        .filter_map(|group| tables.find(group, number.as_bytes(), Position::START, false, &now))
        .max_by_key(|(position, rule)| (position.prefix, rule.priority));
    let Some((position, rule)) = found else { return Ok(json!("No match")) };
    let prefix = number.as_bytes().get(..position.prefix).unwrap_or_default();
    let mut item = Map::new();
    item.insert("Matched Prefix".into(), json!(String::from_utf8_lossy(prefix)));
    item.insert("GW List".into(), Json::Array(goals(&tables, rule)));
    add_attrs(&mut item, &rule.attrs);
    Ok(Json::Object(item))
}

fn goals(tables: &Tables, rule: &Rule) -> Vec<Json> {
    let named = rule.goals.iter().filter_map(|(goal, _)| match goal {
        Goal::Gateway(at) => tables.gateways.get(*at as usize).map(|gateway| ("GATEWAY", &gateway.id)),
        Goal::Carrier(at) => tables.carriers.get(*at as usize).map(|carrier| ("CARRIER", &carrier.id)),
    });
    named.map(|(kind, id)| json!({ kind: id.to_str() })).collect()
}

fn enable_probing(own: &Drouting, request: &MiRequest) -> MiResult {
    if own.config.probing_interval.is_none() {
        return Err(MiError::new(400, "Gateways probing disabled from script"));
    }
    match status(request)? {
        None => Ok(json!({ "Status": i32::from(own.is_probing.load(Ordering::Relaxed)) })),
        Some(is_on) => {
            own.is_probing.store(is_on, Ordering::Relaxed);
            Ok(json!("OK"))
        }
    }
}
