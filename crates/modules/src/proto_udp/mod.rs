//! Module `proto_udp`: lets scripts name the UDP transport and its parameters. The sockets are in `tandem-net`.

use tandem_module::ModuleDecl;
use tandem_script::surface::{ParamSpec, ParamType};

use crate::core::table::param;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "proto_udp", doc: "SIP over UDP", params: PARAMS, ..ModuleDecl::EMPTY };

static PARAMS: &[ParamSpec] =
    &[param("udp_port", ParamType::Int, "5060", "accepted, no effect: write the port in socket=")];
