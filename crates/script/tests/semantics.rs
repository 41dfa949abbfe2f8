//! Rules of the language that the vectors do not reach: waiting, `async`, `launch`, guards, nested runs, flags, positions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{TestHost, build};
use tandem_script::ast::{Dialect, RouteKind};
use tandem_script::program::Program;
use tandem_script::vm::{Machine, Outcome, StartOptions};

fn compiled(text: &str) -> Arc<Program> {
    compiled_in(text, Dialect::V4_0)
}

fn compiled_in(text: &str, dialect: Dialect) -> Arc<Program> {
    build(text, dialect).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"))
}

fn lines_of(program: &Arc<Program>, host: &mut TestHost) -> Vec<String> {
    host.run(&mut Machine::new(), program, RouteKind::Request, program.main_route().unwrap());
    host.lines()
}

fn lines(text: &str) -> Vec<String> {
    lines_of(&compiled(text), &mut TestHost::new(Dialect::V4_0))
}

fn codes(text: &str) -> Vec<&'static str> {
    build(text, Dialect::V4_0).err().unwrap_or_default().iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn a_waiting_machine_is_resumed_on_another_thread_inside_a_condition() {
    let program = compiled("route { if (yields(1) && yields(2)) xlog(\"@=both $rc\\n\"); xlog(\"@=end\\n\"); }");
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    let mut machine = Machine::new();
    machine.start(Arc::clone(&program), program.main_route().unwrap(), StartOptions::new(RouteKind::Request));
    assert!(matches!(machine.run(&mut host), Outcome::Waiting(1)));
    assert!(machine.is_waiting());
    let (mut machine, mut host) = std::thread::spawn(move || {
        assert!(matches!(machine.resume(&mut host, 1), Outcome::Waiting(2)));
        (machine, host)
    })
    .join()
    .unwrap();
    assert!(matches!(machine.resume(&mut host, 2), Outcome::Finished { is_dropped: false, .. }));
    assert_eq!(host.lines(), ["both 2", "end"]);
}

#[test]
fn a_code_of_zero_that_arrives_late_ends_the_script() {
    let program = compiled(
        "route { route(x); xlog(\"@=never\\n\"); } route[x] { $var(a) = 1 + yields(0); xlog(\"@=never\\n\"); }",
    );
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    assert!(lines_of(&program, &mut host).is_empty());
}

#[test]
fn async_ends_the_run_and_the_resume_route_sees_only_what_lasts() {
    let text = "route { $avp(k) = \"kept\"; route(x, 7); xlog(\"@=never\\n\"); } \
        route[x] { async(yields(5), done, 3); xlog(\"@=never\\n\"); } \
        route[done] { xlog(\"@=$rc $avp(k) $param(1) $route\\n\"); }";
    let program = compiled(text);
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    let mut machine = Machine::new();
    machine.start(Arc::clone(&program), program.main_route().unwrap(), StartOptions::new(RouteKind::Request));
    let Outcome::Async { pending: 5, resume, timeout_secs: Some(3) } = machine.run(&mut host) else {
        panic!("no async")
    };
    assert_eq!(Some(resume), program.route(RouteKind::Request, "done"));
    let mut options = StartOptions::new(RouteKind::Request);
    options.rc = -3;
    machine.start(Arc::clone(&program), resume, options);
    assert!(matches!(machine.run(&mut host), Outcome::Finished { .. }));
    assert_eq!(host.lines(), ["-3 kept <null> route[done]"]);
}

#[test]
fn async_that_is_done_at_once_or_cannot_start_runs_the_resume_route_in_place() {
    let text = "route { route(x); xlog(\"@=never\\n\"); } route[x] { async(yields(5), done); } route[done] { xlog(\"@=$rc $(route[*])\\n\"); }";
    let program = compiled(text);
    let mut host = TestHost::new(Dialect::V4_0);
    assert_eq!(lines_of(&program, &mut host), ["5 route[done]"]);
    let mut host = TestHost::new(Dialect::V4_0);
    host.begin = Err(Some(-1));
    assert_eq!(lines_of(&program, &mut host), ["-1 route[done]"]);
    assert_eq!(host.calls, 0);
    let mut host = TestHost::new(Dialect::V4_0);
    host.begin = Err(None);
    assert!(lines_of(&program, &mut host).is_empty());
}

#[test]
fn async_where_nothing_can_be_parked_waits_in_place() {
    let text = "timer_route[t, 5] { async(yields(4), done); xlog(\"@=never\\n\"); } route { exit; } route[done] { xlog(\"@=$rc\\n\"); }";
    let program = compiled(text);
    let timer = program.timers().next().unwrap();
    assert_eq!(timer.interval_secs, 5);
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    let mut machine = Machine::new();
    machine.start(Arc::clone(&program), timer.route, StartOptions::new(RouteKind::Timer));
    assert!(matches!(machine.run(&mut host), Outcome::Waiting(4)));
    assert!(matches!(machine.resume(&mut host, 4), Outcome::Finished { .. }));
    assert_eq!(host.lines(), ["4"]);
}

#[test]
fn async_in_the_global_reply_route_fails_into_its_resume_route() {
    let text = "onreply_route { async(yields(4), done); } onreply_route[n] { async(yields(4), done); } route { exit; } \
        route[done] { xlog(\"@=$rc\\n\"); }";
    let program = compiled(text);
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    host.run(&mut Machine::new(), &program, RouteKind::OnReply, program.global_onreply().unwrap());
    host.run(&mut Machine::new(), &program, RouteKind::OnReply, program.route(RouteKind::OnReply, "n").unwrap());
    assert_eq!(host.lines(), ["-1", "4"]);
}

#[test]
fn launch_goes_on_and_a_report_that_is_due_at_once_has_its_own_avps() {
    let text = "route { $avp(a) = 1; launch(yields(3), report, \"v$avp(a)\"); xlog(\"@=$rc $avp(a)\\n\"); launch(fails(), report); xlog(\"@=$rc\\n\"); } \
        route[report] { xlog(\"@=report $rc $param(1) $avp(a)\\n\"); $avp(a) = 2; exit; }";
    let program = compiled(text);
    let mut host = TestHost::new(Dialect::V4_0);
    assert_eq!(lines_of(&program, &mut host), ["report 3 v1 <null>", "1 1", "-1"]);
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    assert_eq!(lines_of(&program, &mut host), ["1 1", "-1"]);
    assert_eq!(host.launched.len(), 1);
}

#[test]
fn drop_is_reported_and_exit_is_not_a_drop() {
    for (word, is_dropped) in [("drop", true), ("exit", false)] {
        let program = compiled(&format!("route {{ route(x); }} route[x] {{ {word}; }}"));
        let mut host = TestHost::new(Dialect::V4_0);
        let outcome = host.run(&mut Machine::new(), &program, RouteKind::Request, program.main_route().unwrap());
        assert_eq!(outcome.0, is_dropped);
    }
}

#[test]
fn arguments_that_are_null_or_of_another_type_fail_the_call() {
    let text = "route { prefix($var(zz)); xlog(\"@=$rc\\n\"); strip($var(zz)); xlog(\"@=$rc\\n\"); $var(s) = \"2\"; strip($var(s)); \
        xlog(\"@=$rc\\n\"); strip(\"$var(s)\"); xlog(\"@=$rc $rU\\n\"); is_myself($var(zz)); xlog(\"@=$rc\\n\"); $var(i) = 7; prefix($var(i)); xlog(\"@=$rc $rU\\n\"); \
        note(\"[$var(zz)]\"); strip(\"1\"); xlog(\"@=$rU\\n\"); }";
    let expected = ["-1", "-1", "-1", "1 er", "-1", "1 7er", "note [<null>]", "er"];
    assert_eq!(lines(text), expected);
}

#[test]
fn an_error_route_runs_after_the_action_and_leaves_the_return_code_alone() {
    let text = "route { $ru = \"sip:@@bad\"; if ($rU == \"x\") { ; } xlog(\"@=$rc\\n\"); } error_route { fails(); xlog(\"@=error\\n\"); }";
    assert_eq!(lines(text), ["error", "0"]);
    let program =
        compiled("route { assert(0, \"boom\"); xlog(\"@=never\\n\"); } error_route { xlog(\"@=error\\n\"); }");
    let mut host = TestHost::new(Dialect::V4_0);
    host.has_asserts = true;
    assert_eq!(lines_of(&program, &mut host), ["error"]);
    assert!(host.complaints.iter().any(|text| text.contains("boom")));
    assert_eq!(host.failed_asserts, 1);
    let mut host = TestHost::new(Dialect::V4_0);
    assert_eq!((lines_of(&program, &mut host), host.failed_asserts), (vec!["never".to_owned()], 0));
}

#[test]
fn a_run_inside_a_function_call_does_not_disturb_the_outer_one() {
    let outer = compiled("route { route(x, 1); } route[x] { yields(2); xlog(\"@=$param(1) $rc $route\\n\"); }");
    let inner = compiled("route { route(y, 9); } route[y] { xlog(\"@=$param(1) $route\\n\"); }");
    let mut host = TestHost::new(Dialect::V4_0);
    host.is_waiting = true;
    let mut machine = Machine::new();
    machine.start(Arc::clone(&outer), outer.main_route().unwrap(), StartOptions::new(RouteKind::Request));
    assert!(matches!(machine.run(&mut host), Outcome::Waiting(2)));
    host.run(&mut Machine::new(), &inner, RouteKind::Event, inner.main_route().unwrap());
    assert!(matches!(machine.resume(&mut host, 2), Outcome::Finished { .. }));
    assert_eq!(host.lines(), ["9 route[y]", "1 2 route[x]"]);
}

#[test]
fn event_parameters_are_read_by_name_and_by_position() {
    let program = compiled(
        "event_route[E_X] { xlog(\"@=$param(2) $param(k) $param(none)\\n\"); route(y); } route[y] { xlog(\"@=$param(k)\\n\"); } route { exit; }",
    );
    let mut options = StartOptions::new(RouteKind::Event);
    options.params = vec![(Some("j".into()), 7.into()), (Some("k".into()), "v".into())];
    let (name, route, _) = program.event_routes().next().unwrap();
    assert_eq!(name, "E_X");
    let mut host = TestHost::new(Dialect::V4_0);
    let mut machine = Machine::new();
    machine.start(Arc::clone(&program), route, options);
    assert!(matches!(machine.run(&mut host), Outcome::Finished { .. }));
    assert_eq!(host.lines(), ["v v <null>", "<null>"]);
}

#[test]
fn an_endless_loop_is_ended_by_the_instruction_limit() {
    let text = "max_while_loops = 2147483647\nroute { while (1) { ; } xlog(\"@=never\\n\"); }";
    let program = compiled(text);
    let mut host = TestHost::new(Dialect::V4_0);
    assert!(lines_of(&program, &mut host).is_empty());
    assert!(host.complaints.iter().any(|text| text.contains("too many instructions")));
}

#[test]
fn a_list_that_grows_under_its_own_loop_ends() {
    let text = "route { $avp(l) = 1; for ($avp(l) in $(avp(l)[*])) { $var(n) = $var(n) + 1; } xlog(\"@=end\\n\"); }";
    let mut host = TestHost::new(Dialect::V4_0);
    assert_eq!(lines_of(&compiled(text), &mut host), ["end"]);
}

#[test]
fn texts_stop_growing_at_their_limit() {
    let text = "max_while_loops = 100\nroute { $var(x) = \"0123456789\"; while (1) { $var(x) = $var(x) + $var(x); } \
        while (1) { pv_printf($var(y), \"$var(y)$var(y)ab\"); } xlog(\"@=$(var(x){s.len}) $(var(y){s.len})\\n\"); }";
    let found = lines(text);
    let sizes: Vec<usize> = found[0].split(' ').map(|size| size.parse().unwrap()).collect();
    assert!(sizes.iter().all(|size| *size <= 1024 * 1024), "{sizes:?}");
}

#[test]
fn parameters_that_name_parameters_through_all_calls_end_soon() {
    let text = "route { $var(d) = 0; route(a, 1, 1); } route[a] { $var(d) = $var(d) + 1; route(a, $param($param(1)), 1); xlog(\"@=$param(1)\\n\"); }";
    let program = compiled_in(text, Dialect::V2_4);
    let mut host = TestHost::new(Dialect::V2_4);
    lines_of(&program, &mut host);
    assert!(host.printed.len() < 10_000);
}

#[test]
fn expansion_inside_expansion_is_bounded() {
    let text = "route { $var(x) = \"<$(var(x){s.eval})>\"; xlog(\"@=$(var(x){s.eval})\\n\"); }";
    let found = lines(text);
    assert!(found[0].len() < 100, "{found:?}");
}

#[test]
fn the_position_of_the_running_statement_is_readable() {
    let text = "route {\n  xlog(\"@=$cfg_line $cfg_file\\n\");\n\n  route(x);\n}\nroute[x] { if (1)\n xlog(\"@=$cfg_line\\n\"); }";
    assert_eq!(lines(text), ["2 test.cfg", "7"]);
}

#[test]
fn long_chains_compile_flat_and_deep_nesting_is_refused() {
    let sum = vec!["1"; 450].join(" + ");
    assert_eq!(lines(&format!("route {{ $var(x) = {sum}; xlog(\"@=$var(x)\\n\"); }}")), ["450"]);
    let any = vec!["$var(zz)"; 450].join(" || ");
    assert_eq!(lines(&format!("route {{ if ({any} || 1) xlog(\"@=T\\n\"); }}")), ["T"]);
    let chain: String = (0..400).map(|at| format!("if ($var(x) == {at}) xlog(\"@={at}\\n\"); else ")).collect();
    assert_eq!(lines(&format!("route {{ $var(x) = 399; {chain} xlog(\"@=none\\n\"); }}")), ["399"]);
    let deep = format!("route {{ $var(x) = {}1{}; }}", "(".repeat(400), ")".repeat(400));
    assert!(!codes(&deep).is_empty());
    let deep = format!("route {{ {} xlog(\"x\"); {} }}", "if (1) {".repeat(400), "}".repeat(400));
    assert!(!codes(&deep).is_empty());
}

#[test]
fn what_cannot_be_resolved_is_an_error_with_its_kind() {
    assert_eq!(codes("route { nothing(); }"), ["unknown-function"]);
    assert_eq!(codes("route { $var(x) = $nothing; }"), ["unknown-variable"]);
    assert_eq!(codes("route { route(nowhere); }"), ["undefined-route"]);
    assert_eq!(codes("route { if ($var(x) =~ \"(\") exit; }"), ["bad-regex"]);
    assert_eq!(codes("route { $rc = 1; }"), ["read-only-variable"]);
    assert_eq!(codes("route { $(var(x){s.len}) = 1; }"), ["read-only-variable"]);
    assert_eq!(codes("route { xlog(\"$var(x){\"); xlog(\"$\"); }"), ["bad-variable"]);
    assert_eq!(codes("route { strip(); }"), ["argument-count"]);
    assert_eq!(codes("route { strip(\"x\"); }"), ["argument-type"]);
    assert_eq!(codes("route { xlog(\"LEVEL\", \"x\"); }"), ["bad-level"]);
    assert_eq!(codes("route { async(strip(1), x); } route[x] { exit; }"), ["not-async"]);
    assert_eq!(codes("route { exit; } route[a] { exit; } route[a] { exit; }"), ["duplicate-route"]);
}

#[test]
fn flags_exist_from_their_first_mention_in_functions_and_variables() {
    let program = compiled("route { setflag(\"A\"); setbflag(\"B\"); if ($msg.flag(C)) xlog(\"$msg.flag(D)\"); }");
    assert_eq!(program.message_flag_names().iter().map(|name| &**name).collect::<Vec<_>>(), ["A", "C", "D"]);
    assert_eq!(program.branch_flag_names().len(), 1);
    let mut program = Program::clone(&program);
    assert_eq!(program.message_flag("E"), Some(3));
    assert_eq!(program.find_message_flag(b"a"), None);
}

#[test]
fn a_machine_is_used_again_without_a_trace_of_the_last_run() {
    let program =
        compiled("route { xlog(\"@=$rc $param(1) $return(0)\\n\"); route(x, 1); } route[x] { return(3, \"v\"); }");
    let mut host = TestHost::new(Dialect::V4_0);
    let mut machine = Machine::new();
    for _ in 0..3 {
        host.run(&mut machine, &program, RouteKind::Request, program.main_route().unwrap());
    }
    assert_eq!(host.lines(), ["1 <null> <null>"; 3]);
}
