//! The cases of `tests/vectors/script-eval.jsonl` at server level: real parser, compiler, core and modules, real messages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../src/test_rig/mod.rs"]
mod test_rig;

use serde_json::Value as Json;
use tandem_script::ast::Dialect;
use test_rig::{Rig, RigOptions};

/// Cases whose recorded result is not ours on purpose, and why.
const DEVIATIONS: &[(&str, &str)] = &[];

fn vectors() -> Vec<Json> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/script-eval.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn messages() -> Json {
    let read = |file: &str| -> Json {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/");
        serde_json::from_str(&std::fs::read_to_string(format!("{folder}{file}")).unwrap()).unwrap()
    };
    let mut all = read("script-eval-messages.json");
    for (name, message) in read("script-eval-more-messages.json").as_object().unwrap() {
        all[name] = message.clone();
    }
    all
}

fn text<'a>(case: &'a Json, field: &str) -> &'a str {
    case[field].as_str().unwrap_or("")
}

fn script_of(case: &Json, dialect: Dialect) -> String {
    let expr = text(case, "expr");
    let body = match text(case, "kind") {
        "value" => {
            let op = case["assign"].as_str().unwrap_or(":=");
            format!(
                "$avp(r) = \"UNSET\"; $avp(r) {op} {expr}; xlog(\"@=$rc\\n\");
                 if ($avp(r) == NULL) xlog(\"@=null\\n\"); else {{ $var(isint) = $avp(r) - 0; xlog(\"@=$rc\\n\"); }}
                 xlog(\"@=[$avp(r)]\\n\");"
            )
        }
        "cond" => format!("if ({expr}) xlog(\"@=true\\n\"); else xlog(\"@=false\\n\");"),
        "format" => format!("xlog(\"@={expr}|E\");"),
        _ => expr.to_owned(),
    };
    let modules: String = case["modules"]
        .as_array()
        .map(|names| {
            names
                .iter()
                .map(|name| format!("loadmodule \"{}.so\"\n", name.as_str().unwrap().trim_end_matches(".so")))
                .collect()
        })
        .unwrap_or_default();
    let head = match dialect {
        Dialect::V2_4 => "log_level=2\nlisten=udp:127.0.3.1:5071\n",
        Dialect::V4_0 => "log_level=2\nxlog_level=3\nsocket=udp:127.0.3.1:5071\n",
    };
    let top = if case["msg"].is_null() {
        "startup_route { route(tcase); }\nroute { exit; }"
    } else {
        "route { route(tcase); }"
    };
    format!(
        "{head}{}\nloadmodule \"proto_udp.so\"\n{modules}{}\n{top}\nroute[tcase] {{ {} {body} }}\n",
        text(case, "globals"),
        text(case, "routes"),
        text(case, "setup")
    )
}

/// Lines with the marker, in order, until an event route that was only queued runs.
fn run(case: &Json, dialect: Dialect, messages: &Json) -> Result<Vec<String>, String> {
    let script = script_of(case, dialect);
    let message = case["msg"].as_str().map(|name| messages[name].as_str().unwrap().to_owned());
    // A thread of its own has its own `$var` values.
    let run = move || -> Result<Vec<String>, String> {
        let rig = Rig::try_script(&script, RigOptions { dialect: Some(dialect) })?;
        if let Some(message) = message {
            rig.receive(message);
        }
        let lines = rig.xlogs();
        Ok(lines.iter().filter_map(|line| line.strip_prefix("@=")).map(str::to_owned).collect())
    };
    std::thread::spawn(run).join().map_err(|_| "panicked".to_owned())?
}

fn judge(case: &Json, expected: &Json, lines: &[String]) -> bool {
    match text(case, "kind") {
        "value" => {
            let code: i32 = lines.first().and_then(|line| line.parse().ok()).unwrap_or(0);
            let second = lines.get(1).map(String::as_str).unwrap_or("");
            let value = lines.get(2).cloned().unwrap_or_default();
            match text(expected, "type") {
                "fail" => code < 0 && value == "[UNSET]",
                "null" => code > 0 && second == "null",
                "int" => code > 0 && second == "1" && value == format!("[{}]", expected["value"]),
                _ => code > 0 && second == "-1" && value == format!("[{}]", text(expected, "value")),
            }
        }
        "cond" => lines == [if expected.as_bool().unwrap() { "true" } else { "false" }],
        "format" => lines == [format!("{}|E", expected.as_str().unwrap())],
        _ => {
            let wanted: Vec<&str> = expected.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            // What a queued event route prints comes after the end of the case and was not recorded.
            let is_queued = text(case, "routes").contains("event_route");
            if is_queued {
                lines.iter().zip(&wanted).all(|(a, b)| a == b) && lines.len() >= wanted.len()
            } else {
                lines == wanted
            }
        }
    }
}

#[test]
fn recorded_cases_give_the_recorded_results_in_both_dialects() {
    let messages = messages();
    let (mut runs, mut failures, mut deviations) = (0, Vec::new(), Vec::new());
    for case in vectors().iter().filter(|case| case["kind"] != "parse") {
        let mut wanted = Vec::new();
        let dialect = text(case, "dialect");
        if dialect != "2.4" {
            wanted.push((Dialect::V4_0, &case["expected"]));
        }
        match dialect {
            "both" | "2.4" => wanted.push((Dialect::V2_4, &case["expected"])),
            "differs" => wanted.push((Dialect::V2_4, &case["expected_2_4"])),
            _ => {}
        }
        for (dialect, expected) in wanted {
            runs += 1;
            let result = run(case, dialect, &messages);
            if result.as_ref().is_ok_and(|lines| judge(case, expected, lines)) {
                continue;
            }
            let id = text(case, "id");
            if DEVIATIONS.iter().any(|(other, _)| *other == id) {
                deviations.push(id.to_owned());
                continue;
            }
            let expr = text(case, "expr");
            failures.push(format!(
                "{id} {dialect:?}: {} | {expr}\n   expected {expected}\n   got      {result:?}",
                text(case, "setup")
            ));
        }
    }
    println!("{runs} runs, {} failures", failures.len());
    assert!(failures.is_empty(), "{} of {runs} failed\n{}", failures.len(), failures.join("\n"));
    for (id, reason) in DEVIATIONS {
        assert!(deviations.iter().any(|other| other == id), "{id} now agrees: take it off the list ({reason})");
    }
}

/// Scripts the reference starts and we refuse, and why.
const REFUSED: &[(&str, &str)] = &[];

#[test]
fn scripts_that_the_reference_starts_are_accepted() {
    let mut failures = Vec::new();
    for case in vectors().iter().filter(|case| case["kind"] == "parse" && case["expected"] == "ok") {
        let id = text(case, "id");
        let dialect = if text(case, "dialect") == "2.4" { Dialect::V2_4 } else { Dialect::V4_0 };
        let script = text(case, "expr").to_owned();
        let load = move || Rig::try_script(&script, RigOptions { dialect: Some(dialect) }).map(|_| ());
        let result = std::thread::spawn(load).join().unwrap_or_else(|_| Err("panicked".to_owned()));
        let is_listed = REFUSED.iter().any(|(other, _)| *other == id);
        match result {
            Err(error) if !is_listed => failures.push(format!("{id}: {}\n{error}", text(case, "expr"))),
            Ok(()) if is_listed => failures.push(format!("{id} is accepted now: take it off the list")),
            _ => {}
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Lines without empty ones, which the recording left out.
fn compact(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.split('\n').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")).collect()
}

#[test]
fn further_recorded_cases_print_the_recorded_lines() {
    let messages = messages();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/script-eval-more.jsonl");
    let file = std::fs::read_to_string(path).unwrap();
    let (mut runs, mut failures) = (0, Vec::new());
    for line in file.lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        let wanted: Vec<String> =
            case["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect();
        runs += 1;
        let result = run(&case, Dialect::V4_0, &messages);
        if !result.as_ref().is_ok_and(|lines| compact(lines) == compact(&wanted)) {
            let (id, setup, expr) = (text(&case, "id"), text(&case, "setup"), text(&case, "expr"));
            failures.push(format!("{id}: {setup} | {expr}\n   expected {wanted:?}\n   got      {result:?}"));
        }
    }
    assert!(runs > 1000, "{runs} cases");
    assert!(failures.is_empty(), "{} of {runs} failed\n{}", failures.len(), failures.join("\n"));
}
