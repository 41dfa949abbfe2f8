//! Module `nathelper`: finds out that a peer is behind NAT, rewrites Contact and session description, and keeps the way to
//! registered contacts open by pings. Media is relayed by `rtpproxy` and `rtpengine`, not here.

mod contact;
mod detect;
mod ping;
mod sdp;
mod sipping;
#[cfg(test)]
mod tests;
mod tracks;

use std::sync::Arc;

use serde_json::json;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, Setup, arg_int, arg_text};
use tandem_module::mi::{MiError, MiRequest, MiResult};
use tandem_module::{ModuleDecl, NodeRef, SetupError};
use tandem_script::pvar::CompiledVar;
use tandem_script::surface::ArgType::{Int, Text};
use tandem_script::surface::{CommandSpec, ParamSpec, ParamType, Routes, arg, opt};
use tandem_script::vm::LogLevel;

use crate::core::table::{done, function, int, param, renamed_command, text};

pub(crate) use contact::source_uri;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "nathelper",
    doc: "NAT detection, fixing of Contact and SDP, NAT pings",
    params: PARAMS,
    functions: FUNCTIONS,
    commands: &[ENABLE_PING],
    setup,
    init,
    start: |node| {
        if let Some(own) = node.state::<Nathelper>() {
            ping::start(node, &own.pings);
        }
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

static PARAMS: &[ParamSpec] = &[
    int("natping_interval", "0", "seconds in which every contact is pinged once; 0 is off"),
    int("ping_nated_only", "0", "1: only contacts with usrloc's nat_bflag"),
    int("natping_partitions", "1", "workers that share the sending of pings, 1 to 8"),
    int("natping_processes", "1", "the name of natping_partitions in older versions"),
    text("natping_socket", "", "listener to send UDP pings from; it must be one of the script's sockets"),
    text("received_avp", "", "variable for the source address as SIP URI (fix_nated_register())"),
    text("force_socket", "", "listener for pings to contacts whose own listener is not known"),
    param("sipping_bflag", ParamType::IntOrText, "", "branch flag of contacts that get a SIP request as ping"),
    param(
        "remove_on_timeout_bflag",
        ParamType::IntOrText,
        "",
        "branch flag of contacts that are removed when SIP pings are not answered",
    ),
    param(
        "sipping_latency_flag",
        ParamType::IntOrText,
        "",
        "branch flag of contacts whose SIP ping time is reported by E_UL_LATENCY_UPDATE",
    ),
    text("sipping_ignore_rpl_codes", "", "reply codes that do not count as an answer: \"408, 480\""),
    text("sipping_from", "", "URI in From of SIP pings; without it there are none"),
    text("sipping_method", "OPTIONS", "method of SIP pings"),
    text("nortpproxy_str", "a=nortpproxy:yes\r\n", "line that marks a session description as relayed already"),
    int("natping_tcp", "0", "1: contacts over connections are pinged, too, by SIP requests"),
    text("oldip_skip", "", "o: no a=oldoip line, c: no a=oldcip line"),
    int("ping_threshold", "3", "seconds after which a SIP ping counts as lost"),
    int("max_pings_lost", "3", "lost SIP pings in a row after which a contact is removed"),
    int("cluster_id", "0", "cluster of cluster_sharing_tag"),
    text("cluster_sharing_tag", "", "only the node with this tag active pings"),
];

const ENABLE_PING: CommandSpec =
    renamed_command("nathelper:enable_ping", &["nh_enable_ping"], &["status?"], "shows or switches NAT pings");

const ROUTES: Routes = Routes::REQUEST.or(Routes::ONREPLY).or(Routes::FAILURE).or(Routes::BRANCH);

static FUNCTIONS: &[Function] = &[
    function(
        "nat_uac_test",
        &[arg("flags", Text)],
        ROUTES,
        "whether one of the tests finds NAT: private-contact, diff-ip-src-via, ... or the sum of their numbers",
        detect::nat_uac_test,
    ),
    function(
        "fix_nated_contact",
        &[opt("uri_params", Text), opt("flags", Text)],
        ROUTES,
        "puts the source address into the Contact URIs; preserve-uri keeps the old one in parameter org",
        contact::fix_nated_contact,
    ),
    function(
        "restore_nated_ruri",
        &[],
        Routes::REQUEST.or(Routes::BRANCH),
        "takes the old address out of parameter org of the request URI, which becomes the next hop",
        contact::restore_nated_ruri,
    ),
    function(
        "fix_nated_sdp",
        &[arg("flags", Text), opt("ip_address", Text), opt("sdp_fields", Text)],
        ROUTES,
        "changes addresses of the session description and adds lines to it",
        |context, args| {
            let Some(own) = context.node.state::<Nathelper>() else { return done(false) };
            sdp::fix_nated_sdp(own, context, args)
        },
    ),
    function(
        "add_rcv_param",
        &[opt("flag", Int)],
        Routes::REQUEST,
        "adds the source address as parameter received to the Contacts; 1: to their URIs",
        |context, args| contact::add_rcv_param(context, arg_int(args, 0).unwrap_or(0) != 0),
    ),
    function(
        "fix_nated_register",
        &[],
        Routes::REQUEST,
        "puts the source address as SIP URI into received_avp",
        |context, _| fix_nated_register(context),
    ),
];

/// State of the module.
pub(crate) struct Nathelper {
    received: Option<Arc<CompiledVar>>,
    nortpproxy: Vec<u8>,
    skips_old_origin: bool,
    skips_old_media: bool,
    pings: ping::Pings,
}

fn setup(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let received = match setup.params.text("received_avp").filter(|name| !name.is_empty()) {
        Some(name) => Some(setup.names.variable(&name).map_err(|error| SetupError::param("received_avp", error))?),
        None => None,
    };
    let pings = ping::Pings::new(ping::Config::read(setup)?);
    let skip = setup.params.text_or("oldip_skip", "");
    setup.state(Nathelper {
        received,
        nortpproxy: setup.params.text_or("nortpproxy_str", "a=nortpproxy:yes\r\n").into_bytes(),
        skips_old_origin: skip.contains('o'),
        skips_old_media: skip.contains('c'),
        pings,
    });
    Ok(())
}

fn init(node: NodeRef) -> Result<(), SetupError> {
    let Some(own) = node.state::<Nathelper>() else { return Ok(()) };
    node.mi.register(ENABLE_PING, |request| enable_ping(&own.pings, request).into());
    if own.pings.is_configured() {
        if !node.has_module("usrloc") {
            return Err(SetupError::param(
                "natping_interval",
                "pings need the contacts of module usrloc: loadmodule \"usrloc.so\"",
            ));
        }
        node.add_reply_filter(sipping::takes_reply);
    }
    Ok(())
}

fn enable_ping(pings: &ping::Pings, request: &MiRequest) -> MiResult {
    if !pings.is_configured() {
        return Err(MiError::new(400, "NAT pings are disabled by the script (natping_interval)"));
    }
    match request.int_opt("status")? {
        None => Ok(json!({ "Status": i32::from(pings.is_enabled()) })),
        Some(status) => {
            pings.enable(status > 0);
            Ok(json!("OK"))
        }
    }
}

fn fix_nated_register(context: &mut Context) -> Called {
    let received = context.node.state::<Nathelper>().and_then(|own| own.received.clone());
    let Some(var) = received else {
        context.log(LogLevel::Error, "fix_nated_register(): set parameter received_avp of module nathelper");
        return done(false);
    };
    let uri = source_uri(&context.source);
    done(context.write_var(&var, tandem_script::value::Value::text(&uri)))
}

/// A list of named flags, or the sum of their numbers, as one mask. Unknown names are left out and logged.
fn mask(context: &Context, function: &str, text: &[u8], names: &[(&str, u32)]) -> u32 {
    let text = String::from_utf8_lossy(text);
    let mut mask = 0;
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let number = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        };
        let named = || names.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, bit)| *bit);
        match number.or_else(named) {
            Some(bits) => mask |= bits,
            None => context.log(LogLevel::Error, &format!("{function}(): there is no flag '{word}'")),
        }
    }
    mask
}

/// The text of an optional argument, `None` when it is empty.
fn filled(args: &[tandem_script::vm::Arg], at: usize) -> Option<&[u8]> {
    arg_text(args, at).filter(|text| !text.is_empty())
}
