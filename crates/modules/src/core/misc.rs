//! The rest of the core functions: formats into variables, URIs from parts, time stamps, events, logs.

use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use hashbrown::HashSet;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_text, arg_var};
use tandem_module::event::Event;
use tandem_module::node::NodeRef;
use tandem_module::stat::Stat;
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use super::table::done;

/// Names of event parameters a process keeps for `raise_event()`; parameters with further names are passed without one.
pub const EVENT_PARAM_NAMES_MAX: usize = 10_000;

/// What the core keeps.
#[derive(Default)]
pub(crate) struct State {
    forwarded: OnceLock<Arc<Stat>>,
    param_names: Mutex<HashSet<&'static str>>,
}

impl State {
    pub(super) fn of(node: NodeRef) -> &'static State {
        static SPARE: OnceLock<State> = OnceLock::new();
        node.state().unwrap_or_else(|| SPARE.get_or_init(State::default))
    }

    /// Requests forwarded statelessly.
    pub(super) fn forwarded(&self, node: NodeRef) -> &Stat {
        self.forwarded.get_or_init(|| node.stats.stat("core", "fwd_requests"))
    }

    pub(super) fn param_name(&self, name: &[u8]) -> &'static str {
        let Ok(name) = std::str::from_utf8(name) else { return "" };
        let mut names = self.param_names.lock();
        if let Some(known) = names.get(name) {
            return known;
        }
        if names.len() >= EVENT_PARAM_NAMES_MAX {
            return "";
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        names.insert(kept);
        kept
    }
}

/// `pv_printf($v, fmt)`, `avp_printf`.
pub(super) fn pv_printf(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(var), Some(text)) = (arg_var(args, 0), arg_text(args, 1)) else { return done(false) };
    done(context.write_var(var, Value::text(text)))
}

/// `construct_uri(proto, [user], domain, [port], [params], $avp(out))`.
pub(super) fn construct_uri(context: &mut Context, args: &[Arg]) -> Called {
    let given = |at: usize| arg_text(args, at).filter(|text| !text.is_empty());
    let (Some(scheme), Some(domain), Some(out)) = (given(0), given(2), arg_var(args, 5)) else { return done(false) };
    let mut uri = scheme.to_vec();
    uri.push(b':');
    if let Some(user) = given(1) {
        uri.extend_from_slice(user);
        uri.push(b'@');
    }
    uri.extend_from_slice(domain);
    if let Some(port) = given(3) {
        uri.push(b':');
        uri.extend_from_slice(port);
    }
    if let Some(params) = given(4) {
        uri.push(b';');
        uri.extend_from_slice(params);
    }
    done(context.write_var(out, Value::Text(Text::from(uri))))
}

/// `get_timestamp($avp(s), $avp(us))`.
pub(super) fn get_timestamp(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(secs), Some(micros)) = (arg_var(args, 0), arg_var(args, 1)) else { return done(false) };
    let now = tandem_module::clock::system().duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_set = context.write_var(secs, Value::Int(now.as_secs() as i32));
    done(is_set && context.write_var(micros, Value::Int(now.subsec_micros() as i32)))
}

/// `raise_event("E_NAME"[, $avp(names)[, $avp(values)]])`: the AVP added last is the first parameter.
pub(super) fn raise_event(context: &mut Context, args: &[Arg]) -> Called {
    let Some(name) = arg_text(args, 0).and_then(|name| std::str::from_utf8(name).ok()) else { return done(false) };
    let name = context.node.events.declare_dynamic(name);
    if !context.node.events.has_listeners(name) {
        return done(true);
    }
    let list = |context: &Context, at: usize| -> Vec<Value> {
        let avp = arg_var(args, at).and_then(|var| var.avp_name());
        avp.map(|avp| context.avps.values(avp).cloned().collect()).unwrap_or_default()
    };
    let (first, second) = (list(context, 1), list(context, 2));
    let state = State::of(context.node);
    let mut params: SmallVec<[(&'static str, Value); 4]> = SmallVec::new();
    if arg_var(args, 2).is_some() {
        let mut names = first.iter();
        for value in second {
            let name = names.next().and_then(Value::as_text).map_or("", |name| state.param_name(&name));
            params.push((name, value));
        }
    } else {
        params.extend(first.into_iter().map(|value| ("", value)));
    }
    let node = context.node;
    node.events.raise(node, Event { name, params }, Some(context));
    done(true)
}

/// `avp_print()`.
pub(super) fn avp_print(context: &mut Context, _: &[Arg]) -> Called {
    for (name, value) in context.avps.iter() {
        let mut text = Vec::new();
        value.print_into(&mut text);
        let line = format!("avp {} = {}", String::from_utf8_lossy(&name.name()), String::from_utf8_lossy(&text));
        context.log(LogLevel::Info, &line);
    }
    done(true)
}

/// Functions that are accepted and do nothing.
pub(super) fn nothing(_: &mut Context, _: &[Arg]) -> Called {
    done(true)
}
