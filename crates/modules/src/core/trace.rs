//! `script_trace()`: turns the trace of the running script on and off. The lines are made by the VM.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_script::format::Format;
use tandem_script::pvar::Scope;
use tandem_script::value::Text;
use tandem_script::vm::{Arg, Host, LogLevel, Trace};

use super::table::done;

/// `script_trace([level, format[, info]])`: without arguments the trace ends; it ends by itself with the run.
pub(super) fn script_trace(context: &mut Context, args: &[Arg]) -> Called {
    let Some(format) = arg_text(args, 1) else {
        context.vars().trace(None);
        return done(true);
    };
    let level = match arg_int(args, 0) {
        Some(number) => LogLevel::from_number(number),
        None => match level_of(arg_text(args, 0).unwrap_or_default()) {
            Some(level) => level,
            None => return done(false),
        },
    };
    let dialect = context.program().dialect();
    let parsed = Format::parse_in(format, Scope { surface: context.node.surface(), dialect });
    let format = match parsed {
        Ok(format) => format,
        Err(error) => {
            context.log(LogLevel::Error, &format!("script_trace(): {}", error.message));
            return done(false);
        }
    };
    let info = Text::copy(arg_text(args, 2).unwrap_or_default());
    context.vars().trace(Some(Trace { level, format, info }));
    done(true)
}

/// A number, or a name such as `L_INFO`.
fn level_of(text: &[u8]) -> Option<LogLevel> {
    let text = std::str::from_utf8(text).ok()?.trim();
    match text.parse() {
        Ok(number) => Some(LogLevel::from_number(number)),
        Err(_) if text.starts_with("L_") => LogLevel::from_name(text.as_bytes()),
        Err(_) => None,
    }
}
