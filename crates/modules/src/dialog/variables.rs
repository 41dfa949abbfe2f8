//! The variables of the module.

use std::time::Duration;

use tandem_dialog::{Dialog, DialogValue, Direction, dialog_flags};
use tandem_module::context::Context;
use tandem_module::declare::{VarCall, Variable};
use tandem_script::surface::NameRule::{Named, Plain};
use tandem_script::value::{Text, Value};

use super::follow::WantedLifetime;
use super::pings::{PingKind, Pings, WantedIntervals};
use super::{Dialogs, clock, current, management, rows};
use crate::core::table::{variable, writable};

pub(super) const VARIABLES: &[Variable] = &[
    variable("DLG_count", Plain, "calls answered and not over", |context, _| {
        let active = context.node.state::<Dialogs>().map_or(0, |dialogs| dialogs.table.totals().active);
        Value::Int(i32::try_from(active).unwrap_or(i32::MAX))
    }),
    variable("DLG_status", Plain, "state of the dialog, 1 to 5; NULL without one", |context, _| {
        read(context, |dialog| Value::Int(dialog.state().number().into()))
    }),
    variable("DLG_lifetime", Plain, "seconds since the answer", |context, _| {
        let now = clock::now().moment().unix_secs;
        read(context, |dialog| Value::Int(i32::try_from(dialog.duration_secs(now)).unwrap_or(i32::MAX)))
    }),
    variable("DLG_flags", Plain, "names of the script flags of the dialog, by spaces", |context, _| {
        let program = context.node.program();
        read(context, |dialog| Value::Text(Text::from(rows::flag_names(&program, dialog.script_flags))))
    }),
    variable("DLG_dir", Plain, "`downstream` or `upstream`", |context, _| {
        current(context)
            .map_or(Value::Null, |current| Value::from(current.direction.unwrap_or(Direction::Downstream).as_str()))
    }),
    variable("DLG_did", Plain, "identity of the dialog, as in dialog:list", |context, _| {
        read(context, |dialog| Value::Text(Text::from(dialog.id().to_string())))
    }),
    variable("DLG_end_reason", Plain, "why the dialog is over; NULL while it is not", |context, _| {
        read(context, |dialog| dialog.end_reason().and_then(|reason| reason.as_str()).map_or(Value::Null, Value::from))
    }),
    writable(
        "DLG_timeout",
        Plain,
        "seconds until the lifetime of the dialog is over; may be set before the dialog is created",
        |context, _| {
            if context.dialog.is_none() {
                let wanted = context.slot::<WantedLifetime>().map(|wanted| wanted.0);
                return wanted.map_or(Value::Null, |secs| Value::Int(i32::try_from(secs).unwrap_or(i32::MAX)));
            }
            let now = clock::now().monotonic;
            read(context, |dialog| Value::Int(i32::try_from(dialog.remaining_secs(now)).unwrap_or(i32::MAX)))
        },
        |context, _, value| {
            let Some(secs) = seconds(&value) else { return false };
            if context.dialog.is_none() {
                context.set_slot(WantedLifetime(secs));
                return true;
            }
            let now = clock::now().monotonic;
            change(context, |dialog| dialog.set_lifetime(secs, now)).is_some()
        },
    ),
    writable(
        "DLG_del_delay",
        Plain,
        "seconds the dialog is kept after its end",
        |context, _| {
            let default = context.node.state::<Dialogs>().map_or(0, |dialogs| dialogs.config.delete_delay.as_secs());
            read(context, |_| Value::Int(i32::try_from(default).unwrap_or(i32::MAX)))
        },
        |context, _, value| {
            let Some(secs) = seconds(&value) else { return false };
            with(context, |dialog| dialog.set_delete_delay(Duration::from_secs(secs.into()))).is_some()
        },
    ),
    writable(
        "DLG_options_ping_interval",
        Plain,
        "seconds to the next OPTIONS ping, the interval before the answer; sets the interval of this call",
        |context, _| read_interval(context, PingKind::Options),
        |context, _, value| write_interval(context, PingKind::Options, &value),
    ),
    writable(
        "DLG_reinvite_ping_interval",
        Plain,
        "seconds to the next re-INVITE ping, the interval before the answer; sets the interval of this call",
        |context, _| read_interval(context, PingKind::Reinvite),
        |context, _, value| write_interval(context, PingKind::Reinvite, &value),
    ),
    variable("DLG_json", Plain, "the dialog as dialog:list shows it", |context, _| json(context, false)),
    variable("DLG_ctx_json", Plain, "the dialog as dialog:list_ctx shows it", |context, _| json(context, true)),
    writable("dlg_val", Named, "a value of the dialog", read_value, write_value),
];

fn json(context: &mut Context, has_context: bool) -> Value {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        return Value::Null;
    };
    let found = management::describe_id(dialogs, current.id, has_context);
    found.map_or(Value::Null, |found| Value::Text(Text::from(found.to_string())))
}

fn seconds(value: &Value) -> Option<u32> {
    let secs = match value.as_int() {
        Some(int) => i64::from(int),
        None => std::str::from_utf8(&value.as_text()?).ok()?.trim().parse().ok()?,
    };
    u32::try_from(secs).ok().filter(|secs| *secs > 0)
}

/// Works on the dialog of a run; `None` without one.
pub(super) fn with<R>(context: &Context, work: impl FnOnce(&mut Dialog) -> R) -> Option<R> {
    let current = current(context)?;
    context.node.state::<Dialogs>()?.table.with_dialog(current.id, work)
}

/// The same for what has to be saved.
pub(super) fn change<R>(context: &Context, work: impl FnOnce(&mut Dialog) -> R) -> Option<R> {
    let result = with(context, work)?;
    let (current, dialogs) = (current(context)?, context.node.state::<Dialogs>()?);
    dialogs.store.touch(context.node, dialogs, current.id);
    Some(result)
}

fn read_interval(context: &mut Context, kind: PingKind) -> Value {
    let number = |secs: u64| Value::Int(i32::try_from(secs).unwrap_or(i32::MAX));
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        let wanted = context.slot::<WantedIntervals>().and_then(|wanted| wanted.0.of(kind));
        return wanted.map_or(Value::Null, |secs| number(secs.into()));
    };
    match with(context, |dialog| Pings::is_wanted(dialog.flags, kind)) {
        Some(true) => number(dialogs.pings.secs(current.id, kind)),
        _ => Value::Null,
    }
}

fn write_interval(context: &mut Context, kind: PingKind, value: &Value) -> bool {
    let Some(secs) = seconds(value) else { return false };
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        if context.slot::<WantedIntervals>().is_none() {
            context.set_slot(WantedIntervals::default());
        }
        if let Some(wanted) = context.slot::<WantedIntervals>() {
            *wanted.0.of_mut(kind) = Some(secs);
        }
        return true;
    };
    let is_wanted = with(context, |dialog| Pings::is_wanted(dialog.flags, kind)) == Some(true);
    if is_wanted {
        dialogs.pings.set_interval(current.id, kind, secs);
    }
    is_wanted
}

fn read(context: &mut Context, work: impl FnOnce(&Dialog) -> Value) -> Value {
    with(context, |dialog| work(dialog)).unwrap_or(Value::Null)
}

pub(super) fn to_value(value: &DialogValue) -> Value {
    match value {
        DialogValue::Text(text) => Value::text(text),
        DialogValue::Int(int) => Value::Int(*int),
    }
}

/// Sets a value of a dialog; NULL removes it.
pub(super) fn store(dialog: &mut Dialog, name: &[u8], value: &Value) -> bool {
    let stored = match value {
        Value::Null => {
            dialog.values.remove(name);
            return true;
        }
        Value::Int(int) | Value::Literal(int) | Value::Number(_, int) => DialogValue::Int(*int),
        Value::Bool(is_true) => DialogValue::Int(i32::from(*is_true)),
        Value::Text(text) | Value::Dual(text, _) => DialogValue::from(text.as_bytes()),
    };
    dialog.values.set(name, stored).is_ok()
}

fn read_value(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(name) = call.name else { return Value::Null };
    read(context, |dialog| dialog.values.get(name).map_or(Value::Null, to_value))
}

fn write_value(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(name) = call.name else { return false };
    change(context, |dialog| store(dialog, name, &value)).unwrap_or(false)
}

/// Names of the flags of `create_dialog()` and their bits: words (3.x on) and letters (2.4).
const FLAGS: [(&str, u8, u32); 7] = [
    ("bye-on-timeout", b'B', dialog_flags::BYE_ON_TIMEOUT),
    ("options-ping-caller", b'P', dialog_flags::PING_CALLER),
    ("options-ping-callee", b'p', dialog_flags::PING_CALLEE),
    ("reinvite-ping-caller", b'R', dialog_flags::REINVITE_PING_CALLER),
    ("reinvite-ping-callee", b'r', dialog_flags::REINVITE_PING_CALLEE),
    ("end-on-race-condition", b'E', dialog_flags::END_ON_RACE_CONDITION),
    // Newer than the letters.
    ("auto-prack", 0, dialog_flags::AUTO_PRACK),
];

/// Reads the flags of `create_dialog()`; the second result is a part that says nothing.
pub(super) fn parse_flags(text: &[u8]) -> (u32, Option<Vec<u8>>) {
    let mut bits = 0;
    for part in text.split(|byte| *byte == b',').map(tandem_sip::trim).filter(|part| !part.is_empty()) {
        if let Some((.., bit)) = FLAGS.iter().find(|(word, ..)| word.as_bytes().eq_ignore_ascii_case(part)) {
            bits |= bit;
            continue;
        }
        for letter in part {
            match FLAGS.iter().find(|(_, own, _)| own == letter) {
                Some((.., bit)) => bits |= bit,
                None => return (bits, Some(part.to_vec())),
            }
        }
    }
    (bits, None)
}
