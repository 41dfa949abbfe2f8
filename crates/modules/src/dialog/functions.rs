//! The functions of the module: the table, and those about the dialog of the run. Those about other dialogs are in
//! `functions_more`.

use tandem_dialog::{MatchMode, ProfileError};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_flag, arg_int, arg_text, arg_var};
use tandem_script::ast::RouteKind;
use tandem_script::surface::ArgType::{Any, Flag, Int, Route, Text, VarOut};
use tandem_script::surface::{Routes, arg, opt};
use tandem_script::value::Value;
use tandem_script::vm::{Arg, LogLevel};

use super::variables::{change, parse_flags, store, to_value, with};
use super::{Dialogs, current, follow, functions_more, functions_send, shared};
use crate::core::cache::finish;
use crate::core::table::{MESSAGE_ROUTES, done, function};

const ROUTE: tandem_script::surface::ArgType = Route(RouteKind::Request);

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "create_dialog",
        &[opt("flags", Text)],
        Routes::REQUEST,
        "follows the call of this INVITE; flags by words (bye-on-timeout,...) or letters (B,...)",
        create_dialog,
    ),
    function(
        "match_dialog",
        &[opt("dlg_match_mode", Text)],
        Routes::REQUEST,
        "finds the dialog of this request, also without loose_route()",
        match_dialog,
    ),
    function(
        "validate_dialog",
        &[],
        Routes::REQUEST,
        "checks CSeq (-1) and remote target (-2) of this request; -4 without a dialog",
        |context, _| Called::Done(current(context).map_or(-4, |current| current.validation)),
    ),
    function(
        "fix_route_dialog",
        &[],
        Routes::REQUEST,
        "gives this request the Request-URI, Routes and next hop that the dialog knows",
        functions_send::fix_route,
    ),
    function(
        "dlg_send_sequential",
        &[arg("method", Text), arg("leg", Text), opt("body", Text), opt("content_type", Text), opt("headers", Text)],
        Routes::ANY,
        "sends a request within the dialog to the caller or callee; a PRACK is for the reply in work",
        functions_send::send_sequential,
    ),
    function(
        "dlg_inc_cseq",
        &[opt("tag", Any), opt("inc", Int)],
        MESSAGE_ROUTES,
        "counts the CSeq generated towards the party with that tag (that of To) up, by 1 or by inc",
        functions_send::inc_cseq,
    ),
    function(
        "set_dlg_profile",
        &[arg("profile", Text), opt("value", Text), opt("clear_values", Int)],
        MESSAGE_ROUTES,
        "puts the dialog into a profile",
        set_dlg_profile,
    ),
    function(
        "unset_dlg_profile",
        &[arg("profile", Text), opt("value", Text)],
        MESSAGE_ROUTES,
        "takes the dialog out of a profile",
        unset_dlg_profile,
    ),
    function(
        "is_in_profile",
        &[arg("profile", Text), opt("value", Text)],
        MESSAGE_ROUTES,
        "whether the dialog is in a profile",
        is_in_profile,
    ),
    function(
        "get_profile_size",
        &[arg("profile", Text), opt("value", Text), arg("size", VarOut)],
        Routes::ANY,
        "how many dialogs are in a profile",
        get_profile_size,
    ),
    function(
        "get_profile_size",
        &[arg("profile", Text), arg("size", VarOut)],
        Routes::ANY,
        "how many dialogs are in a profile, whatever their value",
        get_profile_size,
    ),
    function("set_dlg_flag", &[arg("flag", Flag)], MESSAGE_ROUTES, "sets a flag of the dialog", |context, args| {
        set_flag(context, args, true)
    }),
    function("reset_dlg_flag", &[arg("flag", Flag)], MESSAGE_ROUTES, "clears a flag of the dialog", |context, args| {
        set_flag(context, args, false)
    }),
    function(
        "is_dlg_flag_set",
        &[arg("flag", Flag)],
        MESSAGE_ROUTES,
        "whether a flag of the dialog is set",
        |context, args| {
            let bit = flag_bit(args);
            done(with(context, |dialog| dialog.script_flags & bit != 0) == Some(true))
        },
    ),
    function(
        "test_and_set_dlg_flag",
        &[arg("flag", Flag), arg("value", Int)],
        MESSAGE_ROUTES,
        "turns a flag of the dialog over if it has that value, in one step",
        test_and_set,
    ),
    function(
        "store_dlg_value",
        &[arg("name", Text), arg("val", Any)],
        MESSAGE_ROUTES,
        "keeps a value in the dialog",
        store_value,
    ),
    function(
        "fetch_dlg_value",
        &[arg("name", Text), arg("val", VarOut)],
        MESSAGE_ROUTES,
        "reads a value of the dialog; -2 when there is none",
        fetch_value,
    ),
    function(
        "dlg_on_answer",
        &[opt("route_name", ROUTE)],
        MESSAGE_ROUTES,
        "the route to run when the call is answered; none takes it off",
        |context, args| set_route(context, args, |routes| &mut routes.on_answer),
    ),
    function(
        "dlg_on_timeout",
        &[opt("route_name", ROUTE)],
        MESSAGE_ROUTES,
        "the route to run when the lifetime is over; it may set a new $DLG_timeout",
        |context, args| set_route(context, args, |routes| &mut routes.on_timeout),
    ),
    function(
        "dlg_on_hangup",
        &[opt("route_name", ROUTE)],
        MESSAGE_ROUTES,
        "the route to run when the call is over; none takes it off",
        |context, args| set_route(context, args, |routes| &mut routes.on_hangup),
    ),
    function(
        "get_dialog_info",
        &[arg("attr", Text), arg("avp", VarOut), arg("key", Text), arg("key_val", Any)],
        Routes::ANY,
        "a value of the dialogs that have key = key_val (2.4)",
        functions_more::dialog_info,
    ),
    function(
        "get_dialog_info",
        &[arg("attr", Text), arg("avp", VarOut), arg("key", Text), arg("key_val", Any), arg("no_dlgs", VarOut)],
        Routes::ANY,
        "a value of the dialogs that have key = key_val, and their number",
        functions_more::dialog_info,
    ),
    function(
        "get_dialog_vals",
        &[arg("names", VarOut), arg("vals", VarOut), arg("callid", Text)],
        Routes::ANY,
        "names and values of the dialog with that Call-ID",
        functions_more::dialog_values,
    ),
    function(
        "get_dialogs_by_val",
        &[arg("name", Text), arg("value", Any), arg("out_avp", VarOut), arg("dlg_no", VarOut)],
        Routes::ANY,
        "the dialogs that have a value, as JSON, and their number",
        functions_more::dialogs_by_value,
    ),
    function(
        "get_dialogs_by_profile",
        &[arg("name", Text), arg("value", Text), arg("out_avp", VarOut), arg("dlg_no", VarOut)],
        Routes::ANY,
        "the dialogs in a profile, as JSON, and their number",
        functions_more::dialogs_by_profile,
    ),
    function(
        "load_dialog_ctx",
        &[arg("dialog", Text), opt("id_type", Text), opt("active_only", Int)],
        Routes::ANY,
        "works on another dialog until unload_dialog_ctx(); id_type is callid or did",
        functions_more::load_context,
    ),
    function(
        "unload_dialog_ctx",
        &[],
        Routes::ANY,
        "goes back to the dialog of before load_dialog_ctx()",
        functions_more::unload_context,
    ),
];

fn create_dialog(context: &mut Context, args: &[Arg]) -> Called {
    let (flags, unknown) = parse_flags(arg_text(args, 0).unwrap_or_default());
    if let Some(unknown) = unknown {
        let unknown = String::from_utf8_lossy(&unknown).into_owned();
        context.log(LogLevel::Error, &format!("create_dialog(): unknown flag '{unknown}'"));
        return done(false);
    }
    done(follow::create(context, flags))
}

fn match_dialog(context: &mut Context, args: &[Arg]) -> Called {
    let Some(dialogs) = context.node.state::<Dialogs>() else { return done(false) };
    let mode = match arg_text(args, 0).filter(|name| !name.is_empty()) {
        None => dialogs.config.match_mode,
        Some(name) => match std::str::from_utf8(name).ok().and_then(MatchMode::from_name) {
            Some(mode) => mode,
            None => {
                context.log(LogLevel::Error, "match_dialog(): the mode is DID_ONLY, DID_FALLBACK or DID_NONE");
                return done(false);
            }
        },
    };
    let did = did_of(context, dialogs);
    done(follow::find(context, did.as_deref(), mode))
}

/// The dialog parameter of our Route: the one taken off, the topmost one, or that of the Request-URI (strict routing).
fn did_of(context: &Context, dialogs: &Dialogs) -> Option<Vec<u8>> {
    let name = dialogs.config.rr_param.as_bytes();
    if let Some(params) = crate::rr::own_params(context) {
        return tandem_sip::Params::new(params).value(name).map(<[u8]>::to_vec);
    }
    let route = context.message.routes().next().and_then(Result::ok).map(|route| route.uri);
    let uri = route.or(context.message.request_uri())?;
    let uri = tandem_sip::Uri::parse(uri).ok()?;
    tandem_sip::Params::new(uri.params.raw()).value(name).map(<[u8]>::to_vec)
}

fn profile_result(context: &Context, result: Result<bool, ProfileError>) -> Called {
    match result {
        Ok(is_ok) => done(is_ok),
        Err(error) => {
            context.log(LogLevel::Error, &format!("dialog profile: {error}"));
            done(false)
        }
    }
}

fn profile_name(args: &[Arg]) -> Option<&str> {
    std::str::from_utf8(arg_text(args, 0)?).ok()
}

fn set_dlg_profile(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        return done(false);
    };
    let Some(name) = profile_name(args) else { return done(false) };
    let clears = arg_int(args, 2).unwrap_or(0) != 0;
    let result = shared::set(context.node, dialogs, current.id, name, arg_text(args, 1), clears);
    profile_result(context, result.map(|()| true))
}

fn unset_dlg_profile(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        return done(false);
    };
    let Some(name) = profile_name(args) else { return done(false) };
    let result = shared::unset(context.node, dialogs, current.id, name, arg_text(args, 1));
    profile_result(context, result)
}

fn is_in_profile(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(current), Some(dialogs)) = (current(context), context.node.state::<Dialogs>()) else {
        return done(false);
    };
    let Some(name) = profile_name(args) else { return done(false) };
    let result = dialogs.table.is_in_profile(current.id, name, arg_text(args, 1));
    profile_result(context, result)
}

fn get_profile_size(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(dialogs), Some(name), Some(out)) =
        (context.node.state::<Dialogs>(), profile_name(args), arg_var(args, args.len().saturating_sub(1)).cloned())
    else {
        return done(false);
    };
    // With two arguments the second is the variable, which is no text.
    let value = arg_text(args, 1).filter(|value| !value.is_empty());
    let profile = dialogs.table.profiles().find(|profile| profile.name == name);
    if let Some(reply) = profile.and_then(|profile| dialogs.shared.size(profile, value)) {
        return finish(context, reply, move |context, result| match shared::size_of(result) {
            Ok(size) => done(context.write_var(&out, Value::Int(i32::try_from(size).unwrap_or(i32::MAX)))),
            Err(error) => {
                context.log(LogLevel::Error, &format!("get_profile_size(): {error}"));
                done(false)
            }
        });
    }
    match dialogs.table.profile_size(name, value) {
        Ok(size) => done(context.write_var(&out, Value::Int(i32::try_from(size).unwrap_or(i32::MAX)))),
        Err(error) => profile_result(context, Err(error)),
    }
}

fn flag_bit(args: &[Arg]) -> u32 {
    arg_flag(args, 0).map_or(0, |flag| 1 << u32::from(flag.min(31)))
}

fn set_flag(context: &mut Context, args: &[Arg], on: bool) -> Called {
    let bit = flag_bit(args);
    let work = |dialog: &mut tandem_dialog::Dialog| {
        if on { dialog.script_flags |= bit } else { dialog.script_flags &= !bit }
    };
    done(change(context, work).is_some())
}

fn test_and_set(context: &mut Context, args: &[Arg]) -> Called {
    let bit = flag_bit(args);
    let wanted = arg_int(args, 1).unwrap_or(0) != 0;
    let work = |dialog: &mut tandem_dialog::Dialog| {
        let fits = (dialog.script_flags & bit != 0) == wanted;
        if fits {
            dialog.script_flags ^= bit;
        }
        fits
    };
    done(change(context, work) == Some(true))
}

fn store_value(context: &mut Context, args: &[Arg]) -> Called {
    let Some(name) = arg_text(args, 0) else { return done(false) };
    let value = any(args, 1);
    done(change(context, |dialog| store(dialog, name, &value)) == Some(true))
}

/// An argument of either type.
pub(super) fn any(args: &[Arg], at: usize) -> Value {
    match args.get(at) {
        Some(Arg::Value(value)) => value.clone(),
        Some(Arg::Text(text)) => Value::Text(text.clone()),
        Some(Arg::Int(int)) => Value::Int(*int),
        _ => Value::Null,
    }
}

fn fetch_value(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(name), Some(out)) = (arg_text(args, 0), arg_var(args, 1).cloned()) else { return done(false) };
    let found = with(context, |dialog| dialog.values.get(name).map(to_value));
    match found {
        None => done(false),
        Some(None) => {
            context.write_var(&out, Value::Null);
            Called::Done(-2)
        }
        Some(Some(value)) => done(context.write_var(&out, value)),
    }
}

fn set_route(context: &mut Context, args: &[Arg], which: fn(&mut tandem_dialog::Routes) -> &mut Box<str>) -> Called {
    let name = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default()).into_owned();
    done(change(context, |dialog| *which(&mut dialog.routes) = name.into()).is_some())
}
