//! A script that is replaced while it works: what has begun ends on the program it began with, what comes then is new.

use std::time::Duration;

use tandem_module::event::Event;
use tandem_script::avp::AvpName;
use tandem_script::program::FLAG_NAMES_MAX;

use super::{MODULES, answer, lines, request, script};
use crate::test_rig::Rig;

const EXTRA: &str = "loadmodule \"sipmsgops.so\"\nloadmodule \"cfgutils.so\"\nloadmodule \"event_routing.so\"\n";

/// A script whose routes say which text they are from; `before` shifts all route indexes.
fn version(name: &str, before: &str) -> String {
    let routes = r#"
        route {
            xlog("NAME main");
            if (is_method("MESSAGE")) { async(sleep(5), LATER); }
            if (is_method("INFO")) { $avp(f) = "k=1"; wait_for_event("E_GO", $avp(f), 5); xlog("NAME went on $rc"); route(NEXT); exit; }
            if (is_method("SUBSCRIBE")) { launch(sleep(5), LATER); exit; }
            t_on_branch("B"); t_on_reply("R"); t_on_failure("F");
            t_relay();
        }
        route[LATER] { xlog("NAME later"); }
        route[NEXT] { xlog("NAME next"); }
        branch_route[B] { xlog("NAME branch"); }
        onreply_route[R] { xlog("NAME reply $rs"); }
        onreply_route { xlog("NAME global reply"); }
        failure_route[F] {
            xlog("NAME failure");
            if (t_check_status("486")) { t_on_branch("B"); t_on_failure("F"); $ru = "sip:desk@192.0.2.10"; t_relay(); }
        }"#;
    format!("{MODULES}{EXTRA}{before}{}", routes.replace("NAME", name))
}

fn rig() -> Rig {
    Rig::script(&version("old", ""))
}

fn reload(rig: &Rig) {
    let before = "route[A] { exit; } failure_route[A] { exit; } branch_route[A] { exit; } onreply_route[A] { exit; }\n";
    rig.reload(&version("new", before)).unwrap();
}

#[test]
fn a_transaction_ends_on_the_routes_it_began_with() {
    let rig = rig();
    let sent = rig.receive(request("INVITE", "r1"));
    assert_eq!(rig.xlogs(), ["old main", "old branch"]);
    reload(&rig);
    rig.receive(answer(sent.last().unwrap(), 180));
    assert_eq!(rig.xlogs(), ["old global reply", "old reply 180"]);
    let sent = rig.receive(answer(sent.last().unwrap(), 486));
    assert_eq!(rig.xlogs(), ["old global reply", "old reply 486", "old failure", "old branch"]);
    let retry = sent.iter().find(|sent| sent.first_line().starts_with("INVITE")).unwrap();
    rig.receive(answer(retry, 500));
    assert_eq!(rig.xlogs(), ["old global reply", "old reply 500", "old failure"]);

    let sent = rig.receive(request("INVITE", "r2"));
    rig.receive(answer(sent.last().unwrap(), 500));
    assert_eq!(rig.xlogs(), ["new main", "new branch", "new global reply", "new reply 500", "new failure"]);
}

#[test]
fn resume_routes_waits_and_report_routes_are_those_of_the_run_that_waits() {
    let rig = rig();
    rig.node.events.declare("E_GO");
    for method in ["MESSAGE", "INFO", "SUBSCRIBE"] {
        rig.receive(request(method, method));
    }
    assert_eq!(rig.xlogs(), ["old main"; 3]);
    reload(&rig);
    rig.raise(Event { name: "E_GO", params: [("k", "1".into())].into_iter().collect() });
    assert_eq!(rig.xlogs(), ["old went on 1", "old next"]);
    rig.advance(Duration::from_secs(6));
    assert_eq!(rig.xlogs(), ["old later", "old later"]);
    rig.receive(request("MESSAGE", "after"));
    rig.advance(Duration::from_secs(6));
    assert_eq!(rig.xlogs(), ["new main", "new later"]);
}

#[test]
fn a_replaced_program_is_freed_when_its_last_run_and_transaction_are_over() {
    let rig = rig();
    let old = std::sync::Arc::downgrade(&rig.node.program());
    rig.receive(request("MESSAGE", "waits"));
    let sent = rig.receive(request("INVITE", "rings"));
    reload(&rig);
    rig.advance(Duration::from_secs(6));
    assert!(old.upgrade().is_some(), "the INVITE still needs it");
    rig.receive(answer(sent.last().unwrap(), 404));
    rig.receive(request("ACK", "rings"));
    rig.advance(Duration::from_secs(60));
    // A context that is used again must not have kept it either.
    rig.receive(request("INFO", "other"));
    assert!(old.upgrade().is_none(), "{} references are left", old.strong_count());
}

#[test]
fn a_thousand_reloads_number_flags_and_avps_as_the_first_did() {
    let flags = |n: u32| format!("setflag(A{}); setbflag(B{});", n % 20, n % 20);
    let text = |n: u32| {
        format!(
            "{MODULES}route {{ {} setflag(KEPT); $avp(kept) = {n}; $var(n) = {n}; t_on_failure(\"F\"); t_relay(); }}
                 failure_route[F] {{ xlog(\"$avp(kept) $msg.flag(KEPT)\"); }}",
            flags(n)
        )
    };
    let rig = Rig::script(&text(0));
    let id = AvpName::intern(b"kept").unwrap();
    let sent = rig.receive(request("INVITE", "kept"));
    for n in 1..=1000 {
        rig.reload(&text(n)).unwrap();
    }
    assert_eq!(AvpName::intern(b"kept"), Some(id));
    let program = rig.node.program();
    assert_eq!(program.find_message_flag(b"A0"), Some(0), "the first flag of the first script");
    assert_eq!(program.find_message_flag(b"KEPT"), Some(1));
    assert_eq!((program.message_flag_names().len(), program.branch_flag_names().len()), (21, 20));
    rig.receive(answer(sent.last().unwrap(), 404));
    assert_eq!(rig.xlogs(), ["0 true"], "set before a thousand reloads, read after them");
}

#[test]
fn flags_of_earlier_scripts_keep_their_place_until_all_are_taken() {
    let rig = script("route { setflag(F0); }");
    let text = |n: usize| format!("{MODULES}route {{ setflag(F{n}); }}");
    for n in 1..FLAG_NAMES_MAX {
        rig.reload(&text(n)).unwrap();
    }
    let refused = rig.reload(&text(FLAG_NAMES_MAX)).unwrap_err();
    assert!(refused.contains("no room for the flag `F32`"), "{refused}");
    rig.reload(&text(0)).unwrap();
    assert_eq!(rig.node.program().message_flag_names().len(), FLAG_NAMES_MAX);
}

#[test]
fn a_script_with_errors_changes_nothing() {
    let rig = script("route { sl_send_reply(200, \"old\"); }");
    assert!(rig.reload(&format!("{MODULES}route {{ no_such_function(); }}")).is_err());
    assert!(rig.reload("route {").is_err());
    assert_eq!(lines(&rig.receive(request("OPTIONS", "o"))), ["SIP/2.0 200 old"]);
}

#[test]
fn event_routes_come_and_go_with_the_script_and_run_once() {
    let text = |name: &str, event: &str| {
        format!(
            "{MODULES}route {{ raise_event(\"E_ONE\"); raise_event(\"E_TWO\"); }} event_route[{event}] {{ xlog(\"{name}\"); }}"
        )
    };
    let rig = Rig::script(&text("first", "E_ONE"));
    rig.receive(request("OPTIONS", "1"));
    assert_eq!(rig.xlogs(), ["first"]);
    for _ in 0..5 {
        rig.reload(&text("second", "E_ONE")).unwrap();
    }
    rig.receive(request("OPTIONS", "2"));
    assert_eq!(rig.xlogs(), ["second"]);
    rig.reload(&text("third", "E_TWO")).unwrap();
    rig.receive(request("OPTIONS", "3"));
    assert_eq!(rig.xlogs(), ["third"]);
    assert!(!rig.node.events.has_listeners("E_ONE") && rig.node.events.has_listeners("E_TWO"));
}
