//! What OpenSIPS has: names of modules, parameters, functions and commands, as plain data, so that what is missing here
//! is reported as missing and not as unknown. No behaviour.

use std::sync::OnceLock;

use hashbrown::HashMap;

const TABLE: &str = include_str!("opensips-4.0.tsv");
/// Module, tab, its variables.
const VARIABLES: &str = include_str!("variables-4.0.tsv");

/// Module, tab, parameters, tab, functions.
const OTHER: &str = include_str!("opensips-other.tsv");

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

/// What releases from 2.4 on have, and the documentation of 4.0 does not name, in order of module.
fn others() -> &'static [KnownModule] {
    static ALL: OnceLock<Vec<KnownModule>> = OnceLock::new();
    ALL.get_or_init(|| OTHER.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect())
}

fn other(name: &str) -> Option<&'static KnownModule> {
    others().iter().find(|module| module.name == name)
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

/// Functions that a module of that name has in some release and that 4.0 does not name.
pub fn older_functions_of(module: &str) -> &'static [&'static str] {
    other(module).map_or(&[], |module| &module.functions)
}

/// The variables that a module of that name has in OpenSIPS 4.0.
pub fn variables_of(module: &str) -> impl Iterator<Item = &'static str> {
    let line = VARIABLES.lines().filter_map(|line| line.split_once('\t')).find(|(name, _)| *name == module);
    line.into_iter().flat_map(|(_, names)| names.split(','))
}

/// Whether OpenSIPS has or had such a module.
pub fn has_module(name: &str) -> bool {
    by_name().contains_key(name) || other(name).is_some()
}

/// Whether releases before 4.0 have a module of that name and 4.0 has not.
pub fn is_gone(name: &str) -> bool {
    other(name).is_some() && module(name).is_none()
}

/// Whether the module has such a parameter in some release.
pub fn has_param(module: &str, param: &str) -> bool {
    let releases = [self::module(module), other(module)];
    releases.into_iter().flatten().any(|module| module.params.contains(&param))
}

/// The modules that have a function of that name in some release.
pub fn modules_with_function(function: &str) -> Vec<&'static str> {
    let all = modules().iter().chain(others());
    all.filter(|module| module.functions.contains(&function)).map(|module| module.name).collect()
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
        assert!(super::has_param("dialog", "dlg_sharing_tag") && super::has_param("registrar", "pn_enable"));
        assert!(super::modules_with_function("uac_replace_to").contains(&"uac"));
        assert!(super::has_module("mi_xmlrpc_ng"));
        assert!(
            super::is_gone("avpops") && super::is_gone("uri") && !super::is_gone("dialog") && !super::is_gone("none")
        );
        assert!(super::older_functions_of("uri").contains(&"db_check_from"));
    }
}
