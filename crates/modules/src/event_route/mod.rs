//! Module `event_route`: event routes, part of the core since 3.6, and the way 2.4 scripts read event parameters.

use tandem_module::declare::{Function, arg_text};
use tandem_module::{Called, Context, ModuleDecl};
use tandem_script::ast::Dialect;
use tandem_script::pvar::{self, Scope};
use tandem_script::surface::{ArgType, FunctionSpec, Routes, arg};
use tandem_script::value::Value;
use tandem_script::vm::Arg;

/// The table of the module.
pub static MODULE: ModuleDecl =
    ModuleDecl { name: "event_route", doc: "event routes (core since 3.6)", functions: FUNCTIONS, ..ModuleDecl::EMPTY };

const FUNCTIONS: &[Function] = &[Function {
    spec: FunctionSpec {
        name: "fetch_event_params",
        args: &[arg("params", ArgType::Raw)],
        routes: Routes::EVENT.or(Routes::REQUEST),
        is_async: false,
        doc: "copies event parameters into variables: \"[name=]$pv; ...\", by position where no name is given",
    },
    call: fetch_event_params,
}];

/// `fetch_event_params("name=$var(a); $avp(b)")` (OpenSIPS 2.4: event_route, fetch_event_params()).
fn fetch_event_params(context: &mut Context, args: &[Arg]) -> Called {
    let Some(list) = arg_text(args, 0).map(<[u8]>::to_vec) else { return Called::Done(-1) };
    let surface = context.node.surface();
    let scope = Scope { surface, dialect: Dialect::V2_4 };
    for (at, entry) in
        list.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).enumerate()
    {
        let (source, target) = match entry.iter().position(|byte| *byte == b'=') {
            Some(split) => {
                let (name, rest) = entry.split_at(split);
                let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
                (format!("$param({name})"), rest.get(1..).unwrap_or_default().trim_ascii())
            }
            None => (format!("$param({})", at + 1), entry),
        };
        let (Ok(source), Ok(target)) = (pvar::parse_exact(source.as_bytes(), scope), pvar::parse_exact(target, scope))
        else {
            return Called::Done(-1);
        };
        let value = context.read_var(&source);
        // A parameter the event does not have leaves NULL behind, which empties an AVP.
        if !context.write_var(&target, value.clone()) && value != Value::Null {
            return Called::Done(-1);
        }
    }
    Called::Done(1)
}
