//! The table of global parameters: names, types, and which dialect has them. Data only.

use GlobalType::{Alias, Bool, Flag, Int, Raw, Socket, Text, Tos, Word};
use Since::{Both, V2_4, V4_0};

/// Which dialect has a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Both.
    Both,
    /// Only 2.4 (and releases up to 3.6).
    V2_4,
    /// Only 3.x and 4.0.
    V4_0,
}

/// Type of a global parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalType {
    /// A boolean word or number.
    Bool,
    /// A number in that range.
    Int(i32, i32),
    /// A quoted text.
    Text,
    /// A bare word or a quoted text.
    Word,
    /// A flag name (2.4: also a number).
    Flag,
    /// A number or one of the `IPTOS_` words.
    Tos,
    /// A listener.
    Socket,
    /// A list of hosts.
    Alias,
    /// A construct with its own syntax.
    Raw,
}

impl GlobalType {
    /// What a message says it takes.
    pub(super) fn describe(self) -> String {
        match self {
            Bool => "`yes` or `no`".to_owned(),
            Int(..) => "a number".to_owned(),
            Text => "a text in quotes".to_owned(),
            Word => "a name".to_owned(),
            Flag => "the name of a flag".to_owned(),
            Tos => "a number or one of the IPTOS_ words".to_owned(),
            Socket => "`protocol:host:port`".to_owned(),
            Alias => "a host name".to_owned(),
            Raw => "a definition in its own form".to_owned(),
        }
    }
}

/// A global parameter.
#[derive(Clone, Copy, Debug)]
pub struct GlobalSpec {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub ty: GlobalType,
    /// Which dialect has it.
    pub since: Since,
    /// Whether `use_auto_scaling_profile NAME` may follow the number.
    pub is_scalable: bool,
    /// A name that is refused everywhere: what to do instead.
    pub refused: Option<&'static str>,
}

pub(super) const TOS_WORDS: &[&str] = &["IPTOS_LOWDELAY", "IPTOS_THROUGHPUT", "IPTOS_RELIABILITY", "IPTOS_MINCOST"];

const COUNT: GlobalType = Int(0, i32::MAX);
const POSITIVE: GlobalType = Int(1, i32::MAX);
const SIGNED: GlobalType = Int(i32::MIN, i32::MAX);
const PERCENT: GlobalType = Int(0, 100);

const fn row(name: &'static str, ty: GlobalType, since: Since) -> GlobalSpec {
    GlobalSpec { name, ty, since, is_scalable: false, refused: None }
}

const fn scalable(name: &'static str, since: Since) -> GlobalSpec {
    GlobalSpec { name, ty: COUNT, since, is_scalable: true, refused: None }
}

const fn refused(name: &'static str, instead: &'static str) -> GlobalSpec {
    GlobalSpec { name, ty: SIGNED, since: V2_4, is_scalable: false, refused: Some(instead) }
}

static TABLE: &[GlobalSpec] = &[
    row("socket", Socket, V4_0),
    row("listen", Socket, V2_4),
    row("alias", Alias, Both),
    row("auto_aliases", Bool, Both),
    row("advertised_address", Text, Both),
    row("advertised_port", Int(1, 65_535), Both),
    row("mhomed", Bool, Both),
    row("tos", Tos, Both),
    row("mcast_loopback", Bool, Both),
    row("mcast_ttl", Int(0, 255), Both),
    row("poll_method", Word, Both),
    scalable("udp_workers", V4_0),
    scalable("children", V2_4),
    scalable("tcp_workers", V4_0),
    scalable("tcp_children", V2_4),
    scalable("timer_workers", V4_0),
    row("tcp_threads", POSITIVE, V4_0),
    row("auto_scaling_profile", Raw, V4_0),
    row("auto_scaling_cycle", COUNT, V4_0),
    row("debug_mode", Bool, Both),
    row("max_while_loops", COUNT, Both),
    row("maxbuffer", COUNT, Both),
    row("open_files_limit", COUNT, Both),
    row("disable_core_dump", Bool, Both),
    row("chroot", Text, Both),
    row("wdir", Text, Both),
    row("workdir", Text, Both),
    row("shm_hash_split_percentage", COUNT, Both),
    row("shm_secondary_hash_size", COUNT, Both),
    row("mem_warming", Bool, Both),
    row("mem_warming_enabled", Bool, Both),
    row("mem_warming_pattern_file", Text, Both),
    row("mem_warming_percentage", COUNT, Both),
    row("memlog", SIGNED, Both),
    row("mem_log", SIGNED, Both),
    row("memdump", SIGNED, Both),
    row("mem_dump", SIGNED, Both),
    row("shm_memlog_size", COUNT, V4_0),
    row("mem-group", Raw, Both),
    row("restart_persistency_cache_file", Text, V4_0),
    row("restart_persistency_size", COUNT, V4_0),
    row("execmsgthreshold", COUNT, Both),
    row("exec_msg_threshold", COUNT, Both),
    row("execdnsthreshold", COUNT, Both),
    row("exec_dns_threshold", COUNT, Both),
    row("tcpthreshold", COUNT, Both),
    row("tcp_threshold", COUNT, Both),
    row("event_shm_threshold", PERCENT, Both),
    row("event_pkg_threshold", PERCENT, Both),
    row("query_buffer_size", COUNT, Both),
    row("query_flush_time", COUNT, Both),
    row("db_version_table", Text, Both),
    row("db_default_url", Text, Both),
    row("db_max_async_connections", COUNT, Both),
    row("pv_print_buf_size", COUNT, V4_0),
    row("log_level", SIGNED, Both),
    row("log_stderror", Bool, V2_4),
    row("log_facility", Word, V2_4),
    row("syslog_facility", Word, V4_0),
    row("log_name", Text, V2_4),
    row("syslog_name", Text, V4_0),
    row("stderror_enabled", Bool, V4_0),
    row("syslog_enabled", Bool, V4_0),
    row("stderror_level_filter", SIGNED, V4_0),
    row("syslog_level_filter", SIGNED, V4_0),
    row("log_event_level_filter", SIGNED, V4_0),
    row("stderror_log_format", Text, V4_0),
    row("syslog_log_format", Text, V4_0),
    row("log_event_enabled", Bool, V4_0),
    row("log_json_buf_size", COUNT, V4_0),
    row("log_msg_buf_size", COUNT, V4_0),
    row("log_prefix", Text, V4_0),
    row("log_stdout", Bool, V4_0),
    row("xlog_level", SIGNED, V4_0),
    row("xlog_print_level", SIGNED, V4_0),
    row("xlog_default_level", SIGNED, V2_4),
    row("xlog_buf_size", COUNT, Both),
    row("xlog_force_color", Bool, Both),
    row("enable_asserts", Bool, Both),
    row("abort_on_assert", Bool, Both),
    row("dns", Bool, Both),
    row("rev_dns", Bool, Both),
    row("dns_try_ipv6", Bool, Both),
    row("dns_try_naptr", Bool, Both),
    row("dns_retr_time", COUNT, Both),
    row("dns_retr_no", COUNT, Both),
    row("dns_servers_no", COUNT, Both),
    row("dns_use_search_list", Bool, Both),
    row("disable_dns_failover", Bool, Both),
    row("disable_dns_blacklist", Bool, Both),
    row("dst_blacklist", Raw, Both),
    row("check_via", Bool, Both),
    row("sip_warning", Bool, Both),
    row("server_signature", Bool, Both),
    row("server_header", Text, Both),
    row("user_agent_header", Text, Both),
    row("disable_stateless_fwd", Bool, Both),
    row("disable_503_translation", Bool, Both),
    row("tcp_accept_aliases", Int(0, 2), Both),
    row("tcp_connect_timeout", POSITIVE, Both),
    row("tcp_connection_lifetime", COUNT, Both),
    row("tcp_socket_backlog", COUNT, V4_0),
    row("tcp_listen_backlog", COUNT, V2_4),
    row("tcp_max_connections", COUNT, Both),
    row("tcp_max_msg_time", COUNT, Both),
    row("tcp_no_new_conn_bflag", Flag, Both),
    row("tcp_no_new_conn_rplflag", Flag, V4_0),
    row("tcp_keepalive", Bool, Both),
    row("tcp_keepcount", COUNT, Both),
    row("tcp_keepidle", COUNT, Both),
    row("tcp_keepinterval", COUNT, Both),
    row("mpath", Text, Both),
    refused("debug", "use `log_level`"),
    refused("fork", "use `debug_mode`"),
    refused(
        "port",
        "write the port behind the address: `listen=udp:ADDRESS:PORT`, in 3.x and 4.0 `socket=udp:ADDRESS:PORT`",
    ),
    refused(
        "disable_tcp",
        "remove the line: TCP is spoken on the `tcp:` listeners alone, with `loadmodule \"proto_tcp.so\"`",
    ),
    refused("disable_tls", "remove the line: TLS is spoken on the `tls:` listeners alone"),
    refused("tls_method", TLS),
    refused("tls_certificate", TLS),
    refused("tls_private_key", TLS),
    refused("tls_ca_list", TLS),
    refused("tls_ciphers_list", TLS),
    refused("tls_verify_client", TLS),
    refused("tls_verify_server", TLS),
    refused("tls_require_certificate", TLS),
    refused("tls_require_client_certificate", TLS),
    refused("tls_handshake_timeout", TLS),
    refused("tls_send_timeout", TLS),
    refused("tcp_send_timeout", "remove the line: writing never waits here"),
    refused("tcp_poll_method", "use `poll_method`"),
    refused("user", "start with `-u USER`"),
    refused("group", "start with `-g GROUP`"),
    refused("avp_aliases", "write the AVP names themselves: `$avp(name)`"),
    refused("reply_to_via", "remove the line: replies go where the Via says"),
    refused("syn_branch", "remove the line"),
];

const TLS: &str = "set it at module tls_mgm: modparam(\"tls_mgm\", ...)";

/// The parameter of that name.
pub fn find(name: &str) -> Option<&'static GlobalSpec> {
    TABLE.iter().find(|spec| spec.name == name)
}

/// All names that can be written.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|spec| spec.refused.is_none()).map(|spec| spec.name)
}
