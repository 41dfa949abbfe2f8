//! Global parameters of the script that modules and the core read at run time. Evaluated elsewhere, plain data here.

use std::sync::atomic::{AtomicI32, Ordering};

use tandem_script::ast::Dialect;
use tandem_script::globals::{BlacklistDef, Globals};
use tandem_script::vm::LogLevel;

/// Global parameters (script-language specification §12) as far as they have an effect at run time.
#[derive(Debug)]
pub struct Settings {
    /// `log_level`; can be changed at run time.
    pub log_level: AtomicI32,
    /// `xlog_level`; can be changed at run time.
    pub xlog_level: AtomicI32,
    /// `xlog_print_level` (4.0) or `xlog_default_level` (2.4).
    pub xlog_default_level: LogLevel,
    /// `log_prefix`.
    pub log_prefix: String,
    /// `server_header`: the complete line without line end; `None` when `server_signature` is off.
    pub server_header: Option<String>,
    /// `user_agent_header`: the complete line without line end.
    pub user_agent_header: String,
    /// `enable_asserts`.
    pub asserts_enabled: bool,
    /// `abort_on_assert`: a failed assert ends the process.
    pub aborts_on_assert: bool,
    /// `xlog_force_color`: `$C(xy)` gives colours.
    pub has_colours: bool,
    /// `dst_blacklist`: the lists the script defines.
    pub blacklists: Vec<BlacklistDef>,
    /// `socket=bond:...`: names of bonds and the sockets in them, as written.
    pub bonds: Vec<(String, Vec<String>)>,
    /// `exec_msg_threshold`: a script that runs longer at a stretch, in microseconds, is complained about; 0 never.
    pub slow_run_micros: u32,
    /// `disable_503_translation`.
    pub translates_503: bool,
    /// `mhomed`.
    pub is_multihomed: bool,
    /// `tcp_accept_aliases`: 0 never, 1 on request, 2 always.
    pub accept_aliases: u8,
    /// `advertised_address` and `advertised_port`.
    pub advertised: (Option<String>, Option<u16>),
    /// Protocols of the listeners as the script writes them, in its order.
    pub protocols: Vec<String>,
    /// `db_default_url`.
    pub db_default_url: Option<String>,
    /// Whether the script is in the 2.4 dialect.
    pub is_v2_4: bool,
    /// Whether the script is known to be older than 4.0, which changed defaults of some modules: 2.4, or 3.x by its words.
    pub predates_v4_0: bool,
    /// Directory of the script: files that modules name without a full path are there. Empty for the working directory.
    pub script_dir: std::path::PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            log_level: AtomicI32::new(2),
            xlog_level: AtomicI32::new(2),
            xlog_default_level: LogLevel::Notice,
            log_prefix: String::new(),
            server_header: Some(concat!("Server: Tandem/", env!("CARGO_PKG_VERSION")).to_owned()),
            user_agent_header: concat!("User-Agent: Tandem/", env!("CARGO_PKG_VERSION")).to_owned(),
            asserts_enabled: false,
            aborts_on_assert: false,
            has_colours: false,
            slow_run_micros: 0,
            blacklists: Vec::new(),
            bonds: Vec::new(),
            translates_503: true,
            is_multihomed: false,
            accept_aliases: 0,
            advertised: (None, None),
            protocols: Vec::new(),
            db_default_url: None,
            is_v2_4: false,
            predates_v4_0: false,
            script_dir: std::path::PathBuf::new(),
        }
    }
}

/// A bond as written, `name { "udp:10.0.0.1:5060", ... }`, as its name and its sockets.
fn bond_of(text: &str) -> (String, Vec<String>) {
    let (name, sockets) = text.split_once('{').unwrap_or((text, ""));
    let trim = |text: &str| text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '}')).to_owned();
    (trim(name), sockets.split(',').map(trim).filter(|socket| !socket.is_empty()).collect())
}

impl Settings {
    /// What the global parameters of a script say.
    pub fn from_globals(globals: &Globals, dialect: Dialect) -> Settings {
        let defaults = Settings::default();
        let trimmed = |line: &String| line.trim_end_matches(['\r', '\n']).to_owned();
        let server = globals.server_header.as_ref().map(trimmed).or(defaults.server_header);
        Settings {
            log_level: AtomicI32::new(if globals.debug_mode { 4 } else { globals.log_level }),
            xlog_level: AtomicI32::new(globals.xlog_level),
            xlog_default_level: LogLevel::from_number(globals.xlog_print_level),
            log_prefix: globals.log_prefix.clone(),
            server_header: server.filter(|_| globals.server_signature),
            user_agent_header: globals.user_agent_header.as_ref().map_or(defaults.user_agent_header, trimmed),
            asserts_enabled: globals.enable_asserts,
            aborts_on_assert: globals.abort_on_assert,
            has_colours: globals.xlog_force_color,
            slow_run_micros: ["exec_msg_threshold", "execmsgthreshold"]
                .into_iter()
                .find_map(|name| globals.number(name))
                .unwrap_or(0),
            blacklists: globals.blacklists.clone(),
            bonds: globals.bonds.iter().map(|bond| bond_of(bond)).collect(),
            translates_503: !globals.disable_503_translation,
            is_multihomed: globals.mhomed,
            accept_aliases: globals.tcp_accept_aliases,
            advertised: (globals.advertised_address.clone(), globals.advertised_port),
            protocols: globals.sockets.iter().map(|socket| socket.node.proto.clone()).collect(),
            db_default_url: globals.db_default_url.clone(),
            is_v2_4: dialect == Dialect::V2_4,
            predates_v4_0: globals.predates_v4_0,
            script_dir: std::path::PathBuf::new(),
        }
    }

    /// Whether `xlog` lines of that level are printed. 2.4 compares with `log_level`, later versions with `xlog_level`.
    pub fn wants_xlog(&self, level: LogLevel) -> bool {
        let threshold = if self.is_v2_4 { &self.log_level } else { &self.xlog_level };
        level as i32 <= threshold.load(Ordering::Relaxed)
    }

    /// Whether log lines of that level are printed.
    pub fn wants_log(&self, level: LogLevel) -> bool {
        level as i32 <= self.log_level.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_is_a_name_and_its_sockets() {
        let wanted = ("b1".to_owned(), vec!["udp:10.0.0.1:5060".to_owned(), "tcp:10.0.0.2".to_owned()]);
        assert_eq!(bond_of("b1 { \"udp:10.0.0.1:5060\", 'tcp:10.0.0.2' }"), wanted);
        assert_eq!(bond_of("b2").1.len(), 0);
    }
}
