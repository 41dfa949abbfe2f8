//! `cache_*` functions over the registered key-value engines. Embedded engines answer at once, others suspend the run.

use std::sync::Arc;

use tandem_module::cachedb::{CacheDb, CacheError, CacheReply};
use tandem_module::context::{Called, Context};
use tandem_module::declare::{arg_int, arg_text, arg_var};
use tandem_module::run::Pending;
use tandem_script::ast::Dialect;
use tandem_script::pvar::{self, CompiledVar, Scope};
use tandem_script::value::{Text, Value};
use tandem_script::vm::{Arg, LogLevel};

use super::table::done;

fn engine(context: &Context, args: &[Arg]) -> Option<Arc<dyn CacheDb>> {
    let name = arg_text(args, 0)?;
    let engine = context.node.caches.engine(name);
    if engine.is_none() {
        let known = context.node.caches.names().join(", ");
        let name = String::from_utf8_lossy(name);
        context.log(LogLevel::Error, &format!("no cache engine '{name}'; there are: {known}"));
    }
    engine
}

/// Goes on with the result of an operation: at once when it is there.
pub(crate) fn finish<T: Send + 'static>(
    context: &mut Context,
    reply: CacheReply<T>,
    then: impl FnOnce(&mut Context, Result<T, CacheError>) -> Called + Send + 'static,
) -> Called {
    match reply {
        CacheReply::Now(result) => then(context, result),
        CacheReply::Later(future) => Pending::job(context.node, future, move |context, result| {
            then(context, result.unwrap_or_else(|| Err(CacheError::Unavailable("no answer in time".to_owned()))))
        }),
    }
}

fn code_of(context: &Context, error: &CacheError) -> Called {
    if matches!(error, CacheError::NotFound) {
        return Called::Done(-2);
    }
    context.log(LogLevel::Error, &format!("cache: {error}"));
    Called::Done(-1)
}

fn seconds(args: &[Arg], at: usize) -> u32 {
    arg_int(args, at).and_then(|secs| u32::try_from(secs).ok()).unwrap_or(0)
}

/// `cache_store(engine, key, value[, expire])`.
pub(super) fn store(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(key), Some(value)) = (arg_text(args, 1), arg_text(args, 2)) else { return done(false) };
    let Some(engine) = engine(context, args) else { return done(false) };
    let reply = engine.store(key, value, seconds(args, 3));
    finish(context, reply, |context, result| match result {
        Ok(()) => done(true),
        Err(error) => code_of(context, &error),
    })
}

/// `cache_fetch(engine, key, $out)`.
pub(super) fn fetch(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(key), Some(out)) = (arg_text(args, 1), arg_var(args, 2).cloned()) else { return done(false) };
    let Some(engine) = engine(context, args) else { return done(false) };
    let reply = engine.fetch(key);
    finish(context, reply, move |context, result| match result {
        Ok(value) => done(context.write_var(&out, Value::Text(Text::from(value)))),
        Err(error) => code_of(context, &error),
    })
}

/// `cache_counter_fetch(engine, key, $out)`.
pub(super) fn fetch_counter(context: &mut Context, args: &[Arg]) -> Called {
    let (Some(key), Some(out)) = (arg_text(args, 1), arg_var(args, 2).cloned()) else { return done(false) };
    let Some(engine) = engine(context, args) else { return done(false) };
    let reply = engine.fetch_counter(key);
    finish(context, reply, move |context, result| match result {
        Ok(value) => done(context.write_var(&out, Value::Int(value as i32))),
        Err(error) => code_of(context, &error),
    })
}

fn change(context: &mut Context, args: &[Arg], sign: i64) -> Called {
    let (Some(key), Some(by)) = (arg_text(args, 1), arg_int(args, 2)) else { return done(false) };
    let out = arg_var(args, 4).cloned();
    let Some(engine) = engine(context, args) else { return done(false) };
    let reply = engine.add(key, sign * i64::from(by), seconds(args, 3));
    finish(context, reply, move |context, result| match result {
        Ok(value) => done(out.is_none_or(|out| context.write_var(&out, Value::Int(value as i32)))),
        Err(error) => code_of(context, &error),
    })
}

/// `cache_add(engine, key, n, expire[, $out])`.
pub(super) fn add(context: &mut Context, args: &[Arg]) -> Called {
    change(context, args, 1)
}

/// `cache_sub(engine, key, n, expire[, $out])`.
pub(super) fn sub(context: &mut Context, args: &[Arg]) -> Called {
    change(context, args, -1)
}

/// `cache_remove(engine, key)`: 1 also when there was no such key.
pub(super) fn remove(context: &mut Context, args: &[Arg]) -> Called {
    let Some(key) = arg_text(args, 1) else { return done(false) };
    let Some(engine) = engine(context, args) else { return done(false) };
    let reply = engine.remove(key);
    finish(context, reply, |context, result| match result {
        Ok(_) | Err(CacheError::NotFound) => done(true),
        Err(error) => code_of(context, &error),
    })
}

/// Output variables of a list such as `"$avp(a);$avp(b)"`; `None` when one of them is none.
pub(crate) fn output_vars(context: &Context, list: &[u8]) -> Option<Vec<CompiledVar>> {
    let dialect = if context.node.settings.is_v2_4 { Dialect::V2_4 } else { Dialect::V4_0 };
    let scope = Scope { surface: context.node.surface(), dialect };
    list.split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|text| !text.is_empty())
        .map(|text| pvar::parse_exact(text, scope).ok().filter(CompiledVar::is_writable))
        .collect()
}

/// `cache_raw_query(engine, query[, "$avp(a);$avp(b)"])`: columns to variables, the first row on top.
pub(super) fn raw(context: &mut Context, args: &[Arg]) -> Called {
    let query: Vec<Vec<u8>> = match args.get(1) {
        Some(Arg::Words(words)) => words.iter().map(|word| word.to_vec()).collect(),
        _ => return done(false),
    };
    let Some(outputs) = output_vars(context, arg_text(args, 2).unwrap_or_default()) else {
        context.log(LogLevel::Error, "cache_raw_query(): the output list must name writable variables");
        return done(false);
    };
    let Some(engine) = engine(context, args) else { return done(false) };
    let reply = engine.raw(query);
    finish(context, reply, move |context, result| match result {
        Ok(rows) => {
            for row in rows.into_iter().rev() {
                for (var, value) in outputs.iter().zip(row) {
                    context.write_var(var, value);
                }
            }
            done(true)
        }
        Err(error) => code_of(context, &error),
    })
}
