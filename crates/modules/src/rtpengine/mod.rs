//! Module `rtpengine`: media of calls relayed by rtpengine servers over their ng protocol. The encoding and the sockets are
//! in `tandem-media`, sets of relays in `relays`; no function blocks a worker.

mod flags;
mod functions;
mod notify;
mod request;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tandem_media::bencode::Value as Ng;
use tandem_media::{Framing, Listening};
use tandem_module::context::Context;
use tandem_module::declare::{Function, Setup, Variable};
use tandem_module::mi::{MiParams, MiReply};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::pvar::CompiledVar;
use tandem_script::regex::PosixRegex;
use tandem_script::surface::ArgType::{Int, Text, VarOut};
use tandem_script::surface::{ArgSpec, CommandSpec, EventSpec, NameRule, ParamSpec, ParamType, Routes, arg, opt};

use crate::core::table::{async_function, function, int, list_param, renamed_command, text, variable};
use crate::relays::{self, Names, Probe, Relays};
use request::Command;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "rtpengine",
    doc: "media relayed by rtpengine",
    params: PARAMS,
    functions: FUNCTIONS,
    variables: VARIABLES,
    events: EVENTS,
    commands: &[ENABLE, SHOW, RELOAD, TEARDOWN],
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    list_param("rtpengine_sock", ParamType::Text, "relays: \"[set ==] udp:host:port[=weight] ...\""),
    int("rtpengine_disable_tout", "60", "seconds a relay that did not answer is left alone"),
    int("rtpengine_tout", "1", "seconds to wait for an answer"),
    int("rtpengine_retr", "5", "repetitions of a request without answer"),
    int("rtpengine_timer_interval", "5", "seconds between two looks at relays that are left alone"),
    text("notification_sock", "", "ip:port on which relays report (UDP)"),
    text("extra_id_pv", "", "variable whose value is the branch with via-branch=extra"),
    text("setid_avp", "", "variable with the set to use"),
    text("error_pv", "", "variable that says why a function failed"),
    text("db_url", "", "database with relays"),
    text("db_table", "rtpengine", "its table"),
    text("socket_column", "socket", "column of the table: relays"),
    text("set_column", "set_id", "column of the table: set"),
    int("ping_enabled", "0", "1: relays that are in use are asked whether they are there, too"),
    list_param(
        "extra_failover_error",
        ParamType::Text,
        "regular expression for errors after which another relay is asked",
    ),
    int("default_set", "0", "set of relays when none is named"),
];

const STATUS: &str = "E_RTPENGINE_STATUS";
const NOTIFICATION: &str = "E_RTPENGINE_NOTIFICATION";

const EVENTS: &[EventSpec] = &[
    EventSpec { name: STATUS, params: &["socket", "status", "set"], doc: "a relay became active or inactive" },
    EventSpec { name: NOTIFICATION, params: notify::KEYS, doc: "a relay reports, such as a digit it heard" },
];

const ENABLE: CommandSpec = renamed_command(
    "rtpengine:enable",
    &["rtpengine_enable"],
    &["url", "enable", "setid?"],
    "takes a relay out (0), brings it back (1), asks whether it is there (2)",
);
const SHOW: CommandSpec = renamed_command("rtpengine:show", &["rtpengine_show"], &[], "shows all relays");
const RELOAD: CommandSpec = renamed_command(
    "rtpengine:reload",
    &["rtpengine_reload"],
    &["type?"],
    "puts the relays of the table in place; soft keeps those that stay as they are",
);
const TEARDOWN: CommandSpec =
    renamed_command("rtpengine:teardown", &["teardown"], &["callid"], "ends the call (module dialog)");

const PAIR: &[ArgSpec] = &[opt("flags", Text), opt("sock_var", VarOut), opt("sdp_var", VarOut), opt("body", Text)];
const PLAIN: &[ArgSpec] = &[opt("flags", Text), opt("sock_var", VarOut)];

macro_rules! plain {
    ($name:literal, $doc:literal, $command:ident) => {
        function($name, PLAIN, Routes::ANY, $doc, |context, args| functions::plain(context, args, Command::$command))
    };
}

static FUNCTIONS: &[Function] = &[
    function("rtpengine_use_set", &[arg("setid", Int)], Routes::ANY, "the set for this message", functions::use_set),
    async_function("rtpengine_offer", PAIR, Routes::ANY, "puts a relay into the offer", |context, args| {
        functions::pair(context, args, Command::Offer)
    }),
    async_function("rtpengine_answer", PAIR, Routes::ANY, "puts a relay into the answer", |context, args| {
        functions::pair(context, args, Command::Answer)
    }),
    async_function("rtpengine_delete", PLAIN, Routes::ANY, "ends the session at the relay", |context, args| {
        functions::plain(context, args, Command::Delete)
    }),
    async_function(
        "rtpengine_manage",
        PAIR,
        Routes::ANY,
        "offer, answer or delete, as the message is",
        functions::manage,
    ),
    async_function(
        "rtpengine_query",
        PLAIN,
        Routes::ANY,
        "Tandem only: asks for the state of the call, read by $rtpstat and $rtpquery",
        |context, args| functions::plain(context, args, Command::Query),
    ),
    plain!("rtpengine_start_recording", "records the media at the relay", StartRecording),
    plain!("rtpengine_stop_recording", "ends the recording", StopRecording),
    plain!("rtpengine_pause_recording", "interrupts the recording, its file stays open", PauseRecording),
    function(
        "rtpengine_play_media",
        &[arg("flags", Text), opt("duration_spec", VarOut), opt("sock_var", VarOut)],
        Routes::ANY,
        "plays a file (file=, blob=, db-id=) to one side; its length in ms, -1 when it is not known",
        functions::play_media,
    ),
    function(
        "rtpengine_stop_media",
        &[opt("flags", Text), opt("sock_var", VarOut), opt("last_frame_pos", VarOut)],
        Routes::ANY,
        "stops what is played",
        functions::stop_media,
    ),
    plain!("rtpengine_block_media", "lets no media of one side through", BlockMedia),
    plain!("rtpengine_unblock_media", "lets media through again", UnblockMedia),
    plain!("rtpengine_block_dtmf", "lets no digits of one side through", BlockDtmf),
    plain!("rtpengine_unblock_dtmf", "lets digits through again", UnblockDtmf),
    plain!("rtpengine_start_forwarding", "sends a copy of the media to the relay's tls-send-to", StartForwarding),
    plain!("rtpengine_stop_forwarding", "ends the copy", StopForwarding),
    function(
        "rtpengine_play_dtmf",
        &[arg("code", Text), opt("flags", Text), opt("sock_var", VarOut)],
        Routes::ANY,
        "puts a digit into the media",
        functions::play_dtmf,
    ),
];

static VARIABLES: &[Variable] = &[
    variable(
        "rtpstat",
        NameRule::Keyed,
        "counters of the call, or one such as MOS-average, with a tag as index of one side, after rtpengine_delete() or \
         rtpengine_query()",
        stats::stat,
    ),
    variable("rtpquery", NameRule::Plain, "the same answer as JSON", stats::query),
];

/// State of the module.
pub(crate) struct Rtpengine {
    relays: Relays,
    extra_id: Option<Arc<CompiledVar>>,
    set_var: Option<Arc<CompiledVar>>,
    error_var: Option<Arc<CompiledVar>>,
    failover: Vec<PosixRegex>,
    notify: Option<std::net::SocketAddr>,
    listening: OnceLock<Listening>,
}

/// The set that `rtpengine_use_set()` has named for this message.
struct UseSet(i32);

/// The newest answer to a delete or query command on this message.
struct LastAnswer(Ng);

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let names = Names {
        module: "rtpengine",
        sock: "rtpengine_sock",
        timeout: "rtpengine_tout",
        retries: "rtpengine_retr",
        pause: "rtpengine_disable_tout",
        table_default: "rtpengine",
        socket_column: ("socket_column", "socket"),
        set_column: ("set_column", "set_id"),
        event: STATUS,
        event_has_set: true,
    };
    let probe = Probe { request: || b"d7:command4:pinge".to_vec(), is_fine: is_pong };
    let mut relays = Relays::read(setup, names, Framing::Whole, probe)?;
    let tick = u64::try_from(setup.params.int("rtpengine_timer_interval", 5)).ok().filter(|secs| *secs > 0);
    let tick =
        tick.ok_or_else(|| SetupError::param("rtpengine_timer_interval", "the interval is at least one second"))?;
    relays.set_tick(Duration::from_secs(tick), setup.params.int("ping_enabled", 0) != 0);
    let mut var = |name: &'static str| match setup.params.text(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => setup.names.variable(&text).map(Some).map_err(|error| SetupError::param(name, error)),
    };
    let (extra_id, set_var, error_var) = (var("extra_id_pv")?, var("setid_avp")?, var("error_pv")?);
    let mut failover = Vec::new();
    for (at, text) in setup.params.all("extra_failover_error").iter().enumerate() {
        let regex = PosixRegex::new(text.as_bytes());
        failover.push(regex.map_err(|_| {
            SetupError::param_at("extra_failover_error", at, format!("'{text}' is no regular expression"))
        })?);
    }
    let notify = match setup.params.text("notification_sock").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let addr = text.strip_prefix("udp:").unwrap_or(&text).parse();
            Some(addr.map_err(|_| SetupError::param("notification_sock", format!("'{text}' is not ip:port")))?)
        }
    };
    setup.state(Rtpengine { relays, extra_id, set_var, error_var, failover, notify, listening: OnceLock::new() });
    Ok(())
}

fn is_pong(answer: &[u8]) -> bool {
    let answer = Ng::decode(answer).ok();
    answer.is_some_and(|answer| answer.get("result").and_then(Ng::as_bytes) == Some(b"pong"))
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Rtpengine>() else { return Ok(()) };
    own.relays.init()?;
    relays::register(node, &own.relays, [SHOW, ENABLE, RELOAD]);
    node.mi.register(TEARDOWN, move |request| match request.text("callid") {
        Ok(callid) => {
            let params = [("dialog_id".to_owned(), json!(callid))].into_iter().collect();
            node.mi.run("dlg_end_dlg", MiParams::Named(params))
        }
        Err(error) => MiReply::Now(Err(error)),
    });
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Rtpengine>() else { return Ok(()) };
    own.relays.start(node)?;
    notify::start(node, own)
}

fn own(context: &Context) -> Option<&'static Rtpengine> {
    context.node.state::<Rtpengine>()
}
