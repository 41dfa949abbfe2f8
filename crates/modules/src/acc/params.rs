//! Parameters of module `acc` and what they come to. No behaviour.

use tandem_module::SetupError;
use tandem_module::declare::ParamValues;
use tandem_module::settings::Settings;
use tandem_script::surface::{ParamSpec, ParamType};
use tandem_script::vm::LogLevel;

use crate::core::table::{int, text};

use crate::core::table::{list_param, param};

pub(super) const PARAMS: &[ParamSpec] = &[
    int("early_media", "0", "1: provisional replies with a body are accounted, too"),
    int("report_cancels", "0", "1: the CANCEL of an accounted INVITE is accounted, too"),
    int("detect_direction", "0", "1: From and To tag change places in requests of the callee"),
    list_param("extra_fields", ParamType::Text, "`backend: tag->name; ...` for $acc_extra; backend is log, db or evi"),
    list_param("leg_fields", ParamType::Text, "`backend: tag->name; ...` for $acc_leg; each leg of a call has its own"),
    text("acc_created_avp_name", "accX_created", "accepted, no effect: the time of creation needs no AVP (2.4)"),
    param("log_level", ParamType::Int, "2", "level of lines in the log, -3 to 4"),
    text("log_facility", "LOG_DAEMON", "accepted, no effect: all lines go to the facility of the server"),
    text("db_url", "", "database of the tables"),
    text("db_table_acc", "acc", "table of transactions and calls"),
    text("db_table_missed_calls", "missed_calls", "table of missed calls"),
    text("acc_method_column", "method", "column of the method"),
    text("acc_from_tag_column", "from_tag", "column of the From tag"),
    text("acc_to_tag_column", "to_tag", "column of the To tag"),
    text("acc_callid_column", "callid", "column of the Call-ID"),
    text("acc_sip_code_column", "sip_code", "column of the code"),
    text("acc_sip_reason_column", "sip_reason", "column of the reason phrase"),
    text("acc_time_column", "time", "column of the time"),
    text("aaa_url", "", "accepted, no effect: AAA accounting is not here yet"),
    int("service_type", "-1", "accepted, no effect: AAA accounting is not here yet"),
];

/// Most extra fields.
const EXTRA_MAX: usize = 64;

/// Where accounts go; the number is an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Log = 0,
    Db = 1,
    Evi = 2,
}

impl Backend {
    pub(super) const ALL: [Backend; 3] = [Backend::Log, Backend::Db, Backend::Evi];

    pub(super) fn from_name(name: &[u8]) -> Option<Backend> {
        match name {
            b"log" => Some(Backend::Log),
            b"db" => Some(Backend::Db),
            b"evi" => Some(Backend::Evi),
            _ => None,
        }
    }
}

/// One extra field of a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtraField {
    /// Name in the log, column, or parameter of the event. Kept for the life of the process, as its configuration is.
    pub(super) name: &'static str,
    /// Index of the tag in [`Config::tags`].
    pub(super) tag: usize,
}

/// What the parameters come to.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) has_early_media: bool,
    pub(super) reports_cancels: bool,
    pub(super) detects_direction: bool,
    pub(super) log_level: LogLevel,
    pub(super) db_url: Option<String>,
    pub(super) table: String,
    pub(super) missed_table: String,
    /// Method, From tag, To tag, Call-ID, code, reason, time.
    pub(super) columns: [String; 7],
    /// Tags of `$acc_extra(...)`.
    pub(super) tags: Vec<String>,
    /// Extra fields by backend.
    pub(super) extra: [Vec<ExtraField>; 3],
    /// Tags of `$acc_leg(...)`.
    pub(super) leg_tags: Vec<String>,
    /// Fields of legs by backend; their tags are indexes of `leg_tags`.
    pub(super) leg_extra: [Vec<ExtraField>; 3],
    /// Warnings for the log at start.
    pub(super) notes: Vec<&'static str>,
}

fn level(params: &ParamValues) -> Result<LogLevel, SetupError> {
    Ok(match params.int("log_level", 2) {
        -3 => LogLevel::Alert,
        -2 => LogLevel::Critical,
        -1 => LogLevel::Error,
        1 => LogLevel::Warning,
        2 => LogLevel::Notice,
        3 => LogLevel::Info,
        4 => LogLevel::Debug,
        other => return Err(SetupError::param("log_level", format!("{other} is no log level: -3 to 4 without 0"))),
    })
}

/// A name that may stand in SQL.
pub(super) fn is_identifier(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
}

impl Config {
    pub(super) fn read(params: &ParamValues, settings: &Settings) -> Result<Config, SetupError> {
        let identifier = |name: &'static str, default: &str| {
            let value = params.text_or(name, default);
            if is_identifier(&value) {
                Ok(value)
            } else {
                Err(SetupError::param(name, format!("'{value}' is no name of a table or column")))
            }
        };
        let db_url = params.text("db_url").or_else(|| settings.db_default_url.clone());
        let mut config = Config {
            has_early_media: params.int("early_media", 0) != 0,
            reports_cancels: params.int("report_cancels", 0) != 0,
            detects_direction: params.int("detect_direction", 0) != 0,
            log_level: level(params)?,
            db_url: db_url.filter(|url| !url.is_empty() && !url.eq_ignore_ascii_case("null")),
            table: identifier("db_table_acc", "acc")?,
            missed_table: identifier("db_table_missed_calls", "missed_calls")?,
            columns: [
                identifier("acc_method_column", "method")?,
                identifier("acc_from_tag_column", "from_tag")?,
                identifier("acc_to_tag_column", "to_tag")?,
                identifier("acc_callid_column", "callid")?,
                identifier("acc_sip_code_column", "sip_code")?,
                identifier("acc_sip_reason_column", "sip_reason")?,
                identifier("acc_time_column", "time")?,
            ],
            tags: Vec::new(),
            extra: Default::default(),
            leg_tags: Vec::new(),
            leg_extra: Default::default(),
            notes: Vec::new(),
        };
        let Config { tags, extra, leg_tags, leg_extra, notes, .. } = &mut config;
        for (name, tags, fields) in [("extra_fields", tags, extra), ("leg_fields", leg_tags, leg_extra)] {
            for (at, line) in params.all(name).iter().enumerate() {
                let is_read =
                    add_fields(tags, fields, line).map_err(|message| SetupError::param_at(name, at, message))?;
                if !is_read {
                    notes.push("acc: AAA accounting is not here yet; its fields are ignored");
                }
            }
        }
        if params.is_set("aaa_url") {
            config.notes.push("acc: AAA accounting is not here yet; use log, db or evi");
        }
        Ok(config)
    }

    /// Extra fields of a backend.
    pub(super) fn extra_of(&self, backend: Backend) -> &[ExtraField] {
        self.extra.get(backend as usize).map_or(&[], Vec::as_slice)
    }

    /// Fields of legs of a backend.
    pub(super) fn leg_extra_of(&self, backend: Backend) -> &[ExtraField] {
        self.leg_extra.get(backend as usize).map_or(&[], Vec::as_slice)
    }
}

/// Reads `backend: tag->name; tag`; without a backend it is that of events. False for a backend that is not here.
fn add_fields(tags: &mut Vec<String>, extra: &mut [Vec<ExtraField>; 3], line: &str) -> Result<bool, String> {
    let (backend, fields) = match line.split_once(':') {
        Some((backend, fields)) => (backend.trim(), fields),
        None => ("evi", line),
    };
    if backend == "aaa" {
        return Ok(false);
    }
    let backend = Backend::from_name(backend.as_bytes())
        .ok_or_else(|| format!("'{backend}' is no backend: use log, db or evi"))?;
    for field in fields.split(';').map(str::trim).filter(|field| !field.is_empty()) {
        let (tag, name) = match field.split_once("->") {
            Some((tag, name)) => (tag.trim(), name.trim()),
            None => (field, field),
        };
        if tag.is_empty() || name.is_empty() {
            return Err(format!("'{field}' is not of the form tag->name"));
        }
        if backend == Backend::Db && !is_identifier(name) {
            return Err(format!("'{name}' is no name of a column"));
        }
        let index = match tags.iter().position(|known| known == tag) {
            Some(index) => index,
            None if tags.len() >= EXTRA_MAX => return Err(format!("more than {EXTRA_MAX} fields")),
            None => {
                tags.push(tag.to_owned());
                tags.len() - 1
            }
        };
        if let Some(fields) = extra.get_mut(backend as usize) {
            fields.push(ExtraField { name: Box::leak(name.to_owned().into_boxed_str()), tag: index });
        }
    }
    Ok(true)
}
