//! Parameters of module `usrloc` and what they come to. No behaviour.

use tandem_location::Matching;
use tandem_module::declare::{ParamValues, SetupError};
use tandem_module::settings::Settings;
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::{int, param, text};

pub(super) const PARAMS: &[ParamSpec] = &[
    int(
        "use_domain",
        "1",
        "whether the domain is part of an address of record; 0 for scripts of 2.4 and, where it can be seen, of 3.x",
    ),
    int("timer_interval", "60", "seconds between writes to the database in write-back mode"),
    int("hash_size", "9", "the table has 2^hash_size independently locked parts"),
    int("matching_mode", "0", "0: contacts match by URI; 1: by URI and Call-ID"),
    int("cseq_delay", "20", "seconds within which an equal CSeq is a retransmission"),
    int("desc_time_order", "0", "1: lookup puts the newest contact first, whatever its q"),
    param("nat_bflag", ParamType::IntOrText, "", "branch flag that marks contacts behind NAT"),
    text("db_url", "", "database of the location tables; without it db_default_url"),
    int(
        "db_mode",
        "0",
        "0 none, 1 write-through, 2 write-back, 3 in the database only; stands for a working_mode_preset (2.4)",
    ),
    text(
        "working_mode_preset",
        "single-instance-no-db",
        "single-instance-no-db, single-instance-sql-write-through, single-instance-sql-write-back or sql-only",
    ),
    text("cluster_mode", "none", "none or sql-only; with full-sharing contacts are not shared yet"),
    text("restart_persistency", "none", "load-from-sql loads contacts at start; sync-from-cluster has no effect yet"),
    text("sql_write_mode", "none", "write-through or write-back, with restart_persistency load-from-sql"),
    int("location_cluster", "0", "accepted, no effect: contacts are not shared yet"),
    text("pinging_mode", "", "accepted, no effect: contacts are not shared yet"),
    int("shared_pinging", "0", "accepted, no effect: contacts are not shared yet (2.4)"),
    int("skip_replicated_db_ops", "0", "accepted, no effect: contacts are not shared yet"),
    int("max_contact_delete", "10", "accepted, no effect: rows are deleted one by one"),
    int("regen_broken_contactid", "0", "accepted, no effect: contact ids do not depend on hash_size"),
    int("ha_cluster", "0", "accepted, no effect: it belongs to cluster_mode federation-cachedb"),
    text("ha_shtag", "", "accepted, no effect: it belongs to cluster_mode federation-cachedb"),
    int("latency_event_min_us", "0", "accepted, no effect: contacts are not pinged yet"),
    int("latency_event_min_us_delta", "0", "accepted, no effect: contacts are not pinged yet"),
    int("contact_refresh_timer", "0", "1: raises E_UL_CONTACT_REFRESH before contacts with push notifications expire"),
    int("mi_dump_kv_store", "0", "1: management commands show the key-value stores"),
    text("contact_id_column", "contact_id", "column of the contact id"),
    text("user_column", "username", "column of the user"),
    text("domain_column", "domain", "column of the domain"),
    text("contact_column", "contact", "column of the contact URI"),
    text("expires_column", "expires", "column of the expiry"),
    text("q_column", "q", "column of the q value"),
    text("callid_column", "callid", "column of the Call-ID"),
    text("cseq_column", "cseq", "column of the CSeq number"),
    text("methods_column", "methods", "column of the methods"),
    text("flags_column", "flags", "column of the internal flags"),
    text("cflags_column", "cflags", "column of the branch flags"),
    text("user_agent_column", "user_agent", "column of the User-Agent"),
    text("received_column", "received", "column of the source address"),
    text("socket_column", "socket", "column of the receiving socket"),
    text("path_column", "path", "column of the Path"),
    text("sip_instance_column", "sip_instance", "column of the SIP instance"),
    text("kv_store_column", "kv_store", "column of the key-value store"),
    text("attr_column", "attr", "column of the attributes"),
];

/// When changes of contacts are written to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Never: contacts live in memory only.
    None,
    /// At once; the reply to a REGISTER waits for it.
    Through,
    /// Every `timer_interval` seconds.
    Back,
    /// At once, and nothing is kept in memory: every request reads what it needs.
    Only,
}

/// Names of the columns of a location table, in the order rows are read.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) names: [String; COLUMN_COUNT],
}

pub(super) const COLUMN_COUNT: usize = 19;

/// Parameter and default column; the index is that of [`Columns::names`].
const COLUMN_PARAMS: [(&str, &str); COLUMN_COUNT] = [
    ("contact_id_column", "contact_id"),
    ("user_column", "username"),
    ("domain_column", "domain"),
    ("contact_column", "contact"),
    ("received_column", "received"),
    ("path_column", "path"),
    ("expires_column", "expires"),
    ("q_column", "q"),
    ("callid_column", "callid"),
    ("cseq_column", "cseq"),
    // No parameter of OpenSIPS names this one.
    ("", "last_modified"),
    ("flags_column", "flags"),
    ("cflags_column", "cflags"),
    ("user_agent_column", "user_agent"),
    ("socket_column", "socket"),
    ("methods_column", "methods"),
    ("sip_instance_column", "sip_instance"),
    ("kv_store_column", "kv_store"),
    ("attr_column", "attr"),
];

/// What the parameters come to.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) use_domain: bool,
    pub(super) desc_time_order: bool,
    pub(super) matching: Matching,
    pub(super) cseq_delay_secs: i64,
    pub(super) hash_size: i32,
    pub(super) write_mode: WriteMode,
    pub(super) db_url: Option<String>,
    pub(super) timer_interval_secs: u64,
    pub(super) columns: Columns,
    pub(super) dumps_kv: bool,
    /// `contact_refresh_timer`.
    pub(super) refreshes: bool,
    /// A warning for the log at start.
    pub(super) note: Option<&'static str>,
}

const NOT_SHARED: &str = "usrloc: contacts are not shared with the cluster yet; this node serves its own only";

impl Config {
    pub(super) fn read(params: &ParamValues, settings: &Settings) -> Result<Config, SetupError> {
        let matching = match params.int("matching_mode", 0) {
            0 => Matching::Contact,
            1 => Matching::ContactAndCallId,
            mode => return Err(SetupError::param("matching_mode", format!("{mode} is not 0 or 1"))),
        };
        let hash_size = params.int("hash_size", 9);
        if !(0..=16).contains(&hash_size) {
            return Err(SetupError::param("hash_size", format!("{hash_size} is not between 0 and 16")));
        }
        let (write_mode, is_shared) = modes(params)?;
        let db_url = params.text("db_url").or_else(|| settings.db_default_url.clone()).filter(|url| !url.is_empty());
        if write_mode != WriteMode::None && db_url.is_none() {
            return Err(SetupError::param("db_url", "the location table is to be kept in a database: set db_url"));
        }
        let use_domain_default = i32::from(!settings.predates_v4_0);
        Ok(Config {
            use_domain: params.int("use_domain", use_domain_default) != 0,
            desc_time_order: params.int("desc_time_order", 0) != 0,
            matching,
            cseq_delay_secs: params.int("cseq_delay", 20).max(0).into(),
            hash_size,
            write_mode,
            db_url,
            timer_interval_secs: u64::from(params.int("timer_interval", 60).max(1).unsigned_abs()),
            columns: Columns { names: COLUMN_PARAMS.map(|(param, default)| params.text_or(param, default)) },
            dumps_kv: params.int("mi_dump_kv_store", 0) != 0,
            refreshes: params.int("contact_refresh_timer", 0) != 0,
            note: is_shared.then_some(NOT_SHARED),
        })
    }
}

/// How contacts are written, and whether they were to be shared.
fn modes(params: &ParamValues) -> Result<(WriteMode, bool), SetupError> {
    let preset = params.text("working_mode_preset");
    if params.is_set("db_mode") && preset.is_some() {
        return Err(SetupError::param("db_mode", "db_mode and working_mode_preset contradict: set one of them"));
    }
    if params.is_set("db_mode") {
        return match params.int("db_mode", 0) {
            0 => Ok((WriteMode::None, false)),
            1 => Ok((WriteMode::Through, false)),
            2 => Ok((WriteMode::Back, false)),
            3 => Ok((WriteMode::Only, false)),
            mode => Err(SetupError::param("db_mode", format!("{mode} is not between 0 and 3"))),
        };
    }
    match preset.as_deref() {
        None => single_modes(params),
        Some("single-instance-no-db") => Ok((WriteMode::None, false)),
        Some("single-instance-sql-write-through") => Ok((WriteMode::Through, false)),
        Some("single-instance-sql-write-back") => Ok((WriteMode::Back, false)),
        Some("full-sharing-cluster") => Ok((WriteMode::None, true)),
        Some("sql-only") => Ok((WriteMode::Only, false)),
        Some(name @ ("federation-cachedb-cluster" | "full-sharing-cachedb-cluster")) => Err(SetupError::param(
            "working_mode_preset",
            format!(
                "'{name}' is not here yet: use single-instance-no-db, sql-only or one of single-instance-sql-write-*"
            ),
        )),
        Some(name) => Err(SetupError::param("working_mode_preset", format!("there is no preset '{name}'"))),
    }
}

/// Without a preset: `cluster_mode`, `restart_persistency` and `sql_write_mode` one by one.
fn single_modes(params: &ParamValues) -> Result<(WriteMode, bool), SetupError> {
    let is_shared = match params.text_or("cluster_mode", "none").as_str() {
        "none" => params.int("location_cluster", 0) != 0,
        "full-sharing" => true,
        "sql-only" => return Ok((WriteMode::Only, false)),
        name @ ("federation-cachedb" | "full-sharing-cachedb") => {
            return Err(SetupError::param(
                "cluster_mode",
                format!("'{name}' is not here yet: use none, sql-only or full-sharing"),
            ));
        }
        name => return Err(SetupError::param("cluster_mode", format!("there is no mode '{name}'"))),
    };
    let default = match params.text_or("restart_persistency", "none").as_str() {
        "none" | "sync-from-cluster" => WriteMode::None,
        "load-from-sql" => WriteMode::Back,
        name => return Err(SetupError::param("restart_persistency", format!("there is no mode '{name}'"))),
    };
    let mode = match params.text("sql_write_mode").as_deref() {
        // Writing makes sense only for what is loaded again.
        _ if default == WriteMode::None => WriteMode::None,
        None | Some("none" | "write-back") => WriteMode::Back,
        Some("write-through") => WriteMode::Through,
        Some(name) => return Err(SetupError::param("sql_write_mode", format!("there is no mode '{name}'"))),
    };
    Ok((mode, is_shared))
}
