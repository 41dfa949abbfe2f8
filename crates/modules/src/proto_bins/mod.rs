//! Module `proto_bins`: the cluster transport over TLS. Its sockets are in the network layer, its certificates in `tls_mgm`.

use tandem_module::ModuleDecl;
use tandem_script::surface::ParamSpec;

use crate::core::table::int;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "proto_bins",
    doc: "cluster transport over TLS",
    params: PARAMS,
    depends: &["tls_mgm"],
    ..ModuleDecl::EMPTY
};

const PARAMS: &[ParamSpec] = &[
    int("bins_port", "5556", "accepted, no effect: default port of BINS sockets without one"),
    int("bins_handshake_timeout", "100", "accepted, no effect: a handshake has 4 seconds and keeps nobody waiting"),
    int("bins_send_timeout", "100", "accepted, no effect: sending never blocks here"),
    int("bins_max_msg_chunks", "32", "accepted, no effect: the default limit applies"),
    int("bins_async", "1", "accepted, no effect: always asynchronous here"),
    int("bins_async_max_postponed_chunks", "1024", "accepted, no effect: the default limit applies"),
];
