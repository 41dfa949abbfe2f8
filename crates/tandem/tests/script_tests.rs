//! `tandem test`: the tests of the talking cluster pass; every kind of failure prints what was expected and a diagram;
//! mistakes in test files are told with their place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const SCENARIOS: &str = "crates/tandem/tests/scenarios";

fn tandem_test(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.arg("test").args(args).current_dir(root()).output().unwrap()
}

fn scenario(name: &str) -> String {
    format!("{SCENARIOS}/{name}")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn exit_code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A file of this test that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("tandem-script-tests-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_talking_cluster_is_as_its_tests_say() {
    let (junit, lcov) = (Scratch::new("junit.xml"), Scratch::new("lcov"));
    let output =
        tandem_test(&["examples/talking-cluster", "--coverage", "--junit", junit.path(), "--lcov", lcov.path()]);
    let text = stdout(&output);
    assert_eq!(exit_code(&output), 0, "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" passed, 0 failed\n"), "{text}");
    let line = text.lines().find(|line| line.ends_with("examples/talking-cluster/opensips.cfg")).unwrap();
    let percent: f64 = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!(percent > 90.0, "the tests leave much of the example out: {text}");
    assert!(junit.text().contains("<testsuite name=\"examples/talking-cluster/tests/calls.test\""));
    assert!(!junit.text().contains("<failure"));
    assert!(lcov.text().contains("SF:examples/talking-cluster/node1.cfg\nDA:"), "{}", lcov.text());
}

#[test]
fn everything_the_format_has_works() {
    let output = tandem_test(&[&scenario("passing.test")]);
    let text = stdout(&output);
    assert_eq!(exit_code(&output), 0, "{text}");
    assert!(!text.contains("FAIL"), "{text}");
}

#[test]
fn messages_of_a_call_keep_their_order_while_the_script_waits() {
    let output = tandem_test(&[&scenario("call-order.test")]);
    assert_eq!(exit_code(&output), 0, "{}", stdout(&output));
}

#[test]
fn each_failure_says_what_was_expected_and_draws_what_happened() {
    let output = tandem_test(&[&scenario("failing.test")]);
    let text = stdout(&output);
    assert_eq!(exit_code(&output), 1, "{text}");
    assert!(!text.contains("  ok "), "a test that must fail passed: {text}");
    let wanted = root().join(scenario("failing.txt"));
    if std::env::var_os("TANDEM_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(&wanted, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&wanted).unwrap();
    if text != wanted {
        let differs = text.lines().zip(wanted.lines()).find(|(now, then)| now != then);
        panic!("failing.txt differs (TANDEM_WRITE_SNAPSHOTS=1 writes it anew): {differs:#?}\n{text}");
    }
}

#[test]
fn a_message_that_is_not_as_it_must_be_is_shown_whole() {
    let output = tandem_test(&[&scenario("header.test")]);
    let text = stdout(&output);
    assert_eq!(exit_code(&output), 1, "{text}");
    for part in [
        "header.test:9: then bob gets INVITE",
        "line 10: X-A is \"two\"\n                  but: \"one\"",
        "line 11: X-B is present\n                  but: it is absent",
        "line 12: Max-Forwards is absent\n                  but: \"70\"",
        "| INVITE sip:bob@d.example SIP/2.0",
        "INVITE ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("line 13"), "that condition holds: {text}");
}

#[test]
fn mistakes_are_told_with_their_place_and_what_was_meant() {
    let output = tandem_test(&[&scenario("wrong.test"), &scenario("passing.test")]);
    let text = stdout(&output);
    assert_eq!(exit_code(&output), 2, "{text}");
    assert!(text.contains("wrong.test:5:14"), "{text}");
    assert!(text.contains("= help: did you mean `sends`?"), "{text}");
    assert!(text.contains("wrong.test:6:8"), "{text}");
    assert!(text.contains("= help: did you mean `alice`?"), "{text}");
    assert!(text.contains("1 files could not be run"), "the other file is run all the same: {text}");
}

#[test]
fn a_script_that_does_not_load_is_a_broken_test() {
    let output = tandem_test(&[&scenario("no-script.test")]);
    let text = stdout(&output);
    assert_eq!(exit_code(&output), 2, "{text}");
    assert!(text.contains("no-such.cfg"), "{text}");
}

#[test]
fn tests_can_be_listed_and_chosen() {
    let file = scenario("passing.test");
    let output = tandem_test(&[&file, "--list", "--filter", "nobody"]);
    assert_eq!((exit_code(&output), stdout(&output)), (0, format!("{file}:86: nobody answers\n")));
    let output = tandem_test(&[&file, "--filter", "nobody", "--json"]);
    let reports: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(reports[0]["tests"].as_array().unwrap().len(), 1);
    assert_eq!(reports[0]["tests"][0]["outcome"]["result"], "passed");
    assert_eq!(reports[0]["tests"][0]["virtual_ms"], 5000);
    let output = tandem_test(&[&file, "--filter", "no such test"]);
    assert_eq!(exit_code(&output), 2);
    let output = tandem_test(&["no/such/folder"]);
    assert_eq!(exit_code(&output), 2);
}

#[test]
fn a_diagram_is_drawn_for_a_test_that_passes_when_asked() {
    let output = tandem_test(&[&scenario("passing.test"), "--filter", "nobody answers", "--verbose"]);
    let text = stdout(&output);
    assert!(text.contains("│─ INVITE ──"), "{text}");
    assert!(text.contains("nobody answered"), "{text}");
}
