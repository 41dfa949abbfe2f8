//! Partitions as the script defines them. Nothing is opened here.

use std::sync::Arc;

use tandem_module::SetupError;
use tandem_module::declare::Setup;

use super::partitions::{Columns, Partition};

/// Partitions one script may have.
const PARTITIONS_MAX: usize = 64;

/// The default one when there is a URL for it, and those of `partition`.
pub(super) fn partitions(setup: &Setup<'_>) -> Result<Vec<Partition>, SetupError> {
    let params = setup.params;
    let columns = Arc::new(Columns([
        params.text_or("grp_col", "grp"),
        params.text_or("ip_col", "ip"),
        params.text_or("mask_col", "mask"),
        params.text_or("port_col", "port"),
        params.text_or("proto_col", "proto"),
        params.text_or("pattern_col", "pattern"),
        params.text_or("info_col", "context_info"),
    ]));
    let table = params.text_or("address_table", "address");
    let own_url = params.text("db_url").filter(|url| !url.is_empty());
    let mut all: Vec<Partition> = Vec::new();
    for (at, text) in params.all("partition").iter().enumerate() {
        let error = |text: String| SetupError::param_at("partition", at, text);
        let found = definition(text).map_err(error)?;
        let url = found.url.or_else(|| own_url.clone()).or_else(|| setup.settings.db_default_url.clone());
        let url = url.ok_or_else(|| error(format!("partition '{}' has no db_url", found.name)))?;
        if all.iter().any(|other| other.name == found.name) {
            return Err(error(format!("there is a partition '{}' already", found.name)));
        }
        let table = found.table.unwrap_or_else(|| table.clone());
        all.push(Partition::new(found.name, "partition", url, table, columns.clone()));
        if all.len() > PARTITIONS_MAX {
            return Err(error(format!("more than {PARTITIONS_MAX} partitions")));
        }
    }
    if let Some(url) = own_url
        && !all.iter().any(|other| other.name == "default")
    {
        all.insert(0, Partition::new("default".into(), "db_url", url, table, columns));
    }
    Ok(all)
}

#[derive(Debug, PartialEq, Eq)]
struct Definition {
    name: String,
    url: Option<String>,
    table: Option<String>,
}

/// `name: db_url = ...; table_name = ...`.
fn definition(text: &str) -> Result<Definition, String> {
    let (name, rest) = text.split_once(':').ok_or("expected name: db_url = ...; table_name = ...")?;
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("'{name}' is no name of a partition"));
    }
    let mut found = Definition { name: name.to_owned(), url: None, table: None };
    for item in rest.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("'{item}' has no ="))?;
        let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        match key.trim() {
            "db_url" => found.url = value,
            "table_name" => found.table = value,
            other => return Err(format!("unknown setting '{other}': db_url or table_name")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn definitions_name_url_and_table() {
        let found = definition("\n inbound:\n db_url = sqlite:///a;b=c ; table_name = address").unwrap_err();
        assert!(found.contains("unknown setting 'b'"));
        let found = definition("\n inbound:\n  db_url = postgres://u:p@h/d?x=1;\n table_name = address2 ;").unwrap();
        assert_eq!((found.name.as_str(), found.url.as_deref()), ("inbound", Some("postgres://u:p@h/d?x=1")));
        assert_eq!(found.table.as_deref(), Some("address2"));
        assert_eq!(definition("x:").unwrap(), Definition { name: "x".into(), url: None, table: None });
        for bad in ["x", ":", "x: table", "a b: table_name=x"] {
            assert!(definition(bad).is_err(), "{bad}");
        }
    }
}
