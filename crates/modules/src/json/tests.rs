//! `$json` through scripts. The recorded cases of the reference are in `tests/script_eval.rs`.
#![allow(clippy::unwrap_used)]

use crate::test_rig::Rig;

fn lines(body: &str) -> Vec<String> {
    lines_with("", body)
}

fn lines_with(head: &str, body: &str) -> Vec<String> {
    let script = format!("loadmodule \"json.so\"\n{head}\nstartup_route {{ {body} }}\nroute {{ exit; }}");
    // A thread of its own has its own documents.
    std::thread::spawn(move || Rig::script(&script).xlogs()).join().unwrap()
}

#[test]
fn documents_are_built_and_printed_by_path() {
    let lines = lines(
        r#"$json(a) := "{}"; $json(a/s) = "x/y"; $json(a/l) := "[1]"; $json(a/l[]) = 2; $json(a/l[0]) = NULL;
           xlog("$json(a)"); xlog("$json_compact(a) $json_compact_noescape(a)"); xlog("$json_pretty(a)");
           $var(k) = "s"; $var(i) = -1; xlog("$json(a/$var(k)) $json(a/l[$var(i)]) $json(a/nope)");
           $json(a/l[7]) = 1; xlog("$rc");"#,
    );
    assert_eq!(lines[0], r#"{ "s": "x\/y", "l": [ 2 ] }"#);
    assert_eq!(lines[1], r#"{"s":"x\/y","l":[2]} {"s":"x/y","l":[2]}"#);
    assert_eq!(lines[2], "{\n  \"s\":\"x\\/y\",\n  \"l\":[\n    2\n  ]\n}");
    assert_eq!(lines[3..], ["x/y 2 <null>", "-1"]);
}

#[test]
fn for_walks_values_and_keys() {
    let lines = lines(
        r#"$json(a) := "{\"x\":1,\"y\":[true]}"; for ($var(v) in $(json(a)[*])) xlog("$var(v)");
           for ($var(v) in $(json(a.keys)[*])) xlog("$var(v)"); for ($var(v) in $(json(a/y)[*])) xlog("$var(v)");"#,
    );
    assert_eq!(lines, ["1", "[ true ]", "x", "y", "true"]);
}

#[test]
fn a_link_shares_and_a_circle_ends() {
    let lines = lines(
        r#"$json(a) := "[{}]"; json_link($json(b), $json(a[0])); $json(b/k) = 1; xlog("$json(a)");
           json_link($json(a[0]), $json(a)); xlog("$rc $(json(a){s.len})");"#,
    );
    assert_eq!(lines[0], r#"[ { "k": 1 } ]"#);
    assert!(lines[1].starts_with("1 "), "{lines:?}");
}

#[test]
fn long_integers_are_texts_when_wanted() {
    let body = r#"$json(a) := "[5000000000,7]"; $var(x) = $json(a[0]) + "!"; xlog("$var(x) $json(a[1])");"#;
    assert_eq!(lines_with("modparam(\"json\", \"enable_long_quoting\", 1)", body), ["5000000000! 7"]);
}

#[test]
fn patches_are_merged() {
    let lines = lines(
        r#"json_merge("{\"a\":1,\"b\":{\"c\":2}}", "{\"a\":null,\"b\":{\"d\":3}}", $var(o)); xlog("$rc $var(o)");
           json_merge("{", "{}", $var(o)); xlog("$rc");"#,
    );
    assert_eq!(lines, [r#"1 {"b":{"c":2,"d":3}}"#, "-1"]);
}
