//! `sr_...` commands and `sr_check_status()` over the status registry of the process. Each module decides what its group says.

use serde_json::{Value as Json, json};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::status::{MAIN, Report, Status, StatusGroup};
use tandem_script::surface::CommandSpec;
use tandem_script::vm::{Arg, LogLevel};

use super::table::{done, renamed_command};

pub(super) const GET: CommandSpec = renamed_command(
    "status_report:get",
    &["sr_get_status"],
    &["group", "identifier?"],
    "status of one identifier of a group: the main one without a name, `all` for the worst",
);
pub(super) const STATUS: CommandSpec = renamed_command(
    "status_report:status",
    &["sr_list_status"],
    &["group?"],
    "status of all identifiers, of all groups or of one",
);
pub(super) const REPORTS: CommandSpec = renamed_command(
    "status_report:reports",
    &["sr_list_reports"],
    &["group?", "identifier?"],
    "what happened to each identifier",
);
pub(super) const IDENTIFIERS: CommandSpec =
    renamed_command("status_report:identifiers", &["sr_list_identifiers"], &["group?"], "names of the identifiers");

/// The group of the process itself (OpenSIPS: core, status/report group `core`).
pub(super) fn register_core(node: NodeRef) {
    let board = node.status.board("core");
    board.set(MAIN, 1, "running");
    board.report(MAIN, "running");
}

/// `sr_check_status(group[, identifier])`: the status number when the identifier is ready, else -1.
pub(super) fn check_status(context: &mut Context, args: &[Arg]) -> Called {
    let text = |at| arg_text(args, at).and_then(|text| std::str::from_utf8(text).ok()).filter(|text| !text.is_empty());
    let Some(group) = text(0) else { return done(false) };
    match context.node.status.status(group, text(1)) {
        Some(status) if status.code > 0 => Called::Done(status.code),
        Some(_) => done(false),
        None => {
            let identifier = text(1).unwrap_or(MAIN);
            context.log(LogLevel::Error, &format!("there is no status of '{identifier}' in group '{group}'"));
            done(false)
        }
    }
}

fn state_json(status: &Status) -> serde_json::Map<String, Json> {
    let mut map = serde_json::Map::new();
    map.insert("Readiness".into(), (status.code > 0).into());
    map.insert("Status".into(), status.code.into());
    if let Some(details) = &status.details {
        map.insert("Details".into(), details.as_str().into());
    }
    map
}

fn rows_json(group: &dyn StatusGroup) -> Json {
    let rows = group.all().into_iter().map(|status| {
        let mut row = serde_json::Map::new();
        row.insert("Name".into(), status.name.as_str().into());
        row.extend(state_json(&status));
        Json::Object(row)
    });
    rows.collect()
}

fn log_json(reports: Vec<Report>) -> Json {
    let rows = reports.into_iter().map(|(at, text)| {
        let date = super::process_vars::local_time(at)
            .and_then(|moment| super::process_vars::format_time(moment, "%a %b %e %H:%M:%S %Y"))
            .unwrap_or_default();
        json!({ "Timestamp": at, "Date": date, "Log": text })
    });
    rows.collect()
}

/// All identifiers of a group, those that only have reports at the end.
fn names(group: &dyn StatusGroup) -> Vec<String> {
    let mut names: Vec<String> = group.all().into_iter().map(|status| status.name).collect();
    for further in group.further() {
        if !names.contains(&further) {
            names.push(further);
        }
    }
    names
}

fn reports_json(group: &dyn StatusGroup) -> Json {
    let rows = names(group).into_iter().map(|name| {
        let reports = log_json(group.reports(&name));
        json!({ "Name": name, "Reports": reports })
    });
    rows.collect()
}

/// What is shown of the group that is named, or of each group.
fn grouped(node: NodeRef, request: &MiRequest, show: impl Fn(&dyn StatusGroup) -> Json) -> MiResult {
    match request.text_opt("group")? {
        Some(name) => match node.status.group(&name) {
            Some(group) => Ok(show(&*group)),
            None => Err(MiError::new(404, "Group not found")),
        },
        None => {
            let groups = node.status.groups().into_iter();
            Ok(groups.map(|(name, group)| json!({ "Name": name, "Identifiers": show(&*group) })).collect())
        }
    }
}

pub(super) fn get(node: NodeRef, request: &MiRequest) -> MiResult {
    let group = request.text("group")?;
    if node.status.group(&group).is_none() {
        return Err(MiError::new(404, "Group not found"));
    }
    let status = node.status.status(&group, request.text_opt("identifier")?.as_deref());
    status.map(|status| Json::Object(state_json(&status))).ok_or_else(|| MiError::new(404, "Identity not found"))
}

pub(super) fn list(node: NodeRef, request: &MiRequest) -> MiResult {
    grouped(node, request, rows_json)
}

pub(super) fn reports(node: NodeRef, request: &MiRequest) -> MiResult {
    let (Some(name), Some(wanted)) = (request.text_opt("group")?, request.text_opt("identifier")?) else {
        return grouped(node, request, reports_json);
    };
    let group = node.status.group(&name).ok_or_else(|| MiError::new(404, "Group not found"))?;
    if !names(&*group).contains(&wanted) {
        return Err(MiError::new(404, "Identifier not found"));
    }
    Ok(log_json(group.reports(&wanted)))
}

pub(super) fn identifiers(node: NodeRef, request: &MiRequest) -> MiResult {
    let row = |name: &str, group: &dyn StatusGroup| {
        let names: Vec<String> = group.all().into_iter().map(|status| status.name).collect();
        json!({ "Group": name, "Identifiers": names })
    };
    match request.text_opt("group")? {
        None => Ok(node.status.groups().iter().map(|(name, group)| row(name, &**group)).collect()),
        Some(name) => match node.status.group(&name) {
            Some(group) => Ok(row(&name, &*group)),
            None => Err(MiError::new(404, "Group not found")),
        },
    }
}
