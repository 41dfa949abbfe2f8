//! The `value`, `cond`, `format` and `script` cases of `tests/vectors/script-eval.jsonl`, as far as they need only the language,
//! in both dialects, with and without waiting at every call. Cases with message variables run at server level.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{TestHost, build};
use serde_json::Value as Json;
use tandem_script::ast::{Dialect, RouteKind};
use tandem_script::avp::AvpName;
use tandem_script::value::Value;
use tandem_script::vm::Machine;

/// Cases left to the server level: they name a message, a module, or functions and variables that the test host lacks.
const SKIPPED_WITH_MESSAGE: usize = 46;
const SKIPPED_UNKNOWN: usize = 13;

fn vectors() -> Vec<Json> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/script-eval.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(case: &'a Json, field: &str) -> &'a str {
    case[field].as_str().unwrap_or("")
}

fn script_of(case: &Json) -> String {
    let expr = text(case, "expr");
    let body = match text(case, "kind") {
        "value" => {
            let op = case["assign"].as_str().unwrap_or(":=");
            format!("$avp(r) = \"UNSET\"; $avp(r) {op} {expr}; xlog(\"@=$rc\\n\");")
        }
        "cond" => format!("if ({expr}) xlog(\"@=true\\n\"); else xlog(\"@=false\\n\");"),
        "format" => format!("xlog(\"{expr}\");"),
        _ => expr.to_owned(),
    };
    format!(
        "{}\n{}\nstartup_route {{ route(tcase); }}\nroute {{ exit; }}\nroute[tcase] {{ {} {body} }}\n",
        text(case, "globals"),
        text(case, "routes"),
        text(case, "setup")
    )
}

/// What is wrong with the result, if anything.
fn check(case: &Json, expected: &Json, host: &TestHost) -> Option<String> {
    let lines = host.lines();
    match text(case, "kind") {
        "value" => {
            let stored = host.avps.value(AvpName::intern(b"r").unwrap(), 0).cloned();
            let code: i32 = lines.first()?.parse().unwrap();
            let is_right = match text(expected, "type") {
                "fail" => stored == Some(Value::from("UNSET")) && code < 0,
                "null" => stored != Some(Value::Null) && code > 0,
                "int" => stored == Some(Value::Int(expected["value"].as_i64().unwrap() as i32)),
                _ => stored == Some(Value::from(text(expected, "value"))),
            };
            (!is_right).then(|| format!("{stored:?}, code {code}"))
        }
        "cond" => {
            let is_true = lines == ["true"];
            (Some(is_true) != expected.as_bool()).then(|| format!("{lines:?}"))
        }
        "format" => {
            let printed = String::from_utf8_lossy(&host.printed).into_owned();
            (printed != expected.as_str().unwrap_or("")).then(|| format!("{printed:?}"))
        }
        _ => {
            let wanted: Vec<&str> = expected.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            (lines != wanted).then(|| format!("{lines:?}"))
        }
    }
}

#[derive(Default)]
struct Tally {
    runs: usize,
    unknown: Vec<String>,
    failures: Vec<String>,
}

fn run_case(case: &Json, dialect: Dialect, expected: &Json, tally: &mut Tally) {
    let id = text(case, "id");
    let program = match build(&script_of(case), dialect) {
        Ok(program) => program,
        Err(diagnostics) => {
            let is_unknown = diagnostics.iter().all(|d| d.code.starts_with("unknown-"));
            let messages: Vec<&str> = diagnostics.iter().map(|d| d.message.as_str()).collect();
            let list = if is_unknown { &mut tally.unknown } else { &mut tally.failures };
            list.push(format!("{id} {dialect:?}: {messages:?}"));
            return;
        }
    };
    for is_waiting in [false, true] {
        let mut host = TestHost::new(dialect);
        host.has_asserts = text(case, "globals").contains("enable_asserts=yes");
        host.is_waiting = is_waiting;
        host.run(&mut Machine::new(), &program, RouteKind::Startup, program.startup().unwrap());
        tally.runs += 1;
        if let Some(got) = check(case, expected, &host) {
            let expr = text(case, "expr");
            tally.failures.push(format!(
                "{id} {dialect:?}: {expr}\n   expected {expected}\n   got      {got}\n   {:?}",
                host.complaints
            ));
        }
    }
}

#[test]
fn language_vectors_give_the_recorded_results_in_both_dialects() {
    let mut tally = Tally::default();
    let mut with_message = 0;
    for case in vectors().iter().filter(|case| case["kind"] != "parse") {
        if !case["msg"].is_null() {
            with_message += 1;
            continue;
        }
        let dialect = text(case, "dialect");
        if dialect != "2.4" {
            run_case(case, Dialect::V4_0, &case["expected"], &mut tally);
        }
        match dialect {
            "both" | "2.4" => run_case(case, Dialect::V2_4, &case["expected"], &mut tally),
            "differs" => run_case(case, Dialect::V2_4, &case["expected_2_4"], &mut tally),
            _ => {}
        }
    }
    println!(
        "{} runs; {with_message} cases with a message and {} builds with unknown names skipped",
        tally.runs,
        tally.unknown.len()
    );
    println!("{}", tally.unknown.join("\n"));
    assert!(tally.failures.is_empty(), "{} failures\n{}", tally.failures.len(), tally.failures.join("\n"));
    assert_eq!(with_message, SKIPPED_WITH_MESSAGE);
    assert_eq!(tally.unknown.len(), SKIPPED_UNKNOWN, "{:#?}", tally.unknown);
}
