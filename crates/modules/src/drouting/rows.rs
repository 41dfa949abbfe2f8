//! Rows of the tables as gateways, carriers and rules. What is wrong with one is said, the row is left out.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use tandem_module::db::DbValue;
use tandem_module::transport::Proto;
use tandem_script::value::Text;
use tandem_sip::{Scheme, Uri};

use super::config::Config;
use super::data::{Carrier, Gateway, Goal, PREFIX_MAX, Probing, Rule, State, Tables, Turn};
use crate::cfgutils::time_rec;
use crate::core::db_load::{int_of, text_of};

/// Elements of one list of gateways.
const LIST_MAX: usize = 256;
/// Groups one rule may be in.
const GROUPS_MAX: usize = 1024;

pub(super) const GATEWAY_COLUMNS: [&str; 10] =
    ["id", "gwid", "address", "strip", "pri_prefix", "type", "attrs", "probe_mode", "socket", "state"];
/// The last one since version 3 of the table.
pub(super) const CARRIER_COLUMNS: [&str; 7] = ["id", "carrierid", "gwlist", "flags", "attrs", "state", "sort_alg"];
/// The last one since version 4 of the table.
pub(super) const RULE_COLUMNS: [&str; 9] =
    ["ruleid", "groupid", "prefix", "timerec", "priority", "routeid", "gwlist", "attrs", "sort_alg"];

/// A text column without NULs; empty for NULL.
fn text(row: &[DbValue], at: usize) -> Result<Vec<u8>, String> {
    let text = text_of(row, at).unwrap_or_default();
    let text = text.trim_ascii().to_vec();
    if text.contains(&0) { Err("a column has a NUL byte".into()) } else { Ok(text) }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..80).unwrap_or(bytes)).into_owned()
}

fn id(config: &Config, bytes: Vec<u8>) -> Result<Text, String> {
    if config.is_id(&bytes) {
        Ok(Text::from(bytes))
    } else {
        Err(format!("'{}' is no ID: letters, digits and extra_id_chars", shown(&bytes)))
    }
}

/// A gateway, and its host for looking up.
pub(super) fn gateway(config: &Config, row: &[DbValue]) -> Result<(Gateway, Vec<u8>), String> {
    let gateway_id = id(config, text(row, 1)?)?;
    let address = text(row, 2)?;
    let has_scheme = [&b"sip:"[..], b"sips:"]
        .iter()
        .any(|scheme| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let uri = if has_scheme { address.clone() } else { [b"sip:", &address[..]].concat() };
    let parsed = Uri::parse(&uri).ok().filter(|uri| !uri.host.is_empty());
    let parsed = parsed.ok_or_else(|| format!("'{}' is no SIP address", shown(&address)))?;
    let is_secure = parsed.scheme == Scheme::Sips;
    let proto = match parsed.transport_text() {
        Some(name) => Proto::from_name(name).ok_or_else(|| format!("unknown transport in '{}'", shown(&address)))?,
        None if is_secure => Proto::Tls,
        None => Proto::Udp,
    };
    let skip = uri.iter().position(|byte| *byte == b':').map_or(0, |at| at + 1);
    // A user part in the address has no meaning: that of the call goes there.
    let rest = uri.get(skip..).unwrap_or_default();
    let rest = match (parsed.user, rest.iter().position(|byte| *byte == b'@')) {
        (Some(_), Some(at)) => rest.get(at + 1..).unwrap_or_default(),
        _ => rest,
    };
    let strip = int_of(row, 3).unwrap_or(0);
    let strip = usize::try_from(strip).map_err(|_| format!("strip {strip} is negative"))?;
    let probing = match int_of(row, 7).unwrap_or(0) {
        0 => Probing::Never,
        1 => Probing::WhenInactive,
        2 => Probing::Always,
        other => return Err(format!("probe_mode {other} is not 0, 1 or 2")),
    };
    let state = if config.is_persistent { int_of(row, 9).unwrap_or(0) } else { 0 };
    let hash = tandem_sip::core_hash(&gateway_id);
    let gateway = Gateway {
        id: gateway_id,
        kind: int_of(row, 5).and_then(|kind| i32::try_from(kind).ok()).unwrap_or(0),
        address: Text::copy(rest),
        is_secure,
        port: parsed.port.unwrap_or_else(|| proto.default_port()),
        proto,
        strip,
        prefix: Text::from(text(row, 4)?),
        attrs: Text::from(text_of(row, 6).unwrap_or_default()),
        probing,
        socket: Some(text(row, 8)?).filter(|socket| !socket.is_empty()).map(Text::from),
        ips: Vec::new(),
        carrier: None,
        state: State::from_number(state).ok_or_else(|| format!("state {state} is not 0, 1 or 2"))?.into(),
        is_dirty: AtomicBool::new(false),
        hash,
        turn: Turn::default(),
    };
    let host = parsed.maddr().unwrap_or(parsed.host).to_ascii_lowercase();
    Ok((gateway, host))
}

/// The address that a host already is.
pub(super) fn host_ip(host: &[u8]) -> Option<IpAddr> {
    let host = std::str::from_utf8(host).ok()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Elements `id` or `id=weight`, separated by commas or semicolons.
fn list(bytes: &[u8]) -> Result<Vec<(&[u8], u32)>, String> {
    let mut all = Vec::new();
    for item in bytes.split(|byte| matches!(byte, b',' | b';')).map(<[u8]>::trim_ascii) {
        if item.is_empty() {
            continue;
        }
        let (name, weight) = match item.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                let (name, weight) = item.split_at(at);
                let weight = weight.get(1..).and_then(|weight| std::str::from_utf8(weight).ok());
                let weight = weight.and_then(|weight| weight.trim().parse::<u16>().ok());
                (name.trim_ascii(), weight.ok_or_else(|| format!("'{}' has no weight 0 to 65535", shown(item)))?)
            }
            None => (item, 0),
        };
        if all.len() >= LIST_MAX {
            return Err(format!("the list has more than {LIST_MAX} elements"));
        }
        all.push((name, u32::from(weight)));
    }
    Ok(all)
}

fn is_weighted(sort: &[u8]) -> Result<bool, String> {
    match sort {
        b"" | b"N" | b"n" => Ok(false),
        b"W" | b"w" => Ok(true),
        b"Q" | b"q" => Err("sort_alg Q needs module qrouting, which there is not".into()),
        other => Err(format!("sort_alg '{}' is not N or W", shown(other))),
    }
}

/// A carrier, and IDs of its list that there are not.
pub(super) fn carrier(config: &Config, tables: &Tables, row: &[DbValue]) -> Result<(Carrier, Vec<String>), String> {
    let carrier_id = id(config, text(row, 1)?)?;
    let (mut gateways, mut unknown) = (Vec::new(), Vec::new());
    let names = text(row, 2)?;
    for (name, weight) in list(&names)? {
        match tables.gateway(name) {
            Some((at, _)) => gateways.push((at, weight)),
            None => unknown.push(shown(name)),
        }
    }
    if gateways.is_empty() {
        return Err(format!("none of its gateways is known ({})", unknown.join(", ")));
    }
    let flags = int_of(row, 3).unwrap_or(0);
    // Without a sort_alg column (2.4) the first flag stands for it, and the others are one place further.
    let (is_weighted, flags) = match row.get(6) {
        Some(_) => (is_weighted(&text(row, 6)?)?, flags),
        None => (flags & 1 != 0, flags >> 1),
    };
    let is_off = flags & 2 != 0 || (config.is_persistent && int_of(row, 5).unwrap_or(0) != 0);
    let carrier = Carrier {
        id: carrier_id,
        gateways,
        is_weighted,
        is_first_only: flags & 1 != 0,
        attrs: Text::from(text_of(row, 4).unwrap_or_default()),
        is_on: AtomicBool::new(!is_off),
        is_dirty: AtomicBool::new(false),
    };
    Ok((carrier, unknown))
}

/// A rule ready to be added.
pub(super) struct RuleRow {
    pub(super) rule: Rule,
    pub(super) groups: Vec<i32>,
    pub(super) prefix: Vec<u8>,
    pub(super) unknown: Vec<String>,
}

/// A rule, its groups and prefix, and IDs of its list that there are not.
pub(super) fn rule(config: &Config, tables: &Tables, row: &[DbValue]) -> Result<RuleRow, String> {
    let prefix = text(row, 2)?;
    if prefix.len() > PREFIX_MAX {
        return Err(format!("the prefix has more than {PREFIX_MAX} characters"));
    }
    if let Some(bad) = prefix.iter().find(|byte| !config.is_prefix_char(**byte)) {
        return Err(format!(
            "the prefix '{}' has a '{}': digits and extra_prefix_chars",
            shown(&prefix),
            bad.escape_ascii()
        ));
    }
    let names = text(row, 6)?;
    let (mut goals, mut unknown) = (Vec::new(), Vec::new());
    for (name, weight) in list(&names)? {
        let goal = match name.strip_prefix(b"#") {
            Some(name) => tables.carrier(name).map(|(at, _)| Goal::Carrier(at)),
            None => tables.gateway(name).map(|(at, _)| Goal::Gateway(at)),
        };
        match goal {
            Some(goal) => goals.push((goal, weight)),
            None => unknown.push(shown(name)),
        }
    }
    if goals.is_empty() && !unknown.is_empty() {
        return Err(format!("none of its gateways and carriers is known ({})", unknown.join(", ")));
    }
    let time = text(row, 3)?;
    let time = String::from_utf8_lossy(&time).into_owned();
    // One without any attribute is always valid.
    let time = Some(time).filter(|time| time.bytes().any(|byte| byte != b'|' && !byte.is_ascii_whitespace()));
    if let Some(time) = &time
        && time_rec::contains(time, &crate::core::local_now()).is_none()
    {
        return Err(format!("'{}' is no time recurrence", shown(time.as_bytes())));
    }
    let route = String::from_utf8_lossy(&text(row, 5)?).into_owned();
    let rule = Rule {
        id: int_of(row, 0).unwrap_or(0),
        priority: int_of(row, 4).and_then(|int| i32::try_from(int).ok()).unwrap_or(0),
        time: time.map(String::into_boxed_str),
        // Route 0 is none (older tables).
        route: Some(route).filter(|route| !route.is_empty() && route != "0").map(String::into_boxed_str),
        attrs: Text::from(text_of(row, 7).unwrap_or_default()),
        is_weighted: if row.len() > 8 { is_weighted(&text(row, 8)?)? } else { false },
        goals: goals.into_boxed_slice(),
    };
    Ok(RuleRow { rule, groups: groups(&text(row, 1)?)?, prefix, unknown })
}

/// Numbers of groups, separated by commas, semicolons or blanks.
fn groups(bytes: &[u8]) -> Result<Vec<i32>, String> {
    let items = bytes.split(|byte| matches!(byte, b',' | b';' | b' ')).filter(|item| !item.is_empty());
    let mut all = Vec::new();
    for item in items {
        let number = std::str::from_utf8(item).ok().and_then(|item| item.parse::<i32>().ok());
        all.push(number.ok_or_else(|| format!("'{}' is no number of a group", shown(item)))?);
        if all.len() > GROUPS_MAX {
            return Err(format!("the rule is in more than {GROUPS_MAX} groups"));
        }
    }
    if all.is_empty() { Err("the rule is in no group".into()) } else { Ok(all) }
}
