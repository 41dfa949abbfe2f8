//! Branch and reply routes.

use super::{answer, lines, request, script};

#[test]
fn a_branch_route_edits_its_own_branch_only() {
    let rig = script(
        "loadmodule \"sipmsgops.so\"
        route { append_msg_branch(\"sip:carol@192.0.2.2\"); t_on_branch(\"B\"); t_relay(); xlog(\"after $ru\\n\"); }
        branch_route[B] { append_hf(\"X-For: $rU $T_branch_idx\\r\\n\"); $ru = \"sip:\" + $rU + \"@192.0.2.3\"; }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    let shown: Vec<String> = out
        .iter()
        .map(|sent| {
            let text = sent.text();
            text.lines()
                .filter(|line| line.starts_with("OPTIONS") || line.starts_with("X-For"))
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect();
    assert_eq!(
        shown,
        ["OPTIONS sip:bob@192.0.2.3 SIP/2.0|X-For: bob 0", "OPTIONS sip:carol@192.0.2.3 SIP/2.0|X-For: carol 1"]
    );
    assert_eq!(rig.xlogs(), ["after sip:bob@192.0.2.9:5062"]);
}

#[test]
fn a_branch_route_can_drop_its_branch() {
    let rig = script(
        "route { append_msg_branch(\"sip:carol@192.0.2.2\"); t_on_branch(\"B\"); t_relay(); }
        branch_route[B] { if ($rU == \"bob\") drop; }",
    );
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["OPTIONS sip:carol@192.0.2.2 SIP/2.0"]);
}

#[test]
fn when_all_branches_are_dropped_the_request_is_answered_500_and_the_script_goes_on() {
    let rig = script("route { t_on_branch(\"B\"); if (t_relay()) xlog(\"success\\n\"); } branch_route[B] { drop; }");
    assert_eq!(lines(&rig.receive(request("OPTIONS", "a"))), ["SIP/2.0 500 Server Internal Error"]);
    assert_eq!(rig.xlogs(), ["success"]);
}

#[test]
fn a_branch_route_in_a_failure_route_leaves_it_a_failure_route() {
    let rig = script(
        "route { t_on_failure(\"F\"); t_relay(); }
        failure_route[F] { t_on_branch(\"B\"); $ru = \"sip:x@192.0.2.8\"; t_relay(); xlog(\"$T_reply_code\\n\"); }
        branch_route[B] { xlog(\"branch $T_branch_idx\\n\"); }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    rig.receive(answer(&out[0], 404));
    assert_eq!(rig.xlogs(), ["branch 1", "404"]);
}

#[test]
fn reply_routes_run_from_the_global_one_to_that_of_the_transaction() {
    let rig = script(
        "route { t_on_branch(\"B\"); t_on_reply(\"ALL\"); t_relay(); }
        branch_route[B] { t_on_reply(\"ONE\"); }
        onreply_route { xlog(\"global $rs\\n\"); }
        onreply_route[ONE] { xlog(\"branch $T_branch_idx $rm\\n\"); }
        onreply_route[ALL] { xlog(\"all $(<request>rU)\\n\"); }",
    );
    let out = rig.receive(request("INVITE", "a"));
    rig.receive(answer(&out[1], 180));
    assert_eq!(rig.xlogs(), ["global 180", "branch 0 INVITE", "all bob"]);
}

#[test]
fn a_reply_route_drops_provisional_replies_and_no_final_ones() {
    let rig = script("route { t_on_reply(\"R\"); t_relay(); } onreply_route[R] { drop; }");
    let out = rig.receive(request("INVITE", "a"));
    assert!(rig.receive(answer(&out[1], 180)).is_empty());
    assert_eq!(lines(&rig.receive(answer(&out[1], 200))), ["SIP/2.0 200 OK"]);
}

#[test]
fn the_global_reply_route_drops_provisional_replies_too() {
    let rig = script("route { t_relay(); } onreply_route { if ($rs == 183) drop; }");
    let out = rig.receive(request("INVITE", "a"));
    assert!(rig.receive(answer(&out[1], 183)).is_empty());
    assert_eq!(lines(&rig.receive(answer(&out[1], 180))), ["SIP/2.0 180 Ringing"]);
}

#[test]
fn edits_of_reply_routes_are_in_the_reply_that_goes_up() {
    let rig = script(
        "loadmodule \"sipmsgops.so\"
        route { t_on_reply(\"R\"); t_relay(); } onreply_route[R] { append_hf(\"X-Seen: yes\\r\\n\"); }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    assert!(rig.receive(answer(&out[0], 200))[0].text().contains("\r\nX-Seen: yes\r\n"));
}

#[test]
fn avps_of_the_transaction_are_in_reply_routes_only_when_asked_for() {
    let body = "route { $avp(n) = 1; t_on_reply(\"R\"); t_on_failure(\"F\"); t_relay(); }
        onreply_route[R] { xlog(\"$avp(n)\\n\"); $avp(n) := 2; }
        failure_route[F] { xlog(\"$avp(n)\\n\"); }";
    for (mode, seen) in [(0, ["<null>", "1"]), (1, ["1", "2"])] {
        let rig = script(&format!("modparam(\"tm\", \"onreply_avp_mode\", {mode})\n{body}"));
        let out = rig.receive(request("OPTIONS", "a"));
        rig.receive(answer(&out[0], 404));
        assert_eq!(rig.xlogs(), seen, "mode {mode}");
    }
}

#[test]
fn flags_set_in_a_reply_route_are_flags_of_the_transaction() {
    let rig = script(
        "route { setflag(\"A\"); t_on_reply(\"R\"); t_on_failure(\"F\"); t_relay(); }
        onreply_route[R] { if (isflagset(\"A\")) setflag(\"B\"); }
        failure_route[F] { if (isflagset(\"B\")) xlog(\"both\\n\"); }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    rig.receive(answer(&out[0], 404));
    assert_eq!(rig.xlogs(), ["both"]);
}

#[test]
fn values_of_one_branch_stay_with_it() {
    let rig = script(
        "route { append_msg_branch(\"sip:carol@192.0.2.2\"); t_on_branch(\"B\"); t_on_reply(\"R\"); t_relay(); }
        branch_route[B] { $bavp(who) = $rU; $tm.branch.attr(name) = \"attr-\" + $rU; }
        onreply_route[R] { xlog(\"$bavp(who) $tm.branch.attr(name) $(tm.branch.uri[0])\\n\"); }",
    );
    let out = rig.receive(request("OPTIONS", "a"));
    rig.receive(answer(&out[1], 404));
    assert_eq!(rig.xlogs(), ["carol attr-carol sip:bob@192.0.2.9:5062"]);
}
