//! `$shv`, `$RANDOM`, `$env`, `$ctime`.

use chrono::{Datelike, Timelike};
use rand::Rng;
use tandem_module::context::Context;
use tandem_module::declare::VarCall;
use tandem_script::value::{Text, Value};

use super::{SHARED_MAX, State};

pub(super) fn shared(context: &mut Context, call: &VarCall<'_>) -> Value {
    let name = Text::copy(call.name.unwrap_or_default());
    let state = context.node.state::<State>();
    state.and_then(|state| state.shared.read().get(&name).cloned()).unwrap_or(Value::Null)
}

pub(super) fn set_shared(context: &mut Context, call: &VarCall<'_>, value: Value) -> bool {
    let name = Text::copy(call.name.unwrap_or_default());
    context.node.state::<State>().is_some_and(|state| state.set_shared(name, value))
}

impl State {
    pub(super) fn set_shared(&self, name: Text, value: Value) -> bool {
        let mut shared = self.shared.write();
        if value.is_null() {
            shared.remove(&name);
            return true;
        }
        if shared.len() >= SHARED_MAX && !shared.contains_key(&name) {
            return false;
        }
        shared.insert(name, value.into_stored());
        true
    }
}

pub(super) fn random(_: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(rand::rng().random_range(0..i32::MAX))
}

pub(super) fn environment(_: &mut Context, call: &VarCall<'_>) -> Value {
    let name = String::from_utf8_lossy(call.name.unwrap_or_default());
    if name.is_empty() || name.contains(['=', '\0']) {
        return Value::Null;
    }
    std::env::var_os(&*name).map_or(Value::Null, |value| Value::from(value.to_string_lossy().as_ref()))
}

pub(super) fn local_time(_: &mut Context, call: &VarCall<'_>) -> Value {
    let now = crate::core::local_now();
    let number = match call.name.unwrap_or_default().to_ascii_lowercase().as_slice() {
        b"sec" => now.second(),
        b"min" => now.minute(),
        b"hour" => now.hour(),
        b"mday" => now.day(),
        b"mon" => now.month(),
        b"year" => now.year() as u32,
        // Sunday is 1, as OpenSIPS counts.
        b"wday" => now.weekday().num_days_from_sunday() + 1,
        b"yday" => now.ordinal(),
        b"isdst" => 0,
        _ => return Value::Null,
    };
    Value::Int(number as i32)
}
