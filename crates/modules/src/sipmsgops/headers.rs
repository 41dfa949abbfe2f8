//! Functions on header lines. They see the headers as received; what they change shows in what is sent.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_text, arg_var};
use tandem_script::pvar::CompiledVar;
use tandem_script::regex::{PosixRegex, RegexFlags};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};
use tandem_sip::{CommaList, HeaderEntry, Message};

use crate::core::table::done;

pub(super) fn append_to_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).filter(|text| !text.is_empty()) else { return done(false) };
    context.edits.lumps.append_to_reply(text.to_vec());
    done(true)
}

pub(super) fn append_time(context: &mut Context, _: &[Arg]) -> Called {
    let now = chrono::DateTime::<chrono::Utc>::from(tandem_module::clock::system());
    let date = now.format("Date: %a, %d %b %Y %H:%M:%S GMT\r\n").to_string();
    context.edits.lumps.append_to_reply(date.into_bytes());
    done(true)
}

fn anchor<'m>(message: &'m Message, args: &[Arg]) -> Option<&'m HeaderEntry> {
    arg_text(args, 1).and_then(|name| message.header_by_name(name))
}

pub(super) fn append(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).filter(|text| !text.is_empty()) else { return done(false) };
    match anchor(&context.message, args) {
        Some(entry) => context.edits.lumps.insert_header_after(entry, text.to_vec()),
        None => context.edits.lumps.append_header(&context.message, text.to_vec()),
    }
    done(true)
}

pub(super) fn insert(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).filter(|text| !text.is_empty()) else { return done(false) };
    match anchor(&context.message, args) {
        Some(entry) => context.edits.lumps.insert_header_before(entry, text.to_vec()),
        None => context.edits.lumps.insert_header(&context.message, text.to_vec()),
    }
    done(true)
}

pub(super) fn append_uri(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(prefix), Some(suffix)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let line = [prefix, context.message.request_uri().unwrap_or_default(), suffix].concat();
    context.edits.lumps.append_header(&context.message, line);
    done(true)
}

pub(super) fn is_present(context: &mut Context, args: &[Arg]) -> Called {
    done(arg_text(args, 0).is_some_and(|name| context.message.header_by_name(name).is_some()))
}

pub(super) fn append_body_to_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some(body) = arg_text(args, 0) else { return done(false) };
    context.edits.reply_body = Some(Text::copy(body)).filter(|body| !body.is_empty());
    done(true)
}

/// All headers of a name, with `r` all whose name fits a regular expression, with `g` a glob.
pub(super) fn remove(context: &mut Context, args: &[Arg]) -> Called {
    let Some(name) = arg_text(args, 0) else { return done(false) };
    match arg_text(args, 1).unwrap_or_default() {
        b"" => {}
        b"g" | b"G" => return remove_glob(context, args),
        b"r" | b"R" => {
            let flags = RegexFlags { ignore_case: true, is_line_mode: false };
            return match PosixRegex::with_flags(name, flags) {
                Ok(regex) => remove_if(context, |name| regex.is_match(name)),
                Err(_) => {
                    context.log(LogLevel::Error, "remove_hf(): the name is no regular expression");
                    done(false)
                }
            };
        }
        _ => {
            context.log(LogLevel::Error, "remove_hf(): the second argument is r (regular expression) or g (glob)");
            return done(false);
        }
    }
    let mut count = 0;
    for entry in context.message.headers_by_name(name) {
        context.edits.lumps.remove_header(entry);
        count += 1;
    }
    done(count > 0)
}

/// Appends one value; variables other than AVPs keep the first.
fn append_to(context: &mut Context, var: &CompiledVar, value: Value) {
    match var.avp_name() {
        Some(name) => drop(context.avps.append(name, value)),
        None if context.read_var(var).is_null() => drop(context.write_var(var, value)),
        None => {}
    }
}

pub(super) fn glob_values(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(pattern), Some(names), Some(values)) =
        (arg_text(args, 0), arg_var(args, 1).cloned(), arg_var(args, 2).cloned())
    else {
        return done(false);
    };
    let found: Vec<(Value, Value)> = {
        let message = &context.message;
        let fitting = message.headers().iter().filter(|entry| glob(pattern, message.bytes(entry.name)));
        fitting.map(|entry| (Value::text(message.bytes(entry.name)), Value::text(message.value(entry)))).collect()
    };
    let is_any = !found.is_empty();
    for (name, value) in found {
        append_to(context, &names, name);
        append_to(context, &values, value);
    }
    done(is_any)
}

fn remove_if(context: &mut Context, fits: impl Fn(&[u8]) -> bool) -> Called {
    let mut count = 0;
    for entry in context.message.headers() {
        if fits(context.message.bytes(entry.name)) {
            context.edits.lumps.remove_header(entry);
            count += 1;
        }
    }
    done(count > 0)
}

pub(super) fn remove_matching(context: &mut Context, args: &[Arg]) -> Called {
    let Some(Arg::Regex(regex)) = args.first() else { return done(false) };
    remove_if(context, |name| regex.is_match(name))
}

pub(super) fn remove_glob(context: &mut Context, args: &[Arg]) -> Called {
    let Some(pattern) = arg_text(args, 0) else { return done(false) };
    remove_if(context, |name| glob(pattern, name))
}

/// Whether `text` fits a pattern of `*` and `?`, ASCII case ignored. Linear in both but for one remembered star.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match (pattern.get(at), text.get(seen)) {
            (Some(b'*'), _) => {
                star = Some((at, seen));
                at += 1;
            }
            (Some(wanted), Some(byte)) if *wanted == b'?' || wanted.eq_ignore_ascii_case(byte) => {
                at += 1;
                seen += 1;
            }
            _ => match star {
                Some((back, from)) => {
                    star = Some((back, from + 1));
                    at = back + 1;
                    seen = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

pub(super) fn has_option(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(name), Some(option)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let message = &context.message;
    let mut listed = message.headers_by_name(name).flat_map(|entry| CommaList::new(message.value(entry)));
    done(listed.any(|value| value.eq_ignore_ascii_case(option)))
}

pub(super) fn add_option(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(name), Some(option)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    match context.message.header_by_name(name) {
        Some(entry) => {
            let is_empty = entry.value.is_empty();
            let text = if is_empty { option.to_vec() } else { [b", ", option].concat() };
            context.edits.lumps.insert_after(entry.value.end, text);
            done(true)
        }
        None => done(false),
    }
}

pub(super) fn remove_option(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(name), Some(option)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let message = &context.message;
    let mut count = 0;
    for entry in message.headers_by_name(name) {
        for value in CommaList::new(message.value(entry)) {
            if value.eq_ignore_ascii_case(option)
                && let Some(span) = message.span_of(value)
            {
                context.edits.lumps.remove_value(message, entry, span);
                count += 1;
            }
        }
    }
    done(count > 0)
}
