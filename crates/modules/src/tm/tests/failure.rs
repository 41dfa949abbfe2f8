//! Failure routes.

use std::time::Duration;

use tandem_script::ast::Dialect;

use super::{MODULES, answer, lines, request, script};
use crate::test_rig::Rig;

#[test]
fn a_failure_route_tries_another_target() {
    let rig = script(
        "route { $avp(a) = \"kept\"; setflag(\"F\"); t_on_failure(\"BUSY\"); t_relay(); }
        failure_route[BUSY] {
            if (isflagset(\"F\")) xlog(\"$avp(a) $T_reply_code $(<reply>rs) $ru $T_branch_idx\\n\");
            $ru = \"sip:mailbox@192.0.2.8:5008\";
            t_relay();
        }",
    );
    let out = rig.receive(request("INVITE", "a"));
    let next = rig.receive(answer(&out[1], 486));
    assert_eq!(lines(&next), ["ACK sip:bob@192.0.2.9:5062 SIP/2.0", "INVITE sip:mailbox@192.0.2.8:5008 SIP/2.0"]);
    assert_eq!(rig.xlogs(), ["kept 486 486 sip:bob@192.0.2.9:5062 0"]);
    assert_eq!(lines(&rig.receive(answer(&next[1], 200))), ["SIP/2.0 200 OK"]);
}

#[test]
fn the_uri_in_a_failure_route_depends_on_the_dialect() {
    let text = format!(
        "{MODULES}route {{ $ru = \"sip:bob@192.0.2.5\"; t_on_failure(\"F\"); t_relay(); }}
        failure_route[F] {{ xlog(\"L_ERR\", \"$ru\\n\"); }}"
    );
    for (dialect, uri) in [(Dialect::V4_0, "sip:bob@192.0.2.9:5062"), (Dialect::V2_4, "sip:bob@192.0.2.5")] {
        let rig = Rig::script_in(dialect, &text);
        let out = rig.receive(request("OPTIONS", "a"));
        rig.receive(answer(&out[0], 404));
        assert_eq!(rig.xlogs(), [uri]);
    }
}

#[test]
fn a_failure_route_answers_itself_or_lets_the_best_reply_go() {
    let rig = script(
        "route { t_on_failure(\"F\"); t_relay(); }
        failure_route[F] { if (t_check_status(\"408\")) t_reply(480, \"Not There\"); }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    assert_eq!(lines(&rig.receive(answer(&out[0], 404))), ["SIP/2.0 404 Not Found"]);
    rig.receive(request("OPTIONS", "b"));
    let end = rig.advance(Duration::from_secs(31));
    assert_eq!(lines(&end).last().map(String::as_str), Some("SIP/2.0 480 Not There"));
}

#[test]
fn a_failure_route_runs_once_unless_armed_again() {
    let rig = script(
        "route { t_on_failure(\"F\"); t_relay(); }
        failure_route[F] { xlog(\"failed\\n\"); $ru = \"sip:x@192.0.2.8\"; t_relay(); }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    let next = rig.receive(answer(&out[0], 404));
    assert_eq!(lines(&rig.receive(answer(&next[0], 410))), ["SIP/2.0 410 Gone"]);
    assert_eq!(rig.xlogs(), ["failed"]);
}

#[test]
fn a_branch_of_a_failure_route_has_a_time_out_of_its_own() {
    let rig = script(
        "route { $T_fr_timeout = 5; t_on_failure(\"F\"); t_relay(); }
        failure_route[F] { xlog(\"$T_fr_timeout\\n\"); $T_fr_timeout = 3; $ru = \"sip:x@192.0.2.8\"; t_relay(); }",
    );
    rig.receive(request("OPTIONS", "a"));
    let out = rig.advance(Duration::from_millis(5200));
    assert_eq!(lines(&out).last().map(String::as_str), Some("OPTIONS sip:x@192.0.2.8 SIP/2.0"));
    let out = lines(&rig.advance(Duration::from_millis(2500)));
    assert!(out.iter().all(|line| line.starts_with("OPTIONS")), "{out:?}");
    let out = lines(&rig.advance(Duration::from_millis(800)));
    assert_eq!(out.last().map(String::as_str), Some("SIP/2.0 408 Request Timeout"));
    assert_eq!(rig.xlogs(), ["5"]);
}

#[test]
fn edits_of_a_failure_route_are_only_in_its_own_branch() {
    let rig = script(
        "loadmodule \"sipmsgops.so\"
        route { append_hf(\"X-One: 1\\r\\n\"); t_on_failure(\"F\"); t_relay(); }
        failure_route[F] { append_hf(\"X-Two: 2\\r\\n\"); $ru = \"sip:x@192.0.2.8\"; t_on_failure(\"G\"); t_relay(); }
        failure_route[G] { $ru = \"sip:y@192.0.2.7\"; t_relay(); }",
    );
    let first = rig.receive(request("OPTIONS", "a"));
    let second = rig.receive(answer(&first[0], 404));
    let third = rig.receive(answer(&second[0], 404));
    let has = |text: &str| (text.contains("X-One"), text.contains("X-Two"));
    assert_eq!(has(&first[0].text()), (true, false));
    assert_eq!(has(&second[0].text()), (true, true));
    assert_eq!(has(&third[0].text()), (true, false));
}
