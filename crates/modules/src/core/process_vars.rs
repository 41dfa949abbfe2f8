//! Variables of the process: time, log levels, process id, command line. They look at no message.

use std::fmt::Write;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::UNIX_EPOCH;

use chrono::{DateTime, Local, TimeZone};
use tandem_module::context::Context;
use tandem_module::declare::VarCall;
use tandem_module::settings::Settings;
use tandem_script::value::{Text, Value};

/// Levels as the script set them, to go back to.
pub(super) struct Levels {
    log: i32,
    xlog: i32,
}

impl Levels {
    pub(super) fn new(settings: &Settings) -> Levels {
        Levels { log: settings.log_level.load(Ordering::Relaxed), xlog: settings.xlog_level.load(Ordering::Relaxed) }
    }
}

/// The initial `log_level` and `xlog_level`.
pub(super) fn initial_levels(context: &Context) -> (i32, i32) {
    context.node.state::<Levels>().map_or((2, 2), |levels| (levels.log, levels.xlog))
}

fn set_level(level: &AtomicI32, initial: i32, value: &Value) -> bool {
    match value.as_int() {
        Some(wanted) => level.store(wanted, Ordering::Relaxed),
        None if value.is_null() => level.store(initial, Ordering::Relaxed),
        None => return false,
    }
    true
}

pub(super) fn log_level(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.node.settings.log_level.load(Ordering::Relaxed))
}

pub(super) fn set_log_level(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    set_level(&context.node.settings.log_level, initial_levels(context).0, &value)
}

pub(super) fn xlog_level(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.node.settings.xlog_level.load(Ordering::Relaxed))
}

pub(super) fn set_xlog_level(context: &mut Context, _: &VarCall<'_>, value: Value) -> bool {
    set_level(&context.node.settings.xlog_level, initial_levels(context).1, &value)
}

pub(super) fn process_id(_: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(std::process::id() as i32)
}

pub(super) fn unix_time(_: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(tandem_module::node::unix_secs() as i32)
}

pub(super) fn unix_micros(_: &mut Context, _: &VarCall<'_>) -> Value {
    let now = tandem_module::clock::system().duration_since(UNIX_EPOCH).unwrap_or_default();
    Value::Int(now.subsec_micros() as i32)
}

pub(super) fn start_time(context: &mut Context, _: &VarCall<'_>) -> Value {
    Value::Int(context.node.started().1 as i32)
}

/// Text of a moment by a strftime format; `None` when the format cannot be understood.
pub(crate) fn format_time(moment: DateTime<Local>, format: &str) -> Option<String> {
    let mut out = String::new();
    write!(out, "{}", moment.format(format)).ok()?;
    Some(out)
}

pub(super) fn date_text(_: &mut Context, _: &VarCall<'_>) -> Value {
    let now = local_now();
    // As ctime(3), without the line end.
    let text = format_time(now, "%a %b %e %H:%M:%S %Y").unwrap_or_default();
    Value::Dual(Text::from(text), now.timestamp() as i32)
}

pub(super) fn time(_: &mut Context, call: &VarCall<'_>) -> Value {
    let format = String::from_utf8_lossy(call.name.unwrap_or_default());
    format_time(local_now(), &format).map_or(Value::Null, |text| Value::Text(Text::from(text)))
}

/// Now, local time.
pub(crate) fn local_now() -> DateTime<Local> {
    tandem_module::clock::system().into()
}

/// A moment given in Unix seconds, local time.
pub(crate) fn local_time(unix_secs: i64) -> Option<DateTime<Local>> {
    Local.timestamp_opt(unix_secs, 0).single()
}

/// `$argv(name)`: `-o name=value` of the command line.
pub(super) fn argument(_: &mut Context, call: &VarCall<'_>) -> Value {
    let wanted = String::from_utf8_lossy(call.name.unwrap_or_default()).into_owned();
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let Some(option) = arg.strip_prefix("-o") else { continue };
        let option = if option.is_empty() { args.next().unwrap_or_default() } else { option.to_owned() };
        if let Some((name, value)) = option.split_once('=')
            && name == wanted
        {
            return Value::from(value);
        }
    }
    Value::Null
}

/// `$C(xy)`: the escape sequence for foreground `x` and background `y`; empty unless `xlog_force_color` is set.
pub(super) fn colour(context: &mut Context, call: &VarCall<'_>) -> Value {
    let Some([front, back]) = call.name.filter(|_| context.node.settings.has_colours) else {
        return Value::Text(Text::EMPTY);
    };
    // ECMA-48: 30 and 40 are black, 39 and 49 whatever the terminal takes.
    let number = |letter: u8| match letter {
        b'x' => Some(9),
        other => b"srgybpcw".iter().position(|known| *known == other),
    };
    let (Some(fore), Some(ground)) = (number(front.to_ascii_lowercase()), number(*back)) else {
        return Value::Text(Text::EMPTY);
    };
    let is_bold = u8::from(front.is_ascii_uppercase());
    Value::Text(Text::from(format!("\x1b[{is_bold};3{fore};4{ground}m")))
}
