//! Module `signaling`: replies that go through the transaction when there is one, and statelessly otherwise.

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, VarCall, Variable, arg_text};
use tandem_script::surface::{ArgType, FunctionSpec, NameRule, Routes, VariableSpec, arg};
use tandem_script::value::Value;
use tandem_script::vm::Arg;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "signaling",
    doc: "replies that choose between stateful and stateless",
    functions: FUNCTIONS,
    variables: VARIABLES,
    ..ModuleDecl::EMPTY
};

const ROUTES: Routes = Routes::REQUEST.or(Routes::FAILURE).or(Routes::ERROR);

const FUNCTIONS: &[Function] = &[
    Function {
        spec: FunctionSpec {
            name: "send_reply",
            args: &[arg("code", ArgType::Int), arg("reason", ArgType::Text)],
            routes: ROUTES,
            is_async: false,
            doc: "answers the request",
        },
        call: send_reply,
    },
    Function {
        spec: FunctionSpec {
            name: "send_reply_with_body",
            args: &[arg("code", ArgType::Int), arg("reason", ArgType::Text), arg("body", ArgType::Text)],
            routes: ROUTES,
            is_async: false,
            doc: "answers the request with a body; its Content-Type comes from append_to_reply()",
        },
        call: send_reply_with_body,
    },
];

const VARIABLES: &[Variable] = &[Variable {
    spec: VariableSpec {
        name: "sig_local_totag",
        rule: NameRule::Plain,
        is_writable: false,
        doc: "the To tag that a reply made here to this request will carry",
    },
    read: local_to_tag,
    write: None,
}];

fn send_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some((code, reason)) = crate::sl::code_and_reason(args) else { return Called::Done(-1) };
    Called::Done(if context.answer(code, &reason) { 1 } else { -1 })
}

fn send_reply_with_body(context: &mut Context, args: &[Arg]) -> Called {
    let Some((code, reason)) = crate::sl::code_and_reason(args) else { return Called::Done(-1) };
    let body = arg_text(args, 2).unwrap_or_default();
    Called::Done(if crate::tm::answer_with_body(context, code, &reason, (b"", body)) { 1 } else { -1 })
}

fn local_to_tag(context: &mut Context, _: &VarCall<'_>) -> Value {
    match (&context.transaction, context.is_request()) {
        (_, false) => Value::Null,
        (Some(_), true) => Value::text(&crate::tm::local_to_tag(&context.message)),
        (None, true) => Value::text(&tandem_module::reply::to_tag(&context.message)),
    }
}
