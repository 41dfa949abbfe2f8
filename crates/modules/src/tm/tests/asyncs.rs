//! `async()` and `launch()` in the kinds of routes that have them (script-language specification §10).

use std::time::Duration;

use tandem_script::ast::Dialect;

use super::{MODULES, answer, lines, request, request_to};
use crate::test_rig::{Rig, take_logs};

fn rig(body: &str) -> Rig {
    Rig::script(&format!("{MODULES}loadmodule \"cfgutils.so\"\nloadmodule \"sipmsgops.so\"\n{body}"))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_resume_route_is_a_new_top_route_with_the_state_of_the_message() {
    let rig = rig(
        "route { $avp(a) = \"kept\"; setflag(\"F\"); setbflag(\"B\"); $ru = \"sip:new@192.0.2.9:5062\"; append_hf(\"X-Y: 1\\r\\n\");
           route(sub, \"p\"); xlog(\"never\"); }
        route[sub] { xlog(\"$param(1)\"); async(sleep(1), LATER); xlog(\"never\"); }
        route[LATER] { xlog(\"$rc $(route[*]) $param(1) $avp(a) $ru $mf $bf\"); async(sleep(1), LAST); }
        route[LAST] { xlog(\"$rc $(route[*]) $avp(a)\"); t_relay(); }",
    );
    assert_eq!(lines(&rig.receive(request("MESSAGE", "a"))), Vec::<String>::new());
    assert_eq!(rig.xlogs(), ["p"]);
    assert_eq!(lines(&rig.receive(request("MESSAGE", "a"))), Vec::<String>::new(), "a retransmission runs nothing");
    rig.advance(SECOND);
    assert_eq!(rig.xlogs(), ["1 route[LATER] <null> kept sip:new@192.0.2.9:5062 F B"]);
    let sent = rig.advance(SECOND);
    assert_eq!(rig.xlogs(), ["1 route[LAST] kept"]);
    // The clock of the rig has gone on a little: the first repetition may be there, too.
    assert!(lines(&sent).iter().all(|line| line == "MESSAGE sip:new@192.0.2.9:5062 SIP/2.0"));
    assert!(sent[0].text().contains("X-Y: 1\r\n"));
    assert_eq!(lines(&rig.receive(answer(&sent[0], 200))), ["SIP/2.0 200 OK"]);
}

/// As in a process that blocks: what other messages set meanwhile is theirs.
#[test]
fn a_run_that_waits_keeps_its_script_variables() {
    let rig = rig("route { xlog(\"$var(left)\"); $var(x) = $rU; $var(left) = $rU;
           if ($rU == \"inline\") sleep(1);
           if ($rU == \"async\") { t_newtran(); async(sleep(1), LATER); }
           xlog(\"$rU $var(x)\"); }
        route[LATER] { xlog(\"later $rU $var(x)\"); }");
    let send =
        |user: &str, branch: &str| rig.receive(request_to("MESSAGE", branch, &format!("sip:{user}@192.0.2.9"), ""));
    for user in ["inline", "async", "plain"] {
        send(user, user);
    }
    assert_eq!(rig.xlogs(), ["<null>", "<null>", "<null>", "plain plain"], "each begins with values of its own");
    rig.advance(SECOND);
    let mut later = rig.xlogs();
    later.sort();
    assert_eq!(later, ["inline inline", "later async async"]);
    send("plain", "again");
    let next = rig.xlogs();
    assert!(
        ["inline", "async"].contains(&next[0].as_str()),
        "an ended run leaves its values to the next one: {next:?}"
    );
}

#[test]
fn a_failure_route_waits_in_place_and_goes_on_in_the_resume_route() {
    let rig = rig("route { $avp(a) = 1; t_on_failure(\"F\"); t_relay(); }
        failure_route[F] { $avp(a) = 2; async(sleep(1), NEXT); xlog(\"never\"); }
        route[NEXT] { xlog(\"$rc $avp(a) $T_reply_code $(route[*])\"); async(usleep(10), GO); }
        route[GO] { t_on_failure(\"G\"); $ru = \"sip:mailbox@192.0.2.8:5008\"; t_relay(); }
        failure_route[G] { async(sleep(1), END); }
        route[END] { t_reply(480, \"Nobody\"); }");
    let out = rig.receive(request("OPTIONS", "a"));
    assert_eq!(lines(&rig.receive(answer(&out[0], 486))), Vec::<String>::new());
    let next = rig.advance(SECOND + SECOND);
    assert_eq!(rig.xlogs(), ["1 2 486 route[NEXT]"]);
    let next: Vec<_> = next.into_iter().filter(|sent| sent.to.addr.port() == 5008).collect();
    assert_eq!(lines(&next)[0], "OPTIONS sip:mailbox@192.0.2.8:5008 SIP/2.0");
    assert_eq!(lines(&rig.receive(answer(&next[0], 404))), Vec::<String>::new());
    assert_eq!(lines(&rig.advance(SECOND)), ["SIP/2.0 480 Nobody"]);
}

#[test]
fn a_branch_waits_for_its_route_and_can_be_dropped_after_it() {
    let rig = rig("route { t_on_branch(\"B\"); t_relay(); xlog(\"relayed $rc\"); }
        branch_route[B] { async(sleep(1), BACK); xlog(\"never\"); }
        route[BACK] { if ($rm == \"INFO\") drop; $ru = \"sip:branch@192.0.2.8:5008\"; }");
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), Vec::<String>::new());
    assert_eq!(lines(&rig.advance(SECOND))[0], "OPTIONS sip:branch@192.0.2.8:5008 SIP/2.0");
    assert_eq!(rig.xlogs(), ["relayed 1"]);
    rig.receive(request("INFO", "b"));
    let sent = lines(&rig.advance(SECOND));
    assert!(sent.contains(&"SIP/2.0 500 Server Internal Error".to_owned()), "{sent:?}");
    assert!(!sent.iter().any(|line| line.starts_with("INFO")), "{sent:?}");
}

#[test]
fn replies_are_held_in_named_routes_and_not_in_the_global_one() {
    let rig = rig("route { t_on_reply(\"R\"); t_relay(); }
        onreply_route { if ($rs == 183) async(sleep(1), GLOBAL); }
        onreply_route[R] { if ($rs == 200) async(sleep(1), NAMED); }
        route[GLOBAL] { xlog(\"global $rc $rs\"); }
        route[NAMED] { xlog(\"named $rc $rs\"); drop; }");
    let out = rig.receive(request("INVITE", "a"));
    assert_eq!(lines(&rig.receive(answer(&out[1], 183))), ["SIP/2.0 183 Session Progress"]);
    assert_eq!(rig.xlogs(), ["global -1 183"]);
    assert_eq!(lines(&rig.receive(answer(&out[1], 200))), Vec::<String>::new());
    assert_eq!(lines(&rig.advance(SECOND)), ["SIP/2.0 200 OK"]);
    assert_eq!(rig.xlogs(), ["named 1 200"]);
}

#[test]
fn timer_and_event_routes_and_acks_wait_in_place() {
    let rig = rig("timer_route[t, 5] { async(sleep(1), DONE); xlog(\"never\"); }
        event_route[E_TEST] { async(sleep(1), DONE); xlog(\"never\"); }
        route { if ($rm == \"ACK\") async(sleep(1), DONE); raise_event(\"E_TEST\"); }
        route[DONE] { xlog(\"$rm $rc $(route[*])\"); }");
    rig.receive(request("ACK", "a"));
    rig.advance(SECOND);
    assert_eq!(rig.xlogs(), ["ACK 1 route[DONE]"]);
    rig.receive(request("INFO", "b"));
    rig.advance(SECOND);
    assert_eq!(rig.xlogs(), ["DUMMY 1 route[DONE]"]);
    rig.advance(SECOND * 4);
    assert_eq!(rig.xlogs(), ["DUMMY 1 route[DONE]"]);
}

#[test]
fn a_launched_call_reports_on_a_message_of_its_own() {
    let rig = rig(
        "route { $avp(a) = \"v\"; launch(sleep(2), REPORT, \"$avp(a)-$rm\"); xlog(\"$rc\"); $avp(a) = \"w\"; launch(sleep(1));
           xlog(\"$rc\"); launch(sleep(-1), REPORT); xlog(\"$rc\"); t_reply(200, \"Fine\"); }
        route[REPORT] { xlog(\"$rc $param(1) $param(2) $rm $avp(a) $(route[*])\"); $avp(a) = 1; async(sleep(1), AFTER); }
        route[AFTER] { xlog(\"after $rc $avp(a) $param(1)\"); }",
    );
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["SIP/2.0 200 Fine"]);
    assert_eq!(rig.xlogs(), ["1", "1", "-1"]);
    rig.advance(SECOND);
    assert_eq!(rig.xlogs(), Vec::<String>::new());
    rig.advance(SECOND);
    assert_eq!(rig.xlogs(), ["1 v-OPTIONS <null> DUMMY <null> route[REPORT]"]);
    rig.advance(SECOND);
    assert_eq!(rig.xlogs(), ["after 1 1 <null>"]);
}

#[test]
fn without_transactions_async_ends_the_script_with_an_error() {
    let rig = Rig::script(
        "loadmodule \"cfgutils.so\"\nroute { async(sleep(1), GO); xlog(\"never\"); } route[GO] { xlog(\"never\"); }",
    );
    rig.receive(request("OPTIONS", "a"));
    rig.advance(SECOND);
    let logs = take_logs();
    assert!(logs.iter().any(|line| line.text.contains("needs module tm")), "{logs:?}");
    assert!(!logs.iter().any(|line| line.is_xlog));
}

#[test]
fn values_come_back_from_routes_and_are_replaced_by_the_next_call() {
    let rig = rig(
        "route { $var(x) = 7; route(two, \"a\", 3, NULL); xlog(\"$rc $return(0) $return(1) $return(2) $return(-1)\");
           route(none); xlog(\"$rc $return(0)\"); route(three); xlog(\"$rc $return(0)\"); }
        route[two] { xlog(\"$param(1) $param(2) $param(3) $param(4) $param(0)\"); $var(y) = $param(2) + 1; route(none);
           return(5, \"t\", $var(y)); }
        route[none] { xlog(\"$param(1)\"); return(2); }
        route[three] { return(, $var(x)); }",
    );
    rig.receive(request("OPTIONS", "a"));
    assert_eq!(rig.xlogs(), ["a 3 <null> <null> <null>", "<null>", "5 t 4 <null> <null>", "<null>", "2 <null>", "1 7"]);
}

#[test]
fn parameters_of_2_4_are_read_late() {
    let text = format!(
        "{MODULES}route {{ $var(x) = 1; route(p, $var(x), \"a$var(x)\"); }}
        route[p] {{ $var(x) = 2; xlog(\"L_ERR\", \"$param(1) $param(2)\"); }}"
    );
    for (dialect, wanted) in [(Dialect::V2_4, "2 a$var(x)"), (Dialect::V4_0, "1 a$var(x)")] {
        let rig = Rig::script_in(dialect, &text);
        rig.receive(request("OPTIONS", "a"));
        assert_eq!(rig.xlogs(), [wanted]);
    }
}
