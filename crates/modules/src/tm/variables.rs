//! The variables of the module; those of branches are in `branch_vars`.

use std::time::Duration;

use tandem_module::Context;
use tandem_module::declare::Variable;
use tandem_script::surface::NameRule;
use tandem_script::value::{Text, Value};

use super::layer::own_tx;
use super::{branch_vars, functions};
use crate::core::table::{variable, writable};

pub(super) const VARIABLES: &[Variable] = &[
    variable(
        "T_branch_idx",
        NameRule::Plain,
        "index of the branch in branch, reply and failure routes",
        |context, _| context.branch.map_or(Value::Null, |branch| Value::Int(branch.into())),
    ),
    variable(
        "T_reply_code",
        NameRule::Plain,
        "code of the reply in reply and failure routes, of the last reply sent elsewhere; 0 without one",
        |context, _| Value::Int(functions::status(context).into()),
    ),
    variable("T_id", NameRule::Plain, "id of the transaction, hexadecimal", |context, _| match &context.transaction {
        Some(transaction) => Value::Text(Text::from(format!("{:x}", transaction.id()))),
        None => Value::Null,
    }),
    variable("T_ruri", NameRule::Plain, "request URI of the branch", |context, _| {
        let Some(tx) = own_tx(context) else { return Value::Null };
        let state = tx.state.lock();
        let uri = state.branch(Some(context.branch.unwrap_or(0))).and_then(|data| data.target.uri.clone());
        uri.map_or_else(|| state.request.message.request_uri().map_or(Value::Null, Value::text), Value::Text)
    }),
    writable(
        "T_fr_timeout",
        NameRule::Plain,
        "seconds without any reply after which a branch of this transaction fails",
        |context, _| timeout(context, true),
        |context, _, value| seconds(&value).is_some_and(|span| functions::set_timeouts(context, Some(span), None)),
    ),
    writable(
        "T_fr_inv_timeout",
        NameRule::Plain,
        "seconds from a provisional reply to the final one for this transaction",
        |context, _| timeout(context, false),
        |context, _, value| seconds(&value).is_some_and(|span| functions::set_timeouts(context, None, Some(span))),
    ),
    writable("bavp", NameRule::Named, "AVP of one branch", branch_vars::read_bavp, branch_vars::write_bavp),
    variable(
        "T_branch_last_reply_code",
        NameRule::Plain,
        "code of the last reply on the branch",
        branch_vars::last_received,
    ),
    variable("tm.branch.uri", NameRule::Plain, "request URI of a branch", branch_vars::uri),
    variable("tm.branch.duri", NameRule::Plain, "next hop URI of a branch", branch_vars::dst_uri),
    variable("tm.branch.path", NameRule::Plain, "path of a branch", branch_vars::path),
    variable("tm.branch.q", NameRule::Plain, "q value of a branch, in thousandths", branch_vars::q),
    variable("tm.branch.socket", NameRule::Plain, "socket a branch was sent from", branch_vars::socket),
    variable("tm.branch.flags", NameRule::Plain, "flags of a branch, comma separated", branch_vars::flags),
    variable(
        "tm.branch.last_received",
        NameRule::Plain,
        "code of the last reply on a branch",
        branch_vars::last_received,
    ),
    variable("tm.branch.type", NameRule::Plain, "always `sip`: branches here are real ones", branch_vars::kind),
    writable(
        "tm.branch.flag",
        NameRule::Named,
        "one flag of a branch",
        branch_vars::read_flag,
        branch_vars::write_flag,
    ),
    writable(
        "tm.branch.attr",
        NameRule::Named,
        "attribute of a branch",
        branch_vars::read_attr,
        branch_vars::write_attr,
    ),
];

/// Zero stands for NULL, which goes back to the parameter.
fn seconds(value: &Value) -> Option<Duration> {
    if value.is_null() {
        return Some(Duration::ZERO);
    }
    let secs = value.as_int().or_else(|| std::str::from_utf8(value.as_text()?.as_bytes()).ok()?.trim().parse().ok())?;
    u64::try_from(secs).ok().filter(|secs| *secs > 0).map(Duration::from_secs)
}

fn timeout(context: &mut Context, is_fr: bool) -> Value {
    let Some(tm) = context.node.state::<super::Tm>() else { return Value::Null };
    let (fr, fr_inv) = match own_tx(context) {
        Some(tx) => tx.state.lock().core.fr_timeouts(),
        None => {
            let armed = context.slot::<super::layer::Armed>();
            let (fr, fr_inv) = armed.map_or((None, None), |armed| (armed.fr, armed.fr_inv));
            (fr.unwrap_or(tm.config.fr_timeout), fr_inv.unwrap_or(tm.config.fr_inv_timeout))
        }
    };
    Value::Int(i32::try_from(if is_fr { fr } else { fr_inv }.as_secs()).unwrap_or(i32::MAX))
}
