//! The functions of `avpops` beside SQL and substitution.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text};
use tandem_module::edits::Target;
use tandem_script::avp::{AvpList, AvpName};
use tandem_script::regex::{PosixRegex, RegexFlags};
use tandem_script::value::{Text, Value, int_text};
use tandem_script::vm::Arg;

use super::arguments::{avp, flagged, number, refuse, value, variable};
use crate::cfgutils::shuffle_avps;
use crate::core::table::done;

fn values(avps: &AvpList, name: AvpName, is_all: bool) -> Vec<Value> {
    avps.values(name).take(if is_all { usize::MAX } else { 1 }).cloned().collect()
}

/// `is_avp_set(name[/flags])`.
pub(super) fn is_set(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0) else { return done(false) };
    let (name, flags) = flagged(text);
    let Some(var) = variable(context, name) else {
        // A bare name, as old scripts write it.
        let Some(name) = avp(context, name) else { return refuse(context, "is_avp_set", text) };
        return done(fits(context.avps.value(name, 0), &flags));
    };
    if !var.is_avp() {
        return refuse(context, "is_avp_set", text);
    }
    let value = match var.avp_name() {
        Some(name) if var.is_all() => context.avps.value(name, 0).cloned().unwrap_or_default(),
        _ => context.read_var(&var),
    };
    done(fits(Some(&value), &flags))
}

fn fits(value: Option<&Value>, flags: &[u8]) -> bool {
    let Some(value) = value.filter(|value| !value.is_null()) else { return false };
    let is_number = value.is_int_primary();
    flags.iter().all(|flag| match flag {
        b's' => !is_number,
        b'n' => is_number,
        b'e' if is_number => value.as_int() == Some(0),
        b'e' => value.as_text().is_none_or(|text| text.is_empty()),
        _ => true,
    })
}

/// `avp_delete(name[/g])`, `avp_delete("*")`.
pub(super) fn delete(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0) else { return done(false) };
    let (name, flags) = flagged(text);
    if matches!(name, b"*" | b"a" | b"A") {
        let was_empty = context.avps.is_empty();
        context.avps.clear();
        return done(!was_empty);
    }
    let Some(name) = avp(context, name) else { return refuse(context, "avp_delete", text) };
    let is_there = context.avps.value(name, 0).is_some();
    if flags.contains(&b'g') {
        context.avps.remove_all(name);
    } else {
        context.avps.remove(name, 0);
    }
    done(is_there)
}

/// `avp_shuffle(name)` (3.x).
pub(super) fn shuffle(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0) else { return done(false) };
    let Some(name) = avp(context, text.trim_ascii()) else { return refuse(context, "avp_shuffle", text) };
    shuffle_avps(context, name);
    done(context.avps.value(name, 0).is_some())
}

/// `avp_copy(old, new[/flags])`. With `g` the newest value is copied first, so that it ends below the others.
pub(super) fn copy(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(old), Some(new)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let (new_name, flags) = flagged(new);
    let Some(from) = avp(context, old.trim_ascii()) else { return refuse(context, "avp_copy", old) };
    let Some(to) = avp(context, new_name) else { return refuse(context, "avp_copy", new) };
    let is_all = flags.contains(&b'g');
    let copied = values(&context.avps, from, is_all);
    if flags.contains(&b'd') {
        if is_all {
            context.avps.remove_all(from);
        } else {
            context.avps.remove(from, 0);
        }
    }
    let mut count = 0;
    for value in copied {
        let value = if flags.contains(&b'n') {
            match number(&value) {
                Some(int) => Value::Int(int),
                None => continue,
            }
        } else if flags.contains(&b's') {
            Value::Text(
                value
                    .as_int()
                    .filter(|_| value.is_int_primary())
                    .map_or_else(|| value.as_text().unwrap_or(Text::EMPTY), int_text),
            )
        } else {
            value
        };
        count += usize::from(context.avps.push(to, value));
    }
    done(count > 0)
}

/// `operator/value[/flags]`. The value may contain slashes itself; what follows the last one are flags when it is only letters.
fn operation(text: &[u8]) -> Option<(Vec<u8>, &[u8], Vec<u8>)> {
    let at = text.iter().position(|byte| *byte == b'/')?;
    let operator = text.get(..at)?.trim_ascii().to_ascii_lowercase();
    let rest = text.get(at + 1..)?;
    let (value, flags) = flagged(rest);
    let has_flags = flags.len() <= 2 && flags.iter().all(|flag| matches!(flag, b'g' | b'i' | b'd'));
    Some(if has_flags { (operator, value, flags) } else { (operator, rest, Vec::new()) })
}

/// `avp_check(name, "operator/value[/flags]")`.
pub(super) fn check(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(name), Some(text)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let Some((operator, wanted, flags)) = operation(text) else { return refuse(context, "avp_check", text) };
    let Some(wanted) = value(context, wanted) else { return refuse(context, "avp_check", text) };
    let found = match avp(context, name.trim_ascii()) {
        Some(name) => values(&context.avps, name, flags.contains(&b'g')),
        None => match variable(context, name.trim_ascii()) {
            Some(var) => vec![context.read_var(&var)],
            None => return refuse(context, "avp_check", name),
        },
    };
    let ignores_case = flags.contains(&b'i');
    let test: Box<dyn Fn(&Value) -> bool> = match operator.as_slice() {
        b"re" => {
            let Some(pattern) = wanted.as_text() else { return done(false) };
            let flags = RegexFlags { ignore_case: ignores_case, is_line_mode: false };
            let Ok(regex) = PosixRegex::with_flags(&pattern, flags) else {
                return refuse(context, "avp_check", &pattern);
            };
            Box::new(move |value| value.as_text().is_some_and(|text| regex.is_match(&text)))
        }
        b"fm" => {
            let Some(pattern) = wanted.as_text() else { return done(false) };
            Box::new(move |value| value.as_text().is_some_and(|text| tandem_module::glob::matches(&pattern, &text)))
        }
        b"eq" | b"ne" | b"lt" | b"le" | b"gt" | b"ge" | b"and" | b"or" | b"xor" => {
            let operator = operator.clone();
            Box::new(move |value| compare(&operator, value, &wanted, ignores_case))
        }
        _ => return refuse(context, "avp_check", text),
    };
    done(found.iter().any(|value| !value.is_null() && test(value)))
}

/// Numbers compare as numbers when the AVP is one, text as text.
fn compare(operator: &[u8], value: &Value, wanted: &Value, ignores_case: bool) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let numbers = || Some((number(value)?, number(wanted)?));
    let bits = matches!(operator, b"and" | b"or" | b"xor");
    if bits {
        return numbers().is_some_and(|(left, right)| {
            let result = match operator {
                b"and" => left & right,
                b"or" => left | right,
                _ => left ^ right,
            };
            result != 0
        });
    }
    let order = if value.is_int_primary() {
        numbers().map(|(left, right)| left.cmp(&right))
    } else {
        value.as_text().zip(wanted.as_text()).map(|(left, right)| {
            if ignores_case { left.to_ascii_lowercase().cmp(&right.to_ascii_lowercase()) } else { left.cmp(&*right) }
        })
    };
    order.is_some_and(|order| match operator {
        b"eq" => order == Equal,
        b"ne" => order != Equal,
        b"lt" => order == Less,
        b"le" => order != Greater,
        b"gt" => order == Greater,
        _ => order != Less,
    })
}

/// `avp_op("source[/destination]", "operator/value[/flags]")`.
pub(super) fn compute(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(names), Some(text)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let Some((operator, operand, flags)) = operation(text) else { return refuse(context, "avp_op", text) };
    let (source, target) = match names.iter().position(|byte| *byte == b'/') {
        Some(at) => (names.get(..at).unwrap_or_default(), names.get(at + 1..).unwrap_or_default()),
        None => (names, names),
    };
    let (Some(source), Some(target)) = (avp(context, source.trim_ascii()), avp(context, target.trim_ascii())) else {
        return refuse(context, "avp_op", names);
    };
    let operand = value(context, operand).as_ref().and_then(number);
    let is_all = flags.contains(&b'g');
    let old = values(&context.avps, source, is_all);
    if flags.contains(&b'd') {
        if is_all {
            context.avps.remove_all(source);
        } else {
            context.avps.remove(source, 0);
        }
    }
    let mut count = 0;
    for value in old {
        let Some(result) = number(&value).and_then(|left| arithmetic(&operator, left, operand)) else {
            return refuse(context, "avp_op", text);
        };
        count += usize::from(context.avps.push(target, Value::Int(result)));
    }
    done(count > 0)
}

fn arithmetic(operator: &[u8], left: i32, right: Option<i32>) -> Option<i32> {
    if operator == b"not" {
        return Some(!left);
    }
    let right = right?;
    match operator {
        b"add" => Some(left.wrapping_add(right)),
        b"sub" => Some(left.wrapping_sub(right)),
        b"mul" => Some(left.wrapping_mul(right)),
        b"div" => left.checked_div(right),
        b"mod" => left.checked_rem(right),
        b"and" => Some(left & right),
        b"or" => Some(left | right),
        b"xor" => Some(left ^ right),
        _ => None,
    }
}

/// `avp_pushto(destination, name[/g])`.
pub(super) fn push_to(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(target), Some(text)) = (arg_text(args, 0), arg_text(args, 1)) else { return done(false) };
    let (name, flags) = flagged(text);
    let found = match avp(context, name) {
        Some(name) => values(&context.avps, name, flags.contains(&b'g')),
        None => match variable(context, name) {
            Some(var) => vec![context.read_var(&var)],
            None => return refuse(context, "avp_pushto", text),
        },
    };
    let place: &[u8] = match target.trim_ascii() {
        b"$ru" => b"$ru",
        b"$ru/username" => b"$rU",
        b"$ru/domain" => b"$rd",
        b"$du" => b"$du",
        b"$br" => b"",
        _ => return refuse(context, "avp_pushto", target),
    };
    let mut count = 0;
    for text in found.iter().filter_map(Value::as_text) {
        let is_written = if place.is_empty() {
            context.edits.add_branch(Target { uri: Some(text), ..Target::default() })
        } else {
            match variable(context, place) {
                Some(var) => context.write_var(&var, Value::Text(text)),
                None => false,
            }
        };
        count += usize::from(is_written);
    }
    done(count > 0)
}

/// `avp_insert(name, value, index)`.
pub(super) fn insert(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(text), Some(value), Some(at)) = (arg_text(args, 0), arg_text(args, 1), arg_int(args, 2)) else {
        return done(false);
    };
    let Some(name) = avp(context, text.trim_ascii()) else { return refuse(context, "avp_insert", text) };
    let Ok(at) = usize::try_from(at) else { return refuse(context, "avp_insert", text) };
    let mut all = values(&context.avps, name, true);
    all.insert(at.min(all.len()), Value::Text(Text::copy(value)));
    context.avps.remove_all(name);
    done(all.into_iter().rev().all(|value| context.avps.push(name, value)))
}
