//! Blacklists of gateways (`define_blacklist`): the addresses of all gateways of some types, kept as the tables are read.
//! How lists are used is in `core` (use_blacklist()).

use tandem_module::context::write_log;
use tandem_module::{NodeRef, SetupError};
use tandem_script::globals::{BlacklistDef, BlacklistFlags, BlacklistRule, parse_blacklist_rule};
use tandem_script::vm::LogLevel;

use super::Drouting;
use super::partition::Partition;

/// Types of one list.
const TYPES_MAX: usize = 256;

/// A list as the script defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GatewayList {
    /// `None` without partitions.
    partition: Option<String>,
    name: String,
    types: Vec<i32>,
}

impl GatewayList {
    fn parse(text: &str, uses_partitions: bool) -> Result<GatewayList, String> {
        let (name, types) = text.split_once('=').ok_or("expected a name and types of gateways: name = 3, 5")?;
        let (partition, name) = match name.split_once(':') {
            Some((partition, name)) => (Some(partition.trim().to_owned()), name.trim()),
            None => (None, name.trim()),
        };
        if name.is_empty() {
            return Err("the list has no name: write name = 3, 5".into());
        }
        match &partition {
            Some(partition) if !uses_partitions => {
                return Err(format!("'{partition}:' names a partition, and use_partitions is not set"));
            }
            None if uses_partitions => return Err(format!("with use_partitions write partition:{name} = ...")),
            _ => {}
        }
        let items = types.split([',', ';']).map(str::trim).filter(|item| !item.is_empty());
        let types = items
            .map(|item| item.parse().map_err(|_| format!("'{item}' is no type of gateways, which is a number")))
            .collect::<Result<Vec<i32>, String>>()?;
        if types.is_empty() || types.len() > TYPES_MAX {
            return Err(format!("a list is made of 1 to {TYPES_MAX} types"));
        }
        Ok(GatewayList { partition, name: name.to_owned(), types })
    }
}

/// The lists of all `define_blacklist` lines.
pub(super) fn read(lines: &[String], uses_partitions: bool) -> Result<Vec<GatewayList>, SetupError> {
    let lists = lines.iter().enumerate().map(|(at, line)| {
        GatewayList::parse(line, uses_partitions)
            .map_err(|error| SetupError::param_at("define_blacklist", at, format!("'{line}': {error}")))
    });
    lists.collect()
}

/// Makes the lists known, empty.
pub(super) fn define(node: NodeRef, own: &Drouting) -> Result<(), SetupError> {
    for (at, list) in own.config.blacklists.iter().enumerate() {
        let flags = BlacklistFlags { is_read_only: true, ..BlacklistFlags::default() };
        let def = BlacklistDef { name: list.name.clone(), flags, rules: Vec::new() };
        node.blacklists
            .define("drouting", def)
            .map_err(|error| SetupError::param_at("define_blacklist", at, format!("'{}': {error}", list.name)))?;
    }
    Ok(())
}

/// Fills the lists of a partition from its tables.
pub(super) fn fill(node: NodeRef, own: &Drouting, partition: &Partition) {
    let Some(tables) = partition.tables() else { return };
    for list in &own.config.blacklists {
        if list.partition.as_ref().is_some_and(|name| *name != partition.name) {
            continue;
        }
        let gateways = tables.gateways.iter().filter(|gateway| list.types.contains(&gateway.kind));
        let mut rules: Vec<BlacklistRule> = Vec::new();
        let addresses: std::collections::BTreeSet<_> = gateways.flat_map(|gateway| gateway.ips.iter()).collect();
        rules.extend(addresses.iter().filter_map(|ip| parse_blacklist_rule(&ip.to_string()).ok()));
        let Some((_, known)) = node.blacklists.find(&list.name) else { continue };
        if let Err(error) = known.replace(rules) {
            let text = format!("drouting: blacklist '{}' stays as it was: {error}", list.name);
            write_log(LogLevel::Error, &text);
        }
    }
}

/// Tells of lists whose partition there is not.
pub(super) fn check(own: &Drouting) {
    for list in &own.config.blacklists {
        let Some(name) = &list.partition else { continue };
        if own.partition(name.as_bytes()).is_none() {
            let text = format!(
                "drouting: define_blacklist: there is no partition '{name}', blacklist '{}' is empty; partitions are rows of {}",
                list.name, own.config.partitions_table
            );
            write_log(LogLevel::Warning, &text);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_wrong_ones_refused() {
        let list = GatewayList::parse(" list= 4,2 ", false).unwrap();
        assert_eq!(list, GatewayList { partition: None, name: "list".into(), types: vec![4, 2] });
        let list = GatewayList::parse("pstn:list2 = 5", true).unwrap();
        assert_eq!((list.partition.as_deref(), list.name.as_str()), (Some("pstn"), "list2"));
        for (text, uses_partitions, told) in [
            ("list", false, "name = 3"),
            ("= 3", false, "no name"),
            ("list = ", false, "1 to"),
            ("list = a", false, "'a'"),
            ("pstn:list = 3", false, "use_partitions"),
            ("list = 3", true, "partition:list"),
        ] {
            let error = GatewayList::parse(text, uses_partitions).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
