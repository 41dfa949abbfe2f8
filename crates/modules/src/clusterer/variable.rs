//! `$cluster.sh_tag(name/cluster_id)`.

use tandem_cluster::{ClusterId, SharingTagReason};
use tandem_module::Context;
use tandem_module::declare::{VarCall, Variable};
use tandem_script::surface::{NameRule, VariableSpec};
use tandem_script::value::{Text, Value};
use tandem_script::vm::LogLevel;

use super::service::Clusterer;

pub(super) const VARIABLES: &[Variable] = &[Variable {
    spec: VariableSpec {
        name: "cluster.sh_tag",
        rule: NameRule::Named,
        is_writable: true,
        doc: "state of a sharing tag, name/cluster_id: active (1) or backup (0); write active to take it",
    },
    read,
    write: Some(write),
}];

/// `name/cluster_id`.
pub(super) fn parse_tag(text: &str) -> Option<(&str, ClusterId)> {
    let (name, cluster) = text.rsplit_once('/')?;
    let name = name.trim();
    (!name.is_empty()).then_some((name, ClusterId(cluster.trim().parse().ok()?)))
}

fn named<'a>(call: &VarCall<'a>) -> Option<(&'a str, ClusterId)> {
    parse_tag(std::str::from_utf8(call.name?).ok()?)
}

fn read(context: &mut Context, call: &VarCall<'_>) -> Value {
    let node = context.node;
    let (Some((name, cluster)), Some(clusterer)) = (named(call), node.state::<Clusterer>()) else { return Value::Null };
    match clusterer.with(node, |core| core.is_sharing_tag_active(cluster, name)) {
        Some(true) => Value::Dual(Text::from("active"), 1),
        Some(false) => Value::Dual(Text::from("backup"), 0),
        None => Value::Null,
    }
}

fn write(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let node = context.node;
    let (Some((name, cluster)), Some(clusterer)) = (named(call), node.state::<Clusterer>()) else { return false };
    let wants_active = match (&value, value.as_int()) {
        (Value::Null, _) => return true,
        (Value::Text(text), _) if text.eq_ignore_case(b"active") => true,
        (Value::Text(text), _) if text.eq_ignore_case(b"backup") => false,
        (_, Some(int)) => int > 0,
        _ => return false,
    };
    if !wants_active {
        context.log(LogLevel::Warning, "a sharing tag cannot be given up by hand; make it active on another node");
        return true;
    }
    let taken = clusterer
        .with(node, |core| core.activate_sharing_tag(cluster, name, SharingTagReason::ScriptVariable, clusterer.now()));
    matches!(taken, Some(Ok(())))
}
