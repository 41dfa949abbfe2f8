//! Parameters of module `dialog` and what they come to. No behaviour.

use std::time::Duration;

use tandem_dialog::{MatchMode, ProfileInfo};
use tandem_module::SetupError;
use tandem_module::declare::ParamValues;
use tandem_module::settings::Settings;
use tandem_script::surface::ParamSpec;

use super::rows::Columns;
use super::store::{DbMode, StoreConfig};
use crate::core::table::{int, text};

const fn column(name: &'static str, default: &'static str) -> ParamSpec {
    text(name, default, "name of a column")
}

const NOT_SHARED: &str = "accepted, no effect: dialogs are not shared with the cluster yet";

pub(super) const PARAMS: &[ParamSpec] = &[
    int("enable_stats", "1", "accepted, no effect: statistics cost nothing here"),
    int("hash_size", "4096", "hash slots; the same on all nodes of a cluster"),
    int("log_profile_hash_size", "4", "accepted, no effect: profiles grow as needed"),
    text("rr_param", "did", "parameter of Record-Route that names the dialog"),
    int("default_timeout", "43200", "lifetime of a call in seconds"),
    text("dlg_extra_hdrs", "", "header lines, each with its line end, added to BYEs made here"),
    int("dlg_match_mode", "1", "0: match by the Record-Route parameter; 1: by it, else by tags; 2: by tags"),
    int("delete_delay", "0", "seconds an ended dialog is kept; at least 5 here"),
    int("race_condition_timeout", "5", "seconds after which a call of a 200/CANCEL race is ended"),
    int(
        "db_mode",
        "0",
        "calls in the database: 0 none, 1 at each change, 2 every db_update_period, 3 when the server stops",
    ),
    text("db_url", "", "database of the calls"),
    int("db_update_period", "60", "seconds between writing to the database in db_mode 2"),
    int("db_flush_vals_profiles", "0", "accepted, no effect: values, profiles and flags are always written along"),
    int("timer_bulk_del_no", "1", "rows deleted with one statement"),
    int("options_ping_interval", "30", "seconds between OPTIONS pings of a party"),
    int("reinvite_ping_interval", "300", "seconds between re-INVITE pings of a party"),
    int("ping_interval", "30", "name of options_ping_interval in 2.4"),
    int("auto_prack_hangup_on_failure", "0", "1: the INVITE is answered 502 when a PRACK made here fails"),
    int("auto_prack_fr_timeout", "3", "seconds a PRACK made here waits for its final reply"),
    ParamSpec { is_repeatable: true, ..text("profiles_with_value", "", "names of profiles with values, by `;`") },
    ParamSpec { is_repeatable: true, ..text("profiles_no_value", "", "names of profiles without values, by `;`") },
    text("table_name", "dialog", "table of the calls"),
    column("call_id_column", "callid"),
    column("from_uri_column", "from_uri"),
    column("from_tag_column", "from_tag"),
    column("to_uri_column", "to_uri"),
    column("mangled_from_uri_column", "mangled_from_uri"),
    column("mangled_to_uri_column", "mangled_to_uri"),
    column("to_tag_column", "to_tag"),
    column("from_cseq_column", "caller_cseq"),
    column("to_cseq_column", "callee_cseq"),
    column("from_route_column", "caller_route_set"),
    column("to_route_column", "callee_route_set"),
    column("from_contact_column", "caller_contact"),
    column("to_contact_column", "callee_contact"),
    column("from_sock_column", "caller_sock"),
    column("to_sock_column", "callee_sock"),
    column("dlg_id_column", "dlg_id"),
    column("state_column", "state"),
    column("start_time_column", "start_time"),
    column("timeout_column", "timeout"),
    column("profiles_column", "profiles"),
    column("vars_column", "vars"),
    column("sflags_column", "script_flags"),
    column("mflags_column", "module_flags"),
    column("flags_column", "flags"),
    text("cachedb_url", "", "key-value store of profiles marked /s; a module cachedb_... with the same URL is needed"),
    text("profile_value_prefix", "dlg_val_", "prefix of the keys of profiles with values"),
    text("profile_no_value_prefix", "dlg_noval_", "prefix of the keys of profiles without values"),
    text("profile_size_prefix", "dlg_size_", "prefix of the keys of sizes of profiles with values"),
    int("profile_timeout", "86400", "seconds a counter in the key-value store lives after its last change"),
    int(
        "event_id_format",
        "1",
        "ids in E_DLG_STATE_CHANGED: 0 hash_entry and hash_id (2.4), 1 id and db_id, 2 all four; 0 in the 2.4 dialect",
    ),
    ParamSpec { is_repeatable: true, ..text("dlg_sharing_tag", "", NOT_SHARED) },
    int("dialog_replication_cluster", "0", NOT_SHARED),
    int("profile_replication_cluster", "0", NOT_SHARED),
    int("replicate_profiles_buffer", "1400", NOT_SHARED),
    int("replicate_profiles_check", "10", NOT_SHARED),
    int("replicate_profiles_timer", "200", NOT_SHARED),
    int("replicate_profiles_expire", "10", NOT_SHARED),
    int("cluster_auto_sync", "1", NOT_SHARED),
];

/// What the parameters come to.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) hash_size: u32,
    pub(super) rr_param: String,
    pub(super) default_timeout_secs: u32,
    pub(super) extra_headers: Vec<u8>,
    pub(super) match_mode: MatchMode,
    pub(super) delete_delay: Duration,
    pub(super) race_timeout: Duration,
    pub(super) profiles: Vec<ProfileInfo>,
    /// OPTIONS, re-INVITE.
    pub(super) ping_intervals: [Duration; 2],
    pub(super) prack_timeout: Duration,
    pub(super) hangs_up_without_prack: bool,
    /// `event_id_format`: whether events have the numbers of the slot, and the ids of later versions.
    pub(super) event_ids: (bool, bool),
    /// Warnings for the log at start.
    pub(super) notes: Vec<&'static str>,
}

fn positive(params: &ParamValues, name: &'static str, default: i32) -> Result<u32, SetupError> {
    let value = params.int(name, default);
    u32::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| SetupError::param(name, format!("{name} must be above 0, not {value}")))
}

/// What the parameters say about the database.
pub(super) fn store(params: &ParamValues, settings: &Settings) -> Result<StoreConfig, SetupError> {
    let mode = match params.int("db_mode", 0) {
        0 => DbMode::None,
        1 => DbMode::Realtime,
        2 => DbMode::Delayed,
        3 => DbMode::Shutdown,
        other => return Err(SetupError::param("db_mode", format!("{other} is not between 0 and 3"))),
    };
    let url = params.text("db_url").filter(|url| !url.is_empty()).or_else(|| settings.db_default_url.clone());
    if mode != DbMode::None && url.is_none() {
        return Err(SetupError::param("db_mode", "a database is needed: set db_url"));
    }
    let table = params.text_or("table_name", "dialog");
    if !crate::core::db_load::is_table_name(table.as_bytes()) {
        return Err(SetupError::param("table_name", format!("'{table}' is no name of a table")));
    }
    Ok(StoreConfig {
        mode,
        url: url.unwrap_or_default(),
        table,
        columns: Columns::read(params)?,
        period: Duration::from_secs(positive(params, "db_update_period", 60)?.into()),
        bulk: positive(params, "timer_bulk_del_no", 1)?.min(1000) as usize,
    })
}

fn profiles(params: &ParamValues) -> Result<Vec<ProfileInfo>, SetupError> {
    let mut profiles: Vec<ProfileInfo> = Vec::new();
    for (name, has_value) in [("profiles_with_value", true), ("profiles_no_value", false)] {
        for (at, line) in params.all(name).iter().enumerate() {
            for declared in line.split(';').map(str::trim).filter(|declared| !declared.is_empty()) {
                let profile = ProfileInfo::parse(declared, has_value);
                if profiles.iter().any(|other| other.name == profile.name) {
                    return Err(SetupError::param_at(
                        name,
                        at,
                        format!("profile '{}' is declared twice", profile.name),
                    ));
                }
                profiles.push(profile);
            }
        }
    }
    Ok(profiles)
}

impl Config {
    pub(super) fn read(params: &ParamValues, settings: &Settings) -> Result<Config, SetupError> {
        let event_ids = match params.int("event_id_format", i32::from(!settings.is_v2_4)) {
            0 => (true, false),
            1 => (false, true),
            2 => (true, true),
            other => return Err(SetupError::param("event_id_format", format!("{other} is not 0, 1 or 2"))),
        };
        let match_mode = params.int("dlg_match_mode", 1);
        let rr_param = params.text_or("rr_param", "did");
        let is_token = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'".contains(&byte))
        };
        if !is_token(&rr_param) {
            return Err(SetupError::param("rr_param", format!("'{rr_param}' is no name of a URI parameter")));
        }
        let mut extra_headers = params.text_or("dlg_extra_hdrs", "").into_bytes();
        if !extra_headers.is_empty() && !extra_headers.ends_with(b"\n") {
            extra_headers.extend_from_slice(b"\r\n");
        }
        let profiles = profiles(params)?;
        let options = if params.is_set("options_ping_interval") { "options_ping_interval" } else { "ping_interval" };
        let mut notes = Vec::new();
        if params.int("dialog_replication_cluster", 0) != 0 || params.int("profile_replication_cluster", 0) != 0 {
            notes.push(
                "dialog: dialogs and profiles are not shared with the cluster yet; this node counts its own only",
            );
        }
        if profiles.iter().any(|profile| profile.sharing == Some('b')) {
            notes.push("dialog: profiles marked /b are not shared yet; this node counts its own only");
        }
        if profiles.iter().any(|profile| profile.sharing == Some('s')) && !params.is_set("cachedb_url") {
            notes.push("dialog: profiles marked /s need cachedb_url; without it this node counts its own only");
        }
        Ok(Config {
            hash_size: positive(params, "hash_size", 4096)?,
            rr_param,
            default_timeout_secs: positive(params, "default_timeout", 43_200)?,
            extra_headers,
            match_mode: MatchMode::from_number(match_mode.into())
                .ok_or_else(|| SetupError::param("dlg_match_mode", format!("{match_mode} is not 0, 1 or 2")))?,
            delete_delay: Duration::from_secs(params.int("delete_delay", 0).max(0).unsigned_abs().into()),
            race_timeout: Duration::from_secs(positive(params, "race_condition_timeout", 5)?.into()),
            ping_intervals: [
                Duration::from_secs(positive(params, options, 30)?.into()),
                Duration::from_secs(positive(params, "reinvite_ping_interval", 300)?.into()),
            ],
            prack_timeout: Duration::from_secs(positive(params, "auto_prack_fr_timeout", 3)?.into()),
            hangs_up_without_prack: params.int("auto_prack_hangup_on_failure", 0) != 0,
            event_ids,
            profiles,
            notes,
        })
    }
}
