//! `my_node_info` and `neighbor_node_info`: comma-separated `name=value` lists. Knows no database.

use thiserror::Error;

use crate::config::NodeConfig;
use crate::ids::{ClusterId, NodeId};
use crate::url::{BinUrl, UrlError};

/// Why a node info string cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NodeInfoError {
    /// A part is not `name=value`.
    #[error("`{0}` is not name=value")]
    NotAPair(String),
    /// A name no property has.
    #[error(
        "unknown property `{0}`: cluster_id, node_id, url, sip_addr, priority, no_ping_retries, flags, description, state"
    )]
    UnknownProperty(String),
    /// A property must be given and is not.
    #[error("property `{0}` is missing")]
    Missing(&'static str),
    /// A property must be a number in its range and is not.
    #[error("`{0}={1}` is not a number in the allowed range")]
    Number(&'static str, String),
    /// The URL is not one.
    #[error("url: {0}")]
    Url(#[from] UrlError),
}

fn number(name: &'static str, value: &str, least: i32) -> Result<i32, NodeInfoError> {
    let parsed = value.parse::<i32>().ok().filter(|number| *number >= least);
    parsed.ok_or_else(|| NodeInfoError::Number(name, value.to_owned()))
}

/// Parses a node info string. `own_id` is taken when the text has no `node_id` (`my_node_info`).
///
/// Values are trimmed; names are matched whole (OpenSIPS searches them as a substring anywhere, so
/// a value holding a property name confuses it; here such a value is fine). Names are those of the
/// `_col` parameters at their defaults.
pub fn parse_node_info(text: &str, own_id: Option<NodeId>) -> Result<(ClusterId, NodeConfig), NodeInfoError> {
    let mut cluster = None;
    let mut node = own_id;
    let mut url = None;
    let mut record = Properties::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| NodeInfoError::NotAPair(part.to_owned()))?;
        let value = value.trim();
        match name.trim() {
            "cluster_id" => cluster = Some(ClusterId(number("cluster_id", value, 1)?)),
            "node_id" => node = Some(NodeId(number("node_id", value, 1)?)),
            "url" => url = Some(value.parse::<BinUrl>()?),
            "sip_addr" => record.sip_addr = value.to_owned(),
            "priority" => record.priority = Some(number("priority", value, i32::MIN)?),
            "no_ping_retries" => record.retries = Some(number("no_ping_retries", value, 0)?),
            "flags" => record.is_seed = value.starts_with("seed"),
            "description" => record.description = Some(value.to_owned()),
            "state" => record.is_disabled = number("state", value, 0)? == 0,
            other => return Err(NodeInfoError::UnknownProperty(other.to_owned())),
        }
    }
    let cluster = cluster.ok_or(NodeInfoError::Missing("cluster_id"))?;
    let node = node.ok_or(NodeInfoError::Missing("node_id"))?;
    let mut config = NodeConfig::new(node, url.ok_or(NodeInfoError::Missing("url"))?);
    config.sip_addr = record.sip_addr;
    config.priority = record.priority.unwrap_or(config.priority);
    config.no_ping_retries = record.retries.unwrap_or(config.no_ping_retries);
    config.is_seed = record.is_seed;
    config.description = record.description;
    config.is_enabled = !record.is_disabled;
    Ok((cluster, config))
}

#[derive(Default)]
struct Properties {
    sip_addr: String,
    priority: Option<i32>,
    retries: Option<i32>,
    is_seed: bool,
    description: Option<String>,
    is_disabled: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_neighbour_text_fills_every_property() {
        let text = "cluster_id=1, node_id = 2 ,url=bin:127.0.1.2:15552,sip_addr=127.0.1.2:5060,\
                    priority=7,no_ping_retries=0,flags=seed,description=core two,state=0";
        let (cluster, node) = parse_node_info(text, None).unwrap();
        assert_eq!(cluster, ClusterId(1));
        assert_eq!(node.node_id, NodeId(2));
        assert_eq!(node.addr.unwrap().to_string(), "127.0.1.2:15552");
        assert_eq!((node.priority, node.no_ping_retries), (7, 0));
        assert!(node.is_seed && !node.is_enabled);
        assert_eq!(node.description.as_deref(), Some("core two"));
    }

    #[test]
    fn the_own_text_takes_the_own_id_and_defaults() {
        let (_, node) = parse_node_info("cluster_id=1,url=bin:host", Some(NodeId(9))).unwrap();
        assert_eq!(node.node_id, NodeId(9));
        assert_eq!((node.priority, node.no_ping_retries), (3, 3));
        assert_eq!(node.addr, None, "a host name has no address yet");
        assert_eq!(node.url.port(), 5555);
    }

    #[test]
    fn errors_name_the_property() {
        let parse = |text| parse_node_info(text, None).unwrap_err();
        assert_eq!(parse("node_id=1,url=bin:a"), NodeInfoError::Missing("cluster_id"));
        assert_eq!(parse("cluster_id=1,node_id=1"), NodeInfoError::Missing("url"));
        assert_eq!(parse("cluster_id=0"), NodeInfoError::Number("cluster_id", "0".into()));
        assert_eq!(parse("colour=red"), NodeInfoError::UnknownProperty("colour".into()));
        assert_eq!(parse("seed"), NodeInfoError::NotAPair("seed".into()));
        assert_eq!(parse("url=sip:a"), NodeInfoError::Url(UrlError::Scheme));
        assert_eq!(parse("url=bin:a:0"), NodeInfoError::Url(UrlError::Port));
    }
}
