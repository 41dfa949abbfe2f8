//! Module `proto_tcp`: lets scripts name the TCP transport and its parameters. The sockets are in `tandem-net`.

use tandem_module::ModuleDecl;
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::param;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "proto_tcp", doc: "SIP over TCP", params: PARAMS, ..ModuleDecl::EMPTY };

static PARAMS: &[ParamSpec] = &[
    param("tcp_port", ParamType::Int, "5060", "accepted, no effect: write the port in socket="),
    param("tcp_send_timeout", ParamType::Int, "100", "accepted, no effect: nothing blocks on a write"),
    param("tcp_max_msg_chunks", ParamType::Int, "4", "accepted, no effect: messages are limited in bytes and time"),
    param("tcp_crlf_pingpong", ParamType::Int, "1", "accepted, no effect: keepalives are answered"),
    param("tcp_crlf_drop", ParamType::Int, "0", "accepted, no effect"),
    param("tcp_async", ParamType::Int, "1", "accepted, no effect: always so"),
    param("tcp_async_max_postponed_chunks", ParamType::Int, "32", "accepted, no effect: queues are limited in bytes"),
    param("tcp_async_local_connect_timeout", ParamType::Int, "100", "accepted, no effect"),
    param("tcp_async_local_write_timeout", ParamType::Int, "10", "accepted, no effect"),
    param("tcp_parallel_handling", ParamType::Int, "0", "accepted, no effect"),
    param("trace_destination", ParamType::Text, "", "accepted, no effect"),
    param("trace_on", ParamType::Int, "0", "accepted, no effect"),
    param("trace_filter_route", ParamType::Text, "", "accepted, no effect"),
];
