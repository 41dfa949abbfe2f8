//! Functions on the key-value store of a record: `ul_add_key()`, `ul_get_key()`, `ul_del_key()`.

use serde_json::{Map, Value as Json};
use tandem_location::Aor;
use tandem_module::context::{Called, Context};
use tandem_module::declare::{Function, arg_text, arg_var};
use tandem_script::surface::{ArgSpec, ArgType, FunctionSpec, Routes, arg, opt};
use tandem_script::value::Value;
use tandem_script::vm::Arg;

use super::{Domain, Usrloc};

/// Bytes the store of one record may take; a longer value is refused.
const KV_BYTES_MAX: usize = 16 * 1024;

const fn function(
    name: &'static str,
    args: &'static [ArgSpec],
    doc: &'static str,
    call: fn(&mut Context, &[Arg]) -> Called,
) -> Function {
    Function { spec: FunctionSpec { name, args, routes: Routes::ANY, is_async: false, doc }, call }
}

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "ul_add_key",
        &[
            arg("domain", ArgType::Text),
            arg("aor", ArgType::Text),
            arg("key", ArgType::Text),
            opt("value", ArgType::Text),
        ],
        "keeps a value with an address of record; without value it is removed",
        add_key,
    ),
    function(
        "ul_get_key",
        &[
            arg("domain", ArgType::Text),
            arg("aor", ArgType::Text),
            arg("key", ArgType::Text),
            arg("destination", ArgType::VarOut),
        ],
        "reads a value kept with an address of record",
        get_key,
    ),
    function(
        "ul_del_key",
        &[arg("domain", ArgType::Text), arg("aor", ArgType::Text), arg("key", ArgType::Text)],
        "removes a value kept with an address of record",
        del_key,
    ),
];

struct Place {
    usrloc: &'static Usrloc,
    domain: &'static Domain,
    aor: Aor,
    key: String,
}

fn place(context: &Context, args: &[Arg]) -> Option<Place> {
    let usrloc = context.node.state::<Usrloc>()?;
    let domain = usrloc.find_domain(arg_text(args, 0)?)?;
    let aor = Aor::from_raw(arg_text(args, 1)?);
    let key = String::from_utf8_lossy(arg_text(args, 2)?).into_owned();
    Some(Place { usrloc, domain, aor, key })
}

impl Place {
    fn read(&self) -> Option<Map<String, Json>> {
        let kv = self.domain.table.with_record(&self.aor, |record| record.kv().to_vec())?;
        Some(if kv.is_empty() { Map::new() } else { serde_json::from_slice(&kv).unwrap_or_default() })
    }

    /// Changes the store; false without a record, or when it would grow too large.
    fn change(&self, work: impl FnOnce(&mut Map<String, Json>) -> bool) -> bool {
        let _guard = self.usrloc.kv_lock.lock();
        let Some(mut store) = self.read() else { return false };
        if !work(&mut store) {
            return false;
        }
        let text = if store.is_empty() { String::new() } else { Json::Object(store).to_string() };
        text.len() <= KV_BYTES_MAX && self.domain.table.set_record_kv(&self.aor, text.as_bytes())
    }
}

fn done(is_ok: bool) -> Called {
    Called::Done(if is_ok { 1 } else { -1 })
}

fn add_key(context: &mut Context, args: &[Arg]) -> Called {
    let Some(place) = place(context, args) else { return done(false) };
    let value =
        arg_text(args, 3).filter(|value| !value.is_empty()).map(|value| String::from_utf8_lossy(value).into_owned());
    done(place.change(|store| {
        match value {
            Some(value) => store.insert(place.key.clone(), Json::String(value)),
            None => store.remove(&place.key),
        };
        true
    }))
}

fn get_key(context: &mut Context, args: &[Arg]) -> Called {
    let found = place(context, args).and_then(|place| place.read()?.remove(&place.key));
    let value = match found {
        Some(Json::String(text)) => Value::from(text.as_str()),
        Some(Json::Number(number)) => Value::Int(number.as_i64().and_then(|int| i32::try_from(int).ok()).unwrap_or(0)),
        _ => return done(false),
    };
    let Some(var) = arg_var(args, 3) else { return done(false) };
    done(context.write_var(var, value))
}

fn del_key(context: &mut Context, args: &[Arg]) -> Called {
    let Some(place) = place(context, args) else { return done(false) };
    done(place.change(|store| store.remove(&place.key).is_some()))
}
