//! Which dialect a script is written in (specification §13.6). It changes nothing in the tree.

use crate::ast::{ArgKind, Dialect, Function, GlobalValue, Item, RouteKind, Script, Var};
use crate::check::visit::{Visitor, walk_route};

/// Weight of a form that cannot be an accident.
const STRONG: u32 = 3;

const FLAG_FUNCTIONS: &[&str] = &[
    "setflag",
    "resetflag",
    "isflagset",
    "setbflag",
    "resetbflag",
    "isbflagset",
    "setbranchflag",
    "resetbranchflag",
    "isbranchflagset",
];

const FUNCTIONS_2_4: &[&str] =
    &["fetch_event_params", "avp_db_query", "avp_db_load", "avp_printf", "append_branch", "rewritehost", "rewriteuri"];

const FUNCTIONS_4_0: &[&str] =
    &["append_msg_branch", "remove_msg_branch", "sql_query", "sql_query_one", "sql_avp_load", "set_via_handling"];

const VARIABLES_2_4: &[&str] = &["$Ri", "$Rp", "$rT", "$proto", "$pr", "$af", "$fs"];

const VARIABLES_4_0: &[&str] = &["$socket_in", "$socket_out", "$msg.", "$return(", "$challenge."];

const MODULES_2_4: &[&str] = &["event_route", "uri", "avpops", "siptrace", "mi_xmlrpc_ng"];

const MODULES_4_0: &[&str] = &["sqlops", "tracer", "mi_xmlrpc"];

/// The dialect that most of what is peculiar in the script belongs to; 4.0 when nothing is, or when it is even.
pub fn detect(script: &Script) -> Dialect {
    let mut votes = Votes { old: script.form_votes.v2_4, new: script.form_votes.v4_0 };
    let mut has_listen = false;
    let mut has_children = false;
    for item in &script.items {
        match item {
            Item::Global(global) => match global.name.node.as_str() {
                "listen" => has_listen = matches!(global.value, GlobalValue::Socket(_)),
                "children" | "tcp_children" => has_children = true,
                "xlog_default_level" => votes.old += STRONG,
                "socket" | "udp_workers" | "tcp_workers" | "timer_workers" | "stderror_enabled" | "xlog_level" => {
                    votes.new += STRONG
                }
                _ => {}
            },
            Item::LoadModule(path) => {
                let name = path.node.rsplit('/').next().unwrap_or("").trim_end_matches(".so");
                votes.old += STRONG * u32::from(MODULES_2_4.contains(&name));
                votes.new += STRONG * u32::from(MODULES_4_0.contains(&name));
            }
            Item::Route(route) => {
                if route.kind == RouteKind::Event && route.event_mode.is_some() {
                    votes.old += STRONG;
                }
                walk_route(route, &mut votes);
            }
            Item::Modparam(_) => {}
        }
    }
    if has_children {
        votes.old += STRONG * (1 + u32::from(has_listen));
    }
    if votes.old > votes.new { Dialect::V2_4 } else { Dialect::V4_0 }
}

struct Votes {
    old: u32,
    new: u32,
}

impl Visitor for Votes {
    fn function(&mut self, function: &Function, _is_async: bool) {
        let name = function.name.node.as_str();
        self.old += STRONG * u32::from(FUNCTIONS_2_4.contains(&name));
        self.new += STRONG * u32::from(FUNCTIONS_4_0.contains(&name));
        if FLAG_FUNCTIONS.contains(&name) {
            let first = function.args.first().map(|arg| &arg.kind);
            self.new += u32::from(matches!(first, Some(ArgKind::Text(_))));
            self.old += u32::from(matches!(first, Some(ArgKind::Int(_))));
        }
        for arg in &function.args {
            match &arg.kind {
                ArgKind::Text(text) if is_quoted_variable(text) => self.old += 1,
                ArgKind::Text(text) if !text.is_empty() && text.iter().all(u8::is_ascii_digit) => self.old += 1,
                ArgKind::Var(_) => self.new += 1,
                _ => {}
            }
        }
    }

    fn var(&mut self, var: &Var, _is_target: bool) {
        let name = var.text.replacen("$(", "$", 1);
        let end =
            name.get(1..).and_then(|rest| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_'));
        let name_only = end.and_then(|end| name.get(..end + 1)).unwrap_or(&name);
        self.old += STRONG * u32::from(VARIABLES_2_4.contains(&name_only));
        self.new += STRONG * u32::from(VARIABLES_4_0.iter().any(|begin| name.starts_with(begin)));
    }
}

/// Whether a string holds nothing but one `$avp(...)` or `$var(...)`.
fn is_quoted_variable(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"$avp(").or_else(|| text.strip_prefix(b"$var("));
    rest.and_then(|rest| memchr::memchr(b')', rest).map(|at| at + 1 == rest.len())).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceMap;

    fn dialect_of(text: &str) -> Dialect {
        detect(&crate::parser::parse(&SourceMap::from_text("t.cfg", text)).0)
    }

    #[test]
    fn old_parameters_flags_and_modules_mean_2_4() {
        for text in [
            "listen=udp:1.2.3.4:5060\nchildren=4\nroute{ exit; }",
            "route{ if (isbflagset(NAT)) setflag(NAT); }",
            "loadmodule \"event_route.so\"\nroute{ exit; }",
            "route{ if (is_method(\"ACK\")) && (loose_route()) { exit; } }",
            "event_route[E_X, sync]{ exit; }",
            "event_route[E_X]{ fetch_event_params(\"$avp(a)\"); }",
            "route{ if ($proto == \"tcp\") exit; }",
            "route{ f(\"$avp(x)\"); g(\"5\"); }",
        ] {
            assert_eq!(dialect_of(text), Dialect::V2_4, "{text}");
        }
    }

    #[test]
    fn new_parameters_and_typed_arguments_mean_4_0_and_so_does_nothing_at_all() {
        for text in [
            "",
            "route{ exit; }",
            "listen=udp:1.2.3.4:5060\nudp_workers=4\nroute{ exit; }",
            "socket=udp:1.2.3.4:5060\nroute{ setflag(\"NAT\"); }",
            "route{ f($avp(x)); }",
            "route{ xlog(\"x\"); if ($socket_in(proto) == \"tcp\") exit; }",
            "route{ while (1) break; }",
        ] {
            assert_eq!(dialect_of(text), Dialect::V4_0, "{text}");
        }
    }
}
