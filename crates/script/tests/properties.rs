//! Random programs: they never panic and always end, and waiting at every call changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{TestHost, build};
use proptest::prelude::*;
use tandem_script::ast::{Dialect, RouteKind};
use tandem_script::program::Program;
use tandem_script::vm::Machine;

/// Names of routes a generated block may call.
type Routes = &'static [&'static str];

/// Stands for `launch(` until the test has decided about it.
const LAUNCH: &str = "@launch@(";
/// Instructions of a run in these tests.
const LIMIT: u64 = 20_000;

fn variable() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["a", "b", "c"]);
    let transforms = prop::sample::select(vec![
        "",
        "{s.len}",
        "{s.int}",
        "{s.substr,1,2}",
        "{s.toupper}",
        "{s.select,1,:}",
        "{uri.host}",
        "{csv.value,1}",
        "{s.eval}",
        "{re.subst,/a/$var(b)/g}",
        "{param.value,a}",
        "{s.index,a}",
        "{s.fill.left,xy,9}",
        "{s.b64encode}",
    ]);
    prop_oneof![
        names.clone().prop_map(|name| format!("$var({name})")),
        names.clone().prop_map(|name| format!("$avp({name})")),
        (names.clone(), -3..4i32).prop_map(|(name, at)| format!("$(avp({name})[{at}])")),
        (names.clone(), names.clone()).prop_map(|(name, at)| format!("$(avp({name})[$var({at})])")),
        names.clone().prop_map(|name| format!("$(avp({name})[*])")),
        (names.clone(), transforms).prop_map(|(name, step)| format!("$(var({name}){step})")),
        names.prop_map(|name| format!("$(avp($var({name})))")),
        prop::sample::select(vec![
            "$rc",
            "$param(1)",
            "$param($var(a))",
            "$return(0)",
            "$route",
            "$(route[*])",
            "$cfg_line",
            "$$"
        ])
        .prop_map(str::to_owned),
    ]
}

fn target() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        3 => names.clone().prop_map(|name| format!("$var({name})")),
        2 => names.clone().prop_map(|name| format!("$avp({name})")),
        1 => (names.clone(), -2..3i32).prop_map(|(name, at)| format!("$(avp({name})[{at}])")),
        1 => names.prop_map(|name| format!("$(avp({name})[append])")),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "a",
        "abc",
        "a:b:c",
        "a,b",
        "sip:u@h;a=1",
        "7",
        "a=1;b",
        "$var(a)",
        "\\xff\\xfe",
        "$(avp(b){s.eval})",
    ])
    .prop_map(|text| format!("\"{text}\""))
}

/// A call; routes only among the given ones.
fn call(routes: Routes) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => (-2..3i32).prop_map(|code| format!("yields({code})")),
        2 => variable().prop_map(|var| format!("note({var})")),
        1 => Just("fails()".to_owned()),
        1 => prop::sample::select(routes).prop_map(|name| format!("route({name})")),
        1 => (prop::sample::select(routes), variable()).prop_map(|(name, var)| format!("route({name}, {var}, 2)")),
        1 => variable().prop_map(|var| format!("route({var})")),
        1 => variable().prop_map(|var| format!("pv_printf($var(c), \"<{var}>\")")),
    ]
}

fn expression(routes: Routes) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        3 => variable(),
        2 => (-5..100i32).prop_map(|int| int.to_string()),
        2 => text(),
        1 => call(routes),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let ops = prop::sample::select(vec!["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"]);
        prop_oneof![
            (inner.clone(), ops, inner.clone()).prop_map(|(left, op, right)| format!("{left} {op} {right}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            inner.prop_map(|inner| format!("~({inner})")),
        ]
    })
}

fn condition(routes: Routes) -> impl Strategy<Value = String> {
    let ops = prop::sample::select(vec!["==", "!=", "<", ">", "<=", ">=", "=~", "!~"]);
    let leaf = prop_oneof![
        2 => call(routes),
        2 => variable(),
        3 => (variable(), ops, prop_oneof![variable(), text()]).prop_map(|(left, op, right)| format!("{left} {op} {right}")),
        1 => (variable(), -1..9i32).prop_map(|(left, int)| format!("{left} == {int}")),
        1 => variable().prop_map(|var| format!("{var} != NULL")),
        1 => expression(routes).prop_map(|expr| format!("[ {expr} ]")),
    ];
    leaf.prop_recursive(3, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} && {right}")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} || {right}")),
            inner.clone().prop_map(|inner| format!("!{inner}")),
            inner.prop_map(|inner| format!("({inner})")),
        ]
    })
}

fn block(routes: Routes) -> impl Strategy<Value = String> {
    let ops = prop::sample::select(vec!["=", ":=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="]);
    let leaf = prop_oneof![
        4 => (target(), ops, expression(routes)).prop_map(|(target, op, value)| format!("{target} {op} {value};")),
        1 => target().prop_map(|target| format!("{target} = NULL;")),
        3 => call(routes).prop_map(|call| format!("{call};")),
        2 => variable().prop_map(|var| format!("xlog(\"@={var} $rc\\n\");")),
        1 => prop::sample::select(vec!["return;", "exit;", "drop;", ";"]).prop_map(str::to_owned),
        1 => (variable(), variable()).prop_map(|(code, value)| format!("return({code}, {value}, \"v\");")),
        1 => (-1..3i32).prop_map(|code| format!("async(yields({code}), last);")),
        1 => (-1..3i32, prop::sample::select(routes)).prop_map(|(code, name)| format!("{LAUNCH}yields({code}), {name}, \"$var(a)\");")),
        1 => condition(routes).prop_map(|cond| format!("assert({cond});")),
    ];
    let statement = leaf.prop_recursive(4, 24, 4, move |inner| {
        let body = prop::collection::vec(inner, 0..4).prop_map(|body| body.concat());
        let leave =
            prop::sample::select(vec!["", "break;", "if ($var(a) == 1) break;", "if ($var(b)) { ; } else { break; }"]);
        let looped = (body.clone(), leave, body.clone())
            .prop_map(|(before, leave, behind)| format!("{before} {leave} {behind}"));
        prop_oneof![
            (condition(routes), body.clone(), body.clone())
                .prop_map(|(cond, yes, no)| format!("if ({cond}) {{ {yes} }} else {{ {no} }}")),
            (condition(routes), body.clone()).prop_map(|(cond, body)| format!("if ({cond}) {{ {body} }}")),
            (condition(routes), looped.clone()).prop_map(|(cond, body)| format!("while ({cond}) {{ {body} }}")),
            looped.prop_map(|body| format!("for ($var(b) in $(avp(a)[*])) {{ {body} }}")),
            (variable(), body.clone(), body).prop_map(|(var, one, rest)| {
                format!("switch ({var}) {{ case 1: {one} case \"abc\": {rest} break; default: {one} }}")
            }),
        ]
    });
    prop::collection::vec(statement, 1..6).prop_map(|body| body.concat())
}

/// A script with routes `r1` to `r3`; `last` calls nothing.
fn script(is_recursive: bool) -> impl Strategy<Value = String> {
    let callable: [Routes; 4] = if is_recursive {
        [&["r1", "r2", "r3", "last"]; 4]
    } else {
        [&["r1", "r2", "r3", "last"], &["r2", "r3", "last"], &["r3", "last"], &["last"]]
    };
    let [main, one, two, three] = callable.map(block);
    (main, one, two, three, any::<bool>()).prop_map(|(main, one, two, three, has_error_route)| {
        let error = if has_error_route { "error_route { note($rc); }" } else { "" };
        format!(
            "max_while_loops = 3\nroute {{ $avp(a) = 1; $avp(a) = \"abc\"; $var(a) = 1; {main} xlog(\"@=end $rc\\n\"); }}\n\
             route[r1] {{ {one} }}\nroute[r2] {{ {two} }}\nroute[r3] {{ {three} }}\nroute[last] {{ note($param(1)); }}\n{error}\n"
        )
    })
}

fn program(text: &str, dialect: Dialect) -> Arc<Program> {
    build(text, dialect).unwrap_or_else(|diagnostics| panic!("{text}\n{diagnostics:#?}"))
}

fn result(program: &Arc<Program>, dialect: Dialect, is_waiting: bool) -> (bool, i32, Vec<u8>, String) {
    let mut host = TestHost::new(dialect);
    host.is_waiting = is_waiting;
    host.has_asserts = true;
    let mut machine = Machine::limited(LIMIT);
    let (is_dropped, code) = host.run(&mut machine, program, RouteKind::Request, program.main_route().unwrap());
    if host.complaints.iter().any(|text| text.contains("too many instructions")) {
        // Where the limit strikes depends on the waits.
        return (false, 0, Vec::new(), String::new());
    }
    (is_dropped, code, host.printed, format!("{:?}", host.avps))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_end_and_waiting_at_every_call_changes_nothing(text in script(false), is_old in any::<bool>()) {
        let dialect = if is_old { Dialect::V2_4 } else { Dialect::V4_0 };
        // A pending launch goes to the host instead of running its report route at once, so it is a plain call here.
        let text = text.replace(LAUNCH, "note(");
        let text = without_launch_tails(&text);
        let program = program(&text, dialect);
        let plain = result(&program, dialect, false);
        if !plain.3.is_empty() {
            prop_assert_eq!(plain, result(&program, dialect, true), "{}", text);
        }
    }

    #[test]
    fn random_recursive_programs_end(text in script(true), is_old in any::<bool>()) {
        let dialect = if is_old { Dialect::V2_4 } else { Dialect::V4_0 };
        result(&program(&text.replace(LAUNCH, "launch("), dialect), dialect, false);
    }

    #[test]
    fn random_formats_and_variables_never_panic(text in "[$({a-z.}),\\[\\]0-9*<> \\\\/:;-]{0,60}") {
        let surface = common::surface();
        if let Ok(format) = tandem_script::format::Format::parse(text.as_bytes(), &surface) {
            let mut out = Vec::new();
            format.eval(&mut TestHost::new(Dialect::V4_0), &mut out);
        }
    }

    #[test]
    fn random_transformations_of_random_inputs_never_panic(
        input in prop_oneof!["[ -~]{0,40}", "(sip:)?[a-z@:;=?.<>\", \\[\\]0-9]{0,40}", "(v=0\r\n)?([a-z]=[a-z 0-9]{0,6}\r?\n){0,5}"],
        name in prop::sample::select(tandem_script::transform::NAMES),
        first in prop_oneof![Just(String::new()), (-9..9i32).prop_map(|int| format!(",{int}")), "[,][a-z/;: ]{1,4}"],
        second in prop_oneof![Just(String::new()), (-9..9i32).prop_map(|int| format!(",{int}")), "[,][a-z:;]{1,2}"],
    ) {
        let surface = common::surface();
        let text = format!("$(var(propinput){{{name}{first}{second}}})");
        if let Ok(format) = tandem_script::format::Format::parse(text.as_bytes(), &surface) {
            let mut host = TestHost::new(Dialect::V4_0);
            let slot = tandem_script::pvar::var_slot(b"propinput").unwrap();
            host.vars.set(slot, input.as_str().into());
            format.eval(&mut host, &mut Vec::new());
        }
    }

    #[test]
    fn random_patterns_compile_or_are_refused(pattern in "[a-c()|*+?{},0-9\\[\\]^$.\\\\:=<>w-]{0,24}", text in "[a-c0-9\n]{0,12}") {
        if let Ok(regex) = tandem_script::regex::PosixRegex::new(pattern.as_bytes()) {
            regex.is_match(text.as_bytes());
            regex.groups_at(text.as_bytes(), 0);
        }
    }
}

/// `note(yields(n), name, "...")` becomes `yields(n)`.
fn without_launch_tails(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("note(yields(") {
        let (code, tail) = tail.split_once(')').unwrap();
        let (_, tail) = tail.split_once("\");").unwrap();
        out.push_str(&format!("{head}yields({code});"));
        rest = tail;
    }
    out + rest
}
