//! The variables of the module.

use std::time::Duration;

use tandem_module::Context;
use tandem_module::declare::{VarCall, Variable};
use tandem_script::surface::{NameRule, VariableSpec};
use tandem_script::value::{Text, Value};

use super::layer::own_tx;

const fn variable(name: &'static str, doc: &'static str, read: fn(&mut Context, &VarCall<'_>) -> Value) -> Variable {
    Variable { spec: VariableSpec { name, rule: NameRule::Plain, is_writable: false, doc }, read, write: None }
}

pub(super) const VARIABLES: &[Variable] = &[
    variable("T_branch_idx", "index of the branch in branch, reply and failure routes", |context, _| {
        context.branch.map_or(Value::Null, |branch| Value::Int(branch.into()))
    }),
    variable("T_reply_code", "code of the reply in reply and failure routes; 0 elsewhere", |context, _| {
        Value::Int(context.reply_code.into())
    }),
    variable("T_id", "id of the transaction", |context, _| match &context.transaction {
        Some(transaction) => Value::Text(Text::from(format!("{:x}", transaction.id()))),
        None => Value::Null,
    }),
    variable("T_ruri", "request URI of the branch", |context, _| {
        let (Some(tx), Some(branch)) = (own_tx(context), context.branch) else { return Value::Null };
        let state = tx.state.lock();
        let uri = state.branches.get(usize::from(branch)).and_then(|data| data.target.uri.clone());
        uri.map_or(Value::Null, Value::Text)
    }),
    Variable {
        spec: VariableSpec {
            name: "T_fr_timeout",
            rule: NameRule::Plain,
            is_writable: true,
            doc: "seconds without any reply after which a branch of this transaction fails",
        },
        read: |context, _| timeout(context, |(fr, _)| fr),
        write: Some(|context, _, value| set_timeout(context, &value, true)),
    },
    Variable {
        spec: VariableSpec {
            name: "T_fr_inv_timeout",
            rule: NameRule::Plain,
            is_writable: true,
            doc: "seconds from a provisional reply to the final one for this transaction",
        },
        read: |context, _| timeout(context, |(_, fr_inv)| fr_inv),
        write: Some(|context, _, value| set_timeout(context, &value, false)),
    },
];

fn timeout(context: &mut Context, pick: impl FnOnce((Duration, Duration)) -> Duration) -> Value {
    let times = match own_tx(context) {
        Some(tx) => tx.state.lock().core.fr_timeouts(),
        None => match context.node.state::<super::Tm>() {
            Some(tm) => (tm.config.fr_timeout, tm.config.fr_inv_timeout),
            None => return Value::Null,
        },
    };
    Value::Int(i32::try_from(pick(times).as_secs()).unwrap_or(i32::MAX))
}

fn set_timeout(context: &mut Context, value: &Value, is_fr: bool) -> bool {
    let Some(secs) = value.as_int().and_then(|secs| u64::try_from(secs).ok()).filter(|secs| *secs > 0) else { return false };
    // Before t_newtran() or t_relay() there is nothing to hold the value yet.
    let Some(tx) = own_tx(context) else { return false };
    let span = Some(Duration::from_secs(secs));
    tx.with(|state| if is_fr { state.core.set_fr_timeouts(span, None) } else { state.core.set_fr_timeouts(None, span) });
    true
}
