//! What a script fixes for the life of the process: modules, their parameters, global parameters, listeners. A reload compares
//! it with what the process was started with; it changes nothing.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use tandem_module::declare::ParamValues;
use tandem_module::node::NodeBuilder;
use tandem_script::ast::{Dialect, Item, Script};

/// Global parameters that are a part of the compiled program, so that a reload does change them.
const COMPILED_IN: [&str; 2] = ["max_while_loops", "xlog_buf_size"];

/// The fixed part of a script.
#[derive(Clone, Debug)]
pub(crate) struct Fixed {
    dialect: Dialect,
    modules: Vec<&'static str>,
    /// Values that were set, by module and parameter.
    params: BTreeMap<(&'static str, &'static str), Vec<String>>,
    /// Values by name; only ever compared.
    globals: BTreeMap<String, Vec<String>>,
}

impl Fixed {
    pub(crate) fn new(
        script: &Script,
        dialect: Dialect,
        builder: &NodeBuilder,
        values: &HashMap<&'static str, ParamValues>,
    ) -> Fixed {
        let mut params = BTreeMap::new();
        for module in builder.modules() {
            let Some(values) = values.get(module.name) else { continue };
            for spec in module.params.iter().filter(|spec| values.is_set(spec.name)) {
                params.insert((module.name, spec.name), values.all(spec.name));
            }
        }
        let mut globals: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for item in &script.items {
            let Item::Global(global) = item else { continue };
            let name = match global.name.node.as_str() {
                "listen" => "socket",
                name if COMPILED_IN.contains(&name) => continue,
                name => name,
            };
            globals.entry(name.to_owned()).or_default().push(format!("{:?}", global.value));
        }
        Fixed { dialect, modules: builder.modules().iter().map(|module| module.name).collect(), params, globals }
    }

    /// Whether both load the same modules in the same order, so that functions and variables have the same numbers.
    pub(crate) fn has_same_modules(&self, other: &Fixed) -> bool {
        self.modules == other.modules
    }

    /// Modules of `newer` that are not here.
    pub(crate) fn modules_only_in<'a>(&'a self, newer: &'a Fixed) -> impl Iterator<Item = &'static str> + 'a {
        newer.modules.iter().copied().filter(|name| !self.modules.contains(name))
    }

    /// One line for each difference that a reload cannot put into effect. Names only, for values may be secret.
    pub(crate) fn differences(&self, newer: &Fixed) -> Vec<String> {
        let mut lines = Vec::new();
        if self.dialect != newer.dialect {
            lines.push(
                "the dialect of the script changed: the rules it was started with apply until a restart".to_owned(),
            );
        }
        lines.extend(self.modules_only_in(newer).map(|name| later(&format!("module {name} was added"))));
        lines.extend(newer.modules_only_in(self).map(|name| later(&format!("module {name} was removed"))));
        if lines.is_empty() && !self.has_same_modules(newer) {
            lines.push(later("the order of the loadmodule lines changed"));
        }
        let of_both = |(module, _): &&(&'static str, &'static str)| {
            self.modules.contains(module) && newer.modules.contains(module)
        };
        for key in changed(&self.params, &newer.params).into_iter().filter(of_both) {
            lines.push(later(&format!("modparam(\"{}\", \"{}\") changed", key.0, key.1)));
        }
        lines.extend(changed(&self.globals, &newer.globals).into_iter().map(|name| later(&format!("{name} changed"))));
        lines
    }
}

fn later(what: &str) -> String {
    format!("{what}: takes effect at restart")
}

/// Keys with another value, and those that only one of both has, in order.
fn changed<'a, K: Ord>(old: &'a BTreeMap<K, Vec<String>>, new: &'a BTreeMap<K, Vec<String>>) -> Vec<&'a K> {
    let mut keys: Vec<&K> = old.keys().chain(new.keys()).filter(|key| old.get(key) != new.get(key)).collect();
    keys.sort();
    keys.dedup();
    keys
}
