//! Module `proto_bin`: the cluster transport. Its sockets are in the network layer; the limits are read at start.

use tandem_module::ModuleDecl;
use tandem_script::surface::ParamSpec;

use crate::core::table::int;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "proto_bin", doc: "cluster transport", params: PARAMS, ..ModuleDecl::EMPTY };

const PARAMS: &[ParamSpec] = &[
    int("bin_port", "5555", "accepted, no effect: default port of BIN sockets without one"),
    int("bin_send_timeout", "100", "accepted, no effect: sending never blocks here"),
    int("bin_max_msg_chunks", "32", "accepted, no effect: the default limit applies"),
    int("bin_async", "1", "accepted, no effect: always asynchronous here"),
    int("bin_async_max_postponed_chunks", "1024", "accepted, no effect: the default limit applies"),
    int("bin_async_local_connect_timeout", "100", "accepted, no effect"),
    int("bin_async_local_write_timeout", "10", "accepted, no effect"),
];
