//! Module `rtpproxy`: media of calls relayed by rtpproxy servers. Its control protocol, what it changes in session
//! descriptions, notifications. Sockets are in `tandem-media`, sets of relays in `relays`; no function blocks a worker.

mod command;
mod engage;
mod notify;
mod offer;
mod sdp;
mod session;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use tandem_media::{Framing, Listening, MediaNode};
use tandem_module::context::Context;
use tandem_module::declare::{Function, Setup};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::surface::ArgType::{Int, Text, VarOut};
use tandem_script::surface::{ArgSpec, CommandSpec, EventSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::vm::LogLevel;

use crate::core::table::{async_function, function, int, list_param, renamed_command, text};
use crate::relays::{self, AskError, Names, Probe, Relays, Turn, Wish};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "rtpproxy",
    doc: "media relayed by rtpproxy",
    params: PARAMS,
    functions: FUNCTIONS,
    events: EVENTS,
    commands: &[ENABLE, SHOW, RELOAD],
    setup,
    init,
    start,
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    list_param("rtpproxy_sock", ParamType::Text, "relays: \"[set ==] udp:host:port[|advertised][=weight] ...\""),
    int("rtpproxy_disable_tout", "60", "seconds a relay that did not answer is left alone"),
    text("rtpproxy_timeout", "1", "seconds to wait for an answer, such as 0.2"),
    int("rtpproxy_tout", "1", "name of rtpproxy_timeout in old scripts, whole seconds"),
    int("rtpproxy_autobridge", "0", "1: the relay picks its interface by the address of the next hop"),
    int("rtpproxy_retr", "5", "repetitions of a request without answer"),
    int("default_set", "0", "set of relays when none is named"),
    text("nortpproxy_str", "a=nortpproxy:yes\r\n", "line that marks a session description as relayed; empty: none"),
    text("db_url", "", "database with relays"),
    text("db_table", "rtpproxy_sockets", "its table"),
    text("rtpp_socket_col", "rtpproxy_sock", "column of the table: relays"),
    text("set_id_col", "set_id", "column of the table: set"),
    text("rtpp_notify_socket", "", "tcp:host:port or unix:path on which relays report"),
    int("generated_sdp_port_min", "35000", "accepted, no effect: session descriptions are not generated"),
    int("generated_sdp_port_max", "65000", "accepted, no effect: session descriptions are not generated"),
    text("generated_sdp_media_ip", "127.0.0.1", "accepted, no effect: session descriptions are not generated"),
];

const STATUS: &str = "E_RTPPROXY_STATUS";
const DTMF: &str = "E_RTPPROXY_DTMF";

const EVENTS: &[EventSpec] = &[
    EventSpec { name: STATUS, params: &["socket", "status"], doc: "a relay became active or inactive" },
    EventSpec {
        name: DTMF,
        params: &["digit", "duration", "volume", "id", "is_callid", "stream"],
        doc: "a relay heard a digit",
    },
];

const ENABLE: CommandSpec = renamed_command(
    "rtpproxy:enable",
    &["rtpproxy_enable"],
    &["url", "enable", "setid?"],
    "takes a relay out (0), brings it back (1), asks whether it is there (2)",
);
const SHOW: CommandSpec = renamed_command("rtpproxy:show", &["rtpproxy_show"], &[], "shows all relays");
const RELOAD: CommandSpec =
    renamed_command("rtpproxy:reload", &["rtpproxy_reload"], &[], "puts the relays of the table in place");

const ROUTES: Routes = Routes::REQUEST.or(Routes::ONREPLY).or(Routes::FAILURE).or(Routes::BRANCH);
const ALL_ROUTES: Routes = ROUTES.or(Routes::LOCAL);
const NAMED: Routes = Routes::REQUEST.or(Routes::ONREPLY);

const ENGAGE: &[ArgSpec] =
    &[opt("flags", Text), opt("ip_address", Text), opt("set_id", Int), opt("sock_var", VarOut), opt("ret_var", VarOut)];
const OFFER: &[ArgSpec] = &[
    opt("flags", Text),
    opt("ip_address", Text),
    opt("set_id", Int),
    opt("sock_var", VarOut),
    opt("ret_var", VarOut),
    opt("body_var", VarOut),
    opt("bind_local", Text),
];
const PLACE: &[ArgSpec] = &[opt("set_id", Int), opt("sock_var", VarOut)];
const STREAM: &[ArgSpec] = &[arg("prompt_name", Text), arg("count", Int), opt("set_id", Int), opt("sock_var", VarOut)];
const RECORDING: &[ArgSpec] = &[
    opt("set_id", Int),
    opt("sock_var", VarOut),
    opt("flags", Text),
    opt("destination", Text),
    opt("mediastream", Int),
];
const COUNTERS: &[ArgSpec] = &[
    arg("up_var", VarOut),
    arg("down_var", VarOut),
    arg("sent_var", VarOut),
    arg("fail_var", VarOut),
    opt("set_id", Int),
    opt("sock_var", VarOut),
];

static FUNCTIONS: &[Function] = &[
    async_function("rtpproxy_offer", OFFER, ROUTES, "puts the addresses of a relay into the offer", |context, args| {
        offer::run(context, args, true)
    }),
    async_function(
        "rtpproxy_answer",
        OFFER,
        ROUTES,
        "puts the addresses of a relay into the answer",
        |context, args| offer::run(context, args, false),
    ),
    function(
        "rtpproxy_engage",
        ENGAGE,
        ROUTES,
        "relays the media of the whole call; call it for the first INVITE",
        engage::engage,
    ),
    function("engage_rtp_proxy", ENGAGE, ROUTES, "the name of rtpproxy_engage() in older versions", engage::engage),
    async_function("rtpproxy_unforce", PLACE, ROUTES, "ends the session at the relay", session::unforce),
    function("unforce_rtp_proxy", PLACE, ROUTES, "the name of rtpproxy_unforce() in older versions", session::unforce),
    function("rtpproxy_stream2uac", STREAM, NAMED, "plays a prompt to the caller's side", |context, args| {
        session::stream(context, args, true)
    }),
    function("rtpproxy_stream2uas", STREAM, NAMED, "plays a prompt to the callee's side", |context, args| {
        session::stream(context, args, false)
    }),
    function("rtpproxy_stop_stream2uac", PLACE, NAMED, "stops the prompt of the caller's side", |context, args| {
        session::stop_stream(context, args, true)
    }),
    function("rtpproxy_stop_stream2uas", PLACE, NAMED, "stops the prompt of the callee's side", |context, args| {
        session::stop_stream(context, args, false)
    }),
    function("rtpproxy_start_recording", RECORDING, NAMED, "records the media at the relay", session::record),
    function(
        "start_recording",
        RECORDING,
        NAMED,
        "the name of rtpproxy_start_recording() in older versions",
        session::record,
    ),
    function("rtpproxy_stats", COUNTERS, ALL_ROUTES, "packets from both sides, relayed and dropped", session::counters),
    function(
        "rtpproxy_all_stats",
        &[arg("stats_avp", VarOut), opt("set_id", Int), opt("sock_var", VarOut)],
        ALL_ROUTES,
        "ten counters of the call as values of one AVP",
        session::all_counters,
    ),
];

/// State of the module.
pub(crate) struct Rtpproxy {
    relays: Relays,
    marker: Vec<u8>,
    is_autobridged: bool,
    notify: Option<tandem_media::Address>,
    notify_text: String,
    listening: OnceLock<Listening>,
    engaged: engage::Engaged,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let names = Names {
        module: "rtpproxy",
        sock: "rtpproxy_sock",
        timeout: "rtpproxy_timeout",
        retries: "rtpproxy_retr",
        pause: "rtpproxy_disable_tout",
        table_default: "rtpproxy_sockets",
        socket_column: ("rtpp_socket_col", "rtpproxy_sock"),
        set_column: ("set_id_col", "set_id"),
        event: STATUS,
        event_has_set: false,
    };
    let probe = Probe { request: || b"V".to_vec(), is_fine: command::is_version };
    let relays = Relays::read(setup, names, Framing::Lines, probe)?;
    let notify_text = setup.params.text_or("rtpp_notify_socket", "");
    let notify = match notify_text.as_str() {
        "" => None,
        text => match tandem_media::Address::parse(text) {
            Ok(tandem_media::Address::Udp(_)) => {
                return Err(SetupError::param("rtpp_notify_socket", "write tcp:host:port or unix:path"));
            }
            Ok(address) => Some(address),
            Err(error) => return Err(SetupError::param("rtpp_notify_socket", error.to_string())),
        },
    };
    setup.state(Rtpproxy {
        relays,
        marker: setup.params.text_or("nortpproxy_str", "a=nortpproxy:yes\r\n").into_bytes(),
        is_autobridged: setup.params.int("rtpproxy_autobridge", 0) != 0,
        notify,
        notify_text,
        listening: OnceLock::new(),
        engaged: engage::Engaged::default(),
    });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Rtpproxy>() else { return Ok(()) };
    own.relays.init()?;
    relays::register(node, &own.relays, [SHOW, ENABLE, RELOAD]);
    engage::init(node);
    Ok(())
}

fn start(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Rtpproxy>() else { return Ok(()) };
    own.relays.start(node)?;
    notify::start(node, own)
}

/// Lets the relay of a call work on commands, all at the same time; its answers in their order.
async fn ask(
    node: NodeRef,
    own: &'static Rtpproxy,
    set: i32,
    call_id: String,
    begins: bool,
    commands: Vec<String>,
) -> Result<(Arc<MediaNode>, Vec<Vec<u8>>), AskError> {
    let work = |relay: Arc<MediaNode>| {
        let request = |command: &String| relay.client.request(command.clone().into_bytes(), own.relays.timing);
        let waiting: Vec<_> = commands.iter().map(request).collect();
        async move {
            let mut answers = Vec::with_capacity(waiting.len());
            for answer in waiting {
                answers.push(answer.await?);
            }
            Ok(Turn::Done(answers))
        }
    };
    let wish = Wish { set, key: call_id.into_bytes(), begins, preferred: None };
    own.relays.with_relay(node, wish, work).await
}

/// The state, or a word to the operator.
fn own(context: &Context) -> Option<&'static Rtpproxy> {
    context.node.state::<Rtpproxy>()
}

fn complain(context: &Context, function: &str, text: &str) {
    context.log(LogLevel::Error, &format!("{function}(): {text}"));
}
