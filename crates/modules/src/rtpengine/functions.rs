//! The functions of the script: each builds a request, waits for the answer of a relay and does to the message what it says.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tandem_media::MediaNode;
use tandem_media::bencode::Value as Ng;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_module::run::Pending;
use tandem_script::ast::RouteKind;
use tandem_script::pvar::CompiledVar;
use tandem_script::value::Value;
use tandem_script::vm::Arg;
use tandem_sip::Method;

use super::flags::Flags;
use super::request::{self, Command, build, fail, judge};
use super::{LastAnswer, Rtpengine, UseSet};
use crate::core::table::done;
use crate::relays::{AskError, Wish};
use crate::sipmsgops::{current_sdp, set_sdp};

/// What the script wants to know of an answer.
#[derive(Default)]
struct Outputs {
    socket: Option<Arc<CompiledVar>>,
    sdp: Option<Arc<CompiledVar>>,
    /// Key of the answer and variable for its number, -1 without one.
    number: Option<(&'static str, Arc<CompiledVar>)>,
}

/// Where the new description goes.
type Place = (Bytes, Range<usize>);

/// `rtpengine_use_set(setid)`.
pub(super) fn use_set(context: &mut Context, args: &[Arg]) -> Called {
    let Some(set) = arg_int(args, 0) else { return done(false) };
    context.set_slot(UseSet(set));
    done(true)
}

/// `rtpengine_offer|answer([flags[, sock_var[, sdp_var[, body]]]])`.
pub(super) fn pair(context: &mut Context, args: &[Arg], command: Command) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let flags = match Flags::parse(arg_text(args, 0).unwrap_or_default()) {
        Ok(flags) => flags,
        Err(problem) => {
            fail(own, context, command, &problem);
            return done(false);
        }
    };
    let command = if flags.forces_answer { Command::Answer } else { command };
    let given = arg_text(args, 3).filter(|body| !body.is_empty());
    let (sdp, place) = match given {
        Some(body) => (body.to_vec(), None),
        None => match current_sdp(context) {
            Some((body, range)) => (body.get(range.clone()).unwrap_or_default().to_vec(), Some((body, range))),
            None => {
                fail(own, context, command, "the message has no session description");
                return done(false);
            }
        },
    };
    let outputs = Outputs { socket: arg_var(args, 1).cloned(), sdp: arg_var(args, 2).cloned(), number: None };
    send(own, context, command, &flags, Some(&sdp), outputs, place)
}

/// A function with `([flags[, sock_var]])`.
pub(super) fn plain(context: &mut Context, args: &[Arg], command: Command) -> Called {
    let outputs = Outputs { socket: arg_var(args, 1).cloned(), ..Outputs::default() };
    with_flags(context, arg_text(args, 0).unwrap_or_default(), command, outputs, |_| {})
}

/// `rtpengine_play_media(flags[, duration_var[, sock_var]])`.
pub(super) fn play_media(context: &mut Context, args: &[Arg]) -> Called {
    let number = arg_var(args, 1).cloned().map(|var| ("duration", var));
    let outputs = Outputs { socket: arg_var(args, 2).cloned(), number, ..Outputs::default() };
    with_flags(context, arg_text(args, 0).unwrap_or_default(), Command::PlayMedia, outputs, |_| {})
}

/// `rtpengine_stop_media([flags[, sock_var[, last_frame_pos]]])`.
pub(super) fn stop_media(context: &mut Context, args: &[Arg]) -> Called {
    let number = arg_var(args, 2).cloned().map(|var| ("last-frame-pos", var));
    let outputs = Outputs { socket: arg_var(args, 1).cloned(), number, ..Outputs::default() };
    with_flags(context, arg_text(args, 0).unwrap_or_default(), Command::StopMedia, outputs, |_| {})
}

/// `rtpengine_play_dtmf(code[, flags[, sock_var]])`.
pub(super) fn play_dtmf(context: &mut Context, args: &[Arg]) -> Called {
    let code = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default()).into_owned();
    let is_code = code.len() == 1 && code.bytes().all(|byte| byte.is_ascii_digit() || b"*#ABCDabcd".contains(&byte));
    if !is_code {
        if let Some(own) = super::own(context) {
            fail(own, context, Command::PlayDtmf, &format!("'{code}' is none of 0-9 * # A-D"));
        }
        return done(false);
    }
    let outputs = Outputs { socket: arg_var(args, 2).cloned(), ..Outputs::default() };
    with_flags(context, arg_text(args, 1).unwrap_or_default(), Command::PlayDtmf, outputs, move |flags| {
        flags.keys.push(("code".into(), Ng::text(code)));
    })
}

fn with_flags(
    context: &mut Context,
    text: &[u8],
    command: Command,
    outputs: Outputs,
    more: impl FnOnce(&mut Flags),
) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    match Flags::parse(text) {
        Ok(mut flags) => {
            more(&mut flags);
            send(own, context, command, &flags, None, outputs, None)
        }
        Err(problem) => {
            fail(own, context, command, &problem);
            done(false)
        }
    }
}

/// `rtpengine_manage([flags[, sock_var[, sdp_var[, body]]]])`: the command that fits the message.
pub(super) fn manage(context: &mut Context, args: &[Arg]) -> Called {
    let has_sdp = current_sdp(context).is_some() || arg_text(args, 3).is_some_and(|body| !body.is_empty());
    let (_, method, _) = match context.message.cseq() {
        Ok(cseq) => cseq,
        Err(_) => return done(false),
    };
    let command = if context.kind == RouteKind::Failure {
        Some(Command::Delete)
    } else if context.message.is_request() {
        match method {
            Method::Bye | Method::Cancel => Some(Command::Delete),
            Method::Ack if has_sdp => Some(Command::Answer),
            Method::Invite | Method::Update if has_sdp => Some(Command::Offer),
            _ => None,
        }
    } else {
        let code = context.message.status().unwrap_or_default();
        let asked_with_sdp = context.request.as_ref().is_none_or(|request| !request.message.body().is_empty());
        match (method, code) {
            (Method::Invite, 300..) => Some(Command::Delete),
            (Method::Invite | Method::Update, 100..=299) if has_sdp && asked_with_sdp => Some(Command::Answer),
            (Method::Invite | Method::Update, 100..=299) if has_sdp => Some(Command::Offer),
            _ => None,
        }
    };
    match command {
        Some(Command::Delete) => plain(context, args, Command::Delete),
        Some(command) => pair(context, args, command),
        None => done(false),
    }
}

/// The set for this message: what `rtpengine_use_set()` said, what `setid_avp` holds, the default.
fn set_of(own: &Rtpengine, context: &mut Context) -> i32 {
    if let Some(UseSet(set)) = context.slot::<UseSet>() {
        return *set;
    }
    let named = own.set_var.clone().and_then(|var| context.read_var(&var).as_int());
    named.unwrap_or(own.relays.default_set)
}

fn send(
    own: &'static Rtpengine,
    context: &mut Context,
    command: Command,
    flags: &Flags,
    sdp: Option<&[u8]>,
    outputs: Outputs,
    place: Option<Place>,
) -> Called {
    let request = match build(own, context, command, flags, sdp) {
        Ok(request) => request,
        Err(problem) => {
            fail(own, context, command, &problem);
            return done(false);
        }
    };
    let set = set_of(own, context);
    let wished = outputs.socket.clone().and_then(|var| context.read_var(&var).as_text());
    let wished = wished.and_then(|url| own.relays.sets.named(set, &url.to_str()));
    let node = context.node;
    let work = ask(node, own, set, request, command, wished);
    Pending::job(node, work, move |context, output| {
        let outcome = output.map(|outcome| outcome.map_err(|error| error.to_string()));
        let (relay, answer) = match outcome.unwrap_or_else(|| Err("no relay answered in time".to_owned())) {
            Ok(both) => both,
            Err(problem) => {
                fail(own, context, command, &problem);
                return done(false);
            }
        };
        if let Some(var) = &outputs.socket {
            context.write_var(var, Value::from(relay.spec.url.as_str()));
        }
        if let Some((key, var)) = &outputs.number {
            let number = answer.get(key).and_then(Ng::as_int).and_then(|int| i32::try_from(int).ok()).unwrap_or(-1);
            context.write_var(var, Value::Int(number));
        }
        if matches!(command, Command::Delete | Command::Query) {
            context.set_slot(LastAnswer(answer.clone()));
        }
        if !matches!(command, Command::Offer | Command::Answer) {
            return done(true);
        }
        let Some(sdp) = answer.get("sdp").and_then(Ng::as_bytes) else {
            fail(own, context, command, "the answer of the relay has no session description");
            return done(false);
        };
        match (&outputs.sdp, &place) {
            (Some(var), _) => {
                context.write_var(var, Value::text(sdp));
            }
            (None, Some((body, range))) => set_sdp(context, body, range.clone(), sdp),
            (None, None) => {}
        }
        done(true)
    })
}

/// Asks relays until one takes the request.
async fn ask(
    node: tandem_module::NodeRef,
    own: &'static Rtpengine,
    set: i32,
    request: request::Request,
    command: Command,
    preferred: Option<Arc<MediaNode>>,
) -> Result<(Arc<MediaNode>, Ng), AskError> {
    let mut payload = Vec::with_capacity(1024);
    request.dict.encode(&mut payload);
    let timing = own.relays.timing;
    let work = |relay: Arc<MediaNode>| {
        let answer = relay.client.request(payload.clone(), timing);
        async move { answer.await.map(|answer| judge(own, &answer)) }
    };
    let wish = Wish { set, key: request.key.clone(), begins: command == Command::Offer, preferred };
    let asked = own.relays.with_relay(node, wish, work).await?;
    if command == Command::Delete {
        own.relays.forget(&request.key);
    }
    Ok(asked)
}
