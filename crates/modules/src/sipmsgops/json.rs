//! `sip_to_json()`: a message as a JSON object.

use serde_json::{Map, Value as Json, json};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_var;
use tandem_script::value::Value;
use tandem_script::vm::Arg;
use tandem_sip::Message;

use crate::core::table::done;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `first_line` without line end, `headers` as lists by their names as written, `body` when there is one.
fn object(message: &Message) -> Json {
    let mut headers = Map::new();
    for entry in message.headers() {
        let list = headers.entry(text(message.bytes(entry.name))).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(text(message.value(entry))));
        }
    }
    let mut object =
        json!({ "first_line": text(message.bytes(message.first_line()).trim_ascii_end()), "headers": headers });
    let body = message.bytes(message.body_span());
    if let (Some(object), false) = (object.as_object_mut(), body.is_empty()) {
        object.insert("body".to_owned(), json!(text(body)));
    }
    object
}

pub(super) fn sip_to_json(context: &mut Context, args: &[Arg]) -> Called {
    let Some(var) = arg_var(args, 0).cloned() else { return done(false) };
    let text = object(&context.message).to_string();
    done(context.write_var(&var, Value::text(text.as_bytes())))
}
