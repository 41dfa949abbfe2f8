//! The grammar, point by point; what messages look like; that nothing makes the parser panic, hang or overflow the stack.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;
use crate::ast::*;
use crate::diagnostic::{has_errors, render};

const RESIDENTIAL: &str = include_str!("tests/residential.cfg");

fn parsed(text: &str) -> (Script, Vec<Diagnostic>) {
    parse(&SourceMap::from_text("t.cfg", text))
}

fn good(text: &str) -> Script {
    let sources = SourceMap::from_text("t.cfg", text);
    let (script, found) = parse(&sources);
    assert!(!has_errors(&found), "{text}\n{}", render(&found, &sources));
    script
}

fn errors(text: &str) -> Vec<String> {
    let sources = SourceMap::from_text("t.cfg", text);
    let (_, found) = parse(&sources);
    let line = |d: &Diagnostic| {
        let at = sources.location(d.span);
        format!("{}:{}: {}", at.line, at.column, d.message)
    };
    found.iter().filter(|d| d.is_error()).map(line).collect()
}

fn rendered(text: &str) -> String {
    let sources = SourceMap::from_text("t.cfg", text);
    let (_, found) = parse(&sources);
    render(&found, &sources)
}

/// The statements of the main route that consists of `text`.
fn statements(text: &str) -> Vec<StmtKind> {
    let script = good(&format!("route{{ {text} }}"));
    match script.items.into_iter().next() {
        Some(Item::Route(route)) => route.body.into_iter().map(|statement| statement.kind).collect(),
        other => panic!("{other:?}"),
    }
}

/// A condition or expression with all its grouping shown.
fn shape_of_cond(text: &str) -> String {
    match statements(&format!("if ({text}) exit;")).remove(0) {
        StmtKind::If(statement) => show_cond(&statement.cond),
        other => panic!("{other:?}"),
    }
}

fn show_cond(cond: &Cond) -> String {
    match cond {
        Cond::And(a, b) => format!("({} && {})", show_cond(a), show_cond(b)),
        Cond::Or(a, b) => format!("({} || {})", show_cond(a), show_cond(b)),
        Cond::Not(a) => format!("!{}", show_cond(a)),
        Cond::Group(a) => format!("({})", show_cond(a)),
        Cond::Bracket(e) => format!("[{}]", show_expr(e)),
        Cond::Compare(c) => show_compare(c),
        Cond::Call(call) => show_call(call),
        Cond::If(..) => "if".to_owned(),
        Cond::Assign(a) => format!("{} {:?} {}", a.target.text, a.op, show_expr(&a.value)),
        Cond::Block(block, _) => format!("{{{}}}", block.len()),
        Cond::Int(value) => value.to_string(),
        Cond::Var(var) => var.text.clone(),
    }
}

fn show_compare(c: &Compare) -> String {
    let right = match &c.right {
        CompareRight::Var(var) => var.text.clone(),
        CompareRight::Text(text) => format!("{:?}", String::from_utf8_lossy(&text.node)),
        CompareRight::Int(value) => value.to_string(),
        CompareRight::Null => "NULL".to_owned(),
        CompareRight::Network(network) => format!("net {}", network.node),
    };
    format!("{} {:?} {right}", c.left.text, c.op)
}

fn show_call(call: &Call) -> String {
    match &call.kind {
        CallKind::Function(function) => format!("{}/{}", function.name.node, function.args.len()),
        CallKind::Route { name, args } => format!("route {:?}/{}", name.node, args.len()),
        other => format!("{other:?}"),
    }
}

fn shape_of_expr(text: &str) -> String {
    match statements(&format!("$x = {text};")).remove(0) {
        StmtKind::Assign(assign) => show_expr(&assign.value),
        other => panic!("{other:?}"),
    }
}

fn show_expr(expr: &Expr) -> String {
    match expr {
        Expr::Int(value) => value.to_string(),
        Expr::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        Expr::Null => "NULL".to_owned(),
        Expr::Var(var) => var.text.clone(),
        Expr::Compare(c) => format!("<{}>", show_compare(c)),
        Expr::Call(call) => show_call(call),
        Expr::Group(inner) => format!("({})", show_expr(inner)),
        Expr::BitNot(inner) => format!("~{}", show_expr(inner)),
        Expr::Binary(op, a, b) => format!("({} {op:?} {})", show_expr(a), show_expr(b)),
    }
}

#[test]
fn binary_operators_have_two_ranks_and_go_left_to_right() {
    for (text, shape) in [
        ("1 + 2 * 3", "((1 Add 2) Mul 3)"),
        ("8 | 3 & 6", "((8 Or 3) And 6)"),
        ("1 | 2 + 4", "(1 Or (2 Add 4))"),
        ("1 << 2 ^ ~$a", "((1 Shl 2) Xor ~$a)"),
        ("( ( 1 + 2 ) * 3 )", "((((1 Add 2)) Mul 3))"),
        ("- 5 -$var(b)", "(-5 Sub $var(b))"),
        ("5 - -3", "(5 Sub -3)"),
        ("+7", "7"),
        ("$a == 1", "<$a Eq 1>"),
        ("$a > \"x\" + 1", "(<$a Gt \"x\"> Add 1)"),
        ("f(1, , $x) + \"a$b\"", "(f/3 Add \"a$b\")"),
        ("route(a)", "route Text(\"a\")/0"),
        ("NULL", "NULL"),
        ("yes", "1"),
    ] {
        assert_eq!(shape_of_expr(text), shape, "{text}");
    }
}

#[test]
fn conditions_have_one_rank_and_comparisons_are_atoms() {
    for (text, shape) in [
        ("1 || 0 && 0", "((1 || 0) && 0)"),
        ("not $a == 5 and f()", "(!$a Eq 5 && f/0)"),
        ("!(!$a)", "!(!$a)"),
        ("[$var(a) & 4]", "[($var(a) And 4)]"),
        ("[ $rc ]", "[$rc]"),
        ("$si == 10.0.0.0/8 || $si != ::1", "($si Eq net 10.0.0.0/8 || $si Ne net ::1)"),
        ("$si == 10.0.0.0/255.0.0.0", "$si Eq net 10.0.0.0/255.0.0.0"),
        ("$si == 2001:db8::/32", "$si Eq net 2001:db8::/32"),
        ("$si == face::1", "$si Eq net face::1"),
        ("$rU==NULL", "$rU Eq NULL"),
        ("$a =~ $b", "$a Match $b"),
        ("$a !~ \"x\"", "$a NotMatch \"x\""),
        ("$a <= - 1", "$a Le -1"),
        ("{ $x = 5; }", "{1}"),
        ("if (1) exit;", "if"),
        ("$x := NULL", "$x Replace NULL"),
        ("exit", "Exit"),
    ] {
        assert_eq!(shape_of_cond(text), shape, "{text}");
    }
}

#[test]
fn the_old_dialect_needs_no_parentheses_around_conditions() {
    for (text, shape) in [
        ("if $rm == \"INVITE\" { exit; }", "$rm Eq \"INVITE\""),
        ("if ($a) && ($b) { exit; }", "(($a) && ($b))"),
        ("if f() || !g() exit;", "(f/0 || !g/0)"),
        ("if $si == 1.2.3.4 { exit; }", "$si Eq net 1.2.3.4"),
    ] {
        let script = good(&format!("route{{ {text} }}"));
        assert!(script.form_votes.v2_4 > 0, "{text}");
        let Some(Item::Route(route)) = script.items.first() else { panic!() };
        let StmtKind::If(statement) = &route.body[0].kind else { panic!() };
        assert_eq!(show_cond(&statement.cond), shape);
    }
    assert!(matches!(statements("while $i < 3 { $i += 1; }")[0], StmtKind::While { .. }));
    assert_eq!(show_call_of("force_rport;"), "force_rport/0");
}

fn show_call_of(text: &str) -> String {
    match statements(text).remove(0) {
        StmtKind::Call(call) => show_call(&call),
        other => panic!("{other:?}"),
    }
}

#[test]
fn statements_of_every_kind_are_read() {
    let shapes: Vec<String> = statements(
        "; $a = 1; if (1) ; else if (0) { exit; } else { } while (1) { break; } for ($var(i) in $(avp(l)[*])) xlog(\"x\"); switch ($rm) { case \"A\": case -1: exit; default: exit; }; return; drop(); exit();",
    )
    .iter()
    .map(|kind| format!("{kind:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned())
    .collect();
    assert_eq!(shapes, ["Null", "Assign", "If", "While", "For", "Switch", "Null", "Call", "Call", "Call"]);
}

#[test]
fn an_else_belongs_to_the_nearest_if_and_chains_nest() {
    let StmtKind::If(outer) = statements("if ($a) if ($b) exit; else drop;").remove(0) else { panic!() };
    assert!(outer.otherwise.is_none());
    let StmtKind::If(first) = statements("if ($a) exit; else\n if ($b) exit; else if ($c) exit; else drop;").remove(0)
    else {
        panic!()
    };
    let StmtKind::If(second) = &first.otherwise.as_ref().unwrap()[0].kind else { panic!() };
    let StmtKind::If(third) = &second.otherwise.as_ref().unwrap()[0].kind else { panic!() };
    assert_eq!(show_cond(&third.cond), "$c");
    assert!(third.otherwise.is_some());
}

#[test]
fn core_calls_have_their_own_arguments() {
    for (text, shown) in [
        ("return(-1);", "Return { code: Some(-1), values: 0 }"),
        ("return(, 1, NULL);", "Return { code: None, values: 2 }"),
        ("return $var(x);", "Return { code: Some($var(x)), values: 0 }"),
    ] {
        let StmtKind::Call(call) = statements(text).remove(0) else { panic!() };
        let CallKind::Return { code, values } = call.kind else { panic!() };
        let code = code.map(|arg| match arg.kind {
            ArgKind::Int(value) => value.to_string(),
            ArgKind::Var(var) => var.text,
            other => panic!("{other:?}"),
        });
        let code = code.map_or("None".to_owned(), |code| format!("Some({code})"));
        assert_eq!(format!("Return {{ code: {code}, values: {} }}", values.len()), shown);
    }
    let StmtKind::Call(call) = statements("xlog(\"L_INFO\", \"a\" \"b\\n\"\n'c');").remove(0) else { panic!() };
    let CallKind::Xlog { level, format, is_debug } = call.kind else { panic!() };
    assert_eq!(
        (level.unwrap().kind, format.node.as_slice(), is_debug),
        (ArgKind::Text(b"L_INFO".to_vec()), b"ab\nc".as_slice(), false)
    );
    let StmtKind::Call(call) = statements("async(wait_for_event(\"E\", \"$avp(f)\", \"5\"), RESUME);").remove(0) else {
        panic!()
    };
    let CallKind::Async { function, resume, timeout } = call.kind else { panic!() };
    assert_eq!((function.args.len(), resume.node.as_str(), timeout), (3, "RESUME", None));
    let StmtKind::Call(call) = statements("launch(f(), \"a-b\", \"$ci\");").remove(0) else { panic!() };
    assert!(matches!(call.kind, CallKind::Launch { report: Some(report), value: Some(_), .. } if report.node == "a-b"));
    let StmtKind::Call(call) = statements("log(-1, \"x\");").remove(0) else { panic!() };
    assert!(matches!(call.kind, CallKind::Log { level: Some(-1), .. }));
    let StmtKind::Call(call) = statements("assert($a == 1 && f(), \"x\");").remove(0) else { panic!() };
    assert!(matches!(call.kind, CallKind::Assert { text: Some(_), .. }));
    assert_eq!(
        show_call_of("route($var(n), 1, \"x\", $y, NULL);"),
        "route Var(Var { text: \"$var(n)\", span: Span { file: FileId(0), start: 13, end: 20 } })/4"
    );
    assert_eq!(show_call_of("route ( 1 ) ;"), "route Text(\"1\")/0");
}

#[test]
fn arguments_keep_their_form() {
    let StmtKind::Call(call) =
        statements("f(\"a\", 'b', -5, $x, , NAT, udp:1.2.3.4:5060, 1.2.3.4, [::1]:5060, yes, NULL);").remove(0)
    else {
        panic!()
    };
    let CallKind::Function(function) = call.kind else { panic!() };
    let shown: Vec<String> = function
        .args
        .into_iter()
        .map(|arg| match arg.kind {
            ArgKind::Text(text) => format!("text {}", String::from_utf8_lossy(&text)),
            ArgKind::Var(var) => format!("var {}", var.text),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "text a",
            "text b",
            "Int(-5)",
            "var $x",
            "Missing",
            "Word(\"NAT\")",
            "Word(\"udp:1.2.3.4:5060\")",
            "Word(\"1.2.3.4\")",
            "Word(\"[::1]:5060\")",
            "Int(1)",
            "Null"
        ]
    );
}

#[test]
fn all_route_kinds_and_names_are_read() {
    let script = good("route{;} route[0a]{;}".replace("[0a]", "[\"0a\"]").as_str());
    assert_eq!(script.items.len(), 2);
    let script = good(
        "route[0]{;}\nroute[7]{;}\nroute [ a ] {;}\nroute[\"a-b\"]{;}\nbranch_route[b]{;}\nfailure_route[f]{;}\nonreply_route{;}\nonreply_route[r]{;}\nerror_route{;}\nlocal_route {;}\nstartup_route{;}\ntimer_route[t,5]{;}\nevent_route[E_X]{;}\nevent_route[E_Y, sync]{;}\nevent_route[E_Z, async]{;}",
    );
    let shown: Vec<String> = script
        .items
        .iter()
        .map(|item| match item {
            Item::Route(r) => {
                format!(
                    "{:?} {:?} {:?} {:?}",
                    r.kind,
                    r.name.as_ref().map(|name| name.node.as_str()),
                    r.interval,
                    r.event_mode
                )
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Request None None None",
            "Request Some(\"7\") None None",
            "Request Some(\"a\") None None",
            "Request Some(\"a-b\") None None",
            "Branch Some(\"b\") None None",
            "Failure Some(\"f\") None None",
            "OnReply None None None",
            "OnReply Some(\"r\") None None",
            "Error None None None",
            "Local None None None",
            "Startup None None None",
            "Timer Some(\"t\") Some(5) None",
            "Event Some(\"E_X\") None None",
            "Event Some(\"E_Y\") None Some(Sync)",
            "Event Some(\"E_Z\") None Some(Async)",
        ]
    );
}

#[test]
fn modparam_takes_joined_strings_numbers_octal_and_boolean_words() {
    let values: Vec<ModparamValue> = good(
        "modparam(\"a\", \"b\", \"x\"\n\t'y'  \"z\")\nmodparam(\"a\",\"b\",0666)modparam(\"a\", \"b\", - 3)\nmodparam(\"a|b\", \"c\", yes)/* glued */",
    )
    .items
    .into_iter()
    .map(|item| if let Item::Modparam(modparam) = item { modparam.value.node } else { panic!() })
    .collect();
    assert_eq!(
        values,
        [ModparamValue::Text(b"xyz".to_vec()), ModparamValue::Int(438), ModparamValue::Int(-3), ModparamValue::Int(1)]
    );
}

#[test]
fn a_realistic_script_has_no_finding_but_notes() {
    let (script, found) = parsed(RESIDENTIAL);
    let bad: Vec<&Diagnostic> = found.iter().filter(|d| d.severity != Severity::Note).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(script.items.iter().filter(|item| matches!(item, Item::Route(_))).count(), 18);
    assert!(RESIDENTIAL.lines().count() >= 280);
}

#[test]
fn all_errors_of_a_file_are_reported_at_their_places() {
    let text = "\
log_level=3;
modparam(\"m\", \"a\", z\";)
modparam(\"m\", \"b\" 5)
route {
    $var(a) = 1
    if ($var(a) = = 2) { exit }
    fob(1 + 2);
    xlog(\"x\";
    while () { drop; }
    $var(b) = !1;
}
rout[x] {
    exit;
}
route[y] {
    switch (\"x\") { case $v: exit; }
    esle { exit; }
}
";
    assert_eq!(
        errors(text),
        [
            "1:12: there is no `;` behind a global parameter",
            "2:20: the value of a module parameter is a string or a number, found the bare word `z`",
            "3:19: expected `,` and the value of the parameter, found `5`",
            "5:15: expected `;` behind this, found `if`",
            "6:19: expected a value: a number, a string, a variable or a call, found `=`",
            "6:31: expected `;`, found `}`",
            "7:11: an argument is a constant or a variable, not an expression",
            "8:13: expected `)`, found `;`",
            "9:12: expected a condition: a comparison, a call or a variable, found `)`",
            "10:15: `!` exists in conditions only, not in values",
            "12:1: `rout` begins no kind of route",
            "16:13: expected a variable: only a variable can be switched over, found `\"x\"`",
            "16:25: a `case` label is a number or a string, not a variable",
            "17:5: `esle` begins no statement, and no call: expected `(` behind it, found `{`",
        ]
    );
}

#[test]
fn messages_show_the_place_the_cause_and_a_way_out() {
    assert_eq!(
        rendered("route{\n\tif (\"INVITE\" == $rm)\n\t\texit;\n}\n"),
        "\
error[syntax]: only a variable can stand on the left side of a comparison
 --> t.cfg:2:6
  |
2 |     if (\"INVITE\" == $rm)
  |         ^^^^^^^^
  |
  = help: swap the two sides

"
    );
    assert_eq!(
        rendered("route{\n    $var(a) = 1\n    exit;\n}\n"),
        "\
error[syntax]: expected `;` behind this, found `exit`
 --> t.cfg:2:15
  |
2 |     $var(a) = 1
  |               ^ expected `;`

"
    );
    assert_eq!(
        rendered("route{\n    if ($var(a) + 1 > 3) exit;\n}\n"),
        "\
error[syntax]: arithmetic in a condition stands in square brackets
 --> t.cfg:2:17
  |
2 |     if ($var(a) + 1 > 3) exit;
  |                 ^
  |
  = help: write `[ ... ]`, or put the value into a variable first if it is to be compared

"
    );
    assert_eq!(
        rendered("socket=127.0.0.1:5060\nroute{\n    xlog(\"a);\n    exit;\n    xlog(\"b\");\n}\n"),
        "\
error[syntax]: `socket` needs a protocol
 --> t.cfg:1:8
  |
1 | socket=127.0.0.1:5060
  |        ^^^^^^^^^^^^^^
  |
  = help: write `socket=udp:127.0.0.1:5060`

error[syntax]: expected `)`, found `b`
 --> t.cfg:5:11
  |
5 |     xlog(\"b\");
  |           ^ expected `)`
  |
  = note: the string that begins in line 3 goes on over several lines: is its closing quote missing?

error[open-string]: this string is never closed
 --> t.cfg:5:12
  |
5 |     xlog(\"b\");
  |            ^ expected a closing `\"` behind the text

"
    );
    assert_eq!(
        rendered("route[a] {\n    if ($rU == NULL) {\n        exit;\n}\nroute {\n    exit;\n}\n"),
        "\
error[open-block]: this `{` is never closed: expected `}`, found `route`
 --> t.cfg:1:10
  |
1 | route[a] {
  |          ^ expected a `}` for this
  |
  = note: the block must end before line 5

"
    );
}

#[test]
fn a_line_behind_two_slashes_is_one_error_and_no_more() {
    let text = "// one\nlog_level=3\nroute { // two\n\texit; // three\n\tno_call;\n}\n// four";
    let found = errors(text);
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(found.iter().filter(|error| error.contains("`//`")).count(), 4);
}

#[test]
fn an_ipv6_address_to_compare_with_may_stand_in_brackets() {
    for (text, network) in
        [("[::1]", "::1"), ("::1", "::1"), ("[2001:db8::]/32", "2001:db8::/32"), ("10.0.0.0/8", "10.0.0.0/8")]
    {
        let shown = shape_of_cond(&format!("$si == {text}"));
        assert!(shown.contains(network) && !shown.contains('['), "{shown}");
    }
    assert_eq!(errors("route{ if ($si == [1]) exit; }").len(), 1);
}

#[test]
fn hints_name_what_was_meant() {
    for (text, message, hint) in [
        ("route{ if (uri==myself) exit; }", "`uri` is not a variable", "write `is_myself(\"$rd\")`"),
        ("route{ if (msg:len > 2048) exit; }", "`msg` is not a variable", "write `$ml`"),
        ("route{ if (!uri =~ \"a\") exit; }", "`uri` is not a variable", "write `$ru`"),
        (
            "route{ if ($rd==myself) exit; }",
            "`myself` is no value to compare with",
            "write `is_myself(\"$rd\")` instead of the comparison, with the variable that holds the host",
        ),
        (
            "route{ if ($x) { break; } }",
            "`break` stands outside",
            "write `return;` to leave this route, or `exit;` to end the script",
        ),
        ("route{ xlog(\"a\"); // b\n}", "`//` begins no comment", "write `#`, or `/* ... */` around it"),
        ("route{ if (method==\"INVITE\") exit; }", "`method` is not a variable", "write `$rm`"),
        ("route{ x = 1; }", "`x` is not a variable", "write `$var(x)`"),
        ("route{ if ($x == TRUE) exit; }", "`TRUE` is no constant", "write `true`"),
        ("route{ $x = -$y; }", "a sign can stand before a number only", "write `0 - $y`"),
        ("route{ $x <<= 1; }", "there are no shifting assignments", "write `$x = $x << ...`"),
        ("route{ if ([$rc]) exit; }", "takes the `]` into its name", "write a blank: `$rc ]`"),
        ("route[a-b]{;}", "a route name without quotes", "write the name in quotes"),
        ("route[if]{;}", "`if` is a reserved word", "write `\"if\"`"),
        ("alias=4you.example.org\n", "must be in quotes", "write `\"4you.example.org\"`"),
        ("chroot=/tmp\n", "a path must be in quotes", "write `\"/path\"`"),
        ("alias=a.b:5060\n", "an alias with a port needs a protocol", "write `any:host:port`"),
        ("route{ $avp(a)[1] = 1; }", "an index needs the long form", "write `$(avp(a)[...])`"),
        ("socket=udp:1.2.3.4:5060 anycats\nroute{;}", "`anycats` is no option of a socket", "did you mean `anycast`?"),
        ("routt{;}", "`routt` begins no kind of route", "did you mean `route`?"),
    ] {
        let (_, found) = parsed(text);
        let first = found.iter().find(|d| d.is_error()).unwrap_or_else(|| panic!("{text}: no error"));
        assert!(first.message.contains(message), "{text}: {}", first.message);
        assert_eq!(first.suggestion.as_deref(), Some(hint), "{text}");
    }
}

/// Runs on a thread with the 2 MiB stack that workers have.
fn on_small_stack(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn deep_and_long_nesting_is_an_error_not_a_stack_overflow() {
    on_small_stack(|| {
        const MANY: usize = 100_000;
        for (text, is_error) in [
            (format!("route{{ if ({}1{}) exit; }}", "(".repeat(MANY), ")".repeat(MANY)), true),
            (format!("route{{ if ({}1) exit; }}", "!".repeat(MANY)), true),
            (format!("route{{ $x = {}1{}; }}", "(".repeat(MANY), ")".repeat(MANY)), true),
            (format!("route{{ $x = {}1; }}", "~".repeat(MANY)), true),
            (format!("route{{ {} exit; {} }}", "if (1) {".repeat(MANY), "}".repeat(MANY)), true),
            (format!("route{{ {} exit; }}", "if (1) ".repeat(MANY)), true),
            (format!("route{{ {} }}", "{".repeat(MANY)), true),
            (format!("route{{ {} exit; }}", "while (1) ".repeat(MANY)), true),
            (format!("route{{ {} }}", "switch ($x) { case 1: ".repeat(MANY)), true),
            (format!("route{{ if ({}1) exit; }}", "{ if (".repeat(MANY)), true),
            (format!("route{{ if (1) exit; {} }}", "else if (1) exit;".repeat(MANY)), true),
            (format!("route{{ $x = 1{}; }}", " + 1".repeat(MANY)), true),
            (format!("route{{ if (1{}) exit; }}", " && 1".repeat(MANY)), true),
            (format!("route{{ {} }}", "async(".repeat(MANY)), true),
            (format!("route{{ f({}); }}", "1,".repeat(MANY)), true),
            (format!("route{{ if ({}1{}) exit; }}", "(".repeat(90), ")".repeat(90)), false),
            (format!("route{{ $x = 1{}; }}", " + 1".repeat(490)), false),
            (format!("route{{ if (1) exit; {} }}", "else if (1) exit;".repeat(490)), false),
        ] {
            let (script, found) = parsed(&text);
            let head: String = text.chars().take(40).collect();
            assert_eq!(has_errors(&found), is_error, "{head}: {:?}", found.first());
            assert!(found.iter().filter(|d| d.is_error()).count() <= 3, "{head}: {} errors", found.len());
            drop(script);
        }
    });
}

#[test]
fn a_limit_skips_only_the_route_it_is_in() {
    let text = format!("route{{ if ({}1{}) exit; }}\nroute[b]{{ $x = ; }}\n", "(".repeat(200), ")".repeat(200));
    assert_eq!(
        errors(&text),
        [
            "1:112: nested deeper than 100 levels",
            "2:16: expected a value: a number, a string, a variable or a call, found `;`"
        ]
    );
}

#[test]
fn a_script_cut_anywhere_ends_in_bounded_findings() {
    on_small_stack(|| {
        for end in 0..RESIDENTIAL.len() {
            let (script, found) = parsed(&RESIDENTIAL[..end]);
            // One place is broken, so few things can be wrong.
            let count = found.iter().filter(|d| d.is_error()).count();
            assert!(count <= 3, "cut at {end}: {count} errors: {found:?}");
            assert!(script.items.len() <= 70);
        }
    });
}

#[test]
fn a_script_without_any_one_line_recovers() {
    let lines: Vec<&str> = RESIDENTIAL.lines().collect();
    for skip in 0..lines.len() {
        let text: Vec<&str> =
            lines.iter().enumerate().filter(|(index, _)| *index != skip).map(|(_, line)| *line).collect();
        let found = errors(&text.join("\n"));
        assert!(found.len() <= 4, "without line {}: {found:?}", skip + 1);
    }
}

#[test]
fn ten_megabytes_of_nonsense_are_given_up_on_quickly() {
    for piece in [
        "} ",
        "$x ",
        "x = ",
        "route{ ",
        "( ",
        "if ",
        "\u{fffd}",
        "x=1 ",
        "route{;} ",
        "modparam(\n",
        "a b c\n",
        "case ",
        "alias=a.b ",
        "socket=",
        "1 ",
    ] {
        let text = piece.repeat(10_000_000 / piece.len());
        let start = std::time::Instant::now();
        let (_, found) = parsed(&text);
        assert!(found.len() <= NOTES_MAX + 3 * ERRORS_MAX, "{piece:?}: {}", found.len());
        // Linear work takes about a second here; the bound catches quadratic work.
        assert!(start.elapsed().as_secs() < 30, "{piece:?} took {:?}", start.elapsed());
    }
}

/// Pieces that random scripts are made of.
const SOUP: &[&str] = &[
    "route",
    "route[a]",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ";",
    ",",
    ":",
    ".",
    "if",
    "else",
    "while",
    "for",
    "in",
    "switch",
    "case",
    "default",
    "break",
    "return",
    "exit",
    "drop",
    "$x",
    "$var(a)",
    "$(avp(b)[0]{s.len})",
    "$(",
    "$",
    "\"s\"",
    "'t'",
    "\"",
    "'",
    "1",
    "-1",
    "0x",
    "08",
    "=",
    "==",
    ":=",
    "+=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "&",
    "|",
    "^",
    "~",
    "<<",
    ">>",
    "&&",
    "||",
    "!",
    "!=",
    "=~",
    "!~",
    "<",
    ">",
    "NULL",
    "yes",
    "f",
    "f(",
    "xlog(",
    "async(",
    "launch(",
    "assert(",
    "log(",
    "loadmodule",
    "modparam(",
    "socket=",
    "listen=",
    "alias=",
    "udp:1.2.3.4:5060",
    "::1",
    "10.0.0.0/8",
    "[::1]",
    "dst_blacklist=",
    "auto_scaling_profile=",
    "mem-group=",
    "timer_route[t,",
    "event_route[",
    "branch_route",
    "include_file",
    "#",
    "/*",
    "*/",
    "\\",
    "\n",
    " ",
    "@",
    "\u{e4}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_soup_is_survived(pieces in proptest::collection::vec(proptest::sample::select(SOUP), 0..200), is_spaced: bool, in_route: bool) {
        let text = pieces.join(if is_spaced { " " } else { "" });
        let text = if in_route { format!("route{{ {text} }}") } else { text };
        let sources = SourceMap::from_text("t.cfg", text.clone());
        let (script, found) = parse(&sources);
        for d in &found {
            prop_assert!(d.span.end as usize <= text.len() + 1 && d.span.start <= d.span.end);
        }
        let _ = render(&found, &sources);
        let _ = crate::globals::evaluate(&script, Dialect::V4_0);
        let options = crate::check::CheckOptions { warnings: true, ..Default::default() };
        let _ = crate::check::check(&script, Dialect::V4_0, &crate::check::test_surface::surface(true), &options);
    }

    #[test]
    fn bytes_are_survived(bytes: Vec<u8>) {
        let sources = SourceMap::from_text("t.cfg", bytes);
        let (_, found) = parse(&sources);
        let _ = render(&found, &sources);
        let _ = crate::diagnostic::to_json(&found, &sources);
    }
}
