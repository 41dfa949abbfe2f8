//! Global parameters (specification §12): names, types, defaults, and their values in a script. It starts nothing and opens nothing.

mod blacklist;
mod table;

pub use blacklist::{
    BLACKLIST_RULES_MAX, BLACKLISTS_MAX, BlacklistDef, BlacklistFlags, BlacklistRule, parse_blacklist,
    parse_blacklist_rule,
};
pub use table::{GlobalSpec, GlobalType, Since, find, names};

use hashbrown::HashMap;

use crate::ast::{AliasDef, Dialect, Global, GlobalValue, Item, Script, SocketDef, Span, Spanned};
use crate::diagnostic::Diagnostic;
use crate::names::nearest;

/// Values of the global parameters, defaults filled in by dialect. Those without a field of their own are in `others`.
#[derive(Clone, Debug)]
pub struct Globals {
    /// Listeners, in order.
    pub sockets: Vec<Spanned<SocketDef>>,
    /// Bonds of sockets as written (`name { ... }`).
    pub bonds: Vec<String>,
    /// Further names of this server.
    pub aliases: Vec<AliasDef>,
    /// Directories of modules, as written.
    pub module_paths: Vec<String>,
    /// Destination blacklists.
    pub blacklists: Vec<BlacklistDef>,
    /// Auto-scaling profiles as written.
    pub scaling_profiles: Vec<String>,
    /// Address for Via and Record-Route.
    pub advertised_address: Option<String>,
    /// Port for Via and Record-Route.
    pub advertised_port: Option<u16>,
    /// Whether the script is known to be older than 4.0: it is in the 2.4 dialect, or has a parameter that 4.0 has no more.
    pub predates_v4_0: bool,
    /// Add reverse-DNS names of the sockets as aliases (2.4: default yes).
    pub auto_aliases: bool,
    /// Pick the outgoing interface by routing table.
    pub mhomed: bool,
    /// Workers per UDP socket.
    pub udp_workers: u32,
    /// Stream workers.
    pub tcp_workers: u32,
    /// Timer workers.
    pub timer_workers: u32,
    /// Rounds of a `while` loop.
    pub max_while_loops: u32,
    /// Run in the foreground, log at DBG to stderr.
    pub debug_mode: bool,
    /// Log threshold, -3 (ALERT) to 4 (DBG).
    pub log_level: i32,
    /// Log to stderr.
    pub stderror_enabled: bool,
    /// Log to syslog.
    pub syslog_enabled: bool,
    /// Thresholds of single consumers, when set: stderr, syslog.
    pub stderror_level_filter: Option<i32>,
    /// Threshold of syslog, when set.
    pub syslog_level_filter: Option<i32>,
    /// `plain_text`, `json` or `json_cee`.
    pub stderror_log_format: String,
    /// `plain_text`, `json` or `json_cee`.
    pub syslog_log_format: String,
    /// `LOG_DAEMON`, `LOG_LOCAL0`, ...
    pub syslog_facility: String,
    /// Program name in syslog.
    pub syslog_name: Option<String>,
    /// Text before each log line.
    pub log_prefix: String,
    /// xlog threshold (4.0).
    pub xlog_level: i32,
    /// Level of an xlog without level: 4.0 `xlog_print_level` (2), 2.4 `xlog_default_level` (-1).
    pub xlog_print_level: i32,
    /// Longest xlog text in bytes.
    pub xlog_buf_size: u32,
    /// Whether `$C` gives colours.
    pub xlog_force_color: bool,
    /// Run `assert`.
    pub enable_asserts: bool,
    /// Let a failed `assert` end the process.
    pub abort_on_assert: bool,
    /// Longest expanded format in bytes.
    pub pv_print_buf_size: u32,
    /// Drop replies whose top Via is not ours.
    pub check_via: bool,
    /// Add a Server header to local replies.
    pub server_signature: bool,
    /// Whole `Server:` header line.
    pub server_header: Option<String>,
    /// Whole `User-Agent:` header line.
    pub user_agent_header: Option<String>,
    /// Add a Warning header to local replies.
    pub sip_warning: bool,
    /// Refuse `forward()`.
    pub disable_stateless_fwd: bool,
    /// Pass 503 on instead of turning it into 500.
    pub disable_503_translation: bool,
    /// Do not try the next address when one fails.
    pub disable_dns_failover: bool,
    /// Do not blacklist addresses that fail.
    pub disable_dns_blacklist: bool,
    /// Try AAAA records.
    pub dns_try_ipv6: bool,
    /// Try NAPTR records.
    pub dns_try_naptr: bool,
    /// 0 never, 1 on request, 2 always.
    pub tcp_accept_aliases: u8,
    /// Milliseconds to connect.
    pub tcp_connect_timeout_ms: u32,
    /// Seconds an idle connection lives.
    pub tcp_connection_lifetime_secs: u32,
    /// Pending connections per listener.
    pub tcp_socket_backlog: u32,
    /// Connections in all.
    pub tcp_connections_max: u32,
    /// `maxbuffer`: receive and send buffer of UDP sockets in bytes; the default of the network when `None`.
    pub udp_buffer_bytes: Option<u32>,
    /// Seconds for a whole message.
    pub tcp_max_msg_time_secs: u32,
    /// Branch flag that forbids new connections.
    pub tcp_no_new_conn_bflag: Option<String>,
    /// Message flag that forbids new connections for replies.
    pub tcp_no_new_conn_rplflag: Option<String>,
    /// URL for modules whose own is unset.
    pub db_default_url: Option<String>,
    /// Table with the versions of the others.
    pub db_version_table: String,
    /// Working directory.
    pub workdir: Option<String>,
    /// New root directory.
    pub chroot: Option<String>,
    /// Everything else that was set, by its name.
    pub others: HashMap<String, GlobalValue>,
}

impl Globals {
    /// A number of [`Globals::others`]; `None` when it was not set or is negative.
    pub fn number(&self, name: &str) -> Option<u32> {
        match self.others.get(name)? {
            GlobalValue::Int(int) => u32::try_from(*int).ok(),
            _ => None,
        }
    }

    /// The defaults of a dialect.
    pub fn defaults(dialect: Dialect) -> Globals {
        let is_old = dialect == Dialect::V2_4;
        Globals {
            sockets: Vec::new(),
            bonds: Vec::new(),
            aliases: Vec::new(),
            module_paths: Vec::new(),
            blacklists: Vec::new(),
            scaling_profiles: Vec::new(),
            advertised_address: None,
            advertised_port: None,
            predates_v4_0: is_old,
            auto_aliases: is_old,
            mhomed: false,
            udp_workers: 8,
            tcp_workers: 8,
            timer_workers: 1,
            max_while_loops: if is_old { 100 } else { 10_000 },
            debug_mode: false,
            log_level: 2,
            stderror_enabled: true,
            syslog_enabled: false,
            stderror_level_filter: None,
            syslog_level_filter: None,
            stderror_log_format: "plain_text".to_owned(),
            syslog_log_format: "plain_text".to_owned(),
            syslog_facility: "LOG_DAEMON".to_owned(),
            syslog_name: None,
            log_prefix: String::new(),
            xlog_level: 2,
            xlog_print_level: if is_old { -1 } else { 2 },
            xlog_buf_size: 4096,
            xlog_force_color: false,
            enable_asserts: false,
            abort_on_assert: false,
            pv_print_buf_size: 20_000,
            check_via: false,
            server_signature: true,
            server_header: None,
            user_agent_header: None,
            sip_warning: false,
            disable_stateless_fwd: false,
            disable_503_translation: false,
            disable_dns_failover: false,
            disable_dns_blacklist: true,
            dns_try_ipv6: false,
            dns_try_naptr: true,
            tcp_accept_aliases: 0,
            tcp_connect_timeout_ms: 100,
            tcp_connection_lifetime_secs: 120,
            tcp_socket_backlog: 10,
            tcp_connections_max: 2048,
            udp_buffer_bytes: None,
            tcp_max_msg_time_secs: 4,
            tcp_no_new_conn_bflag: None,
            tcp_no_new_conn_rplflag: None,
            db_default_url: None,
            db_version_table: "version".to_owned(),
            workdir: None,
            chroot: None,
            others: HashMap::new(),
        }
    }
}

/// Reads the global parameters of a script. Unknown names and wrong types are errors; renamed ones are noted.
pub fn evaluate(script: &Script, dialect: Dialect) -> (Globals, Vec<Diagnostic>) {
    let mut globals = Globals::defaults(dialect);
    let mut diagnostics = Vec::new();
    for item in &script.items {
        let Item::Global(global) = item else { continue };
        if let Err(diagnostic) = set(&mut globals, global, &mut diagnostics) {
            diagnostics.push(*diagnostic);
        }
    }
    (globals, diagnostics)
}

fn set(globals: &mut Globals, global: &Global, notes: &mut Vec<Diagnostic>) -> Result<(), Box<Diagnostic>> {
    let name = global.name.node.as_str();
    let span = global.name.span;
    let Some(spec) = find(name) else { return Err(Box::new(unknown(name, span))) };
    if let Some(instead) = spec.refused {
        let error =
            Diagnostic::error("obsolete-parameter", span, format!("the parameter `{name}` is gone since before 2.4"));
        return Err(Box::new(error.with_suggestion(instead)));
    }
    match spec.since {
        Since::V2_4 => {
            globals.predates_v4_0 = true;
            notes.push(Diagnostic::only(Dialect::V2_4, span, format!("the parameter `{name}` is gone in 4.0")))
        }
        Since::V4_0 => {
            notes.push(Diagnostic::only(Dialect::V4_0, span, format!("the parameter `{name}` is newer than 2.4")))
        }
        Since::Both => {}
    }
    match (spec.ty, &global.value) {
        (GlobalType::Socket, GlobalValue::Socket(socket)) => {
            globals.sockets.push(Spanned { node: socket.clone(), span: global.span });
        }
        (GlobalType::Socket, GlobalValue::Raw(bond)) => globals.bonds.push(bond.clone()),
        (GlobalType::Alias, GlobalValue::Alias(alias)) => globals.aliases.push(alias.clone()),
        (GlobalType::Raw, GlobalValue::Raw(raw)) if name == "dst_blacklist" => {
            add_blacklist(globals, raw).map_err(|reason| Diagnostic::error("bad-blacklist", global.span, reason))?;
        }
        (GlobalType::Raw, GlobalValue::Raw(raw)) => set_raw(globals, name, raw),
        (GlobalType::Bool, GlobalValue::Int(value)) => set_bool(globals, name, *value != 0),
        (GlobalType::Int(min, max), GlobalValue::Int(value)) => {
            if !(min..=max).contains(value) {
                let error =
                    Diagnostic::error("parameter-range", global.span, format!("`{name}` must be from {min} to {max}"));
                return Err(Box::new(error));
            }
            set_int(globals, name, *value);
        }
        (GlobalType::Int(..), GlobalValue::Scaled(value, profile)) if spec.is_scalable => {
            set_int(globals, name, *value);
            globals.others.insert(format!("{name}.profile"), GlobalValue::Text(profile.clone().into_bytes()));
        }
        (GlobalType::Text, GlobalValue::Text(text)) => {
            set_text(globals, name, String::from_utf8_lossy(text).into_owned())
        }
        (GlobalType::Word, GlobalValue::Word(word)) => set_text(globals, name, word.clone()),
        (GlobalType::Word, GlobalValue::Text(text)) => {
            set_text(globals, name, String::from_utf8_lossy(text).into_owned())
        }
        (GlobalType::Tos, GlobalValue::Int(_)) => insert_other(globals, name, &global.value),
        (GlobalType::Tos, GlobalValue::Word(word)) if table::TOS_WORDS.contains(&word.as_str()) => {
            insert_other(globals, name, &global.value);
        }
        (GlobalType::Flag, GlobalValue::Word(flag)) => set_text(globals, name, flag.clone()),
        (GlobalType::Flag, GlobalValue::Int(flag)) => {
            notes.push(Diagnostic::only(Dialect::V2_4, global.span, "a flag named by a number"));
            set_text(globals, name, flag.to_string());
        }
        (ty, value) => return Err(Box::new(wrong_type(name, ty, value, global.span))),
    }
    if name == "mpath" && matches!(&global.value, GlobalValue::Text(text) if text.is_empty()) {
        return Err(Box::new(Diagnostic::error("parameter-type", global.span, "`mpath` must not be empty")));
    }
    Ok(())
}

fn unknown(name: &str, span: Span) -> Diagnostic {
    let error = Diagnostic::error("unknown-parameter", span, format!("there is no global parameter `{name}`"));
    error.with_nearest(nearest(name, names()))
}

fn wrong_type(name: &str, ty: GlobalType, value: &GlobalValue, span: Span) -> Diagnostic {
    let error = Diagnostic::error("parameter-type", span, format!("`{name}` takes {}", ty.describe()));
    match (ty, value) {
        (GlobalType::Bool, GlobalValue::Word(word)) => {
            let words = ["yes", "no", "true", "false", "on", "off", "enable", "disable"];
            let lower = word.to_ascii_lowercase();
            let meant = words.into_iter().find(|known| *known == lower).or_else(|| nearest(word, words));
            error.with_nearest(meant)
        }
        (GlobalType::Text, GlobalValue::Word(word)) => error.with_suggestion(format!("write `{name}=\"{word}\"`")),
        (GlobalType::Int(..), GlobalValue::Text(text)) if text.iter().all(u8::is_ascii_digit) => {
            error.with_suggestion(format!("write `{name}={}`", String::from_utf8_lossy(text)))
        }
        _ => error,
    }
}

fn insert_other(globals: &mut Globals, name: &str, value: &GlobalValue) {
    globals.others.insert(name.to_owned(), value.clone());
}

fn add_blacklist(globals: &mut Globals, raw: &str) -> Result<(), String> {
    let list = parse_blacklist(raw)?;
    if globals.blacklists.iter().any(|known| known.name == list.name) {
        return Err(format!("there is a blacklist `{}` already", list.name));
    }
    if globals.blacklists.len() >= BLACKLISTS_MAX {
        return Err(format!("more than {BLACKLISTS_MAX} blacklists"));
    }
    globals.blacklists.push(list);
    Ok(())
}

fn set_raw(globals: &mut Globals, name: &str, raw: &str) {
    match name {
        "auto_scaling_profile" => globals.scaling_profiles.push(raw.to_owned()),
        _ => insert_other(globals, name, &GlobalValue::Raw(raw.to_owned())),
    }
}

fn set_bool(globals: &mut Globals, name: &str, value: bool) {
    let field = match name {
        "auto_aliases" => &mut globals.auto_aliases,
        "mhomed" => &mut globals.mhomed,
        "debug_mode" => &mut globals.debug_mode,
        "stderror_enabled" => &mut globals.stderror_enabled,
        "syslog_enabled" => &mut globals.syslog_enabled,
        "log_stderror" => {
            globals.stderror_enabled = value;
            globals.syslog_enabled = !value;
            return;
        }
        "xlog_force_color" => &mut globals.xlog_force_color,
        "enable_asserts" => &mut globals.enable_asserts,
        "abort_on_assert" => &mut globals.abort_on_assert,
        "check_via" => &mut globals.check_via,
        "server_signature" => &mut globals.server_signature,
        "sip_warning" => &mut globals.sip_warning,
        "disable_stateless_fwd" => &mut globals.disable_stateless_fwd,
        "disable_503_translation" => &mut globals.disable_503_translation,
        "disable_dns_failover" => &mut globals.disable_dns_failover,
        "disable_dns_blacklist" => &mut globals.disable_dns_blacklist,
        "dns_try_ipv6" => &mut globals.dns_try_ipv6,
        "dns_try_naptr" => &mut globals.dns_try_naptr,
        _ => return insert_other(globals, name, &GlobalValue::Int(i32::from(value))),
    };
    *field = value;
}

fn set_int(globals: &mut Globals, name: &str, value: i32) {
    let count = u32::try_from(value).unwrap_or(0);
    let field = match name {
        "udp_workers" | "children" => &mut globals.udp_workers,
        "tcp_workers" | "tcp_children" => &mut globals.tcp_workers,
        "timer_workers" => &mut globals.timer_workers,
        "max_while_loops" => &mut globals.max_while_loops,
        "xlog_buf_size" => &mut globals.xlog_buf_size,
        "pv_print_buf_size" => &mut globals.pv_print_buf_size,
        "tcp_connect_timeout" => &mut globals.tcp_connect_timeout_ms,
        "tcp_connection_lifetime" => &mut globals.tcp_connection_lifetime_secs,
        "tcp_socket_backlog" | "tcp_listen_backlog" => &mut globals.tcp_socket_backlog,
        "tcp_max_connections" => &mut globals.tcp_connections_max,
        "tcp_max_msg_time" => &mut globals.tcp_max_msg_time_secs,
        "tcp_accept_aliases" => return globals.tcp_accept_aliases = u8::try_from(value).unwrap_or(0),
        "maxbuffer" => return globals.udp_buffer_bytes = Some(count),
        "advertised_port" => return globals.advertised_port = u16::try_from(value).ok(),
        "log_level" => return globals.log_level = value,
        "xlog_level" => return globals.xlog_level = value,
        "xlog_print_level" | "xlog_default_level" => return globals.xlog_print_level = value,
        "stderror_level_filter" => return globals.stderror_level_filter = Some(value),
        "syslog_level_filter" => return globals.syslog_level_filter = Some(value),
        _ => return insert_other(globals, name, &GlobalValue::Int(value)),
    };
    *field = count;
}

fn set_text(globals: &mut Globals, name: &str, value: String) {
    match name {
        "advertised_address" => globals.advertised_address = Some(value),
        "mpath" => globals.module_paths.extend(value.split(':').map(str::to_owned)),
        "stderror_log_format" => globals.stderror_log_format = value,
        "syslog_log_format" => globals.syslog_log_format = value,
        "syslog_facility" | "log_facility" => globals.syslog_facility = value,
        "syslog_name" | "log_name" => globals.syslog_name = Some(value),
        "log_prefix" => globals.log_prefix = value,
        "server_header" => globals.server_header = Some(value),
        "user_agent_header" => globals.user_agent_header = Some(value),
        "tcp_no_new_conn_bflag" => globals.tcp_no_new_conn_bflag = Some(value),
        "tcp_no_new_conn_rplflag" => globals.tcp_no_new_conn_rplflag = Some(value),
        "db_default_url" => globals.db_default_url = Some(value),
        "db_version_table" => globals.db_version_table = value,
        "wdir" | "workdir" => globals.workdir = Some(value),
        "chroot" => globals.chroot = Some(value),
        _ => insert_other(globals, name, &GlobalValue::Text(value.into_bytes())),
    }
}

#[cfg(test)]
mod tests;
