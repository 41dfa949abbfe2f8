//! Module `core`: the functions, variables and management commands that need no loadmodule, in the names of both dialects.
//! What the VM handles itself (`$var`, `$avp`, `xlog`, `assert`, ...) is not here.

mod auth_vars;
mod blacklists;
mod branches;
pub(crate) mod cache;
mod connections;
pub(crate) mod db_load;
mod flags;
mod forward;
mod header_vars;
mod mi;
mod misc;
mod process_vars;
mod request_vars;
mod sdp_vars;
mod sockets;
mod status;
mod subscriptions;
pub(crate) mod table;
mod tables;
mod trace;
mod uri_functions;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_control;

pub use branches::{serialize_targets, write_destination_set};
pub use misc::EVENT_PARAM_NAMES_MAX;
pub(crate) use process_vars::{local_now, local_time};
pub use request_vars::Authenticated;
pub use sdp_vars::LINES_MAX as SDP_LINES_MAX;

use tandem_module::ModuleDecl;
use tandem_script::surface::{EventSpec, StatSpec};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "core",
    doc: "functions, variables and MI commands that need no loadmodule",
    functions: tables::FUNCTIONS,
    variables: tables::VARIABLES,
    events: EVENTS,
    commands: mi::COMMANDS,
    stats: STATS,
    setup: |setup| {
        setup.state(misc::State::default());
        setup.state(process_vars::Levels::new(setup.settings));
        Ok(())
    },
    init: mi::init,
    ..ModuleDecl::EMPTY
};

static EVENTS: &[EventSpec] = &[EventSpec {
    name: "E_CORE_LOG",
    params: &["time", "pid", "level", "module", "function", "prefix", "message"],
    doc: "known so that scripts may name it; never raised",
}];

static STATS: &[StatSpec] = &[
    StatSpec { name: "rcv_requests", doc: "requests received" },
    StatSpec { name: "rcv_replies", doc: "replies received" },
    StatSpec { name: "fwd_requests", doc: "requests forwarded statelessly" },
    StatSpec { name: "fwd_replies", doc: "replies forwarded statelessly" },
    StatSpec { name: "drop_requests", doc: "requests dropped before a script saw them" },
    StatSpec { name: "drop_replies", doc: "replies dropped: behind us is nobody to send them to" },
    StatSpec { name: "err_requests", doc: "requests that could not be parsed or lack a header they must have" },
    StatSpec { name: "err_replies", doc: "replies that could not be parsed" },
    StatSpec { name: "bad_URIs_rcvd", doc: "URIs that could not be parsed when something was to be sent there" },
    StatSpec { name: "bad_msg_hdr", doc: "messages whose headers could not be parsed" },
    StatSpec { name: "slow_messages", doc: "times a script ran longer at a stretch than exec_msg_threshold" },
    StatSpec { name: "timestamp", doc: "seconds since the process started" },
    StatSpec { name: "absorbed_requests", doc: "retransmissions and ACKs that no script had to see" },
    StatSpec { name: "parked_runs", doc: "script runs that wait for something now" },
    StatSpec { name: "held_messages", doc: "messages that wait for an earlier one of their call" },
    StatSpec { name: "parked_refused", doc: "waits refused because too many runs wait" },
    StatSpec { name: "shed_requests", doc: "new requests answered 503 because of overload or shutdown" },
    StatSpec { name: "shed_messages", doc: "datagrams dropped because another worker had too many of them" },
    StatSpec { name: "dropped_work", doc: "work dropped because the queue of a worker was full" },
    StatSpec { name: "panics", doc: "messages lost to internal errors" },
    StatSpec { name: "reloads", doc: "times the routes were reloaded" },
];
