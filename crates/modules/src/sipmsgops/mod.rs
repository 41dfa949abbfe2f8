//! Module `sipmsgops`: headers, body parts and questions about a message.

pub(crate) mod body;

use tandem_module::ModuleDecl;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_text};
use tandem_script::surface::{ArgSpec, ArgType, FunctionSpec, Routes, arg, opt};
use tandem_script::vm::Arg;

/// The table of the module.
pub static MODULE: ModuleDecl = ModuleDecl {
    name: "sipmsgops",
    doc: "headers, body parts and questions about a message",
    functions: FUNCTIONS,
    ..ModuleDecl::EMPTY
};

const fn function(
    name: &'static str,
    args: &'static [ArgSpec],
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes: Routes::ANY, is_async: false, doc }, call }
}

const FUNCTIONS: &[Function] = &[
    function("is_method", &[arg("methods", ArgType::Text)], "whether the method is one of a list such as INVITE|ACK", is_method),
    function("has_totag", &[], "whether the To header has a tag", has_totag),
    function("has_body", &[opt("mime", ArgType::Text)], "whether there is a body, of that type", has_body),
    function("is_present_hf", &[arg("name", ArgType::Text)], "whether there is such a header", is_present),
    function("append_hf", &[arg("text", ArgType::Text), opt("after", ArgType::Text)], "adds header lines behind the others", append),
    function("insert_hf", &[arg("text", ArgType::Text), opt("before", ArgType::Text)], "adds header lines before the others", insert),
    function("remove_hf", &[arg("name", ArgType::Text)], "removes all headers of that name", remove),
    function("append_to_reply", &[arg("text", ArgType::Text)], "adds header lines to replies made here", append_to_reply),
];

fn is_method(context: &mut Context, args: &[Arg]) -> Called {
    let wanted = arg_text(args, 0).unwrap_or_default();
    let own = if context.message.is_request() {
        context.message.method_bytes()
    } else {
        context.message.cseq().map(|(_, _, method)| method).unwrap_or_default()
    };
    let fits = wanted.split(|byte| *byte == b'|').any(|method| method.trim_ascii().eq_ignore_ascii_case(own));
    Called::Done(if fits { 1 } else { -1 })
}

fn has_totag(context: &mut Context, _: &[Arg]) -> Called {
    let has = context.message.to().is_ok_and(|to| to.tag().is_some_and(|tag| !tag.is_empty()));
    Called::Done(if has { 1 } else { -1 })
}

fn has_body(context: &mut Context, args: &[Arg]) -> Called {
    let message = &context.message;
    if message.body().is_empty() {
        return Called::Done(-1);
    }
    let Some(wanted) = arg_text(args, 0) else { return Called::Done(1) };
    let mime = message.content_type().unwrap_or_default();
    let mime = mime.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    Called::Done(if mime.eq_ignore_ascii_case(wanted) { 1 } else { -1 })
}

fn is_present(context: &mut Context, args: &[Arg]) -> Called {
    let found = arg_text(args, 0).and_then(|name| context.message.header_by_name(name));
    Called::Done(if found.is_some() { 1 } else { -1 })
}

/// Header lines as the script gave them, with a line end.
fn lines(text: &[u8]) -> Vec<u8> {
    let mut lines = text.to_vec();
    if !lines.ends_with(b"\n") {
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

fn append(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).filter(|text| !text.is_empty()) else { return Called::Done(-1) };
    let lines = lines(text);
    match arg_text(args, 1).and_then(|name| context.message.header_by_name(name)) {
        Some(entry) => context.edits.lumps.insert_header_after(entry, lines),
        None => context.edits.lumps.append_header(&context.message, lines),
    }
    Called::Done(1)
}

fn insert(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).filter(|text| !text.is_empty()) else { return Called::Done(-1) };
    let lines = lines(text);
    match arg_text(args, 1).and_then(|name| context.message.header_by_name(name)) {
        Some(entry) => context.edits.lumps.insert_header_before(entry, lines),
        None => context.edits.lumps.insert_header(&context.message, lines),
    }
    Called::Done(1)
}

fn remove(context: &mut Context, args: &[Arg]) -> Called {
    let name = arg_text(args, 0).unwrap_or_default();
    let mut count = 0;
    for entry in context.message.headers_by_name(name) {
        context.edits.lumps.remove_header(entry);
        count += 1;
    }
    Called::Done(if count > 0 { 1 } else { -1 })
}

fn append_to_reply(context: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).filter(|text| !text.is_empty()) else { return Called::Done(-1) };
    context.edits.lumps.append_to_reply(lines(text));
    Called::Done(1)
}

