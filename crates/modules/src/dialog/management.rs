//! Management commands of the module, and the description of a dialog as JSON.

use serde_json::{Map, Value as Json, json};
use tandem_dialog::{Dialog, DialogId, DialogState, DialogValue, EndReason, ProfileError};
use tandem_module::NodeRef;
use tandem_module::cachedb::CacheReply;
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_script::surface::CommandSpec;

use crate::core::table::renamed_command;

use super::{Dialogs, clock, effects, management_late as late, shared};

const PROFILE_SIZE: &str = "dialog:profile_get_size";
const LIST: &[&str] = &["callid?", "from_tag?", "index?", "counter?"];

pub(super) const COMMANDS: &[CommandSpec] = &[
    renamed_command("dialog:list", &["dlg_list"], LIST, "describes dialogs"),
    renamed_command("dialog:list_ctx", &["dlg_list_ctx"], LIST, "describes dialogs with their values and profiles"),
    renamed_command(
        "dialog:end_dlg",
        &["dlg_end_dlg"],
        &["dialog_id", "extra_hdrs?"],
        "ends a call: BYE both ways, or CANCEL",
    ),
    renamed_command(PROFILE_SIZE, &["profile_get_size"], &["profile", "value?"], "dialogs in a profile"),
    renamed_command(
        "dialog:profile_get_values",
        &["profile_get_values"],
        &["profile"],
        "values of a profile and their counts",
    ),
    renamed_command(
        "dialog:profile_list_dlgs",
        &["profile_list_dlgs"],
        &["profile", "value?"],
        "describes dialogs of a profile",
    ),
    renamed_command(
        "dialog:profile_end_dlgs",
        &["profile_end_dlgs"],
        &["profile", "value?"],
        "ends the calls of a profile",
    ),
    renamed_command("dialog:list_all_profiles", &["list_all_profiles"], &[], "the profiles"),
    renamed_command(
        "dialog:set_profile",
        &["set_dlg_profile"],
        &["dlg_id", "profile", "value?", "clear_values?"],
        "puts a dialog into a profile",
    ),
    renamed_command(
        "dialog:unset_profile",
        &["unset_dlg_profile"],
        &["dlg_id", "profile", "value?"],
        "takes a dialog out of a profile",
    ),
    renamed_command(
        "dialog:push_var",
        &["dlg_push_var"],
        &["dlg_val_name", "dlg_val_value", "DID"],
        "sets a value of dialogs (DID: one, or a list)",
    ),
    late::DB_SYNC,
    late::RESTORE_DB,
    late::SEND_SEQUENTIAL,
];

type Handler = fn(NodeRef, &'static Dialogs, &MiRequest) -> MiResult;

pub(super) fn register(node: NodeRef, dialogs: &'static Dialogs) {
    let handlers: [Handler; 11] = [
        |_, dialogs, request| list(dialogs, request, false),
        |_, dialogs, request| list(dialogs, request, true),
        end_dialog,
        // Answers later, see below.
        |_, _, _| Err(not_found()),
        profile_values,
        profile_list,
        profile_end,
        |_, dialogs, _| {
            let all: Vec<Json> = dialogs
                .table
                .profiles()
                .map(|profile| json!({ "name": profile.name, "value": u8::from(profile.has_value) }))
                .collect();
            Ok(json!({ "Profiles": all }))
        },
        set_profile,
        unset_profile,
        push_var,
    ];
    for (spec, handler) in COMMANDS.iter().zip(handlers) {
        node.mi.register(*spec, move |request| handler(node, dialogs, request).into());
    }
    if let Some(spec) = COMMANDS.iter().find(|spec| spec.name == PROFILE_SIZE) {
        node.mi.register(*spec, move |request| {
            profile_size(dialogs, request).unwrap_or_else(|error| MiReply::Now(Err(error)))
        });
    }
    late::register(node, dialogs);
}

fn text(bytes: &[u8]) -> Json {
    Json::from(String::from_utf8_lossy(bytes).into_owned())
}

fn date(unix_secs: i64) -> Json {
    use chrono::TimeZone as _;
    match chrono::Local.timestamp_opt(unix_secs, 0).single() {
        Some(date) => Json::from(date.format("%Y-%m-%d %H:%M:%S").to_string()),
        None => Json::Null,
    }
}

/// A dialog as `dialog:list` shows it.
fn describe(dialog: &Dialog) -> Map<String, Json> {
    let now = clock::now();
    let mut out = Map::new();
    let mut put = |name: &str, value: Json| {
        out.insert(name.to_owned(), value);
    };
    let id = dialog.id();
    put("ID", Json::from(id.to_string()));
    put("db_id", Json::from(id.db_id().to_string()));
    put("state", Json::from(dialog.state().number()));
    put("user_flags", Json::from(dialog.script_flags.to_string()));
    let started = dialog.started_at().unwrap_or(0);
    put("timestart", Json::from(started));
    if started != 0 {
        put("datestart", date(started));
    }
    let ends = match dialog.state() {
        state if state.is_active() => {
            now.moment().unix_secs + i64::try_from(dialog.remaining_secs(now.monotonic)).unwrap_or(0)
        }
        _ => 0,
    };
    put("timeout", Json::from(ends));
    if ends != 0 {
        put("dateout", date(ends));
    }
    put("callid", text(dialog.call_id()));
    put("from_uri", text(dialog.from_uri()));
    put("to_uri", text(dialog.to_uri()));
    if let Some(caller) = dialog.caller() {
        put("caller_tag", text(&caller.tag));
        put("caller_contact", text(&caller.contact));
        put("callee_cseq", Json::from(caller.cseq.to_string()));
        put("caller_route_set", text(&caller.route_set));
        put("caller_bind_addr", text(&caller.socket));
    }
    let callees: Vec<Json> = dialog
        .legs()
        .iter()
        .skip(1)
        .map(|leg| {
            json!({
                "callee_tag": text(&leg.tag),
                "callee_contact": text(&leg.contact),
                "caller_cseq": leg.cseq.to_string(),
                "callee_route_set": text(&leg.route_set),
                "callee_bind_addr": text(&leg.socket),
            })
        })
        .collect();
    put("CALLEES", Json::from(callees));
    out
}

fn describe_values(dialog: &Dialog) -> Json {
    let values = dialog.values.iter().map(|(name, value)| {
        let value = match value {
            DialogValue::Text(bytes) => text(bytes),
            DialogValue::Int(int) => Json::from(*int),
        };
        json!({ String::from_utf8_lossy(name): value })
    });
    values.collect()
}

/// The description of one dialog; `None` when there is no such dialog.
pub(super) fn describe_id(dialogs: &Dialogs, id: DialogId, has_context: bool) -> Option<Json> {
    let (mut out, values) =
        dialogs.table.with_dialog(id, |dialog| (describe(dialog), has_context.then(|| describe_values(dialog))))?;
    if let Some(values) = values {
        let profiles: Vec<Json> = dialogs
            .table
            .memberships(id)
            .iter()
            .map(|membership| json!({ membership.profile.clone(): text(&membership.value) }))
            .collect();
        out.insert("context".to_owned(), json!({ "values": values, "profiles": profiles }));
    }
    Some(Json::Object(out))
}

pub(super) fn not_found() -> MiError {
    MiError::new(404, "Dialog not found")
}

fn list(dialogs: &Dialogs, request: &MiRequest, has_context: bool) -> MiResult {
    if let Some(call_id) = request.text_opt("callid")? {
        let from_tag = request.text_opt("from_tag")?;
        let ids = dialogs.table.ids_of_call_id(call_id.as_bytes());
        let found = ids.into_iter().find(|id| {
            let fits = |dialog: &mut Dialog| {
                from_tag.as_ref().is_none_or(|tag| dialog.from_tag() == tag.as_bytes())
                    && dialog.state() != DialogState::Deleted
            };
            dialogs.table.with_dialog(*id, fits) == Some(true)
        });
        let dialog = found.and_then(|id| describe_id(dialogs, id, has_context)).ok_or_else(not_found)?;
        return Ok(json!({ "Dialog": dialog }));
    }
    let number = |name: &str| -> Result<Option<usize>, MiError> {
        request.int_opt(name)?.map(|value| usize::try_from(value).map_err(|_| MiError::bad(name))).transpose()
    };
    let (index, counter) = (number("index")?, number("counter")?);
    let mut ids = Vec::new();
    dialogs.table.for_each(|dialog| {
        if dialog.state() != DialogState::Deleted {
            ids.push(dialog.id());
        }
    });
    let count = ids.len();
    let is_page = index.is_some() || counter.is_some();
    let page = ids.into_iter().skip(index.unwrap_or(0)).take(counter.unwrap_or(usize::MAX));
    let described: Vec<Json> = page.filter_map(|id| describe_id(dialogs, id, has_context)).collect();
    Ok(if is_page { json!({ "count": count, "Dialogs": described }) } else { json!({ "Dialogs": described }) })
}

/// The dialogs that an identity or a Call-ID names.
pub(super) fn named(dialogs: &Dialogs, name: &str) -> Vec<DialogId> {
    let did = DialogId::parse_did(name.as_bytes());
    match did.filter(|did| dialogs.table.with_dialog(*did, |_| ()).is_some()) {
        Some(did) => vec![did],
        None => dialogs.table.ids_of_call_id(name.as_bytes()),
    }
}

fn end_dialog(node: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    let name = request.text("dialog_id")?;
    let extra = request.text_opt("extra_hdrs")?.unwrap_or_default();
    let mut ended = false;
    for id in named(dialogs, &name) {
        ended |= effects::end(node, dialogs, id, EndReason::MiTermination, extra.as_bytes());
    }
    if ended { Ok(json!("OK")) } else { Err(not_found()) }
}

fn refused(error: &ProfileError) -> MiError {
    match error {
        ProfileError::UnknownProfile => MiError::new(404, "Profile not found"),
        other => MiError::new(400, other.to_string()),
    }
}

fn described_size(profile: &str, value: Option<&str>, size: u64, sharing: Option<char>) -> Json {
    let word = |is: bool| if is { "yes" } else { "no" };
    let mut out = json!({
        "name": profile,
        "count": size,
        "shared": word(sharing == Some('s')),
        "replicated": word(sharing == Some('b')),
    });
    if let (Some(value), Some(map)) = (value, out.as_object_mut()) {
        map.insert("value".into(), Json::from(value));
    }
    json!({ "Profile": out })
}

/// `dialog:profile_get_size`: of all nodes for a profile in a key-value store, which may answer later.
fn profile_size(dialogs: &'static Dialogs, request: &MiRequest) -> Result<MiReply, MiError> {
    let (name, value) = (request.text("profile")?, request.text_opt("value")?);
    let bytes = value.as_ref().map(String::as_bytes);
    let own = dialogs.table.profile_size(&name, bytes).map_err(|error| refused(&error))?;
    let profile = dialogs.table.profiles().find(|profile| profile.name == name);
    let sharing = profile.and_then(|profile| profile.sharing);
    let reply = profile.and_then(|profile| dialogs.shared.size(profile, bytes));
    let describe = move |size| described_size(&name, value.as_deref(), size, sharing);
    let counted = |result| shared::size_of(result).map_err(|error| MiError::new(500, error.to_string()));
    Ok(match reply {
        None => MiReply::Now(Ok(describe(own))),
        Some(CacheReply::Now(result)) => MiReply::Now(counted(result).map(describe)),
        Some(CacheReply::Later(future)) => MiReply::Later(Box::pin(async move { counted(future.await).map(describe) })),
    })
}

fn profile_values(_: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    let values = dialogs.table.profile_values(&request.text("profile")?).map_err(|error| refused(&error))?;
    let values: Vec<Json> =
        values.iter().map(|(value, count)| json!({ "value": text(value), "count": count })).collect();
    Ok(json!({ "Profile": values }))
}

fn profile_ids(dialogs: &Dialogs, request: &MiRequest) -> Result<Vec<DialogId>, MiError> {
    let (profile, value) = (request.text("profile")?, request.text_opt("value")?);
    let ids = dialogs.table.ids_in_profile(&profile, value.as_ref().map(String::as_bytes));
    ids.map_err(|error| refused(&error))
}

fn profile_list(_: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    let ids = profile_ids(dialogs, request)?;
    let described: Vec<Json> = ids.into_iter().filter_map(|id| describe_id(dialogs, id, false)).collect();
    Ok(json!({ "Dialogs": described }))
}

fn profile_end(node: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    for id in profile_ids(dialogs, request)? {
        effects::end(node, dialogs, id, EndReason::MiTermination, &[]);
    }
    Ok(json!("OK"))
}

fn named_one(dialogs: &Dialogs, name: &str) -> Result<DialogId, MiError> {
    named(dialogs, name).first().copied().ok_or_else(not_found)
}

fn set_profile(node: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    let id = named_one(dialogs, &request.text("dlg_id")?)?;
    let value = request.text_opt("value")?;
    let clears = request.int_opt("clear_values")?.unwrap_or(0) != 0;
    let profile = request.text("profile")?;
    let result = shared::set(node, dialogs, id, &profile, value.as_ref().map(String::as_bytes), clears);
    result.map(|()| json!("OK")).map_err(|error| refused(&error))
}

fn unset_profile(node: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    let id = named_one(dialogs, &request.text("dlg_id")?)?;
    let value = request.text_opt("value")?;
    let profile = request.text("profile")?;
    let result = shared::unset(node, dialogs, id, &profile, value.as_ref().map(String::as_bytes));
    match result {
        Ok(true) => Ok(json!("OK")),
        Ok(false) => Err(MiError::new(404, "Dialog is not in the profile")),
        Err(error) => Err(refused(&error)),
    }
}

fn push_var(node: NodeRef, dialogs: &'static Dialogs, request: &MiRequest) -> MiResult {
    let (name, value) = (request.text("dlg_val_name")?, request.text("dlg_val_value")?);
    let targets: Vec<String> = match request.param("DID") {
        Some(Json::Array(all)) => all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => vec![request.text("DID")?],
    };
    for target in targets {
        let id = named_one(dialogs, &target)?;
        let set = dialogs.table.with_dialog(id, |dialog| dialog.values.set(name.as_bytes(), value.as_str()));
        set.ok_or_else(not_found)?.map_err(|error| MiError::new(400, error.to_string()))?;
        dialogs.store.touch(node, dialogs, id);
    }
    Ok(json!("OK"))
}
