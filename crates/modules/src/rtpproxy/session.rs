//! Functions on a session that exists: its end, prompts, recording, counters.

use std::sync::Arc;

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_module::run::Pending;
use tandem_script::pvar::CompiledVar;
use tandem_script::value::Value;
use tandem_script::vm::Arg;

use super::command::{error_code, is_word};
use super::offer::Call;
use super::{Rtpproxy, complain};
use crate::core::table::done;

/// Where a command goes, and where the script wants to read that.
struct Place {
    set: i32,
    socket_var: Option<Arc<CompiledVar>>,
}

impl Place {
    fn of(own: &Rtpproxy, args: &[Arg], at: usize) -> Place {
        Place { set: arg_int(args, at).unwrap_or(own.relays.default_set), socket_var: arg_var(args, at + 1).cloned() }
    }
}

/// Sends a command about the call of the message to its relay; `finish` gets the answer, which is no refusal.
fn command(
    context: &mut Context,
    own: &'static Rtpproxy,
    function: &'static str,
    place: Place,
    text: impl FnOnce(&Call) -> Option<String>,
    finish: impl FnOnce(&mut Context, &str) -> bool + Send + 'static,
) -> Called {
    let call = Call::of(context);
    let Some((call, text)) = call.and_then(|call| text(&call).map(|text| (call, text))) else {
        complain(context, function, "an argument, the Call-ID or a tag is missing or unusable");
        return done(false);
    };
    let node = context.node;
    let work = super::ask(node, own, place.set, call.call_id, false, vec![text]);
    Pending::job(node, work, move |context, output| {
        let problem = match output {
            Some(Ok((relay, answers))) => {
                if let Some(var) = &place.socket_var {
                    context.write_var(var, Value::from(relay.spec.url.as_str()));
                }
                let answer = answers.first().map(|answer| String::from_utf8_lossy(answer)).unwrap_or_default();
                match error_code(&answer) {
                    None => return done(finish(context, answer.trim())),
                    Some(code) => format!("the relay refused: error {code}"),
                }
            }
            Some(Err(error)) => error.to_string(),
            None => "no relay answered in time".to_owned(),
        };
        complain(context, function, &problem);
        done(false)
    })
}

fn with_to(tag: Option<&str>, stream: &str) -> String {
    tag.map(|tag| format!(" {tag}{stream}")).unwrap_or_default()
}

/// `D call-id from-tag [to-tag]`.
pub(super) fn delete_command(call: &Call) -> String {
    format!("D {} {}{}", call.call_id, call.from_tag, with_to(call.to_tag.as_deref(), ""))
}

/// `rtpproxy_unforce([set_id[, sock_var]])`.
pub(super) fn unforce(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let place = Place::of(own, args, 0);
    if let Some(call) = Call::of(context) {
        let key = call.call_id.into_bytes();
        // Read before the command is sent: the relay of the call is asked, then forgotten.
        let called = command(
            context,
            own,
            "rtpproxy_unforce",
            place,
            |call| Some(delete_command(call)),
            move |_, _| {
                own.relays.forget(&key);
                true
            },
        );
        return called;
    }
    complain(context, "rtpproxy_unforce", "the Call-ID or a tag is missing or unusable");
    done(false)
}

/// Tags in the order that says who hears a prompt; that one first.
fn hearing(call: &Call, is_uac: bool) -> Option<(&str, Option<&str>)> {
    if is_uac {
        Some((&call.from_tag, call.to_tag.as_deref()))
    } else {
        Some((call.to_tag.as_deref()?, Some(&call.from_tag)))
    }
}

/// `rtpproxy_stream2uac|s(prompt_name, count[, set_id[, sock_var]])`.
pub(super) fn stream(context: &mut Context, args: &[Arg], is_uac: bool) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let prompt = String::from_utf8_lossy(arg_text(args, 0).unwrap_or_default()).into_owned();
    let count = arg_int(args, 1).unwrap_or(1);
    let text = |call: &Call| {
        let (first, second) = hearing(call, is_uac).filter(|_| is_word(&prompt))?;
        Some(format!("P{count} {} {prompt} session {first};1{}", call.call_id, with_to(second, ";1")))
    };
    let place = Place::of(own, args, 2);
    command(context, own, if is_uac { "rtpproxy_stream2uac" } else { "rtpproxy_stream2uas" }, place, text, |_, _| true)
}

/// `rtpproxy_stop_stream2uac|s([set_id[, sock_var]])`.
pub(super) fn stop_stream(context: &mut Context, args: &[Arg], is_uac: bool) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let text = |call: &Call| {
        let (first, second) = hearing(call, is_uac)?;
        Some(format!("S {} {first};1{}", call.call_id, with_to(second, ";1")))
    };
    let name = if is_uac { "rtpproxy_stop_stream2uac" } else { "rtpproxy_stop_stream2uas" };
    let place = Place::of(own, args, 0);
    command(context, own, name, place, text, |_, _| true)
}

/// `rtpproxy_start_recording([set_id[, sock_var[, flags[, destination[, mediastream]]]]])`.
pub(super) fn record(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let text_at =
        |at| arg_text(args, at).filter(|text| !text.is_empty()).map(|text| String::from_utf8_lossy(text).into_owned());
    let (flags, destination) = (text_at(2).unwrap_or_default(), text_at(3));
    let stream = arg_int(args, 4);
    let text = |call: &Call| {
        if !flags.is_empty() && !is_word(&flags) || stream.is_some_and(|stream| stream < 1) {
            return None;
        }
        let (to, from) = (call.to_tag.as_deref(), &call.from_tag);
        match &destination {
            None => Some(format!("R{flags} {} {from}{}", call.call_id, with_to(to, ""))),
            Some(destination) => {
                let at = stream.map(|stream| format!(";{stream}")).unwrap_or_default();
                let text = format!("C{flags} {} {destination} {from}{at}{}", call.call_id, with_to(to, &at));
                Some(text).filter(|_| is_word(destination))
            }
        }
    };
    let place = Place::of(own, args, 0);
    command(context, own, "rtpproxy_start_recording", place, text, |_, _| true)
}

fn query(call: &Call, names: &str) -> String {
    format!("Q {} {}{}{names}", call.call_id, call.from_tag, with_to(call.to_tag.as_deref(), ""))
}

fn numbers(answer: &str) -> Vec<i32> {
    let number = |word: &str| word.parse::<i64>().ok().map(|int| i32::try_from(int).unwrap_or(i32::MAX));
    answer.split_whitespace().map_while(number).collect()
}

/// `rtpproxy_stats(up, down, sent, fail[, set_id[, sock_var]])`.
pub(super) fn counters(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let vars: Vec<_> = (0..4).filter_map(|at| arg_var(args, at).cloned()).collect();
    let place = Place::of(own, args, 4);
    command(
        context,
        own,
        "rtpproxy_stats",
        place,
        |call| Some(query(call, "")),
        move |context, answer| {
            // The first number is the time left.
            let numbers = numbers(answer);
            let Some(numbers) = numbers.get(1..5) else { return false };
            vars.iter().zip(numbers).all(|(var, number)| context.write_var(var, Value::Int(*number)))
        },
    )
}

/// Names of the counters, in the order in which scripts read them.
const ALL_COUNTERS: &str =
    " ttl npkts_ina npkts_ino nrelayed ndropped rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs";

/// `rtpproxy_all_stats(stats_avp[, set_id[, sock_var]])`.
pub(super) fn all_counters(context: &mut Context, args: &[Arg]) -> Called {
    let Some(own) = super::own(context) else { return done(false) };
    let Some(var) = arg_var(args, 0).cloned() else { return done(false) };
    let place = Place::of(own, args, 1);
    command(
        context,
        own,
        "rtpproxy_all_stats",
        place,
        |call| Some(query(call, ALL_COUNTERS)),
        move |context, answer| {
            let numbers = numbers(answer);
            // The value written last is on top of an AVP.
            !numbers.is_empty() && numbers.iter().rev().all(|number| context.write_var(&var, Value::Int(*number)))
        },
    )
}
