#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use super::*;

const HEAD: &str =
    "script a.cfg\nphone alice at 10.0.0.1\nphone bob at tcp:10.0.0.2:5070\nnode 2 at bin:10.0.1.2:5555\n";

fn errors(steps: &str) -> Vec<SyntaxError> {
    parse(Path::new("x.test"), &format!("{HEAD}{steps}")).expect_err("no error was found")
}

/// Position relative to the text behind the head, message and help of the only error.
fn only(steps: &str) -> (u32, u32, String, String) {
    let mut all = errors(steps);
    assert_eq!(all.len(), 1, "{all:#?}");
    let error = all.remove(0);
    (error.line - 4, error.column, error.message, error.help.unwrap_or_default())
}

fn step(text: &str) -> Action {
    let file = parse(Path::new("dir/x.test"), &format!("{HEAD}test \"t\"\n{text}")).unwrap();
    file.tests[0].steps[0].action.clone()
}

#[test]
fn the_head_names_script_files_and_parties() {
    let head = "script ../a.cfg\ndialect 2.4\npermissive\nfile node.cfg is ../node1.cfg\ndomain d.example\n";
    let file = parse(Path::new("dir/x.test"), &format!("{head}phone gw at [2001:db8::1]:5070 over tls\n")).unwrap();
    assert_eq!(file.script, Path::new("dir/../a.cfg"));
    assert_eq!(file.dialect, Some(Dialect::V2_4));
    assert!(file.is_permissive);
    assert_eq!(file.files, [("node.cfg".to_owned(), PathBuf::from("dir/../node1.cfg"))]);
    assert_eq!(file.domain, "d.example");
    assert_eq!((file.phones[0].addr.port(), file.phones[0].proto), (5070, Proto::Tls));
}

#[test]
fn the_words_for_the_reader_change_nothing() {
    for text in ["after 30s", "when after 30s", "  and after 30s # a comment", "\tgiven when after 30s"] {
        assert!(matches!(step(text), Action::After(span) if span == Duration::from_secs(30)), "{text}");
    }
}

#[test]
fn what_stands_deeper_belongs_to_the_step() {
    let text = "  alice calls sip:bob@x with sdp\n    X-A: one: two\n\n    without Max-Forwards\n    body\n      line 1\n\n      # line 3\n  after 1s\n";
    let Action::Sends(request) = step(text) else { panic!() };
    assert_eq!(request.method, "INVITE");
    assert_eq!(request.extra.headers, [("X-A".to_owned(), "one: two".to_owned())]);
    assert_eq!(request.extra.without, ["Max-Forwards"]);
    assert_eq!(request.extra.body.as_deref(), Some("line 1\r\n\r\n# line 3\r\n"));
    assert!(request.extra.has_sdp);
    let Action::Gets { conditions, within, what, .. } =
        step("bob gets INVITE within 1.5s\n  X-A is \"a b\"\n  uri matches /^sip:.*\\/x/\n  X-B is absent")
    else {
        panic!()
    };
    assert_eq!((what, within), (Kind::Request("INVITE".to_owned()), Duration::from_millis(1500)));
    assert_eq!(conditions.len(), 3);
    assert!(conditions[0].test.holds(Some("a b")) && !conditions[0].test.holds(Some("a")));
    assert!(conditions[1].test.holds(Some("sip:a/x")));
    assert!(conditions[2].test.holds(None) && !conditions[2].test.holds(Some("")));
}

#[test]
fn values_with_spaces_stand_in_quotes() {
    let Action::Row { table, values } = step("row subscriber: username=alice, note=\"a b, c\", empty=") else {
        panic!()
    };
    assert_eq!(table, "subscriber");
    let wanted = [("username", "alice"), ("note", "a b, c"), ("empty", "")];
    assert_eq!(values, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let Action::CacheSet { key, value, span, .. } = step("cache local \"a \\\"b\\\"\" = \"c\\n\" for 2m") else {
        panic!()
    };
    assert_eq!((key.as_str(), value.as_str(), span), ("a \"b\"", "c\n", Some(Duration::from_secs(120))));
}

#[test]
fn patterns_take_stars_and_regular_expressions() {
    let Action::Hears { pattern, .. } = step("node 2 hears \"WHEREIS:*:1?\"") else { panic!() };
    assert!(pattern.regex.is_match("WHEREIS:bob:12") && !pattern.regex.is_match("xWHEREIS:bob:12"));
    let Action::Hears { pattern, .. } = step("node 2 hears /^A.B$/ within 2s") else { panic!() };
    assert!(pattern.regex.is_match("AxB") && !pattern.regex.is_match("A.BC"));
}

#[test]
fn errors_say_where_and_what_was_meant() {
    let cases = [
        ("test \"t\"\n  alise sends OPTIONS sip:x", 2, 3, "`alise` begins no step", "did you mean `alice`?"),
        ("test \"t\"\n  when alice sents OPTIONS sip:x", 2, 14, "found `sents`", "did you mean `sends`?"),
        ("test \"t\"\n  alice sends invite sip:x", 2, 15, "`invite` is no method", "did you mean `INVITE`?"),
        ("test \"t\"\n  after 30", 2, 9, "`30` is no time", "write 500ms, 30s"),
        ("test \"t\"\n  node 3 hears \"x\"", 2, 8, "there is no node 3", "declare it at the top"),
        ("test \"t\"\n  alice gets 2000", 2, 14, "`2000` is no status", "100 to 699"),
        ("test \"t\"\n  log contains \"x", 2, 16, "this \" is never closed", "add \""),
        ("test \"t\"\n  log matches /(/", 2, 15, "cannot be used", ""),
        ("test \"t\"\n  bob gets INVITE\n    Contact: <sip:x>", 3, 5, "here it is compared", "write: Contact is"),
        ("test \"t\"\n  alice calls sip:bob@x\n    bla bla", 3, 5, "stand its headers", "Header: value"),
        ("test \"t\"\n  after 1s\n    alice gets 200", 3, 5, "nothing belongs", "must not stand deeper"),
        ("test \"t\"\n  alice gets", 2, 13, "is missing here", ""),
        ("test \"t\"\n  after 1s now", 2, 12, "`now` is too much", ""),
        ("test \"t\"\n  row t a", 2, 9, "is not column=value", ""),
        ("test \"t\"\n  alice calls bob@x", 2, 15, "`bob@x` is no URI", "write sip:bob@x"),
        ("test \"t\"\ntest \"t\"", 2, 6, "there is a test \"t\" already", ""),
        ("test t", 1, 6, "stands in quotes", "write: test"),
        ("test \"t\"\nphone carol at 10.0.0.3", 2, 1, "must stand before the first test", ""),
        ("phone alice at 10.0.0.3", 1, 7, "there is a phone `alice` already", ""),
        ("phone carol at somewhere", 1, 16, "`somewhere` is no address", "10.0.0.1"),
        ("time tomorrow", 1, 6, "is no time", "2026-03-01"),
    ];
    for (text, line, column, message, help) in cases {
        let found = only(text);
        assert_eq!((found.0, found.1), (line, column), "{text}: {}", found.2);
        assert!(found.2.contains(message) && found.3.contains(help), "{text}: {} / {}", found.2, found.3);
    }
}

#[test]
fn all_errors_are_found_at_once_and_drawn() {
    let all = errors("test \"t\"\n\talice sents OPTIONS sip:x\n\tafter soon\n");
    assert_eq!(all.len(), 2);
    assert_eq!(
        all[0].render(),
        "error: expected one of `sends`, `answers`, `gets`, `authenticates`, `acks`, `cancels`, `hangs`, `is`, `registers`, `calls`, \
         found `sents`\n  --> x.test:6:8\n   |\n 6 | \talice sents OPTIONS sip:x\n   | \t      ^^^^^\n   = help: did you mean `sends`?\n"
    );
}

#[test]
fn a_file_without_script_is_refused() {
    let all = parse(Path::new("x.test"), "phone alice at 10.0.0.1\n").expect_err("it was taken");
    assert!(all[0].message.contains("which script"));
}

#[test]
fn cut_and_broken_files_give_errors_and_no_panic() {
    let text = format!(
        "{HEAD}test \"ä\"\n  alice calls sip:bob@x with sdp\n    X: \"ö\n  bob gets INVITE\n    uri matches /a\\//\n  $shv(x) is 5\n"
    );
    for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
        let _ = parse(Path::new("x.test"), &text[..at]);
        let _ = parse(Path::new("x.test"), &text[at..]);
    }
}
