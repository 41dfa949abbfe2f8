//! What the module offers to scripts and operators, as tables.

use tandem_module::declare::Function;
use tandem_script::surface::ArgType::{Int, Text};
use tandem_script::surface::{CommandSpec, EventSpec, Routes, StatSpec, opt};

use super::{publish, subscribe};
use crate::core::table::{function, renamed_command, stat};

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "handle_publish",
        &[opt("sender_uri", Text)],
        Routes::REQUEST,
        "answers a PUBLISH: keeps what it says and tells the watchers, except the sender",
        publish::handle,
    ),
    function(
        "handle_subscribe",
        &[opt("force_active", Int), opt("sharing_tag", Text)],
        Routes::REQUEST,
        "answers a SUBSCRIBE and sends the first NOTIFY; force_active 1 allows it where rules say nothing",
        subscribe::handle,
    ),
];

pub(super) const PUBLISHED: &str = "E_PRESENCE_PUBLISH";
pub(super) const EXPOSED: &str = "E_PRESENCE_EXPOSED";

const EVENT_PARAMS: &[&str] = &["user", "domain", "event", "expires", "etag", "old_etag", "body"];

pub(super) const EVENTS: &[EventSpec] = &[
    EventSpec { name: PUBLISHED, params: EVENT_PARAMS, doc: "a PUBLISH was accepted" },
    EventSpec { name: EXPOSED, params: EVENT_PARAMS, doc: "a publication that presence:expose has found" },
];

pub(super) static COMMANDS: &[CommandSpec] = &[
    renamed_command(
        "presence:refresh_watchers",
        &["refresh_watchers", "refreshWatchers"],
        &["presentity_uri", "event", "refresh_type"],
        "tells watchers again: type 0 after a change of rules, any other after a change of what is published",
    ),
    renamed_command("presence:cleanup", &["cleanup"], &[], "removes what has expired now"),
    renamed_command("presence:phtable_list", &["pres_phtable_list"], &[], "lists publications"),
    renamed_command(
        "presence:subs_phtable_list",
        &["subs_phtable_list"],
        &["from?", "to?"],
        "lists subscriptions; from and to may have * and ?",
    ),
    renamed_command(
        "presence:expose",
        &["pres_expose"],
        &["event", "filter?"],
        "raises E_PRESENCE_EXPOSED for each publication whose presentity fits the regular expression",
    ),
];

pub(super) static STATS: &[StatSpec] = &[stat("db_errors", "statements the database refused or did not answer")];
