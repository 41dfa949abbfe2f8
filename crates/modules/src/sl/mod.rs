//! Module `sl`: stateless replies. The ACK to one of them is recognised and absorbed before the script.

use std::sync::{Arc, OnceLock};

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_int, arg_text};
use tandem_module::stat::Stat;
use tandem_module::{ModuleDecl, reply};
use tandem_script::surface::{ArgType, FunctionSpec, ParamSpec, ParamType, Routes, StatSpec, arg};
use tandem_script::vm::Arg;
use tandem_sip::Method;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "sl",
    doc: "stateless replies",
    params: &[ParamSpec {
        name: "enable_stats",
        ty: ParamType::Int,
        default: "1",
        is_repeatable: false,
        doc: "accepted, no effect: statistics cost nothing here",
    }],
    functions: FUNCTIONS,
    stats: STATS,
    setup: |setup| {
        setup.state(Sl { counters: OnceLock::new() });
        Ok(())
    },
    init: |node| {
        if let Some(sl) = node.state::<Sl>() {
            let stat = |name: &str| node.stats.stat("sl", name);
            let classes = ["1xx", "2xx", "3xx", "4xx", "5xx", "6xx"].map(|class| stat(&format!("{class}_replies")));
            let _ = sl.counters.set(Counters { classes, sent: stat("sent_replies"), errors: stat("sent_err_replies") });
        }
        Ok(())
    },
    ..ModuleDecl::EMPTY
};

use crate::core::table::stat;

const STATS: &[StatSpec] = &[
    stat("1xx_replies", "stateless 1xx sent by this module"),
    stat("2xx_replies", "stateless 2xx sent by this module"),
    stat("3xx_replies", "stateless 3xx sent by this module"),
    stat("4xx_replies", "stateless 4xx sent by this module"),
    stat("5xx_replies", "stateless 5xx sent by this module"),
    stat("6xx_replies", "stateless 6xx sent by this module"),
    stat("sent_replies", "stateless replies sent by this module"),
    stat("sent_err_replies", "those of sl_reply_error()"),
    stat("received_ACKs", "ACKs to stateless replies, which end here"),
];

struct Sl {
    counters: OnceLock<Counters>,
}

struct Counters {
    classes: [Arc<Stat>; 6],
    sent: Arc<Stat>,
    errors: Arc<Stat>,
}

const ROUTES: Routes = Routes::REQUEST.or(Routes::ERROR).or(Routes::FAILURE);

const FUNCTIONS: &[Function] = &[
    Function {
        spec: FunctionSpec {
            name: "sl_send_reply",
            args: &[arg("code", ArgType::Int), arg("reason", ArgType::Text)],
            routes: ROUTES,
            is_async: false,
            doc: "answers the request without keeping state",
        },
        call: send_reply,
    },
    Function {
        spec: FunctionSpec {
            name: "sl_reply_error",
            args: &[],
            routes: ROUTES,
            is_async: false,
            doc: "answers the request with an error that fits what went wrong last",
        },
        call: reply_error,
    },
];

/// Code and reason from script arguments; `None` when the code is none.
pub(crate) fn code_and_reason(args: &[Arg]) -> Option<(u16, Vec<u8>)> {
    let code = u16::try_from(arg_int(args, 0)?).ok().filter(|code| (100..700).contains(code))?;
    Some((code, arg_text(args, 1).unwrap_or_default().to_vec()))
}

/// Answers without state, with a body if there is one: its type (empty when a header added by the script says it) and
/// text. ACK is never answered. False when it was not sent.
pub fn reply_with_body(context: &mut Context, code: u16, reason: &[u8], body: Option<(&[u8], &[u8])>) -> bool {
    if !context.message.is_request() || context.message.method() == Method::Ack {
        return false;
    }
    let tag = reply::to_tag(&context.message);
    let tag = (code > 100).then_some(&tag[..]);
    let mut out = Vec::new();
    if reply::write_reply(context, code, reason, tag, body, &mut out).is_err() {
        return false;
    }
    let to = reply::reply_destination(&context.message, &context.source, context.edits.force_rport);
    let is_sent = context.node.transport().is_some_and(|transport| transport.send(&to, &out).is_ok());
    context.is_answered |= is_sent && code >= 200;
    is_sent
}

fn counted(context: &mut Context, code: u16, reason: &[u8], is_error: bool) -> Called {
    if !reply::reply_stateless(context, code, reason) {
        return Called::Done(-1);
    }
    if let Some(counters) = context.node.state::<Sl>().and_then(|sl| sl.counters.get()) {
        counters.sent.inc();
        if is_error {
            counters.errors.inc();
        }
        if let Some(class) = counters.classes.get(usize::from(code / 100).saturating_sub(1)) {
            class.inc();
        }
    }
    Called::Done(1)
}

fn send_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some((code, reason)) = code_and_reason(args) else { return Called::Done(-1) };
    counted(context, code, &reason, false)
}

fn reply_error(context: &mut Context, _: &[Arg]) -> Called {
    let (code, reason) = match context.error.take() {
        Some(error) if (300..700).contains(&error.code) => (error.code as u16, error.reason.into_bytes()),
        _ => (500, b"Server Internal Error".to_vec()),
    };
    counted(context, code, &reason, true)
}
