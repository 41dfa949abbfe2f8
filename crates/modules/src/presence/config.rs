//! Parameters of module `presence`, read and checked. No database is opened here.

use std::sync::Arc;
use std::time::Duration;

use tandem_module::SetupError;
use tandem_module::declare::Setup;
use tandem_script::pvar::CompiledVar;
use tandem_script::surface::ParamSpec;

use crate::core::table::{int, text};

const DAY_SECS: i64 = 86_400;
/// Longest time that undecided subscriptions are kept (OpenSIPS: presence, waiting_subs_daysno).
const WAITING_DAYS_MAX: i32 = 30;

pub(super) static PARAMS: &[ParamSpec] = &[
    text("db_url", "", "the database; db_default_url when unset; without either the functions refuse to work"),
    int("fallback2db", "0", "1: other servers share the database: it is asked for subscriptions not in memory, too"),
    int("expires_offset", "0", "seconds that publications and subscriptions are kept beyond their time"),
    int("max_expires_subscribe", "3600", "longest subscription in seconds"),
    int("max_expires_publish", "3600", "longest publication in seconds"),
    text("contact_user", "presence", "user part of our Contact; its host is that of the listener"),
    text("server_address", "", "2.4: the URI of our Contact, in place of the listener's address and contact_user"),
    int("enable_sphere_check", "0", "1: rules may ask for the sphere in the published presence"),
    int("waiting_subs_daysno", "3", "days to remember watchers nobody has decided about, 30 at most"),
    text("bla_presentity_spec", "", "variable with the presentity of dialog;sla subscriptions"),
    int("bla_fix_remote_target", "1", "1: addresses in remote targets of dialog;sla documents become the domain"),
    int("notify_offline_body", "0", "1: somebody without publications is notified as closed, not without a body"),
    int("end_sub_on_timeout", "1", "1: a NOTIFY without an answer ends the subscription"),
    int("clean_period", "100", "seconds between looks for what has expired; 0 or less: never"),
    int("db_update_period", "100", "seconds between writes of subscriptions; 0 or less: never"),
    text("presentity_table", "presentity", "table of publications"),
    text("active_watchers_table", "active_watchers", "table of subscriptions"),
    text("watchers_table", "watchers", "table of what was decided about watchers"),
    int("subs_htable_size", "9", "accepted, no effect: tables grow by themselves"),
    int("pres_htable_size", "9", "accepted, no effect: tables grow by themselves"),
];

/// What the parameters say.
pub(super) struct Config {
    pub(super) db_url: Option<String>,
    pub(super) is_shared: bool,
    pub(super) expires_offset_secs: i64,
    pub(super) subscribe_secs_max: u32,
    pub(super) publish_secs_max: u32,
    pub(super) contact_user: String,
    pub(super) server_address: Option<String>,
    pub(super) checks_sphere: bool,
    pub(super) waiting_secs: i64,
    pub(super) bla_presentity: Option<Arc<CompiledVar>>,
    pub(super) fixes_remote_target: bool,
    pub(super) has_offline_body: bool,
    pub(super) ends_on_timeout: bool,
    pub(super) clean_period: Option<Duration>,
    pub(super) update_period: Option<Duration>,
    pub(super) presentity_table: String,
    pub(super) active_watchers_table: String,
    pub(super) watchers_table: String,
}

impl Config {
    pub(super) fn read(setup: &mut Setup<'_>) -> Result<Config, SetupError> {
        let params = setup.params;
        let period = |name: &str| {
            let secs = params.int(name, 100);
            u64::try_from(secs).ok().filter(|secs| *secs > 0).map(Duration::from_secs)
        };
        let longest = |name: &'static str| {
            let secs = u32::try_from(params.int(name, 3600)).ok().filter(|secs| *secs > 0);
            secs.ok_or_else(|| SetupError::param(name, "give a number of seconds greater than 0"))
        };
        let days = params.int("waiting_subs_daysno", 3);
        if !(1..=WAITING_DAYS_MAX).contains(&days) {
            return Err(SetupError::param("waiting_subs_daysno", format!("give 1 to {WAITING_DAYS_MAX} days")));
        }
        let server_address = params.text("server_address").filter(|address| !address.is_empty());
        if let Some(address) = &server_address
            && tandem_sip::Uri::parse(address.as_bytes()).is_err()
        {
            return Err(SetupError::param("server_address", format!("'{address}' is no URI: write sip:host:port")));
        }
        let spec = params.text("bla_presentity_spec").filter(|spec| !spec.is_empty());
        let bla_presentity = match spec {
            Some(spec) => {
                Some(setup.names.variable(&spec).map_err(|error| SetupError::param("bla_presentity_spec", error))?)
            }
            None => None,
        };
        Ok(Config {
            db_url: params
                .text("db_url")
                .filter(|url| !url.is_empty())
                .or_else(|| setup.settings.db_default_url.clone()),
            is_shared: params.int("fallback2db", 0) != 0,
            expires_offset_secs: i64::from(params.int("expires_offset", 0).max(0)),
            subscribe_secs_max: longest("max_expires_subscribe")?,
            publish_secs_max: longest("max_expires_publish")?,
            contact_user: params.text_or("contact_user", "presence"),
            server_address,
            checks_sphere: params.int("enable_sphere_check", 0) != 0,
            waiting_secs: i64::from(days) * DAY_SECS,
            bla_presentity,
            fixes_remote_target: params.int("bla_fix_remote_target", 1) != 0,
            has_offline_body: params.int("notify_offline_body", 0) != 0,
            ends_on_timeout: params.int("end_sub_on_timeout", 1) != 0,
            clean_period: period("clean_period"),
            update_period: period("db_update_period"),
            presentity_table: params.text_or("presentity_table", "presentity"),
            active_watchers_table: params.text_or("active_watchers_table", "active_watchers"),
            watchers_table: params.text_or("watchers_table", "watchers"),
        })
    }
}
