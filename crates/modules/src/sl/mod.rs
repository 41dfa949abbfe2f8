//! Module `sl`: stateless replies. The ACK to one of them is recognised and absorbed before the script.

use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_int, arg_text};
use tandem_module::{ModuleDecl, reply};
use tandem_script::surface::{ArgType, FunctionSpec, Routes, arg};
use tandem_script::vm::Arg;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl { name: "sl", doc: "stateless replies", functions: FUNCTIONS, ..ModuleDecl::EMPTY };

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

fn send_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some((code, reason)) = code_and_reason(args) else { return Called::Done(-1) };
    Called::Done(if reply::reply_stateless(context, code, &reason) { 1 } else { -1 })
}

fn reply_error(context: &mut Context, _: &[Arg]) -> Called {
    let (code, reason) = match context.error.take() {
        Some(error) if (300..700).contains(&error.code) => (error.code as u16, error.reason.into_bytes()),
        _ => (500, b"Server Internal Error".to_vec()),
    };
    Called::Done(if reply::reply_stateless(context, code, &reason) { 1 } else { -1 })
}
