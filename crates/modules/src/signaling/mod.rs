//! Module `signaling`: replies that go through the transaction when there is one, and statelessly otherwise.

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::Function;
use tandem_script::surface::{ArgType, FunctionSpec, Routes, arg};
use tandem_script::vm::Arg;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "signaling",
    doc: "replies that choose between stateful and stateless",
    functions: FUNCTIONS,
    ..ModuleDecl::EMPTY
};

const FUNCTIONS: &[Function] = &[Function {
    spec: FunctionSpec {
        name: "send_reply",
        args: &[arg("code", ArgType::Int), arg("reason", ArgType::Text)],
        routes: Routes::REQUEST.or(Routes::FAILURE).or(Routes::ERROR),
        is_async: false,
        doc: "answers the request",
    },
    call: send_reply,
}];

fn send_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some((code, reason)) = crate::sl::code_and_reason(args) else { return Called::Done(-1) };
    Called::Done(if context.answer(code, &reason) { 1 } else { -1 })
}
