//! What OpenSIPS 4.0 has: names of modules, parameters, functions and commands, as plain data, so that what is missing here
//! is reported as missing and not as unknown. No behaviour.

use std::sync::OnceLock;

use hashbrown::HashMap;

const TABLE: &str = include_str!("opensips-4.0.tsv");
/// Module, tab, its variables.
const VARIABLES: &str = include_str!("variables-4.0.tsv");

/// Modules of older versions that scripts still load.
const OLDER: &[&str] = &[
    "avpops",
    "event_route",
    "uri",
    "siptrace",
    "mi_json",
    "seas",
    "sms",
    "event_jsonrpc",
    "mi_xmlrpc_ng",
    "xmpp",
    "textops",
    "event_routing",
    "memcached",
    "db_cachedb",
    "cachedb_cassandra",
    "mi_xmlrpc",
    "sip_i",
    "lua",
    "python",
    "sst",
];

/// Functions that releases before 4.0 have, by module.
const OLDER_FUNCTIONS: &[(&str, &[&str])] = &[
    ("uri", &["db_check_to", "db_check_from", "db_does_uri_exist", "db_get_auth_id", "aaa_does_uri_exist", "is_user"]),
    ("exec", &["exec_msg", "exec_avp", "exec_dset", "exec_getenv"]),
    ("siptrace", &["sip_trace", "trace_dialog"]),
    ("load_balancer", &["load_balance", "lb_next_dst", "lb_disable"]),
    ("carrierroute", &["cr_route", "cr_user_carrier", "cr_next_domain"]),
    ("registrar", &["registered"]),
    ("acc", &["acc_rad_request"]),
    ("seas", &["as_relay_t"]),
    ("rtpproxy", &["unforce_rtp_proxy", "force_rtp_proxy", "engage_rtp_proxy"]),
];

/// What is known of one module.
#[derive(Clone, Debug, Default)]
pub struct KnownModule {
    /// Its name.
    pub name: &'static str,
    /// Parameters.
    pub params: Vec<&'static str>,
    /// Functions.
    pub functions: Vec<&'static str>,
    /// Management commands.
    pub commands: Vec<&'static str>,
}

/// All modules of OpenSIPS 4.0, in order of name.
pub fn modules() -> &'static [KnownModule] {
    static ALL: OnceLock<Vec<KnownModule>> = OnceLock::new();
    ALL.get_or_init(|| TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect())
}

fn parse_line(line: &'static str) -> Option<KnownModule> {
    let mut fields = line.split('\t');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let mut list = || fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty()).collect::<Vec<_>>();
    Some(KnownModule { name, params: list(), functions: list(), commands: list() })
}

fn by_name() -> &'static HashMap<&'static str, &'static KnownModule> {
    static MAP: OnceLock<HashMap<&'static str, &'static KnownModule>> = OnceLock::new();
    MAP.get_or_init(|| modules().iter().map(|module| (module.name, module)).collect())
}

/// What OpenSIPS 4.0 has in a module of that name.
pub fn module(name: &str) -> Option<&'static KnownModule> {
    by_name().get(name).copied()
}

/// Functions that a module of that name has in releases before 4.0 and no more.
pub fn older_functions_of(module: &str) -> &'static [&'static str] {
    OLDER_FUNCTIONS.iter().find(|(name, _)| *name == module).map_or(&[], |(_, functions)| functions)
}

/// Whether OpenSIPS 4.0 has no such module, but older releases have: its parameters are not known here.
pub fn is_older(name: &str) -> bool {
    OLDER.contains(&name) && !by_name().contains_key(name)
}

/// The variables that a module of that name has in OpenSIPS 4.0.
pub fn variables_of(module: &str) -> impl Iterator<Item = &'static str> {
    let line = VARIABLES.lines().filter_map(|line| line.split_once('\t')).find(|(name, _)| *name == module);
    line.into_iter().flat_map(|(_, names)| names.split(','))
}

/// Whether OpenSIPS has or had such a module.
pub fn has_module(name: &str) -> bool {
    by_name().contains_key(name) || OLDER.contains(&name)
}

/// Whether the module has such a parameter there.
pub fn has_param(module: &str, param: &str) -> bool {
    by_name().get(module).is_some_and(|module| module.params.contains(&param))
}

/// The modules that have a function of that name there.
pub fn modules_with_function(function: &str) -> Vec<&'static str> {
    modules().iter().filter(|module| module.functions.contains(&function)).map(|module| module.name).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_knows_a_module_with_its_parameters_and_functions() {
        assert!(super::has_module("dispatcher"));
        assert!(super::has_param("tm", "fr_timeout"));
        assert!(super::modules_with_function("t_relay").contains(&"tm"));
        assert!(!super::has_module("no_such_module"));
        assert!(super::variables_of("rtpengine").any(|name| name == "rtpquery"));
        assert_eq!(super::variables_of("maxfwd").count(), 0);
        assert!(super::is_older("uri") && !super::is_older("tm"));
        assert!(super::older_functions_of("uri").contains(&"db_check_from"));
    }
}
