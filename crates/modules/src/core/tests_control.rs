//! Blacklists, status, traces, colours, connections and conditions that assign, through scripts.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use tandem_module::mi::{MiParams, MiResult};
use tandem_module::transport::{ConnId, Proto, StreamConnection};
use tandem_script::ast::Dialect;

use crate::test_rig::{Rig, RigOptions, take_logs};

const REQUEST: &str = "OPTIONS sip:bob@next.example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.3.9:5099;branch=z9hG4bKo1\r\n\
From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: o-1\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\nContent-Length: 0\r\n\r\n";

fn mi(rig: &Rig, name: &str, params: &[serde_json::Value]) -> MiResult {
    rig.mi(name, MiParams::Positional(params.to_vec()))
}

fn text(result: MiResult) -> String {
    result.map_or_else(|error| format!("{} {}", error.code, error.message), |json| json.to_string())
}

#[test]
fn a_request_goes_round_the_destinations_of_a_list_in_use() {
    let rig = Rig::script(
        "dst_blacklist = bl : { (udp, 192.0.2.0/24, 5060, \"\") }
         route { use_blacklist(\"bl\"); forward(); xlog(\"$rc\"); forward(\"192.0.2.9:5061\"); xlog(\"$rc\");
           forward(\"192.0.2.9\"); xlog(\"$rc\"); unuse_blacklist(\"bl\"); forward(\"192.0.2.9\"); xlog(\"$rc\"); }",
    );
    rig.add_name("next.example.org", Proto::Udp, "192.0.2.7:5060");
    rig.add_name("next.example.org", Proto::Udp, "198.51.100.7:5060");
    let sent: Vec<_> = rig.receive(REQUEST).iter().map(|sent| sent.to.addr.to_string()).collect();
    assert_eq!(sent, ["198.51.100.7:5060", "192.0.2.9:5061", "192.0.2.9:5060"]);
    assert_eq!(rig.xlogs(), ["1", "1", "-1", "1"]);
}

#[test]
fn a_default_list_counts_until_it_is_turned_off_and_its_pattern_sees_the_request() {
    let rig = Rig::script(
        "dst_blacklist = d /default : { (any, 192.0.2.0/24, any, \"OPTIONS sip:bob@*z9hG4bK*\"), 192.0.3.1 }
         route { forward(\"192.0.2.9\"); xlog(\"$rc\"); sethost(\"x.org\"); $ru = \"sip:al@x.org\"; forward(\"192.0.2.9\"); xlog(\"$rc\");
           forward(\"192.0.3.1\"); xlog(\"$rc\"); unuse_blacklist(\"all\"); forward(\"192.0.3.1\"); xlog(\"$rc\"); }",
    );
    assert_eq!(rig.receive(REQUEST).len(), 2);
    assert_eq!(rig.xlogs(), ["-1", "1", "-1", "1"]);
    // The choice is that of one request.
    assert_eq!(rig.receive(REQUEST).len(), 2);
    assert_eq!(rig.xlogs(), ["-1", "1", "-1", "1"]);
}

#[test]
fn a_transaction_answers_473_and_fails_over_past_the_list() {
    let script = |flags: &str| {
        format!(
            "loadmodule \"tm.so\"\ndst_blacklist = bl : {{ 192.0.2.0/24 }}
             route {{ use_blacklist(\"bl\"); t_relay({flags}); xlog(\"$rc\"); }}"
        )
    };
    let rig = Rig::script(&script(""));
    rig.add_name("next.example.org", Proto::Udp, "192.0.2.7:5060");
    let sent = rig.receive(REQUEST);
    assert_eq!(sent.iter().map(|sent| sent.first_line()).collect::<Vec<_>>(), ["SIP/2.0 473 Filtered destination"]);
    assert_eq!(rig.xlogs(), ["1"]);
    let rig = Rig::script(&script("\"no-auto-477\""));
    rig.add_name("next.example.org", Proto::Udp, "192.0.2.7:5060");
    assert_eq!((rig.receive(REQUEST).len(), rig.xlogs()), (0, vec!["-5".to_owned()]));
    let rig = Rig::script(&script(""));
    for addr in ["198.51.100.1:5060", "192.0.2.7:5060", "198.51.100.2:5060"] {
        rig.add_name("next.example.org", Proto::Udp, addr);
    }
    rig.receive(REQUEST);
    let later: Vec<_> = rig.advance(Duration::from_secs(60)).iter().map(|sent| sent.to.addr).collect();
    assert!(later.contains(&"198.51.100.2:5060".parse().unwrap()), "{later:?}");
    assert!(!later.contains(&"192.0.2.7:5060".parse().unwrap()), "{later:?}");
}

#[test]
fn scripts_and_management_edit_lists() {
    let rig = Rig::script(
        "dst_blacklist = ro : { 10.0.0.1 }\ndst_blacklist = own /expire : { (tcp, 10.0.0.2, 5060, \"x*\") }
         route { add_blacklist_rule(\"own\", \"10.1.0.0/16\", 5060, \"udp\", \"\", 60); xlog(\"$rc\");
           add_blacklist_rule(\"ro\", \"10.1.0.0/16\"); xlog(\"$rc\"); add_blacklist_rule(\"own\", \"nonsense\"); xlog(\"$rc\");
           $var(l) = \"none\"; add_blacklist_rule($var(l), \"10.1.0.0/16\"); xlog(\"$rc\");
           check_blacklist_rule(\"own\", \"10.1.2.3\", 5060, \"udp\"); xlog(\"$rc\");
           check_blacklist_rule(\"own\", \"10.1.2.3\", 5060, \"tcp\"); xlog(\"$rc\");
           check_blacklist_rule(\"all\", \"10.1.2.3\", 5060, \"udp\"); xlog(\"$rc\"); use_blacklist(\"own\");
           check_blacklist_rule(\"all\", \"10.1.2.3\", 5060, \"udp\"); xlog(\"$rc\");
           del_blacklist_rule(\"own\", \"10.1.0.0/16\", 5060, \"udp\"); xlog(\"$rc\");
           del_blacklist_rule(\"own\", \"10.1.0.0/16\", 5060, \"udp\"); xlog(\"$rc\"); }",
    );
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["1", "-1", "-1", "-1", "1", "-1", "-1", "1", "1", "-1"]);
    assert_eq!(
        mi(&rig, "list_blacklists", &[]).unwrap()["Lists"][1],
        json!({ "name": "own", "owner": "script", "flags": ["expire"], "Rules": [
            { "flags": 0, "IP": "10.0.0.2", "Mask": "255.255.255.255", "Proto": "tcp", "Port": 5060, "Match": "x*" }] })
    );
    assert_eq!(text(mi(&rig, "blacklists:list", &[json!("none")])), "404 Unknown name");
    assert_eq!(
        text(mi(&rig, "add_blacklist_rule", &[json!("ro"), json!("1.1.1.1")])),
        "403 Cannot modify read-only blacklist"
    );
    assert_eq!(text(mi(&rig, "add_blacklist_rule", &[json!("own"), json!("!udp,::/0,5060,a,b"), json!(30)])), "\"OK\"");
    assert_eq!(text(mi(&rig, "add_blacklist_rule", &[json!("own"), json!("::1"), json!(0)])), "404 Bad expire value");
    assert!(text(mi(&rig, "add_blacklist_rule", &[json!("own"), json!("x")])).starts_with("404 Bad rule"));
    assert_eq!(text(mi(&rig, "check_blacklists", &[json!("10.0.0.1")])), "[\"ro\",\"own\"]");
    assert_eq!(text(mi(&rig, "check_blacklist", &[json!("ro"), json!("10.0.0.2")])), "404 Not Matched");
    assert_eq!(text(mi(&rig, "check_blacklist", &[json!("ro"), json!("ten")])), "400 Missing or bad IP");
    assert_eq!(mi(&rig, "check_blacklist", &[json!("ro"), json!("10.0.0.1")]).unwrap()["IP"], "10.0.0.1");
    assert_eq!(text(mi(&rig, "del_blacklist_rule", &[json!("own"), json!("!udp,::/0,5060,a,b")])), "\"OK\"");
    assert_eq!(text(mi(&rig, "del_blacklist_rule", &[json!("own"), json!("1.2.3.4")])), "404 Rule not found");
}

#[test]
fn wrong_lists_are_refused_at_load() {
    for (script, wanted) in [
        ("dst_blacklist = a : { 10.0.0.0/8 }\ndst_blacklist = a : { 10.0.0.0/8 }\nroute { exit; }", "already"),
        ("dst_blacklist = a /read-only,expire : { 10.0.0.0/8 }\nroute { exit; }", "cannot expire"),
        ("route { use_blacklist(\"a\"); exit; }", "there is no blacklist `a`"),
    ] {
        let error = Rig::try_script(script, RigOptions::default()).err().unwrap_or_default();
        assert!(error.contains(wanted), "{script}: {error}");
    }
}

#[test]
fn the_status_of_the_process_is_asked_by_group() {
    let rig = Rig::script(
        "route { sr_check_status(\"core\"); xlog(\"$rc\"); sr_check_status(\"core\", \"none\"); xlog(\"$rc\");
           sr_check_status(\"nobody\"); xlog(\"$rc\"); sr_check_status(\"lab\", \"db\"); xlog(\"$rc\");
           sr_check_status(\"lab\", \"all\"); xlog(\"$rc\"); sr_check_status(\"lab\", \"cache\"); xlog(\"$rc\"); }",
    );
    let board = rig.node.status.board("lab");
    board.set("db", -2, "no data");
    board.set("cache", 2, "reloading");
    board.report("db", "connection lost");
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["1", "-1", "-1", "-1", "-1", "2"]);
    let row = |name: &str, code: i32, text: &str| json!({ "Name": name, "Readiness": code > 0, "Status": code, "Details": text });
    let lab = json!([row("db", -2, "no data"), row("cache", 2, "reloading")]);
    assert_eq!(mi(&rig, "sr_list_status", &[json!("lab")]), Ok(lab.clone()));
    let all =
        json!([{ "Name": "core", "Identifiers": [row("main", 1, "running")] }, { "Name": "lab", "Identifiers": lab }]);
    assert_eq!(mi(&rig, "sr_list_status", &[]), Ok(all));
    let reports = mi(&rig, "sr_list_reports", &[json!("lab"), json!("db")]).unwrap();
    assert_eq!(reports[0]["Log"], "connection lost");
    assert_eq!(
        mi(&rig, "sr_list_reports", &[]).unwrap()[1]["Identifiers"][1],
        json!({ "Name": "cache", "Reports": [] })
    );
    assert_eq!(text(mi(&rig, "sr_list_reports", &[json!("lab"), json!("x")])), "404 Identifier not found");
    assert_eq!(text(mi(&rig, "sr_get_status", &[json!("lab"), json!("x")])), "404 Identity not found");
    assert_eq!(
        mi(&rig, "sr_get_status", &[json!("lab"), json!("all")]),
        Ok(json!({ "Readiness": false, "Status": -1, "Details": "aggregated" }))
    );
    assert_eq!(
        mi(&rig, "sr_list_identifiers", &[json!("core")]),
        Ok(json!({ "Group": "core", "Identifiers": ["main"] }))
    );
}

#[test]
fn a_trace_logs_each_statement_once_and_ends_with_the_run() {
    let rig = Rig::script(
        "log_level=2\nroute {\n  if ($rm == \"INFO\") { exit; }\n  script_trace(2, \"$rm $var(x)\", \"me\");\n  $var(x) = 1;\n  $var(x) = $var(x) +\n 1;\n  script_trace();\n  $var(x) = 3;\n  script_trace(\"L_NOTICE\", \"on\");\n  exit;\n}",
    );
    let traced = || -> Vec<String> {
        let lines = take_logs().into_iter().map(|line| line.text);
        lines.filter_map(|line| line.strip_prefix("[Script Trace]").map(str::to_owned)).collect()
    };
    rig.receive(REQUEST);
    assert_eq!(
        traced(),
        [
            "[test.cfg:5][me] -> (OPTIONS <null>)",
            "[test.cfg:6][me] -> (OPTIONS 1)",
            "[test.cfg:8][me] -> (OPTIONS 2)",
            "[test.cfg:11] -> (on)"
        ]
    );
    rig.receive(REQUEST.replace("OPTIONS", "INFO"));
    assert_eq!(traced(), Vec::<String>::new());
}

#[test]
fn a_trace_of_something_wrong_fails() {
    let rig = Rig::script(
        "route { script_trace(2, \"$nothing\"); xlog(\"$rc\"); script_trace(\"loud\", \"x\"); xlog(\"$rc\"); }",
    );
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["-1", "-1"]);
}

#[test]
fn colours_are_there_when_they_are_forced() {
    let route = "route { xlog(\"[$C(rx)][$C(Wb)][$C(?x)][$C(rxx)]\"); }";
    let rig = Rig::script(route);
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["[][][][]"]);
    let rig = Rig::script(&format!("xlog_force_color=yes\n{route}"));
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["[\u{1b}[0;31;49m][\u{1b}[1;37;44m][][]"]);
}

#[test]
fn listeners_know_their_options_and_bonds() {
    let rig = Rig::script(
        "socket=udp:127.0.3.1:5071 anycast\nsocket=udp:127.0.3.2:5071\nsocket=bond:pair { \"udp:127.0.3.2:5071\" }
         route { xlog(\"$socket_in(anycast)\"); socket_belongs_to_bond(\"udp:127.0.3.2:5071\", \"pair\"); xlog(\"$rc\");
           socket_belongs_to_bond($socket_in, \"pair\"); xlog(\"$rc\"); socket_belongs_to_bond($socket_in, \"none\"); xlog(\"$rc\"); }",
    );
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["1", "1", "-1", "-1"]);
}

#[test]
fn stream_connections_are_listed_and_closed() {
    let rig = Rig::script(
        "route { tcp_close_conn(\"192.0.2.1:4000\"); xlog(\"$rc\"); tcp_close_conn(\"192.0.2.1:4000\"); xlog(\"$rc\");
           tcp_close_conn(\"192.0.2.1\"); xlog(\"$rc\"); }",
    );
    let conn = |id, proto, remote: &str| StreamConnection {
        conn: ConnId(id),
        proto,
        remote: remote.parse().unwrap(),
        local: "127.0.3.1:5071".parse().unwrap(),
        since: tandem_module::clock::now(),
    };
    *rig.recorder.connections.lock() = vec![
        conn(7, Proto::Tcp, "192.0.2.1:4000"),
        conn(3, Proto::Tcp, "192.0.2.2:4000"),
        conn(4, Proto::Bin, "192.0.2.1:4000"),
    ];
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["1", "-1", "-1"]);
    let tcp = mi(&rig, "list_tcp_conns", &[json!("tcp")]).unwrap();
    assert_eq!(
        tcp["Connections"],
        json!([{ "ID": 3, "Type": "tcp", "Remote": "192.0.2.2:4000", "Local": "127.0.3.1:5071", "Age": 0 }])
    );
    assert_eq!(text(mi(&rig, "tcp:list", &[json!("pigeon")])), "400 Bad protocol");
    assert_eq!(mi(&rig, "tcp:list", &[]).unwrap()["Connections"].as_array().unwrap().len(), 2);
    assert_eq!(text(mi(&rig, "tcp:close", &[json!("192.0.2.2:4000")])), "\"OK\"");
    assert_eq!(text(mi(&rig, "tcp:close", &[json!("192.0.2.2:4000")])), "null");
    assert_eq!(text(mi(&rig, "tcp:close", &[json!("here")])), "400 Bad tcp connection");
}

#[test]
fn an_assignment_is_a_condition_that_is_true_when_it_succeeds() {
    let route = "route { if ($var(k) = 0 && $var(k) == 0) { xlog(\"a$var(k)\"); } if (!$var(k) = 5) { xlog(\"no\"); } else { xlog(\"b$var(k)\"); }
         if (($var(k) = 1 + 1 || $var(k) = 9) && $var(k) == 2) { xlog(\"c$var(k)\"); } $var(t) = \"x\";
         if ($var(k) = $var(t) - 1 || $var(k) = 7) { xlog(\"d$var(k)\"); }
         while ($var(k) -= 1 && $var(k) > 4) { xlog(\"e$var(k)\"); } }";
    let rig = Rig::script_in(Dialect::V4_0, route);
    rig.receive(REQUEST);
    assert_eq!(rig.xlogs(), ["a0", "b5", "c2", "d7", "e6", "e5"]);
}

#[test]
fn scripts_that_run_too_long_are_counted() {
    let route = "route { $var(i) = 0; while ($var(i) < 5000) { $var(i) = $var(i) + 1; } }";
    for (global, wanted) in [("", 0), ("exec_msg_threshold=1\n", 1), ("execmsgthreshold=60000000\n", 0)] {
        let rig = Rig::script(&format!("{global}{route}"));
        rig.receive(REQUEST);
        assert_eq!(rig.node.stats.value("core:slow_messages"), Some(wanted), "{global}");
        let complaints = take_logs().iter().filter(|line| line.text.contains("exec_msg_threshold is 1 us")).count();
        assert_eq!(complaints as i64, wanted);
    }
    let rig = Rig::script(route);
    assert!(rig.node.stats.value("timestamp").unwrap() >= 0);
}
