//! Functions about other dialogs than that of the run. They look at all dialogs and are no hot path.

use std::any::Any;
use std::sync::Arc;

use tandem_dialog::{DialogId, DialogState};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_script::pvar::CompiledVar;
use tandem_script::value::{Text, Value};
use tandem_script::vm::Arg;

use super::functions::any;
use super::variables::to_value;
use super::{Current, Dialogs, management};
use crate::core::table::done;

/// The dialog of before `load_dialog_ctx()`.
struct Unloaded(Option<Arc<dyn Any + Send + Sync>>);

/// Writes a list so that the first is at index 0 of an AVP.
fn write_list(context: &mut Context, out: &Arc<CompiledVar>, values: Vec<Value>) {
    for value in values.into_iter().rev() {
        context.write_var(out, value);
    }
}

fn write_count(context: &mut Context, args: &[Arg], at: usize, count: usize) {
    if let Some(out) = arg_var(args, at).cloned() {
        context.write_var(&out, Value::Int(i32::try_from(count).unwrap_or(i32::MAX)));
    }
}

/// Visits the dialogs that are not over and have that value.
fn with_value<R>(
    dialogs: &Dialogs,
    name: &[u8],
    value: &Value,
    mut visit: impl FnMut(&tandem_dialog::Dialog) -> R,
) -> Vec<R> {
    let mut found = Vec::new();
    let wanted = value_text(value);
    dialogs.table.for_each(|dialog| {
        let fits = dialog.state() != DialogState::Deleted
            && dialog.values.get(name).is_some_and(|own| value_text(&to_value(own)) == wanted);
        if fits {
            found.push(visit(dialog));
        }
    });
    found
}

fn value_text(value: &Value) -> Option<Text> {
    value.as_text().or_else(|| value.as_int().map(|int| Text::from(int.to_string())))
}

/// `get_dialog_info(attr, avp, key, key_val[, no_dlgs])`.
pub(super) fn dialog_info(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(dialogs), Some(attr), Some(out), Some(key)) =
        (context.node.state::<Dialogs>(), arg_text(args, 0), arg_var(args, 1).cloned(), arg_text(args, 2))
    else {
        return done(false);
    };
    let found = with_value(dialogs, key, &any(args, 3), |dialog| dialog.values.get(attr).map_or(Value::Null, to_value));
    write_count(context, args, 4, found.len());
    let is_found = !found.is_empty();
    write_list(context, &out, found);
    done(is_found)
}

/// `get_dialog_vals(names, vals, callid)`.
pub(super) fn dialog_values(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(dialogs), Some(names), Some(values), Some(call_id)) =
        (context.node.state::<Dialogs>(), arg_var(args, 0).cloned(), arg_var(args, 1).cloned(), arg_text(args, 2))
    else {
        return done(false);
    };
    let Some(id) = dialogs.table.ids_of_call_id(call_id).first().copied() else { return done(false) };
    let found: Option<(Vec<Value>, Vec<Value>)> = dialogs.table.with_dialog(id, |dialog| {
        dialog.values.iter().map(|(name, value)| (Value::text(name), to_value(value))).unzip()
    });
    let Some(found) = found else { return done(false) };
    write_list(context, &names, found.0);
    write_list(context, &values, found.1);
    done(true)
}

fn write_dialogs(context: &mut Context, args: &[Arg], dialogs: &Dialogs, ids: Vec<DialogId>) -> Called {
    let Some(out) = arg_var(args, 2).cloned() else { return done(false) };
    let described = ids.into_iter().filter_map(|id| management::describe_id(dialogs, id, true));
    let found: Vec<Value> = described.map(|json| Value::Text(Text::from(json.to_string()))).collect();
    write_count(context, args, 3, found.len());
    let is_found = !found.is_empty();
    write_list(context, &out, found);
    done(is_found)
}

/// `get_dialogs_by_val(name, value, out_avp, dlg_no)`.
pub(super) fn dialogs_by_value(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(dialogs), Some(name)) = (context.node.state::<Dialogs>(), arg_text(args, 0)) else {
        return done(false);
    };
    let ids = with_value(dialogs, name, &any(args, 1), tandem_dialog::Dialog::id);
    write_dialogs(context, args, dialogs, ids)
}

/// `get_dialogs_by_profile(name, value, out_avp, dlg_no)`.
pub(super) fn dialogs_by_profile(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(dialogs), Some(name)) = (context.node.state::<Dialogs>(), arg_text(args, 0)) else {
        return done(false);
    };
    let value = arg_text(args, 1).filter(|value| !value.is_empty());
    let ids = std::str::from_utf8(name).ok().and_then(|name| dialogs.table.ids_in_profile(name, value).ok());
    write_dialogs(context, args, dialogs, ids.unwrap_or_default())
}

/// `load_dialog_ctx(dialog[, id_type][, active_only])`.
pub(super) fn load_context(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(dialogs), Some(text)) = (context.node.state::<Dialogs>(), arg_text(args, 0)) else {
        return done(false);
    };
    let ids = match arg_text(args, 1).unwrap_or(b"callid") {
        b"did" => DialogId::parse_did(text).into_iter().collect(),
        _ => dialogs.table.ids_of_call_id(text),
    };
    let only_active = arg_int(args, 2).unwrap_or(1) != 0;
    let is_wanted = |id: &DialogId| {
        dialogs.table.with_dialog(*id, |dialog| !only_active || dialog.state() != DialogState::Deleted) == Some(true)
    };
    let Some(id) = ids.into_iter().find(is_wanted) else { return done(false) };
    if context.slot::<Unloaded>().is_none() {
        let before = context.dialog.take();
        context.set_slot(Unloaded(before));
    }
    context.dialog = Some(Arc::new(Current::of(id)));
    done(true)
}

/// `unload_dialog_ctx()`.
pub(super) fn unload_context(context: &mut Context, _: &[Arg]) -> Called {
    let Some(unloaded) = context.take_slot::<Unloaded>() else { return done(false) };
    context.dialog = unloaded.0;
    done(true)
}
