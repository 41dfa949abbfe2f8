//! Module `maxfwd`: adds, decrements and checks Max-Forwards (RFC 3261 §16.6 step 3). It answers nothing.

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, SetupError, arg_int};
use tandem_script::surface::ArgType::Int;
use tandem_script::surface::{ParamSpec, ParamType, Routes, arg};
use tandem_script::value::int_text;
use tandem_script::vm::Arg;
use tandem_sip::HeaderKind;

use crate::core::table::{function, param};

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "maxfwd",
    doc: "adds, decrements and checks Max-Forwards",
    params: PARAMS,
    functions: FUNCTIONS,
    setup: |setup| {
        let limit = setup.params.int("max_limit", LIMIT_DEFAULT);
        if !(1..=LIMIT_DEFAULT).contains(&limit) {
            return Err(SetupError::param("max_limit", "has to be between 1 and 256"));
        }
        setup.state(MaxForwards { limit });
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

/// Largest value that leaves this server unless `max_limit` says less.
const LIMIT_DEFAULT: i32 = 256;

struct MaxForwards {
    limit: i32,
}

static PARAMS: &[ParamSpec] =
    &[param("max_limit", ParamType::Int, "256", "largest Max-Forwards value that leaves this server, 1 to 256")];

static FUNCTIONS: &[Function] = &[
    function(
        "mf_process_maxfwd_header",
        &[arg("max_value", Int)],
        Routes::REQUEST,
        "decrements Max-Forwards (1), adds it when missing (2), -1 when it is 0, -2 when it is no number",
        process,
    ),
    function(
        "is_maxfwd_lt",
        &[arg("max_value", Int)],
        Routes::REQUEST,
        "whether Max-Forwards, as it will be sent, is below a value; -2 when there is none",
        is_less,
    ),
];

/// The value of a header that `mf_process_maxfwd_header()` added.
struct Added(i32);

/// The header was decremented. Without content, so that noting it allocates nothing.
struct Decremented;

fn process(context: &mut Context, args: &[Arg]) -> Called {
    let Some(max) = arg_int(args, 0) else { return Called::Done(-2) };
    let limit = context.node.state::<MaxForwards>().map_or(LIMIT_DEFAULT, |state| state.limit);
    let Some(entry) = context.message.header(HeaderKind::MaxForwards).copied() else {
        let value = max.clamp(0, limit);
        context.edits.lumps.append_header(&context.message, [&b"Max-Forwards: "[..], &int_text(value)].concat());
        context.set_slot(Added(value));
        return Called::Done(2);
    };
    match context.message.max_forwards() {
        Ok(Some(0)) => Called::Done(-1),
        Ok(Some(value)) => {
            let value = i32::try_from(value - 1).unwrap_or(i32::MAX).min(limit);
            let text = int_text(value);
            context.edits.lumps.set_header_value(&entry, short(&text));
            context.set_slot(Decremented);
            Called::Done(1)
        }
        Ok(None) | Err(_) => Called::Done(-2),
    }
}

/// Decimal texts up to 256 without an allocation.
fn short(text: &[u8]) -> bytes::Bytes {
    const DIGITS: &[u8] = b"0123456789";
    const TENS: &[u8] = b"10111213141516171819202122232425262728293031323334353637383940414243444546474849505152535455\
565758596061626364656667686970717273747576777879808182838485868788899091929394959697989900";
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<usize>().ok());
    match number {
        Some(number @ 0..=9) => bytes::Bytes::from_static(DIGITS.get(number..number + 1).unwrap_or_default()),
        Some(number @ 10..=99) => {
            let at = (number - 10) * 2;
            bytes::Bytes::from_static(TENS.get(at..at + 2).unwrap_or_default())
        }
        _ => bytes::Bytes::copy_from_slice(text),
    }
}

fn is_less(context: &mut Context, args: &[Arg]) -> Called {
    let Some(max) = arg_int(args, 0) else { return Called::Done(-3) };
    let value = match context.message.max_forwards() {
        Ok(Some(value)) => {
            let taken_off = i32::from(context.slot::<Decremented>().is_some());
            i32::try_from(value).unwrap_or(i32::MAX) - taken_off
        }
        Ok(None) => match context.slot::<Added>() {
            Some(Added(value)) => *value,
            None => return Called::Done(-2),
        },
        Err(_) => return Called::Done(-3),
    };
    Called::Done(if value < max { 1 } else { -1 })
}

#[cfg(test)]
mod tests;
