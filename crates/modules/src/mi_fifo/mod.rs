//! Module `mi_fifo`: management over a named pipe: JSON-RPC (4.0) and the text form of 2.4, told apart by each request.

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use nix::unistd::{Group, User};
use tandem_admin::{FifoConfig, FifoServer, JsonRpc};
use tandem_module::declare::{ParamValues, Setup};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::{ParamSpec, ParamType};
use tokio::sync::Notify;

use crate::core::table::param;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "mi_fifo",
    doc: "management over a named pipe",
    params: PARAMS,
    setup,
    start,
    stop,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    param("fifo_name", ParamType::Text, "/tmp/opensips_fifo", "path of the pipe"),
    param("fifo_mode", ParamType::IntOrText, "0660", "permissions of the pipe; a leading 0 means octal"),
    param("fifo_group", ParamType::IntOrText, "", "group of the pipe, by name or number"),
    param("fifo_user", ParamType::IntOrText, "", "owner of the pipe, by name or number"),
    param("reply_dir", ParamType::Text, "/tmp/", "folder of the pipes that answers go to"),
    param("pretty_printing", ParamType::Int, "0", "1: JSON over several lines"),
    param("reply_indent", ParamType::Text, "\\t", "accepted, no effect: answers in text are indented by tabs"),
    param("trace_destination", ParamType::Text, "", "accepted, no effect: commands are not traced"),
    param("trace_bwlist", ParamType::Text, "", "accepted, no effect: commands are not traced"),
];

struct MiFifo {
    config: FifoConfig,
    is_pretty: bool,
    stop: OnceLock<Arc<Notify>>,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let params = setup.params;
    let defaults = FifoConfig::default();
    let config = FifoConfig {
        path: params.text("fifo_name").map_or(defaults.path.clone(), Into::into),
        mode: mode(params, "fifo_mode")?.unwrap_or(defaults.mode),
        user: user(params, "fifo_user")?,
        group: group(params, "fifo_group")?,
        reply_dir: params.text("reply_dir").map_or(defaults.reply_dir.clone(), Into::into),
        ..defaults
    };
    if !config.reply_dir.is_dir() {
        return Err(SetupError::param("reply_dir", format!("'{}' is no folder", config.reply_dir.display())));
    }
    let is_pretty = params.int("pretty_printing", 0) != 0;
    setup.state(MiFifo { config, is_pretty, stop: OnceLock::new() });
    Ok(())
}

/// `0660` without quotes is a number already; text with a leading 0 is octal.
pub(crate) fn mode(params: &ParamValues, name: &'static str) -> Result<Option<u32>, SetupError> {
    let Some(text) = params.text(name) else { return Ok(None) };
    let bad = || SetupError::param(name, format!("'{text}' are no permissions (0 to 0777)"));
    let mode = match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u32::from_str_radix(digits, 8).map_err(|_| bad())?,
        _ => text.parse().map_err(|_| bad())?,
    };
    if mode > 0o777 { Err(bad()) } else { Ok(Some(mode)) }
}

pub(crate) fn user(params: &ParamValues, name: &'static str) -> Result<Option<u32>, SetupError> {
    let Some(text) = params.text(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let found = match text.parse() {
        Ok(id) => Some(id),
        Err(_) => User::from_name(&text).ok().flatten().map(|user| user.uid.as_raw()),
    };
    found.map(Some).ok_or_else(|| SetupError::param(name, format!("there is no user '{text}'")))
}

pub(crate) fn group(params: &ParamValues, name: &'static str) -> Result<Option<u32>, SetupError> {
    let Some(text) = params.text(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let found = match text.parse() {
        Ok(id) => Some(id),
        Err(_) => Group::from_name(&text).ok().flatten().map(|group| group.gid.as_raw()),
    };
    found.map(Some).ok_or_else(|| SetupError::param(name, format!("there is no group '{text}'")))
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<MiFifo>() else { return Ok(()) };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| SetupError::new(error.to_string()))?;
    let rpc = Arc::new(JsonRpc::new(node.mi.clone()).pretty(own.is_pretty));
    let server = FifoServer::create(own.config.clone(), rpc);
    let server = server.map_err(|error| SetupError::param("fifo_name", error.to_string()))?;
    let stop = Arc::new(Notify::new());
    let _ = own.stop.set(stop.clone());
    handle.spawn(server.run(async move { stop.notified().await }));
    Ok(())
}

fn stop(node: NodeRef) {
    if let Some(stop) = node.state::<MiFifo>().and_then(|own| own.stop.get()) {
        stop.notify_one();
    }
}
