//! `check_address()` and kin: what the script asks, and what the variables get.

use std::net::IpAddr;

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};

use super::Permissions;
use super::addresses::{Entry, ProtoName, Query, parse_ip};
use crate::core::table::done;

/// Name of the partition of scripts that name none.
const DEFAULT: &[u8] = b"default";

fn refuse(context: &Context, text: &str) -> Called {
    context.log(LogLevel::Error, &format!("permissions: {text}"));
    done(false)
}

/// Partition and group: the group as a number or a text, in 2.4 with the partition in front of a colon.
fn group_of(args: &[Arg], partition: usize) -> Option<(Vec<u8>, u32)> {
    let given = arg_text(args, partition).filter(|name| !name.is_empty());
    if let Some(text) = arg_text(args, 0) {
        let text = std::str::from_utf8(text).ok()?.trim();
        let (name, number) = match text.rsplit_once(':') {
            Some((name, number)) => (name.trim().as_bytes(), number),
            None => (given.unwrap_or(DEFAULT), text),
        };
        let name = if name.is_empty() { DEFAULT } else { name };
        return Some((name.to_vec(), number.trim().parse().ok()?));
    }
    let group = u32::try_from(arg_int(args, 0)?).ok()?;
    Some((given.unwrap_or(DEFAULT).to_vec(), group))
}

/// `check_address(group, ip, port, proto[, info][, pattern][, partition])`.
pub(super) fn check_address(context: &mut Context, args: &[Arg]) -> Called {
    let ip = arg_text(args, 1).unwrap_or_default();
    let Some(ip) = parse_ip(ip) else {
        let shown = String::from_utf8_lossy(ip.get(..64).unwrap_or(ip)).into_owned();
        return refuse(context, &format!("check_address(): '{shown}' is no address"));
    };
    let Some(port) = arg_int(args, 2).and_then(|port| u16::try_from(port).ok()) else {
        return refuse(context, "check_address(): the port is not 0 to 65535");
    };
    let Ok(proto) = ProtoName::parse(arg_text(args, 3).unwrap_or_default()) else {
        return refuse(context, "check_address(): unknown transport");
    };
    check(context, args, (ip, port, proto), [4, 5, 6])
}

/// `check_source_address(group[, info][, pattern][, partition])`.
pub(super) fn check_source_address(context: &mut Context, args: &[Arg]) -> Called {
    let source = source(context);
    check(context, args, source, [1, 2, 3])
}

fn source(context: &Context) -> (IpAddr, u16, Option<ProtoName>) {
    let source = &context.source;
    let proto = ProtoName::parse(source.proto.name().as_bytes()).ok().flatten();
    (source.src.ip().to_canonical(), source.src.port(), proto)
}

fn check(
    context: &mut Context,
    args: &[Arg],
    (ip, port, proto): (IpAddr, u16, Option<ProtoName>),
    [info, pattern, partition]: [usize; 3],
) -> Called {
    let Some((partition, group)) = group_of(args, partition) else {
        return refuse(context, "the group is no number");
    };
    let pattern = arg_text(args, pattern).filter(|text| !text.is_empty());
    let query = Query { group, ip, port, proto, pattern };
    let found = match find(context, &partition, &query) {
        Ok(Some(entry)) => entry,
        Ok(None) => return done(false),
        Err(text) => return refuse(context, &text),
    };
    if let (Some(var), Some(info)) = (arg_var(args, info).cloned(), found.info) {
        return done(context.write_var(&var, Value::Text(info)));
    }
    done(true)
}

fn find(context: &Context, partition: &[u8], query: &Query<'_>) -> Result<Option<Entry>, String> {
    let own = context.node.state::<Permissions>().ok_or("the module is not set up")?;
    let partition = own.partition(partition).ok_or_else(|| {
        format!("there is no partition '{}' (parameters db_url, partition)", String::from_utf8_lossy(partition))
    })?;
    let addresses = partition
        .addresses()
        .ok_or_else(|| format!("the addresses of partition '{}' have not been read yet", partition.name))?;
    Ok(addresses.find(query).cloned())
}

/// `get_source_group($var[, partition])`.
pub(super) fn source_group(context: &mut Context, args: &[Arg]) -> Called {
    let Some(var) = arg_var(args, 0).cloned() else { return done(false) };
    let partition = arg_text(args, 1).filter(|name| !name.is_empty()).unwrap_or(DEFAULT);
    let (ip, port, proto) = source(context);
    let query = Query { group: 0, ip, port, proto, pattern: None };
    match find(context, partition, &query) {
        Ok(Some(entry)) => done(context.write_var(&var, Value::Int(entry.group as i32))),
        Ok(None) => done(false),
        Err(text) => refuse(context, &text),
    }
}
