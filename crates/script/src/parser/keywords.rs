//! Reserved words of both dialects and hints for words that other versions had. No grammar here.

use crate::globals;

/// Whether a word can name a route or stand as a host label without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It can, everywhere.
    No,
    /// A keyword of 2.4 only.
    In24,
    /// A keyword of 4.0 only.
    In40,
    /// A keyword of both.
    Always,
}

const ALWAYS: &[&str] = &[
    "if",
    "else",
    "while",
    "for",
    "in",
    "switch",
    "case",
    "default",
    "break",
    "return",
    "exit",
    "drop",
    "route",
    "branch_route",
    "failure_route",
    "onreply_route",
    "error_route",
    "local_route",
    "startup_route",
    "timer_route",
    "event_route",
    "loadmodule",
    "modparam",
    "async",
    "launch",
    "assert",
    "log",
    "xlog",
    "xdbg",
    "any",
    "anycast",
];

const ONLY_40: &[&str] = &[
    "tag",
    "frag",
    "expire",
    "bond",
    "reuse_port",
    "accept_subdomain",
    "allow_proxy_protocol",
    "send_proxy_protocol",
    "proxy_protocol",
];

const ONLY_24: &[&str] = &[
    "esac",
    "include_file",
    "import_file",
    "forward",
    "send",
    "setflag",
    "resetflag",
    "isflagset",
    "setbflag",
    "resetbflag",
    "isbflagset",
    "setbranchflag",
    "resetbranchflag",
    "isbranchflagset",
    "rewritehost",
    "seth",
    "rewritehostport",
    "sethp",
    "rewriteuser",
    "setu",
    "rewriteuserpass",
    "setup",
    "rewriteport",
    "setp",
    "rewriteuri",
    "revert_uri",
    "prefix",
    "strip",
    "strip_tail",
    "setdsturi",
    "setduri",
    "resetdsturi",
    "resetduri",
    "isdsturiset",
    "isduriset",
    "append_branch",
    "remove_branch",
    "force_rport",
    "add_rport",
    "force_local_rport",
    "add_local_rport",
    "force_tcp_alias",
    "add_tcp_alias",
    "force_send_socket",
    "set_advertised_address",
    "set_advertised_port",
    "serialize_branches",
    "next_branches",
    "use_blacklist",
    "unuse_blacklist",
    "cache_store",
    "cache_fetch",
    "cache_counter_fetch",
    "cache_remove",
    "cache_add",
    "cache_sub",
    "cache_raw_query",
    "raise_event",
    "subscribe_event",
    "construct_uri",
    "get_timestamp",
    "script_trace",
    "is_myself",
    "pv_printf",
    "avp_printf",
    "error",
];

/// Whether `word` is reserved, and where.
pub fn reserved(word: &str) -> Reserved {
    if ALWAYS.contains(&word) {
        return Reserved::Always;
    }
    if ONLY_24.contains(&word) {
        return Reserved::In24;
    }
    if ONLY_40.contains(&word) {
        return Reserved::In40;
    }
    // A parameter that was gone before 2.4 is no keyword any more; these two still are.
    let is_keyword = |spec: &&globals::GlobalSpec| spec.refused.is_none() || matches!(spec.name, "debug" | "fork");
    match globals::find(word).filter(is_keyword).map(|spec| spec.since) {
        Some(globals::Since::Both) => Reserved::Always,
        Some(globals::Since::V2_4) => Reserved::In24,
        Some(globals::Since::V4_0) => Reserved::In40,
        None => Reserved::No,
    }
}

/// Words that begin statements, for "did you mean".
pub(super) const STATEMENTS: &[&str] = &[
    "if", "else", "while", "for", "switch", "break", "return", "exit", "drop", "route", "xlog", "log", "async",
    "launch", "assert",
];

/// Words that begin top-level statements, for "did you mean".
pub(super) const ITEMS: &[&str] = &[
    "route",
    "branch_route",
    "failure_route",
    "onreply_route",
    "error_route",
    "local_route",
    "startup_route",
    "timer_route",
    "event_route",
    "loadmodule",
    "modparam",
];

/// Core statements that 2.4 takes without parentheses.
pub(super) const BARE_CALLS: &[&str] = &[
    "force_rport",
    "add_rport",
    "force_local_rport",
    "add_local_rport",
    "force_tcp_alias",
    "add_tcp_alias",
    "revert_uri",
    "resetdsturi",
    "resetduri",
    "isdsturiset",
    "isduriset",
];

/// The call that replaced the comparison of a bare word with `myself`.
pub(super) fn myself_for(word: &str) -> &'static str {
    match word {
        "from_uri" => "is_myself(\"$fd\")",
        "to_uri" => "is_myself(\"$td\")",
        "src_ip" => "is_myself(\"$si\")",
        _ => "is_myself(\"$rd\")",
    }
}

/// The variable that replaced a bare word of releases before 1.5.
pub(super) fn variable_for(word: &str) -> Option<&'static str> {
    Some(match word {
        "uri" => "$ru",
        "method" => "$rm",
        "src_ip" => "$si",
        "dst_ip" => "$socket_in(ip)",
        "src_port" => "$sp",
        "dst_port" => "$socket_in(port)",
        "from_uri" => "$fu",
        "to_uri" => "$tu",
        "status" => "$rs",
        "proto" => "$socket_in(proto)",
        "af" => "$socket_in(af)",
        "retcode" => "$rc",
        "msg" => "$ml",
        _ => return None,
    })
}
