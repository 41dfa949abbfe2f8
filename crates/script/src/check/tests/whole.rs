//! Warnings about whole scripts: paths of requests, variables, waits, the cluster. Each has a bad and a good example.

use super::*;
use crate::surface::{ArgType, EventSpec, FunctionSpec, Routes, arg, opt};

const REPLY_EVENT: &EventSpec =
    &EventSpec { name: "E_CLUSTERER_RPL_RECEIVED", params: &["cluster_id", "src_id", "msg", "tag"], doc: "" };

fn wide_surface() -> crate::surface::Surface {
    let mut surface = surface(true);
    let plain = |name, args| FunctionSpec { name, args, routes: Routes::ANY, is_async: false, doc: "" };
    const TWO: &[crate::surface::ArgSpec] = &[arg("cluster", ArgType::Int), arg("message", ArgType::Text)];
    const QUERY: &[crate::surface::ArgSpec] = &[arg("query", ArgType::Text), opt("result", ArgType::Raw)];
    surface.add_function("clusterer", plain("cluster_broadcast_req", TWO));
    surface.add_function("sqlops", FunctionSpec { is_async: true, ..plain("sql_query", QUERY) });
    surface.add_function("tm", plain("t_newtran", &[]));
    surface.add_function("tm", plain("t_check_trans", &[]));
    surface.add_function("auth", plain("www_challenge", TWO));
    surface.add_function("core", plain("has_totag", &[]));
    surface.add_event(REPLY_EVENT);
    surface
}

/// `line code` of every warning and error.
fn codes_in(text: &str, dialect: Dialect) -> Vec<String> {
    let sources = SourceMap::from_text("t.cfg", text);
    let (script, mut found) = crate::parser::parse(&sources);
    let options = CheckOptions { warnings: true, ..CheckOptions::default() };
    found.extend(check(&script, dialect, &wide_surface(), &options));
    crate::diagnostic::sort(&mut found);
    silence(&mut found, &sources);
    found.retain(|d| d.severity != Severity::Note);
    found.iter().map(|d| format!("{} {}", sources.location(d.span).line, d.code)).collect()
}

fn codes(text: &str) -> Vec<String> {
    codes_in(text, Dialect::V4_0)
}

#[track_caller]
fn clean(text: &str) {
    assert_eq!(codes(text), [] as [&str; 0], "{text}");
}

#[test]
fn every_path_answers_relays_or_drops() {
    assert_eq!(codes("route {\n  xlog(\"hello\");\n}\n"), ["3 unanswered-request"]);
    assert_eq!(codes("route {\n  if (is_method(\"OPTIONS\"))\n    exit;\n  drop;\n}\n"), ["3 unanswered-request"]);
    assert_eq!(
        codes("route {\n route(a);\n drop;\n}\nroute[a] {\n if ($si == \"1\")\n  exit;\n}\n"),
        ["7 unanswered-request"]
    );
    // Only one of two branches answers.
    assert_eq!(codes("route {\n if ($rU == NULL) { send_reply(484, \"x\"); }\n exit;\n}\n"), ["3 unanswered-request"]);
    assert_eq!(
        codes("route {\n switch ($rm) {\n case \"INVITE\":\n  send_reply(200, \"OK\");\n  break;\n }\n}\n"),
        ["7 unanswered-request"]
    );
    for good in [
        "route { drop; }",
        "route { send_reply(200, \"OK\"); exit; }",
        "route { if (!t_relay()) sl_send_reply(500, \"x\"); exit; }",
        "route { if (is_method(\"ACK|CANCEL\")) { if (t_check_trans()) t_relay(); exit; } drop; }",
        "route { if ($rm == \"ACK\") exit; if ($rm =~ \"^(ACK|CANCEL)$\") exit; drop; }",
        "route { if (!is_method(\"ACK\")) send_reply(404, \"x\"); }",
        "route { www_challenge(1, \"0\"); exit; }",
        "route { save(\"location\"); exit; }",
        "route { if (save(\"location\")) exit; else exit; }",
        "route { route($var(x)); $var(x) = \"y\"; }",
        "route { while ($rm == \"A\") { send_reply(200, \"x\"); exit; } drop; }",
        "route { switch ($rm) { case \"ACK\": exit; case \"INVITE\": send_reply(200, \"x\"); break; default: drop; } }",
        "route { route(r); drop; }\nroute[r] { route(r); }",
        // The methods are followed.
        "route { if (is_method(\"PUBLISH|SUBSCRIBE\")) route(p); drop; }\n\
         route[p] { if (is_method(\"PUBLISH\")) send_reply(200, \"x\"); else if (is_method(\"SUBSCRIBE\")) send_reply(202, \"x\"); exit; }",
        "route { if ($rm != \"INVITE\") { send_reply(405, \"x\"); exit; } switch ($rm) { case \"INVITE\": drop; } drop; }",
    ] {
        clean(good);
    }
}

#[test]
fn the_code_of_a_called_route_tells_its_paths_apart() {
    let auth = "route[auth] { if ($si == \"1\") return(1); www_challenge(1, \"x\"); return(-1); }";
    clean(&format!("route {{ if (!route(auth)) exit; drop; }}\n{auth}"));
    assert_eq!(codes(&format!("route {{\n if (route(auth))\n  exit;\n drop;\n}}\n{auth}")), ["3 unanswered-request"]);
    clean("route { route(relay); }\nroute[relay] { if (!t_relay()) send_reply(500, \"x\"); exit; }");
}

#[test]
fn a_failing_relay_is_dealt_with() {
    for bad in [
        "route {\n t_relay();\n exit;\n}\n",
        "route {\n t_relay();\n}\n",
        "route {\n if (!t_relay()) xlog(\"x\");\n exit;\n}\n",
        "route { \n t_newtran(); t_relay();\n exit;\n}\n".replace("t_newtran(); ", "").as_str(),
        "route {\n forward(\"a\");\n}\n",
    ] {
        assert_eq!(codes(bad), ["2 relay-unchecked"], "{bad}");
    }
    assert_eq!(codes("route {\n route(r);\n exit;\n}\nroute[r] {\n t_relay();\n}\n"), ["6 relay-unchecked"]);
    assert_eq!(codes("route {\n t_relay();\n route(r);\n}\nroute[r] {\n exit;\n}\n"), ["2 relay-unchecked"]);
    for good in [
        "route { if (!t_relay()) send_reply(500, \"x\"); exit; }",
        "route { t_relay(); if ($rc < 0) send_reply(500, \"x\"); exit; }",
        "route { t_relay(); switch ($retcode) { case -1: send_reply(500, \"x\"); } exit; }",
        "route { if (!route(r)) send_reply(500, \"x\"); exit; }\nroute[r] { t_relay(); }",
        "route { if (is_method(\"CANCEL\")) { t_relay(); exit; } drop; }",
        "route { drop; } failure_route[f] { t_relay(); } # tandem: allow(unused-route)",
    ] {
        clean(good);
    }
}

#[test]
fn deep_and_wide_scripts_are_followed_in_bounded_work() {
    // Each route calls the next one twice: without memory of what is known this takes 2^100 steps.
    let mut text = String::from("route { route(r0); exit; }\n");
    for index in 0..100 {
        text.push_str(&format!(
            "route[r{index}] {{ route(r{0}); t_relay(); route(r{0}); if ($rm == \"A\") return(-1); }}\n",
            index + 1
        ));
    }
    text.push_str("route[r100] { xlog(\"x\"); }\n");
    let sources = SourceMap::from_text("t.cfg", text.as_str());
    let (script, _) = crate::parser::parse(&sources);
    let options = CheckOptions { warnings: true, ..CheckOptions::default() };
    let walk = move || check(&script, Dialect::V4_0, &wide_surface(), &options).len();
    let count = std::thread::Builder::new().stack_size(2 << 20).spawn(walk).unwrap().join().unwrap();
    assert!(count > 0, "the relays are seen");
}

#[test]
fn a_variable_that_nothing_sets() {
    assert_eq!(codes("route {\n xlog(\"$var(x)\");\n drop;\n}\n"), ["2 unset-variable"]);
    assert_eq!(codes("route {\n if ($avp(who) != NULL) drop;\n drop;\n}\n"), ["2 unset-variable"]);
    assert_eq!(codes("route {\n $var(x) = NULL;\n prefix($var(x));\n drop;\n}\n"), ["3 unset-variable"]);
    for good in [
        "route { $var(x) = 1; xlog(\"$var(x)\"); drop; }",
        "route { cache_fetch(\"local\", \"k\", $var(x)); xlog(\"$var(x)\"); drop; }",
        "route { cache_fetch(\"local\", \"k\", \"$avp(x)\"); xlog(\"$avp(x)\"); drop; }",
        "route { cache_raw_query(\"local\", \"k\", \"$avp(x);$avp(y)\"); xlog(\"$avp(x) $avp(y)\"); drop; }",
        "modparam(\"auth\", \"username_spec\", \"$avp(user)\")\nroute { xlog(\"$avp(user)\"); drop; }",
        "modparam(\"auth_db\", \"load_credentials\", \"column=user\")\nroute { xlog(\"$avp(user)\"); drop; }",
        "route { $var(n) = \"x\"; $avp($var(n)) = 1; xlog(\"$avp(any)\"); drop; }",
        "route { for ($var(x) in $(hdr(Via)[*])) xlog(\"$var(x)\"); drop; }",
        "route { xlog(\"$avp(x)\"); drop; } # tandem: allow(unset-variable)",
        "route { $avp(s:x) = 1; xlog(\"$avp(x)\"); drop; }",
    ] {
        clean(good);
    }
}

#[test]
fn an_avp_misspelt_once() {
    assert_eq!(codes("route {\n $avp(callee) = 1;\n xlog(\"$avp(calee)\");\n drop;\n}\n"), ["3 misspelt-avp"]);
    assert_eq!(
        codes("route {\n $avp(callee) = 1;\n $avp(calee) = 2;\n xlog(\"$avp(callee)\");\n drop;\n}\n"),
        ["3 misspelt-avp"]
    );
    clean("route { $avp(line1) = 1; $avp(line2) = 2; xlog(\"$avp(line1)\"); drop; }");
    clean("route { $avp(route) = 1; $avp(routes) = 2; xlog(\"$avp(route)\"); drop; }");
}

#[test]
fn a_text_compared_with_a_number() {
    assert_eq!(codes("route {\n $var(x) = \"5\";\n if ($var(x) == 5) drop;\n drop;\n}\n"), ["3 text-and-number"]);
    assert_eq!(codes("route {\n $avp(x) = \"a\" + $rU;\n if ($avp(x) > 5) drop;\n drop;\n}\n"), ["3 text-and-number"]);
    assert_eq!(codes("route {\n if ($(hdr(X)) > 5) drop;\n drop;\n}\n"), ["2 text-and-number"]);
    assert_eq!(codes("route {\n if ($(hdr(X){s.select,0,;}) > 5) drop;\n drop;\n}\n"), ["2 text-and-number"]);
    for good in [
        "route { $var(x) = \"5\"; $var(x) = 5; if ($var(x) == 5) drop; drop; }",
        "route { $var(x) = $(hdr(X){s.int}); if ($var(x) == 5) drop; drop; }",
        "route { if ($(hdr(X){s.select,0,;}{s.int}) > 5) drop; drop; }",
        "route { $var(x) = $(hdr(X){s.len}) + 1; if ($var(x) == 5) drop; drop; }",
        "route { $var(x) = \"5\"; cache_fetch(\"local\", \"k\", $var(x)); if ($var(x) == 5) drop; drop; }",
    ] {
        clean(good);
    }
}

#[test]
fn a_break_at_the_end_of_a_route_that_is_a_condition() {
    let switch = "switch ($rm) { case \"A\": xlog(\"a\"); break; }";
    let main = "route {\n if (route(s)) drop;\n drop;\n}\n";
    for bad in [
        format!("{main}route[s] {{ {switch} }}"),
        format!("{main}route[s] {{ {switch}; ; }}"),
        format!("{main}route[s] {{ if ($rU == NULL) {{ {switch} }} }}"),
        format!("{main}route[s] {{ if ($rU == NULL) {{ return(1); }} else {{ {switch} }} }}"),
        format!("{main}route[s] {{ switch ($rm) {{ case \"A\": if ($rU == NULL) {{ break; }} xlog(\"x\"); }} }}"),
    ] {
        assert_eq!(codes(&bad), ["2 switch-code"], "{bad}");
        assert_eq!(codes_in(&bad, Dialect::V2_4), [] as [&str; 0], "2.4 keeps the code: {bad}");
    }
    clean(&format!("{main}route[s] {{ {switch} return(1); }}"));
    clean("route { route(s); drop; }\nroute[s] { switch ($rm) { case \"A\": xlog(\"a\"); break; } }");
}

#[test]
fn a_timer_route_does_not_wait() {
    let timer = "route { drop; }\ntimer_route[t, 10] {\n BODY\n}\n";
    assert_eq!(codes(&timer.replace("BODY", "sql_query(\"x\");")), ["3 blocking-timer"]);
    assert_eq!(
        codes("route { drop; }\ntimer_route[t, 10] { route(a); }\nroute[a] {\n sql_query(\"x\");\n}\n"),
        ["4 blocking-timer"]
    );
    clean(&timer.replace("BODY", "launch(sql_query(\"x\"));"));
    clean(&timer.replace("BODY", "xlog(\"x\");"));
    clean("route { sql_query(\"x\"); drop; }");
}

#[test]
fn a_wait_for_an_event_ends_and_its_end_is_looked_at() {
    let wait = "route {\n $avp(f) = \"tag=1\";\n async(wait_for_event(\"E_CLUSTERER_RPL_RECEIVED\", $avp(f), 5), R);\n}\nroute[R] { BODY }\n";
    let bad = wait.replace("BODY", "xlog(\"$avp(msg)\"); send_reply(200, \"x\");");
    assert_eq!(codes(&bad), ["3 wait-without-timeout"]);
    let endless =
        wait.replace("BODY", "if ($rc < 0) drop; send_reply(200, \"x\");").replace("$avp(f), 5", "$avp(f), 0");
    assert_eq!(codes(&endless), ["3 wait-without-timeout"]);
    clean(&wait.replace("BODY", "if ($rc < 0) { drop; } send_reply(200, \"$avp(msg)\");"));
    clean(&wait.replace("BODY", "if ($avp(msg) == NULL) { drop; } send_reply(200, \"x\");"));
    // The resumed route is a part of the path.
    assert_eq!(codes(&wait.replace("BODY", "if ($rc < 0)\n exit;\n drop;")), ["6 unanswered-request"]);
}

#[test]
fn a_cluster_function_needs_a_node_id() {
    let load = "loadmodule \"clusterer.so\"\n";
    let main = "route {\n cluster_broadcast_req(1, \"x\");\n drop;\n}\n";
    assert_eq!(codes(&format!("{load}{main}")), ["3 cluster-unconfigured"]);
    for name in ["my_node_id", "current_id"] {
        clean(&format!("{load}modparam(\"clusterer\", \"{name}\", 1)\n{main}"));
    }
    clean(&format!("{load}route {{ drop; }}"));
}

#[test]
fn another_order_of_arguments_is_named() {
    let (_, found) = findings("route { send_reply(\"OK\", 200); exit; }", Dialect::V4_0);
    assert_eq!(found[0].code, "argument-type");
    assert_eq!(
        found[0].suggestion.as_deref(),
        Some("the order of the arguments is another one: `send_reply(200, \"OK\")`")
    );
    let (_, found) = findings("route { send_reply(\"OK\", \"fine\"); exit; }", Dialect::V4_0);
    assert!(found[0].suggestion.is_none(), "{found:?}");
}
