//! Functions and management commands of the module, locks and recurrences excepted.

use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::{Map, Value as Json, json};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{SetupError, arg_int, arg_var};
use tandem_module::mi::{MiError, MiReply, MiRequest, MiResult};
use tandem_module::node::NodeRef;
use tandem_module::run::Pending;
use tandem_script::avp::AvpName;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use super::{COMMANDS, State};
use crate::core::table::done;

fn probability(context: &Context) -> i32 {
    context.node.state::<State>().map_or(0, |state| state.probability.load(Ordering::Relaxed))
}

pub(super) fn rand_event(context: &mut Context, args: &[Arg]) -> Called {
    let wanted = arg_int(args, 0).unwrap_or_else(|| probability(context));
    done(rand::rng().random_range(0.0..100.0) < f64::from(wanted))
}

fn set_probability(state: Option<&State>, wanted: Option<i32>) -> bool {
    match (state, wanted) {
        (Some(state), Some(wanted @ 0..=100)) => {
            state.probability.store(wanted, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

pub(super) fn rand_set_prob(context: &mut Context, args: &[Arg]) -> Called {
    done(set_probability(context.node.state(), arg_int(args, 0)))
}

pub(super) fn rand_reset_prob(context: &mut Context, _: &[Arg]) -> Called {
    let state = context.node.state::<State>();
    done(set_probability(state, state.map(|state| state.initial_probability)))
}

pub(super) fn rand_get_prob(context: &mut Context, _: &[Arg]) -> Called {
    // 0 would end the script.
    Called::Done(match probability(context) {
        0 => -1,
        probability => probability,
    })
}

fn wait(span: Option<Duration>) -> Called {
    match span {
        Some(span) => Pending::sleep(span, |_| done(true)),
        None => done(false),
    }
}

pub(super) fn sleep(_: &mut Context, args: &[Arg]) -> Called {
    wait(arg_int(args, 0).and_then(|secs| u64::try_from(secs).ok()).map(Duration::from_secs))
}

pub(super) fn usleep(_: &mut Context, args: &[Arg]) -> Called {
    wait(arg_int(args, 0).and_then(|micros| u64::try_from(micros).ok()).map(Duration::from_micros))
}

pub(super) fn abort(context: &mut Context, _: &[Arg]) -> Called {
    context.log(LogLevel::Error, "abort() was called by the script; it is ignored");
    done(true)
}

pub(super) fn nothing(_: &mut Context, _: &[Arg]) -> Called {
    done(true)
}

/// All values of an AVP; of other variables the one they have.
fn values(context: &mut Context, args: &[Arg]) -> Vec<Value> {
    let Some(var) = arg_var(args, 0).cloned() else { return Vec::new() };
    match var.avp_name() {
        Some(name) => context.avps.values(name).cloned().collect(),
        None => Some(context.read_var(&var)).filter(|value| !value.is_null()).into_iter().collect(),
    }
}

pub(super) fn set_count(context: &mut Context, args: &[Arg]) -> Called {
    let count = values(context, args).len();
    let Some(out) = arg_var(args, 1) else { return done(false) };
    done(context.write_var(out, Value::Int(count as i32)))
}

/// Draws an index with a chance in proportion to its value. Index 0 cannot be told from "end of script", so the code is
/// the index only from 1 on and -2 stands for 0, as a script can test; -1 without values.
pub(super) fn select_weight(context: &mut Context, args: &[Arg]) -> Called {
    let weights: Vec<i64> =
        values(context, args).iter().map(|value| i64::from(value.as_int().unwrap_or(0).max(0))).collect();
    let sum: i64 = weights.iter().sum();
    if sum <= 0 {
        return done(false);
    }
    let mut drawn = rand::rng().random_range(0..sum);
    for (at, weight) in weights.iter().enumerate() {
        if drawn < *weight {
            return Called::Done(if at == 0 { -2 } else { at as i32 });
        }
        drawn -= weight;
    }
    done(false)
}

pub(super) fn ts_usec_delta(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(a), Some(b), Some(c), Some(d)) = (arg_int(args, 0), arg_int(args, 1), arg_int(args, 2), arg_int(args, 3))
    else {
        return done(false);
    };
    let moment = |secs: i32, micros: i32| i64::from(secs) * 1_000_000 + i64::from(micros);
    let delta = (moment(a, b) - moment(c, d)).abs();
    if let Some(text) = arg_var(args, 4)
        && !context.write_var(text, Value::from(delta.to_string().as_str()))
    {
        return done(false);
    }
    match (arg_var(args, 5), i32::try_from(delta)) {
        (None, _) => done(true),
        (Some(out), Ok(delta)) => done(context.write_var(out, Value::Int(delta))),
        (Some(_), Err(_)) => done(false),
    }
}

pub(super) fn accurate_time(context: &mut Context, args: &[Arg]) -> Called {
    let now = tandem_module::clock::system().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (Some(secs), Some(micros)) = (arg_var(args, 0), arg_var(args, 1)) else { return done(false) };
    let is_set = context.write_var(secs, Value::Int(now.as_secs() as i32))
        && context.write_var(micros, Value::Int(now.subsec_micros() as i32));
    let text = format!("{}.{:06}", now.as_secs(), now.subsec_micros());
    done(is_set && arg_var(args, 2).is_none_or(|out| context.write_var(out, Value::from(text.as_str()))))
}

pub(super) fn shuffle(context: &mut Context, args: &[Arg]) -> Called {
    let Some(name) = arg_var(args, 0).and_then(|var| var.avp_name()) else { return done(false) };
    shuffle_avps(context, name);
    done(true)
}

/// Puts the values of an AVP in random order.
pub(crate) fn shuffle_avps(context: &mut Context, name: AvpName) {
    let mut all: Vec<Value> = context.avps.values(name).cloned().collect();
    all.shuffle(&mut rand::rng());
    context.avps.remove_all(name);
    for value in all {
        context.avps.push(name, value);
    }
}

pub(super) fn init(node: NodeRef) -> Result<(), SetupError> {
    for spec in COMMANDS {
        let name = spec.name;
        node.mi.register(*spec, move |request| MiReply::Now(run(node, name, request)));
    }
    Ok(())
}

fn run(node: NodeRef, name: &str, request: &MiRequest) -> MiResult {
    let state = node.state::<State>().ok_or_else(|| MiError::new(500, "module not set up"))?;
    match name {
        "cfgutils:rand_set_prob" => {
            let wanted = i32::try_from(request.int("prob_proc")?).ok();
            if set_probability(Some(state), wanted) { Ok(json!("OK")) } else { Err(MiError::bad("prob_proc")) }
        }
        "cfgutils:rand_reset_prob" => {
            set_probability(Some(state), Some(state.initial_probability));
            Ok(json!("OK"))
        }
        "cfgutils:rand_get_prob" => Ok(
            json!({ "The actual probability is": format!("{} percent.", state.probability.load(Ordering::Relaxed)) }),
        ),
        "cfgutils:shv_set" => {
            let (name, value) = (request.text("name")?, request.text("value")?);
            let value = match request.text("type")?.as_str() {
                "int" => Value::Int(value.trim().parse().map_err(|_| MiError::bad("value"))?),
                "str" => Value::from(value.as_str()),
                _ => return Err(MiError::bad("type")),
            };
            if state.set_shared(Text::from(name), value) {
                Ok(json!("OK"))
            } else {
                Err(MiError::new(500, "too many variables"))
            }
        }
        _ => get_shared(state, request.text_opt("name")?),
    }
}

fn get_shared(state: &State, wanted: Option<String>) -> MiResult {
    let shared = state.shared.read();
    let mut found = Map::new();
    for (name, value) in shared.iter() {
        if wanted.as_ref().is_some_and(|wanted| wanted.as_bytes() != name.as_bytes()) {
            continue;
        }
        let shown = match value {
            Value::Int(int) => json!(int),
            value => json!(value.as_text().map(|text| text.to_str().into_owned())),
        };
        found.insert(name.to_str().into_owned(), shown);
    }
    if wanted.is_some() && found.is_empty() { Err(MiError::new(404, "Not found")) } else { Ok(Json::Object(found)) }
}
