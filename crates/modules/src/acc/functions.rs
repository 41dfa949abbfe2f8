//! Functions and variables of the module.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, VarCall, Variable, arg_text};
use tandem_script::surface::ArgType::Text as TextArg;
use tandem_script::surface::NameRule::{Named, Plain};
use tandem_script::surface::{Routes, arg, opt};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, Index, LogLevel};
use tandem_sip::Method;

use super::Acc;
use super::account::{LEGS_MAX, find, find_or_make, keep_loaded, load_from_dialog, loaded, unload, wanted};
use super::params::{Backend, is_identifier};
use super::record::{Kind, Record, write};
use crate::core::table::{done, function, position, variable, writable};
use crate::dialog::clock;

const ROUTES: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::BRANCH).or(Routes::LOCAL);

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "do_accounting",
        &[arg("type", TextArg), opt("flags", TextArg), opt("table", TextArg)],
        ROUTES,
        "accounts this transaction when it is over: types log|db|evi, flags cdr|missed|failed",
        do_accounting,
    ),
    function(
        "drop_accounting",
        &[opt("type", TextArg), opt("flags", TextArg)],
        ROUTES,
        "takes back what do_accounting() has asked for",
        drop_accounting,
    ),
    function(
        "acc_log_request",
        &[arg("comment", TextArg)],
        ROUTES,
        "accounts this request to the log, now; the comment is a code and a reason",
        |context, args| account_now(context, args, Backend::Log),
    ),
    function(
        "acc_db_request",
        &[arg("comment", TextArg), arg("table", TextArg)],
        ROUTES,
        "accounts this request to a table, now",
        |context, args| account_now(context, args, Backend::Db),
    ),
    function(
        "acc_evi_request",
        &[arg("comment", TextArg)],
        ROUTES,
        "accounts this request as event E_ACC_EVENT, now",
        |context, args| account_now(context, args, Backend::Evi),
    ),
    function("acc_new_leg", &[], ROUTES, "begins a new leg of the call; its $acc_leg values are not set yet", new_leg),
    function(
        "acc_load_ctx_from_dlg",
        &[],
        Routes::ANY,
        "$acc_extra(...) is that of the call this request belongs to",
        |context, _| done(load_from_dialog(context)),
    ),
    function(
        "acc_unload_ctx_from_dlg",
        &[],
        Routes::ANY,
        "$acc_extra(...) is that of this request again",
        |context, _| done(unload(context)),
    ),
];

pub(super) static VARIABLES: &[Variable] = &[
    writable("acc_extra", Named, "an extra field of the account", read_extra, write_extra),
    writable("acc_leg", Named, "a field of a leg: of that in work, or of the one with that index", read_leg, write_leg),
    variable("acc_current_leg", Plain, "index of the leg in work", current_leg),
];

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'|').map(tandem_sip::trim).filter(|word| !word.is_empty())
}

/// The backends of `log|db`; `None` after a complaint.
fn backends(context: &Context, text: &[u8]) -> Option<Vec<Backend>> {
    let mut found = Vec::new();
    for word in words(text) {
        match Backend::from_name(&word.to_ascii_lowercase()) {
            Some(backend) => found.push(backend),
            None => {
                let word = String::from_utf8_lossy(word);
                context.log(LogLevel::Error, &format!("accounting: '{word}' is no type known here: log, db, evi"));
                return None;
            }
        }
    }
    Some(found)
}

/// The bits of `cdr|missed|failed`; `None` after a complaint.
fn flags(context: &Context, text: &[u8]) -> Option<u8> {
    let mut bits = 0;
    for word in words(text) {
        bits |= match word.to_ascii_lowercase().as_slice() {
            b"cdr" => wanted::CDR,
            b"missed" => wanted::MISSED,
            b"failed" => wanted::FAILED,
            _ => {
                let word = String::from_utf8_lossy(word);
                context.log(LogLevel::Error, &format!("accounting: '{word}' is no flag: cdr, missed, failed"));
                return None;
            }
        };
    }
    Some(bits)
}

/// The table of an argument; `Err` when it cannot stand in SQL.
fn table(context: &Context, args: &[Arg], at: usize) -> Result<Option<String>, ()> {
    let Some(name) = arg_text(args, at).filter(|name| !name.is_empty()) else { return Ok(None) };
    match std::str::from_utf8(name) {
        Ok(name) if is_identifier(name) => Ok(Some(name.to_owned())),
        _ => {
            context.log(LogLevel::Error, "accounting: this is no name of a table");
            Err(())
        }
    }
}

fn has_db(context: &Context) -> bool {
    let has_db = context.node.state::<Acc>().is_some_and(|acc| acc.db.get().is_some());
    if !has_db {
        context.log(LogLevel::Error, "accounting: the type db needs modparam(\"acc\", \"db_url\", ...)");
    }
    has_db
}

fn do_accounting(context: &mut Context, args: &[Arg]) -> Called {
    let Some(backends) = backends(context, arg_text(args, 0).unwrap_or_default()) else { return done(false) };
    let Some(bits) = flags(context, arg_text(args, 1).unwrap_or_default()) else { return done(false) };
    let Ok(table) = table(context, args, 2) else { return done(false) };
    if backends.is_empty() || (backends.contains(&Backend::Db) && !has_db(context)) {
        return done(false);
    }
    let is_cancel = context.message.method() == Method::Cancel;
    if is_cancel || context.message.method() == Method::Ack {
        // A CANCEL is accounted with its INVITE (report_cancels); an ACK has no reply.
        return done(true);
    }
    let mut dialog = None;
    if bits & wanted::CDR != 0 {
        if !context.node.has_module("dialog") {
            context.log(LogLevel::Error, "do_accounting(): the flag cdr needs module dialog");
            return done(false);
        }
        if context.message.method() == Method::Invite && !crate::dialog::create(context, 0) {
            return done(false);
        }
        dialog =
            crate::dialog::current(context).filter(|current| current.direction.is_none()).map(|current| current.id);
    }
    let Some(account) = find_or_make(context) else { return done(false) };
    let mut state = account.state.lock();
    for backend in backends {
        if let Some(wanted) = state.wanted.get_mut(backend as usize) {
            *wanted |= bits | wanted::ENABLED;
        }
    }
    if table.is_some() {
        state.table = table;
    }
    if dialog.is_some() {
        state.dialog = dialog;
    }
    done(true)
}

fn drop_accounting(context: &mut Context, args: &[Arg]) -> Called {
    let given = arg_text(args, 0).unwrap_or_default();
    let backends = if given.is_empty() { Some(Backend::ALL.to_vec()) } else { backends(context, given) };
    let Some(backends) = backends else { return done(false) };
    let Some(bits) = flags(context, arg_text(args, 1).unwrap_or_default()) else { return done(false) };
    let Some(account) = find(context) else { return done(true) };
    let mut state = account.state.lock();
    for backend in backends {
        if let Some(wanted) = state.wanted.get_mut(backend as usize) {
            *wanted &= if bits == 0 { 0 } else { !bits };
        }
    }
    done(true)
}

/// Splits `404 Not Found`; a comment without a code is all reason.
fn split_comment(comment: &[u8]) -> (&[u8], &[u8]) {
    match comment.split_at_checked(3) {
        Some((code, rest)) if code.iter().all(u8::is_ascii_digit) && !rest.first().is_some_and(u8::is_ascii_digit) => {
            (code, tandem_sip::trim(rest))
        }
        _ => (b"", comment),
    }
}

fn account_now(context: &mut Context, args: &[Arg], backend: Backend) -> Called {
    let (Some(acc), Some(comment)) = (context.node.state::<Acc>(), arg_text(args, 0)) else { return done(false) };
    let Ok(table) = table(context, args, 1) else { return done(false) };
    if backend == Backend::Db && !has_db(context) {
        return done(false);
    }
    let reply = context.reply.clone();
    let tag = reply.as_ref().and_then(|reply| reply.to().ok()).and_then(|to| to.tag()).unwrap_or_default();
    let record = Record::new(&context.message, tag, split_comment(comment), clock::now());
    let fields = find(context).map(|account| account.state.lock().fields.clone()).unwrap_or_default();
    write(context.node, acc, backend, Kind::Request, &record, &fields, table.as_deref());
    done(true)
}

fn tag_of(context: &Context, call: &VarCall<'_>) -> Option<usize> {
    let name = call.name?;
    context.node.state::<Acc>()?.config.tags.iter().position(|tag| tag.as_bytes() == name)
}

fn read_extra(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(tag) = tag_of(context, call) else { return Value::Null };
    let account = loaded(context).or_else(|| find(context));
    let text = account.and_then(|account| account.state.lock().fields.extra.get(tag).cloned().flatten());
    text.map_or(Value::Null, Value::Text)
}

fn write_extra(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(tag) = tag_of(context, call) else { return false };
    let Some(account) = loaded(context).or_else(|| find_or_make(context)) else { return false };
    let is_set = match account.state.lock().fields.extra.get_mut(tag) {
        Some(place) => {
            *place = text_of(&value);
            true
        }
        None => false,
    };
    keep_loaded(context);
    is_set
}

fn text_of(value: &Value) -> Option<Text> {
    value.as_text().or_else(|| value.as_int().map(|int| Text::from(int.to_string())))
}

fn leg_tag_of(context: &Context, call: &VarCall<'_>) -> Option<usize> {
    let name = call.name?;
    context.node.state::<Acc>()?.config.leg_tags.iter().position(|tag| tag.as_bytes() == name)
}

/// Which leg an index names: that in work without one, from the end when negative.
fn leg_at(call: &VarCall<'_>, count: usize) -> Option<usize> {
    match call.index {
        Index::None | Index::Append => count.checked_sub(1),
        Index::At(at) => position(at, count),
        Index::All => None,
    }
}

fn read_leg(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some(tag) = leg_tag_of(context, call) else { return Value::Null };
    let Some(account) = loaded(context).or_else(|| find(context)) else { return Value::Null };
    let state = account.state.lock();
    let leg = leg_at(call, state.fields.legs.len()).and_then(|at| state.fields.legs.get(at));
    leg.and_then(|leg| leg.get(tag).cloned().flatten()).map_or(Value::Null, Value::Text)
}

fn write_leg(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let Some(tag) = leg_tag_of(context, call) else { return false };
    let Some(account) = loaded(context).or_else(|| find_or_make(context)) else { return false };
    let is_set = {
        let mut state = account.state.lock();
        let at = leg_at(call, state.fields.legs.len());
        let place = at.and_then(|at| state.fields.legs.get_mut(at)).and_then(|leg| leg.get_mut(tag));
        place.map(|place| *place = text_of(&value)).is_some()
    };
    keep_loaded(context);
    is_set
}

fn current_leg(context: &mut Context, _: &VarCall<'_>) -> Value {
    let Some(account) = loaded(context).or_else(|| find(context)) else { return Value::Null };
    let count = account.state.lock().fields.legs.len();
    count.checked_sub(1).map_or(Value::Null, |at| Value::Int(i32::try_from(at).unwrap_or(i32::MAX)))
}

fn new_leg(context: &mut Context, _: &[Arg]) -> Called {
    let Some(acc) = context.node.state::<Acc>() else { return done(false) };
    let count = acc.config.leg_tags.len();
    if count == 0 {
        context.log(LogLevel::Error, "acc_new_leg(): no leg has fields: set modparam(\"acc\", \"leg_fields\", ...)");
        return done(false);
    }
    let Some(account) = loaded(context).or_else(|| find_or_make(context)) else { return done(false) };
    let is_made = {
        let legs = &mut account.state.lock().fields.legs;
        let is_room = legs.len() < LEGS_MAX;
        if is_room {
            legs.push(vec![None; count]);
        }
        is_room
    };
    keep_loaded(context);
    done(is_made)
}
